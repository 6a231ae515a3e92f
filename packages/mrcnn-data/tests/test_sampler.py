"""The sequence of global batches: pure, fair, of one aspect class a step."""

import itertools
from collections import Counter

import numpy as np
import pytest

from mrcnn_data import default_buckets
from mrcnn_data.loading.sampler import GlobalBatchSampler

LANDSCAPE, PORTRAIT, PANORAMA = (800, 1067), (1067, 800), (400, 1333)


def sampler_of(sizes, *, images_per_batch=1, global_batch=4, seed=0, rotate90=0.0, buckets=None, repeats=None):
    return GlobalBatchSampler(
        np.arange(len(sizes)),
        np.array(sizes),
        buckets=buckets or default_buckets(800, 1333),
        images_per_batch=images_per_batch,
        global_batch=global_batch,
        seed=seed,
        rotate90=rotate90,
        repeats=None if repeats is None else np.array(repeats, np.float64),
    )


def first(sampler, num_steps, start_step=0):
    return list(itertools.islice(sampler.steps(start_step), num_steps))


MIXED = [LANDSCAPE] * 40 + [PORTRAIT] * 15 + [PANORAMA] * 12 + [PANORAMA[::-1]] * 3


@pytest.mark.parametrize(("images_per_batch", "global_batch"), [(1, 6), (2, 8), (4, 4), (3, 9)])
def test_steps_have_one_aspect_class_and_batches_one_bucket(images_per_batch, global_batch):
    sampler = sampler_of(MIXED, images_per_batch=images_per_batch, global_batch=global_batch)
    orientations = Counter()
    for step in first(sampler, 100):
        assert len(step) == global_batch // images_per_batch
        assert len({tuple(sorted(batch.bucket)) for batch in step}) == 1
        for batch in step:
            assert len(batch.samples) == images_per_batch
            for _, image in batch.samples:
                assert (np.array(MIXED[image]) <= batch.bucket).all()
                orientations[batch.bucket[0] > batch.bucket[1]] += 1
    assert orientations[True] / orientations.total() == pytest.approx(18 / 70, abs=0.08)


def test_orientations_mix_within_a_step():
    steps = first(sampler_of(MIXED, global_batch=6), 100)
    assert sum(len({batch.bucket for batch in step}) == 2 for step in steps) > 30


