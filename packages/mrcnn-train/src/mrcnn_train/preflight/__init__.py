"""Check the hosts of a job before it starts: `python -m mrcnn_train.preflight`, with the options of the run."""
