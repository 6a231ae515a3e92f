"""`resume=auto`, finished runs, and one writer for a run directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mrcnn_train import ConfigError, run
from mrcnn_train.app import main
from mrcnn_train.config.going_on import End, complete_checkpoints, mark_finished, read_end
from mrcnn_train.record.curves import draw_curves
from mrcnn_train.record.lock import locked
from mrcnn_train.record.metrics_log import read_rows


@pytest.fixture
def command(tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hollow_step, capfd):
    """Run the command of a tiny run in `run/`; returns its exit code, and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run_command(*options: str) -> tuple[int, str]:
        arguments = [
            *tiny_overrides,
            "run.dir=run",
            "resume=auto",
            "checkpoint.every_steps=2",
            "data.val=null",
            *options,
        ]
        monkeypatch.setattr("sys.argv", ["mrcnn_train", *arguments])
        code = main()
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    return run_command


def steps() -> list[int]:
    return [row["step"] for row in read_rows(Path("run/metrics.jsonl")) if row["kind"] == "train"]


def test_the_same_command_starts_goes_on_and_finishes(command) -> None:
    assert command("train.max_steps=4")[0] == 0
    assert steps() == [1, 2, 3, 4]
    shutil.rmtree("run/checkpoints/step-00000004")  # as if it had been cut off before its last checkpoint
    code, output = command("train.max_steps=4")
    assert code == 0
    assert "resumed from:     " in output
    assert steps() == [1, 2, 3, 4]
    code, output = command("train.max_steps=4")
    assert code == 0
    assert "has finished after 4 steps: nothing is left to do" in output
    assert "resumed from" not in output
    code, output = command("train.max_steps=6")
    assert code == 0
    assert steps() == [1, 2, 3, 4, 5, 6]


def test_more_steps_than_asked_for_are_refused(command) -> None:
    assert command("train.max_steps=4")[0] == 0
    code, output = command("train.max_steps=2")
    assert code == 2
    assert "the run has done 4 steps, but the options ask for 2" in output
    assert sorted(path.name for path in Path("run/checkpoints").glob("step-*")) == ["step-00000002", "step-00000004"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("model.fpn_channels=32", "model.fpn_channels is 32, but the run in "),
        ("train.seed=7", "train.seed is 7, but the run in "),
        ("train.global_batch=4", "train.global_batch is 4, but the run in "),
    ],
)
def test_what_may_not_change_is_named(command, option: str, message: str) -> None:
    assert command("train.max_steps=2")[0] == 0
    code, output = command("train.max_steps=4", option)
    assert code == 2
    assert f"resume=auto: {message}" in output


def test_what_may_change_changes(command) -> None:
    assert command("train.max_steps=2")[0] == 0
    assert command("train.max_steps=4", "optimizer.base_lr=0.001")[0] == 0
    assert steps() == [1, 2, 3, 4]


def test_weights_given_relative_to_the_launch_are_the_same_weights(command, tiny, tmp_path: Path) -> None:
    assert run(tiny(f"run.dir={tmp_path / 'before'}", "train.max_steps=1", "data.val=null")) == 0
    assert command("train.max_steps=2", "model.weights=before")[0] == 0
    assert command("train.max_steps=4", "model.weights=./before")[0] == 0


def test_a_run_that_ended_before_its_first_checkpoint_starts_again(command) -> None:
    assert command("train.max_steps=2")[0] == 0
    shutil.rmtree("run/checkpoints")
    code, output = command("train.max_steps=2")
    assert code == 0
    assert "resumed from" not in output
    assert steps() == [1, 2]


@pytest.mark.parametrize("name", ["trainer.json", "model.json", "model.safetensors", "trainer.safetensors"])
@pytest.mark.parametrize("kept", [None, 0, 20, -1])
def test_an_incomplete_checkpoint_is_passed_over(command, name: str, kept: int | None) -> None:
    """As a service leaves it that copies a folder file by file and was cut off."""
    assert command("train.max_steps=4")[0] == 0
    path = Path("run/checkpoints/step-00000004") / name
    content = path.read_bytes()
    path.unlink()
    if kept is not None and path.suffix == ".safetensors":
        path.write_bytes(content[:kept])
    code, output = command("train.max_steps=4")
    assert code == 0
    assert "resumed from:     " in output
    assert "step-00000002" in output
    assert [folder.name for folder in complete_checkpoints(Path("run/checkpoints"))][-1] == "step-00000004"


