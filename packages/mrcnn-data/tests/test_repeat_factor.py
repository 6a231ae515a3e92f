"""How often images of rare classes are drawn."""

import itertools
from collections import Counter

import numpy as np
import pytest

from mrcnn_data import Augmentation, CocoDataset, TrainLoader, default_buckets
from mrcnn_data.loading.repeat_factor import repeat_factors

BOX = {"bbox": [5, 5, 9, 9], "segmentation": [[5, 5, 14, 5, 14, 14, 5, 14]]}


@pytest.fixture
def dataset(write_coco):
    """Category 3 (class 1) in 8 of 10 images, category 7 (class 2) in image 8 only, twice; images 9 and 10 empty."""
    annotations = [{**BOX, "image_id": number, "category_id": 3} for number in range(1, 9)]
    annotations += [{**BOX, "image_id": 8, "category_id": 7}] * 2
    annotations += [{**BOX, "image_id": 9, "category_id": 7, "iscrowd": 1}]
    return CocoDataset.from_root(write_coco([np.zeros((30, 40, 3), np.uint8)] * 10, annotations), "train")


def test_by_hand(dataset):
    images = np.arange(10)
    np.testing.assert_array_equal(repeat_factors(dataset, images, threshold=0.05), np.ones(10))
    factors = repeat_factors(dataset, images, threshold=0.4)
    np.testing.assert_allclose(factors, [1] * 7 + [2, 1, 1])  # sqrt(0.4 / 0.1); the crowd does not count
    factors = repeat_factors(dataset, images, threshold=1.0)
    np.testing.assert_allclose(factors, [np.sqrt(1 / 0.8)] * 7 + [np.sqrt(10), 1, 1])


def test_shares_are_of_the_images_that_are_drawn_from(dataset):
    factors = repeat_factors(dataset, np.array([0, 1, 2, 7]), threshold=1.0)
    np.testing.assert_allclose(factors, [1, 1, 1, 2])


def test_the_loader_draws_them_more_often_each_time_anew(dataset):
    options = {"buckets": default_buckets(30, 40), "short_edge": 30, "max_size": 40, "images_per_batch": 2}
    options |= {"global_batch": 2, "seed": 0, "augmentation": Augmentation(0.5)}
    with TrainLoader(dataset, repeat_threshold=0.4, **options) as loader:
        batches = [batch for step in itertools.islice(loader.steps(), 55) for batch in step]  # ten epochs of 11
        assert loader.num_images == 10
        assert loader.epoch_of(5) == 1.0
    counts = Counter(image for batch in batches for image in batch.image_ids)
    assert counts == {**dict.fromkeys(range(1, 11), 10), 8: 20}
    seeds = {tuple(seed) for batch in batches for seed in batch.sample_seeds}
    assert len(seeds) == 110


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_thresholds_that_cannot_work(dataset, threshold):
    options = {"buckets": default_buckets(30, 40), "short_edge": 30, "max_size": 40, "images_per_batch": 2}
    with pytest.raises(ValueError, match="repeat_threshold="):
        TrainLoader(dataset, global_batch=2, seed=0, augmentation=Augmentation(), repeat_threshold=threshold, **options)
