"""The difference between two sets of classes: of a data set, a model, another split."""

from __future__ import annotations

from collections.abc import Sequence


def class_difference(
    ours: tuple[Sequence[int], Sequence[str]],
    theirs: tuple[Sequence[int], Sequence[str]],
    *,
    reference: str,
) -> str | None:
    """Describe the first difference between two sets of classes, each given by its category ids and its names.

    Args:
        reference: what `theirs` belong to, for the text.

    Returns:
        Text that goes after "X has", None if they are the same, in the same order.

    >>> class_difference(((3, 9), ("cat", "dog")), ((3, 8), ("cat", "dog")), reference="the model")
    "category 9 'dog' where the model has 8 'dog'"
    """
    our_pairs, their_pairs = list(zip(*ours, strict=True)), list(zip(*theirs, strict=True))
    if len(our_pairs) != len(their_pairs):
        return f"{len(our_pairs)} classes, {reference} has {len(their_pairs)}"
    for (our_id, our_name), (their_id, their_name) in zip(our_pairs, their_pairs, strict=True):
        if (our_id, our_name) != (their_id, their_name):
            return f"category {our_id} {our_name!r} where {reference} has {their_id} {their_name!r}"
    return None
