"""`check_dataset`: what only shows when all of a dataset is looked at."""

import json
import os

import cv2
import numpy as np
import pytest

from mrcnn_data import CocoDataset, DatasetError, check_dataset, check_datasets, load_image
from mrcnn_data.checks.image_copies import fingerprints
from mrcnn_data.images.header import read_header

IMAGE = np.full((40, 50, 3), 90, np.uint8)
SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]
GOOD = {"bbox": [10, 10, 10, 10], "segmentation": SQUARE}
BOTH = [GOOD, {**GOOD, "category_id": 7}]  # no category without an object


def report_of(root, **options):
    return check_dataset(CocoDataset.from_root(root, "train", allow_errors=True), **options)


def kinds(report, *severities):
    return {finding.kind: finding.count for finding in report.by_severity(*severities)}


def edited(root, edit):
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_nothing_odd(write_coco):
    report = report_of(write_coco([IMAGE], BOTH))
    assert not report.findings
    assert report.exit_code == 0


def test_severities_order_findings_and_give_the_exit_code(write_coco):
    annotations = [{**GOOD, "iscrowd": 1}, {**GOOD, "segmentation": []}, {**GOOD, "bbox": [1, 1, 0, 0]}, GOOD]
    report = report_of(write_coco([IMAGE], annotations))
    assert report.exit_code == 1
    severities = [finding.severity for finding in report.by_severity()]
    assert severities == ["warning", "dropped", "repaired", *["note"] * (len(severities) - 3)]
    root = write_coco([IMAGE], [{**GOOD, "image_id": 9}, *BOTH])
    assert report_of(root).exit_code == 2
    (error,) = report_of(root).by_severity("error")
    assert "belongs to image 9" in error.message


@pytest.mark.parametrize(("area", "count"), [(100, 0), (60, 0), (190, 0), (30, 1), (700, 1), (0, 0), (..., 0), (-1, 0)])
def test_areas_that_are_not_the_masks(write_coco, area, count):
    report = report_of(write_coco([IMAGE], [{**GOOD, "area": area}]))
    assert report.count("area is less than half or more than twice the mask's") == count


def test_objects_listed_twice(write_coco):
    same = {**GOOD, "bbox": [10, 10, 10, 10.0]}
    others = [{**GOOD, "image_id": 2}, {**GOOD, "segmentation": [SQUARE[0][::-1]]}, {**GOOD, "iscrowd": 1}]
    report = report_of(write_coco([IMAGE, IMAGE], [*BOTH, same, *others]))
    assert report.count("object listed twice") == 1
    (finding,) = (one for one in report.findings if one.kind == "object listed twice")
    assert finding.examples == ["annotation 3"]


def test_objects_listed_twice_with_others_between(write_coco):
    """A, B, A of one box and class; and a crowd between two."""
    other, crowd = {**GOOD, "segmentation": [SQUARE[0][::-1]]}, {**GOOD, "iscrowd": 1}
    report = report_of(write_coco([IMAGE], [GOOD, other, GOOD, crowd, other, *BOTH]))
    (finding,) = (one for one in report.findings if one.kind == "object listed twice")
    assert finding.examples == ["annotation 3", "annotation 5", "annotation 6"]


def test_categories(write_coco):
    categories = [{"id": 3, "name": "a"}, {"id": 4, "name": "a"}, {"id": 7, "name": "b"}]
    report = report_of(write_coco([IMAGE], [GOOD], categories=categories))
    assert kinds(report) == {"category without an object": 2, "category name that occurs twice": 2}


def test_no_masks_at_all(write_coco):
    report = report_of(write_coco([IMAGE], [{**one, "segmentation": ...} for one in BOTH]))
    assert kinds(report) == {"segmentation missing": 2, "no object has a mask": 1}
    empty = report_of(write_coco([IMAGE], [{**one, "segmentation": []} for one in BOTH]))
    assert empty.count("no object has a mask") == 1
    flat = [{**one, "segmentation": SQUARE[0]} for one in BOTH]  # repaired, and a mask
    assert report_of(write_coco([IMAGE], flat)).count("no object has a mask") == 0


def test_files_listed_twice(write_coco):
    root = write_coco([IMAGE], BOTH)
    edited(root, lambda content: content["images"].append({**content["images"][0], "id": 2}))
    assert kinds(report_of(root)) == {"image without annotations": 1, "image file listed twice": 1}


def test_copies_of_images(write_coco):
    other = IMAGE.copy()
    other[0, 0] = 7
    root = write_coco([IMAGE, other, IMAGE, IMAGE], BOTH)
    report = report_of(root)
    (finding,) = (one for one in report.findings if one.kind == "copy of another image")
    assert finding.examples == ["file 3.png = 1.png", "file 4.png = 1.png"]
    assert report_of(root, image_files=False).count("copy of another image") == 0


