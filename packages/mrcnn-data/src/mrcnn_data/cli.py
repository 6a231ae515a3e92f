"""The `mrcnn-data` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mrcnn_data.dataset import CocoDataset
from mrcnn_data.errors import DatasetError
from mrcnn_data.synthetic import generate_shapes


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors of data, options and files are one line on stderr and exit code 2."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"mrcnn-data: {error}", file=sys.stderr)
        return 2
    return 0


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

    check = commands.add_parser("check", help="open datasets and list what is odd in them")
    check.add_argument("root", metavar="ROOT", help="folder with annotations/instances_SPLIT.json and SPLIT/")
    check.add_argument("splits", metavar="SPLIT", nargs="+")
    check.set_defaults(run=_check)
    return parser


def _shapes(arguments: argparse.Namespace) -> None:
    generate_shapes(arguments.out, train=arguments.train, val=arguments.val, size=arguments.size, seed=arguments.seed)
    print(f"{arguments.out}: {arguments.train} training and {arguments.val} validation images")


def _check(arguments: argparse.Namespace) -> None:
    errors = []
    for split in arguments.splits:
        try:
            dataset = CocoDataset.from_root(arguments.root, split)
        except DatasetError as error:
            errors.append(str(error))
            continue
        objects = int(dataset.num_objects().sum())
        print(f"{split}: {len(dataset)} images, {objects} objects, {dataset.num_classes - 1} classes")
        print(dataset.report)
    if errors:
        raise DatasetError("\n".join(errors))


if __name__ == "__main__":
    sys.exit(main())
