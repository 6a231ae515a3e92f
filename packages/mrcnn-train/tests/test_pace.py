"""Runs with a time budget, on a pretended clock: steps and evaluations that do nothing, and take the time we say."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mrcnn_train import ConfigError, run
from mrcnn_train.app import main
from mrcnn_train.config.plan import NOT_PLANNED, make_plan
from mrcnn_train.config.schedule import evaluation_steps, learning_rate
from mrcnn_train.planning.timetable import (
    Measured,
    Timetable,
    first_timetable,
    next_timetable,
    read_timetables,
    save_timetables,
    with_timetable,
)
from mrcnn_train.record.metrics_log import read_rows
from mrcnn_train.record.progress import ProgressDisplay
from mrcnn_train.training.evaluation import CONTACT_SHEET, Evaluation

# Ten minutes; after 10 steps of a second, and evaluations of 6 s: 600 - 10 - 10 * 6 leaves 530 steps.
FIRST = first_timetable(
    Measured(10, seconds=10.0, step_seconds=1.0, evaluation_seconds=6.0),
    minutes=10.0,
    warmup_steps=100,
    drop_fractions=[0.75, 0.9],
    evaluations=10,
)
EVALUATION = 3.0  # seconds, pretended
COMPILATION = 100.0


def test_first_timetable() -> None:
    assert (
        Timetable(
            step=10,
            minutes=10.0,
            total_steps=540,
            warmup_begin=10,
            warmup_end=64,  # a tenth of 540 steps later
            drop_steps=(405, 486),
            evaluate_steps=tuple(range(63, 541, 53)),
            step_seconds=1.0,
            evaluation_seconds=6.0,
        )
        == FIRST
    )
    assert str(FIRST) == ("540 steps fit into 10 minutes: after 10 a step takes 1 s, an evaluation 6 s, 10 to come")


def test_slow_evaluations_are_fewer_and_a_short_warm_up_stays() -> None:
    slow = Measured(10, seconds=10.0, step_seconds=1.0, evaluation_seconds=40.0)
    timetable = first_timetable(slow, minutes=10.0, warmup_steps=20, drop_fractions=[], evaluations=10)
    assert len(timetable.evaluate_steps) == 3  # a quarter of 600 s
    assert timetable.total_steps == 10 + (600 - 10 - 3 * 40)
    assert (timetable.warmup_begin, timetable.warmup_end) == (10, 30)
    slower = slow._replace(evaluation_seconds=1000.0)
    assert first_timetable(slower, minutes=10.0, warmup_steps=20, drop_fractions=[], evaluations=10).evaluate_steps == (
        11,
    )


def test_without_validation_set_or_warm_up() -> None:
    alone = Measured(10, seconds=10.0, step_seconds=1.0, evaluation_seconds=0.0)
    timetable = first_timetable(alone, minutes=10.0, warmup_steps=0, drop_fractions=[], evaluations=10)
    assert (timetable.total_steps, timetable.evaluate_steps) == (600, ())
    assert (timetable.warmup_begin, timetable.warmup_end) == (0, 0)


def after(done: int, *, seconds: float, step_seconds: float, minutes: float = 10.0) -> Timetable:
    now = Measured(done, seconds=seconds, step_seconds=step_seconds, evaluation_seconds=6.0)
    return next_timetable(FIRST, now, minutes=minutes, drop_fractions=[0.75, 0.9], evaluations=10)


def test_a_timetable_that_is_right_stays() -> None:
    assert after(169, seconds=169 + 2 * 6.0, step_seconds=1.0) is FIRST
    assert after(169, seconds=169 + 2 * 6.0, step_seconds=1.05) is FIRST  # within a tenth of what is left


def test_a_timetable_moves_up_and_down_before_the_rate_drops() -> None:
    slower = after(200, seconds=300.0, step_seconds=2.0)
    assert slower.total_steps == 200 + (600 - 300 - 7 * 6) // 2
    assert slower.drop_steps == (round(0.75 * 329), round(0.9 * 329))
    assert slower.evaluate_steps[-1] == 329
    assert slower.evaluate_steps[:3] == FIRST.evaluate_steps[:3]
    assert len(slower.evaluate_steps) == 9  # the fourth would have been before this step
    faster = after(200, seconds=200.0, step_seconds=0.5)
    assert faster.total_steps == 200 + (600 - 200 - 7 * 6) * 2
    # What has been done does not depend on it.
    assert (faster.warmup_begin, faster.warmup_end) == (FIRST.warmup_begin, FIRST.warmup_end)


def test_after_a_drop_only_the_end_and_further_drops_move() -> None:
    faster = after(430, seconds=430.0, step_seconds=0.5)
    assert faster.total_steps == 430 + (600 - 430 - 3 * 6) * 2
    assert faster.drop_steps == (405, round(0.9 * 734))
    slower = after(430, seconds=500.0, step_seconds=2.0)
    assert slower.total_steps == 430 + (600 - 500 - 3 * 6) // 2
    assert slower.drop_steps == (405, 430)  # the second drop comes at once


def test_another_budget_is_planned_anew(tmp_path: Path) -> None:
    longer = after(430, seconds=430.0, step_seconds=1.0, minutes=20.0)
    assert longer.total_steps == 430 + 1200 - 430 - 10 * 6
    assert longer.drop_steps == (405, round(0.9 * 1140))
    assert longer.evaluate_steps[:7] == FIRST.evaluate_steps[:7]
    assert longer.evaluate_steps[7:] == evaluation_steps(1140, 10, begin=381)


def test_no_time_left_is_one_more_step_at_the_low_rate() -> None:
    late = after(200, seconds=700.0, step_seconds=1.0)
    assert late.total_steps == 201
    assert late.drop_steps == (200, 200)


def test_an_evaluation_that_is_due_here_stays() -> None:
    slower = after(169, seconds=300.0, step_seconds=2.0)
    assert slower.evaluate_steps[:3] == FIRST.evaluate_steps[:3] == (63, 116, 169)
    assert slower.total_steps == 169 + (600 - 300 - 8 * 6) // 2


def test_evaluation_steps() -> None:
    assert evaluation_steps(10, 3) == (3, 7, 10)
    assert evaluation_steps(2, 10) == (1, 2)
    assert evaluation_steps(110, 2, begin=10) == (60, 110)


def test_rates_of_a_timetable(compose) -> None:
    config = compose("+experiment=small", "data.root=x", "train.minutes=10", "optimizer.drop_fractions=[0.75,0.9]")
    unplanned = make_plan(config, num_images=40)
    assert unplanned.total_steps == NOT_PLANNED
    start, peak = unplanned.schedule.warmup_start, unplanned.schedule.peak
    assert [learning_rate(step, unplanned.schedule) for step in (0, 9, 10**6)] == [start] * 3
    plan = with_timetable(unplanned, FIRST)
    rates = {step: learning_rate(step, plan.schedule) for step in (0, 10, 37, 64, 404, 405, 486)}
    middle = start + (peak - start) / 2
    assert rates == pytest.approx(
        {0: start, 10: start, 37: middle, 64: peak, 404: peak, 405: peak / 10, 486: peak / 100}
    )


def test_files(tmp_path: Path) -> None:
    later = FIRST._replace(step=50)
    save_timetables(tmp_path, [FIRST, later])
    assert read_timetables(tmp_path, until=49) == [FIRST]
    assert read_timetables(tmp_path, until=50) == [FIRST, later]
    wrong = json.dumps([{**FIRST._asdict(), "step": "x"}])
    for content in ("", "[1]", '[{"step": 1}]', '{"a": 1}', "[" * 100_000, wrong):
        (tmp_path / "timetables.json").write_text(content)
        assert read_timetables(tmp_path, until=50) == []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that only steps and evaluations move."""
    clock = SimpleNamespace(time=1000.0)
    monkeypatch.setattr("mrcnn_train.planning.pace.now", lambda: clock.time)
    return clock


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch, hollow_step, tiny, clock: SimpleNamespace):
    """Compose runs of three minutes; `take` says how long a step takes, from the seconds since the start."""

    def score(self: Evaluation, evaluators: list, run_dir: Path, *, step: int) -> dict[str, SimpleNamespace]:
        cv2.imwrite(str(run_dir / CONTACT_SHEET), np.zeros((4, 4, 3), np.uint8))
        numbers = {"AP": 0.4, "AP50": 0.4, "AP75": 0.4}
        return {"val": SimpleNamespace(stats={"bbox": numbers, "segm": numbers})}

    def detect(self: Evaluation, progress: Callable, limit: int | None = None) -> list:
        clock.time += EVALUATION
        return []

    monkeypatch.setattr(Evaluation, "detect", detect)
    monkeypatch.setattr(Evaluation, "estimate_seconds", lambda self, progress: EVALUATION)
    monkeypatch.setattr(Evaluation, "score", score)
    monkeypatch.setattr(ProgressDisplay, "tables", lambda self, results: None)
    monkeypatch.setattr("mrcnn_train.record.run_record.draw_curves", lambda path, rows: None)

    update = hollow_step.__call__

    def take(seconds: Callable[[float], float], *, stop_after: int | None = None) -> None:
        began, calls = clock.time, itertools.count(1)

        def slow_update(self, *args, **options):
            number = next(calls)
            hollow_step.num_traces = 1
            clock.time += COMPILATION if number == 1 else seconds(clock.time - began - COMPILATION)
            if number == stop_after:
                raise KeyboardInterrupt
            return update(self, *args, **options)

        monkeypatch.setattr(hollow_step, "num_traces", 0)
        monkeypatch.setattr(hollow_step, "__call__", slow_update)

    def config(*overrides: str):
        fixed = ["log.every=1000", "train.minutes=3", "optimizer.warmup_steps=100", "checkpoint.keep_last=20"]
        return tiny(*fixed, "checkpoint.every_epochs=null", *overrides)

    config.take = take
    return config


