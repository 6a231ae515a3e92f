"""Segmentations: decoding, rasterising, cropping."""
