"""The batches of training: endless steps, which threads load ahead of use."""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np

from mrcnn_data.annotations.dataset import CocoDataset
from mrcnn_data.augmentation.options import Augmentation
from mrcnn_data.errors import DatasetError, OptionError, require_at_least, require_on_error, require_rank
from mrcnn_data.images.geometry import resized_sizes
from mrcnn_data.loading.batch import Batch, BufferPool, new_batch
from mrcnn_data.loading.buckets import Bucket
from mrcnn_data.loading.repeat_factor import repeat_factors
from mrcnn_data.loading.sampler import GlobalBatchSampler, MicroBatch
from mrcnn_data.loading.seeds import generator, quarter_turns, sample_seeds
from mrcnn_data.loading.train_sample import Photo, draw_pasted, fill_train_row

MAX_REPLACEMENTS = 10  # more unreadable files in a row mean that the data is not there


class _Step(NamedTuple):
    batches: list[Batch]
    rows: list[Future[None]]


class TrainLoader:
    """The micro-batches of one rank, step after step: a pure function of (seed, step).

    It uses threads, not processes: OpenCV decodes and resizes without the interpreter lock, and forks can break MPI.
    Making a loader switches OpenCV's own threads off for the whole process (`cv2.setNumThreads(0)`): one image per
    thread is faster. The arrays of a batch stay valid as long as something refers to them; then their memory is reused.

    Args:
        buckets: (h, w) shapes, for example from `default_buckets`. Leave it out with `augmentation.crop_size`: then
            every batch is crop_size x crop_size.
        short_edge: pixels; if there are several, each sample draws one of them.
        max_size: limit of the long edge, pixels.
        images_per_batch: N of each batch.
        global_batch: images of a step over all ranks; a multiple of images_per_batch * num_ranks.
        max_gt, max_crowds: G and K; objects and crowds beyond them are left out and counted in `left_out`.
        rank, num_ranks: this process takes every num_ranks-th micro-batch of a step, from number `rank` on.
        on_error: "raise", or "skip": another image of the same bucket replaces an unreadable one, which is counted in
            `skipped`.
        filter_empty: leave out images without an object.
        repeat_threshold: images with a class that fewer than this share of the images show are drawn more often, by
            the factor sqrt(threshold / share) (see `repeat_factors`); 0 = off. The number of images that count as one
            epoch does not change.
    Raises:
        OptionError: an option that cannot work.
        DatasetError: data that cannot be used.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        *,
        buckets: Sequence[Bucket] | None = None,
        short_edge: int | Sequence[int],
        max_size: int,
        images_per_batch: int,
        global_batch: int,
        seed: int,
        augmentation: Augmentation,
        max_gt: int = 100,
        max_crowds: int = 10,
        num_threads: int = 2,
        rank: int = 0,
        num_ranks: int = 1,
        on_error: str = "raise",
        filter_empty: bool = False,
        repeat_threshold: float = 0.0,
    ) -> None:
        augmentation.check()
        if not 0.0 <= repeat_threshold <= 1.0:
            raise OptionError(f"repeat_threshold={repeat_threshold} must be between 0 and 1")
        require_at_least(1, images_per_batch=images_per_batch, global_batch=global_batch, num_threads=num_threads)
        require_rank(rank, num_ranks)
        require_on_error(on_error)
        _check_division(images_per_batch=images_per_batch, global_batch=global_batch, num_ranks=num_ranks)
        self._dataset = dataset
        self._augmentation = augmentation
        self._short_edges = [short_edge] if isinstance(short_edge, int) else list(short_edge)
        self._max_size = max_size
        self._images_per_batch = images_per_batch
        self._global_batch = global_batch
        self._seed = seed
        self.max_gt, self.max_crowds = max_gt, max_crowds
        self._rank, self._num_ranks = rank, num_ranks
        self._on_error = on_error
        images = np.flatnonzero(dataset.num_objects()) if filter_empty else np.arange(len(dataset))
        if not images.size:
            raise DatasetError(f"{dataset.name}: no image has an object to train on")
        shapes = _shapes_of_batches(buckets, augmentation.crop_size)
        self._sampler = GlobalBatchSampler(
            images,
            self._largest_sizes(dataset.image_sizes[images]),
            buckets=shapes,
            images_per_batch=images_per_batch,
            global_batch=global_batch,
            seed=seed,
            rotate90=augmentation.rotate90,
            repeats=repeat_factors(dataset, images, threshold=repeat_threshold) if repeat_threshold else None,
        )
        self._paste_from = np.intersect1d(images, np.flatnonzero(dataset.num_objects()))
        self.left_out: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._pool = BufferPool()
        images_per_step = global_batch // num_ranks
        self._steps_ahead = max(1, math.ceil(2 * num_threads / images_per_step))
        cv2.setNumThreads(0)
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="mrcnn-data")

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The buckets (h, w) that batches can have."""
        return self._sampler.buckets

    @property
    def batch_size(self) -> int:
        """N: images of each batch."""
        return self._images_per_batch

    @property
    def num_images(self) -> int:
        """Number of images of an epoch."""
        return len(self._sampler.images)

    def epoch_of(self, step: int) -> float:
        """Return the number of images seen before `step`, divided by the images of an epoch."""
        return step * self._global_batch / self.num_images

    def steps(self, start_step: int = 0) -> Iterator[list[Batch]]:
        """Yield the batches of this rank for step `start_step`, for the next, and so on without end.

        Raises:
            DatasetError: (from the iterator) an image cannot be read; names the file.
        """
        ahead: deque[_Step] = deque()
        try:
            for micro_batches in self._sampler.steps(start_step):
                mine = micro_batches[self._rank :: self._num_ranks]
                ahead.append(_Step([], []))
                for micro_batch in mine:
                    self._start(micro_batch, ahead[-1])
                if len(ahead) > self._steps_ahead:
                    yield _finish(ahead.popleft())
        finally:
            for step in ahead:
                for row in step.rows:
                    row.cancel()

    def close(self) -> None:
        """End the threads. A running iterator cannot continue after that."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> TrainLoader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _largest_sizes(self, sizes: np.ndarray) -> np.ndarray:
        """Return the largest size that each image may have in a batch: int [I, 2] -> int [I, 2]."""
        crop = self._augmentation.crop_size
        if crop:
            return np.full_like(sizes, crop)
        return resized_sizes(sizes, short_edge=max(self._short_edges), max_size=self._max_size)

    def _start(self, micro_batch: MicroBatch, step: _Step) -> None:
        batch = new_batch(
            self._pool,
            num_images=self._images_per_batch,
            bucket=micro_batch.bucket,
            num_gt=self.max_gt,
            num_crowds=self.max_crowds,
        )
        draws, images = np.array(micro_batch.samples).T
        batch.sample_seeds[...] = sample_seeds(self._seed, draws, images)
        step.batches.append(batch)
        for row, image in enumerate(images.tolist()):
            step.rows.append(self._threads.submit(self._fill, batch, row, image, micro_batch.bucket))

    def _fill(self, batch: Batch, row: int, image: int, bucket: Bucket) -> None:
        seed = batch.sample_seeds[row]
        left_out = fill_train_row(
            batch,
            row,
            self._dataset,
            self._read_or_replace(image, seed, bucket),
            pasted=self._read_pasted(seed),
            augmentation=self._augmentation,
            short_edges=self._short_edges,
            max_size=self._max_size,
        )
        with self._counting:
            self.left_out.update(left_out)

    def _read_or_replace(self, image: int, seed: np.ndarray, bucket: Bucket) -> Photo:
        for attempt in range(MAX_REPLACEMENTS):
            photo = self._read(image)
            if photo is not None:
                return photo
            image = self._replacement(seed, attempt, bucket)
        return Photo(image, self._dataset.read_image(image))

    def _read_pasted(self, seed: np.ndarray) -> Photo | None:
        image = draw_pasted(self._augmentation, seed, self._paste_from)
        return None if image is None else self._read(image)

    def _read(self, image: int) -> Photo | None:
        """Read an image; return None, and count it, if the file cannot be read and on_error is "skip"."""
        try:
            return Photo(image, self._dataset.read_image(image))
        except DatasetError:
            if self._on_error == "raise":
                raise
            with self._counting:
                self.skipped[self._dataset.file_names[image]] += 1
            return None

    def _replacement(self, seed: np.ndarray, attempt: int, bucket: Bucket) -> int:
        turns = quarter_turns(seed[None], self._augmentation.rotate90)[0]
        candidates = self._sampler.images_on(bucket, is_turned=turns % 2 == 1)  # at least the unreadable one
        return int(generator(seed).choice(candidates, MAX_REPLACEMENTS)[attempt])


def _finish(step: _Step) -> list[Batch]:
    for row in step.rows:
        row.result()
    return step.batches


def _shapes_of_batches(buckets: Sequence[Bucket] | None, crop_size: int) -> list[Bucket]:
    if buckets is None and not crop_size:
        raise OptionError("buckets are missing: give some, for example default_buckets(800, 1333), or a crop_size")
    if buckets is None:
        return [(crop_size, crop_size)]
    shapes = [(int(height), int(width)) for height, width in buckets]
    if crop_size:
        raise OptionError(
            f"buckets={[list(shape) for shape in shapes]} cannot be used with augmentation.crop_size={crop_size}, "
            f"which makes every batch {crop_size} x {crop_size}: leave one of the two out"
        )
    return shapes


def _check_division(*, images_per_batch: int, global_batch: int, num_ranks: int) -> None:
    if global_batch % images_per_batch:
        raise OptionError(f"global_batch={global_batch} is not a multiple of images_per_batch={images_per_batch}")
    num_batches = global_batch // images_per_batch
    if num_batches % num_ranks:
        raise OptionError(
            f"global_batch={global_batch} is {num_batches} batches of images_per_batch={images_per_batch}, which "
            f"cannot be divided among num_ranks={num_ranks}: the number of batches must be a multiple of num_ranks"
        )
