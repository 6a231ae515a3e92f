"""The examples of the README and of the docstrings run and print what they say."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import mrcnn_ops

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize("name", mrcnn_ops.__all__)
def test_docstring(name):
    thing = getattr(mrcnn_ops, name)
    module = importlib.import_module(thing.__module__)
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    for example in doctest.DocTestFinder(recurse=False).find(thing, name, globs=dict(vars(module))):
        runner.run(example)
    assert runner.summarize().failed == 0
    assert runner.tries or isinstance(thing, type), "every function has an example"


def test_readme():
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(compile(program, str(README), "exec"), {})
