"""Predict how long training takes on 8 to 512 GPUs, by a model of five effects.

    python -m infra.scaling                       # V100 with 25 Gbit/s, beside the published hours
    python -m infra.scaling --machine p4d.24xlarge --epochs 12

A step takes the time of its images on one GPU, plus the part of the gradient exchange that the backward pass does not
hide, plus the wait for the slowest process. A run takes the time of its steps, its start, and its evaluations. The
numbers were not measured with this code; the assumptions are printed with the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import sys
from collections.abc import Sequence

TRAIN_IMAGES = 118_287  # COCO train2017
VAL_IMAGES = 5_000  # val2017
GRADIENT_BYTES = 176e6  # ResNet-50 FPN, float32
GPUS_PER_NODE = 8
GPUS = (8, 16, 32, 64, 128, 256, 512)
LARGEST_BATCH = 256  # images a step, for which a recipe exists
# Hours on V100, by GPUs and epochs, 4 images a GPU: the table to reproduce.
PUBLISHED = {(8, 12): 5.09, (16, 12): 3.11, (32, 12): 1.94, (8, 24): 9.78, (16, 24): 5.60, (32, 24): 3.33}


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """The assumptions of the model. The defaults are V100 machines, fitted to the published hours."""

    images_per_gpu: int = 4
    # Images/s of one GPU that waits for no other. Fitted, with `spread` and `start_hours`, to the six published hours.
    # They are too few to determine `overlap` as well: 0.25 fits nearly as well, with a spread of 0.02.
    images_per_second: float = 12.9
    spread: float = 0.13  # standard deviation of a process's step time, as a share of it
    start_hours: float = 0.6  # start, compilation and tuning of kernels; without evaluations
    overlap: float = 0.5  # share of the exchange that backward hides
    node_gbits: float = 25.0  # network of a machine, Gbit/s
    link_gbytes: float = 100.0  # between the GPUs of a machine, GB/s
    latency_us: float = 30.0  # of a message between machines
    gradient_bytes: float = GRADIENT_BYTES  # half of it with distributed.wire=float16
    inference_speedup: float = 2.8  # images/s of inference over those of training
    scoring_seconds: float = 10.0  # of an evaluation, on one process
    evaluations: int = 1  # in a run


# Rates of one GPU: V100 as fitted above, A100 as NVIDIA measured it with its TensorFlow 2 model (AMP, batch 4).
MACHINES = {
    "p3.16xlarge": Assumptions(),
    "p3dn.24xlarge": Assumptions(node_gbits=100.0),
    "p4d.24xlarge": Assumptions(images_per_second=28.6, node_gbits=400.0, link_gbytes=230.0),
}


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The seconds of a step by cause, and the hours of the run."""

    gpus: int
    compute: float
    exchange: float
    waiting: float
    hours: float

    @property
    def step(self) -> float:
        return self.compute + self.exchange + self.waiting

    @property
    def efficiency(self) -> float:
        """Throughput of a GPU, as a share of that of a single GPU."""
        return self.compute / self.step


def exchange_seconds(gpus: int, assumed: Assumptions) -> float:
    """Return the seconds of an all-reduce by rings: inside each machine, then between machines."""
    nodes = math.ceil(gpus / GPUS_PER_NODE)
    local = min(gpus, GPUS_PER_NODE)
    inside = 2 * (local - 1) / local * assumed.gradient_bytes / (assumed.link_gbytes * 1e9)
    between = 2 * (nodes - 1) / nodes * assumed.gradient_bytes / (assumed.node_gbits / 8 * 1e9)
    return inside + between + 2 * (nodes - 1) * assumed.latency_us * 1e-6


def expected_maximum(count: int) -> float:
    """Return the expected maximum of `count` standard normal numbers."""
    normal = statistics.NormalDist()
    # The distribution of the maximum is cdf^count; its mean is the integral of the tails.
    width = 0.005
    points = [-8 + width * i for i in range(3201)]
    return sum((float(x > 0) - normal.cdf(x) ** count) * width for x in points) + width / 2


