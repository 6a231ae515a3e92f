"""Our side of bench/model.py: the inputs of both sides, and a process that runs our network.

Called as `our_model.py INPUTS THREADS PRECISION DEVICE`. It answers as torchvision_model.py does, except to `gemm`, and
to `flops`, the FLOP of a step and of a detection, and to `parts REPEATS`, the times of the parts of the network.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import mrcnn_ops
from mrcnn_model import DetectionOps, ModelConfig, build_model, count_flops, fill_model
from mrcnn_model.targets import GroundTruth, anchor_targets, roi_targets
from mrcnn_model.weights import LAYOUTS, export_weights

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import peak_gigabytes
from timing import seconds_of, use_device

NUM_OBJECTS = 20
PRODUCTS = ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter", "MatMul", "BatchMatMulV2")  # types of ops
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}  # of the model
CONFIG = ModelConfig(
    freeze_affine=True,
    zero_residual_scale=False,
    symmetric_padding=True,
    round_anchors=True,
    roi_align_aligned=False,
    keep_padding_anchors=True,
)
KINDS = ("train", "detect")
Arrays = dict[str, np.ndarray]


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


# ---- the network ----------------------------------------------------------------------------------------------------


class Bench:
    """Our network with given proposals; the functions are compiled at their first call."""

    def __init__(self, inputs: Arrays, *, precision: str = "float32") -> None:
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
        self.model = build_model(config, precision=POLICIES[precision], ops=ops)
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
    features = model.backbone(model_pixels(images))
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
        Part("backbone", lambda x: model.backbone(model_pixels(x), training=True), [images], [model.backbone], False),
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


def model_pixels(images: tf.Tensor) -> tf.Tensor:
    return tf.cast(images, tf.float32) / 64 - 2


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


# ---- process --------------------------------------------------------------------------------------------------------


def main(inputs_path: str, threads: str, precision: str, device: str) -> None:
    use_device(device, threads=int(threads))
    with np.load(inputs_path) as file:
        inputs = dict(file)
    bench = Bench(inputs, precision=precision)
    weights = {name[8:]: array for name, array in inputs.items() if name.startswith("weights/")}
    fill_model(bench.model, weights, layout=LAYOUTS["torchvision"])
    del inputs, weights  # torchvision's side has freed them too
    actions: dict[str, Callable[[], Any]] = {
        "train": lambda: seconds_of(bench.train),
        "detect": lambda: seconds_of(bench.detect),
        "memory": gpu_gigabytes if device == "gpu" else peak_gigabytes,
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


def gpu_gigabytes() -> float:
    """Return the most memory of the GPU that tensors have held, in GiB."""
    return float(tf.config.experimental.get_memory_info("GPU:0")["peak"]) / 2**30


if __name__ == "__main__":
    main(*sys.argv[1:])
