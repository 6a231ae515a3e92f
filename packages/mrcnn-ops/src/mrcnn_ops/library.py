"""Find the compiled op library, check that it fits the running TensorFlow, and load it."""

from __future__ import annotations

import ctypes
import json
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tensorflow as tf

from mrcnn_ops.driver import read_driver, too_old


def _find(name: str, folders: Iterable[str]) -> Path:
    """Return the path of the built file `name`. An editable install keeps it in another folder than the sources."""
    folders = list(folders)
    for folder in folders:
        if (path := Path(folder) / name).is_file():
            return path
    raise ImportError(f"mrcnn_ops is not built: there is no {name} in {', '.join(folders)}; install the package again")


def check_tensorflow(built_for: str, running: str) -> None:
    """Check that the running TensorFlow has the minor version the library was built for: the C++ ABI differs otherwise.

    Raises:
        ImportError: one line with both versions and what to do.
    """
    if built_for.split(".")[:2] != running.split(".")[:2]:
        raise ImportError(
            f"mrcnn_ops was built for TensorFlow {built_for}, but TensorFlow {running} is running: "
            "install mrcnn-ops again in this environment, or the TensorFlow it was built for"
        )


def load_library(folders: Iterable[str]) -> tuple[Any, dict[str, str]]:
    """Load the op library from the first of `folders` that holds it.

    Returns:
        The module of raw ops, and what `build_info` returns.
    """
    folders = list(folders)
    build: dict[str, str] = json.loads(_find("build_info.json", folders).read_text())
    check_tensorflow(build["tensorflow"], tf.__version__)
    path = str(_find("libmrcnn_ops.so", folders))
    ops = tf.load_op_library(path)
    fault = None if build["cuda"] == "none" else too_old(read_driver(), build["cuda"])
    if fault is not None:  # at the first op it would be "CUDA error 35"
        warnings.warn(f"mrcnn_ops: {fault}", RuntimeWarning, stacklevel=2)
    instruction_set = ctypes.CDLL(path).mrcnn_ops_instruction_set
    instruction_set.restype = ctypes.c_char_p
    return ops, {**build, "instruction_set": instruction_set().decode()}


raw_ops, _build = load_library(sys.modules["mrcnn_ops"].__path__)


def build_info() -> dict[str, str]:
    """Return how the op library was built, and which CPU instructions it uses.

    Returns:
        `version` of the package, `tensorflow` it was built for, `compiler`, `cuda` ("none", or the version of CUDA and
        the GPU architectures of the kernels), `processor`, `build_type`, and the `instruction_set` of this process
        ("avx2" or "portable").

    Examples:
        >>> build_info()["tensorflow"].startswith("2.21.")
        True
    """
    return dict(_build)
