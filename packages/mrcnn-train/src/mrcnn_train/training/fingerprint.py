"""A fingerprint of the training data, by which a resumed run notices that it changed.

The order of samples is a function of the step and of the data set: with one image less, every later step would see
other images.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from mrcnn_data import CocoDataset
from mrcnn_train.errors import ConfigError

Fingerprint = dict[str, Any]  # "images", "objects": counts; "sha256": of ids, file names, sizes and objects


def fingerprint(dataset: CocoDataset) -> Fingerprint:
    """Return the counts of a data set, and a hash of the ids, names and sizes of its images and of its objects."""
    table = dataset.annotations
    digest = hashlib.sha256()
    names = [dataset.image_ids, dataset.file_names, dataset.category_ids, dataset.class_names]
    digest.update(json.dumps(names).encode())
    arrays = (dataset.image_sizes, table.offsets, table.boxes, table.classes, table.is_object, table.is_region)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    num_objects = int(np.count_nonzero(table.is_object))
    return {"images": len(dataset), "objects": num_objects, "sha256": digest.hexdigest()}


def require_same_data(saved: Fingerprint | None, current: Fingerprint, *, accept: bool, option: str) -> None:
    """Compare the training data with those of a checkpoint; print a note where they differ and that is accepted.

    Args:
        saved: of the checkpoint; None where an earlier version wrote it.
        accept: go on with other data.
        option: how the run was asked for, for the message.

    Raises:
        ConfigError: the data changed.
    """
    if saved is None:
        print("note: this checkpoint has no fingerprint of its training data: they are taken as unchanged", flush=True)
        return
    if saved == current:
        return
    then, now = (f"{one['images']} images with {one['objects']} objects" for one in (saved, current))
    change = f"{then} at the checkpoint, {now} now" if then != now else f"still {now}, but not the same ones"
    if not accept:
        raise ConfigError(
            f"{option}: the training data changed since the checkpoint: {change}. Restore them, or resume with "
            "data.changed=accept, which shows the images in another order than an unbroken run would"
        )
    print(f"note: the training data changed since the checkpoint: {change} (data.changed=accept)", flush=True)
