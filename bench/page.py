"""Make the measured part of docs/RESULTS.md, and its charts, of the files in bench/results.

    make bench-page        or        python bench/page.py

Everything between the two markers of the page is replaced; the rest is written by hand. A chart holds a digest of the
figures in it, so that tests can tell whether it is up to date without drawing it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from results import RESULTS, Figure, Result, read_results, rounded

PAGE = Path(__file__).resolve().parents[1] / "docs" / "RESULTS.md"
BEGIN, END = "<!-- made by bench/page.py: begin -->", "<!-- made by bench/page.py: end -->"
CHARTS = "charts"  # a folder beside the page
# A chart of each machine: unit of its figures, file, title.
UNITS = (
    ("times", "speed", "times as fast as the other side"),
    ("of GEMM", "efficiency", "share of the rate of a matrix product"),
)
NOTHING = "No benchmark has written a file to `bench/results` yet."


def page_part(results: Sequence[Result]) -> str:
    """Return the text between the markers: for each machine the charts, then a table for each file."""
    if not results:
        return NOTHING
    parts = []
    for name in dict.fromkeys(result.machine for result in results):
        of_machine = [result for result in results if result.machine == name]
        parts.append(f"### {name}")
        for unit, kind, title in UNITS:
            if chart_bars(of_machine, unit):
                parts.append(f"![{title}]({CHARTS}/{chart_file(of_machine, kind)})")
        parts += [table(result) for result in of_machine]
    return "\n\n".join(parts)


def table(result: Result) -> str:
    command = " ".join(["python", *result.command])
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    in_precision = f", {result.precision}" if result.precision else ""
    lines = [
        f"**{result.benchmark}{in_precision}**, {result.date}, `{command}`",
        f"({versions}):",
        "",
        "| what | measured | wanted |",
        "|---|---|---|",
        *(f"| {one.name} | {rounded(one.value)} {one.unit} | {one.wanted} |" for one in result.figures),
    ]
    return "\n".join(lines)


def with_part(page: str, part: str) -> str:
    """Return a page with the text between its markers replaced."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{part}\n\n{END}{after}"


# ---- charts ---------------------------------------------------------------------------------------------------------


def chart_bars(results: Iterable[Result], unit: str) -> list[tuple[str, Figure]]:
    """Return the figures of a unit with the names of their bars."""
    return [
        (f"{result.benchmark}{f' {result.precision}' if result.precision else ''}: {figure.name}", figure)
        for result in results
        for figure in result.figures
        if figure.unit == unit
    ]


def chart_file(results: Sequence[Result], kind: str) -> str:
    machine = results[0]._replace(benchmark=kind, precision=None)
    return f"{machine.name}.png"


def digest(bars: Sequence[tuple[str, Figure]]) -> str:
    return hashlib.sha256(json.dumps(bars).encode()).hexdigest()


def draw_chart(path: Path, bars: Sequence[tuple[str, Figure]], title: str) -> None:
    """Draw bars, a line on each at what is wanted, and store their digest in the PNG."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(8, 1.1 + 0.27 * len(bars)), layout="constrained")
    canvas.suptitle(title, fontsize="medium")  # over the whole width: the names at the left take much of it
    axes = canvas.add_subplot()
    values = [figure.value for _, figure in bars]
    axes.barh(range(len(bars)), values, color="tab:blue", height=0.7)
    furthest = max(values)
    for row, (_, figure) in enumerate(bars):
        limit = figure.at_least if figure.at_least is not None else figure.at_most
        if limit is not None and not figure.unchecked:
            axes.plot([limit, limit], [row - 0.45, row + 0.45], color="tab:red")
            furthest = max(furthest, limit)
        text = rounded(figure.value)  # in the bar, where no line of a limit that was nearly met crosses it
        axes.text(figure.value * 0.98, row, text, va="center", ha="right", fontsize="small", color="white")
    axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize="small")
    axes.set_xlim(0, 1.12 * furthest)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    path.parent.mkdir(exist_ok=True)
    canvas.savefig(path, dpi=90, metadata={"Description": digest(bars)})


def is_current_chart(path: Path, bars: Sequence[tuple[str, Figure]]) -> bool:
    """Return whether a chart was drawn of these figures."""
    return path.is_file() and digest(bars).encode() in path.read_bytes()


def charts(results: Sequence[Result]) -> dict[str, tuple[list[tuple[str, Figure]], str]]:
    """Return the bars and the title of each chart, by file name."""
    found = {}
    for name in dict.fromkeys(result.machine for result in results):
        of_machine = [result for result in results if result.machine == name]
        for unit, kind, title in UNITS:
            if bars := chart_bars(of_machine, unit):
                found[chart_file(of_machine, kind)] = (bars, f"{name}: {title}")
    return found


def main(results_folder: Path = RESULTS, page: Path = PAGE) -> None:
    results = read_results(results_folder)
    page.write_text(with_part(page.read_text(), page_part(results)))
    wanted = charts(results)
    folder = page.parent / CHARTS
    for path in folder.glob("*.png"):
        if path.name not in wanted:
            path.unlink()
    for name, (bars, title) in wanted.items():
        if not is_current_chart(folder / name, bars):
            draw_chart(folder / name, bars, title)
    print(f"{page}: {len(results)} files of results, {len(wanted)} charts")


if __name__ == "__main__":
    main()
