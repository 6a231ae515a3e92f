"""Evaluation on many processes: every rank does its share, and all know the whole, or fail together.

What moves objects between processes is a function of the caller's: `gather(mine)` returns, on every rank, the list of
what the ranks gave, rank 0 first (`horovod.tensorflow.allgather_object`, mpi4py's `comm.allgather`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

from mrcnn_eval.scoring.image_results import ImageResults

Gather: TypeAlias = Callable[[Any], list[Any]]
Share = TypeVar("Share")
MAX_NAMED = 5  # image ids in a message


class RankError(RuntimeError):
    """Another rank failed, or the ranks together did not do each image; one line."""


def alone(mine: Any) -> list[Any]:
    """Gather in a single process."""
    return [mine]


def shares_of_all(work: Callable[[], Share], *, gather: Gather = alone, rank: int | None = None) -> list[Share]:
    """Do this rank's work and return what all ranks made, rank 0 first.

    A rank that raised before the gather would leave the others waiting in it for ever: its error is gathered instead,
    and then raised on every rank.

    Args:
        rank: of this process. With it, only the first rank that failed raises its own error, so that an error which all
            of them meet is told once. Without it, every rank that failed raises its own.

    Raises:
        RankError: the work failed on another rank. On the rank itself: whatever its work raised.
    """
    failure, share = None, None
    try:
        share = work()
    except Exception as error:
        failure = error
    outcomes = gather((None if failure is None else f"{type(failure).__name__}: {failure}", share))
    failed = [(number, message) for number, (message, _) in enumerate(outcomes) if message is not None]
    if failure is not None and (rank is None or failed[0][0] == rank):
        raise failure
    for number, message in failed:
        raise RankError(f"rank {number} failed: {message}")
    return [share for _, share in outcomes]


def merge_images(shares: Iterable[Mapping[Any, ImageResults]], image_ids: Iterable[Any]) -> dict[Any, ImageResults]:
    """Put the images of all ranks together, each once, in the order of `image_ids`.

    An image that several ranks did, as padded shards do, counts once: its first rank's detections.

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
