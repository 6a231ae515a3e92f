"""Measure training step and inference of R50-FPN beside torchvision's Mask R-CNN: seconds, efficiency, memory.

    make bench-model        or        python bench/model.py [--precision auto] [--device cpu] [--repeats 7] [--sizes 1x800x1216]

Both sides have the same weights, images, ground truth and frozen layers (stem, first stage, all norms), and compute in
the same precision (torch by autocast) on two threads. torchvision runs in its default layout and in channels_last; the
faster one is the peer. In half precision its float32 runs too. The processes take turns. Both sides compute their proposals, which are then replaced
by given ones, so that 512 RoIs an image are sampled, 128 of them foreground, and 100 objects are detected; the script
checks these numbers. A step is forward, backward and an update by SGD with momentum. Neither side resizes images or
pastes masks.

FLOP are those of our graph, for both sides, although torchvision's mask head computes more: masks of all classes.
Efficiency is FLOP / seconds / GEMM rate; the GEMM rate is the best of TensorFlow, torch and, in float32, NumPy for
2048 x 2048 matrices of this precision. Memory is the most that a process has held up to its last step, with inputs, weights and framework. After the
comparison each part of the network runs alone. Its time is shown beside two limits: the time of its products at the
GEMM rate, and the time to read their inputs and write their outputs once at the speed of a copy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import results
import tensorflow as tf
from machine import copy_gigabytes_per_second, machine, peak_gigabytes
from peer import Peer
from timing import gemm_gflops, seconds_of

import mrcnn_ops
from mrcnn_model import (
    DEVICES,
    DetectionOps,
    DeviceError,
    ModelConfig,
    build_model,
    choose_precision,
    count_flops,
    fill_model,
    use_device,
)
from mrcnn_model.targets import GroundTruth, anchor_targets, roi_targets
from mrcnn_model.weights import LAYOUTS, export_weights

THREADS = 2
NUM_OBJECTS = 20
PEER_SCRIPT = Path(__file__).resolve().parent / "peers" / "torchvision_model.py"
PRODUCTS = ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter", "MatMul", "BatchMatMulV2")  # types of ops
SIZES = ("1x800x1216", "2x320x480")  # images x height x width
CONFIG = ModelConfig(
    freeze_affine=True,
    zero_residual_scale=False,
    symmetric_padding=True,
    round_anchors=True,
    roi_align_aligned=False,
    keep_padding_anchors=True,
)
KINDS = ("train", "detect")
LARGE = "1x800x1216"
# Times the speed of torchvision at its best: in this precision, and in float32. Half precision is held to it where the
# CPU has AMX.
WANTED = {
    ("float32", LARGE, "train"): 1.5,
    ("float32", "2x320x480", "train"): 2.0,
    ("bfloat16", LARGE, "train"): 3.0,
    ("bfloat16", "2x320x480", "train"): 2.5,
    ("bfloat16", LARGE, "detect"): 4.0,
}
WANTED_OF_FLOAT32 = {("bfloat16", LARGE): 7.0, ("bfloat16", "2x320x480"): 6.0}  # of training steps
WANTED_EFFICIENCY = {"float32": 0.55, "bfloat16": 0.5}  # of the step at 800 px
HERE = Path(__file__).resolve().parent
Arrays = dict[str, np.ndarray]


class Limits(NamedTuple):
    """What the machine can do."""

    gflops: float  # a matrix product
    gigabytes: float  # copied per second, read plus written


# ---- inputs ---------------------------------------------------------------------------------------------------------


def make_inputs(num_images: int, height: int, width: int) -> Arrays:
    """Make noise with 20 elliptic objects an image, and proposals of which enough are foreground."""
    rng = np.random.default_rng(0)
    size = np.array([width, height])
    edges = rng.uniform(0.05, 0.3, [num_images, NUM_OBJECTS, 2]) * size
    corners = rng.uniform(0, size - edges)
    gt_boxes = np.concatenate([corners, corners + edges], axis=-1).astype(np.float32)
    y, x = np.mgrid[-1:1:112j, -1:1:112j]
    ellipse = (x * x + y * y <= 1).astype(np.uint8)
    return {
        "images": rng.integers(0, 256, [num_images, height, width, 3], np.uint8),
        "roi_samples": np.array(CONFIG.roi_samples),
        "image_sizes": np.array([[height, width]] * num_images, np.int32),
        "gt_boxes": gt_boxes,
        "gt_classes": rng.integers(1, CONFIG.num_classes, [num_images, NUM_OBJECTS]).astype(np.int32),
        "gt_masks": np.broadcast_to(ellipse, [num_images, NUM_OBJECTS, *ellipse.shape]),
        "full_masks": np.stack([[ellipse_in(box, height, width) for box in boxes] for boxes in gt_boxes]),
        "train_proposals": np.stack([some_proposals(rng, boxes, size, CONFIG.train_proposals) for boxes in gt_boxes]),
        "detect_proposals": np.stack([some_proposals(rng, boxes, size, CONFIG.detect_proposals) for boxes in gt_boxes]),
    }


def ellipse_in(box: np.ndarray, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width] + 0.5
    x1, y1, x2, y2 = box
    return (((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1).astype(np.uint8)


def some_proposals(rng: np.random.Generator, gt_boxes: np.ndarray, size: np.ndarray, count: int) -> np.ndarray:
    """Return float32 [count, 4]: a quarter are objects moved by a tenth of their size, the others lie anywhere."""
    near = gt_boxes[rng.integers(0, len(gt_boxes), count // 4)]
    edges = near[:, 2:] - near[:, :2]
    near = near + (rng.uniform(-0.1, 0.1, [len(near), 4]) * np.concatenate([edges, edges], axis=-1))
    edges = np.exp(rng.uniform(np.log(16), np.log(size / 2), [count - len(near), 2]))
    corners = rng.uniform(0, size - edges)
    boxes = np.concatenate([near, np.concatenate([corners, corners + edges], axis=-1)])
    return rng.permutation(boxes.clip(0, [*size, *size])).astype(np.float32)


def give_weights(inputs: Arrays) -> None:
    """Add random weights under torchvision's names, and a score threshold that 2,000 candidates of ours reach."""
    keras.utils.set_random_seed(0)
    bench = Bench(inputs | {"score_threshold": np.array(0.0)})
    head = bench.model.box_stages[0].head
    head.logits.kernel.assign(head.logits.kernel.value * 20)  # otherwise all classes have nearly the same score
    inputs |= {f"weights/{name}": array for name, array in export_weights(bench.model, LAYOUTS["torchvision"]).items()}
    scores = np.sort(bench.scores().numpy().reshape(len(inputs["images"]), -1), axis=-1)
    inputs["score_threshold"] = scores[:, -2000].min()


