"""Read the config that a run saved. It may come from elsewhere, so nothing in it is expanded."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

MAX_BYTES = 1 << 20  # a saved config has a few thousand
MAX_DEPTH = 20  # of lists and groups in each other; a saved config has five


class UnsafeConfigError(ValueError):
    """A saved config that a run cannot have written."""


def load_saved(path: Path) -> Any:
    """Read a saved config.

    Runs save values only. So interpolations, which could put a variable of the environment into files and output, and
    YAML's aliases, which can multiply without end, are refused.

    Raises:
        UnsafeConfigError: it has one of these, or is too large.
        OSError, ValueError, yaml.YAMLError, OmegaConfBaseException: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UnsafeConfigError(f"it has more than {MAX_BYTES} bytes")
    text = content.decode()
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise UnsafeConfigError("lists and groups in it are nested too deep")
        if isinstance(event, yaml.AliasEvent):
            raise UnsafeConfigError(f"it has the YAML alias *{event.anchor}: write the value itself")
        if isinstance(event, yaml.ScalarEvent) and "${" in event.value:
            raise UnsafeConfigError(f"it has the interpolation {event.value[:80]}: write the value itself")
    return OmegaConf.load(io.StringIO(text))
