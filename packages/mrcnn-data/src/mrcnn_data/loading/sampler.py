"""Which images make up the global batch of a step: a pure function of (seed, step).

Every epoch permutes all images (a rare one may occur more than once). In that order each image joins the queue of its
bucket; `images_per_batch` of them make a micro-batch, which joins the queue of its aspect class; enough of those make a
step. So all images of a step have one aspect class, landscape and portrait mixed as in the data, and images that do not
fill a batch wait for the next epoch. Legend: I images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mrcnn_data.loading.buckets import Bucket, aspect_class, assign_buckets
from mrcnn_data.loading.seeds import quarter_turns, sample_seeds

_PERMUTATION_STREAM = 0x5EED  # separates the order of an epoch from other generators of the same seed
_PHASE_STREAM = 0xFACE


class MicroBatch(NamedTuple):
    """Images of one bucket, each as (draw, image index), where `draw` counts earlier draws of this image in the run.

    Without repeats, `draw` is the epoch that drew the image, also if the image waited until a later epoch.
    """

    bucket: Bucket
    samples: tuple[tuple[int, int], ...]


class GlobalBatchSampler:
    """Divide endless epochs into steps.

    Args:
        images: int64 [I] indices of the images to draw from.
        sizes: int64 [I, 2] (h, w), the largest size each is resized to.
        buckets: (h, w) to choose from.
        rotate90: probability of drawing a quarter turn (see `Augmentation`); it may change the bucket.
        repeats: float64 [I], how often each image is drawn in an epoch, at least 1. After e epochs an image was drawn
            e x repeats times, rounded up or down. None = once.
    """

    def __init__(
        self,
        images: np.ndarray,
        sizes: np.ndarray,
        *,
        buckets: Sequence[Bucket],
        images_per_batch: int,
        global_batch: int,
        seed: int,
        rotate90: float,
        repeats: np.ndarray | None = None,
    ) -> None:
        self.images = images
        self._images_per_batch = images_per_batch
        self._micro_batches = global_batch // images_per_batch
        self._seed = seed
        self._rotate90 = rotate90
        self._repeats = np.ones(len(images)) if repeats is None else repeats
        # The extra draws of a fractional repeat fall into different epochs for different images.
        phases = np.random.default_rng([seed, _PHASE_STREAM]).random(len(images))
        self._phases = np.where(self._repeats % 1.0 == 0.0, 0.0, phases)
        self._buckets = list(buckets)
        upright = assign_buckets(sizes, buckets)  # [I] index of a bucket
        turned = assign_buckets(sizes[:, ::-1], buckets) if rotate90 else upright
        placed = [(sizes, upright), (sizes[:, ::-1], turned)] if rotate90 else [(sizes, upright)]
        hosts = _merge_rare_classes(placed, buckets, at_least=global_batch)
        self._upright = _move(upright, sizes, buckets, hosts)
        self._turned = _move(turned, sizes[:, ::-1], buckets, hosts) if rotate90 else self._upright

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The buckets that occur: a graph is traced once for each."""
        used = np.union1d(self._upright, self._turned)
        return tuple(self._buckets[index] for index in used)

    def images_on(self, bucket: Bucket, *, is_turned: bool) -> np.ndarray:
        """List the images that belong to this bucket, either turned on their side or not."""
        assigned = self._turned if is_turned else self._upright
        return np.asarray(self.images[assigned == self._buckets.index(bucket)])

    def steps(self, start_step: int = 0) -> Iterator[list[MicroBatch]]:
        """Yield the micro-batches of step `start_step`, of the next, and so on without end.

        Earlier steps are computed again but not loaded: about 50 ms for an epoch of train2017.
        """
        waiting: dict[int, list[tuple[int, int]]] = {}  # by bucket
        ready: dict[tuple[int, int], list[MicroBatch]] = {}  # by aspect class
        classes = [aspect_class(bucket) for bucket in self._buckets]
        epoch = step = 0
        while True:
            for draw, image, bucket in zip(*self._epoch(epoch), strict=True):
                queue = waiting.setdefault(bucket, [])
                queue.append((draw, image))
                if len(queue) < self._images_per_batch:
                    continue
                batches = ready.setdefault(classes[bucket], [])
                batches.append(MicroBatch(self._buckets[bucket], tuple(queue)))
                queue.clear()
                if len(batches) < self._micro_batches:
                    continue
                if step >= start_step:
                    yield batches
                step += 1
                ready[classes[bucket]] = []
            epoch += 1

    def _epoch(self, epoch: int) -> tuple[list[int], list[int], list[int]]:
        """Return what an epoch draws, in order: draw, image index and bucket index of each."""
        before, after = (self._drawn_before(number) for number in (epoch, epoch + 1))
        rows = np.repeat(np.arange(len(self.images)), after - before)
        first = np.cumsum(after - before) - (after - before)  # where the draws of each image begin in `rows`
        draws = before[rows] + np.arange(len(rows)) - first[rows]
        order = np.random.default_rng([self._seed, _PERMUTATION_STREAM, epoch]).permutation(len(rows))
        rows, draws = rows[order], draws[order]
        buckets = self._upright[rows]
        if self._rotate90:
            seeds = sample_seeds(self._seed, draws, self.images[rows])
            is_turned = quarter_turns(seeds, self._rotate90) % 2 == 1
            buckets = np.where(is_turned, self._turned[rows], buckets)
        return draws.tolist(), self.images[rows].tolist(), buckets.tolist()

    def _drawn_before(self, epoch: int) -> np.ndarray:
        """Count the draws of each image before an epoch: int64 [I]."""
        return np.floor(epoch * self._repeats + self._phases).astype(np.int64)


