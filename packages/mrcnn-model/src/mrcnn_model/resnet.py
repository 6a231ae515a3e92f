"""ResNet (He et al. 2016) with align padding: the backbone of the pretrained ancestors.

Shapes: N images, H x W padded size (multiples of 32).
"""

import keras
import tensorflow as tf

from mrcnn_model.convolution import Conv

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
        depth: a key of STAGE_BLOCKS; 50 layers and more use bottlenecks with the stride in the 3x3.
        width: channels of the stem (64 in the paper).
        norm: "frozen_bn" or "gn".
        freeze_at: 0: everything trains; 1: the stem is fixed; 2: stem and first stage are fixed.
    """

    def __init__(
        self, *, depth: str, width: int, norm: str, gn_groups: int, freeze_at: int, dtype: keras.DTypePolicy
    ) -> None:
        super().__init__(name="backbone", dtype=dtype)
        block = Bottleneck if depth in ("resnet50", "resnet101", "resnet152") else BasicBlock
        self.freeze_at = freeze_at
        conv_options = {"norm": norm, "gn_groups": gn_groups, "dtype": dtype}
        self.stem = Conv(
            in_channels=3,
            out_channels=width,
            kernel_size=7,
            stride=2,
            padding=(3, 2),
            relu=True,
            trainable=freeze_at < 1,
            name="backbone.stem",
            **conv_options,
        )
        self.stages: list[list[keras.layers.Layer]] = []
        self.out_channels: list[int] = []
        channels = width
        for stage, num_blocks in enumerate(STAGE_BLOCKS[depth]):
            blocks = []
            for index in range(num_blocks):
                layer = block(
                    in_channels=channels,
                    width=width * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    trainable=stage > 0 or freeze_at < 2,
                    name=f"backbone.stage{stage + 1}.block{index}",
                    conv_options=conv_options,
                )
                channels = layer.out_channels
                blocks.append(layer)
            self.stages.append(blocks)
            self.out_channels.append(channels)

    def call(self, images: tf.Tensor) -> list[tf.Tensor]:
        """[N, H, W, 3] normalised -> C2 [N, H/4, W/4, .] to C5 [N, H/32, W/32, .]."""
        x = self.stem(images)
        x = tf.pad(x, [[0, 0], [1, 0], [1, 0], [0, 0]])  # zeros never win: the stem ends in ReLU
        x = tf.nn.max_pool2d(x, ksize=3, strides=2, padding="VALID")
        features = []
        for stage, blocks in enumerate(self.stages):
            if stage < self.freeze_at:
                x = tf.stop_gradient(x)  # nothing before it trains
            for block in blocks:
                x = block(x)
            features.append(x)
        if self.freeze_at == 2:
            features[0] = tf.stop_gradient(features[0])
        return features


class BasicBlock(keras.layers.Layer):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(
        self, *, in_channels: int, width: int, stride: int, trainable: bool, name: str, conv_options: dict
    ) -> None:
        super().__init__(name=name, dtype=conv_options["dtype"])
        self.out_channels = width
        options = conv_options | {"trainable": trainable}
        self.conv1 = Conv(
            in_channels=in_channels,
            out_channels=width,
            kernel_size=3,
            stride=stride,
            padding=(1, 0) if stride == 2 else None,
            relu=True,
            name=f"{name}.conv1",
            **options,
        )
        self.conv2 = Conv(
            in_channels=width, out_channels=width, kernel_size=3, zero_scale=True, name=f"{name}.conv2", **options
        )
        self.shortcut = _shortcut(in_channels, width, stride, name, options)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[N, H, W, C_in] -> [N, H/stride, W/stride, C]."""
        residual = self.conv2(self.conv1(x))
        return tf.nn.relu(residual + (x if self.shortcut is None else self.shortcut(x)))


class Bottleneck(keras.layers.Layer):
    """1x1, 3x3 (with the stride), 1x1 and a shortcut."""

    def __init__(
        self, *, in_channels: int, width: int, stride: int, trainable: bool, name: str, conv_options: dict
    ) -> None:
        super().__init__(name=name, dtype=conv_options["dtype"])
        self.out_channels = width * BOTTLENECK_EXPANSION
        options = conv_options | {"trainable": trainable}
        self.conv1 = Conv(
            in_channels=in_channels, out_channels=width, kernel_size=1, relu=True, name=f"{name}.conv1", **options
        )
        self.conv2 = Conv(
            in_channels=width,
            out_channels=width,
            kernel_size=3,
            stride=stride,
            padding=(1, 0) if stride == 2 else None,
            relu=True,
            name=f"{name}.conv2",
            **options,
        )
        self.conv3 = Conv(
            in_channels=width,
            out_channels=self.out_channels,
            kernel_size=1,
            zero_scale=True,
            name=f"{name}.conv3",
            **options,
        )
        self.shortcut = _shortcut(in_channels, self.out_channels, stride, name, options)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[N, H, W, C_in] -> [N, H/stride, W/stride, 4 width]."""
        residual = self.conv3(self.conv2(self.conv1(x)))
        return tf.nn.relu(residual + (x if self.shortcut is None else self.shortcut(x)))


def _shortcut(in_channels: int, out_channels: int, stride: int, name: str, options: dict) -> Conv | None:
    """A 1x1 projection where the shape changes."""
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
