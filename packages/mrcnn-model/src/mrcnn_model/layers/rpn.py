"""Region proposal network (Ren et al. 2015; over a pyramid, Lin et al. 2017 section 4.1).

Shapes: N images, A anchors over all levels, F pyramid channels.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from mrcnn_model.layers.convolution import Conv, joined_convolution, normal
from mrcnn_model.structures import RpnOutput


class RpnHead(keras.layers.Layer):
    """One 3x3 convolution and two 1x1, shared by the levels."""

    def __init__(self, *, in_channels: int, channels: int, num_anchors: int, dtype: keras.DTypePolicy) -> None:
        super().__init__(name="rpn", dtype=dtype)
        options = {"initializer": normal(0.01), "dtype": dtype}
        self.conv = Conv(
            in_channels=in_channels, out_channels=channels, kernel_size=3, relu=True, name="rpn.conv", **options
        )
        self.logits = Conv(in_channels=channels, out_channels=num_anchors, kernel_size=1, name="rpn.logits", **options)
        # Channel = anchor * 4 + coordinate.
        self.deltas = Conv(
            in_channels=channels, out_channels=4 * num_anchors, kernel_size=1, name="rpn.deltas", **options
        )

    def call(self, pyramid: Sequence[tf.Tensor], training: bool = False) -> RpnOutput:
        """Map P2..P6 [N, H_l, W_l, F] to float32 logits and deltas of all levels, in the order of the anchors."""
        logits, deltas = [], []
        for features in pyramid:
            hidden = self.conv(features, training=training)
            num_images = tf.shape(hidden)[0]
            level_logits, level_deltas = joined_convolution([self.logits, self.deltas], hidden, training=training)
            logits.append(tf.reshape(level_logits, [num_images, -1]))
            deltas.append(tf.reshape(level_deltas, [num_images, -1, 4]))
        return RpnOutput(tf.concat(logits, axis=1), tf.concat(deltas, axis=1))
