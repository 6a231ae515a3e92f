"""Arithmetic and size of ResNet-50-FPN with 80 classes, counted in the graph that is built.

The formula, in billions, a multiply-add as one: 187.5 for each million pixels of the padded image, 0.0143 for each RoI
of the box head and 0.530 for each of the mask head, less what ours leaves out: its last layer is evaluated for one
class of the 80. Training with stem and first stage frozen: 523, and three times the heads.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_model import ModelConfig, build_model
from mrcnn_model.flops import count_flops
from mrcnn_model.layers.normalization import Norm
from mrcnn_model.layers.resnet import ResNet

PER_MASK = 0.530 - 28 * 28 * 256 * (80 - 1) / 1e9
SHAPES = [(1, 800, 1344), (2, 320, 480), (4, 512, 512)]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return build_model(ModelConfig())


@pytest.mark.parametrize("shape", [SHAPES[0], *(pytest.param(shape, marks=pytest.mark.slow) for shape in SHAPES[1:])])
def test_inference(model, shape):
    num_images, height, width = shape
    detect = tf.function(model.detect).get_concrete_function(
        tf.TensorSpec([*shape, 3], tf.uint8), tf.TensorSpec([num_images, 2], tf.int32)
    )
    expected = num_images * (187.5 * height * width / 1e6 + 0.0143 * 1000 + PER_MASK * 100)
    np.testing.assert_allclose(count_flops(detect.graph) / 2e9, expected, rtol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_training(model, shape):
    num_images, height, width = shape
    variables = [v.value for v in model.trainable_variables]

    def step(batch):
        with tf.GradientTape() as tape:
            total = sum(model.losses(**batch)[0])
        return tape.gradient(total, variables)

    rows = {"gt_boxes": [10, 4], "gt_masks": [10, 28, 28], "crowd_boxes": [1, 4], "images": [height, width, 3]}
    whole = {"gt_classes": [10], "image_sizes": [2], "sample_seeds": [2]}
    types = {"images": tf.uint8, "gt_masks": tf.uint8} | dict.fromkeys(whole, tf.int32)
    batch = {
        name: tf.TensorSpec([num_images, *shape], types.get(name, tf.float32)) for name, shape in (rows | whole).items()
    } | {"gt_has_mask": tf.TensorSpec([num_images, 10], tf.bool)}
    graph = tf.function(step).get_concrete_function(batch).graph
    expected = num_images * (523 * height * width / 1e6 + 3 * (0.0143 * 512 + PER_MASK * 128))
    np.testing.assert_allclose(count_flops(graph) / 2e9, expected, rtol=0.01)


@pytest.mark.parametrize(
    ("depth", "for_imagenet", "features"),
    [
        ("resnet18", 11_689_512, 512),
        ("resnet34", 21_797_672, 512),
        ("resnet50", 25_557_032, 2048),
        pytest.param("resnet101", 44_549_160, 2048, marks=pytest.mark.slow),
        pytest.param("resnet152", 60_192_808, 2048, marks=pytest.mark.slow),
    ],
)
def test_number_of_parameters_of_a_backbone(depth, for_imagenet, features):
    """Counts of the ImageNet classifiers, as torchvision lists them, without the last layer."""
    backbone = ResNet(depth=depth, width=64, norm=Norm("frozen_bn"), freeze_at=0, dtype=keras.DTypePolicy("float32"))
    count = sum(int(np.prod(v.shape)) for v in backbone.trainable_variables)
    assert count == for_imagenet - (features + 1) * 1000


def test_number_of_parameters(model):
    counts = {}
    for v in model.variables:
        kind = "statistics" if v.name.startswith("moving_") else "parameters"
        counts[kind] = counts.get(kind, 0) + int(np.prod(v.shape))
    backbone = 25_557_032 - (2048 + 1) * 1000  # of ResNet-50 for ImageNet, less its classifier
    pyramid = 256 * (256 + 512 + 1024 + 2048) + 4 * 256 + 4 * (9 * 256 * 256 + 256)
    rpn = 9 * 256 * 256 + 256 + (256 + 1) * 3 * (1 + 4)
    box_head = (49 * 256 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * 81 * (1 + 4)
    mask_head = 4 * (9 * 256 * 256 + 256) + (4 * 256 * 256 + 256) + (256 + 1) * 80
    assert counts == {"parameters": backbone + pyramid + rpn + box_head + mask_head, "statistics": 53_120}
    assert counts["parameters"] == 44_400_436
