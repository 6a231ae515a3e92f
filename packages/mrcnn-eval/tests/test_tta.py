"""Several views of an image, with a network that can be checked: it finds the bright L and draws what it sees."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from mrcnn_eval.inference import View, augmented_detect, views  # noqa: E402
from mrcnn_eval.inference.tta import PLAIN  # noqa: E402
from mrcnn_model import COMPILED_OPS, PORTABLE_OPS, MaskRCNN, ModelConfig, Proposals, build_model  # noqa: E402

SIZES = np.array([[64, 96], [48, 64]], np.int32)  # (h, w) in a bucket of 64 x 96
BOXES = np.array([[8, 16, 40, 48], [24, 8, 56, 40]], np.float32)  # (x1, y1, x2, y2)


def images_of_l():
    """Each image holds a bright L: the left half and the lower half of its box; multiples of 8 survive scaling."""
    images = np.zeros((2, 64, 96, 3), np.uint8)
    for image, (x1, y1, x2, y2) in zip(images, BOXES.astype(int), strict=True):
        image[y1:y2, x1 : (x1 + x2) // 2] = image[(y1 + y2) // 2 : y2, x1:x2] = 255
    return images


class Seer:
    """Its features are the pixels, its only proposal the bright area, its masks the pixels of the box."""

    def __init__(self, *, masks: bool = True, ops=COMPILED_OPS) -> None:
        self.ops = ops
        self.config = SimpleNamespace(
            score_threshold=0.05, detection_nms_threshold=0.5, detections_per_image=3, masks=masks
        )

    def features(self, images, image_sizes):
        return [tf.cast(images, tf.float32)]

    def rpn(self, pyramid):
        return None

    def proposals(self, rpn_output, pyramid, image_sizes, *, training):
        bright = tf.cast(pyramid[0][..., 0] > 127, tf.int32)  # [N, H, W]

        def span(line):
            first = tf.argmax(line, axis=1, output_type=tf.int32)
            last = line.shape[1] - tf.argmax(tf.reverse(line, [1]), axis=1, output_type=tf.int32)
            return tf.cast(first, tf.float32), tf.cast(last, tf.float32)

        (x1, x2), (y1, y2) = span(tf.reduce_max(bright, 1)), span(tf.reduce_max(bright, 2))
        boxes = tf.stack([x1, y1, x2, y2], axis=1)[:, None]  # [N, 1, 4]
        return Proposals(boxes, tf.ones_like(boxes[..., 0]), tf.ones_like(boxes[..., 0], tf.bool))

    def classified_boxes(self, pyramid, proposals, image_sizes):
        return proposals.scores[..., None] * 0.9, proposals.boxes[:, :, None]

    def mask_logits(self, pyramid, boxes, classes):
        num_images, num_boxes = boxes.shape[:2]
        height, width = pyramid[0].shape[1:3]
        x1, y1, x2, y2 = tf.unstack(tf.reshape(boxes, [-1, 4]), axis=1)
        # crop_and_resize samples from corner to corner, in pixel centres: half a cell inside the box on every side.
        half_y, half_x = (y2 - y1) / 56 - 0.5, (x2 - x1) / 56 - 0.5
        corners = tf.stack(
            [
                (y1 + half_y) / (height - 1),
                (x1 + half_x) / (width - 1),
                (y2 - 1 - half_y) / (height - 1),
                (x2 - 1 - half_x) / (width - 1),
            ],
            axis=1,
        )
        crops = tf.image.crop_and_resize(pyramid[0], corners, tf.repeat(tf.range(num_images), num_boxes), [28, 28])
        return tf.reshape(crops[..., 0] / 255 * 20 - 10, [num_images, num_boxes, 28, 28])


def test_views():
    assert views(flip=False) == (PLAIN,)
    assert views(flip=True) == (PLAIN, View(1.0, True))
    assert views(flip=True, scales=[1.0, 0.5]) == (PLAIN, View(1.0, True), View(0.5, False), View(0.5, True))


@pytest.mark.parametrize("scale", [0.0, -1.0, 0.2, 4.1, float("nan")])
def test_a_scale_that_makes_no_sense_is_refused(scale):
    with pytest.raises(ValueError, match=r"a scale must be between 0\.25 and 4, not "):
        views(flip=False, scales=[scale])


@pytest.mark.parametrize(
    "looks", [views(flip=True), views(flip=False, scales=[2.0]), views(flip=True, scales=[0.5, 2])]
)
@pytest.mark.parametrize("ops", [COMPILED_OPS, PORTABLE_OPS], ids=["compiled", "portable"])
def test_boxes_and_masks_of_all_views_meet_in_the_image(looks, ops):
    detections = augmented_detect(Seer(ops=ops), looks)(images_of_l(), SIZES).fetch()
    assert detections.valid.tolist() == [[True, False, False]] * 2  # one object, however often it is seen
    np.testing.assert_allclose(detections.boxes[:, 0], BOXES, atol=1e-4)
    np.testing.assert_allclose(detections.scores[:, 0], 0.9, atol=1e-6)
    drawn = np.zeros((28, 28), bool)
    drawn[:, :14] = drawn[14:, :] = True
    for mask in detections.masks[:, 0]:
        assert ((mask > 0.5) == drawn).mean() > 0.97  # mirrored wrongly it would be 0.5 in two quarters
    assert not detections.masks[:, 1:].any()


def test_without_masks():
    detections = augmented_detect(Seer(masks=False), views(flip=True))(images_of_l(), SIZES).fetch()
    assert detections.masks.shape == (2, 3, 0, 0)
    np.testing.assert_allclose(detections.boxes[:, 0], BOXES, atol=1e-4)


@pytest.fixture(scope="module")
def tiny_model() -> MaskRCNN:
    import keras

    keras.utils.set_random_seed(0)
    config = ModelConfig(
        num_classes=3,
        backbone="resnet18",
        norm="gn",
        gn_groups=4,
        backbone_width=8,
        freeze_at=0,
        fpn_channels=16,
        rpn_channels=16,
        detect_proposals=30,
        box_head_channels=32,
        mask_head_convs=1,
        mask_head_channels=16,
        score_threshold=0.0,
        detections_per_image=10,
    )
    return build_model(config)


def test_plain_view_is_the_models_own_answer_and_flips_are_symmetric(tiny_model):
    sizes = tf.constant([[64, 96], [64, 96]], tf.int32)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    images = tf.constant(pixels)
    plain = augmented_detect(tiny_model, [PLAIN])(images, sizes).fetch()
    for mine, own in zip(plain, tiny_model.detect(images, sizes), strict=True):
        np.testing.assert_allclose(mine, own.numpy(), atol=1e-4)
    detect = augmented_detect(tiny_model, views(flip=True))
    found, mirrored = detect(images, sizes).fetch(), detect(pixels[:, :, ::-1].copy(), sizes).fetch()
    np.testing.assert_allclose(found.scores, mirrored.scores, atol=1e-5)
    x1, y1, x2, y2 = np.moveaxis(mirrored.boxes, -1, 0)
    np.testing.assert_allclose(found.boxes, np.stack([96 - x2, y1, 96 - x1, y2], -1), atol=1e-2)
    np.testing.assert_allclose(found.masks, mirrored.masks[..., ::-1], atol=1e-3)
