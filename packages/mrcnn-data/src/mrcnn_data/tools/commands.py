"""What each `mrcnn-data` command does. Each function takes the parsed options and returns the exit code."""

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
from mrcnn_data.annotations.scoring import scoring_summary
from mrcnn_data.augmentation.options import Augmentation
from mrcnn_data.checks.checking import check_datasets
from mrcnn_data.checks.fixing import changes_path, write_fixed
from mrcnn_data.drawing.contact_sheet import choose_images, draw_contact_sheet
from mrcnn_data.errors import DatasetError, OptionError
from mrcnn_data.outputs import OutputError, check_outputs, write_output
from mrcnn_data.pipes import open_console
from mrcnn_data.report import EXAMPLES_KEPT, EXAMPLES_SHOWN, Report
from mrcnn_data.statistics.counting import dataset_statistics
from mrcnn_data.statistics.plots import draw_statistics
from mrcnn_data.statistics.suggestions import suggestions_for
from mrcnn_data.statistics.tables import statistics_record, statistics_tables, suggestion_lines
from mrcnn_data.synthetic import generate_shapes
from mrcnn_data.text import visible
from mrcnn_data.tools.mask_import import import_masks, write_imported
from mrcnn_data.tools.sources import as_arguments, find_source, open_sources, source_names, source_paths
from mrcnn_data.tools.subset import write_subset

MAX_LINE = 4000  # characters printed: a few paths of full length
MAX_SIZE = 1333  # default of training, pixels


def _say(line: object) -> None:
    """Print one line; control characters, which names from files may contain, are escaped."""
    print(visible(line, limit=MAX_LINE))


def shapes(options: argparse.Namespace) -> int:
    """Draw a dataset of shapes."""
    generate_shapes(options.out, train=options.train, val=options.val, size=options.size, seed=options.seed)
    _say(f"{options.out}: {options.train} training and {options.val} validation images")
    return 0


def check(options: argparse.Namespace) -> int:
    """Print what is wrong in each split, and write the findings and a clean file where asked to."""
    splits = source_names(options)
    if options.fix is not None and len(splits) > 1:
        raise OptionError("--fix takes one split at a time")
    if options.fix is None and any((options.one_class, options.boxes, options.crowds_are_objects, options.force)):
        raise OptionError("--one-class, --boxes, --crowds-are-objects and --force belong to --fix OUT.json")
    _check_outputs(options.json, options.fix, options.fix and changes_path(options.fix), inputs=source_paths(options))
    datasets: dict[str, CocoDataset] = {}
    unopened: dict[str, str] = {}
    for split in splits:
        try:
            datasets[split] = open_sources(options, split)
        except DatasetError as error:
            print(f"mrcnn-data: {error}", file=sys.stderr)
            unopened[split] = str(error)
    reports = check_datasets(datasets, image_files=not options.no_images)
    for split, dataset in datasets.items():
        _print_check(split, dataset, reports[split], advises_json=options.json is None)
    results: list[dict[str, Any]] = [
        {"split": split, "error": unopened[split], "exit_code": 2}
        if split in unopened
        else _check_record(split, datasets[split], reports[split])
        for split in splits
    ]
    if options.json is not None:
        _write_json(options.json, results)
    if options.fix is not None:
        source = find_source(options, splits[0])
        fixed = write_fixed(
            source,
            options.fix,
            one_class=options.one_class,
            boxes=options.boxes,
            crowds_are_objects=options.crowds_are_objects,
            force=options.force,
        )
        listed = f"{len(fixed.changes)} changes, listed in {changes_path(options.fix)}"
        _say(f"{options.fix}: for the images of {source.image_dir}; {listed}")
        if fixed.clipped:
            _say(
                f"    {fixed.clipped} boxes were clipped to their image. An evaluation scores the boxes of its file: "
                f"do not compare an AP on {options.fix.name} with one on {source.annotation_path.name}"
            )
    return max(int(result["exit_code"]) for result in results)


