"""Find the faults of datasets, keep the reports, and repair annotation files."""

from mrcnn_data.checks.checking import check_dataset, check_datasets

__all__ = ["check_dataset", "check_datasets"]
