"""`resume=auto`: the same command starts a run, continues it, or reports that it has finished.

Spot instances, requeued jobs and restarted pods repeat one command. Options that decide the shapes of the weights or
which images a step sees must then be those that the run was started with.
"""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

from mrcnn_data import visible
from mrcnn_model import AUTO_PRECISION
from mrcnn_train.config.options import RunConfig, StopOptions
from mrcnn_train.config.values import option_value, with_values
from mrcnn_train.errors import ConfigError
from mrcnn_train.record.run_files import write_run_file

AUTO = "auto"
PLANNED_GROUPS = ("data", "model", "train", "optimizer", "eval")  # of which the experiment `auto` chooses options
CHECKPOINTS_DIR = "checkpoints"  # of a run directory
TRAINER_FILE = "trainer.json"  # written last into a checkpoint
ARRAY_FILES = ("model.safetensors", "trainer.safetensors")
FINISHED_FILE = "finished.json"
STEP_NAME = re.compile(r"step-(\d{1,18})")  # of a checkpoint folder
MAX_HEADER = 100_000_000  # bytes; the limit of safetensors


def complete_checkpoints(checkpoints: Path) -> list[Path]:
    """List the step folders that training can go on from, oldest first."""
    folders = [folder for folder in checkpoints.glob("step-*") if step_of(folder) is not None]
    return sorted((folder for folder in folders if is_complete(folder)), key=lambda folder: (step_of(folder), folder))


def step_of(checkpoint: Path) -> int | None:
    """Return the updates done at a checkpoint, by the name of its folder; None if that is no name of a checkpoint."""
    match = STEP_NAME.fullmatch(checkpoint.name)
    return int(match[1]) if match else None


def last_step(run_dir: Path) -> int:
    """Return the updates done at the newest complete checkpoint of a run; 0 without one."""
    checkpoints = complete_checkpoints(run_dir / CHECKPOINTS_DIR)
    return (step_of(checkpoints[-1]) or 0) if checkpoints else 0


def newest_run(folder: Path, *, marked_by: str) -> Path:
    """Return the newest run with a checkpoint in outputs/NAME, whose folders are named by the time; else `folder`.

    Args:
        marked_by: name of a file that each run has.
    """
    if (folder / marked_by).is_file():
        return folder
    runs = [
        path.parent for path in folder.glob(f"*/{marked_by}") if complete_checkpoints(path.parent / CHECKPOINTS_DIR)
    ]
    return max(runs, default=folder, key=lambda run: run.name)


def describe_resume(run_dir: Path) -> str:
    """Say which option continues a run, and from which checkpoint."""
    checkpoints = complete_checkpoints(run_dir / CHECKPOINTS_DIR)
    if not checkpoints:
        return "there is no checkpoint yet"
    return f"resume={visible(run_dir, limit=2000)} continues from {checkpoints[-1].name}"


def is_complete(checkpoint: Path) -> bool:
    """Return whether all files of a checkpoint are there, and the arrays as long as their headers say.

    A run renames a checkpoint when it is complete. Services that copy folders file by file, as SageMaker does, may be
    cut off in the middle of one.
    """
    if not all((checkpoint / name).is_file() for name in ("model.json", TRAINER_FILE)):
        return False
    try:
        return all(_has_full_length(checkpoint / name) for name in ARRAY_FILES)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error):
        return False  # cut off, or damaged


def _has_full_length(path: Path) -> bool:
    """Compare the length of a safetensors file with its header: 8 bytes of length, JSON, then the arrays."""
    with path.open("rb") as file:
        (header_length,) = struct.unpack("<Q", file.read(8))
        size = path.stat().st_size
        if header_length > min(size, MAX_HEADER):
            return False
        header = json.loads(file.read(header_length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return size == 8 + header_length + max(ends, default=0)


def start_or_go_on(config: RunConfig, saved: RunConfig | None, *, fixed: tuple[str, ...]) -> RunConfig:
    """Replace `resume="auto"`: by None for a new run, or by `run.dir` if that has a complete checkpoint.

    A run that goes on keeps its precision, unless another one than `auto` is asked for.

    Args:
        config: that of this launch, with resume="auto" and absolute paths.
        saved: config in the run directory; None if there is none.
        fixed: options and groups that cannot change when a run is continued.

    Raises:
        ConfigError: run.dir is not given, or an option that cannot change differs from the saved one.
    """
    if config.run.dir is None:
        raise ConfigError("resume=auto needs run.dir=DIR, the same at every launch")
    run_dir = Path(config.run.dir)
    if saved is None or not complete_checkpoints(run_dir / CHECKPOINTS_DIR):
        return dataclasses.replace(config, resume=None)
    if config.auto is not None:  # what it left open was chosen when the run began
        given = {name: option_value(config, name) for name in config.auto.given}
        chosen = {group: getattr(saved, group) for group in PLANNED_GROUPS}
        config = with_values(dataclasses.replace(config, auto=None, **chosen), given)
    for name in fixed:
        require_equal(name, option_value(saved, name), option_value(config, name), run_dir)
    precision = saved.precision if config.precision == AUTO_PRECISION else config.precision
    return dataclasses.replace(config, resume=str(run_dir), precision=precision)


def require_equal(name: str, then: Any, now: Any, run_dir: Path) -> None:
    """Raise ConfigError for the first option in which two groups of options differ."""
    if dataclasses.is_dataclass(then) and dataclasses.is_dataclass(now):
        for field in dataclasses.fields(then):
            require_equal(f"{name}.{field.name}", getattr(then, field.name), getattr(now, field.name), run_dir)
    elif then != now:
        raise ConfigError(
            f"resume=auto: {name} is {now!r}, but the run in {run_dir} has {then!r}, and this option cannot change: "
            f"give {name}={then}, or another run.dir for a new run"
        )


class End(NamedTuple):
    """How a run ended.

    Attributes:
        step: number of updates done.
        target: if reaching `stop_at` ended the run, that target as `describe_target` writes it; else empty.
    """

    step: int
    target: str


def mark_finished(run_dir: Path, end: End) -> None:
    """Write `finished.json`, which says that a run has finished."""
    write_run_file(run_dir / FINISHED_FILE, json.dumps(end._asdict()))


def read_end(run_dir: Path) -> End | None:
    """Read how a run ended; None if it has not finished."""
    try:
        content = json.loads((run_dir / FINISHED_FILE).read_text(encoding="utf-8"))
        end = End(content["step"], content["target"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return end if isinstance(end.step, int) and isinstance(end.target, str) else None


def describe_target(target: StopOptions) -> str:
    """Write "box AP 0.4, mask AP 0.35, patience 3"."""
    named = (("box AP", target.box_ap), ("mask AP", target.mask_ap), ("patience", target.patience))
    return ", ".join(f"{name} {least:g}" for name, least in named if least is not None)
