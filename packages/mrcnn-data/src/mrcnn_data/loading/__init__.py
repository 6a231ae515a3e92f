"""Batches of static shapes: buckets, the sampler that chooses the images of a step, and the loaders that read them."""

from mrcnn_data.loading.batch import Batch, BufferPool
from mrcnn_data.loading.buckets import Bucket, assign_buckets, default_buckets
from mrcnn_data.loading.eval_loader import EvalLoader
from mrcnn_data.loading.repeat_factor import repeat_factors
from mrcnn_data.loading.tf_dataset import to_tf_dataset
from mrcnn_data.loading.train_loader import TrainLoader

__all__ = [
    "Batch",
    "Bucket",
    "BufferPool",
    "EvalLoader",
    "TrainLoader",
    "assign_buckets",
    "default_buckets",
    "repeat_factors",
    "to_tf_dataset",
]
