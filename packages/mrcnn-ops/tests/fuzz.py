"""Random and broken inputs for every op: each call raises an error that names the input, or returns finite values.

A case is made from its number alone. The number is printed before the case runs, in case the process crashes:

    python fuzz.py --seconds 600 --first 0        as many cases as fit
    python fuzz.py --case 1234                    repeats one
"""

import argparse
import time
from collections import Counter

import numpy as np
import tensorflow as tf

import mrcnn_ops
from mrcnn_ops.library import raw_ops

ODD = np.array([0, -0.0, 1, -1, 1e-45, 0.5, 1e6, -1e6, 2**24, 1e20, 3e38, -3e38, np.nan, np.inf, -np.inf], np.float32)
ODD_INTS = np.array([0, 1, -1, 2, 7, 800, 2**16, 2**24, 2**31 - 1, -(2**31)], np.int64)
ODD_SIZES = np.array([0, 1, -1, 2, 300, 2**31 - 1, -(2**31)], np.int64)


class Case:
    """A source of random values. Half of the cases are well-formed, the others have a flaw or two somewhere."""

    def __init__(self, number: int) -> None:
        self.rng = np.random.default_rng(number)
        self.broken = 0.04 if self.rng.random() < 0.5 else 0.0

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def count(self, most: int) -> int:
        """0 to most; small numbers and the borders of blocks more often."""
        choices = [0, 1, 2, 3, 7, 8, 9, 63, 64, 65, most]
        return int(min(self.rng.choice(choices), most)) if self.chance(0.7) else int(self.rng.integers(0, most + 1))

    def shape(self, *shape: int) -> tuple[int, ...]:
        result = [self.count(9) if self.chance(self.broken) else size for size in shape]
        if self.chance(self.broken):
            result.insert(int(self.rng.integers(0, len(result) + 1)), self.count(3))
        if self.chance(self.broken) and result:
            del result[int(self.rng.integers(0, len(result)))]
        return tuple(result)

    def floats(self, *shape: int, low: float = -1.0, high: float = 1.0, odd: float = 0.1) -> np.ndarray:
        values = self.rng.uniform(low, high, self.shape(*shape)).astype(np.float32)
        if self.chance(0.3):
            values = np.round(values)  # ties
        if self.chance(0.5):
            values = np.where(self.rng.random(values.shape) < odd, self.rng.choice(ODD, values.shape), values)
        return values

    def boxes(self, *shape: int, size: float = 100.0) -> np.ndarray:
        boxes = self.floats(*shape, 4, low=-0.2 * size, high=1.2 * size)
        if boxes.ndim and boxes.shape[-1] == 4 and self.chance(0.8):  # mostly not inverted
            corners = boxes.reshape(*boxes.shape[:-1], 2, 2)
            boxes = np.concatenate([corners.min(-2), corners.max(-2)], -1)
        return boxes

    def flags(self, *shape: int) -> np.ndarray:
        return self.rng.random(self.shape(*shape)) < self.rng.choice([0.0, 0.5, 1.0])

    def option(self, usual: object, *others: object) -> object:
        return others[int(self.rng.integers(0, len(others)))] if self.chance(0.08) else usual


def roi_align(case: Case) -> list[tf.Tensor]:
    num_images, channels, levels = case.count(2), case.count(20), 1 + case.count(4)
    dtype = case.option("float32", "float16", "bfloat16", "float64", "int32")
    features = [
        tf.cast(case.floats(num_images, case.count(30), case.count(30), channels, odd=0), dtype) for _ in range(levels)
    ]
    boxes = case.boxes(num_images, case.count(12), size=case.option(100.0, 1e6, 1.0))
    strides = [case.option(4.0 * 2**i, 1.0, 1e-30, 3e38, 0.0, -1.0, np.nan, np.inf) for i in range(levels)]
    options = {
        "output_size": case.option(case.count(7) or 1, 0, -1, 64, 65, 2**31 - 1),
        "sampling_ratio": case.option(2, 0, 1, 3, 8, 9, -1),
        "aligned": case.chance(0.5),
        "min_level": case.option(2, 0, -(2**31), 2**31 - 1),
        "canonical_level": case.option(4, 0, -(2**31), 2**31 - 1),
        "canonical_size": case.option(224.0, 1e-30, 3e38, 0.0, -1.0, np.nan, np.inf),
        "deterministic": case.chance(0.5),
    }
    if case.chance(0.1):
        return gradient_alone(case, features, boxes, {"strides": strides, **options})
    with tf.GradientTape() as tape:
        tape.watch(features)
        output = mrcnn_ops.multilevel_roi_align(features, boxes, strides=strides, **options)
    gradients = tape.gradient(output, features)
    return [output, *(g for g in gradients if g is not None)]


