"""The rules, compared with NumPy code written from the papers; options of the optimizer; the average of the weights."""

from collections.abc import Callable, Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_train.training.optimizer import Lars, NovoGrad, Optimizer, Rule, Sgd

RATES = (0.1, 0.2, 0.2, 0.05, 0.05)
DECAY = 0.01


def variable(value: np.ndarray, name: str = "kernel") -> keras.Variable:
    return keras.Variable(np.asarray(value, np.float32), name=name)


def run(optimizer: Optimizer, gradients: list[list[np.ndarray]], rates: tuple[float, ...] = RATES) -> None:
    @tf.function
    def apply(values: list[tf.Tensor], rate: tf.Tensor) -> tf.Tensor:
        return optimizer.apply(values, learning_rate=rate, is_finite=tf.constant(True))

    for step, rate in zip(gradients, rates, strict=True):
        apply([tf.constant(g, tf.float32) for g in step], tf.constant(rate))


def sgd_twin(w: np.ndarray, gradients: Iterator[np.ndarray]) -> np.ndarray:
    v = np.zeros_like(w)
    for g, rate in zip(gradients, RATES, strict=True):
        v = 0.9 * v + (g + DECAY * w)
        w = w - rate * v
    return w


def lars_twin(w: np.ndarray, gradients: Iterator[np.ndarray]) -> np.ndarray:
    """You, Gitman, Ginsburg 2017, algorithm 1."""
    v = np.zeros_like(w)
    for g, rate in zip(gradients, RATES, strict=True):
        local = 0.02 * np.linalg.norm(w) / (np.linalg.norm(g) + DECAY * np.linalg.norm(w))
        v = 0.9 * v + rate * local * (g + DECAY * w)
        w = w - v
    return w


def novograd_twin(w: np.ndarray, gradients: Iterator[np.ndarray]) -> np.ndarray:
    """Ginsburg et al. 2019, algorithm 1: in the first step v is |g|^2, and m has no earlier value."""
    v, m = None, np.zeros_like(w)
    for g, rate in zip(gradients, RATES, strict=True):
        square = float((g**2).sum())
        v = square if v is None else 0.98 * v + 0.02 * square
        m = 0.9 * m + (g / np.sqrt(v) + DECAY * w)
        w = w - rate * m
    return w


@pytest.mark.parametrize(
    ("rule", "twin"),
    [
        (Sgd(momentum=0.9), sgd_twin),
        (Lars(momentum=0.9, trust=0.02), lars_twin),
        (NovoGrad(beta_1=0.9, beta_2=0.98), novograd_twin),
    ],
    ids=["sgd", "lars", "novograd"],
)
def test_rule_equals_its_twin(rule: Rule, twin: Callable) -> None:
    rng = np.random.default_rng(0)
    starts = [rng.normal(size=(3, 4)), rng.normal(size=(5,)) * 10]
    gradients = [[rng.normal(size=w.shape) * 3 for w in starts] for _ in RATES]
    variables = [variable(w) for w in starts]
    run(Optimizer(variables, rule=rule, decayed=variables, weight_decay=DECAY, clip_norm=None), gradients)
    for index, (ours, start) in enumerate(zip(variables, starts, strict=True)):
        np.testing.assert_allclose(ours.numpy(), twin(start, [step[index] for step in gradients]), rtol=2e-5)


def test_lars_moves_a_bias_like_sgd() -> None:
    kernel, bias = variable([1.0]), variable([1.0], "bias")
    optimizer = Optimizer(
        [kernel, bias], rule=Lars(momentum=0.0, trust=0.5), decayed=[kernel], weight_decay=0.0, clip_norm=None
    )
    run(optimizer, [[np.array([4.0]), np.array([4.0])]], (0.1,))
    assert kernel.numpy()[0] == pytest.approx(1 - 0.1 * 0.5 * (1 / 4) * 4)
    assert bias.numpy()[0] == pytest.approx(1 - 0.1 * 4)


@pytest.mark.parametrize("rule", [Lars(momentum=0.9, trust=0.02), NovoGrad(beta_1=0.9, beta_2=0.98)])
def test_a_layer_without_gradient_or_weight_stays_finite(rule: Rule) -> None:
    still, empty = variable([1.0]), variable([0.0])
    optimizer = Optimizer([still, empty], rule=rule, decayed=[still, empty], weight_decay=0.0, clip_norm=None)
    run(optimizer, [[np.array([0.0]), np.array([0.0])], [np.array([0.0]), np.array([1.0])]], (0.1, 0.1))
    assert still.numpy()[0] == 1.0
    assert np.isfinite(empty.numpy()).all()


def test_biases_and_norms_have_options_of_their_own() -> None:
    kernel, bias, gamma = variable([10.0]), variable([10.0], "bias"), variable([10.0], "gamma")
    optimizer = Optimizer(
        [kernel, bias, gamma],
        rule=Sgd(momentum=0.0),
        decayed=[kernel],
        weight_decay=0.1,
        bias_decay=0.2,
        norm_decay=0.3,
        bias_rate_factor=2.0,
        clip_norm=None,
    )
    run(optimizer, [[np.zeros(1)] * 3], (0.5,))
    assert [v.numpy()[0] for v in (kernel, bias, gamma)] == pytest.approx(
        [10 - 0.5 * 1.0, 10 - 2 * 0.5 * 2.0, 10 - 0.5 * 3.0]
    )


def test_average_of_the_weights_by_hand() -> None:
    w = variable([1.0])
    optimizer = Optimizer([w], rule=Sgd(momentum=0.0), decayed=[], weight_decay=0.0, clip_norm=None, ema_decay=0.75)
    run(optimizer, [[np.array([4.0])], [np.array([4.0])]], (0.1, 0.1))
    # w: 0.6, 0.2; average: 0.75 + 0.25 * 0.6 = 0.9, then 0.675 + 0.05 = 0.725
    assert w.numpy()[0] == pytest.approx(0.2)
    optimizer.swap_average()
    assert w.numpy()[0] == pytest.approx(0.725)
    optimizer.swap_average()
    assert w.numpy()[0] == pytest.approx(0.2)


def test_average_begins_at_weights_that_were_filled_later() -> None:
    w = variable([1.0])
    optimizer = Optimizer([w], rule=Sgd(momentum=0.0), decayed=[], weight_decay=0.0, clip_norm=None, ema_decay=0.5)
    w.assign(np.array([8.0], np.float32))
    optimizer.start_average()
    optimizer.swap_average()
    assert w.numpy()[0] == 8.0
