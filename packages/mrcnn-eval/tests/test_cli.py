"""The command: what it prints and writes, and one line on bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mrcnn_eval import CocoEvaluator
from mrcnn_eval.cli import main

BOX = [10, 20, 30, 40]


@pytest.fixture
def files(scene, tmp_path):
    """truth.json, results.json and images/ of two perfect detections and one false one."""
    example = scene(images=2, categories=(3, 8)).truth(BOX, category=3).truth(BOX, image=2, category=8)
    example.detection(BOX, category=3).detection(BOX, image=2, category=8).detection(BOX, category=8, score=0.2)
    (tmp_path / "truth.json").write_text(json.dumps(example.annotations))
    (tmp_path / "results.json").write_text(json.dumps(example.results))
    (tmp_path / "images").mkdir()
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), np.full((100, 100, 3), 90, np.uint8))
    return tmp_path


def score(files, *options, results="results.json"):
    return main(["--results", str(files / results), "--annotations", str(files / "truth.json"), *map(str, options)])


def metrics(files):
    return json.loads((files / "evaluation/metrics.json").read_text())


def test_results_file_prints_and_writes_the_evaluators_numbers(files, capsys):
    assert score(files, "--image-dir", files / "images") == 0
    evaluator = CocoEvaluator(files / "truth.json")
    evaluator.add_results(json.loads((files / "results.json").read_text()))
    result = evaluator.evaluate()
    written = metrics(files)
    assert (written["bbox"], written["segm"]) == (result.stats["bbox"], result.stats["segm"])
    assert written["per_class"] == result.per_class
    assert written["settings"]["backend"] == "hotcoco"
    assert json.loads((files / "evaluation/detections.json").read_text()) == evaluator.results()
    out = capsys.readouterr().out
    for text in ("AP50", "AR100", "ARl", "class 3", "class 8", "1.000", str(files / "evaluation"), "contact_sheet.png"):
        assert text in out
    table = (files / "evaluation/ap_table.txt").read_text()
    assert all(len(line) <= 80 for line in table.splitlines())
    assert "class 8" in table
    assert cv2.imread(str(files / "evaluation/contact_sheet.png")).shape[0] > 2 * 320
    written_names = sorted(path.name for path in (files / "evaluation").iterdir() if not path.name.startswith("."))
    assert written_names == [
        "ap_table.txt",
        "contact_sheet.png",
        "detections.json",
        "metrics.json",
    ]


def test_backends_write_the_same_numbers(files):
    written = []
    for backend in ("hotcoco", "pycocotools"):
        assert score(files, "--backend", backend) == 0
        written.append(metrics(files))
    assert written[1].pop("settings")["backend"] == "pycocotools"
    written[0].pop("settings")
    assert written[0] == written[1]


def test_output_max_dets_and_score_threshold(files, capsys):
    assert score(files, "--output", files / "a/b", "--max-dets", 300, "--score-threshold", 0.5) == 0
    written = json.loads((files / "a/b/metrics.json").read_text())
    assert "AR300" in written["segm"]
    assert written["num_detections"] == 2
    assert written["settings"]["score_threshold"] == 0.5
    assert not (files / "evaluation").exists()
    assert "contact_sheet" not in capsys.readouterr().out  # no images, no picture


def test_file_with_boxes_only_is_scored_for_boxes_only(files):
    results = json.loads((files / "results.json").read_text())
    for entry in results:
        del entry["segmentation"]
    (files / "boxes.json").write_text(json.dumps(results))
    assert score(files, results="boxes.json") == 0
    assert "segm" not in metrics(files)
    assert metrics(files)["bbox"]["AP50"] == pytest.approx(1.0)


def test_nothing_detected_is_ap_0_a_warning_and_exit_code_0(files, capfd):
    (files / "empty.json").write_text("[]")
    command = [sys.executable, "-m", "mrcnn_eval", "--results", files / "empty.json", "--annotations"]
    subprocess.run([*command, files / "truth.json"], check=True)
    out, err = capfd.readouterr()
    assert err == "mrcnn-eval: WARNING: nothing was detected: AP is 0\n"
    assert "0.000" in out
    assert metrics(files)["bbox"]["AP"] == metrics(files)["segm"]["AP"] == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either --checkpoint or --results"),
        (["--checkpoint", "a", "--results", "b"], "give either --checkpoint or --results"),
        (["--results", "{files}/results.json"], "--results needs --annotations"),
        (["--results", "{files}/absent.json", "--annotations", "{files}/truth.json"], "absent.json: cannot be read"),
        (["--results", "{files}/truth.json", "--annotations", "{files}/truth.json"], "belongs to --annotations"),
        (["--results", "{files}/images/1.png", "--annotations", "{files}/truth.json"], "it is a PNG picture"),
        (["--results", "{files}/results.json", "--annotations", "{files}/results.json"], "not a COCO instances file"),
        (["--results", "{files}/results.json", "--annotations", "{files}/none.json"], "none.json: cannot read"),
        (["--results", "a", "--annotations", "b", "--limit", "3"], "--limit does not go with --results"),
        (["--results", "a", "--annotations", "b", "--batch-size", "3"], "--batch-size does not go with --results"),
        (["--results", "a", "--annotations", "b", "--tta", "flip"], "--tta does not go with --results"),
        (["--results", "a", "--annotations", "b", "--precision", "auto"], "--precision does not go with --results"),
        (["--checkpoint", "a", "--precision", "half"], "argument --precision: invalid choice: 'half'"),
        (["--checkpoint", "a", "--tta", "flop"], "argument --tta: expected flip or a scale, got 'flop'"),
        (["--results", "a", "--annotations", "b", "--data-root", "c"], "--data-root does not go with --results"),
        (["--results", "a", "--annotations", "b", "--images", "c"], "the folder of scored images is --image-dir"),
        (["--checkpoint", "a", "--images", "b", "--annotations", "c"], "--annotations does not go with --images"),
        (["--checkpoint", "a", "--images", "b", "--image-dir", "c"], "--image-dir does not go with --images"),
        (["--checkpoint", "a", "--images", "b", "--honor-ignore"], "--honor-ignore does not go with --images"),
        (["--checkpoint", "a", "--images", "b", "--backend", "hotcoco"], "--backend does not go with --images"),
        (["--checkpoint", "a", "--images", "b", "--report"], "--report does not go with --images"),
        (["--checkpoint", "a", "--images", "b", "--compare", "c"], "--compare does not go with --images"),
        (["--checkpoint", "a", "--compare", "c"], "--compare c/evaluation/metrics.json: cannot be read"),
        (["--checkpoint", "a", "--images", "{files}/none.jpg"], "none.jpg: does not exist"),
        (["--checkpoint", "a", "--annotations", "b"], "--annotations and --image-dir go together"),
        (["--checkpoint", "a", "--annotations", "b", "--image-dir", "c", "--split", "d"], "take the place of"),
        (["--checkpoint", "a", "--limit", "0"], "argument --limit: must be at least 1, not 0"),
        (["--checkpoint", "a", "--limit", "x"], "argument --limit: expected a whole number, got 'x'"),
        (["--checkpoint", "a", "--max-dets", "1.5"], "argument --max-dets: expected a whole number, got '1.5'"),
        (["--checkpoint", "a", "--score-threshold", "x"], "--score-threshold: expected a number from 0 to 1, got 'x'"),
        (["--checkpoint", "a", "--max-dets", "0"], "argument --max-dets: must be at least 1, not 0"),
        (["--checkpoint", "a", "--score-threshold", "1.5"], "argument --score-threshold: must be between 0 and 1"),
        (["--checkpoint", "a", "--backend", "other"], "argument --backend: invalid choice"),
        (["--checkpont", "a"], "unrecognized arguments: --checkpont a\n"),
        (["runs/demo"], "unrecognized arguments: runs/demo; to score a run: --checkpoint runs/demo\n"),
        (["out.json"], "; to score a results file: --results out.json --annotations FILE\n"),
        (["a/one.JPG"], "; to find objects in pictures: --checkpoint DIR --images a/one.JPG\n"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(files, capsys, options, message):
    try:
        code = main([option.format(files=files) for option in options])
    except SystemExit as stop:  # argparse's own way
        code = stop.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("mrcnn-eval: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("options", [[], ["--score-threshold", "0.5"]])
@pytest.mark.parametrize(("bad", "shown"), [("high", "'high'"), (None, "None")])
def test_score_that_is_no_number_is_one_line(files, capsys, options, bad, shown):
    results = json.loads((files / "results.json").read_text())
    results[0]["score"] = bad
    (files / "odd.json").write_text(json.dumps(results))
    assert score(files, *options, results="odd.json") == 2
    assert capsys.readouterr().err == f"mrcnn-eval: error: image 1: score must be a number, not {shown}\n"


def test_honor_ignore_takes_objects_out_of_the_score(files):
    truth = json.loads((files / "truth.json").read_text())
    truth["annotations"].append({**truth["annotations"][0], "id": 9, "bbox": [60, 60, 20, 20], "ignore": 1})
    (files / "truth.json").write_text(json.dumps(truth))
    assert score(files) == 0
    assert metrics(files)["per_class"]["bbox"]["class 3"]["AR100"] == pytest.approx(0.5)
    assert score(files, "--honor-ignore") == 0
    assert metrics(files)["per_class"]["bbox"]["class 3"]["AR100"] == pytest.approx(1.0)
    assert metrics(files)["settings"]["honor_ignore"] is True


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a directory that cannot be written to")
def test_output_that_cannot_be_written_to_is_one_line(files, capsys):
    assert score(files, "--output", "/proc/self") == 2
    err = capsys.readouterr().err
    assert err.startswith("mrcnn-eval: error: --output /proc/self: cannot be written to: ")
    assert err.count("\n") == 1


def test_result_of_an_unknown_image_is_one_line(files, capsys):
    results = json.loads((files / "results.json").read_text())
    results[0]["image_id"] = 77
    (files / "odd.json").write_text(json.dumps(results))
    assert score(files, results="odd.json") == 2
    assert capsys.readouterr().err == "mrcnn-eval: error: image 77 is not in the ground truth\n"


def test_image_of_another_size_is_one_line(files, capsys):
    cv2.imwrite(str(files / "images/1.png"), np.zeros((50, 60, 3), np.uint8))
    assert score(files, "--image-dir", files / "images") == 2
    err = capsys.readouterr().err
    assert "1.png" in err
    assert err.count("\n") == 1


def test_a_closed_pipe_ends_the_command_quietly(files):
    command = [sys.executable, "-m", "mrcnn_eval", "--results", files / "results.json"]
    reader, writer = os.pipe()
    os.close(reader)  # the reader has ended before the first line
    command += ["--annotations", files / "truth.json"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_help_explains_each_option_without_tensorflow():
    code = (
        "import sys\nfrom mrcnn_eval.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as stop:\n"
        "    assert stop.code == 0\nassert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)"
    )
    text = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    options = "checkpoint results data-root split annotations image-dir output limit batch-size max-dets"
    for option in [
        *options.split(),
        "images",
        "score-threshold",
        "honor-ignore",
        "backend",
        "report",
        "compare",
        "tta",
    ]:
        (line,) = [line for line in text.splitlines() if line.startswith(f"  --{option} ")]
        assert len(line.split()) > 4  # the option, its value and an explanation


def test_results_with_a_byte_order_mark_and_numbers_as_text(files, caplog):
    """What other tools write: read as the numbers, with a warning; the scores stay the same."""
    results = json.loads((files / "results.json").read_text())
    assert score(files) == 0
    plain = metrics(files)
    for entry in results:
        entry.update(
            image_id=str(entry["image_id"]),
            category_id=str(entry["category_id"]),
            score=str(entry["score"]),
            bbox=[str(value) for value in entry["bbox"]],
        )
    (files / "odd.json").write_text(json.dumps(results), encoding="utf-8-sig")
    assert score(files, results="odd.json") == 0
    warning = f"{len(results)} results have numbers written as text: read as the numbers"
    assert [record.getMessage() for record in caplog.records] == [warning]
    assert metrics(files) == {**plain, "settings": metrics(files)["settings"]}


def test_id_0_is_mentioned_and_can_be_counted_as_pycocotools_does(files, capsys):
    path = files / "truth.json"
    truth = json.loads(path.read_text())
    assert score(files) == 0
    right = metrics(files)["bbox"]["AP"]
    assert "id 0" not in capsys.readouterr().out
    truth["annotations"][0]["id"] = 0
    path.write_text(json.dumps(truth))
    assert score(files) == 0
    assert "An annotation has the id 0, which pycocotools counts as never found" in capsys.readouterr().out
    assert metrics(files)["bbox"]["AP"] == right
    assert score(files, "--pycocotools-id0") == 0
    assert "id 0" not in capsys.readouterr().out
    assert metrics(files)["bbox"]["AP"] < right
    assert score(files, "--pycocotools-id0", "--backend", "hotcoco") == 2


def test_areas_of_whole_images_are_said_and_those_of_the_masks_can_be_taken(files, capsys, caplog):
    path = files / "truth.json"
    truth = json.loads(path.read_text())
    assert score(files) == 0
    right = metrics(files)["segm"]
    assert "--mask-areas" not in capsys.readouterr().out
    truth["annotations"][0]["area"] = 100 * 100
    truth["annotations"][1]["area"] = 70 * 70  # larger than the box, not the image
    path.write_text(json.dumps(truth))
    assert score(files) == 0
    line = "2 of 2 objects have an `area` that is larger than their box, 1 of them the area of the whole image: "
    assert line in capsys.readouterr().out
    assert (metrics(files)["segm"]["APm"], right["APm"]) != (right["APm"], -1)
    assert metrics(files)["segm"]["APl"] != right["APl"]
    assert score(files, "--mask-areas") == 0
    assert "--mask-areas counts" not in capsys.readouterr().out
    assert metrics(files)["segm"] == right
    truth["annotations"][0]["area"] = -1200
    path.write_text(json.dumps(truth))
    caplog.clear()
    assert score(files, "--mask-areas") == 0
    assert "area is not a positive number" in caplog.text
    assert metrics(files)["segm"] == right


def test_boxes_of_results_that_look_like_corners_get_a_hint(files, caplog):
    results = json.loads((files / "results.json").read_text())
    corners = [60, 50, 90, 95]
    for number, (box, is_hinted) in enumerate(
        [
            (corners, True),
            ([60, 50, 30, 45], False),  # the same box as it should be
            ([60, 50, 200, 300], False),  # sticks out, and would not fit in as corners either
            ([5, 5, 20, 30], False),  # could be either
        ]
    ):
        entries = [{**results[0], "bbox": box, "score": 0.5}] * 5
        (files / f"{number}.json").write_text(
            json.dumps([{key: e[key] for key in e if key != "segmentation"} for e in entries])
        )
        caplog.clear()
        assert score(files, results=f"{number}.json") == 0
        assert ("would fit in as corners (x1, y1, x2, y2)" in caplog.text) == is_hinted
        assert any("corners" in line for line in metrics(files)["warnings"]) == is_hinted
    few = [{"image_id": 1, "category_id": 3, "bbox": corners, "score": 0.5}] * 4
    (files / "few.json").write_text(json.dumps(few))
    caplog.clear()
    assert score(files, results="few.json") == 0
    assert "corners" not in caplog.text
