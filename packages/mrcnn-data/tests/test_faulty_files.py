"""Files made faulty at random: valid batches or one clear error, never a crash, a hang or NaN."""

import copy
import itertools
import json

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrcnn_data import Augmentation, CocoDataset, DatasetError, TrainLoader

SIZE = (24, 32)
POLYGON = [4, 4, 20, 4, 20, 18, 4, 18]
RLE = {"size": list(SIZE), "counts": [100, 50, 24 * 32 - 150]}

numbers = st.one_of(
    st.integers(-50, 50),
    st.floats(-60, 60, width=32),
    st.sampled_from([float("nan"), float("inf"), 1e9, -1e30, 0, None, 2**70]),
)
odd_things = st.one_of(
    st.none(), st.text(max_size=3), st.booleans(), st.just({}), st.just([]), st.integers(-3, 99), st.just([[]])
)
parts = st.one_of(st.just(POLYGON), st.lists(numbers, max_size=10), odd_things)
segmentations = st.one_of(
    st.lists(parts, max_size=3),
    st.lists(numbers, max_size=8),
    st.just(RLE),
    st.fixed_dictionaries(
        {
            "size": st.sampled_from([list(SIZE), [32, 24], [0, 0], None]),
            "counts": st.one_of(odd_things, st.lists(numbers)),
        }
    ),
    odd_things,
)
boxes = st.one_of(st.just([4, 4, 16, 14]), st.lists(numbers, min_size=4, max_size=4), st.lists(numbers, max_size=5))
annotations = st.fixed_dictionaries(
    {"segmentation": segmentations, "bbox": boxes},
    optional={
        "iscrowd": st.sampled_from([0, 1, None, True]),
        "ignore": st.sampled_from([0, 1]),
        "id": st.one_of(st.integers(0, 3), st.none()),
        "category_id": st.sampled_from([1, 1, 1, 5]),
        "image_id": st.sampled_from([1, 1, 2, 2, 9]),
        "area": odd_things,
    },
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "train").mkdir()
    (folder / "annotations").mkdir()
    for number in (1, 2):
        cv2.imwrite(str(folder / "train" / f"{number}.png"), np.full((*SIZE, 3), 80, np.uint8))
    return folder


def write(root, content):
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))


def valid_batches_or_one_line(root):
    try:
        dataset = CocoDataset.from_root(root, "train")
        str(dataset.report)
        augmentation = Augmentation(0.5, 0.5, 1.0, scale_range=[0.5, 1.5], crop_size=16)
        loader = TrainLoader(
            dataset,
            short_edge=24,
            max_size=32,
            images_per_batch=1,
            global_batch=2,
            seed=0,
            augmentation=augmentation,
            max_gt=3,
            max_crowds=1,
            num_threads=1,
        )
        with loader:
            batches = [batch for step in itertools.islice(loader.steps(), 3) for batch in step]
    except DatasetError as error:
        return pytest.fail("more than one line") if "\n" in str(error) else None
    for batch in batches:
        present = batch.gt_classes > 0
        sizes = batch.gt_boxes[..., 2:] - batch.gt_boxes[..., :2]
        assert np.isfinite(batch.gt_boxes).all()
        assert np.isfinite(batch.crowd_boxes).all()
        assert (sizes[present] >= 1).all()
        assert not batch.gt_boxes[~present].any()
        assert not (batch.gt_has_mask & ~present).any()
        assert batch.gt_masks.max() <= 1
        np.testing.assert_array_equal(batch.gt_masks.any(axis=(2, 3)), batch.gt_has_mask)
    return batches


def content_of(annotations):
    defaults = {"category_id": 1, "image_id": 1}
    return {
        "images": [
            {"id": number, "file_name": f"{number}.png", "height": SIZE[0], "width": SIZE[1]} for number in (1, 2)
        ],
        "annotations": [{**defaults, **annotation} for annotation in annotations],
        "categories": [{"id": 1, "name": "thing"}],
    }


def check_faulty_annotations(root, faulty):
    write(root, content_of(faulty))
    valid_batches_or_one_line(root)


def check_any_field_replaced_or_gone(root, data):
    content = copy.deepcopy(content_of([{"segmentation": [POLYGON], "bbox": [4, 4, 16, 14], "id": 1}]))
    table = data.draw(st.sampled_from(sorted(content)))
    target, key = content, table
    if data.draw(st.booleans()):
        target = content[table][0]
        key = data.draw(st.sampled_from(sorted(target)))
    if data.draw(st.booleans()):
        del target[key]
    else:
        target[key] = data.draw(odd_things)
    write(root, content)
    valid_batches_or_one_line(root)


def check_bytes_lost_or_changed(root, seed):
    rng = np.random.default_rng(seed)
    text = bytearray(json.dumps(content_of([{"segmentation": [POLYGON], "bbox": [4, 4, 16, 14]}])).encode())
    if seed % 2:
        del text[rng.integers(len(text)) :]
    else:
        text[rng.integers(len(text))] = rng.integers(256)
    (root / "annotations" / "instances_train.json").write_bytes(text)
    valid_batches_or_one_line(root)


CHECKS = {
    "annotations": (check_faulty_annotations, st.lists(annotations, max_size=4)),
    "fields": (check_any_field_replaced_or_gone, st.data()),
    "bytes": (check_bytes_lost_or_changed, st.integers(0, 10**6)),
}


@pytest.mark.parametrize("faults", CHECKS)
@pytest.mark.parametrize("examples", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_faults(root, faults, examples):
    check, strategy = CHECKS[faults]

    @given(strategy)
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    def run(faulty):
        check(root, faulty)

    run()


def test_the_sound_file_gives_objects(root):
    write(root, content_of([{"segmentation": [POLYGON], "bbox": [4, 4, 16, 14]}, {"segmentation": RLE, "image_id": 2}]))
    batches = valid_batches_or_one_line(root)
    assert sum(int(batch.gt_has_mask.sum()) for batch in batches) >= 3
