"""Random file contents: JSON and YAML of about the right layout, right files with damaged bytes, and plain bytes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

ODD_NUMBERS = [
    0, 1, -1, 2, 255, 256, 2**31 - 1, 2**31, -(2**31), 2**40, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 2**70,
    10**400, 0.5, -0.5, 1e-320, 1e9, 1e18, 1e308, -1e308, float("nan"), float("inf"), float("-inf"),
]  # fmt: skip
ODD_TEXTS = [
    "", " ", "0", "1", "-1", "1e400", "NaN", "true", "null", "\0", "\n", "a" * 5000, "../../etc", "/dev/zero",
    "caf\u00e9", "\u202e", "\ud800", "b'abc'", "====", "04", "o0", "PPYo1", "${oc.env:HOME}", "${data}", "???", "[m]",
    "&a [*a]",
]  # fmt: skip

values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.sampled_from(ODD_NUMBERS), st.sampled_from(ODD_TEXTS), st.integers(), st.floats(),
        st.text(max_size=20),
    ),
    lambda children: st.one_of(
        st.lists(children, max_size=6), st.dictionaries(st.sampled_from(ODD_TEXTS[:8]), children, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip


@st.composite
def changed(draw: st.DrawFn, template: Any, *, most: int = 4) -> Any:
    """Draw a copy of a JSON value in which up to `most` places hold another value, or are gone, or are there twice."""
    root = [copy.deepcopy(template)]
    for _ in range(draw(st.integers(0, most))):
        container: Any = root
        key: Any = 0
        while isinstance(container[key], (dict, list)) and container[key] and draw(st.integers(0, 5)):
            container = container[key]
            key = draw(st.sampled_from(sorted(container) if isinstance(container, dict) else range(len(container))))
        how = draw(st.sampled_from(["replace", "replace", "replace", "delete", "wrap", "again", "text"]))
        if how == "delete" and container is not root:
            del container[key]
        elif how == "wrap":
            container[key] = [container[key]]
        elif how == "again" and isinstance(container, list) and container is not root:
            container.append(copy.deepcopy(container[key]))
        elif how == "text":
            container[key] = str(container[key])[:5000]
        else:
            container[key] = draw(values)
    return root[0]


@st.composite
def damaged(draw: st.DrawFn, content: st.SearchStrategy[bytes]) -> bytes:
    """Draw content of which some bytes are changed, gone, or there twice; mostly as it is."""
    data = bytearray(draw(content))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 8]))):
        place, length = draw(st.integers(0, max(len(data) - 1, 0))), draw(st.integers(1, 16))
        how = draw(st.sampled_from(["set", "set", "cut", "insert", "again", "end"]))
        if how == "set":
            data[place : place + length] = draw(st.binary(min_size=1, max_size=length))
        elif how == "cut":
            del data[place : place + length]
        elif how == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=length))
        elif how == "again":
            data[place:place] = data[place : place + 64 * length]
        else:
            del data[place:]
    return bytes(data)


def _nested(text: bytes) -> st.SearchStrategy[bytes]:
    """Lists in lists, around a text or in it."""
    return st.sampled_from([10, 1_000, 100_000]).flatmap(
        lambda depth: st.sampled_from(
            [b"[" * depth + text + b"]" * depth, text.replace(b"1", b"[" * depth + b"]" * depth, 1)]
        )
    )


def json_files(template: Any) -> st.SearchStrategy[bytes]:
    """JSON files: like a template, damaged, nested, or anything."""

    def encode(value: Any) -> bytes:
        return json.dumps(value).encode("utf-8", "surrogatepass")

    return _files(template, encode)


def _files(template: Any, encode: Callable[[Any], bytes]) -> st.SearchStrategy[bytes]:
    like = changed(template).map(encode)
    return st.one_of(
        like,
        like,
        damaged(like),
        values.map(encode),
        _nested(encode(template)),
        st.binary(max_size=200),
    )


def yaml_files(template: Any) -> st.SearchStrategy[bytes]:
    """YAML files: JSON, which is YAML too, with aliases and tags in some."""
    special = st.sampled_from(
        [
            b"&a [*a]",
            b"*a",
            b"!!python/object/apply:os.getcwd []",
            b"!!binary aGk=",
            b"? a\n: b",
            b"<<: {a: 1}",
            b"|\n a",
        ]
    )
    like = json_files(template)
    return st.one_of(like, st.tuples(like, special, st.integers(0, 2000)).map(_with_special))


def _with_special(drawn: tuple[bytes, bytes, int]) -> bytes:
    text, special, place = drawn
    ones = [at for at, byte in enumerate(text) if byte in b"0123456789"]
    if not ones:
        return text + b"\n" + special
    at = ones[place % len(ones)]
    return text[:at] + special + text[at + 1 :]
