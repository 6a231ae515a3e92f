"""Validation while training: losses, the best evaluation, patience."""
