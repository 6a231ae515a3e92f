"""The commands that can follow a run, ready to be pasted into a shell."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from mrcnn_data import visible
from mrcnn_train.config.options import TrainOptions

PLAIN = re.compile(r"[\w./+-]+")  # values that neither the shell nor Hydra reads as anything else


def next_commands(run_dir: Path, train: TrainOptions, *, total_steps: int, pictures: Path | None) -> str:
    """Write a line for each command: predict, score, export, train longer.

    Args:
        pictures: folder of validation images; None for a run without validation set.
    """
    run, images = shlex.quote(str(run_dir)), shlex.quote(str(pictures or "PICTURES"))
    longer = f"train.max_steps={2 * total_steps}" if train.minutes is None else f"train.minutes={2 * train.minutes:g}"
    if train.minutes is None and train.epochs is not None:
        longer += " train.epochs=null"
    lines = {
        "find objects in pictures": f"mrcnn-eval --checkpoint {run} --images {images}",
        "score, and look at mistakes": f"mrcnn-eval --checkpoint {run} --report" if pictures is not None else "",
        "export for serving": f"python -m mrcnn_model.export {run} {shlex.quote(str(run_dir / 'saved_model'))}",
        "train longer": f"python -m mrcnn_train {option('resume', str(run_dir))} {longer}",
    }
    return "\n".join(f"{what + ':':33} {visible(command, limit=4000)}" for what, command in lines.items() if command)


def option(name: str, value: str) -> str:
    """Write an option of the command, quoted for the shell and for Hydra where that is needed.

    >>> print(option("resume", "outputs/a"), option("resume", "my run"))
    resume=outputs/a 'resume="my run"'
    """
    if PLAIN.fullmatch(value):
        return f"{name}={value}"
    escaped = value.replace('"', '\\"')
    return shlex.quote(f'{name}="{escaped}"')
