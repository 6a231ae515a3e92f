"""Counts and sizes of a dataset, the buckets and anchors that suit it, and tables and plots of them."""

from mrcnn_data.statistics.counting import Statistics, dataset_statistics

__all__ = ["Statistics", "dataset_statistics"]
