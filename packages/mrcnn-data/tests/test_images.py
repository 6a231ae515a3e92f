"""Every kind of image file to RGB, or an error that names it (KNOWN-FAILURES A3)."""

import re
import struct
import zlib

import cv2
import numpy as np
import pytest

from mrcnn_data import CocoDataset, DatasetError, load_image

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


def test_palette(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 1, 8, 3, 0, 0, 0)
    pixels = zlib.compress(b"\x00\x01\x00")
    body = chunk(b"IHDR", header) + chunk(b"PLTE", bytes([10, 20, 30, 200, 100, 50])) + chunk(b"IDAT", pixels)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))
    assert load_image(tmp_path / "a.png").tolist() == [[[200, 100, 50], [10, 20, 30]]]


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


def test_wrong_size_names_the_file(tmp_path):
    path = save(tmp_path / "a.png", GRADIENT)
    with pytest.raises(DatasetError, match=r"a\.png: the image is 100 x 40 .* say 90 x 40"):
        load_image(path, expected_size=(40, 90))


def test_dataset_checks_the_size_it_reads(write_coco):
    root = write_coco([GRADIENT], [])
    save(root / "train" / "1.png", GRADIENT[:30])
    with pytest.raises(DatasetError, match=r"1\.png.*annotations say 100 x 40"):
        CocoDataset.from_root(root, "train").read_image(0)
