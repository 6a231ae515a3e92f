"""The command on a checkpoint: a tiny model with random weights on two drawn images."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("tensorflow")

from mrcnn_eval.cli import main
from mrcnn_model import DeviceError, PrecisionChoice
from mrcnn_ops import Driver, Gpu


def metrics(directory):
    return json.loads((directory / "evaluation/metrics.json").read_text())


def test_run_directory_alone_scores_its_own_validation_split(checkpoint, capsys):
    run = checkpoint()
    assert main(["--checkpoint", str(run), "--score-threshold", "0"]) == 0
    written = metrics(run)
    assert written["num_images"] == 3
    assert written["num_detections"] == 3 * 15
    assert written["settings"]["score_threshold"] == 0
    results = json.loads((run / "evaluation/detections.json").read_text())
    assert {entry["image_id"] for entry in results} == {1, 2, 3}
    assert {entry["category_id"] for entry in results} <= {3, 8}
    assert cv2.imread(str(run / "evaluation/contact_sheet.png")) is not None
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"Checkpoint {run / 'checkpoints/step-00000001'} (the newest of the run)"
    assert str(run / "evaluation") in out


def test_the_checkpoint_that_is_taken_is_named(checkpoint, root, capsys):
    run = checkpoint()
    (run / "checkpoints/best").write_text("step-00000001\n")
    chosen = run / "checkpoints/step-00000001"
    for path, line in ((run, f"Checkpoint {chosen} (the best of the run)"), (chosen, f"Checkpoint {chosen}")):
        assert main(["--checkpoint", str(path), "--images", str(root / "val/1.png")]) == 0
        assert capsys.readouterr().out.splitlines()[0] == line


def test_honor_ignore_is_what_a_checkpoint_does_anyway(checkpoint, capsys):
    line = "No object of the annotation file has ignore: 1. --checkpoint always leaves such objects out.\n"
    for options, is_said in (([], False), (["--honor-ignore"], True)):
        assert main(["--checkpoint", str(checkpoint()), "--limit", "1", *options]) == 0
        assert (line in capsys.readouterr().out) == is_said


def test_pictures_are_predicted_without_ground_truth(checkpoint, root, capsys):
    run = checkpoint()
    pictures = [str(root / "val/3.png"), str(root / "val/1.png")]
    assert main(["--checkpoint", str(run), "--images", *pictures, "--score-threshold", "0", "--max-dets", "4"]) == 0
    entries = json.loads((run / "predictions/detections.json").read_text())
    assert [entry["image_id"] for entry in entries] == [pictures[0]] * 4 + [pictures[1]] * 4
    assert {(entry["category_id"], entry["category_name"]) for entry in entries} <= {(3, "class 3"), (8, "class 8")}
    for name in ("1.png", "3.png"):
        picture = cv2.imread(str(run / "predictions" / name))
        assert picture.shape == (500, 500, 3)  # 100 x 100, enlarged by 5
        assert (picture != cv2.resize(cv2.imread(str(root / "val" / name)), (500, 500))).any()
    out = capsys.readouterr().out
    assert "3.png" in out
    assert str(run / "predictions") in out


def test_an_untrained_model_says_how_to_see_what_it_finds(checkpoint, root, capsys):
    run = checkpoint()
    command = ["--checkpoint", str(run), "--images", str(root / "val/1.png")]
    assert main(command) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("No object")]
    shown = r"No object at .* 0\.5 or more; the highest score is .*: (--score-threshold \S+) shows it\."
    match = re.fullmatch(shown, line)
    entries = json.loads((run / "predictions/detections.json").read_text())
    assert match
    assert max(entry["score"] for entry in entries) < 0.5
    assert main([*command, *match[1].split()]) == 0
    out = capsys.readouterr().out
    assert "No object" not in out
    assert json.loads((run / "predictions/detections.json").read_text())


@pytest.fixture
def chosen(monkeypatch):
    """Make the machine one that computes in bfloat16."""
    choice = PrecisionChoice("mixed_bfloat16", "CPU with AMX, 4.9 times float32 here")
    monkeypatch.setattr("mrcnn_eval.command.checkpoint.choose_precision", lambda: choice)
    return choice


def test_the_precision_is_this_machine_s_and_printed(checkpoint, root, chosen, capsys):
    run = checkpoint()
    assert main(["--checkpoint", str(run), "--limit", "1"]) == 0
    line = "precision: mixed_bfloat16 (auto: CPU with AMX, 4.9 times float32 here)"
    assert capsys.readouterr().out.splitlines()[1:3] == ["device: CPU (no GPU is visible)", line]
    assert metrics(run)["settings"]["precision"] == "mixed_bfloat16"
    assert main(["--checkpoint", str(run), "--images", str(root / "val/1.png"), "--precision", "auto"]) == 0
    assert capsys.readouterr().out.splitlines()[1:3] == ["device: CPU (no GPU is visible)", line]


def test_tf32_is_used_unless_it_is_switched_off(checkpoint, monkeypatch, capsys):
    asked = []

    def refuse(wanted, *, tf32, **options):
        asked.append(tf32)
        raise DeviceError("no device")

    monkeypatch.setattr("mrcnn_model.device.use_device", refuse)
    assert main(["--checkpoint", str(checkpoint())]) == 2
    assert main(["--checkpoint", str(checkpoint()), "--no-tf32"]) == 2
    assert asked == [True, False]
    assert main(["--results", "r.json", "--annotations", "a.json", "--no-tf32"]) == 2
    assert "--no-tf32" in capsys.readouterr().err


def test_a_gpu_that_would_not_be_used_is_one_line_with_the_cure(checkpoint, monkeypatch, capsys):
    assert main(["--checkpoint", str(checkpoint()), "--device", "gpu"]) == 2
    error = capsys.readouterr().err
    assert "no GPU is visible" in error
    assert "--device cpu computes without GPUs" in error
    monkeypatch.setattr("mrcnn_model.device.read_driver", lambda: Driver((12, 9), (Gpu("NVIDIA H100", "aa"),)))
    assert main(["--checkpoint", str(checkpoint())]) == 2
    assert "the driver shows 1 GPU (NVIDIA H100), but TensorFlow sees none" in capsys.readouterr().err
    assert main(["--checkpoint", str(checkpoint()), "--device", "cpu", "--limit", "1"]) == 0
    assert "device: CPU\n" in capsys.readouterr().out


def test_a_given_precision_is_used_and_a_difference_is_named(checkpoint, chosen, capsys):
    run = checkpoint()
    assert main(["--checkpoint", str(run), "--output", str(run / "half")]) == 0
    capsys.readouterr()
    assert main(["--checkpoint", str(run), "--precision", "float32", "--compare", str(run / "half")]) == 0
    out = capsys.readouterr().out
    assert "(auto" not in out
    assert "precision: float32 here, mixed_bfloat16 there" in out
    assert metrics(run)["settings"]["precision"] == "float32"


def test_half_precision_finds_what_float32_finds(checkpoint):
    run, scores = checkpoint(), {}
    for name in ("float32", "mixed_bfloat16", "mixed_float16"):
        command = ["--checkpoint", str(run), "--precision", name, "--score-threshold", "0", "--output", str(run / name)]
        assert main(command) == 0
        entries = json.loads((run / name / "detections.json").read_text())
        scores[name] = sorted(entry["score"] for entry in entries)
    assert scores["mixed_bfloat16"] != scores["float32"]
    for name in ("mixed_bfloat16", "mixed_float16"):
        differences = np.abs(np.subtract(scores[name], scores["float32"]))
        # Close scores may change places, and then NMS suppresses another detection, whose score is any.
        assert np.mean(differences < 0.02) > 0.8
        assert differences.mean() < 0.02


def test_written_results_score_the_same_without_the_model(checkpoint, root):
    run = checkpoint()
    assert main(["--checkpoint", str(run), "--score-threshold", "0", "--max-dets", "20"]) == 0
    with_model = metrics(run)
    assert with_model["settings"]["detections_per_image"] == 20
    assert 3 * 15 < with_model["num_detections"] <= 3 * 20
    annotations = str(root / "annotations/instances_val.json")
    results = str(run / "evaluation/detections.json")
    assert main(["--results", results, "--annotations", annotations, "--max-dets", "20", "--output", f"{run}/b"]) == 0
    without = json.loads((run / "b/metrics.json").read_text())
    assert (without["bbox"], without["segm"]) == (with_model["bbox"], with_model["segm"])


def test_a_model_that_detects_nothing_is_ap_0_a_warning_and_exit_code_0(checkpoint):
    # In another process, as a user sees it: one line on stderr, without TensorFlow's messages.
    run = checkpoint()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TF_")}
    command = [sys.executable, "-m", "mrcnn_eval", "--checkpoint", run, "--score-threshold", "1", "--limit", "2"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert done.stderr == "mrcnn-eval: WARNING: nothing was detected: AP is 0\n"
    assert "0.000" in done.stdout
    assert metrics(run)["bbox"]["AP"] == metrics(run)["segm"]["AP"] == 0.0
    assert metrics(run)["num_images"] == 2
    assert json.loads((run / "evaluation/detections.json").read_text()) == []


def test_ignored_objects_are_not_scored_and_counted(checkpoint, root, capsys):
    path = root / "annotations/instances_val.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["ignore"] = 1
    path.write_text(json.dumps(content))
    run = checkpoint()
    assert main(["--checkpoint", str(run), "--score-threshold", "0", "--limit", "1"]) == 0
    assert metrics(run)["bbox"]["AP"] == metrics(run)["segm"]["AP"] == -1  # nothing is left to find
    assert metrics(run)["settings"]["honor_ignore"] is True
    assert "1 objects of the annotation file have ignore: 1 and are not scored" in capsys.readouterr().out


def test_options_choose_other_data(checkpoint, root):
    run = checkpoint(data_root=None, val_split=None)
    for options in (
        ["--data-root", str(root), "--split", "val"],
        ["--annotations", str(root / "annotations/instances_val.json"), "--image-dir", str(root / "val")],
    ):
        out = root.parent / f"out{len(options[0])}"
        assert (
            main(["--checkpoint", str(run), "--limit", "1", "--output", str(out), "--batch-size", "1", *options]) == 0
        )
        written = json.loads((out / "metrics.json").read_text())
        assert written["num_images"] == 1
        assert written["settings"]["score_threshold"] == 0.05  # COCO's habit, and the model's default


def test_card_with_explicit_files(checkpoint, root):
    run = checkpoint(
        data_root=None,
        val_split=None,
        annotations=str(root / "annotations/instances_val.json"),
        images=str(root / "val"),
    )
    assert main(["--checkpoint", str(run), "--limit", "1"]) == 0
    assert metrics(run)["num_images"] == 1


def test_the_readme_scores_a_checkpoint_from_python(checkpoint, root, monkeypatch):
    checkpoint().rename(root.parent / "demo")
    (root.parent / "runs").mkdir()
    (root.parent / "demo").rename(root.parent / "runs/demo")
    monkeypatch.chdir(root.parent)
    text = (Path(__file__).parents[1] / "README.md").read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if "load_model" in block]
    names: dict = {}
    exec(code, names)
    assert names["result"].num_images == len(names["flipped"].image_results) == 3
    assert "AP50" in Path("ap_table.txt").read_text()
    assert cv2.imread("sheet.png") is not None


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({"data_root": None}, [], "does not say where its data is: give --data-root"),
        ({"val_split": None}, [], "does not name a validation split: give --split"),
        ({"data_root": "/nowhere"}, [], "/nowhere"),
        ({}, ["--split", "test"], "test"),
        ({"class_names": ["class 4", "class 8"]}, [], "has objects of category 3 'class 3', which "),
        ({}, ["--output", "{root}/val/1.png"], "cannot be made"),
    ],
)
def test_data_that_does_not_fit_is_one_line_and_exit_code_2(checkpoint, root, capsys, fields, options, message):
    run = checkpoint(**fields)
    assert main(["--checkpoint", str(run), *(option.format(root=root) for option in options)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("mrcnn-eval: error: ")
    assert err.count("\n") == 1


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a directory that cannot be written to")
def test_output_that_cannot_be_written_to_is_found_before_inference(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(
        "mrcnn_eval.inference.detection.detect_dataset", lambda *_, **__: pytest.fail("inference started")
    )
    assert main(["--checkpoint", str(checkpoint()), "--output", "/proc/self"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("mrcnn-eval: error: --output /proc/self: cannot be written to: ")
    assert err.count("\n") == 1


def test_a_comparison_without_our_numbers_is_refused_before_inference(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "mrcnn_eval.inference.detection.detect_dataset", lambda *_, **__: pytest.fail("inference started")
    )
    for name, content in (("metrics.json", "{}"), ("detections.json", "[]")):
        (tmp_path / name).write_text(content)
    assert main(["--checkpoint", str(checkpoint()), "--compare", str(tmp_path)]) == 2
    assert "its metrics.json has no box or mask numbers to compare with" in capsys.readouterr().err


def test_classes_with_other_ids_are_matched_by_name(checkpoint, root, capsys):
    """The data's ids are 3 and 8, and one class more is listed, without objects."""
    path = root / "annotations/instances_val.json"
    content = json.loads(path.read_text())
    content["categories"].append({"id": 10, "name": "class 10"})
    path.write_text(json.dumps(content))
    run = checkpoint(class_names=["class 8", "class 3"], category_ids=[1, 2])
    assert main(["--checkpoint", str(run), "--score-threshold", "0"]) == 0
    out = capsys.readouterr().out
    assert "2 x category with another id than in the other data (category 3 -> 2 (class 3), category 8 -> 1" in out
    assert "without objects (category class 10): left out" in out
    entries = json.loads((run / "evaluation/detections.json").read_text())
    assert {entry["category_id"] for entry in entries} <= {1, 2}
    assert metrics(run)["per_class"]["bbox"].keys() == {"class 8", "class 3"}


