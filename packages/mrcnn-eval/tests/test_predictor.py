"""`load(...).predict(...)`: the same detections as the command, in pixels of the picture, and a drawing of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("tensorflow")

from mrcnn_data import DatasetError, OutputError
from mrcnn_eval import load
from mrcnn_eval.cli import main
from mrcnn_eval.scoring.segmentation import to_mask
from mrcnn_model import CheckpointError, DeviceError

LOWEST = 0.2  # the weights are random: many objects at low scores


@pytest.fixture
def run(checkpoint):
    return checkpoint()


@pytest.fixture
def predictor(run):
    return load(run, precision="float32", score_threshold=LOWEST)


def test_a_file_its_pixels_and_the_command_give_the_same_objects(run, predictor, root, capsys):
    path = root / "val/1.png"
    found = predictor.predict(path, score_threshold=LOWEST)
    assert len(found) > 0
    from_pixels = predictor.predict(cv2.imread(str(path))[..., ::-1], score_threshold=LOWEST)
    np.testing.assert_array_equal(found.boxes, from_pixels.boxes)
    options = ["--precision", "float32", "--score-threshold", str(LOWEST), "--batch-size", "1"]
    main(["--checkpoint", str(run), "--images", str(path), *options])
    written = sorted(
        json.loads((run / "predictions/detections.json").read_text()), key=lambda one: one["score"], reverse=True
    )
    assert [one["category_name"] for one in written] == found.names
    np.testing.assert_allclose([one["score"] for one in written], found.scores, rtol=1e-6)
    corners = np.array([one["bbox"] for one in written]) @ np.float64(
        [[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]]
    )
    np.testing.assert_allclose(corners, found.boxes, atol=1e-4)
    masks = [to_mask(one["segmentation"], size=(100, 100)) for one in written]
    np.testing.assert_array_equal(np.array(masks, bool), found.masks)


def test_surest_first_with_the_ids_and_names_of_the_training(predictor, root):
    found = predictor.predict(str(root / "val/2.png"), score_threshold=LOWEST)
    assert (np.diff(found.scores) <= 0).all()
    assert found.scores.min() >= LOWEST
    assert found.names == [{3: "class 3", 8: "class 8"}[category_id] for category_id in found.category_ids.tolist()]
    assert found.masks.shape == (len(found), 100, 100)
    assert found.boxes.shape == (len(found), 4)
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    assert repr(found).startswith(f"Found({found.names[0]} 0.")


def test_a_list_gives_a_list_in_its_order_and_equals_one_by_one(predictor, root):
    paths = [root / f"val/{number}.png" for number in (3, 1, 2)]
    together = predictor.predict(paths, score_threshold=LOWEST, batch_size=2)
    for found, path in zip(together, paths, strict=True):
        alone = predictor.predict(path, score_threshold=LOWEST)
        assert found.names == alone.names
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-3)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
    assert not np.array_equal(together[0].boxes[:1], together[1].boxes[:1])
    assert predictor.predict([]) == []


def test_the_drawing_shows_what_is_found(predictor, root, tmp_path):
    found = predictor.predict(root / "val/1.png", score_threshold=LOWEST)
    drawing = found.draw(tmp_path / "drawing.png")
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "drawing.png"))[..., ::-1], drawing)
    none = predictor.predict(root / "val/1.png", score_threshold=1.0)
    assert len(none) == 0
    assert none.masks.shape == (0, 100, 100)
    assert repr(none) == "Found(nothing)"
    plain = none.draw()
    assert plain.shape == drawing.shape
    assert (plain != drawing).any()
    assert found._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(OutputError, match=r"1\.png"):
        found.draw(root / "val/1.png")


def test_the_readme_finds_objects_in_a_photograph(run, root, monkeypatch, capsys):
    (root.parent / "runs").mkdir()
    run.rename(root.parent / "runs/demo")
    cv2.imwrite(str(root.parent / "photo.jpg"), cv2.imread(str(root / "val/1.png")))
    monkeypatch.chdir(root.parent)
    text = (Path(__file__).parents[1] / "README.md").read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if "import load\n" in block]
    exec(code, names := {})
    assert f"({len(names['found'])}, 100, 100)" in capsys.readouterr().out
    assert cv2.imread("drawing.png") is not None


def test_the_default_threshold_is_at_least_that_of_the_model(run, root):
    found = load(run, precision="float32", score_threshold=0.75).predict(root / "val/1.png")
    assert (found.scores >= 0.75).all()
    assert (load(run, precision="float32").predict(root / "val/1.png").scores >= 0.5).all()


def test_what_was_found_does_not_depend_on_the_file_or_the_buffer_any_more(predictor, root):
    path, buffer = root / "val/1.png", cv2.imread(str(root / "val/1.png"))[..., ::-1].copy()
    from_file = predictor.predict(path, score_threshold=LOWEST)
    from_buffer = predictor.predict(buffer, score_threshold=LOWEST)
    drawn = from_buffer.draw()
    buffer[...] = 0  # the next frame of a video
    np.testing.assert_array_equal(from_buffer.draw(), drawn)
    path.unlink()
    assert from_file.masks.shape == (len(from_file), 100, 100)
    with pytest.raises(DatasetError, match=r"1\.png"):
        from_file.draw()


def test_a_device_that_is_not_there_is_refused(run):
    with pytest.raises(DeviceError, match=r'no GPU is visible.*load\(\.\.\., device="cpu"\)'):
        load(run, device="gpu")
    with pytest.raises(ValueError, match="'cuda' is not one of auto, cpu, gpu"):
        load(run, device="cuda")


@pytest.mark.parametrize("score_threshold", [0.1, -1.0, 1.5, float("nan")])
def test_thresholds_that_cannot_hold_are_refused(run, predictor, root, score_threshold):
    with pytest.raises(ValueError, match=r"the model returns objects from 0\.2 on"):
        predictor.predict(root / "val/1.png", score_threshold=score_threshold)
    if score_threshold != 0.1:
        with pytest.raises(ValueError, match="choose 0 to 1"):
            load(run, score_threshold=score_threshold)


def test_what_is_not_a_picture_or_a_checkpoint_is_named(predictor, root, tmp_path):
    with pytest.raises(DatasetError, match=r"none\.jpg: cannot read"):
        predictor.predict(root / "none.jpg")
    with pytest.raises(ValueError, match=r"this array is float64 \[2, 2, 3\]"):
        predictor.predict(np.zeros((2, 2, 3)))
    with pytest.raises(CheckpointError, match="absent"):
        load(tmp_path / "absent")
