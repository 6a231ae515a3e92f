"""COCO annotation files and images to training batches, with NumPy and OpenCV, without TensorFlow.

`annotations` reads files, `checks` finds their faults, `loading` makes batches; the README lists all sub-packages.
"""

from mrcnn_data.annotations.dataset import CocoDataset, Instances, instance_masks
from mrcnn_data.annotations.opening import Source, find_split
from mrcnn_data.annotations.scoring import ScoredAnnotations, ScoringSummary, scoring_summary
from mrcnn_data.augmentation import Augmentation
from mrcnn_data.checks import check_dataset, check_datasets
from mrcnn_data.drawing import draw_contact_sheet
from mrcnn_data.errors import DatasetError, OptionError
from mrcnn_data.images import load_image
from mrcnn_data.json_file import read_json
from mrcnn_data.loading import Batch, EvalLoader, TrainLoader, default_buckets, repeat_factors, to_tf_dataset
from mrcnn_data.masks.rasterising import MASK_SIZE, paste_masks
from mrcnn_data.outputs import OutputError, check_outputs, write_output
from mrcnn_data.pipes import open_console, print_any_text, run_piped
from mrcnn_data.replacing import replaced
from mrcnn_data.report import Finding, Report
from mrcnn_data.statistics import dataset_statistics
from mrcnn_data.text import visible
from mrcnn_data.tools import import_masks

__all__ = [
    "MASK_SIZE",
    "Augmentation",
    "Batch",
    "CocoDataset",
    "DatasetError",
    "EvalLoader",
    "Finding",
    "Instances",
    "OptionError",
    "OutputError",
    "Report",
    "ScoredAnnotations",
    "ScoringSummary",
    "Source",
    "TrainLoader",
    "check_dataset",
    "check_datasets",
    "check_outputs",
    "dataset_statistics",
    "default_buckets",
    "draw_contact_sheet",
    "find_split",
    "import_masks",
    "instance_masks",
    "load_image",
    "open_console",
    "paste_masks",
    "print_any_text",
    "read_json",
    "repeat_factors",
    "replaced",
    "run_piped",
    "scoring_summary",
    "to_tf_dataset",
    "visible",
    "write_output",
]