def _check_record(split: str, dataset: CocoDataset, report: Report) -> dict[str, Any]:
    return {
        "split": split,
        "annotations": dataset.name,
        "images": len(dataset),
        "objects": int(dataset.num_objects().sum()),
        "classes": dataset.num_classes - 1,
        "scored": scoring_summary(dataset)._asdict(),
        "findings": report.as_records(),
        "exit_code": report.exit_code,
    }


def _print_check(split: str, dataset: CocoDataset, report: Report, *, advises_json: bool) -> None:
    counts = f"{len(dataset)} images, {dataset.num_objects().sum()} objects, {dataset.num_classes - 1} classes"
    _say(f"{split}: {counts}")
    _say(f"    {scoring_summary(dataset)}")
    findings = report.by_severity()
    for finding in findings:
        _say(finding)
        if finding.message:
            _say(f"    first: {finding.message}" if finding.count > 1 else f"    {finding.message}")
    if not findings:
        _say("nothing odd found")
    if advises_json and any(finding.is_cut for finding in findings):
        _say(f"--json OUT lists more than {EXAMPLES_SHOWN} of each (the first {EXAMPLES_KEPT})")


def stats(options: argparse.Namespace) -> int:
    """Print tables of a dataset and suggested options; draw and write them where asked to."""
    _check_at_least(options, 1, "short_edge", "max_size", "aspect_classes")
    _check_outputs(options.json, options.png, inputs=source_paths(options))
    dataset = open_sources(options, *source_names(options))
    statistics = dataset_statistics(dataset)
    suggestions = suggestions_for(
        statistics,
        short_edge=options.short_edge,
        max_size=options.max_size,
        aspect_classes=options.aspect_classes,
    )
    _say(f"{dataset.name}: {len(dataset)} images, {len(statistics.box_sizes)} objects")
    _print_faults(dataset, options)
    console = open_console()
    for table in statistics_tables(statistics, suggestions):
        console.print(table)
    for line in suggestion_lines(suggestions):
        _say(line)
    if options.json is not None:
        _write_json(options.json, statistics_record(statistics, suggestions))
    if options.png is not None:
        draw_statistics(options.png, statistics, suggestions)
        _say(options.png)
    return 0


def show(options: argparse.Namespace) -> int:
    """Draw a sheet of images."""
    given = [name for name in ("short_edge", "max_size") if getattr(options, name) is not None]
    _check_at_least(options, 1, *given, "images")
    _check_at_least(options, 0, "samples")
    _check_outputs(options.out, inputs=source_paths(options))
    dataset = open_sources(options, *source_names(options))
    _print_faults(dataset, options)
    indices = (
        choose_images(dataset, options.images)
        if options.image_id is None
        else [index for image_id in options.image_id for index in _indices_of(dataset, image_id)]
    )
    max_size = MAX_SIZE if options.max_size is None and options.short_edge is not None else options.max_size
    unreadable = draw_contact_sheet(
        options.out,
        dataset,
        indices,
        augmentation=Augmentation(
            **{field.name: getattr(options, field.name) for field in dataclasses.fields(Augmentation)}
        ),
        short_edges=None if options.short_edge is None else [options.short_edge],
        max_size=max_size,
        variants=options.samples,
        seed=options.seed,
        on_error="skip",
    )
    for index, error in unreadable.items():
        print(f"mrcnn-data: {'left out' if index in indices else 'not pasted'}: {visible(error)}", file=sys.stderr)
    shown = [index for index in indices if index not in unreadable]
    why = "" if options.image_id is not None or unreadable else _why_not_all(dataset, len(indices))
    _say(f"{options.out}: {len(shown)} of {len(dataset)} images{why}")
    return 0


def _indices_of(dataset: CocoDataset, text: str) -> list[int]:
    """Find the images with this id; each of several splits may have one."""
    indices = [index for index, image_id in enumerate(dataset.image_ids) if str(image_id) == text]
    if not indices:
        raise OptionError(f"--image-id={text}: {dataset.name} has no such image")
    return indices


