"""The command line, and the import of masks."""
