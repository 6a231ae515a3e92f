"""The `mrcnn-eval` command: its options, and what it does with each kind of input."""
