"""Measure what each group of rules of `+experiment=auto` is worth: mask AP after some minutes, without each group.

    python bench/auto.py --minutes 5 --data shapes 'nuclei: data.root=DIR' 'plants: data.root=DIR data.val=valid'

`shapes` are drawn; other data sets are a name and options of training. Each run has a folder in `--out`. A run that has
finished is not repeated, one that was stopped is continued, so the same command goes on where the last one ended.
There are 4 runs for each data set and seed. A group is worth its rules where AP is higher with it than without it, by
more than the seeds differ.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from results import Figure, write_results

from mrcnn_data.synthetic import generate_shapes

GROUPS = ("sizes", "network", "training")
ALL = "all rules"
VARIANTS = {ALL: GROUPS} | {f"without {off}": tuple(one for one in GROUPS if one != off) for off in GROUPS}
SHAPES = {"train": 400, "val": 60, "size": 160, "seed": 0}


class Data(NamedTuple):
    """A data set: its name, and the options that train on it."""

    name: str
    options: list[str]


class Outcome(NamedTuple):
    """The best mask AP of a run, its best box AP, and its steps."""

    mask_ap: float
    box_ap: float
    steps: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["shapes"], metavar="'NAME: OPTION ...'")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, default=Path("outputs/bench-auto"))
    parser.add_argument("--options", nargs="*", default=[], help="of training, for all runs")
    arguments = parser.parse_args()
    outcomes: dict[tuple[str, str], list[Outcome]] = {}
    sets = [parsed(text, arguments.out) for text in arguments.data]
    for seed in arguments.seeds:  # a seed of everything first: an early end leaves a whole table
        for data in sets:
            for variant, rules in VARIANTS.items():
                folder = arguments.out / f"{data.name}-{variant.replace(' ', '-')}-{arguments.minutes:g}-{seed}"
                options = [*data.options, *arguments.options, f"auto.rules=[{','.join(rules)}]", f"train.seed={seed}"]
                outcome = trained(folder, [*options, f"train.minutes={arguments.minutes:g}"])
                outcomes.setdefault((data.name, variant), []).append(outcome)
                print(f"{folder.name}: mask AP {outcome.mask_ap:.3f}, {outcome.steps} steps", flush=True)
    print_table(outcomes, minutes=arguments.minutes)
    return write_results("auto", list(figures(outcomes, minutes=arguments.minutes)))


def parsed(text: str, out: Path) -> Data:
    """Read 'NAME: OPTION ...'; the name alone is enough for the shapes, which are drawn below `out`."""
    name, _, options = text.partition(":")
    if name == "shapes" and not options:
        generate_shapes(out / "shapes", **SHAPES)
        return Data(name, [f"data.root={out / 'shapes'}"])
    if not options.strip():
        raise SystemExit(f"--data {text!r}: expected 'NAME: data.root=DIR'")
    return Data(name.strip(), shlex.split(options))


def trained(folder: Path, options: list[str]) -> Outcome:
    """Train in a folder, unless the run there has finished, and read what came of it."""
    if not (folder / "finished.json").is_file():
        command = [sys.executable, "-m", "mrcnn_train", "+experiment=auto", *options]
        folder.mkdir(parents=True, exist_ok=True)
        log = folder.with_suffix(".log")
        with log.open("a") as output:
            done = subprocess.run([*command, f"run.dir={folder}", "resume=auto"], stdout=output, stderr=output)
        if done.returncode:
            raise SystemExit(f"the run ended with exit code {done.returncode}: see {log}")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluations = [row for row in rows if row["kind"] == "evaluation"]
    masks, boxes = ([row.get(name, -1.0) for row in evaluations] for name in ("mask_AP", "box_AP"))
    return Outcome(max(masks), max(boxes), rows[-1]["step"])


def figures(outcomes: dict[tuple[str, str], list[Outcome]], *, minutes: float) -> list[Figure]:
    """Return the mean of the seeds, and how far they are apart, for each data set and variant."""
    found = []
    for (name, variant), runs in outcomes.items():
        values = [run.mask_ap for run in runs]
        what = f"{name}, {variant}, {minutes:g} minutes"
        found.append(Figure(f"{what}: mask AP, mean of {len(values)} seeds", statistics.fmean(values), "AP"))
        if len(values) > 1:
            found.append(Figure(f"{what}: largest less smallest", max(values) - min(values), "AP"))
    return found


def print_table(outcomes: dict[tuple[str, str], list[Outcome]], *, minutes: float) -> None:
    """Print box and mask AP of each run, and what the group that is missing was worth."""
    print(f"\n| mask AP after {minutes:g} minutes | seeds | mean | all rules are better by |\n|---|---|---|---|")
    for (name, variant), runs in outcomes.items():
        mean = statistics.fmean(run.mask_ap for run in runs)
        worth = statistics.fmean(run.mask_ap for run in outcomes[name, ALL]) - mean
        seeds = ", ".join(f"{run.mask_ap:.3f}" for run in runs)
        print(f"| {name}, {variant} | {seeds} | {mean:.3f} | {'' if variant == ALL else f'{worth:+.3f}'} |")


if __name__ == "__main__":
    sys.exit(main())
