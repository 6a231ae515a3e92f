"""Wrong `model.json` and `best`: CheckpointError, one short line, at once and without TensorFlow."""

import copy
import dataclasses
import json
import subprocess
import sys

import pytest

from mrcnn_model import CheckpointError, ModelCard, ModelConfig, find_checkpoint, read_card, require_weights

CARD = ModelCard(["a", "b"], [3, 8], 64, 96, [[64, 96], [96, 64]], data_root="data")
GOOD = {
    "format": 2,
    "model": dataclasses.asdict(ModelConfig(num_classes=3)),
    "card": dataclasses.asdict(CARD),
}


def changed(place, value):
    content = copy.deepcopy(GOOD)
    *groups, name = place.split(".")
    group = content
    for key in groups:
        group = group[key]
    if value is ...:
        del group[name]
    else:
        group[name] = value
    return json.dumps(content)


def test_a_good_card(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(GOOD))
    assert read_card(tmp_path) == (ModelConfig(num_classes=3), CARD)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 200_000,
        '{"format": 2, "model": ' + '{"a":' * 200_000,
        "",
        "7",
        b"\xff\xfe\xfa",
        "1" * 5000,
        *(changed("format", value) for value in ("2", None, [2], 10**400, ...)),
        *(changed("model", value) for value in ([], "x", ...)),
        *(changed("model.num_classes", value) for value in (1, -1, "3", 3.0, None, True, 10**9, 10**400, 4)),
        *(changed("model.pyramid", value) for value in ([], 7, "x")),
        *(changed("model.pyramid.fpn_channels", value) for value in ("256", 0, -1, 10**9, 10**400, None, [256])),
        *(changed("model.resnet.backbone_width", value) for value in (10**9, "64")),
        *(changed("model.resnet.backbone", value) for value in (10**9, [], {}, "resnet51", "x" * 10**6)),
        *(changed("model.box.box_pool_size", value) for value in (10**9, 0)),
        *(changed("model.mask.mask_head_convs", value) for value in (10**9, -1)),
        *(changed("model.detection.detections_per_image", value) for value in (10**9, 0, "100")),
        *(changed("model.detection.score_threshold", value) for value in ("0.05", -1, float("nan"), 10**400)),
        *(changed("model.anchors.anchor_ratios", value) for value in ([], ["1"], [1.0] * 10**5, 7, [[1.0]])),
        *(changed("model.anchors.anchor_sizes", value) for value in ([32.0], [1e400] * 5, "32")),
        changed("model.pixels.nonsense", 1),
        changed("model.self", 1),
        *(changed("card.class_names", value) for value in ("ab", ["a"], [], ["a", 7], None, {"a": 1, "b": 2}, ...)),
        *(changed("card.category_ids", value) for value in ([3], ["3", "8"], [3, 3], [3, 10**400], [True, 2], "38")),
        *(changed("card.short_edge", value) for value in ("64", 0, -64, 10**9, 10**400, 64.5, None, [64])),
        *(changed("card.max_size", value) for value in ("96", 0, 10**9, True)),
        *(changed("card.buckets", value) for value in ([], [[64]], [64, 96], [["64", 96]], [[0, 64]], [[10**9] * 2])),
        *(changed("card.buckets", value) for value in (None, "64", {"64": 96}, [[64, 96, 3]])),
        *(changed("card.data_root", value) for value in (7, ["x"], {})),
        *(changed("card.images", value) for value in (7, False)),
        changed("card.nonsense", 1),
        changed("card.self", 1),
    ],
    ids=lambda content: repr(content)[-60:],
)
def test_a_wrong_card_is_one_short_line(tmp_path, content):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_card(tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "model.json") in message
    assert "\n" not in message
    assert len(message) < 2100


def test_a_card_that_is_no_file(tmp_path):
    (tmp_path / "model.json").mkdir()
    with pytest.raises(CheckpointError, match="is not a file"):
        read_card(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist: not a checkpoint directory"):
        read_card(tmp_path / "gone")
    (tmp_path / "large").mkdir()
    with (tmp_path / "large/model.json").open("wb") as file:
        file.truncate(10**11)  # sparse
    with pytest.raises(CheckpointError, match="it has 100000000000 bytes"):
        read_card(tmp_path / "large")


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"\0", b"../../elsewhere", b"step-", b"step-1/../x", b"x" * 10**6, b"step-00000001\nmore"],
    ids=lambda content: repr(content)[:20],
)
def test_a_damaged_best_is_said(tmp_path, content):
    checkpoint = tmp_path / "checkpoints/step-00000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.json").write_text(json.dumps(GOOD))
    (tmp_path / "checkpoints/best").write_bytes(content)
    with pytest.raises(CheckpointError, match="best does not contain the name of a checkpoint, such as step-00000100"):
        find_checkpoint(tmp_path)
    (tmp_path / "checkpoints/best").write_text("step-00000001\n")
    assert find_checkpoint(tmp_path).directory == checkpoint
    (tmp_path / "checkpoints/best").write_text("step-00000009\n")
    assert find_checkpoint(tmp_path).why == "the newest of the run; the best, step-00000009, is not there"


def test_reading_needs_no_tensorflow(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(GOOD))
    code = (
        "import sys; from mrcnn_model import CheckpointError, read_card, require_weights\n"
        "try: read_card(sys.argv[1]); require_weights(sys.argv[1])\n"
        "except CheckpointError as error: print(error)\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "model.safetensors do not exist" in done.stdout


def test_what_can_be_read_as_weights(tmp_path):
    (tmp_path / "empty.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="hold no arrays"):
        require_weights(tmp_path / "empty.safetensors")
    with pytest.raises(CheckpointError, match="not a regular file"):
        require_weights("/dev/zero")
