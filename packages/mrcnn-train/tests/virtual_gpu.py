"""What a GPU would make of a compiled function, on a machine without one.

Three steps, each with TensorFlow's own means:

1. `traced` runs code, but compiles its functions only: what they return is zeros.
2. `report` gives a traced graph to Grappler, whose cluster is one H200 and one CPU. Grappler then rewrites the graph as
   it would on that machine, with the options of this process (`tf.config.optimizer`).
3. Each op of the new graph is looked up in the registry of kernels. The entry of a GPU kernel names the arguments that
   it reads and writes in host memory. A tensor that is made on the GPU and read on the host is a copy for which both
   wait: the step cannot be queued ahead.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest import mock

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.core.protobuf.device_properties_pb2 import DeviceProperties, NamedDevice
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig
from tensorflow.python.eager import context
from tensorflow.python.framework.kernels import get_registered_kernels_for_op
from tensorflow.python.grappler import tf_optimizer
from tensorflow.python.grappler.cluster import Cluster

# The ops of mrcnn-ops that have a GPU kernel in a build with CUDA, with the arguments that the kernel has in host
# memory: what follows .Device(DEVICE_GPU) in packages/mrcnn-ops/csrc/tf, which test_virtual_gpu.py compares.
OWN_OPS: dict[str, frozenset[str]] = {
    "MrcnnFoldBatchNorm": frozenset(),
    "MrcnnFoldBatchNormGrad": frozenset(),
    "MrcnnGenerateProposals": frozenset({"level_sizes"}),
    "MrcnnGradientNorm": frozenset(),
    "MrcnnGroupNorm": frozenset(),
    "MrcnnGroupNormGrad": frozenset(),
    "MrcnnMatchBoxes": frozenset(),
    "MrcnnMulticlassNms": frozenset(),
    "MrcnnMultilevelRoiAlign": frozenset(),
    "MrcnnMultilevelRoiAlignGrad": frozenset({"feature_shapes"}),
    "MrcnnSgd": frozenset({"variables", "momenta"}),
}

GPU, CPU = (f"/job:localhost/replica:0/task:0/device:{kind}:0" for kind in ("GPU", "CPU"))
H200 = {"architecture": "9.0", "cuda": "12050", "cudnn": "90000"}
MACHINE = [
    NamedDevice(name=GPU, properties=DeviceProperties(type="GPU", vendor="NVIDIA", num_cores=132, environment=H200)),
    NamedDevice(name=CPU, properties=DeviceProperties(type="CPU", num_cores=16)),
]
ARGUMENTS = ("Placeholder", "_Arg")
# They hand on memory, or only say something about it: nothing is queued on the GPU.
NOT_LAUNCHED = (
    *ARGUMENTS,
    *("Const", "ExpandDims", "Identity", "IdentityN", "NoOp", "ReadVariableOp", "Reshape", "Squeeze"),
)
LAYOUT_CHANGES = ([0, 3, 1, 2], [0, 2, 3, 1])  # NHWC to NCHW, and back


@dataclass(frozen=True)
class Report:
    """What is slow about a function on a GPU.

    Attributes:
        ops_without_gpu_kernel: how many there are of each type. They run on the CPU, after copies of their inputs.
        tensors_to_host: tensors that each call copies from the GPU to the host, with their readers.
        layout_transposes: names of the ops that change feature maps from NHWC to NCHW or back.
        launching_ops: number of ops that start at least one kernel. A launch takes the host microseconds.
    """

    ops_without_gpu_kernel: dict[str, int]
    tensors_to_host: tuple[str, ...]
    layout_transposes: tuple[str, ...]
    launching_ops: int


class Place(NamedTuple):
    """Where an op runs, and which of its tensors are in host memory."""

    is_on_gpu: bool
    inputs: tuple[bool, ...]
    outputs: tuple[bool, ...]


def has_gpu_kernels() -> bool:
    """Return whether this TensorFlow was built for GPUs; tensorflow-cpu registers no kernels for them."""
    return bool(_gpu_kernels("MatMul"))


@contextlib.contextmanager
def traced() -> Iterator[list[Any]]:
    """Yield a list that receives the concrete functions of each `tf.function` that is made and called in the block."""
    functions: list[Any] = []
    compiling = tf.function

    class Traced:
        """Stands for a `tf.function`: traces as it does, and returns zeros."""

        def __init__(self, function: Any) -> None:
            self._compiled = compiling(function)

        def get_concrete_function(self, *arguments: Any) -> Any:
            concrete = self._compiled.get_concrete_function(*arguments)
            if not any(concrete is known for known in functions):
                functions.append(concrete)
            return lambda *_: tf.nest.map_structure(_zeros, concrete.structured_outputs)

        def __call__(self, *arguments: Any) -> Any:
            return self.get_concrete_function(*arguments)()

    with mock.patch("tensorflow.function", Traced):
        yield functions


def report(function: Any) -> Report:
    """Say what a GPU would make of a concrete function.

    Raises:
        ValueError: the graph calls functions that Grappler did not inline; their ops would be left out.
    """
    ops = _optimised(function).get_operations()
    places = {op: _place(op) for op in ops}
    results = {tensor.name for tensor in function.outputs}

    def is_on_gpu(tensor: tf.Tensor) -> bool:
        return not places[tensor.op].outputs[tensor.value_index]

    to_host = [
        f"{tensor.name} {tensor.dtype.name} -> {op.type} {op.name}"
        for op in ops
        for tensor, is_read_on_host in zip(op.inputs, places[op].inputs, strict=True)
        if is_read_on_host and is_on_gpu(tensor) and tensor.dtype not in (tf.resource, tf.variant)
    ]
    to_host += [  # a function returns int32 in host memory
        f"{tensor.name} int32 -> result"
        for op in ops
        for tensor in op.outputs
        if tensor.name in results and tensor.dtype == tf.int32 and is_on_gpu(tensor)
    ]
    return Report(
        dict(Counter(op.type for op in ops if not places[op].is_on_gpu and op.type not in ARGUMENTS)),
        tuple(to_host),
        tuple(op.name for op in ops if _changes_layout(op)),
        sum(op.type not in NOT_LAUNCHED and _launches(places[op]) for op in ops),
    )


def _zeros(spec: tf.TensorSpec | None) -> tf.Tensor | None:
    return None if spec is None else tf.zeros(spec.shape, spec.dtype)


def _optimised(function: Any) -> tf.Graph:
    """Return the graph of a concrete function as Grappler leaves it on `MACHINE`."""
    graph = function.graph
    definition = graph.as_graph_def(add_shapes=True)
    for node in definition.node:
        place = _place(graph.get_operation_by_name(node.name))
        node.device = GPU if place.is_on_gpu else CPU
    meta = meta_graph_pb2.MetaGraphDef(graph_def=definition)
    kept = {tensor.op.name for tensor in function.outputs} | {op.name for op in graph.control_outputs}
    meta.collection_def["train_op"].node_list.value.extend(sorted(kept))
    config = context.context().config
    config.graph_options.rewrite_options.meta_optimizer_iterations = RewriterConfig.TWO
    config.graph_options.rewrite_options.min_graph_nodes = -1  # small graphs too
    optimised = tf_optimizer.OptimizeGraph(config, meta, cluster=Cluster(devices=MACHINE))
    called = {function.signature.name for function in optimised.library.function}
    callers = [node.name for node in optimised.node if any(value.func.name in called for value in node.attr.values())]
    if callers:
        raise ValueError(f"the graph calls functions, whose ops are not looked at: {', '.join(callers)}")
    with tf.Graph().as_default() as result:
        tf.import_graph_def(optimised, name="")
    return result


def _place(op: tf.Operation) -> Place:
    if op.type in ARGUMENTS:  # a function takes int32 in host memory
        is_on_host = op.outputs[0].dtype == tf.int32
        return Place(not is_on_host, (), (is_on_host,))
    host = _host_arguments(op)
    inputs, outputs = _argument_names(op, op.op_def.input_arg), _argument_names(op, op.op_def.output_arg)
    if host is None:
        return Place(False, (True,) * len(inputs), (True,) * len(outputs))
    return Place(True, tuple(name in host for name in inputs), tuple(name in host for name in outputs))


def _launches(place: Place) -> bool:
    """Return whether an op has work for the GPU: arithmetic of int32 has "GPU kernels" that compute on the host."""
    return place.is_on_gpu and (not place.outputs or not all(place.outputs))


def _host_arguments(op: tf.Operation) -> frozenset[str] | None:
    """Return the names of the arguments that the op's GPU kernel has in host memory; None without such a kernel."""
    if op.type in OWN_OPS:
        return OWN_OPS[op.type]
    suited = (kernel for kernel in _gpu_kernels(op.type) if _takes_types(kernel, op))
    return next((frozenset(kernel.host_memory_arg) for kernel in suited), None)


