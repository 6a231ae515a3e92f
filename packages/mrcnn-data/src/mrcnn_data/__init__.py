"""COCO instances files to training batches. NumPy and OpenCV; no TensorFlow."""

from mrcnn_data.annotations.dataset import CocoDataset, Instances, Source, instance_masks
from mrcnn_data.annotations.report import Finding, Report
from mrcnn_data.augmentation.options import Augmentation
from mrcnn_data.checks.checking import check_dataset, check_datasets
from mrcnn_data.drawing.contact_sheet import draw_contact_sheet
from mrcnn_data.errors import DatasetError, OptionError
from mrcnn_data.images.reading import load_image
from mrcnn_data.loading.batch import Batch
from mrcnn_data.loading.buckets import default_buckets
from mrcnn_data.loading.eval_loader import EvalLoader
from mrcnn_data.loading.repeat_factor import repeat_factors
from mrcnn_data.loading.tf_dataset import to_tf_dataset
from mrcnn_data.loading.train_loader import TrainLoader
from mrcnn_data.masks.rasterising import MASK_SIZE, paste_masks
from mrcnn_data.outputs import OutputError, check_outputs, write_output
from mrcnn_data.statistics.counting import dataset_statistics
from mrcnn_data.text import visible
from mrcnn_data.tools.mask_import import import_masks

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
    "Source",
    "TrainLoader",
    "check_dataset",
    "check_datasets",
    "check_outputs",
    "dataset_statistics",
    "default_buckets",
    "draw_contact_sheet",
    "import_masks",
    "instance_masks",
    "load_image",
    "paste_masks",
    "repeat_factors",
    "to_tf_dataset",
    "visible",
    "write_output",
]