def test_it_needs_a_directory_and_an_experiment(command, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    code, output = command("run.dir=null")
    assert code == 2
    assert "resume=auto needs run.dir=DIR" in output
    monkeypatch.setattr("sys.argv", ["mrcnn_train", "resume=auto", "run.dir=run"])
    assert main() == 2
    assert "resume=auto needs the options of a new run too" in capfd.readouterr().err


def test_a_second_writer_is_refused(command, tmp_path: Path) -> None:
    """The second run is in this process. lockf refuses only other processes; test_hosts.py tests those."""
    assert command("train.max_steps=2")[0] == 0
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text().startswith("process ")


def test_environment_of_every_launch(command) -> None:
    assert command("train.max_steps=2")[0] == 0
    assert command("train.max_steps=4")[0] == 0
    first, second = json.loads(Path("run/environment.json").read_text())
    assert first["processes"] == second["processes"] == 1
    assert "mrcnn-train" in first["own_packages"]
    assert first["hosts"][0]["ranks"] == [0]


def test_a_target_that_ended_a_run_ends_it_again(command) -> None:
    """A reached target ends a run; with another target, or none, the run continues."""
    assert command("train.max_steps=2")[0] == 0
    mark_finished(Path("run"), End(step=2, target="box AP 0.1"))
    options = ("train.max_steps=4", "data.val=val", "eval.every_epochs=100")
    code, output = command(*options, "stop_at.box_ap=0.1")
    assert code == 0
    assert "has finished after 2 steps" in output
    code, output = command("train.max_steps=4")
    assert code == 0
    assert steps() == [1, 2, 3, 4]


def test_end_of_a_run(tmp_path: Path) -> None:
    assert read_end(tmp_path) is None
    mark_finished(tmp_path, End(7, ""))
    assert read_end(tmp_path) == End(7, "")
    (tmp_path / "finished.json").write_text("{")
    assert read_end(tmp_path) is None


def test_a_directory_that_cannot_be_made_is_one_line(tiny, tmp_path: Path, hollow_step) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"run\.dir=.*file/run cannot be written: Not a directory"):
        run(tiny("train.max_steps=2", "data.val=null", f"run.dir={tmp_path / 'file' / 'run'}"))


@pytest.fixture
def in_use(monkeypatch: pytest.MonkeyPatch):
    """Let another process hold the lock of a directory from now on."""

    def refuse(descriptor: int, operation: int) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    def use(run_dir: Path) -> None:
        run_dir.mkdir(exist_ok=True)
        (run_dir / ".lock").write_text("process 12 on node7 since yesterday")
        monkeypatch.setattr("fcntl.lockf", refuse)

    return use


IN_USE = "in use by process 12 on node7 since yesterday: wait for it, stop it, or"


