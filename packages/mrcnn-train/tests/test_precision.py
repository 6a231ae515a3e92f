"""Half precision compared with float32, and the loss scale computed by hand."""

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_model import Losses
from mrcnn_train import DivergedError, run
from mrcnn_train.record.metrics_log import read_rows
from mrcnn_train.record.window import Window
from mrcnn_train.training.loss_scale import MAXIMUM, MINIMUM, LossScale
from mrcnn_train.training.step import Measured, StepMetrics


def numbers(scale: LossScale) -> tuple[float, int, int]:
    return float(scale.scale), int(scale.good_steps), int(scale.skipped)


def test_loss_scale_by_hand() -> None:
    scale = LossScale(initial=8.0, growth_steps=2)
    update = tf.function(scale.update)
    history = []
    for is_finite in (True, True, True, False, False, True, True):
        update(tf.constant(is_finite))
        history.append(numbers(scale))
    assert history == [(8, 1, 0), (16, 0, 0), (16, 1, 0), (8, 0, 1), (4, 0, 2), (4, 1, 2), (8, 0, 2)]


@pytest.mark.parametrize(("initial", "is_finite", "last"), [(MAXIMUM, True, MAXIMUM), (MINIMUM, False, MINIMUM)])
def test_loss_scale_stays_in_its_range(initial: float, is_finite: bool, last: float) -> None:
    scale = LossScale(initial=initial, growth_steps=1)
    scale.update(tf.constant(is_finite))
    assert float(scale.scale) == last


def metrics(
    *,
    mask: float = 1.0,
    total: float = 1.0,
    gradient_norm: float = 1.0,
    loss_scale: float | None = None,
    skipped_steps: float | None = None,
) -> StepMetrics:
    one = tf.constant(1.0)
    counts = dict.fromkeys(("valid_proposals", "foreground_anchors", "foreground_rois"), one)
    measured = Measured(Losses(one, one, one, one, tf.constant(mask)), tf.constant(total), counts)
    scaling = [None if value is None else tf.constant(value) for value in (loss_scale, skipped_steps)]
    return StepMetrics(measured, tf.constant(gradient_norm), tf.zeros(3), tf.zeros(1), *scaling)


def window_of(*steps: StepMetrics) -> Window:
    window = Window(images_per_step=2, gather=lambda ids: [ids, [7]])
    for number, one in enumerate(steps, start=1):
        window.add(number, one, learning_rate=0.1, image_ids=[5])
    return window


def test_skipped_steps_are_no_divergence() -> None:
    skipped = metrics(gradient_norm=np.inf, loss_scale=16.0, skipped_steps=1.0)
    good = metrics(gradient_norm=3.0, loss_scale=8.0, skipped_steps=1.0)
    means = window_of(skipped, good).read().means
    assert (means["gradient_norm"], means["loss_scale"], means["skipped_steps"]) == (3.0, 8.0, 1.0)
    assert "gradient_norm" not in window_of(skipped).read().means


@pytest.mark.parametrize(
    "spoilt",
    [
        metrics(gradient_norm=np.inf),  # without a scale nothing will change
        metrics(gradient_norm=np.inf, loss_scale=MINIMUM, skipped_steps=30.0),  # a lower scale would not help
        metrics(mask=np.nan, total=np.nan, loss_scale=16.0, skipped_steps=1.0),  # the loss itself overflows
    ],
)
def test_divergence_names_the_images_of_all_processes(spoilt: StepMetrics) -> None:
    with pytest.raises(DivergedError, match=r"step 1: (gradient_norm|mask) is (inf|nan), .*images 5, 7;"):
        window_of(spoilt).read()


def train_rows(run_dir) -> list[dict]:
    return [row for row in read_rows(run_dir / "metrics.jsonl") if row["kind"] == "train"]


def losses(run_dir) -> list[float]:
    return [row["total"] for row in train_rows(run_dir)]


@pytest.mark.slow
def test_half_precision_follows_float32(tiny, tmp_path) -> None:
    """30 steps at each precision: every loss within 5 % of float32's, smoothed over five steps."""
    options = ["train.max_steps=30", "data.val=null", "optimizer.warmup_steps=5", "log.every=1"]
    for precision in ("float32", "mixed_bfloat16", "mixed_float16"):
        assert run(tiny(*options, f"precision={precision}", f"run.dir={tmp_path / precision}")) == 0
    smooth = {
        precision: np.convolve(losses(tmp_path / precision), np.ones(5) / 5, mode="valid")
        for precision in ("float32", "mixed_bfloat16", "mixed_float16")
    }
    for precision in ("mixed_bfloat16", "mixed_float16"):
        np.testing.assert_allclose(smooth[precision], smooth["float32"], rtol=0.05)


def test_forced_overflow_is_skipped_and_counted(tiny, tmp_path, monkeypatch) -> None:
    """At a scale of 2^31 float16 overflows; every such step halves the scale and does not change the weights."""
    monkeypatch.setattr("mrcnn_train.training.state.LossScale", lambda: LossScale(initial=2.0**31))
    assert run(tiny("precision=mixed_float16", "data.val=null", "train.max_steps=3")) == 0
    rows = train_rows(tmp_path / "run")
    assert [row["skipped_steps"] for row in rows] == [1, 2, 3]
    assert [row["loss_scale"] for row in rows] == [2.0**31, 2.0**30, 2.0**29]
    assert all("gradient_norm" not in row for row in rows)
    assert all(np.isfinite(row["total"]) for row in rows)
