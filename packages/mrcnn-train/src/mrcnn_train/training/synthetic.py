"""Draw a data set of shapes, for the demo."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from mrcnn_data import DatasetError, OutputError, visible
from mrcnn_data.synthetic import generate_shapes
from mrcnn_train.config.options import DataOptions, SyntheticOptions
from mrcnn_train.errors import ConfigError
from mrcnn_train.record.run_files import replace_text

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
        earlier = _read_mark(mark)
        if earlier == wanted:
            return
        if earlier is None and any(_holds_something(root / name) for name in (MARK, *FOLDERS)):
            raise ConfigError(
                f"data.root={root} has data that data.synthetic did not draw: choose another folder to draw into, "
                "or data.synthetic=null to train on the data there"
            )
        print(
            f"Drawing {data.synthetic.train} + {data.synthetic.val} images of shapes into {visible(root, limit=2000)}",
            flush=True,
        )
        root.mkdir(parents=True, exist_ok=True)
        replace_text(mark, UNFINISHED)  # marks the folder as ours; an interrupted drawing is repeated
        try:
            generate_shapes(root, **wanted)
        except OutputError as error:  # version 0.1 drew the files, or the user changed one
            if earlier is not None:
                replace_text(mark, json.dumps(earlier))  # a run with the earlier options can still use them
            raise ConfigError(f"data.synthetic: {error}, or draw into another data.root") from error
        replace_text(mark, json.dumps(wanted))
    except (DatasetError, ConfigError):
        raise
    except ValueError as error:
        raise ConfigError(f"data.synthetic: {error}") from error
    except OSError as error:
        reason = "Not a directory" if root.is_file() else error.strerror
        raise ConfigError(f"data.root={root}: shapes cannot be drawn there: {reason}") from error


def _read_mark(mark: Path) -> dict[str, int] | None:
    """Return the options that the shapes were drawn from, {} if not all were drawn; None without a mark of ours."""
    try:
        options = json.loads(mark.read_bytes()) if mark.is_file() else None
    except ValueError:
        return None
    names = {field.name for field in dataclasses.fields(SyntheticOptions)}
    return options if isinstance(options, dict) and options.keys() in (set(), names) else None


def _holds_something(path: Path) -> bool:
    return (path.is_dir() and any(path.iterdir())) or path.is_file()
