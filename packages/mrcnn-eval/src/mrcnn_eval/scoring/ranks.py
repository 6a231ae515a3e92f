"""Work shared by many processes: each rank does its part, and all get the whole, or all fail.

The caller passes the function that moves objects between processes: `gather(mine)` returns, on every rank, the list of
what each rank gave, rank 0 first (`horovod.tensorflow.allgather_object`, mpi4py's `comm.allgather`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

from mrcnn_eval.scoring.image_results import ImageResults

Gather: TypeAlias = Callable[[Any], list[Any]]
Share = TypeVar("Share")
MAX_NAMED = 5  # image ids in a message


class RankError(RuntimeError):
    """The ranks left out an image or did an unknown one, or another rank failed (`OtherRankError`); one line."""


class OtherRankError(RankError):
    """The work failed on another rank, which raised the error itself; one line."""


def alone(mine: Any) -> list[Any]:
    """Gather in a single process."""
    return [mine]


def shares_of_all(work: Callable[[], Share], *, gather: Gather = alone) -> list[Share]:
    """Do this rank's work and return what all ranks made, rank 0 first.

    A rank that raised before the gather would leave the others waiting in it for ever. So its error is gathered, and
    all ranks raise after that.

    Raises:
        OtherRankError: the work failed on another rank. The first rank that failed raises what its work raised.

    >>> shares_of_all(lambda: "my part")
    ['my part']
    """
    failure, note, share = None, None, None
    try:
        share = work()
    except Exception as error:
        failure = error
        note = (
            secrets.token_hex(8),
            f"{type(error).__name__}: {error}",
        )  # the token tells this rank's note from others
    for rank, (first, _) in enumerate(outcomes := gather((note, share))):
        if first is not None:
            if failure is not None and first == note:
                raise failure
            raise OtherRankError(f"rank {rank} failed: {first[1]}") from failure
    return [share for _, share in outcomes]


def merge_images(shares: Iterable[Mapping[Any, ImageResults]], image_ids: Iterable[Any]) -> dict[Any, ImageResults]:
    """Put the images of all ranks together, each once, in the order of `image_ids`.

    An image that several ranks did counts once, with the detections of the first (padded shares hold such images).

    Args:
        shares: detections by image id, rank by rank; a rank may have none.
        image_ids: of all images that were to be done.

    Raises:
        RankError: the images done are not these.
    """
    merged: dict[Any, ImageResults] = {}
    for share in shares:
        for image_id, results in share.items():
            merged.setdefault(image_id, results)
    wanted = list(image_ids)
    missing = [image_id for image_id in wanted if image_id not in merged]
    if missing:
        raise RankError(f"{len(missing)} of {len(wanted)} images were not evaluated: {_some(missing)}")
    unknown = sorted(merged.keys() - set(wanted), key=str)
    if unknown:
        raise RankError(f"{len(unknown)} images were evaluated that are not in the data set: {_some(unknown)}")
    return {image_id: merged[image_id] for image_id in wanted}


def _some(image_ids: list[Any]) -> str:
    more = ", ..." if len(image_ids) > MAX_NAMED else ""
    return ", ".join(repr(image_id) for image_id in image_ids[:MAX_NAMED]) + more
