"""What a GPU would do with a traced function, found on a machine without one.

TensorFlow's kernel registry has, for each op, the types of its GPU kernels and which inputs and outputs of those are in
the memory of the host. Grappler, told of a GPU, rewrites a graph as it would there: layout, fusion, constants. Together
they show what a run on a GPU would show in a profile, except times: ops that fall back to the CPU, tensors for which
the host waits, transposes between layouts, and the number of ops that launch kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import tensorflow as tf
from tensorflow.core.framework import kernel_def_pb2, op_def_pb2
from tensorflow.core.protobuf import config_pb2, device_properties_pb2, meta_graph_pb2, rewriter_config_pb2
from tensorflow.python.eager.polymorphic_function.concrete_function import ConcreteFunction
from tensorflow.python.framework import kernels
from tensorflow.python.grappler import cluster, tf_optimizer

# Ops of mrcnn_ops that have a CUDA kernel, which the library here may have been built without, and which of their
# inputs and outputs are in host memory.
OWN_OPS: dict[str, tuple[str, ...]] = {
    "MrcnnFoldBatchNorm": (),
    "MrcnnFoldBatchNormGrad": (),
    "MrcnnGenerateProposals": ("level_sizes",),
    "MrcnnGradientNorm": (),
    "MrcnnGroupNorm": (),
    "MrcnnGroupNormGrad": (),
    "MrcnnMatchBoxes": (),
    "MrcnnMulticlassNms": (),
    "MrcnnMultilevelRoiAlign": (),
    "MrcnnMultilevelRoiAlignGrad": ("feature_shapes",),
    "MrcnnSgd": ("variables", "momenta"),
}
ARGUMENTS = ("Placeholder", "_Arg")
# Ops that only pass a tensor on, or work on the host.
PASSING = {
    "Const",
    "Identity",
    "NoOp",
    "ReadVariableOp",
    "Reshape",
    "Shape",
    "ShapeN",
    "VarHandleOp",
    *ARGUMENTS,
}
LAYOUTS = ([0, 3, 1, 2], [0, 2, 3, 1])  # to [N, C, H, W] and back
HOST, DEVICE = (f"/job:localhost/replica:0/task:0/device:{kind}:0" for kind in ("CPU", "GPU"))


@dataclass(frozen=True)
class GpuRun:
    """One call of a function on a GPU.

    Attributes:
        ops_on_host: types of ops without a GPU kernel for their types, with their numbers.
        waits: tensors that are copied from device to host, each with the op that reads it there.
        transposes: names of the ops that change the layout of a map, [N, H, W, C] to [N, C, H, W] and back.
        launches: ops that launch at least one kernel.
    """

    ops_on_host: Counter[str]
    waits: dict[str, str]
    transposes: list[str]
    launches: int


def run_on_virtual_gpu(function: ConcreteFunction, *, layout_optimizer: bool = True) -> GpuRun:
    """Return what a call would do, after Grappler's changes."""
    graph = optimised(function, layout_optimizer=layout_optimizer)
    ops = graph.get_operations()
    hosts = {op: host_memory(op) for op in ops}
    results = {tensor.op.name for tensor in function.outputs}  # the caller fetches them in any case
    waits = {}
    for op in ops:
        if op.name in results and op.type == "Identity":
            continue
        for tensor, name in zip(op.inputs, names_of_tensors(op, op.op_def.input_arg), strict=True):
            is_read_on_host = op.type not in ARGUMENTS and (hosts[op] is None or name in hosts[op])
            if is_read_on_host and is_on_device(tensor, hosts):
                waits[tensor.name] = f"{op.type} {op.name}"
    return GpuRun(
        ops_on_host=Counter(op.type for op in ops if hosts[op] is None and op.type not in ARGUMENTS),
        waits=waits,
        transposes=[op.name for op in ops if op.type == "Transpose" and permutation(op) in LAYOUTS],
        launches=sum(hosts[op] is not None and op.type not in PASSING for op in ops),
    )