def spent(output: str) -> float:
    """Return the minutes of the budget that a run says it has spent."""
    return float(re.findall(r"time spent: +([\d.]+) of 3 minutes", output)[-1])


def noisy(time: float) -> float:
    return 0.5 + 0.4 * float(np.sin(time)) ** 2


PROFILES = {
    "even": lambda time: 0.7,
    "twice as slow from the middle": lambda time: 0.5 if time < 90 else 1.0,
    "three times as slow at the end": lambda time: 0.5 if time < 150 else 1.5,
    "twice as fast at the end": lambda time: 0.8 if time < 140 else 0.4,
    "twice as fast soon": lambda time: 1.0 if time < 30 else 0.5,
    "noisy": noisy,
    "a long pause": lambda time: 40.0 if 60 < time < 61 else 0.6,
    "waves": lambda time: 0.3 if int(time / 20) % 2 else 0.9,
    "a pause soon": lambda time: 20.0 if 8 < time < 9 else 0.6,
}


@pytest.mark.parametrize("profile", PROFILES)
def test_a_run_ends_in_time(budget, tmp_path: Path, profile: str) -> None:
    budget.take(PROFILES[profile])
    assert run(budget()) == 0
    report = (tmp_path / "run" / "report.md").read_text()
    assert spent(report) == pytest.approx(3.0, rel=0.1)
    assert f"compilation took {COMPILATION / 60:.1f} more in this launch" in report
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    evaluations = [row["step"] for row in rows if row["kind"] == "evaluation"]
    assert 8 <= len(evaluations) <= 11
    last = read_timetables(tmp_path / "run", until=10**6)[-1]
    assert evaluations[-1] == last.total_steps
    # The last timetable describes the whole run, also the steps before it was made.
    plan = with_timetable(make_plan(budget(), num_images=12), last)
    trained = {row["step"]: row["learning_rate"] for row in rows if row["kind"] == "train"}
    assert len(trained) >= 9
    assert trained == pytest.approx({step: learning_rate(step - 1, plan.schedule) for step in trained})


