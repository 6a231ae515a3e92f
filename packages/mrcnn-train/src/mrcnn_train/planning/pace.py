"""Follow the plan of a run; with a time budget, make it from measured times and compare it with the clock."""

from __future__ import annotations

import time
from typing import NamedTuple

from mrcnn_train.config.plan import NOT_PLANNED, Plan, describe_rates, plan_line
from mrcnn_train.planning.timetable import (
    EVALUATIONS,
    Measured,
    Timetable,
    first_timetable,
    next_timetable,
    read_timetables,
    save_timetables,
    with_timetable,
)
from mrcnn_train.record.progress import ProgressDisplay
from mrcnn_train.training.job import Job
from mrcnn_train.training.scoring import Scoring
from mrcnn_train.training.step import StepMetrics

LEAST_MEASURED = 5  # steps before the first timetable,
MOST_MEASURED = 200  # or fewer than this if they have taken
MEASURED_SHARE = 0.01  # of the budget
LEAST_PARTS = 3  # of which the time of a step is the mean

now = time.perf_counter


class _Part(NamedTuple):
    """Steps done in a row, and their seconds without evaluations and compilation."""

    steps: int
    seconds: float


class Clock:
    """Counts the seconds of a budget.

    Args:
        seconds: spent in earlier launches of the run.

    Attributes:
        left_out: seconds of this launch that were not counted.
    """

    def __init__(self, seconds: float) -> None:
        self._began = now() - seconds
        self.left_out = 0.0

    @property
    def seconds(self) -> float:
        return now() - self._began - self.left_out

    def leave_out(self, seconds: float) -> None:
        """Count these seconds, which have passed, no longer."""
        self.left_out += seconds


