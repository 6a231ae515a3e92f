"""Box head and mask head (Mask R-CNN, He et al. 2017, section 3; FPN, Lin et al. 2017, section 4.2).

Shapes: K RoIs of all images, P pooled edge, F pyramid channels, C classes with background.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from mrcnn_model.convolution import Conv, Dense, Upsample, he_normal_fan_out, normal


class BoxHeadOutput(NamedTuple):
    """What the box head says of every RoI."""

    logits: tf.Tensor  # float32 [K, C]
    deltas: tf.Tensor  # float32 [K, C, 4], background included, as the ancestor's


class BoxHead(keras.layers.Layer):
    """3x3 convolutions where asked for, two fully connected layers, then classes and class-specific boxes.

    Without convolutions it is the head of FPN; with four and group norm it is close to that of Wu and He 2018, which
    trains better from scratch.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        pool_size: int,
        num_convs: int,
        channels: int,
        num_classes: int,
        norm: str,
        gn_groups: int,
        dtype: keras.DTypePolicy,
    ) -> None:
        super().__init__(name="box_head", dtype=dtype)
        self.num_classes = num_classes
        self.convs = [
            Conv(
                in_channels=in_channels,
                out_channels=in_channels,
                kernel_size=3,
                relu=True,
                norm=norm,
                gn_groups=gn_groups,
                name=f"box_head.conv{index}",
                dtype=dtype,
            )
            for index in range(num_convs)
        ]
        self.fc1 = Dense(
            in_channels=pool_size * pool_size * in_channels,  # rows in (y, x, channel) order
            out_channels=channels,
            relu=True,
            name="box_head.fc1",
            dtype=dtype,
        )
        self.fc2 = Dense(in_channels=channels, out_channels=channels, relu=True, name="box_head.fc2", dtype=dtype)
        self.logits = Dense(
            in_channels=channels,
            out_channels=num_classes,
            initializer=normal(0.01),
            name="box_head.logits",
            dtype=dtype,
        )
        self.deltas = Dense(
            in_channels=channels,
            out_channels=4 * num_classes,  # class * 4 + coordinate
            initializer=normal(0.001),
            name="box_head.deltas",
            dtype=dtype,
        )

    def call(self, rois: tf.Tensor) -> BoxHeadOutput:
        """[K, P, P, F] -> logits and deltas."""
        for conv in self.convs:
            rois = conv(rois)
        pool_size, channels = rois.shape[1], rois.shape[3]
        hidden = self.fc2(self.fc1(tf.reshape(rois, [-1, pool_size * pool_size * channels])))
        deltas = tf.cast(self.deltas(hidden), tf.float32)
        return BoxHeadOutput(
            logits=tf.cast(self.logits(hidden), tf.float32), deltas=tf.reshape(deltas, [-1, self.num_classes, 4])
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
        norm: str,
        gn_groups: int,
        dtype: keras.DTypePolicy,
    ) -> None:
        super().__init__(name="mask_head", dtype=dtype)
        self.convs = [
            Conv(
                in_channels=in_channels if index == 0 else channels,
                out_channels=channels,
                kernel_size=3,
                relu=True,
                norm=norm,
                gn_groups=gn_groups,
                name=f"mask_head.conv{index}",
                dtype=dtype,
            )
            for index in range(num_convs)
        ]
        self.upsample = Upsample(
            in_channels=channels if num_convs else in_channels,
            out_channels=channels,
            name="mask_head.upsample",
            dtype=dtype,
        )
        # Not a 1x1 convolution over every class: only one class of a RoI is ever used, and a gather of that class's
        # kernel does 1 / (C - 1) of the work.
        self.logits = Conv(
            in_channels=channels,
            out_channels=num_classes - 1,
            kernel_size=1,
            initializer=he_normal_fan_out(),
            name="mask_head.logits",
            dtype=dtype,
        )

    def call(self, rois: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """Predict each RoI's mask for its class.

        Args:
            rois: [K, P, P, F].
            classes: int32 [K], 1..C-1 (0, background, is read as 1: mask it out afterwards).

        Returns:
            float32 logits [K, 2P, 2P].
        """
        for conv in self.convs:
            rois = conv(rois)
        features = self.upsample(rois)  # [K, 2P, 2P, channels]
        index = tf.maximum(classes, 1) - 1
        kernels = tf.gather(tf.transpose(self.logits.kernel.value[0, 0]), index)  # [K, channels]
        bias = tf.gather(self.logits.bias.value, index)  # [K]
        # A matrix-vector product per RoI: [K, (2P)^2, channels] x [K, channels, 1].
        size, channels = features.shape[1], features.shape[3]
        flat = tf.reshape(features, [-1, size * size, channels])
        logits = tf.matmul(flat, tf.cast(kernels, features.dtype)[:, :, tf.newaxis])
        return tf.cast(tf.reshape(logits, [-1, size, size]), tf.float32) + bias[:, tf.newaxis, tf.newaxis]
