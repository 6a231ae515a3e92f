"""Open and check the data sets of a run, and make the loader of its training batches."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mrcnn_data import (
    CocoDataset,
    DatasetError,
    EvalLoader,
    OptionError,
    Report,
    TrainLoader,
    check_datasets,
    find_split,
    visible,
)
from mrcnn_eval import CocoEvaluator, class_difference
from mrcnn_train.config.fit import describe_fit
from mrcnn_train.config.options import DataOptions, EvalOptions, RunConfig, TrainOptions
from mrcnn_train.config.plan import Plan, describe_plan, make_plan
from mrcnn_train.config.values import as_list, eval_buckets, eval_sizes, short_edges, train_buckets
from mrcnn_train.errors import ConfigError

MANY_OBJECTS = 20_000  # more take longer than a second or two to check
Classes = tuple[Sequence[int], Sequence[str]]  # category ids and names


class ValSet(NamedTuple):
    """A validation set.

    Attributes:
        name: short, unique in the run, and usable in file names.
        dataset: images and annotations.
    """

    name: str
    dataset: CocoDataset


class RunData(NamedTuple):
    """The data sets of a run, and what is computed from them.

    Attributes:
        plan: the numbers of the run.
        described: the plan as text.
        loader: loads the training batches of this process.
        train: all training sets, joined.
        val: the validation sets, which are scored one by one.
    """

    plan: Plan
    described: str
    loader: TrainLoader
    train: CocoDataset
    val: list[ValSet]


def open_data(config: RunConfig, *, rank: int, size: int) -> RunData:
    """Open and check the data of one of `size` processes, and print the plan of the run.

    Raises:
        ConfigError, DatasetError, GroundTruthError: the run could not train or evaluate on them.
    """
    train = open_train(config.data)
    val = open_val(config.data, train)
    loader = make_loader(config.data, config.train, train, rank=rank, num_ranks=size)
    plan = make_plan(config, num_images=loader.num_images, processes=size)
    datasets = [one.dataset for one in val]
    described = describe_plan(config, plan, train=train, val=datasets, buckets=list(loader.buckets))
    print(described, flush=True)
    if rank == 0:
        warn_of_warmup(plan)
        for line in describe_fit(config, train=train, val=datasets):
            print(f"{'fit:':17} {visible(line, limit=2000)}", flush=True)
        check_data(config.data, train, val)
    for dataset in datasets:
        check_evaluation(config.data, config.eval, dataset)
    return RunData(plan, described, loader, train, val)


def warn_of_warmup(plan: Plan) -> None:
    """Print a warning if the run ends before its rate has risen."""
    if plan.schedule.warmup_begin == 0 and plan.schedule.warmup_steps >= plan.total_steps:
        print(
            f"WARNING: the run of {plan.total_steps} steps ends within its warm-up of {plan.schedule.warmup_steps}: "
            f"give optimizer.warmup_steps={plan.total_steps // 10}, or train longer",
            file=sys.stderr,
            flush=True,
        )


def open_train(data: DataOptions) -> CocoDataset:
    """Open the training sets as one.

    Raises:
        DatasetError: one is missing or unusable, or their classes differ.
    """
    if data.train_annotations is not None:
        return CocoDataset.open(
            as_list(data.train_annotations),
            as_list(data.train_images),
            on_error=data.on_error,
            cache_dir=data.cache_dir,
        )
    assert data.root is not None
    splits = as_list(data.train)
    _require_splits(data.root, splits, cure="give data.train=NAME")
    return CocoDataset.from_root(data.root, splits, on_error=data.on_error, cache_dir=data.cache_dir)


def _require_splits(root: str, splits: Iterable[str], *, cure: str) -> None:
    """Raise DatasetError, with what to do, if a split does not exist."""
    for split in splits:
        try:
            find_split(root, split)
        except DatasetError as error:
            is_missing = Path(root).is_dir() and "does not exist" in str(error)
            raise DatasetError(f"{error}: {cure}" if is_missing else str(error)) from error


def open_val(data: DataOptions, train: CocoDataset) -> list[ValSet]:
    """Open the validation sets, with the classes of the training data.

    Raises:
        DatasetError: one is missing or unusable, or has objects of a class that the training data do not have.
    """
    named = [
        (name, dataset.with_classes(train.category_ids, train.class_names, reference="the training data"))
        for name, dataset in _open_each_val(data)
    ]
    return [
        ValSet(name, dataset) for name, (_, dataset) in zip(unique_names(name for name, _ in named), named, strict=True)
    ]


def _open_each_val(data: DataOptions) -> Iterator[tuple[str, CocoDataset]]:
    if data.val_annotations is not None:
        for file, folder in zip(as_list(data.val_annotations), as_list(data.val_images), strict=True):
            name = Path(file).stem.removeprefix("instances_")
            yield name, CocoDataset.open(file, folder, on_error=data.on_error, cache_dir=data.cache_dir)
        return
    for split in as_list(data.val):
        assert data.root is not None
        _require_splits(data.root, [split], cure="give data.val=NAME, or data.val=null to train without evaluation")
        yield split, CocoDataset.from_root(data.root, split, on_error=data.on_error, cache_dir=data.cache_dir)


def unique_names(names: Iterable[str]) -> list[str]:
    """Make names usable in file names and different from each other.

    >>> unique_names(["val", "night/val", "val"])
    ['val', 'night_val', 'val_2']
    """
    unique: list[str] = []
    for name in names:
        plain = re.sub(r"[^\w.-]+", "_", name)
        number = 1
        while (plain if number == 1 else f"{plain}_{number}") in unique:
            number += 1
        unique.append(plain if number == 1 else f"{plain}_{number}")
    return unique


def check_data(data: DataOptions, train: CocoDataset, val: Sequence[ValSet]) -> None:
    """Check the data sets as `mrcnn-data check` does, and print a line for each kind of finding.

    Raises:
        DatasetError: a finding is an error, which would end the run later.
    """
    datasets = {"train": train}
    datasets |= {"val" if len(val) == 1 else f"val {one.name}": one.dataset for one in val}
    num_objects = sum(int(dataset.num_objects().sum()) for dataset in datasets.values())
    if num_objects > MANY_OBJECTS:
        num_images = sum(map(len, datasets.values()))
        print(f"{'check:':17} {num_objects} objects in {num_images} images ...", flush=True)
    reports = check_datasets(datasets, on_error=data.on_error, cache_dir=data.cache_dir)
    for line in summary_lines(reports):
        print(f"{'check:':17} {visible(line, limit=2000)}", flush=True)
    for report in reports.values():
        report.raise_errors()


def summary_lines(reports: Mapping[str, Report]) -> list[str]:
    """Return a line for each kind of finding; data sets with the same finding share it."""
    names: dict[str, list[str]] = {}  # of the data sets, by line
    for name, report in reports.items():
        for line in map(str, report.by_severity()) if report.findings else ["nothing odd found"]:
            names.setdefault(line, []).append(name)
    return [f"{', '.join(datasets)}: {line}" for line, datasets in names.items()]


def require_same_classes(ours: Classes, theirs: Classes, *, where: str, reference: str, cure: str = "") -> None:
    """Raise ConfigError for the first difference between two sets of classes.

    Args:
        where, reference: what `ours` and `theirs` belong to, for the message.
        cure: what the user can do, appended to the message.
    """
    difference = class_difference(ours, theirs, reference=reference)
    if difference is not None:
        raise ConfigError(f"{where} has {difference}{cure}")


def make_loader(
    data: DataOptions, train: TrainOptions, dataset: CocoDataset, *, rank: int = 0, num_ranks: int = 1
) -> TrainLoader:
    """Make the loader of this process's training batches.

    Raises:
        ConfigError: an option cannot work, or an image fits into no bucket.
        DatasetError: there is nothing to train on.
    """
    try:
        return TrainLoader(
            dataset,
            buckets=train_buckets(data),
            short_edge=short_edges(data),
            max_size=data.max_size,
            images_per_batch=train.images_per_gpu,
            global_batch=train.global_batch,
            seed=train.seed,
            augmentation=data.augmentation,
            max_gt=data.max_gt,
            max_crowds=data.max_crowds,
            num_threads=data.num_threads,
            rank=rank,
            num_ranks=num_ranks,
            on_error=data.on_error,
            filter_empty=data.filter_empty,
            repeat_threshold=data.repeat_threshold,
        )
    except OptionError as error:
        raise ConfigError(f"data.{error}") from error
    except DatasetError as error:
        if str(error).startswith("buckets="):
            raise ConfigError(f"data.{error}") from error
        raise


def check_evaluation(data: DataOptions, options: EvalOptions, val: CocoDataset) -> None:
    """Check before training what would end the run at its first evaluation, and print what is not scored.

    Raises:
        ConfigError: an image fits into no bucket.
        GroundTruthError: detections cannot be scored against this set.
    """
    short_edge, max_size = eval_sizes(data)
    try:
        EvalLoader(
            val,
            buckets=eval_buckets(data),
            short_edge=short_edge,
            max_size=max_size,
            batch_size=options.batch_size,
            limit=options.limit,
        )
    except DatasetError as error:
        raise ConfigError(f"evaluation on {val.name}: data.{error}") from error
    num_ignored = int(CocoEvaluator(val).ground_truth.ignored.sum())
    if num_ignored:
        print(
            f"{'evaluation:':17} {visible(val.name)}: {num_ignored} objects with `ignore` need not be found, because "
            "training leaves such objects out",
            flush=True,
        )
