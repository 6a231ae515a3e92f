"""Data, state, step and loop of training."""
