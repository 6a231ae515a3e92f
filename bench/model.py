"""Measure training step and inference of R50-FPN beside torchvision's Mask R-CNN: seconds, efficiency, memory.

    make bench-model        or        python bench/model.py --precision bfloat16 --torch-python PYTHON [--repeats 7]

Both sides have the same weights, images, ground truth and frozen layers (stem, first stage, all norms), and compute in
the same precision: ours by the model's policy, torchvision by torch's autocast. `auto` is what this machine's training
would use. torchvision runs in its default layout and in channels_last, and in half precision also in float32; the
faster layout is the peer. The two sides are processes that take turns, on two threads of the CPU each, or on the GPU
(where float32 means TF32 on both sides).

Both compute their proposals, which are then replaced by given ones, so that 512 RoIs an image are sampled, 128 of them
foreground, and 100 objects are detected; the script checks these numbers. A step is forward, backward and an update by
SGD with momentum. Neither side resizes images or pastes masks.

FLOP are those of our graph, for both sides, although torchvision's mask head computes more: masks of all classes.
Efficiency is FLOP / seconds / GEMM rate; the GEMM rate is the best of TensorFlow and torch, and in float32 NumPy, for
square matrices of the precision. Memory is the most that a process has held up to its last step, with inputs, weights
and framework; on a GPU, the most that tensors have held. After the comparison each part of the network runs alone. Its
time is shown beside two limits: the time of its products at the GEMM rate, and the time to read their inputs and write
their outputs once at the speed of a copy.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from machine import copy_gigabytes_per_second, cpu_flags, machine
from peer import Peer
from results import Figure, write_results
from timing import gemm_gflops, gpu_gigabytes_per_second, use_device

from mrcnn_model import choose_precision

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from our_model import CONFIG, KINDS, POLICIES, give_weights, make_inputs

HERE = Path(__file__).resolve().parent
THREADS = 2
GEMM_REPEATS = 15
SIZES = ("1x800x1216", "2x320x480")  # images x height x width
LAYOUTS = ("contiguous", "channels_last")
TITLES = {"train": "step", "detect": "inference"}
TIMES, TIMES_FLOAT32, OF_GEMM = "times torchvision", "times torchvision in float32", "of GEMM"

# What is wanted on a CPU, by precision and size: the least, and an aim if there is one.
WANTED: dict[tuple[str, str], dict[str, tuple[float, float | None]]] = {
    ("float32", "1x800x1216"): {
        f"step, {TIMES}": (1.5, None),
        f"step, {OF_GEMM}": (0.55, 0.75),
        f"inference, {TIMES}": (1.3, None),
    },
    ("float32", "2x320x480"): {f"step, {TIMES}": (2.0, None), f"inference, {TIMES}": (1.3, None)},
    ("bfloat16", "1x800x1216"): {
        f"step, {TIMES}": (3.0, None),
        f"step, {TIMES_FLOAT32}": (7.0, None),
        f"step, {OF_GEMM}": (0.5, 0.65),
        f"inference, {TIMES}": (4.0, None),
    },
    ("bfloat16", "2x320x480"): {f"step, {TIMES}": (2.5, None), f"step, {TIMES_FLOAT32}": (6.0, None)},
}


class Setting(NamedTuple):
    """What both sides are told."""

    precision: str
    device: str
    torch_python: Path
    repeats: int


class Limits(NamedTuple):
    """What the device can do."""

    gflops: float  # a matrix product
    gigabytes: float  # copied per second, read plus written


class Turns(NamedTuple):
    """Medians of turns with one variant of torchvision; pairs are ours and torchvision's."""

    precision: str  # of torchvision
    layout: str
    seconds: dict[str, tuple[float, float]]  # by kind
    memory: tuple[float, float]  # GiB
    counts: tuple[dict[str, Any], dict[str, Any]]

    def ratio(self, kind: str) -> float:
        mine, other = self.seconds[kind]
        return other / mine


class Measured(NamedTuple):
    """The measurements of one size."""

    turns: list[Turns]
    limits: Limits
    flops: dict[str, int]
    parts: list[list[Any]]
    versions: dict[str, str]

    def peer(self, kind: str, precision: str) -> Turns:
        """Return the turns with torchvision's better layout."""
        return min((one for one in self.turns if one.precision == precision), key=lambda one: one.ratio(kind))


