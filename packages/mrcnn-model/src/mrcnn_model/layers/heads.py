"""Box head and mask head (Mask R-CNN, He et al. 2017, section 3; FPN, Lin et al. 2017, section 4.2).

Shapes: K RoIs of all images, P pooled edge, F pyramid channels, C classes with background, B boxes of a RoI (C, or 1 if
all classes share one).
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from mrcnn_model.layers.convolution import Conv, Dense, Upsample, he_normal_fan_out, normal
from mrcnn_model.layers.normalization import Norm


class BoxHeadOutput(NamedTuple):
    """The output of the box head for every RoI."""

    logits: tf.Tensor  # float32 [K, C]
    deltas: tf.Tensor  # float32 [K, B, 4]; B = C includes the background, as in Tensorpack


class BoxHead(keras.layers.Layer):
    """Optional 3x3 convolutions, fully connected layers, then classes and boxes.

    FPN's head is two fully connected layers. That of Wu and He 2018, which trains better from scratch, is four
    convolutions with group norm and one fully connected layer.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        pool_size: int,
        num_convs: int,
        num_fcs: int,
        channels: int,
        num_classes: int,
        class_agnostic: bool,
        norm: Norm,
        name: str,
        dtype: keras.DTypePolicy,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.convs = _convolutions(num_convs, in_channels=in_channels, channels=in_channels, norm=norm, parent=self)
        flat = pool_size * pool_size * in_channels  # rows of fc1 in (y, x, channel) order
        self.fcs = [
            Dense(
                in_channels=flat if index == 0 else channels,
                out_channels=channels,
                relu=True,
                name=f"{name}.fc{index + 1}",
                dtype=dtype,
            )
            for index in range(num_fcs)
        ]
        self.logits = Dense(
            in_channels=channels,
            out_channels=num_classes,
            float32_output=True,
            initializer=normal(0.01),
            name=f"{name}.logits",
            dtype=dtype,
        )
        self.num_boxes = 1 if class_agnostic else num_classes
        self.deltas = Dense(
            in_channels=channels,
            out_channels=4 * self.num_boxes,  # class * 4 + coordinate
            float32_output=True,
            initializer=normal(0.001),
            name=f"{name}.deltas",
            dtype=dtype,
        )

    def call(self, rois: tf.Tensor, training: bool = False) -> BoxHeadOutput:
        """Map pooled RoIs [K, P, P, F] to logits and deltas."""
        for conv in self.convs:
            rois = conv(rois, training=training)
        pool_size, channels = rois.shape[1], rois.shape[3]
        hidden = tf.reshape(rois, [-1, pool_size * pool_size * channels])
        for fc in self.fcs:
            hidden = fc(hidden, training=training)
        deltas = self.deltas(hidden, training=training)
        return BoxHeadOutput(
            logits=self.logits(hidden, training=training), deltas=tf.reshape(deltas, [-1, self.num_boxes, 4])
        )


class MaskHead(keras.layers.Layer):
    """3x3 convolutions, a 2x2 upsampling, and one mask per foreground class."""

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        num_convs: int,
        num_classes: int,
        norm: Norm,
        dtype: keras.DTypePolicy,
    ) -> None:
        super().__init__(name="mask_head", dtype=dtype)
        self.convs = _convolutions(num_convs, in_channels=in_channels, channels=channels, norm=norm, parent=self)
        self.upsample = Upsample(
            in_channels=channels if num_convs else in_channels,
            out_channels=channels,
            name="mask_head.upsample",
            dtype=dtype,
        )
        # `call` does not run this as a 1x1 convolution over all classes: only one class of a RoI is used, and gathering
        # the kernel of that class takes 1 / (C - 1) of the work.
        self.logits = Conv(
            in_channels=channels,
            out_channels=num_classes - 1,
            kernel_size=1,
            initializer=he_normal_fan_out(),
            name="mask_head.logits",
            dtype=dtype,
        )

    def call(self, rois: tf.Tensor, classes: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Predict each RoI's mask for its class.

        Args:
            rois: [K, P, P, F].
            classes: int64 [K], 1..C-1.
            training: a gradient will be computed.

        Returns:
            float32 logits [K, 2P, 2P].
        """
        for conv in self.convs:
            rois = conv(rois, training=training)
        features = self.upsample(rois, training=training)  # [K, P, P, 4, channels]
        index = classes - 1
        kernels = tf.gather(tf.transpose(self.logits.kernel.value[0, 0]), index)  # [K, channels]
        bias = tf.gather(self.logits.bias.value, index)  # [K]
        # A matrix-vector product per RoI: [K, P * P * 4, channels] x [K, channels, 1].
        size, channels = features.shape[1], features.shape[4]
        flat = tf.reshape(features, [-1, size * size * 4, channels])
        logits = tf.matmul(flat, tf.cast(kernels, features.dtype)[:, :, tf.newaxis])
        logits = tf.nn.depth_to_space(tf.reshape(logits, [-1, size, size, 4]), 2)[..., 0]
        return tf.cast(logits, tf.float32) + bias[:, tf.newaxis, tf.newaxis]


def _convolutions(count: int, *, in_channels: int, channels: int, norm: Norm, parent: keras.layers.Layer) -> list[Conv]:
    """Make 3x3 convolutions with ReLU, named PARENT.conv0, PARENT.conv1, ..."""
    return [
        Conv(
            in_channels=in_channels if index == 0 else channels,
            out_channels=channels,
            kernel_size=3,
            relu=True,
            norm=norm,
            name=f"{parent.name}.conv{index}",
            dtype=parent.dtype_policy,
        )
        for index in range(count)
    ]
