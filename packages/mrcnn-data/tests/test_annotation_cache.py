"""Mapped copies of annotation files: recognised by path, size and time, then by content; never half a file."""

import json
import os
import pickle
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from mrcnn_data import CocoDataset, DatasetError, check_datasets

IMAGE = np.full((40, 50, 3), 90, np.uint8)
SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]
GOOD = {"bbox": [10, 10, 10, 10], "segmentation": SQUARE}
RLE = {"size": [40, 50], "counts": [0, 100, 1900]}


@pytest.fixture
def root(write_coco):
    annotations = [
        {**GOOD, "image_id": 2, "category_id": 7},
        {"bbox": [0, 0, 3, 40], "segmentation": RLE, "ignore": 1},
        {"segmentation": SQUARE, "area": ...},
        {**GOOD, "image_id": 2, "segmentation": ...},
    ]
    return write_coco([IMAGE] * 3, annotations)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def annotation_file(root):
    return root / "annotations" / "instances_train.json"


def opened(root, cache=None):
    return CocoDataset.from_root(root, "train", cache_dir=cache)


def assert_same(ours, theirs):
    assert ours.image_ids == theirs.image_ids
    assert ours.file_names == theirs.file_names
    assert (ours.category_ids, ours.class_names) == (theirs.category_ids, theirs.class_names)
    np.testing.assert_array_equal(ours.image_sizes, theirs.image_sizes)
    assert str(ours.report) == str(theirs.report)
    for index in range(len(ours)):
        for one, other in zip(ours.instances(index), theirs.instances(index), strict=True):
            assert_equal(one, other)


def assert_equal(one, other):
    if isinstance(one, list):
        assert [str(item) for item in one] == [str(item) for item in other]
    else:
        np.testing.assert_array_equal(one, other)


def columns_files(cache):
    return sorted(cache.glob("*.columns"))


def is_mapped(dataset):
    """Whether the dataset came out of the cache: its arrays cannot be written to."""
    return not dataset.annotations.classes.flags.writeable


def test_what_comes_out_is_what_is_in_the_file(root, cache):
    plain = opened(root)
    assert not is_mapped(plain)
    for _ in range(2):
        cached = opened(root, cache)
        assert is_mapped(cached)
        assert_same(cached, plain)
    assert len(columns_files(cache)) == 1
    assert not list(cache.glob("*.partial"))


@pytest.mark.parametrize("ids", [["a", 2, ..., 4], [2**80, 2, 3, 4]])
def test_ids_that_no_array_holds(root, cache, ids):
    content = json.loads(annotation_file(root).read_text())
    for annotation, annotation_id in zip(content["annotations"], ids, strict=True):
        annotation.pop("id") if annotation_id is ... else annotation.update(id=annotation_id)
    annotation_file(root).write_text(json.dumps(content))
    opened(root, cache)
    assert_same(opened(root, cache), opened(root))


def test_nothing_to_cache(write_coco, cache):
    root = write_coco([IMAGE], [])
    for _ in range(2):
        assert opened(root, cache).num_objects().tolist() == [0]


def test_python_json_of_nan(write_coco, cache):
    root = write_coco(
        [IMAGE], [{**GOOD, "area": float("nan"), "segmentation": [[float("inf"), 1, 2, 3, 4, 9], *SQUARE]}]
    )
    for _ in range(2):
        assert_same(opened(root, cache), opened(root))


def test_a_changed_file_is_read_anew(root, cache):
    opened(root, cache)
    content = json.loads(annotation_file(root).read_text())
    content["annotations"][0]["bbox"] = [11, 10, 10, 10]  # of the same size
    annotation_file(root).write_text(json.dumps(content))
    assert opened(root, cache).instances(1).boxes[0, 0] == 11
    assert len(columns_files(cache)) == 1  # what nothing refers to is deleted