# ---- our side -------------------------------------------------------------------------------------------------------


class Bench:
    """Our network with given proposals; the functions are compiled at their first call."""

    def __init__(self, inputs: Arrays, precision: str = "float32") -> None:
        self.tensors = {
            name: tf.constant(array)
            for name, array in inputs.items()
            if name != "full_masks" and not name.startswith("weights/")
        }
        num_images = len(inputs["images"])
        self.batch = {name: self.tensors[name] for name in ("images", "image_sizes", "gt_boxes", "gt_classes")} | {
            "gt_masks": self.tensors["gt_masks"],
            "gt_has_mask": tf.ones([num_images, NUM_OBJECTS], tf.bool),
            "crowd_boxes": tf.zeros([num_images, 0, 4]),
            "sample_seeds": tf.constant([[image, 1] for image in range(num_images)], tf.int32),
        }
        config = ModelConfig(**CONFIG.to_flat() | {"score_threshold": float(inputs["score_threshold"])})
        ops = DetectionOps(generate_proposals=self._given_proposals)
        self.model = build_model(config, ops=ops, precision=precision)
        self.variables = [variable.value for variable in self.model.trainable_variables]
        self.momentum = [tf.Variable(tf.zeros(variable.shape), trainable=False) for variable in self.variables]
        self.train = tf.function(self._train)
        self.detect = tf.function(lambda: self.model.detect(*self._images()))
        self.scores = tf.function(self._scores)

    def _images(self) -> tuple[tf.Tensor, tf.Tensor]:
        return self.batch["images"], self.batch["image_sizes"]

    def _given_proposals(self, *arguments: Any, num_proposals: int, **options: Any) -> mrcnn_ops.GeneratedProposals:
        """Compute the proposals as usual, then return the given ones."""
        computed = mrcnn_ops.generate_proposals(*arguments, num_proposals=num_proposals, **options)
        mode = "train" if num_proposals == CONFIG.train_proposals else "detect"
        with tf.control_dependencies([computed.boxes]):
            return computed._replace(
                boxes=tf.identity(self.tensors[f"{mode}_proposals"]), valid=tf.ones_like(computed.valid)
            )

    def _train(self) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        with tf.GradientTape() as tape:
            losses, stats = self.model.losses(**self.batch)
            total = tf.add_n(list(losses))
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(total, self.variables)]
        with tf.control_dependencies(gradients):  # as in mrcnn_train and torch: all gradients, then the update
            for variable, momentum, gradient in zip(self.variables, self.momentum, gradients, strict=True):
                tf.raw_ops.ResourceApplyMomentum(
                    var=variable.handle, accum=momentum.handle, lr=0.0, grad=gradient, momentum=0.9
                )
        return tf.stack(list(losses)), stats

    def _scores(self) -> tf.Tensor:
        pyramid = self.model.features(*self._images())
        proposals = self.model.proposals(self.model.rpn(pyramid), pyramid, self.batch["image_sizes"], training=False)
        return self.model.classified_boxes(pyramid, proposals, self.batch["image_sizes"])[0]

    def counts(self) -> dict[str, Any]:
        """Return the numbers of samples and detections, means over the images, and of trainable parameters."""
        losses, stats = self.train()
        return {
            "trainable": sum(int(np.prod(variable.shape)) for variable in self.variables),
            "sampled": float(stats["sampled_rois"]),
            "positives": float(stats["foreground_rois"]),
            "detections": float(tf.reduce_mean(tf.reduce_sum(tf.cast(self.detect().valid, tf.float32), axis=-1))),
            "losses": np.round(losses.numpy(), 4).tolist(),
        }

    def flops(self) -> dict[str, int]:
        return {name: count_flops(getattr(self, name).get_concrete_function().graph) for name in KINDS}


