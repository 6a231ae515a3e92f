"""A time budget in steps: how many, when the rate drops, when to evaluate. Pure functions of what was measured.

**Steps, not time, decide.** The rate is a function of the step alone, as in every run, so a step never depends on how
fast the machine is at that moment. A timetable turns minutes into steps; it is saved, and a resumed run reads it.

**The last timetable describes the whole run.** Until the first one is made, the rate stays at its start, and warm-up
begins after it. Later ones move the end, the drops to come and the evaluations to come; warm-up and the drops that were
done stay at their steps. While the rate has not dropped, it does not depend on the end: then a run whose timetable was
changed has done what one with the last timetable would have done. (A cosine always depends on the end, so a change
bends the curve from there on.)

**A machine that gets slower must not overrun**, so the timetable is compared with the clock at every fiftieth of the
run. It is changed when it is wrong by more than a tenth of what is left, near the end by a fiftieth of the run. If too
little time is left, the rate drops at once, and the last steps are done at the low rate: a run that ends early still
ends like a finished one.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mrcnn_train.config.plan import Plan
from mrcnn_train.config.schedule import evaluation_steps
from mrcnn_train.record.run_files import replace_text

TIMETABLES_FILE = "timetables.json"
EVALUATIONS = 10  # of a run, if eval.times is not given
MOST_EVALUATING = 0.25  # share of the budget; where evaluations are slower, there are fewer
LONGEST_WARMUP = 0.1  # share of the steps
TOLERANCE = 0.02  # share of the steps by which a timetable may be wrong, and after which it is compared again
TOLERANCE_OF_REST = 0.1  # share of the steps left by which it may be wrong: time remains to correct it


class Timetable(NamedTuple):
    """What a run with a time budget does in which step.

    Attributes:
        step: updates done when it was made.
        minutes: the budget.
        total_steps: of the whole run.
        warmup_begin, warmup_end: steps between which the rate rises.
        drop_steps: as in `Schedule`.
        evaluate_steps: updates after which the run evaluates, rising, with those done; the last is `total_steps`.
        step_seconds, evaluation_seconds: measured; 0 without a validation set.
    """

    step: int
    minutes: float
    total_steps: int
    warmup_begin: int
    warmup_end: int
    drop_steps: tuple[int, ...]
    evaluate_steps: tuple[int, ...]
    step_seconds: float
    evaluation_seconds: float

    @property
    def check_every(self) -> int:
        """Steps after which it is compared with the clock."""
        return max(1, round(TOLERANCE * self.total_steps))

    def __str__(self) -> str:
        to_come = sum(step > self.step for step in self.evaluate_steps)
        evaluating = (
            f", an evaluation {self.evaluation_seconds:.2g} s, {to_come} to come" if self.evaluation_seconds else ""
        )
        return (
            f"{self.total_steps} steps fit into {self.minutes:g} minutes: after {self.step} a step takes "
            f"{self.step_seconds:.2g} s{evaluating}"
        )


class Measured(NamedTuple):
    """Where a run is, and how fast.

    Attributes:
        step: updates done.
        seconds: spent of the budget.
        step_seconds: of a step, with what is done between steps.
        evaluation_seconds: of an evaluation; 0 without a validation set.
    """

    step: int
    seconds: float
    step_seconds: float
    evaluation_seconds: float


def first_timetable(
    now: Measured, *, minutes: float, warmup_steps: int, drop_fractions: Sequence[float], evaluations: int
) -> Timetable:
    """Plan a run from its first steps.

    Args:
        warmup_steps: wanted; a tenth of the run if that is less.
        drop_fractions: shares of all steps after which the rate drops.
        evaluations: wanted, the one at the end included.
    """
    evaluations = _affordable(evaluations, now, minutes=minutes)
    total = now.step + _steps_in(60 * minutes - now.seconds - evaluations * now.evaluation_seconds, now.step_seconds)
    rising = min(warmup_steps, int(LONGEST_WARMUP * total))
    return Timetable(
        step=now.step,
        minutes=minutes,
        total_steps=total,
        warmup_begin=now.step if rising else 0,
        warmup_end=now.step + rising if rising else 0,
        drop_steps=tuple(max(now.step, round(share * total)) for share in drop_fractions),
        evaluate_steps=evaluation_steps(total, evaluations, begin=now.step),
        step_seconds=now.step_seconds,
        evaluation_seconds=now.evaluation_seconds,
    )


def next_timetable(
    last: Timetable, now: Measured, *, minutes: float, drop_fractions: Sequence[float], evaluations: int
) -> Timetable:
    """Return the timetable that suits what was measured; `last` itself if that is right within the tolerance.

    Args:
        minutes: the budget. If a resumed run has another one, the evaluations are spread anew.
        evaluations: as of `first_timetable`.
    """
    past = tuple(step for step in last.evaluate_steps if step <= now.step)
    is_due = now.step in past  # its time is not spent yet
    to_come = len(last.evaluate_steps) - len(past)
    if minutes != last.minutes:
        to_come = _affordable(evaluations, now, minutes=minutes)
    left = 60 * minutes - now.seconds - (is_due + to_come) * now.evaluation_seconds
    total = now.step + _steps_in(left, now.step_seconds)
    left_over = TOLERANCE_OF_REST * (last.total_steps - now.step)
    if minutes == last.minutes and abs(total - last.total_steps) <= max(TOLERANCE * last.total_steps, left_over):
        return last
    spread = evaluation_steps(total, to_come, begin=max(past, default=last.warmup_begin))
    dropped = tuple(step for step in last.drop_steps if step < now.step)
    return last._replace(
        step=now.step,
        minutes=minutes,
        total_steps=total,
        drop_steps=dropped + tuple(max(now.step, round(share * total)) for share in drop_fractions[len(dropped) :]),
        evaluate_steps=past + tuple(step for step in spread if step > now.step),
        step_seconds=now.step_seconds,
        evaluation_seconds=now.evaluation_seconds,
    )


def with_timetable(plan: Plan, timetable: Timetable) -> Plan:
    """Return the plan of a run with the numbers of a timetable."""
    is_cosine = plan.schedule.cosine_end is not None
    return plan._replace(
        total_steps=timetable.total_steps,
        evaluate_steps=timetable.evaluate_steps,
        schedule=plan.schedule._replace(
            warmup_begin=timetable.warmup_begin,
            warmup_steps=timetable.warmup_end,
            drop_steps=timetable.drop_steps,
            cosine_end=timetable.total_steps if is_cosine else None,
        ),
    )


def save_timetables(run_dir: Path, timetables: Sequence[Timetable]) -> None:
    """Write the timetables of a run, in the order in which they were made."""
    replace_text(run_dir / TIMETABLES_FILE, json.dumps([one._asdict() for one in timetables], indent=1))


def read_timetables(run_dir: Path, *, until: int) -> list[Timetable]:
    """Read the timetables made in the first `until` steps; none if the file is missing or damaged."""
    try:
        entries = json.loads((run_dir / TIMETABLES_FILE).read_text(encoding="utf-8"))
        timetables = [Timetable._make(_typed(entry[name]) for name in Timetable._fields) for entry in entries]
        return [one for one in timetables if one.step <= until]
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return []


def _affordable(evaluations: int, now: Measured, *, minutes: float) -> int:
    """Return how many evaluations a run makes: as many as wanted, or as fit into their share of the budget."""
    if not now.evaluation_seconds:
        return 0
    return max(1, min(evaluations, int(MOST_EVALUATING * 60 * minutes / now.evaluation_seconds)))


def _steps_in(seconds: float, step_seconds: float) -> int:
    return max(1, int(seconds / max(step_seconds, 1e-9)))


def _typed(value: Any) -> Any:
    """Check that a value is a number or a list of whole numbers, which becomes a tuple."""
    if isinstance(value, list):
        return tuple(map(operator.index, value))
    return value if isinstance(value, int) else float(value)
