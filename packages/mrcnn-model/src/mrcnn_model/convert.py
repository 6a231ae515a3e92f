"""Make a checkpoint from weights of another project, or write a checkpoint's weights for another project.

    python -m mrcnn_model.convert IN OUT --from tensorpack|torchvision|detectron2
    python -m mrcnn_model.convert CHECKPOINT OUT --to tensorpack|torchvision

With --from, IN is an .npz or .safetensors file and OUT a new or empty folder; with --to, OUT is a new file. The command
prints every name that was not used and every variable that was not filled. A file of a backbone alone becomes a
detector with fresh heads; a file that has only some variables of a detector, or of a backbone, is an error unless
--allow-missing is given. Exit code 1: an error; then nothing is written.

torchvision's COCO detectors have a row for each of 90 category ids, ten of which COCO does not use. --by-category-id
with --annotations keeps the rows of the categories in that file; with --to it puts every class at the row of its id.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrcnn_model.command import run_command
from mrcnn_model.config import OptionError
from mrcnn_model.quiet_tensorflow import import_tensorflow_quietly

SIZES = ("short_edge", "max_size")
ONLY_FOR_IMPORT = ("num_classes", "annotations", "set", "allow_missing", *SIZES)


def main(arguments: Sequence[str] | None = None) -> int:
    import_tensorflow_quietly()
    from safetensors import SafetensorError

    from mrcnn_model.storage.cards import CheckpointError
    from mrcnn_model.weights.conversion import ConvertError

    errors = (CheckpointError, OptionError, ConvertError, OSError, SafetensorError)
    return run_command(lambda: _run(_parser().parse_args(arguments)), errors=errors)


def _run(options: argparse.Namespace) -> None:
    from mrcnn_model.weights.conversion import convert, export
    from mrcnn_model.weights.filling import LAYOUTS

    if options.to:
        _require_only_for_import(options)
        export(options.source, options.target, LAYOUTS[options.to], by_category_id=options.by_category_id)
        return
    convert(
        options.source,
        options.target,
        layout=LAYOUTS[options.layout],
        num_classes=options.num_classes,
        annotations=options.annotations,
        by_category_id=options.by_category_id,
        allow_missing=options.allow_missing,
        changes=dict(map(_option, options.set)),
        **{name: getattr(options, name) for name in SIZES if getattr(options, name) is not None},
    )


def _require_only_for_import(options: argparse.Namespace) -> None:
    given = [name for name in ONLY_FOR_IMPORT if getattr(options, name) not in (None, [], False)]
    if given:
        from mrcnn_model.weights.conversion import ConvertError

        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConvertError(f"{names}: only with --from; with --to everything is read from the checkpoint")


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise OptionError(f"--set {text}: expected OPTION=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value  # a bare word: norm=gn


def _parser() -> argparse.ArgumentParser:
    from mrcnn_model.weights.filling import LAYOUTS

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
    parser.add_argument(
        "--allow-missing", action="store_true", help="variables that are not in the file start fresh (see above)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="an option of ModelConfig")
    parser.add_argument("--short-edge", type=int, metavar="PX", help="short edge of resized images (800)")
    parser.add_argument("--max-size", type=int, metavar="PX", help="limit of their long edge (1333)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
