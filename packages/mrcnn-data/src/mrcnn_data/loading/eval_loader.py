"""The batches of evaluation: every image exactly once, in fixed shapes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np

from mrcnn_data.annotations.columns import Id
from mrcnn_data.annotations.dataset import CocoDataset
from mrcnn_data.errors import DatasetError, require_at_least, require_on_error, require_rank
from mrcnn_data.images.geometry import resize_only, resized_sizes
from mrcnn_data.loading.batch import Batch, BufferPool, new_batch
from mrcnn_data.loading.buckets import Bucket, assign_buckets
from mrcnn_data.loading.train_sample import write_image

BATCHES_AHEAD = 2  # one being loaded while one waits


class EvalLoader:
    """Batches of images without ground truth (G = K = 0); over all ranks, each image of the dataset comes once.

    A batch always has `batch_size` rows. If a bucket runs out of images, the remaining rows are padding: `image_ids`
    None, `image_sizes` and `original_sizes` (1, 1), pixels zero. With on_error="skip", the row of a file that cannot be
    read is padding too: `skipped` counts these files by name, and `skipped_ids` lists the images of the latest
    iteration, which a scorer has to count as images without detections.

    Args:
        buckets, short_edge, max_size: as in training.
        rank, num_ranks: this process takes every num_ranks-th batch; with few images it may get none.
        limit: load only the first `limit` images of the file.
        on_error: "raise" or "skip".
    Raises:
        OptionError: an option that cannot work.
    """

    max_gt = max_crowds = 0  # of its batches

    def __init__(
        self,
        dataset: CocoDataset,
        *,
        buckets: Sequence[Bucket],
        short_edge: int,
        max_size: int,
        batch_size: int,
        num_threads: int = 2,
        rank: int = 0,
        num_ranks: int = 1,
        limit: int | None = None,
        on_error: str = "raise",
    ) -> None:
        require_at_least(1, batch_size=batch_size, num_threads=num_threads, limit=1 if limit is None else limit)
        require_rank(rank, num_ranks)
        require_on_error(on_error)
        self._dataset = dataset
        self.batch_size = batch_size
        self._on_error = on_error
        self._num_threads = num_threads
        buckets = [(int(height), int(width)) for height, width in buckets]
        self._sizes = resized_sizes(dataset.image_sizes[:limit], short_edge=short_edge, max_size=max_size)  # [n, 2]
        assigned = assign_buckets(self._sizes, buckets)
        batches = [
            (bucket, images[start : start + batch_size].tolist())
            for number, bucket in enumerate(buckets)
            for images in [np.flatnonzero(assigned == number)]
            for start in range(0, len(images), batch_size)
        ]
        self._batches: list[tuple[Bucket, list[int]]] = batches[rank::num_ranks]
        self.skipped: Counter[str] = Counter()
        self.skipped_ids: list[Id] = []
        cv2.setNumThreads(0)

    def __len__(self) -> int:
        """Count the batches of this rank."""
        return len(self._batches)

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The buckets (h, w) that the batches of this rank have."""
        return tuple(dict.fromkeys(bucket for bucket, _ in self._batches))

    @property
    def num_images(self) -> int:
        """Number of images of this rank."""
        return sum(len(images) for _, images in self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches; raise DatasetError, naming the file, if an image cannot be read."""
        self.skipped_ids = []
        pool = BufferPool()
        ahead: deque[tuple[Batch, list[Future[None]]]] = deque()
        threads = ThreadPoolExecutor(self._num_threads, thread_name_prefix="mrcnn-data")
        try:
            for bucket, images in self._batches:
                batch = new_batch(pool, num_images=self.batch_size, bucket=bucket, num_gt=0, num_crowds=0)
                filled = [threads.submit(self._fill, batch, row, image) for row, image in enumerate(images)]
                for row in range(len(images), self.batch_size):
                    _pad(batch, row)
                ahead.append((batch, filled))
                if len(ahead) > BATCHES_AHEAD:
                    yield _finish(*ahead.popleft())
            while ahead:
                yield _finish(*ahead.popleft())
        finally:
            threads.shutdown(wait=True, cancel_futures=True)

    def _fill(self, batch: Batch, row: int, image: int) -> None:
        try:
            pixels = self._dataset.read_image(image)
        except DatasetError:
            if self._on_error == "raise":
                raise
            self.skipped[self._dataset.file_names[image]] += 1
            self.skipped_ids.append(self._dataset.image_ids[image])
            _pad(batch, row)
            return
        height, width = map(int, self._sizes[image])
        write_image(batch, row, pixels, resize_only((pixels.shape[0], pixels.shape[1]), (height, width)))
        batch.image_ids[row] = self._dataset.image_ids[image]


def _pad(batch: Batch, row: int) -> None:
    batch.images[row] = 0
    batch.image_sizes[row] = 1
    batch.original_sizes[row] = 1


def _finish(batch: Batch, filled: list[Future[None]]) -> Batch:
    for row in filled:
        row.result()
    return batch
