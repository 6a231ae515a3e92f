"""Exported models in a fresh process, with and without mrcnn_ops, beside the Python path."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_model import CheckpointError, ModelCard, read_card, save_model
from mrcnn_model.export.resizing import resize_images
from mrcnn_model.export.saved_model import ServedModel, main
from mrcnn_model.storage.folders import new_folder

CARD = ModelCard(
    class_names=["fig", "date", "nut"], category_ids=[7, 3, 12], short_edge=64, max_size=96, buckets=[[64, 96]]
)
SIZES = [(90, 120), (50, 40), (30, 110)]  # (h, w): shrinks; grows; the long edge decides

LOAD = """
import sys
import numpy as np
import tensorflow as tf

given = np.load(sys.argv[1])
images, sizes = tf.constant(given["images"]), tf.constant(given["sizes"])
values = {}
for kind, folder in (("portable", sys.argv[2]), ("compiled", sys.argv[3])):
    if kind == "compiled":
        assert "mrcnn_ops" not in sys.modules
        import mrcnn_ops
    serve = tf.saved_model.load(folder).signatures["serving_default"]
    values |= {f"{kind}/batch/{name}": value for name, value in serve(images=images, sizes=sizes).items()}
    h, w = given["sizes"][1]
    found = serve(images=images[1:2, :h, :w], sizes=sizes[1:2])
    values |= {f"{kind}/second/{name}": value for name, value in found.items()}
np.savez(sys.argv[4], **values)
"""


@pytest.fixture(scope="module")
def photos():
    """Three images of blobs, each padded with 255: pixels outside the sizes must not matter."""
    rng = np.random.default_rng(0)
    images = np.full([3, 90, 120, 3], 255, np.uint8)
    for image, (h, w) in zip(images, SIZES, strict=True):
        blobs = tf.image.resize(rng.uniform(0, 255, [6, 6, 3]), [h, w], method="bicubic")
        image[:h, :w] = np.clip(blobs, 0, 255)
    return images


def spread_out(model):
    """Change a fresh network so that no two boxes get equal scores."""
    heads = [stage.head for stage in model.box_stages]
    for layer, factor in (
        (model.rpn.logits, 100),
        (model.rpn.deltas, 20),
        *((head.logits, 200) for head in heads),
        *((head.deltas, 200) for head in heads),
    ):
        layer.kernel.assign(layer.kernel * factor)
    return model


@pytest.fixture
def python_path(photos):
    """A function (model, image numbers) -> (boxes in original pixels, detections): TensorFlow's resizing, by hand."""

    def run(model, numbers):
        resized = []
        for i in numbers:
            h, w = SIZES[i]
            scale = min(64 / min(h, w), 96 / max(h, w))
            size = [int(h * scale + 0.5), int(w * scale + 0.5)]
            resized.append(np.floor(tf.image.resize(photos[i, :h, :w], size).numpy() + 0.5))
        sizes = np.array([r.shape[:2] for r in resized], np.int32)
        padded = np.zeros([len(resized), *(-(-sizes.max(axis=0) // 32) * 32), 3], np.uint8)
        for image, r in zip(padded, resized, strict=True):
            image[: r.shape[0], : r.shape[1]] = r
        found = model.detect(tf.constant(padded), tf.constant(sizes))
        original = np.array([SIZES[i] for i in numbers])
        boxes = found.boxes.numpy() * (original / sizes)[:, np.newaxis, [1, 0, 1, 0]]
        return np.clip(boxes, 0, original[:, np.newaxis, [1, 0, 1, 0]]), found

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"cascade": True, "norm": "sync_bn"}, {"masks": False, "class_agnostic_boxes": True}],
    ids=["plain", "cascade, sync BN", "boxes only"],
)
def test_exported_models_equal_the_python_path(tmp_path, make_tiny_model, photos, python_path, changes):
    model = spread_out(make_tiny_model(detections_per_image=8, score_threshold=0.3, **changes))
    save_model(tmp_path / "checkpoint", model, CARD)
    for kind, options in (("portable", ["--portable"]), ("compiled", [])):
        assert main([str(tmp_path / "checkpoint"), str(tmp_path / kind), *options]) == 0
        assert read_card(tmp_path / kind)[1].class_names == CARD.class_names
    np.savez(tmp_path / "given.npz", images=photos, sizes=np.array(SIZES, np.int32))
    command = [sys.executable, "-c", LOAD, *(tmp_path / n for n in ("given.npz", "portable", "compiled", "values.npz"))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    values = np.load(tmp_path / "values.npz")

    for inputs, numbers in (("batch", [0, 1, 2]), ("second", [1])):
        boxes, found = python_path(model, numbers)
        assert found.valid.numpy().any(axis=1).all()
        for kind in ("portable", "compiled"):
            got = {name: values[f"{kind}/{inputs}/{name}"] for name in (*found._fields, "category_ids")}
            np.testing.assert_array_equal(got["valid"], found.valid)
            np.testing.assert_array_equal(got["classes"], found.classes)
            np.testing.assert_array_equal(got["category_ids"], np.array([0, 7, 3, 12])[found.classes])
            np.testing.assert_allclose(got["scores"], found.scores, atol=1e-4)
            np.testing.assert_allclose(got["boxes"], boxes, atol=1e-3)
            np.testing.assert_allclose(got["masks"], found.masks, atol=1e-3)


def test_a_missing_checkpoint_is_named(tmp_path, capsys):
    assert main([str(tmp_path / "gone"), str(tmp_path / "out")]) == 1
    assert "gone does not exist" in capsys.readouterr().err


def test_only_new_or_empty_folders_are_written(tmp_path, capsys, make_tiny_model):
    save_model(tmp_path / "checkpoint", make_tiny_model(), CARD)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "model.json").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("photos", "file", "checkpoint"):
        assert main([str(tmp_path / "checkpoint"), str(tmp_path / name)]) == 1
        assert f"{name} exists already: choose a new or empty folder" in capsys.readouterr().err
    assert (tmp_path / "photos" / "model.json").read_text() == (tmp_path / "file").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "file", "photos"]


