"""Wrong input gives one line and exit code 2, before TensorFlow is imported."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mrcnn_data import CocoDataset
from mrcnn_data.synthetic import generate_shapes
from mrcnn_eval import CocoEvaluator, GroundTruthError
from mrcnn_train.app import main
from mrcnn_train.config.checks import check
from mrcnn_train.config.composition import known_experiments


class Outcome:
    def __init__(self, exit_code: int, out: str, err: str) -> None:
        self.exit_code, self.out, self.err = exit_code, out, err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Run the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # the command sets it; this takes it back afterwards

    def run_command(*arguments: str, preflight: bool = False) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["mrcnn_train", *arguments])
        try:
            exit_code = main(preflight=preflight)
        except SystemExit as stop:
            exit_code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(exit_code, captured.out, captured.err)

    return run_command


def assert_refused(outcome: Outcome, *words: str) -> None:
    assert outcome.exit_code == 2
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("mrcnn_train: error: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["+experiment=dmo"], ["'dmo'", "'demo'", *known_experiments()]),
        ([], ["+experiment=NAME", *known_experiments()]),
        (["experiment=demo"], ["+experiment=NAME"]),
        (["--experiment", "demo"], ["--experiment", "+experiment=NAME"]),
        (["--resume", "runs/1"], ["--resume", "resume=VALUE"]),
        (["+experiment=demo", "--train.max-steps=3"], ["train.max_steps=VALUE"]),
        (["+experiment=demo", "trian.max_steps=3"], ["'trian.max_steps'", "'train.max_steps'"]),
        (["+experiment=demo", "train.maxsteps=3"], ["'train.maxsteps'", "'train.max_steps'"]),
        (["+experiment=demo", "+train.foo=3"], ["'train.foo'", "did you mean"]),
        (["+experiment=demo", "short_edge=3"], ["'short_edge'", "'data.short_edge'"]),
        (["+experiment=demo", "data.augmentation={flip:1}"], ["data.augmentation.flip"]),
        (["+experiment=demo", "~train"], ["~train"]),
        (["+experiment=demo", "foo"], ["'foo'", "option=value"]),
        (["+experiment=demo", "model.num_classes=3"], ["model.num_classes comes from the data"]),
        (["+experiment=demo", "train.max_steps=abc"], ["train.max_steps", "'abc'", "Integer"]),
        (["+experiment=demo", "train=3"], ["train"]),
        (["+experiment=demo", "data.short_edge=x"], ["data.short_edge", "'x'"]),
        (["+experiment=demo", "model.norm=bn"], ["model.norm", "'bn'", "frozen_bn, sync_bn, gn"]),
        (["+experiment=demo", "train.images_per_gpu=3"], ["train.images_per_gpu=3", "1, 2, 4"]),
        (["+experiment=demo", "optimizer.base_lr=-1"], ["optimizer.base_lr", "positive"]),
        (["+experiment=demo", "train.max_steps=null"], ["train.epochs", "train.max_steps"]),
        (["+experiment=demo", "optimizer.drop_epochs=[1]"], ["drop_epochs", "drop_fractions"]),
        (["+experiment=demo", "data.buckets=[[100,100]]"], ["data.buckets", "32"]),
        (["+experiment=demo", "data.augmentation.crop_size=100"], ["crop_size", "32"]),
        (
            ["+experiment=demo", "data.augmentation.crop_size=64"],
            ["data.buckets=[[160, 160]]", "crop_size=64", "each decides the shape", "data.buckets=null"],
        ),
        (["+experiment=demo", "model.new_classes=true"], ["model.new_classes", "model.weights"]),
        (["+experiment=demo", "data.changed=yes"], ["data.changed", "refuse, accept"]),
        (["+experiment=small", "data.train=[]", "data.root=x"], ["data.train", "training needs a split"]),
        (
            ["+experiment=small", "data.val_annotations=[a,b]", "data.val_images=c", "data.root=x"],
            ["data.val_annotations", "2 files and 1 folders"],
        ),
        (["+experiment=demo", "data.augmentation.horizontal_flip=2"], ["horizontal_flip", "between 0 and 1"]),
        (["+experiment=demo", "data.augmentation.hue=0.7"], ["data.augmentation.hue", "0.5"]),
        (["+experiment=demo", "data.augmentation.brightness=-1"], ["data.augmentation.brightness"]),
        (["+experiment=demo", "data.augmentation.copy_paste=3"], ["data.augmentation.copy_paste", "between 0 and 1"]),
        (["+experiment=demo", "data.augmentation.scale_range=[2,1]"], ["data.augmentation.scale_range"]),
        (["+experiment=demo", "data.augmentation.contrast=x"], ["data.augmentation.contrast", "'x'"]),
        (["+experiment=demo", "data.repeat_threshold=2"], ["data.repeat_threshold", "0 to 1"]),
        (["+experiment=demo", "data.on_error=ignore"], ["data.on_error", "'ignore'", "one of raise, skip"]),
        (["+experiment=demo", "device=cuda"], ["device", "'cuda'", "auto, cpu, gpu"]),
        (["+experiment=demo", "device=gpu", "dry_run=true"], ["no GPU is visible", "device=cpu"]),
        (["+experiment=demo", "precision=fp16"], ["precision", "'fp16'", "mixed_float16, mixed_bfloat16"]),
        (["+experiment=demo", "optimizer.name=adam"], ["optimizer.name", "'adam'", "sgd, lars, novograd"]),
        (["+experiment=demo", "optimizer.decay=cosine"], ["optimizer.decay=cosine", "optimizer.drop_fractions=[]"]),
        (["+experiment=demo", "optimizer.ema_decay=1"], ["optimizer.ema_decay", "less than 1"]),
        (["+experiment=demo", "distributed.timeout_minutes=0"], ["distributed.timeout_minutes", "positive"]),
        (["+experiment=demo", "distributed.wire=bfloat16"], ["distributed.wire", "null, float16"]),
        (["+experiment=demo", "stop_at.box_ap=0.4"], ["stop_at", "eval.every_epochs"]),
        (["+experiment=demo", "model.masks=false", "eval.every_epochs=1", "stop_at.mask_ap=1"], ["stop_at.mask_ap"]),
        (["+experiment=demo", "profile.steps=[3]"], ["profile.steps", "[first, last]"]),
        (["+experiment=demo", "launch.hosts=a"], ["launch.hosts"]),
        (["+experiment=demo", "launch.processes=3"], ["train.global_batch=4", "3 processes", "one of 1"]),
        (["+experiment=demo", "launch.processes=2"], ["2 processes", "one of 1, or train.images_per_gpu one of 1, 2"]),
        (["+experiment=demo", "launch.processes=2", "launch.hosts=['a:1']"], ["give one of them"]),
        (["+experiment=small"], ["data.root is not set"]),
        (["+experiment=small", "data.root=gone"], ["gone", "data root does not exist"]),
        (["+experiment=small", "data.train_annotations=a.json"], ["data.train_images"]),
        (["resume=gone"], ["gone", "config.yaml"]),
    ],
)
def test_wrong_options(command, arguments: list[str], words: list[str]) -> None:
    assert_refused(command(*arguments), *words)


@pytest.fixture
def small_root(tmp_path: Path, shapes: Path) -> Path:
    """A copy of the shapes; a test may damage its files."""
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    return root


def test_missing_split_lists_those_there_are(command, small_root: Path) -> None:
    outcome = command("+experiment=small", f"data.root={small_root}", "data.val=test")
    assert_refused(outcome, "instances_test.json", "'test'", "train, val", "data.val=NAME, or data.val=null")
    assert_refused(command("+experiment=small", f"data.root={small_root}", "data.train=a"), "'a'", "data.train=NAME")


def test_roboflow_s_layout_trains_as_it_is(command, small_root: Path) -> None:
    for split in ("train", "val"):
        (small_root / f"annotations/instances_{split}.json").rename(small_root / split / "_annotations.coco.json")
    outcome = command("+experiment=small", f"data.root={small_root}", "dry_run=true")
    assert outcome.exit_code == 0, outcome.err


def test_missing_image_file_is_named(command, small_root: Path) -> None:
    (small_root / "train" / "000003.png").unlink()
    assert_refused(command("+experiment=small", f"data.root={small_root}"), "000003.png", "missing")


def test_missing_image_files_can_be_skipped(command, small_root: Path) -> None:
    (small_root / "train" / "000003.png").unlink()
    (small_root / "val" / "000001.png").unlink()
    outcome = command("+experiment=small", f"data.root={small_root}", "data.on_error=skip", "dry_run=true")
    assert outcome.exit_code == 0, outcome.err
    assert "train: dropped: 1 x image file missing (image 3)" in outcome.out
    assert "val: dropped: 1 x image file missing (image 1)" in outcome.out


def test_annotations_that_are_not_json(command, small_root: Path) -> None:
    (small_root / "annotations" / "instances_train.json").write_text("images: []")
    assert_refused(command("+experiment=small", f"data.root={small_root}"), "instances_train.json", "JSON")


def test_annotations_that_are_not_coco(command, small_root: Path) -> None:
    (small_root / "annotations" / "instances_train.json").write_text('{"shapes": []}')
    assert_refused(command("+experiment=small", f"data.root={small_root}"), "instances_train.json")


def test_classes_of_the_splits_differ(command, small_root: Path) -> None:
    path = small_root / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    used = content["annotations"][0]["category_id"]
    next(entry for entry in content["categories"] if entry["id"] == used)["name"] = "moon"
    path.write_text(json.dumps(content))
    outcome = command("+experiment=small", f"data.root={small_root}")
    assert_refused(outcome, "instances_val.json", "'moon'", "which the training data does not have")


def test_missing_weights(command, shapes: Path) -> None:
    outcome = command("+experiment=small", f"data.root={shapes}", "model.weights=gone.npz")
    assert_refused(outcome, "gone.npz", "does not exist")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.pkl", b"\x80\x04.", "pickles can run programs and are not read"),
        ("model.pth", b"PK\3\4", "pickles can run programs and are not read"),
        ("model.h5", b"\x89HDF", "weights of Keras are not read"),
        ("model.txt", b"", "expected an .npz or .safetensors file"),
        ("model.npz", b"PK\3\4 cut off", "cannot be read"),
        ("model.npz", b"", "cannot be read"),
        ("model.safetensors", b"\xff" * 100, "cannot be read"),
        ("model.safetensors", b"", "cannot be read"),
        ("folder/model.json", b"[" * 200_000, "nested too deep"),
        ("folder/best", b"x", "no checkpoint in"),
    ],
)
@pytest.mark.parametrize("options", [["dry_run=true"], []])
def test_weights_that_cannot_be_read_are_refused_before_anything_else(
    command, shapes: Path, tmp_path: Path, name: str, content: bytes, words: str, options: list[str]
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    weights = path.parent if "/" in name else path
    outcome = command("+experiment=small", f"data.root={shapes}", f"model.weights={weights}", *options)
    assert_refused(outcome, weights.name, words)


def test_a_bucket_that_holds_no_image(command, shapes: Path) -> None:
    outcome = command("+experiment=small", f"data.root={shapes}", "data.buckets=[[32,32]]")
    assert_refused(outcome, "data.buckets=[[32, 32]]", "holds an image resized to 256 x 256")


def test_a_bucket_that_holds_no_validation_image(command, shapes: Path) -> None:
    options = [f"data.root={shapes}", "data.short_edge=64", "data.buckets=[[64,64]]", "data.eval_short_edge=96"]
    outcome = command("+experiment=small", *options)
    assert_refused(outcome, "instances_val.json", "data.buckets=[[64, 64]]", "96 x 96")


def test_ground_truth_that_cannot_be_scored(command, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dataset: CocoDataset) -> None:
        raise GroundTruthError(f"{dataset.name}: image id 7 is used twice")

    monkeypatch.setattr("mrcnn_train.training.datasets.CocoEvaluator", refuse)
    assert_refused(command("+experiment=small", f"data.root={shapes}"), "instances_val.json", "image id 7")


def test_ground_truth_that_can_be_scored_is_read_before_training(command, shapes: Path, monkeypatch) -> None:
    read = []

    def note(dataset: CocoDataset) -> CocoEvaluator:
        read.append(dataset.annotation_path.name)
        return CocoEvaluator(dataset)

    monkeypatch.setattr("mrcnn_train.training.datasets.CocoEvaluator", note)
    assert command("+experiment=small", f"data.root={shapes}", "dry_run=true").exit_code == 0
    assert read == ["instances_val.json"]


def test_data_root_that_cannot_be_written(command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for root in ("file", "file/below"):
        assert_refused(command("+experiment=demo", f"data.root={root}"), str(tmp_path / root), "ot a directory")


def test_data_root_that_is_a_file(command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert_refused(command("+experiment=small", "data.root=file"), str(tmp_path / "file"))


def test_explicit_paths_do_not_say_where_the_recipe_has_its_weights(command) -> None:
    paths = [f"data.{split}_{what}=x" for split in ("train", "val") for what in ("annotations", "images")]
    outcome = command("+experiment=8x4_12ep", *paths)
    assert_refused(outcome, "data.root is not set", "${data.root}/pretrained-models", "model.weights=FILE")


def test_home_folder_in_paths(command, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(shapes.parent))
    outcome = command("+experiment=small", f"data.root='~/{shapes.name}'", "dry_run=true")
    assert outcome.exit_code == 0, outcome.err
    assert str(shapes / "annotations" / "instances_train.json") in outcome.out
    assert_refused(command("resume='~/gone'"), str(shapes.parent / "gone"))


def test_dry_run_prints_the_plan_and_leaves_nothing(command, shapes: Path, tmp_path: Path) -> None:
    outcome = command("+experiment=small", f"data.root={shapes}", "dry_run=true", "train.max_steps=30")
    assert (outcome.exit_code, outcome.err) == (0, "")
    for words in ("12 images", "3 images", "6: crescent", "4 images a step = 2 x 2", "30 = 10.00 epochs", "0.001 at"):
        assert words in outcome.out
    assert list(tmp_path.iterdir()) == []


def test_dry_run_of_many_processes_starts_none(command, shapes: Path, tmp_path: Path) -> None:
    options = ["+experiment=8x4_12ep", f"data.root={shapes}", "data.train=train", "data.val=val", "model.weights=null"]
    outcome = command(*options, "launch.hosts=['a:2','b:2']", "dry_run=true")
    assert outcome.exit_code == 0, outcome.err
    assert "32 images a step = 4 processes x 2 x 4 (gradients accumulated)" in outcome.out
    assert list(tmp_path.iterdir()) == []


def test_many_processes_without_horovod(command, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "horovod", None)  # what makes an import fail
    assert_refused(command("+experiment=small", f"data.root={shapes}", "launch.processes=2"), "make horovod")


def test_a_launcher_of_another_size(command, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    monkeypatch.setenv("HOROVOD_RANK", "1")
    monkeypatch.setenv("HOROVOD_SIZE", "2")
    monkeypatch.setenv("HOROVOD_LOCAL_RANK", "1")
    monkeypatch.setenv("HOROVOD_LOCAL_SIZE", "2")
    outcome = command("+experiment=small", f"data.root={shapes}", "launch.processes=4")
    assert ended == [2]
    assert "process 1: launch asks for 4 processes, but a launcher has started 2" in outcome.err


def test_multirun_gives_every_job_a_process(command, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    codes = iter([0, 1, 0])
    monkeypatch.setattr("mrcnn_train.app.run_job", lambda arguments: started.append(arguments) or next(codes))
    outcome = command("--multirun", "+experiment=demo", "optimizer.base_lr=0.001,0.002,0.003")
    assert started == [["+experiment=demo", f"optimizer.base_lr={rate}"] for rate in ("0.001", "0.002", "0.003")]
    assert outcome.exit_code == 1


def test_a_signal_ends_a_multirun(command, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("mrcnn_train.app.run_job", lambda arguments: started.append(arguments) or 143)
    assert command("--multirun", "+experiment=demo", "train.seed=0,1").exit_code == 143
    assert len(started) == 1


def test_frozen_norm_without_weights_warns(command, shapes: Path) -> None:
    recipe = ["+experiment=8x4_12ep", f"data.root={shapes}", "data.train=train", "data.val=val", "dry_run=true"]
    outcome = command(*recipe, "model.weights=null")
    assert outcome.exit_code == 0
    assert "WARNING" in outcome.err
    assert "frozen_bn" in outcome.err


@pytest.mark.parametrize("name", ["report.md", "config.yaml"])
def test_a_folder_of_the_users_does_not_become_a_run(command, shapes: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("my: thesis")
    outcome = command("+experiment=small", f"data.root={shapes}", "run.dir=mine")
    assert_refused(outcome, "run.dir=", "mine holds files that are not of a run", "empty folder")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [name]
    assert (tmp_path / "mine" / name).read_text() == "my: thesis"


def test_a_file_does_not_become_a_run(command, shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert_refused(command("+experiment=small", f"data.root={shapes}", "run.dir=file"), "file is not a folder")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["train/000001.png", "annotations/notes.txt", "val", "synthetic.json"])
def test_shapes_are_not_drawn_over_data_of_the_users(command, tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"my own")
    outcome = command("+experiment=demo", "data.root=mine", "dry_run=true")
    assert_refused(outcome, "data.root=", "has data that data.synthetic did not draw", "data.synthetic=null")
    assert path.read_bytes() == b"my own"
    assert sum(one.is_file() for one in (tmp_path / "mine").rglob("*")) == 1


def test_an_interrupted_drawing_is_done_again(command, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["+experiment=demo", "data.synthetic.train=2", "data.synthetic.val=1", "dry_run=true"]

    def interrupt(root: Path, **options: object) -> None:
        generate_shapes(root, **options)
        (root / "annotations" / "instances_val.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mrcnn_train.training.synthetic.generate_shapes", interrupt)
        assert command(*options).exit_code == 130
    outcome = command(*options)
    assert outcome.exit_code == 0, outcome.err
    assert "Drawing" in outcome.out


def test_shapes_of_version_01_are_used_and_not_replaced(command, tmp_path: Path) -> None:
    """It kept no list of the files that it wrote."""
    options = ["+experiment=demo", "data.synthetic.train=2", "data.synthetic.val=1", "dry_run=true"]
    assert command(*options).exit_code == 0
    for ledger in (tmp_path / "outputs" / "shapes").rglob(".mrcnn-outputs.sha256"):
        ledger.unlink()
    outcome = command(*options, "data.synthetic.seed=1")
    assert_refused(outcome, "data.synthetic: ", "was not written by", "another data.root")
    outcome = command(*options)
    assert outcome.exit_code == 0, outcome.err
    assert "Drawing" not in outcome.out


def test_errors_escape_names_from_files(command, small_root: Path) -> None:
    path = small_root / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    used = content["annotations"][0]["category_id"]
    next(entry for entry in content["categories"] if entry["id"] == used)["name"] = "a\x1b[2J\u202eb"
    path.write_text(json.dumps(content))
    outcome = command("+experiment=small", f"data.root={small_root}")
    assert_refused(outcome, "a\\x1b[2J\\u202eb")


def test_demo_draws_its_data_once(command, tmp_path: Path) -> None:
    options = ["+experiment=demo", "data.synthetic.train=2", "data.synthetic.val=1", "dry_run=true"]
    assert "Drawing" in command(*options).out
    image = tmp_path / "outputs" / "shapes" / "train" / "000001.png"
    first = image.read_bytes()
    assert "Drawing" not in command(*options).out
    assert "Drawing" in command(*options, "data.synthetic.seed=1").out  # other options, other shapes
    assert image.read_bytes() != first


@pytest.mark.parametrize("experiment", known_experiments())
def test_every_experiment_composes(compose, experiment: str) -> None:
    config = compose(f"+experiment={experiment}", "data.root=/somewhere")
    check(config)
    assert config.run.name == experiment


def test_a_preflight_prints_a_line_for_each_fault(command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrcnn_train.preflight.checking.measure_exchange", lambda processes: 1.0)
    paths = [f"data.{split}_{what}=gone/{split}" for split in ("train", "val") for what in ("annotations", "images")]
    outcome = command("+experiment=small", *paths, preflight=True)
    assert outcome.exit_code == 2
    lines = outcome.err.splitlines()
    assert [line.rpartition("gone/")[2].partition(" ")[0] for line in lines if "gone/" in line] == ["train", "val"]
    assert all(line.startswith("mrcnn_train: error: host ") for line in lines)


def test_help_and_errors_do_not_load_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys; from mrcnn_train.app import main\n"
        "try: main()\n"
        "finally: print('TENSORFLOW' if 'tensorflow' in sys.modules else 'LIGHT')"
    )
    for arguments in (["--help"], ["+experiment=small", "data.root=gone"]):
        result = subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert "LIGHT" in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["file_name", "class", "options"])
def test_names_of_millions_of_characters_are_never_shown_in_full(command, small_root: Path, place: str) -> None:
    long = "n" * 2_000_000
    options = []
    for split in ("train", "val"):
        path = small_root / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        if place == "class":
            content["categories"][0]["name"] = long
        if place == "file_name":
            content["images"][0]["file_name"] = long
        path.write_text(json.dumps(content))
    if place == "options":
        options = [f"run.name={long[:100_000]}", f"model.weights={long[:100_000]}", f"run.dir={long[:100_000]}"]
    outcome = command("+experiment=small", f"data.root={small_root}", "dry_run=true", *options)
    assert outcome.exit_code == (0 if place == "class" else 2)
    assert len(outcome.err) < 10_000
    assert len(outcome.out) < 10_000