def test_a_touched_or_moved_file_is_recognised_by_its_content(root, cache, tmp_path):
    opened(root, cache)
    (columns,) = columns_files(cache)
    written = columns.stat().st_mtime_ns, columns.stat().st_ino
    os.utime(annotation_file(root), ns=(1, 1))
    assert is_mapped(opened(root, cache))
    moved = tmp_path / "moved.json"
    moved.write_bytes(annotation_file(root).read_bytes())
    assert is_mapped(CocoDataset.open(moved, root / "train", cache_dir=cache))
    assert columns_files(cache) == [columns]
    assert (columns.stat().st_mtime_ns, columns.stat().st_ino) == written


def test_same_size_and_time_is_taken_for_the_same_file(root, cache):
    opened(root, cache)
    status = annotation_file(root).stat()
    annotation_file(root).write_bytes(b" " * status.st_size)
    os.utime(annotation_file(root), ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert len(opened(root, cache)) == 3  # nothing was read
    os.utime(annotation_file(root), ns=(5, 5))
    with pytest.raises(DatasetError, match="is not JSON"):
        opened(root, cache)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_cut_off_cache_is_written_anew(root, cache, share):
    plain = opened(root)
    opened(root, cache)
    (columns,) = columns_files(cache)
    whole = columns.read_bytes()
    columns.write_bytes(whole[: int(len(whole) * share)])
    assert_same(opened(root, cache), plain)
    assert columns.read_bytes() == whole


@pytest.mark.parametrize("suffix", ["columns", "json"])
def test_garbage_is_written_anew(root, cache, suffix):
    plain = opened(root)
    opened(root, cache)
    for path in cache.glob(f"*.{suffix}"):
        path.write_bytes(b"\xff" * path.stat().st_size)
    assert_same(opened(root, cache), plain)


def test_no_flipped_byte_goes_unnoticed(root, cache):
    plain = opened(root)
    opened(root, cache)
    (columns,) = columns_files(cache)
    whole = columns.read_bytes()
    segmentations = plain.annotations.segmentations
    text = b"".join(segmentations[row] for row in range(len(segmentations)))
    first = whole.index(text)
    for position in range(0, len(whole), 61):
        damaged = bytearray(whole)
        damaged[position] ^= 4
        columns.write_bytes(damaged)
        if not first <= position < first + len(text):
            assert_same(opened(root, cache), plain)
        else:
            with pytest.raises(DatasetError, match="the annotation cache is damaged: delete it"):
                opened(root, cache).instances(0)


def test_faulty_files_are_not_cached(root, cache):
    content = json.loads(annotation_file(root).read_text())
    content["annotations"][0]["category_id"] = 99
    annotation_file(root).write_text(json.dumps(content))
    for _ in range(2):
        with pytest.raises(DatasetError, match="category 99"):
            opened(root, cache)
    dataset = CocoDataset.from_root(root, "train", cache_dir=cache, allow_errors=True)
    assert dataset.num_objects().tolist() == [1, 1, 0]
    assert not columns_files(cache)
    with pytest.raises(DatasetError, match="cannot read the annotation file"):
        CocoDataset.open(root / "gone.json", root / "train", cache_dir=cache)


def test_a_folder_that_cannot_be_made_costs_the_cache_only(root, tmp_path):
    (tmp_path / "file").write_text("")
    dataset = opened(root, tmp_path / "file" / "cache")
    assert_same_objects = [dataset.instances(index).annotation_ids for index in range(3)]
    assert assert_same_objects == [[3], [1, 4], []]
    assert dataset.opening_report.count("annotation cache that cannot be written") == 1


def test_processes_that_start_together(root, cache):
    code = (
        "import sys; from mrcnn_data import CocoDataset;"
        "d = CocoDataset.from_root(sys.argv[1], 'train', cache_dir=sys.argv[2]);"
        "print(d.num_objects().tolist(), d.annotations.classes.flags.writeable, d.instances(1).segmentations[0])"
    )
    command = [sys.executable, "-c", code, str(root), str(cache)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = {process.communicate(timeout=60)[0] for process in processes}
    assert all(process.returncode == 0 for process in processes)
    assert len(outputs) == 1
    assert next(iter(outputs)).startswith("[1, 2, 0] False Polygons(")
    assert len(columns_files(cache)) == 1
    assert not list(cache.glob("*.partial"))


def test_datasets_can_be_pickled(root, cache):
    opened(root, cache)
    for dataset in (opened(root), opened(root, cache)):
        assert_same(pickle.loads(pickle.dumps(dataset)), dataset)


def test_a_path_that_is_not_utf_8(root, cache, tmp_path):
    moved = tmp_path / os.fsdecode(b"d\xff")
    moved.mkdir()
    for name in ("annotations", "train"):
        (root / name).rename(moved / name)
    for _ in range(2):
        dataset = opened(moved, cache)
        assert_same(dataset, opened(moved))
        assert dataset.name.endswith("d\\udcff/annotations/instances_train.json")
        check_datasets({"train": dataset}, cache_dir=cache)
        assert len(list(cache.glob("*.checked"))) == 1
    (moved / "annotations").rename(moved / "elsewhere")
    root = tmp_path / "other"
    root.mkdir()
    for source, name in (("elsewhere", "annotations"), ("train", "train")):
        (moved / source).rename(root / name)
    check_datasets({"train": opened(root, cache)}, cache_dir=cache)
    assert len(list(cache.glob("*.checked"))) == 1, "the report on a file that is gone is deleted"


def test_a_stamp_that_holds_anything_is_written_anew(root, cache):
    plain = opened(root)
    opened(root, cache)
    (stamp,) = cache.glob("*-*.json")
    whole = json.loads(stamp.read_text())
    for content in (
        json.dumps(whole).replace(whole["path"], "\udcff").encode("utf-8", "surrogateescape"),
        b"[" * 100_000,
        json.dumps({**whole, "content": "../" + whole["content"]}).encode(),
        json.dumps({**whole, "content": "\0"}).encode(),
    ):
        stamp.write_bytes(content)
        assert_same(opened(root, cache), plain)
        assert json.loads(stamp.read_text()) == whole


def test_columns_with_right_checksums_that_hold_anything_are_written_anew(root, cache):
    plain = opened(root)
    opened(root, cache)
    (columns,) = columns_files(cache)
    whole = columns.read_bytes()

    def rewritten(change):
        end, length, _ = struct.unpack("<QQI", whole[-20:])
        header = json.loads(whole[end - length : end])
        change(header)
        encoded = json.dumps(header).encode()
        start = whole[: end - length]
        return start + encoded + struct.pack("<QQI", end - length + len(encoded), len(encoded), zlib.crc32(encoded))

    for change in (
        lambda header: header["arrays"].pop("classes"),
        lambda header: header["arrays"]["classes"].update(dtype="nonsense"),
        lambda header: header["arrays"]["classes"].update(dtype="|O"),
        lambda header: header["arrays"]["classes"].update(offset=10**12),
        lambda header: header["findings"].append({"nothing": 1}),
        lambda header: header["file_names"].pop(),
        lambda header: header["class_names"].append("one more"),
        lambda header: header["image_ids"].append(7),
    ):
        columns.write_bytes(rewritten(change))
        assert_same(opened(root, cache), plain)
        assert columns.read_bytes() == whole


def test_a_damaged_report_is_made_again(root, cache):
    first = check_datasets({"train": opened(root, cache)}, cache_dir=cache)["train"].as_records()
    (checked,) = cache.glob("*.checked")
    for content in (b'{"state": "\xff"}', b"[" * 100_000, b"[]", b""):
        checked.write_bytes(content)
        (cache / "other.checked").write_bytes(content)
        assert check_datasets({"train": opened(root, cache)}, cache_dir=cache)["train"].as_records() == first


def test_writing_follows_no_link_and_keeps_names_apart(root, cache, tmp_path):
    cache.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("the user's")
    taken = cache / ".mrcnn-0000000000000000.partial"
    taken.symlink_to(victim)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secrets.token_hex", lambda count: "00" * count)
        dataset = opened(root, cache)
    assert dataset.opening_report.count("annotation cache that cannot be written") == 1
    assert victim.read_text() == "the user's"
    assert taken.is_symlink()
