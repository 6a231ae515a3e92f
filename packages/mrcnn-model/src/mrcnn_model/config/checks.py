"""Check the values of options. Every message names the option, its value, and what is expected."""

import math
from collections.abc import Sequence
from typing import Any

EXPECTED = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    list[float]: "a list of numbers",
    list[list[float]]: "a list of lists of numbers",
}


class OptionError(ValueError):
    """An option of a model that does not exist or has an impossible value; the message names it."""


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raise OptionError unless the condition holds."""
    if not condition:
        raise OptionError(f"model.{name} is {value!r}; expected {expected}")


def require_type(name: str, value: object, kind: Any) -> None:
    """Require a value of one of the types in `EXPECTED`; numbers have to be finite."""
    require(_is_of(value, kind), name, value, EXPECTED[kind])


def require_one_of(name: str, value: object, known: Sequence[object]) -> None:
    require(value in known, name, value, f"one of {', '.join(map(str, known))}")


def require_at_least(least: int, **counts: int) -> None:
    for name, count in counts.items():
        require(count >= least, name, count, f"at least {least}")


def require_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        require(number > 0, name, number, "a positive number")


def require_shares(**shares: float) -> None:
    for name, share in shares.items():
        require(0.0 <= share <= 1.0, name, share, "a share between 0 and 1")


def are_positive(numbers: Sequence[float], count: int) -> bool:
    return len(numbers) == count and all(number > 0 for number in numbers)


def _is_of(value: Any, kind: Any) -> bool:
    if kind == list[list[float]]:
        return isinstance(value, list | tuple) and all(_is_of(item, list[float]) for item in value)
    if kind == list[float]:
        return isinstance(value, list | tuple) and all(_is_of(item, float) for item in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
