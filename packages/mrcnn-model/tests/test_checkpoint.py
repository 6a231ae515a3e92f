import json

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_model import (
    CheckpointError,
    ModelCard,
    ModelConfig,
    WeightsReport,
    load_model,
    load_weights,
    resolve_checkpoint,
    save_model,
    variable_key,
)

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
    loaded, card = load_model(directory)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "vgg16"}, "model.backbone is 'vgg16'; expected one of resnet18"),
        ({"anchor_sizes": [32.0]}, "model.anchor_sizes"),
        ({"num_classes": 1}, "model.num_classes is 1"),
        ({"norm": "gn", "backbone_width": 48}, "model.backbone_width is 48; expected a multiple of gn_groups=32"),
        ({"rpn_box_loss_beta": 0.0}, "model.rpn_box_loss_beta is 0.0; expected a positive number"),
        (
            {"norm": "gn", "norm_epsilon": 0.0},
            "model.norm_epsilon is 0.0; expected a positive number, or 0 with frozen",
        ),
        ({"norm_epsilon": -1.0}, "model.norm_epsilon is -1.0"),
        ({"rpn_nms_threshold": 7.0}, "model.rpn_nms_threshold is 7.0; expected a share"),
        ({"rpn_background_iou": 0.9}, "model.rpn_background_iou is 0.9; expected at most rpn_foreground_iou=0.7"),
        ({"pixel_std": [0.0, 1.0, 1.0]}, "model.pixel_std is"),
        ({"cascade_foreground_ious": [5.0, 5.0, 5.0]}, "model.cascade_foreground_ious is"),
        ({"mask_head_convs": -1}, "model.mask_head_convs is -1; expected at least 0"),
        ({"box_loss": "iou"}, "model.box_loss"),
    ],
)
def test_bad_configurations_name_the_field(change, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**change)
