"""Whole runs of a tiny network in this process: what they leave, and that stopping and resuming changes nothing."""

import contextlib
import copy
import dataclasses
import json
import math
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mrcnn_data import DatasetError
from mrcnn_model import load_model, variable_key
from mrcnn_train import ConfigError, DivergedError, run
from mrcnn_train.config.resolving import resolve
from mrcnn_train.record.metrics_log import read_rows
from mrcnn_train.record.run_dir import open_run_dir
from mrcnn_train.training.step import TrainStep


def rows_of(run_dir: Path, kind: str) -> list[dict]:
    return [row for row in read_rows(run_dir / "metrics.jsonl") if row["kind"] == kind]


def checkpoints_of(run_dir: Path) -> list[str]:
    return sorted(folder.name for folder in (run_dir / "checkpoints").glob("step-*"))


@pytest.fixture(scope="module")
def finished(compose, tiny_overrides, tmp_path_factory) -> Path:
    """The directory of a run of 6 steps of 2 images, which is one epoch, evaluated at its half and its end."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    options = ["eval.every_epochs=0.5", "checkpoint.every_steps=2", "checkpoint.every_epochs=null"]
    assert run(compose(*tiny_overrides, f"run.dir={run_dir}", *options)) == 0
    return run_dir


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch):
    """Send this process a signal while the step of this number (from 1) runs, as a scheduler would."""

    def install(step: int, number: int, step_class: type = TrainStep) -> None:
        update, calls = step_class.__call__, []

        def update_and_signal(self, batches, learning_rate, votes, **options):
            calls.append(1)
            if len(calls) == step:
                os.kill(os.getpid(), number)
            return update(self, batches, learning_rate, votes, **options)

        monkeypatch.setattr(step_class, "__call__", update_and_signal)

    return install


def test_files(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        ".lock",
        ".mrcnn-outputs.sha256",
        "config.yaml",
        "environment.json",
        "finished.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "evaluation",
        "ap_table.txt",
        "contact_sheet.png",
        "curves.png",
        "report.md",
    }
    assert checkpoints_of(finished)[-2:] == ["step-00000004", "step-00000006"]
    assert (finished / "checkpoints" / "best").read_text().strip() in checkpoints_of(finished)
    assert sorted(p.name for p in (finished / "evaluation").glob("step-*")) == [
        "step-00000003.json",
        "step-00000006.json",
    ]
    assert "AP50" in (finished / "ap_table.txt").read_text()
    for picture in ("contact_sheet.png", "curves.png"):
        assert (finished / picture).read_bytes().startswith(b"\x89PNG")
    assert any(path.stat().st_size > 500 for path in (finished / "tensorboard").iterdir())


def summaries(run_dir: Path) -> dict[str, dict[str, set[int]]]:
    """Return the steps by kind of summary and tag in TensorBoard's files. A tag keeps its first kind."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    files = EventAccumulator(str(run_dir / "tensorboard"), tensor_size_guidance={"tensors": 0})
    files.Reload()
    steps: dict[str, dict[str, set[int]]] = {}
    for tag in files.Tags()["tensors"]:
        kind = files.SummaryMetadata(tag).plugin_data.plugin_name
        events = files.Tensors(tag)
        assert len({event.tensor_proto.dtype for event in events}) == 1, f"{tag} is of two kinds"
        assert len({len(event.tensor_proto.tensor_shape.dim) for event in events}) == 1, f"{tag} is of two kinds"
        steps.setdefault(kind, {})[tag] = {event.step for event in events}
    return steps


def test_tensorboard(finished: Path) -> None:
    steps = summaries(finished)
    for tag in ("train/total", "train/learning_rate", "train/foreground_rois"):
        assert steps["scalars"][tag] == {1, 2, 3, 4, 5, 6}
    assert steps["scalars"]["evaluation/box_AP"] == steps["images"]["evaluation/predictions"] == {3, 6}
    for name in ("valid_proposals", "foreground_anchors", "foreground_rois"):
        assert steps["histograms"][f"distribution/{name}"] == {1, 2, 3, 4, 5, 6}


def test_report(finished: Path) -> None:
    report = (finished / "report.md").read_text()
    for words in (
        "# demo",
        "2 images a step",
        "| steps | 6 |",
        "of an epoch",
        "best",
        "AP50",
        "(curves.png)",
        "(contact_sheet.png)",
    ):
        assert words in report


