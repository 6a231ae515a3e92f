"""How the options of a run fit its data: what they leave out, and what cannot be learned or scored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mrcnn_data import CocoDataset
from mrcnn_data.augmentation import MIN_EDGE
from mrcnn_data.statistics import best_anchor_ious, resized_box_sizes
from mrcnn_train.config.options import RunConfig
from mrcnn_train.config.values import eval_sizes, short_edges
from mrcnn_train.errors import ConfigError

FEW_MET = 0.9  # part of the objects that anchors should meet


def describe_fit(config: RunConfig, *, train: CocoDataset, val: Sequence[CocoDataset]) -> list[str]:
    """Return a line for each way in which options and data do not fit, beginning with the word that says how bad it is.

    Raises:
        ConfigError: there is nothing to train on.
    """
    num_thin = _count_thin(config, train)
    return [
        *_caps_in_training(config, train),
        *_caps_in_evaluation(config, val),
        *_thin_objects(config, train, num_thin),
        *_anchors(config, train),
        *_undefined_scores(config, val),
    ]


def _count_thin(config: RunConfig, train: CocoDataset) -> int:
    """Count the objects that are thinner than a pixel at the largest training size, if others are left.

    Raises:
        ConfigError: no object is left.
    """
    if not train.annotations.is_object.any():
        raise ConfigError(
            f"{train.name} has no object to train on: {len(train.annotations.classes)} annotations, "
            f"{int(train.annotations.is_region.sum())} of them crowds or ignore regions; mrcnn-data check says more"
        )
    sizes = resized_box_sizes(train, short_edge=max(short_edges(config.data)), max_size=config.data.max_size)
    is_thin = (sizes < MIN_EDGE).any(axis=1)
    if is_thin.all():
        raise ConfigError(
            f"all objects of {train.name} are thinner than a pixel at data.short_edge={max(short_edges(config.data))} "
            f"and data.max_size={config.data.max_size}: train on larger images, or check the units of the boxes"
        )
    return int(is_thin.sum())


def _caps_in_training(config: RunConfig, train: CocoDataset) -> Iterator[str]:
    counts, limit = train.num_objects(), config.data.max_gt
    beyond = np.maximum(counts - limit, 0)
    if beyond.any():
        yield (
            f"warning: {np.count_nonzero(beyond)} training images have more than data.max_gt={limit} objects; "
            f"{beyond.sum()} objects are left out at random in each epoch; data.max_gt={counts.max()} keeps all"
        )


def _caps_in_evaluation(config: RunConfig, val: Iterable[CocoDataset]) -> Iterator[str]:
    limit = int(config.model.detections_per_image)
    for dataset in val:
        counts = dataset.num_objects()
        beyond = np.maximum(counts - limit, 0)
        if beyond.any():
            yield (
                f"warning: {np.count_nonzero(beyond)} images of {dataset.name} have more than "
                f"model.detections_per_image={limit} objects, so at least {beyond.sum()} objects "
                f"({beyond.sum() / counts.sum():.1%}) cannot be found; one has {counts.max()}"
            )


def _thin_objects(config: RunConfig, train: CocoDataset, count: int) -> Iterator[str]:
    total = int(train.annotations.is_object.sum())
    if count:
        word = "warning" if count > 0.01 * total else "note"
        yield (
            f"{word}: {count} of {total} training objects are thinner than a pixel at "
            f"data.short_edge={max(short_edges(config.data))} and are left out"
        )


def _anchors(config: RunConfig, train: CocoDataset) -> Iterator[str]:
    model = config.model
    short_edge, max_size = eval_sizes(config.data)
    sizes = resized_box_sizes(train, short_edge=short_edge, max_size=max_size)
    met = float((best_anchor_ious(sizes, sizes=model.anchor_sizes, ratios=model.anchor_ratios) >= 0.5).mean())
    word = "note" if met >= FEW_MET else "warning"
    advice = "" if met >= FEW_MET else "; mrcnn-data stats suggests model.anchor_sizes and model.anchor_ratios"
    yield (
        f"{word}: {met:.1%} of the training objects have the shape of an anchor (IoU of at least 0.5 if centred) "
        f"at short edge {short_edge}{advice}"
    )


def _undefined_scores(config: RunConfig, val: Iterable[CocoDataset]) -> Iterator[str]:
    for dataset in val:
        scored = dataset.scored
        rows = np.flatnonzero(~(scored.is_crowd | scored.is_ignored)).tolist()
        if not rows:
            yield f"warning: {dataset.name} has no object that is scored: its AP stays undefined (-1)"
        elif config.model.masks and all(scored.rles[row] is None for row in rows):
            yield f"warning: no object of {dataset.name} has a mask: its mask AP stays undefined (-1)"