@functools.cache
def _gpu_kernels(op_type: str) -> list[Any]:
    """Return the registered kernels that a GPU can use, in the order in which TensorFlow looks for one."""
    kernels = get_registered_kernels_for_op(op_type).kernel
    return [kernel for device in ("GPU", "DEFAULT") for kernel in kernels if kernel.device_type == device]


def _takes_types(kernel: Any, op: tf.Operation) -> bool:
    """Return whether the types of an op are among those that a kernel is registered for."""
    attributes = op.node_def.attr if kernel.constraint else {}
    for constraint in kernel.constraint:
        value = attributes[constraint.name]
        types = set(value.list.type) if value.HasField("list") else {value.type}
        if not types <= set(constraint.allowed_values.list.type):
            return False
    return True


def _argument_names(op: tf.Operation, arguments: Any) -> list[str]:
    """Repeat the name of each argument that is a list, once for each of its tensors."""
    names = []
    for argument in arguments:
        attributes, count = op.node_def.attr, 1
        if argument.number_attr:
            count = attributes[argument.number_attr].i
        elif argument.type_list_attr:
            count = len(attributes[argument.type_list_attr].list.type)
        names += [argument.name] * count
    return names


def _changes_layout(op: tf.Operation) -> bool:
    order = tf.get_static_value(op.inputs[1]) if op.type == "Transpose" else None
    return order is not None and order.tolist() in LAYOUT_CHANGES
