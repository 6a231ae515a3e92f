"""Detections to COCO AP. No TensorFlow."""
