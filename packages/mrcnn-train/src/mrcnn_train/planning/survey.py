"""The facts that `+experiment=auto` plans from: a fingerprint of the data, and the machine. Without TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrcnn_data import CocoDataset
from mrcnn_data.statistics import resized_box_sizes
from mrcnn_train.errors import ConfigError
from mrcnn_train.job.facts import gpu_memories, host_facts

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class DataFacts(NamedTuple):
    """A fingerprint of the data. Images are those of training and validation, objects those of training.

    Attributes:
        images, classes, objects: of the training data.
        val_images: of all validation sets.
        short_edge: median of the images, pixels.
        aspects: least and largest long edge / short edge of an image.
        has_landscape, has_portrait: whether an image is at least as wide as high, or higher than wide.
        object_shares: QUANTILES of the square root of an object's box area, as a share of the short edge of its image.
        most_objects: of an image.
    """

    images: int
    classes: int
    objects: int
    val_images: int
    short_edge: int
    aspects: tuple[float, float]
    has_landscape: bool
    has_portrait: bool
    object_shares: tuple[float, ...]
    most_objects: int


class Machine(NamedTuple):
    """What a process of the run has.

    Attributes:
        cores: that it may use.
        memory_gib: of the machine.
        gpus: names of those of all processes; empty for a run on the CPU.
        gpu_memory_gib: of the smallest GPU; 0 without one.
    """

    cores: int
    memory_gib: float
    gpus: tuple[str, ...] = ()
    gpu_memory_gib: float = 0.0


def survey_data(train: CocoDataset, val: Sequence[CocoDataset]) -> DataFacts:
    """Measure data sets.

    Raises:
        ConfigError: there is no object to train on.
    """
    if not train.annotations.is_object.any():
        raise ConfigError(f"{train.name} has no object to train on: mrcnn-data check says more")
    sizes = np.concatenate([one.image_sizes for one in (train, *val)])  # [I, 2] (h, w)
    aspects = sizes.max(axis=1) / sizes.min(axis=1)
    unit = 10_000  # a short edge so large that no box is rounded
    boxes = resized_box_sizes(train, short_edge=unit, max_size=unit * 1000) / unit
    shares = np.quantile(np.sqrt(boxes.prod(axis=1)), QUANTILES)
    return DataFacts(
        images=len(train),
        classes=train.num_classes - 1,
        objects=len(boxes),
        val_images=sum(map(len, val)),
        short_edge=int(np.median(sizes.min(axis=1))),
        aspects=(round(float(aspects.min()), 4), round(float(aspects.max()), 4)),
        has_landscape=bool((sizes[:, 1] >= sizes[:, 0]).any()),
        has_portrait=bool((sizes[:, 0] > sizes[:, 1]).any()),
        object_shares=tuple(float(f"{share:.4g}") for share in shares),
        most_objects=int(max(one.num_objects().max() for one in (train, *val))),
    )


def survey_machine(gpus: Sequence[str]) -> Machine:
    """Return what this machine has.

    Args:
        gpus: names of those that the processes have taken.
    """
    facts, memories = host_facts(), gpu_memories() if gpus else []
    return Machine(
        cores=facts["cores_allowed"],
        memory_gib=facts["memory_gib"],
        gpus=tuple(gpus),
        gpu_memory_gib=min(memories, default=0.0),
    )
