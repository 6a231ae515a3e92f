"""The learning rate, in numbers that can be checked by hand."""

import math

import pytest

from mrcnn_train.config.checks import check
from mrcnn_train.config.composition import known_experiments
from mrcnn_train.config.plan import describe_rates, make_plan
from mrcnn_train.config.schedule import crosses, learning_rate, make_schedule, steps_of_epochs


def coco_schedule(global_batch: int):
    return make_schedule(
        base_lr=0.00125,
        global_batch=global_batch,
        warmup_steps=1000,
        warmup_start_lr=0.00333,
        drop_steps=[8000, 10000],
        drop_factor=0.1,
    )


@pytest.mark.parametrize(
    ("global_batch", "rates"),
    # Rates at steps 0, 500, 1000, 7999, 8000, 10000. From 8 images on the start is 0.00333, below it a third.
    [
        (1, [0.00125 / 3, 0.00125 * 2 / 3, 0.00125, 0.00125, 0.000125, 0.0000125]),
        (2, [0.0025 / 3, 0.0025 * 2 / 3, 0.0025, 0.0025, 0.00025, 0.000025]),
        (8, [0.00333, 0.006665, 0.01, 0.01, 0.001, 0.0001]),
        (64, [0.00333, 0.041665, 0.08, 0.08, 0.008, 0.0008]),
        (128, [0.00333, 0.081665, 0.16, 0.16, 0.016, 0.0016]),
    ],
)
def test_rates_of_the_coco_recipe(global_batch: int, rates: list[float]) -> None:
    schedule = coco_schedule(global_batch)
    assert [learning_rate(step, schedule) for step in (0, 500, 1000, 7999, 8000, 10000)] == pytest.approx(rates)


@pytest.mark.parametrize("global_batch", [1, 2, 3, 8, 128])
def test_warmup_rises_and_never_exceeds_the_scaled_rate(global_batch: int) -> None:
    schedule = coco_schedule(global_batch)
    rates = [learning_rate(step, schedule) for step in range(1001)]
    assert rates == sorted(rates)
    assert rates[0] > 0
    assert max(rates) == pytest.approx(0.00125 * global_batch)


def test_a_drop_inside_the_warmup_caps_it() -> None:
    schedule = coco_schedule(8)._replace(drop_steps=(10,))
    assert learning_rate(999, schedule) == pytest.approx(0.001)


def test_no_warmup_starts_at_the_peak() -> None:
    assert learning_rate(0, coco_schedule(8)._replace(warmup_steps=0)) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("epochs", "num_images", "global_batch", "steps"),
    [(1, 10, 4, 3), (2, 10, 4, 5), (12, 117266, 32, 43975), (0.3, 10, 1, 3), (0.1, 10, 8, 1)],
)
def test_steps_of_epochs(epochs: float, num_images: int, global_batch: int, steps: int) -> None:
    assert steps_of_epochs(epochs, num_images=num_images, global_batch=global_batch) == steps


def test_every_epoch_is_crossed_once() -> None:
    epochs = [step * 4 / 10 for step in range(31)]  # 10 images, 4 a step, 12 epochs
    crossed = [step for step in range(1, 31) if crosses(1.0, epochs[step - 1], epochs[step])]
    assert crossed == [3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28, 30]


def test_crossing_fractions_of_epochs_despite_rounding() -> None:
    epochs = [step * 0.1 for step in range(11)]  # 3 * 0.1 > 0.3
    assert [s for s in range(1, 11) if crosses(0.1, epochs[s - 1], epochs[s])] == list(range(1, 11))


def test_null_never_crosses() -> None:
    assert not crosses(None, 0.0, 100.0)


