"""Convolution, dense and upsampling layers: variables in float32, arithmetic in the policy's compute type.

Every leaf layer makes its variables in the constructor, under its dotted name, so a checkpoint key is
`<layer name>.<variable name>`. Shapes: N images, H x W positions, C channels.
"""

from typing import TypeAlias

import keras
import tensorflow as tf

from mrcnn_model.normalization import fold_batch_norm, group_norm

Initializer: TypeAlias = keras.initializers.Initializer


def he_normal_fan_out() -> Initializer:
    """He et al. 2015, counted over outputs, as the ancestor's backbone and mask head."""
    return keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal")


def scaled_fan_in() -> Initializer:
    """Variance 1 / fan-in, as the ancestor's pyramid and fully connected layers."""
    return keras.initializers.VarianceScaling(1.0, mode="fan_in", distribution="truncated_normal")


def normal(stddev: float) -> Initializer:
    return keras.initializers.RandomNormal(stddev=stddev)


class LeafLayer(keras.layers.Layer):
    """A layer that owns variables, made at once by `variable`."""

    def __init__(self, *, name: str, dtype: keras.DTypePolicy, trainable: bool = True) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.built = True  # the variables are made in the constructor; there is no deferred build

    def variable(
        self, name: str, shape: tuple[int, ...], initializer: str | Initializer, **kwargs: bool
    ) -> keras.Variable:
        # autocast=False: batch norm is folded in float32, and casting happens once, where the convolution is.
        return self.add_weight(
            shape=shape, initializer=initializer, name=name, dtype="float32", autocast=False, **kwargs
        )


class Conv(LeafLayer):
    """Convolution, with bias or a norm, and ReLU where asked for.

    Args:
        in_channels, out_channels: C of input and output.
        kernel_size: edge of the kernel.
        stride: of both axes.
        padding: zeros (before, after) on both axes; (k // 2, k // 2) keeps the size at stride 1. Align padding puts
            the odd zero before: (3, 2) for the stem, (1, 0) for a 3x3 of stride 2.
        norm: "none" (bias instead), "frozen_bn" (folded) or "gn".
        gn_groups: groups of "gn".
        zero_scale: start the norm's scale at 0, so that a residual block starts as the identity.
        trainable: False makes constants of the variables.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: tuple[int, int] | None = None,
        norm: str = "none",
        gn_groups: int = 32,
        relu: bool = False,
        initializer: Initializer | None = None,
        zero_scale: bool = False,
        trainable: bool = True,
        name: str,
        dtype: keras.DTypePolicy,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        before, after = (kernel_size // 2, kernel_size // 2) if padding is None else padding
        self.padding = [[0, 0], [before, after], [before, after], [0, 0]]
        self.stride = stride
        self.norm = norm
        self.gn_groups = gn_groups
        self.relu = relu
        self.kernel = self.variable(
            "kernel", (kernel_size, kernel_size, in_channels, out_channels), initializer or he_normal_fan_out()
        )
        if norm == "none":
            self.bias = self.variable("bias", (out_channels,), "zeros")
            return
        self.gamma = self.variable("gamma", (out_channels,), "zeros" if zero_scale else "ones")
        self.beta = self.variable("beta", (out_channels,), "zeros")
        if norm == "frozen_bn":
            self.moving_mean = self.variable("moving_mean", (out_channels,), "zeros", trainable=False)
            self.moving_variance = self.variable("moving_variance", (out_channels,), "ones", trainable=False)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[N, H, W, C_in] -> [N, H', W', C] in the compute type."""
        kernel, bias = self._kernel_and_bias()
        x = tf.cast(x, self.compute_dtype)
        x = tf.nn.conv2d(x, tf.cast(kernel, self.compute_dtype), strides=self.stride, padding=self.padding)
        if self.norm == "gn":
            x = group_norm(x, _value(self.gamma), _value(self.beta), groups=self.gn_groups)
        else:
            x = tf.nn.bias_add(x, tf.cast(bias, self.compute_dtype))
        return tf.nn.relu(x) if self.relu else x

    def _kernel_and_bias(self) -> tuple[tf.Tensor, tf.Tensor | None]:
        kernel = _value(self.kernel)
        if self.norm == "frozen_bn":
            return fold_batch_norm(
                kernel,
                gamma=_value(self.gamma),
                beta=_value(self.beta),
                mean=_value(self.moving_mean),
                variance=_value(self.moving_variance),
            )
        return kernel, _value(self.bias) if self.norm == "none" else None


class Dense(LeafLayer):
    """Fully connected layer, with ReLU where asked for."""

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
        """[K, C_in] -> [K, C] in the compute type."""
        x = tf.matmul(tf.cast(x, self.compute_dtype), tf.cast(_value(self.kernel), self.compute_dtype))
        x = tf.nn.bias_add(x, tf.cast(_value(self.bias), self.compute_dtype))
        return tf.nn.relu(x) if self.relu else x


class Upsample(LeafLayer):
    """2x2 transposed convolution of stride 2, then ReLU.

    The four taps never overlap, so it is one matrix product and a shuffle, which is faster than conv2d_transpose and
    has no special case for an empty batch.
    """

    def __init__(self, *, in_channels: int, out_channels: int, name: str, dtype: keras.DTypePolicy) -> None:
        super().__init__(name=name, dtype=dtype)
        # [kh, kw, C_in, C]: output pixel (2y + i, 2x + j) is input pixel (y, x) times kernel[i, j].
        # Spread as the ancestor's: variance 2 / (4 C) over the kernel seen as a convolution (fan-out).
        self.kernel = self.variable("kernel", (2, 2, in_channels, out_channels), he_normal_fan_out())
        self.bias = self.variable("bias", (out_channels,), "zeros")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[K, P, P, C_in] -> [K, 2P, 2P, C] in the compute type."""
        kernel = tf.cast(_value(self.kernel), self.compute_dtype)
        in_channels, channels = kernel.shape[2], kernel.shape[3]
        size = x.shape[1]
        flat = tf.reshape(tf.cast(x, self.compute_dtype), [-1, in_channels])  # [K*P*P, C_in]
        taps = tf.matmul(flat, tf.reshape(tf.transpose(kernel, [2, 0, 1, 3]), [in_channels, 4 * channels]))
        taps = tf.reshape(taps, [-1, size, size, 4 * channels])
        x = tf.nn.depth_to_space(taps, 2)  # [K, 2P, 2P, C]
        return tf.nn.relu(tf.nn.bias_add(x, tf.cast(_value(self.bias), self.compute_dtype)))


def _value(variable: keras.Variable) -> tf.Tensor:
    return tf.convert_to_tensor(variable.value)
