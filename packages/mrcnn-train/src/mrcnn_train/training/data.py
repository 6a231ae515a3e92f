"""The data sets of a run, and the loader of its training batches."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from mrcnn_data import CocoDataset, DatasetError, EvalLoader, Report, TrainLoader, check_datasets, default_buckets
from mrcnn_eval import CocoEvaluator, class_difference
from mrcnn_train.config.options import DataOptions, EvalOptions, TrainOptions, eval_sizes, short_edges
from mrcnn_train.errors import ConfigError

MANY_OBJECTS = 20_000  # that take more than a second or two to check
SYNTHETIC_MARK = "synthetic.json"  # says from which options the shapes at data.root were drawn


def open_train(data: DataOptions) -> CocoDataset:
    """Open the training split.

    Raises:
        DatasetError: it is missing or unusable.
    """
    if data.train_annotations is not None and data.train_images is not None:
        return CocoDataset.open(
            data.train_annotations, data.train_images, on_error=data.on_error, cache_dir=data.cache_dir
        )
    assert data.root is not None
    assert data.train is not None
    return CocoDataset.from_root(data.root, data.train, on_error=data.on_error, cache_dir=data.cache_dir)


def open_val(data: DataOptions, train: CocoDataset) -> CocoDataset | None:
    """Open the validation split, None where there is none.

    Raises:
        ConfigError: its classes are not those of the training split.
    """
    if data.val_annotations is not None and data.val_images is not None:
        val = CocoDataset.open(data.val_annotations, data.val_images, on_error=data.on_error, cache_dir=data.cache_dir)
    elif data.val is not None:
        assert data.root is not None
        val = CocoDataset.from_root(data.root, data.val, on_error=data.on_error, cache_dir=data.cache_dir)
    else:
        return None
    require_same_classes(
        (val.category_ids, val.class_names),
        (train.category_ids, train.class_names),
        where=str(val.annotation_path),
        reference=str(train.annotation_path),
    )
    return val


def check_data(data: DataOptions, train: CocoDataset, val: CocoDataset | None) -> None:
    """Do what `mrcnn-data check` does with the splits of the run, and print a line for each kind of finding.

    Raises:
        DatasetError: an error that the run would meet later.
    """
    datasets = {"train": train} if val is None else {"train": train, "val": val}
    num_objects = sum(int(dataset.num_objects().sum()) for dataset in datasets.values())
    if num_objects > MANY_OBJECTS:
        num_images = sum(map(len, datasets.values()))
        print(f"{'check:':17} {num_objects} objects in {num_images} images ...", flush=True)
    reports = check_datasets(datasets, on_error=data.on_error, cache_dir=data.cache_dir)
    for line in summary_lines(reports):
        print(f"{'check:':17} {line}", flush=True)
    for report in reports.values():
        report.raise_errors()


def summary_lines(reports: Mapping[str, Report]) -> list[str]:
    """One line for each kind of finding; splits that have the same to say share it."""
    names: dict[str, list[str]] = {}  # of the splits, by line
    for name, report in reports.items():
        for line in map(str, report.by_severity()) if report.findings else ["nothing odd found"]:
            names.setdefault(line, []).append(name)
    return [f"{', '.join(splits)}: {line}" for line, splits in names.items()]


Classes = tuple[tuple[int, ...] | list[int], tuple[str, ...] | list[str]]  # category ids and names


def require_same_classes(ours: Classes, theirs: Classes, *, where: str, reference: str) -> None:
    """Raise ConfigError, naming the first difference, where two sets of classes differ."""
    difference = class_difference(ours, theirs, reference=reference)
    if difference is not None:
        raise ConfigError(f"{where} has {difference}")


def draw_synthetic(data: DataOptions) -> None:
    """Draw the shapes at data.root, unless they are there with these very options."""
    if data.synthetic is None:
        return
    if data.root is None:
        raise ConfigError("data.synthetic needs data.root, the folder to draw into")
    from mrcnn_data.synthetic import generate_shapes

    root, wanted = Path(data.root), dataclasses.asdict(data.synthetic)
    mark = root / SYNTHETIC_MARK
    try:
        if mark.is_file() and mark.read_text() == json.dumps(wanted):
            return
        print(f"Drawing {data.synthetic.train} + {data.synthetic.val} images of shapes into {root}", flush=True)
        mark.unlink(missing_ok=True)
        generate_shapes(root, **wanted)
        mark.write_text(json.dumps(wanted))  # last: a generation that was cut off is done again
    except ValueError as error:
        raise ConfigError(f"data.synthetic: {error}") from error
    except OSError as error:
        raise ConfigError(f"data.root={root}: shapes cannot be drawn there: {error.strerror}") from error


def train_buckets(data: DataOptions) -> list[tuple[int, int]]:
    """Canvases (h, w) of training."""
    return _given(data) or list(default_buckets(max(short_edges(data)), data.max_size))


def eval_buckets(data: DataOptions) -> list[tuple[int, int]]:
    """Canvases (h, w) of evaluation."""
    return _given(data) or list(default_buckets(*eval_sizes(data)))


def _given(data: DataOptions) -> list[tuple[int, int]]:
    return [(height, width) for height, width in data.buckets or []]


def make_loader(
    data: DataOptions, train: TrainOptions, dataset: CocoDataset, *, rank: int = 0, num_ranks: int = 1
) -> TrainLoader:
    """Make the loader of this process's training batches.

    Raises:
        ConfigError: sizes that do not go together.
    """
    try:
        return TrainLoader(
            dataset,
            buckets=None if data.augmentation.crop_size else train_buckets(data),
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
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_evaluation(data: DataOptions, options: EvalOptions, val: CocoDataset) -> None:
    """Find out before training about what would end it at its first evaluation.

    Raises:
        ConfigError: a canvas for every image cannot be found.
        GroundTruthError: the file can be trained on, but not scored against.
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
        raise ConfigError(f"evaluation on {val.annotation_path}: data.{error}") from error
    sizes = {image_id: (int(h), int(w)) for image_id, (h, w) in zip(val.image_ids, val.image_sizes, strict=True)}
    CocoEvaluator(val.annotation_path, image_sizes=sizes)
