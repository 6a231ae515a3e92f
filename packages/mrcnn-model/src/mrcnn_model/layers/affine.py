"""A linear map and a bias, with a gradient that is summed in float32 and keeps little for the backward pass.

Shapes: ... positions of all images or RoIs, C channels.
"""

from collections.abc import Callable
from typing import TypeAlias

import tensorflow as tf

BLOCK = 256  # positions of which half precision stores the sum; the sums of blocks are added in float32
SHORTEST_BLOCK, FEWEST_POSITIONS = 16, 4096  # with less, casting to float32 first is as fast, and exact

Linear: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
Prepare: TypeAlias = Callable[..., tuple[tf.Tensor, tf.Tensor | None]]


def as_given(kernel: tf.Tensor, bias: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Return kernel and bias: the `prepare` of layers whose weights these are."""
    return kernel, bias


def affine(
    linear: Linear,
    x: tf.Tensor,
    *weights: tf.Tensor,
    prepare: Prepare = as_given,
    training: bool = True,
    weights_first: bool = False,
) -> tf.Tensor:
    """Return `linear(x, kernel) + bias`, where `kernel, bias = prepare(*weights)`.

    In training, only the arguments are kept for the backward pass. Intermediate values, such as a padded input or a
    folded kernel, are computed again there. That saves 175 MB in a training step of R50-FPN at 800 x 1216. The
    convolution or product itself does not run again in a graph: its gradient does not need its result, and TensorFlow
    removes ops without a use. For training only: TensorFlow keeps a graph with a custom gradient until the process
    ends, and tracing takes 1.5 times as long.

    Args:
        linear: a linear function of its first argument [..., C_in] that returns [..., C] and reads no variable.
        x: the activations.
        weights: float32.
        prepare: returns kernel and bias [C] in float32, or None for no bias.
        training: a gradient will be computed. Otherwise that of the bias may be wrong in half precision.
        weights_first: compute the gradient of `x` after those of the weights. Otherwise TensorFlow may first compute
            the gradients of earlier layers, and keep `x` and the incoming gradient for later. This helps if they are
            large. For all convolutions it made the step 6 % slower on two cores, because two gradients then no longer
            overlap.
    """

    @tf.custom_gradient
    def run(x: tf.Tensor, *weights: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        def gradient(dy: tf.Tensor) -> list[tf.Tensor]:
            # After `dy`: otherwise TensorFlow would compute it at once, or merge it with the forward pass.
            with tf.control_dependencies([dy]), tf.GradientTape(persistent=weights_first) as tape:
                again = [tf.identity(argument) for argument in (x, *weights)]
                tape.watch(again)
                kernel, bias = prepare(*again[1:])
                y = linear(again[0], kernel)
                outputs, gradients = ([y], [dy]) if bias is None else ([y, bias], [dy, sum_positions(dy)])
            if not weights_first:
                return tape.gradient(outputs, again, gradients)
            of_weights = tape.gradient(outputs, again[1:], gradients)
            with tf.control_dependencies(of_weights):
                return [tape.gradient(y, again[0], dy), *of_weights]

        return _forward(linear, x, *prepare(*weights)), gradient

    return run(x, *weights) if training else _forward(linear, x, *prepare(*weights))


def _forward(linear: Linear, x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    y = linear(x, kernel)
    return y if bias is None else tf.nn.bias_add(y, tf.cast(bias, y.dtype))


def sum_positions(x: tf.Tensor) -> tf.Tensor:
    """Sum [..., C] over all axes but the last: float32 [C].

    This is the gradient of a bias. In TensorFlow 2.21 neither BiasAddGrad nor Sum will do. BiasAddGrad adds bfloat16
    numbers in bfloat16 on a CPU, where a sum stops growing at 256 times a number, and in 16-bit atomics on a GPU; Sum
    adds float16 numbers in float16. A product with ones adds in float32 everywhere. It is made of short blocks, of
    which only the sums are rounded: cuBLAS may split a long one into parts that it adds in half precision.
    On two Zen 5 cores in bfloat16, [25088, 1024] takes 5 ms, by BiasAddGrad 14 ms.
    """
    if x.dtype in (tf.float16, tf.bfloat16):
        block = _block_length(x.shape[:-1].num_elements())
        if block:
            x = tf.matmul(tf.ones([1, block], x.dtype), tf.reshape(x, [-1, block, x.shape[-1]]))  # [blocks, 1, C]
        x = tf.cast(x, tf.float32)
    return tf.cast(tf.raw_ops.BiasAddGrad(out_backprop=x), tf.float32)


def _block_length(num_positions: int | None) -> int | None:
    """Return the largest divisor up to `BLOCK`; None if the sum should be one of float32 numbers."""
    if num_positions is None or num_positions < FEWEST_POSITIONS:
        return None
    longest = max(length for length in range(1, BLOCK + 1) if num_positions % length == 0)
    return longest if longest >= SHORTEST_BLOCK else None
