"""The measured part of docs/RESULTS.md is that of the files in bench/results, and documents quote these files rightly.

A document quotes a figure with a comment behind the number: `2.1 times <!-- bench FILE: FIGURE -->`, FILE without
`.json`. A figure of `make bench-NAME` that was measured before the benchmarks wrote files has `<!-- by hand: MACHINE
-->` in its row or paragraph; once there is a file of that benchmark and machine, it has to be quoted.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from workspace import ROOT

sys.path.insert(0, str(ROOT / "bench"))

import page
import results
from results import Figure, Result

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "docs" / "RESULTS.md",
    *sorted((ROOT / "packages").glob("*/README.md")),
    *sorted((ROOT / "packages").glob("*/docs/*.md")),
]
QUOTE = re.compile(r"<!-- bench (\S+): (.+?) -->")
BY_HAND = re.compile(r"<!-- by hand: (.+?) -->")
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
BENCHMARK = re.compile(r"`make bench-([a-z][a-z_]*)`")
SPEED = re.compile(r"\d[\d.,]* (?:times|%|s\b|ms\b|images a second|GFLOP/s|GiB)")

RESULT = Result(
    "model",
    "bfloat16",
    "Quick(R) CPU with AMX, 2 cores",
    "2026-12-01",
    ["bench/model.py"],
    {"python": "3.11.2"},
    [
        Figure("step", 1.7, "s"),
        Figure("step, times torchvision", 3.26, "times", at_least=3.0),
        Figure("memory", 2.5, "GiB", at_most=2.4),
    ],
)


def test_the_page_is_made_of_the_files() -> None:
    found = results.read_results()
    text = page.PAGE.read_text()
    assert page.with_part(text, page.page_part(found)) == text, "run bench/page.py"
    wanted = page.charts(found)
    folder = page.PAGE.parent / page.CHARTS
    assert {path.name for path in folder.glob("*.png")} == set(wanted), "run bench/page.py"
    assert [name for name, (bars, _) in wanted.items() if not page.is_current_chart(folder / name, bars)] == []


def test_files_have_their_names_and_no_paths_of_a_machine() -> None:
    for path in results.RESULTS.glob("*.json"):
        (result,) = [one for one in results.read_results() if one.name == path.stem]
        assert not [word for word in result.command if re.search(r"(^|=)/", word)]
        names = [figure.name for figure in result.figures]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_documents_quote_the_files(path: Path) -> None:
    assert list(wrong_quotes(path.read_text(), results.read_results())) == []


def wrong_quotes(text: str, found: Sequence[Result]) -> Iterator[str]:
    """Yield what is wrong with the figures of benchmarks in a document, outside of the part that page.py makes."""
    before, _, rest = text.partition(page.BEGIN)
    for block in blocks(before + rest.partition(page.END)[2]):
        yield from wrong_numbers(block, found)
        has_figures = SPEED.search(block) or re.search(r":(\s*<!--.*-->)?\s*$", block)  # or a table follows
        if not has_figures or QUOTE.search(block):
            continue
        for benchmark in BENCHMARK.findall(block):
            by_hand = BY_HAND.search(block)
            machine = by_hand[1].lower().split() if by_hand else []
            files = [
                one.name
                for one in found
                if one.benchmark.startswith(benchmark) and all(word in one.machine.lower() for word in machine)
            ]
            if files:
                yield f"{block[:60]}...: `make bench-{benchmark}` has measured it: quote one of {files}"


def blocks(text: str) -> list[str]:
    """Return paragraphs, and the rows of tables."""
    return [
        block
        for paragraph in text.split("\n\n")
        for block in (paragraph.splitlines() if paragraph.startswith("|") else [paragraph])
    ]


def wrong_numbers(block: str, found: Sequence[Result]) -> Iterator[str]:
    start = 0
    for match in QUOTE.finditer(block):
        numbers, start = NUMBER.findall(block[start : match.start()]), match.end()
        values = [
            figure.value for one in found if one.name == match[1] for figure in one.figures if figure.name == match[2]
        ]
        if not values:
            yield f"{match[0]}: no such file or figure"
        elif not numbers or not is_rounded(numbers[-1].replace(",", ""), values[0]):
            yield f"{match[0]}: {numbers[-1:]}, measured {values[0]:g}"


def is_rounded(number: str, value: float) -> bool:
    return number == f"{value:.{len(number.partition('.')[2])}f}"


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = results.save(RESULT, tmp_path)
    assert path.name == "quick-r-cpu-with-amx-2-cores-model-bfloat16.json"
    assert results.read_results(tmp_path) == [RESULT]
    assert json.loads(path.read_text())["figures"][0] == {"name": "step", "value": 1.7, "unit": "s"}


def test_a_run_writes_its_figures_and_ends_with_1_if_one_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(results.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["bench/model.py", "--torch-python", "/a/python", "data.root=/b", "-x"])
    assert results.write_results("model", RESULT.figures[:2], versions={"torch": "2.14.1"}) == 0
    (written,) = results.read_results(tmp_path)
    assert written.command == ["bench/model.py", "--torch-python", "PATH", "data.root=PATH", "-x"]
    assert written.versions["torch"] == "2.14.1"
    assert "numpy" in written.versions
    assert results.write_results("model", RESULT.figures) == 1
    assert "memory: 2.5 GiB (at most 2.4: NOT MET)" in capsys.readouterr().out
    unchecked = [RESULT.figures[2]._replace(unchecked="not measured here: no AMX")]
    assert results.write_results("model", unchecked) == 0
    assert "memory: 2.5 GiB (at most 2.4: not measured here: no AMX)" in capsys.readouterr().out


def test_a_trial_may_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(results.FOLDER_VARIABLE, "")
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results.write_results("model", RESULT.figures)
    assert list(tmp_path.iterdir()) == []


def test_page_and_charts_of_a_result(tmp_path: Path) -> None:
    results.save(RESULT, tmp_path / "results")
    document = tmp_path / "RESULTS.md"
    document.write_text(f"by hand\n\n{page.BEGIN}\nold\n{page.END}\n\nmore by hand\n")
    (tmp_path / page.CHARTS).mkdir()
    (tmp_path / page.CHARTS / "old.png").write_bytes(b"")
    page.main(tmp_path / "results", document)
    text = document.read_text()
    assert text.startswith("by hand\n\n<!--")
    assert text.endswith("-->\n\nmore by hand\n")
    assert "old" not in text
    assert "| step, times torchvision | 3.26 times | at least 3: met |" in text
    (chart,) = (tmp_path / page.CHARTS).iterdir()
    assert f"({page.CHARTS}/{chart.name})" in text
    bars = page.chart_bars([RESULT], "times")
    assert page.is_current_chart(chart, bars)
    assert not page.is_current_chart(chart, page.chart_bars([RESULT], "s"))
    assert chart.stat().st_size < 50_000


def test_wrong_quotes_are_found() -> None:
    name = RESULT.name
    right = f"| `make bench-model` | 3.3 times <!-- bench {name}: step, times torchvision --> in 1.7 s |"
    assert list(wrong_quotes(right, [RESULT])) == []
    assert len(list(wrong_quotes(right.replace("3.3", "3.2"), [RESULT]))) == 1
    assert len(list(wrong_quotes(right.replace("step,", "steps,"), [RESULT]))) == 1
    unquoted = "`make bench-model` says 3.3 times"
    assert len(list(wrong_quotes(unquoted, [RESULT]))) == 1
    assert list(wrong_quotes(unquoted, [])) == []
    assert list(wrong_quotes(f"{unquoted} <!-- by hand: Slow CPU -->", [RESULT])) == []
    assert len(list(wrong_quotes(f"{unquoted} <!-- by hand: Quick CPU with AMX -->", [RESULT]))) == 1
