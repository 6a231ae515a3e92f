"""What an annotation file holds: columns, objects, and what is odd in it."""
