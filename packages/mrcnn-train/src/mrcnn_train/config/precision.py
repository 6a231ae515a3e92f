"""The precision of a job: the same in all its processes, and kept when the run is resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mrcnn_model import AUTO_PRECISION, PrecisionChoice
from mrcnn_train.config.options import RunConfig
from mrcnn_train.errors import ConfigError


def needs_choice(config: RunConfig) -> bool:
    """Return whether the processes have to say what their machines would choose."""
    return config.precision == AUTO_PRECISION or config.resume is not None


def settle_precision(config: RunConfig, choices: Sequence[PrecisionChoice]) -> tuple[RunConfig, str]:
    """Replace `precision=auto` by what all processes choose, and describe the precision for the plan.

    A resumed run keeps its precision. If a machine would choose another one, the description says so.

    Args:
        config: of this launch; if it resumes a run, with the precision of that run.
        choices: those of all processes, by rank; empty if they are not needed (`needs_choice`).

    Raises:
        ConfigError: the processes would choose different precisions.
    """
    if config.precision != AUTO_PRECISION:
        if all(choice.precision == config.precision for choice in choices):
            return config, config.precision
        other = next(choice.precision for choice in choices if choice.precision != config.precision)
        slow = ", slow here" if other == "float32" else ""
        would = f"auto would choose {_described(choices)}: precision={other} changes it"
        return config, f"{config.precision}, of the run{slow}; {would}"
    if len({choice.precision for choice in choices}) > 1:
        raise ConfigError(
            f"precision=auto: the machines of this job differ: {_described(choices)}: give one precision=NAME for all"
        )
    settled = dataclasses.replace(config, precision=choices[0].precision)
    settled.freeze()
    return settled, str(choices[0])


def _described(choices: Sequence[PrecisionChoice]) -> str:
    """Name each chosen precision, its ranks if there are several, and the reason of the first of them.

    >>> slow, fast = PrecisionChoice("float32", "a"), PrecisionChoice("mixed_bfloat16", "b")
    >>> _described([fast, slow, fast, fast])
    'ranks 0, 2-3: mixed_bfloat16 (b), rank 1: float32 (a)'
    """
    ranks: dict[str, list[int]] = {}
    for rank, choice in enumerate(choices):
        ranks.setdefault(choice.precision, []).append(rank)
    if len(ranks) == 1:
        return f"{choices[0].precision} ({choices[0].reason})"
    return ", ".join(
        f"rank{'s' * (len(of) > 1)} {_ranges(of)}: {precision} ({choices[of[0]].reason})"
        for precision, of in ranks.items()
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Write rising numbers shortly.

    >>> _ranges([0, 2, 3, 4])
    '0, 2-4'
    """
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
