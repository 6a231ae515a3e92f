"""Files that are not what their name says: one line that says what they are and what to do."""

import gzip
import io
import json
import re
import zipfile

import pytest

from mrcnn_data import CocoDataset, DatasetError, read_json
from mrcnn_data.annotations.opening import find_split
from mrcnn_data.checks.fixing import fix_annotations

CONTENT = {
    "images": [{"id": 1, "file_name": "1.png", "width": 50, "height": 40}],
    "annotations": [],
    "categories": [{"id": 3, "name": "three"}],
}
TEXT = json.dumps(CONTENT).encode()


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("instances_train.json", TEXT)
    return file.getvalue()


NOT_JSON = {
    "zip": (zipped(), "it is a ZIP archive: unpack it"),
    "gzip": (gzip.compress(TEXT), "it is compressed with gzip"),
    "bzip2": (b"BZh91AY&SY", "it is compressed with bzip2"),
    "xz": (b"\xfd7zXZ\x00\x00\x04", "it is compressed with xz"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "git lfs pull"),
    "html": (b"\n<!DOCTYPE html><html><body>404</body></html>", "it is an HTML page"),
    "xml": (b'<?xml version="1.0"?><annotation/>', "it is XML"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "it is a PNG picture"),
    "empty": (b"", "the file is empty"),
    "white space": (b" \n\t\n", "the file has only white space"),
    "zeros": (bytes(600), "the file begins with zero bytes"),
    "cut off": (TEXT[:-30], f"it ends in the middle, after {len(TEXT) - 30} bytes"),
    "bad byte": (TEXT.replace(b"three", b"thr\xffe"), f"byte 0xff at offset {TEXT.index(b'three') + 3} is not utf-8"),
    "bad byte behind a BOM": (b"\xef\xbb\xbf" + TEXT.replace(b"three", b"thr\xffe"), "byte 0xff at offset"),
    "two values": (TEXT + b"{}", r"trailing characters \(byte \d+\)"),
}
OTHER_JSON = {
    "results": ([{"image_id": 1, "category_id": 3, "score": 0.5, "bbox": [1, 2, 3, 4]}], "mrcnn-eval --results"),
    "labelme": ({"version": "5", "flags": {}, "shapes": [], "imagePath": "1.png"}, "a file of LabelMe"),
    "via": ({"1.png123": {"filename": "1.png", "size": 123, "regions": []}}, "annotations of VIA"),
    "via project": ({"_via_settings": {}, "_via_img_metadata": {}}, "a project of VIA"),
    "geojson": ({"type": "FeatureCollection", "features": []}, "GeoJSON"),
    "createml": ([{"image": "1.png", "annotations": []}], "CreateML"),
    "list": ([], "it is a list; a dataset has lists of images"),
    "keys": ({"a": 1, "b": 2}, 'it has no "images", only "a", "b"'),
    "no categories": ({"images": [], "annotations": []}, 'it has no "categories"'),
    "no list": ({**CONTENT, "annotations": {}}, '"annotations" in it is not a list'),
    "number": (5, "it is only int"),
}


@pytest.fixture
def root(write_coco):
    import numpy as np

    return write_coco([np.full((40, 50, 3), 90, np.uint8)], [])


def errors_of(root, content):
    """Return the messages of opening the file and of repairing it."""
    path = root / "annotations" / "instances_train.json"
    path.write_bytes(content)
    for call in (lambda: CocoDataset.from_root(root, "train"), lambda: fix_annotations(find_split(root, "train"))):
        with pytest.raises(DatasetError) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(str(path))
        yield str(caught.value)


@pytest.mark.parametrize("kind", NOT_JSON)
def test_what_is_not_json(root, kind):
    content, expected = NOT_JSON[kind]
    for message in errors_of(root, content):
        assert re.search(f"is not JSON: .*{expected}", message), message


@pytest.mark.parametrize("kind", OTHER_JSON)
def test_json_of_another_layout(root, kind):
    content, expected = OTHER_JSON[kind]
    for message in errors_of(root, json.dumps(content).encode()):
        assert f"is not a COCO instances file: {expected}" in message or expected in message


def test_lists_in_lists_without_end(root):
    for message in errors_of(root, b"[" * 200_000 + b"]" * 200_000):
        assert "is not a COCO" in message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_every_encoding_of_json_is_read(root, encoding):
    path = root / "annotations" / "instances_train.json"
    path.write_bytes(TEXT.decode().encode(encoding))
    assert CocoDataset.from_root(root, "train").class_names == ("three",)
    assert read_json(path) == CONTENT


def test_read_json_names_what_it_cannot_read(tmp_path):
    with pytest.raises(DatasetError, match=r"gone\.json: cannot be read: No such file"):
        read_json(tmp_path / "gone.json")
    (tmp_path / "a.json").write_text("{'a': 1}")
    with pytest.raises(DatasetError, match=r"a\.json is not JSON: .*byte 1"):
        read_json(tmp_path / "a.json")
