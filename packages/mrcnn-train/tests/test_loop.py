"""The loop, with steps and evaluations that do nothing: what is due when, targets, full disks, votes."""

import errno
import itertools
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_data import DatasetError, TrainLoader, write_output
from mrcnn_train import SaveError, run
from mrcnn_train.config.options import StopOptions
from mrcnn_train.errors import PeerLostError
from mrcnn_train.job.distributed import Processes
from mrcnn_train.job.place import Place
from mrcnn_train.job.signals import StopSignals
from mrcnn_train.job.votes import StopVotes
from mrcnn_train.record.metrics_log import read_rows
from mrcnn_train.record.progress import ProgressDisplay
from mrcnn_train.record.run_record import RunRecord, Scored
from mrcnn_train.record.window import EpochMeter
from mrcnn_train.training.checkpoint import save_checkpoint
from mrcnn_train.training.due import Cadence, Due, what_is_due
from mrcnn_train.training.evaluation import AP_TABLE, CONTACT_SHEET, Evaluation
from mrcnn_train.training.scoring import reaches


def result_of(box_ap: float, mask_ap: float) -> SimpleNamespace:
    return SimpleNamespace(
        stats={name: {"AP": ap, "AP50": ap, "AP75": ap} for name, ap in (("bbox", box_ap), ("segm", mask_ap))}
    )


@pytest.fixture
def hollow(monkeypatch: pytest.MonkeyPatch, hollow_step, tiny):
    """Compose runs of six steps whose evaluations, after steps 3 and 6, find box AP 0.4 and mask AP 0.3."""

    def score(self: Evaluation, evaluators: list, run_dir: Path, *, step: int) -> dict[str, SimpleNamespace]:
        time.sleep(0.01)
        cv2.imwrite(str(run_dir / CONTACT_SHEET), np.zeros((4, 4, 3), np.uint8))
        return {"val": result_of(0.4, 0.3)}

    monkeypatch.setattr(Evaluation, "detect", lambda self, progress, limit=None: [])
    monkeypatch.setattr(Evaluation, "score", score)
    monkeypatch.setattr(ProgressDisplay, "tables", lambda self, results: None)
    return lambda *overrides: tiny("eval.every_epochs=0.5", *overrides)


def steps_of(run_dir: Path, kind: str) -> list[int]:
    return [row["step"] for row in read_rows(run_dir / "metrics.jsonl") if row["kind"] == kind]


