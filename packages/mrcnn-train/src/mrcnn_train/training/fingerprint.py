"""Take a fingerprint of the training data, by which a resumed run detects that they have changed.

The order of samples depends on the step and on the data set: if an image is removed, every later step sees other
images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from mrcnn_data import CocoDataset
from mrcnn_train.errors import ConfigError

# "images", "objects": counts. SHA-256 hashes: "sha256" of ids, file names, sizes, classes and boxes; "masks" of
# segmentations, which the first version of fingerprints does not have.
Fingerprint = dict[str, Any]
WHITE_SPACE = b" \t\r\n"  # between the numbers; another program may write them with more or less of it


def fingerprint(dataset: CocoDataset) -> Fingerprint:
    """Return the counts of a data set, a hash of ids, file names, sizes, classes, boxes and flags, and one of masks."""
    table = dataset.annotations
    digest = hashlib.sha256()
    names = [dataset.image_ids, dataset.file_names, dataset.category_ids, dataset.class_names]
    digest.update(json.dumps(names).encode())
    arrays = (dataset.image_sizes, table.offsets, table.boxes, table.classes, table.is_object, table.is_region)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    objects = np.flatnonzero(table.is_object).tolist()
    return {
        "images": len(dataset),
        "objects": len(objects),
        "sha256": digest.hexdigest(),
        "masks": _hash_texts(table.segmentations[row] for row in objects),
    }


def _hash_texts(texts: Iterable[bytes]) -> str:
    """Hash JSON texts without their white space."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.translate(None, WHITE_SPACE) + b"\n")
    return digest.hexdigest()


def require_same_data(saved: Fingerprint | None, current: Fingerprint, *, accept: bool, option: str) -> None:
    """Compare the training data with those of a checkpoint; print a note if they differ and this is accepted.

    Args:
        saved: fingerprint in the checkpoint; None if version 0.1 wrote it, without "masks" if an early version did.
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
    if "masks" not in saved and saved == {key: current[key] for key in saved}:
        print(
            "note: an earlier version took the fingerprint of this checkpoint's training data, without the masks; "
            "assuming that the masks are the same",
            flush=True,
        )
        return
    then, now = (f"{one['images']} images with {one['objects']} objects" for one in (saved, current))
    if then != now:
        change = f"{then} at the checkpoint, {now} now"
    elif saved["sha256"] == current["sha256"]:
        change = f"still {now}, but with other segmentations"
    else:
        change = f"still {now}, but different ones"
    if not accept:
        raise ConfigError(
            f"{option}: the training data have changed since the checkpoint: {change}. Restore them, or resume with "
            "data.changed=accept: the run then goes on with the new data, perhaps in another order of images"
        )
    print(f"note: the training data have changed since the checkpoint: {change} (data.changed=accept)", flush=True)
