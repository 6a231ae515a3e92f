"""Counts and sizes of a dataset, the buckets and anchors that suit it, and tables and plots of them."""

from mrcnn_data.statistics.counting import Statistics, dataset_statistics, resized_box_sizes
from mrcnn_data.statistics.suggestions import best_anchor_ious

__all__ = ["Statistics", "best_anchor_ious", "dataset_statistics", "resized_box_sizes"]
