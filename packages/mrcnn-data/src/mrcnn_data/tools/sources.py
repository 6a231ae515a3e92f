"""Which data sets a command works on: splits of a root, or one annotation file with its folder of images."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from pathlib import Path

from mrcnn_data.annotations.dataset import CocoDataset
from mrcnn_data.annotations.opening import Source, find_split
from mrcnn_data.errors import DatasetError, OptionError

ROOT_HELP = "folder with annotations/instances_SPLIT.json and SPLIT/, or with SPLIT/_annotations.coco.json (Roboflow)"


def add_sources(command: argparse.ArgumentParser) -> None:
    """Add ROOT, SPLIT, --annotations and --image-dir to the options of a command."""
    command.add_argument(
        "root",
        metavar="ROOT",
        nargs="?",
        help=ROOT_HELP,
    )
    command.add_argument("splits", metavar="SPLIT", nargs="*")
    command.add_argument(
        "--annotations", metavar="FILE", type=Path, help="in place of ROOT and SPLIT: an annotation file"
    )
    command.add_argument("--image-dir", metavar="DIR", type=Path, help="with --annotations: the folder of its images")


def source_names(options: argparse.Namespace) -> list[str]:
    """Return the names of the data sets: the splits, or the name of the annotation file.

    Raises:
        OptionError: neither is given, or both.
    """
    by_file = options.annotations is not None or options.image_dir is not None
    if by_file and (options.annotations is None or options.image_dir is None):
        raise OptionError("--annotations FILE and --image-dir DIR belong together")
    if by_file and options.root is not None:
        raise OptionError("give either ROOT and SPLIT, or --annotations FILE and --image-dir DIR")
    if not by_file and not options.splits:
        raise OptionError("give ROOT and at least one SPLIT, or --annotations FILE and --image-dir DIR")
    return [options.annotations.name] if by_file else list(options.splits)


def find_source(options: argparse.Namespace, name: str) -> Source:
    """Return the files of a data set of `source_names`.

    Raises:
        DatasetError: the root or the split does not exist.
    """
    if options.annotations is not None:
        return Source(options.annotations, options.image_dir)
    return find_split(options.root, name)


def open_sources(options: argparse.Namespace, *names: str) -> CocoDataset:
    """Open data sets of `source_names` as one, however faulty they are.

    Raises:
        DatasetError: one cannot be opened.
    """
    sources = [find_source(options, name) for name in names]
    return CocoDataset.open(
        [source.annotation_path for source in sources], [source.image_dir for source in sources], allow_errors=True
    )


def source_paths(options: argparse.Namespace) -> list[Path]:
    """Return the annotation files and image folders; those that do not exist are reported later."""
    found: list[Path] = []
    for name in source_names(options):
        with contextlib.suppress(DatasetError):
            found += find_source(options, name)
    return found


def as_arguments(options: argparse.Namespace) -> str:
    """Return the options that name the data sets, as they are given on a command line."""
    if options.annotations is not None:
        return shlex.join(["--annotations", str(options.annotations), "--image-dir", str(options.image_dir)])
    return shlex.join([options.root, *options.splits])
