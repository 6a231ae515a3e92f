"""COCO instances files to training batches. NumPy and OpenCV; no TensorFlow."""

from mrcnn_data.augmentation import Augmentation
from mrcnn_data.batch import Batch
from mrcnn_data.buckets import default_buckets
from mrcnn_data.checking import check_dataset, check_datasets
from mrcnn_data.contact_sheet import draw_contact_sheet
from mrcnn_data.dataset import CocoDataset, Instances, Source, instance_masks
from mrcnn_data.errors import DatasetError
from mrcnn_data.eval_loader import EvalLoader
from mrcnn_data.images import load_image
from mrcnn_data.mask_import import import_masks
from mrcnn_data.masks import MASK_SIZE, paste_masks
from mrcnn_data.repeat_factor import repeat_factors
from mrcnn_data.report import Finding, Report
from mrcnn_data.statistics import dataset_statistics
from mrcnn_data.tf_dataset import to_tf_dataset
from mrcnn_data.train_loader import TrainLoader

__all__ = [
    "MASK_SIZE",
    "Augmentation",
    "Batch",
    "CocoDataset",
    "DatasetError",
    "EvalLoader",
    "Finding",
    "Instances",
    "Report",
    "Source",
    "TrainLoader",
    "check_dataset",
    "check_datasets",
    "dataset_statistics",
    "default_buckets",
    "draw_contact_sheet",
    "import_masks",
    "instance_masks",
    "load_image",
    "paste_masks",
    "repeat_factors",
    "to_tf_dataset",
]
