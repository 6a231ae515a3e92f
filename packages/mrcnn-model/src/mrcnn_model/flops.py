"""Count the arithmetic of a graph: the multiplications and additions of convolutions and matrix products."""

import math
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

CONVOLUTIONS = ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter")


def count_flops(graph: tf.Graph) -> int:
    """Return the FLOP of convolutions and matrix products that run, forward and backward; a multiply-add is two.

    Args:
        graph: that of a concrete function with static shapes: `function.get_concrete_function(...).graph`. Ops in
            functions that it calls are not counted, nor ops that no output depends on, such as the gradient of a frozen
            layer.

    Raises:
        ValueError: a shape is not static; the message names the op.
    """
    return sum(map(_flops, needed_ops([*(tensor.op for tensor in graph.outputs), *graph.control_outputs])))


def needed_ops(ops: Iterable[Any]) -> set[Any]:
    """Return the given ops and all ops that they depend on, by data or by control dependencies."""
    waiting = list(ops)
    seen = set(waiting)
    while waiting:
        op = waiting.pop()
        for source in [*(tensor.op for tensor in op.inputs), *op.control_inputs]:
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return seen


def _flops(op: Any) -> int:
    if op.type in CONVOLUTIONS:
        # Forward and backward, each output of the forward convolution costs kh * kw * C_in multiply-adds.
        forward = op.outputs[0] if op.type == "Conv2D" else op.inputs[2]
        kernel = op.outputs[0] if op.type == "Conv2DBackpropFilter" else op.inputs[1]
        return 2 * _size(op, forward.shape) * _size(op, kernel.shape[:3])
    if op.type in ("MatMul", "BatchMatMulV2"):
        transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
        inner = op.inputs[0].shape[-2 if transposed else -1]
        return 2 * _size(op, op.outputs[0].shape) * _size(op, tf.TensorShape([inner]))
    return 0


def _size(op: Any, shape: tf.TensorShape) -> int:
    if not shape.is_fully_defined():
        raise ValueError(f"{op.name} has a shape that is not static: {shape}")
    return math.prod(shape.as_list())