def test_files_that_agree_at_both_ends_are_no_copies(write_coco):
    """Two uncompressed pictures that differ in the middle."""
    image = np.full((200, 300, 3), 90, np.uint8)
    other = image.copy()
    other[100, 150] = 7
    root = write_coco([image] * 3, BOTH)
    for number, pixels in enumerate((image, other, image), start=1):
        cv2.imwrite(str(root / "train" / f"{number}.bmp"), pixels)

    def rename(content):
        for one in content["images"]:
            one["file_name"] = f"{one['id']}.bmp"

    edited(root, rename)
    (finding,) = (one for one in report_of(root).findings if one.kind == "copy of another image")
    assert finding.examples == ["file 3.bmp = 1.bmp"]


def test_images_that_two_splits_share(write_coco):
    other = np.random.default_rng(0).integers(0, 255, (400, 500, 3), np.uint8)  # longer than what is read of a file
    root = write_coco([IMAGE, other], BOTH)
    (root / "val").mkdir()
    (root / "val" / "a.png").write_bytes((root / "train" / "2.png").read_bytes())
    (root / "val" / "b.png").write_bytes((root / "train" / "2.png").read_bytes()[:-1] + b"x")
    content = json.loads((root / "annotations" / "instances_train.json").read_text())
    content["annotations"] = []
    content["images"] = [
        {"id": number, "file_name": f"{name}.png", "height": 400, "width": 500} for number, name in enumerate("ab")
    ]
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    reports = check_datasets({split: CocoDataset.from_root(root, split) for split in ("train", "val")})
    found = {
        split: [one.examples for one in report.findings if "has too" in one.kind] for split, report in reports.items()
    }
    assert found == {"train": [["file 2.png = a.png"]], "val": [["file a.png = 2.png"]]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"<html></html>", "cannot decode"),
        (b"\xff\xd8\xff\xe0", "cannot decode"),
        (b"\x89PNG\r\n\x1a\n", "cut off"),
    ],
)
def test_files_that_are_no_images(write_coco, content, expected):
    root = write_coco([IMAGE, IMAGE], BOTH)
    (root / "train" / "2.png").write_bytes(content)
    (error,) = report_of(root).by_severity("error")
    assert (error.kind, error.count, error.examples) == ("image file that cannot be read", 1, ["file 2.png"])
    assert expected in error.message
    assert not report_of(root, image_files=False).by_severity("error")


def test_image_files_that_training_skips_are_no_errors(write_coco):
    root = write_coco([IMAGE, IMAGE], BOTH)
    (root / "train" / "1.png").write_bytes(b"")
    cv2.imwrite(str(root / "train" / "2.png"), IMAGE[:30])
    report = check_datasets({"": CocoDataset.from_root(root, "train")}, on_error="skip")[""]
    assert kinds(report, "dropped") == {
        "image file that cannot be read": 1,
        "image of another size than annotated": 1,
    }
    assert report.exit_code == 1


def test_the_first_errors_are_named_in_one_line(write_coco):
    root = write_coco([IMAGE] * 3, BOTH)
    for name in ("1.png", "3.png"):
        (root / "train" / name).write_bytes(b"")
    cv2.imwrite(str(root / "train" / "2.png"), IMAGE[:30])
    with pytest.raises(DatasetError, match=r"/1\.png: .*; .*/2\.png.* 50 x 30.*, and 1 more \(mrcnn-data check"):
        report_of(root).raise_errors()
    report_of(write_coco([IMAGE], BOTH)).raise_errors()


def checked(root, cache):
    return check_datasets({"train": CocoDataset.from_root(root, "train", allow_errors=True)}, cache_dir=cache)["train"]


@pytest.fixture
def count_checks(monkeypatch):
    """How often image files were looked at."""
    calls = []
    monkeypatch.setattr(
        "mrcnn_data.checks.checking.fingerprints", lambda datasets: calls.append(1) or fingerprints(datasets)
    )
    return calls


def test_what_has_not_changed_is_not_checked_again(write_coco, tmp_path, count_checks):
    root, cache = write_coco([IMAGE, IMAGE], [{**GOOD, "segmentation": []}, *BOTH]), tmp_path / "cache"
    first = checked(root, cache)
    assert first.exit_code == 1
    again = checked(root, cache)
    assert len(count_checks) == 1
    assert again.findings == first.findings
    check_datasets({"train": CocoDataset.from_root(root, "train")}, cache_dir=cache, on_error="skip")
    assert len(count_checks) == 2
    assert len(list(cache.glob("*.checked"))) == 1


@pytest.mark.parametrize("change", ["annotations", "image", "touched image", "damage"])
def test_what_has_changed_is_checked_again(write_coco, tmp_path, count_checks, change):
    root, cache = write_coco([IMAGE, IMAGE], BOTH), tmp_path / "cache"
    checked(root, cache)
    if change == "annotations":
        edited(root, lambda content: content["annotations"][0].update(segmentation=[]))
    elif change == "image":
        cv2.imwrite(str(root / "train" / "2.png"), IMAGE + 1)
    elif change == "touched image":
        os.utime(root / "train" / "2.png", ns=(1, 1))
    else:
        (kept,) = cache.glob("*.checked")
        kept.write_bytes(kept.read_bytes()[:-5])
    report = checked(root, cache)
    assert len(count_checks) == 2
    assert report.count("segmentation empty") == (change == "annotations")
    assert report.count("copy of another image") == (change != "image")