def checkpoints_of(run_dir: Path) -> list[str]:
    return sorted(folder.name for folder in (run_dir / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("is_in_background", [False, True])
def test_evaluations_are_recorded(hollow, tmp_path: Path, capsys, is_in_background: bool) -> None:
    saves_often = ["checkpoint.every_steps=1", "checkpoint.keep_last=1"]
    assert run(hollow(f"eval.background={is_in_background}", *saves_often)) == 0
    saved = [line for line in capsys.readouterr().out.splitlines() if line.startswith("saved step ")]
    checkpoints = tmp_path / "run" / "checkpoints"
    assert saved == [f"saved step {step}: {checkpoints / f'step-{step:08d}'}" for step in range(1, 7)]
    assert steps_of(tmp_path / "run", "train") == [1, 2, 3, 4, 5, 6]
    assert steps_of(tmp_path / "run", "evaluation") == [3, 6]
    # What is being scored is kept for as long as it may turn out to be the best; of equals the first is.
    assert checkpoints_of(tmp_path / "run") == ["step-00000003", "step-00000006"]
    assert (tmp_path / "run" / "checkpoints" / "best").read_text() == "step-00000003\n"


@pytest.mark.parametrize("is_in_background", [False, True])
def test_an_evaluator_that_raises_ends_the_run(hollow, tmp_path: Path, monkeypatch, is_in_background: bool) -> None:
    def fail(*args: object, **options: object) -> None:
        raise ZeroDivisionError("no scores today")

    monkeypatch.setattr(Evaluation, "score", fail)
    with pytest.raises(ZeroDivisionError, match="no scores today"):
        run(hollow(f"eval.background={is_in_background}"))
    assert checkpoints_of(tmp_path / "run")[0] == "step-00000003"


@pytest.mark.parametrize(("is_in_background", "last"), [(False, 3), (True, 4)])
def test_target_ends_the_run(hollow, tmp_path: Path, monkeypatch, capsys, is_in_background: bool, last: int) -> None:
    """With scoring in the background, the score arrives a step later or more; here the loop waits for it."""
    monkeypatch.setattr(RunRecord, "has_scored", property(lambda record: record.is_scoring))
    assert run(hollow("stop_at.box_ap=0.4", f"eval.background={is_in_background}")) == 0
    assert f"target reached: box AP 0.4; stopped after {last} steps" in capsys.readouterr().out
    assert steps_of(tmp_path / "run", "train")[-1] == last
    assert checkpoints_of(tmp_path / "run")[-1] == f"step-{last:08d}"
    assert steps_of(tmp_path / "run", "evaluation") == [3]


@pytest.mark.parametrize(
    ("target", "reached"),
    [((0.4, None), True), ((0.41, None), False), ((0.4, 0.3), True), ((0.4, 0.31), False), ((None, None), False)],
)
def test_targets(target: tuple[float | None, float | None], reached: bool) -> None:
    assert reaches(StopOptions(*target), Scored(3, {"val": result_of(0.4, 0.3)})) == reached


def test_profile_of_some_steps(hollow, tmp_path: Path) -> None:
    assert run(hollow("profile.steps=[2,3]", "train.max_steps=4", "data.val=null")) == 0
    assert list((tmp_path / "run" / "tensorboard").rglob("*.xplane.pb"))


@pytest.mark.parametrize("where", ["metrics", "checkpoint", "curves"])
def test_a_full_disk_is_one_line(hollow, monkeypatch, where: str) -> None:
    calls: list[int] = []

    def fill_up() -> None:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    def save(*args: object, **options: object) -> None:
        fill_up()
        save_checkpoint(*args, **options)

    target, replacement = {
        "metrics": ("MetricsLog.write", lambda *args: fill_up()),
        "checkpoint": ("save_checkpoint", save),
        "curves": ("draw_curves", lambda *args: fill_up()),
    }[where]
    monkeypatch.setattr(f"mrcnn_train.record.run_record.{target}", replacement)
    with pytest.raises(
        SaveError, match=r"run cannot be written: No space left on device; resume=.* continues from step-0000000"
    ):
        run(hollow("checkpoint.every_steps=1"))


# Six steps an epoch in 20 steps; every 5 steps a log line, every 4 a checkpoint, every 2 epochs an evaluation.
CADENCE = Cadence(total_steps=20, log_steps=5, save_steps=4, save_epochs=None, evaluates=True, evaluate_epochs=2.0)


def due_after(done: int, cadence: Cadence = CADENCE, *, is_first: bool = False, has_to_stop: bool = False) -> Due:
    before, after = (done - 1) / 6, done / 6
    return what_is_due(
        done, cadence, epoch_before=before, epoch_after=after, is_first=is_first, has_to_stop=has_to_stop
    )


@pytest.mark.parametrize(
    ("due", "expected"),
    [
        (due_after(1), Due(log=False, log_epoch=False, save=False, evaluate=False, stop=False)),
        (due_after(1, is_first=True), Due(log=True, log_epoch=False, save=False, evaluate=False, stop=False)),
        (due_after(5), Due(log=True, log_epoch=False, save=False, evaluate=False, stop=False)),
        (due_after(6), Due(log=False, log_epoch=True, save=False, evaluate=False, stop=False)),
        (due_after(8), Due(log=True, log_epoch=False, save=True, evaluate=False, stop=False)),
        (due_after(12), Due(log=True, log_epoch=True, save=True, evaluate=True, stop=False)),
        (due_after(12, has_to_stop=True), Due(log=True, log_epoch=True, save=True, evaluate=False, stop=True)),
        (due_after(20), Due(log=True, log_epoch=False, save=True, evaluate=True, stop=True)),
        (due_after(20, has_to_stop=True), Due(log=True, log_epoch=False, save=True, evaluate=False, stop=True)),
        (
            due_after(12, CADENCE._replace(evaluates=False)),
            Due(log=True, log_epoch=True, save=True, evaluate=False, stop=False),
        ),
        (
            due_after(3, CADENCE._replace(save_epochs=0.5)),
            Due(log=True, log_epoch=False, save=True, evaluate=False, stop=False),
        ),
        (
            due_after(20, CADENCE._replace(evaluate_epochs=None)),
            Due(log=True, log_epoch=False, save=True, evaluate=True, stop=True),
        ),
    ],
)
def test_what_is_due(due: Due, expected: Due) -> None:
    assert due == expected


def test_throughput_of_an_epoch() -> None:
    meter = EpochMeter(images_per_step=8)
    meter.add(seconds=3.0, data_wait=0.5)
    meter.add(seconds=1.0, data_wait=0.1)
    assert meter.read() == pytest.approx({"images_per_second": 4.0, "data_wait": 0.3})
    assert meter.read() is None


def votes_of(size: int) -> tuple[StopVotes, StopSignals]:
    stop = StopSignals()
    return StopVotes(Processes(Place(0, size)), stop), stop


def shares(*values: float) -> tf.Tensor:
    return tf.constant(values, tf.float32)


def test_a_single_process_obeys_at_once() -> None:
    votes, stop = votes_of(1)
    votes.count(shares(0, 0, 0))
    assert (votes.signal, votes.target) == (None, False)
    stop.received = 15
    votes.count(shares(0, 0, 0))
    assert votes.signal == 15


def test_many_obey_what_all_have_heard_one_step_later() -> None:
    votes, stop = votes_of(2)
    stop.received = 15  # only this process has received it
    assert votes.mine() == [True, False, False]
    votes.count(shares(0.5, 0, 0))
    assert votes.signal is None
    votes.count(shares(0.5, 0, 0))
    assert votes.signal == 15


def test_many_agree_on_the_interrupt_and_the_target() -> None:
    votes, _ = votes_of(2)
    for _ in range(2):
        votes.count(shares(0, 0.5, 0.5))
    assert (votes.signal, votes.target) == (2, True)


@pytest.mark.parametrize("is_in_background", [False, True])
def test_a_full_disk_while_scores_are_written_is_one_line(hollow, monkeypatch, is_in_background: bool) -> None:
    def refuse(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def score(self: Evaluation, evaluators: list, run_dir: Path, *, step: int) -> None:
        monkeypatch.setattr("mrcnn_data.outputs.partial_file", refuse)
        write_output(run_dir / AP_TABLE, b"numbers")

    monkeypatch.setattr(Evaluation, "score", score)
    with pytest.raises(
        SaveError, match=r"run cannot be written: No space left on device; resume=.* continues from step-0000000"
    ):
        run(hollow(f"eval.background={is_in_background}"))


@pytest.mark.parametrize(("bad", "saved"), [(0, []), (1, [1]), (3, [3]), (4, [4])])
def test_steps_before_a_bad_image_are_saved(hollow, monkeypatch, tmp_path: Path, capsys, bad: int, saved: list) -> None:
    steps = TrainLoader.steps

    def steps_until_bad(self: TrainLoader, start: int):
        yield from itertools.islice(steps(self, start), bad - start)
        raise DatasetError("bad.png: the image file is cut off")

    monkeypatch.setattr(TrainLoader, "steps", steps_until_bad)
    with pytest.raises(DatasetError, match=r"bad\.png"):
        run(hollow("data.val=null", "log.every=20"))
    assert checkpoints_of(tmp_path / "run") == [f"step-{step:08d}" for step in saved]
    output = capsys.readouterr().out
    for step in saved:
        command = f"resume={tmp_path / 'run'} continues from step-0000000{step}"
        assert f"Stopped after {step} steps by the error; {command}\n" in output
    assert bool(saved) == ("Stopped after" in output)


def test_a_bad_image_in_a_resumed_run_adds_no_checkpoint_without_steps(
    hollow, monkeypatch, tmp_path: Path, resume
) -> None:
    assert run(hollow("data.val=null", "train.max_steps=2")) == 0
    monkeypatch.setattr(TrainLoader, "steps", lambda self, start: _raising(DatasetError("bad.png")))
    with pytest.raises(DatasetError):
        run(resume(tmp_path / "run", "train.max_steps=4"))
    assert checkpoints_of(tmp_path / "run") == ["step-00000002"]


def _raising(error: Exception):
    raise error
    yield


@pytest.mark.parametrize(("norm", "saved"), [("gn", ["step-00000003"]), ("sync_bn", [])])
def test_steps_before_a_lost_process_are_saved_if_the_model_is_that_of_the_last_step(
    hollow, hollow_step, monkeypatch, tmp_path: Path, norm: str, saved: list[str]
) -> None:
    update, calls = hollow_step.__call__, []

    def update_or_fail(self, *args, **options):
        calls.append(1)
        if len(calls) == 4:
            raise PeerLostError("another process of the job ended or froze")
        return update(self, *args, **options)

    monkeypatch.setattr(hollow_step, "__call__", update_or_fail)
    with pytest.raises(PeerLostError):
        run(hollow("data.val=null", f"model.norm={norm}"))
    assert checkpoints_of(tmp_path / "run") == saved


@pytest.mark.parametrize("options", [[], ["log.every=100"], ["checkpoint.every_steps=1"], ["data.val=null"]])
def test_a_run_directory_that_disappears_is_one_line(
    hollow, hollow_step, monkeypatch, tmp_path: Path, options: list[str]
) -> None:
    update, calls = hollow_step.__call__, []

    def update_and_delete(self, *args, **options):
        calls.append(1)
        if len(calls) == 2:
            shutil.rmtree(tmp_path / "run")
        return update(self, *args, **options)

    monkeypatch.setattr(hollow_step, "__call__", update_and_delete)
    with pytest.raises(SaveError, match=r"run is gone: it was deleted, moved or unmounted while the run wrote to it$"):
        run(hollow(*options))
    assert not (tmp_path / "run").exists()
