"""The torchvision side of bench/model.py: a process in an environment with torch and without TensorFlow.

Called as `torchvision_model.py INPUTS THREADS PRECISION DEVICE LAYOUT`: in half precision with torch's autocast, which
leaves weights and losses in float32; the layout is that of weights and images, "contiguous" (torch's default) or
"channels_last". It reads lines from standard input: `train`, `detect` and `gemm` do that once and answer with the
seconds; `counts` answers with the numbers of samples and detections of the last call, `memory` with the most memory
that the process has held, on a GPU its tensors, and `versions` with the versions of torch and torchvision.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torchvision.models import resnet50
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops.misc import FrozenBatchNorm2d

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import peak_gigabytes

TRAINABLE_STAGES = 3  # stem and first stage fixed
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
GEMM_EDGE = {"cpu": 2048, "gpu": 8192}  # as in bench/timing.py


class NoResizing(GeneralizedRCNNTransform):
    """Normalise and batch only: images have their final size, and masks stay 28 x 28."""

    layout = torch.contiguous_format

    def batch_images(self, images: list[torch.Tensor], size_divisible: int = 32) -> torch.Tensor:
        return super().batch_images(images, size_divisible).contiguous(memory_format=self.layout)

    def resize(self, image: torch.Tensor, target: Any = None) -> Any:
        return image, target

    def postprocess(self, result: Any, *_: Any) -> Any:
        return result


class Bench:
    """torchvision's Mask R-CNN with given proposals.

    Args:
        device: of torch, "cpu" or "cuda".
    """

    def __init__(self, inputs: dict[str, np.ndarray], *, precision: str, device: str, layout: str) -> None:
        self.device = device
        self.autocast = torch.autocast(device, getattr(torch, precision), enabled=precision != "float32")
        state = {name[8:]: torch.from_numpy(array) for name, array in inputs.items() if name.startswith("weights/")}
        num_classes = len(state["roi_heads.box_predictor.cls_score.bias"])
        backbone = _resnet_fpn_extractor(resnet50(weights=None, norm_layer=FrozenBatchNorm2d), TRAINABLE_STAGES)
        self.model = MaskRCNN(
            backbone,
            num_classes,
            box_batch_size_per_image=int(inputs["roi_samples"]),
            box_score_thresh=float(inputs["score_threshold"]),
        )
        self.model.load_state_dict(state)
        transform = self.model.transform
        self.model.transform = NoResizing(800, 1333, transform.image_mean, transform.image_std)
        self.model.transform.layout = LAYOUTS[layout]
        self.model.to(device, memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
        images = torch.from_numpy(inputs["images"]).permute(0, 3, 1, 2).float() / 255
        self.images = list(images.contiguous().to(device))
        self.targets = [
            {"boxes": boxes.to(device), "labels": labels.long().to(device), "masks": masks.to(device)}
            for boxes, labels, masks in zip(
                *(map(torch.from_numpy, inputs[name]) for name in ("gt_boxes", "gt_classes", "full_masks")), strict=True
            )
        ]
        self.proposals = {
            mode: list(torch.from_numpy(inputs[f"{name}_proposals"]).to(device))
            for mode, name in ((True, "train"), (False, "detect"))
        }
        self.model.rpn.register_forward_hook(lambda rpn, _, output: (self.proposals[rpn.training], output[1]))
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(trainable, lr=0.0, momentum=0.9)
        self.counts: dict[str, Any] = {"trainable": sum(parameter.numel() for parameter in trainable)}
        select = self.model.roi_heads.select_training_samples

        def counted(*arguments: Any) -> Any:
            samples = select(*arguments)
            self.counts["sampled"] = [len(labels) for labels in samples[2]]
            self.counts["positives"] = [int((labels > 0).sum()) for labels in samples[2]]
            return samples

        self.model.roi_heads.select_training_samples = counted  # type: ignore[method-assign]

    def train(self) -> None:
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast:
            losses = self.model(self.images, self.targets)
            total: Any = torch.stack([loss.float() for loss in losses.values()]).sum()
        total.backward()
        self.optimizer.step()
        self.counts["losses"] = {name: round(float(loss.detach()), 4) for name, loss in losses.items()}

    def detect(self) -> None:
        self.model.eval()
        with torch.no_grad(), self.autocast:
            self.counts["detections"] = [len(found["scores"]) for found in self.model(self.images)]

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def memory(self) -> float:
        """Return the most memory in GiB."""
        return torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else peak_gigabytes()


def main(inputs_path: str, threads: str, precision: str, device: str, layout: str) -> None:
    torch.set_num_threads(int(threads))
    torch.backends.cuda.matmul.allow_tf32 = True  # as TensorFlow does
    with np.load(inputs_path) as file:
        bench = Bench(dict(file), precision=precision, device="cuda" if device == "gpu" else "cpu", layout=layout)
    square = torch.rand(GEMM_EDGE[device], GEMM_EDGE[device], device=bench.device).to(getattr(torch, precision))
    (square @ square).sum()  # chooses the kernel
    actions: dict[str, Callable[[], Any]] = {
        "train": bench.train,
        "detect": bench.detect,
        "gemm": lambda: square @ square,
    }
    answers: dict[str, Callable[[], Any]] = {
        "counts": lambda: bench.counts,
        "memory": bench.memory,
        "versions": lambda: {"torch": torch.__version__, "torchvision": torchvision.__version__},
    }
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        command = line.strip()
        if command in answers:
            answer = answers[command]()
        else:
            bench.wait()
            begin = time.perf_counter()
            actions[command]()
            bench.wait()
            answer = time.perf_counter() - begin
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