# ---- parts ----------------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    name: str
    run: Callable[..., Any]  # tensors -> tensors
    inputs: Sequence[tf.Tensor]
    layers: Sequence[keras.layers.Layer] = ()  # whose variables get gradients
    needs_input_gradient: bool = True


def parts(bench: Bench) -> list[Part]:
    """Return the training step in six parts, each with the outputs of the one before as inputs."""
    model, batch, config = bench.model, bench.batch, bench.model.config
    images, image_sizes = bench._images()
    dtype = model.backbone.compute_dtype

    def pixels(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.cast(images, tf.float32) / 64 - 2, dtype)

    features = model.backbone(pixels(images))
    pyramid = model.fpn(features)
    rpn_output = model.rpn(pyramid)
    anchors = model.anchors(pyramid)
    gt = GroundTruth(
        batch["gt_boxes"], batch["gt_classes"], batch["gt_masks"], batch["gt_has_mask"], batch["crowd_boxes"]
    )
    stage = model.box_stages[0]

    def targets(logits: tf.Tensor, deltas: tf.Tensor) -> Any:
        proposals = model.proposals(type(rpn_output)(logits, deltas), pyramid, image_sizes, training=True)
        from_anchors = anchor_targets(
            anchors,
            gt,
            image_sizes,
            batch["sample_seeds"],
            config.rpn,
            crowd_overlap_threshold=config.rois.crowd_overlap_threshold,
        )
        rois = roi_targets(
            proposals,
            gt,
            batch["sample_seeds"],
            config.rois,
            foreground_iou=stage.foreground_iou,
            weights=stage.weights,
        )
        return from_anchors.boxes, rois.boxes, rois.classes

    _, boxes, classes = targets(*rpn_output)
    slots = [tensor[:, : config.rois.max_foreground] for tensor in (boxes, classes)]
    return [
        Part("backbone", lambda x: model.backbone(pixels(x), training=True), [images], [model.backbone], False),
        Part("pyramid", lambda *c: model.fpn([features[0], *c], training=True), features[1:], [model.fpn]),
        Part("region proposal network", lambda *p: list(model.rpn(p, training=True)), pyramid, [model.rpn]),
        Part("proposals, matching, sampling", targets, [*rpn_output], (), False),
        Part(
            "box head with its RoIAlign",
            lambda *p: list(stage.classify([*p, pyramid[4]], boxes, training=True)),
            pyramid[:4],
            [stage.head],
        ),
        Part(
            "mask head with its RoIAlign",
            lambda *p: model.mask_logits([*p, pyramid[4]], *slots, training=True),
            pyramid[:4],
            [model.mask_head] if model.mask_head else [],
        ),
    ]


def compiled(part: Part, *, with_gradient: bool) -> Any:
    variables = [variable.value for layer in part.layers for variable in layer.trainable_variables]

    @tf.function
    def run(*inputs: tf.Tensor) -> Any:
        if not with_gradient or not variables:
            return part.run(*inputs)
        with tf.GradientTape() as tape:
            if part.needs_input_gradient:
                tape.watch(inputs)
            outputs = tf.nest.flatten(part.run(*inputs))
        sources = [*variables, *(inputs if part.needs_input_gradient else ())]
        gradients = tape.gradient(outputs, sources)  # of the sum of all outputs
        return [tf.convert_to_tensor(g) for g in gradients if g is not None]

    return run.get_concrete_function(*part.inputs)


