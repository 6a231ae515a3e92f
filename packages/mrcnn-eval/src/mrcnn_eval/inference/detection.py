"""Run a model over a data set, batch by batch, and collect the detections of every image in an evaluator."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from mrcnn_data import Batch, CocoDataset, EvalLoader, visible
from mrcnn_eval.inference.original_pixels import add_detections
from mrcnn_eval.inference.packing import PackedDetections
from mrcnn_eval.scoring.coco_evaluator import IOU_TYPES, Backend, CocoEvaluator, EvalResult
from mrcnn_eval.scoring.image_results import ImageResults
from mrcnn_eval.scoring.ranks import Gather, alone, merge_images, shares_of_all
from mrcnn_model import MaskRCNN, ModelCard

COCO_MAX_DETS = 100
MAX_WAITING = 2  # batches whose masks wait to be encoded; more would only take memory

Pixels: TypeAlias = np.ndarray | tf.Tensor
DetectFunction: TypeAlias = Callable[[Pixels, Pixels], PackedDetections]  # images, image_sizes
Progress: TypeAlias = Callable[[int, int], None]  # images done, images in all


class Preprocessing(NamedTuple):
    """How images are resized and padded, as in the training of the model.

    Attributes:
        buckets: shapes (h, w) that batches are padded to, pixels.
        short_edge: length that the shorter edge is resized to, pixels.
        max_size: limit of the longer edge, pixels.
    """

    buckets: Sequence[tuple[int, int]]
    short_edge: int
    max_size: int

    @classmethod
    def of(cls, card: ModelCard) -> Preprocessing:
        """Return the preprocessing that the card of a checkpoint names."""
        return cls([(height, width) for height, width in card.buckets], card.short_edge, card.max_size)


class Share(NamedTuple):
    """Which images one of several processes detects on, and how the processes exchange what they found.

    Attributes:
        rank: number of this process, from 0.
        num_ranks: number of processes.
        gather: called on every process with its part; returns to each the list of all parts, rank 0 first.
    """

    rank: int = 0
    num_ranks: int = 1
    gather: Gather = alone


WHOLE = Share()  # one process does all images


def compiled_detect(model: MaskRCNN) -> DetectFunction:
    """Compile `model.detect`, once per shape of batch. Keep the result between evaluations, or each compiles again."""
    compiled: dict[tuple[int, ...], Callable[..., PackedDetections]] = {}

    def packed(images: tf.Tensor, image_sizes: tf.Tensor) -> PackedDetections:
        return PackedDetections.of(model.detect(images, image_sizes))

    def detect(images: Pixels, image_sizes: Pixels) -> PackedDetections:
        images, image_sizes = tf.constant(images), tf.constant(image_sizes)
        shape = tuple(images.shape)
        if shape not in compiled:
            # One concrete function per bucket: a tf.function called with a new shape each time warns of retracing.
            compiled[shape] = tf.function(packed).get_concrete_function(images, image_sizes)
        return compiled[shape](images, image_sizes)

    return detect


def new_evaluator(
    model: MaskRCNN,
    dataset: CocoDataset,
    *,
    max_dets: int | None = None,
    backend: Backend = "hotcoco",
    honor_ignore: bool = True,
    mask_areas: bool = False,
) -> CocoEvaluator:
    """Make an evaluator for what a model finds in a data set, without detections.

    Args:
        model: scored for boxes only where it has no masks.
        dataset: holds the ground truth.
        max_dets: detections per image and class that count; by default the model's limit, at least COCO's 100.
        backend: see `CocoEvaluator`.
        honor_ignore: leave objects with `ignore: 1` out of the score, as they are left out of training.
        mask_areas: see `CocoEvaluator`.

    Raises:
        ValueError: the numbers of classes differ.
    """
    if model.config.num_classes != dataset.num_classes:
        raise ValueError(
            f"the model has {model.config.num_classes - 1} classes, {dataset.name} has {dataset.num_classes - 1}"
        )
    return CocoEvaluator(
        dataset,
        max_dets=max_dets or max(model.config.detections_per_image, COCO_MAX_DETS),
        backend=backend,
        honor_ignore=honor_ignore,
        mask_areas=mask_areas,
        iou_types=IOU_TYPES if model.config.masks else ("bbox",),
    )


def evaluate_model(
    model: MaskRCNN,
    dataset: CocoDataset,
    *,
    buckets: Sequence[tuple[int, int]],
    short_edge: int,
    max_size: int,
    batch_size: int,
    limit: int | None = None,
    max_dets: int | None = None,
    progress: Progress | None = None,
    detect: DetectFunction | None = None,
) -> EvalResult:
    """Score a model on a data set in one process.

    Args:
        model, dataset, max_dets: see `new_evaluator`.
        buckets, short_edge, max_size: see `Preprocessing`.
        batch_size, limit, progress, detect: see `detect_dataset`.
    """
    evaluator = detect_dataset(
        model,
        dataset,
        Preprocessing(buckets, short_edge, max_size),
        batch_size=batch_size,
        evaluator=new_evaluator(model, dataset, max_dets=max_dets),
        limit=limit,
        progress=progress,
        detect=detect,
    )
    return evaluator.evaluate(image_ids=evaluator.image_results)


def detect_dataset(
    model: MaskRCNN,
    dataset: CocoDataset,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    evaluator: CocoEvaluator | None = None,
    limit: int | None = None,
    on_error: str = "raise",
    share: Share = WHOLE,
    progress: Progress | None = None,
    detect: DetectFunction | None = None,
) -> CocoEvaluator:
    """Run a model over a data set. While it works on a batch, the next is loaded and the last one's masks are encoded.

    Args:
        model: its classes are those of the data set.
        dataset: the images.
        preprocessing: how they are resized and padded.
        batch_size: images of a batch; the last of a bucket is padded up to it.
        evaluator: receives the detections; by default `new_evaluator(model, dataset)`.
        limit: number of images, None for all.
        on_error: "raise", or "skip" image files that cannot be read: they count as images without detections.
        share: the images of this process; by default all.
        progress: called after each batch, with the images of this process.
        detect: from `compiled_detect(model)`, to compile only once over many evaluations, or from `augmented_detect`.

    Returns:
        The evaluator. On every process it holds the detections of every image, each exactly once; score it with
        `evaluator.evaluate(image_ids=evaluator.image_results)`.

    Raises:
        ValueError: the numbers of classes differ. DatasetError: an image cannot be read.
        RankError: another process failed, or an image was left out.
    """
    evaluator = evaluator or new_evaluator(model, dataset)
    loader = EvalLoader(
        dataset,
        buckets=preprocessing.buckets,
        short_edge=preprocessing.short_edge,
        max_size=preprocessing.max_size,
        batch_size=batch_size,
        rank=share.rank,
        num_ranks=share.num_ranks,
        limit=limit,
        on_error=on_error,
    )

    def detect_share() -> dict[Any, ImageResults]:
        _detect_batches(evaluator, loader, detect or compiled_detect(model), dataset.category_ids, progress=progress)
        return evaluator.image_results

    evaluator.image_results = merge_images(shares_of_all(detect_share, gather=share.gather), dataset.image_ids[:limit])
    return evaluator


def _detect_batches(
    evaluator: CocoEvaluator,
    loader: EvalLoader,
    detect: DetectFunction,
    category_ids: Sequence[int],
    *,
    progress: Progress | None,
) -> None:
    """Detect on the batches of a loader; another thread waits for the device, encodes the masks and checks them."""
    encoder = ThreadPoolExecutor(1, thread_name_prefix="mrcnn-eval")
    encoding: deque[Future[None]] = deque()
    num_done = 0

    def add(batch: Batch, detections: PackedDetections) -> None:
        add_detections(evaluator, batch, detections.fetch(), category_ids=category_ids)

    try:
        for batch in loader:
            encoding.append(encoder.submit(add, batch, detect(batch.images, batch.image_sizes)))
            if len(encoding) > MAX_WAITING:
                encoding.popleft().result()  # raises what the encoder raised
            num_done += sum(image_id is not None for image_id in batch.image_ids)
            if progress is not None:
                progress(num_done, loader.num_images)
        for waiting in encoding:
            waiting.result()
    finally:
        encoder.shutdown(wait=True, cancel_futures=True)
    _add_unreadable(evaluator, loader)


def _add_unreadable(evaluator: CocoEvaluator, loader: EvalLoader) -> None:
    """Count the images that could not be read as images without detections, and name them."""
    for image_id in loader.skipped_ids:
        evaluator.add(image_id, np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int32), [])
    if loader.skipped_ids:
        files = ", ".join(map(visible, sorted(loader.skipped)))
        print(f"evaluation: {len(loader.skipped_ids)} images could not be read and count as empty: {files}", flush=True)