class Pace:
    """The current plan of a run, the same on all processes, and its clock.

    Without `train.minutes` the plan does not change. With it, rank 0 decides from its clock, and saves the timetable.
    Steps and evaluations that compile are not counted; nor is the first step of a launch.

    Attributes:
        plan: that of the next step. Before the steps are known, `plan.total_steps` is NOT_PLANNED.
    """

    def __init__(self, job: Job, scoring: Scoring, display: ProgressDisplay) -> None:
        self.plan: Plan = job.data.plan
        self._job, self._scoring, self._display = job, scoring, display
        self._minutes = job.config.train.minutes
        self._clock = Clock(job.state.budget_seconds)
        self._evaluating = 0.0  # seconds of evaluations in this launch
        self._evaluation_seconds: float | None = None  # of the last one
        self._steps = 0  # counted in this launch
        self._since = (0, self._clock.seconds)  # steps and seconds without evaluations at the last measurement
        self._parts: list[_Part] = []
        self._timetables: list[Timetable] = []
        if self._minutes is not None:
            is_first_rank = job.processes.rank == 0
            saved = read_timetables(job.run_dir, until=job.state.start_step) if is_first_rank else []
            self._timetables = job.processes.broadcast(saved)
            if self._timetables:
                self._follow(self._timetables[-1])

    @property
    def seconds(self) -> float:
        """Seconds of the budget that are spent, over all launches; 0 without a budget."""
        return self._clock.seconds if self._minutes is not None else 0.0

    @property
    def _is_settled(self) -> bool:
        """Whether there is a timetable for this budget."""
        return bool(self._timetables) and self._timetables[-1].minutes == self._minutes

    def step_begins(self) -> None:
        """Note that a step begins."""
        self._step_began = now()

    def stepped(self, done: int, metrics: StepMetrics, *, has_compiled: bool) -> None:
        """Note that a step is done, and plan or compare if it is time to."""
        if self._minutes is None:
            return
        if has_compiled or done == self._job.state.start_step + 1:
            self._clock.leave_out(now() - self._step_began)
        else:
            self._steps += 1
        if self._is_due(done):
            metrics.measured.total.numpy()  # waits for the device, which may be some steps behind
            self._compare(done)

    def evaluate(self, done: int, *, epoch: float) -> None:
        """Evaluate the weights after `done` steps, and measure how long it takes without compilation."""
        began, compiling = self._clock.seconds, self._scoring.compile_seconds
        self._scoring.evaluate(done, epoch=epoch)
        self._clock.leave_out(self._scoring.compile_seconds - compiling)
        self._evaluation_seconds = self._clock.seconds - began
        self._evaluating += self._evaluation_seconds

    def count_evaluation(self) -> None:
        """Count an evaluation that an earlier launch made after it had saved its position."""
        if self._timetables:
            seconds = self._timetables[-1].evaluation_seconds
            self._clock.leave_out(-seconds)
            self._evaluating += seconds

    def describe(self) -> list[str]:
        """Return lines about the budget for the plan of the run; none without a budget."""
        if not self._timetables:
            return []
        rates = describe_rates(self.plan.schedule, self.plan.total_steps)
        minutes, left_out = self._clock.seconds / 60, self._clock.left_out / 60
        spent = f"{minutes:.2f} of {self._minutes:g} minutes; compilation took {left_out:.1f} more in this launch"
        return [
            plan_line("time budget", str(self._timetables[-1])),
            plan_line("learning rate", rates),
            plan_line("time spent", spent),
        ]

    def _is_due(self, done: int) -> bool:
        if self._is_settled:
            last = self._timetables[-1]
            return done < last.total_steps and (done - last.step) % last.check_every == 0
        assert self._minutes is not None
        seconds = self._clock.seconds - self._evaluating - self._since[1]
        is_enough = self._steps >= LEAST_MEASURED and (
            self._steps >= MOST_MEASURED or seconds >= MEASURED_SHARE * 60 * self._minutes
        )
        return self._job.processes.broadcast(is_enough)

    def _compare(self, done: int) -> None:
        if self._evaluation_seconds is None:
            self._evaluation_seconds = self._first_evaluation_seconds()
        timetable = self._job.processes.broadcast(self._timetable(done))
        if self._timetables and timetable == self._timetables[-1]:
            return
        earlier = self._timetables[-1] if self._timetables else None
        self._timetables.append(timetable)
        self._follow(timetable)
        instead = "" if earlier is None else f" (planned were {earlier.total_steps})"
        is_first = earlier is None
        left_out = f"; {self._clock.left_out:.0f} s of compilation so far do not count" if is_first else ""
        self._display.note(plan_line("time budget", f"{timetable}{instead}{left_out}"))
        if is_first:
            rates = describe_rates(self.plan.schedule, self.plan.total_steps)
            self._display.note(plan_line("learning rate", rates))
        if self._job.processes.rank == 0:
            save_timetables(self._job.run_dir, self._timetables)

    def _timetable(self, done: int) -> Timetable:
        """Measure, and make the timetable; the result counts on rank 0 only."""
        assert self._minutes is not None
        assert self._evaluation_seconds is not None
        options = self._job.config.optimizer
        measured = Measured(done, self._clock.seconds, self._measure_step(), self._evaluation_seconds)
        wanted = self._job.config.eval.times or EVALUATIONS
        fractions = options.drop_fractions
        if self._timetables:
            return next_timetable(
                self._timetables[-1], measured, minutes=self._minutes, drop_fractions=fractions, evaluations=wanted
            )
        return first_timetable(
            measured,
            minutes=self._minutes,
            warmup_steps=options.warmup_steps,
            drop_fractions=fractions,
            evaluations=wanted,
        )

    def _measure_step(self) -> float:
        """Return the seconds of a step, with what is done between steps: a mean over the last steps.

        It reaches back as far as the budget reaches ahead, at least over three measurements: where much is left, a
        moment says little; near the end only the present counts. The slowest measurement is left out, because a pause
        of the machine must not end the run early; the time that it took is gone nevertheless.
        """
        assert self._minutes is not None
        steps, seconds = self._steps, self._clock.seconds - self._evaluating
        if steps > self._since[0]:
            self._parts.append(_Part(steps - self._since[0], seconds - self._since[1]))
        self._since = (steps, seconds)
        left, recent = 60 * self._minutes - self._clock.seconds, list[_Part]()
        for part in reversed(self._parts):
            if len(recent) >= LEAST_PARTS and sum(one.seconds for one in recent) >= left:
                break
            recent.append(part)
        if not recent:  # a resumed run that has only done its first step
            return self._timetables[-1].step_seconds
        if len(recent) > 1:
            recent.remove(max(recent, key=lambda part: part.seconds / part.steps))
        return sum(part.seconds for part in recent) / sum(part.steps for part in recent)

    def _first_evaluation_seconds(self) -> float:
        """Return the seconds of an evaluation, from the last timetable or from a few images."""
        if self._timetables:
            return self._timetables[-1].evaluation_seconds
        if not self._job.data.val:
            return 0.0
        began = now()
        seconds = self._scoring.estimate_seconds()
        self._clock.leave_out(now() - began)
        return seconds

    def _follow(self, timetable: Timetable) -> None:
        self.plan = with_timetable(self._job.data.plan, timetable)
        if not self._is_settled:  # a resumed run with another budget
            self.plan = self.plan._replace(total_steps=NOT_PLANNED)
        self._display.planned(self.plan.total_steps)
