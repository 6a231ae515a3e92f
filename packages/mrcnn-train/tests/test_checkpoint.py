"""Checkpoints: their contents, that they are complete or not there at all, and which are kept."""

import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mrcnn_model import CheckpointError, ModelCard, build_model, load_model, resolve_checkpoint, variable_key
from mrcnn_train.config.position import CheckpointState, read_state
from mrcnn_train.config.values import model_config
from mrcnn_train.errors import SaveError
from mrcnn_train.training import checkpoint as checkpoint_module
from mrcnn_train.training.checkpoint import (
    best_name,
    complete_checkpoints,
    mark_best,
    prune_checkpoints,
    restore_checkpoint,
    save_checkpoint,
)
from mrcnn_train.training.loss_scale import LossScale
from mrcnn_train.training.optimizer import Optimizer, Sgd

CARD = ModelCard([*"abcdef"], [1, 2, 3, 4, 5, 6], short_edge=64, max_size=64, buckets=[[64, 64]])


class Parts:
    """Model and optimizer whose values show which checkpoint they came from."""

    def __init__(self, config, *, seed: int, ema_decay: float | None = None) -> None:
        keras.utils.set_random_seed(seed)
        self.model = build_model(model_config(config.model, num_classes=7))
        self.optimizer = Optimizer(
            self.model.trainable_variables,
            rule=Sgd(momentum=0.9),
            decayed=[],
            weight_decay=0.0,
            clip_norm=None,
            ema_decay=ema_decay,
        )
        self.momenta = self.optimizer.slots["momentum"]
        for number, momentum in enumerate(self.momenta):
            momentum.assign(np.full(momentum.shape, seed + number / 64, np.float32))

    def save(self, checkpoints: Path, step: int) -> Path:
        state = CheckpointState(step, seed=0, global_batch=2, epoch=step / 6, learning_rate=0.1, elapsed_seconds=1.5)
        return save_checkpoint(checkpoints, model=self.model, card=CARD, optimizer=self.optimizer, state=state)

    def arrays(self) -> list[np.ndarray]:
        return [v.numpy() for v in (*self.model.variables, *self.momenta)]


@pytest.fixture(scope="module")
def parts(compose, tiny_overrides) -> Parts:
    return Parts(compose(*tiny_overrides), seed=1)