def test_an_empty_folder_is_filled(tmp_path, monkeypatch, capsys, make_tiny_model):
    """The same without tracing, which is slow."""
    save_model(tmp_path / "checkpoint", make_tiny_model(), CARD)
    monkeypatch.setattr(tf.saved_model, "save", lambda _, folder, **__: Path(folder).mkdir(exist_ok=True))
    (tmp_path / "out").mkdir()
    assert main([str(tmp_path / "checkpoint"), str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert out == f"Checkpoint {tmp_path / 'checkpoint'}\nSavedModel written to {tmp_path / 'out'}\n"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["model.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "out"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), tf.errors.ResourceExhaustedError(None, None, "No space left")]
)
def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch, capsys, make_tiny_model, error):
    save_model(tmp_path / "checkpoint", make_tiny_model(), CARD)

    def fail(_, folder, **__):
        (Path(folder) / "saved_model.pb").write_text("half")
        raise error

    monkeypatch.setattr(tf.saved_model, "save", fail)
    assert main([str(tmp_path / "checkpoint"), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'out'} cannot be written: No space left\n"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def unset_log_level():
    return {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}


@pytest.mark.parametrize(
    "command", [["export", "gone", "out"], ["convert", "gone", "out.npz", "--to=torchvision"]], ids=lambda c: c[0]
)
def test_the_commands_show_no_lines_of_tensorflow(tmp_path, command):
    program = [sys.executable, "-m", f"mrcnn_model.{command[0]}", *command[1:]]
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=tmp_path, env=unset_log_level())
    assert (done.returncode, done.stderr) == (1, "error: checkpoint gone does not exist\n")


def test_a_closed_pipe_ends_a_command_quietly(tmp_path, make_tiny_model):
    save_model(tmp_path / "checkpoint", make_tiny_model(), CARD)
    reader, writer = os.pipe()
    os.close(reader)  # the reader has ended before the first line
    program = [sys.executable, "-m", "mrcnn_model.convert", "checkpoint", "out.npz", "--to=tensorpack"]
    done = subprocess.run(
        program, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path, env=unset_log_level()
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_what_a_killed_export_left_is_in_nobodys_way(tmp_path, monkeypatch, make_tiny_model):
    save_model(tmp_path / "checkpoint", make_tiny_model(), CARD)
    (tmp_path / "out.partial").mkdir()
    monkeypatch.setattr(tf.saved_model, "save", lambda *_, **__: None)
    assert main([str(tmp_path / "checkpoint"), str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "out", "out.partial"]


def test_the_second_of_two_exports_to_one_folder_is_refused(tmp_path):
    def write_twice():
        with new_folder(tmp_path / "out") as one:
            (one / "a").write_text("one")
            with new_folder(tmp_path / "out") as other:
                (other / "a").write_text("other")

    with pytest.raises(CheckpointError, match="out cannot be written: Directory not empty"):
        write_twice()
    assert (tmp_path / "out" / "a").read_text() == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_target_that_cannot_be_written_is_named(tmp_path, monkeypatch, capsys, make_tiny_model):
    save_model(tmp_path / "checkpoint", make_tiny_model(), CARD)
    monkeypatch.setattr(tf.saved_model, "save", lambda *_, **__: None)
    (tmp_path / "file").write_text("mine")
    assert main([str(tmp_path / "checkpoint"), str(tmp_path / "file" / "out")]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'file' / 'out'} cannot be written: Not a directory\n"
    assert main([str(tmp_path / "checkpoint"), "/proc"]) == 1
    assert capsys.readouterr().err == "error: /proc is a mount point: choose a new folder inside it\n"


def test_a_row_without_an_image_is_empty_and_changes_no_other_row(photos, make_tiny_model):
    model = spread_out(make_tiny_model(detections_per_image=8, score_threshold=0.3))
    served = ServedModel(model, CARD)
    alone = served(tf.constant(photos[:2]), tf.constant(SIZES[:2]))
    assert alone["valid"].numpy().any(axis=1).all()
    for nothing in ((0, 0), (0, 5), (5, 0), (-3, 4)):
        found = served(tf.constant(photos[[0, 2, 1]]), tf.constant([SIZES[0], nothing, SIZES[1]]))
        for name, values in found.items():
            np.testing.assert_allclose(values.numpy()[[0, 2]], alone[name].numpy(), atol=1e-5)
            assert not values.numpy()[1].any()
    for shape in ((2, 90, 120, 3), (1, 0, 0, 3)):
        found = served(tf.zeros(shape, tf.uint8), tf.zeros((shape[0], 2), tf.int32))
        assert not found["valid"].numpy().any()


def test_resizing_by_hand():
    image = np.full([1, 5, 5, 3], 99, np.uint8)
    image[0, :2, :2, 0] = [[0, 100], [200, 40]]
    resized, sizes = resize_images(tf.constant(image), tf.constant([[2, 2]]), short_edge=4, max_size=100, multiple=32)
    assert sizes.numpy().tolist() == [[4, 4]]
    assert resized.shape == [1, 32, 32, 3]
    # Pixel centres of the new rows lie at -0.25 (the edge), 0.25, 0.75 and 1.25 (the edge) of the old.
    np.testing.assert_array_equal(resized[0, 0, :4, 0], [0, 25, 75, 100])
    np.testing.assert_array_equal(resized[0, 1, :4, 0], [50, 59, 76, 85])
    assert not resized[0, 4:].numpy().any()
    assert not resized[0, :, 4:].numpy().any()
