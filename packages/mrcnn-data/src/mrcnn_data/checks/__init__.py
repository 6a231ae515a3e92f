"""Find the faults of datasets, keep the reports, and repair annotation files."""

from mrcnn_data.checks.checking import check_dataset, check_datasets
from mrcnn_data.checks.doubts import are_corners

__all__ = ["are_corners", "check_dataset", "check_datasets"]
