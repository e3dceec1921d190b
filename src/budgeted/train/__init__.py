"""What knows PyTorch: the drop-in for any loop, and the loop of our own."""