@pytest.mark.parametrize(
    ("experiment", "micro_batches", "total_steps", "drop_steps", "peak", "clip"),
    # On train2017 with objects: 117,266 images.
    [
        ("8x1_12ep", 8, 175899, (117266, 146583), 0.01, None),
        ("8x4_12ep", 8, 43975, (29317, 36646), 0.04, None),
        ("16x4_12ep", 16, 21988, (14659, 18323), 0.08, None),
        ("32x4_12ep", 32, 10994, (7330, 9162), 0.16, 1.5),
        ("8x4_24ep", 8, 87950, (58633, 73292), 0.04, None),
        ("16x4_24ep", 16, 43975, (29317, 36646), 0.08, None),
        ("32x4_24ep", 32, 21988, (14659, 18323), 0.16, 1.5),
    ],
)
def test_recipes(compose, experiment, micro_batches, total_steps, drop_steps, peak, clip) -> None:
    config = compose(f"+experiment={experiment}", "data.root=/coco")
    check(config)
    plan = make_plan(config, num_images=117266)
    assert (plan.micro_batches, plan.total_steps, plan.schedule.drop_steps) == (micro_batches, total_steps, drop_steps)
    assert plan.schedule.peak == pytest.approx(peak)
    assert plan.schedule.warmup_start == pytest.approx(0.00333)
    assert plan.schedule.warmup_steps == 1000
    assert (config.optimizer.clip_norm, config.optimizer.weight_decay, config.optimizer.momentum) == (clip, 1e-4, 0.9)
    model = config.model
    assert (model.backbone, model.norm, model.freeze_at, model.box_loss) == ("resnet50", "frozen_bn", 2, "huber")
    assert model.box_regression_weights == [10, 10, 5, 5]
    assert model.weights == "/coco/pretrained-models/ImageNet-R50-AlignPadding.npz"
    assert (config.data.short_edge, config.data.max_size) == (800, 1333)
    assert (config.data.train, config.data.val) == ("train2017", "val2017")


def rates_at(config, *steps: int) -> list[float]:
    schedule = make_plan(config, num_images=117266).schedule
    return [learning_rate(step, schedule) for step in steps]


@pytest.mark.parametrize(
    ("experiment", "rates"),
    # Step: rate. At the first step, in the middle of warm-up, at its end, before and after each drop.
    [
        ("8x1_12ep", {0: 0.00333, 500: 0.006665, 1000: 0.01, 117265: 0.01, 117266: 0.001, 146583: 0.0001}),
        ("8x4_12ep", {0: 0.00333, 500: 0.021665, 1000: 0.04, 29316: 0.04, 29317: 0.004, 36646: 0.0004}),
        ("16x4_12ep", {0: 0.00333, 500: 0.041665, 1000: 0.08, 14658: 0.08, 14659: 0.008, 18323: 0.0008}),
        ("32x4_12ep", {0: 0.00333, 500: 0.081665, 1000: 0.16, 7329: 0.16, 7330: 0.016, 9162: 0.0016}),
        ("8x4_24ep", {0: 0.00333, 500: 0.021665, 1000: 0.04, 58632: 0.04, 58633: 0.004, 73292: 0.0004}),
        ("16x4_24ep", {0: 0.00333, 500: 0.041665, 1000: 0.08, 29316: 0.08, 29317: 0.008, 36646: 0.0008}),
        ("32x4_24ep", {0: 0.00333, 500: 0.081665, 1000: 0.16, 14658: 0.16, 14659: 0.016, 18323: 0.0016}),
        ("1gpu_12ep", {0: 0.00333, 500: 0.006665, 1000: 0.01, 117265: 0.01, 117266: 0.001, 146583: 0.0001}),
        ("256x1", {0: 0.0001333, 900: 0.12006665, 1800: 0.24, 5496: 0.24, 5497: 0.024, 7330: 0.0024}),
        ("cascade_8x4_12ep", {0: 0.00333, 500: 0.021665, 1000: 0.04, 29317: 0.004, 36646: 0.0004}),
        ("gn_scratch_8x4_72ep", {0: 0.00333, 1000: 0.04, 234531: 0.04, 234532: 0.004, 253955: 0.0004}),
        ("lsj_16x4_100ep", {0: 0.00333, 250: 0.041665, 500: 0.08, 162889: 0.08, 162890: 0.008, 176450: 0.0008}),
    ],
)
def test_rates_of_the_coco_experiments(compose, experiment: str, rates: dict[int, float]) -> None:
    actual = rates_at(compose(f"+experiment={experiment}", "data.root=/coco"), *rates)
    print(experiment, dict(zip(rates, actual, strict=True)))
    assert actual == pytest.approx(list(rates.values()))


CPU_EXPERIMENTS = ("auto", "demo", "nuclei", "small")  # tuned on their data: only the shape of their schedule is fixed


