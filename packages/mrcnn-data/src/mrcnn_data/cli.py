"""The `mrcnn-data` command."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrcnn_data.checking import check_dataset
from mrcnn_data.dataset import CocoDataset, find_split
from mrcnn_data.errors import DatasetError
from mrcnn_data.fixing import write_fixed
from mrcnn_data.synthetic import generate_shapes


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors of data, options and files are one line on stderr and exit code 2."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except (ValueError, OSError) as error:
        print(f"mrcnn-data: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mrcnn-data", description="COCO-format datasets: make and check them.")
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
    return parser


def _add_splits(command: argparse.ArgumentParser) -> None:
    command.add_argument("root", metavar="ROOT", help="folder with annotations/instances_SPLIT.json and SPLIT/")
    command.add_argument("splits", metavar="SPLIT", nargs="+")


def _shapes(arguments: argparse.Namespace) -> int:
    generate_shapes(arguments.out, train=arguments.train, val=arguments.val, size=arguments.size, seed=arguments.seed)
    print(f"{arguments.out}: {arguments.train} training and {arguments.val} validation images")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    if arguments.fix is not None and len(arguments.splits) > 1:
        raise ValueError("--fix takes one split at a time")
    results: list[dict[str, Any]] = []
    for split in arguments.splits:
        try:
            dataset = CocoDataset.from_root(arguments.root, split, allow_errors=True)
        except DatasetError as error:
            print(f"mrcnn-data: {error}", file=sys.stderr)
            results.append({"split": split, "error": str(error), "exit_code": 2})
            continue
        report = check_dataset(dataset, image_files=not arguments.no_images)
        objects = int(dataset.num_objects().sum())
        print(f"{split}: {len(dataset)} images, {objects} objects, {dataset.num_classes - 1} classes")
        print("\n".join(map(str, report.by_severity())) or "nothing odd found")
        results.append(
            {
                "split": split,
                "annotations": dataset.name,
                "images": len(dataset),
                "objects": objects,
                "classes": dataset.num_classes - 1,
                "findings": report.as_records(),
                "exit_code": report.exit_code,
            }
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    if arguments.fix is not None:
        source = find_split(arguments.root, arguments.splits[0])
        changes = write_fixed(source, arguments.fix)
        print(f"{arguments.fix}: {len(changes.read_text().splitlines())} changes, listed in {changes}")
    return max(int(result["exit_code"]) for result in results)


if __name__ == "__main__":
    sys.exit(main())