def _why_not_all(dataset: CocoDataset, count: int) -> str:
    if count < (np.count_nonzero(dataset.num_objects()) or len(dataset)):
        return " (--images N shows more)"
    return " (the others have no object)" if count < len(dataset) else ""


def from_masks(options: argparse.Namespace) -> int:
    """Make an annotation file from mask pictures."""
    if options.classes is not None and options.class_name is not None:
        raise OptionError("--class-name names all objects, --classes names them by value: give only one of the two")
    if "{class}" in (options.names or "") and options.class_name is not None:
        raise OptionError("--class-name names all objects, {class} in --names each by its file: give one of the two")
    _check_outputs(options.out, inputs=[options.image_dir, options.mask_dir])
    imported = import_masks(
        options.image_dir,
        options.mask_dir,
        class_name="object" if options.class_name is None else options.class_name,
        classes=None if options.classes is None else _class_values(options.classes),
        class_factor=options.class_factor,
        names=options.names,
        split_regions=options.split_regions,
        background=_pixel_value(options.background, "background"),
        threshold=options.threshold,
        ignored={_pixel_value(value, "ignore") for value in options.ignore},
    )
    write_imported(options.out, imported)
    content = imported.content
    _say(
        f"{options.out}: {len(content['images'])} images ({len(imported.without_mask)} without a mask), "
        f"{len(content['annotations'])} objects, {len(content['categories'])} classes"
    )
    for what, names in (("without a mask, so background", imported.without_mask), ("left out", imported.left_out)):
        if names:
            _say(f"{what}: {', '.join(names[:5])}{', ...' if names[5:] else ''}")
    for note in imported.notes:
        _say(f"note: {note}")
    return 0


def subset(options: argparse.Namespace) -> int:
    """Copy some images of a split with their annotations."""
    _check_at_least(options, 1, "images")
    _check_at_least(options, 0, "seed")
    content, files = write_subset(
        options.root, options.split, options.out, images=options.images, classes=options.classes, seed=options.seed
    )
    _say(
        f"{options.out}: {len(files)} images, {len(content['annotations'])} objects and crowds, "
        f"{len(content['categories'])} classes"
    )
    return 0


def _class_values(items: Sequence[str]) -> dict[int, str]:
    classes: dict[int, str] = {}
    for item in items:
        text, _, name = item.partition("=")
        value = _pixel_value(text, "classes")
        if not name:
            raise OptionError(f"--classes={item}: expected VALUE=NAME")
        if value in classes:
            raise OptionError(f"--classes={item}: this value is {classes[value]!r} already")
        classes[value] = name
    return classes


def _pixel_value(text: str, option: str) -> int:
    try:
        return int(text[1:], 16) if text.startswith("#") else int(text)
    except ValueError:
        raise OptionError(f"--{option}={text}: expected a number or #rrggbb") from None


def _print_faults(dataset: CocoDataset, options: argparse.Namespace) -> None:
    """Say that the dataset has faults, as far as opening it has shown them."""
    counts = [
        (severity, sum(finding.count for finding in dataset.opening_report.by_severity(severity)))
        for severity in ("error", "dropped")
    ]
    found = ", ".join(f"{count} x {severity}" for severity, count in counts if count)
    if found:
        _say(f"{found}: see mrcnn-data check {as_arguments(options)}")


def _check_at_least(options: argparse.Namespace, least: int, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value < least:
            raise OptionError(f"--{name.replace('_', '-')}={value} must be at least {least}")


def _check_outputs(*paths: Path | None, inputs: Sequence[Path]) -> None:
    """Raise OutputError for a path that exists, and lies in `inputs` (files and folders) or is a user's file."""
    given = [path for path in paths if path is not None]
    for path in given:
        if path.exists() and any(path.resolve().is_relative_to(one.resolve()) for one in inputs):
            raise OutputError(f"{visible(path)} exists and is an input of this command: choose another output")
    check_outputs(given)


def _write_json(path: Path, content: Any) -> None:
    write_output(path, (json.dumps(content, indent=2) + "\n").encode())
