"""The examples in docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import mrcnn_train

MODULES = [
    module.name
    for module in pkgutil.walk_packages(mrcnn_train.__path__, "mrcnn_train.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    assert sum(bool(test.examples) for name in MODULES for test in finder.find(importlib.import_module(name))) > 3
