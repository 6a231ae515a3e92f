"""Runs in separate processes: killed in the middle, and the full recipe on real data. Takes minutes."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from safetensors.numpy import load_file

from mrcnn_train import run
from mrcnn_train.config.composition import known_experiments
from mrcnn_train.record.metrics_log import read_rows

pytestmark = pytest.mark.slow


def start(*arguments: str, cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "mrcnn_train", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen, *, exit_code: int) -> str:
    output, _ = process.communicate(timeout=900)
    assert process.returncode == exit_code, output
    return output


def wait_for_step(process: subprocess.Popen, run_dir: Path, step: int) -> None:
    for _ in range(6000):
        assert process.poll() is None, process.communicate()[0]
        if any(row["step"] >= step for row in read_rows(run_dir / "metrics.jsonl")):
            return
        time.sleep(0.1)
    raise TimeoutError(f"no step {step} in {run_dir}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_and_resumed_equals_unbroken(tiny_overrides: list[str], tmp_path: Path, number: int) -> None:
    options = [*tiny_overrides, "train.max_steps=300", "checkpoint.every_steps=10", "eval.every_epochs=20"]
    finish(start(*options, "run.dir=straight", cwd=tmp_path), exit_code=0)

    process = start(*options, "run.dir=broken", cwd=tmp_path)
    wait_for_step(process, tmp_path / "broken", 12)
    os.kill(process.pid, number)
    finish(process, exit_code=143 if number == signal.SIGTERM else -signal.SIGKILL)
    assert not (tmp_path / "broken" / "checkpoints" / "step-00000300").exists(), "it was killed too late to tell"
    output = finish(start("resume=broken", cwd=tmp_path), exit_code=0)
    assert "resumed from" in output

    straight, broken = (
        [r for r in read_rows(tmp_path / d / "metrics.jsonl") if r["kind"] == "train"] for d in ("straight", "broken")
    )
    assert [row["step"] for row in broken] == list(range(1, 301))
    assert [row["learning_rate"] for row in broken] == [row["learning_rate"] for row in straight]
    for file in ("model.safetensors", "trainer.safetensors"):
        one = load_file(tmp_path / "straight" / "checkpoints" / "step-00000300" / file)
        other = load_file(tmp_path / "broken" / "checkpoints" / "step-00000300" / file)
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def test_jobs_of_a_multirun_have_processes_and_directories_of_their_own(
    tiny_overrides: list[str], tmp_path: Path
) -> None:
    rates = "optimizer.base_lr=0.001,0.002"
    process = start("--multirun", *tiny_overrides, rates, "train.max_steps=1", "data.val=null", cwd=tmp_path)
    output = finish(process, exit_code=0)
    runs = sorted((tmp_path / "outputs" / "demo").iterdir())
    saved = [OmegaConf.load(run_dir / "config.yaml").optimizer.base_lr for run_dir in runs]
    assert saved == [0.001, 0.002]
    assert all((run_dir / "checkpoints" / "step-00000001").exists() for run_dir in runs)
    # TensorFlow's event files have the id of their process in the name: ....HOST.PROCESS.COUNT.v2
    writers = {path.name.split(".")[-3] for run_dir in runs for path in (run_dir / "tensorboard").iterdir()}
    assert len(writers) == 2, output


# Of a network that takes seconds: a narrow ResNet on photographs of 128 px.
REDUCED = (
    "data.synthetic=null",
    "data.train=train",
    "data.val=val",
    "data.short_edge=96",
    "data.max_size=128",
    "data.buckets=null",
    "model.weights=null",
    "model.backbone=resnet50",
    "model.backbone_width=32",
    "model.fpn_channels=32",
    "model.rpn_channels=32",
    "model.box_head_channels=32",
    "model.mask_head_channels=32",
    "model.roi_samples=16",
    "train.images_per_gpu=1",
    "train.global_batch=2",
    "train.max_steps=3",
    "log.every=1",
    "eval.limit=1",
)


@pytest.mark.parametrize("experiment", known_experiments())
def test_every_experiment_takes_three_steps(compose, shared_data: Path, tmp_path: Path, experiment: str) -> None:
    config = compose(f"+experiment={experiment}", f"data.root={shared_data / 'coco_open'}", *REDUCED)
    config.run.dir, config.data.cache_dir = str(tmp_path / "run"), str(tmp_path / "cache")
    if config.data.augmentation.crop_size:
        config.data.augmentation.crop_size = 128
    assert run(config) == 0
    rows = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))


def test_full_recipe_on_photographs(shared_data: Path, tmp_path: Path) -> None:
    """ResNet-50, 80 classes, short edge 800: three steps, finite losses, an evaluation."""
    root = shared_data / "coco_open"
    process = start(
        "+experiment=8x4_12ep",
        f"data.root={root}",
        "data.train=train",
        "data.val=val",
        "train.images_per_gpu=1",
        "train.global_batch=1",
        "train.max_steps=3",
        "model.weights=null",
        "log.every=1",
        "eval.limit=1",
        "eval.batch_size=1",
        "run.dir=run",
        cwd=tmp_path,
    )
    output = finish(process, exit_code=0)
    assert "classes:          80" in output
    rows = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