def measure(size: str, setting: Setting) -> Measured:
    """Run both sides. One variant of torchvision runs at a time, so that only two processes hold memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inputs.npz"
        inputs = make_inputs(*map(int, size.split("x")))
        give_weights(inputs)
        np.savez(path, allow_pickle=False, **inputs)
        del inputs
        turns: list[Turns] = []
        precision, device = setting.precision, setting.device
        with Peer(sys.executable, HERE / "peers" / "our_model.py", path, THREADS, precision, device) as ours:
            for theirs_precision in dict.fromkeys((precision, "float32")):
                for layout in LAYOUTS:
                    script, options = HERE / "peers" / "torchvision_model.py", (theirs_precision, device, layout)
                    with Peer(setting.torch_python, script, path, THREADS, *options) as theirs:
                        if not turns:
                            limits = measure_limits(theirs, setting)
                            versions = theirs.ask("versions")
                        turns.append(take_turns(ours, theirs, theirs_precision, layout, setting.repeats))
            return Measured(turns, limits, ours.ask("flops"), ours.ask(f"parts {min(setting.repeats, 5)}"), versions)


def measure_limits(theirs: Peer, setting: Setting) -> Limits:
    gflops = gemm_gflops(
        lambda: float(theirs.ask("gemm")), GEMM_REPEATS, precision=setting.precision, device=setting.device
    )
    is_gpu = setting.device == "gpu"
    return Limits(
        gflops, gpu_gigabytes_per_second(GEMM_REPEATS) if is_gpu else copy_gigabytes_per_second(THREADS, GEMM_REPEATS)
    )


def take_turns(ours: Peer, theirs: Peer, precision: str, layout: str, repeats: int) -> Turns:
    seconds: dict[str, tuple[float, float]] = {}
    for kind in KINDS:
        for side in (ours, theirs):
            side.ask(kind)  # compiles, warms up
        turns = [(ours.ask(kind), theirs.ask(kind)) for _ in range(repeats)]
        mine, other = zip(*turns, strict=True)
        seconds[kind] = (statistics.median(mine), statistics.median(other))
        if kind == "train":
            memory = (ours.ask("memory"), theirs.ask("memory"))
    counts = (ours.ask("counts"), theirs.ask("counts"))
    check_counts(*counts)
    return Turns(precision, layout, seconds, memory, counts)


def check_counts(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Check that both sides have done the same amount of work."""
    for name, expected in (
        ("trainable", ours["trainable"]),
        ("sampled", CONFIG.roi_samples),
        ("positives", CONFIG.rois.max_foreground),
        ("detections", CONFIG.detections_per_image),
    ):
        found = [ours[name], *np.ravel(theirs[name])]
        if not np.allclose(found, expected):
            raise SystemExit(f"{name}: ours {ours[name]}, torchvision {theirs[name]}; expected {expected}")


# ---- figures and tables ---------------------------------------------------------------------------------------------


def make_figures(size: str, measured: Measured, precision: str, *, wants: bool, has_amx: bool) -> list[Figure]:
    """Return the figures of one size.

    Args:
        wants: whether there are targets: on a CPU.
        has_amx: whether the CPU has the instructions for which the targets of bfloat16 are stated.
    """
    wanted = WANTED.get((precision, size), {}) if wants else {}
    unchecked = "a target for AMX, which this CPU lacks" if precision == "bfloat16" and not has_amx else None

    def figure(name: str, value: float, unit: str) -> Figure:
        least, aim = wanted.get(name, (None, None))
        return Figure(f"{size} {name}", value, unit, least, None, aim, unchecked if name in wanted else None)

    figures = [
        figure("GEMM rate", measured.limits.gflops, "GFLOP/s"),
        figure("copy, read plus written", measured.limits.gigabytes, "GB/s"),
    ]
    for kind in KINDS:
        title, peer = TITLES[kind], measured.peer(kind, precision)
        gflop = measured.flops[kind] / 1e9
        figures += [
            figure(title, peer.seconds[kind][0], "s"),
            *(
                figure(f"{title}, torchvision {one.precision} {one.layout}", one.seconds[kind][1], "s")
                for one in measured.turns
            ),
            figure(f"{title}, {TIMES}", peer.ratio(kind), "times"),
            figure(f"{title}, {OF_GEMM}", gflop / peer.seconds[kind][0] / measured.limits.gflops, "of GEMM"),
        ]
        if precision != "float32":
            figures.append(figure(f"{title}, {TIMES_FLOAT32}", measured.peer(kind, "float32").ratio(kind), "times"))
    # Ours up to the first turns: later ones add inference. Theirs in the faster layout.
    mine, theirs = measured.turns[0].memory[0], measured.peer("train", precision).memory[1]
    figures += [
        Figure(f"{size} step, peak memory", mine, "GiB", at_most=round(theirs, 2) if wants else None),
        figure("step, peak memory of torchvision", theirs, "GiB"),
    ]
    return figures + [figure(f"part: {name}", seconds, "s") for name, seconds, _, _ in measured.parts]


