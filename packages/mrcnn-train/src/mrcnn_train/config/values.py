"""Values computed from the options alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mrcnn_data import default_buckets
from mrcnn_model import ModelConfig
from mrcnn_train.config.options import DataOptions, LaunchOptions
from mrcnn_train.errors import ConfigError
from mrcnn_train.job.hosts import parse_hosts

Bucket = tuple[int, int]  # (height, width) of a padded batch, pixels


def as_list(value: Any) -> list[str]:
    """Return the value of an option, which may be one value, a list or None, as a list.

    >>> as_list("train"), as_list(["a", "b"]), as_list(None)
    (['train'], ['a', 'b'], [])
    """
    if value is None:
        return []
    return [str(one) for one in (value if isinstance(value, list | tuple) else [value])]


def option_value(config: Any, name: str) -> Any:
    """Return the value of an option by its dotted name."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def with_values(config: Any, values: Mapping[str, Any]) -> Any:
    """Return a copy of a config, or of a group of options, with other values by dotted name; it is not frozen."""
    changed: dict[str, Any] = {}
    for name in {name.partition(".")[0] for name in values}:
        if name in values:
            changed[name] = values[name]
        else:
            inner = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{name}.")}
            changed[name] = with_values(getattr(config, name), inner)
    return dataclasses.replace(config, **changed)


def model_config(options: Any, *, num_classes: int) -> ModelConfig:
    """Make the network's config; `num_classes` counts the background.

    Raises:
        ConfigError: a value is out of its range.
    """
    values = {f.name: getattr(options, f.name) for f in ModelConfig.options()}
    try:
        return ModelConfig(num_classes=num_classes, **values)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def short_edges(data: DataOptions) -> list[int]:
    """Return the short edges that training draws from.

    Raises:
        ConfigError: they are not positive numbers.
    """
    edges = data.short_edge if isinstance(data.short_edge, list) else [data.short_edge]
    if not edges or not all(isinstance(edge, int) and not isinstance(edge, bool) and edge > 0 for edge in edges):
        raise ConfigError(f"data.short_edge is {data.short_edge!r}; expected a number of pixels, or a list of them")
    return edges


def eval_sizes(data: DataOptions) -> tuple[int, int]:
    """Return the short edge and the limit of the long edge in evaluation."""
    return data.eval_short_edge or max(short_edges(data)), data.eval_max_size or data.max_size


def train_buckets(data: DataOptions) -> list[Bucket] | None:
    """Return the buckets of training; None if there is a crop size, which then is the only batch shape."""
    if data.augmentation.crop_size:
        return None
    return _given_buckets(data) or list(default_buckets(max(short_edges(data)), data.max_size))


def eval_buckets(data: DataOptions) -> list[Bucket]:
    """Return the buckets of evaluation."""
    return _given_buckets(data) or list(default_buckets(*eval_sizes(data)))


def _given_buckets(data: DataOptions) -> list[Bucket]:
    return [(height, width) for height, width in data.buckets or []]


def asked_processes(launch: LaunchOptions) -> int:
    """Return how many processes `launch` asks for.

    Raises:
        ConfigError: both options are given, or a host is not written HOST:PROCESSES.
    """
    if launch.hosts is None:
        return launch.processes or 1
    if launch.processes is not None:
        raise ConfigError("launch.processes and launch.hosts are both set: give one of them")
    return sum(host.processes for host in parse_hosts(launch.hosts))
