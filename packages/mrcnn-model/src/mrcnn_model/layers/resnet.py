"""ResNet (He et al. 2016), the backbone.

Shapes: N images, H x W padded size (multiples of 32).
"""

import keras
import tensorflow as tf

from mrcnn_model.layers.convolution import Conv
from mrcnn_model.layers.normalization import Norm

STAGE_BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
BOTTLENECK_EXPANSION = 4


class ResNet(keras.layers.Layer):
    """Stem and four stages; returns the feature maps C2 to C5, of strides 4, 8, 16, 32.

    Args:
        depth: a key of STAGE_BLOCKS; 50 layers and more use bottlenecks.
        width: channels of the stem (64 in the paper).
        norm: norm of every convolution. In fixed parts, the statistics of a batch norm are fixed too.
        freeze_at: 0: everything trains; 1: the stem is fixed; 2: stem and first stage are fixed.
        symmetric_padding: of the layers of stride 2; see `Conv`.
        stride_in_1x1: a bottleneck's stride is in its first 1x1 (He et al. 2016, and Caffe's weights), not in the 3x3.
        zero_residual_scale: the last norm of every block starts at scale 0.
    """

    def __init__(
        self,
        *,
        depth: str,
        width: int,
        norm: Norm,
        freeze_at: int,
        symmetric_padding: bool = False,
        stride_in_1x1: bool = False,
        zero_residual_scale: bool = True,
        dtype: keras.DTypePolicy,
    ) -> None:
        super().__init__(name="backbone", dtype=dtype)
        self.built = True  # otherwise Keras runs the first call twice, also the mean over processes of a sync BN
        self.freeze_at = freeze_at
        self.pool_padding = [1, 1] if symmetric_padding else [1, 0]
        frozen_norm = norm._replace(kind="frozen_bn") if norm.kind == "sync_bn" else norm
        conv_options = {"symmetric_padding": symmetric_padding, "dtype": dtype}
        self.stem = Conv(
            in_channels=3,
            out_channels=width,
            kernel_size=7,
            stride=2,
            relu=True,
            norm=norm if freeze_at < 1 else frozen_norm,
            trainable=freeze_at < 1,
            name="backbone.stem",
            **conv_options,
        )
        self.stages: list[list[keras.layers.Layer]] = []
        self.out_channels: list[int] = []
        channels = width
        for stage, num_blocks in enumerate(STAGE_BLOCKS[depth]):
            blocks = []
            trains = stage > 0 or freeze_at < 2
            for index in range(num_blocks):
                options = {
                    "in_channels": channels,
                    "width": width * 2**stage,
                    "stride": 2 if stage > 0 and index == 0 else 1,
                    "zero_residual_scale": zero_residual_scale,
                    "name": f"backbone.stage{stage + 1}.block{index}",
                    "conv_options": conv_options | {"norm": norm if trains else frozen_norm, "trainable": trains},
                }
                is_deep = depth in ("resnet50", "resnet101", "resnet152")
                layer = Bottleneck(stride_in_1x1=stride_in_1x1, **options) if is_deep else BasicBlock(**options)
                channels = layer.out_channels
                blocks.append(layer)
            self.stages.append(blocks)
            self.out_channels.append(channels)

    def call(self, images: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        """Map normalised images [N, H, W, 3] to C2 [N, H/4, W/4, .] ... C5 [N, H/32, W/32, .]."""
        x = self.stem(images, training=training)
        x = tf.pad(x, [[0, 0], self.pool_padding, self.pool_padding, [0, 0]])  # zeros never win: the stem ends in ReLU
        x = tf.nn.max_pool2d(x, ksize=3, strides=2, padding="VALID")
        features = []
        for stage, blocks in enumerate(self.stages):
            if stage < self.freeze_at:
                x = tf.stop_gradient(x)  # the layers before are fixed
            for block in blocks:
                x = block(x, training=training)
            features.append(x)
        if self.freeze_at == 2:
            features[0] = tf.stop_gradient(features[0])
        return features


class BasicBlock(keras.layers.Layer):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(
        self, *, in_channels: int, width: int, stride: int, zero_residual_scale: bool, name: str, conv_options: dict
    ) -> None:
        super().__init__(name=name, dtype=conv_options["dtype"])
        self.built = True
        self.out_channels = width
        self.conv1 = Conv(
            in_channels=in_channels,
            out_channels=width,
            kernel_size=3,
            stride=stride,
            relu=True,
            name=f"{name}.conv1",
            **conv_options,
        )
        self.conv2 = Conv(
            in_channels=width,
            out_channels=width,
            kernel_size=3,
            zero_scale=zero_residual_scale,
            name=f"{name}.conv2",
            **conv_options,
        )
        self.shortcut = _shortcut(in_channels, width, stride, name, conv_options)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Map [N, H, W, C_in] to [N, H/stride, W/stride, C]."""
        residual = self.conv2(self.conv1(x, training=training), training=training)
        return tf.nn.relu(residual + (x if self.shortcut is None else self.shortcut(x, training=training)))


class Bottleneck(keras.layers.Layer):
    """1x1, 3x3 (with the stride, unless `stride_in_1x1`), 1x1 and a shortcut."""

    def __init__(
        self,
        *,
        in_channels: int,
        width: int,
        stride: int,
        stride_in_1x1: bool,
        zero_residual_scale: bool,
        name: str,
        conv_options: dict,
    ) -> None:
        super().__init__(name=name, dtype=conv_options["dtype"])
        self.built = True
        self.out_channels = width * BOTTLENECK_EXPANSION
        self.conv1 = Conv(
            in_channels=in_channels,
            out_channels=width,
            kernel_size=1,
            stride=stride if stride_in_1x1 else 1,
            relu=True,
            name=f"{name}.conv1",
            **conv_options,
        )
        self.conv2 = Conv(
            in_channels=width,
            out_channels=width,
            kernel_size=3,
            stride=1 if stride_in_1x1 else stride,
            relu=True,
            name=f"{name}.conv2",
            **conv_options,
        )
        self.conv3 = Conv(
            in_channels=width,
            out_channels=self.out_channels,
            kernel_size=1,
            zero_scale=zero_residual_scale,
            name=f"{name}.conv3",
            **conv_options,
        )
        self.shortcut = _shortcut(in_channels, self.out_channels, stride, name, conv_options)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Map [N, H, W, C_in] to [N, H/stride, W/stride, 4 width]."""
        residual = self.conv1(x, training=training)
        residual = self.conv3(self.conv2(residual, training=training), training=training)
        return tf.nn.relu(residual + (x if self.shortcut is None else self.shortcut(x, training=training)))


def _shortcut(in_channels: int, out_channels: int, stride: int, name: str, options: dict) -> Conv | None:
    """Make a 1x1 projection if the shape changes; else None."""
    if in_channels == out_channels and stride == 1:
        return None
    return Conv(
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=1,
        stride=stride,
        name=f"{name}.shortcut",
        **options,
    )
