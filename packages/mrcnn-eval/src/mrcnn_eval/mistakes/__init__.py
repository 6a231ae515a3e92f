"""Mistakes: what each detection and each object came to."""
