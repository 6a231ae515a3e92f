"""Fill a model with the weights of a file, and write its weights under the names of another project."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from mrcnn_model.checkpoint import assign, read_weights, variable_key
from mrcnn_model.config import ModelConfig
from mrcnn_model.mask_rcnn import MaskRCNN
from mrcnn_model.storage.cards import CheckpointError, resolve_checkpoint
from mrcnn_model.weights.class_rows import (
    count_rows,
    has_class_rows,
    rows_without_class,
    runs_over_classes,
    spread_classes,
    take_classes,
)
from mrcnn_model.weights.detectron2 import DETECTRON2
from mrcnn_model.weights.files import read_arrays
from mrcnn_model.weights.layout import Arrays, HeadOptions, Layout, to_keys, to_name
from mrcnn_model.weights.tensorpack import TENSORPACK
from mrcnn_model.weights.torchvision import TORCHVISION

# Conventions that a backbone depends on, and those that only training depends on.
_OF_BACKBONES = {"symmetric_padding", "stride_in_1x1", "pixel_mean", "pixel_std"}
_OF_TRAINING = {"box_loss", "train_proposals", "rpn_label_only_inside"}

LEAST_FILLED = 0.7  # part of the variables; without the mask head, or with other norms in the heads, it is about 0.9

LAYOUTS: Mapping[str, Layout] = {"tensorpack": TENSORPACK, "torchvision": TORCHVISION, "detectron2": DETECTRON2}


class WeightsReport(NamedTuple):
    """The differences between a file and a model, sorted."""

    unused: list[str]  # names in the file that were not used
    unfilled: list[str]  # variables that keep their fresh values
    reinitialised: list[str]  # those of them that depend on the classes and are in the file (new_classes=True)
    unlike: list[str]  # conventions of the file's project that the model does not follow, so that its results differ
    unused_rows: Sequence[int] = ()  # rows of layers over classes, if `category_ids` were given


def load_weights(
    model: MaskRCNN,
    path: str | Path,
    *,
    layout: Layout | None = None,
    new_classes: bool = False,
    allow_missing: bool = False,
) -> WeightsReport:
    """Fill a model from a file, or from one of our checkpoint or run directories.

    Args:
        path: an `.npz` or `.safetensors` file of a detector or a backbone; or a directory.
        layout: the project whose names a file has; by default, the one that most of its names belong to.
        new_classes: the file was trained for other classes. The layers that depend on them (class scores, a box or a
            mask of each class) keep their fresh values, even where the number of classes is the same; the report lists
            them as `reinitialised`.
        allow_missing: accept a file that has only a small part of the model's variables, see `LEAST_FILLED`.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind, it is for another number of classes, it lacks
            most variables, a shape differs, or a number is not finite; the message has the names of the array and of
            the variable.
    """
    path = Path(path)
    if path.is_dir():
        directory = resolve_checkpoint(path)
        arrays = read_weights(directory)
        labels = {key: f"{directory}: {key}" for key in arrays}
        if not allow_missing:
            _require_most(model, arrays, source=str(directory))
        return _fill(model, arrays, labels=labels, new_classes=new_classes)
    return fill_model(
        model,
        read_arrays(path),
        layout=layout,
        new_classes=new_classes,
        allow_missing=allow_missing,
        source=str(path),
    )


def fill_model(
    model: MaskRCNN,
    arrays: Arrays,
    *,
    layout: Layout | None = None,
    new_classes: bool = False,
    allow_missing: bool = False,
    category_ids: Sequence[int] | None = None,
    source: str = "weights",
) -> WeightsReport:
    """Fill a model from another project's arrays by name; see `load_weights`.

    Args:
        category_ids: those of the model's classes, if the rows of the arrays are category ids (torchvision's COCO
            detectors): these rows are taken. None: class c is row c.

    Raises:
        CheckpointError: no name is known, most variables are missing, the norm is of another kind, a shape differs, a
            number is not finite, or a category id has no row.
    """
    layout = layout or _detect_layout(arrays, source=source)
    keys = to_keys(arrays, layout)
    if not keys:
        raise CheckpointError(f"{source} holds no variable of a ResNet-FPN model under {layout.title}'s names")
    names = {key: name for name, key in keys.items()}
    labels = {key: f"{source}: {name}, read as {key}," for key, name in names.items()}
    options = head_options(model.config)
    converted = {key: read_array(key, arrays[name], layout, options, label=labels[key]) for key, name in names.items()}
    _require_same_norm(model, converted, source=source)
    if not allow_missing:
        _require_most(model, converted, source=source)
    unused_rows: list[int] = []
    if category_ids is not None:
        count = _count_rows(converted, source=source)
        for category_id in category_ids:
            if not 0 < category_id < count:
                raise CheckpointError(
                    f"{source} has rows 1 to {count - 1} for classes: none for category id {category_id}"
                )
        unused_rows = rows_without_class(category_ids, count)
        converted = {key: take_classes(key, array, category_ids) for key, array in converted.items()}
    report = _fill(model, converted, labels=labels, new_classes=new_classes)
    unused = [*(arrays.keys() - keys.keys()), *(names[key] for key in report.unused)]
    is_backbone = all(key.startswith("backbone.") for key in keys.values())
    unlike = unlike_conventions(model.config, layout, arrays, only=_OF_BACKBONES if is_backbone else None)
    return report._replace(unused=sorted(unused), unlike=unlike, unused_rows=unused_rows)


def _count_rows(arrays: Arrays, *, source: str) -> int:
    for key, array in arrays.items():
        if runs_over_classes(key) and key.endswith(".logits.bias"):
            return count_rows(key, array)
    raise CheckpointError(f"{source} holds no layer over classes, so no row of a category id")


def unlike_conventions(
    config: ModelConfig, layout: Layout, arrays: Arrays, *, only: Collection[str] | None = None
) -> list[str]:
    """Return the conventions because of which a model and another project give other results for the same weights.

    Args:
        arrays: those of that project; some conventions follow from them.
        only: options of `ModelConfig` to compare; None: all except those that matter only in training.
    """
    theirs = layout.conventions(arrays)
    return [
        f"{name} is {getattr(config, name)!r}, in networks of {layout.title} {value!r}"
        for name, value in theirs.items()
        if name not in _OF_TRAINING and (only is None or name in only) and not _is_same(getattr(config, name), value)
    ]


def _is_same(one: Any, other: Any) -> bool:
    return one == other if isinstance(one, bool | str) else bool(np.allclose(one, other))


def _detect_layout(arrays: Arrays, *, source: str) -> Layout:
    """Return the layout that most of the names belong to.

    Raises:
        CheckpointError: no layout has any of the names.
    """
    known = {title: len(to_keys(arrays, layout)) for title, layout in LAYOUTS.items()}
    best = max(known, key=lambda title: known[title])
    if not known[best]:
        titles = ", ".join(layout.title for layout in LAYOUTS.values())
        raise CheckpointError(f"{source} holds no variable of a ResNet-FPN model under the names of {titles}")
    return LAYOUTS[best]


def export_weights(
    model: MaskRCNN, layout: Layout, *, category_ids: Sequence[int] | None = None
) -> dict[str, np.ndarray]:
    """Give a model's variables the names and the layout of another project.

    Args:
        category_ids: those of the model's classes; a class is written to the row of its id (see `class_rows`). None:
            class c is row c.

    Raises:
        CheckpointError: the project has no such network; the message names the variables.
    """
    if layout.write is None:
        raise CheckpointError(f"weights cannot be exported for {layout.title}")
    arrays, nameless = {}, []
    options = head_options(model.config)
    for variable in model.variables:
        key = variable_key(variable)
        name = to_name(key, layout, model.config)
        if name is None:
            nameless.append(key)
        else:
            array = variable.numpy()
            if category_ids is not None:
                array = spread_classes(key, array, category_ids)
            arrays[name] = np.ascontiguousarray(layout.write(key, array, options))
    if nameless:
        raise CheckpointError(f"{layout.title} has no name for {', '.join(nameless)}")
    if model.config.norms.norm == "gn" and layout is TORCHVISION:
        raise CheckpointError("torchvision has no ResNet with group norms, and this backbone has them")
    return arrays


def head_options(config: ModelConfig) -> HeadOptions:
    """Return the options on which the layout of a model's heads depends."""
    box = config.box
    return HeadOptions(box.box_pool_size, class_agnostic_boxes=box.cascade or box.class_agnostic_boxes)


