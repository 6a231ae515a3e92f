"""Make a checkpoint of another project's weights, or the reverse.

    python -m mrcnn_model.convert IN OUT --from tensorpack|torchvision|detectron2
    python -m mrcnn_model.convert CHECKPOINT OUT --to tensorpack|torchvision

IN and the OUT of --to are .npz or .safetensors files; the other side is a checkpoint directory. Every name that was not
used and every variable that was not filled is printed.

torchvision's COCO detectors have a row for each of 90 category ids, ten of which COCO does not use. --by-category-id
with --annotations keeps the rows of the categories in the file; with --to it puts every class at the row of its id.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mrcnn_model.checkpoint import CheckpointError, ModelCard, load_model, save_model, variable_key
from mrcnn_model.config import ModelConfig
from mrcnn_model.mask_rcnn import MaskRCNN, build_model
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
                changes=dict(map(_field, options.set)),
                **{name: getattr(options, name) for name in SIZES if getattr(options, name) is not None},
            )
    except (CheckpointError, ValueError, TypeError, KeyError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _require_only_for_import(options: argparse.Namespace) -> None:
    given = [name for name in ("num_classes", "annotations", "set", *SIZES) if getattr(options, name) not in (None, [])]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"{names}: only with --from; what --to writes is all in the checkpoint")


def export(source: Path, target: Path, layout: Layout, *, by_category_id: bool = False) -> None:
    """Write a checkpoint's weights under another project's names, and print what differs there.

    Args:
        source: a checkpoint or run directory.
        target: .npz or .safetensors.
        by_category_id: the rows of layers over classes are category ids.

    Raises:
        CheckpointError: no complete checkpoint, or the project has no such network.
        ValueError: a category id that cannot be a row.
    """
    model, card = load_model(source)
    ids = card.category_ids if by_category_id else None
    if ids is not None and (min(ids) < 1 or len(set(ids)) < len(ids)):
        raise ValueError(f"--by-category-id: the category ids of {source} are not different numbers from 1: {ids}")
    arrays = export_weights(model, layout, category_ids=ids)
    write_arrays(target, arrays)
    print(f"{len(model.variables)} variables written to {target}")
    _print_list("rows without a class, never found", rows_without_class(ids, max(ids) + 1) if ids else [])
    for line in unlike_conventions(model.config, layout, arrays):
        print(f"not the same network: {line}")


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
    """Write a checkpoint directory with the weights of a file, and print what did not meet.

    Args:
        source: .npz or .safetensors.
        target: directory, made if it is missing.
        num_classes: with background; where the file has another number, the layers concerned start fresh.
        annotations: instances file in COCO's format that says the names and ids of the classes. Without it they are
            called by their numbers.
        by_category_id: rows of the file's layers over classes are category ids; those in `annotations` are kept.
        changes: fields of `ModelConfig` that the file cannot tell.
        short_edge, max_size: to which images are resized before detection, pixels.

    Raises:
        CheckpointError: the file is of another kind, a shape differs, or a category id has no row.
        ValueError: a field has an impossible value, the annotations have another number of classes, or arguments
            contradict each other.
    """
    if by_category_id and (annotations is None or num_classes is not None):
        raise ValueError("--by-category-id needs --annotations, which say the ids, and no --num-classes")
    for name, edge in (("short-edge", short_edge), ("max-size", max_size)):
        if edge < 1:
            raise ValueError(f"--{name} is {edge}; expected a positive number of pixels")
    categories = None if annotations is None else _read_categories(annotations)
    ids = [category_id for category_id, _ in categories] if categories and by_category_id else None
    arrays = read_arrays(source)
    config = config_of(
        arrays,
        layout,
        num_classes=num_classes if ids is None else len(ids) + 1,
        changes=changes or {},
        source=str(source),
    )
    if categories is None:
        categories = [(number, str(number)) for number in range(1, config.num_classes)]
    elif len(categories) != config.num_classes - 1:
        hint = "; --by-category-id keeps the rows of these ids" if len(categories) < config.num_classes - 1 else ""
        raise ValueError(
            f"{annotations} has {len(categories)} classes; the weights are for {config.num_classes - 1}{hint}"
        )
    keras.utils.set_random_seed(0)  # what starts fresh is the same every time
    model = build_model(config)
    report = fill_model(
        model, arrays, layout=layout, new_classes=num_classes is not None, category_ids=ids, source=str(source)
    )
    report = report._replace(unused=[name for name in report.unused if name not in SETTINGS])
    short, long = (math.ceil(edge / 32) * 32 for edge in (min(short_edge, max_size), max_size))
    category_ids, names = zip(*categories, strict=True)
    card = ModelCard(list(names), list(category_ids), short_edge, max_size, buckets=[[short, long], [long, short]])
    save_model(target, model, card)
    _print_report(report, model)
    print(f"checkpoint written to {target}")
    return report


def config_of(
    arrays: Arrays, layout: Layout, *, num_classes: int | None, changes: Mapping[str, Any], source: str
) -> ModelConfig:
    """Find the architecture of a file: its project's conventions, what shapes say, then what was asked for.

    Raises:
        CheckpointError: no name is known.
        ValueError: a field that does not exist, or an impossible value.
    """
    unknown = changes.keys() - {field.name for field in dataclasses.fields(ModelConfig)}
    if unknown:
        raise ValueError(f"ModelConfig has no field {', '.join(sorted(unknown))}")
    keys = to_keys(arrays, layout)
    if not keys:
        raise CheckpointError(f"{source} holds no variable of a ResNet-FPN model under {layout.title}'s names")
    # Shapes alone are read: a pool size of 1 leaves rows in their order.
    is_agnostic = any(key.endswith(".deltas.bias") and arrays[name].shape == (4,) for name, key in keys.items())
    options = HeadOptions(box_pool_size=1, class_agnostic_boxes=is_agnostic)
    ours = {key: read_array(key, arrays[name], layout, options, source=source) for name, key in keys.items()}
    fields = layout.conventions(arrays) | architecture(ours)
    if num_classes is not None:
        fields["num_classes"] = num_classes
    return ModelConfig(**fields | dict(changes))


def _read_categories(annotations: Path) -> list[tuple[int, str]]:
    """(id, name) of every category, by id.

    Raises:
        ValueError: the file is not of COCO's format, or an id is there twice.
    """
    try:
        categories = sorted((int(c["id"]), str(c["name"])) for c in json.loads(annotations.read_text())["categories"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{annotations} has no COCO categories with id and name: {type(error).__name__}: {error}"
        ) from error
    if not categories or len({category_id for category_id, _ in categories}) < len(categories):
        raise ValueError(f"{annotations} has no categories, or two of one id")
    return categories


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
        print(f"{len(items)} {what}:", *(f"  {item}" for item in items), sep="\n")


def _field(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text}: expected FIELD=VALUE")
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
    direction.add_argument("--from", dest="layout", choices=sorted(LAYOUTS), help="whose names IN has")
    writable = sorted(name for name, layout in LAYOUTS.items() if layout.write)
    direction.add_argument("--to", choices=writable, help="export the checkpoint IN to these names")
    parser.add_argument("--num-classes", type=int, metavar="N", help="with background, if other than in the file")
    parser.add_argument("--annotations", type=Path, metavar="JSON", help="COCO file with the classes' names and ids")
    parser.add_argument(
        "--by-category-id", action="store_true", help="rows of layers over classes are category ids (see above)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field of ModelConfig")
    parser.add_argument("--short-edge", type=int, metavar="PX", help="images are resized to (800)")
    parser.add_argument("--max-size", type=int, metavar="PX", help="of the long edge (1333)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
