"""Whether a path can be read as weights, found out in a moment and without TensorFlow."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import safe_open

from mrcnn_model.storage.cards import CheckpointError, read_card, resolve_checkpoint

SUFFIXES = (".npz", ".safetensors")
WEIGHTS_FILE = "model.safetensors"  # of a checkpoint directory
# Files of other kinds, by suffix: what to do with them.
_OTHER_KINDS = {
    **dict.fromkeys(
        (".pkl", ".pickle", ".pth", ".pt", ".bin"),
        "pickles can run programs and are not read: save the state dict as .safetensors or .npz (docs/weights.md)",
    ),
    **dict.fromkeys((".h5", ".hdf5", ".keras"), "weights of Keras are not read: save the arrays by name as .npz"),
    **dict.fromkeys(
        (".index", ".meta", ".ckpt", ".pb"), "checkpoints of TensorFlow are not read: save the arrays by name as .npz"
    ),
}


def require_weights(path: str | Path) -> None:
    """Require a file of named arrays, or a checkpoint or run directory; arrays are not read.

    Raises:
        CheckpointError: it is missing, of another kind, or cut off.
    """
    path = Path(path)
    if path.is_dir():
        directory = resolve_checkpoint(path)
        read_card(directory)
        path = directory / WEIGHTS_FILE
    names = array_names(path)
    if not names:
        raise CheckpointError(f"weights {path} hold no arrays")


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays in an .npz or .safetensors file.

    Raises:
        CheckpointError: it is missing, of another kind, or cut off.
    """
    require_kind(path)
    with explained(path):
        if path.suffix == ".safetensors":
            with safe_open(path, "np") as file:
                return list(file.keys())
        with open_npz(path) as arrays:
            return list(arrays.files)


def require_kind(path: Path) -> None:
    """Require an existing file whose suffix is that of named arrays.

    Raises:
        CheckpointError: it is not.
    """
    if not path.exists():
        raise CheckpointError(f"weights {path} do not exist")
    if not path.is_file():
        raise CheckpointError(f"weights {path} are not a regular file")
    if path.suffix not in SUFFIXES:
        hint = _OTHER_KINDS.get(path.suffix.lower())
        raise CheckpointError(
            f"weights {path}: expected an .npz or .safetensors file, or a checkpoint directory"
            + (f"; {hint}" if hint else "")
        )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what a decoder raises into CheckpointError: a damaged file can make it raise almost anything."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"weights {path} cannot be read: {error}") from error


def open_npz(path: Path) -> np.lib.npyio.NpzFile:
    """Open a file of named arrays.

    Raises:
        CheckpointError: it has one array without a name.
    """
    arrays = np.load(path)
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise CheckpointError(f"weights {path} cannot be read: the file has a single array; expected named arrays")
    return arrays
