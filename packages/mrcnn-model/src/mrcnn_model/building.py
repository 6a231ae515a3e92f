"""Build a network from its options."""

import keras
import tensorflow as tf

from mrcnn_model.box_stage import BoxStage, RoiPool
from mrcnn_model.config import AUTO_PRECISION, PRECISIONS, ModelConfig, choose_precision
from mrcnn_model.detection_ops import COMPILED_OPS, DetectionOps
from mrcnn_model.layers.fpn import Fpn
from mrcnn_model.layers.heads import BoxHead, MaskHead
from mrcnn_model.layers.normalization import MeanOverProcesses, Norm
from mrcnn_model.layers.resnet import ResNet
from mrcnn_model.layers.rpn import RpnHead
from mrcnn_model.mask_rcnn import MaskRCNN


def build_model(
    config: ModelConfig,
    *,
    precision: str = "float32",
    mean_over_processes: MeanOverProcesses = tf.identity,
    ops: DetectionOps = COMPILED_OPS,
) -> MaskRCNN:
    """Make a network with fresh variables.

    For the same values every time, call `keras.utils.set_random_seed` before. With `zero_residual_scale` the last norm
    of every residual block starts at scale 0, so that activations keep their size without pretrained weights (Goyal et
    al. 2017, section 5.1).

    Args:
        config: the options of the network.
        precision: one of `PRECISIONS`, the type of convolutions and matrix products, or "auto": what `choose_precision`
            chooses. Variables, coordinates and losses are always float32. The default is float32, so that a network
            built from code computes the same on every machine.
        mean_over_processes: takes a float32 tensor of this process and returns its mean over all processes, by which
            `norm="sync_bn"` shares its statistics. For one process, the identity.
        ops: the ops that normalise, pool RoIs, make proposals and choose detections.

    Raises:
        ValueError: the precision is neither "auto" nor one of `PRECISIONS`.
    """
    if precision == AUTO_PRECISION:
        precision = choose_precision().precision
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected one of {', '.join((AUTO_PRECISION, *PRECISIONS))}")
    dtype = keras.DTypePolicy(precision)
    backbone = _backbone(config, mean_over_processes, ops, dtype)
    pyramid = config.pyramid
    pool = RoiPool(ops.multilevel_roi_align, aligned=pyramid.roi_align_aligned, canonical_size=pyramid.canonical_size)
    return MaskRCNN(
        config=config,
        backbone=backbone,
        fpn=Fpn(
            in_channels=backbone.out_channels,
            channels=pyramid.fpn_channels,
            norm=_head_norm(config.norms.fpn_norm, config, ops),
            dtype=dtype,
        ),
        rpn=RpnHead(
            in_channels=pyramid.fpn_channels,
            channels=config.rpn.rpn_channels,
            num_anchors=config.anchors.num_anchors,
            dtype=dtype,
        ),
        box_stages=_box_stages(config, pool, ops, dtype),
        mask_head=_mask_head(config, ops, dtype) if config.mask.masks else None,
        pool=pool,
        ops=ops,
    )


def _backbone(
    config: ModelConfig, mean_over_processes: MeanOverProcesses, ops: DetectionOps, dtype: keras.DTypePolicy
) -> ResNet:
    resnet, norms = config.resnet, config.norms
    return ResNet(
        depth=resnet.backbone,
        width=resnet.backbone_width,
        norm=Norm(
            norms.norm,
            groups=norms.gn_groups,
            epsilon=norms.norm_epsilon,
            freeze_affine=norms.freeze_affine,
            mean_over_processes=mean_over_processes,
            fold_batch_norm=ops.fold_batch_norm,
            group_norm=ops.group_norm,
        ),
        freeze_at=resnet.freeze_at,
        symmetric_padding=resnet.symmetric_padding,
        stride_in_1x1=resnet.stride_in_1x1,
        zero_residual_scale=resnet.zero_residual_scale,
        dtype=dtype,
    )


def _box_stages(config: ModelConfig, pool: RoiPool, ops: DetectionOps, dtype: keras.DTypePolicy) -> list[BoxStage]:
    box = config.box
    if box.cascade:
        stages = list(zip(box.cascade_foreground_ious, box.cascade_regression_weights, strict=True))
        names = [f"box_head{number}" for number, _ in enumerate(stages, start=1)]
    else:
        stages, names = [(config.rois.roi_foreground_iou, box.box_regression_weights)], ["box_head"]
    return [
        BoxStage(
            head=_box_head(config, name, ops, dtype),
            pool=pool,
            pool_size=box.box_pool_size,
            foreground_iou=foreground_iou,
            weights=weights,
            max_log_scale=box.max_log_scale,
            loss=box.box_loss,
            loss_beta=box.box_loss_beta,
            gradient_share=1 / len(stages),
        )
        for name, (foreground_iou, weights) in zip(names, stages, strict=True)
    ]


def _box_head(config: ModelConfig, name: str, ops: DetectionOps, dtype: keras.DTypePolicy) -> BoxHead:
    box = config.box
    return BoxHead(
        in_channels=config.pyramid.fpn_channels,
        pool_size=box.box_pool_size,
        num_convs=box.box_head_convs,
        num_fcs=box.box_head_fcs,
        channels=box.box_head_channels,
        num_classes=config.num_classes,
        class_agnostic=box.cascade or box.class_agnostic_boxes,
        norm=_head_norm(config.norms.head_norm, config, ops),
        name=name,
        dtype=dtype,
    )


def _mask_head(config: ModelConfig, ops: DetectionOps, dtype: keras.DTypePolicy) -> MaskHead:
    return MaskHead(
        in_channels=config.pyramid.fpn_channels,
        channels=config.mask.mask_head_channels,
        num_convs=config.mask.mask_head_convs,
        num_classes=config.num_classes,
        norm=_head_norm(config.norms.head_norm, config, ops),
        dtype=dtype,
    )


def _head_norm(kind: str, config: ModelConfig, ops: DetectionOps) -> Norm:
    after_relu = kind == "gn" and config.norms.gn_after_relu
    return Norm(kind, groups=config.norms.gn_groups, after_relu=after_relu, group_norm=ops.group_norm)
