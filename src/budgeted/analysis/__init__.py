"""Runs to numbers: no model is made here, and nothing is drawn."""