def megabytes(graph: tf.Graph) -> float:
    """Return the bytes of inputs and outputs of a graph's convolutions and matrix products, each counted once."""
    total = 0
    for op in graph.get_operations():
        if op.type in PRODUCTS:
            tensors = [tensor for tensor in [*op.inputs, *op.outputs] if tensor.dtype.is_floating]
            total += sum(tensor.shape.num_elements() * tensor.dtype.size for tensor in tensors)
    return total / 1e6


def measure_parts(bench: Bench, repeats: int) -> list[list[Any]]:
    rows = []
    for part in parts(bench):
        for with_gradient in (False, True) if part.layers else (False,):
            run = compiled(part, with_gradient=with_gradient)
            run(*part.inputs)
            seconds = statistics.median(seconds_of(partial(run, *part.inputs)) for _ in range(repeats))
            name = f"{part.name}{', forward + backward' if with_gradient else ''}"
            rows.append([name, seconds, count_flops(run.graph) / 1e9, megabytes(run.graph)])
    return rows


def print_parts(rows: list[list[Any]], limits: Limits) -> None:
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


# ---- measurement ----------------------------------------------------------------------------------------------------


def serve(inputs_path: str, threads: str, precision: str) -> None:
    """Answer as bench/peers/torchvision_model.py does, except to `gemm`, and to `flops` and `parts REPEATS`."""
    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    tf.config.threading.set_inter_op_parallelism_threads(int(threads))
    with np.load(inputs_path) as file:
        inputs = dict(file)
    bench = Bench(inputs, precision)
    weights = {name[8:]: array for name, array in inputs.items() if name.startswith("weights/")}
    fill_model(bench.model, weights, layout=LAYOUTS["torchvision"])
    del inputs, weights  # torchvision's side has freed them too
    actions: dict[str, Callable[[], Any]] = {
        "train": lambda: seconds_of(bench.train),
        "detect": lambda: seconds_of(bench.detect),
        "memory": peak_gigabytes,
        "counts": bench.counts,
        "flops": bench.flops,
    }
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        command, *numbers = line.split()
        if command == "parts":
            answer = measure_parts(bench, int(numbers[0]))
        else:
            answer = actions[command]()
        print(json.dumps(answer), flush=True)


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


class Peers:
    """Our process and those of torchvision, which take turns."""

    def __init__(self, inputs: Path, options: argparse.Namespace, stack: contextlib.ExitStack) -> None:
        dtype, device = options.dtype, "cuda" if options.device == "gpu" else "cpu"
        precision = dtype if dtype == "float32" else f"mixed_{dtype}"
        self.ours = stack.enter_context(Peer(sys.executable, Path(__file__), inputs, THREADS, precision))
        kinds = {"torchvision": (dtype, "default"), "torchvision, channels_last": (dtype, "channels_last")}
        if dtype != "float32":
            kinds["torchvision, float32"] = ("float32", "default")
        self.theirs = {
            name: stack.enter_context(Peer(options.torch_python, PEER_SCRIPT, inputs, THREADS, *kind, device))
            for name, kind in kinds.items()
        }
        self.sides = {"ours": self.ours, **self.theirs}

    def medians(self, kind: str, repeats: int) -> dict[str, float]:
        for side in self.sides.values():
            side.ask(kind)  # compiles, warms up
        turns = [{name: side.ask(kind) for name, side in self.sides.items()} for _ in range(repeats)]
        return {name: statistics.median(turn[name] for turn in turns) for name in self.sides}

    def ask_all(self, request: str) -> dict[str, Any]:
        return {name: side.ask(request) for name, side in self.sides.items()}


def compare(size: str, options: argparse.Namespace) -> tuple[list[dict[str, Any]], Limits]:
    """Measure one size, print its tables, and return the rows of the results and the limits."""
    num_images, height, width = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = Path(folder) / "inputs.npz"
        inputs = make_inputs(num_images, height, width)
        give_weights(inputs)
        np.savez(path, allow_pickle=False, **inputs)
        del inputs
        peers = Peers(path, options, stack)
        a_peer = peers.theirs["torchvision"]
        gflops = gemm_gflops(lambda: float(a_peer.ask("gemm")), 15, dtype=options.dtype)
        limits = Limits(gflops, copy_gigabytes_per_second(THREADS, 15))
        seconds = {"train": peers.medians("train", options.repeats)}
        memory = peers.ask_all("memory")
        seconds["detect"] = peers.medians("detect", options.repeats)
        counts = peers.ask_all("counts")
        for name in peers.theirs:
            check_counts(counts["ours"], counts[name])
        flops = peers.ours.ask("flops")
        parts_measured = peers.ours.ask(f"parts {min(options.repeats, 5)}")

    print(f"\n## {num_images} x {height} x {width}, {options.dtype}")
    print(f"GEMM {limits.gflops:.0f} GFLOP/s, copy {limits.gigabytes:.1f} GB/s (read + written)")
    print("losses: " + "; ".join(f"{name} {count['losses']}" for name, count in counts.items()) + "\n")
    rows = [row for kind in KINDS for row in result_rows(size, kind, seconds[kind], flops[kind], limits, options.dtype)]
    rows.append(results.row(f"{size} peak memory of the step", memory.pop("ours"), memory, unit="GiB", wanted=1.0))
    print_rows(rows)
    print_parts(parts_measured, limits)
    return rows, limits


