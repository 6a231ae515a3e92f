"""What a run writes and shows: run directory, metrics, curves, progress, report."""
