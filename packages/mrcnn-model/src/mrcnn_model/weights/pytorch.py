"""The memory layout of PyTorch's convolutions and fully connected layers."""

import numpy as np

from mrcnn_model.weights.layout import (
    HeadOptions,
    flat_rows_to_channels_first,
    flat_rows_to_channels_last,
    is_first_dense_kernel,
)

LEAVES = {
    "kernel": ".weight",
    "bias": ".bias",
    "gamma": ".weight",
    "beta": ".bias",
    "moving_mean": ".running_mean",
    "moving_variance": ".running_var",
}


def read_kernel(key: str, array: np.ndarray, options: HeadOptions) -> np.ndarray:
    """Turn [out, in, kh, kw], transposed [in, out, kh, kw] and dense [out, in] kernels into ours."""
    if not key.endswith(".kernel"):
        return array
    if key == "mask_head.upsample.kernel":
        return array.transpose(2, 3, 0, 1)
    array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    if is_first_dense_kernel(key):
        return flat_rows_to_channels_last(array, pool_size=options.box_pool_size)  # rows are (channel, y, x)
    return array


def write_kernel(key: str, array: np.ndarray, options: HeadOptions) -> np.ndarray:
    """Invert `read_kernel`."""
    if not key.endswith(".kernel"):
        return array
    if key == "mask_head.upsample.kernel":
        return array.transpose(2, 3, 0, 1)
    if is_first_dense_kernel(key):
        array = flat_rows_to_channels_first(array, pool_size=options.box_pool_size)
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
