"""Make a checkpoint from weights of another project, or write a checkpoint's weights for another project.

    python -m mrcnn_model.convert IN OUT --from tensorpack|torchvision|detectron2
    python -m mrcnn_model.convert CHECKPOINT OUT --to tensorpack|torchvision

With --from, IN is an .npz or .safetensors file and OUT a new or empty folder; with --to, OUT is a new file. The command
prints every name that was not used and every variable that was not filled.

torchvision's COCO detectors have a row for each of 90 category ids, ten of which COCO does not use. --by-category-id
with --annotations keeps the rows of the categories in that file; with --to it puts every class at the row of its id.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors import SafetensorError

from mrcnn_model.building import build_model
from mrcnn_model.checkpoint import (
    CheckpointError,
    ModelCard,
    load_model,
    require_new_folder,
    save_model,
    variable_key,
)
from mrcnn_model.config import ModelConfig, OptionError
from mrcnn_model.mask_rcnn import MaskRCNN
from mrcnn_model.text import visible
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
SIZES = ("short_edge", "max_size")


class ConvertError(ValueError):
    """Arguments that contradict each other, or annotations that cannot be used. The message names them."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.to:
            _require_only_for_import(options)
            export(options.source, options.target, LAYOUTS[options.to], by_category_id=options.by_category_id)
        else:
            convert(
                options.source,
                options.target,
                layout=LAYOUTS[options.layout],
                num_classes=options.num_classes,
                annotations=options.annotations,
                by_category_id=options.by_category_id,
                changes=dict(map(_option, options.set)),
                **{name: getattr(options, name) for name in SIZES if getattr(options, name) is not None},
            )
    except (CheckpointError, OptionError, ConvertError, OSError, SafetensorError) as error:
        print(f"error: {visible(error)}", file=sys.stderr)
        return 1
    return 0


def _require_only_for_import(options: argparse.Namespace) -> None:
    given = [name for name in ("num_classes", "annotations", "set", *SIZES) if getattr(options, name) not in (None, [])]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConvertError(f"{names}: only with --from; with --to everything is read from the checkpoint")


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
    model, card = load_model(source, precision="float32")
    ids = card.category_ids if by_category_id else None
    if ids is not None and (min(ids) < 1 or len(set(ids)) < len(ids)):
        raise ConvertError(f"--by-category-id: the category ids of {source} are not different numbers from 1: {ids}")
    arrays = export_weights(model, layout, category_ids=ids)
    write_arrays(target, arrays)
    print(f"{len(model.variables)} variables written to {visible(target)}")
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
        changes: options of `ModelConfig` that the file does not determine.
        short_edge, max_size: size to which images are resized before detection, pixels.

    Raises:
        CheckpointError: the file is of another kind, a shape differs, a category id has no row, or the target is not
            empty.
        OptionError: an option does not exist or has an invalid value.
        ConvertError: the annotations have another number of classes, or arguments contradict each other.
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
    options = options_of(arrays, layout, source=str(source))
    new_classes = num_classes not in (None, options.get("num_classes"))
    wanted = num_classes if ids is None else len(ids) + 1
    config = ModelConfig(**options | ({} if wanted is None else {"num_classes": wanted}) | dict(changes or {}))
    categories = _categories_for(config, categories, annotations)
    keras.utils.set_random_seed(0)  # variables that start fresh are the same every time
    model = build_model(config)
    report = fill_model(model, arrays, layout=layout, new_classes=new_classes, category_ids=ids, source=str(source))
    report = report._replace(unused=[name for name in report.unused if name not in SETTINGS])
    save_model(target, model, _card(categories, short_edge=short_edge, max_size=max_size))
    _print_report(report, model)
    print(f"checkpoint written to {visible(target)}")
    return report


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
    ours = {key: read_array(key, arrays[name], layout, head_options, source=source) for name, key in keys.items()}
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
        content = json.loads(annotations.read_text())
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
    return isinstance(entry, dict) and "name" in entry and str(entry.get("id")).lstrip("-").isdecimal()


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


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConvertError(f"--set {text}: expected OPTION=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value  # a bare word: norm=gn


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mrcnn_model.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="IN", type=Path)
    parser.add_argument("target", metavar="OUT", type=Path)
    direction = parser.add_mutually_exclusive_group(required=True)
    direction.add_argument("--from", dest="layout", choices=sorted(LAYOUTS), help="the project that wrote IN")
    writable = sorted(name for name, layout in LAYOUTS.items() if layout.write)
    direction.add_argument("--to", choices=writable, help="the project to write for; IN is a checkpoint")
    parser.add_argument("--num-classes", type=int, metavar="N", help="number with background, if not that of the file")
    parser.add_argument("--annotations", type=Path, metavar="JSON", help="COCO file with names and ids of the classes")
    parser.add_argument(
        "--by-category-id", action="store_true", help="rows of layers over classes are category ids (see above)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="an option of ModelConfig")
    parser.add_argument("--short-edge", type=int, metavar="PX", help="short edge of resized images (800)")
    parser.add_argument("--max-size", type=int, metavar="PX", help="limit of their long edge (1333)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
