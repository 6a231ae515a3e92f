"""The logs of a run: after a resumed run, no step stands twice, in metrics.jsonl or in TensorBoard's files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event

from mrcnn_train.record.metrics_log import MetricsLog, read_rows


def write_steps(run_dir: Path, *, start: int, end: int, evaluated: tuple[int, ...] = ()) -> None:
    """Log steps start + 1 to end, as a run resumed after `start` does."""
    log = MetricsLog(run_dir, start_step=start)
    picture = run_dir / "picture.png"
    cv2.imwrite(str(picture), np.zeros((4, 4, 3), np.uint8))
    for step in range(start + 1, end + 1):
        log.histograms(step, {"rois": [1.0, 2.0]})
        log.write("train", step, {"total": float(step)})
        if step in evaluated:
            log.picture(step, "evaluation/predictions", picture)
            log.write("evaluation", step, {"box_AP": 0.5})
    log.close()


def event_files(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "tensorboard").glob("events.out.tfevents.*"))


def written(run_dir: Path) -> Counter[tuple[str, int]]:
    """Count the events by (tag, step)."""
    counts: Counter[tuple[str, int]] = Counter()
    for path in event_files(run_dir):
        for raw in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = Event.FromString(raw)
            counts.update((value.tag, event.step) for value in event.summary.value)
    return counts


def steps_of(counts: Counter[tuple[str, int]], tag: str) -> list[int]:
    assert set(counts.values()) <= {1}
    return sorted(step for name, step in counts if name == tag)


@pytest.mark.parametrize("start", [0, 1, 4, 6])
def test_no_step_stands_twice(tmp_path: Path, start: int) -> None:
    write_steps(tmp_path, start=0, end=6, evaluated=(2, 4, 6))
    write_steps(tmp_path, start=start, end=7, evaluated=(2, 4, 6))
    counts = written(tmp_path)
    for tag in ("train/total", "distribution/rois"):
        assert steps_of(counts, tag) == [1, 2, 3, 4, 5, 6, 7]
    for tag in ("evaluation/box_AP", "evaluation/predictions"):
        assert steps_of(counts, tag) == [2, 4, 6]
    rows = [row["step"] for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    assert rows == [1, 2, 3, 4, 5, 6, 7]


def test_a_picture_whose_evaluation_was_cut_off_is_written_once(tmp_path: Path) -> None:
    write_steps(tmp_path, start=0, end=4, evaluated=(2,))
    log = MetricsLog(tmp_path, start_step=4)
    log.picture(4, "evaluation/predictions", tmp_path / "picture.png")
    log.close()  # killed before the row
    log = MetricsLog(tmp_path, start_step=4)
    log.picture(4, "evaluation/predictions", tmp_path / "picture.png")
    log.write("evaluation", 4, {"box_AP": 0.5})
    log.close()
    assert steps_of(written(tmp_path), "evaluation/predictions") == [2, 4]


@pytest.mark.parametrize("cut", [1, 4, 11, 12, 13, 30])
def test_a_torn_end_is_removed(tmp_path: Path, cut: int) -> None:
    write_steps(tmp_path, start=0, end=3)
    (path,) = event_files(tmp_path)
    path.write_bytes(path.read_bytes()[:-cut])
    write_steps(tmp_path, start=3, end=4)
    assert steps_of(written(tmp_path), "distribution/rois") == [1, 2, 3, 4]  # TFRecordDataset raises at a torn record


def test_what_need_not_change_is_not_written(tmp_path: Path) -> None:
    write_steps(tmp_path, start=0, end=3)
    (path,) = event_files(tmp_path)
    before = path.stat()
    write_steps(tmp_path, start=3, end=4)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("content", [b"", b"mine", b"\xff" * 100, b"\5" + bytes(11) + b"notes" + bytes(4)])
def test_other_files_are_left(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "tensorboard"
    folder.mkdir()
    (folder / "events.out.tfevents.1.mine").write_bytes(content)
    (folder / "notes.txt").write_bytes(content)
    victim = tmp_path / "elsewhere"
    victim.mkdir()
    write_steps(victim, start=0, end=3)
    (target,) = event_files(victim)
    whole = target.read_bytes()
    (folder / "events.out.tfevents.2.link").symlink_to(target)
    write_steps(tmp_path, start=0, end=1)
    assert (folder / "events.out.tfevents.1.mine").read_bytes() == content
    assert (folder / "notes.txt").read_bytes() == content
    assert target.read_bytes() == whole


def test_damaged_lines_lose_only_themselves(tmp_path: Path, capsys) -> None:
    write_steps(tmp_path, start=0, end=3)
    path = tmp_path / "metrics.jsonl"
    first, second, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"\0\0\0\n" + third + second[:20])  # the last line was cut off
    assert [row["step"] for row in read_rows(path)] == [1, 3]
    assert capsys.readouterr().err == f"warning: {path}: 1 damaged lines are left out\n"


def test_a_file_that_begins_like_a_row_and_is_none_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("{\n mine }\n")
    write_steps(tmp_path, start=0, end=1)
    assert [row["step"] for row in read_rows(path)] == [1]
    (kept,) = tmp_path.glob("metrics-until-*.jsonl")
    assert kept.read_text() == "{\n mine }\n"