def read_array(key: str, array: np.ndarray, layout: Layout, options: HeadOptions, *, label: str) -> np.ndarray:
    """Turn an array of another project into ours, float32.

    Raises:
        CheckpointError: its number of axes or its shape is wrong; the message begins with `label`.
    """
    try:
        return layout.read(key, np.asarray(array, np.float32), options)
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"{label} has shape {np.shape(array)}, which does not fit: {error}") from error


def _require_same_norm(model: MaskRCNN, arrays: Arrays, *, source: str) -> None:
    """Refuse scale and shift of a batch norm for a group norm, and the reverse: only the shapes would fit."""
    ours = {variable_key(v) for v in model.variables}
    for layer in ("backbone.stem", "fpn.lateral2", "mask_head.conv0"):
        scale, statistics = f"{layer}.gamma", f"{layer}.moving_mean"
        if scale in arrays and scale in ours and (statistics in arrays) != (statistics in ours):
            theirs = "batch norm" if statistics in arrays else "group norm"
            raise CheckpointError(
                f"{source}: {theirs} after {layer}; the model has another norm there (model.norm, fpn_norm, head_norm)"
            )


def _require_most(model: MaskRCNN, arrays: Arrays, *, source: str) -> None:
    """Refuse a file that has only a small part of what it is for: it is probably of another network.

    Args:
        arrays: by our keys. If all are of the backbone, the file is for the backbone.
    """
    wanted = {variable_key(v) for v in model.variables}
    is_backbone = all(key.startswith("backbone.") for key in arrays)
    if is_backbone:
        wanted = {key for key in wanted if key.startswith("backbone.")}
    found = wanted & arrays.keys()
    if len(found) < LEAST_FILLED * len(wanted):
        missing = sorted(wanted - found)
        raise CheckpointError(
            f"{source} has only {len(found)} of the {len(wanted)} variables of the "
            f"{'backbone' if is_backbone else 'model'}; it lacks {', '.join(missing[:3])}, ...: it is probably of "
            "another network. allow_missing=True (training: model.allow_missing=true) starts the others fresh"
        )


