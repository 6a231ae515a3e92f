"""The `mrcnn-eval` command: score a checkpoint or a results file against ground truth, or predict pictures."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn_eval.command.options import DEFAULT_BATCH_SIZE, UsageError, check_options, parse_options
from mrcnn_model.quiet_tensorflow import import_tensorflow_quietly

if TYPE_CHECKING:
    from mrcnn_data import CocoDataset
    from mrcnn_eval.inference.detection import DetectFunction
    from mrcnn_eval.report.comparison import OtherRun
    from mrcnn_eval.scoring.coco_evaluator import CocoEvaluator, EvalResult, IouType
    from mrcnn_model import MaskRCNN, ModelCard

MAX_NAMED = 8  # written files that are listed
MAX_MESSAGE = 2000  # characters of an error or a warning
PICTURE_SCORE = 0.5  # AP counts every detection; a picture that shows them all shows nothing


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments; by default those of the process.

    Returns:
        The exit code: 0, 2 on bad input (one line on stderr), 130 when interrupted.
    """
    from mrcnn_data import DatasetError, OutputError, visible
    from mrcnn_eval.report.comparison import ComparisonError, read_other_run
    from mrcnn_eval.scoring.ground_truth import GroundTruthError
    from mrcnn_eval.scoring.image_results import ResultsError

    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("mrcnn-eval: %(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    arguments = parse_options(argv)
    try:
        check_options(arguments)
        other = None if arguments.compare is None else read_other_run(arguments.compare)  # before hours of inference
        if arguments.results is not None:
            score_results_file(arguments, other)
        elif arguments.images is not None:
            predict_pictures(arguments)
        else:
            score_checkpoint(arguments, other)
    except (UsageError, DatasetError, GroundTruthError, OutputError, ResultsError, ComparisonError) as error:
        print(f"mrcnn-eval: error: {visible(error, limit=MAX_MESSAGE)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mrcnn-eval: interrupted", file=sys.stderr)
        return 130
    return 0


class _OneLine(logging.Formatter):
    """Formats a record as one line, whatever text from a file it holds."""

    def format(self, record: logging.LogRecord) -> str:
        from mrcnn_data import visible

        return visible(super().format(record), limit=MAX_MESSAGE)


def score_results_file(arguments: argparse.Namespace, other: OtherRun | None) -> None:
    """Score a results JSON without a model; with `--image-dir`, draw pictures too."""
    from mrcnn_eval.scoring.coco_evaluator import IOU_TYPES, CocoEvaluator

    output = arguments.output or arguments.results.parent / "evaluation"
    names = _scoring_outputs(arguments, images=arguments.image_dir is not None)
    _check_outputs(output, names, inputs=(arguments.results, arguments.annotations))
    results = _read_results(arguments.results)
    if arguments.score_threshold is not None:
        results = [entry for entry in results if not _scores_below(entry, arguments.score_threshold)]
    keys = {"bbox": "bbox", "segm": "segmentation"}
    # COCO's own results files hold boxes or masks, not both: what the file has is what is scored.
    held = [iou_type for iou_type in IOU_TYPES if any(keys[iou_type] in entry for entry in results)]
    iou_types = held or IOU_TYPES
    _check_comparable(other, iou_types)
    evaluator = CocoEvaluator(
        arguments.annotations,
        max_dets=arguments.max_dets or 100,
        backend=arguments.backend or "hotcoco",
        iou_types=iou_types,
        honor_ignore=arguments.honor_ignore,
    )
    evaluator.add_results(results)
    _make(output)
    settings = {"results": str(arguments.results), "score_threshold": arguments.score_threshold}
    settings |= {"annotations": str(arguments.annotations), "backend": evaluator.backend}
    settings |= {"honor_ignore": arguments.honor_ignore}
    _write(
        evaluator, evaluator.evaluate(), arguments, other, output=output, images=arguments.image_dir, settings=settings
    )


def _check_comparable(other: OtherRun | None, iou_types: Sequence[IouType]) -> None:
    """Find out before hours of inference that `--compare` names a run without numbers of these kinds."""
    if other is not None:
        from mrcnn_eval.report.comparison import shared_kinds

        shared_kinds(other, iou_types)


def _scores_below(entry: dict[str, Any], threshold: float) -> bool:
    score = entry.get("score")
    return isinstance(score, Real) and score < threshold  # the evaluator names an entry whose score is no number


def _read_results(path: Path) -> list[dict[str, Any]]:
    import msgspec

    try:
        return msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{path}: not a COCO results file: {error}") from error


def score_checkpoint(arguments: argparse.Namespace, other: OtherRun | None) -> None:
    """Run a checkpoint over a data set and score it."""
    from mrcnn_eval.scoring.coco_evaluator import IOU_TYPES

    model, card = _load(arguments.checkpoint)
    dataset = _open_dataset(arguments, card)
    check_classes(dataset, card, checkpoint=arguments.checkpoint)
    _check_comparable(other, IOU_TYPES if model.config.masks else ("bbox",))
    output = arguments.output or arguments.checkpoint / "evaluation"
    _check_outputs(output, _scoring_outputs(arguments, images=True), inputs=(dataset.annotation_path,))
    _make(output)
    _apply_limits(model, arguments)
    from mrcnn_eval.inference.detection import detect_dataset

    with _progress_bar() as progress:
        evaluator = detect_dataset(
            model,
            dataset,
            buckets=[(height, width) for height, width in card.buckets],
            short_edge=card.short_edge,
            max_size=card.max_size,
            batch_size=arguments.batch_size or DEFAULT_BATCH_SIZE,
            limit=arguments.limit,
            max_dets=arguments.max_dets,
            backend=arguments.backend or "hotcoco",
            honor_ignore=arguments.honor_ignore,
            progress=progress,
            detect=_detect_function(model, arguments.tta),
        )
    settings = {
        "checkpoint": str(arguments.checkpoint),
        "annotations": str(dataset.annotation_path),
        "images": str(dataset.image_dir),
        "limit": arguments.limit,
        "score_threshold": model.config.score_threshold,
        "detections_per_image": model.config.detections_per_image,
        "short_edge": card.short_edge,
        "max_size": card.max_size,
        "tta": arguments.tta,
        "backend": evaluator.backend,
        "honor_ignore": arguments.honor_ignore,
    }
    result = evaluator.evaluate(image_ids=evaluator.image_results)
    _write(evaluator, result, arguments, other, output=output, images=Path(dataset.image_dir), settings=settings)


def predict_pictures(arguments: argparse.Namespace) -> None:
    """Run a checkpoint over pictures; write what it finds as one JSON and draw it over each picture."""
    from rich.console import Console

    from mrcnn_eval.inference.predictions import (
        DETECTIONS,
        drawing_names,
        find_pictures,
        nothing_shown,
        opened_pictures,
        prediction_table,
        write_predictions,
    )

    output = arguments.output or arguments.checkpoint / "predictions"
    if any(path.is_dir() and path.resolve() == output.resolve() for path in arguments.images):
        raise UsageError(f"--output {output}: the drawings would lie among the pictures: choose another folder")
    pictures = find_pictures(arguments.images)
    names = [DETECTIONS, *drawing_names(pictures)]
    _check_outputs(output, names, inputs=pictures)
    model, card = _load(arguments.checkpoint)
    _make(output)
    _apply_limits(model, arguments)

    from mrcnn_eval.inference.detection import detect_dataset

    with opened_pictures(pictures, categories=zip(card.category_ids, card.class_names, strict=True)) as dataset:
        with _progress_bar() as progress:
            evaluator = detect_dataset(
                model,
                dataset,
                buckets=[(height, width) for height, width in card.buckets],
                short_edge=card.short_edge,
                max_size=card.max_size,
                batch_size=arguments.batch_size or DEFAULT_BATCH_SIZE,
                progress=progress,
                detect=_detect_function(model, arguments.tta),
            )
        shown_from = PICTURE_SCORE if arguments.score_threshold is None else arguments.score_threshold
        write_predictions(output, evaluator, dataset, score_threshold=shown_from)
    console = Console()
    console.print(prediction_table(evaluator, score_threshold=shown_from))
    hint = nothing_shown(evaluator, score_threshold=shown_from, model_threshold=model.config.score_threshold)
    if hint is not None:
        print(hint)
    _say_written(output, names)


def _apply_limits(model: MaskRCNN, arguments: argparse.Namespace) -> None:
    if arguments.score_threshold is not None:
        model.config.score_threshold = arguments.score_threshold
    if arguments.max_dets is not None:
        model.config.detections_per_image = arguments.max_dets


def _detect_function(model: MaskRCNN, tta: list[str | float] | None) -> DetectFunction | None:
    """Return what detects with the views asked for, None for the model's own way."""
    if tta is None:
        return None
    from mrcnn_eval.inference.tta import augmented_detect, views

    try:
        scales = [view for view in tta if isinstance(view, float)]
        return augmented_detect(model, views(flip="flip" in tta, scales=scales))
    except ValueError as error:
        raise UsageError(f"--tta: {error}") from error


def _load(checkpoint: Path) -> tuple[MaskRCNN, ModelCard]:
    if not checkpoint.exists():  # before TensorFlow, which takes its time
        raise UsageError(f"checkpoint {checkpoint} does not exist")
    import_tensorflow_quietly()
    try:
        from mrcnn_model import CheckpointError, load_model
    except ImportError as error:  # mrcnn-ops says in one line which TensorFlow it was built for
        raise UsageError(str(error)) from error
    try:
        return load_model(checkpoint)
    except CheckpointError as error:
        raise UsageError(str(error)) from error


def _open_dataset(arguments: argparse.Namespace, card: ModelCard) -> CocoDataset:
    from mrcnn_data import CocoDataset

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


def check_classes(dataset: CocoDataset, card: ModelCard, *, checkpoint: Path) -> None:
    """Require that the classes of the data set are the checkpoint's, by id and name.

    Raises:
        UsageError: naming the first difference.
    """
    from mrcnn_eval.scoring.classes import class_difference

    difference = class_difference(
        (dataset.category_ids, dataset.class_names),
        (card.category_ids, card.class_names),
        reference="the checkpoint",
    )
    if difference is not None:
        raise UsageError(f"{dataset.annotation_path} does not fit {checkpoint}: it has {difference}")


def _scoring_outputs(arguments: argparse.Namespace, *, images: bool) -> list[str]:
    """Name the files that scoring writes."""
    names = {
        "metrics.json": True,
        "detections.json": True,
        "ap_table.txt": True,
        "comparison.json": arguments.compare is not None,
        "contact_sheet.png": images,
        "report.html": arguments.report,
    }
    return [name for name, is_written in names.items() if is_written]


def _check_outputs(output: Path, names: Sequence[str], *, inputs: Iterable[Path]) -> None:
    """Raise, before hours of inference, where a file to be written is an input or was not written by this product."""
    from mrcnn_data import check_outputs

    read = {path.resolve() for path in map(Path, inputs)}
    paths = [output / name for name in names]
    for path in paths:
        if path.resolve() in read:
            raise UsageError(f"{path} is an input of this command too: choose another --output")
    check_outputs(paths)


def _say_written(output: Path, names: Sequence[str]) -> None:
    from mrcnn_data import visible

    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    print(f"Written to {visible(output)}: {', '.join(map(visible, names[:MAX_NAMED]))}{more}")


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {directory}: cannot be made: {error.strerror}") from error
    try:
        with tempfile.TemporaryFile(dir=directory):
            return
    except OSError as error:
        raise UsageError(f"--output {directory}: cannot be written to: {error.strerror}") from error


@contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("images")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _write(
    evaluator: CocoEvaluator,
    result: EvalResult,
    arguments: argparse.Namespace,
    other: OtherRun | None,
    *,
    output: Path,
    images: Path | None,
    settings: dict[str, Any],
) -> None:
    from rich.console import Console

    from mrcnn_data import visible
    from mrcnn_eval.report.tables import ap_tables, metrics_content, write_ap_table, write_json, write_results

    metrics = metrics_content(result, settings=settings)
    write_json(output / "metrics.json", metrics)
    write_results(output / "detections.json", evaluator.results())
    write_ap_table(output / "ap_table.txt", result)
    console = Console()
    console.print(ap_tables(result))
    comparison = None
    if other is not None:
        from mrcnn_eval.report.comparison import compare, comparison_content, comparison_table

        comparison = compare(evaluator, metrics, other)
        write_json(output / "comparison.json", comparison_content(comparison))
        console.print(comparison_table(comparison))
        for note in comparison.notes:
            print(f"Not the same conditions. {visible(note)}")
    if images is not None:
        from mrcnn_eval.report.pictures import draw_contact_sheet

        draw_contact_sheet(output / "contact_sheet.png", evaluator, images, score_threshold=PICTURE_SCORE)
    if arguments.report:
        from mrcnn_eval.report.html import write_html_report

        write_html_report(
            output / "report.html", evaluator, result, metrics=metrics, images=images, comparison=comparison
        )
    _say_written(output, _scoring_outputs(arguments, images=images is not None))
