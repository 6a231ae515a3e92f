"""Names in files are data: shown in full and escaped, wherever they are shown."""

from __future__ import annotations

import json
import os

import cv2
import numpy as np
import pytest
from rich.console import Console

from mrcnn_eval import CocoEvaluator
from mrcnn_eval.cli import main
from mrcnn_eval.report import ap_tables, draw_contact_sheet, write_ap_table

BOX = [10, 20, 30, 40]
# By name in the file: as shown on a terminal, in text files, in pictures and in the report.
SHOWN = {
    "[/b]": "[/b]",
    "bolt[m6]": "bolt[m6]",
    "bolt[m8]": "bolt[m8]",
    ":smile:": ":smile:",
    "[link=http://a.b]here": "[link=http://a.b]here",
    "red\x1b[31m": r"red\x1b[31m",
    "clear\x1b[2J\x9b2J": r"clear\x1b[2J\x9b2J",
    "two\nlines\r\0": r"two\nlines\r\x00",
    "right\u202eto left\u2066": r"right\u202eto left\u2066",
    "Schraube größer": "Schraube größer",
}
HIDDEN = set("\x1b\x9b\r\0\u202e\u2066")


@pytest.fixture
def example(scene):
    """Each class on another image, and found there."""
    example = scene(images=len(SHOWN), categories=tuple(range(1, len(SHOWN) + 1)))
    for number, (category, name) in enumerate(zip(example.annotations["categories"], SHOWN, strict=True), start=1):
        category["name"] = name
        example.truth(BOX, image=number, category=number).detection(BOX, image=number, category=number)
        example.detection([50, 5, 30, 30], image=number, category=number, score=0.95)  # false, and surest
        example.annotations["images"][number - 1]["file_name"] = name.replace("/", ";").replace("\0", "") + ".png"
    return example


@pytest.fixture
def files(example, tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(example.annotations))
    (tmp_path / "results.json").write_text(json.dumps(example.results))
    (tmp_path / "images").mkdir()
    png = cv2.imencode(".png", np.full((100, 100, 3), 90, np.uint8))[1].tobytes()
    for image in example.annotations["images"]:
        (tmp_path / "images" / image["file_name"]).write_bytes(png)
    return tmp_path


def scored(example):
    evaluator = CocoEvaluator(example.annotations)
    evaluator.add_results(example.results)
    return evaluator


def score(files, *options):
    command = ["--results", files / "results.json", "--annotations", files / "truth.json", *options]
    return main([str(part) for part in command])


