"""A model over a data set, with a model whose answer can be checked: it sees bright rectangles, one in each image."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils

tf = pytest.importorskip("tensorflow")

from mrcnn_data import CocoDataset, DatasetError, EvalLoader, default_buckets, instance_masks  # noqa: E402
from mrcnn_eval import CocoEvaluator  # noqa: E402
from mrcnn_eval.inference import (  # noqa: E402
    PackedDetections,
    Preprocessing,
    Share,
    add_detections,
    compiled_detect,
    detect_dataset,
    evaluate_model,
    new_evaluator,
)
from mrcnn_eval.inference.original_pixels import to_original  # noqa: E402
from mrcnn_eval.report.pictures import draw_contact_sheet  # noqa: E402
from mrcnn_model import Detections  # noqa: E402

SHORT_EDGE, MAX_SIZE = 64, 96
PREPROCESSING = {
    "buckets": default_buckets(SHORT_EDGE, MAX_SIZE),
    "short_edge": SHORT_EDGE,
    "max_size": MAX_SIZE,
}
RESIZED = Preprocessing(**PREPROCESSING)
# id: (h, w), box (x1, y1, x2, y2) or None, category. Resized by 2, by 2, by 1, and by 2/3 (capped by the long edge).
IMAGES = {
    30: ((32, 40), (8, 4, 20, 24), 7),
    4: ((48, 32), (0, 0, 32, 48), 3),
    12: ((64, 64), None, None),
    9: ((60, 144), (30, 12, 120, 45), 7),
}
BRIGHT = {7: (0, 255, 0), 3: (255, 0, 0)}  # RGB; categories 3, 7 are classes 1, 2: red and green


class RectangleFinder:
    """Finds the red (class 1) and the green (class 2) rectangle of an image; its masks fill the boxes."""

    def __init__(self, detections_per_image: int = 3) -> None:
        self.config = SimpleNamespace(num_classes=3, detections_per_image=detections_per_image, masks=True)
        self.traced: list[tuple[int, ...]] = []

    def detect(self, images, image_sizes):
        self.traced.append(tuple(images.shape))
        boxes, valid = zip(*(self._find(images[..., channel]) for channel in (0, 1)), strict=True)
        missing = self.config.detections_per_image - 2
        valid = tf.pad(tf.stack(valid, axis=1), [[0, 0], [0, missing]])  # [N, D]
        boxes = tf.pad(tf.stack(boxes, axis=1), [[0, 0], [0, missing], [0, 0]])  # [N, D, 4]
        order = tf.argsort(tf.cast(valid, tf.int32), direction="DESCENDING", stable=True)
        valid = tf.gather(valid, order, batch_dims=1)
        classes = tf.where(valid, order + 1, 0)
        scores = tf.where(valid, 0.9, 0.0)
        masks = tf.ones([*boxes.shape[:2], 28, 28]) * tf.cast(valid, tf.float32)[..., None, None]
        boxes = tf.where(valid[..., None], tf.gather(boxes, order, batch_dims=1), 0.0)
        return Detections(boxes, scores, classes, masks, valid)

    @staticmethod
    def _find(channel):
        bright = channel > 127  # [N, H, W]
        columns, rows = tf.reduce_any(bright, axis=1), tf.reduce_any(bright, axis=2)

        def span(line):
            length = line.shape[1]
            first = tf.argmax(line, axis=1, output_type=tf.int32)
            last = length - tf.argmax(tf.reverse(line, [1]), axis=1, output_type=tf.int32)
            return tf.cast(first, tf.float32), tf.cast(last, tf.float32)

        (x1, x2), (y1, y2) = span(tf.cast(columns, tf.int32)), span(tf.cast(rows, tf.int32))
        return tf.stack([x1, y1, x2, y2], axis=1), tf.reduce_any(bright, axis=[1, 2])


@pytest.fixture
def dataset(tmp_path):
    annotations = []
    for image_id, ((height, width), box, category) in IMAGES.items():
        image = np.zeros((height, width, 3), np.uint8)
        if box is not None:
            x1, y1, x2, y2 = box
            image[y1:y2, x1:x2] = BRIGHT[category]
            polygon = [[x1, y1, x2, y1, x2, y2, x1, y2]]
            annotations.append({"id": len(annotations), "image_id": image_id, "category_id": category, "iscrowd": 0})
            annotations[-1] |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": polygon}
        cv2.imwrite(str(tmp_path / f"{image_id}.png"), image[..., ::-1])
    content = {
        "images": [
            {"id": image_id, "file_name": f"{image_id}.png", "height": size[0], "width": size[1]}
            for image_id, (size, _, _) in IMAGES.items()
        ],
        "categories": [{"id": 7, "name": "green"}, {"id": 3, "name": "red"}],
        "annotations": annotations,
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return CocoDataset.open(tmp_path / "truth.json", tmp_path)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_boxes_and_masks_come_back_in_original_pixels(dataset, batch_size):
    evaluator = detect_dataset(RectangleFinder(), dataset, RESIZED, batch_size=batch_size)
    assert sorted(evaluator.image_results) == sorted(IMAGES)
    found = {entry["image_id"]: entry for entry in evaluator.results()}
    assert sorted(found) == [4, 9, 30]
    for image_id, entry in found.items():
        size, (x1, y1, x2, y2), category = IMAGES[image_id]
        assert entry["category_id"] == category
        assert entry["segmentation"]["size"] == list(size)
        tolerance = 0 if image_id != 9 else 1.5  # 2/3 does not keep the edges on whole pixels
        assert entry["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=tolerance)
        if image_id != 9:
            expected = np.zeros(size, np.uint8)
            expected[y1:y2, x1:x2] = 1
            np.testing.assert_array_equal(mask_utils.decode(entry["segmentation"]), expected)


def test_a_model_without_masks_is_scored_for_boxes_only(dataset):
    class BoxFinder(RectangleFinder):
        def detect(self, images, image_sizes):
            found = super().detect(images, image_sizes)
            return found._replace(masks=tf.zeros([*found.boxes.shape[:2], 0, 0]))

    finder = BoxFinder()
    finder.config.masks = False
    result = evaluate_model(finder, dataset, batch_size=2, **PREPROCESSING)
    assert list(result.stats) == ["bbox"]
    assert result.stats["bbox"]["AP50"] == pytest.approx(1.0)
    assert result.warnings == ()


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_perfect_model_scores_one(dataset, backend):
    model = RectangleFinder()
    evaluator = new_evaluator(model, dataset, backend=backend)
    detect_dataset(model, dataset, RESIZED, batch_size=2, evaluator=evaluator)
    stats = evaluator.evaluate().stats
    assert stats["bbox"]["AP50"] == stats["segm"]["AP50"] == pytest.approx(1.0)
    assert stats["bbox"]["AP75"] == stats["segm"]["AP75"] == pytest.approx(1.0)


def test_image_that_cannot_be_read_counts_as_empty(dataset, tmp_path, capsys):
    dataset.image_path(0).write_bytes(b"")  # image 30, of category 7, which image 9 has too
    with pytest.raises(DatasetError, match=r"30\.png"):
        detect_dataset(RectangleFinder(), dataset, RESIZED, batch_size=2)
    evaluator = detect_dataset(RectangleFinder(), dataset, RESIZED, batch_size=2, on_error="skip")
    assert sorted(evaluator.image_results) == sorted(IMAGES)
    assert "30.png" in capsys.readouterr().out
    result = evaluator.evaluate(image_ids=evaluator.image_results)
    # One of two objects found: precision 1 up to recall 0.5, 51 of 101 points; category 3 is perfect.
    assert result.stats["bbox"]["AP50"] == pytest.approx((51 / 101 + 1) / 2)
    draw_contact_sheet(tmp_path / "sheet.png", evaluator, dataset.image_dir, on_error="skip")
    with pytest.raises(DatasetError, match=r"30\.png"):
        draw_contact_sheet(tmp_path / "sheet.png", evaluator, dataset.image_dir)


def test_a_data_set_is_not_read_again(dataset):
    dataset.annotation_path.unlink()
    result = evaluate_model(RectangleFinder(), dataset, batch_size=2, **PREPROCESSING)
    assert result.stats["segm"]["AP50"] == pytest.approx(1.0)
    assert evaluate_model(RectangleFinder(), dataset, batch_size=2, **PREPROCESSING) == result


def test_a_data_set_of_several_files_is_scored_as_one(dataset, tmp_path):
    whole = json.loads(dataset.annotation_path.read_text())
    parts = []
    for name, ids in (("a", {30, 9}), ("b", {4, 12})):
        images = [image for image in whole["images"] if image["id"] in ids]
        (tmp_path / name).mkdir()
        for image in images:
            (tmp_path / image["file_name"]).rename(tmp_path / name / image["file_name"])
        objects = [one for one in whole["annotations"] if one["image_id"] in ids]
        parts.append(tmp_path / f"{name}.json")
        parts[-1].write_text(json.dumps({**whole, "images": images, "annotations": objects}))
    several = CocoDataset.open(parts, [tmp_path / "a", tmp_path / "b"])
    evaluator = detect_dataset(RectangleFinder(), several, RESIZED, batch_size=2)
    result = evaluator.evaluate()
    assert (result.num_images, result.num_ground_truths) == (4, 3)
    assert result.stats["segm"]["AP50"] == pytest.approx(1.0)
    truth = evaluator.ground_truth
    assert truth.image_dir == tmp_path
    assert truth.file_names == ("b/4.png", "a/9.png", "b/12.png", "a/30.png")
    draw_contact_sheet(tmp_path / "sheet.png", evaluator)
    assert cv2.imread(str(tmp_path / "sheet.png"))[:, 20:].max() == 255
    with pytest.raises(ValueError, match="give the folder of its images"):
        draw_contact_sheet(tmp_path / "sheet.png", CocoEvaluator(whole))


def test_evaluate_model_is_the_same_in_one_call(dataset):
    evaluator = detect_dataset(RectangleFinder(), dataset, RESIZED, batch_size=2)
    result = evaluate_model(RectangleFinder(), dataset, batch_size=2, **PREPROCESSING)
    assert result == evaluator.evaluate()
    assert (result.num_images, result.num_detections, result.num_ground_truths) == (4, 3, 3)


def test_limit_scores_the_first_images_of_the_file_only(dataset):
    result = evaluate_model(RectangleFinder(), dataset, batch_size=2, limit=2, **PREPROCESSING)
    assert (result.num_images, result.num_ground_truths, result.num_detections) == (2, 2, 2)
    assert result.stats["bbox"]["AR100"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("detections_per_image", "max_dets", "expected"), [(3, None, 100), (200, None, 200), (3, 50, 50)]
)
def test_detection_cap_follows_the_model_but_is_at_least_cocos(dataset, detections_per_image, max_dets, expected):
    model = RectangleFinder(detections_per_image)
    result = evaluate_model(model, dataset, batch_size=4, max_dets=max_dets, **PREPROCESSING)
    assert f"AR{expected}" in result.stats["bbox"]
    assert result.measures.max_dets == expected


@pytest.mark.parametrize("num_ranks", [2, 4, 6])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_ranks_together_are_one_process(dataset, num_ranks, batch_size):
    # Ranks one after the other: each hands in its share, the last gather has them all. Six ranks: some have no image.
    model = RectangleFinder()
    options = {"batch_size": batch_size, "detect": compiled_detect(model)}
    given = []

    def hand_in(mine):
        given.append(mine)
        return [(None, dict.fromkeys(dataset.image_ids))]

    for rank in range(num_ranks):
        detect_dataset(model, dataset, RESIZED, share=Share(rank, num_ranks, hand_in), **options)
    assert sorted(image_id for _, share in given for image_id in share) == sorted(IMAGES)  # each exactly once
    last = detect_dataset(model, dataset, RESIZED, share=Share(0, num_ranks, lambda _: given), **options)
    alone = detect_dataset(model, dataset, RESIZED, **options)
    assert list(last.image_results) == list(dataset.image_ids)
    assert last.results() == alone.results()
    assert last.evaluate() == alone.evaluate()


def test_an_error_of_the_encoder_ends_the_evaluation(dataset, monkeypatch):
    # What fails beside the main thread must not be lost.
    def broken(*_, **__):
        raise RuntimeError("the encoder broke")

    monkeypatch.setattr("mrcnn_eval.inference.original_pixels.encode_masks", broken)
    with pytest.raises(RuntimeError, match="the encoder broke"):
        detect_dataset(RectangleFinder(), dataset, RESIZED, batch_size=1)


def test_an_error_of_progress_ends_the_evaluation(dataset):
    # The trainer stops an evaluation from there.
    def stop(done, total):
        raise InterruptedError(f"stopped at {done} of {total}")

    with pytest.raises(InterruptedError, match="stopped at 1 of 4"):
        detect_dataset(RectangleFinder(), dataset, RESIZED, batch_size=1, progress=stop)


def test_the_network_works_while_masks_are_encoded(dataset, monkeypatch):
    # The encoder of the first batch waits for the network's second batch: without overlap it would wait for ever.
    second_began = threading.Event()
    waited = []

    class Finder(RectangleFinder):
        calls = 0

        def detect(self, images, image_sizes):
            Finder.calls += 1
            if Finder.calls == 2:
                second_began.set()
            return super().detect(images, image_sizes)

    def slow(*arguments, **options):
        waited.append(second_began.wait(timeout=20))
        return add_detections(*arguments, **options)

    monkeypatch.setattr("mrcnn_eval.inference.detection.add_detections", slow)
    model = Finder()
    detect_dataset(model, dataset, RESIZED, batch_size=1, detect=lambda *of: PackedDetections.of(model.detect(*of)))
    assert waited == [True] * 4


def test_the_device_is_waited_for_once_a_batch_and_only_by_the_encoder(dataset, monkeypatch):
    fetched, added = [], []

    def fetch(self):
        fetched.append(threading.current_thread())
        return fetch_once(self)

    def add(evaluator, batch, detections, **options):
        added.extend(map(type, detections))
        return add_detections(evaluator, batch, detections, **options)

    fetch_once = PackedDetections.fetch
    monkeypatch.setattr(PackedDetections, "fetch", fetch)
    monkeypatch.setattr("mrcnn_eval.inference.detection.add_detections", add)
    detect_dataset(RectangleFinder(), dataset, RESIZED, batch_size=1)
    assert len(fetched) == 4
    assert threading.current_thread() not in fetched
    assert added == [np.ndarray] * len(Detections._fields) * 4


@pytest.mark.parametrize("mask_edge", [0, 28])
def test_packed_detections_have_the_same_bits(mask_edge):
    rng = np.random.default_rng(0)
    detections = Detections(
        boxes=rng.normal(size=(2, 3, 4)).astype(np.float32),
        scores=np.array([[1, np.nan, -0.0], [1e-45, np.inf, 0.5]], np.float32),
        classes=np.array([[1, 0, 2**24 - 1], [80, 1203, 2]], np.int32),
        masks=rng.random((2, 3, mask_edge, mask_edge), np.float32),
        valid=rng.random((2, 3)) > 0.5,
    )
    fetched = tf.function(PackedDetections.of)(Detections(*map(tf.constant, detections))).fetch()
    for value, expected in zip(fetched, detections, strict=True):
        assert (value.dtype, value.shape) == (expected.dtype, expected.shape)
        assert value.tobytes() == expected.tobytes()


def test_progress_reaches_the_number_of_images(dataset):
    calls = []
    evaluate_model(
        RectangleFinder(),
        dataset,
        batch_size=1,
        progress=lambda done, total: calls.append((done, total)),
        **PREPROCESSING,
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_one_trace_per_shape_and_none_in_a_second_evaluation(dataset):
    model = RectangleFinder()
    detect = compiled_detect(model)
    for _ in range(2):
        evaluate_model(model, dataset, batch_size=1, detect=detect, **PREPROCESSING)
    assert len(model.traced) == len(set(model.traced)) > 1


def test_a_model_that_detects_nothing_scores_zero_with_a_warning(dataset):
    model = RectangleFinder()
    model._find = lambda channel: (tf.zeros([channel.shape[0], 4]), tf.zeros([channel.shape[0]], tf.bool))
    result = evaluate_model(model, dataset, batch_size=3, **PREPROCESSING)
    assert result.stats["bbox"]["AP"] == result.stats["segm"]["AP"] == 0.0
    assert result.warnings == ("nothing was detected: AP is 0",)


def test_class_counts_that_differ_are_an_error(dataset):
    model = RectangleFinder()
    model.config.num_classes = 81
    with pytest.raises(ValueError, match=r"the model has 80 classes, .*truth\.json has 2"):
        evaluate_model(model, dataset, batch_size=1, **PREPROCESSING)


def test_to_original_scales_each_axis_by_its_own_factor_and_clips():
    boxes = np.float32([[10, 10, 50, 60], [-5, 0, 200, 90], [99, 79, 100, 80]])
    sizes, originals = np.full((3, 2), (80, 100)), np.full((3, 2), (160, 50))  # (h, w): y twice, x half
    expected = [[5, 20, 25, 120], [0, 0, 50, 160], [49.5, 158, 50, 160]]
    scaled = to_original(boxes, image_sizes=sizes, original_sizes=originals)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, np.float32(expected))
    assert to_original(np.zeros((0, 4), np.float32), image_sizes=sizes[:0], original_sizes=sizes[:0]).shape == (0, 4)


@pytest.fixture(scope="module")
def tiny_model():
    import keras

    from mrcnn_model import ModelConfig, build_model

    keras.utils.set_random_seed(0)
    config = ModelConfig(
        num_classes=3,
        backbone="resnet18",
        norm="gn",
        gn_groups=4,
        backbone_width=8,
        freeze_at=0,
        fpn_channels=16,
        anchor_sizes=[8.0, 16.0, 32.0, 64.0, 128.0],
        rpn_channels=16,
        detect_proposals=30,
        box_head_channels=32,
        mask_head_convs=1,
        mask_head_channels=16,
        score_threshold=0.0,
        detections_per_image=20,
    )
    return build_model(config)


@pytest.fixture(scope="module")
def tiny_detect(tiny_model):
    """Detects with the tiny model, compiled once per shape of batch for all tests."""
    return compiled_detect(tiny_model)


@pytest.fixture
def one_by_one(dataset, tiny_model, tiny_detect):
    """What the tiny model finds in each image alone, at scores above 0."""
    return detect_dataset(tiny_model, dataset, RESIZED, batch_size=1, detect=tiny_detect)


def test_an_image_without_detections_does_not_disturb_the_others(dataset, tiny_model, one_by_one, monkeypatch):
    # With this score threshold nothing is found on one image, and something on each other.
    lowest, second, *_ = sorted(results.scores.max() for results in one_by_one.image_results.values())
    assert second - lowest > 1e-4  # far from rounding
    threshold = (lowest + second) / 2
    monkeypatch.setattr(tiny_model.config.detection, "score_threshold", threshold)
    many = detect_dataset(tiny_model, dataset, RESIZED, batch_size=3)
    expected = CocoEvaluator.of(one_by_one)
    expected.add_results([entry for entry in one_by_one.results() if entry["score"] >= threshold])
    assert len(expected.image_results) == 3
    assert [image_id for image_id, results in many.image_results.items() if not len(results.scores)] == [
        image_id for image_id in one_by_one.image_results if image_id not in expected.image_results
    ]
    assert_same_detections(expected, many)


def test_tiny_real_model_gives_the_same_in_any_batch(dataset, tiny_model, tiny_detect, one_by_one):
    # The images have four sizes and share buckets; batches are filled up with padding rows.
    many = detect_dataset(tiny_model, dataset, RESIZED, batch_size=8, detect=tiny_detect)
    assert len(one_by_one.results()) == len(many.results()) > 20
    assert_same_detections(one_by_one, many)
    assert many.evaluate().stats["bbox"]["AP"] >= 0


def assert_same_detections(one, many):
    for image_id, results in one.image_results.items():
        others = many.image_results[image_id]
        np.testing.assert_allclose(results.scores, others.scores, atol=1e-5)
        np.testing.assert_allclose(results.boxes, others.boxes, atol=1e-2)
        np.testing.assert_array_equal(results.category_ids, others.category_ids)
        for rle, other in zip(results.rles, others.rles, strict=True):
            differing = mask_utils.decode(rle) != mask_utils.decode(other)
            assert differing.mean() < 0.01  # a pixel on the outline may fall to the other side


def annotated_detections(batch, dataset, num_slots=64):
    """What a perfect 28 x 28 mask head would say of a batch: the annotated boxes, the share of each cell covered."""
    shape = (len(batch.image_ids), num_slots)
    boxes, classes = np.zeros((*shape, 4), np.float32), np.zeros(shape, np.int32)
    masks, valid = np.zeros((*shape, 28, 28), np.float32), np.zeros(shape, bool)
    grid = (np.arange(28 * 8) + 0.5) / (28 * 8)
    for row, image_id in enumerate(batch.image_ids):
        if image_id is None:
            continue
        image = dataset.image_ids.index(image_id)
        height, width = batch.image_sizes[row] / batch.original_sizes[row]
        objects, bitmaps = dataset.instances(image), instance_masks(dataset, image)
        for slot, (box, bitmap) in enumerate(zip(objects.boxes, bitmaps, strict=True)):
            xs = np.clip(box[0] + grid * (box[2] - box[0]), 0, bitmap.shape[1] - 1).astype(int)
            ys = np.clip(box[1] + grid * (box[3] - box[1]), 0, bitmap.shape[0] - 1).astype(int)
            masks[row, slot] = bitmap[np.ix_(ys, xs)].reshape(28, 8, 28, 8).mean(axis=(1, 3))
            boxes[row, slot] = box * [width, height, width, height]
            classes[row, slot], valid[row, slot] = objects.classes[slot], True
    return Detections(*map(tf.constant, (boxes, valid.astype(np.float32), classes, masks, valid)))


def test_real_annotations_survive_resizing_and_encoding(shared_data):
    # Odd scales, crowds, 80 classes: what a perfect model would score is what 28 x 28 masks lose, and no more.
    root = shared_data / "coco_open"
    if not root.is_dir():
        pytest.skip(f"real data is absent: no {root}")
    dataset = CocoDataset.from_root(root, "val")
    evaluator = CocoEvaluator(dataset.annotation_path)
    buckets = default_buckets(416, 700)
    loader = EvalLoader(dataset, buckets=buckets, short_edge=416, max_size=700, batch_size=3, limit=20)
    for batch in loader:
        add_detections(evaluator, batch, annotated_detections(batch, dataset), category_ids=dataset.category_ids)
    stats = evaluator.evaluate(image_ids=evaluator.image_results).stats
    assert stats["bbox"]["AP"] > 0.999
    assert stats["segm"]["AP"] > 0.98
