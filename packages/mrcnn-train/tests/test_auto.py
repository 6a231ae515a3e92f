"""`+experiment=auto`: its rules, by hand on made-up facts; what is given wins; the plan is saved and kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from mrcnn_data import CocoDataset
from mrcnn_data.synthetic import generate_shapes
from mrcnn_model import ModelConfig
from mrcnn_train import ConfigError, run
from mrcnn_train.app import main
from mrcnn_train.config.composition import read_config
from mrcnn_train.job import facts
from mrcnn_train.planning.rules import Wanted, choose
from mrcnn_train.planning.survey import DataFacts, Machine, survey_data, survey_machine

# 200 photographs of 4:3, with objects of 38 to 64 px at a short edge of 256.
PHOTOS = DataFacts(
    images=2000,
    classes=3,
    objects=5000,
    val_images=50,
    short_edge=600,
    aspects=(1.33, 1.34),
    has_landscape=True,
    has_portrait=False,
    object_shares=(0.1, 0.15, 0.2, 0.25, 0.4),
    most_objects=13,
)
# Microscopy: many small objects, images of several shapes.
CELLS = PHOTOS._replace(
    images=72,
    short_edge=256,
    aspects=(1.0, 1.34),
    object_shares=(0.026, 0.043, 0.063, 0.1, 0.22),
    most_objects=106,
)
LAPTOP = Machine(cores=2, memory_gib=16.0)
SERVER = Machine(cores=32, memory_gib=256.0, gpus=("NVIDIA A100",), gpu_memory_gib=40.0)


def chosen(data: DataFacts = PHOTOS, machine: Machine = LAPTOP, given: dict | None = None, **wanted: Any) -> dict:
    choices = choose(data, machine, Wanted(given=given or {}, **wanted))
    assert len({one.option for one in choices}) == len(choices)
    assert all(one.reason for one in choices)
    return {one.option: one.value for one in choices}


def test_photographs_on_a_laptop() -> None:
    assert chosen(minutes=10.0) == {
        "data.short_edge": 256,
        "data.max_size": 352,
        "data.buckets": [[256, 352]],
        "model.anchor_sizes": [16.0, 32.0, 64.0, 128.0, 256.0],
        "data.max_gt": 16,
        "model.detections_per_image": 50,
        "model.backbone": "resnet18",
        "model.backbone_width": 32,
        "train.images_per_gpu": 4,
        "train.global_batch": 4,
        "data.augmentation.horizontal_flip": 0.5,
        "optimizer.drop_fractions": [0.75, 0.93],
    }


def test_cells_are_cropped_and_get_small_anchors() -> None:
    options = chosen(CELLS)
    assert (options["data.short_edge"], options["data.augmentation.crop_size"]) == (256, 256)
    assert "data.buckets" not in options
    assert options["model.anchor_sizes"] == [8.0, 16.0, 32.0, 64.0, 128.0]
    assert (options["data.max_gt"], options["model.detections_per_image"]) == (112, 250)
    assert (options["data.augmentation.rotate90"], options["data.augmentation.vertical_flip"]) == (1.0, 0.5)
    assert options["train.max_steps"] == 1800  # 100 epochs of 72 images, 4 a step


def test_small_objects_in_large_images_are_enlarged_and_cropped() -> None:
    options = chosen(PHOTOS._replace(short_edge=1536, object_shares=(0.016, 0.036, 0.056, 0.11, 0.28)))
    assert (options["data.short_edge"], options["data.augmentation.crop_size"]) == (448, 256)  # 0.056 x 448 = 25 px
    assert options["data.max_size"] == 608  # at least 1.34 x 448


def test_images_are_not_enlarged() -> None:
    options = chosen(PHOTOS._replace(short_edge=160, aspects=(1.0, 1.0)))
    assert (options["data.short_edge"], options["data.buckets"]) == (160, [[160, 160]])


@pytest.mark.parametrize(
    ("quarters", "first"),
    [((0.05, 0.3), 16.0), ((0.043, 0.3), 8.0), ((0.01, 0.3), 8.0), ((0.1, 1.4), 16.0), ((0.1, 1.42), 32.0)],
)
def test_anchors_change_only_if_objects_lie_outside(quarters: tuple[float, float], first: float) -> None:
    """At 256 px a quarter of the objects is below 0.044 x 256 = 11.3 px, or above 1.414 x 256 = 362 px."""
    low, high = quarters
    data = PHOTOS._replace(object_shares=(low, low, 0.2, high, high))
    assert chosen(data)["model.anchor_sizes"][0] == first


def test_a_turned_image_fits_a_bucket() -> None:
    few = PHOTOS._replace(images=14)
    assert chosen(few)["data.buckets"] == [[256, 352], [352, 256]]
    assert chosen(few, rules=("sizes",))["data.buckets"] == [[256, 352]]
    assert chosen(few, given={"data.augmentation.rotate90": 0.0})["data.buckets"] == [[256, 352]]
    assert chosen(PHOTOS._replace(has_portrait=True))["data.buckets"] == [[256, 352], [352, 256]]
    assert "data.buckets" not in chosen(PHOTOS._replace(aspects=(1.0, 1.6)))


def test_a_gpu_gets_the_full_network() -> None:
    options = chosen(machine=SERVER)
    assert (options["data.short_edge"], options["model.backbone"]) == (608, "resnet50")  # not enlarged
    assert (options["train.images_per_gpu"], options["train.global_batch"]) == (4, 8)
    assert (options["model.box_head_channels"], options["data.num_threads"]) == (1024, 8)
    assert chosen(machine=SERVER, processes=8)["data.num_threads"] == 4
    assert options["optimizer.base_lr"] == 0.00125
    assert "optimizer.base_lr" not in chosen(machine=SERVER, rules=("sizes", "training"))
    assert options["model.anchor_sizes"] == [32.0, 64.0, 128.0, 256.0, 512.0]
    small = SERVER._replace(gpu_memory_gib=8.0)
    assert chosen(PHOTOS._replace(short_edge=1200), small)["train.images_per_gpu"] == 1


def test_batch_follows_what_is_given_and_the_processes() -> None:
    assert chosen(machine=SERVER, processes=4)["train.global_batch"] == 16
    options = chosen(given={"train.global_batch": 6})
    assert (options["train.images_per_gpu"], options.get("train.global_batch")) == (3, None)
    options = chosen(given={"train.images_per_gpu": 3})
    assert (options["train.global_batch"], options.get("train.images_per_gpu")) == (6, None)


def test_weights_bring_their_network() -> None:
    network = {f.name: f.default for f in ModelConfig.options() if f.name in ("backbone", "anchor_sizes")}
    network |= {"backbone": "resnet50", "anchor_sizes": [32.0, 64.0, 128.0, 256.0, 512.0]}
    options = chosen(CELLS, network=network)
    assert (options["model.backbone"], options["model.anchor_sizes"][0]) == ("resnet50", 32.0)
    assert "data.augmentation.rotate90" not in options
    assert options["optimizer.base_lr"] == 0.00125


@pytest.mark.parametrize(
    ("rules", "prefixes"),
    [
        (("sizes",), ("data.", "model.")),
        (("network",), ("model.", "train.")),
        (("training",), ("data.a", "train", "opt")),
    ],
)
def test_groups_are_switched_off(rules: tuple[str, ...], prefixes: tuple[str, ...]) -> None:
    options = chosen(CELLS, rules=rules)
    assert options
    assert all(name.startswith(prefixes) for name in options)
    assert options.items() <= chosen(CELLS).items()
    assert chosen(CELLS, rules=()) == {}


def test_given_options_are_left_out_and_followed() -> None:
    given = {"data.short_edge": 512, "data.max_gt": 5}
    options = chosen(given=given)
    assert not given.keys() & options.keys()
    assert options["data.buckets"] == [[512, 704]]
    assert options["data.max_size"] == 704
    assert "data.augmentation.crop_size" not in chosen(CELLS, given={"data.buckets": [[256, 256]]})


def test_survey(tmp_path: Path) -> None:
    generate_shapes(tmp_path, train=12, val=3, size=64, seed=0)
    train, val = (CocoDataset.from_root(str(tmp_path), split) for split in ("train", "val"))
    data = survey_data(train, [val])
    assert (data.images, data.val_images, data.classes, data.short_edge) == (12, 3, 6, 64)
    assert (data.aspects, data.has_landscape, data.has_portrait) == ((1.0, 1.0), True, False)
    assert data.objects == train.num_objects().sum()
    assert data.most_objects == max(train.num_objects().max(), val.num_objects().max())
    assert list(data.object_shares) == sorted(data.object_shares)
    x1, y1, x2, y2 = train.annotations.boxes[train.annotations.is_object].T
    areas = sorted(((x2 - x1) * (y2 - y1)) ** 0.5 / 64)
    assert areas[0] <= data.object_shares[0] <= data.object_shares[-1] <= areas[-1]


def test_memory_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_output", lambda *command: "40960\n81920")
    assert facts.gpu_memories() == [40.0, 80.0]
    monkeypatch.setattr(facts, "_output", lambda *command: None)
    assert facts.gpu_memories() == []
    assert survey_machine([]).gpu_memory_gib == 0.0


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, shapes: Path, tmp_path: Path, capfd, hollow_step):
    """Run `+experiment=auto` on shapes in `run/`; returns the exit code, and what was printed."""
    monkeypatch.chdir(tmp_path)

    def run_command(*options: str) -> tuple[int, str]:
        fixed = ["+experiment=auto", f"data.root={shapes}", "data.val=null", "run.dir=run", "precision=float32"]
        monkeypatch.setattr("sys.argv", ["mrcnn_train", *fixed, *options])
        code = main()
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    return run_command


def test_a_dry_run_prints_the_plan(command) -> None:
    code, output = command("dry_run=true", "model.backbone_width=8", "train.minutes=5")
    assert code == 0
    assert "auto:             data.short_edge=64: the images have 64 px (median); enlarging them" in output
    assert "auto:             model.backbone_width=8: given\n" in output
    assert "batch shapes:     64 x 64\n" in output
    assert "steps:            as many as fit into 5 minutes" in output
    assert not Path("run").exists()


def test_the_plan_is_saved_and_kept(command, resume) -> None:
    tiny = ["model.backbone_width=8", "model.gn_groups=4", "data.augmentation.vertical_flip=0.25"]
    code, output = command(*tiny, "train.max_steps=2", "resume=auto")
    assert code == 0, output
    plan = yaml.safe_load(Path("run/plan.yaml").read_text())
    assert plan["data"]["images"] == 12
    assert plan["given"]["data.augmentation.vertical_flip"] == 0.25
    assert {"group": "sizes", "option": "data.short_edge", "value": 64}.items() <= plan["choices"][0].items()
    saved = read_config(Path("run/config.yaml"))
    assert (saved.auto, saved.data.short_edge, saved.data.augmentation.vertical_flip) == (None, 64, 0.25)
    # Continued by both ways: nothing is planned again, and what is given now counts.
    code, output = command(*tiny, "train.max_steps=3", "resume=auto")
    assert code == 0, output
    assert "auto:  " not in output
    assert run(resume(Path("run"), "train.max_steps=4")) == 0
    code, output = command("model.backbone_width=16", "resume=auto", "train.max_steps=5")
    assert code == 2
    assert "model.backbone_width is 16, but the run in" in output
    shutil.rmtree("run")


def test_weights_of_a_run_bring_their_network(command, tmp_path: Path) -> None:
    assert command("model.backbone_width=8", "model.gn_groups=4", "train.max_steps=1")[0] == 0
    code, output = command(f"model.weights={tmp_path / 'run'}", "run.dir=other", "dry_run=true", "train.minutes=3")
    assert code == 0, output
    lines = [line for line in output.splitlines() if line.endswith("as the given weights")]
    assert lines == [
        f"auto:             model.{name}: as the given weights" for name in ("backbone_width=8", "gn_groups=4")
    ]
    code, output = command(f"model.weights={tmp_path}", "run.dir=other", "dry_run=true")
    assert (code, "model.weights: " in output) == (2, True)


def test_wrong_rules_and_options_are_one_line(command) -> None:
    code, output = command("auto.rules=[size]")
    assert (code, "auto.rules is ['size']; expected a list of sizes, network, training" in output) == (2, True)
    code, output = command("train.images_per_gpu=3", "train.global_batch=4")
    assert (code, "train.global_batch=4 is not a multiple of train.images_per_gpu=3" in output) == (2, True)


def test_data_without_objects(compose, tmp_path: Path) -> None:
    generate_shapes(tmp_path, train=2, val=1, size=64, seed=0)
    file = tmp_path / "annotations" / "instances_train.json"
    content = yaml.safe_load(file.read_text())
    file.write_text(str({**content, "annotations": []}).replace("'", '"'))
    config = compose("+experiment=auto", f"data.root={tmp_path}", "data.val=null", "data.cache_dir=null")
    with pytest.raises(ConfigError, match="no object to train on"):
        run(config)
