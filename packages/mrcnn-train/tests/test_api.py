"""Training from Python: `mrcnn_train.train`, and values that the command could not have composed."""

import pickle
from pathlib import Path

import pytest

from mrcnn_data import DatasetError
from mrcnn_train import ConfigError, RunConfig, run, train
from mrcnn_train.record.metrics_log import read_rows


@pytest.fixture
def options(tiny_overrides: list[str], compose) -> dict[str, object]:
    """The tiny run, as Python values."""
    wanted = [override.partition("=")[0] for override in tiny_overrides if not override.startswith("+")]
    config = compose(*tiny_overrides)

    def value(name: str) -> object:
        found: object = config
        for part in name.split("."):
            found = getattr(found, part)
        return found

    return {name: value(name) for name in wanted}


def test_a_run_and_its_continuation(options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = options.pop("data.root")
    run_dir = train(Path(root), experiment="demo", **{**options, "train.max_steps": 2, "data.val": None})
    assert run_dir.parent == tmp_path / "outputs" / "demo"
    assert [row["step"] for row in read_rows(run_dir / "metrics.jsonl")] == [1, 2]
    assert train(resume=run_dir, max_steps=3) == run_dir
    assert [row["step"] for row in read_rows(run_dir / "metrics.jsonl")] == [1, 2, 3]


def test_options_are_chosen_by_the_data(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    train(shapes, minutes=3, dry_run=True, **{"data.max_gt": 7, "data.cache_dir": None})
    output = capsys.readouterr().out
    assert "auto:             data.short_edge=64: " in output
    assert "auto:             data.max_gt=7: given\n" in output
    assert "steps:            as many as fit into 3 minutes" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rot": 3}, "unknown option 'rot'"),
        ({"data.short_egde": 3}, "unknown option 'data.short_egde'; did you mean 'data.short_edge'?"),
        ({"max_steps": "abc"}, "train.max_steps: Value 'abc' of type 'str' could not be converted to Integer"),
        ({"data.buckets": 5}, "data.buckets"),
        ({"experiment": "smal"}, "unknown experiment 'smal'; did you mean 'small'?"),
        ({"launch.processes": 2}, "a job of several processes is started by the command"),
    ],
)
def test_wrong_options(options: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        train("somewhere", **options)
    assert message in str(error.value)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, DatasetError), match="nowhere"):
        train("nowhere")


def test_options_reach_another_process_as_what_they_are() -> None:
    """Rank 0 sends its config to the others, which check its types."""
    assert pickle.loads(pickle.dumps(RunConfig())) == RunConfig()


def test_fields_that_do_not_exist_and_values_of_wrong_types() -> None:
    config = RunConfig()
    with pytest.raises(AttributeError, match="DataOptions has no option 'rot'; did you mean"):
        config.data.rot = "x"
    with pytest.raises(AttributeError, match="RunConfig has no option 'sead'"):
        config.sead = 3
    config.train.max_steps = "abc"
    with pytest.raises(ConfigError, match=r"train\.max_steps: Value 'abc'"):
        run(config)
