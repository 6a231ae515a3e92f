"""Every kind of image file to RGB, or an error that names it."""

import os
import re
import signal
import struct
import zlib

import cv2
import numpy as np
import pytest

from mrcnn_data import CocoDataset, DatasetError, check_dataset, load_image
from mrcnn_data.images import read_header

GRADIENT = np.zeros((40, 100, 3), np.uint8)
GRADIENT[..., 0] = np.arange(0, 200, 2)
GRADIENT[..., 1] = np.arange(0, 160, 4)[:, None]
GRADIENT[..., 2] = 50


def save(path, image, *options):
    bgr = image[..., ::-1] if image.ndim == 3 and image.shape[2] == 3 else image
    assert cv2.imwrite(str(path), bgr, list(options))
    return path


def with_exif_orientation(jpeg, orientation):
    """Insert an Exif segment with nothing but the orientation after the start of the file."""
    tiff = b"MM\x00*\x00\x00\x00\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    segment = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff"])
def test_lossless_formats(tmp_path, suffix):
    image = load_image(save(tmp_path / f"a.{suffix}", GRADIENT))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, GRADIENT)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_formats(tmp_path, suffix):
    image = load_image(save(tmp_path / f"a.{suffix}", GRADIENT)).astype(int)
    assert np.abs(image - GRADIENT).mean() < 4


def test_red_is_the_first_channel(tmp_path):
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    assert load_image(save(tmp_path / "a.png", red))[0, 0].tolist() == [255, 0, 0]


def test_grey_alpha_and_16_bit(tmp_path):
    grey = GRADIENT[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(load_image(save(tmp_path / "grey.png", grey)), expected)
    rgba = np.dstack([GRADIENT[..., ::-1], np.full(grey.shape, 128, np.uint8)])  # saved as BGRA
    np.testing.assert_array_equal(load_image(save(tmp_path / "alpha.png", rgba)), GRADIENT)
    deep = load_image(save(tmp_path / "deep.png", grey.astype(np.uint16) * 257))
    assert deep.dtype == np.uint8
    np.testing.assert_allclose(deep.astype(int), expected, atol=1)


def cmyk_jpeg(inks):
    """A JPEG of 8 x 8 pixels of one colour: four components, stored as Adobe does (255 = no ink)."""

    def segment(marker, data):
        return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data

    bits = ""
    for ink in inks:
        difference = ink - 128  # with all quantisers 8 the DC coefficient is the mean
        length = abs(difference).bit_length()
        bits += f"{length:04b}"  # code of the DC length
        if length:
            bits += f"{difference if difference > 0 else difference + 2**length - 1:0{length}b}"
        bits += "0"  # no AC coefficients
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3, 4))
    return (
        b"\xff\xd8"
        + segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 0))
        + segment(0xDB, bytes([0]) + bytes([8] * 64))
        + segment(0xC0, struct.pack(">BHHB", 8, 8, 8, 4) + components)
        + segment(0xC4, bytes([0x00, 0, 0, 0, 9, *[0] * 12, *range(9)]))  # DC: lengths 0..8, four bits each
        + segment(0xC4, bytes([0x10, 1, *[0] * 15, 0]))  # AC: end of block, one bit
        + segment(0xDA, bytes([4, 1, 0, 2, 0, 3, 0, 4, 0, 0, 63, 0]))
        + scan
        + b"\xff\xd9"
    )


def test_cmyk_jpeg(tmp_path):
    (tmp_path / "a.jpg").write_bytes(cmyk_jpeg((255, 100, 30, 255)))
    image = load_image(tmp_path / "a.jpg")
    assert image.shape == (8, 8, 3)
    np.testing.assert_allclose(image.reshape(-1, 3).astype(int), [[255, 100, 30]] * 64, atol=2)