def test_metrics(finished: Path) -> None:
    train = rows_of(finished, "train")
    assert [row["step"] for row in train] == [1, 2, 3, 4, 5, 6]
    assert [row["epoch"] for row in train] == pytest.approx([i / 6 for i in range(1, 7)])
    # Warm-up of the demo: from 0.001 to 0.005 * 2 within 100 steps.
    assert [row["learning_rate"] for row in train][:3] == pytest.approx([0.001, 0.00109, 0.00118])
    for row in train:
        losses = [row[name] for name in ("rpn_class", "rpn_box", "box_class", "box_reg", "mask")]
        assert row["total"] == pytest.approx(sum(losses), rel=1e-5)
        assert row["images_per_second"] > 0
        assert row["data_wait"] >= 0
        assert math.isfinite(row["gradient_norm"])
    (epoch,) = rows_of(finished, "epoch")
    assert epoch["step"] == 6
    speeds = [row["images_per_second"] for row in train[1:]]  # the first step compiles
    assert 0.5 * min(speeds) < epoch["images_per_second"] < 2 * max(speeds)
    evaluations = rows_of(finished, "evaluation")
    assert [row["step"] for row in evaluations] == [3, 6]
    assert all(0 <= row[name] <= 1 for row in evaluations for name in ("box_AP", "mask_AP"))
    minutes = [row["minutes"] for row in read_rows(finished / "metrics.jsonl")]
    assert minutes == sorted(minutes)


def test_checkpoint_says_what_it_is(finished: Path, shapes: Path) -> None:
    model, card = load_model(finished)
    assert model.config.num_classes == 7
    assert card.class_names[0] == "crescent"
    assert (card.short_edge, card.max_size, card.buckets) == (64, 64, [[64, 64]])
    assert (card.data_root, card.train_split, card.val_split) == (str(shapes), "train", "val")


def test_a_run_directory_is_not_overwritten(finished: Path, tiny) -> None:
    with pytest.raises(ConfigError, match="resume="):
        run(tiny(f"run.dir={finished}"))


def test_a_config_can_be_run_twice(hollow_step, compose, tiny_overrides, tmp_path: Path, monkeypatch) -> None:
    """Relative paths are resolved at each launch; the run does not change the caller's config."""
    data = next(option for option in tiny_overrides if option.startswith("data.root=")).partition("=")[2]
    config = compose(*tiny_overrides, "data.root=here", "data.val=null", "run.dir=run", "train.max_steps=1")
    before = copy.deepcopy(config)
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "here").symlink_to(data)
        monkeypatch.chdir(tmp_path / folder)
        assert run(config) == 0
        assert config == before
        assert rows_of(tmp_path / folder / "run", "train")
    config.resume = "run"
    assert run(config) == 0
    assert config.resume == "run"


def test_the_config_of_a_run_is_frozen(tiny) -> None:
    config = resolve(tiny())
    for options, name in ((config, "resume"), (config.data, "cache_dir"), (config.model, "weights")):
        with pytest.raises(dataclasses.FrozenInstanceError, match=name):
            setattr(options, name, None)


