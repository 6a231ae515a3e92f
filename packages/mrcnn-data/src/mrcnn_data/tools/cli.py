"""The `mrcnn-data` command: its options, and how it ends."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from mrcnn_data.augmentation.options import Augmentation
from mrcnn_data.checks.rewriting import BOX_KINDS
from mrcnn_data.errors import DatasetError, OptionError
from mrcnn_data.outputs import OutputError
from mrcnn_data.pipes import run_piped
from mrcnn_data.text import visible
from mrcnn_data.tools import commands
from mrcnn_data.tools.commands import MAX_SIZE
from mrcnn_data.tools.sources import ROOT_HELP, add_sources


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    An error of data, options or files is one line on stderr and exit code 2; 130: interrupted; 141: the program that
    reads the output has ended.
    """
    return run_piped(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        print("mrcnn-data: interrupted", file=sys.stderr)
        return 130
    except (DatasetError, OptionError, OutputError) as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    print(f"mrcnn-data: {visible(message, limit=commands.MAX_LINE)}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mrcnn-data", description="Make, check and look at COCO-format datasets.")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, add_options, summary, description in COMMANDS:
        command = subparsers.add_parser(name, help=summary, description=description or f"{summary.capitalize()}.")
        add_options(command)
        command.set_defaults(run=run)
    return parser


def _add_shapes(shapes: argparse.ArgumentParser) -> None:
    shapes.add_argument("out", metavar="OUT", help="folder to write")
    shapes.add_argument("--train", type=int, default=200, metavar="N", help="training images (default: 200)")
    shapes.add_argument("--val", type=int, default=50, metavar="N", help="validation images (default: 50)")
    shapes.add_argument("--size", type=int, default=160, metavar="PX", help="edge of the images (default: 160)")
    shapes.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same files (default: 0)")


def _add_check(check: argparse.ArgumentParser) -> None:
    add_sources(check)
    check.add_argument("--json", metavar="OUT", type=Path, help="also write the findings as JSON")
    check.add_argument(
        "--fix", metavar="OUT.json", type=Path, help="write a clean annotation file and OUT.changes.txt (one SPLIT)"
    )
    check.add_argument("--one-class", metavar="NAME", help="with --fix: make all objects one class of this name")
    check.add_argument(
        "--boxes",
        choices=BOX_KINDS,
        help="with --fix: take boxes from the masks, or read them as corners (x1, y1, x2, y2), as fractions of the "
        "image, or as percentages",
    )
    check.add_argument("--crowds-are-objects", action="store_true", help="with --fix: write iscrowd 0 everywhere")
    check.add_argument("--force", action="store_true", help="with --fix: also if a tenth of the objects is removed")
    check.add_argument("--no-images", action="store_true", help="do not read the image files")


def _add_stats(stats: argparse.ArgumentParser) -> None:
    add_sources(stats)
    _add_sizes(stats)
    stats.add_argument(
        "--aspect-classes", type=int, default=3, metavar="N", help="how many bucket shapes to suggest (default: 3)"
    )
    stats.add_argument("--png", metavar="OUT.png", type=Path, help="also draw the distributions")
    stats.add_argument("--json", metavar="OUT", type=Path, help="also write the numbers as JSON")


def _add_show(show: argparse.ArgumentParser) -> None:
    add_sources(show)
    show.add_argument("--short-edge", type=int, metavar="PX", help="resize the samples to this (default: not resized)")
    show.add_argument("--max-size", type=int, metavar="PX", help=f"limit of their long edge ({MAX_SIZE})")
    show.add_argument("--out", metavar="OUT.png", type=Path, default=Path("sheet.png"), help="(default: sheet.png)")
    show.add_argument("--images", type=int, default=6, metavar="N", help="how many, evenly spread (default: 6)")
    show.add_argument("--image-id", nargs="+", metavar="ID", help="show these images, by their ids in the file")
    show.add_argument("--samples", type=int, default=2, metavar="N", help="training samples of each (default: 2)")
    show.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the samples (default: 0)")
    group = show.add_argument_group("augmentation", "the options of data.augmentation, with the defaults of training")
    for field in dataclasses.fields(Augmentation):
        default = getattr(Augmentation(), field.name)
        is_range = isinstance(default, list)
        group.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(default[0]) if is_range else type(default),
            nargs=2 if is_range else None,
            default=default,
            metavar=("LOW", "HIGH") if is_range else "X",
        )


