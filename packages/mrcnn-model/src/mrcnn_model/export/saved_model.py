"""Write a SavedModel that takes photographs and returns the objects in them.

    python -m mrcnn_model.export CHECKPOINT OUT [--portable]

Its signature `serving_default` takes

    images  uint8 [N, H, W, 3], RGB, padded right and bottom to one size
    sizes   int32 [N, 2], the valid (h, w) of each; (0, 0) for a row without an image, in which nothing is found

and returns, for at most D detections an image, best first,

    boxes         float32 [N, D, 4], (x1, y1, x2, y2) in pixels of the input image
    scores        float32 [N, D]
    classes       int32 [N, D], 1 to C-1; 0 = none
    category_ids  int32 [N, D], as in the training annotations; 0 where not valid
    masks         float32 [N, D, M, M], probabilities inside the box (M is 0 without a mask head)
    valid         bool [N, D]

It resizes and normalises the images itself. Import `mrcnn_ops` before loading it; after --portable, TensorFlow alone is
enough. OUT is a new or empty folder; OUT/model.json names the classes.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from mrcnn_model.boxes import clip_boxes
from mrcnn_model.checkpoint import load_model
from mrcnn_model.command import run_command, visible
from mrcnn_model.config import AUTO_PRECISION, PRECISIONS, choose_precision
from mrcnn_model.detection_ops import COMPILED_OPS
from mrcnn_model.export.portable import PORTABLE_OPS
from mrcnn_model.export.resizing import resize_images
from mrcnn_model.mask_rcnn import MaskRCNN
from mrcnn_model.storage.cards import CARD_FILE, CheckpointError, ModelCard, find_checkpoint, resolve_checkpoint
from mrcnn_model.storage.folders import new_folder, require_new_folder

STRIDE = 32  # of the coarsest map of the backbone; the sides of its input are multiples of it


class ServedModel(tf.Module):
    """A model with its preprocessing: photographs in, detections in pixels of the photographs out."""

    def __init__(self, model: MaskRCNN, card: ModelCard) -> None:
        super().__init__()
        self._model = model
        self._card = card
        self._category_ids = [0, *card.category_ids]
        self.weights = [variable.value for variable in model.variables]  # the SavedModel stores them

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, None, 3], tf.uint8, "images"),
            tf.TensorSpec([None, 2], tf.int32, "sizes"),
        ]
    )
    def __call__(self, images: tf.Tensor, sizes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detect in images uint8 [N, H, W, 3] of sizes int32 [N, 2]; the module's documentation lists the outputs."""
        card = self._card
        sizes = tf.clip_by_value(sizes, 0, tf.shape(images)[1:3])
        resized, new_sizes = resize_images(
            images, sizes, short_edge=card.short_edge, max_size=card.max_size, multiple=STRIDE
        )
        found = self._model.detect(resized, new_sizes)
        # Each edge is rounded to whole pixels, so the scales of x and y differ a little.
        scale = tf.cast(sizes, tf.float32) / tf.cast(new_sizes, tf.float32)
        boxes = found.boxes * tf.gather(scale, [1, 0, 1, 0], axis=1)[:, tf.newaxis]
        has_pixels = tf.reduce_all(sizes > 0, axis=1)[:, tf.newaxis]  # [N, 1]
        valid = found.valid & has_pixels
        classes = tf.where(valid, found.classes, 0)
        return {
            "boxes": tf.where(valid[:, :, tf.newaxis], clip_boxes(boxes, sizes[:, tf.newaxis]), 0.0),
            "scores": tf.where(valid, found.scores, 0.0),
            "classes": classes,
            "category_ids": tf.gather(tf.constant(self._category_ids), classes),
            "masks": tf.where(valid[:, :, tf.newaxis, tf.newaxis], found.masks, 0.0),
            "valid": valid,
        }


def export(checkpoint: str | Path, target: str | Path, *, portable: bool = False, precision: str = "float32") -> None:
    """Write a SavedModel of a checkpoint, completely or not at all.

    Args:
        checkpoint: a checkpoint or run directory.
        target: a new or empty folder.
        portable: use only TensorFlow's own ops.
        precision: of the arithmetic; see `build_model`. The default is float32: a SavedModel runs on other machines
            than the one that writes it, and half precision is slow on those without instructions for it.

    Raises:
        CheckpointError: there is no complete checkpoint, or the target is not empty or cannot be written.
    """
    require_new_folder(Path(target))  # before the model is loaded
    directory = resolve_checkpoint(checkpoint)
    model, card = load_model(directory, precision=precision, ops=PORTABLE_OPS if portable else COMPILED_OPS)
    served = ServedModel(model, card)
    with new_folder(target) as folder:
        tf.saved_model.save(served, str(folder), signatures={"serving_default": served.__call__})
        shutil.copy(directory / CARD_FILE, folder / CARD_FILE)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(lambda: _run(_parser().parse_args(arguments)), errors=(CheckpointError,))


def _run(options: argparse.Namespace) -> None:
    found = find_checkpoint(options.checkpoint)
    print(f"Checkpoint {visible(found)}", flush=True)
    precision = options.precision
    if precision == AUTO_PRECISION:
        choice = choose_precision()
        precision = choice.precision
        print(f"precision: {choice}", flush=True)
    export(found.directory, options.target, portable=options.portable, precision=precision)
    print(f"SavedModel written to {visible(options.target)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mrcnn_model.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint or run directory")
    parser.add_argument("target", metavar="OUT", help="new or empty folder for the SavedModel")
    parser.add_argument("--portable", action="store_true", help="use only TensorFlow's own ops, not mrcnn_ops")
    parser.add_argument(
        "--precision",
        choices=(*PRECISIONS, AUTO_PRECISION),
        default="float32",
        help="of the arithmetic (default: %(default)s; auto: the fastest of this machine)",
    )
    return parser
