"""What a run writes: metrics, curves, reports."""
