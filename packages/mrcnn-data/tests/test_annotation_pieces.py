"""A file that is decoded in pieces, while it is read, against the same text decoded as a whole."""

import errno
import hashlib
import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mrcnn_data.annotations import decoding
from mrcnn_data.annotations import text as annotation_text
from mrcnn_data.annotations.file import read_annotations
from mrcnn_data.annotations.text import AnnotationText
from mrcnn_data.errors import DatasetError

NUM_ANNOTATIONS = 6000  # 2 MB: several pieces


def content(**changes):
    annotations = [
        {
            "segmentation": [[float(n % 97), 2.5] * 20],
            "id": n + 1,
            "image_id": 1 + n * 7 % 50,
            "category_id": 1 + n % 3,
            "bbox": [n % 100, 2, 3, 4.5],
            "area": float(n),
            "iscrowd": n % 2,
        }
        for n in range(NUM_ANNOTATIONS)
    ]
    parts = {
        "info": {"description": "of the tests"},
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 100, "width": 120} for i in range(1, 51)],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"c{i}"} for i in (1, 2, 3)],
    }
    return parts | changes


def changed(row, **fields):
    parts = content()
    parts["annotations"][row].update(fields)
    return parts


def without(row, name):
    parts = content()
    del parts["annotations"][row][name]
    return parts


CASES = {
    "COCO's order": content(),
    "annotations last": dict(sorted(content().items(), key=lambda part: part[0] == "annotations")),
    "annotations first": dict(sorted(content().items())),
    "no annotations": content(annotations=[]),
    "nested annotations": content(info={"annotations": [{"image_id": 1, "category_id": 1}]}),
    "the word in a string": content(info={"description": 'x "annotations": [{}, {}], "categories"'}),
    "objects within an annotation": changed(1500, attributes=[{"a": 1}, {"b": 2}] * 20_000),
    "an end within an annotation": changed(5999, more={"a": [{"b": 1}], "categories": []}),
    "unknown image, late": changed(5500, image_id=77),
    "unknown category, late": changed(5500, category_id=9),
    "id of text, late": changed(5500, id="late"),
    "id beyond 64 bits": changed(5500, id=2**70),
    "image of text": changed(5500, image_id="1"),
    "no id": without(5500, "id"),
    "no box": without(5500, "bbox"),
    "odd box": changed(5500, bbox=[1, None, 2, 3]),
    "no area": without(5500, "area"),
    "negative area": changed(5500, area=-1),
    "no iscrowd": without(5500, "iscrowd"),
    "iscrowd of text": changed(5500, iscrowd="yes"),
    "no segmentation": without(5500, "segmentation"),
    "repeated id": changed(5500, id=1),
    "NaN": changed(5500, area=float("nan")),
    "unreadable entry": changed(5500, image_id=[1]),
    "annotations are no list": content(annotations={"a": [{}, {}]}),
}


def outcome(path, data=None):
    try:
        columns, report, _ = read_annotations(path, data=data)
    except DatasetError as error:
        return str(error)
    plain = columns._replace(segmentations=[columns.segmentations[i] for i in range(len(columns.segmentations))])
    values = [(v.dtype, v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for v in plain]
    return values, report.as_records()


@pytest.mark.parametrize("name", CASES)
def test_as_decoded_whole(tmp_path, name):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(CASES[name]))
    assert outcome(path) == outcome(path, path.read_bytes())


@pytest.mark.parametrize("separators", [(",", ":"), (",\n ", " : ")])
def test_other_spaces_as_decoded_whole(tmp_path, separators):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content(), separators=separators))
    assert outcome(path) == outcome(path, path.read_bytes())


@pytest.mark.parametrize("length", [0, 1, 100_000, -2, -1])
def test_cut_off_as_decoded_whole(tmp_path, length):
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(content()).encode()[:length])
    assert outcome(path) == outcome(path, path.read_bytes())


@pytest.fixture
def small_blocks(monkeypatch):
    """Hundreds of pieces, most of them decoded before the file has been read."""
    monkeypatch.setattr(annotation_text, "_BLOCK", 1000)
    monkeypatch.setattr(decoding, "_PIECE", 5000)


IN_PIECES = ("COCO's order", "annotations last", "annotations first", "unknown image, late", "no id", "no iscrowd")


@pytest.mark.parametrize("name", IN_PIECES)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (",\n ", " : ")])
def test_never_decoded_whole(tmp_path, monkeypatch, small_blocks, name, separators):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(CASES[name], separators=separators))
    expected = outcome(path, path.read_bytes())
    monkeypatch.setattr(decoding, "_decode_whole", lambda *_: pytest.fail("decoded whole"))
    assert outcome(path) == expected


@pytest.mark.parametrize("name", CASES)
def test_small_blocks_as_decoded_whole(tmp_path, small_blocks, name):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(CASES[name]))
    text = AnnotationText(path, is_hashed=True)
    assert outcome(path, text) == outcome(path, path.read_bytes())
    assert bytes(text.whole()) == path.read_bytes()  # brackets are gone
    assert text.content() == hashlib.sha256(path.read_bytes()).hexdigest()[:32]


class File:
    """What the thread reads from; `before_block` is called with the position."""

    def __init__(self, path, before_block):
        self.file = Path.open(path, "rb", buffering=0)
        self.before_block = before_block

    def fileno(self):
        return self.file.fileno()

    def readinto(self, block):
        self.before_block(self.file.tell())
        return self.file.readinto(block)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def test_memory_that_has_not_been_read_is_not_looked_at(tmp_path, monkeypatch, small_blocks):
    """NumPy may hand out the memory of an earlier reading: of the same file before it changed, say."""
    path = tmp_path / "a.json"
    before = json.dumps(CASES["objects within an annotation"]).encode()
    after = before.replace(b'"category_id": 3, "bbox": [99', b'"category_id": 2, "bbox": [99')
    assert after != before
    path.write_bytes(after)
    numpy = SimpleNamespace(uint8=np.uint8, empty=lambda size, kind: np.frombuffer(bytearray(before), kind))
    monkeypatch.setattr(annotation_text, "np", numpy)
    slow = File(path, lambda position: time.sleep(0.0002))
    monkeypatch.setattr(annotation_text, "open", lambda *_, **__: slow, raising=False)
    assert outcome(path) == outcome(path, after)


def test_a_file_that_cannot_be_read_further(tmp_path, monkeypatch, small_blocks):
    def fail_late(position):
        if position > 100_000:
            raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "a.json"
    path.write_text(json.dumps(content()))
    monkeypatch.setattr(annotation_text, "open", lambda *_, **__: File(path, fail_late), raising=False)
    with pytest.raises(DatasetError, match=r"a\.json: cannot read the annotation file: Input/output error"):
        read_annotations(path)


def test_pipe(tmp_path):
    text = json.dumps(content()).encode()
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(text,))
    writer.start()
    assert outcome(path) == outcome(path, text)
    writer.join()
