"""Small datasets written by hand, and the real ones where they lie beside the repository."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

CATEGORIES = [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}]


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[..., Path]:
    """Write ROOT/annotations/instances_train.json and ROOT/train/; returns ROOT.

    `images`: uint8 arrays (RGB or grey), saved as 1.png, 2.png, ... with ids 1, 2, ...; annotations get their position
    + 1 as id, image 1, category 3, area 100 and iscrowd 0 where they do not say otherwise. Keys set to `...` are
    left out.
    """

    def write(
        images: list[np.ndarray], annotations: list[dict[str, Any]], *, categories: list[dict[str, Any]] = CATEGORIES
    ) -> Path:
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        records = []
        for number, image in enumerate(images, start=1):
            stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
            cv2.imwrite(str(tmp_path / "train" / f"{number}.png"), stored)
            height, width = image.shape[:2]
            records.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        defaults = {"image_id": 1, "category_id": 3, "area": 100, "iscrowd": 0}
        complete = [
            {key: value for key, value in {"id": number, **defaults, **annotation}.items() if value is not ...}
            for number, annotation in enumerate(annotations, start=1)
        ]
        content = {"images": records, "annotations": complete, "categories": categories}
        (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(content))
        return tmp_path

    return write


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real datasets; skips where there is none."""
    here = Path(__file__).resolve()
    default = here.parents[3].parent / "shared" / "data" if len(here.parents) > 3 else here.parent
    folder = Path(os.environ.get("MRCNN_SHARED_DATA", default))
    if not (folder / "nuclei").is_dir():
        pytest.skip(f"no real data at {folder} (MRCNN_SHARED_DATA names another place)")
    return folder