def gradient_alone(case: Case, features: list[tf.Tensor], boxes: np.ndarray, attributes: dict) -> list[tf.Tensor]:
    """The gradient op, with shapes that need not be those of any features."""
    shapes = [
        np.where(case.rng.random(len(f.shape)) < case.broken, case.rng.choice(ODD_SIZES, len(f.shape)), f.shape).astype(
            np.int32
        )
        for f in features
    ]
    size = int(np.clip(attributes["output_size"], 0, 64))
    gradient = case.floats(*boxes.shape[:2], size, size, features[0].shape[-1] if features[0].shape.rank else 1, odd=0)
    return raw_ops.mrcnn_multilevel_roi_align_grad(gradient=gradient, boxes=boxes, feature_shapes=shapes, **attributes)


def proposals(case: Case) -> list[tf.Tensor]:
    num_images, level_sizes = case.count(3), [case.count(70) for _ in range(case.count(40) if case.chance(0.05) else 3)]
    num_anchors = sum(level_sizes)
    sizes = case.rng.integers(1, 120, case.shape(num_images, 2))
    sizes = np.where(case.rng.random(sizes.shape) < 0.05, case.rng.choice(ODD_INTS, sizes.shape), sizes)
    if case.chance(case.broken) and level_sizes:
        level_sizes[0] = int(case.rng.choice(ODD_INTS))
    result = mrcnn_ops.generate_proposals(
        case.floats(num_images, num_anchors),
        case.floats(num_images, num_anchors, 4),
        case.boxes(num_anchors),
        sizes.astype(np.int32),
        np.array(level_sizes, np.int32),
        pre_nms_top_k=case.option(50, 1, 0, -1, 2**31 - 1),
        post_nms_top_k=case.option(30, 1, 0, -1, 2**31 - 1),
        num_proposals=case.option(40, 1, 0, -1, 10_000),
        nms_threshold=case.option(0.7, 0.0, 1.0, -1.0, np.nan, np.inf),
        min_size=case.option(0.0, 5.0, -1.0, np.nan, np.inf),
        max_log_scale=case.option(4.0, 0.0, -1.0, 100.0, np.nan, np.inf),
        keep_empty=case.chance(0.5),
        keep_padding_anchors=case.chance(0.5),
    )
    return list(result)


def matching(case: Case) -> list[tf.Tensor]:
    num_images, num_boxes, num_gt = case.count(3), case.count(200), case.count(70)
    return list(
        mrcnn_ops.match_boxes(
            case.boxes(num_boxes) if case.chance(0.5) else case.boxes(num_images, num_boxes),
            case.boxes(num_images, num_gt),
            case.flags(num_images, num_gt),
            case.boxes(num_images, case.count(9)),
            boxes_valid=case.flags(num_images, num_boxes) if case.chance(0.5) else None,
        )
    )


def detections(case: Case) -> list[tf.Tensor]:
    num_images, num_rois, num_classes = case.count(3), case.count(70), case.count(9)
    return list(
        mrcnn_ops.multiclass_nms(
            case.boxes(num_images, num_rois, 1 if case.chance(0.5) else num_classes),
            case.floats(num_images, num_rois, num_classes, low=0),
            score_threshold=case.option(0.05, 0.0, -1.0, 2.0, np.nan, np.inf, -np.inf),
            nms_threshold=case.option(0.5, 0.0, 1.0, -1.0, np.nan, np.inf),
            max_detections=case.option(20, 1, 0, -1, 10_000),
        )
    )


def encoding(case: Case) -> list[tf.Tensor]:
    count, size = case.count(12), case.count(30)
    sizes = case.rng.integers(1, 200, case.shape(count, 2))
    if case.chance(0.2):
        sizes = np.where(case.rng.random(sizes.shape) < 0.3, case.rng.choice(ODD_INTS, sizes.shape), sizes)
    counts = mrcnn_ops.encode_masks(
        case.floats(count, size, size, low=0),
        case.boxes(count),
        sizes.astype(np.int32),
        threshold=case.option(0.5, 0.0, 1.0, np.nan, np.inf),
    )
    for text in counts.numpy():
        assert text, "an image has pixels, so its code has characters"
        assert all(48 <= character < 112 for character in text), text
    return []