def result_rows(
    size: str, kind: str, seconds: dict[str, float], flops: int, limits: Limits, dtype: str
) -> list[dict[str, Any]]:
    """Return the comparison with torchvision in the same precision and, in half precision, with its float32."""
    ours = seconds["ours"]
    in_float32 = seconds.get("torchvision, float32")
    peers = {name: value for name, value in seconds.items() if name not in ("ours", "torchvision, float32")}
    gflop = flops / 1e9
    more = {"gflop": round(gflop, 1), "efficiency": round(gflop / ours / limits.gflops, 3)}
    if kind == "train" and size == LARGE and dtype in WANTED_EFFICIENCY:
        more["wanted_efficiency"] = WANTED_EFFICIENCY[dtype]
    rows = [results.row(f"{size} {kind}", ours, peers, unit="s", wanted=WANTED.get((dtype, size, kind)), **more)]
    if in_float32 is not None:
        wanted = WANTED_OF_FLOAT32.get((dtype, size)) if kind == "train" else None
        other = {"torchvision, float32": in_float32}
        rows.append(results.row(f"{size} {kind}, beside float32", ours, other, unit="s", wanted=wanted))
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    print("| | ours | torchvision | ratio | wanted | efficiency |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        peers = ", ".join(f"{value:.2f} ({name})" for name, value in row["peers"].items())
        print(
            f"| {row['what']} | {row['ours']:.2f} {row['unit']} | {peers} | {row['ratio']:.2f} | "
            f"{row['wanted'] or '-'} | {row.get('efficiency', '-')} |"
        )
    print()


def missed_targets(rows: list[dict[str, Any]], dtype: str) -> list[str]:
    """Return what is below its target. Half precision has targets for CPUs with AMX only."""
    if dtype != "float32" and "AMX" not in choose_precision().reason:
        print(f"targets of {dtype}: not measured here, they are for CPUs with AMX")
        return []
    missed = [f"{row['what']}: ratio {row['ratio']}" for row in rows if row["wanted"] and row["ratio"] < row["wanted"]]
    slow = [row for row in rows if row.get("efficiency", 1) < row.get("wanted_efficiency", 0)]
    return [*missed, *(f"{row['what']}: efficiency {row['efficiency']}" for row in slow)]


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", type=Path, default=HERE.parent / ".bench/bin/python")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="images x height x width, edges multiples of 32")
    options = parser.parse_args()
    if not options.torch_python.exists():
        parser.error(
            f"{options.torch_python} is not there: `make bench-model` makes it, or --torch-python names another"
        )
    try:
        options.device = "cpu" if use_device(options.device, cpu_option="--device cpu").name == "CPU" else "gpu"
    except DeviceError as error:
        parser.error(str(error))
    chosen = choose_precision().precision if options.precision == "auto" else options.precision
    options.dtype = chosen.removeprefix("mixed_")
    return options


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1].endswith(".npz"):  # as a Peer starts it
        serve(*sys.argv[1:])
        return
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    options = parsed_options()
    print(f"machine: {machine()}, {THREADS} threads a side, {options.device}, {options.dtype}")
    rows, all_limits = [], []
    for size in options.sizes:
        of_size, limits = compare(size, options)
        rows += of_size
        all_limits.append(limits)
    results.write(
        "model",
        rows,
        variant=options.dtype,
        threads=THREADS,
        limits={
            f"GFLOP/s of a matrix product in {options.dtype}": round(max(one.gflops for one in all_limits)),
            "GB/s of a copy, read and written": round(max(one.gigabytes for one in all_limits), 1),
        },
        versions=results.versions_in(options.torch_python, "torch", "torchvision"),
    )
    missed = missed_targets(rows, options.dtype)
    if missed:
        sys.exit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
