"""Pictures of images with their annotations."""