def test_round_trip(parts: Parts, tiny, tmp_path: Path) -> None:
    folder = parts.save(tmp_path, 3)
    assert folder.name == "step-00000003"
    assert sorted(file.name for file in folder.iterdir()) == [
        "model.json",
        "model.safetensors",
        "trainer.json",
        "trainer.safetensors",
    ]
    other = Parts(tiny(), seed=2)
    restore_checkpoint(folder, model=other.model, optimizer=other.optimizer)
    for ours, theirs in zip(parts.arrays(), other.arrays(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert read_state(folder) == CheckpointState(3, 0, 2, 0.5, 0.1, 1.5)
    assert load_model(folder)[1] == CARD


def test_a_loss_scale_goes_with_the_checkpoint(parts: Parts, tiny, tmp_path: Path) -> None:
    """Single numbers: safetensors has them as lists of one."""
    saved, fresh = LossScale(), LossScale()
    for variable in saved.variables.values():
        variable.assign(variable + 3)
    state = CheckpointState(4, seed=0, global_batch=2, epoch=1.0, learning_rate=0.1, elapsed_seconds=1.5)
    folder = save_checkpoint(
        tmp_path, model=parts.model, card=CARD, optimizer=parts.optimizer, state=state, loss_scale=saved
    )
    restore_checkpoint(folder, model=parts.model, optimizer=parts.optimizer, loss_scale=fresh)
    assert [v.numpy() for v in fresh.variables.values()] == [v.numpy() for v in saved.variables.values()]

    arrays = load_file(folder / "trainer.safetensors")  # before 0.2, the counters were int32
    counters = [key for key in arrays if arrays[key].dtype == np.int64]
    assert len(counters) == 2
    save_file(arrays | {key: arrays[key].astype(np.int32) for key in counters}, folder / "trainer.safetensors")
    old = LossScale()
    restore_checkpoint(folder, model=parts.model, optimizer=parts.optimizer, loss_scale=old)
    assert [v.numpy() for v in old.variables.values()] == [v.numpy() for v in saved.variables.values()]


def test_the_average_is_the_model_and_the_weights_are_beside_it(tiny, tmp_path: Path) -> None:
    parts, other = Parts(tiny(), seed=1, ema_decay=0.5), Parts(tiny(), seed=2, ema_decay=0.5)
    variable, average = parts.optimizer.variables[0], parts.optimizer.slots["average"][0]
    weights = variable.numpy()
    average.assign(weights + 1.0)
    folder = parts.save(tmp_path, 3)
    np.testing.assert_array_equal(variable.numpy(), weights)  # saving changes nothing
    np.testing.assert_array_equal(load_file(folder / "model.safetensors")[variable_key(variable)], weights + 1.0)
    restore_checkpoint(folder, model=other.model, optimizer=other.optimizer)
    np.testing.assert_array_equal(other.optimizer.variables[0].numpy(), weights)
    np.testing.assert_array_equal(other.optimizer.slots["average"][0].numpy(), weights + 1.0)
    with pytest.raises(CheckpointError, match="another model or optimizer"):
        restore_checkpoint(folder, model=parts.model, optimizer=Parts(tiny(), seed=3).optimizer)


class DiskFullError(OSError):
    pass


@pytest.mark.parametrize("stage", ["save_model", "save_file", "flush", "rename"])
def test_a_write_that_fails_leaves_the_last_checkpoint(parts: Parts, tmp_path: Path, monkeypatch, stage: str) -> None:
    good = parts.save(tmp_path, 3)

    def fail(*args: object, **kwargs: object) -> None:
        (tmp_path / "partial-step-00000004").mkdir(exist_ok=True)
        (tmp_path / "partial-step-00000004" / "model.safetensors").write_bytes(b"torn")
        raise DiskFullError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path if stage == "rename" else checkpoint_module, stage, fail)
        with pytest.raises(SaveError, match=r"step-00000004 .*no space left.*the last complete one is .*step-00000003"):
            parts.save(tmp_path, 4)
    assert list(tmp_path.glob("partial-*")) == []  # a full disk is not filled further
    assert complete_checkpoints(tmp_path) == [good]
    parts.save(tmp_path, 4)  # and once there is space again, nothing is in its way
    assert [folder.name for folder in complete_checkpoints(tmp_path)] == ["step-00000003", "step-00000004"]
    assert list(tmp_path.glob("partial-*")) == []


def test_no_link_among_the_checkpoints_is_followed(parts: Parts, tmp_path: Path) -> None:
    victim, checkpoints = tmp_path / "victim", tmp_path / "checkpoints"
    victim.mkdir()
    (victim / "photo").write_text("the user's")
    checkpoints.mkdir()
    (checkpoints / "partial-step-00000003").symlink_to(victim)
    (checkpoints / "partial-file").write_text("left")
    parts.save(checkpoints, 3)
    assert [path.name for path in victim.iterdir()] == ["photo"]
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000003"]


def test_files_are_flushed_before_the_rename(parts: Parts, tmp_path: Path, monkeypatch) -> None:
    events: list[str] = []
    flush, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("flush"), flush(fd))[1])
    monkeypatch.setattr(Path, "rename", lambda self, target: (events.append("rename"), rename(self, target))[1])
    parts.save(tmp_path, 3)
    before = len(events) - 2
    assert before >= 5  # four files and their folder
    assert events == ["flush"] * before + ["rename", "flush"]  # then the folder above


def test_keeps_the_last_and_the_best(parts: Parts, tmp_path: Path) -> None:
    for step in range(1, 6):
        folder = parts.save(tmp_path, step)
        if step == 2:
            mark_best(tmp_path, folder)
        prune_checkpoints(tmp_path, keep_last=2)
    kept = [folder.name for folder in complete_checkpoints(tmp_path)]
    assert kept == ["step-00000002", "step-00000004", "step-00000005"]
    assert best_name(tmp_path) == "step-00000002"


def test_best_is_what_a_run_directory_means(parts: Parts, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    first = parts.save(checkpoints, 1)
    second = parts.save(checkpoints, 2)
    assert resolve_checkpoint(tmp_path) == second
    mark_best(checkpoints, first)
    assert resolve_checkpoint(tmp_path) == first


@pytest.mark.parametrize("file", ["model.safetensors", "trainer.safetensors", "trainer.json"])
@pytest.mark.parametrize("damage", ["torn", "gone"])
def test_damage_is_named(parts: Parts, tmp_path: Path, file: str, damage: str) -> None:
    folder = parts.save(tmp_path, 3)
    path = folder / file
    if damage == "torn":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.unlink()

    def read_everything() -> None:
        restore_checkpoint(folder, model=parts.model, optimizer=parts.optimizer)
        read_state(folder)

    with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
        read_everything()


def test_checkpoint_of_another_model(parts: Parts, tiny, tmp_path: Path) -> None:
    folder = parts.save(tmp_path, 3)
    other = Parts(tiny("model.mask_head_convs=2"), seed=2)
    with pytest.raises(CheckpointError, match="another model"):
        restore_checkpoint(folder, model=other.model, optimizer=other.optimizer)


def test_step_folder_without_trainer_is_no_place_to_resume(parts: Parts, tmp_path: Path) -> None:
    folder = parts.save(tmp_path, 3)
    shutil.copytree(folder, tmp_path / "step-00000009")
    (tmp_path / "step-00000009" / "trainer.json").unlink()
    assert complete_checkpoints(tmp_path) == [folder]
    assert json.loads((folder / "trainer.json").read_text())["step"] == 3
