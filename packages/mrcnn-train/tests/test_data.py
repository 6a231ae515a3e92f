"""The data of a run: opened through the annotation cache, and checked as `mrcnn-data check` does."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mrcnn_data import CocoDataset, DatasetError
from mrcnn_data.synthetic import generate_shapes
from mrcnn_train import RunConfig
from mrcnn_train.config.resolving import resolve
from mrcnn_train.training.datasets import open_data, open_train, open_val


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Shapes of all classes in both splits; a test may damage the files."""
    generate_shapes(tmp_path / "data", train=12, val=6, size=64, seed=0)
    return tmp_path / "data"


@pytest.fixture
def config(tiny, root: Path, tmp_path: Path) -> RunConfig:
    return tiny(f"data.root={root}", f"data.cache_dir={tmp_path / 'cache'}")


def edit_annotations(root: Path, split: str, **fields: object) -> None:
    """Change the first annotation of a split."""
    path = root / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    content["annotations"][0].update(fields)
    path.write_text(json.dumps(content))


def is_mapped(dataset: CocoDataset) -> bool:
    """Return whether a data set comes from the cache: its arrays are then read-only."""
    return not dataset.annotations.classes.flags.writeable


def forbid(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"{name} was called")

    monkeypatch.setattr(name, refuse)


def check_lines(capsys: pytest.CaptureFixture[str], config: RunConfig, *, rank: int = 0, size: int = 1) -> list[str]:
    """Open the data of a process, and return the lines that its check prints."""
    capsys.readouterr()
    open_data(config, rank=rank, size=size).loader.close()
    lines = capsys.readouterr().out.splitlines()
    return [line.partition(":")[2].strip() for line in lines if line.startswith("check:")]


def test_ignored_objects_are_not_required_and_the_plan_says_so(config, root: Path, capsys) -> None:
    open_data(config, rank=0, size=1).loader.close()
    assert "evaluation:" not in capsys.readouterr().out
    edit_annotations(root, "val", ignore=1)
    open_data(config, rank=0, size=1).loader.close()
    assert "1 objects with `ignore` need not be found" in capsys.readouterr().out


def test_the_second_run_reads_no_annotation_file(config, monkeypatch) -> None:
    first = open_train(config.data)
    assert open_val(config.data, first)
    forbid(monkeypatch, "mrcnn_data.annotations.cache.read_annotations")
    train = open_train(config.data)
    ((_, val),) = open_val(config.data, train)
    assert is_mapped(train)
    assert is_mapped(val)
    assert train.num_objects().tolist() == first.num_objects().tolist()


