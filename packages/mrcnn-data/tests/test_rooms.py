"""The rooms of the package: what each lists is there, and the examples in docstrings are true."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

import mrcnn_data

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(mrcnn_data.__path__, "mrcnn_data.")
    if module.name != "mrcnn_data.tools.cli"
)
ROOMS = ["mrcnn_data", *(name for name in MODULES if hasattr(importlib.import_module(name), "__path__"))]


@pytest.mark.parametrize("name", ROOMS)
def test_listed_names_are_there(name):
    room = importlib.import_module(name)
    listed = getattr(room, "__all__", [])
    assert sorted(set(listed)) == sorted(listed)
    assert [one for one in listed if not hasattr(room, one)] == []


def test_examples_in_docstrings():
    outcomes = [doctest.testmod(importlib.import_module(name), extraglobs={"np": np}) for name in MODULES]
    assert sum(outcome.failed for outcome in outcomes) == 0
    assert sum(outcome.attempted for outcome in outcomes) >= 5
