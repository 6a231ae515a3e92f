"""Show the progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from mrcnn_data import visible
from mrcnn_eval.report import ap_tables
from mrcnn_train.config.plan import NOT_PLANNED
from mrcnn_train.record.scores import describe_ap, logged_numbers
from mrcnn_train.training.evaluation import Results


class ProgressDisplay:
    """Shows progress while the loop runs inside this context.

    Args:
        total_steps: of the run.
        start_step: steps done in earlier launches.
    """

    def __init__(self, *, total_steps: int, start_step: int) -> None:
        self._console = Console()
        self._total_steps = total_steps
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=None, completed=start_step, numbers="")
        self.planned(total_steps)

    def __enter__(self) -> ProgressDisplay:
        self._bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.stop()

    def planned(self, total_steps: int) -> None:
        """Show that the run has `total_steps` steps; NOT_PLANNED while they are not known."""
        self._total_steps = total_steps
        self._bar.update(self._task, total=total_steps if total_steps < NOT_PLANNED else None)

    def note(self, text: str) -> None:
        """Print a line about the run."""
        self._print(text)

    def step(self, done: int) -> None:
        """Show that `done` steps are done."""
        self._bar.update(self._task, completed=done)

    def log(self, done: int, row: Mapping[str, float], *, epoch: float, images_per_step: int, is_first: bool) -> None:
        """Show the numbers of the last window. The first step compiles, so no remaining time is shown for it."""
        is_planned = self._total_steps < NOT_PLANNED
        remaining = (self._total_steps - done) * images_per_step / row["images_per_second"]
        left = "compiling" if is_first else f"{_duration(remaining)} left" if is_planned else "measuring"
        skipped = f"{row['skipped_steps']:.0f} skipped  " if row.get("skipped_steps") else ""
        numbers = (
            f"loss {row['total']:.3f}  lr {row['learning_rate']:.2e}  {row['images_per_second']:.2f} img/s  "
            f"{skipped}{left}"
        )
        self._bar.update(self._task, completed=done, numbers=numbers)
        if not self._console.is_terminal:
            total = f"/{self._total_steps}" if is_planned else ""
            print(f"step {done}{total}  epoch {epoch:.2f}  {numbers}", flush=True)

    def second_step(self, done: int, *, seconds: float) -> None:
        """Show how long the run will take by its second step, the first that does not compile."""
        if self._total_steps < NOT_PLANNED:
            left = f"a step takes {seconds:.2g} s, about {_duration((self._total_steps - done) * seconds)} left"
            self._bar.update(self._task, completed=done, numbers=left)
            if not self._console.is_terminal:
                print(f"step {done}/{self._total_steps}  {left}", flush=True)

    def saved(self, done: int, checkpoint: Path) -> None:
        """Print where the checkpoint after `done` steps is."""
        self._print(f"saved step {done}: {visible(checkpoint, limit=2000)}")

    def evaluating(self, done: int, total: int) -> None:
        """Show how far an evaluation is."""
        self._bar.update(self._task, description=f"evaluate {done}/{total}")

    def detected(self) -> None:
        """Show that an evaluation has seen all images."""
        self._bar.update(self._task, description="train")

    def evaluated(self, step: int, results: Results, note: str = "") -> None:
        """Print box AP and mask AP of an evaluation, and a note."""
        self._print(f"evaluation after {step} steps: {describe_ap(logged_numbers(results))}{note}")

    def tables(self, results: Results) -> None:
        """Print all numbers of an evaluation."""
        for name, result in results.items():
            if len(results) > 1:
                self._print(f"{name}:")
            self._console.print(ap_tables(result))

    def _print(self, text: str) -> None:
        """Print text that may contain the user's names, without reading markup or emoji codes in them."""
        self._console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
