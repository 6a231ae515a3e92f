"""Comparison with torchvision's maskrcnn_resnet50_fpn: the same random weights and conventions, two photographs.

torch runs in another process, in this environment or that of MRCNN_TORCH_PYTHON, because torch and TensorFlow cannot be
loaded into one process.
"""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_model import ModelConfig, build_model, fill_model
from mrcnn_model.weights import LAYOUTS, export_weights

TORCHVISION = LAYOUTS["torchvision"]

PYTHON = os.environ.get("MRCNN_TORCH_PYTHON", sys.executable)
SIZES = [(240, 320), (256, 192)]  # (h, w) padded to 256 x 320

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "MRCNN_TORCH_PYTHON" not in os.environ and importlib.util.find_spec("torchvision") is None,
        reason="torchvision is not installed here, and MRCNN_TORCH_PYTHON names no Python that has it",
    ),
]

# A fresh network says the same of everything. So its statistics are made uneven, and every prediction spread to a
# standard deviation that moves boxes and tells classes apart.
THEIRS = """
import sys
import numpy as np, torch
from torchvision.models.detection import maskrcnn_resnet50_fpn

given = np.load(sys.argv[1])
torch.manual_seed(0)
model = maskrcnn_resnet50_fpn(
    weights=None, weights_backbone=None, num_classes=5, rpn_pre_nms_top_n_test=1000, rpn_post_nms_top_n_test=300,
    box_detections_per_img=30,
).eval()
for name, module in model.named_modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        torch.nn.init.uniform_(module.weight, *((0.1, 0.3) if name.endswith("bn3") else (0.5, 1.5)))
        torch.nn.init.normal_(module.bias, std=0.1)
        torch.nn.init.normal_(module.running_mean, std=0.1)
        torch.nn.init.uniform_(module.running_var, 0.5, 1.5)

def spread(layer, inputs, std):
    layer.weight *= std / layer(inputs).std()

with torch.no_grad():
    photos = [torch.from_numpy(given[name]).permute(2, 0, 1) / 255 for name in ("photo0", "photo1")]
    tensors = model.transform.batch_images([model.transform.normalize(p) for p in photos], size_divisible=32)
    from torchvision.models.detection.image_list import ImageList
    images = ImageList(tensors, [tuple(p.shape[1:]) for p in photos])
    features = model.backbone(images.tensors)
    rpn = model.rpn.head
    hidden = rpn.conv(features["0"])
    spread(rpn.cls_logits, hidden, 1.0)
    spread(rpn.bbox_pred, hidden, 0.3)
    proposals, _ = model.rpn(images, features)
    heads = model.roi_heads
    hidden = heads.box_head(heads.box_roi_pool(features, proposals, images.image_sizes))
    spread(heads.box_predictor.cls_score, hidden, 2.0)
    spread(heads.box_predictor.bbox_pred, hidden, 1.0)
    hidden = heads.mask_head(heads.mask_roi_pool(features, [p[:20] for p in proposals], images.image_sizes))
    hidden = heads.mask_predictor.relu(heads.mask_predictor.conv5_mask(hidden))
    spread(heads.mask_predictor.mask_fcn_logits, hidden, 2.0)
    detections, _ = heads(features, proposals, images.image_sizes)
values = {f"p{level}": features[key].permute(0, 2, 3, 1) for level, key in zip(range(2, 7), [*"0123", "pool"])}
for index, found in enumerate(detections):
    values |= {f"{name}{index}": value for name, value in found.items()}
values |= {f"weights/{name}": value for name, value in model.state_dict().items()}
np.savez(sys.argv[2], **{name: value.numpy() for name, value in values.items()})
"""


@pytest.fixture(scope="module")
def photos(shared_data):
    paths = sorted((shared_data / "coco_open" / "val").glob("*.jpg"))[:2]
    images = [tf.io.decode_jpeg(path.read_bytes(), channels=3) for path in paths]
    pixels = [tf.image.resize(image, size) for image, size in zip(images, SIZES, strict=True)]
    return [tf.cast(tf.round(p), tf.uint8).numpy() for p in pixels]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, photos):
    folder = tmp_path_factory.mktemp("torchvision")
    np.savez(folder / "given.npz", photo0=photos[0], photo1=photos[1])
    command = [PYTHON, "-c", THEIRS, folder / "given.npz", folder / "values.npz"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return dict(np.load(folder / "values.npz"))


@pytest.fixture(scope="module")
def weights(theirs):
    return {name.removeprefix("weights/"): array for name, array in theirs.items() if name.startswith("weights/")}


@pytest.fixture(scope="module")
def model(weights):
    config = ModelConfig(
        num_classes=5,
        detect_proposals=300,
        detections_per_image=30,
        **TORCHVISION.conventions({}),
    )
    model = build_model(config)
    report = fill_model(model, weights)
    assert [name for name in report.unused if not name.endswith("num_batches_tracked")] == []
    assert report.unfilled == []
    return model


@pytest.fixture(scope="module")
def inputs(photos):
    images = np.zeros([2, 256, 320, 3], np.uint8)
    for image, photo in zip(images, photos, strict=True):
        image[: photo.shape[0], : photo.shape[1]] = photo
    return tf.constant(images), tf.constant(SIZES, tf.int32)


def test_export_gives_the_same_state_dict(model, weights):
    exported = export_weights(model, TORCHVISION)
    assert exported.keys() == {name for name in weights if not name.endswith("num_batches_tracked")}
    for name, array in exported.items():
        first = 1 if "mask_fcn_logits" in name else 0  # the channel of the background is not ours to keep
        np.testing.assert_array_equal(array[first:], weights[name][first:], err_msg=name)


def test_features(model, inputs, theirs):
    for level, features in enumerate(model.features(*inputs), start=2):
        expected = theirs[f"p{level}"]
        assert np.abs(features - expected).max() < 1e-4 * np.abs(expected).max()


def test_detections(model, inputs, theirs):
    found = model.detect(*inputs)
    for index in range(2):
        valid = found.valid[index].numpy()
        boxes, scores, classes, masks = (getattr(found, n)[index].numpy()[valid] for n in found._fields[:4])
        expected = theirs[f"boxes{index}"]
        assert len(boxes) == len(expected) == 30
        # Scores that are equal to 1e-3 may swap neighbours: pair each detection with the nearest of its class.
        gaps = np.abs(boxes[:, np.newaxis] - expected).max(axis=-1)
        gaps = np.where(classes[:, np.newaxis] == theirs[f"labels{index}"], gaps, np.inf)
        pair = gaps.argmin(axis=1)
        assert sorted(pair) == list(range(30))
        assert gaps.min(axis=1).max() < 0.05
        np.testing.assert_allclose(scores, theirs[f"scores{index}"][pair], atol=1e-3)
        np.testing.assert_allclose(masks, theirs[f"masks{index}"][pair, 0], atol=1e-2)
