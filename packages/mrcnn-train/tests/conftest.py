"""A data set of a few drawn shapes, and configs of a network that trains on it within seconds."""

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the tests are of the CPU, also on a machine with GPUs

import hydra
import pytest
import tensorflow as tf
from omegaconf import OmegaConf

from mrcnn_data.synthetic import generate_shapes
from mrcnn_model import Losses
from mrcnn_train import RunConfig
from mrcnn_train.config.composition import resumed_config, typed_config
from mrcnn_train.record.window import COUNTS
from mrcnn_train.training.step import Measured, StepMetrics

Compose = Callable[..., RunConfig]

# The demo, smaller still.
TINY = (
    "+experiment=demo",
    "data.synthetic=null",
    "data.short_edge=64",
    "data.max_size=64",
    "data.buckets=[[64,64]]",
    "model.backbone_width=8",
    "model.gn_groups=4",
    "model.fpn_channels=16",
    "model.rpn_channels=16",
    "model.rpn_samples=32",
    "model.train_pre_nms_top_k=64",
    "model.train_post_nms_top_k=64",
    "model.train_proposals=32",
    "model.detect_pre_nms_top_k=64",
    "model.detect_post_nms_top_k=64",
    "model.detect_proposals=16",
    "model.roi_samples=16",
    "model.box_head_channels=16",
    "model.mask_head_convs=1",
    "model.mask_head_channels=8",
    "model.detections_per_image=10",
    "train.images_per_gpu=2",
    "train.global_batch=2",
    "train.max_steps=6",
    "train.deterministic=true",
    "optimizer.warmup_fraction=null",
    "precision=float32",  # the same numbers on every machine
    "log.every=1",
)


class HollowStep:
    """A step that changes nothing, measures ones, and does not compile."""

    num_traces = 0

    def __init__(self, *args: object, **options: object) -> None:
        pass

    def __call__(self, batches: object, learning_rate: float, votes: list[bool], data_wait: float) -> StepMetrics:
        one = tf.constant(1.0)
        measured = Measured(Losses(*[one] * 5), one, dict.fromkeys(COUNTS, one))
        return StepMetrics(measured, one, tf.ones(len(votes)), tf.constant([data_wait]))


@pytest.fixture
def hollow_step(monkeypatch: pytest.MonkeyPatch) -> type:
    """Replace the steps of runs by steps that do nothing."""
    monkeypatch.setattr("mrcnn_train.training.loop.TrainStep", HollowStep)
    return HollowStep


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; skips where there is none."""
    here = Path(__file__).resolve()
    default = here.parents[3].parent / "shared" / "data" if len(here.parents) > 3 else here.parent
    folder = Path(os.environ.get("MRCNN_SHARED_DATA", default))
    if not (folder / "coco_open").is_dir():
        pytest.skip(f"no real data at {folder} (MRCNN_SHARED_DATA names another place)")
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training and three validation images of 64 px."""
    root = tmp_path_factory.mktemp("shapes")
    generate_shapes(root, train=12, val=3, size=64, seed=0)
    return root


@pytest.fixture(scope="session")
def compose() -> Compose:
    """Compose a config as the command does, from overrides."""

    def compose_config(*overrides: str) -> RunConfig:
        with hydra.initialize_config_module("mrcnn_train.conf", version_base="1.3"):
            return typed_config(hydra.compose("config", overrides=list(overrides)))

    return compose_config


@pytest.fixture(scope="session")
def tiny_overrides(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [*TINY, f"data.root={shapes}", f"data.cache_dir={tmp_path_factory.mktemp('cache')}"]


@pytest.fixture(scope="session")
def resume(compose: Compose) -> Callable[..., RunConfig]:
    """Make the config of `resume=RUN_DIR` with overrides, as the command does."""

    def resume_run(run_dir: Path, *overrides: str) -> RunConfig:
        composed = OmegaConf.structured(compose(f"resume={run_dir}", *overrides))
        return resumed_config(composed, [override.split("=")[0] for override in overrides])

    return resume_run


@pytest.fixture
def tiny(compose: Compose, tiny_overrides: list[str], tmp_path: Path) -> Compose:
    """Compose a config of a tiny run in a fresh run directory."""

    def compose_tiny(*overrides: str) -> RunConfig:
        return compose(*tiny_overrides, f"run.dir={tmp_path / 'run'}", *overrides)

    return compose_tiny