def test_a_directory_in_use_is_named(tiny, tmp_path: Path, in_use, hollow_step) -> None:
    in_use(tmp_path / "run")
    with pytest.raises(ConfigError, match=IN_USE):
        run(tiny("train.max_steps=2", "data.val=null"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


@pytest.mark.parametrize("steps", [2, 4])
def test_a_run_in_use_is_refused_before_it_is_read(command, tiny, tmp_path: Path, in_use, resume, capfd, steps) -> None:
    """Its writer may be about to write the next checkpoint, or to finish."""
    assert command("train.max_steps=2")[0] == 0
    in_use(tmp_path / "run")
    for name in ("checkpoints", "checkpoints-taken-away"):
        with pytest.raises(ConfigError, match=IN_USE):
            run(resume(tmp_path / "run", f"train.max_steps={steps}"))
        assert capfd.readouterr().out == ""
        if name == "checkpoints":
            (tmp_path / "run" / name).rename(tmp_path / "run" / "checkpoints-taken-away")


@pytest.mark.parametrize("content", ["", "mine", "processor"])
def test_a_lock_of_the_user_is_no_run(tiny, tmp_path: Path, hollow_step, content: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text(content)
    with pytest.raises(ConfigError, match="run holds files that are not of a run"):
        run(tiny("train.max_steps=2", "data.val=null"))
    assert (tmp_path / "run" / ".lock").read_text() == content


def test_a_lock_of_the_user_in_a_run_is_not_changed(command, tmp_path: Path) -> None:
    assert command("train.max_steps=2")[0] == 0
    lock = tmp_path / "run" / ".lock"
    lock.write_text("mine")
    code, output = command("train.max_steps=4")
    assert code == 2
    assert f"{lock} is not the lock of a run: move this file away" in output
    assert lock.read_text() == "mine"


FIXED_NAMES = (
    "ap_table.txt",
    "contact_sheet.png",
    "curves.png",
    "report.md",
    "finished.json",
    "environment.json",
    "metrics.jsonl",
    "evaluation/step-00000004.json",
)


def test_files_of_the_user_are_kept(command, tmp_path: Path) -> None:
    """Files that have the names of the trainer's, put into the directory of a run that is resumed."""
    assert command("train.max_steps=2")[0] == 0
    run_dir = tmp_path / "run"
    for name in FIXED_NAMES:
        (run_dir / name).parent.mkdir(exist_ok=True)
        (run_dir / name).write_text(f"mine: {name}")
    code, output = command("train.max_steps=4", "data.val=val")
    assert code == 0, output
    for name in FIXED_NAMES:
        path = run_dir / name
        assert b"mine" not in path.read_bytes()
        (kept,) = path.parent.glob(f"{path.stem}-until-*{path.suffix}")
        assert kept.read_text() == f"mine: {name}"
        assert f"{path} was not written by this version, or was changed: kept as {kept.name}" in output
    assert command("train.max_steps=6", "data.val=val")[0] == 0
    for name in FIXED_NAMES:
        path = run_dir / name
        assert len(list(path.parent.glob(f"{path.stem}-until-*"))) == 1, "its own files are replaced"


def test_a_file_that_the_user_changes_during_the_run_is_kept(command, tmp_path: Path, monkeypatch) -> None:
    table = tmp_path / "run" / "ap_table.txt"

    def draw_and_change(*args: object, **options: object) -> None:
        draw_curves(*args, **options)
        table.write_text("my notes")

    monkeypatch.setattr("mrcnn_train.record.run_record.draw_curves", draw_and_change)
    assert command("train.max_steps=4", "data.val=val", "eval.every_epochs=0.5")[0] == 0
    (kept,) = table.parent.glob("ap_table-until-*.txt")
    assert kept.read_text() == "my notes"


def test_a_bad_image_in_mid_run_costs_no_step(command, shapes: Path, tmp_path: Path, hollow_step, monkeypatch) -> None:
    shutil.copytree(shapes, tmp_path / "data")
    update = hollow_step.__call__

    def update_and_break(self, *args, **options):
        for path in (tmp_path / "data" / "train").iterdir():
            path.write_bytes(b"no image")
        return update(self, *args, **options)

    monkeypatch.setattr(hollow_step, "__call__", update_and_break)
    code, output = command("train.max_steps=100000", "data.root=data", "checkpoint.every_steps=100000")
    assert code == 2
    last = sorted(path.name for path in Path("run/checkpoints").glob("step-*"))[-1]
    assert f"by the error; resume={tmp_path / 'run'} continues from {last}\n" in output
    assert output.count("mrcnn_train: error: ") == 1
    assert "Traceback" not in output


def test_a_dry_run_of_too_few_steps_is_refused_too(command) -> None:
    assert command("train.max_steps=4")[0] == 0
    code, output = command("train.max_steps=2", "dry_run=true")
    assert code == 2
    assert "the run has done 4 steps, but the options ask for 2" in output
    code, output = command("train.max_steps=4", "dry_run=true")
    assert code == 0
    assert "has finished after 4 steps: nothing is left to do" in output


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "name: demo",
            "name: ${oc.env:A_SECRET}",
            "it has the interpolation ${oc.env:A_SECRET}: write",
        ),
        ("name: demo", "name: '${oc.decode:\"${oc.env:A_SECRET}\"}'", "it has the interpolation ${oc.decode"),
        ("name: demo", "name: ${data.root}${data.root}", "it has the interpolation ${data.root}"),
        ("name: demo", "name: demo\n  ${oc.env:A_SECRET}: 1", "it has the interpolation ${oc.env:A_SECRET}"),
        ("run:", BOMB + "run:", "it has the YAML alias *a0: write the value itself"),
        ("run:", "x: " + "[" * 100_000 + "\nrun:", "nested too deep"),
        ("run:", "x: " + "y" * 2_000_000 + "\nrun:", "it has more than 1048576 bytes"),
        ("run:", "x: !!python/object/apply:os.getcwd []\nrun:", "cannot be read"),
        ("run:", "\0run:", "cannot be read"),
    ],
)
@pytest.mark.parametrize("way", ["auto", "run"])
def test_a_config_from_elsewhere_is_not_expanded(command, monkeypatch, old, new, words: str, way: str) -> None:
    monkeypatch.setenv("A_SECRET", "the password")
    assert command("train.max_steps=2")[0] == 0
    config = Path("run/config.yaml")
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new, 1))
    if way == "auto":
        code, output = command("train.max_steps=4")
    else:
        monkeypatch.setattr("sys.argv", ["mrcnn_train", "resume=run", "train.max_steps=4"])
        code = main()
        output = ""
    assert code == 2
    assert way == "run" or words in output
    for path in Path("run").rglob("*"):
        assert not path.is_file() or b"the password" not in path.read_bytes()
    assert "the password" not in output
    assert steps() == [1, 2]
