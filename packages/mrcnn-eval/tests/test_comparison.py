"""Two evaluations of one ground truth side by side."""

from __future__ import annotations

import json

import pytest

from mrcnn_eval.cli import main
from mrcnn_eval.report.comparison import Difference, most_changed

BOX = [10, 20, 30, 40]
CAT, DOG, UNUSED = 3, 8, 9


@pytest.fixture
def runs(scene, tmp_path):
    """theirs/evaluation finds the cat of image 1; ours.json that of image 1, and the dog of image 2."""
    example = scene(images=2, categories=(CAT, DOG, UNUSED))
    example.truth(BOX, category=CAT).truth(BOX, image=2, category=DOG)
    (tmp_path / "truth.json").write_text(json.dumps(example.annotations))
    example.detection(BOX, category=CAT)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/results.json").write_text(json.dumps(example.results))
    assert run(tmp_path, "theirs/results.json") == 0
    example.detection(BOX, image=2, category=DOG)
    (tmp_path / "ours.json").write_text(json.dumps(example.results))
    return tmp_path


def run(folder, results, *options):
    command = ["--results", folder / results, "--annotations", folder / "truth.json", *options]
    return main([str(part) for part in command])


def compared(folder):
    return json.loads((folder / "evaluation/comparison.json").read_text())


def metrics(folder):
    return json.loads((folder / "evaluation/metrics.json").read_text())


@pytest.mark.parametrize("directory", ["theirs", "theirs/evaluation"])
def test_differences_by_number_class_and_image(runs, capsys, directory):
    assert run(runs, "ours.json", "--compare", runs / directory) == 0
    content, ours, theirs = compared(runs), metrics(runs), metrics(runs / "theirs")
    assert (content["other"], content["notes"]) == (str(runs / directory), [])
    for kind in ("bbox", "segm"):
        assert list(content["numbers"][kind]) == list(ours[kind])
        for name, one in content["numbers"][kind].items():
            assert (one["ours"], one["theirs"]) == (ours[kind][name], theirs[kind][name])
        changes = {name: one["change"] for name, one in content["classes"][kind].items()}
        assert changes == {"class 3": 0, "class 8": pytest.approx(1.0), "class 9": None}
        assert content["numbers"][kind]["AP"]["change"] == pytest.approx(0.5)
        assert content["numbers"][kind]["APl"]["change"] is None  # no large object
    assert content["images"] == {
        "1.png": {"ours": 1.0, "theirs": 1.0, "change": 0.0},
        "2.png": {"ours": 1.0, "theirs": 0.0, "change": 1.0},
    }
    out = capsys.readouterr().out
    for text in ("+0.500", "mask AP of class 8", "F1 of 2.png", "comparison.json"):
        assert text in out
    assert "F1 of 1.png" not in out


def test_the_report_shows_it(runs):
    assert run(runs, "ours.json", "--compare", runs / "theirs", "--report") == 0
    text = (runs / "evaluation/report.html").read_text()
    change = compared(runs)["numbers"]["segm"]["AP"]["change"]
    assert f'data-value="{change}">+0.500' in text
    assert 'id="images-changed"' in text
    assert "2.png" in text.partition('id="images-changed"')[2].partition("</table>")[0]
    assert run(runs, "ours.json", "--report") == 0
    assert "Compared with" not in (runs / "evaluation/report.html").read_text()


def test_a_run_compared_with_itself_does_not_differ(runs):
    assert (
        run(runs, "theirs/results.json", "--compare", runs / "theirs", "--report", "--output", runs / "evaluation") == 0
    )
    content = compared(runs)
    assert {one["change"] for one in content["numbers"]["bbox"].values()} == {0, None}
    assert {one["change"] for one in content["images"].values()} == {0}
    assert "No image changed." in (runs / "evaluation/report.html").read_text()


