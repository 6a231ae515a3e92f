"""Make a checkpoint from weights of another project, and the reverse; what `python -m mrcnn_model.convert` does."""

import codecs
import json
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mrcnn_model.building import build_model
from mrcnn_model.checkpoint import load_model, save_model, variable_key
from mrcnn_model.command import visible
from mrcnn_model.config import ModelConfig
from mrcnn_model.mask_rcnn import MaskRCNN
from mrcnn_model.storage.cards import CheckpointError, ModelCard, find_checkpoint
from mrcnn_model.storage.folders import new_folder, require_new_folder
from mrcnn_model.weights.class_rows import rows_without_class
from mrcnn_model.weights.config_from_weights import architecture
from mrcnn_model.weights.files import read_arrays, write_arrays
from mrcnn_model.weights.filling import (
    LAYOUTS,
    WeightsReport,
    export_weights,
    fill_model,
    read_array,
    unlike_conventions,
)
from mrcnn_model.weights.layout import Arrays, HeadOptions, Layout, to_keys

SETTINGS = {"pixel_mean", "pixel_std"}  # arrays of detectron2 that go into the configuration


class ConvertError(ValueError):
    """Arguments that contradict each other, or annotations that cannot be used. The message names them."""


def export(source: Path, target: Path, layout: Layout, *, by_category_id: bool = False) -> None:
    """Write a checkpoint's weights under another project's names, and print what differs there.

    Args:
        source: a checkpoint or run directory.
        target: a new .npz or .safetensors file.
        by_category_id: the rows of layers over classes are category ids.

    Raises:
        CheckpointError: there is no complete checkpoint, the target exists, or the project has no such network.
        ConvertError: a category id cannot be the number of a row.
    """
    if os.path.lexists(target):
        raise CheckpointError(f"{target} exists already: choose a new name")
    found = find_checkpoint(source)
    model, card = load_model(found.directory, precision="float32")
    ids = card.category_ids if by_category_id else None
    if ids is not None and (min(ids) < 1 or len(set(ids)) < len(ids)):
        raise ConvertError(f"--by-category-id: the category ids of {source} are not different numbers from 1: {ids}")
    arrays = export_weights(model, layout, category_ids=ids)
    write_arrays(target, arrays)
    print(f"{len(model.variables)} variables of {visible(found)} written to {visible(target)}")
    _print_list("rows without a class, never found", rows_without_class(ids, max(ids) + 1) if ids else [])
    for line in unlike_conventions(model.config, layout, arrays):
        print(f"not the same network: {visible(line)}")


def convert(
    source: Path,
    target: Path,
    *,
    layout: Layout,
    num_classes: int | None = None,
    annotations: Path | None = None,
    by_category_id: bool = False,
    allow_missing: bool = False,
    changes: Mapping[str, Any] | None = None,
    short_edge: int = 800,
    max_size: int = 1333,
) -> WeightsReport:
    """Write a checkpoint directory with the weights of a file, and print the names that have no counterpart.

    Args:
        source: an .npz or .safetensors file.
        target: a new or empty folder.
        layout: names and memory layout of the project that wrote the file.
        num_classes: number with background; if the file has another number, the layers over classes start fresh.
        annotations: instances file in COCO's format with the names and ids of the classes. Without it the classes are
            called by their numbers.
        by_category_id: rows of the file's layers over classes are category ids; those in `annotations` are kept.
        allow_missing: missing variables start fresh. A file of a backbone alone should have all those of the backbone,
            another file all variables, except those that depend on a changed number of classes.
        changes: options of `ModelConfig` that the file does not determine.
        short_edge, max_size: size to which images are resized before detection, pixels.

    Raises:
        CheckpointError: the file is of another kind or project, a shape differs, a number is not finite, a category id
            has no row, or the target is not empty or cannot be written.
        OptionError: an option does not exist or has an invalid value.
        ConvertError: the annotations have another number of classes, variables are missing, or arguments contradict
            each other.
    """
    if by_category_id and (annotations is None or num_classes is not None):
        raise ConvertError("--by-category-id needs --annotations, which has the ids, and no --num-classes")
    for name, edge in (("short-edge", short_edge), ("max-size", max_size)):
        if edge < 1:
            raise ConvertError(f"--{name} is {edge}; expected a positive number of pixels")
    require_new_folder(target)
    categories = None if annotations is None else _read_categories(annotations)
    ids = [category_id for category_id, _ in categories] if categories and by_category_id else None
    arrays = read_arrays(source)
    _require_its_project(arrays, layout, source=source)
    options = options_of(arrays, layout, source=str(source))
    new_classes = num_classes not in (None, options.get("num_classes"))
    wanted = num_classes if ids is None else len(ids) + 1
    config = ModelConfig(**options | ({} if wanted is None else {"num_classes": wanted}) | dict(changes or {}))
    categories = _categories_for(config, categories, annotations)
    keras.utils.set_random_seed(0)  # variables that start fresh are the same every time
    model = build_model(config)
    report = fill_model(
        model,
        arrays,
        layout=layout,
        new_classes=new_classes,
        allow_missing=True,  # `_require_complete` is stricter
        category_ids=ids,
        source=str(source),
    )
    report = report._replace(unused=[name for name in report.unused if name not in SETTINGS])
    if not allow_missing:
        _require_complete(report, to_keys(arrays, layout).values(), source=source)
    with new_folder(target) as folder:
        save_model(folder, model, _card(categories, short_edge=short_edge, max_size=max_size))
    _print_report(report, model)
    print(f"checkpoint written to {visible(target)}")
    return report


