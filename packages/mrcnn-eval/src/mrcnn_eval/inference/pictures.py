"""A user's pictures as a data set without objects: files, turned upright, or arrays in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import numpy as np

from mrcnn_data import CocoDataset, load_image
from mrcnn_data.images import read_header

Picture: TypeAlias = str | PathLike[str] | np.ndarray  # a file, or uint8 [h, w, 3] RGB


class Pictures(CocoDataset):
    """Pictures to detect on.

    A file is turned upright as its orientation (EXIF, TIFF) says, as viewers show it; sizes, boxes and masks are those
    of the upright picture. Files are decoded when a loader asks for them.
    """

    _pictures: list[Picture]

    @classmethod
    def of(cls, pictures: Mapping[str, Picture], *, categories: Iterable[tuple[int, str]]) -> Pictures:
        """Make the data set; it has no annotations.

        Args:
            pictures: by image id.
            categories: (id, name) of the model's classes.

        Raises:
            DatasetError: a file that is not a picture, or is cut off.
            ValueError: an array that is not an RGB image.
        """
        sizes = [_upright_size(picture) for picture in pictures.values()]
        dataset = cls.without_images(
            {
                "images": [{"id": n, "height": height, "width": width} for n, (height, width) in enumerate(sizes)],
                "annotations": [],
                "categories": [{"id": category_id, "name": name} for category_id, name in categories],
            }
        )
        assert isinstance(dataset, cls)
        dataset.image_ids = list(pictures)  # only now: the reader of annotations would take "7" for a number
        dataset._pictures = list(pictures.values())
        return dataset

    def read_image(self, index: int) -> np.ndarray:
        """Return picture number `index`: uint8 [h, w, 3] RGB."""
        return read_picture(
            self._pictures[index], size=(int(self.image_sizes[index, 0]), int(self.image_sizes[index, 1]))
        )


def read_picture(picture: Picture, *, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return the pixels of a picture, upright: uint8 [h, w, 3] RGB.

    Args:
        picture: a file, or the pixels.
        size: (h, w) that a file must have.

    Raises:
        DatasetError: a file that is not a picture, is cut off, or has another size.
    """
    return picture if isinstance(picture, np.ndarray) else load_image(picture, expected_size=size, upright=True)


def _upright_size(picture: Picture) -> tuple[int, int]:
    if isinstance(picture, np.ndarray):
        _require_rgb(picture)
        return picture.shape[0], picture.shape[1]
    header = read_header(Path(picture))
    if header is None:
        height, width = load_image(picture, upright=True).shape[:2]
        return height, width
    return header.size[::-1] if header.orientation >= 5 else header.size


def _require_rgb(picture: np.ndarray) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise ValueError(
            f"a picture is uint8 [height, width, 3], RGB, 0 to 255; this array is {picture.dtype} "
            f"{list(picture.shape)}: convert it, or give the path of the file"
        )
