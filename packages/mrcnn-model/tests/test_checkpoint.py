import dataclasses
import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import mrcnn_model.checkpoint
from mrcnn_model import (
    CheckpointError,
    ModelCard,
    WeightsReport,
    find_checkpoint,
    load_model,
    load_weights,
    read_card,
    resolve_checkpoint,
    save_model,
    variable_key,
)
from mrcnn_model.checkpoint import read_weights
from mrcnn_model.weights import write_arrays

CARD = ModelCard(
    class_names=["fig", "date", "nut"],
    category_ids=[3, 7, 12],
    short_edge=160,
    max_size=320,
    buckets=[[160, 320]],
    data_root="data",
    train_split="train",
    val_split="val",
)


@pytest.fixture
def saved(tmp_path, make_tiny_model):
    model = make_tiny_model()
    save_model(tmp_path / "checkpoint", model, CARD)
    return tmp_path / "checkpoint", model


def test_a_round_trip_keeps_weights_config_and_card(saved, make_batch):
    directory, model = saved
    loaded, card = load_model(directory, precision="float32")
    assert card == CARD
    assert loaded.config == model.config
    assert [variable_key(v) for v in loaded.variables] == [variable_key(v) for v in model.variables]
    for a, b in zip(loaded.variables, model.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    batch = make_batch()
    images, sizes = tf.constant(batch["images"]), tf.constant(batch["image_sizes"])
    np.testing.assert_array_equal(loaded.detect(images, sizes).boxes, model.detect(images, sizes).boxes)


def test_keys_are_unique_and_readable(make_tiny_model):
    keys = [variable_key(v) for v in make_tiny_model().variables]
    assert len(set(keys)) == len(keys)
    assert "backbone.stage1.block0.conv1.kernel" in keys
    assert "mask_head.logits.bias" in keys


def test_a_run_directory_means_its_best_then_its_newest_checkpoint(tmp_path, make_tiny_model):
    checkpoints = tmp_path / "checkpoints"
    for step in (10, 20):
        save_model(checkpoints / f"step-{step:08d}", make_tiny_model(), CARD)
    assert resolve_checkpoint(tmp_path).name == "step-00000020"
    (checkpoints / "best").write_text("step-00000010\n")
    assert resolve_checkpoint(tmp_path).name == "step-00000010"
    found = find_checkpoint(tmp_path)
    assert (found.directory.name, found.why) == ("step-00000010", "the best of the run")
    assert find_checkpoint(found.directory) == (found.directory, "")
    (checkpoints / "best").write_text("step-00000015\n")
    found = find_checkpoint(tmp_path)
    why = "the newest of the run; the best, step-00000015, is not there"
    assert (found.directory.name, found.why) == ("step-00000020", why)


def test_missing_checkpoints_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        load_model(tmp_path)


def test_a_torn_weights_file_is_named(saved):
    directory, _ = saved
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_model(directory)


def test_a_broken_card_is_named(saved):
    directory, _ = saved
    (directory / "model.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"model\.json is not a model card"):
        load_model(directory)


def test_weights_of_another_shape_are_named(saved):
    directory, _ = saved
    content = json.loads((directory / "model.json").read_text())
    content["model"]["box"]["box_head_channels"] = 33
    (directory / "model.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"box_head\.\w+\.\w+ has shape .* the model expects"):
        load_model(directory)


def test_the_card_must_fit_the_model(tmp_path, make_tiny_model):
    with pytest.raises(ValueError, match="the card names 3 classes"):
        save_model(tmp_path, make_tiny_model(num_classes=5), CARD)


def test_load_weights_from_a_checkpoint_fills_everything(saved, make_tiny_model):
    directory, model = saved
    other = make_tiny_model(seed=5)
    report = load_weights(other, directory)
    assert report == WeightsReport([], [], [], [])
    for a, b in zip(other.variables, model.variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_card_with_a_value_out_of_range_is_named(saved):
    directory, _ = saved
    content = json.loads((directory / "model.json").read_text())
    content["model"]["resnet"]["backbone"] = "vgg16"
    (directory / "model.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"model\.json is not a model card.*vgg16"):
        load_model(directory)


def test_a_file_is_not_a_checkpoint(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="file is not a directory"):
        load_model(tmp_path / "file")


class Killed(BaseException):
    """Replaces the end of the process."""


def save_until(line, directory, model, card):
    """Save, but end before a line of the module is run; return whether that line was reached."""
    lines = itertools.count()

    def trace(frame, event, _):
        if frame.f_code.co_filename != mrcnn_model.checkpoint.__file__:
            return None
        if event == "line" and next(lines) == line:
            raise Killed
        return trace

    sys.settrace(trace)
    try:
        save_model(directory, model, card)
    except Killed:
        return True
    finally:
        sys.settrace(None)
    return False


def test_a_save_that_is_cut_short_leaves_no_mixture(saved, make_tiny_model):
    """A save over an old checkpoint, beside a file of another program, is ended before each line in turn."""
    directory, model = saved
    (directory / "trainer.safetensors").write_text("other")
    other, other_card = make_tiny_model(seed=9), dataclasses.replace(CARD, short_edge=99)
    key = "mask_head.logits.kernel"
    values = {CARD.short_edge: model.mask_head.logits.kernel.numpy(), 99: other.mask_head.logits.kernel.numpy()}
    seen = set()
    for line in itertools.count():
        save_model(directory, model, CARD)  # also onto what was cut short
        was_cut = save_until(line, directory, other, other_card)
        try:
            edge = read_card(directory)[1].short_edge
        except CheckpointError:
            edge = None  # not there
        else:
            np.testing.assert_array_equal(read_weights(directory)[key], values[edge])
        seen.add(edge)
        if not was_cut:
            break
    assert line > 10
    assert edge == 99
    assert seen == {CARD.short_edge, None, 99}
    assert (directory / "trainer.safetensors").read_text() == "other"
    assert sorted(p.name for p in directory.iterdir()) == ["model.json", "model.safetensors", "trainer.safetensors"]


def test_files_are_flushed_before_they_get_their_names(tmp_path, monkeypatch, make_tiny_model):
    """The card is last: it reaches the disk after the name of the weights does."""
    events, flush, replace = [], mrcnn_model.checkpoint.flush, Path.replace
    monkeypatch.setattr(
        mrcnn_model.checkpoint, "flush", lambda path: (events.append(f"flush {path.name}"), flush(path))
    )
    monkeypatch.setattr(Path, "replace", lambda path, to: (events.append(f"name {to.name}"), replace(path, to)))
    save_model(tmp_path / "new", make_tiny_model(), CARD)
    assert [event.partition("-")[0] for event in events[:2]] == ["flush .mrcnn", "flush .mrcnn"]
    assert events[2:] == ["flush new", "name model.safetensors", "flush new", "name model.json", "flush new"]


def test_no_writer_follows_a_link_of_the_name_that_it_uses(tmp_path, monkeypatch, make_tiny_model):
    victim, folder = tmp_path / "victim", tmp_path / "folder"
    victim.write_text("the user's")
    folder.mkdir()
    for name in ("model.json.partial", "model.safetensors.partial"):  # names that were used once
        (folder / name).symlink_to(victim)
    save_model(folder, make_tiny_model(), CARD)
    monkeypatch.setattr("secrets.token_hex", lambda count: "00" * count)
    (folder / ".mrcnn-0000000000000000.partial").symlink_to(victim)
    with pytest.raises(FileExistsError):
        save_model(folder, make_tiny_model(), CARD)
    with pytest.raises(FileExistsError):
        write_arrays(folder / "weights.npz", {})
    assert victim.read_text() == "the user's"


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_files_of_others_are_not_replaced(tmp_path, make_tiny_model, name):
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(CheckpointError, match="that is not a checkpoint: choose another directory"):
        save_model(tmp_path, make_tiny_model(), CARD)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == '{"mine": 1}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], 'is not a model card: expected an object with "format"'),
        ({"format": 2, "model": []}, 'is not a model card: expected an object with "format"'),
        ({"format": 3, "model": {}, "card": {}}, "is of format 3; this version reads 1 and 2"),
        ({"format": 2, "model": {"rpn": {"rpn_size": 1}}, "card": {}}, "model.rpn_size is not an option"),
        ({"format": 2, "model": {}, "card": {"colour": 1}}, "unexpected keyword argument 'colour'"),
    ],
)
def test_what_a_card_cannot_be(tmp_path, content, message):
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_card(tmp_path)
