"""Draw a data set of shapes, for the demo."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from mrcnn_data import DatasetError, visible
from mrcnn_data.synthetic import generate_shapes
from mrcnn_train.config.options import DataOptions
from mrcnn_train.errors import ConfigError

MARK = "synthetic.json"  # in data.root: the options that the shapes there were drawn from
UNFINISHED = "{}"
FOLDERS = ("annotations", "train", "val")  # which the drawing writes to


def draw_synthetic(data: DataOptions) -> None:
    """Draw the shapes of `data.synthetic` at data.root, unless they are there already.

    Raises:
        ConfigError: the folder holds other data, cannot be written to, or an option is out of its range.
    """
    if data.synthetic is None:
        return
    if data.root is None:
        raise ConfigError("data.synthetic needs data.root, the folder to draw into")
    root, wanted = Path(data.root), dataclasses.asdict(data.synthetic)
    mark = root / MARK
    try:
        if mark.is_file() and mark.read_text() == json.dumps(wanted):
            return
        if not mark.is_file() and any(_holds_something(root / folder) for folder in FOLDERS):
            raise ConfigError(
                f"data.root={root} has data that data.synthetic did not draw: choose another folder to draw into, "
                "or data.synthetic=null to train on the data there"
            )
        print(
            f"Drawing {data.synthetic.train} + {data.synthetic.val} images of shapes into {visible(root, limit=2000)}",
            flush=True,
        )
        root.mkdir(parents=True, exist_ok=True)
        mark.write_text(UNFINISHED)  # marks the folder as ours; an interrupted drawing is repeated
        generate_shapes(root, **wanted)
        mark.write_text(json.dumps(wanted))
    except (DatasetError, ConfigError):
        raise
    except ValueError as error:
        raise ConfigError(f"data.synthetic: {error}") from error
    except OSError as error:
        reason = "Not a directory" if root.is_file() else error.strerror
        raise ConfigError(f"data.root={root}: shapes cannot be drawn there: {reason}") from error


def _holds_something(path: Path) -> bool:
    return (path.is_dir() and any(path.iterdir())) or path.is_file()
