"""The checkpoint that the command runs: its model, and the data set that its card names."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mrcnn_data import CocoDataset, visible
from mrcnn_eval.command.options import DEFAULT_BATCH_SIZE, MAX_MESSAGE, UsageError
from mrcnn_eval.command.output import progress_bar
from mrcnn_model import (
    AUTO_PRECISION,
    CheckpointError,
    DeviceError,
    choose_precision,
    find_checkpoint,
    import_tensorflow_quietly,
    require_weights,
)

if TYPE_CHECKING:
    from mrcnn_eval.inference import DetectFunction
    from mrcnn_eval.scoring import CocoEvaluator
    from mrcnn_model import MaskRCNN, ModelCard


class Loaded(NamedTuple):
    """The model of a checkpoint, its card, and the precision in which it computes here."""

    model: MaskRCNN
    card: ModelCard
    precision: str


def load_checkpoint(arguments: argparse.Namespace) -> Loaded:
    """Load the model of `--checkpoint`; print which checkpoint it is, its device, and a precision that is chosen.

    Raises:
        UsageError: it does not exist or cannot be loaded, or the device cannot be used.
    """
    precision: str = arguments.precision or AUTO_PRECISION
    try:
        found = find_checkpoint(arguments.checkpoint)
        require_weights(found.directory)  # before TensorFlow is imported, which takes seconds
        print(f"Checkpoint {visible(found, limit=MAX_MESSAGE)}", flush=True)
        import_tensorflow_quietly()
        try:
            from mrcnn_model import load_model, use_device
        except ImportError as error:  # mrcnn-ops says in one line which TensorFlow it was built for
            raise UsageError(str(error)) from error
        device = use_device(arguments.device or "auto", cpu_option="--device cpu", tf32=not arguments.no_tf32)
        print(f"device: {device}", flush=True)
        if precision == AUTO_PRECISION:
            choice = choose_precision()
            precision = choice.precision
            print(f"precision: {choice}", flush=True)
        model, card = load_model(found.directory, precision=precision)
    except (CheckpointError, DeviceError) as error:
        raise UsageError(str(error)) from error
    return Loaded(model, card, precision)


def apply_limits(model: MaskRCNN, arguments: argparse.Namespace) -> None:
    """Set the score threshold and the number of detections that the options ask for."""
    if arguments.score_threshold is not None:
        model.config.score_threshold = arguments.score_threshold
    if arguments.max_dets is not None:
        model.config.detections_per_image = arguments.max_dets


def run_detection(
    model: MaskRCNN,
    card: ModelCard,
    dataset: CocoDataset,
    arguments: argparse.Namespace,
    *,
    evaluator: CocoEvaluator | None = None,
) -> CocoEvaluator:
    """Detect on a data set as the options say, with a progress bar; see `mrcnn_eval.inference.detect_dataset`."""
    from mrcnn_eval.inference import Preprocessing, detect_dataset

    with progress_bar() as progress:
        return detect_dataset(
            model,
            dataset,
            Preprocessing.of(card),
            batch_size=arguments.batch_size or DEFAULT_BATCH_SIZE,
            evaluator=evaluator,
            limit=arguments.limit,
            progress=progress,
            detect=_detect_function(model, arguments.tta),
        )


def _detect_function(model: MaskRCNN, tta: list[str | float] | None) -> DetectFunction | None:
    """Return the function that detects over the views of `--tta`, None for the model alone."""
    if tta is None:
        return None
    from mrcnn_eval.inference import augmented_detect, views

    try:
        scales = [view for view in tta if isinstance(view, float)]
        return augmented_detect(model, views(flip="flip" in tta, scales=scales))
    except ValueError as error:
        raise UsageError(f"--tta: {error}") from error


def open_dataset(arguments: argparse.Namespace, card: ModelCard) -> CocoDataset:
    """Open the data set that the options name, or else the one that the card names, with the classes of the card.

    What differs between the two, such as ids of categories, is printed.

    Raises:
        UsageError: neither names it.
        DatasetError: it cannot be opened, or has objects of a class that the checkpoint does not have.
    """
    return match_classes(_named_dataset(arguments, card), card, arguments.checkpoint)


def match_classes(dataset: CocoDataset, card: ModelCard, checkpoint: Path) -> CocoDataset:
    """Return a data set with the classes of a card; print what differs between the two.

    Raises:
        DatasetError: it has objects of a class that the card does not have.
    """
    matched = dataset.with_classes(card.category_ids, card.class_names, reference=f"{checkpoint}")
    for finding in matched.opening_report.findings:
        if not dataset.opening_report.count(finding.kind):
            print(visible(f"{dataset.name}: {finding}", limit=2000))
    return matched


def _named_dataset(arguments: argparse.Namespace, card: ModelCard) -> CocoDataset:
    if arguments.annotations is not None:
        return CocoDataset.open(arguments.annotations, arguments.image_dir)
    chosen = arguments.data_root is not None or arguments.split is not None
    if not chosen and card.annotations is not None and card.images is not None:
        return CocoDataset.open(Path(card.annotations), Path(card.images))
    root, split = arguments.data_root or card.data_root, arguments.split or card.val_split
    if root is None:
        raise UsageError(
            "the checkpoint does not say where its data is: give --data-root, or --annotations and --image-dir"
        )
    if split is None:
        raise UsageError("the checkpoint does not name a validation split: give --split")
    return CocoDataset.from_root(Path(root), split)