def _merge_rare_classes(
    placed: Sequence[tuple[np.ndarray, np.ndarray]], buckets: Sequence[Bucket], *, at_least: int
) -> dict[tuple[int, int], tuple[int, int]]:
    """Map every aspect class to the class whose buckets its images use.

    A class with fewer images than a global batch would wait several epochs and then fill a step with copies of a few
    images. Its images go to the next larger class whose buckets hold them all; if there is none, the class takes in the
    images of the next smaller class. A class may have buckets of only one orientation, so each size is compared.

    Args:
        placed: sizes int64 [I, 2] and buckets int64 [I] of all images as they are, and then, if they may be turned, of
            all images on their side. Only the first are counted, but all have to fit.
    """
    of_class: dict[tuple[int, int], list[Bucket]] = {}
    for bucket in buckets:
        of_class.setdefault(aspect_class(bucket), []).append(bucket)
    hosts = {one: one for one in of_class}
    counts = dict.fromkeys(of_class, 0)
    sizes_of: dict[tuple[int, int], set[tuple[int, int]]] = {one: set() for one in of_class}
    for number, (sizes, assigned) in enumerate(placed):
        for (height, width), index in zip(sizes.tolist(), assigned.tolist(), strict=True):
            one = aspect_class(buckets[index])
            sizes_of[one].add((height, width))
            counts[one] += number == 0

    def holds(one: tuple[int, int], other: tuple[int, int]) -> bool:
        sizes, room = np.array(sorted(sizes_of[other])), np.array(of_class[one])
        fits = np.less_equal(sizes[:, None], room).all(axis=2)  # [sizes, buckets]
        return bool(fits.any(axis=1).all())

    def merge(source: tuple[int, int], target: tuple[int, int]) -> None:
        counts[target] += counts.pop(source)
        sizes_of[target] |= sizes_of.pop(source)
        for one, host in hosts.items():
            if host == source:
                hosts[one] = target

    for one in [one for one, count in counts.items() if count == 0]:
        del counts[one]
    while True:
        for rare in sorted((one for one, count in counts.items() if count < at_least), key=_area):
            larger = [one for one in counts if one != rare and holds(one, rare)]
            if larger:
                merge(rare, min(larger, key=_area))
                break
            smaller = [one for one in counts if one != rare and holds(rare, one)]
            if smaller:
                merge(max(smaller, key=_area), rare)
                break
        else:
            return hosts


def _move(
    assigned: np.ndarray,
    sizes: np.ndarray,
    buckets: Sequence[Bucket],
    hosts: dict[tuple[int, int], tuple[int, int]],
) -> np.ndarray:
    """Reassign every image to the smallest bucket of its host class that holds it."""
    moved = assigned.copy()
    host_of_image = [hosts[aspect_class(buckets[index])] for index in assigned]
    for host in set(host_of_image):
        rows = np.flatnonzero([one == host for one in host_of_image])
        candidates = [index for index, bucket in enumerate(buckets) if aspect_class(bucket) == host]
        within = assign_buckets(sizes[rows], [buckets[index] for index in candidates])
        moved[rows] = np.asarray(candidates)[within]
    return moved


def _area(one: tuple[int, int]) -> int:
    return one[0] * one[1]
