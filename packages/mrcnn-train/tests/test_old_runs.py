"""A run directory that version 0.1 wrote after 3 of 6 steps on the shapes of `conftest.shapes` can be resumed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mrcnn_train import ConfigError, run
from mrcnn_train.record.metrics_log import read_rows

HERE = Path(__file__).parent
SAVED = HERE / "saved_run"
LOSSES = ("total", "rpn_class", "rpn_box", "box_class", "box_reg", "mask", "gradient_norm")


@pytest.fixture
def saved_run(tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(SAVED, tmp_path / "saved_run"))


def assert_same_scores(numbers: dict, expected: dict) -> None:
    assert numbers["num_detections"] == expected["num_detections"] > 0
    for iou_type in ("bbox", "segm"):
        assert numbers[iou_type] == pytest.approx(expected[iou_type], abs=1e-6)


def test_it_resumes_to_the_same_losses_and_scores(saved_run: Path, shapes: Path, resume, capsys) -> None:
    assert run(resume(saved_run, "train.max_steps=6", f"data.root={shapes}")) == 0
    out = capsys.readouterr().out
    assert "no fingerprint of its training data" in out
    assert "optimizer.lars_trust=0.001 is ignored" in out
    assert "\nprecision:        float32" in out
    expected = [json.loads(line) for line in (SAVED / "steps_4_to_6.jsonl").read_text().splitlines()]
    rows = [row for row in read_rows(saved_run / "metrics.jsonl") if row["kind"] == "train" and row["step"] > 3]
    assert [row["step"] for row in rows] == [row["step"] for row in expected] == [4, 5, 6]
    for row, theirs in zip(rows, expected, strict=True):
        assert {n: row[n] for n in LOSSES} == pytest.approx({n: theirs[n] for n in LOSSES}, rel=1e-3, abs=1e-5)
    numbers = json.loads((saved_run / "evaluation" / "step-00000006.json").read_text())
    assert_same_scores(numbers, json.loads((SAVED / "evaluation_after_6.json").read_text()))
    state = json.loads((saved_run / "checkpoints" / "step-00000006" / "trainer.json").read_text())
    assert state["data"]["images"] == 12  # from now on the run has a fingerprint


def test_mrcnn_eval_scores_it(saved_run: Path, shapes: Path, tmp_path: Path) -> None:
    arguments = ["--checkpoint", str(saved_run), "--data-root", str(shapes), "--split", "val", "--precision", "float32"]
    command = [sys.executable, "-m", "mrcnn_eval", *arguments, "--output", str(tmp_path / "out")]
    subprocess.run(command, check=True)
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert_same_scores(numbers, json.loads((SAVED / "evaluation" / "step-00000003.json").read_text()))


def test_unknown_options_in_a_saved_config_are_still_errors(saved_run: Path, resume) -> None:
    config = saved_run / "config.yaml"
    config.write_text(config.read_text().replace("  lars_trust:", "  lars_trusted:"))
    with pytest.raises(ConfigError, match="lars_trusted"):
        resume(saved_run)
