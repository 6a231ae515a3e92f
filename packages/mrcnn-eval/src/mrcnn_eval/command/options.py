"""The options of the `mrcnn-eval` command, and which of them go together."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mrcnn_data import visible
from mrcnn_model import AUTO_PRECISION, DEVICES, PRECISIONS

NOT_WITH_RESULTS = ("data_root", "split", "limit", "batch_size", "tta", "precision", "device", "no_tf32")
OF_DATA = ("data_root", "split", "annotations", "image_dir", "limit")
OF_SCORING = ("honor_ignore", "mask_areas", "backend", "report", "compare")
DEFAULT_BATCH_SIZE = 4
MAX_MESSAGE = 2000  # characters of an error or a warning


class UsageError(ValueError):
    """Options that contradict each other or the checkpoint, or a path that cannot be used; one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {visible(message, limit=MAX_MESSAGE)}\n")  # one line, without the usage


PICTURE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")


def parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments of the command; a bad option is one line and exit code 2."""
    parser = _build_parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{_hint(unknown[0])}")
    return arguments


def _hint(unknown: str) -> str:
    """Name the option that a path without an option was meant for."""
    if unknown.startswith("-"):
        return ""
    path = Path(unknown)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return f"; to find objects in pictures: --checkpoint DIR --images {unknown}"
    if path.suffix == ".json":
        return f"; to score a results file: --results {unknown} --annotations FILE"
    return f"; to score a run: --checkpoint {unknown}"


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mrcnn-eval",
        description="Score a Mask R-CNN checkpoint, or a COCO results file, by COCO AP of boxes and masks; "
        "or let a checkpoint find the objects in pictures.",
        formatter_class=_one_line_per_option,
    )
    _add_inputs(parser)
    _add_scoring(parser)
    return parser


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what to look at, and where the files go."""
    add = parser.add_argument
    add("--checkpoint", type=Path, metavar="DIR", help="checkpoint or run directory to score or to predict with")
    add("--results", type=Path, metavar="FILE", help="COCO results JSON to score instead; needs --annotations")
    add("--data-root", type=Path, metavar="DIR", help="data set with annotations/ in it (default: the run's)")
    add("--split", metavar="NAME", help="split of the data set (default: the run's validation split)")
    add("--annotations", type=Path, metavar="FILE", help="COCO instances file, in place of root and split")
    add("--image-dir", type=Path, metavar="DIR", help="folder of the images that --annotations names")
    add("--images", type=Path, nargs="+", metavar="PATH", help="pictures, or folders of pictures, to find objects in")
    add(
        "--precision",
        choices=(AUTO_PRECISION, *PRECISIONS),
        metavar="NAME",
        help=f"of the arithmetic: {', '.join(PRECISIONS)}, or auto (default), the fastest here",
    )
    add("--device", choices=DEVICES, metavar="NAME", help="auto (default: a GPU, or the CPU without one), cpu, or gpu")
    add("--no-tf32", action="store_true", help="on a GPU, multiply float32 with all 23 bits of the fraction, not 10")
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder to write into (default: evaluation/ or predictions/ at the input)",
    )


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what counts, and what is written about it."""
    add = parser.add_argument
    add("--limit", type=_positive, metavar="N", help="score the first N images only")
    add("--batch-size", type=_positive, metavar="N", help=f"images at a time (default: {DEFAULT_BATCH_SIZE})")
    add("--max-dets", type=_positive, metavar="N", help="detections per image that count (default: the model's)")
    add("--score-threshold", type=_share, metavar="X", help="drop detections below this score (default: the model's)")
    add(
        "--tta",
        nargs="+",
        type=_view,
        metavar="VIEW",
        help="detect on several views too: flip, scales, or both: flip 0.75 1.5",
    )
    add(
        "--honor-ignore",
        action="store_true",
        help="leave out objects with ignore: 1; --checkpoint always does",
    )
    add(
        "--backend",
        choices=("hotcoco", "pycocotools"),
        metavar="NAME",
        help="scorer: hotcoco (default, fast) or pycocotools; same numbers",
    )
    add(
        "--pycocotools-id0",
        action="store_true",
        help="with --results: count an annotation with id 0 as never found, as pycocotools does",
    )
    add(
        "--mask-areas",
        action="store_true",
        help="sort objects into small, medium and large by the pixels of their masks, not by `area`",
    )
    add("--report", action="store_true", help="also write report.html: numbers, plots and the worst mistakes")
    add(
        "--compare",
        type=Path,
        metavar="DIR",
        help="run or evaluation directory to compare with, by class and image",
    )


def _one_line_per_option(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, max_help_position=28, width=110)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None


def _positive(text: str) -> int:
    value = _whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}") from None
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, not {text}")
    return value


def _view(text: str) -> str | float:
    if text == "flip":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected flip or a scale, got {text!r}") from None


def check_options(arguments: argparse.Namespace) -> None:
    """Raise UsageError where options contradict each other."""
    if (arguments.checkpoint is None) == (arguments.results is None):
        raise UsageError("give either --checkpoint or --results")
    if arguments.results is not None:
        if arguments.images is not None:
            raise UsageError("--images predicts with a --checkpoint; the folder of scored images is --image-dir")
        if arguments.annotations is None:
            raise UsageError("--results needs --annotations, the ground truth to score against")
        refuse(arguments, NOT_WITH_RESULTS, "--results")
        if arguments.pycocotools_id0 and arguments.backend == "hotcoco":
            raise UsageError("--pycocotools-id0 needs --backend pycocotools")
        return
    refuse(arguments, ("pycocotools_id0",), "--checkpoint")
    if arguments.images is not None:
        refuse(arguments, (*OF_DATA, *OF_SCORING), "--images, which predicts without scoring")
        return
    if (arguments.annotations is None) != (arguments.image_dir is None):
        raise UsageError("--annotations and --image-dir go together")
    if arguments.annotations is not None and (arguments.data_root is not None or arguments.split is not None):
        raise UsageError("--annotations and --image-dir take the place of --data-root and --split")


def refuse(arguments: argparse.Namespace, names: Sequence[str], owner: str) -> None:
    """Raise UsageError if one of the options is given, which do not go with another option or input."""
    for name in names:
        if getattr(arguments, name) not in (None, False):
            raise UsageError(f"--{name.replace('_', '-')} does not go with {owner}")
