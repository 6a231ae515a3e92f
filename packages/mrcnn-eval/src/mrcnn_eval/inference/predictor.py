"""A trained model as one object: load it, give it pictures, look at what it finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TypeAlias, overload

import cv2
import numpy as np

from mrcnn_data.drawing import draw_instances, write_png
from mrcnn_eval.inference.detection import Preprocessing, compiled_detect, detect_dataset, new_evaluator
from mrcnn_eval.inference.pictures import Picture, Pictures, read_picture
from mrcnn_eval.inference.predictions import MAX_EDGE
from mrcnn_eval.report.pictures import PICTURE_SCORE, result_instances
from mrcnn_eval.scoring.image_results import ImageResults
from mrcnn_eval.scoring.segmentation import Rle, to_mask
from mrcnn_model import AUTO_PRECISION, DeviceError, MaskRCNN, ModelCard, load_model, use_device

Several: TypeAlias = list[Picture] | tuple[Picture, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Found:
    """The objects found in one picture, surest first. n objects, picture of h x w pixels.

    Attributes:
        boxes: float32 [n, 4] (x1, y1, x2, y2), pixels of the picture.
        scores: float32 [n], 0 to 1.
        category_ids: int64 [n], as in the annotation file of the training.
        names: n, the names of the classes.
        rles: n compressed COCO run-length codes of masks; None from a model without masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    category_ids: np.ndarray
    names: list[str]
    rles: list[Rle | None]
    _picture: Picture = field(repr=False)
    _size: tuple[int, int] = field(repr=False)  # (h, w) of the picture
    _results: ImageResults = field(repr=False)
    _class_names: dict[int, str] = field(repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        objects = ", ".join(f"{name} {score:.2f}" for name, score in zip(self.names, self.scores, strict=True))
        return f"Found({objects or 'nothing'})"

    @property
    def masks(self) -> np.ndarray:
        """Masks as bool [n, h, w], decoded at each access; all False from a model without masks."""
        height, width = self._size
        masks = np.zeros((len(self), height, width), bool)
        for mask, rle in zip(masks, self.rles, strict=True):
            if rle is not None:
                mask[...] = to_mask(rle, size=(height, width))
        return masks

    def draw(self, path: str | PathLike[str] | None = None) -> np.ndarray:
        """Draw masks, boxes, names and scores over the picture; small pictures are enlarged, large ones reduced.

        Args:
            path: where to write the drawing as PNG, if anywhere.

        Returns:
            uint8 RGB [H, W, 3], the longer edge at most 1600.

        Raises:
            DatasetError: the picture was given as a file, which can no longer be read.
            OutputError: the file exists and was not written by this product, or cannot be written.
        """
        instances = result_instances(self._results, self._class_names, score_threshold=0.0)
        drawing = draw_instances(read_picture(self._picture), instances, max_edge=MAX_EDGE)
        if path is not None:
            write_png(Path(path), drawing)
        return drawing

    def _repr_png_(self) -> bytes:
        """Show the drawing as the value of a notebook cell."""
        return bytes(cv2.imencode(".png", self.draw()[..., ::-1])[1])


class Predictor:
    """A model that finds objects in pictures; made by `load`.

    Attributes:
        model: the network.
        card: what its checkpoint says: classes, preprocessing.
    """

    def __init__(self, model: MaskRCNN, card: ModelCard) -> None:
        self.model = model
        self.card = card
        self.class_names = dict(sorted(zip(card.category_ids, card.class_names, strict=True)))  # by category id
        self._detect = compiled_detect(model)

    @overload
    def predict(self, pictures: Picture, *, score_threshold: float | None = ..., batch_size: int = ...) -> Found: ...

    @overload
    def predict(
        self, pictures: Several, *, score_threshold: float | None = ..., batch_size: int = ...
    ) -> list[Found]: ...

    def predict(
        self, pictures: Picture | Several, *, score_threshold: float | None = None, batch_size: int = 1
    ) -> Found | list[Found]:
        """Find the objects in one picture, or in each of a list.

        The first picture of each padded shape and batch size compiles the network, which takes seconds.

        Args:
            pictures: a file, or uint8 [h, w, 3] RGB; or a list or tuple of such. Files are turned upright as their EXIF
                says, and boxes and masks are of the upright picture.
            score_threshold: objects below it are left out; by default 0.5, and at least that of the model
                (`model.config.score_threshold`).
            batch_size: pictures that the network works on at once.

        Raises:
            DatasetError: a file that is missing, not a picture, or cut off.
            ValueError: an array that is not such an image, or a threshold below what the model returns.
        """
        lowest = self.model.config.score_threshold
        if score_threshold is None:
            score_threshold = max(PICTURE_SCORE, lowest)
        if not lowest <= score_threshold <= 1:
            raise ValueError(
                f"score_threshold={score_threshold}: the model returns objects from {lowest:g} on: choose {lowest:g} "
                "to 1, or load(..., score_threshold=...) with a lower one"
            )
        inputs = list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]
        if not inputs:
            return []
        dataset = Pictures.of(
            {str(number): picture for number, picture in enumerate(inputs)}, categories=self.class_names.items()
        )
        evaluator = detect_dataset(
            self.model,
            dataset,
            Preprocessing.of(self.card),
            batch_size=batch_size,
            evaluator=new_evaluator(self.model, dataset),
            detect=self._detect,
        )
        sizes = [(int(height), int(width)) for height, width in dataset.image_sizes]
        found = [
            self._found(picture, size, evaluator.image_results[str(number)], score_threshold)
            for number, (picture, size) in enumerate(zip(inputs, sizes, strict=True))
        ]
        return found if isinstance(pictures, (list, tuple)) else found[0]

    def _found(self, picture: Picture, size: tuple[int, int], results: ImageResults, score_threshold: float) -> Found:
        order = np.argsort(-results.scores, kind="stable")
        order = order[results.scores[order] >= score_threshold]
        results = ImageResults(
            category_ids=results.category_ids[order],
            boxes=results.boxes[order],
            scores=results.scores[order],
            rles=[results.rles[row] for row in order],
        )
        x, y, width, height = results.boxes.T
        return Found(
            boxes=np.stack([x, y, x + width, y + height], axis=-1).astype(np.float32),
            scores=results.scores.astype(np.float32),
            category_ids=results.category_ids,
            names=[self.class_names[category_id] for category_id in results.category_ids.tolist()],
            rles=results.rles,
            _picture=picture.copy() if isinstance(picture, np.ndarray) else picture,  # a video's buffer is used again
            _size=size,
            _results=results,
            _class_names=self.class_names,
        )


