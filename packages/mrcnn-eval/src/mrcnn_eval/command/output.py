"""Output of the command: files checked before the work, a progress bar, and the names of the files at the end."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mrcnn_data import check_outputs, visible
from mrcnn_eval.command.options import UsageError

MAX_NAMED = 8  # written files that are listed


def prepare_output(directory: Path, names: Sequence[str], *, inputs: Iterable[Path]) -> None:
    """Check that the outputs can be written, and make their directory. To be called before hours of inference.

    Args:
        directory: of all outputs.
        names: of the files.
        inputs: files that the command reads.

    Raises:
        UsageError: an output is also an input, or the directory cannot be written to.
        OutputError: an output exists and this product did not write it.
    """
    read = {path.resolve() for path in inputs}
    paths = [directory / name for name in names]
    for path in paths:
        if path.resolve() in read:
            raise UsageError(f"{path} is an input of this command too: choose another --output")
    check_outputs(paths)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {directory}: cannot be made: {error.strerror}") from error
    try:
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise UsageError(f"--output {directory}: cannot be written to: {error.strerror}") from error


def say_written(directory: Path, names: Sequence[str]) -> None:
    """Print where the outputs are."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    print(f"Written to {visible(directory)}: {', '.join(map(visible, names[:MAX_NAMED]))}{more}")


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal; give a function to call with the numbers of images done and of all images."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("images")
        yield lambda done, total: bar.update(task, completed=done, total=total)
