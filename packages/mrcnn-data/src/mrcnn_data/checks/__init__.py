"""Looking for faults in data sets, and repairing annotation files."""