def png(*, depth, kind, row, width, more=b""):
    """A PNG of one row; kind 0 = grey, 2 = RGB, 3 = palette, 4 = grey + alpha, 6 = RGBA."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0))
    palette = chunk(b"PLTE", bytes([10, 20, 30, 200, 100, 50])) if kind == 3 else b""
    transparent = chunk(b"tRNS", more) if more else b""
    pixels = chunk(b"IDAT", zlib.compress(b"\x00" + row))
    return b"\x89PNG\r\n\x1a\n" + header + palette + transparent + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"depth": 8, "kind": 3, "row": b"\x01\x00"}, [[200, 100, 50], [10, 20, 30]]),
        ({"depth": 1, "kind": 3, "row": b"\x80"}, [[200, 100, 50], [10, 20, 30]]),
        ({"depth": 8, "kind": 3, "row": b"\x01\x00", "more": b"\x00\x80"}, [[200, 100, 50], [10, 20, 30]]),
        ({"depth": 1, "kind": 0, "row": b"\x80"}, [[255] * 3, [0] * 3]),
        ({"depth": 8, "kind": 0, "row": b"\x07\x09", "more": b"\x00\x07"}, [[7] * 3, [9] * 3]),
        ({"depth": 8, "kind": 4, "row": b"\x07\x00\x09\xff"}, [[7] * 3, [9] * 3]),
        ({"depth": 16, "kind": 0, "row": b"\x07\x01\x09\xfe"}, [[7] * 3, [9] * 3]),
        ({"depth": 16, "kind": 4, "row": b"\x07\x01\x00\x00\x09\x00\xff\xff"}, [[7] * 3, [9] * 3]),
        ({"depth": 16, "kind": 2, "row": bytes([1, 0, 2, 0, 3, 0, 4, 9, 5, 9, 6, 9])}, [[1, 2, 3], [4, 5, 6]]),
        ({"depth": 8, "kind": 6, "row": bytes([1, 2, 3, 0, 4, 5, 6, 255])}, [[1, 2, 3], [4, 5, 6]]),
        (
            {"depth": 16, "kind": 6, "row": bytes([1, 0, 2, 0, 3, 0, 0, 0, 4, 9, 5, 9, 6, 9, 255, 255])},
            [[1, 2, 3], [4, 5, 6]],
        ),
    ],
)
def test_kinds_of_png(tmp_path, options, expected):
    """Palette, grey, alpha and 16 bits by hand: alpha changes nothing, 16 bits become 8."""
    (tmp_path / "a.png").write_bytes(png(width=2, **options))
    assert load_image(tmp_path / "a.png").tolist() == [expected]


def test_16_bit_tiff(tmp_path):
    deep = GRADIENT.astype(np.uint16) * 257
    np.testing.assert_array_equal(load_image(save(tmp_path / "a.tiff", deep)), GRADIENT)
    grey = load_image(save(tmp_path / "b.tiff", deep[..., 0]))
    np.testing.assert_array_equal(grey, np.repeat(GRADIENT[..., :1], 3, axis=2))
    opaque = np.dstack([deep[..., ::-1], np.full(deep.shape[:2], 65535, np.uint16)])
    np.testing.assert_array_equal(load_image(save(tmp_path / "c.tiff", opaque)), GRADIENT)


def test_webp_with_alpha(tmp_path):
    opaque = np.dstack([GRADIENT[..., ::-1], np.full(GRADIENT.shape[:2], 200, np.uint8)])
    image = load_image(save(tmp_path / "a.webp", opaque, cv2.IMWRITE_WEBP_QUALITY, 101))  # 101: lossless
    np.testing.assert_array_equal(image, GRADIENT)


def test_damaged_png_is_no_image(tmp_path):
    content = bytearray(
        save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (40, 100, 3), np.uint8)).read_bytes()
    )
    content[len(content) // 2] ^= 0xFF  # its checksum tells
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.png"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tiff"])
@pytest.mark.parametrize("lost", [6, 200])
def test_cut_off_files_are_named(tmp_path, suffix, lost):
    noisy = np.random.default_rng(0).integers(0, 255, (40, 100, 3), np.uint8)
    path = save(tmp_path / f"a.{suffix}", noisy)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(DatasetError, match=re.escape(str(path))):
        load_image(path)


def test_a_thumbnail_does_not_hide_a_cut(tmp_path):
    whole = save(tmp_path / "a.jpg", GRADIENT).read_bytes()
    thumbnail = save(tmp_path / "b.jpg", GRADIENT[::4, ::4]).read_bytes()
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    (tmp_path / "c.jpg").write_bytes(whole[:2] + segment + whole[2:] + b"trailing bytes of a camera")
    load_image(tmp_path / "c.jpg")
    (tmp_path / "d.jpg").write_bytes(whole[:2] + segment + whole[2:-6])
    with pytest.raises(DatasetError, match="cut off"):
        load_image(tmp_path / "d.jpg")


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"\xff\xd8\xff\xd9", bytes(1000)])
def test_no_image_at_all(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=re.escape(str(path))):
        load_image(path)
    with pytest.raises(DatasetError, match=r"gone\.jpg: cannot read"):
        load_image(tmp_path / "gone.jpg")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_ignored_unless_the_annotations_mean_the_upright_image(tmp_path, orientation):
    stored = load_image(save(tmp_path / "plain.jpg", GRADIENT))  # 40 x 100 (h x w)
    path = tmp_path / "turned.jpg"
    path.write_bytes(with_exif_orientation((tmp_path / "plain.jpg").read_bytes(), orientation))
    np.testing.assert_array_equal(load_image(path), stored)
    np.testing.assert_array_equal(load_image(path, expected_size=(40, 100)), stored)
    upright = {
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored, 1),
    }
    if orientation in upright:
        np.testing.assert_array_equal(load_image(path, expected_size=(100, 40)), upright[orientation])
    else:
        with pytest.raises(DatasetError, match="EXIF"):
            load_image(path, expected_size=(100, 40))


def tiff(pixels, *, orientation=1, photometric=2):
    """An uncompressed TIFF: [h, w, samples], photometric 2 = RGB, 5 = CMYK."""
    height, width, samples = pixels.shape
    depths, data = struct.pack(f"<{samples}H", *[8] * samples), pixels.tobytes()
    start = 8 + 2 + 12 * 11 + 4
    entries = [
        (256, width), (257, height), (258, start), (259, 1), (262, photometric), (273, start + len(depths)),
        (274, orientation), (277, samples), (278, height), (279, len(data)), (284, 1),
    ]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", tag, 4 if tag != 258 else 3, 1 if tag != 258 else samples, value)
                         for tag, value in entries)  # fmt: skip
    return b"II*\x00" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + depths + data


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_tiff_follows_the_same_rule(tmp_path, orientation):
    path = tmp_path / "a.tiff"
    path.write_bytes(tiff(GRADIENT, orientation=orientation))
    np.testing.assert_array_equal(load_image(path), GRADIENT)
    np.testing.assert_array_equal(load_image(path, expected_size=(40, 100)), GRADIENT)
    upright = {
        5: GRADIENT.transpose(1, 0, 2),
        6: np.rot90(GRADIENT, -1),
        7: GRADIENT[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(GRADIENT, 1),
    }
    if orientation in upright:
        np.testing.assert_array_equal(load_image(path, expected_size=(100, 40)), upright[orientation])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.tiff"])
def test_upright_turns_an_image_as_viewers_do(tmp_path, orientation, name):
    path = tmp_path / name
    stored = GRADIENT
    if name == "a.tiff":
        path.write_bytes(tiff(GRADIENT, orientation=orientation))
    else:
        stored = load_image(save(path, GRADIENT))
        path.write_bytes(with_exif_orientation(path.read_bytes(), orientation))
    turned = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored, 1),
    }[orientation]
    np.testing.assert_array_equal(load_image(path, upright=True), turned)
    np.testing.assert_array_equal(load_image(path, upright=True, expected_size=turned.shape[:2]), turned)
    with pytest.raises(DatasetError, match="the annotations say"):
        load_image(path, upright=True, expected_size=turned.shape[1::-1])


def test_cmyk_tiff(tmp_path):
    inks = np.zeros((2, 3, 4), np.uint8) + np.array([0, 155, 225, 0], np.uint8)
    (tmp_path / "a.tiff").write_bytes(tiff(inks, photometric=5))
    np.testing.assert_array_equal(load_image(tmp_path / "a.tiff"), np.full((2, 3, 3), [255, 100, 30]))


def test_a_tiff_directory_that_leads_nowhere(tmp_path):
    path = tmp_path / "a.tiff"
    whole = tiff(GRADIENT)
    for spoilt in (whole[:4] + b"\xff\xff\xff\x7f" + whole[8:], whole[:6], whole[:30]):
        path.write_bytes(spoilt)
        with pytest.raises(DatasetError, match=re.escape(str(path))):
            load_image(path)


def test_wrong_size_names_the_file(tmp_path):
    path = save(tmp_path / "a.png", GRADIENT)
    with pytest.raises(DatasetError, match=r"a\.png: the image is 100 x 40 .* say 90 x 40"):
        load_image(path, expected_size=(40, 90))


def test_dataset_checks_the_size_it_reads(write_coco):
    root = write_coco([GRADIENT], [])
    save(root / "train" / "1.png", GRADIENT[:30])
    with pytest.raises(DatasetError, match=r"1\.png.*annotations say 100 x 40"):
        CocoDataset.from_root(root, "train").read_image(0)


def test_missing_files_can_be_left_to_the_loader(write_coco):
    root = write_coco([GRADIENT] * 3, [])
    (root / "train" / "2.png").unlink()
    with pytest.raises(DatasetError, match=r"2\.png: the file of image 2 is missing"):
        CocoDataset.from_root(root, "train")
    dataset = CocoDataset.from_root(root, "train", on_error="skip")
    assert len(dataset) == 3
    assert dataset.opening_report.count("image file missing") == 1
    with pytest.raises(DatasetError, match=r"2\.png: cannot read"):
        dataset.read_image(1)


def test_only_regular_files_are_opened(write_coco):
    """A pipe without a writer would stop a run forever."""
    root = write_coco([GRADIENT], [])
    path = root / "train" / "1.png"
    path.unlink()
    os.mkfifo(path)

    def fail(*_):
        raise AssertionError("it waits for the pipe")

    signal.signal(signal.SIGALRM, fail)
    signal.alarm(5)
    try:
        with pytest.raises(DatasetError, match=r"1\.png: cannot read the image file: not a regular file"):
            load_image(path)
        assert read_header(path) is None
        report = check_dataset(CocoDataset.from_root(root, "train", allow_errors=True))
        assert report.by_severity("error")[0].message.endswith("not a regular file")
    finally:
        signal.alarm(0)
