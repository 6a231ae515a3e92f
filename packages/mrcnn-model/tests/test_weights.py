"""Weights of other projects: names, layouts, what does not fit, and the command."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file

import mrcnn_model.weights.conversion
from mrcnn_model import (
    CheckpointError,
    ModelCard,
    ModelConfig,
    fill_model,
    load_model,
    load_weights,
    save_model,
    variable_key,
)
from mrcnn_model.config import BACKBONES
from mrcnn_model.convert import main
from mrcnn_model.weights import LAYOUTS, export_weights, write_arrays
from mrcnn_model.weights.conversion import options_of
from mrcnn_model.weights.layout import to_keys

NAMES = {
    "tensorpack": {
        "conv0/W": "backbone.stem.kernel",
        "conv0/bn/mean/EMA:0": "backbone.stem.moving_mean",
        "group3/block2/conv3/bn/variance/EMA": "backbone.stage4.block2.conv3.moving_variance",
        "group0/block0/convshortcut/gn/gamma": "backbone.stage1.block0.shortcut.gamma",
        "fpn/lateral_1x1_c2/b": "fpn.lateral2.bias",
        "fpn/gn_p5/beta": "fpn.output5.beta",
        "rpn/box/W": "rpn.deltas.kernel",
        "fastrcnn/fc7/b": "box_head.fc2.bias",
        "fastrcnn/conv3/W": "box_head.conv3.kernel",
        "fastrcnn/gn3/gamma": "box_head.conv3.gamma",
        "fastrcnn/fc/W": "box_head.fc1.kernel",
        "cascade_rcnn_stage3/head/fc6/W": "box_head3.fc1.kernel",
        "cascade_rcnn_stage1/outputs/box/b": "box_head1.deltas.bias",
        "maskrcnn/fcn0/W": "mask_head.conv0.kernel",
        "maskrcnn/gn3/beta": "mask_head.conv3.beta",
        "maskrcnn/deconv/W": "mask_head.upsample.kernel",
        "maskrcnn/conv/b": "mask_head.logits.bias",
        "linear/W": None,
        "learning_rate": None,
    },
    "torchvision": {
        "conv1.weight": "backbone.stem.kernel",  # a ResNet alone
        "layer4.2.bn3.running_var": "backbone.stage4.block2.conv3.moving_variance",
        "layer2.0.downsample.1.bias": "backbone.stage2.block0.shortcut.beta",
        "backbone.body.layer1.0.downsample.0.weight": "backbone.stage1.block0.shortcut.kernel",
        "backbone.fpn.inner_blocks.0.0.bias": "fpn.lateral2.bias",
        "backbone.fpn.layer_blocks.3.weight": "fpn.output5.kernel",  # before 0.15
        "rpn.head.conv.0.0.weight": "rpn.conv.kernel",
        "rpn.head.conv.bias": "rpn.conv.bias",  # before 0.15
        "rpn.head.bbox_pred.bias": "rpn.deltas.bias",
        "roi_heads.box_head.fc6.weight": "box_head.fc1.kernel",
        "roi_heads.box_predictor.cls_score.weight": "box_head.logits.kernel",
        "roi_heads.mask_head.3.0.weight": "mask_head.conv3.kernel",
        "roi_heads.mask_head.mask_fcn4.weight": "mask_head.conv3.kernel",  # before 0.15
        "roi_heads.mask_predictor.conv5_mask.bias": "mask_head.upsample.bias",
        "roi_heads.mask_predictor.mask_fcn_logits.weight": "mask_head.logits.kernel",
        "fc.weight": None,
        "bn1.num_batches_tracked": None,
    },
    "detectron2": {
        "backbone.bottom_up.stem.conv1.weight": "backbone.stem.kernel",
        "backbone.bottom_up.stem.conv1.norm.running_mean": "backbone.stem.moving_mean",
        "backbone.bottom_up.res2.0.shortcut.norm.weight": "backbone.stage1.block0.shortcut.gamma",
        "backbone.bottom_up.res5.2.conv3.weight": "backbone.stage4.block2.conv3.kernel",
        "backbone.fpn_lateral2.bias": "fpn.lateral2.bias",
        "backbone.fpn_output5.norm.weight": "fpn.output5.gamma",
        "proposal_generator.rpn_head.objectness_logits.weight": "rpn.logits.kernel",
        "proposal_generator.rpn_head.anchor_deltas.bias": "rpn.deltas.bias",
        "roi_heads.box_head.fc2.weight": "box_head.fc2.kernel",
        "roi_heads.box_head.conv1.norm.bias": "box_head.conv0.beta",
        "roi_heads.box_head.2.fc1.bias": "box_head3.fc1.bias",
        "roi_heads.box_predictor.0.bbox_pred.weight": "box_head1.deltas.kernel",
        "roi_heads.box_predictor.cls_score.bias": "box_head.logits.bias",
        "roi_heads.mask_head.mask_fcn1.weight": "mask_head.conv0.kernel",
        "roi_heads.mask_head.deconv.weight": "mask_head.upsample.kernel",
        "roi_heads.mask_head.predictor.bias": "mask_head.logits.bias",
        "proposal_generator.anchor_generator.cell_anchors.0": None,
        "pixel_mean": None,
    },
}


@pytest.mark.parametrize("project", NAMES)
def test_names(project):
    known = {name: key for name, key in NAMES[project].items() if key is not None}
    assert to_keys(list(NAMES[project]), LAYOUTS[project]) == known


def randomised(model, seed=0):
    rng = np.random.default_rng(seed)
    for v in model.variables:
        v.assign(rng.standard_normal(v.shape))
    return model


def assert_same_variables(model, expected, *, but=()):
    for a, b in zip(model.variables, expected.variables, strict=True):
        if variable_key(a) not in but:
            np.testing.assert_array_equal(a, b, err_msg=variable_key(a))


GN_HEADS = {"box_head_convs": 2, "box_head_fcs": 1, "head_norm": "gn", "fpn_norm": "gn", "gn_after_relu": True}


@pytest.mark.parametrize(
    ("project", "changes"),
    [
        ("tensorpack", {"norm": "frozen_bn"}),
        ("tensorpack", {"norm": "gn", **GN_HEADS}),
        ("tensorpack", {"norm": "frozen_bn", "backbone": "resnet50", "cascade": True}),
        ("tensorpack", {"cascade": True, **GN_HEADS}),
        ("tensorpack", {"masks": False, "class_agnostic_boxes": True}),
        ("torchvision", {"norm": "frozen_bn"}),
        ("torchvision", {"norm": "frozen_bn", "backbone": "resnet50", "masks": False}),
    ],
)
def test_export_and_import_lose_nothing(make_tiny_model, project, changes):
    model = randomised(make_tiny_model(**changes))
    arrays = export_weights(model, LAYOUTS[project])
    assert len(arrays) == len(model.variables)
    other = make_tiny_model(seed=1, **changes)
    assert fill_model(other, arrays)[:3] == ([], [], [])
    assert_same_variables(other, model)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_files_hold_what_was_exported(tmp_path, make_tiny_model, suffix):
    model, other = randomised(make_tiny_model()), make_tiny_model(seed=1)
    write_arrays(tmp_path / f"weights.{suffix}", export_weights(model, LAYOUTS["tensorpack"]))
    assert load_weights(other, tmp_path / f"weights.{suffix}")[:3] == ([], [], [])
    assert_same_variables(other, model)


def test_exported_names_are_those_of_the_same_tensorpack_network(make_tiny_model):
    names = export_weights(make_tiny_model(cascade=True, **GN_HEADS), LAYOUTS["tensorpack"]).keys()
    assert {"conv0/gn/gamma", "group1/block0/conv1/gn/beta", "fpn/gn_c2/gamma", "maskrcnn/gn0/gamma"} <= names
    assert {"cascade_rcnn_stage2/head/fc/W", "cascade_rcnn_stage2/head/gn1/beta"} <= names
    assert not [name for name in names if "/bn/" in name or "fc6" in name]


def test_export_names_what_the_other_project_lacks(make_tiny_model):
    with pytest.raises(CheckpointError, match=r"torchvision has no name for box_head1\.fc1\.kernel"):
        export_weights(make_tiny_model(cascade=True), LAYOUTS["torchvision"])


@pytest.mark.parametrize(
    ("project", "depth"), list(zip(["tensorpack", "torchvision"] * len(BACKBONES), BACKBONES, strict=False))
)
def test_a_file_says_how_deep_its_backbone_is(make_tiny_model, project, depth):
    model = make_tiny_model(backbone=depth, backbone_width=4, norm="frozen_bn")
    arrays = export_weights(model, LAYOUTS[project])
    config = ModelConfig(**options_of(arrays, LAYOUTS[project], source="file"))
    names = ("backbone", "backbone_width", "num_classes", "fpn_channels", "rpn_channels", "box_head_channels", "masks")
    assert [getattr(config, name) for name in names] == [getattr(model.config, name) for name in names]


# Layouts, by hand


def test_tensorpack_backbone_file_turns_bgr_and_lists_the_rest(tmp_path, make_tiny_model):
    model = make_tiny_model(norm="frozen_bn")
    stem = np.arange(7 * 7 * 3 * 8, dtype=np.float32).reshape(7, 7, 3, 8)
    path = tmp_path / "backbone.npz"
    np.savez(path, **{"conv0/W": stem, "conv0/bn/mean/EMA": np.full(8, 2.0, np.float32), "linear/W": np.zeros([2, 2])})
    report = load_weights(model, path, allow_missing=True)
    np.testing.assert_array_equal(model.backbone.stem.kernel, stem[:, :, ::-1])
    assert float(model.backbone.stem.moving_mean[0]) == 2.0
    assert report.unused == ["linear/W"]
    assert "backbone.stem.kernel" not in report.unfilled
    assert "backbone.stem.gamma" in report.unfilled


def test_tensorpack_fully_connected_rows_are_reordered(make_tiny_model):
    model = make_tiny_model()
    rows = np.arange(16 * 49, dtype=np.float32).reshape(16, 7, 7)  # (channel, y, x)
    fill_model(model, {"fastrcnn/fc6/W": np.tile(rows.reshape(-1, 1), [1, 32])}, allow_missing=True)
    kernel = model.box_stages[0].head.fcs[0].kernel.numpy()[:, 0]
    np.testing.assert_array_equal(kernel.reshape(7, 7, 16), rows.transpose(1, 2, 0))


def test_pytorch_layouts(make_tiny_model):
    model = make_tiny_model()
    rng = np.random.default_rng(0)
    conv, dense, transposed = rng.random([16, 16, 3, 3]), rng.random([32, 16 * 49]), rng.random([16, 16, 2, 2])
    fill_model(
        model,
        {
            "rpn.head.conv.0.0.weight": conv,
            "roi_heads.box_head.fc6.weight": dense,
            "roi_heads.mask_predictor.conv5_mask.weight": transposed,
        },
        allow_missing=True,
    )
    assert model.rpn.conv.kernel.numpy()[0, 2, 5, 7] == np.float32(conv[7, 5, 0, 2])
    # Row (y, x, channel) = (3, 4, 5) is column (channel, y, x) of torch's.
    assert model.box_stages[0].head.fcs[0].kernel.numpy()[(3 * 7 + 4) * 16 + 5, 6] == np.float32(
        dense[6, (5 * 7 + 3) * 7 + 4]
    )
    assert model.mask_head.upsample.kernel.numpy()[0, 1, 5, 7] == np.float32(transposed[5, 7, 0, 1])


def test_torchvision_masks_lose_the_background(make_tiny_model):
    model = make_tiny_model(norm="frozen_bn")
    kernel = np.arange(4 * 16, dtype=np.float32).reshape(4, 16, 1, 1)
    fill_model(model, {"roi_heads.mask_predictor.mask_fcn_logits.weight": kernel}, allow_missing=True)
    np.testing.assert_array_equal(model.mask_head.logits.kernel.numpy()[0, 0], kernel[1:, :, 0, 0].T)
    exported = export_weights(model, LAYOUTS["torchvision"])["roi_heads.mask_predictor.mask_fcn_logits.weight"]
    np.testing.assert_array_equal(exported[1:], kernel[1:])
    assert not exported[0].any()


def test_detectron2_has_the_background_last_and_bgr(make_tiny_model):
    model = make_tiny_model(norm="frozen_bn")
    rng = np.random.default_rng(0)
    stem, scores, boxes = rng.random([8, 3, 7, 7]), rng.random([4, 32]), rng.random([3 * 4, 32])
    fill_model(
        model,
        {
            "backbone.bottom_up.stem.conv1.weight": stem,
            "roi_heads.box_predictor.cls_score.weight": scores,
            "roi_heads.box_predictor.bbox_pred.weight": boxes,
        },
        allow_missing=True,
    )
    head = model.box_stages[0].head
    np.testing.assert_array_equal(model.backbone.stem.kernel[:, :, 0], stem[:, 2].transpose(1, 2, 0).astype(np.float32))
    np.testing.assert_array_equal(head.logits.kernel[:, 0], scores[3].astype(np.float32))
    np.testing.assert_array_equal(head.logits.kernel[:, 1], scores[0].astype(np.float32))
    np.testing.assert_array_equal(head.deltas.kernel[:, :4], np.zeros([32, 4]))
    np.testing.assert_array_equal(head.deltas.kernel[:, 4:], boxes.T.astype(np.float32))


# What does not fit


def test_another_number_of_classes_is_an_error_or_a_fresh_head(make_tiny_model):
    arrays = export_weights(randomised(make_tiny_model(num_classes=6)), LAYOUTS["tensorpack"])
    model, start = make_tiny_model(), make_tiny_model()
    with pytest.raises(
        CheckpointError,
        match=r"box/b, read as box_head\.deltas\.bias, is for 5 classes, the model has 3.*new_cl",
    ):
        fill_model(make_tiny_model(), arrays)
    report = fill_model(model, arrays, new_classes=True)
    fresh = [
        f"{layer}.{leaf}"
        for layer in ("box_head.deltas", "box_head.logits", "mask_head.logits")
        for leaf in ("bias", "kernel")
    ]
    assert report.reinitialised == report.unfilled == fresh
    assert len(report.unused) == 6
    values = {variable_key(v): v.numpy() for v in model.variables}
    for v in start.variables:
        assert (variable_key(v) in fresh) == np.array_equal(values[variable_key(v)], v)


@pytest.mark.parametrize("changes", [{}, {"cascade": True}, {"class_agnostic_boxes": True}, {"masks": False}])
def test_as_many_new_classes_start_fresh_too(tmp_path, make_tiny_model, changes):
    model, start = make_tiny_model(**changes), make_tiny_model(**changes)
    save_model(
        tmp_path, randomised(make_tiny_model(seed=1, **changes)), ModelCard(["a", "b", "c"], [1, 2, 3], 64, 64, [])
    )
    report = load_weights(model, tmp_path, new_classes=True)
    heads = {key.rpartition(".")[0] for key in report.reinitialised}
    scores = {f"box_head{number}.logits" for number in (1, 2, 3)} if "cascade" in changes else {"box_head.logits"}
    boxes = set() if {"cascade", "class_agnostic_boxes"} & changes.keys() else {"box_head.deltas"}
    assert heads == scores | boxes | (set() if "masks" in changes else {"mask_head.logits"})
    values = {variable_key(v): v.numpy() for v in model.variables}
    for v in start.variables:
        assert (variable_key(v) in report.reinitialised) == np.array_equal(values[variable_key(v)], v)


def test_arrays_are_stored_under_their_own_names_only(tmp_path, monkeypatch):
    """NumPy before 2.2 stores every keyword argument of savez as an array."""
    stored = {}
    monkeypatch.setattr(np, "savez", lambda _, **arrays: stored.update(arrays))
    write_arrays(tmp_path / "weights.npz", {"a": np.zeros(2), "b": np.zeros(3)})
    assert stored.keys() == {"a", "b"}


def test_new_classes_excuse_no_other_shape(make_tiny_model):
    arrays = export_weights(make_tiny_model(box_head_channels=16, num_classes=6), LAYOUTS["tensorpack"])
    with pytest.raises(CheckpointError, match=r"fastrcnn/outputs/box/W, read as box_head\.deltas\.kernel, has shape"):
        fill_model(make_tiny_model(), arrays, new_classes=True)


@pytest.mark.parametrize(("norm", "other"), [("gn", "frozen_bn"), ("sync_bn", "gn")])
def test_another_kind_of_norm_is_an_error(make_tiny_model, norm, other):
    arrays = export_weights(make_tiny_model(norm=norm), LAYOUTS["tensorpack"])
    with pytest.raises(CheckpointError, match=r"norm after backbone\.stem; the model has another norm there"):
        fill_model(make_tiny_model(norm=other), arrays)


def test_frozen_and_synchronised_batch_norm_share_weights(make_tiny_model):
    model = randomised(make_tiny_model(norm="sync_bn"))
    other = make_tiny_model(norm="frozen_bn")
    assert fill_model(other, export_weights(model, LAYOUTS["tensorpack"]))[:3] == ([], [], [])
    assert_same_variables(other, model)


def test_foreign_files_are_refused(tmp_path, make_tiny_model):
    model = make_tiny_model()
    np.savez(tmp_path / "other.npz", something=np.zeros(3))
    with pytest.raises(
        CheckpointError, match="holds no variable of a ResNet-FPN model under the names of Tensorpack, torch"
    ):
        load_weights(model, tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(model, tmp_path / "text.npz")
    good = tmp_path / "good.npz"
    np.savez_compressed(good, **{"conv0/W": np.random.default_rng(0).random([7, 7, 3, 8], np.float32)})
    for name, content in {"empty": b"", "short": good.read_bytes()[:500], "damaged": _damaged(good)}.items():
        (tmp_path / f"{name}.npz").write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name}.npz cannot be read"):
            load_weights(model, tmp_path / f"{name}.npz")
    with (tmp_path / "single.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(CheckpointError, match=r"expected named arrays"):
        load_weights(model, tmp_path / "single.npz")
    with pytest.raises(CheckpointError, match=r"conv0/W, read as backbone\.stem\.kernel, has shape \(3,\), which"):
        fill_model(model, {"conv0/W": np.zeros(3)}, allow_missing=True)
    with pytest.raises(CheckpointError, match="do not exist"):
        load_weights(model, tmp_path / "missing.npz")


def _damaged(path):
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    return bytes(content)


# The command


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    return code, capsys.readouterr()


def test_a_detector_becomes_a_checkpoint_and_a_file_again(tmp_path, capsys, make_tiny_model, make_batch):
    changes = {"norm": "frozen_bn", "freeze_at": 2, "cascade": True, "num_classes": 5}
    model = randomised(make_tiny_model(**changes))
    for v in model.variables:
        v.assign(v * (0.02 if v.name == "kernel" else 1) if v.name != "moving_variance" else tf.abs(v) + 1)
    arrays = export_weights(model, LAYOUTS["tensorpack"])
    source = tmp_path / "detector.npz"
    write_arrays(source, arrays | {"global_step": np.zeros([])})
    annotations = tmp_path / "instances.json"
    categories = [{"id": i, "name": name} for i, name in ((9, "fig"), (2, "nut"), (5, "date"), (7, "pea"))]
    annotations.write_text(json.dumps({"categories": categories}))
    names = ("anchor_sizes", "canonical_size", "score_threshold", "detections_per_image", "detect_proposals")
    fields = [f"--set={name}={getattr(model.config, name)}" for name in names]
    fields += ["--set=keep_empty_proposals=false", "--set=keep_padding_anchors=false"]

    code, output = run(
        capsys, source, tmp_path / "checkpoint", "--from", "tensorpack", "--annotations", annotations, *fields
    )
    assert code == 0, output.err
    assert re.search(r"^(\d+) of \1 variables filled", output.out)
    assert "1 in the file, not used:\n  global_step\n" in output.out
    loaded, card = load_model(tmp_path / "checkpoint", precision="float32")
    assert (card.category_ids, card.class_names) == ([2, 5, 7, 9], ["nut", "date", "pea", "fig"])
    assert card.buckets == [[800, 1344], [1344, 800]]
    assert_same_variables(loaded, model)
    batch = make_batch()
    inputs = tf.constant(batch["images"]), tf.constant(batch["image_sizes"])
    np.testing.assert_array_equal(loaded.detect(*inputs).boxes, model.detect(*inputs).boxes)

    code, output = run(capsys, tmp_path / "checkpoint", tmp_path / "again.safetensors", "--to", "tensorpack")
    assert code == 0, output.err
    other = make_tiny_model(seed=3, **changes)
    report = load_weights(other, tmp_path / "again.safetensors")
    assert report[:3] == ([], [], [])
    assert report.unlike == [
        f"keep_{what} is False, in networks of Tensorpack True" for what in ("empty_proposals", "padding_anchors")
    ]
    assert_same_variables(other, model)


def test_a_torchvision_resnet_becomes_a_checkpoint_with_fresh_heads(tmp_path, capsys, make_tiny_model):
    arrays = export_weights(randomised(make_tiny_model(norm="frozen_bn")), LAYOUTS["torchvision"])
    backbone = {k.removeprefix("backbone.body."): a for k, a in arrays.items() if k.startswith("backbone.body.")}
    backbone["bn1.num_batches_tracked"] = np.zeros([], np.int64)
    save_file(backbone, tmp_path / "resnet18.safetensors")
    code, output = run(
        capsys, tmp_path / "resnet18.safetensors", tmp_path / "out", "--from=torchvision", "--num-classes=4",
        "--set=fpn_channels=16", "--set=box_head_channels=8",
    )  # fmt: skip
    assert code == 0, output.err
    model, card = load_model(tmp_path / "out")
    assert (model.config.backbone, model.config.backbone_width, model.config.norm) == ("resnet18", 8, "frozen_bn")
    assert model.config.symmetric_padding
    assert model.config.round_anchors
    assert not model.config.roi_align_aligned
    assert model.config.keep_padding_anchors
    assert card.category_ids == [1, 2, 3]
    assert "  mask_head.logits.kernel\n" in output.out
    assert "1 in the file, not used:\n  bn1.num_batches_tracked\n" in output.out


CATEGORIES = {7: "pea", 2: "nut", 5: "date"}  # rows 1, 3, 4, 6 and 8 have no category


@pytest.fixture
def by_row(tmp_path, make_tiny_model):
    """A torchvision detector with a row for each of eight category ids: (its file, annotations, its arrays)."""
    model = randomised(make_tiny_model(num_classes=9, norm="frozen_bn"))
    arrays = export_weights(model, LAYOUTS["torchvision"])
    save_file(arrays, tmp_path / "by_row.safetensors")
    annotations = tmp_path / "instances.json"
    annotations.write_text(json.dumps({"categories": [{"id": i, "name": name} for i, name in CATEGORIES.items()]}))
    return tmp_path / "by_row.safetensors", annotations, arrays


def test_rows_of_category_ids_become_classes_and_rows_again(tmp_path, capsys, by_row):
    source, annotations, arrays = by_row
    options = ("--from=torchvision", "--annotations", annotations, "--by-category-id", "--set=gn_groups=4")
    code, output = run(capsys, source, tmp_path / "out", *options)
    assert code == 0, output.err
    assert re.search(r"^(\d+) of \1 variables filled", output.out)
    assert "5 rows of classes in the file, not used:\n  1\n  3\n  4\n  6\n  8\n" in output.out
    model, card = load_model(tmp_path / "out")
    assert (card.category_ids, card.class_names) == ([2, 5, 7], ["nut", "date", "pea"])
    predictor = "roi_heads.box_predictor"
    head = model.box_stages[0].head
    np.testing.assert_array_equal(head.logits.bias, arrays[f"{predictor}.cls_score.bias"][[0, 2, 5, 7]])
    np.testing.assert_array_equal(head.deltas.bias[8:12], arrays[f"{predictor}.bbox_pred.bias"][20:24])
    mask_kernel = arrays["roi_heads.mask_predictor.mask_fcn_logits.weight"]
    np.testing.assert_array_equal(model.mask_head.logits.kernel[0, 0, :, 2], mask_kernel[7, :, 0, 0])

    code, output = run(capsys, tmp_path / "out", tmp_path / "again.npz", "--to=torchvision", "--by-category-id")
    assert code == 0, output.err
    assert "4 rows without a class, never found:\n  1\n  3\n  4\n  6\n" in output.out
    again = np.load(tmp_path / "again.npz")
    assert again.keys() == arrays.keys()
    for name in arrays:
        size = {"cls_score": 1, "bbox_pred": 4, "mask_fcn_logits": 1}.get(name.split(".")[-2])
        if size is None or ".rpn" in f".{name}":
            np.testing.assert_array_equal(again[name], arrays[name], err_msg=name)
            continue
        got, expected = (a.reshape(-1, size, *a.shape[1:]) for a in (again[name], arrays[name]))
        assert len(got) == 8  # up to the last category's row
        kept = [2, 5, 7] if "mask" in name else [0, 2, 5, 7]
        np.testing.assert_array_equal(got[kept], expected[kept], err_msg=name)
        fill = -1e4 if name == f"{predictor}.cls_score.bias" else 0
        np.testing.assert_array_equal(np.delete(got, kept, axis=0), fill, err_msg=name)


@pytest.mark.parametrize("changes", [{"cascade": True}, {"class_agnostic_boxes": True, "masks": False}])
def test_rows_of_category_ids_of_other_heads(make_tiny_model, changes):
    model, other = randomised(make_tiny_model(**changes)), make_tiny_model(seed=1, **changes)
    arrays = export_weights(model, LAYOUTS["tensorpack"], category_ids=[2, 5, 7])
    report = fill_model(other, arrays, category_ids=[2, 5, 7])
    assert report[:3] == ([], [], [])
    assert report.unused_rows == [1, 3, 4, 6]
    assert_same_variables(other, model)


def test_coco_has_eighty_of_torchvisions_ninety_rows(shared_data, capsys, tmp_path, make_tiny_model):
    model = randomised(make_tiny_model(num_classes=91, norm="frozen_bn"))
    write_arrays(tmp_path / "coco.npz", export_weights(model, LAYOUTS["torchvision"]))
    annotations = shared_data / "eval_cocoapi_val2014_100" / "annotations" / "instances_val2014_100.json"
    code, output = run(
        capsys, tmp_path / "coco.npz", tmp_path / "out", "--from=torchvision", "--annotations", annotations,
        "--by-category-id", "--set=norm_epsilon=0",
    )  # fmt: skip
    assert code == 0, output.err
    loaded, card = load_model(tmp_path / "out")
    assert loaded.config.norm_epsilon == 0
    assert len(card.category_ids) == 80
    assert (card.category_ids[11], card.class_names[11]) == (13, "stop sign")
    np.testing.assert_array_equal(loaded.box_stages[0].head.logits.bias[12], model.box_stages[0].head.logits.bias[13])
    unused = "".join(f"  {row}\n" for row in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
    assert f"10 rows of classes in the file, not used:\n{unused}" in output.out


def test_what_category_ids_cannot_be(tmp_path, capsys, by_row, make_tiny_model):
    source, annotations, _ = by_row
    common = (source, tmp_path / "out", "--from=torchvision", "--annotations", annotations)
    backbone = tmp_path / "backbone.npz"
    np.savez(backbone, **{"conv1.weight": np.zeros([8, 3, 7, 7])})
    (tmp_path / "far.json").write_text('{"categories": [{"id": 9, "name": "far"}]}')
    (tmp_path / "other.json").write_text("[]")
    zero = tmp_path / "zero"
    save_model(zero, make_tiny_model(norm="frozen_bn"), ModelCard(["a", "b", "c"], [0, 1, 2], 64, 64, [[64, 64]]))
    for arguments, message in (
        (common, "has 3 classes; the weights are for 8; --by-category-id keeps the rows of these ids"),
        ((*common, "--by-category-id", "--num-classes=4"), "--by-category-id needs --annotations, which has the ids"),
        ((source, "out", "--from=torchvision", "--by-category-id"), "--by-category-id needs --annotations"),
        ((backbone, *common[1:], "--by-category-id"), "backbone.npz holds no layer over classes"),
        (
            (*common[:-1], tmp_path / "far.json", "--by-category-id"),
            "by_row.safetensors has rows 1 to 8 for classes: none for category id 9",
        ),
        ((*common[:-1], tmp_path / "other.json"), "other.json has no COCO categories, each with"),
        ((*common[:-1], source), "is not a JSON file: UnicodeDecodeError"),
        ((zero, tmp_path / "out.npz", "--to=torchvision", "--by-category-id"), "not different numbers from 1: [0, 1,"),
    ):
        code, output = run(capsys, *arguments)
        assert (code, output.out) == (1, "")
        assert output.err.startswith("error: ")
        assert message in output.err
        assert len(output.err) < 500  # not the bytes of a file


def test_detectron2_zoo_has_coco_in_the_order_of_ids(shared_data, capsys, tmp_path):
    """80 scores, then the background: our class c is the c-th id of the annotations."""
    scores, boxes, masks = (np.arange(n, dtype=np.float32) for n in (81, 320, 80))
    arrays = {
        "roi_heads.box_predictor.cls_score.bias": scores,
        "roi_heads.box_predictor.cls_score.weight": np.tile(scores[:, None], (1, 4)),
        "roi_heads.box_predictor.bbox_pred.bias": boxes,
        "roi_heads.box_predictor.bbox_pred.weight": np.tile(boxes[:, None], (1, 4)),
        "roi_heads.box_head.fc1.weight": np.zeros([4, 8 * 49]),
        "roi_heads.mask_head.predictor.bias": masks,
        "roi_heads.mask_head.predictor.weight": np.zeros([80, 8, 1, 1]),
        "roi_heads.mask_head.deconv.weight": np.zeros([8, 8, 2, 2]),
        "backbone.fpn_output2.weight": np.zeros([8, 8, 3, 3]),
        "backbone.bottom_up.stem.conv1.weight": np.zeros([8, 3, 7, 7]),
    }
    np.savez(tmp_path / "zoo.npz", **arrays)
    annotations = shared_data / "eval_cocoapi_val2014_100" / "annotations" / "instances_val2014_100.json"
    code, output = run(
        capsys, tmp_path / "zoo.npz", tmp_path / "out", "--from=detectron2", "--annotations", annotations,
        "--set=box_head_fcs=1", "--set=backbone=resnet18", "--allow-missing",
    )  # fmt: skip
    assert code == 0, output.err
    model, card = load_model(tmp_path / "out")
    assert (card.category_ids[79], card.class_names[79]) == (90, "toothbrush")
    head = model.box_stages[0].head
    np.testing.assert_array_equal(head.logits.bias, [80, *range(80)])
    np.testing.assert_array_equal(head.deltas.bias, [0, 0, 0, 0, *range(320)])
    np.testing.assert_array_equal(model.mask_head.logits.bias, range(80))
    assert model.config.keep_padding_anchors


def test_conventions_that_differ_are_listed(tmp_path, capsys, make_tiny_model):
    model = randomised(make_tiny_model(norm="frozen_bn", symmetric_padding=True))
    card = ModelCard(["a", "b", "c"], [1, 2, 3], 64, 64, buckets=[[64, 64]])
    save_model(tmp_path / "ours", model, card)
    code, output = run(capsys, tmp_path / "ours", tmp_path / "theirs.npz", "--to=torchvision")
    assert code == 0, output.err
    assert "not the same network: roi_align_aligned is True, in networks of torchvision False\n" in output.out
    assert "symmetric_padding" not in output.out
    report = load_weights(make_tiny_model(norm="frozen_bn"), tmp_path / "theirs.npz")
    assert "symmetric_padding is False, in networks of torchvision True" in report.unlike
    backbone = {k: a for k, a in export_weights(model, LAYOUTS["torchvision"]).items() if "backbone.body" in k}
    unlike = fill_model(make_tiny_model(norm="frozen_bn"), backbone).unlike
    assert unlike == ["symmetric_padding is False, in networks of torchvision True"]


def test_group_norms_have_no_names_of_batch_norms(make_tiny_model):
    with pytest.raises(CheckpointError, match="group norms"):
        export_weights(make_tiny_model(norm="gn"), LAYOUTS["torchvision"])


def test_detectron2_files_say_how_pixels_are_normalised(tmp_path, capsys, make_tiny_model):
    """Made from torchvision's names: the layout is the same except for classes and colours."""
    model = randomised(make_tiny_model(backbone="resnet50", backbone_width=4, norm="frozen_bn", num_classes=3))
    arrays = {}
    for name, array in export_weights(model, LAYOUTS["torchvision"]).items():
        for pattern, new in (
            (r"backbone.body.conv1", "backbone.bottom_up.stem.conv1"),
            (r"backbone.body.bn1", "backbone.bottom_up.stem.conv1.norm"),
            (r"backbone.body.layer(\d)", lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}"),
            (r"bn(\d)\.", r"conv\1.norm."),
            (r"downsample.0", "shortcut"),
            (r"downsample.1", "shortcut.norm"),
            (r"fpn.inner_blocks.(\d).0", lambda m: f"fpn_lateral{int(m[1]) + 2}"),
            (r"fpn.layer_blocks.(\d).0", lambda m: f"fpn_output{int(m[1]) + 2}"),
            (r"rpn.head.conv.0.0", "proposal_generator.rpn_head.conv"),
            (r"rpn.head.cls_logits", "proposal_generator.rpn_head.objectness_logits"),
            (r"rpn.head.bbox_pred", "proposal_generator.rpn_head.anchor_deltas"),
            (r"box_head.fc6", "box_head.fc1"),
            (r"box_head.fc7", "box_head.fc2"),
            (r"mask_head.(\d).0", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}"),
            (r"mask_predictor.conv5_mask", "mask_head.deconv"),
            (r"mask_predictor.mask_fcn_logits", "mask_head.predictor"),
        ):
            name = re.sub(pattern, new, name)
        if name == "backbone.bottom_up.stem.conv1.weight":
            array = array[:, ::-1]
        elif "cls_score" in name:
            array = np.concatenate([array[1:], array[:1]])
        elif "box_predictor.bbox_pred" in name:
            array = array[4:]
        elif "mask_head.predictor" in name:
            array = array[1:]
        arrays[name] = np.ascontiguousarray(array)
    save_file(arrays, tmp_path / "caffe.safetensors")
    own = {
        "pixel_mean": np.float32([[[103.5]], [[116.3]], [[123.7]]]),
        "pixel_std": np.float32([[[57]], [[58]], [[59]]]),
    }
    save_file(arrays | own, tmp_path / "own.safetensors")

    for name, std, in_1x1 in (("caffe", [1.0, 1.0, 1.0], True), ("own", [59.0, 58.0, 57.0], False)):
        code, output = run(capsys, tmp_path / f"{name}.safetensors", tmp_path / name, "--from", "detectron2")
        assert code == 0, output.err
        loaded, _ = load_model(tmp_path / name)
        assert loaded.config.pixel_std == std
        assert loaded.config.stride_in_1x1 == in_1x1
        assert (loaded.config.num_classes, loaded.config.fpn_channels, loaded.config.mask_head_convs) == (3, 16, 2)
        deltas = ("box_head.deltas.kernel", "box_head.deltas.bias")  # the background's box is made up
        assert_same_variables(loaded, model, but=deltas)
        got, expected = (m.box_stages[0].head.deltas.kernel.numpy() for m in (loaded, model))
        np.testing.assert_array_equal(got[:, 4:], expected[:, 4:])
        assert re.search(r"^(\d+) of \1 variables filled", output.out)
        assert "not used" not in output.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.npz", "out", "--from", "tensorpack"], "weights gone.npz do not exist"),
        (
            ["rpn.npz", "out", "--from", "detectron2"],
            "rpn.npz: 1 names are Tensorpack's and 0 detectron2's: use --from tensorpack",
        ),
        (
            ["rpn.npz", "out", "--from", "tensorpack", "--set", "nrom=gn"],
            "model.nrom is not an option; did you mean norm?",
        ),
        (
            ["rpn.npz", "out", "--from", "tensorpack", "--set", "anchor_sizes=5"],
            "model.anchor_sizes is 5; expected a list of numbers",
        ),
        (["rpn.npz", "out", "--from", "tensorpack", "--set", "norm"], "--set norm: expected OPTION=VALUE"),
        (["out", "back.npz", "--to", "torchvision"], "checkpoint out does not exist"),
        (["out", "back.npz", "--to", "torchvision", "--num-classes", "4"], "--num-classes: only with --from"),
        (["out", "back.npz", "--to", "torchvision", "--annotations", "a.json"], "--annotations: only with --from"),
        (["out", "back.npz", "--to", "torchvision", "--set", "norm=gn"], "--set: only with --from"),
        (
            ["out", "back.npz", "--to", "torchvision", "--short-edge=9", "--max-size=9"],
            "--short-edge, --max-size: only with --from",
        ),
        (["rpn.npz", "out", "--from", "tensorpack", "--short-edge", "0"], "--short-edge is 0; expected a positive"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    np.savez("rpn.npz", **{"rpn/conv0/b": np.zeros(16)})
    code, output = run(capsys, *arguments)
    assert code == 1
    assert output.err.startswith("error: ")
    assert message in output.err


def test_the_command_writes_to_new_names_only(tmp_path, capsys, make_tiny_model):
    save_model(tmp_path / "ours", make_tiny_model(), ModelCard(["a", "b", "c"], [1, 2, 3], 64, 64, [[64, 64]]))
    np.savez(tmp_path / "rpn.npz", **{"rpn/conv0/b": np.zeros(16)})
    (tmp_path / "mine.npz").write_text("mine")
    for arguments in ((tmp_path / "rpn.npz", tmp_path / "ours", "--from=tensorpack"),
                      (tmp_path / "rpn.npz", tmp_path / "mine.npz", "--from=tensorpack"),
                      (tmp_path / "ours", tmp_path / "mine.npz", "--to=tensorpack")):  # fmt: skip
        before = (tmp_path / "ours" / "model.safetensors").read_bytes()
        code, output = run(capsys, *arguments)
        assert (code, output.out) == (1, "")
        assert f"{arguments[1]} exists already: choose a new" in output.err
        assert (tmp_path / "ours" / "model.safetensors").read_bytes() == before
    assert (tmp_path / "mine.npz").read_text() == "mine"


@pytest.mark.parametrize("error", [KeyError("internal"), TypeError("internal"), ValueError("internal")])
def test_a_fault_of_the_program_is_not_called_one_of_its_user(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    np.savez(tmp_path / "rpn.npz", **{"rpn/conv0/b": np.zeros(16)})
    monkeypatch.setattr(mrcnn_model.weights.conversion, "build_model", fail)
    with pytest.raises(type(error), match="internal"):
        main([str(tmp_path / "rpn.npz"), str(tmp_path / "out"), "--from=tensorpack"])


def test_names_of_a_file_are_shown_escaped(tmp_path, capsys):
    np.savez(tmp_path / "rpn.npz", **{"rpn/conv0/b": np.zeros(8), "\x1b[31mred": np.zeros(1)})
    sizes = ("rpn_channels=8", "fpn_channels=8", "box_head_channels=8")
    options = ("--allow-missing", "--set=backbone=resnet18", *(f"--set={size}" for size in sizes))
    code, output = run(capsys, tmp_path / "rpn.npz", tmp_path / "out", "--from=tensorpack", *options)
    assert code == 0, output.err
    assert "\\x1b[31mred" in output.out
    assert "\x1b" not in output.out


def test_num_classes_as_in_the_file_keep_the_layers(tmp_path, capsys, make_tiny_model):
    model = randomised(make_tiny_model())
    write_arrays(tmp_path / "four.npz", export_weights(model, LAYOUTS["tensorpack"]))
    options = ("--from=tensorpack", "--num-classes=4", "--set=gn_groups=4")
    code, output = run(capsys, tmp_path / "four.npz", tmp_path / "out", *options)
    assert code == 0, output.err
    assert_same_variables(load_model(tmp_path / "out")[0], model)


# What was written half, or is half there


def test_numbers_that_are_not_finite_are_named(tmp_path, capsys, make_tiny_model):
    arrays = export_weights(randomised(make_tiny_model(norm="frozen_bn")), LAYOUTS["torchvision"])
    for value in (np.nan, np.inf, 1e39):
        bias = arrays["rpn.head.bbox_pred.bias"].astype(np.float64)
        bias[2] = value
        write_arrays(tmp_path / "weights.npz", arrays | {"rpn.head.bbox_pred.bias": bias})
        with np.errstate(over="ignore"):
            code, output = run(capsys, tmp_path / "weights.npz", tmp_path / "out", "--from=torchvision")
        assert code == 1
        assert "rpn.head.bbox_pred.bias, read as rpn.deltas.bias, has 1 of 12 values that are NaN or inf" in output.err
    assert [p.name for p in tmp_path.iterdir()] == ["weights.npz"]


def test_a_file_of_another_project_is_named(tmp_path, capsys, make_tiny_model):
    """Heads of torchvision and detectron2 have some names in common."""
    shared = {
        "roi_heads.box_predictor.cls_score.bias": np.zeros(4),
        "roi_heads.box_predictor.bbox_pred.bias": np.zeros(16),
    }
    theirs = {f"backbone.bottom_up.res2.{block}.conv1.weight": np.zeros([8, 8, 3, 3]) for block in (0, 1)}
    np.savez(tmp_path / "d2.npz", **shared, **theirs)
    code, output = run(capsys, tmp_path / "d2.npz", tmp_path / "out", "--from=torchvision")
    assert code == 1
    assert "d2.npz: 4 names are detectron2's and 2 torchvision's: use --from detectron2" in output.err


@pytest.mark.parametrize(
    ("kept", "lost", "whole", "options"),
    [
        ("", "roi_heads.mask_head.1.0.weight", "detector", "mask_head_convs=2"),
        ("", "roi_heads.mask_head.1.0.bias", "detector", ""),
        ("backbone.body.", "layer3.1.bn2.bias", "backbone", "fpn_channels=16 box_head_channels=8"),
        ("rpn.", "conv", "detector", "fpn_channels=16 box_head_channels=8 rpn_channels=16 backbone=resnet18"),
    ],
)
def test_a_part_of_a_network_needs_a_word(tmp_path, capsys, make_tiny_model, kept, lost, whole, options):
    arrays = export_weights(randomised(make_tiny_model(norm="frozen_bn")), LAYOUTS["torchvision"])
    part = {name: array for name, array in arrays.items() if name.startswith(kept) and lost not in name}
    write_arrays(tmp_path / "part.npz", part)
    options = ("--from=torchvision", "--num-classes=4", *(f"--set={option}" for option in options.split()))
    code, output = run(capsys, tmp_path / "part.npz", tmp_path / "out", *options)
    assert (code, output.out) == (1, "")
    assert f"part.npz has only a part of the {whole}: it lacks " in output.err
    assert "--allow-missing starts them fresh" in output.err
    assert not (tmp_path / "out").exists()
    code, output = run(capsys, tmp_path / "part.npz", tmp_path / "out", *options, "--allow-missing")
    assert code == 0, output.err
    assert "not in the file, start fresh:" in output.out


def test_a_conversion_that_fails_leaves_nothing(tmp_path, monkeypatch, capsys, make_tiny_model):
    write_arrays(tmp_path / "four.npz", export_weights(make_tiny_model(), LAYOUTS["tensorpack"]))
    (tmp_path / "out").mkdir()

    def fail(*_):
        raise OSError(28, "No space left on device")

    for step, code in ((fail, 1), (lambda *_: _raise(KeyboardInterrupt), 130)):
        monkeypatch.setattr("mrcnn_model.checkpoint.flush", step)
        assert run(capsys, tmp_path / "four.npz", tmp_path / "out", "--from=tensorpack", "--set=gn_groups=4")[0] == code
        assert sorted(p.name for p in tmp_path.iterdir()) == ["four.npz", "out"]
        assert not list((tmp_path / "out").iterdir())


def _raise(error):
    raise error


@pytest.mark.parametrize(
    ("kept", "part"),
    [
        (["backbone.body.conv1.weight"], "1 of the 100 variables of the backbone"),
        (["rpn.head.conv.0.0.weight"], "1 of the 1[0-9][0-9] variables of the model"),
        (["backbone.body.", "-layer3", "-layer4"], r"\d+ of the 100 variables of the backbone"),
        (["roi_heads."], r"\d+ of the 1[0-9][0-9] variables of the model"),
    ],
)
def test_a_small_part_of_a_network_needs_a_word(tmp_path, make_tiny_model, kept, part):
    arrays = export_weights(randomised(make_tiny_model(norm="frozen_bn")), LAYOUTS["torchvision"])
    begin, *without = kept
    some = {n: a for n, a in arrays.items() if n.startswith(begin) and not any(w[1:] in n for w in without)}
    write_arrays(tmp_path / "part.npz", some)
    model = make_tiny_model(norm="frozen_bn", seed=5)
    before = [variable.numpy() for variable in model.variables]
    with pytest.raises(CheckpointError, match=rf"part\.npz has only {part}; it lacks .*allow_missing=True"):
        load_weights(model, tmp_path / "part.npz")
    for variable, values in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), values)  # nothing was filled
    assert len(load_weights(model, tmp_path / "part.npz", allow_missing=True).unfilled) > 0


def test_a_checkpoint_of_another_depth_needs_a_word(tmp_path, make_tiny_model):
    deep = make_tiny_model(backbone="resnet101", norm="gn")
    card = ModelCard(["a", "b", "c"], [1, 2, 3], 64, 96, [[64, 96]])
    save_model(tmp_path / "shallow", make_tiny_model(backbone="resnet50", norm="gn"), card)
    with pytest.raises(CheckpointError, match="variables of the model; it lacks"):
        load_weights(deep, tmp_path / "shallow")
    assert load_weights(deep, tmp_path / "shallow", allow_missing=True).unfilled


def test_a_network_with_another_head_needs_no_word(make_tiny_model):
    arrays = export_weights(make_tiny_model(norm="frozen_bn"), LAYOUTS["torchvision"])
    no_masks = {name: array for name, array in arrays.items() if "mask" not in name}
    assert fill_model(make_tiny_model(norm="frozen_bn"), no_masks).unfilled
    assert fill_model(make_tiny_model(norm="frozen_bn", box_head_fcs=4), arrays).unfilled
    assert fill_model(make_tiny_model(norm="frozen_bn", head_norm="gn"), arrays).unfilled
