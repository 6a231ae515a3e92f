"""What options leave out of the data, and what cannot be learned or scored, is said before the first step."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mrcnn_data import CocoDataset
from mrcnn_data.synthetic import generate_shapes
from mrcnn_train import ConfigError, RunConfig, run
from mrcnn_train.config.fit import describe_fit
from mrcnn_train.record.scores import describe_ap, total_ap
from mrcnn_train.training.datasets import open_data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    generate_shapes(tmp_path / "data", train=6, val=3, size=64, seed=0)
    return tmp_path / "data"


@pytest.fixture
def config(tiny, root: Path) -> RunConfig:
    return tiny(f"data.root={root}", "data.cache_dir=null")


def edited(root: Path, split: str, edit: Callable[[list[dict[str, Any]]], Any]) -> CocoDataset:
    """Change the list of annotations of a split in its file, and open it."""
    path = root / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    edit(content["annotations"])
    path.write_text(json.dumps(content))
    return CocoDataset.from_root(root, split)


def opened(root: Path) -> dict[str, Any]:
    return {"train": CocoDataset.from_root(root, "train"), "val": [CocoDataset.from_root(root, "val")]}


def lines(config: RunConfig, root: Path, **changed: Any) -> list[str]:
    return describe_fit(config, **{**opened(root), **changed})


def test_what_fits_is_one_line_about_anchors(tiny, root: Path) -> None:
    config = tiny(f"data.root={root}", "data.short_edge=160", "data.max_size=160", "data.buckets=[[160,160]]")
    (line,) = lines(config, root)
    assert line.startswith(("note: 100.0% of", "note: 9"))
    assert "at short edge 160" in line


def test_caps(tiny, root: Path) -> None:
    config = tiny(f"data.root={root}", "data.max_gt=1", "model.detections_per_image=1")
    counts = CocoDataset.from_root(root, "train").num_objects()
    found = [line for line in lines(config, root) if "max_gt" in line or "detections_per_image" in line]
    assert f"{(counts > 1).sum()} training images have more than data.max_gt=1 objects" in found[0]
    assert (
        f"{(counts - 1).clip(0).sum()} objects are left out at random in each epoch; data.max_gt={counts.max()}"
        in found[0]
    )
    assert "have more than model.detections_per_image=1 objects, so at least" in found[1]
    assert all(line.startswith("warning: ") for line in found)


def test_objects_that_resizing_makes_too_thin(tiny, root: Path) -> None:
    def thin(annotations: list[dict[str, Any]]) -> None:
        annotations[0].update(bbox=[5, 5, 30, 0.5], segmentation=[])

    train = edited(root, "train", thin)
    line = next(line for line in lines(tiny(f"data.root={root}"), root, train=train) if "thinner" in line)
    assert line.startswith(f"warning: 1 of {train.num_objects().sum()} training objects are thinner than a pixel")


def test_anchors_that_fit_few_objects(tiny, root: Path) -> None:
    line = next(
        line
        for line in lines(tiny(f"data.root={root}", "model.anchor_sizes=[512,600,700,800,900]"), root)
        if "anchor" in line
    )
    assert line.startswith("warning: 0.0% of the training objects")
    assert "mrcnn-data stats suggests" in line


def test_nothing_to_train_on(config: RunConfig, root: Path) -> None:
    def crowds(annotations: list[dict[str, Any]]) -> None:
        for entry in annotations:
            entry["iscrowd"] = 1

    with pytest.raises(ConfigError, match=r"has no object to train on: .* annotations, .* of them crowds"):
        lines(config, root, train=edited(root, "train", crowds))


def test_nothing_left_after_resizing(tiny, root: Path) -> None:
    config = tiny(f"data.root={root}", "data.short_edge=1", "data.max_size=2")
    with pytest.raises(ConfigError, match=r"are thinner than a pixel at data.short_edge=1 and data.max_size=2"):
        lines(config, root)


def test_scores_that_stay_undefined(config: RunConfig, root: Path) -> None:
    def without_masks(annotations: list[dict[str, Any]]) -> None:
        for entry in annotations:
            entry["segmentation"] = []

    val = edited(root, "val", without_masks)
    assert lines(config, root, val=[val])[-1].endswith("has a mask: its mask AP stays undefined (-1)")
    val = edited(root, "val", list.clear)
    assert lines(config, root, val=[val])[-1].endswith("has no object that is scored: its AP stays undefined (-1)")


def test_the_lines_are_printed_with_the_plan_also_in_a_dry_run(tiny, root: Path, capsys) -> None:
    config = tiny(f"data.root={root}", "data.max_gt=1", "data.cache_dir=null", "dry_run=true")
    run(config)
    out = capsys.readouterr().out
    assert "fit:              warning: " in out
    assert out.index("fit:") < out.index("check:")
    open_data(config, rank=0, size=1).loader.close()


def test_undefined_scores_are_never_the_best() -> None:
    assert describe_ap({"box_AP": -1.0, "mask_AP": 0.25}) == "box AP undefined, mask AP 0.250"
    assert total_ap({"box_AP": -1.0, "mask_AP": 0.25}) == 0.25
    assert total_ap({"box_AP": -1.0, "mask_AP": -1.0}) == total_ap({}) == -1.0


def test_a_run_without_objects_to_score_marks_no_best(hollow_step, config: RunConfig, root: Path, capsys) -> None:
    edited(root, "val", list.clear)
    run(config)
    out = capsys.readouterr().out
    assert "best:" not in out
    assert "-1.000" not in out
    assert not (Path(str(config.run.dir)) / "checkpoints" / "best").exists()
