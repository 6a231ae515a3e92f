"""Convolution, dense and upsampling layers: variables in float32, arithmetic in the policy's compute type.

Every layer makes its variables in the constructor, under its dotted name, so a checkpoint key is
`<layer name>.<variable name>`. Shapes: N images, H x W positions, C channels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import keras
import tensorflow as tf

from mrcnn_model.layers.normalization import MOVING_MOMENTUM, Norm, batch_norm, fold_batch_norm, group_norm

Initializer: TypeAlias = keras.initializers.Initializer


def he_normal_fan_out() -> Initializer:
    """Return the initializer of backbone and mask head: He et al. 2015 by fan-out, as in Tensorpack."""
    return keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal")


def scaled_fan_in() -> Initializer:
    """Return the initializer of pyramid and fully connected layers: variance 1 / fan-in, as in Tensorpack."""
    return keras.initializers.VarianceScaling(1.0, mode="fan_in", distribution="truncated_normal")


def normal(stddev: float) -> Initializer:
    return keras.initializers.RandomNormal(stddev=stddev)


class LeafLayer(keras.layers.Layer):
    """A layer with variables, which its constructor makes by `variable`."""

    def __init__(self, *, name: str, dtype: keras.DTypePolicy, trainable: bool = True) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.built = True  # the variables are made in the constructor; there is no deferred build

    def variable(
        self, name: str, shape: tuple[int, ...], initializer: str | Initializer, **kwargs: bool
    ) -> keras.Variable:
        # autocast=False: batch norm is folded in float32, and casting happens once, at the convolution.
        return self.add_weight(
            shape=shape, initializer=initializer, name=name, dtype=self.variable_dtype, autocast=False, **kwargs
        )


NO_NORM = Norm()


class Conv(LeafLayer):
    """Convolution with a bias or a norm, and optionally ReLU.

    Args:
        in_channels, out_channels: C of input and output.
        kernel_size: edge of the kernel.
        stride: of both axes, 1 or 2.
        symmetric_padding: at stride 2 too, pad k // 2 zeros on every side. Otherwise, as in Tensorpack's "align
            padding", there is one zero less after than before: (3, 2) for the stem and (1, 0) for a 3x3.
        norm: the norm that follows.
        zero_scale: start the norm's scale at 0, so that a residual block starts as the identity.
        trainable: if False, the variables are constants.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        symmetric_padding: bool = False,
        norm: Norm = NO_NORM,
        relu: bool = False,
        initializer: Initializer | None = None,
        zero_scale: bool = False,
        trainable: bool = True,
        name: str,
        dtype: keras.DTypePolicy,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        before = kernel_size // 2
        after = before if stride == 1 or symmetric_padding else max(before - 1, 0)
        self.padding = [[0, 0], [before, after], [before, after], [0, 0]]
        # Explicit padding is avoided: with it, TensorFlow 2.21 computes the gradients on a CPU without oneDNN. Forward
        # and backward of R50-FPN, 2 x 320 x 480, 128 mask RoIs an image, two busy cores: 8.6 s with it, 6.9 s without.
        self.pads_itself = stride == 1 or kernel_size == 1  # kernels are odd: "SAME" pads the same
        # A 1x1 of stride 2 is avoided too: in TensorFlow 2.21 oneDNN's gradient of its kernel writes beyond its memory
        # (AVX-512, 8 to 16 channels: "double free or corruption"). Every other pixel is taken first; then stride 1.
        self.stride = stride
        self.subsampling = stride if kernel_size == 1 else 1
        self.norm = norm
        self.relu = relu
        self.kernel = self.variable(
            "kernel", (kernel_size, kernel_size, in_channels, out_channels), initializer or he_normal_fan_out()
        )
        if norm.kind == "none" or norm.after_relu:
            self.bias = self.variable("bias", (out_channels,), "zeros")
        if norm.kind == "none":
            return
        affine = {"trainable": not norm.freeze_affine}
        self.gamma = self.variable("gamma", (out_channels,), "zeros" if zero_scale else "ones", **affine)
        self.beta = self.variable("beta", (out_channels,), "zeros", **affine)
        if norm.kind in ("frozen_bn", "sync_bn"):
            self.moving_mean = self.variable("moving_mean", (out_channels,), "zeros", trainable=False)
            self.moving_variance = self.variable("moving_variance", (out_channels,), "ones", trainable=False)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Map [N, H, W, C_in] to [N, H', W', C] in the compute type.

        Args:
            training: a gradient will be computed, and as little as possible is kept for it (`recomputed`). A
                synchronised batch norm uses the statistics of the batch and updates its moving averages.
        """
        x = tf.cast(x, self.compute_dtype)
        kind, after_relu = self.norm.kind, self.norm.after_relu
        run = recomputed if training else _apply
        if kind == "gn" and after_relu:
            x = run(self._convolve, x, _value(self.kernel), _value(self.bias))
            return self._group_norm(tf.nn.relu(x) if self.relu else x)
        if kind == "gn":
            x = self._group_norm(run(self._convolve, x, _value(self.kernel)))
        elif kind == "sync_bn" and training:
            x = self._batch_norm(run(self._convolve, x, _value(self.kernel)))
        elif kind == "none":
            x = run(self._convolve, x, _value(self.kernel), _value(self.bias))
        else:
            parameters = (self.kernel, self.gamma, self.beta, self.moving_mean, self.moving_variance)
            x = run(self._convolve_folded, x, *map(_value, parameters))
        return tf.nn.relu(x) if self.relu else x

    def _convolve(self, x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None = None) -> tf.Tensor:
        if self.subsampling > 1:
            x = x[:, :: self.subsampling, :: self.subsampling]
        if not self.pads_itself:
            x = tf.pad(x, self.padding)
        padding = "SAME" if self.pads_itself else "VALID"
        x = tf.nn.conv2d(
            x, tf.cast(kernel, self.compute_dtype), strides=self.stride // self.subsampling, padding=padding
        )
        return x if bias is None else tf.nn.bias_add(x, tf.cast(bias, self.compute_dtype))

    def _convolve_folded(self, x: tf.Tensor, kernel: tf.Tensor, *parameters: tf.Tensor) -> tf.Tensor:
        gamma, beta, mean, variance = parameters
        kernel, bias = fold_batch_norm(
            kernel, gamma=gamma, beta=beta, mean=mean, variance=variance, epsilon=self.norm.epsilon
        )
        return self._convolve(x, kernel, bias)

    def _group_norm(self, x: tf.Tensor) -> tf.Tensor:
        return group_norm(x, _value(self.gamma), _value(self.beta), groups=self.norm.groups, epsilon=self.norm.epsilon)

    def _batch_norm(self, x: tf.Tensor) -> tf.Tensor:
        y, mean, variance = batch_norm(
            x,
            _value(self.gamma),
            _value(self.beta),
            mean_over_processes=self.norm.mean_over_processes,
            epsilon=self.norm.epsilon,
        )
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(MOVING_MOMENTUM * _value(moving) + (1 - MOVING_MOMENTUM) * batch)
        return y


class Dense(LeafLayer):
    """Fully connected layer, optionally with ReLU."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        relu: bool = False,
        initializer: Initializer | None = None,
        name: str,
        dtype: keras.DTypePolicy,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.relu = relu
        self.kernel = self.variable("kernel", (in_channels, out_channels), initializer or scaled_fan_in())
        self.bias = self.variable("bias", (out_channels,), "zeros")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Map [K, C_in] to [K, C] in the compute type."""
        x = tf.matmul(tf.cast(x, self.compute_dtype), tf.cast(_value(self.kernel), self.compute_dtype))
        x = tf.nn.bias_add(x, tf.cast(_value(self.bias), self.compute_dtype))
        return tf.nn.relu(x) if self.relu else x


class Upsample(LeafLayer):
    """2x2 transposed convolution of stride 2, then ReLU.

    The four taps never overlap, so it is one matrix product, which is faster than conv2d_transpose and has no special
    case for an empty batch. The taps stay side by side: the next layer works position by position and has one output
    channel instead of 256, so `tf.nn.depth_to_space` costs less after it.
    """

    def __init__(self, *, in_channels: int, out_channels: int, name: str, dtype: keras.DTypePolicy) -> None:
        super().__init__(name=name, dtype=dtype)
        # [kh, kw, C_in, C]: output pixel (2y + i, 2x + j) is input pixel (y, x) times kernel[i, j].
        # As in Tensorpack: variance 2 / (4 C), the fan-out of the kernel as a convolution.
        self.kernel = self.variable("kernel", (2, 2, in_channels, out_channels), he_normal_fan_out())
        self.bias = self.variable("bias", (out_channels,), "zeros")

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Map [K, P, P, C_in] to [K, P, P, 4, C] in the compute type; index 2i + j is output pixel (2y + i, 2x + j).

        Args:
            training: a gradient will be computed.
        """
        size, channels = x.shape[1], self.kernel.shape[3]
        flat = tf.reshape(tf.cast(x, self.compute_dtype), [-1, self.kernel.shape[2]])  # [K*P*P, C_in]
        run = partial(recomputed, weights_first=True) if training else _apply
        taps = tf.nn.relu(run(self._multiply, flat, _value(self.kernel), _value(self.bias)))
        return tf.reshape(taps, [-1, size, size, 4, channels])  # after ReLU: so TensorFlow fuses product, bias and ReLU

    def _multiply(self, flat: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        kernel = tf.cast(kernel, self.compute_dtype)
        in_channels, channels = kernel.shape[2], kernel.shape[3]
        taps = tf.matmul(flat, tf.reshape(tf.transpose(kernel, [2, 0, 1, 3]), [in_channels, 4 * channels]))
        return tf.nn.bias_add(taps, tf.tile(tf.cast(bias, self.compute_dtype), [4]))


def joined_convolution(layers: Sequence[Conv], x: tf.Tensor) -> list[tf.Tensor]:
    """Apply several 1x1 convolutions without a norm to `x` as one, so that `x` is read once; return each result."""
    kernel = tf.concat([_value(layer.kernel) for layer in layers], axis=-1)
    bias = tf.concat([_value(layer.bias) for layer in layers], axis=0)
    joined = layers[0]._convolve(x, kernel, bias)
    return tf.split(joined, [layer.kernel.shape[-1] for layer in layers], axis=-1)


def recomputed(
    function: Callable[..., tf.Tensor], x: tf.Tensor, *weights: tf.Tensor, weights_first: bool = False
) -> tf.Tensor:
    """Return `function(x, *weights)`; for its backward pass only the arguments are kept.

    Intermediate values, such as a padded input or a folded kernel, are computed again in the backward pass. That saves
    175 MB in a training step of R50-FPN at 800 x 1216. The convolution or product at the end does not run again in a
    graph: its gradient does not need its result, and TensorFlow removes ops without a use. For training only:
    TensorFlow keeps a graph with a custom gradient until the process ends, and tracing takes 1.5 times as long.

    Args:
        function: takes tensors and reads no variable.
        x: the activations.
        weights: the other arguments.
        weights_first: compute the gradient of `x` after those of the weights, each of which must have one. Otherwise
            TensorFlow may first compute the gradients of earlier layers, and keep `x` and the incoming gradient for
            later. This helps if they are large. For all convolutions it made the step 6 % slower on two cores, because
            two gradients then no longer overlap.
    """

    @tf.custom_gradient
    def run(*arguments: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        def gradient(dy: tf.Tensor) -> list[tf.Tensor]:
            # After `dy`: otherwise TensorFlow would compute it at once, or merge it with the forward pass.
            with tf.control_dependencies([dy]), tf.GradientTape(persistent=weights_first) as tape:
                again = [tf.identity(argument) for argument in arguments]
                tape.watch(again)
                y = function(*again)
            if not weights_first:
                return tape.gradient(y, again, dy)
            of_weights = tape.gradient(y, again[1:], dy)
            with tf.control_dependencies(of_weights):
                return [tape.gradient(y, again[0], dy), *of_weights]

        return function(*arguments), gradient

    return run(x, *weights)


def _apply(function: Callable[..., tf.Tensor], *arguments: tf.Tensor) -> tf.Tensor:
    return function(*arguments)


def _value(variable: keras.Variable) -> tf.Tensor:
    return tf.convert_to_tensor(variable.value)
