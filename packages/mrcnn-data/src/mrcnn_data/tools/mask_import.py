"""Make annotations from masks that are stored as pictures.

The mask of the image a/b.jpg is MASKS/a/b.png, or all pictures in the folder MASKS/a/b/. A pixel value is a grey value,
a palette index (of PNG), or a colour 0xRRGGBB.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np

from mrcnn_data.errors import DatasetError, OptionError
from mrcnn_data.images.reading import load_image
from mrcnn_data.masks.tracing import coco_box, encode_compressed, pixel_bounds
from mrcnn_data.outputs import write_output
from mrcnn_data.tools.mask_files import MaskFile, class_words, find_masks
from mrcnn_data.tools.mask_values import (
    BACKGROUND,
    MaskOptions,
    class_factor_of,
    covering_value,
    has_neck,
    read_values,
)

_MANY = 0.5  # part of the masks in which a value covers most


class Imported(NamedTuple):
    """`content` of a COCO instances file.

    `without_mask`: names of images that have no mask, so are background; `left_out`: files that are no pictures;
    `notes`: what may not be meant, a line each.
    """

    content: dict[str, Any]
    without_mask: list[str]
    left_out: list[str]
    notes: list[str]


class _Classes(NamedTuple):
    """`names` of categories in order; which one a value has: of all, by value, or by value // factor."""

    names: list[str]
    of_value: Mapping[int, str] | None
    factor: int | None
    ignored: Collection[int]


class _Object(NamedTuple):
    """An object: its class, its pixels bool [h, w], and whether it is a group of objects."""

    class_name: str
    pixels: np.ndarray
    is_crowd: bool = False


def import_masks(
    image_dir: Path,
    mask_dir: Path,
    *,
    class_name: str = "object",
    classes: Mapping[int, str] | None = None,
    class_factor: int | None = None,
    names: str | None = None,
    split_regions: bool = False,
    background: int = 0,
    ignored: Collection[int] = (),
    threshold: int | None = None,
) -> Imported:
    """Make annotations for all images below a folder; masks become compressed run lengths.

    Args:
        image_dir: folder of images; files in `mask_dir` are never images, even if it lies inside.
        mask_dir: folder of masks; every file in it must be the mask of an image, but for files of desktops.
        class_name: class of all objects, if each value is one object.
        classes: class of each value, if values are classes; then every connected region is an object.
        class_factor: values are class x factor + number, and `classes` has the names of the classes; each value is an
            object. A value below the factor is a class alone: a group (`iscrowd`), or background if it has no name.
        names: how names of masks are made from {image}, {class} and {number}, such as "{image}_{class}".
        split_regions: every connected region of a value is an object: for masks with one value.
        background: the value that is no object.
        ignored: values, or classes with `class_factor`, that are background too.
        threshold: pixels of at least this are one value, and the others another: for masks with smooth edges.
    Raises:
        DatasetError: the images lie in the folder of masks; there is no image, or no object in any mask; a file in
            `mask_dir` is not a mask, or belongs to no image or to two; a mask cannot be read, has smooth edges and
            there is no threshold, has another size than its image, or has a value that is not in `classes`.
        OptionError: options contradict each other, or `classes` names the background or an ignored value.
    """
    _check_options(classes, class_factor, threshold, names, background=background, ignored=ignored)
    found = find_masks(image_dir, mask_dir, pattern=names)
    of_names = {mask.class_name for masks in found.masks.values() for mask in masks} - {None}
    listed = sorted(map(str, of_names)) or list(dict.fromkeys((classes or {}).values())) or [class_name]
    by_class = _Classes(listed, classes, class_factor, ignored)
    # With a factor, ignored values are classes.
    read = MaskOptions(background, frozenset() if class_factor else frozenset(ignored), threshold)
    is_split = split_regions or (classes is not None and class_factor is None)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    signs = _Signs()
    for number, path in enumerate(found.images, start=1):
        masks = {mask: read_values(mask.path, read) for mask in found.masks.get(path, [])}
        height, width = _common_size(path, masks)
        name = path.relative_to(image_dir).as_posix()
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for mask, values in masks.items():
            signs.look_at(values)
            for one in _objects(mask, values, by_class, is_split=is_split):
                signs.num_necks += is_split and has_neck(_cropped(one.pixels))
                ids = {"id": len(annotations) + 1, "image_id": number, "category_id": listed.index(one.class_name) + 1}
                annotations.append({**ids, **_fields(one)})
    if not annotations:
        raise DatasetError(f"{mask_dir}: no object in the masks of {len(found.images)} images")
    categories = [{"id": number, "name": name} for number, name in enumerate(listed, start=1)]
    without = [path.relative_to(image_dir).as_posix() for path in found.images if path not in found.masks]
    notes = signs.notes(read, is_split=is_split, with_classes=classes is not None)
    notes += _note_on_names([] if names else class_words(found.masks))
    content = {"images": images, "annotations": annotations, "categories": categories}
    return Imported(content, without, found.left_out, notes)


def write_imported(out: Path, imported: Imported) -> None:
    """Write the instances file.

    Raises:
        OutputError: the file exists and was not written by this product, or the disk refuses.
    """
    write_output(out, msgspec.json.encode(imported.content))


