"""The `mrcnn-data` command."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_data.annotations.dataset import CocoDataset
from mrcnn_data.annotations.opening import find_split
from mrcnn_data.annotations.report import EXAMPLES_KEPT, EXAMPLES_SHOWN, Report
from mrcnn_data.annotations.scoring import scoring_summary
from mrcnn_data.augmentation.options import Augmentation
from mrcnn_data.checks.checking import check_datasets
from mrcnn_data.checks.fixing import write_fixed
from mrcnn_data.drawing.contact_sheet import choose_images, draw_contact_sheet
from mrcnn_data.errors import DatasetError
from mrcnn_data.statistics.counting import dataset_statistics
from mrcnn_data.statistics.report import (
    draw_statistics,
    statistics_record,
    statistics_tables,
    suggestion_lines,
    suggestions_for,
)
from mrcnn_data.synthetic import generate_shapes
from mrcnn_data.tools.mask_import import import_masks, write_imported


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors of data, options and files are one line on stderr and exit code 2."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except (ValueError, OSError) as error:
        print(f"mrcnn-data: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mrcnn-data", description="COCO-format datasets: make, check, look at them.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    shapes = commands.add_parser("shapes", help="draw a dataset of shapes")
    shapes.add_argument("out", metavar="OUT", help="folder to write")
    shapes.add_argument("--train", type=int, default=200, metavar="N", help="training images (default: 200)")
    shapes.add_argument("--val", type=int, default=50, metavar="N", help="validation images (default: 50)")
    shapes.add_argument("--size", type=int, default=160, metavar="PX", help="edge of the images (default: 160)")
    shapes.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same files (default: 0)")
    shapes.set_defaults(run=_shapes)

    check = commands.add_parser(
        "check",
        help="list what is odd in a dataset",
        description="List what is odd in a dataset, how often, where, and what training does about it. "
        "Exit code 0: nothing, or notes only; 1: something is dropped or repaired; 2: errors, which stop training.",
    )
    _add_splits(check)
    check.add_argument("--json", metavar="OUT", type=Path, help="also write the findings as JSON")
    check.add_argument(
        "--fix", metavar="OUT.json", type=Path, help="write a clean annotation file, and OUT.changes.txt (one SPLIT)"
    )
    check.add_argument("--no-images", action="store_true", help="do not look into the image files")
    check.set_defaults(run=_check)

    stats = commands.add_parser(
        "stats",
        help="count and measure the objects of a dataset",
        description="Objects of each class, sizes, shapes, objects per image; canvases and anchors that suit them. "
        "Several SPLITs are taken together.",
    )
    _add_splits(stats)
    _add_sizes(stats)
    stats.add_argument(
        "--aspect-classes", type=int, default=3, metavar="N", help="shapes of canvases to suggest (default: 3)"
    )
    stats.add_argument("--png", metavar="OUT.png", type=Path, help="also draw the distributions")
    stats.add_argument("--json", metavar="OUT", type=Path, help="also write the numbers as JSON")
    stats.set_defaults(run=_stats)

    show = commands.add_parser(
        "show",
        help="draw images with their annotations, before and after augmentation",
        description="A sheet of images: as annotated on the left, as training sees them to the right of it.",
    )
    _add_splits(show)
    _add_sizes(show)
    show.add_argument("--out", metavar="OUT.png", type=Path, default=Path("sheet.png"), help="(default: sheet.png)")
    show.add_argument("--images", type=int, default=6, metavar="N", help="how many, spread over the set (default: 6)")
    show.add_argument("--image-id", nargs="+", metavar="ID", help="these images, by their ids in the file")
    show.add_argument("--samples", type=int, default=2, metavar="N", help="training samples of each (default: 2)")
    show.add_argument("--seed", type=int, default=0, metavar="S", help="of the samples (default: 0)")
    augmentations = show.add_argument_group("augmentation", "options of data.augmentation; the defaults are training's")
    for field in dataclasses.fields(Augmentation):
        default = getattr(Augmentation(), field.name)
        kind = type(default[0]) if isinstance(default, list) else type(default)
        augmentations.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=kind,
            nargs=2 if isinstance(default, list) else None,
            default=default,
            metavar=("LOW", "HIGH") if isinstance(default, list) else "X",
        )
    show.set_defaults(run=_show)

    masks = commands.add_parser(
        "from-masks",
        help="make an annotation file from masks that are pictures",
        description="For an image a/b.jpg, MASKS/a/b.png holds its objects, each value one of them, or the folder "
        "MASKS/a/b/ has a picture for each. 0 is background. Values are grey, palette numbers, or #rrggbb.",
    )
    masks.add_argument("image_dir", metavar="IMAGES", type=Path, help="folder of images")
    masks.add_argument("mask_dir", metavar="MASKS", type=Path, help="folder of masks")
    masks.add_argument("out", metavar="OUT.json", type=Path, help="annotation file to write")
    masks.add_argument("--class-name", metavar="NAME", help="of all objects (default: object)")
    masks.add_argument(
        "--classes",
        nargs="+",
        metavar="VALUE=NAME",
        help="values stand for classes; each connected region is an object",
    )
    masks.add_argument("--split-regions", action="store_true", help="each connected region is an object")
    masks.add_argument("--ignore", nargs="+", default=[], metavar="VALUE", help="values that are background too")
    masks.set_defaults(run=_from_masks)
    return parser


def _add_splits(command: argparse.ArgumentParser) -> None:
    command.add_argument("root", metavar="ROOT", help="folder with annotations/instances_SPLIT.json and SPLIT/")
    command.add_argument("splits", metavar="SPLIT", nargs="+")


def _add_sizes(command: argparse.ArgumentParser) -> None:
    for name, default, meaning in (
        ("--short-edge", 800, "images are resized to this short edge"),
        ("--max-size", 1333, "and at most this long edge"),
    ):
        command.add_argument(name, type=int, default=default, metavar="PX", help=f"{meaning} (default: {default})")


def _check_at_least(arguments: argparse.Namespace, least: int, *names: str) -> None:
    for name in names:
        value = getattr(arguments, name)
        if value < least:
            raise ValueError(f"--{name.replace('_', '-')}={value} must be at least {least}")


def _shapes(arguments: argparse.Namespace) -> int:
    generate_shapes(arguments.out, train=arguments.train, val=arguments.val, size=arguments.size, seed=arguments.seed)
    print(f"{arguments.out}: {arguments.train} training and {arguments.val} validation images")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    if arguments.fix is not None and len(arguments.splits) > 1:
        raise ValueError("--fix takes one split at a time")
    datasets: dict[str, CocoDataset] = {}
    unopened: dict[str, str] = {}
    for split in arguments.splits:
        try:
            datasets[split] = CocoDataset.from_root(arguments.root, split, allow_errors=True)
        except DatasetError as error:
            print(f"mrcnn-data: {error}", file=sys.stderr)
            unopened[split] = str(error)
    reports = check_datasets(datasets, image_files=not arguments.no_images)
    results: list[dict[str, Any]] = []
    for split in arguments.splits:
        if split in unopened:
            results.append({"split": split, "error": unopened[split], "exit_code": 2})
            continue
        dataset, report = datasets[split], reports[split]
        objects = int(dataset.num_objects().sum())
        print(f"{split}: {len(dataset)} images, {objects} objects, {dataset.num_classes - 1} classes")
        summary = scoring_summary(dataset)
        print(f"    {summary}")
        _print_findings(report, advises_json=arguments.json is None)
        results.append(
            {
                "split": split,
                "annotations": dataset.name,
                "images": len(dataset),
                "objects": objects,
                "classes": dataset.num_classes - 1,
                "scored": summary._asdict(),
                "findings": report.as_records(),
                "exit_code": report.exit_code,
            }
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    if arguments.fix is not None:
        source = find_split(arguments.root, arguments.splits[0])
        changes = write_fixed(source, arguments.fix)
        count = len(changes.read_text().splitlines())
        print(f"{arguments.fix}: for the images of {source.image_dir}; {count} changes, listed in {changes}")
    return max(int(result["exit_code"]) for result in results)


def _print_findings(report: Report, *, advises_json: bool) -> None:
    findings = report.by_severity()
    for finding in findings:
        print(finding)
        if finding.message:
            print(f"    first: {finding.message}" if finding.count > 1 else f"    {finding.message}")
    if not findings:
        print("nothing odd found")
    if advises_json and any(finding.is_cut for finding in findings):
        print(f"--json OUT lists more than {EXAMPLES_SHOWN} of each (the first {EXAMPLES_KEPT})")


def _print_faults(dataset: CocoDataset, arguments: argparse.Namespace) -> None:
    """Say that a command works on a faulty dataset, as far as opening it has shown."""
    counts = [
        (severity, sum(finding.count for finding in dataset.opening_report.by_severity(severity)))
        for severity in ("error", "dropped")
    ]
    found = ", ".join(f"{count} x {severity}" for severity, count in counts if count)
    if found:
        print(f"{found}: see mrcnn-data check {arguments.root} {' '.join(arguments.splits)}")


def _stats(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    _check_at_least(arguments, 1, "short_edge", "max_size", "aspect_classes")
    dataset = CocoDataset.from_root(arguments.root, arguments.splits, allow_errors=True)
    statistics = dataset_statistics(dataset)
    suggestions = suggestions_for(
        statistics,
        short_edge=arguments.short_edge,
        max_size=arguments.max_size,
        aspect_classes=arguments.aspect_classes,
    )
    print(f"{dataset.name}: {len(dataset)} images, {len(statistics.box_sizes)} objects")
    _print_faults(dataset, arguments)
    console = Console()
    for table in statistics_tables(statistics, suggestions):
        console.print(table)
    print("\n".join(suggestion_lines(suggestions)))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(statistics_record(statistics, suggestions), indent=2) + "\n")
    if arguments.png is not None:
        draw_statistics(arguments.png, statistics, suggestions)
        print(arguments.png)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    _check_at_least(arguments, 1, "short_edge", "max_size", "images")
    _check_at_least(arguments, 0, "samples")
    dataset = CocoDataset.from_root(arguments.root, arguments.splits, allow_errors=True)
    _print_faults(dataset, arguments)
    indices = (
        choose_images(dataset, arguments.images)
        if arguments.image_id is None
        else [index for image_id in arguments.image_id for index in _indices_of(dataset, image_id)]
    )
    draw_contact_sheet(
        arguments.out,
        dataset,
        indices,
        augmentation=Augmentation(
            **{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Augmentation)}
        ),
        short_edges=[arguments.short_edge],
        max_size=arguments.max_size,
        variants=arguments.samples,
        seed=arguments.seed,
    )
    why = "" if arguments.image_id is not None else _why_not_all(dataset, len(indices))
    print(f"{arguments.out}: {len(indices)} of {len(dataset)} images{why}")
    return 0


def _indices_of(dataset: CocoDataset, text: str) -> list[int]:
    """Several splits may each have an image of this id."""
    indices = [index for index, image_id in enumerate(dataset.image_ids) if str(image_id) == text]
    if not indices:
        raise ValueError(f"--image-id={text}: {dataset.name} has no such image")
    return indices


def _why_not_all(dataset: CocoDataset, count: int) -> str:
    if count < (np.count_nonzero(dataset.num_objects()) or len(dataset)):
        return " (--images N shows more)"
    return " (the others have no object)" if count < len(dataset) else ""


def _from_masks(arguments: argparse.Namespace) -> int:
    if arguments.classes is not None and arguments.class_name is not None:
        raise ValueError("--class-name names all objects, --classes names them by value: give one of them")
    imported = import_masks(
        arguments.image_dir,
        arguments.mask_dir,
        class_name="object" if arguments.class_name is None else arguments.class_name,
        classes=None if arguments.classes is None else _class_values(arguments.classes),
        split_regions=arguments.split_regions,
        ignored={_pixel_value(value, "ignore") for value in arguments.ignore},
    )
    write_imported(arguments.out, imported)
    content, without = imported
    print(
        f"{arguments.out}: {len(content['images'])} images ({len(without)} without a mask), "
        f"{len(content['annotations'])} objects, {len(content['categories'])} classes"
    )
    if without:
        print(f"without a mask, so background: {', '.join(without[:5])}{', ...' if without[5:] else ''}")
    return 0


def _class_values(items: Sequence[str]) -> dict[int, str]:
    classes: dict[int, str] = {}
    for item in items:
        text, _, name = item.partition("=")
        value = _pixel_value(text, "classes")
        if not name:
            raise ValueError(f"--classes={item}: expected VALUE=NAME")
        if value in classes:
            raise ValueError(f"--classes={item}: this value is {classes[value]!r} already")
        classes[value] = name
    return classes


def _pixel_value(text: str, option: str) -> int:
    try:
        return int(text[1:], 16) if text.startswith("#") else int(text)
    except ValueError:
        raise ValueError(f"--{option}={text}: expected a number or #rrggbb") from None


if __name__ == "__main__":
    sys.exit(main())
