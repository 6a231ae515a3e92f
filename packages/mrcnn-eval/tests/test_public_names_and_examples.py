"""What the package promises: public names are there, without TensorFlow where it says so, and examples run."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mrcnn_eval

README = Path(__file__).parents[1] / "README.md"
ROOMS = ("", ".scoring", ".inference", ".mistakes", ".report")


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_are_there(room):
    module = importlib.import_module(f"mrcnn_eval{room}")
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = module.absent


def test_only_inference_imports_tensorflow():
    code = (
        "import sys\nimport mrcnn_eval.scoring, mrcnn_eval.mistakes, mrcnn_eval.report, mrcnn_eval.inference\n"
        "from mrcnn_eval.report import *\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_docstring_examples_run():
    names = [module.name for module in pkgutil.walk_packages(mrcnn_eval.__path__, "mrcnn_eval.")]
    results = [doctest.testmod(importlib.import_module(name)) for name in names if name != "mrcnn_eval.__main__"]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) > 5


def test_the_readme_scores_arrays(scene, tmp_path, monkeypatch):
    example = scene().truth([10, 20, 30, 40])
    example.annotations["categories"][0]["name"] = "cat"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_val.json").write_text(json.dumps(example.annotations))
    monkeypatch.chdir(tmp_path)
    box = np.float32([[10, 20, 40, 60]])
    found = [(1, box, np.float32([0.9]), np.array([1]), [example.box_rle([10, 20, 30, 40])])]
    names = {"my_detections": lambda: found}
    (code,) = [block for block in readme_blocks() if "my_detections" in block]
    exec(code, names)
    assert names["result"].stats["segm"]["AP"] == pytest.approx(1.0)
    assert len(names["results_json"]) == 1


def readme_blocks():
    return re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.DOTALL | re.MULTILINE)