def _fill(model: MaskRCNN, arrays: Arrays, *, labels: Mapping[str, str], new_classes: bool) -> WeightsReport:
    """Fill the variables that have an array of the same key; `labels` begin the messages about each."""
    by_key = {variable_key(v): v for v in model.variables}
    reinitialised = []
    for key in sorted(by_key.keys() & arrays.keys()):
        variable, array = by_key[key], arrays[key]
        same_inputs = tuple(variable.shape[:-1]) == array.shape[:-1]
        if new_classes and same_inputs and has_class_rows(key, variable):
            reinitialised.append(key)
            continue
        if same_inputs and has_class_rows(key, variable) and has_class_rows(key, array):
            _require_same_classes(key, variable, array, label=labels[key])
        assign(variable, array, label=labels[key])
    return WeightsReport(
        unused=sorted([*(arrays.keys() - by_key.keys()), *reinitialised]),
        unfilled=sorted([*(by_key.keys() - arrays.keys()), *reinitialised]),
        reinitialised=reinitialised,
        unlike=[],
    )


def _require_same_classes(key: str, variable: keras.Variable, array: np.ndarray, *, label: str) -> None:
    theirs, ours = count_rows(key, array) - 1, count_rows(key, variable) - 1
    if theirs != ours:
        raise CheckpointError(
            f"{label} is for {theirs} classes, the model has {ours}. With new_classes=True "
            "(training: model.new_classes=true) the layers that depend on the classes start fresh."
        )