def _require_its_project(arrays: Arrays, layout: Layout, *, source: Path) -> None:
    """Refuse a file that has more names of another project: some names of two projects are the same."""
    counts = {name: len(to_keys(arrays, each)) for name, each in LAYOUTS.items()}
    best = max(counts, key=lambda name: counts[name])
    count = len(to_keys(arrays, layout))
    if counts[best] > count:
        theirs = f"{counts[best]} names are {LAYOUTS[best].title}'s and {count} {layout.title}'s"
        raise CheckpointError(f"{source}: {theirs}: use --from {best}")


def _require_complete(report: WeightsReport, keys: Collection[str], *, source: Path) -> None:
    """Refuse a file that has only some variables of what it is for.

    Args:
        keys: our names of the variables that the file has.
    """
    only_backbone = all(key.startswith("backbone.") for key in keys)
    fresh = sorted(set(report.unfilled) - set(report.reinitialised))
    missing = [key for key in fresh if key.startswith("backbone.") or not only_backbone]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ConvertError(
            f"{source} has only a part of the {'backbone' if only_backbone else 'detector'}: it lacks "
            f"{', '.join(missing[:3])}{more}. --allow-missing starts them fresh"
        )


def options_of(arrays: Arrays, layout: Layout, *, source: str) -> dict[str, Any]:
    """Return the options of a file's network: the conventions of its project, and what the shapes tell.

    Raises:
        CheckpointError: no name in the file belongs to the layout.
    """
    keys = to_keys(arrays, layout)
    if not keys:
        raise CheckpointError(f"{source} holds no variable of a ResNet-FPN model under {layout.title}'s names")
    # Only shapes are read here: with a pool size of 1 the rows stay in their order.
    is_agnostic = any(key.endswith(".deltas.bias") and arrays[name].shape == (4,) for name, key in keys.items())
    head_options = HeadOptions(box_pool_size=1, class_agnostic_boxes=is_agnostic)
    ours = {
        key: read_array(key, arrays[name], layout, head_options, label=f"{source}: {name}, read as {key},")
        for name, key in keys.items()
    }
    return layout.conventions(arrays) | architecture(ours)


def _categories_for(
    config: ModelConfig, categories: list[tuple[int, str]] | None, annotations: Path | None
) -> list[tuple[int, str]]:
    """Return (id, name) of every class of a model; without annotations, their numbers.

    Raises:
        ConvertError: the annotations have another number of classes.
    """
    count = config.num_classes - 1
    if categories is None:
        return [(number, str(number)) for number in range(1, count + 1)]
    if len(categories) != count:
        hint = "; --by-category-id keeps the rows of these ids" if len(categories) < count else ""
        raise ConvertError(f"{annotations} has {len(categories)} classes; the weights are for {count}{hint}")
    return categories


def _card(categories: Sequence[tuple[int, str]], *, short_edge: int, max_size: int) -> ModelCard:
    short, long = (math.ceil(edge / 32) * 32 for edge in (min(short_edge, max_size), max_size))
    category_ids, names = zip(*categories, strict=True)
    return ModelCard(list(names), list(category_ids), short_edge, max_size, buckets=[[short, long], [long, short]])


def _read_categories(annotations: Path) -> list[tuple[int, str]]:
    """Return (id, name) of every category, by id.

    Raises:
        ConvertError: the file is not of COCO's format, or an id occurs twice.
    """
    try:
        content = json.loads(annotations.read_bytes().removeprefix(codecs.BOM_UTF8))
    except RecursionError:
        raise ConvertError(f"{annotations} is not of COCO's format: lists in lists are nested too deep") from None
    except ValueError as error:
        raise ConvertError(f"{annotations} is not a JSON file: {type(error).__name__}: {error}") from error
    listed = content.get("categories") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not all(map(_is_category, listed)):
        raise ConvertError(f"{annotations} has no COCO categories, each with a whole number as id and a name")
    categories = sorted((int(c["id"]), str(c["name"])) for c in listed)
    if not categories or len({category_id for category_id, _ in categories}) < len(categories):
        raise ConvertError(f"{annotations} has no categories, or two with the same id")
    return categories


def _is_category(entry: Any) -> bool:
    is_named = isinstance(entry, dict) and "name" in entry
    return is_named and re.fullmatch(r"-?[0-9]{1,18}", str(entry.get("id"))) is not None


def _print_report(report: WeightsReport, model: MaskRCNN) -> None:
    keys = [variable_key(v) for v in model.variables]
    total = sum(int(np.prod(v.shape)) for v in model.variables)
    print(f"{len(keys) - len(report.unfilled)} of {len(keys)} variables filled ({total / 1e6:.1f} M numbers in all)")
    _print_list("not in the file, start fresh", [key for key in report.unfilled if key not in report.reinitialised])
    _print_list("for another number of classes, start fresh", report.reinitialised)
    _print_list("in the file, not used", report.unused)
    _print_list("rows of classes in the file, not used", report.unused_rows)
    _print_list("conventions that differ", report.unlike)


def _print_list(what: str, items: Sequence[str | int]) -> None:
    if items:
        print(f"{len(items)} {what}:", *(f"  {visible(item)}" for item in items), sep="\n")