@pytest.mark.parametrize(("stop_after", "saving"), [(120, "null"), (130, "43")])
def test_a_resumed_run_keeps_its_timetable(
    budget, clock, tmp_path: Path, resume, capsys, stop_after: int, saving: str
) -> None:
    """The unbroken run and the resumed one do the same steps at the same rates, and evaluate after the same steps.

    The timetable is compared with the clock after every fourth step from step 6 on: after 130, the first step of the
    second resumed run, too.
    """
    run_dir = tmp_path / "run"
    logs = ["log.every=1", f"checkpoint.every_steps={saving}"]
    budget.take(lambda time: 0.7)
    assert run(budget(*logs)) == 0
    unbroken = rows_of(run_dir)
    shutil.rmtree(run_dir)
    capsys.readouterr()
    budget.take(lambda time: 0.7, stop_after=stop_after)
    with pytest.raises(KeyboardInterrupt):
        run(budget(*logs))
    clock.time += 3600.0
    budget.take(lambda time: 0.7)
    assert run(resume(run_dir)) == 0
    output = capsys.readouterr().out
    assert output.count("compilation so far do not count") == 1  # measured once
    assert rows_of(run_dir) == unbroken
    assert spent((run_dir / "report.md").read_text()) == pytest.approx(3.0, rel=0.1)
    assert run(resume(run_dir)) == 0
    assert "has finished after" in capsys.readouterr().out


