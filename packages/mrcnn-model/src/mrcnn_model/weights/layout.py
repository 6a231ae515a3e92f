"""Describe how another project names and lays out the variables of this network.

"Key" means our name of a variable: "backbone.stage1.block0.conv1.kernel". "Name" means that of the other project:
"group0/block0/conv1/W". A rule for each kind of layer is used in both directions, so `to_keys` inverts `to_name`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from mrcnn_model.config import ModelConfig

Arrays: TypeAlias = Mapping[str, np.ndarray]
NORM_LEAVES = ("gamma", "beta", "moving_mean", "moving_variance")


class LayerRule(NamedTuple):
    """Names of one kind of layer. Each {} is a number, in the same order on both sides.

    Attributes:
        ours: key of the layer, such as "backbone.stage{}.block{}.conv{}".
        theirs: name of the layer, for kernel and bias.
        norm: name of the norm after it, for scale, shift and statistics.
        offsets: added to our numbers to make theirs; empty if the numbers are the same.
    """

    ours: str
    theirs: str
    norm: str | None = None
    offsets: Sequence[int] = ()


class HeadOptions(NamedTuple):
    """The options on which the layout of the heads depends."""

    box_pool_size: int  # the first fully connected layer reads pool_size^2 positions
    class_agnostic_boxes: bool


class Layout(NamedTuple):
    """Names and memory layout of another project.

    Attributes:
        title: name of the project, for messages.
        rules: a rule for every kind of layer.
        leaves: variables of a layer and its norm: the last part of our key -> theirs, with the separator.
        canonical: turns a name of another version or kind of network into the one in the rules.
        specific: inverts `canonical` for a network with given options.
        read: (key, array, options) -> our array.
        write: inverts `read`; None if weights cannot be written for this project.
        conventions: takes arrays by name and returns the options of `ModelConfig` that the project's networks use.
    """

    title: str
    rules: Sequence[LayerRule]
    leaves: Mapping[str, str]
    canonical: Callable[[str], str]
    specific: Callable[[str, ModelConfig], str]
    read: Callable[[str, np.ndarray, HeadOptions], np.ndarray]
    write: Callable[[str, np.ndarray, HeadOptions], np.ndarray] | None
    conventions: Callable[[Arrays], dict[str, Any]]


def to_keys(names: Iterable[str], layout: Layout) -> dict[str, str]:
    """Return {name: key} for the names that belong to the layout.

    >>> from mrcnn_model.weights.tensorpack import TENSORPACK
    >>> to_keys(["group0/block1/conv2/W", "learning_rate"], TENSORPACK)
    {'group0/block1/conv2/W': 'backbone.stage1.block1.conv2.kernel'}
    """
    keys = {name: _to_key(layout.canonical(name), layout) for name in names}
    return {name: key for name, key in keys.items() if key is not None}


def to_name(key: str, layout: Layout, config: ModelConfig) -> str | None:
    """Return the name of a key in a network with these options; None if the layout has no name for it."""
    layer, _, leaf = key.rpartition(".")
    for rule in layout.rules:
        target = rule.norm if leaf in NORM_LEAVES else rule.theirs
        name = None if target is None else _translate(layer, rule.ours, target, rule.offsets)
        if name is not None and leaf in layout.leaves:
            return layout.specific(name + layout.leaves[leaf], config)
    return None


def _to_key(name: str, layout: Layout) -> str | None:
    for leaf, suffix in layout.leaves.items():
        layer = name.removesuffix(suffix)
        if layer == name:
            continue
        for rule in layout.rules:
            source = rule.norm if leaf in NORM_LEAVES else rule.theirs
            ours = None if source is None else _translate(layer, source, rule.ours, [-o for o in rule.offsets])
            if ours is not None:
                return f"{ours}.{leaf}"
    return None


def _translate(text: str, source: str, target: str, offsets: Sequence[int]) -> str | None:
    """Read the numbers of `text` by one template and write them, shifted, into another."""
    match = re.fullmatch(re.escape(source).replace(r"\{\}", r"(\d+)"), text)
    if match is None:
        return None
    numbers = [int(number) for number in match.groups()]
    return target.format(*(n + o for n, o in zip(numbers, offsets or [0] * len(numbers), strict=True)))


def flat_rows_to_channels_last(kernel: np.ndarray, *, pool_size: int) -> np.ndarray:
    """Reorder the rows of a fully connected layer over pooled features: (channel, y, x) -> (y, x, channel)."""
    rows = kernel.reshape(-1, pool_size, pool_size, kernel.shape[1])
    return rows.transpose(1, 2, 0, 3).reshape(kernel.shape)


def flat_rows_to_channels_first(kernel: np.ndarray, *, pool_size: int) -> np.ndarray:
    """Reorder the rows of a fully connected layer over pooled features: (y, x, channel) -> (channel, y, x)."""
    rows = kernel.reshape(pool_size, pool_size, -1, kernel.shape[1])
    return rows.transpose(2, 0, 1, 3).reshape(kernel.shape)


def is_first_dense_kernel(key: str) -> bool:
    """Return whether a key is the kernel whose rows run over pooled features."""
    return re.fullmatch(r"box_head\d?\.fc1\.kernel", key) is not None