def test_a_notebook_does_not_take_the_tables_of_a_file(example, tmp_path, monkeypatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    write_ap_table(tmp_path / "ap_table.txt", scored(example).evaluate())
    assert "mean over IoU" in (tmp_path / "ap_table.txt").read_text()


def test_tables_show_each_name_once_and_escaped(example, tmp_path):
    result = scored(example).evaluate()
    console = Console(width=200, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(ap_tables(result))
    write_ap_table(tmp_path / "ap_table.txt", result)
    for text in (capture.get(), (tmp_path / "ap_table.txt").read_text()):
        cells = [line.split("│")[1].strip() for line in text.splitlines() if line.count("│") >= 4]
        assert cells[-len(SHOWN) :] == list(SHOWN.values())
        assert not HIDDEN & set(text)


def test_a_picture_shows_a_name_as_its_escaped_text(example, tmp_path):
    for image in example.annotations["images"]:
        cv2.imwrite(str(tmp_path / f"{image['id']}.png"), np.full((100, 100, 3), 90, np.uint8))
        image["file_name"] = f"{image['id']}.png"
    sheets = []
    for names in (SHOWN, SHOWN.values()):
        for category, name in zip(example.annotations["categories"], names, strict=True):
            category["name"] = name
        draw_contact_sheet(tmp_path / "sheet.png", scored(example), tmp_path, max_images=len(SHOWN))
        sheets.append((tmp_path / "sheet.png").read_bytes())
    assert sheets[0] == sheets[1]


def test_a_command_with_everything_prints_and_writes_only_escaped_text(files, capsys):
    options = ("--report", "--image-dir", files / "images", "--output")
    assert score(files, *options, files / "first") == 0
    results = json.loads((files / "results.json").read_text())
    (files / "results.json").write_text(json.dumps(results[: len(results) // 2]))
    capsys.readouterr()
    second = files / "out\x1b[2J[/b]:smile:"
    assert score(files, *options, second, "--compare", files / "first") == 0
    out = capsys.readouterr().out
    report, table = ((second / name).read_text() for name in ("report.html", "ap_table.txt"))
    for text in (out, report, table):
        assert not HIDDEN & set(text)
    assert r"out\x1b[2J[/b]:smile:" in out
    for shown in SHOWN.values():
        assert shown in report.replace("&#39;", "'")
    for shown in list(SHOWN.values())[len(SHOWN) // 2 + 1 :]:  # what the second run finds no longer
        assert f"F1 of {shown.replace('/', ';')}"[:16] in out


def test_an_error_is_one_line_whatever_it_names(tmp_path, capsys):
    evil = tmp_path / "a\nb\x1b[2J\u202e.json"
    assert main(["--results", str(evil), "--annotations", "b"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert (
        err == f"mrcnn-eval: error: {tmp_path}/a\\nb\\x1b[2J\\u202e.json: cannot be read: No such file or directory\n"
    )
    with pytest.raises(SystemExit):
        main(["--lim\nit\x1b[2J"])
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert not HIDDEN & set(err)


def test_names_that_are_not_utf_8_are_told(files, capsys):
    odd = files / os.fsdecode(b"odd\xff")
    odd.mkdir()
    (files / "results.json").rename(odd / "results.json")
    command = ["--results", odd / "results.json", "--annotations", files / "truth.json", "--report"]
    assert main([*map(str, command), "--output", str(odd / "out")]) == 0
    assert main([*map(str, command), "--output", str(odd / "out"), "--compare", str(odd / "out")]) == 0
    assert r"odd\udcff/out" in capsys.readouterr().out
    settings = json.loads((odd / "out/metrics.json").read_text())["settings"]
    assert settings["results"].endswith("odd\ufffd/results.json")


def test_a_warning_is_one_line_whatever_it_names(files, capsys):
    import subprocess
    import sys

    content = json.loads((files / "truth.json").read_text())
    content["annotations"].append(content["annotations"][0] | {"id": "a\nb\x1b[2J", "segmentation": [], "bbox": None})
    (files / "odd\x1b[2J.json").write_text(json.dumps(content))
    command = ["--results", files / "results.json", "--annotations", files / "odd\x1b[2J.json"]
    done = subprocess.run(
        [sys.executable, "-m", "mrcnn_eval", *command], check=True, capture_output=True, text=True, cwd=files
    )
    assert "WARNING" in done.stderr
    assert all(line.startswith("mrcnn-eval: WARNING: ") for line in done.stderr.splitlines())
    assert not HIDDEN & set(done.stderr + done.stdout)


def test_names_of_millions_of_characters_are_never_shown_in_full(files, capsys):
    """Class and file names, image ids, in the report, in tables and in messages."""
    long = "n\x1b[2J" * 1_000_000
    truth = json.loads((files / "truth.json").read_text())
    results = json.loads((files / "results.json").read_text())
    truth["categories"][0]["name"] = long
    truth["images"][1]["file_name"] = long
    truth["images"][2]["id"] = long
    for entry in (*truth["annotations"], *results):
        entry["image_id"] = long if entry["image_id"] == 3 else str(entry["image_id"])
    truth["images"] = [{**image, "id": str(image["id"])} for image in truth["images"]]
    (files / "truth.json").write_text(json.dumps(truth))
    (files / "results.json").write_text(json.dumps(results))
    assert score(files, "--report") == 0
    assert (files / "evaluation/report.html").stat().st_size < 1_000_000
    assert (files / "evaluation/ap_table.txt").stat().st_size < 20_000
    assert score(files, "--compare", files / "evaluation") == 0
    assert score(files, "--image-dir", files / "images", "--report") == 2  # there is no such file
    results[0]["image_id"] = long + "?"
    (files / "results.json").write_text(json.dumps(results))
    assert score(files) == 2
    output = capsys.readouterr()
    assert len(output.err) < 20_000
    assert len(output.out) < 50_000
    assert not HIDDEN & set(output.out + output.err) - {"\n"}
