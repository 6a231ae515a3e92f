"""Image files: reading, sizes, and the geometry of resizing."""
