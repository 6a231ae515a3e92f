"""Results files, checkpoints and evaluations that are wrong in any way: one line, exit code 2, and no waiting."""

from __future__ import annotations

import json

import pytest

from mrcnn_eval.cli import main

BOX = [10, 20, 30, 40]
GOOD = {"image_id": 1, "category_id": 3, "bbox": BOX, "score": 0.5}
DEEP = "[" * 200_000


@pytest.fixture
def truth(scene, tmp_path):
    """A ground truth of two images; the size of the second is unknown."""
    content = scene(images=2, categories=(3,)).truth(BOX, category=3).annotations
    del content["images"][1]["height"], content["images"][1]["width"]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    return path


def refused(capsys, *command):
    """Run the command; return the line of an error."""
    assert main(list(map(str, command))) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("mrcnn-eval: error: ")
    assert len(line) < 2200
    return line


def entry(**changes):
    return json.dumps([{**GOOD, **changes}])


def mask(size, counts="00"):
    return entry(bbox=BOX, segmentation={"size": size, "counts": counts})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (DEEP, "nested too deep"),
        ('[{"image_id": 1, "x": ' + DEEP, ""),
        ("7", "not a COCO results file"),
        ("[7]", "entry 0 is not an object"),
        ('[{"image_id": 1}]', "no category_id"),
        (entry(score="high"), "score must be a number"),
        (entry(score=None), "score must be a number"),
        ('[{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 1' + "0" * 400 + "}]", ""),
        ('[{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 1' + "0" * 5000 + "}]", ""),
        (entry(score="1" + "0" * 400), ""),
        (entry(score="nan"), "score"),
        (entry(bbox=[0, 0, 1e308, 1e308]), "beyond 1e+12"),
        (entry(bbox=[0, 0, 10**18, 10**18]), "beyond 1e+12"),
        (entry(bbox=["1e308", 0, 1, 1]), "beyond 1e+12"),
        (entry(bbox=10**18), "bbox must be"),
        (entry(bbox=[1, 2, 3]), "bbox must be"),
        (entry(bbox=[[1], 2, 3, 4]), "bbox must be"),
        (entry(bbox={"x": 1}), "bbox must be"),
        (entry(category_id=10**18), "category_id"),
        (entry(category_id="1" + "0" * 400), "category_id"),
        (entry(category_id=[3]), "category_id"),
        (entry(category_id=3.5), "category_id"),
        (entry(category_id=None), "category_id"),
        (entry(image_id=10**18), "not in the ground truth"),
        (entry(image_id="9" * 5000), "not in the ground truth"),
        (entry(image_id={"a": [1]}), "not in the ground truth"),
        (mask([-100, -100]), "RLE size"),
        (mask([2**40, 2**40]), "RLE size"),
        (mask([100]), "RLE size"),
        (mask(["100", "100"]), "RLE size"),
        (mask(None), "RLE size"),
        (mask([100, 100], "\x00"), "counts"),
        (mask([100, 100], 7), "counts"),
        (mask([100, 100], "o" * 1000), "RLE counts are damaged"),
        (entry(image_id=2, segmentation={"size": [-1, 5], "counts": "00"}), "RLE size"),
        (entry(image_id=2, segmentation={"size": [0, 0], "counts": "0"}), "RLE size"),
        (entry(image_id=2, segmentation={"size": [2**40, 2**40], "counts": "00"}), "RLE size"),
        (entry(image_id=2, segmentation={"size": [True, 5], "counts": "00"}), "RLE size"),
        (entry(segmentation=7), "must be an RLE"),
        (entry(segmentation=[[1, 2, 3, 4, 5, 6]]), "must be an RLE"),
    ],
)
def test_results_that_are_wrong(truth, tmp_path, capsys, content, words):
    path = tmp_path / "results.json"
    path.write_text(content)
    assert words in refused(capsys, "--results", path, "--annotations", truth)
    assert not list(tmp_path.glob("evaluation/*.json"))


def test_a_results_file_that_is_no_file(truth, tmp_path, capsys):
    assert "results" in refused(capsys, "--results", tmp_path, "--annotations", truth)
    assert "gone.json" in refused(capsys, "--results", tmp_path / "gone.json", "--annotations", truth)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (DEEP, ""),
        ("[]", "damaged"),
        ('{"bbox": 7}', "damaged"),
        ('{"bbox": {"AP": "0.5"}, "per_class": {}}', "damaged"),
        ('{"bbox": {"AP": 0.5}}', "damaged"),
        ('{"bbox": {"AP": 0.5}, "per_class": []}', "damaged"),
        ('{"bbox": {"AP": 0.5}, "per_class": {"bbox": {"class 3": 7}}}', "damaged"),
        ('{"bbox": {"AP": 0.5}, "per_class": {"bbox": {}}, "settings": 7}', "damaged"),
    ],
)
def test_another_evaluation_that_is_wrong(truth, tmp_path, capsys, metrics, words):
    (tmp_path / "results.json").write_text(entry())
    (tmp_path / "other").mkdir()
    (tmp_path / "other/metrics.json").write_text(metrics)
    (tmp_path / "other/detections.json").write_text("[]")
    command = ("--results", tmp_path / "results.json", "--annotations", truth, "--compare", tmp_path / "other")
    line = refused(capsys, *command)
    assert f"--compare {tmp_path / 'other/metrics.json'}: " in line
    assert words in line


def test_paths_that_are_too_long(truth, tmp_path, capsys):
    long = "n" * 100_000
    (tmp_path / "results.json").write_text(entry())
    good = ("--results", tmp_path / "results.json", "--annotations", truth)
    for command in (
        ("--checkpoint", long),
        ("--results", long, "--annotations", truth),
        ("--results", tmp_path / "results.json", "--annotations", long),
        (*good, "--output", long),
        (*good, "--compare", long),
    ):
        assert "oo long" in refused(capsys, *command)
