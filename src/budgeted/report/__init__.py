"""Numbers to terminal, text and pictures."""
