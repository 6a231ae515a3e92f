"""One update: against hand-worked SGD, accumulated against batched, and with a loss that is not finite."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_data import Batch
from mrcnn_model import MaskRCNN, build_model
from mrcnn_train.config.values import model_config
from mrcnn_train.training.datasets import make_loader, open_train
from mrcnn_train.training.optimizer import Optimizer, Sgd
from mrcnn_train.training.step import TrainStep


def variables(*values: list[float]) -> list[keras.Variable]:
    return [keras.Variable(np.array(v, np.float32), name=f"v{i}") for i, v in enumerate(values)]


def momentum_sgd(values: list[keras.Variable], *, momentum: float = 0.9, **options) -> Optimizer:
    options = {"decayed": [], "weight_decay": 0.0, "clip_norm": None} | options
    return Optimizer(values, rule=Sgd(momentum=momentum), **options)


def apply(optimizer: Optimizer, *gradients: list[float], rate: float = 0.1, is_finite: bool = True) -> float:
    tensors = [tf.constant(g, tf.float32) for g in gradients]
    return float(optimizer.apply(tensors, learning_rate=tf.constant(rate), is_finite=tf.constant(is_finite)))


def test_two_steps_by_hand() -> None:
    # v1 = 2, w = 1 - 0.1 * 2 = 0.8; v2 = 0.9 * 2 + 1 = 2.8, w = 0.8 - 0.1 * 2.8 = 0.52
    (w,) = variables([1.0])
    optimizer = momentum_sgd([w], weight_decay=0.5)
    assert apply(optimizer, [2.0]) == pytest.approx(2.0)
    assert w.numpy() == pytest.approx(0.8)
    apply(optimizer, [1.0])
    assert w.numpy() == pytest.approx(0.52)
    assert optimizer.slots["momentum"][0].numpy() == pytest.approx(2.8)


def test_weight_decay_reaches_kernels_only() -> None:
    kernel, bias = variables([10.0], [10.0])
    optimizer = momentum_sgd([kernel, bias], decayed=[kernel], momentum=0.0, weight_decay=0.5)
    apply(optimizer, [0.0], [0.0])
    assert kernel.numpy() == pytest.approx(10 - 0.1 * 5)
    assert bias.numpy() == pytest.approx(10)


@pytest.mark.parametrize(("clip_norm", "moved"), [(5.0, [3.0, 4.0]), (1.0, [0.6, 0.8]), (None, [3.0, 4.0])])
def test_clipping_by_the_norm_of_all_gradients(clip_norm: float | None, moved: list[float]) -> None:
    a, b = variables([0.0], [0.0])
    optimizer = momentum_sgd([a, b], momentum=0.0, clip_norm=clip_norm)
    assert apply(optimizer, [-3.0], [-4.0], rate=1.0) == pytest.approx(5.0)  # the norm before clipping
    assert [a.numpy()[0], b.numpy()[0]] == pytest.approx(moved)


@pytest.mark.parametrize(("gradient", "is_finite"), [(1.0, False), (np.nan, True), (np.inf, True)])
def test_what_is_not_finite_changes_nothing(gradient: float, is_finite: bool) -> None:
    (w,) = variables([1.0])
    optimizer = momentum_sgd([w], clip_norm=1.0)
    apply(optimizer, [gradient], is_finite=is_finite)
    assert w.numpy() == 1.0
    assert optimizer.slots["momentum"][0].numpy() == 0.0


# The network


def tiny_model(config) -> MaskRCNN:
    keras.utils.set_random_seed(3)
    return build_model(model_config(config.model, num_classes=7))


def sgd(model: MaskRCNN) -> Optimizer:
    return momentum_sgd(model.trainable_variables, decayed=model.decayed_variables, weight_decay=1e-4, clip_norm=5.0)


def first_batches(config, count: int) -> list[Batch]:
    with make_loader(config.data, config.train, open_train(config.data)) as loader:
        steps = loader.steps()
        return [batch for _ in range(count) for batch in next(steps)]


def joined(batches: list[Batch]) -> Batch:
    return Batch(
        *(
            [image_id for ids in values for image_id in ids] if name == "image_ids" else np.concatenate(values)
            for name, values in zip(Batch._fields, zip(*batches, strict=True), strict=True)
        )
    )


def test_two_accumulated_batches_equal_one_of_both(tiny) -> None:
    config = tiny()
    batches = first_batches(config, 4)  # of 2 images each, for two updates
    accumulating, batched = tiny_model(config), tiny_model(config)
    by_two = TrainStep(accumulating, sgd(accumulating), micro_batches=2)
    at_once = TrainStep(batched, sgd(batched), micro_batches=1)
    for pair in (batches[:2], batches[2:]):
        expected = at_once([joined(pair)], 0.01)
        actual = by_two(pair, 0.01)
        actual, expected = actual.scalars(), expected.scalars()
        assert actual.keys() == expected.keys()
        # Not the model's counts of proposals and RoIs: they are means over other groups, and shares are not additive.
        for name in ("rpn_class", "rpn_box", "box_class", "box_reg", "mask", "total", "gradient_norm"):
            assert actual[name] == pytest.approx(expected[name], rel=1e-4), name
    fresh = tiny_model(config)
    for one, other, start in zip(accumulating.variables, batched.variables, fresh.variables, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=2e-5, err_msg=one.path)
        if one.name == "kernel":
            assert not np.array_equal(one.numpy(), start.numpy()), f"{one.path} did not train"
    assert (by_two.num_traces, at_once.num_traces) == (1, 1)


def test_weights_survive_what_is_not_finite(tiny) -> None:
    """In the loss, or only in the gradient: oneDNN's ReLU after a convolution turns NaN into 0."""
    config = tiny()
    model = tiny_model(config)
    step, batches = TrainStep(model, sgd(model), micro_batches=1), first_batches(config, 1)
    for path, shown_by in (
        ("mask_head.logits/kernel", ["total", "gradient_norm"]),
        ("mask_head.conv0/kernel", ["gradient_norm"]),
    ):
        (kernel,) = (v for v in model.trainable_variables if v.path == path)
        good = kernel.numpy()
        kernel.assign(np.full(kernel.shape, np.nan))
        spoilt = [v.numpy() for v in model.variables]
        numbers = step(batches, 0.01).scalars()
        assert not any(np.isfinite(numbers[name]) for name in shown_by), path
        assert np.isfinite(numbers["rpn_class"])
        for variable, value in zip(model.variables, spoilt, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)
        kernel.assign(good)
    assert np.isfinite(list(step(batches, 0.01).scalars().values())).all()
