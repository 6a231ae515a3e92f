"""Compare the facts of the hosts of a job: what differs, and what a host lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SAME_EVERYWHERE = ("python", "own_packages", "git_commit", "packages", "data")  # facts in which hosts must agree
TIGHT_GIB = 5.0  # a checkpoint of ResNet-50 takes 0.35 GiB, a run keeps a few


def differences(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe how hosts differ from the first one in what must be the same everywhere.

    Args:
        facts: those of each host (`probe.facts`); the first is the reference.

    Returns:
        A line for each difference; packages and files have a line each.
    """
    first = facts[0]
    lines = []
    for other in facts[1:]:
        for name in SAME_EVERYWHERE:
            for what, ours, theirs in _unequal(name, first[name], other[name]):
                lines.append(f"host {other['host']}: {what} is {theirs}, on {first['host']} it is {ours}")
    return lines


def shortcomings(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe what each host lacks: readable data, free disk space, as many GPUs as another host."""
    lines = []
    most = max(len(one["gpus"]) for one in facts)
    for one in facts:
        for path, found in one["data"].items():
            if found.startswith("cannot be read"):
                lines.append(f"host {one['host']}: {path} {found}")
        if one["free_gib"] < TIGHT_GIB:
            lines.append(f"host {one['host']}: {one['free_gib']} GiB free where the run writes; it needs {TIGHT_GIB:g}")
        if len(one["gpus"]) < most:
            lines.append(f"host {one['host']}: {len(one['gpus'])} GPUs, another host has {most}")
    return lines


def _unequal(name: str, ours: Any, theirs: Any) -> list[tuple[str, Any, Any]]:
    if not isinstance(ours, dict):
        return [(name, ours, theirs)] if ours != theirs else []
    names = [*ours, *(key for key in theirs if key not in ours)]
    return [
        (key, ours.get(key, "missing"), theirs.get(key, "missing"))
        for key in names
        if ours.get(key) != theirs.get(key) and not str(theirs.get(key)).startswith("cannot be read")
    ]
