"""The examples in docstrings."""

import doctest
import importlib
import pkgutil

import pytest

import mrcnn_model

MODULES = [
    module.name
    for module in pkgutil.walk_packages(mrcnn_model.__path__, "mrcnn_model.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [t for name in MODULES for t in finder.find(importlib.import_module(name)) if t.examples]
    assert len(found) >= 4
