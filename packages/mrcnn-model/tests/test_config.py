"""The options of a network: by name and by part, in files of earlier versions, and invalid ones."""

import copy
import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mrcnn_model
from mrcnn_model import ModelCard, ModelConfig, OptionError, load_model, read_card, save_model

FORMAT_1 = Path(__file__).parent / "format_1"  # model.json of a run of version 0.1.0, whose options are flat


def test_an_option_has_one_value_by_name_and_by_part():
    config = ModelConfig(num_classes=3, backbone="resnet18", backbone_width=8, masks=False)
    assert (config.resnet.backbone, config.backbone) == ("resnet18", "resnet18")
    assert config == ModelConfig(**config.to_flat())
    assert config != ModelConfig(num_classes=3, backbone="resnet18", backbone_width=8)
    config.score_threshold = 0.5
    assert config.detection.score_threshold == 0.5
    assert not hasattr(config, "resnet50")
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config


def test_names_are_unique_and_parts_are_not_options():
    names = [option.name for option in ModelConfig.options()]
    assert len(set(names)) == len(names)
    assert not {field.name for field in dataclasses.fields(ModelConfig)} & set(names)
    assert {"num_classes", *names} == ModelConfig().to_flat().keys()


def test_a_card_of_format_1_is_read_and_written_as_format_2(tmp_path, make_tiny_model):
    shutil.copy(FORMAT_1 / "model.json", tmp_path)
    old = json.loads((FORMAT_1 / "model.json").read_text())
    config, card = read_card(tmp_path)
    assert config.to_flat() == old["model"]
    assert dataclasses.asdict(card) == old["card"]
    model = mrcnn_model.build_model(config)
    save_model(tmp_path, model, card)
    new = json.loads((tmp_path / "model.json").read_text())
    assert (old["format"], new["format"]) == (1, 2)
    assert new["model"]["resnet"]["backbone_width"] == old["model"]["backbone_width"] == 4
    loaded, _ = load_model(tmp_path)
    assert loaded.config == config
    np.testing.assert_array_equal(loaded.backbone.stem.kernel, model.backbone.stem.kernel)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "vgg16"}, "model.backbone is 'vgg16'; expected one of resnet18"),
        ({"anchor_sizes": [32.0]}, "model.anchor_sizes is [32.0]; expected 5 sizes, for P2 to P6"),
        ({"anchor_ratios": []}, "model.anchor_ratios is []; expected positive ratios"),
        ({"num_classes": 1}, "model.num_classes is 1; expected at least 2"),
        ({"norm": "gn", "backbone_width": 48}, "model.backbone_width is 48; expected a multiple of gn_groups=32"),
        ({"head_norm": "gn", "mask_head_channels": 8}, "model.mask_head_channels is 8; expected a multiple of gn_"),
        ({"rpn_box_loss_beta": 0.0}, "model.rpn_box_loss_beta is 0.0; expected a positive number"),
        ({"norm": "gn", "norm_epsilon": 0.0}, "model.norm_epsilon is 0.0; expected a positive number, or 0 with fro"),
        ({"norm_epsilon": -1.0}, "model.norm_epsilon is -1.0"),
        ({"rpn_nms_threshold": 7.0}, "model.rpn_nms_threshold is 7.0; expected a share"),
        ({"rpn_background_iou": 0.9}, "model.rpn_background_iou is 0.9; expected at most rpn_foreground_iou=0.7"),
        ({"pixel_std": [0.0, 1.0, 1.0]}, "model.pixel_std is"),
        ({"cascade_foreground_ious": [5.0, 5.0, 5.0]}, "model.cascade_foreground_ious is"),
        ({"mask_head_convs": -1}, "model.mask_head_convs is -1; expected at least 0"),
        ({"train_proposals": 0}, "model.train_proposals is 0; expected at least 1"),
        ({"box_loss": "iou"}, "model.box_loss is 'iou'; expected one of huber"),
        # Values of another type
        ({"anchor_sizes": 5}, "model.anchor_sizes is 5; expected a list of numbers"),
        ({"anchor_sizes": [1, 2, 3, 4, "5"]}, "model.anchor_sizes is [1, 2, 3, 4, '5']; expected a list of numbers"),
        ({"cascade_regression_weights": [1.0]}, "model.cascade_regression_weights is [1.0]; expected a list of lists"),
        ({"num_classes": "4"}, "model.num_classes is '4'; expected a whole number"),
        ({"roi_samples": 2.5}, "model.roi_samples is 2.5; expected a whole number"),
        ({"roi_samples": True}, "model.roi_samples is True; expected a whole number"),
        ({"score_threshold": None}, "model.score_threshold is None; expected a number"),
        ({"max_log_scale": float("nan")}, "model.max_log_scale is nan; expected a number"),
        ({"masks": 1}, "model.masks is 1; expected true or false"),
        ({"norm": False}, "model.norm is False; expected a word"),
        # Names that do not exist
        ({"anchor_size": [5]}, "model.anchor_size is not an option; did you mean anchor_sizes?"),
        ({"rpn": {}}, "model.rpn is not an option"),
    ],
)
def test_what_an_option_cannot_be(change, message):
    with pytest.raises(OptionError) as caught:
        ModelConfig(**change)
    assert message in str(caught.value)


def test_options_are_there_without_tensorflow():
    code = (
        "import sys, mrcnn_model; mrcnn_model.ModelConfig(); mrcnn_model.PRECISIONS; "
        "mrcnn_model.import_tensorflow_quietly; assert 'tensorflow' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_every_public_name_is_there():
    for name in mrcnn_model.__all__:
        assert getattr(mrcnn_model, name) is not None
    assert set(mrcnn_model.__all__) <= set(dir(mrcnn_model))
    assert ModelCard.__name__ in mrcnn_model.__all__