def rows_of(run_dir: Path) -> list[tuple]:
    rows = read_rows(run_dir / "metrics.jsonl")
    return [(row["kind"], row["step"], row.get("learning_rate")) for row in rows if row["kind"] != "epoch"]


def test_a_finished_run_goes_on_with_a_larger_budget(budget, tmp_path: Path, resume) -> None:
    budget.take(lambda time: 0.7)
    assert run(budget()) == 0
    done = read_timetables(tmp_path / "run", until=10**6)[-1].total_steps
    budget.take(lambda time: 0.7)
    assert run(resume(tmp_path / "run", "train.minutes=6")) == 0
    last = read_timetables(tmp_path / "run", until=10**6)[-1]
    assert last.minutes == 6
    assert last.total_steps == pytest.approx(2 * done, rel=0.1)


def test_without_validation_set(budget, tmp_path: Path, capsys) -> None:
    budget.take(lambda time: 0.7)
    assert run(budget("data.val=null")) == 0
    last = read_timetables(tmp_path / "run", until=10**6)[-1]
    assert last.total_steps == pytest.approx(180 / 0.7, rel=0.05)
    assert (
        "steps fit into 3 minutes: after 6 a step takes 0.7 s; 100 s of compilation so far do not count\n"
        in capsys.readouterr().out
    )


def test_drops_by_epochs_are_refused(compose) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.drop_epochs=\[8\.\d+, .*drop_fractions"):
        run(compose("+experiment=8x1_12ep", "data.root=x", "train.minutes=5"))


def test_minutes_and_steps_together_are_refused(budget, tmp_path: Path, resume, monkeypatch, capsys) -> None:
    monkeypatch.setattr(
        "sys.argv", ["train", "+experiment=small", "data.root=x", "train.minutes=5", "train.max_steps=9"]
    )
    assert main() == 2
    assert "train.minutes=5 sets the steps, so train.max_steps would not count" in capsys.readouterr().err
    budget.take(lambda time: 10.0)
    assert run(budget()) == 0
    with pytest.raises(ConfigError, match=r"train\.minutes=null to train by steps"):
        resume(tmp_path / "run", "train.max_steps=100")
    assert resume(tmp_path / "run", "train.max_steps=100", "train.minutes=null").train.max_steps == 100