@pytest.fixture
def changeable(hollow_step, tiny, shapes: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Run directory and data of a run of two steps; a test may change the data."""
    root = Path(shutil.copytree(shapes, tmp_path / "data"))
    assert run(tiny(f"data.root={root}", "data.val=null", "data.cache_dir=null", "train.max_steps=2")) == 0
    return tmp_path / "run", root


def edit_train(root: Path, change) -> None:
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content["images"].pop(3), r"12 images with \d+ objects at the checkpoint, 11 images with"),
        (
            lambda content: content["annotations"].pop(3),
            r"12 images with \d+ objects at the checkpoint, 12 images with",
        ),
        (
            lambda content: content["annotations"][3].update(bbox=[1, 1, 9, 9]),
            "still 12 images with .*but different ones",
        ),
        (lambda content: content["images"].reverse(), "still 12 images with .*but different ones"),
        (
            lambda content: content["annotations"][3].update(segmentation=[[1, 1, 9, 1, 9, 9]]),
            "still 12 images with .*but with other segmentations",
        ),
    ],
)
def test_data_that_changed_are_refused_or_accepted(changeable, resume, capsys, change, words: str) -> None:
    run_dir, root = changeable
    edit_train(root, change)
    if "11 images" in words:
        ids = {image["id"] for image in json.loads((root / "annotations/instances_train.json").read_text())["images"]}
        edit_train(root, lambda c: c.update(annotations=[a for a in c["annotations"] if a["image_id"] in ids]))
    with pytest.raises(ConfigError, match=rf"resume=.*{words}.*data\.changed=accept"):
        run(resume(run_dir, "train.max_steps=3"))
    capsys.readouterr()
    assert run(resume(run_dir, "train.max_steps=3", "data.changed=accept")) == 0
    assert "the training data have changed since the checkpoint" in capsys.readouterr().out
    assert "changed: refuse" in (run_dir / "config.yaml").read_text()  # accepted this time only
    assert run(resume(run_dir, "train.max_steps=4")) == 0  # the new checkpoint is of the new data


def test_the_same_data_written_otherwise_are_the_same(changeable, resume, capsys) -> None:
    run_dir, root = changeable
    path = root / "annotations" / "instances_train.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=2))
    assert run(resume(run_dir, "train.max_steps=3", f"data.cache_dir={root / 'cache'}")) == 0
    assert "training data" not in capsys.readouterr().out.partition("resumed from")[2]


def test_a_fingerprint_without_masks_resumes_with_a_note(changeable, resume, capsys) -> None:
    """The first version of fingerprints had none."""
    run_dir, root = changeable
    path = run_dir / "checkpoints" / "step-00000002" / "trainer.json"
    state = json.loads(path.read_text())
    del state["data"]["masks"]
    path.write_text(json.dumps(state))
    assert run(resume(run_dir, "train.max_steps=3")) == 0
    assert "without the masks; assuming that the masks are the same" in capsys.readouterr().out
    newest = json.loads((run_dir / "checkpoints" / "step-00000003" / "trainer.json").read_text())
    assert len(newest["data"]["masks"]) == 64
    shutil.rmtree(run_dir / "checkpoints" / "step-00000003")
    edit_train(root, lambda content: content["annotations"].pop(3))
    with pytest.raises(ConfigError, match="the training data have changed since the checkpoint"):
        run(resume(run_dir, "train.max_steps=3"))


def test_stop_and_resume_equal_the_straight_run(finished: Path, resume, tiny, tmp_path: Path, stop_after) -> None:
    stop_after(3, signal.SIGTERM)  # when an evaluation is due
    assert run(tiny("eval.every_epochs=0.5")) == 143
    run_dir = tmp_path / "run"
    assert checkpoints_of(run_dir) == ["step-00000003"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # the handler is given back

    # What was logged after the last checkpoint will be done again, and a kill may tear the last line.
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "train", "step": 4, "total": 9.0, "minutes": 9.0}) + '\n{"kind": "tr')
    assert run(resume(run_dir)) == 0

    straight, resumed = rows_of(finished, "train"), rows_of(run_dir, "train")
    assert [row["step"] for row in resumed] == [1, 2, 3, 4, 5, 6]
    for name in ("learning_rate", "epoch", "total", "gradient_norm"):
        assert [row[name] for row in resumed] == [row[name] for row in straight], name
    scores, resumed_scores = (
        [(row["step"], row["box_AP"], row["mask_AP"]) for row in rows_of(path, "evaluation")]
        for path in (finished, run_dir)
    )
    assert resumed_scores == scores
    minutes = [row["minutes"] for row in resumed]
    assert minutes == sorted(minutes)
    for file in ("model.safetensors", "trainer.safetensors"):
        one = load_file(finished / "checkpoints" / "step-00000006" / file)
        other = load_file(run_dir / "checkpoints" / "step-00000006" / file)
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def test_interrupt_saves_and_exits_with_130(hollow_step, tiny, tmp_path: Path, stop_after, capsys) -> None:
    stop_after(1, signal.SIGINT, step_class=hollow_step)
    assert run(tiny("data.max_gt=1")) == 130
    assert checkpoints_of(tmp_path / "run") == ["step-00000001"]
    out = capsys.readouterr().out
    assert f"resume={tmp_path / 'run'}" in out
    assert "left out of the training batches: " in out


def test_resume_of_a_finished_run_does_nothing(finished: Path, resume, capsys) -> None:
    before = (finished / "metrics.jsonl").read_text()
    assert run(resume(finished)) == 0
    assert (finished / "metrics.jsonl").read_text() == before
    assert "has finished after 6 steps: nothing is left to do" in capsys.readouterr().out


def test_resume_with_more_steps_keeps_the_old_config(finished: Path, hollow_step, resume, tmp_path: Path) -> None:
    run_dir = tmp_path / "longer"
    shutil.copytree(finished, run_dir)
    assert run(resume(run_dir, "train.max_steps=7", "data.val=null")) == 0
    assert [row["step"] for row in rows_of(run_dir, "train")] == [1, 2, 3, 4, 5, 6, 7]
    assert "max_steps: 7" in (run_dir / "config.yaml").read_text()
    (kept,) = run_dir.glob("config-until-*.yaml")
    assert "max_steps: 6" in kept.read_text()


@pytest.mark.parametrize("override", ["model.fpn_channels=32", "train.seed=3", "train.global_batch=4", "run.dir=/x"])
def test_resume_refuses_what_would_make_it_another_run(finished: Path, resume, override: str) -> None:
    with pytest.raises(ConfigError, match=override.split("=")[0]):
        resume(finished, override)


def test_resume_without_a_checkpoint(finished: Path, resume, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((finished / "config.yaml").read_text())
    with pytest.raises(ConfigError, match="no complete checkpoint"):
        run(resume(tmp_path))


def test_fine_tuning_starts_at_step_zero_from_the_weights(
    finished: Path, hollow_step, tiny, tmp_path: Path, capsys
) -> None:
    config = tiny(f"model.weights={finished}", "train.max_steps=1", "data.val=null")
    assert run(config) == 0
    assert [row["step"] for row in rows_of(tmp_path / "run", "train")] == [1]
    source, _ = load_model(finished)
    tuned, card = load_model(tmp_path / "run")
    assert card.val_split is None
    for one, other in zip(source.variables, tuned.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert "variables filled" in capsys.readouterr().out
    assert (tmp_path / "run" / "weights.txt").read_text().startswith("0 not in the file")


def test_every_weight_that_did_not_fit_is_listed(finished: Path, hollow_step, tiny, tmp_path: Path, capsys) -> None:
    """Weights of a backbone only: one array is missing, and five others belong to something else."""
    arrays = {f"extra{number}/W": np.zeros(1, np.float32) for number in range(5)}
    stem = next(v for v in load_model(finished)[0].variables if variable_key(v) == "backbone.stem.kernel")
    np.savez(tmp_path / "backbone.npz", **arrays, **{"conv0/W": stem.numpy()})
    assert (
        run(
            tiny(
                f"model.weights={tmp_path / 'backbone.npz'}",
                "model.allow_missing=true",
                "train.max_steps=1",
                "data.val=null",
            )
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "weights: 1 of" in out
    assert "weights: a backbone only" in out
    assert "weights: 5 in the file, not used: extra0/W, extra1/W, extra2/W, extra3/W, ..." in out
    names = {line.strip() for line in (tmp_path / "run" / "weights.txt").read_text().splitlines()}
    assert {"extra4/W", "backbone.stem.gamma", "box_head.logits.kernel"} <= names
    assert "backbone.stem.kernel" not in names


@pytest.mark.parametrize("is_resumed", [False, True])
def test_run_directory_that_cannot_be_written(
    finished: Path, resume, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_resumed: bool
) -> None:
    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    config = resume(finished, "train.max_steps=7") if is_resumed else tiny()
    monkeypatch.setattr("mrcnn_train.record.run_dir.replace_text", refuse)
    run_dir = finished if is_resumed else tmp_path / "run"
    with pytest.raises(ConfigError, match=rf"{run_dir} cannot be written: Permission denied"):
        run(config)


def test_runs_of_the_same_second_have_directories_of_their_own(compose, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "now")
    config = compose("+experiment=demo")
    monkeypatch.setattr(Path, "exists", lambda path: False)  # the other run makes its directory just after this look
    with contextlib.ExitStack() as stack:
        names = [stack.enter_context(open_run_dir(config)).name for _ in range(3)]
    assert names == ["now", "now_2", "now_3"]


def test_weights_of_other_classes(finished: Path, tiny, shapes: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        content = json.loads((shapes / "annotations" / f"instances_{split}.json").read_text())
        content["categories"].append({"id": 99, "name": "hexagon"})
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    paths = [
        f"data.{s}_{what}={p}"
        for s in ("train", "val")
        for what, p in (("annotations", tmp_path / f"{s}.json"), ("images", shapes / s))
    ]
    with pytest.raises(
        ConfigError, match=r"model\.weights=.* has 6 classes, the training data has 7: model\.new_classes=true"
    ):
        run(tiny(f"model.weights={finished}", *paths))
    assert not (tmp_path / "run").exists()


def test_new_classes_start_the_layers_over_classes_fresh(
    finished: Path, hollow_step, tiny, shapes: Path, tmp_path: Path, capsys
) -> None:
    content = json.loads((shapes / "annotations" / "instances_train.json").read_text())
    content["categories"].append({"id": 99, "name": "hexagon"})
    (tmp_path / "train.json").write_text(json.dumps(content))
    paths = [f"data.train_annotations={tmp_path / 'train.json'}", f"data.train_images={shapes / 'train'}"]
    options = [f"model.weights={finished}", "model.new_classes=true", "data.val=null", "train.max_steps=1"]
    assert run(tiny(*paths, *options)) == 0
    assert "of other classes, start fresh: box_head.deltas.bias" in capsys.readouterr().out
    source, tuned = (
        {variable_key(v): v.numpy() for v in load_model(path)[0].variables} for path in (finished, tmp_path / "run")
    )
    fresh = {key for key in source if source[key].shape != tuned[key].shape}
    assert "box_head.logits.kernel" in fresh
    for key in source.keys() - fresh:
        np.testing.assert_array_equal(source[key], tuned[key], err_msg=key)
    listed = (tmp_path / "run" / "weights.txt").read_text()
    assert all(key in listed for key in fresh)


def test_divergence_names_step_loss_and_images(tiny, tmp_path: Path) -> None:
    config = tiny(
        "optimizer.base_lr=1e18",
        "optimizer.warmup_steps=0",
        "optimizer.clip_norm=null",
        "checkpoint.every_steps=1",
        "data.val=null",
        "log.every=100",
    )
    with pytest.raises(DivergedError, match=r"step \d: \w+ is (nan|inf), learning rate 2e\+18, images \d+, \d+"):
        run(config)
    run_dir = tmp_path / "run"
    for array in load_file(run_dir / "checkpoints" / checkpoints_of(run_dir)[-1] / "model.safetensors").values():
        assert np.isfinite(array).all()


def test_unreadable_image_is_named(tiny, shapes: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    for path in (root / "train").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"0000\d\d\.png"):
        run(tiny(f"data.root={root}"))


def test_loss_falls(tiny, tmp_path: Path) -> None:
    """With two accumulated micro-batches, and without deterministic mode."""
    config = tiny(
        "train.images_per_gpu=1",
        "train.max_steps=30",
        "train.deterministic=false",
        "optimizer.warmup_steps=5",
        "optimizer.base_lr=0.02",  # four seeds end at 0.56 to 0.70; at the demo's 0.005 they end at 0.80 to 0.84
        "log.every=10",
        "data.val=null",
        "checkpoint.every_epochs=null",
    )
    assert run(config) == 0
    rows = rows_of(tmp_path / "run", "train")
    assert [row["step"] for row in rows] == [1, 10, 20, 30]
    assert rows[-1]["total"] < 0.8 * rows[0]["total"]
    assert checkpoints_of(tmp_path / "run") == ["step-00000030"]
    assert "best" not in {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()}


def test_a_model_without_masks(
    hollow_step, compose, tiny_overrides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    assert run(compose(*tiny_overrides, f"run.dir={run_dir}", "model.masks=false", "train.max_steps=2")) == 0
    out = capsys.readouterr().out
    assert "best: box AP" in out
    assert "mask AP" not in out
    (row,) = rows_of(run_dir, "evaluation")
    assert "box_AP" in row
    assert "mask_AP" not in row
    assert "mask" not in (run_dir / "report.md").read_text().split("## Evaluations")[1].split("##")[0]
