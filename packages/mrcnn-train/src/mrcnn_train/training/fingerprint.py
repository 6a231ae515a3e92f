"""Take a fingerprint of the training data, by which a resumed run detects that they have changed.

The order of samples depends on the step and on the data set: if an image is removed, every later step sees other
images.
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
    """Return the counts of a data set and a hash: of image ids, file names and sizes, classes, boxes and flags."""
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
    """Compare the training data with those of a checkpoint; print a note if they differ and this is accepted.

    Args:
        saved: fingerprint in the checkpoint; None if version 0.1 wrote it.
        accept: continue although the data have changed.
        option: the option that asked for the run, for the message.

    Raises:
        ConfigError: the data have changed.
    """
    if saved is None:
        print(
            "note: this checkpoint has no fingerprint of its training data; assuming that they are the same", flush=True
        )
        return
    if saved == current:
        return
    then, now = (f"{one['images']} images with {one['objects']} objects" for one in (saved, current))
    change = f"{then} at the checkpoint, {now} now" if then != now else f"still {now}, but different ones"
    if not accept:
        raise ConfigError(
            f"{option}: the training data have changed since the checkpoint: {change}. Restore them, or resume with "
            "data.changed=accept: the images then come in another order than in an uninterrupted run"
        )
    print(f"note: the training data have changed since the checkpoint: {change} (data.changed=accept)", flush=True)
