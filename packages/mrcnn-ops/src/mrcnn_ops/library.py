"""The compiled op library: found, checked against the running TensorFlow, loaded once."""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tensorflow as tf


def _find(name: str, folders: Iterable[str]) -> Path:
    """Return the built file `name`; an editable install keeps built files in another folder than the sources."""
    folders = list(folders)
    for folder in folders:
        if (path := Path(folder) / name).is_file():
            return path
    raise ImportError(f"mrcnn_ops is not built: {name} is in none of {', '.join(folders)}; install the package again")


def check_tensorflow(built_for: str, running: str) -> None:
    """Refuse a TensorFlow whose minor version is not the one the library was compiled against (its C++ ABI differs).

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
        The module of raw ops, and what is known of the build.
    """
    folders = list(folders)
    build: dict[str, str] = json.loads(_find("build_info.json", folders).read_text())
    check_tensorflow(build["tensorflow"], tf.__version__)
    path = str(_find("libmrcnn_ops.so", folders))
    ops = tf.load_op_library(path)
    instruction_set = ctypes.CDLL(path).mrcnn_ops_instruction_set
    instruction_set.restype = ctypes.c_char_p
    return ops, {**build, "instruction_set": instruction_set().decode()}


raw_ops, _build = load_library(sys.modules["mrcnn_ops"].__path__)


def build_info() -> dict[str, str]:
    """Tell how the op library was built, and what it found.

    Returns:
        `version` of the package, `tensorflow` it was built for, `compiler`, `cuda` ("none", or the version of CUDA and
        the architectures that there are GPU kernels for), `processor`, `build_type`, and the `instruction_set` ("avx2"
        or "portable") that this process uses.
    """
    return dict(_build)
