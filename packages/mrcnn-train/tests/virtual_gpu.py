"""What a GPU would make of a compiled function, on a machine without one.

`traced` runs code, but only compiles its functions. `report` gives a traced graph to Grappler, whose machine is one
H200 and one CPU: it rewrites the graph as it would there, with the options of this process (`tf.config.optimizer`).
Then each op is looked up in the registry of kernels. The entry of a GPU kernel names the arguments that it has in host
memory. A tensor that is made on the GPU and read on the host is a copy for which the host waits.
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
HANDLES = (tf.resource, tf.variant)
ARGUMENTS = ("Placeholder", "_Arg")
PASS_ON = ("Const", "ExpandDims", "Identity", "IdentityN", "NoOp", "ReadVariableOp", "Reshape", "Squeeze")  # no kernel
LAYOUT_CHANGES = ("[0 3 1 2]", "[0 2 3 1]")  # NHWC to NCHW, and back, as NumPy prints them


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
    inputs: list[bool]
    outputs: list[bool]


def has_gpu_kernels() -> bool:
    """Return whether this TensorFlow was built for GPUs; tensorflow-cpu registers no kernels for them."""
    return bool(_gpu_kernels("MatMul"))


@contextlib.contextmanager
def traced() -> Iterator[dict[Any, None]]:
    """Yield a dict whose keys become the concrete functions of each `tf.function` that the block makes and calls."""
    functions: dict[Any, None] = {}
    compiling = tf.function

    class Traced:
        """Stands for a `tf.function`: traces as it does, and returns zeros."""

        def __init__(self, function: Any) -> None:
            self._compiled = compiling(function)

        def get_concrete_function(self, *arguments: Any) -> Any:
            concrete = self._compiled.get_concrete_function(*arguments)
            functions[concrete] = None
            return lambda *_: tf.nest.map_structure(_zeros, concrete.structured_outputs)

        def __call__(self, *arguments: Any) -> Any:
            return self.get_concrete_function(*arguments)()

    with mock.patch("tensorflow.function", Traced):
        yield functions


def report(function: Any) -> Report:
    """Say what a GPU would make of a concrete function, or raise ValueError if it calls others that stay calls."""
    ops = _optimised(function).get_operations()
    places = {op: _place(op) for op in ops}
    to_host = [
        f"{tensor.name} {tensor.dtype.name} -> {op.type} {op.name}"
        for op in ops
        for tensor, is_read_on_host in zip(op.inputs, places[op].inputs, strict=True)
        if is_read_on_host and not places[tensor.op].outputs[tensor.value_index] and tensor.dtype not in HANDLES
    ]
    # Not those whose results are all on the host: "GPU kernels" of int32 compute there. Some have none, as updates.
    computing = [op for op in ops if places[op].is_on_gpu and False in (places[op].outputs or [False])]
    return Report(
        dict(Counter(op.type for op in ops if not places[op].is_on_gpu and op.type not in ARGUMENTS)),
        tuple(to_host),
        tuple(
            op.name for op in ops if op.type == "Transpose" and str(tf.get_static_value(op.inputs[1])) in LAYOUT_CHANGES
        ),
        sum(op.type not in (*ARGUMENTS, *PASS_ON) for op in computing),
    )


def _zeros(result: Any) -> Any:
    return None if result is None else tf.zeros(result.shape, result.dtype)


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
    config.graph_options.rewrite_options.MergeFrom(RewriterConfig(meta_optimizer_iterations=2, min_graph_nodes=-1))
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
        return Place(not is_on_host, [], [is_on_host])
    host = _host_arguments(op)
    names = (_argument_names(op, arguments) for arguments in (op.op_def.input_arg, op.op_def.output_arg))
    return Place(host is not None, *([host is None or name in host for name in of] for of in names))


def _host_arguments(op: tf.Operation) -> frozenset[str] | None:
    """Return the names of the arguments that the op's GPU kernel has in host memory; None without such a kernel."""
    if op.type in OWN_OPS:
        return OWN_OPS[op.type]
    found = (frozenset(kernel.host_memory_arg) for kernel in _gpu_kernels(op.type) if _takes_types(kernel, op))
    return next(found, None)


@functools.cache
def _gpu_kernels(op_type: str) -> list[Any]:
    """Return the registered kernels that a GPU can use, in the order in which TensorFlow looks for one."""
    kernels = get_registered_kernels_for_op(op_type).kernel
    return [kernel for device in ("GPU", "DEFAULT") for kernel in kernels if kernel.device_type == device]


def _takes_types(kernel: Any, op: tf.Operation) -> bool:
    """Return whether the types of an op are among those that a kernel is registered for."""
    for constraint in kernel.constraint:
        value = op.node_def.attr[constraint.name]
        types = value.list.type if value.HasField("list") else [value.type]
        if not {*types} <= {*constraint.allowed_values.list.type}:
            return False
    return True


def _argument_names(op: tf.Operation, arguments: Any) -> list[str]:
    """Repeat the name of each argument that is a list, once for each of its tensors."""
    names, attributes = [], op.node_def.attr
    for argument in arguments:
        types = attributes[argument.type_list_attr].list.type if argument.type_list_attr else [None]
        names += [argument.name] * (attributes[argument.number_attr].i if argument.number_attr else len(types))
    return names
