"""The torchvision side of bench/ops.py: a process in an environment with torch and without TensorFlow.

Called as `torchvision_ops.py INPUTS THREADS`, with the inputs of all cases in an .npz file. It reads lines from
standard input: `run CASE` runs a case once and answers with its seconds; `values CASE FILE` writes its results to FILE.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import MultiScaleRoIAlign, box_iou, nms

Case = Callable[[], list[Any]]


def roi_align(inputs: Any, boxes: str, size: int, *, with_gradient: bool) -> Case:
    image = tuple(inputs["image_size"].tolist())
    # torch's own layout, channels first: [1, C, H, W].
    features = {
        str(level): torch.from_numpy(inputs[f"features{level}"]).permute(0, 3, 1, 2).contiguous() for level in range(4)
    }
    rois = [torch.from_numpy(inputs[boxes])]
    pooler = MultiScaleRoIAlign(list(features), size, sampling_ratio=2)

    def forward() -> list[Any]:
        with torch.no_grad():
            return [pooler(features, rois, [image])]

    if not with_gradient:
        return forward
    maps = list(features.values())
    for feature in maps:
        feature.requires_grad_()
    # [R, P, P, C] -> [R, C, P, P]
    gradient = torch.from_numpy(inputs[f"{boxes}_gradient"]).permute(0, 3, 1, 2).contiguous()

    def both() -> list[Any]:
        return list(torch.autograd.grad(pooler(features, rois, [image]), maps, gradient))

    return both


def proposals(inputs: Any) -> Case:
    top_k = int(inputs["top_k"])
    both = {"training": top_k, "testing": top_k}
    rpn = RegionProposalNetwork(None, None, 0.7, 0.3, 256, 0.5, both, both, 0.7)  # type: ignore[arg-type]
    rpn.min_size = 0.0
    rpn.box_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    image = ImageList(torch.empty(0), [tuple(inputs["image_size"].tolist())])
    anchors, logits = torch.from_numpy(inputs["anchors"]), torch.from_numpy(inputs["logits"])
    deltas, level_sizes = torch.from_numpy(inputs["deltas"]), inputs["level_sizes"].tolist()

    def run() -> list[Any]:
        boxes = rpn.box_coder.decode(deltas[0], [anchors]).view(1, -1, 4)
        found, scores = rpn.filter_proposals(boxes, logits.view(-1, 1), image.image_sizes, level_sizes)
        return [found[0], scores[0]]

    return run


def matching(inputs: Any) -> Case:
    matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
    anchors, gt_boxes = torch.from_numpy(inputs["anchors"]), torch.from_numpy(inputs["gt_boxes"])
    return lambda: [matcher(box_iou(gt_boxes, anchors))]


def suppression(inputs: Any) -> Case:
    boxes, scores = torch.from_numpy(inputs["nms_boxes"]), torch.from_numpy(inputs["nms_scores"])
    return lambda: [nms(boxes, scores, 0.5)]


def encoding(inputs: Any) -> Case:
    masks, boxes = torch.from_numpy(inputs["masks"])[:, None], torch.from_numpy(inputs["mask_boxes"])
    size = inputs["mask_image_size"].tolist()

    def run() -> list[Any]:
        bitmaps = (paste_masks_in_image(masks, boxes, size)[:, 0] > 0.5).to(torch.uint8).numpy()
        return [coco_mask.encode(np.asfortranarray(bitmap)) for bitmap in bitmaps]

    return run


def gemm() -> Case:
    a = torch.rand(2048, 2048)
    return lambda: [a @ a]


def as_array(value: Any) -> np.ndarray:
    if isinstance(value, dict):  # COCO run-length code: decoded, because bitmaps are compared
        return np.asarray(coco_mask.decode(value))
    array = value.detach().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array  # channels last, as ours


def main(inputs_path: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    with np.load(inputs_path) as file:
        inputs = dict(file)
    cases: dict[str, Case] = {
        "roi_align_box": roi_align(inputs, "box_rois", 7, with_gradient=False),
        "roi_align_box_gradient": roi_align(inputs, "box_rois", 7, with_gradient=True),
        "roi_align_mask": roi_align(inputs, "mask_rois", 14, with_gradient=False),
        "roi_align_mask_gradient": roi_align(inputs, "mask_rois", 14, with_gradient=True),
        "proposals": proposals(inputs),
        "matching": matching(inputs),
        "nms": suppression(inputs),
        "encoding": encoding(inputs),
        "gemm": gemm(),
    }
    print('"ready"', flush=True)
    for line in sys.stdin:
        command, case, *path = line.split()
        if command == "values":
            values = cases[case]()
            np.savez(path[0], *[as_array(value) for value in values])
            print('"written"', flush=True)
        else:
            begin = time.perf_counter()
            cases[case]()
            print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
