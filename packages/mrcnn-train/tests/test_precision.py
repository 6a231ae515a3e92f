"""Half precision compared with float32, the loss scale computed by hand, and what `precision=auto` makes of a job."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from mrcnn_model import Losses, PrecisionChoice
from mrcnn_train import ConfigError, DivergedError, run
from mrcnn_train.app import main
from mrcnn_train.config.precision import settle_precision
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


@pytest.mark.parametrize("precision", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)])
def test_stop_and_resume_equal_the_straight_run_to_the_bit(precision: str, tiny, resume, tmp_path) -> None:
    straight, stopped = tmp_path / "run", tmp_path / "stopped"
    assert run(tiny(f"precision={precision}", "data.val=null", "train.max_steps=4", "checkpoint.every_steps=2")) == 0
    shutil.copytree(straight, stopped)
    shutil.rmtree(stopped / "checkpoints" / "step-00000004")  # as if it had been stopped after its second step
    assert run(resume(stopped)) == 0
    names = ("total", "gradient_norm", "loss_scale")
    ours, theirs = ([[row.get(name) for name in names] for row in train_rows(path)] for path in (straight, stopped))
    assert ours == theirs
    for file in ("model.safetensors", "trainer.safetensors"):
        one, other = (load_file(path / "checkpoints" / "step-00000004" / file) for path in (straight, stopped))
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


# precision=auto

AMX = PrecisionChoice("mixed_bfloat16", "CPU with AMX, 4.9 times float32 here")
ZEN_3 = PrecisionChoice("float32", "CPU without bfloat16 instructions")
V100 = PrecisionChoice("mixed_float16", "Tesla V100, compute capability 7.0")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Make this machine one that would choose a precision; None: a machine that must not be asked."""

    def become(choice: PrecisionChoice | None) -> None:
        ask = (lambda: choice) if choice is not None else lambda: pytest.fail("a given precision needs no choice")
        monkeypatch.setattr("mrcnn_train.runner.choose_precision", ask)

    return become


@pytest.fixture
def command(tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hollow_step, capfd):
    """Run the command of a run in `run/`, which does nothing in its steps; return what it printed about precision."""
    monkeypatch.chdir(tmp_path)

    def run_command(*options: str) -> str:
        is_new = not any(option.startswith("resume=run") for option in options)
        arguments = [*tiny_overrides, "run.dir=run", "data.val=null", "precision=auto"] if is_new else []
        monkeypatch.setattr("sys.argv", ["mrcnn_train", *arguments, *options])
        assert main() == 0, capfd.readouterr().err
        (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("precision:")]
        return line.partition(":")[2].strip()

    return run_command


def saved_precision() -> str:
    (line,) = [line for line in Path("run/config.yaml").read_text().splitlines() if line.startswith("precision:")]
    return line.removeprefix("precision: ")


def test_auto_is_the_default(compose) -> None:
    assert compose("+experiment=8x4_12ep", "data.root=data").precision == "auto"
    assert compose("+experiment=demo").precision == "auto"


def test_the_plan_has_the_choice_and_the_run_keeps_it(command, machine) -> None:
    machine(AMX)
    line = "mixed_bfloat16 (auto: CPU with AMX, 4.9 times float32 here)"
    assert command("train.max_steps=1", "dry_run=true") == line
    assert command("train.max_steps=1") == line
    assert saved_precision() == "mixed_bfloat16"
    assert f"precision:        {line}" in Path("run/report.md").read_text()
    assert "device:           CPU (no GPU is visible)" in Path("run/report.md").read_text()
    assert command("resume=run", "train.max_steps=2") == "mixed_bfloat16"


def test_a_given_precision_is_not_questioned(command, machine) -> None:
    machine(None)
    assert command("train.max_steps=1", "precision=mixed_bfloat16") == "mixed_bfloat16"
    assert saved_precision() == "mixed_bfloat16"


@pytest.mark.parametrize("options", [["resume=run"], ["resume=run", "precision=auto"], ["resume=auto"]])
def test_a_resumed_run_keeps_its_precision_and_says_where_it_is_slow(command, machine, options: list[str]) -> None:
    machine(AMX)
    command("train.max_steps=1", "resume=auto")
    machine(ZEN_3)
    assert command("train.max_steps=2", *options) == (
        "mixed_bfloat16, of the run, slow here; auto would choose float32 (CPU without bfloat16 instructions): "
        "precision=float32 changes it"
    )
    assert saved_precision() == "mixed_bfloat16"
    assert command("train.max_steps=3", "precision=float32", *options[:1]) == "float32"
    assert saved_precision() == "float32"
    machine(AMX)
    assert command("train.max_steps=4", *options) == (
        "float32, of the run; auto would choose mixed_bfloat16 (CPU with AMX, 4.9 times float32 here): "
        "precision=mixed_bfloat16 changes it"
    )


def test_the_loss_scale_comes_and_goes_with_float16(command, machine) -> None:
    def scaled(step: int) -> bool:
        return "loss_scale/scale" in load_file(f"run/checkpoints/step-{step:08d}/trainer.safetensors")

    machine(V100)
    command("train.max_steps=1")
    assert scaled(1)
    command("resume=run", "train.max_steps=2", "precision=mixed_bfloat16")
    assert not scaled(2)
    command("resume=run", "train.max_steps=3", "precision=mixed_float16")
    assert scaled(3)


def test_processes_that_differ(tiny) -> None:
    auto = tiny("precision=auto")
    config, text = settle_precision(auto, [AMX, AMX._replace(reason="CPU with AMX, 3.1 times float32 here")])
    assert (config.precision, text) == ("mixed_bfloat16", str(AMX))
    assert auto.precision == "auto"  # the caller's config is not changed
    with pytest.raises(
        ConfigError,
        match=r"ranks 0-1, 3: mixed_bfloat16 \(CPU with AMX, 4\.9 .*\), rank 2: float32 \(CPU without .*\): give",
    ):
        settle_precision(auto, [AMX, AMX, ZEN_3, AMX])
    resumed = tiny("precision=mixed_bfloat16", "resume=run")
    _, text = settle_precision(resumed, [AMX, ZEN_3])
    assert text == (
        f"mixed_bfloat16, of the run, slow here; auto would choose rank 0: mixed_bfloat16 ({AMX.reason}), "
        f"rank 1: float32 ({ZEN_3.reason}): precision=float32 changes it"
    )
