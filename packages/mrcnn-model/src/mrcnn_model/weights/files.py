"""Read and write files of named arrays: `.npz` and `.safetensors`."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from mrcnn_model.checkpoint import flush
from mrcnn_model.storage.cards import CheckpointError
from mrcnn_model.storage.partial_files import partial_file
from mrcnn_model.storage.readable import SUFFIXES, explained, open_npz, require_kind
from mrcnn_model.weights.layout import Arrays


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read a file of named arrays.

    Raises:
        CheckpointError: the file is missing, damaged, or of another format.
    """
    path = Path(path)
    require_kind(path)
    with explained(path):
        if path.suffix == ".safetensors":
            return load_file(path)
        with open_npz(path) as arrays:
            return {name: arrays[name] for name in arrays.files}


def write_arrays(path: str | Path, arrays: Arrays) -> None:
    """Write named arrays in one step; a file of that name is replaced.

    Raises:
        CheckpointError: the name ends neither in `.npz` nor in `.safetensors`.
        OSError, SafetensorError: the disk refuses.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: expected the name of an .npz or .safetensors file")
    with partial_file(path.parent) as partial:
        if path.suffix == ".safetensors":
            save_file(dict(arrays), partial)
        else:
            with partial.open("wb") as file:
                # No allow_pickle: before NumPy 2.2 it would be stored as one more array.
                np.savez(file, **arrays)  # type: ignore[arg-type]
        flush(partial)
        partial.replace(path)
