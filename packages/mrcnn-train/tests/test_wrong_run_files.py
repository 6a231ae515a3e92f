"""Wrong files in a run directory: `resume` ends with one line and code 2, before TensorFlow does anything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mrcnn_model import CheckpointError
from mrcnn_train import ConfigError, run
from mrcnn_train.config.going_on import complete_checkpoints, is_complete, last_step, read_end
from mrcnn_train.config.position import read_state
from mrcnn_train.record.metrics_log import read_rows
from mrcnn_train.training.checkpoint import best_name

GOOD = {"step": 4, "seed": 0, "global_batch": 2, "epoch": 0.5, "learning_rate": 0.1, "elapsed_seconds": 1.5}
DATA = {"images": 3, "objects": 9, "sha256": "ab", "masks": "cd"}


@pytest.mark.parametrize(
    "content",
    [
        "[" * 200_000,
        "",
        "7",
        "[]",
        b"\xff",
        "1" * 5000,
        json.dumps({}),
        json.dumps({**GOOD, "nonsense": 1}),
        json.dumps({**GOOD, "data": " " * 2_000_000}),
        *(json.dumps({**GOOD, "step": value}) for value in ("4", -1, 4.0, None, True, [4], 10**9, 10**400, 5)),
        *(json.dumps({**GOOD, "seed": value}) for value in ("0", -1, 0.5, None)),
        *(json.dumps({**GOOD, "global_batch": value}) for value in ("2", None, {})),
        *(json.dumps({**GOOD, "epoch": value}) for value in ("1", -1, float("nan"), float("inf"), 10**400)),
        *(json.dumps({**GOOD, "elapsed_seconds": value}) for value in ("1.5", -1.5, None, float("nan"))),
        *(json.dumps({**GOOD, "data": value}) for value in (7, [], "x", {}, {**DATA, "images": "3"})),
        json.dumps({**GOOD, "data": {**DATA, "sha256": 7}}),
    ],
    ids=lambda content: repr(content)[:60],
)
def test_a_wrong_position_is_one_line(tmp_path: Path, content: str | bytes) -> None:
    checkpoint = tmp_path / "step-00000004"
    checkpoint.mkdir()
    path = checkpoint / "trainer.json"
    for good in (GOOD, {**GOOD, "data": DATA}, {**GOOD, "data": None}):
        path.write_text(json.dumps(good))
        assert read_state(checkpoint).step == 4
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError) as caught:
        read_state(checkpoint)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))


@pytest.mark.parametrize("header", [b"[]", b"7", b'"x"', b'{"a": 7}', b'{"a": {"data_offsets": 7}}', b"[" * 200_000])
@pytest.mark.parametrize("length", [None, 2**40, 2**63])
def test_wrong_arrays_are_no_complete_checkpoint(tmp_path: Path, header: bytes, length: int | None) -> None:
    for name in ("model.json", "trainer.json"):
        (tmp_path / name).write_text("{}")
    for name in ("model.safetensors", "trainer.safetensors"):
        (tmp_path / name).write_bytes((length or len(header)).to_bytes(8, "little") + header)
    assert not is_complete(tmp_path)


def test_folders_with_other_names_are_no_checkpoints(tmp_path: Path) -> None:
    whole = tmp_path / "run/checkpoints/step-00000004"
    whole.mkdir(parents=True)
    for name in ("model.json", "trainer.json"):
        (whole / name).write_text("{}")
    for name in ("model.safetensors", "trainer.safetensors"):
        save_file({"a": np.zeros(2)}, whole / name)
    for name in ("step-", "step-x", "step--5", "step-9.bak", f"step-{'9' * 100}", "step-00000003"):
        shutil.copytree(whole, whole.parent / name)
    assert [path.name for path in complete_checkpoints(whole.parent)] == ["step-00000003", "step-00000004"]
    assert last_step(tmp_path / "run") == 4


@pytest.mark.parametrize("content", ["[" * 200_000, "7", "[]", '{"step": "4", "target": ""}', '{"step": 4}', "\0"])
def test_a_wrong_end_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "finished.json").write_text(content)
    assert read_end(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"\xff", b"../x", b"step-x", b"x" * 10**6])
def test_a_wrong_best_protects_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "best").write_bytes(content)
    assert best_name(tmp_path) is None


def test_wrong_rows_are_left_out_and_counted(tmp_path: Path, capsys) -> None:
    path = tmp_path / "metrics.jsonl"
    good = '{"kind": "train", "step": 1}\n'
    for wrong in ("[" * 200_000, '{"kind": "train", "step": "2"}', '{"kind": 7, "step": 2}', "7", "\xff"):
        path.write_bytes(good.encode() + wrong.encode("latin-1") + b"\n" + good.encode())
        assert read_rows(path) == [{"kind": "train", "step": 1}] * 2
        assert "1 damaged lines are left out" in capsys.readouterr().err


def test_damaged_files_of_a_run_are_found_before_its_model_is_built(
    hollow_step, tiny, resume, tmp_path: Path, monkeypatch
) -> None:
    run_dir = tmp_path / "run"
    assert run(tiny("train.max_steps=4", "checkpoint.every_steps=2", "data.val=null")) == 0
    newest = run_dir / "checkpoints/step-00000004"

    def refused(*words: str) -> None:
        with pytest.raises(ConfigError) as caught:
            run(resume(run_dir, "train.max_steps=6"))
        for word in (*words, "; if step-00000004 is deleted, the run resumes from step-00000002"):
            assert word in str(caught.value)

    for name in ("model.safetensors", "trainer.safetensors"):
        whole = (newest / name).read_bytes()
        arrays = load_file(newest / name)
        key = max(arrays, key=lambda key: arrays[key].size)
        arrays[key].reshape(-1)[3] = np.nan
        save_file(arrays, newest / name)
        refused("step-00000004", key, f"has 1 of {arrays[key].size} values that are NaN or infinite")
        (newest / name).write_bytes(whole)
    monkeypatch.setattr("mrcnn_train.training.state.build_model", None)
    for name, content in (("model.json", "[" * 200_000), ("trainer.json", '{"step": "4"}')):
        whole = (newest / name).read_bytes()
        (newest / name).write_text(content)
        refused(name)
        (newest / name).write_bytes(whole)
