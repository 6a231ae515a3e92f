"""No command replaces a file that the product did not write; what it wrote itself, it may write again."""

import numpy as np
import pytest

from mrcnn_data import Augmentation, CocoDataset, OutputError, draw_contact_sheet
from mrcnn_data.drawing.objects import write_png
from mrcnn_data.synthetic import generate_shapes
from mrcnn_data.tools.cli import main

IMAGE = np.full((30, 40, 3), 90, np.uint8)
SQUARE = {"bbox": [10, 10, 10, 10], "segmentation": [[10, 10, 20, 10, 20, 20, 10, 20]]}
MINE = b"a file of the user's"


@pytest.fixture
def root(write_coco):
    return write_coco([IMAGE], [SQUARE])


@pytest.fixture
def masks(root):
    folder = root / "masks"
    folder.mkdir()
    write_png(folder / "1.png", np.full((30, 40, 3), 255, np.uint8))
    return folder


COMMANDS = {
    "show": ["show", "{root}", "train", "--out", "{out}"],
    "stats --png": ["stats", "{root}", "train", "--png", "{out}"],
    "stats --json": ["stats", "{root}", "train", "--json", "{out}"],
    "check --json": ["check", "{root}", "train", "--json", "{out}"],
    "check --fix": ["check", "{root}", "train", "--fix", "{out}"],
    "from-masks": ["from-masks", "{root}/train", "{root}/masks", "{out}"],
}


def command(name, root, out):
    return [word.format(root=root, out=out) for word in COMMANDS[name]]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_of_the_users_stays(root, masks, capsys, name):
    out = root / "out.json"
    out.write_bytes(MINE)
    assert main(command(name, root, out)) == 2
    assert out.read_bytes() == MINE
    printed = capsys.readouterr()
    assert printed.err.startswith(f"mrcnn-data: {out} exists and was not written by this command")
    assert printed.out == "", "nothing is done before the outputs are looked at"


def content_of(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("target", ["annotations/instances_train.json", "train/1.png", "link.json"])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_input_is_an_output(root, masks, name, target):
    (root / "link.json").symlink_to(root / "annotations" / "instances_train.json")
    if target == "train/1.png":  # also if this product wrote it
        (root / target).unlink()
        write_png(root / target, IMAGE)
    before = content_of(root)
    assert main(command(name, root, root / target)) == 2
    assert content_of(root) == before
    assert (root / "link.json").is_symlink()


@pytest.mark.parametrize("out", [".", "train", "annotations"])
def test_a_subset_does_not_go_into_its_own_data(root, out):
    before = content_of(root)
    assert main(["subset", str(root), "train", str(root / out), "--images", "1"]) in (0, 2)
    after = content_of(root)
    assert {path: after[path] for path in before} == before


def test_an_output_that_was_changed_since_stays(root, masks):
    out = root / "out.json"
    assert main(command("from-masks", root, out)) == 0
    out.write_bytes(out.read_bytes() + b" ")
    before = content_of(root)
    assert main(command("from-masks", root, out)) == 2
    assert content_of(root) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_is_no_output(root, masks, name):
    (root / "out.json").mkdir()
    before = content_of(root)
    assert main(command(name, root, root / "out.json")) == 2
    assert content_of(root) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_may_be_run_again(root, masks, name):
    out = root / "out.json"
    for _ in range(2):
        assert main(command(name, root, out)) == 0
        assert out.stat().st_size > 0


def test_the_list_of_changes_is_an_output_too(root, capsys):
    (root / "out.changes.txt").write_bytes(MINE)
    assert main(command("check --fix", root, root / "out.json")) == 2
    assert "out.changes.txt exists" in capsys.readouterr().err
    assert (root / "out.changes.txt").read_bytes() == MINE
    assert not (root / "out.json").exists()


@pytest.mark.parametrize("name", ["train/000001.png", "val/000002.png", "annotations/instances_val.json"])
def test_shapes_are_not_drawn_over_files_of_the_users(tmp_path, capsys, name):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(MINE)
    assert main(["shapes", str(tmp_path), "--train", "1", "--val", "2", "--size", "64"]) == 2
    assert f"{name} exists" in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_bytes() == MINE


def test_shapes_are_drawn_over_shapes_but_not_over_what_was_made_of_them(tmp_path):
    generate_shapes(tmp_path, train=3, val=1, size=64, seed=0)
    generate_shapes(tmp_path, train=2, val=2, size=80, seed=1)
    (tmp_path / "train" / "000002.png").write_bytes(MINE)
    with pytest.raises(OutputError, match=r"000002\.png exists and was not written by this command, or was changed"):
        generate_shapes(tmp_path, train=2, val=2, size=64, seed=0)
    assert (tmp_path / "train" / "000002.png").read_bytes() == MINE


def test_functions_keep_files_too(root):
    photo = root / "train" / "1.png"
    before = photo.read_bytes()
    dataset = CocoDataset.from_root(root, "train")
    with pytest.raises(OutputError, match=r"1\.png exists"):
        draw_contact_sheet(photo, dataset, [0], augmentation=Augmentation(), short_edges=[30], max_size=40)
    with pytest.raises(OutputError, match=r"1\.png exists"):
        write_png(photo, IMAGE)
    assert photo.read_bytes() == before
