"""From an annotation file to AP through the commands alone, each in its own process and from another directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TINY = [
    "data.short_edge=64",
    "data.max_size=64",
    "data.buckets=[[64,64]]",
    "data.synthetic={train: 6, val: 3, size: 64, seed: 1}",
    "model.backbone_width=8",
    "model.gn_groups=4",
    "model.fpn_channels=16",
    "model.rpn_channels=16",
    "model.box_head_channels=32",
    "model.mask_head_channels=16",
    "model.score_threshold=0.0",
    "train.images_per_gpu=2",
    "train.global_batch=4",
    "train.max_steps=3",
    "precision=float32",  # not left to a measurement, which could differ between the two commands
]


def python(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launch")
    result = python("-m", "mrcnn_train", "+experiment=demo", "data.root=shapes", "run.dir=run", *TINY, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "run"


def test_training_leaves_what_it_promises(run_dir: Path) -> None:
    for name in ("config.yaml", "metrics.jsonl", "ap_table.txt", "contact_sheet.png", "curves.png", "checkpoints/best"):
        assert (run_dir / name).stat().st_size > 0, name
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} == {"train", "epoch", "evaluation"}


def test_evaluating_the_checkpoint_gives_the_runs_own_numbers(run_dir: Path, tmp_path: Path) -> None:
    """The evaluation must not import the trainer or Hydra: that is an error here."""
    code = """
import runpy, sys
sys.modules["mrcnn_train"] = sys.modules["hydra"] = None
runpy.run_module("mrcnn_eval", run_name="__main__", alter_sys=True)
"""
    options = ["--precision", "float32", "--output", str(tmp_path / "out")]
    result = python("-c", code, "--checkpoint", run_dir, *options, cwd=run_dir.parent)
    assert result.returncode == 0, result.stdout + result.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    (trained_file,) = (run_dir / "evaluation").glob("step-*.json")
    trained = json.loads(trained_file.read_text())
    # After three steps AP is about 0, so the number of detections has to show that it is the same model.
    assert metrics["num_detections"] == trained["num_detections"] > 0
    assert metrics["bbox"] == pytest.approx(trained["bbox"], abs=1e-9)
    assert metrics["segm"] == pytest.approx(trained["segm"], abs=1e-9)
