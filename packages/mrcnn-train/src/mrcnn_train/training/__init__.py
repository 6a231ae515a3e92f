"""The state of training, the step and the loop."""