@pytest.mark.parametrize(
    "sizes", [MIXED, [LANDSCAPE] * 14, [LANDSCAPE] * 3, [PORTRAIT], [PANORAMA] * 2 + [PORTRAIT] * 5]
)
@pytest.mark.parametrize(("images_per_batch", "global_batch"), [(1, 4), (1, 42), (2, 4)])
def test_every_image_once_an_epoch_and_nothing_lost(sizes, images_per_batch, global_batch):
    sampler = sampler_of(sizes, images_per_batch=images_per_batch, global_batch=global_batch)
    steps = first(sampler, 60 * len(sizes) // global_batch + 60)
    samples = [sample for step in steps for batch in step for sample in batch.samples]
    assert len(set(samples)) == len(samples)
    # What the last epochs left waiting is bounded: by a step of each class and a batch of each bucket.
    started = max(epoch for epoch, _ in samples)
    complete = {(epoch, image) for epoch in range(started) for image in range(len(sizes))}
    waiting = complete - set(samples)
    assert len(waiting) <= 2 * global_batch + 4 * images_per_batch
    assert all(epoch >= started - 1 - images_per_batch for epoch, _ in waiting)


def test_everyone_is_seen_equally_often_within_one():
    """Counted after every step, with classes that alone would be too small for a step of 42."""
    sampler = sampler_of(MIXED, global_batch=42)
    counts = Counter()
    for step in first(sampler, 100):
        for batch in step:
            for _, image in batch.samples:
                counts[image] += 1
        assert max(counts.values()) - min(counts[image] for image in range(len(MIXED))) <= 1
    assert min(counts[image] for image in range(len(MIXED))) >= 59


@pytest.mark.parametrize(("num_images", "images_per_batch"), [(4, 1), (4, 2), (5, 1)])
def test_the_first_epoch_sees_every_image(num_images, images_per_batch):
    steps = first(
        sampler_of([LANDSCAPE] * num_images, images_per_batch=images_per_batch, global_batch=images_per_batch),
        num_images // images_per_batch,
    )
    seen = sorted(image for step in steps for batch in step for _, image in batch.samples)
    assert seen == list(range(num_images))


def test_the_last_of_an_odd_number_opens_the_next_epoch():
    """Five images in batches of two: the fifth comes with the first of the second epoch, and nothing twice or never."""
    steps = first(sampler_of([LANDSCAPE] * 5, images_per_batch=2, global_batch=2), 5)
    samples = [sample for step in steps for batch in step for sample in batch.samples]
    assert sorted(samples) == [(epoch, image) for epoch in (0, 1) for image in range(5)]
    assert {epoch for epoch, _ in samples[4:6]} == {0, 1}


def test_several_classes_are_at_most_an_epoch_apart():
    counts = Counter()
    for step in first(sampler_of(MIXED, global_batch=6), 1000):
        counts.update(image for batch in step for _, image in batch.samples)
        # One may have had its turn of this epoch while another still waits with the one before.
        assert max(counts.values()) - min(counts[image] for image in range(len(MIXED))) <= 2


def test_membership_changes_and_the_seed_matters():
    sampler = sampler_of([LANDSCAPE] * 16)
    epochs = [frozenset(image for _, image in batch.samples) for step in first(sampler, 8) for batch in step]
    assert epochs[:16] != epochs[16:]
    assert first(sampler, 8) == first(sampler_of([LANDSCAPE] * 16), 8)
    assert first(sampler, 8) != first(sampler_of([LANDSCAPE] * 16, seed=1), 8)


@pytest.mark.parametrize("rotate90", [0.0, 1.0])
def test_any_step_can_be_the_first(rotate90):
    sampler = sampler_of(MIXED, images_per_batch=2, global_batch=8, rotate90=rotate90)
    steps = first(sampler, 60)
    for start in (0, 1, 7, 8, 9, 41):
        assert first(sampler, 60 - start, start) == steps[start:]


def test_quarter_turns_swap_the_bucket_about_half_the_time():
    sampler = sampler_of([LANDSCAPE] * 50, rotate90=1.0)
    buckets = Counter(batch.bucket for step in first(sampler, 200) for batch in step)
    assert set(buckets) == {(800, 1088), (1088, 800)} == set(sampler.buckets)
    assert buckets[(800, 1088)] / buckets.total() == pytest.approx(0.5, abs=0.06)


def test_rare_classes_join_the_next_larger():
    assert sampler_of(MIXED, global_batch=4).buckets == ((800, 1088), (1088, 800), (800, 1344), (1344, 800))
    # 15 panoramas are too few for 42, and the largest class can only take others in.
    assert sampler_of(MIXED, global_batch=42).buckets == ((800, 1344), (1344, 800))
    few = [LANDSCAPE] * 2 + [(800, 1190)] * 60
    assert sampler_of(few, global_batch=4).buckets == ((800, 1216),)


def test_rare_classes_join_only_buckets_that_hold_them():
    """A class may have a bucket of one orientation alone."""
    lying, standing = (256, 384), (512, 256)
    assert sampler_of([lying] * 2, buckets=[lying, standing]).buckets == (lying,)
    assert sampler_of([lying] * 2 + [standing] * 2, buckets=[lying, standing]).buckets == (lying, standing)
    # (256, 200) fits the standing one: alone it could join; with what lies it cannot, without a bucket for both.
    assert sampler_of([(256, 200)] * 2 + [standing] * 4, buckets=[lying, standing]).buckets == (standing,)
    mixed = [(256, 200), lying] + [standing] * 4
    assert sampler_of(mixed, buckets=[lying, standing]).buckets == (lying, standing)
    # Upright those of 384 x 256 would fit the standing bucket, on their side they do not.
    buckets = [(384, 256), lying, standing]
    images = [(384, 256)] * 2 + [(512, 250)] * 4
    assert sampler_of(images, buckets=buckets).buckets == (standing,)
    with_square = [*buckets, (512, 512)]
    assert sampler_of(images, buckets=with_square, rotate90=0.5).buckets == ((384, 256), lying, standing, (512, 512))


@pytest.mark.parametrize("rotate90", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(20))
def test_any_images_fit_the_buckets_of_their_steps(seed, rotate90):
    rng = np.random.default_rng(seed)
    buckets = [tuple(bucket) for bucket in rng.integers(4, 12, (5, 2)).tolist()] + [(12, 12)]
    sizes = np.array([rng.integers(1, np.add(buckets[rng.integers(6)], 1)) for _ in range(12)])
    sampler = sampler_of(sizes, buckets=buckets, rotate90=rotate90)
    for bucket in sampler.buckets:
        assert (sizes[sampler.images_on(bucket, is_turned=False)] <= bucket).all()
        if rotate90:
            assert (sizes[sampler.images_on(bucket, is_turned=True)][:, ::-1] <= bucket).all()
    assert len(first(sampler, 20)) == 20


def test_replaying_many_small_epochs_is_quick():
    sampler = sampler_of([LANDSCAPE] * 14)
    assert len(first(sampler, 1, start_step=20_000)) == 1


REPEATS = [1.0] * 10 + [1.5] * 4 + [2.0, 3.25, 7.9]


def test_repeated_images_are_drawn_so_much_more_often_within_one():
    """Counted in one class of buckets; no draw of an image comes twice."""
    sampler = sampler_of([LANDSCAPE] * len(REPEATS), repeats=REPEATS)
    samples = [sample for step in first(sampler, 1500) for batch in step for sample in batch.samples]
    counts = Counter(image for _, image in samples)
    epochs = len(samples) / sum(REPEATS)
    for image, repeats in enumerate(REPEATS):
        # Within one of an epoch's share, and the running epoch may be done with this image, or not yet begun.
        assert abs(counts[image] - epochs * repeats) <= 1 + repeats
        draws = {draw for draw, one in samples if one == image}
        assert len(draws) == counts[image]
        assert max(draws) < len(draws) + repeats  # those of the running epoch come in any order


def test_repeats_come_out_even():
    """After 20 epochs of 29.15 draws the fractions 0.5, 0.25 and 0.9 have all become whole."""
    sampler = sampler_of([LANDSCAPE] * len(REPEATS), repeats=REPEATS, global_batch=1)
    counts = Counter(image for step in first(sampler, 583) for batch in step for _, image in batch.samples)
    assert [counts[image] for image in range(len(REPEATS))] == [20] * 10 + [30] * 4 + [40, 65, 158]


def test_repeats_of_one_change_nothing():
    plain = first(sampler_of(MIXED, rotate90=1.0), 60)
    assert first(sampler_of(MIXED, rotate90=1.0, repeats=[1.0] * len(MIXED)), 60) == plain


@pytest.mark.parametrize("rotate90", [0.0, 1.0])
def test_any_step_can_be_the_first_with_repeats(rotate90):
    sampler = sampler_of([LANDSCAPE] * len(REPEATS), repeats=REPEATS, rotate90=rotate90, images_per_batch=2)
    steps = first(sampler, 40)
    for start in (1, 9, 23):
        assert first(sampler, 40 - start, start) == steps[start:]
