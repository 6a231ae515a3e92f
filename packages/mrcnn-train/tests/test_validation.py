"""Validation while training: losses, the best evaluation, patience; a resumed run equals the unbroken one."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mrcnn_train import ConfigError, run
from mrcnn_train.record.metrics_log import read_rows
from mrcnn_train.record.progress import ProgressDisplay
from mrcnn_train.training.evaluation import CONTACT_SHEET, Evaluation
from mrcnn_train.validation.best import best_of, describe_losses, evaluations_since_best, value_of, verdict

NAN = math.nan


def rows_of(*aps: float) -> list[dict]:
    """Return evaluations after 10, 20, ... steps with these mask APs, and falling box APs."""
    return [
        {"kind": "evaluation", "step": 10 * number, "mask_AP": ap, "box_AP": 0.9 - number / 10}
        for number, ap in enumerate(aps, start=1)
    ]


def test_what_decides_the_best() -> None:
    row = {"box_AP": 0.5, "mask_AP": 0.25}
    assert (value_of(row, best_by="mask"), value_of(row, best_by="sum")) == (0.25, 0.75)
    assert value_of({"box_AP": 0.5}, best_by="mask") == 0.5
    for undefined in (-1.0, NAN):
        assert value_of({"box_AP": 0.5, "mask_AP": undefined}, best_by="mask") == 0.5
        assert value_of({"box_AP": undefined, "mask_AP": undefined}, best_by="mask") == -1.0
        assert value_of({"box_AP": undefined, "mask_AP": undefined}, best_by="sum") == -1.0


@pytest.mark.parametrize("first", [-1.0, NAN])
def test_undefined_ap_first_then_numbers(first: float) -> None:
    rows = [{**row, "box_AP": first} for row in rows_of(first, first, 0.0, 0.3, 0.2, 0.3, first)]
    assert [evaluations_since_best(rows[:count], best_by="mask") for count in range(8)] == [0, 0, 0, 0, 0, 1, 2, 3]
    assert best_of(rows[:2], best_by="mask") is None
    best = best_of(rows, best_by="mask")
    assert best is rows[3]
    assert verdict(rows[:2], best_by="mask", total_steps=70) is None


def test_the_sentence() -> None:
    rows = rows_of(0.1, 0.43, 0.41)
    assert verdict(rows, best_by="mask", total_steps=40) == (
        "best: box AP 0.700, mask AP 0.430 at step 20 of 40; the one evaluation after it was not better, the last had "
        "box AP 0.600, mask AP 0.410"
    )
    rows[1] |= {"mask_AP_low": 0.38, "mask_AP_high": 0.47, "val_images": 18}
    assert verdict(rows[:2], best_by="mask", total_steps=20) == (
        "best: box AP 0.700, mask AP 0.430 at step 20 of 20, the last evaluation\n"
        "mask AP with other validation images: between 0.380 and 0.470 in nine of ten resamples of these 18"
    )


def test_losses_beside_each_other() -> None:
    rows = [{"kind": "train", "step": 9, "total": 0.5}, {"kind": "epoch"}, {"kind": "evaluation", "val_total": 0.75}]
    assert describe_losses(rows) == ", validation loss 0.750 (training 0.500)"
    assert describe_losses(rows[2:]) == ", validation loss 0.750"
    assert describe_losses(rows[:2]) == describe_losses([]) == ""


APS = {2: -1.0, 4: 0.0, 6: 0.3, 8: 0.2, 10: 0.25, 12: 0.9}  # mask AP after so many steps


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, hollow_step, tiny):
    """Compose runs of twelve steps whose six evaluations find the mask APs above, and box APs that rise."""

    def score(self: Evaluation, evaluators: list, run_dir: Path, *, step: int) -> dict[str, SimpleNamespace]:
        cv2.imwrite(str(run_dir / CONTACT_SHEET), np.zeros((4, 4, 3), np.uint8))
        aps = {"bbox": step / 20, "segm": APS[step]}
        return {
            "val": SimpleNamespace(stats={kind: dict.fromkeys(("AP", "AP50", "AP75"), ap) for kind, ap in aps.items()})
        }

    monkeypatch.setattr(Evaluation, "detect", lambda self, progress, limit=None: [])
    monkeypatch.setattr(Evaluation, "score", score)
    monkeypatch.setattr(ProgressDisplay, "tables", lambda self, results: None)
    fixed = ["train.max_steps=12", "eval.times=6", "eval.best_by=mask", "checkpoint.keep_last=9"]
    return lambda *overrides: tiny(*fixed, "checkpoint.every_epochs=null", *overrides)


def evaluated(run_dir: Path) -> list[int]:
    return [row["step"] for row in read_rows(run_dir / "metrics.jsonl") if row["kind"] == "evaluation"]


def test_evaluations_are_spread_over_the_run_and_mask_ap_decides(scripted, tmp_path: Path, capsys) -> None:
    assert run(scripted()) == 0
    run_dir = tmp_path / "run"
    assert evaluated(run_dir) == [2, 4, 6, 8, 10, 12]
    assert (run_dir / "checkpoints" / "best").read_text() == "step-00000012\n"
    assert "best: box AP 0.600, mask AP 0.900 at step 12 of 12, the last evaluation\n" in capsys.readouterr().out
    assert "| 12 | 2.00 |" in (run_dir / "report.md").read_text()


def test_patience_ends_the_run(scripted, tmp_path: Path, capsys, resume) -> None:
    run_dir = tmp_path / "run"
    assert run(scripted("stop_at.patience=2")) == 0
    assert evaluated(run_dir) == [2, 4, 6, 8, 10]
    assert (run_dir / "checkpoints" / "best").read_text() == "step-00000006\n"
    output = capsys.readouterr().out
    assert "no better evaluation in 2 (stop_at.patience); stopped after 10 steps" in output
    assert "best: box AP 0.300, mask AP 0.300 at step 6 of 12; the 2 evaluations after it were not better" in output
    assert run(resume(run_dir)) == 0
    assert "has finished after 10 steps" in capsys.readouterr().out
    assert run(resume(run_dir, "stop_at.patience=3")) == 0
    assert evaluated(run_dir) == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("last", [4, 8, 10])
def test_a_run_with_patience_that_was_killed_ends_like_the_unbroken_one(
    scripted, tmp_path: Path, capsys, resume, last: int
) -> None:
    """It goes on from the checkpoint after `last` steps; after 10 it had been evaluated, but had not ended yet."""
    run_dir = tmp_path / "run"
    assert run(scripted("stop_at.patience=2")) == 0
    (run_dir / "finished.json").unlink()
    for step in range(last + 1, 13):
        shutil.rmtree(run_dir / "checkpoints" / f"step-{step:08d}", ignore_errors=True)
    (run_dir / "checkpoints" / "best").unlink()
    assert run(resume(run_dir)) == 0
    assert evaluated(run_dir) == [2, 4, 6, 8, 10]
    assert "no better evaluation in 2 (stop_at.patience)" in capsys.readouterr().out
    assert sorted(path.name for path in (run_dir / "checkpoints").glob("step-*"))[-1] == "step-00000010"


def test_patience_needs_evaluations_on_the_way(tiny) -> None:
    with pytest.raises(ConfigError, match=r"set eval\.every_epochs or eval\.times"):
        run(tiny("stop_at.patience=2"))


def test_losses_of_sync_bn_are_refused(tiny) -> None:
    with pytest.raises(ConfigError, match=r"statistics of model\.norm=sync_bn"):
        run(tiny("eval.loss_batches=2", "model.norm=sync_bn"))


def test_validation_losses_of_a_resumed_run(tiny, tmp_path: Path, resume, capsys) -> None:
    """With real steps: the same losses and APs to the last bit, and training does not notice the measurement."""
    run_dir = tmp_path / "run"
    options = ["train.max_steps=4", "eval.times=2", "checkpoint.keep_last=9", "checkpoint.every_epochs=null"]
    assert run(tiny(*options, "eval.loss_batches=2", "eval.resamples=20", "eval.best_by=mask")) == 0
    unbroken = read_rows(run_dir / "metrics.jsonl")
    evaluations = [row for row in unbroken if row["kind"] == "evaluation"]
    assert len(evaluations) == 2
    for row in evaluations:
        parts = [row[f"val_{name}"] for name in ("rpn_class", "rpn_box", "box_class", "box_reg", "mask")]
        assert row["val_total"] == pytest.approx(sum(parts))
        assert row["val_total"] > 0
        assert row["mask_AP_low"] <= row["mask_AP_high"]
        assert row["val_images"] == 3
    assert evaluations[0]["val_total"] != evaluations[1]["val_total"]
    assert ", validation loss " in capsys.readouterr().out
    assert "validation loss" in (run_dir / "report.md").read_text()
    (run_dir / "finished.json").unlink()
    shutil.rmtree(run_dir / "checkpoints" / "step-00000004")
    assert run(resume(run_dir)) == 0
    resumed = read_rows(run_dir / "metrics.jsonl")
    assert [without_times(row) for row in resumed] == [without_times(row) for row in unbroken]
    shutil.rmtree(run_dir)
    assert run(tiny(*options)) == 0
    trained = [without_times(row) for row in read_rows(run_dir / "metrics.jsonl") if row["kind"] == "train"]
    assert trained == [without_times(row) for row in unbroken if row["kind"] == "train"]


def without_times(row: dict) -> dict:
    return {name: value for name, value in row.items() if name not in ("minutes", "images_per_second", "data_wait")}
