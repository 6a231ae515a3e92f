"""Weights of the ancestor: Tensorpack `.npz` files, backbones or whole detectors.

They expect BGR images, and their fully connected rows run over (channel, y, x); both are turned on the way in.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mrcnn_model.checkpoint import CheckpointError, assign, read_weights, resolve_checkpoint, variable_key
from mrcnn_model.mask_rcnn import MaskRCNN


class WeightsReport(NamedTuple):
    """What a file and a model did not share, sorted."""

    unused: list[str]  # keys of the file that no variable took
    unfilled: list[str]  # variables that kept their start


def load_weights(model: MaskRCNN, path: str | Path) -> WeightsReport:
    """Fill a model from a Tensorpack `.npz` file or from one of our checkpoint or run directories.

    Raises:
        CheckpointError: the file is missing, of another kind, or a shape differs (key and both shapes are named).
    """
    path = Path(path)
    if path.is_dir():
        directory = resolve_checkpoint(path)
        return _fill(model, read_weights(directory), source=str(directory))
    if not path.is_file():
        raise CheckpointError(f"weights {path} do not exist")
    if path.suffix != ".npz":
        raise CheckpointError(f"weights {path}: expected a Tensorpack .npz file or a checkpoint directory")
    return load_tensorpack_weights(model, _read_npz(path), source=str(path))


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        arrays = np.load(path)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise CheckpointError(f"weights {path} cannot be read: one array, not an .npz of named arrays")
        with arrays:
            return dict(arrays)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file raises whatever its decoder meets: zip, zlib, tokenizer and more
        raise CheckpointError(f"weights {path} cannot be read: {error}") from error


def load_tensorpack_weights(
    model: MaskRCNN, arrays: Mapping[str, np.ndarray], *, source: str = "weights"
) -> WeightsReport:
    """Fill a model from Tensorpack variables by name.

    Args:
        arrays: {Tensorpack name: array}; a backbone alone is fine.

    Returns:
        Which keys were not used and which variables not filled.

    Raises:
        CheckpointError: no key is known, or a shape differs.
    """
    converted, unknown = {}, []
    for name, array in arrays.items():
        key = tensorpack_to_key(name)
        if key is None:
            unknown.append(name)
        else:
            converted[key] = _convert(key, array, pool_size=model.config.box_pool_size)
    if not converted:
        raise CheckpointError(f"{source} holds no variable of a Tensorpack ResNet-FPN model")
    report = _fill(model, converted, source=source)
    return WeightsReport(unused=sorted([*unknown, *report.unused]), unfilled=report.unfilled)


_LEAVES = {
    "W": "kernel",
    "b": "bias",
    "bn/gamma": "gamma",
    "bn/beta": "beta",
    "bn/mean/EMA": "moving_mean",
    "bn/variance/EMA": "moving_variance",
    "gn/gamma": "gamma",
    "gn/beta": "beta",
}
_LAYERS: list[tuple[str, str]] = [
    (r"conv0", "backbone.stem"),
    (r"fpn/lateral_1x1_c(\d)", r"fpn.lateral\1"),
    (r"fpn/posthoc_3x3_p(\d)", r"fpn.output\1"),
    (r"rpn/conv0", "rpn.conv"),
    (r"rpn/class", "rpn.logits"),
    (r"rpn/box", "rpn.deltas"),
    (r"fastrcnn/fc6", "box_head.fc1"),
    (r"fastrcnn/fc7", "box_head.fc2"),
    (r"fastrcnn/outputs/class", "box_head.logits"),
    (r"fastrcnn/outputs/box", "box_head.deltas"),
    (r"maskrcnn/fcn(\d)", r"mask_head.conv\1"),
    (r"maskrcnn/deconv", "mask_head.upsample"),
    (r"maskrcnn/conv", "mask_head.logits"),
]


def tensorpack_to_key(name: str) -> str | None:
    """Translate "group0/block0/conv1/bn/gamma" to "backbone.stage1.block0.conv1.gamma"; None if it is unknown."""
    layer, leaf = _split_leaf(name)
    if leaf is None:
        return None
    block = re.fullmatch(r"group(\d)/block(\d+)/(conv\d|convshortcut)", layer)
    if block:
        part = "shortcut" if block[3] == "convshortcut" else block[3]
        return f"backbone.stage{int(block[1]) + 1}.block{block[2]}.{part}.{leaf}"
    for pattern, replacement in _LAYERS:
        match = re.fullmatch(pattern, layer)
        if match:
            return f"{match.expand(replacement)}.{leaf}"
    return None


def _split_leaf(name: str) -> tuple[str, str | None]:
    name = name.removesuffix(":0")
    for suffix, leaf in _LEAVES.items():
        if name.endswith("/" + suffix):
            return name.removesuffix("/" + suffix), leaf
    return name, None


def _convert(key: str, array: np.ndarray, *, pool_size: int) -> np.ndarray:
    array = np.asarray(array, np.float32)
    if key == "backbone.stem.kernel" and array.ndim == 4:
        return array[:, :, ::-1, :]  # BGR -> RGB
    if key == "mask_head.upsample.kernel" and array.ndim == 4:
        return array.transpose(0, 1, 3, 2)  # [kh, kw, out, in] -> [kh, kw, in, out]
    if key == "box_head.fc1.kernel" and array.ndim == 2 and array.shape[0] % (pool_size * pool_size) == 0:
        rows = array.reshape(-1, pool_size, pool_size, array.shape[1])  # (channel, y, x) rows
        return rows.transpose(1, 2, 0, 3).reshape(array.shape)
    return array


def _fill(model: MaskRCNN, arrays: Mapping[str, np.ndarray], *, source: str) -> WeightsReport:
    by_key = {variable_key(v): v for v in model.variables}
    for key in sorted(by_key.keys() & arrays.keys()):
        assign(by_key[key], arrays[key], source=f"{source}: {key}")
    return WeightsReport(unused=sorted(arrays.keys() - by_key.keys()), unfilled=sorted(by_key.keys() - arrays.keys()))
