"""`--results FILE` and `--checkpoint DIR`: score detections against ground truth, and write the evaluation."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn_data import CocoDataset, DatasetError, open_console, read_json, visible
from mrcnn_eval.command.checkpoint import (
    apply_limits,
    load_checkpoint,
    open_dataset,
    run_detection,
)
from mrcnn_eval.command.options import UsageError
from mrcnn_eval.command.output import prepare_output, say_written
from mrcnn_eval.command.unlabelled import images_alone, predict_unlabelled
from mrcnn_eval.report.comparison import Comparison, OtherRun, compare, comparison_table, shared_kinds, write_comparison
from mrcnn_eval.report.tables import ap_tables, metrics_content, write_ap_table, write_json, write_results
from mrcnn_eval.scoring.coco_evaluator import IOU_TYPES, CocoEvaluator, IouType
from mrcnn_eval.scoring.doubts import doubt_about_areas

if TYPE_CHECKING:
    from mrcnn_model import MaskRCNN, ModelCard

NOT_AN_AREA = "area is not a positive number"  # kind of finding of mrcnn_data
RESULT_KEYS: dict[IouType, str] = {"bbox": "bbox", "segm": "segmentation"}  # keys in a results file


def score_results_file(arguments: argparse.Namespace, other: OtherRun | None) -> None:
    """Score a results JSON without a model; with `--image-dir`, draw pictures too."""
    results = _read_results(arguments.results)
    if arguments.score_threshold is not None:
        results = [entry for entry in results if not _scores_below(entry, arguments.score_threshold)]
    # COCO's own results files hold boxes or masks, not both: score what the file holds.
    held = [iou_type for iou_type in IOU_TYPES if any(RESULT_KEYS[iou_type] in entry for entry in results)]
    iou_types = held or IOU_TYPES
    _check_comparable(other, iou_types)
    output = arguments.output or arguments.results.parent / "evaluation"
    names = _output_names(arguments, with_images=arguments.image_dir is not None)
    prepare_output(output, names, inputs=(arguments.results, arguments.annotations))
    evaluator = CocoEvaluator(
        arguments.annotations,
        max_dets=arguments.max_dets or 100,
        backend="pycocotools" if arguments.pycocotools_id0 else arguments.backend or "hotcoco",
        iou_types=iou_types,
        honor_ignore=arguments.honor_ignore,
        pycocotools_id0=arguments.pycocotools_id0,
        mask_areas=arguments.mask_areas,
    )
    evaluator.add_results(results)
    settings = {
        "results": _json_text(arguments.results),
        "score_threshold": arguments.score_threshold,
        "annotations": _json_text(arguments.annotations),
        "backend": evaluator.backend,
        "honor_ignore": arguments.honor_ignore,
        "pycocotools_id0": arguments.pycocotools_id0,
        "mask_areas": arguments.mask_areas,
    }
    _write(evaluator, None, arguments, other, output=output, images=arguments.image_dir, settings=settings)
    _say_id_0(evaluator)
    _say_areas(evaluator)
    say_written(output, names)


def _read_results(path: Path) -> list[dict[str, Any]]:
    try:
        results = read_json(path)
    except DatasetError as error:
        raise UsageError(str(error)) from None
    if isinstance(results, dict) and "images" in results:
        raise UsageError(f"{path} is a dataset, not a COCO results file: it belongs to --annotations")
    if not isinstance(results, list):
        raise UsageError(f"{path} is not a COCO results file, which is a list with an object for each detection")
    for number, entry in enumerate(results):
        if not isinstance(entry, dict):
            raise UsageError(f"{path} is not a COCO results file: entry {number} is not an object")
    return results


def _scores_below(entry: Mapping[str, Any], threshold: float) -> bool:
    score = entry.get("score")
    return isinstance(score, Real) and score < threshold  # a score that is not a number is an error of the evaluator


def score_checkpoint(arguments: argparse.Namespace, other: OtherRun | None) -> None:
    """Run a checkpoint over a data set and score it."""
    model, card, precision = load_checkpoint(arguments)
    try:
        dataset = open_dataset(arguments, card)
    except DatasetError:
        unlabelled = images_alone(arguments.annotations)
        if unlabelled is None:
            raise
        predict_unlabelled(model, card, unlabelled, arguments)
        return
    _check_comparable(other, IOU_TYPES if model.config.masks else ("bbox",))
    output, names = arguments.output or arguments.checkpoint / "evaluation", _output_names(arguments, with_images=True)
    prepare_output(output, names, inputs=[source.annotation_path for source in dataset.sources])
    apply_limits(model, arguments)
    from mrcnn_eval.inference import new_evaluator

    evaluator = new_evaluator(
        model,
        dataset,
        max_dets=arguments.max_dets,
        backend=arguments.backend or "hotcoco",
        mask_areas=arguments.mask_areas,
    )
    run_detection(model, card, dataset, arguments, evaluator=evaluator)
    settings = {**_settings(evaluator, model, dataset, card, arguments), "precision": precision}
    scored = list(evaluator.image_results)
    images = evaluator.ground_truth.image_dir
    _write(evaluator, scored, arguments, other, output=output, images=images, settings=settings)
    _say_id_0(evaluator)
    _say_areas(evaluator, num_unusable=dataset.opening_report.count(NOT_AN_AREA))
    _say_what_is_ignored(int(evaluator.ground_truth.ignored.sum()), was_asked=arguments.honor_ignore)
    say_written(output, names)


def _settings(
    evaluator: CocoEvaluator, model: MaskRCNN, dataset: CocoDataset, card: ModelCard, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Return what decides the numbers of a checkpoint, for `metrics.json`."""
    return {
        "checkpoint": _json_text(arguments.checkpoint),
        "annotations": dataset.name,
        "images": _json_text(evaluator.ground_truth.image_dir or Path()),
        "limit": arguments.limit,
        "score_threshold": model.config.score_threshold,
        "detections_per_image": model.config.detections_per_image,
        "short_edge": card.short_edge,
        "max_size": card.max_size,
        "tta": arguments.tta,
        "backend": evaluator.backend,
        "honor_ignore": evaluator.honor_ignore,
        "mask_areas": arguments.mask_areas,
    }


