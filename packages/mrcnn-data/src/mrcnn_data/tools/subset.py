"""Make a small dataset from a large one: a random choice of images, and some or all classes."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec
import numpy as np

from mrcnn_data.annotations.opening import Source, find_split
from mrcnn_data.annotations.repairs import as_flag
from mrcnn_data.errors import DatasetError, OptionError
from mrcnn_data.json_file import other_layout, read_json
from mrcnn_data.outputs import check_outputs, write_output

Entry = dict[str, Any]


class Subset(NamedTuple):
    """`content`: of a COCO instances file, with unchanged entries; `files`: its image files, by their names in it."""

    content: dict[str, Any]
    files: dict[str, Path]


def choose_subset(source: Source, *, images: int, classes: Sequence[str] | None = None, seed: int = 0) -> Subset:
    """Choose images at random, and the annotations that go with them.

    Args:
        images: how many. With the same seed, a smaller number gives some of the images of a larger number.
        classes: names; then the file has only these categories and their annotations, and every chosen image has an
            object of one of them. Default: all classes, and any image.

    Raises:
        DatasetError: the file is not COCO JSON, there are fewer such images, or an image file is missing.
        OptionError: `images` is below 1, or the file does not have one of `classes`.
    """
    if images < 1:
        raise OptionError(f"images={images} must be at least 1")
    content = _read(source.annotation_path)
    categories = _chosen_categories(content["categories"], classes, source)
    kept = {_key(category.get("id")) for category in categories}
    annotations = [entry for entry in content["annotations"] if _key(entry.get("category_id")) in kept]
    candidates = content["images"]
    if classes is not None:
        shown = {_key(entry.get("image_id")) for entry in annotations if not as_flag(entry.get("iscrowd"))}
        candidates = [image for image in candidates if _key(image.get("id")) in shown]
    if images > len(candidates):
        of_classes = "" if classes is None else f" with an object of {', '.join(classes)}"
        raise DatasetError(f"{source.annotation_path}: has {len(candidates)} images{of_classes}, not {images}")
    places = sorted(np.random.default_rng(seed).permutation(len(candidates))[:images].tolist())
    chosen = [candidates[place] for place in places]
    ids = {_key(image.get("id")) for image in chosen}
    return Subset(
        {
            **content,
            "images": chosen,
            "annotations": [entry for entry in annotations if _key(entry.get("image_id")) in ids],
            "categories": categories,
        },
        {name: _existing(source.image_dir / name) for name in map(_file_name, chosen)},
    )


def write_subset(
    root: str | PathLike[str],
    split: str,
    out: str | PathLike[str],
    *,
    images: int,
    classes: Sequence[str] | None = None,
    seed: int = 0,
) -> Subset:
    """Write OUT/annotations/instances_SPLIT.json and the images below OUT/SPLIT/; see `choose_subset`.

    Raises:
        DatasetError, OptionError: see `choose_subset`; also if the split does not exist.
        OutputError: a file exists already that this product did not write.
    """
    source = find_split(root, split)
    annotation_path = Path(out) / "annotations" / f"instances_{split}.json"
    for own, target in ((source.annotation_path, annotation_path), (source.image_dir, Path(out) / split)):
        if target.exists() and target.samefile(own):
            raise OptionError(f"{target} is part of the data set itself: choose another folder than {out}")
    subset = choose_subset(source, images=images, classes=classes, seed=seed)
    targets = {Path(out) / split / name: path for name, path in subset.files.items()}
    check_outputs([annotation_path, *targets])
    for target, path in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_output(target, path.read_bytes())
    annotation_path.parent.mkdir(parents=True, exist_ok=True)
    write_output(annotation_path, msgspec.json.encode(subset.content))
    return subset


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    reason = other_layout(content)
    for name in () if reason else ("images", "annotations", "categories"):
        if not all(isinstance(entry, dict) for entry in content[name]):
            reason = f'"{name}" has an entry that is not an object'
    if reason:
        raise DatasetError(f"{path} is not a COCO instances file: {reason}")
    return dict(content)


def _chosen_categories(categories: list[Entry], classes: Sequence[str] | None, source: Source) -> list[Entry]:
    if classes is None:
        return categories
    names = [str(category.get("name")) for category in categories]
    for name in classes:
        if name not in names:
            raise OptionError(f"class {name!r} is not in {source.annotation_path}, which has {', '.join(names)}")
    return [category for category, name in zip(categories, names, strict=True) if name in classes]


def _key(value: object) -> str:
    """Return an id as text to compare by: 5, 5.0 and "5" are the same."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _file_name(image: Entry) -> str:
    name = image.get("file_name")
    name = name.replace("\\", "/") if isinstance(name, str) else name  # as the reader of annotations does
    if not isinstance(name, str) or not name or ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
        raise DatasetError(f"image {image.get('id')!r}: file_name {name!r} is not a name inside the image folder")
    return name


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DatasetError(f"{path}: the image file does not exist, or is not a regular file")
    return path
