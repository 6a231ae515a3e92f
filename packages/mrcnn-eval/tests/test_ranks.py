"""Ranks without processes: threads that meet in a gather, as Horovod's and MPI's do."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mrcnn_eval import CocoEvaluator, OtherRankError, RankError, merge_images, shares_of_all

BOX = [10, 20, 30, 40]


class Ranks:
    """Runs a function of (rank, gather) on so many threads; its gather waits until every rank has come."""

    def __init__(self, count):
        self.count = count
        self._barrier = threading.Barrier(count, timeout=60)
        self._slots = [None] * count

    def _gather(self, rank, mine):
        self._slots[rank] = mine
        self._barrier.wait()
        everything = list(self._slots)
        self._barrier.wait()
        return everything

    def run(self, function):
        """What each rank returned or raised."""
        with ThreadPoolExecutor(self.count) as threads:
            futures = [
                threads.submit(function, rank, lambda mine, rank=rank: self._gather(rank, mine))
                for rank in range(self.count)
            ]
            return [future.exception() or future.result() for future in futures]


@pytest.fixture
def ranks():
    return Ranks


def scored_example(scene, images, *, silent=()):
    """One object on every image, found on all but the last; nothing at all on the `silent` ones."""
    example = scene(images=images)
    for image in range(1, images + 1):
        example.truth(BOX, image=image)
        if image not in silent:
            example.detection(BOX if image < images else [0, 0, 5, 5], image=image, score=0.9 - image / 100)
    return example


def share_of(example, images):
    """Detections of these images, each image there, also where nothing was found on it."""
    evaluator = CocoEvaluator(example.annotations)
    evaluator.add_results([entry for entry in example.results if entry["image_id"] in images])
    for image in sorted(set(images) - set(evaluator.image_results)):
        evaluator.add(image, np.zeros((0, 4)), [], np.zeros(0, int), [])
    return evaluator.image_results


@pytest.mark.parametrize(
    ("images", "shares"),
    [
        (7, [[1, 5], [2, 6], [3, 7], [4]]),
        (7, [[1, 5], [2, 6], [3, 7], [4, 1]]),  # padded to equal shares: image 1 twice
        (2, [[1], [2], [], []]),
        (2, [[1], [2], [1], [1]]),
        (7, [[1, 2, 3, 4, 5, 6, 7], [], [], []]),
    ],
)
@pytest.mark.parametrize("silent", [(), (2, 6)])
def test_shares_together_score_as_one_process(scene, ranks, images, shares, silent):
    example = scored_example(scene, images, silent=silent)
    alone = CocoEvaluator(example.annotations)
    alone.image_results = share_of(example, range(1, images + 1))
    expected = alone.evaluate()
    assert 0 < expected.stats["bbox"]["AP"] < 1

    def evaluate(rank, gather):
        all_shares = shares_of_all(lambda: share_of(example, shares[rank]), gather=gather)
        evaluator = CocoEvaluator(example.annotations)
        evaluator.image_results = merge_images(all_shares, range(1, images + 1))
        return list(evaluator.image_results), evaluator.evaluate()

    for image_ids, result in ranks(4).run(evaluate):
        assert image_ids == list(range(1, images + 1))
        assert result == expected


def test_a_rank_that_fails_stops_all_of_them(ranks):
    def work(rank, gather):
        def fail():
            raise OSError("disk is gone")

        return shares_of_all(fail if rank == 2 else dict, gather=gather)

    errors = ranks(3).run(work)
    assert [type(error) for error in errors] == [OtherRankError, OtherRankError, OSError]
    assert str(errors[0]) == "rank 2 failed: OSError: disk is gone"


def test_of_many_ranks_that_fail_the_first_says_why(ranks):
    # One message for one fault: a file that is missing is missing on all of them.
    def work(rank, gather):
        def fail():
            raise OSError("disk is gone")

        return shares_of_all(fail if rank > 0 else dict, gather=gather)

    errors = ranks(4).run(work)
    assert [type(error) for error in errors] == [OtherRankError, OSError, OtherRankError, OtherRankError]
    assert {str(error) for error in (errors[0], *errors[2:])} == {"rank 1 failed: OSError: disk is gone"}


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([[1], [2]], "1 of 3 images were not evaluated: 3"),
        ([[], []], "3 of 3 images were not evaluated: 1, 2, 3"),
        ([[1, 2, 3], [4]], "1 images were evaluated that are not in the data set: 4"),
    ],
)
def test_images_must_be_those_of_the_data_set(shares, message):
    with pytest.raises(RankError) as error:
        merge_images([dict.fromkeys(share) for share in shares], [1, 2, 3])
    assert str(error.value) == message


def test_a_single_process_needs_no_gather():
    assert shares_of_all(lambda: 5) == [5]
    assert merge_images([], []) == {}
