"""Parsers read the contents that once broke them, and a few random ones; `make fuzz` feeds them for minutes."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from fuzz.parsers import PARSERS
from fuzz.run import TooSlowError, limited_time, run_one
from fuzz.values import changed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SEEDS = sorted((Path(__file__).parent / "fuzz" / "seeds").glob("*/*"))


@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_contents_that_once_broke_a_parser(seed: Path, tmp_path: Path) -> None:
    run_one(seed.parent.name, seed.read_bytes(), tmp_path)


@pytest.mark.parametrize("name", PARSERS)
def test_a_few_random_contents(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(max_examples=10, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(PARSERS[name].contents())
    def parse(content: bytes) -> None:
        run_one(name, content, tmp_path_factory.mktemp(name))

    parse()


def test_every_seed_belongs_to_a_parser() -> None:
    assert {seed.parent.name for seed in SEEDS} <= set(PARSERS)


def test_a_content_that_breaks_a_parser_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mrcnn_data.images.reading.stored_size", lambda data: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        run_one("image", b"BM", tmp_path)


def test_slow_code_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.run.MOST_SECONDS", 0.05)
    with limited_time(), pytest.raises(TooSlowError):
        sum(number for number in itertools.count())


@settings(max_examples=50, deadline=None, database=None, derandomize=True)
@given(st.data())
def test_changes_leave_the_template_alone(data: st.DataObject) -> None:
    template = {"a": [1, {"b": 2}], "c": "d"}
    data.draw(changed(template))
    assert template == {"a": [1, {"b": 2}], "c": "d"}
