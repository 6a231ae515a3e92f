"""Declare options with their range, and check them. Every message names the option, its value, and what is expected."""

import copy
import dataclasses
import sys
from collections.abc import Callable
from typing import Any

TYPES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    list[float]: "a list of numbers",
    list[list[float]]: "a list of lists of numbers",
}


MOST = 1 << 20  # of a whole number: more is a mistake, and would fill the memory


class OptionError(ValueError):
    """An option of a model that does not exist or has an invalid value. The message names it."""


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raise OptionError unless the condition holds."""
    if not condition:
        text = repr(value)
        raise OptionError(f"model.{name} is {text if len(text) <= 200 else text[:200] + '...'}; expected {expected}")


def require_type(name: str, value: object, kind: Any) -> None:
    """Require a value of one of `TYPES`; numbers have to be finite."""
    require(_is_of(value, kind), name, value, TYPES[kind])


def option(default: Any, holds: Callable[[Any], bool], expected: str) -> Any:
    """Declare a field of a `Part`. Its values must satisfy `holds`, which `expected` describes in messages."""
    metadata = {"holds": holds, "expected": expected}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def one_of(default: Any, known: tuple[Any, ...]) -> Any:
    return option(default, lambda value: value in known, f"one of {', '.join(map(str, known))}")


def at_least(least: int, default: int, *, most: int = MOST) -> Any:
    return option(default, lambda value: least <= value <= most, f"at least {least} and at most {most}")


def positive(default: float) -> Any:
    return option(default, lambda value: value > 0, "a positive number")


def share(default: float) -> Any:
    return option(default, lambda value: 0.0 <= value <= 1.0, "a share between 0 and 1")


def positives(default: list[float], expected: str) -> Any:
    """Declare a list of as many positive numbers as the default has."""
    return option(default, lambda values: len(values) == len(default) and all(v > 0 for v in values), expected)


class Part:
    """The options of one part of the network, checked when they are made."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            require_type(field.name, value, field.type)
            if field.metadata:
                require(field.metadata["holds"](value), field.name, value, field.metadata["expected"])


def _is_of(value: Any, kind: Any) -> bool:
    if kind in (list[float], list[list[float]]):
        (item,) = kind.__args__
        return isinstance(value, list | tuple) and all(_is_of(v, item) for v in value)
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and abs(value) <= sys.float_info.max  # False for NaN
    return isinstance(value, kind)
