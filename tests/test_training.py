"""Trainings to an AP, with the commands of the README: minutes each."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from workspace import ROOT

pytestmark = pytest.mark.slow


def best_evaluation(experiment: str, *overrides: str, run_dir: Path) -> dict[str, float]:
    """Run an experiment; return its evaluation with the highest sum of box and mask AP."""
    command = [sys.executable, "-m", "mrcnn_train", f"+experiment={experiment}", f"run.dir={run_dir}", *overrides]
    result = subprocess.run(
        command, cwd=run_dir.parent, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "120"}
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return max(
        (row for row in rows if row["kind"] == "evaluation"), key=lambda row: float(row["box_AP"] + row["mask_AP"])
    )


def shared_data(name: str) -> Path:
    path = Path(os.environ.get("MRCNN_SHARED_DATA", ROOT.parent / "shared" / "data")) / name
    if not path.is_dir():
        pytest.skip(f"no shared data at {path} (set MRCNN_SHARED_DATA)")
    return path


def test_the_demo_learns_shapes_it_never_saw(tmp_path: Path) -> None:
    row = best_evaluation("demo", run_dir=tmp_path / "run")
    assert row["box_AP"] >= 0.40
    assert row["mask_AP"] >= 0.35


@pytest.mark.skipif(importlib.util.find_spec("horovod") is None, reason="Horovod is not installed: make horovod")
def test_two_processes_learn_as_one(tmp_path: Path) -> None:
    one, two = (
        best_evaluation("demo", "train.images_per_gpu=2", f"launch.processes={count}", run_dir=tmp_path / str(count))
        for count in (1, 2)
    )
    assert abs(one["box_AP"] - two["box_AP"]) <= 0.03
    assert abs(one["mask_AP"] - two["mask_AP"]) <= 0.03


def test_nuclei_from_scratch(tmp_path: Path) -> None:
    row = best_evaluation("nuclei", f"data.root={shared_data('nuclei')}", run_dir=tmp_path / "run")
    assert row["box_AP"] >= 0.35
    assert row["mask_AP"] >= 0.35


def test_fruits_and_nuts_bring_the_loss_down(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    best_evaluation("small", f"data.root={shared_data('fruits_nuts')}", "train.max_steps=150", run_dir=run_dir)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    totals = [row["total"] for row in rows if row["kind"] == "train"]
    # Not compared with the first step, whose mask loss is far above that of guessing.
    assert sum(totals[-3:]) < 0.75 * sum(totals[1:4])
    assert (run_dir / "contact_sheet.png").stat().st_size > 0