def predict(gpus: int, *, epochs: float, assumed: Assumptions) -> Prediction:
    """Predict a run on `gpus` GPUs."""
    compute = assumed.images_per_gpu / assumed.images_per_second
    exchange = (1 - assumed.overlap) * exchange_seconds(gpus, assumed) if gpus > 1 else 0.0
    waiting = assumed.spread * compute * expected_maximum(gpus)
    steps = epochs * TRAIN_IMAGES / (assumed.images_per_gpu * gpus)
    evaluation = VAL_IMAGES / (gpus * assumed.images_per_second * assumed.inference_speedup) + assumed.scoring_seconds
    seconds = steps * (compute + exchange + waiting) + assumed.evaluations * evaluation
    return Prediction(gpus, compute, exchange, waiting, assumed.start_hours + seconds / 3600)


def table(*, epochs: float, assumed: Assumptions, gpus: Sequence[int] = GPUS) -> list[str]:
    """Return the predictions as lines of a Markdown table, with the published hours where they apply."""
    is_published = assumed == MACHINES["p3.16xlarge"]
    names = ["GPUs", "images a step", "compute, ms", "exchange, ms", "waiting, ms"]
    names += ["efficiency", "images/s", "hours", "published"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for count in gpus:
        run = predict(count, epochs=epochs, assumed=assumed)
        batch = count * assumed.images_per_gpu
        known = PUBLISHED.get((count, int(epochs))) if is_published else None
        cells = (
            str(count),
            f"{batch}{'' if batch <= LARGEST_BATCH else ' *'}",
            *(f"{1000 * seconds:.0f}" for seconds in (run.compute, run.exchange, run.waiting)),
            f"{run.efficiency:.2f}",
            f"{batch / run.step:.0f}",
            f"{run.hours:.2f}",
            f"{known:.2f}" if known is not None else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def assumption_lines(each: Assumptions) -> list[str]:
    """Describe the assumptions of a table, one a line."""
    return [
        f"- {each.images_per_gpu} images a GPU; a GPU that waits for no other does {each.images_per_second:g} images/s",
        f"- {each.gradient_bytes / 1e6:.0f} MB of gradients a step, in rings: {each.link_gbytes:g} GB/s in a machine "
        f"of {GPUS_PER_NODE} GPUs, {each.node_gbits:g} Gbit/s and {each.latency_us:g} us between machines; "
        f"backward hides {each.overlap:.0%} of it",
        f"- step times of processes vary by {each.spread:.0%} (normal, independent), and all wait for the slowest",
        f"- {each.start_hours:g} h to start; evaluations: {each.evaluations}, of {VAL_IMAGES} images on all GPUs, "
        f"at {each.inference_speedup:g} times the rate of training, and {each.scoring_seconds:g} s to score",
        f"- * more than {LARGEST_BATCH} images a step: no recipe reaches the accuracy; only the time is predicted",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and its assumptions."""
    parser = argparse.ArgumentParser(prog="python -m infra.scaling", description="Predict hours on 8 to 512 GPUs.")
    parser.add_argument("--machine", choices=MACHINES, default="p3.16xlarge", help="(default: p3.16xlarge)")
    parser.add_argument("--epochs", type=float, default=24, metavar="N", help="(default: 24)")
    for field in dataclasses.fields(Assumptions):
        kind = int if field.type == "int" else float
        name = field.name.replace("_", "-")
        parser.add_argument(f"--{name}", type=kind, metavar="X", help=f"(p3.16xlarge: {field.default:g})")
    options = vars(parser.parse_args(arguments))
    machine, epochs = options.pop("machine"), options.pop("epochs")
    given = {name: value for name, value in options.items() if value is not None}
    wrong = [name for name, value in {**given, "epochs": epochs}.items() if value < 0]
    wrong += [
        name for name in ("images_per_gpu", "images_per_second", "node_gbits", "link_gbytes") if given.get(name) == 0
    ]
    if wrong:
        parser.error(f"--{wrong[0].replace('_', '-')}: expected a positive number")
    assumed = dataclasses.replace(MACHINES[machine], **given)
    print(f"{machine}, {epochs:g} epochs\n", *table(epochs=epochs, assumed=assumed), "", sep="\n")
    print("Assumed:", *assumption_lines(assumed), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