def test_image_that_cannot_be_read_is_one_line(checkpoint, root, capsys):
    (root / "val/2.png").write_bytes(b"<html>")
    assert main(["--checkpoint", str(checkpoint())]) == 2
    err = capsys.readouterr().err
    assert "2.png" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("damage", ["absent", "empty", "torn", "card"])
def test_bad_checkpoint_is_one_line_and_exit_code_2(checkpoint, root, capsys, damage):
    run = checkpoint()
    step = run / "checkpoints/step-00000001"
    if damage == "absent":
        run = root.parent / "no-such-run"
    elif damage == "empty":
        run = root
    elif damage == "torn":
        (step / "model.safetensors").write_bytes(b"torn")
    else:
        (step / "model.json").write_text("{")
    assert main(["--checkpoint", str(run)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("mrcnn-eval: error: ")
    assert err.count("\n") == 1


def without_annotations(root, **changes):
    """Write the images of the data set as those of a test set are listed; a change to None removes the key."""
    content = json.loads((root / "annotations/instances_val.json").read_text())
    del content["annotations"]
    content |= changes
    path = root / "image_info_test.json"
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    return ["--annotations", str(path), "--image-dir", str(root / "val"), "--score-threshold", "0"]


@pytest.mark.parametrize(
    ("changes", "ids"),
    [
        ({}, {3, 8}),
        ({"categories": [{"id": 70, "name": "class 8"}, {"id": 90, "name": "class 3"}]}, {70, 90}),
        ({"categories": [{"id": 70, "name": "class 8"}]}, {70}),
        ({"categories": ..., "annotations": None}, {3, 8}),
    ],
)
def test_a_test_set_is_predicted_with_its_own_ids_and_not_scored(checkpoint, root, capsys, changes, ids):
    content = json.loads((root / "annotations/instances_val.json").read_text())
    images = [{**image, "id": image["id"] + 500} for image in content["images"]]
    run = checkpoint()
    assert main(["--checkpoint", str(run), *without_annotations(root, images=images, **changes)]) == 0
    results = json.loads((run / "predictions/detections.json").read_text())
    assert {entry["image_id"] for entry in results} == {501, 502, 503}
    assert {entry["category_id"] for entry in results} == ids
    assert not (run / "evaluation").exists()
    output = capsys.readouterr().out
    assert "image_info_test.json has no annotations: " in output
    assert f"{len(results)} detections on 3 images are written, and nothing is scored." in output
    assert ("of classes that the file does not list: left out" in output) == (len(ids) == 1)


def test_a_test_set_cannot_be_scored_and_must_have_the_classes(checkpoint, root, capsys):
    run = checkpoint()
    command = ["--checkpoint", str(run)]
    assert main([*command, *without_annotations(root), "--report"]) == 2
    assert "--report does not go with" in (error := capsys.readouterr().err)
    assert "which has no annotations to score against" in error
    assert main([*command, *without_annotations(root, categories=[{"id": 3, "name": "other"}])]) == 2
    assert "lists none of the classes of" in capsys.readouterr().err
    assert main([*command, *without_annotations(root, images=[])]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([*command, *without_annotations(root, annotations={})]) == 2  # wrong, not absent
    assert '"annotations" in it is not a list' in capsys.readouterr().err


def test_areas_are_said_with_a_checkpoint_too(checkpoint, root, capsys):
    path = root / "annotations/instances_val.json"
    content = json.loads(path.read_text())
    for area, line in (
        (
            -5,
            "1 annotations have an `area` that is not a positive number: that of the mask, or else the box, was taken.",
        ),
        (100 * 100, "1 of 1 objects have an `area` that is larger than their box, 1 of them the area of the whole"),
    ):
        content["annotations"][0]["area"] = area
        path.write_text(json.dumps(content))
        assert main(["--checkpoint", str(checkpoint()), "--limit", "1"]) == 0
        assert line in capsys.readouterr().out
    assert main(["--checkpoint", str(checkpoint()), "--limit", "1", "--mask-areas"]) == 0
    assert "`area`" not in capsys.readouterr().out
    assert metrics(root.parent / "run")["settings"]["mask_areas"] is True
