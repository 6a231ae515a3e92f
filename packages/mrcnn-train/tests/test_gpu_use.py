"""Memory and utilisation of the GPU in the metrics, with a pretended GPU and a pretended NVML."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tensorflow as tf

from mrcnn_train.job import gpu_use
from mrcnn_train.job.gpu_use import GpuUse, find_gpu_use, utilisation_reader
from mrcnn_train.record.metrics_log import MetricsLog
from mrcnn_train.record.step_log import StepLog
from mrcnn_train.record.window import Numbers
from mrcnn_train.training.due import Due

UUID = "0123456789abcdef0123456789abcdef"
FAKE_NVML = """
#include <string.h>
typedef struct { unsigned gpu, memory; } Rates;
int nvmlInit_v2(void) { return INIT; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  *device = (void *)0x123456789abcdefL;  /* wider than an int */
  return strcmp(uuid, "GPU-01234567-89ab-cdef-0123-456789abcdef") != 0;
}
int nvmlDeviceGetUtilizationRates(void *device, Rates *rates) {
  rates->gpu = 87;
  rates->memory = 12;
  return device != (void *)0x123456789abcdefL ? 2 : SUPPORTED ? 0 : 3;
}
"""


def missing_library(name: str) -> ctypes.CDLL:
    raise OSError(name)


def test_without_a_gpu_nothing_is_read() -> None:
    assert find_gpu_use(None) is None


def test_peak_memory_without_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def memory(device: str) -> dict[str, int]:
        asked.append(device)
        return {"current": 1, "peak": 3 << 30}

    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [kind])
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", memory)
    monkeypatch.setattr("mrcnn_train.job.gpu_use.ctypes.CDLL", missing_library)
    reader = find_gpu_use(None)
    assert reader is not None
    assert reader.read() == {"gpu_memory": 3.0}
    assert asked == ["GPU:0"]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc to build a pretended NVML with")
@pytest.mark.parametrize(
    ("init", "supported", "uuid", "percent"),
    [(0, 1, UUID, 87), (1, 1, UUID, None), (0, 0, UUID, None), (0, 1, UUID[::-1], None), (0, 1, None, None)],
)
def test_utilisation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, init: int, supported: int, uuid: str | None, percent: int | None
) -> None:
    library = tmp_path / "nvml.so"
    build = ["gcc", "-shared", "-fPIC", f"-DINIT={init}", f"-DSUPPORTED={supported}", "-xc", "-", "-o", str(library)]
    subprocess.run(build, input=FAKE_NVML, text=True, check=True)
    nvml = ctypes.CDLL(str(library))
    monkeypatch.setattr("mrcnn_train.job.gpu_use.ctypes.CDLL", lambda name: {gpu_use.NVML: nvml}[name])
    assert utilisation_reader(uuid)() == percent


class Record:
    """The part of RunRecord that logs training."""

    def __init__(self, run_dir: Path) -> None:
        self._log = MetricsLog(run_dir, start_step=0)

    def training(self, step: int, numbers: Numbers, *, epoch: float) -> None:
        self._log.write("train", step, {**numbers.means, "epoch": epoch})


@pytest.mark.parametrize("has_gpu", [False, True])
def test_the_numbers_are_logged_where_there_is_a_gpu(tmp_path: Path, has_gpu: bool) -> None:
    class Metrics:
        waits = tf.constant([0.0])

        def scalars(self) -> dict[str, float]:
            names = ("rpn_class", "rpn_box", "box_class", "box_reg", "mask", "total", "gradient_norm")
            counts = ("valid_proposals", "foreground_anchors", "foreground_rois")
            return dict.fromkeys((*names, *counts), 1.0)

    display: Any = SimpleNamespace(log=lambda *args, **options: None)
    gpu = GpuUse(lambda: 2 << 30, lambda: 87) if has_gpu else None
    record: Any = Record(tmp_path)
    log = StepLog(record, display, images_per_step=2, gather=lambda ids: [ids], gpu=gpu)
    metrics: Any = Metrics()
    log.add(1, metrics, [], learning_rate=0.1, data_wait=0.0)
    due = Due(log=True, log_epoch=False, save=False, evaluate=False, stop=False)
    log.write(1, due, epoch=0.5, began=0.0)
    (row,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = {name: row[name] for name in row if name.startswith("gpu")}
    assert found == ({"gpu_memory": 2.0, "gpu_utilisation": 87.0} if has_gpu else {})