def host_memory(op: tf.Operation) -> tuple[str, ...] | None:
    """Return the names of the op's inputs and outputs in host memory; None if it has no GPU kernel for its types."""
    if op.type in OWN_OPS:
        return OWN_OPS[op.type]
    found = None
    for kernel in registered_kernels(op.type):
        if kernel.device_type in ("GPU", "DEFAULT") and fits(op, kernel.constraint):
            found = tuple(kernel.host_memory_arg)
            if kernel.device_type == "GPU":
                break
    return found


@cache
def registered_kernels(op_type: str) -> tuple[kernel_def_pb2.KernelDef, ...]:
    return tuple(kernels.get_registered_kernels_for_op(op_type).kernel)


def fits(op: tf.Operation, constraints: object) -> bool:
    """Return whether a kernel is for the types of an op."""
    for constraint in constraints:
        attribute = op.node_def.attr[constraint.name]
        types = attribute.list.type if attribute.HasField("list") else [attribute.type]
        if not set(types) <= set(constraint.allowed_values.list.type):
            return False
    return True


def is_on_device(tensor: tf.Tensor, hosts: dict[tf.Operation, tuple[str, ...] | None]) -> bool:
    """Return whether an op leaves a tensor in the memory of the GPU."""
    op = tensor.op
    if tensor.dtype in (tf.resource, tf.variant) or op.type == "Const" or op.type in ARGUMENTS:
        return False  # handles are on the host, constants and arguments on both sides
    names = list(names_of_tensors(op, op.op_def.output_arg))
    return hosts[op] is not None and names[tensor.value_index] not in hosts[op]


def permutation(op: tf.Operation) -> list[int] | None:
    """Return that of a Transpose, if it is constant."""
    constant = op.inputs[1].op
    return tf.make_ndarray(constant.get_attr("value")).tolist() if constant.type == "Const" else None


def names_of_tensors(op: tf.Operation, arguments: list[op_def_pb2.OpDef.ArgDef]) -> Iterator[str]:
    """Return for each input or output tensor the name of its argument, which may be a list of tensors."""
    for argument in arguments:
        attributes, count = op.node_def.attr, 1
        if argument.number_attr:
            count = attributes[argument.number_attr].i
        elif argument.type_list_attr:
            count = len(attributes[argument.type_list_attr].list.type)
        yield from [argument.name] * count


def optimised(function: ConcreteFunction, *, layout_optimizer: bool) -> tf.Graph:
    """Return the graph as Grappler would change it on a machine with a GPU."""
    definition = function.graph.as_graph_def(add_shapes=True)
    for node in definition.node:
        op = function.graph.get_operation_by_name(node.name)
        is_host = op.outputs[0].dtype == tf.int32 if op.type == "Placeholder" else host_memory(op) is None
        node.device = HOST if is_host else DEVICE
    meta = meta_graph_pb2.MetaGraphDef(graph_def=definition)
    kept = [op.name for op in function.graph.get_operations() if op.op_def.is_stateful]
    meta.collection_def["train_op"].node_list.value.extend([*kept, *(t.op.name for t in function.outputs)])
    options = config_pb2.ConfigProto()
    rewriting = options.graph_options.rewrite_options
    rewriting.min_graph_nodes = -1
    rewriting.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.TWO
    if not layout_optimizer:
        rewriting.layout_optimizer = rewriter_config_pb2.RewriterConfig.OFF
    changed = tf_optimizer.OptimizeGraph(options, meta, cluster=cluster.Cluster(devices=devices()))
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(changed, name="")
    return graph


def devices() -> list[device_properties_pb2.NamedDevice]:
    """Describe a machine with one GPU of compute capability 9.0."""
    gpu = device_properties_pb2.DeviceProperties(
        type="GPU",
        vendor="NVIDIA",
        num_cores=132,
        frequency=1980,
        memory_size=80 << 30,
        bandwidth=3_300_000_000,
        environment={"architecture": "9.0", "cuda": "12050", "cudnn": "90000"},
    )
    cpu = device_properties_pb2.DeviceProperties(type="CPU", num_cores=16, frequency=2400, memory_size=64 << 30)
    return [
        device_properties_pb2.NamedDevice(name=DEVICE, properties=gpu),
        device_properties_pb2.NamedDevice(name=HOST, properties=cpu),
    ]
