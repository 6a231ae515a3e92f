"""Make a checkpoint of another project's weights, or the reverse.

    python -m mrcnn_model.convert IN OUT --from tensorpack|torchvision|detectron2
    python -m mrcnn_model.convert CHECKPOINT OUT --to tensorpack|torchvision

IN and the OUT of --to are .npz or .safetensors files; the other side is a checkpoint directory. Every name that was not
used and every variable that was not filled is printed.
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
from mrcnn_model.config_from_weights import architecture
from mrcnn_model.layout import Arrays, HeadOptions, Layout, to_keys
from mrcnn_model.mask_rcnn import MaskRCNN, build_model
from mrcnn_model.weights import (
    LAYOUTS,
    WeightsReport,
    export_weights,
    fill_model,
    read_array,
    read_arrays,
    unlike_conventions,
    write_arrays,
)

SETTINGS = {"pixel_mean", "pixel_std"}  # arrays of detectron2 that go into the configuration


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.to:
            layout = LAYOUTS[options.to]
            model, _ = load_model(options.source)
            arrays = export_weights(model, layout)
            write_arrays(options.target, arrays)
            print(f"{len(model.variables)} variables written to {options.target}")
            for line in unlike_conventions(model.config, layout, arrays):
                print(f"not the same network: {line}")
        else:
            convert(
                options.source,
                options.target,
                layout=LAYOUTS[options.layout],
                num_classes=options.num_classes,
                annotations=options.annotations,
                changes=dict(map(_field, options.set)),
                short_edge=options.short_edge,
                max_size=options.max_size,
            )
    except (CheckpointError, ValueError, TypeError, KeyError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def convert(
    source: Path,
    target: Path,
    *,
    layout: Layout,
    num_classes: int | None = None,
    annotations: Path | None = None,
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
        changes: fields of `ModelConfig` that the file cannot tell.
        short_edge, max_size: to which images are resized before detection, pixels.

    Raises:
        CheckpointError: the file is of another kind, or a shape differs.
        ValueError: a field has an impossible value, or the annotations have another number of classes.
    """
    arrays = read_arrays(source)
    config = config_of(arrays, layout, num_classes=num_classes, changes=changes or {}, source=str(source))
    keras.utils.set_random_seed(0)  # what starts fresh is the same every time
    model = build_model(config)
    report = fill_model(model, arrays, layout=layout, new_classes=num_classes is not None, source=str(source))
    report = report._replace(unused=[name for name in report.unused if name not in SETTINGS])
    names, ids = _classes(annotations, num_classes=config.num_classes)
    short, long = (math.ceil(edge / 32) * 32 for edge in (min(short_edge, max_size), max_size))
    card = ModelCard(names, ids, short_edge, max_size, buckets=[[short, long], [long, short]])
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


def _classes(annotations: Path | None, *, num_classes: int) -> tuple[list[str], list[int]]:
    if annotations is None:
        return [str(number) for number in range(1, num_classes)], list(range(1, num_classes))
    categories = sorted(json.loads(annotations.read_text())["categories"], key=lambda category: category["id"])
    if len(categories) != num_classes - 1:
        raise ValueError(f"{annotations} has {len(categories)} classes; the weights are for {num_classes - 1}")
    return [str(c["name"]) for c in categories], [int(c["id"]) for c in categories]


def _print_report(report: WeightsReport, model: MaskRCNN) -> None:
    keys = [variable_key(v) for v in model.variables]
    total = sum(int(np.prod(v.shape)) for v in model.variables)
    print(f"{len(keys) - len(report.unfilled)} of {len(keys)} variables filled ({total / 1e6:.1f} M numbers in all)")
    for what, names in (
        ("not in the file, start fresh", [key for key in report.unfilled if key not in report.reinitialised]),
        ("for another number of classes, start fresh", report.reinitialised),
        ("in the file, not used", report.unused),
        ("conventions that differ", report.unlike),
    ):
        if names:
            print(f"{len(names)} {what}:", *(f"  {name}" for name in names), sep="\n")


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
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field of ModelConfig")
    parser.add_argument("--short-edge", type=int, default=800, metavar="PX", help="images are resized to (%(default)s)")
    parser.add_argument("--max-size", type=int, default=1333, metavar="PX", help="of the long edge (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