def _say_id_0(evaluator: CocoEvaluator) -> None:
    if evaluator.ground_truth.zero_ids.size and not evaluator.pycocotools_id0:
        print(
            "An annotation has the id 0, which pycocotools counts as never found; here it counts like any other. "
            "--results with --pycocotools-id0 gives the numbers of pycocotools."
        )


def _say_areas(evaluator: CocoEvaluator, *, num_unusable: int = 0) -> None:
    if num_unusable:
        print(
            f"{num_unusable} annotations have an `area` that is not a positive number: that of the mask, or else the "
            "box, was taken."
        )
    doubt = doubt_about_areas(evaluator.ground_truth)
    if doubt is not None:
        print(doubt)


def _say_what_is_ignored(count: int, *, was_asked: bool) -> None:
    if count:
        print(f"{count} objects of the annotation file have ignore: 1 and are not scored, as in training.")
    elif was_asked:
        print("No object of the annotation file has ignore: 1. --checkpoint always leaves such objects out.")


def _json_text(path: Path) -> str:
    """Return a path as JSON can hold it: a name that is not valid UTF-8 loses the bytes that are not."""
    return os.fsencode(path).decode("utf-8", "replace")


def _check_comparable(other: OtherRun | None, iou_types: Sequence[IouType]) -> None:
    """Raise before hours of inference where `--compare` names a run without numbers of these kinds."""
    if other is not None:
        shared_kinds(other, iou_types)


def _output_names(arguments: argparse.Namespace, *, with_images: bool) -> list[str]:
    """Name the files that `_write` writes."""
    names = {
        "metrics.json": True,
        "detections.json": True,
        "ap_table.txt": True,
        "comparison.json": arguments.compare is not None,
        "contact_sheet.png": with_images,
        "report.html": arguments.report,
    }
    return [name for name, is_written in names.items() if is_written]


def _write(
    evaluator: CocoEvaluator,
    image_ids: list[Any] | None,
    arguments: argparse.Namespace,
    other: OtherRun | None,
    *,
    output: Path,
    images: Path | None,
    settings: Mapping[str, Any],
) -> None:
    """Score the images, all if None; print the numbers and write the files."""
    result = evaluator.evaluate(image_ids=image_ids)
    metrics = metrics_content(result, settings=settings)
    write_json(output / "metrics.json", metrics)
    write_results(output / "detections.json", evaluator.results())
    write_ap_table(output / "ap_table.txt", result)
    open_console().print(ap_tables(result))
    comparison = None
    if other is not None:
        comparison = compare(evaluator, metrics, other)
        write_comparison(output / "comparison.json", comparison)
        _print_comparison(comparison)
    if images is not None:
        from mrcnn_eval.report.pictures import draw_contact_sheet

        draw_contact_sheet(output / "contact_sheet.png", evaluator, images)
    if arguments.report:
        from mrcnn_eval.report.html import write_html_report

        path = output / "report.html"
        write_html_report(path, evaluator, result, metrics=metrics, images=images, comparison=comparison)


def _print_comparison(comparison: Comparison) -> None:
    open_console().print(comparison_table(comparison))
    for note in comparison.notes:
        print(f"Not the same conditions. {visible(note)}")
