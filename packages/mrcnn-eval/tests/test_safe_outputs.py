"""No command replaces a file that it did not write, nor one of its inputs; it refuses before the work begins."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mrcnn_eval import CocoEvaluator
from mrcnn_eval.cli import main

BOX = [10, 20, 30, 40]
SCORED = ("metrics.json", "detections.json", "ap_table.txt", "contact_sheet.png", "report.html", "comparison.json")


@pytest.fixture
def files(scene, tmp_path):
    """truth.json, results.json, images/ and other/evaluation, another evaluation to compare with."""
    example = scene().truth(BOX).detection(BOX)
    (tmp_path / "truth.json").write_text(json.dumps(example.annotations))
    (tmp_path / "results.json").write_text(json.dumps(example.results))
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/1.png"), np.full((100, 100, 3), 90, np.uint8))
    assert score(tmp_path, "--output", tmp_path / "other") == 0
    return tmp_path


def score(files, *options, results="results.json"):
    command = ["--results", files / results, "--annotations", files / "truth.json", *options]
    return main([str(part) for part in command])


def score_all(files, output):
    return score(files, "--output", output, "--image-dir", files / "images", "--compare", files / "other", "--report")


@pytest.mark.parametrize("name", SCORED)
def test_a_users_file_is_never_replaced(files, capsys, monkeypatch, name):
    output = files / "notes"
    output.mkdir()
    (output / name).write_bytes(b"mine")
    monkeypatch.setattr(
        "mrcnn_eval.scoring.coco_evaluator.CocoEvaluator.evaluate", lambda *_, **__: pytest.fail("scored first")
    )
    capsys.readouterr()
    assert score_all(files, output) == 2
    assert (output / name).read_bytes() == b"mine"
    assert [path.name for path in output.iterdir()] == [name]  # nothing beside it either
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"mrcnn-eval: error: {output / name} exists and was not written by this command")
    assert err.count("\n") == 1


def test_own_outputs_are_replaced_unless_someone_changed_them(files):
    output = files / "scored"
    assert score_all(files, output) == score_all(files, output) == 0
    assert {path.name for path in output.iterdir() if not path.name.startswith(".")} == set(SCORED)
    (output / "ap_table.txt").write_text("with my notes")
    assert score_all(files, output) == 2
    assert (output / "ap_table.txt").read_text() == "with my notes"


def test_an_input_is_no_output(files, capsys):
    assert score(files, "--output", files / "scored") == 0
    before = (files / "scored/detections.json").read_bytes()
    # Scored again from its own results list, cut at a score: the list would lose what is below.
    again = ("--output", files / "scored", "--score-threshold", "0.95")
    assert score(files, *again, results="scored/detections.json") == 2
    assert (files / "scored/detections.json").read_bytes() == before
    assert "detections.json is an input of this command too: choose another --output" in capsys.readouterr().err


def test_a_link_does_not_lead_to_a_users_file(files):
    output = files / "scored"
    output.mkdir()
    (output / "metrics.json").symlink_to(files / "truth.json")
    before = (files / "truth.json").read_bytes()
    assert score(files, "--output", output) == 2
    assert (files / "truth.json").read_bytes() == before


# ---- Pictures --------------------------------------------------------------------------------------------------------


@pytest.fixture
def predict(tmp_path, monkeypatch):
    """Runs the command on pictures with a stand-in for the model, which finds nothing; `predict.inferences` counts."""
    pytest.importorskip("tensorflow")
    from types import SimpleNamespace

    def detect(model, dataset, *_, **__):
        run.inferences += 1
        evaluator = CocoEvaluator(dataset)
        for image_id in dataset.image_ids:
            evaluator.add(image_id, np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), [])
        return evaluator

    def run(output, *pictures):
        return main(["--checkpoint", str(tmp_path), "--output", str(output), "--images", *map(str, pictures)])

    run.inferences = 0
    card = SimpleNamespace(category_ids=[3], class_names=["cat"], buckets=[[64, 64]], short_edge=64, max_size=64)
    model = SimpleNamespace(config=SimpleNamespace(score_threshold=0.05))
    monkeypatch.setattr("mrcnn_eval.command.prediction.load_checkpoint", lambda arguments: (model, card, "float32"))
    monkeypatch.setattr("mrcnn_eval.inference.detection.detect_dataset", detect)
    return run


def photo(path: Path, brightness: int = 80) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((60, 90, 3), brightness, np.uint8))
    return path


@pytest.mark.parametrize("name", ["photo.png", "detections.json"])
def test_a_photograph_in_the_output_folder_stays(predict, tmp_path, capsys, name):
    picture = photo(tmp_path / ("d/photo.png" if name == "photo.png" else "photos/photo.png"))
    (tmp_path / "d").mkdir(exist_ok=True)
    if name == "detections.json":
        (tmp_path / "d" / name).write_text("mine")
    before = (tmp_path / "d" / name).read_bytes()
    assert predict(tmp_path / "d", picture) == 2
    assert (tmp_path / "d" / name).read_bytes() == before
    assert predict.inferences == 0
    err = capsys.readouterr().err
    assert name in err
    assert err.count("\n") == 1


def test_pictures_may_be_drawn_beside_the_photographs(predict, tmp_path):
    picture = photo(tmp_path / "d/photo.jpg")
    before = picture.read_bytes()
    assert predict(tmp_path / "d", picture) == 0
    assert predict(tmp_path / "d", picture) == 0  # its own files are replaced
    assert picture.read_bytes() == before
    assert {path.name for path in picture.parent.iterdir()} >= {"photo.jpg", "photo.png", "detections.json"}
    # The drawing is a picture itself now: drawn over, it would be lost.
    assert predict(tmp_path / "d", picture, tmp_path / "d/photo.png") == 2
    assert predict.inferences == 2


def test_a_folder_of_photographs_does_not_fill_with_drawings(predict, tmp_path, capsys):
    photo(tmp_path / "d/photo.jpg")
    assert predict(tmp_path / "d", tmp_path / "d") == 2
    assert "--output" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["photo.jpg"]
    assert predict(tmp_path / "d/drawn", tmp_path / "d") == 0


def test_pictures_of_one_name_have_drawings_of_their_own(predict, tmp_path):
    pictures = [
        photo(tmp_path / name, brightness)
        for name, brightness in (("d1/a.jpg", 20), ("d1/a.png", 80), ("d2/a.jpg", 140), ("d2/A.jpg", 200))
    ]
    assert predict(tmp_path / "out", *pictures) == 0
    drawn = sorted((tmp_path / "out").glob("*.png"), key=lambda path: cv2.imread(str(path)).mean())
    assert [path.name for path in drawn] == ["a.png", "a-2.png", "a-3.png", "A-4.png"]  # as on disks without case
    assert [round(cv2.imread(str(path)).mean(), -1) for path in drawn] == [20, 80, 140, 200]