def folding(case: Case) -> list[tf.Tensor]:
    kernel = case.floats(1 + case.count(2), 1, case.count(40), case.count(70), odd=0)
    channels = kernel.shape[-1] if kernel.ndim else 1
    trained = [tf.constant(a) for a in (kernel, case.floats(channels, odd=0), case.floats(channels, odd=0))]
    variance = np.abs(case.floats(channels, odd=0))
    epsilon, dtype = case.option(1e-5, 1e-3, 1.0), case.option("float32", "float16", "bfloat16", "float64")
    with tf.GradientTape() as tape:
        tape.watch(trained)
        results = mrcnn_ops.fold_batch_norm(
            *trained, case.floats(channels, odd=0), variance, epsilon=epsilon, dtype=dtype
        )
    return [*results, *tape.gradient(results, trained)]


def grouping(case: Case) -> list[tf.Tensor]:
    channels, dtype = case.count(40), case.option("float32", "float16", "bfloat16", "float64")
    x = tf.cast(case.floats(case.count(3), case.count(20), case.count(20), channels, odd=0), dtype)
    inputs = [x, tf.constant(case.floats(channels, odd=0)), tf.constant(case.floats(channels, odd=0))]
    groups = case.option(
        int(case.rng.choice([g for g in range(1, channels + 1) if channels % g == 0] or [1])), 0, -1, 7
    )
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = mrcnn_ops.group_norm(*inputs, groups=groups, epsilon=case.option(1e-5, 1e-3), relu=case.chance(0.5))
    return [y, *tape.gradient(y, inputs)]


def update(case: Case) -> list[tf.Tensor]:
    """Finite numbers in, and an update that is finite or not taken."""
    shapes = [(case.count(20), case.count(9)) for _ in range(1 + case.count(4))]
    arrays = [[case.floats(*shape, odd=0) for shape in shapes] for _ in range(3)]
    variables, momenta = [tf.Variable(a) for a in arrays[0]], [tf.Variable(a) for a in arrays[1]]
    decays = [case.option(1e-4, 0.0, -1.0, 1e3)] * len(case.option(shapes, [], shapes + shapes))
    norm = mrcnn_ops.gradient_norm(arrays[2], variables, weight_decays=decays, scale=case.option(1.0, 0.0, 1e-9, 1e30))
    options = {"momentum": case.option(0.9, 0.0, 1.0), "weight_decays": decays, "rate_factors": [1.0] * len(shapes)}
    is_taken = case.chance(0.8)
    mrcnn_ops.apply_sgd(variables, momenta, arrays[2], rate=case.option(0.1, 0.0), is_taken=is_taken, **options)
    for variable, before in zip([*variables, *momenta], arrays[0] + arrays[1], strict=True):
        assert is_taken or np.array_equal(variable.numpy(), before)
    return [norm, *(variable.read_value() for variable in [*variables, *momenta])]


OPS = (roi_align, proposals, matching, detections, encoding, folding, grouping, update)
REFUSALS = (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, ValueError, TypeError)


def run(number: int) -> str:
    """Run one case and return its outcome. An error that is not a refusal is a finding."""
    op = OPS[number % len(OPS)]
    try:
        results = op(Case(number))
    except REFUSALS as error:
        return f"{op.__name__} refused" if str(error).strip() else f"{op.__name__} gave no reason"
    for result in results:
        if result.dtype.is_floating:
            assert np.isfinite(tf.cast(result, tf.float32)).all(), f"{op.__name__} returned a value that is not finite"
    return f"{op.__name__} ran"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--case", type=int)
    options = parser.parse_args()
    if options.case is not None:
        print(run(options.case))
        return
    seen: Counter[str] = Counter()
    number, end = options.first, time.monotonic() + options.seconds
    while time.monotonic() < end:
        print(f"case {number}", end="\r", flush=True)
        seen[run(number)] += 1
        number += 1
    print(f"{number - options.first} cases:", ", ".join(f"{count} {what}" for what, count in sorted(seen.items())))


if __name__ == "__main__":
    main()
