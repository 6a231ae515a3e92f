"""What a run prints for its user: commands that can follow, the newest run, warm-ups that are too long, time left."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from mrcnn_train import run
from mrcnn_train.app import main
from mrcnn_train.config.commands import next_commands, option
from mrcnn_train.config.going_on import newest_run
from mrcnn_train.config.options import TrainOptions
from mrcnn_train.config.plan import make_plan


def test_commands_after_a_run() -> None:
    text = next_commands(Path("/a/my run"), TrainOptions(), total_steps=100, pictures=Path("/data/val"))
    assert text.splitlines() == [
        "find objects in pictures:         mrcnn-eval --checkpoint '/a/my run' --images /data/val",
        "score, and look at mistakes:      mrcnn-eval --checkpoint '/a/my run' --report",
        "export for serving:               python -m mrcnn_model.export '/a/my run' '/a/my run/saved_model'",
        "train longer:                     python -m mrcnn_train 'resume=\"/a/my run\"' train.max_steps=200 "
        "train.epochs=null",
    ]
    budget = next_commands(Path("/a/b"), TrainOptions(minutes=7.5), total_steps=100, pictures=None)
    assert budget.splitlines()[0].endswith("--images PICTURES")
    assert len(budget.splitlines()) == 3
    assert budget.splitlines()[-1].endswith("python -m mrcnn_train resume=/a/b train.minutes=15")


@pytest.mark.parametrize("value", ["a b", "a'b", 'a"b', "a,b", "a=b", "[a]", "a$b", "~/x", "a(b)"])
def test_options_are_quoted_for_shell_and_hydra(compose, value: str) -> None:
    (word,) = shlex.split(option("run.name", value))
    assert compose(word).run.name == value


@pytest.fixture
def command(tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hollow_step, capfd):
    monkeypatch.chdir(tmp_path)

    def run_command(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["mrcnn_train", *arguments])
        code = main()
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    return run_command


def test_the_printed_command_trains_longer(command, tiny_overrides: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "my run, 1"
    fixed = [*tiny_overrides, "data.val=null", "train.max_steps=2"]
    code, output = command(*fixed, option("run.dir", str(folder)).strip("'"))
    assert code == 0, output
    printed = re.search(r"train longer: +python -m mrcnn_train (.*)", output)
    assert printed
    code, output = command(*shlex.split(printed[1]))
    assert code == 0, output
    assert (folder / "checkpoints" / "step-00000004").is_dir()


def test_resume_takes_the_newest_run(command, tiny_overrides: list[str], tmp_path: Path) -> None:
    fixed = [*tiny_overrides, "data.val=null"]
    folder = tmp_path / "outputs" / "mine"
    for name in ("2026-01-01_10-00-00", "2026-01-02_10-00-00", "2026-01-03_10-00-00"):
        assert command(*fixed, "train.max_steps=2", f"run.dir={folder / name}")[0] == 0
    shutil.rmtree(folder / "2026-01-03_10-00-00" / "checkpoints")  # ended before its first checkpoint
    code, output = command("resume=outputs/mine", "train.max_steps=3")
    assert code == 0, output
    newest = Path("outputs/mine/2026-01-02_10-00-00")
    assert f"resume=outputs/mine: its newest run is {newest}\n" in output
    assert (newest / "checkpoints" / "step-00000003").is_dir()
    assert newest_run(newest, marked_by="config.yaml") == newest
    code, output = command("resume=outputs")
    assert (code, "is not a run directory" in output) == (2, True)


def test_a_warm_up_longer_than_the_run_is_a_warning(tiny, compose, tiny_overrides, hollow_step, capsys) -> None:
    assert run(tiny("data.val=null", "train.max_steps=50")) == 0
    expected = (
        "WARNING: the run of 50 steps ends within its warm-up of 100: give optimizer.warmup_steps=5, or train longer"
    )
    assert expected in capsys.readouterr().err
    config = compose("+experiment=small", "data.root=x", "train.max_steps=50")
    assert make_plan(config, num_images=10).schedule.warmup_steps == 5
    config = compose("+experiment=small", "data.root=x")
    assert make_plan(config, num_images=10).schedule.warmup_steps == 100


def test_time_left_is_shown_after_the_second_step(tiny, hollow_step, capsys) -> None:
    assert run(tiny("data.val=null", "train.max_steps=5", "log.every=20")) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert lines[0].endswith("compiling")
    assert re.fullmatch(r"step 2/5  a step takes [\d.e+-]+ s, about 0:00 left", lines[1])
    assert lines[2].startswith("step 5/5")
