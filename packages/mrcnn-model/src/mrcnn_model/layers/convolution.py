"""Convolution, dense and upsampling layers: variables in float32, arithmetic in the policy's compute type.

Every layer makes its variables in the constructor, under its dotted name, so a checkpoint key is
`<layer name>.<variable name>`. Shapes: N images, H x W positions, C channels.
"""

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

import keras
import tensorflow as tf

from mrcnn_model.layers.affine import affine
from mrcnn_model.layers.normalization import MOVING_MOMENTUM, Norm, batch_norm

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
            training: a gradient will be computed, and as little as possible is kept for it (`affine.py`). A
                synchronised batch norm uses the statistics of the batch and updates its moving averages.
        """
        x = tf.cast(x, self.compute_dtype)
        kind, after_relu = self.norm.kind, self.norm.after_relu
        if kind == "none" or after_relu:
            x = affine(self._convolve, x, _value(self.kernel), _value(self.bias), training=training)
        elif kind == "gn":
            x = affine(self._convolve, x, _value(self.kernel), training=training)
            return self._group_norm(x, relu=self.relu)
        elif kind == "sync_bn" and training:
            x = self._batch_norm(affine(self._convolve, x, _value(self.kernel), training=training))
        else:
            parameters = (self.kernel, self.gamma, self.beta, self.moving_mean, self.moving_variance)
            fold = partial(self.norm.fold_batch_norm, epsilon=self.norm.epsilon, dtype=self.compute_dtype)
            x = affine(self._convolve, x, *map(_value, parameters), prepare=fold, training=training)
        x = tf.nn.relu(x) if self.relu else x
        return self._group_norm(x) if kind == "gn" and after_relu else x

    def _convolve(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        if self.subsampling > 1:
            x = x[:, :: self.subsampling, :: self.subsampling]
        if not self.pads_itself:
            x = tf.pad(x, self.padding)
        padding = "SAME" if self.pads_itself else "VALID"
        kernel = tf.cast(kernel, self.compute_dtype)
        return tf.nn.conv2d(x, kernel, strides=self.stride // self.subsampling, padding=padding)

    def _group_norm(self, x: tf.Tensor, *, relu: bool = False) -> tf.Tensor:
        norm = self.norm
        scale, shift = _value(self.gamma), _value(self.beta)
        y: tf.Tensor = norm.group_norm(x, scale, shift, groups=norm.groups, epsilon=norm.epsilon, relu=relu)
        return y

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
    """Fully connected layer, optionally with ReLU.

    Args:
        in_channels, out_channels: C of input and output.
        float32_output: add the bias in float32 and return that.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        relu: bool = False,
        float32_output: bool = False,
        initializer: Initializer | None = None,
        name: str,
        dtype: keras.DTypePolicy,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.relu = relu
        self.output_dtype = tf.float32 if float32_output else self.compute_dtype
        self.kernel = self.variable("kernel", (in_channels, out_channels), initializer or scaled_fan_in())
        self.bias = self.variable("bias", (out_channels,), "zeros")

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Map [K, C_in] to [K, C] in the compute type or float32.

        Args:
            training: a gradient will be computed.
        """
        x = tf.cast(x, self.compute_dtype)
        x = affine(self._multiply, x, _value(self.kernel), _value(self.bias), training=training)
        return tf.nn.relu(x) if self.relu else x

    def _multiply(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.matmul(x, tf.cast(kernel, self.compute_dtype)), self.output_dtype)


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
        weights = (_value(self.kernel), _value(self.bias))
        taps = affine(self._multiply, flat, *weights, prepare=_side_by_side, training=training, weights_first=True)
        taps = tf.nn.relu(taps)
        return tf.reshape(taps, [-1, size, size, 4, channels])  # after ReLU: so TensorFlow fuses product, bias and ReLU

    def _multiply(self, flat: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.matmul(flat, tf.cast(kernel, self.compute_dtype))


def _side_by_side(kernel: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Turn the kernel [2, 2, C_in, C] into [C_in, 4 C], and the bias [C] into [4 C]."""
    in_channels, channels = kernel.shape[2], kernel.shape[3]
    return tf.reshape(tf.transpose(kernel, [2, 0, 1, 3]), [in_channels, 4 * channels]), tf.tile(bias, [4])


def joined_convolution(layers: Sequence[Conv], x: tf.Tensor, *, training: bool) -> list[tf.Tensor]:
    """Apply several 1x1 convolutions without a norm to `x` as one, so that `x` is read once.

    Returns:
        The result of each, float32: the bias is added in float32.
    """

    def convolve(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.cast(layers[0]._convolve(x, kernel), tf.float32)

    kernel = tf.concat([_value(layer.kernel) for layer in layers], axis=-1)
    bias = tf.concat([_value(layer.bias) for layer in layers], axis=0)
    joined = affine(convolve, x, kernel, bias, training=training)
    return tf.split(joined, [layer.kernel.shape[-1] for layer in layers], axis=-1)


def _value(variable: keras.Variable) -> tf.Tensor:
    return tf.convert_to_tensor(variable.value)