def load(
    checkpoint: str | PathLike[str],
    *,
    precision: str = AUTO_PRECISION,
    device: str = "auto",
    score_threshold: float | None = None,
) -> Predictor:
    """Load a trained model, to find objects in pictures.

    >>> model = load("runs/demo")  # doctest: +SKIP
    >>> found = model.predict("photo.jpg")  # doctest: +SKIP
    >>> found.names, found.scores, found.boxes, found.masks  # doctest: +SKIP
    >>> found.draw("drawing.png")  # doctest: +SKIP

    Args:
        checkpoint: run directory (its best checkpoint, or the newest without an evaluation) or checkpoint directory.
        precision: see `mrcnn_model.load_model`.
        device: see `mrcnn_model.use_device`. If TensorFlow computes already, "auto" is the device that it has.
        score_threshold: the model returns no objects below it; by default that of the training, usually 0.05.

    Raises:
        CheckpointError: there is no complete checkpoint.
        DeviceError: there is a GPU that cannot be used, or none for "gpu".
        ValueError: a threshold that is not between 0 and 1.
    """
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold={score_threshold}: choose 0 to 1")
    try:
        use_device(device, cpu_option='load(..., device="cpu")')
    except DeviceError as error:
        if device != "auto" or not isinstance(error.__cause__, RuntimeError):
            raise
    model, card = load_model(Path(checkpoint), precision=precision)
    if score_threshold is not None:
        model.config.score_threshold = score_threshold
    return Predictor(model, card)