def test_explicit_paths_are_cached_too(config, root: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        setattr(config.data, f"{split}_annotations", str(root / "annotations" / f"instances_{split}.json"))
        setattr(config.data, f"{split}_images", str(root / split))
    config.data.root = None
    assert is_mapped(open_train(config.data))
    assert is_mapped(open_val(config.data, open_train(config.data))[0].dataset)
    assert len(list((tmp_path / "cache").glob("*.columns"))) == 2


def test_processes_that_start_together_share_one_cache(config, tmp_path: Path) -> None:
    """The ranks of a job do this; each one reads annotations from it."""
    code = (
        "import sys; from mrcnn_train.config.options import DataOptions\n"
        "from mrcnn_train.training.datasets import open_train, open_val\n"
        "data = DataOptions(root=sys.argv[1], train='train', val='val', cache_dir=sys.argv[2])\n"
        "train = open_train(data); ((_, val),) = open_val(data, train)\n"
        "print([[d.annotations.classes.flags.writeable, d.num_objects().tolist(), str(d.instances(0).segmentations)]"
        " for d in (train, val)])"
    )
    command = [sys.executable, "-c", code, str(config.data.root), str(config.data.cache_dir)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]
    assert outputs[0].count("[False, ") == 2
    assert len(list((tmp_path / "cache").glob("*.columns"))) == 2
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_the_cache_lies_below_the_folder_of_the_launch(compose, monkeypatch, tmp_path: Path) -> None:
    """The saved config has the absolute path, so a run that is resumed from another folder finds it."""
    monkeypatch.chdir(tmp_path)
    config = compose("+experiment=small", "data.root=data")
    assert resolve(config).data.cache_dir == str(tmp_path / "outputs" / "annotation-cache")
    config.data.cache_dir = None
    assert resolve(config).data.cache_dir is None


def test_a_cache_that_cannot_be_written_is_one_line(config, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    config.data.cache_dir = str(tmp_path / "file" / "cache")
    (line,) = check_lines(capsys, config)
    assert line.startswith(f"train, val: note: 1 x annotation cache that cannot be written (folder {tmp_path}/file/")
    assert not is_mapped(open_train(config.data))


def test_clean_data_is_one_line(config, capsys) -> None:
    assert check_lines(capsys, config) == ["train, val: nothing odd found"]


def test_every_kind_of_finding_is_one_line(config, root: Path, capsys) -> None:
    edit_annotations(root, "train", bbox=[70, 70, 5, 5])  # of 64 x 64 pixels
    edit_annotations(root, "val", segmentation=[])
    shutil.copyfile(root / "train" / "000003.png", root / "val" / "000002.png")
    lines = check_lines(capsys, config)
    assert [line.partition(" (")[0] for line in lines] == [
        "train: dropped: 1 x box outside the image",
        "train: note: 1 x image that val has too",
        "val: repaired: 1 x segmentation empty",
        "val: note: 1 x image that train has too",
    ]


def test_errors_of_image_files_end_the_run_before_its_first_step(config, root: Path, capsys) -> None:
    (root / "val" / "000002.png").write_bytes(b"<html>")
    (root / "train" / "000003.png").write_bytes(b"")
    (root / "train" / "000005.png").write_bytes(b"")
    for _ in range(2):  # errors are not kept, so they are found again
        with pytest.raises(DatasetError, match=r"000003\.png: .*, and 1 more \(mrcnn-data check lists them\)"):
            open_data(config, rank=0, size=1)
    out = capsys.readouterr().out
    assert "train: error: 2 x image file that cannot be read (file 000003.png, file 000005.png)" in out
    assert "val: error: 1 x image file that cannot be read (file 000002.png)" in out


def test_image_files_that_are_skipped_are_told(config, root: Path, capsys) -> None:
    (root / "train" / "000003.png").write_bytes(b"")
    (root / "val" / "000002.png").unlink()
    config.data.on_error = "skip"
    train_line, val_line = check_lines(capsys, config)
    assert train_line.startswith("train: dropped: 1 x image file that cannot be read (file 000003.png): skipped")
    assert val_line.startswith("val: dropped: 1 x image file missing (image 2): skipped")


def test_what_is_not_scored_is_told(config, root: Path, capsys) -> None:
    edit_annotations(root, "val", ignore=1)
    edit_annotations(root, "train", ignore=1)
    open_data(config, rank=0, size=1).loader.close()
    out = capsys.readouterr().out
    assert (
        "instances_val.json: 1 objects with `ignore` need not be found, because training leaves such objects out" in out
    )
    assert out.count("need not be found") == 1


def test_only_rank_0_checks(config, root: Path, capsys) -> None:
    (root / "train" / "000003.png").write_bytes(b"")
    config.train.global_batch = 4
    assert check_lines(capsys, config, rank=1, size=2) == []


def test_nothing_is_checked_twice(config, root: Path, capsys, monkeypatch) -> None:
    edit_annotations(root, "train", segmentation=[])
    first = check_lines(capsys, config)
    with monkeypatch.context() as patch:
        forbid(patch, "mrcnn_data.checks.checking.fingerprints")
        assert check_lines(capsys, config) == first
    shutil.copyfile(root / "train" / "000003.png", root / "train" / "000004.png")
    assert check_lines(capsys, config) != first


def test_what_was_found_in_data_that_is_gone_is_forgotten(config, root: Path, capsys, tmp_path: Path) -> None:
    check_lines(capsys, config)
    (old,) = Path(config.data.cache_dir).glob("*.checked")
    config.data.root = str(root.rename(tmp_path / "moved"))
    check_lines(capsys, config)
    (new,) = Path(config.data.cache_dir).glob("*.checked")
    assert new != old


def test_many_objects_are_announced(config, capsys, monkeypatch) -> None:
    monkeypatch.setattr("mrcnn_train.training.datasets.MANY_OBJECTS", 1)
    announced, _ = check_lines(capsys, config)
    assert announced.endswith("objects in 18 images ...")
