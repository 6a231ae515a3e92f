"""A model over a data set: batches, detections, boxes and masks of the original images, into the evaluator.

Legend: N images of a batch, H x W canvas, D detections per image, M mask edge, K detections of a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from mrcnn_data import Batch, CocoDataset, EvalLoader, visible
from mrcnn_eval.scoring.coco_evaluator import IOU_TYPES, Backend, CocoEvaluator, EvalResult
from mrcnn_eval.scoring.image_results import ImageResults
from mrcnn_eval.scoring.ranks import Gather, alone, merge_images, shares_of_all
from mrcnn_model import Detections, MaskRCNN
from mrcnn_ops import encode_masks

COCO_MAX_DETS = 100
ENCODING_BEHIND = 2  # batches whose masks wait for the encoder while the network runs on

DetectFunction: TypeAlias = Callable[[tf.Tensor, tf.Tensor], Detections]
Progress: TypeAlias = Callable[[int, int], None]  # images done, images in all


def compiled_detect(model: MaskRCNN) -> DetectFunction:
    """Compile `model.detect`, once per shape of batch. Keep the result between evaluations, or each traces anew."""
    compiled: dict[tuple[int, ...], DetectFunction] = {}

    def detect(images: tf.Tensor, image_sizes: tf.Tensor) -> Detections:
        shape = tuple(images.shape)
        if shape not in compiled:
            # One concrete function per canvas: a tf.function called with a new shape each time warns of retracing.
            compiled[shape] = tf.function(model.detect).get_concrete_function(images, image_sizes)
        return compiled[shape](images, image_sizes)

    return detect


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
    """Score a model on a data set; see `detect_dataset` for the arguments."""
    evaluator = detect_dataset(
        model,
        dataset,
        buckets=buckets,
        short_edge=short_edge,
        max_size=max_size,
        batch_size=batch_size,
        limit=limit,
        max_dets=max_dets,
        progress=progress,
        detect=detect,
    )
    return evaluator.evaluate(image_ids=evaluator.image_results)


def detect_dataset(
    model: MaskRCNN,
    dataset: CocoDataset,
    *,
    buckets: Sequence[tuple[int, int]],
    short_edge: int,
    max_size: int,
    batch_size: int,
    limit: int | None = None,
    max_dets: int | None = None,
    backend: Backend = "hotcoco",
    honor_ignore: bool = False,
    on_error: str = "raise",
    rank: int = 0,
    num_ranks: int = 1,
    gather: Gather = alone,
    progress: Progress | None = None,
    detect: DetectFunction | None = None,
) -> CocoEvaluator:
    """Run a model over a data set: the next batch is loaded and the last one encoded while the network works.

    Args:
        model: of as many classes as the data set.
        dataset: its contiguous classes are the model's.
        buckets: canvases (h, w) that batches are padded to.
        short_edge: to which images are resized, pixels.
        max_size: cap of the longer edge, pixels.
        batch_size: images of a batch; the last of a bucket is padded up to it.
        limit: number of images, None for all.
        max_dets: detections per image and class that count; by default the model's limit, at least COCO's 100.
        backend, honor_ignore: see `CocoEvaluator`.
        on_error: "raise", or "skip" image files that cannot be read: they count as images without detections.
        rank, num_ranks: the share of this process; the others do the rest.
        gather: exchanges the shares (see `mrcnn_eval.scoring.ranks`).
        progress: called after each batch, with the images of this process.
        detect: from `compiled_detect(model)`, to compile only once over many evaluations, or from `augmented_detect`.

    Returns:
        An evaluator that holds, on every rank, the detections of every image, each exactly once; score it with
        `evaluator.evaluate(image_ids=evaluator.image_results)`. It scores boxes only where the model has no masks.

    Raises:
        ValueError: the class counts differ. DatasetError: an image cannot be read.
        RankError: another rank failed, or an image was left out.
    """
    if model.config.num_classes != dataset.num_classes:
        raise ValueError(
            f"the model has {model.config.num_classes - 1} classes, {dataset.annotation_path} "
            f"has {dataset.num_classes - 1}"
        )
    sizes = {
        image_id: (int(h), int(w)) for image_id, (h, w) in zip(dataset.image_ids, dataset.image_sizes, strict=True)
    }
    evaluator = CocoEvaluator(
        dataset.annotation_path,
        max_dets=max_dets or max(model.config.detections_per_image, COCO_MAX_DETS),
        backend=backend,
        image_sizes=sizes,
        honor_ignore=honor_ignore,
        iou_types=IOU_TYPES if model.config.masks else ("bbox",),
    )
    loader = EvalLoader(
        dataset,
        buckets=buckets,
        short_edge=short_edge,
        max_size=max_size,
        batch_size=batch_size,
        rank=rank,
        num_ranks=num_ranks,
        limit=limit,
        on_error=on_error,
    )

    def detect_share() -> dict[Any, ImageResults]:
        _detect_batches(evaluator, loader, detect or compiled_detect(model), dataset.category_ids, progress=progress)
        return evaluator.image_results

    evaluator.image_results = merge_images(shares_of_all(detect_share, gather=gather), dataset.image_ids[:limit])
    return evaluator


def _detect_batches(
    evaluator: CocoEvaluator,
    loader: EvalLoader,
    detect: DetectFunction,
    category_ids: Sequence[int],
    *,
    progress: Progress | None,
) -> None:
    """Detect on the batches of a loader; masks are encoded and checked in a thread of their own."""
    encoder = ThreadPoolExecutor(1, thread_name_prefix="mrcnn-eval")
    encoding: deque[Future[None]] = deque()
    num_done = 0
    try:
        for batch in loader:
            detections = detect(tf.constant(batch.images), tf.constant(batch.image_sizes))
            encoding.append(encoder.submit(add_detections, evaluator, batch, detections, category_ids=category_ids))
            if len(encoding) > ENCODING_BEHIND:
                encoding.popleft().result()  # raises what the encoder raised
            num_done += sum(image_id is not None for image_id in batch.image_ids)
            if progress is not None:
                progress(num_done, loader.num_images)
        for waiting in encoding:
            waiting.result()
    finally:
        encoder.shutdown(wait=True, cancel_futures=True)
    for image_id in loader.skipped_ids:
        evaluator.add(image_id, np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int32), [])
    if loader.skipped_ids:
        files = ", ".join(map(visible, sorted(loader.skipped)))
        print(f"evaluation: {len(loader.skipped_ids)} images could not be read and count as empty: {files}", flush=True)


def add_detections(
    evaluator: CocoEvaluator, batch: Batch, detections: Detections, *, category_ids: Sequence[int]
) -> None:
    """Add the detections of a batch in the frame of the original images; rows without an image id are padding.

    Args:
        evaluator: of the data set of the batch.
        batch: `image_ids`, `image_sizes` and `original_sizes` are read.
        detections: for the same N images, boxes in pixels of the resized images.
        category_ids: of the contiguous classes 1, 2, ...
    """
    is_image = np.array([image_id is not None for image_id in batch.image_ids], bool)  # [N]
    rows, columns = np.nonzero(detections.valid.numpy() & is_image[:, None])  # [K]
    boxes = to_original(
        detections.boxes.numpy()[rows, columns],
        image_sizes=batch.image_sizes[rows],
        original_sizes=batch.original_sizes[rows],
    )  # [K, 4]
    has_masks = detections.masks.shape[-1] > 0
    counts = _encode(
        detections.masks.numpy()[rows, columns], boxes, batch.original_sizes[rows]
    )  # [K], [] without masks
    scores = detections.scores.numpy()[rows, columns]
    found_category_ids = np.asarray(category_ids)[detections.classes.numpy()[rows, columns] - 1]
    for row in np.flatnonzero(is_image):
        of_image = rows == row
        size = [int(edge) for edge in batch.original_sizes[row]]
        evaluator.add(
            batch.image_ids[row],
            boxes[of_image],
            scores[of_image],
            found_category_ids[of_image],
            [{"size": size, "counts": counts[k]} for k in np.flatnonzero(of_image)] if has_masks else None,
        )


def to_original(boxes: np.ndarray, *, image_sizes: np.ndarray, original_sizes: np.ndarray) -> np.ndarray:
    """Take boxes float32 [K, 4] from the resized image of size (h, w) to the original, and clip them to it.

    Args:
        boxes: (x1, y1, x2, y2), pixels of the resized images.
        image_sizes: int [K, 2], (h, w) of the resized image of each box.
        original_sizes: int [K, 2], (h, w).
    """
    # The edges are resized to whole pixels each, so the scales of x and y differ a little.
    scales = (original_sizes / image_sizes)[:, [1, 0, 1, 0]]  # [K, 4], (x, y, x, y)
    return np.clip(boxes * scales, 0, original_sizes[:, [1, 0, 1, 0]]).astype(np.float32)


def _encode(masks: np.ndarray, boxes: np.ndarray, sizes: np.ndarray) -> list[Any]:
    if masks.size == 0:
        return []
    return list(encode_masks(tf.constant(masks), tf.constant(boxes), tf.constant(sizes, tf.int32)).numpy())