def test_errors_are_not_kept(write_coco, tmp_path, count_checks):
    root, cache = write_coco([IMAGE, IMAGE], BOTH), tmp_path / "cache"
    (root / "train" / "2.png").write_bytes(b"")
    for _ in range(2):
        assert checked(root, cache).exit_code == 2
    assert len(count_checks) == 2
    assert not cache.exists()


def test_a_check_needs_no_folder_that_can_be_written(write_coco, tmp_path):
    root = write_coco([IMAGE], BOTH)
    (tmp_path / "file").write_text("")
    assert checked(root, tmp_path / "file" / "cache").exit_code == 0


def test_image_of_another_size(write_coco):
    root = write_coco([IMAGE], BOTH)
    cv2.imwrite(str(root / "train" / "1.png"), IMAGE[:30])
    (error,) = report_of(root).by_severity("error")
    assert error.kind == "image of another size than annotated"
    assert "50 x 30" in error.message


@pytest.mark.parametrize(("annotated", "kind"), [((40, 100), "is not applied"), ((100, 40), "the annotations follow")])
def test_orientation(write_coco, annotated, kind):
    root = write_coco([np.full((40, 100, 3), 90, np.uint8)], BOTH)
    path = root / "train" / "1.png"
    path.write_bytes(jpeg_with_orientation(np.full((40, 100, 3), 90, np.uint8), 6))
    edited(root, lambda content: content["images"][0].update(height=annotated[0], width=annotated[1]))
    (finding,) = report_of(root).findings
    assert (finding.kind, finding.severity) == (f"EXIF orientation that {kind}", "note")


def jpeg_with_orientation(image, orientation, order="<"):
    ok, encoded = cv2.imencode(".jpg", image)
    assert ok
    mark = b"II*\0" if order == "<" else b"MM\0*"

    def number(value, size):
        return value.to_bytes(size, "little" if order == "<" else "big")

    directory = number(1, 2) + number(0x0112, 2) + number(3, 2) + number(1, 4) + number(orientation, 2) + b"\0\0"
    block = b"Exif\0\0" + mark + number(8, 4) + directory + number(0, 4)
    data = encoded.tobytes()
    return data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
@pytest.mark.parametrize("size", [(1, 1), (40, 50), (50, 40), (300, 17)])
def test_headers_say_what_decoding_says(tmp_path, suffix, size):
    path = tmp_path / f"image{suffix}"
    for channels in (3, 1):
        image = np.random.default_rng(0).integers(0, 255, (*size, channels), np.uint8)
        cv2.imwrite(str(path), image)
        header = read_header(path)
        assert header is not None
        assert header.size == size == load_image(path).shape[:2]
        assert header.orientation == 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_header_orientation(tmp_path, orientation, order):
    path = tmp_path / "image.jpg"
    path.write_bytes(jpeg_with_orientation(IMAGE, orientation, order))
    assert read_header(path) == ((40, 50), orientation)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_cut_files_have_no_header(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
    whole = path.read_bytes()
    for length in (*range(1, 64), len(whole) // 2, len(whole) - 6):
        path.write_bytes(whole[:length])
        assert read_header(path) is None
    assert read_header(tmp_path / "none") is None
    path.write_bytes(b"II*\0" + bytes(60))
    assert read_header(path) is None


def test_real_data_holds_what_is_known_of_it(shared_data):
    found = {}
    for name, split in (("coco_open", "train"), ("coco_open", "val"), ("nuclei", "train"), ("fruits_nuts", "train")):
        dataset = CocoDataset.from_root(shared_data / name, split, allow_errors=True)
        found[name, split] = check_dataset(dataset)
    train, val = found["coco_open", "train"], found["coco_open", "val"]
    assert train.count("iscrowd") + val.count("iscrowd") == 13
    assert val.count("image without annotations") == 2
    assert {kind for report in (train, val) for kind in kinds(report)} == {
        "iscrowd",
        "image without annotations",
        "category without an object",
    }
    assert not found["nuclei", "train"].findings
    assert not found["fruits_nuts", "train"].findings


def test_a_link_that_leads_nowhere_is_an_unreadable_file(write_coco):
    root = write_coco([np.zeros((9, 9, 3), np.uint8)], [])
    (root / "train" / "1.png").unlink()
    (root / "train" / "1.png").symlink_to(root / "gone.png")
    report = check_dataset(CocoDataset.from_root(root, "train", allow_errors=True))
    assert [finding.kind for finding in report.by_severity("error")] == ["image file that cannot be read"]