@pytest.mark.parametrize("experiment", CPU_EXPERIMENTS)
def test_rates_of_the_cpu_experiments(compose, experiment: str) -> None:
    config = compose(f"+experiment={experiment}", "data.root=/data")
    plan = make_plan(config, num_images=100)
    schedule = plan.schedule
    actual = {step: learning_rate(step, schedule) for step in (0, schedule.warmup_steps, *schedule.drop_steps)}
    print(experiment, actual)
    peak = config.optimizer.base_lr * config.train.global_batch
    drops = [peak * 0.1**number for number in range(1, len(schedule.drop_steps) + 1)]
    assert list(actual.values()) == pytest.approx([config.optimizer.warmup_start_lr, peak, *drops])
    assert schedule.warmup_steps < min(schedule.drop_steps)
    assert max(schedule.drop_steps) < plan.total_steps


def test_no_experiment_is_forgotten() -> None:
    (coco,) = (mark.args[1] for mark in test_rates_of_the_coco_experiments.pytestmark if mark.name == "parametrize")
    assert {experiment for experiment, _ in coco} | set(CPU_EXPERIMENTS) == set(known_experiments())


def test_cosine_falls_from_the_peak_to_zero() -> None:
    schedule = coco_schedule(8)._replace(drop_steps=(), cosine_end=3000)
    # A half at the middle; cos(pi / 4) = 0.7071 at a quarter.
    assert [learning_rate(step, schedule) for step in (500, 1000, 1500, 2000, 3000)] == pytest.approx(
        [0.006665, 0.01, 0.01 * (1 + 0.70710678) / 2, 0.005, 0.0]
    )


def test_cosine_ends_with_the_run(compose) -> None:
    cosine = ["optimizer.decay=cosine", "optimizer.drop_fractions=[]", "train.max_steps=200"]
    config = compose("+experiment=small", "data.root=/x", *cosine)
    check(config)
    assert make_plan(config, num_images=10).schedule.cosine_end == 200


def test_a_rate_per_epoch_changes_where_an_epoch_begins() -> None:
    # Epochs of 2.5 steps begin at steps 3, 5, 8, 10; the first drop lies in the middle of one.
    schedule = make_schedule(
        base_lr=1.0,
        global_batch=1,
        warmup_steps=0,
        warmup_start_lr=0.0,
        drop_steps=[4],
        drop_factor=0.5,
        epoch_steps=2.5,
    )
    assert [learning_rate(step, schedule) for step in range(7)] == [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5]
    cosine = schedule._replace(drop_steps=(), cosine_end=10)
    rates = [learning_rate(step, cosine) for step in range(10)]
    assert rates[0] == rates[1] == rates[2] == 1.0
    assert rates[3] == rates[4] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.3)))
    assert len(set(rates)) == 4


def test_warmup_is_per_step_whatever_the_period() -> None:
    schedule = coco_schedule(8)._replace(epoch_steps=600.0)
    assert learning_rate(500, schedule) == pytest.approx(0.006665)
    assert learning_rate(1100, schedule) == pytest.approx(0.01)  # the epoch that began at step 600, in the warm-up


def test_max_steps_cuts_a_recipe_without_moving_its_drops(compose) -> None:
    config = compose("+experiment=8x4_12ep", "data.root=/coco", "train.max_steps=3")
    plan = make_plan(config, num_images=117266)
    assert (plan.total_steps, plan.schedule.drop_steps) == (3, (29317, 36646))


def test_fractions_count_from_the_actual_end(compose) -> None:
    config = compose("+experiment=small", "data.root=/x", "train.max_steps=200")
    assert make_plan(config, num_images=10).schedule.drop_steps == (170,)


@pytest.mark.parametrize(
    ("total_steps", "text"),
    [
        (12_000, "0.00333 at step 0, 0.01 from step 1000, 0.001 from step 8000, 0.0001 from step 10000"),
        (
            9_000,
            "0.00333 at step 0, 0.01 from step 1000, 0.001 from step 8000; the run ends before the drop at step 10000",
        ),
        (
            501,
            "0.00333 at step 0, at most 0.006665 at step 500, of a full rate of 0.01: the warm-up "
            "(optimizer.warmup_steps=1000) is longer than the run",
        ),
    ],
)
def test_the_plan_says_what_the_rate_does(total_steps: int, text: str) -> None:
    assert describe_rates(coco_schedule(8), total_steps) == text
