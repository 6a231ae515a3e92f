"""Resized sizes and buckets."""

import numpy as np
import pytest

from mrcnn_data import DatasetError, default_buckets
from mrcnn_data.images.geometry import resized_sizes
from mrcnn_data.loading.buckets import assign_buckets


def test_sizes_by_hand():
    sizes = np.array([[480, 640], [640, 480], [427, 640], [300, 1200], [500, 500], [1, 5000]])
    expected = [[800, 1067], [1067, 800], [800, 1199], [333, 1333], [800, 800], [1, 1333]]
    np.testing.assert_array_equal(resized_sizes(sizes, short_edge=800, max_size=1333), expected)


def test_default_buckets_of_the_recipe():
    expected = ((800, 800), (800, 1088), (1088, 800), (800, 1216), (1216, 800), (800, 1344), (1344, 800))
    assert default_buckets(800, 1333) == expected


def test_square_images_need_one_bucket():
    assert default_buckets(160, 160) == ((160, 160),)
    assert default_buckets(300, 160) == ((160, 160),)


@pytest.mark.parametrize(("short_edge", "max_size"), [(800, 1333), (160, 213), (33, 500), (256, 256), (640, 650)])
def test_every_image_fits(short_edge, max_size):
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(np.log(10), np.log(5000), (3000, 2))).astype(int)
    resized = resized_sizes(sizes, short_edge=short_edge, max_size=max_size)
    buckets = np.array(default_buckets(short_edge, max_size))
    assigned = assign_buckets(resized, [tuple(bucket) for bucket in buckets])
    assert (buckets % 32 == 0).all()
    assert (resized <= buckets[assigned]).all()


def test_smallest_bucket_is_taken_and_none_is_an_error():
    buckets = [(100, 100), (50, 60), (60, 50)]
    np.testing.assert_array_equal(assign_buckets(np.array([[50, 60], [51, 50], [70, 10]]), buckets), [1, 2, 0])
    with pytest.raises(DatasetError, match=r"buckets=.*120 x 30"):
        assign_buckets(np.array([[50, 60], [120, 30]]), buckets)
