"""The loaders as tf.data: the same batches, whatever the graph around them. Skips where TensorFlow is not installed."""

import itertools

import numpy as np
import pytest

from mrcnn_data import Augmentation, Batch, CocoDataset, EvalLoader, TrainLoader, default_buckets, to_tf_dataset

tf = pytest.importorskip("tensorflow")

BOX = {"bbox": [5, 5, 9, 9], "segmentation": [[5, 5, 14, 5, 14, 14, 5, 14]]}
SIZES = {"buckets": default_buckets(30, 40), "short_edge": 30, "max_size": 40}


@pytest.fixture
def dataset(write_coco):
    images = [np.full((30, 40, 3) if number % 2 else (40, 30, 3), 20 * number, np.uint8) for number in range(1, 8)]
    return CocoDataset.from_root(write_coco(images, [{**BOX, "image_id": number} for number in range(1, 8)]), "train")


def assert_same(tensors, batch):
    assert isinstance(tensors, Batch)
    for name in set(Batch._fields) - {"image_ids"}:
        expected = getattr(batch, name)
        assert getattr(tensors, name).dtype == expected.dtype, name
        np.testing.assert_array_equal(getattr(tensors, name), expected, err_msg=name)
    ids = ["" if image_id is None else str(image_id) for image_id in batch.image_ids]
    assert [one.decode() for one in tensors.image_ids.numpy()] == ids


@pytest.mark.parametrize("start_step", [0, 3])
def test_training(dataset, start_step):
    options = {"images_per_batch": 2, "global_batch": 4, "seed": 0, "max_gt": 3, "max_crowds": 1}
    with TrainLoader(dataset, augmentation=Augmentation(0.5, rotate90=1.0), **options, **SIZES) as loader:
        expected = [batch for step in itertools.islice(loader.steps(start_step), 3) for batch in step]
        found = to_tf_dataset(loader, start_step=start_step).take(6)
        assert found.element_spec.gt_masks.shape == [2, 3, 112, 112]
        for tensors, batch in zip(found, expected, strict=True):
            assert_same(tensors, batch)


def test_evaluation_twice(dataset):
    loader = EvalLoader(dataset, batch_size=2, **SIZES)
    found = to_tf_dataset(loader)
    for _ in range(2):
        for tensors, batch in zip(found, loader, strict=True):
            assert_same(tensors, batch)


def test_in_a_graph_with_what_tf_data_offers(dataset):
    found = to_tf_dataset(EvalLoader(dataset, batch_size=1, **SIZES))
    sums = found.map(lambda batch: tf.reduce_sum(tf.cast(batch.images, tf.int64))).prefetch(2)
    assert sorted(sums.as_numpy_iterator()) == [20 * number * 30 * 40 * 3 for number in range(1, 8)]
