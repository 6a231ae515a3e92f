"""The HTML report: its numbers, its pictures, and how it behaves in a browser."""

from __future__ import annotations

import base64
import json
import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from mrcnn_eval import CocoEvaluator
from mrcnn_eval.cli import main
from mrcnn_eval.mistakes.outcomes import outcomes
from mrcnn_eval.report.gallery import MAX_BYTES, false_detections, missed_objects

BOX = [10, 20, 30, 40]
NAMES = {3: "<b>cat</b>", 8: "dog", 9: "unused"}


class Page(HTMLParser):
    """What a test asks of a page: cells by table, the attributes of elements, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.elements, self.text = {}, [], ""
        self._table = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag == "table":
            self._table = self.tables.setdefault(attributes.get("id", "other"), [])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append([attributes, ""])

    def handle_endtag(self, tag):
        if tag == "table":
            self._table = None

    def handle_data(self, data):
        self.text += data
        if self._table and self._table[-1]:
            self._table[-1][-1][1] += data.strip()

    def numbers(self, table):
        """Rows of {"bbox AP": value as shown to full precision}."""
        return [
            {
                attributes["data-number"]: float(attributes["data-value"])
                for attributes, _ in row
                if "data-number" in attributes
            }
            for row in self.tables[table][1:]
        ]


@pytest.fixture
def files(scene, tmp_path):
    """truth.json, results.json and images/: a cat found, the surest; another found badly, a dog missed, a false dog."""
    example = scene(images=2, categories=tuple(NAMES))
    for category in example.annotations["categories"]:
        category["name"] = NAMES[category["id"]]
    example.truth(BOX, category=3).truth([50, 50, 40, 40], category=3).truth(BOX, image=2, category=8)
    example.detection(BOX, category=3, score=0.9).detection([60, 60, 40, 40], category=3, score=0.8)
    example.detection([60, 5, 20, 20], image=2, category=8, score=0.7)
    (tmp_path / "truth.json").write_text(json.dumps(example.annotations))
    (tmp_path / "results.json").write_text(json.dumps(example.results))
    (tmp_path / "images").mkdir()
    for number in (1, 2):
        noise = np.random.default_rng(number).integers(0, 256, (100, 100, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), noise)
    return tmp_path


def write_report(files, *options, results="results.json"):
    command = ["--results", files / results, "--annotations", files / "truth.json", "--report", *options]
    assert main([str(part) for part in command]) == 0
    return (files / "evaluation/report.html").read_text()


def metrics(files):
    return json.loads((files / "evaluation/metrics.json").read_text())


def test_numbers_equal_metrics_json(files):
    page = Page(write_report(files, "--image-dir", files / "images"))
    expected = metrics(files)
    shown = {name: value for row in page.numbers("numbers") for name, value in row.items()}
    assert shown == {f"{kind} {name}": expected[kind][name] for kind in ("bbox", "segm") for name in expected[kind]}
    names = [row[0][1] for row in page.tables["classes"][1:]]
    assert names == list(NAMES.values())  # escaped, so that it reads as it was written
    for name, row in zip(names, page.numbers("classes"), strict=True):
        wanted = {
            f"{kind} {key}": expected["per_class"][kind][name][key]
            for kind in ("bbox", "segm")
            for key in ("AP", "AP50")
        }
        assert row == wanted
    assert f"{expected['segm']['AP']:.3f}mask AP" in page.text
    settings = dict([text for _, text in row] for row in page.tables["other"])
    assert settings["score_threshold"] == "-"
    assert settings["backend"] == "hotcoco"


def test_needs_nothing_else_and_shows_each_mistake(files):
    set_scores(files, 0.6, 0.8, 0.7)
    text = write_report(files, "--image-dir", files / "images")
    page = Page(text)
    links = [attributes[key] for _, attributes in page.elements for key in ("src", "href") if key in attributes]
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "url(" not in text
    assert "@import" not in text
    captions = [attributes["data-caption"] for tag, attributes in page.elements if attributes.get("class") == "exhibit"]
    assert captions == [
        "1.png. Overlaps an object of class <b>cat</b>, IoU 0.39: too little.",
        "2.png. No object is near enough.",
        "1.png. Area 1600 px: nothing found it.",
        "2.png. Area 1200 px: nothing found it.",
    ]
    # Rows: the classes and "no object"; columns: the classes and "missed". F1 is best at 0.6, all of them.
    assert [[text for _, text in row[1:]] for row in page.tables["confusion"][1:]] == [
        ["1", "0", "0", "1"],
        ["0", "0", "0", "1"],
        ["0", "0", "0", "0"],
        ["1", "1", "0"],
    ]


def test_only_mistakes_that_are_counted_are_shown(files):
    page = Page(write_report(files, "--image-dir", files / "images"))  # F1 is best at 0.9, above both false detections
    shown = [attributes["data-caption"] for _, attributes in page.elements if attributes.get("class") == "exhibit"]
    assert shown == ["1.png. Area 1600 px: nothing found it.", "2.png. Area 1200 px: nothing found it."]
    assert "There are none at this score." in page.text
    assert page.text.count("All 2.") == 1  # the missed ones
    set_scores(files, 0.6, 0.8, 0.7)
    assert Page(write_report(files, "--image-dir", files / "images")).text.count("All 2.") == 2


def test_more_mistakes_than_pictures_are_counted(files):
    results = json.loads((files / "results.json").read_text())
    results += [results[0] | {"score": 0.95, "bbox": [x, 70, 5, 5], "segmentation": None} for x in (1, 11, 21)]
    for entry in results:
        del entry["segmentation"]
    (files / "results.json").write_text(json.dumps(results))
    assert "2 of 3, at most 2 of an image." in Page(write_report(files, "--image-dir", files / "images")).text


def set_scores(files, *scores):
    results = json.loads((files / "results.json").read_text())
    for entry, score in zip(results, scores, strict=True):
        entry["score"] = score
    (files / "results.json").write_text(json.dumps(results))


def test_same_input_same_page(files):
    assert write_report(files, "--image-dir", files / "images") == write_report(files, "--image-dir", files / "images")


def test_without_images_it_says_so(files):
    page = Page(write_report(files))
    assert "the folder of the images is not known" in page.text
    assert not [tag for tag, attributes in page.elements if attributes.get("class") == "exhibit"]


def test_nothing_detected_and_nothing_to_find(files, scene):
    (files / "empty.json").write_text("[]")
    page = Page(write_report(files, "--image-dir", files / "images", results="empty.json"))
    assert "nothing was detected: AP is 0" in page.text
    assert "There are none at this score." in page.text  # of the false detections
    (files / "truth.json").write_text(json.dumps(scene().annotations | {"categories": []}))
    page = Page(write_report(files, results="empty.json"))
    assert "AP is undefined" in page.text


def test_boxes_only(files):
    results = json.loads((files / "results.json").read_text())
    for entry in results:
        del entry["segmentation"]
    (files / "boxes.json").write_text(json.dumps(results))
    page = Page(write_report(files, "--image-dir", files / "images", results="boxes.json"))
    assert {name.split()[0] for row in page.numbers("classes") for name in row} == {"bbox"}


def test_confused_classes_are_listed(scene, files):
    example = scene(categories=tuple(range(1, 21)))
    example.truth(BOX, category=4).detection(BOX, category=7).detection([50, 50, 9, 9], category=1, score=0.99)
    example.truth([50, 50, 9, 9], category=1)
    (files / "truth.json").write_text(json.dumps(example.annotations))
    (files / "results.json").write_text(json.dumps(example.results))
    page = Page(write_report(files))
    assert "confusion" not in page.tables  # 20 x 20 numbers say nothing
    assert "class 4" in page.text
    assert [[cell[1] for cell in row] for row in page.tables["other"] if len(row) == 3][1:] == []  # F1 is best at 0.99
    example.detection([0, 80, 9, 9], category=2, score=0.5).truth([0, 80, 9, 9], category=2)
    (files / "truth.json").write_text(json.dumps(example.annotations))
    (files / "results.json").write_text(json.dumps(example.results))
    rows = [[cell[1] for cell in row] for row in Page(write_report(files)).tables["other"] if len(row) == 3]
    assert rows[1:] == [["class 4", "class 7", "1"]]


def test_most_and_largest_pictures_stay_below_5_mb(scene, tmp_path):
    example = scene(images=12, size=(500, 500))
    (tmp_path / "images").mkdir()
    for image in range(1, 13):
        example.truth([0, 0, 200, 400], image=image).detection([300, 0, 200, 400], image=image)
        noise = np.random.default_rng(image).integers(0, 256, (500, 500, 3), np.uint8)  # what JPEG does worst
        cv2.imwrite(str(tmp_path / f"images/{image}.png"), noise)
    (tmp_path / "truth.json").write_text(json.dumps(example.annotations))
    (tmp_path / "results.json").write_text(json.dumps(example.results))
    text = write_report(tmp_path, "--image-dir", tmp_path / "images")
    pictures = [
        attributes["src"]
        for tag, attributes in Page(text).elements
        if attributes.get("src", "").startswith("data:image/jpeg")
    ]
    assert len(pictures) == 24
    assert max(map(len, pictures)) < 1.4 * MAX_BYTES
    assert len(text) < 5e6


def test_pictures_show_truth_blue_and_detections_orange(files):
    evaluator = CocoEvaluator(files / "truth.json")
    evaluator.add_results(json.loads((files / "results.json").read_text()))
    for number in (1, 2):
        cv2.imwrite(str(files / f"images/{number}.png"), np.zeros((100, 100, 3), np.uint8))
    result = outcomes(evaluator)
    arguments = (evaluator, result, files / "images")
    wrong = false_detections(*arguments, threshold=0.5, count=10)
    assert [(exhibit.kind, exhibit.class_name, exhibit.score) for exhibit in wrong] == [
        ("localisation", "<b>cat</b>", 0.8),
        ("background", "dog", 0.7),
    ]
    assert colors(wrong[0]) == {"blue", "orange"}
    assert colors(wrong[1]) == {"orange"}
    missed = missed_objects(*arguments, threshold=0.5, count=1)
    assert [(exhibit.kind, exhibit.score, exhibit.file_name) for exhibit in missed] == [("missed", None, "1.png")]
    assert colors(missed[0]) == {"blue", "orange"}


def colors(exhibit):
    data = np.frombuffer(base64.b64decode(exhibit.picture.split(",")[1]), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB).astype(int)
    red, blue = picture[..., 0], picture[..., 2]
    return {name for name, found in (("blue", blue > red + 60), ("orange", red > blue + 60)) if found.sum() > 500}


def test_masks_alone_have_pictures_too(files):
    set_scores(files, 0.6, 0.8, 0.7)
    results = json.loads((files / "results.json").read_text())
    for entry in results:
        del entry["bbox"]
    (files / "masks.json").write_text(json.dumps(results))
    page = Page(write_report(files, "--image-dir", files / "images", results="masks.json"))
    assert len([tag for tag, attributes in page.elements if attributes.get("class") == "exhibit"]) == 4


def test_a_mask_alone_without_a_pixel_has_a_picture_too(files, scene):
    set_scores(files, 0.6, 0.8, 0.7)
    results = json.loads((files / "results.json").read_text())
    for entry in results:
        del entry["bbox"]
    results[1]["segmentation"] = scene.rle(np.zeros((100, 100)))
    (files / "masks.json").write_text(json.dumps(results))
    page = Page(write_report(files, "--image-dir", files / "images", results="masks.json"))
    assert len([tag for tag, attributes in page.elements if attributes.get("class") == "exhibit"]) == 4
    assert "1 of 3 detections have a mask without a pixel: they match no object" in page.text


def test_real_results_of_80_classes(shared_data, tmp_path):
    folder = shared_data / "eval_cocoapi_val2014_100"
    results = folder / "results/instances_val2014_fakesegm100_results.json"
    command = ["--results", results, "--annotations", folder / "annotations/instances_val2014_100.json", "--report"]
    assert main([*map(str, command), "--output", str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text()
    page, expected = Page(text), json.loads((tmp_path / "metrics.json").read_text())
    assert len(text) < 5e6
    assert page.numbers("numbers") == [{f"segm {name}": value} for name, value in expected["segm"].items()]
    assert page.numbers("classes") == [
        {f"segm {name}": numbers[name] for name in ("AP", "AP50")} for numbers in expected["per_class"]["segm"].values()
    ]


# ---- In a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no browser to test in: playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip(f"no browser to test in: none of {', '.join(names)} is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)], ids=["desktop", "phone"])
def test_in_a_browser(files, browser, width, height):
    set_scores(files, 0.6, 0.8, 0.7)  # false detections are above the best threshold
    write_report(files, "--image-dir", files / "images")
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(120_000)
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
    page.goto(f"file://{files}/evaluation/report.html")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.images].every(image => image.complete && (image.naturalWidth || !image.src))")

    def order():
        return page.locator("#classes tbody td:first-child").all_inner_texts()

    heading = page.locator("#classes th", has_text="objects")
    heading.get_by_role("button").click()
    assert (order(), heading.get_attribute("aria-sort")) == (["<b>cat</b>", "dog", "unused"], "descending")
    heading.get_by_role("button").click()
    assert (order(), heading.get_attribute("aria-sort")) == (["unused", "dog", "<b>cat</b>"], "ascending")
    page.locator("#classes th").first.get_by_role("button").click()
    assert order() == ["<b>cat</b>", "dog", "unused"]
    assert heading.get_attribute("aria-sort") == "none"

    viewer = page.locator("#viewer")
    assert not viewer.is_visible()
    page.locator(".exhibit").first.click()
    assert viewer.is_visible()
    assert "IoU 0.39: too little" in viewer.locator("p").inner_text()
    first = viewer.locator("img").get_attribute("src")
    viewer.get_by_text("Next").click()
    assert "No object is near enough" in viewer.locator("p").inner_text()
    assert viewer.locator("img").get_attribute("src") != first
    page.keyboard.press("ArrowLeft")
    assert viewer.locator("img").get_attribute("src") == first
    box = viewer.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    viewer.get_by_text("Close").click()
    assert not viewer.is_visible()
    assert complaints == []
    page.close()
