"""Names from files are shown as they are: no library reads markup in them, no control character reaches a terminal."""

import io
import json

import cv2
import numpy as np
import pytest
from rich.console import Console

from mrcnn_data import Augmentation, CocoDataset, DatasetError, dataset_statistics, draw_contact_sheet
from mrcnn_data.drawing.objects import Instance, draw_instances, titled
from mrcnn_data.statistics.plots import draw_statistics
from mrcnn_data.statistics.suggestions import suggestions_for
from mrcnn_data.statistics.tables import statistics_tables
from mrcnn_data.tools.cli import main

IMAGE = np.full((60, 80, 3), 90, np.uint8)
SQUARE = {"bbox": [10, 10, 30, 30], "segmentation": [[10, 10, 40, 10, 40, 40, 10, 40]]}
SHOWN_AS = {
    "[/b]": "[/b]",
    "bolt[m6]": "bolt[m6]",
    "bolt[m8]": "bolt[m8]",
    ":smile:": ":smile:",
    "$\\frac$": "$\\frac$",
    "\x1b[2J\x07": "\\x1b[2J\\x07",
    "\u202etxt.exe": "\\u202etxt.exe",
    "two\nlines": "two\\nlines",
    "犬": "犬",
}


def root_with(write_coco, names):
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    return write_coco(
        [IMAGE], [{**SQUARE, "category_id": category["id"]} for category in categories], categories=categories
    )


@pytest.fixture
def dataset(write_coco):
    return CocoDataset.from_root(root_with(write_coco, list(SHOWN_AS)), "train")


@pytest.fixture
def numbers(dataset):
    statistics = dataset_statistics(dataset)
    return statistics, suggestions_for(statistics, short_edge=60, max_size=80)


def test_tables_show_names_as_they_are(numbers):
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=True, color_system="truecolor")
    for table in statistics_tables(*numbers):
        console.print(table)
    for shown in SHOWN_AS.values():
        assert f" {shown} " in text.getvalue()
    assert "\x1b[2J" not in text.getvalue()


def test_the_command_prints_them(write_coco, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    root = root_with(write_coco, list(SHOWN_AS))
    assert main(["stats", str(root), "train"]) == 0
    out = capsys.readouterr().out
    for shown in SHOWN_AS.values():
        assert shown in out
    assert "\x1b" not in out


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_plot_shows_them(numbers, tmp_path):
    draw_statistics(tmp_path / "plot.png", *numbers)
    assert cv2.imread(str(tmp_path / "plot.png")) is not None


def test_pictures_show_escapes(dataset, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(cv2, "putText", lambda picture, text, *rest: written.append(text))
    dataset.file_names[0] = "1.png"
    draw_contact_sheet(tmp_path / "a.png", dataset, [0], augmentation=Augmentation(), short_edges=[60], max_size=80)
    titled(IMAGE, "a\x1b[2Jb")
    draw_instances(IMAGE, [Instance((1, 1, 9, 9), None, "c\nd", (1, 2, 3))])
    assert {"a\\x1b[2Jb", "c\\nd"} <= set(written)
    assert all(text.isprintable() for text in written)


def test_long_names_make_no_broad_pictures():
    assert titled(IMAGE, "x" * 100_000).shape[1] < 4000


@pytest.mark.parametrize("name", ["a\x1b[2Jb.png", "a\nb.png"])
def test_findings_and_errors_are_lines_of_plain_text(write_coco, capsys, name):
    root = write_coco([IMAGE], [SQUARE])
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = name
    path.write_text(json.dumps(content))
    assert main(["check", str(root), "train"]) == 2
    assert main(["show", str(root), "train", "--out", str(root / "out.png")]) == 2
    assert main(["show", str(root), "train", "--image-id", name, "--out", str(root / "out.png")]) == 2
    assert main(["check", str(root), name]) == 2
    assert main(["from-masks", str(root / name), str(root), str(root / "out.json")]) == 2
    printed = capsys.readouterr()
    shown = name.replace("\x1b", "\\x1b").replace("\n", "\\n")
    assert printed.out.count(shown) >= 1
    assert len(printed.err.splitlines()) == 4
    assert all(shown in line for line in printed.err.splitlines())
    assert "\x1b" not in printed.out + printed.err


def test_messages_of_errors_are_plain_text():
    assert str(DatasetError("a\x1b[2J\nb")) == "a\\x1b[2J\\nb"


def test_a_terminal_of_few_characters_is_served(write_coco, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    assert main(["stats", str(root_with(write_coco, ["犬", "ok"])), "train"]) == 0
    out.flush()
    assert b"\\u72ac" in out.buffer.getvalue()
