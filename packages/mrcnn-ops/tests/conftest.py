"""Fixtures of all tests of mrcnn-ops."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """The slow NumPy twins of the ops (reference.py beside this file)."""
    spec = importlib.util.spec_from_file_location("mrcnn_ops_reference", Path(__file__).with_name("reference.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


@pytest.fixture(scope="session")
def random_boxes():
    """A function (rng, shape, height, width) -> float32 [*shape, 4]: boxes of all sizes, some not all in the image."""

    def make(rng: np.random.Generator, shape: tuple[int, ...], height: float, width: float) -> np.ndarray:
        centres = rng.uniform(-0.1, 1.1, (*shape, 2)) * [width, height]
        sizes = np.exp(rng.uniform(np.log(1), np.log(1.2 * max(height, width)), (*shape, 2)))
        return np.concatenate([centres - sizes / 2, centres + sizes / 2], -1).astype(np.float32)

    return make
