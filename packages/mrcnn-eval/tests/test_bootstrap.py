"""The bootstrap of AP by hand; `test_against_pycocotools.py` compares it with the evaluation itself."""

from __future__ import annotations

import numpy as np
import pytest

from mrcnn_eval import CocoEvaluator, bootstrap_ap


def test_spread_by_hand(scene) -> None:
    """Of two images one is found, the other is not: AP is 0, near one half, or 1."""
    example = scene(images=2, size=(64, 64), categories=(1,))
    for image in (1, 2):
        example.truth([0.0, 0.0, 32.0, 32.0], image=image, category=1)
    evaluator = CocoEvaluator(example.annotations, iou_types=["bbox"])
    evaluator.add_results([{"image_id": 1, "category_id": 1, "bbox": [0.0, 0.0, 32.0, 32.0], "score": 0.9}])
    aps = bootstrap_ap(evaluator, "bbox", samples=400)
    values, counts = np.unique(aps.round(3), return_counts=True)
    assert values.tolist() == [0.0, 0.505, 1.0]  # 51 of 101 recalls are reached
    assert counts / 400 == pytest.approx([0.25, 0.5, 0.25], abs=0.08)
    assert bootstrap_ap(evaluator, "bbox", samples=400).tolist() == aps.tolist()
    assert bootstrap_ap(evaluator, "bbox", samples=3, image_ids=[1]).tolist() == [1.0] * 3


def test_without_objects_there_is_no_ap(scene) -> None:
    evaluator = CocoEvaluator(scene(images=2, size=(64, 64), categories=(1,)).annotations, iou_types=["bbox"])
    assert bootstrap_ap(evaluator, "bbox", samples=5).tolist() == []