def _check_options(
    classes: Mapping[int, str] | None,
    class_factor: int | None,
    threshold: int | None,
    names: str | None,
    *,
    background: int,
    ignored: Collection[int],
) -> None:
    for value, name in (classes or {}).items():
        if value == background:
            raise OptionError(f"{value}={name}: {value} is the background, choose another value")
        if value in ignored:
            raise OptionError(f"{value}={name}: this value is ignored, so it cannot be a class")
    if class_factor is not None and (classes is None or class_factor < 2):
        raise OptionError(f"--class-factor={class_factor}: must be at least 2, and needs --classes CLASS=NAME")
    if threshold is not None and (classes is not None or ignored):
        raise OptionError(f"--threshold={threshold} leaves only one value, so --classes and --ignore have no use")
    if names is not None and "{class}" in names and classes is not None:
        raise OptionError(f"--names={names}: classes come from names or from --classes, not from both")


class _Signs:
    """What is seen in all masks that may not be meant."""

    def __init__(self) -> None:
        self.num_masks = self.num_necks = 0
        self._values: set[int] = set()
        self._covering: Counter[int] = Counter()

    def look_at(self, values: np.ndarray) -> None:
        self.num_masks += 1
        self._values.update(np.unique(values).tolist())
        covering = covering_value(values)
        if covering is not None:
            self._covering[covering] += 1

    def notes(self, options: MaskOptions, *, is_split: bool, with_classes: bool) -> list[str]:
        found = []
        if options.threshold is not None:
            found.append(f"values of at least {options.threshold} and values below are two values now (--threshold)")
        for value, count in self._covering.most_common(1):
            if count > _MANY * self.num_masks and not with_classes:
                advice = 255 if options.threshold is not None and not options.background else value
                found.append(
                    f"in {count} of {self.num_masks} masks the value {value} covers most of the picture: if it is the "
                    f"background, give --background {advice}"
                )
        value = max(self._values)
        factor = None if with_classes else class_factor_of(self._values - {BACKGROUND})
        if factor:
            found.append(f"some values are large{_factor_advice(value, factor)}")
        if is_split:
            necks = f"; {self.num_necks} of them have a narrow place, as touching objects have" * bool(self.num_necks)
            found.append(f"each connected region is one object, so objects of a class that touch are one{necks}")
        return found


def _factor_advice(value: int, factor: int | None) -> str:
    if factor is None:
        return ""
    number = value // factor
    return (
        f"; is {value} class {number} x {factor} + {value % factor}? Then give --class-factor {factor} "
        f"--classes {number}=NAME"
    )


def _note_on_names(words: Sequence[str]) -> list[str]:
    if not words:
        return []
    listed = ", ".join(words[:5])
    return [
        f"names of masks have few words ({listed}): if they are classes, give --names, such as '{{image}}/{{class}}'"
    ]


def _common_size(image: Path, masks: Mapping[MaskFile, np.ndarray]) -> tuple[int, int]:
    """Return the size (h, w) of an image and its masks; the image is turned upright if its masks have that size."""
    first = next(iter(masks.values()), None)
    height, width = load_image(image, expected_size=None if first is None else first.shape).shape[:2]
    for mask, values in masks.items():
        if values.shape != (height, width):
            raise DatasetError(
                f"{mask.path}: is {values.shape[1]} x {values.shape[0]} pixels (width x height), not {width} x {height}"
            )
    return height, width


def _objects(mask: MaskFile, values: np.ndarray, classes: _Classes, *, is_split: bool) -> Iterator[_Object]:
    """Yield every object of a mask."""
    for value in np.unique(values).tolist():
        if value == BACKGROUND:
            continue
        class_name, is_crowd = _class_of(value, mask, classes)
        if class_name is None:
            continue
        pixels = values == value
        if not is_split or is_crowd:
            yield _Object(class_name, pixels, is_crowd)
            continue
        count, regions = cv2.connectedComponents(pixels.astype(np.uint8), connectivity=8)
        for region in range(1, count):
            yield _Object(class_name, regions == region)


def _class_of(value: int, mask: MaskFile, classes: _Classes) -> tuple[str | None, bool]:
    """Return the class of a value, None for background; and whether it is a group of objects."""
    if classes.of_value is None:
        return mask.class_name or classes.names[0], False
    if classes.factor is None:
        if value not in classes.of_value:
            advice = _factor_advice(value, class_factor_of([value]))
            raise DatasetError(f"{mask.path}: the value {value} is neither a class nor ignored{advice}")
        return classes.of_value[value], False
    is_group = value < classes.factor
    class_value = value if is_group else value // classes.factor
    if class_value in classes.ignored or (is_group and class_value not in classes.of_value):
        return None, False
    if class_value not in classes.of_value:
        raise DatasetError(
            f"{mask.path}: the value {value} is object {value % classes.factor} of class {class_value}, which is "
            "neither among the classes nor ignored"
        )
    return classes.of_value[class_value], is_group


def _cropped(pixels: np.ndarray) -> np.ndarray:
    x1, y1, x2, y2 = pixel_bounds(pixels)
    return pixels[y1:y2, x1:x2]


def _fields(one: _Object) -> dict[str, Any]:
    return {
        "bbox": coco_box(one.pixels),
        "area": int(one.pixels.sum()),
        "iscrowd": int(one.is_crowd),
        "segmentation": encode_compressed(one.pixels),
    }