def _add_from_masks(masks: argparse.ArgumentParser) -> None:
    masks.add_argument("image_dir", metavar="IMAGES", type=Path, help="folder of images")
    masks.add_argument("mask_dir", metavar="MASKS", type=Path, help="folder of masks")
    masks.add_argument("out", metavar="OUT.json", type=Path, help="annotation file to write")
    masks.add_argument("--class-name", metavar="NAME", help="class of all objects (default: object)")
    masks.add_argument(
        "--classes",
        nargs="+",
        metavar="VALUE=NAME",
        help="pixel values are classes; each connected region is an object",
    )
    masks.add_argument("--split-regions", action="store_true", help="each connected region is an object")
    masks.add_argument(
        "--class-factor",
        type=int,
        metavar="N",
        help="values are class x N + number (1000 in Cityscapes): each is an object, --classes names the classes",
    )
    masks.add_argument(
        "--names",
        metavar="PATTERN",
        help="how masks are named, without suffix, such as '{image}_{class}' or '{class}/{image}_{number}'",
    )
    masks.add_argument("--background", default="0", metavar="VALUE", help="value that is no object (default: 0)")
    masks.add_argument("--ignore", nargs="+", default=[], metavar="VALUE", help="values that are background too")
    masks.add_argument(
        "--threshold", type=int, metavar="VALUE", help="pixels of at least this are one value: for smooth edges"
    )


def _add_subset(subset: argparse.ArgumentParser) -> None:
    subset.add_argument("root", metavar="ROOT", help=ROOT_HELP)
    subset.add_argument("split", metavar="SPLIT")
    subset.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    subset.add_argument("--images", type=int, default=100, metavar="N", help="how many images (default: 100)")
    subset.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="only these classes, and images with an object of one (default: all)",
    )
    subset.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same images (default: 0)")


def _add_sizes(command: argparse.ArgumentParser) -> None:
    for name, default, meaning in (
        ("--short-edge", 800, "images are resized to this short edge"),
        ("--max-size", MAX_SIZE, "and at most this long edge"),
    ):
        command.add_argument(name, type=int, default=default, metavar="PX", help=f"{meaning} (default: {default})")


# Name, function, options, summary and description of each command.
COMMANDS = (
    ("shapes", commands.shapes, _add_shapes, "draw a dataset of shapes", ""),
    (
        "check",
        commands.check,
        _add_check,
        "list the faults of a dataset",
        "List the faults of a dataset: how often each occurs, where, and what training does about it. "
        "Exit code 0: nothing, or only notes; 1: warnings, or something is dropped or repaired; 2: errors, which stop "
        "training.",
    ),
    (
        "stats",
        commands.stats,
        _add_stats,
        "count and measure the objects of a dataset",
        "Objects of each class, sizes, shapes, objects per image, and the buckets and anchors that suit them. "
        "Several SPLITs are counted together.",
    ),
    (
        "show",
        commands.show,
        _add_show,
        "draw images with their annotations, before and after augmentation",
        "Draw a sheet of images: on the left as annotated, to the right as training sees them, but not resized unless "
        "--short-edge is given. Images that cannot be read are left out and named.",
    ),
    (
        "from-masks",
        commands.from_masks,
        _add_from_masks,
        "make an annotation file from mask pictures",
        "The objects of the image a/b.jpg are in MASKS/a/b.png, where each pixel value is one object, or in the "
        "folder MASKS/a/b/, which has one picture per object; --names says how masks are named otherwise. A value is a "
        "grey value, a palette index, or #rrggbb.",
    ),
    (
        "subset",
        commands.subset,
        _add_subset,
        "copy some images of a dataset with their annotations",
        "Copy N images, chosen at random, to OUT/SPLIT/ and their annotations to OUT/annotations/, for trials. "
        "The same seed chooses the same images, and a smaller N chooses some of those of a larger N.",
    ),
)

if __name__ == "__main__":
    sys.exit(main())
