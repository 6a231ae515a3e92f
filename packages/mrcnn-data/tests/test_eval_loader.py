"""Every image once, in fixed shapes."""

import re

import numpy as np
import pytest

from mrcnn_data import CocoDataset, DatasetError, EvalLoader, default_buckets


@pytest.fixture
def dataset(write_coco):
    shapes = [(30, 40)] * 5 + [(40, 30)] * 3 + [(10, 40)]
    images = [np.full((*shape, 3), 20 * number, np.uint8) for number, shape in enumerate(shapes, start=1)]
    return CocoDataset.from_root(write_coco(images, []), "train")


def loader_of(dataset, **options):
    defaults = {"buckets": default_buckets(30, 40, multiple=8), "short_edge": 30, "max_size": 40, "batch_size": 2}
    return EvalLoader(dataset, **{**defaults, **options})


@pytest.mark.parametrize("batch_size", [1, 2, 4, 16])
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7])
def test_every_image_once_over_all_ranks(dataset, batch_size, num_ranks):
    seen = []
    for rank in range(num_ranks):
        loader = loader_of(dataset, batch_size=batch_size, rank=rank, num_ranks=num_ranks)
        batches = list(loader)
        assert len(loader) == len(batches)
        ids = [image for batch in batches for image in batch.image_ids if image is not None]
        assert len(ids) == loader.num_images
        seen += ids
        assert {batch.images.shape[1:3] for batch in batches} == set(loader.buckets)
        assert all(batch.images.shape[0] == batch_size for batch in batches)
    assert sorted(seen) == dataset.image_ids


def test_rows_hold_their_image(dataset):
    for batch in loader_of(dataset, batch_size=4):
        for row, image_id in enumerate(batch.image_ids):
            if image_id is None:
                assert not batch.images[row].any()
                assert batch.image_sizes[row].tolist() == [1, 1]
                assert batch.original_sizes[row].tolist() == [1, 1]
                continue
            height, width = batch.image_sizes[row]
            assert (height, width) == tuple(dataset.image_sizes[image_id - 1])
            assert (batch.images[row, :height, :width] == 20 * image_id).all()
            assert not batch.images[row, height:].any()
            assert not batch.images[row, :, width:].any()
        assert batch.gt_boxes.shape == (4, 0, 4)
        assert batch.gt_masks.shape == (4, 0, 112, 112)
        assert batch.crowd_boxes.shape == (4, 0, 4)


def test_it_can_be_walked_again(dataset):
    loader = loader_of(dataset)
    first = [batch.image_ids for batch in loader]
    assert first == [batch.image_ids for batch in loader]


def test_held_batches_stay_intact(dataset):
    batches = list(loader_of(dataset, batch_size=1))
    for batch in batches:
        assert batch.images.max() == 20 * batch.image_ids[0]


def test_limit(dataset):
    ids = [image for batch in loader_of(dataset, limit=6) for image in batch.image_ids if image is not None]
    assert sorted(ids) == [1, 2, 3, 4, 5, 6]
    assert loader_of(dataset, limit=99).num_images == 9


def test_unreadable_images(dataset):
    dataset.image_path(2).write_bytes(b"")
    with pytest.raises(DatasetError, match=re.escape(str(dataset.image_path(2)))):
        list(loader_of(dataset))
    loader = loader_of(dataset, on_error="skip")
    batches = list(loader)
    ids = [image for batch in batches for image in batch.image_ids if image is not None]
    assert sorted(ids) == [1, 2, 4, 5, 6, 7, 8, 9]
    assert loader.skipped == {"3.png": 1}
    assert loader.skipped_ids == [3]
    list(loader)
    assert loader.skipped_ids == [3]  # of the latest walk
    assert loader.num_images == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"num_threads": 0}, "num_threads=0"),
        ({"rank": 1}, "rank=1"),
        ({"limit": 0}, "limit=0"),
        ({"on_error": ""}, "on_error=''"),
        ({"buckets": [(8, 8)]}, "buckets="),
    ],
)
def test_options_that_cannot_work(dataset, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        loader_of(dataset, **options)
