"""Read and write files of named arrays: `.npz` and `.safetensors`."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from mrcnn_model.checkpoint import CheckpointError, flush
from mrcnn_model.partial_files import partial_file
from mrcnn_model.weights.layout import Arrays

SUFFIXES = (".npz", ".safetensors")


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read a file of named arrays.

    Raises:
        CheckpointError: the file is missing, damaged, or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"weights {path} do not exist")
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"weights {path}: expected an .npz or .safetensors file, or a checkpoint directory")
    try:
        arrays = load_file(path) if path.suffix == ".safetensors" else _read_npz(path)
    except Exception as error:  # only decoders run here, and a damaged file can make them raise almost anything
        raise CheckpointError(f"weights {path} cannot be read: {error}") from error
    if arrays is None:
        raise CheckpointError(f"weights {path} cannot be read: the file has a single array; expected named arrays")
    return arrays


def _read_npz(path: Path) -> dict[str, np.ndarray] | None:
    arrays = np.load(path)
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        return None
    with arrays:
        return dict(arrays)


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