def print_size(size: str, measured: Measured, setting: Setting) -> None:
    limits = measured.limits
    print(f"\n## {size.replace('x', ' x ')}, {setting.precision}, {setting.device}")
    print(f"GEMM {limits.gflops:.0f} GFLOP/s, copy {limits.gigabytes:.1f} GB/s (read + written)")
    print(
        f"losses: ours {measured.turns[0].counts[0]['losses']}, torchvision {measured.turns[0].counts[1]['losses']}\n"
    )
    print("| | torchvision in | ours, s | torchvision, s | ratio | GFLOP | efficiency: ours | torchvision | GiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in KINDS:
        gflop = measured.flops[kind] / 1e9
        for one in measured.turns:
            mine, other = one.seconds[kind]
            same = one.precision == setting.precision
            efficiency = [f"{gflop / s / limits.gflops:.2f}" if same else "-" for s in (mine, other)]
            best = " (best)" if one is measured.peer(kind, one.precision) else ""
            print(
                f"| {TITLES[kind]} | {one.precision}, {one.layout}{best} | {mine:.2f} | {other:.2f} | "
                f"{one.ratio(kind):.2f} | {gflop:.0f} | {' | '.join(efficiency)} | {one.memory[1]:.2f} |"
            )
    print(f"\npeak memory of our step: {measured.turns[0].memory[0]:.2f} GiB\n")
    print_parts(measured.parts, limits)
    print()


def print_parts(rows: Sequence[Sequence[Any]], limits: Limits) -> None:
    print("| part | s | GFLOP | at the GEMM rate, s | at the speed of a copy, s | bound by | reached |")
    print("|---|---|---|---|---|---|---|")
    for name, seconds, gflop, mb in rows:
        floors = {"arithmetic": gflop / limits.gflops, "memory": mb / 1e3 / limits.gigabytes}
        bound = max(floors, key=lambda kind: floors[kind])
        reached = f"{floors[bound] / seconds:.0%}" if gflop else "-"
        print(
            f"| {name} | {seconds:.2f} | {gflop:.0f} | {floors['arithmetic']:.2f} | {floors['memory']:.2f} | "
            f"{bound if gflop else 'comparisons'} | {reached} |"
        )


# ---- command --------------------------------------------------------------------------------------------------------


def require_gpu(torch_python: Path) -> None:
    """End with one line unless both TensorFlow and torch see a GPU."""
    if not tf.config.list_physical_devices("GPU"):
        sys.exit("--device gpu: TensorFlow sees no GPU; see docs/gpu.md, or choose --device cpu")
    command = [str(torch_python), "-c", "import torch; raise SystemExit(not torch.cuda.is_available())"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        sys.exit(f"--device gpu: torch in {torch_python} sees no GPU; install a torch for CUDA there")


def settle_precision(name: str) -> str:
    if name != "auto":
        return name
    choice = choose_precision()
    print(f"precision: {choice}", flush=True)
    return {policy: precision for precision, policy in POLICIES.items()}[choice.precision]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("auto", *POLICIES), default="auto", help="(%(default)s)")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="(%(default)s) of both sides")
    parser.add_argument("--torch-python", type=Path, default=HERE.parent / ".bench/bin/python")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="images x height x width, edges multiples of 32")
    options = parser.parse_args()
    if not options.torch_python.exists():
        parser.error(
            f"{options.torch_python} is not there: `make bench-model` makes it, or --torch-python names another"
        )
    if options.device == "gpu":
        require_gpu(options.torch_python)
    use_device(options.device, threads=THREADS)
    print(f"machine: {machine()}, {THREADS} threads a side")
    setting = Setting(settle_precision(options.precision), options.device, options.torch_python, options.repeats)
    figures: list[Figure] = []
    is_gpu, has_amx = setting.device == "gpu", "amx_bf16" in cpu_flags()
    for size in options.sizes:
        measured = measure(size, setting)
        print_size(size, measured, setting)
        figures += make_figures(size, measured, setting.precision, wants=not is_gpu, has_amx=has_amx)
    name = "model-gpu" if is_gpu else "model"
    return write_results(name, figures, precision=setting.precision, versions=measured.versions)


if __name__ == "__main__":
    sys.exit(main())
