"""Segmentations: decoding, rasterising, cropping."""

from mrcnn_data.masks.run_lengths import decode_counts

__all__ = ["decode_counts"]