def test_other_conditions_are_noted(runs):
    assert run(runs, "ours.json", "--compare", runs / "theirs", "--max-dets", 50) == 0
    content = compared(runs)
    assert content["notes"] == ["max dets: 50 here, 100 there"]
    assert content["numbers"]["bbox"]["AR50"] == {"ours": 1.0, "theirs": -1.0, "change": None}


def test_another_score_threshold_is_noted_everywhere(runs, capsys):
    capsys.readouterr()
    assert run(runs, "ours.json", "--compare", runs / "theirs", "--score-threshold", 0.6, "--report") == 0
    note = "score threshold: 0.6 here, none there"
    assert compared(runs)["notes"] == [note]
    assert f"Not the same conditions. {note}\n" in capsys.readouterr().out
    assert f"Not the same conditions. {note}" in (runs / "evaluation/report.html").read_text()
    ours, theirs = runs / "evaluation", runs / "again"
    ours.rename(theirs)
    assert run(runs, "ours.json", "--compare", theirs, "--score-threshold", 0.05) == 0
    assert compared(runs)["notes"] == ["score threshold: 0.05 here, 0.6 there"]
    assert run(runs, "ours.json", "--compare", theirs, "--score-threshold", 0.6) == 0
    assert compared(runs)["notes"] == []


def test_boxes_compare_with_boxes_and_masks(runs):
    results = json.loads((runs / "ours.json").read_text())
    for entry in results:
        del entry["segmentation"]
    (runs / "boxes.json").write_text(json.dumps(results))
    assert run(runs, "boxes.json", "--compare", runs / "theirs") == 0
    assert list(compared(runs)["numbers"]) == ["bbox"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("absent", "theirs/evaluation/metrics.json: cannot be read"),
        ("torn", "theirs/evaluation/detections.json: damaged"),
        ("other images", "theirs: not on this ground truth: image 7"),
        (
            "no numbers",
            "theirs: its metrics.json has no box or mask numbers to compare with (it has neither)\n",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_exit_code_2(runs, capsys, damage, message):
    evaluation = runs / "theirs/evaluation"
    if damage == "absent":
        (evaluation / "metrics.json").unlink()
    elif damage == "torn":
        (evaluation / "detections.json").write_text("[{")
    elif damage == "no numbers":
        (evaluation / "metrics.json").write_text("{}")
    else:
        entry = {"image_id": 7, "category_id": CAT, "bbox": BOX, "score": 0.5}
        (evaluation / "detections.json").write_text(json.dumps([entry]))
    capsys.readouterr()
    assert run(runs, "ours.json", "--compare", runs / "theirs") == 2
    err = capsys.readouterr().err
    assert err.startswith("mrcnn-eval: error: --compare ")
    assert message in err
    assert err.count("\n") == 1


def test_a_run_without_our_kind_of_numbers_is_refused_before_scoring(runs, capsys):
    results = json.loads((runs / "ours.json").read_text())
    boxes = [{key: value for key, value in entry.items() if key != "segmentation"} for entry in results]
    masks = [{key: value for key, value in entry.items() if key != "bbox"} for entry in results]
    (runs / "boxes").mkdir()
    (runs / "boxes/results.json").write_text(json.dumps(boxes))
    (runs / "masks.json").write_text(json.dumps(masks))
    assert run(runs, "boxes/results.json") == 0
    capsys.readouterr()
    assert run(runs, "masks.json", "--compare", runs / "boxes") == 2
    why = "its metrics.json has no mask numbers to compare with (it has box)"
    assert capsys.readouterr() == ("", f"mrcnn-eval: error: --compare {runs / 'boxes'}: {why}\n")
    assert not (runs / "evaluation").exists()  # nothing was scored or written


def test_largest_changes_first():
    same, gone = Difference("same", 0.5, 0.5), Difference("undefined", -1, 0.5)
    small, large = Difference("small", 0.5, 0.4), Difference("large", 0.1, 0.9)
    assert most_changed([same, gone, small, large]) == [large, small]
    assert gone.change is None
