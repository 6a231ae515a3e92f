"""Several training and validation sets in one run, and names of classes that a terminal could misread."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from mrcnn_data.synthetic import generate_shapes
from mrcnn_train import RunConfig, run
from mrcnn_train.record.metrics_log import read_rows
from mrcnn_train.record.scores import describe_ap, logged_numbers, total_ap
from mrcnn_train.training.datasets import open_data, open_train, open_val

NAMES = ["[/b]", "bolt[m6]", "bolt[m8]", ":smile:", "a\x1b[31mb", "x\u202ey"]  # of the six classes


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training splits of 6 images and two validation splits of 2, with odd names of classes."""
    root = tmp_path_factory.mktemp("sets")
    for seed, (train, val) in enumerate((("a", "day"), ("b", "night"))):
        drawn = root / "drawn"
        generate_shapes(drawn, train=6, val=2, size=64, seed=seed)
        for split, name in (("train", train), ("val", val)):
            shutil.move(drawn / split, root / name)
            content = json.loads((drawn / "annotations" / f"instances_{split}.json").read_text())
            for category, odd in zip(content["categories"], NAMES, strict=True):
                category["name"] = odd
            (root / "annotations").mkdir(exist_ok=True)
            (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
        shutil.rmtree(drawn)
    return root


@pytest.fixture
def config(tiny, root: Path, tmp_path: Path) -> RunConfig:
    sets = ["data.train=[a,b]", "data.val=[day,night]", "eval.every_epochs=0.5"]
    return tiny(f"data.root={root}", f"data.cache_dir={tmp_path / 'cache'}", *sets)


def test_each_set_has_its_numbers_and_files(hollow_step, config: RunConfig, tmp_path: Path, capsys) -> None:
    assert run(config) == 0
    run_dir, out = tmp_path / "run", capsys.readouterr().out
    assert "instances_a.json + " in out
    assert "12 images" in out
    assert "mean of 2 sets; day: box AP" in out
    evaluations = [row for row in read_rows(run_dir / "metrics.jsonl") if row["kind"] == "evaluation"]
    assert [row["step"] for row in evaluations] == [3, 6]
    for row in evaluations:
        for name in ("box_AP", "mask_AP", "box_AP50"):
            found = [row[f"{one}/{name}"] for one in ("day", "night")]
            assert row[name] == pytest.approx(sum(found) / 2)
    numbers = {path.name for path in (run_dir / "evaluation").glob("step-*")}
    assert numbers == {f"step-0000000{step}-{name}.json" for step in (3, 6) for name in ("day", "night")}
    for name in ("day", "night"):
        assert "AP50" in (run_dir / f"ap_table-{name}.txt").read_text()
        assert (run_dir / f"contact_sheet-{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"## AP of the last evaluation on {name}" in (run_dir / "report.md").read_text()
    assert not (run_dir / "ap_table.txt").exists()
    card = json.loads((run_dir / "checkpoints" / "step-00000006" / "model.json").read_text())["card"]
    assert (card["train_split"], card["val_split"]) == ("a, b", "day")
    # Names of classes end nothing, and are shown as they are, without what steers a terminal.
    for text in (out, (run_dir / "ap_table-day.txt").read_text(), (run_dir / "report.md").read_text()):
        assert all(name in text for name in NAMES[:4])
        assert "\x1b" not in text
        assert "\u202e" not in text


def test_explicit_paths_may_be_several(tiny, root: Path) -> None:
    def files(*names: str) -> str:
        return "[" + ",".join(str(root / "annotations" / f"instances_{name}.json") for name in names) + "]"

    config = tiny(
        f"data.train_annotations={files('a', 'b')}",
        f"data.train_images=[{root / 'a'},{root / 'b'}]",
        f"data.val_annotations={files('day', 'day')}",
        f"data.val_images=[{root / 'day'},{root / 'day'}]",
    )
    train = open_train(config.data)
    assert len(train) == 12
    assert [one.name for one in open_val(config.data, train)] == ["day", "day_2"]


def test_the_plan_escapes_names(config: RunConfig, capsys) -> None:
    open_data(config, rank=0, size=1).loader.close()
    out = capsys.readouterr().out
    assert "6: [/b], bolt[m6], bolt[m8], :smile:, a\\x1b[31mb, x\\u202ey" in out


def test_means_over_sets_by_hand() -> None:
    def result(box: float, mask: float) -> SimpleNamespace:
        aps = {"bbox": box, "segm": mask}
        return SimpleNamespace(stats={kind: dict.fromkeys(("AP", "AP50", "AP75"), ap) for kind, ap in aps.items()})

    assert logged_numbers({"val": result(0.5, 0.25)})["box_AP"] == 0.5
    assert "val/box_AP" not in logged_numbers({"val": result(0.5, 0.25)})
    numbers = logged_numbers({"day": result(0.5, 0.25), "night": result(0.25, 0.0), "empty": result(-1.0, -1.0)})
    assert (numbers["box_AP"], numbers["mask_AP"], numbers["night/box_AP"]) == (0.375, 0.125, 0.25)
    assert total_ap(numbers) == 0.5
    assert describe_ap(numbers).startswith("box AP 0.375, mask AP 0.125 (mean of 3 sets; day: box AP 0.500, mask")
