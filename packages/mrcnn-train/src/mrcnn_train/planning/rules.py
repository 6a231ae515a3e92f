"""The rules of `+experiment=auto`: from facts about data and machine to options, as a pure function.

The rules are in three groups, which `auto.rules` names, so that `bench/auto.py` can switch each off and measure what it
is worth: `sizes` (image size, crops, anchors, limits on objects), `network` (width, depth, images per GPU) and
`training` (augmentation, length, schedule). Where a group is off, the options are those of the experiment.

An option that the user has given is not chosen, and the other rules follow it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mrcnn_train.config.checks import AUTO_RULES
from mrcnn_train.planning.survey import DataFacts, Machine

STRIDE = 32  # batch shapes are multiples of it

# Pixels of the resized image
CPU_EDGE, GPU_EDGE = 256, 800  # short edge; COCO's is 800
SMALL = 24  # a median object below this is small: larger images are worth their time in evaluation
CUT_SAFELY = 32  # objects below this lose little at the edge of a crop
MOST_CUT = 1.5  # long edge / short edge up to which a square crop shows most of an image
ANCHORS = {CPU_EDGE: [16.0, 32.0, 64.0, 128.0, 256.0], GPU_EDGE: [32.0, 64.0, 128.0, 256.0, 512.0]}
OUTSIDE = math.sqrt(0.5)  # an object with an edge below this share of the smallest anchor has at most an IoU of 0.5
SAME_SHAPE = 1.1  # images whose aspect ratios differ by less need one batch shape for each orientation

# Tensorpack's widths, which the experiment narrows.
FULL_NETWORK = {
    "backbone": "resnet50",
    "backbone_width": 64,
    "gn_groups": 32,
    "fpn_channels": 256,
    "rpn_channels": 256,
    "box_head_channels": 1024,
    "mask_head_channels": 256,
    "roi_samples": 512,
}

# A step of R50-FPN on one image of 800 x 1216 takes 2.0 to 2.4 GiB on a CPU (docs/RESULTS.md). Group norm, training of
# all layers and the work space of a GPU take more, which has not been measured: twice that, by pixels and width.
GIB_PER_IMAGE = 5.0
GIB_FOR_GPU = 0.7  # share of the memory that may be used
FEW_IMAGES = 500
AS_WEIGHTS = "as the given weights"  # the reason for each option of their network


class Choice(NamedTuple):
    """An option that a rule has chosen, and why.

    Attributes:
        group: of the rule, one of AUTO_RULES.
        option: its dotted name.
    """

    group: str
    option: str
    value: Any
    reason: str


class Wanted(NamedTuple):
    """What the user has decided.

    Attributes:
        given: options given by the user.
        rules: the groups of rules to follow.
        network: options of the network that belong to the given weights; None from scratch.
        minutes: time budget; None for steps that suit the data.
        processes: of the job.
    """

    given: Mapping[str, Any]
    rules: tuple[str, ...] = AUTO_RULES
    network: Mapping[str, Any] | None = None
    minutes: float | None = None
    processes: int = 1


def choose(data: DataFacts, machine: Machine, wanted: Wanted) -> list[Choice]:
    """Choose options. Given ones are left out, and others follow them.

    Returns:
        At most one choice for an option, in the order of the groups.
    """
    edge = _edge(data, machine, wanted)
    choices = [
        *_sizes(data, machine, wanted, edge),
        *_network(machine, wanted, _trained_pixels(data, machine, wanted, edge)),
        *_training(data, machine, wanted),
    ]
    taken = {f"model.{name}" for name in wanted.network or {}}
    return [
        one
        for one in choices
        if one.group in wanted.rules
        and one.option not in wanted.given
        and (one.group == "network" or one.option not in taken)
    ]


class _Edge(NamedTuple):
    """The short edge of the resized images, the edge of a crop (0: none), and the reasons."""

    short: int
    crop: int = 0
    why_short: str = ""
    why_crop: str = ""


def _edge(data: DataFacts, machine: Machine, wanted: Wanted) -> _Edge:
    given = wanted.given.get("data.short_edge")
    if given is not None:
        return _Edge(max(given) if isinstance(given, list) else given)
    base, where = (GPU_EDGE, "a GPU") if machine.gpus else (CPU_EDGE, "a CPU")
    own, median = _rounded_up(data.short_edge), data.object_shares[2]  # the share of a median object
    may_crop = not {"data.buckets", "data.augmentation.crop_size"} & wanted.given.keys()
    if own > base and may_crop and median * base < SMALL:
        larger = min(own, _rounded_up(SMALL / median))
        small = f"at {base} px, usual on {where}, a median object would have {median * base:.0f} px"
        why_crop = f"a step takes as long as with images of {base} px"
        return _Edge(larger, base, f"{small}; here it has {median * larger:.0f}", why_crop)
    short = min(own, base)
    why = f"usual on {where}; a median object has {median * base:.0f} px"
    if own <= base:
        why = f"the images have {data.short_edge} px (median); enlarging them shows nothing new"
    if may_crop and not _is_one_shape(data) and data.aspects[1] <= MOST_CUT and median * short < CUT_SAFELY:
        crop = _rounded_up(short)
        return _Edge(short, crop, why, "one batch shape instead of several; objects are small, so few are cut")
    return _Edge(short, 0, why)


def _is_one_shape(data: DataFacts) -> bool:
    return data.aspects[1] <= SAME_SHAPE * data.aspects[0]


def _sizes(data: DataFacts, machine: Machine, wanted: Wanted, edge: _Edge) -> Iterator[Choice]:
    group = "sizes"
    yield Choice(group, "data.short_edge", edge.short, edge.why_short)
    longest = _rounded_up(edge.short * data.aspects[1])
    yield Choice(group, "data.max_size", longest, f"images are up to {data.aspects[1]:.2f} times as long as wide")
    if edge.crop:
        yield Choice(group, "data.augmentation.crop_size", edge.crop, edge.why_crop)
    yield from _buckets(data, wanted, edge, longest)
    yield from _anchors(data, machine, edge)
    most = data.most_objects
    max_gt = min(200, max(16, 8 * math.ceil(most / 8)))
    yield Choice(group, "data.max_gt", max_gt, f"an image has up to {most} objects")
    detections = min(300, max(50, 50 * math.ceil(2 * most / 50)))
    yield Choice(group, "model.detections_per_image", detections, "about twice as many as the most objects of an image")


def _buckets(data: DataFacts, wanted: Wanted, edge: _Edge, longest: int) -> Iterator[Choice]:
    """Choose one shape where all images have the same: others would be compiled without need, and padded."""
    if edge.crop or wanted.given.get("data.augmentation.crop_size") or not _is_one_shape(data):
        return
    short = _rounded_up(edge.short)
    shape = [short, wanted.given.get("data.max_size", longest)]
    shape[1] = max(short, _rounded_up(shape[1]))
    flips = _turns(data, wanted) if "training" in wanted.rules else 0.0
    turned = wanted.given.get("data.augmentation.rotate90", flips) > 0
    shapes = [shape] * (data.has_landscape or turned) + [shape[::-1]] * (data.has_portrait or turned)
    unique = [one for number, one in enumerate(shapes) if one not in shapes[:number]]
    yield Choice("sizes", "data.buckets", unique or [shape], "all images have nearly the same shape")


def _anchors(data: DataFacts, machine: Machine, edge: _Edge) -> Iterator[Choice]:
    """Keep the usual anchors, unless a quarter of the objects lies outside of their range.

    Anchors that fit the objects best, as `mrcnn-data stats` suggests them, have lowered the AP where the usual ones
    also met all objects (fruits_nuts: 0.510 / 0.693 to 0.416 / 0.623).
    """
    anchors = ANCHORS[GPU_EDGE if machine.gpus else CPU_EDGE]
    lower, upper = data.object_shares[1] * edge.short, data.object_shares[3] * edge.short
    while lower < OUTSIDE * anchors[0] and anchors[0] > 8:  # below 8 px, objects lie between the anchors of stride 4
        anchors = [size / 2 for size in anchors]
        reason = f"a quarter of the objects is below {lower:.0f} px"
    while upper > anchors[-1] / OUTSIDE:
        anchors = [size * 2 for size in anchors]
        reason = f"a quarter of the objects is above {upper:.0f} px"
    if anchors == ANCHORS[GPU_EDGE if machine.gpus else CPU_EDGE]:
        reason = f"the usual ones: half of the objects have {lower:.0f} to {upper:.0f} px"
    yield Choice("sizes", "model.anchor_sizes", anchors, reason)


def _trained_pixels(data: DataFacts, machine: Machine, wanted: Wanted, edge: _Edge) -> int:
    if edge.crop and "sizes" in wanted.rules:
        return edge.crop**2
    return round(edge.short**2 * data.aspects[1])


def _network(machine: Machine, wanted: Wanted, pixels: int) -> Iterator[Choice]:
    group, width = "network", 32
    if wanted.network is not None:
        width = int(wanted.network.get("backbone_width", 64))
        for name, value in wanted.network.items():
            yield Choice(group, f"model.{name}", value, AS_WEIGHTS)
    elif machine.gpus:
        width = 64
        for name, value in FULL_NETWORK.items():
            yield Choice(group, f"model.{name}", value, "a GPU trains the full network from scratch")
        threads = max(2, min(8, machine.cores // wanted.processes))
        yield Choice(group, "data.num_threads", threads, f"of {machine.cores} cores; a GPU waits for two")
    else:
        yield Choice(group, "model.backbone", "resnet18", "from scratch on a CPU")
        yield Choice(group, "model.backbone_width", width, "narrow: many steps matter more than many channels")
    gib = GIB_PER_IMAGE * pixels / (800 * 1333) * width / 64
    memory = machine.gpu_memory_gib if machine.gpus else machine.memory_gib / 2
    fitting = max(1, min(4, int(GIB_FOR_GPU * memory / gib)))
    images = wanted.given.get("train.images_per_gpu", 2 ** int(math.log2(fitting)))
    batch = wanted.given.get("train.global_batch")
    if batch is not None and "train.images_per_gpu" not in wanted.given:
        images = next(n for n in range(min(images, batch), 0, -1) if batch % (n * wanted.processes) == 0 or n == 1)
    yield Choice(
        group, "train.images_per_gpu", images, f"an image takes about {gib:.1f} GiB of {memory:.0f} in training"
    )
    least = 8 if machine.gpus else 4
    together = images * wanted.processes
    yield Choice(
        group, "train.global_batch", together * math.ceil(least / together), f"a batch of at least {least} images"
    )


def _training(data: DataFacts, machine: Machine, wanted: Wanted) -> Iterator[Choice]:
    group = "training"
    yield Choice(group, "data.augmentation.horizontal_flip", 0.5, "mirrored images look natural")
    turns = _turns(data, wanted)
    if turns:
        few = f"{data.images} images are few: turned and mirrored ones show more"
        yield Choice(group, "data.augmentation.vertical_flip", 0.5, few)
        yield Choice(group, "data.augmentation.rotate90", turns, few)
    if wanted.minutes is None and "train.minutes" not in wanted.given:
        batch = wanted.given.get("train.global_batch", 8 if machine.gpus else 4)
        epochs, least, most = (50, 2000, 20_000) if machine.gpus else (100, 1000, 5000)
        steps = max(least, min(most, math.ceil(epochs * data.images / batch)))
        reason = f"about {steps * batch / data.images:.0f} epochs of {data.images} images; train.minutes=M sets a time"
        yield Choice(group, "train.max_steps", steps, reason)
    if wanted.network is not None or (machine.gpus and "network" in wanted.rules):
        yield Choice(group, "optimizer.base_lr", 0.00125, "of Tensorpack's recipes for ResNet-50")
    if "optimizer.drop_epochs" not in wanted.given and wanted.given.get("optimizer.decay", "steps") == "steps":
        reason = "the AP rises most within a few hundred steps after the rate has dropped"
        yield Choice(group, "optimizer.drop_fractions", [0.75, 0.93], reason)


def _turns(data: DataFacts, wanted: Wanted) -> float:
    """Return the probability of quarter turns: from scratch on few images they replace images that are missing."""
    return 1.0 if data.images < FEW_IMAGES and wanted.network is None else 0.0


def _rounded_up(edge: float) -> int:
    """Return the next multiple of the stride.

    >>> _rounded_up(256), _rounded_up(257.5)
    (256, 288)
    """
    return STRIDE * math.ceil(round(edge, 3) / STRIDE)
