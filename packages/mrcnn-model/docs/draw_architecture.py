"""Draw docs/architecture.png from the real model: python docs/draw_architecture.py (needs matplotlib).

Every shape, number of parameters and amount of arithmetic is read off the traced graph of ResNet-50-FPN with 80 classes
on images of 800 x 1344; nothing is computed.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import tensorflow as tf

from mrcnn_model import MaskRCNN, ModelConfig, build_model
from mrcnn_model.flops import count_flops
from mrcnn_model.layers.heads import BoxHeadOutput
from mrcnn_model.layers.pixels import normalise_images
from mrcnn_model.structures import Proposals, RpnOutput

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch, Rectangle

IMAGE_SIZE = (800, 1344)
OP, LAYER, DATA = "#f6e3c5", "#cfe2f3", "#e8e8e8"


class Traced(NamedTuple):
    shapes: list[tuple[int, ...]]
    specs: list[tf.TensorSpec]
    flops: int


def traced(function: Callable[..., Any], *specs: tf.TensorSpec) -> Traced:
    graph = tf.function(function).get_concrete_function(*specs)
    outputs = tf.nest.flatten(graph.structured_outputs)
    shapes = [tuple(x.shape) for x in outputs]
    return Traced(shapes, [tf.TensorSpec(x.shape, x.dtype) for x in outputs], count_flops(graph.graph))


def text_of(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


class Block(NamedTuple):
    title: str
    lines: Sequence[str]
    x: float
    y: float
    colour: str
    layer: Any = None
    flops: int = 0


def blocks(model: MaskRCNN) -> list[Block]:
    config, stage = model.config, model.box_stages[0]
    sizes = tf.constant([IMAGE_SIZE])
    image = tf.TensorSpec([1, *IMAGE_SIZE, 3], tf.uint8)
    pixels = traced(lambda x: normalise_images(x, sizes, mean=config.pixel_mean, std=config.pixel_std), image)
    features = traced(model.backbone, *pixels.specs)
    pyramid = traced(lambda *c: model.fpn(list(c)), *features.specs)
    rpn = traced(lambda *p: model.rpn(list(p)), *pyramid.specs)
    proposals = traced(
        lambda logits, deltas, *p: model.proposals(RpnOutput(logits, deltas), p, sizes, training=False),
        *rpn.specs,
        *pyramid.specs,
    )
    boxes = proposals.specs[0]
    pooled = traced(lambda b, *p: model.pool(p, b, config.box_pool_size), boxes, *pyramid.specs)
    head = traced(stage.head, *pooled.specs)
    output = traced(lambda b, *p: stage.classify(p, b), boxes, *pyramid.specs)
    scored = traced(
        lambda b, logits, deltas: stage.score(
            BoxHeadOutput(logits, deltas),
            Proposals(b, tf.zeros(b.shape[:2]), tf.ones(b.shape[:2], tf.bool)),
            sizes,
        ),
        boxes,
        *output.specs,
    )
    found = tf.TensorSpec([1, config.detections_per_image, 4])
    crops = traced(lambda b, *p: model.pool(p, b, config.mask_pool_size), found, *pyramid.specs)
    classes = tf.TensorSpec([config.detections_per_image], tf.int32)
    masks = traced(lambda r, c: model.mask_head(r, c), crops.specs[0], classes)
    level = [
        f"{name}  {text_of(shape[1:])}" for name, shape in zip(("C2", "C3", "C4", "C5"), features.shapes, strict=True)
    ]
    maps = [f"P{i}  {text_of(shape[1:])}" for i, shape in enumerate(pyramid.shapes, start=2)]
    return [
        Block("image", [text_of(image.shape[1:]), "uint8, RGB, zero padded"], 0, 1, DATA),
        Block("normalise", [text_of(pixels.shapes[0][1:]), "zero outside the image"], 1, 1, OP),
        Block("ResNet-50", level, 2, 1, LAYER, model.backbone, features.flops),
        Block("feature pyramid", maps, 3, 1, LAYER, model.fpn, pyramid.flops),
        Block(
            "RPN",
            [f"logits  {text_of(rpn.shapes[0][1:])}", f"deltas  {text_of(rpn.shapes[1][1:])}"],
            4, 1, LAYER, model.rpn, rpn.flops,
        ),
        Block("generate_proposals", [f"boxes  {text_of(proposals.shapes[0][1:])}", "NMS per level"], 4, 0, OP),
        Block("ROIAlign", [text_of(pooled.shapes[0]), "from P2 to P5"], 3, 0, OP),
        Block(
            "box head",
            [f"logits  {text_of(head.shapes[0])}", f"deltas  {text_of(head.shapes[1])}"],
            2, 0, LAYER, stage.head, head.flops,
        ),
        Block(
            "multiclass_nms",
            [f"from  {text_of(scored.shapes[1][1:])}", f"boxes  {text_of(found.shape[1:])}"], 1, 0, OP,
        ),
        Block("ROIAlign", [text_of(crops.shapes[0]), "from P2 to P5"], 1, -1, OP),
        Block("mask head", [text_of(masks.shapes[0]), "of the class"], 2, -1, LAYER, model.mask_head, masks.flops),
        Block("detections", ["boxes, scores, classes,", f"masks  {text_of(masks.shapes[0])}"], 3, -1, DATA),
    ]  # fmt: skip


def draw(path: Path) -> None:
    figure, axes = plt.subplots(figsize=(15, 7.2))
    drawn = blocks(build_model(ModelConfig()))
    width, height = 0.82, 0.66
    for block in drawn:
        corner = (block.x - width / 2, block.y - height / 2)
        axes.add_patch(
            FancyBboxPatch(
                corner, width, height, boxstyle="round,pad=0.02", facecolor=block.colour, edgecolor="#555555"
            )
        )
        axes.text(block.x, block.y + 0.25, block.title, ha="center", va="center", fontsize=11, weight="bold")
        lines = list(block.lines)
        if block.layer is not None:
            parameters = [v.value for v in block.layer.variables if not v.name.startswith("moving_")]
            count = sum(v.shape.num_elements() for v in parameters)
            lines.append(f"{count / 1e6:.1f} M parameters, {block.flops / 1e9:.0f} GFLOP")
        axes.text(block.x, block.y - 0.06, "\n".join(lines), ha="center", va="center", fontsize=8.5)
    for a, b in pairwise(drawn):
        dx, dy = b.x - a.x, b.y - a.y
        start = (a.x + 0.45 * (dx > 0) - 0.45 * (dx < 0), a.y - 0.37 * (dy < 0))
        end = (b.x - 0.45 * (dx > 0) + 0.45 * (dx < 0), b.y + 0.37 * (dy < 0))
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#333333", "lw": 1.4})
    # The pyramid feeds both ROIAligns: down to the first, and along the left side to the second.
    blue = {"color": "#3d78b0", "lw": 1.4}
    axes.annotate("", (3, 0.37), (3, 0.63), arrowprops={"arrowstyle": "-|>", **blue})
    axes.plot([3, 0.4, 0.4], [0.5, 0.5, -1], **blue)
    axes.annotate("", (0.56, -1), (0.4, -1), arrowprops={"arrowstyle": "-|>", **blue})
    axes.text(3.04, 0.5, "P2 to P5", fontsize=9, color="#3d78b0", va="center")
    for y, colour, meaning in ((-0.9, DATA, "data"), (-1.05, LAYER, "layers with variables"), (-1.2, OP, "ops")):
        axes.add_patch(Rectangle((3.62, y - 0.04), 0.12, 0.08, facecolor=colour, edgecolor="#555555"))
        axes.text(3.82, y, meaning, fontsize=9, va="center")
    axes.set(xlim=(-0.55, 4.55), ylim=(-1.45, 1.45))
    axes.set_title(f"Detection in one image of {text_of(IMAGE_SIZE)} pixels, 80 classes", fontsize=12)
    axes.axis("off")
    figure.savefig(path, dpi=130, bbox_inches="tight")


if __name__ == "__main__":
    draw(Path(__file__).with_name("architecture.png"))
