"""Prepares a SavedModel's graph for serving: freezes the weights, and on request converts it to mixed precision.

In: a signature with one input and one output. Out: a function from a batch to the answer. Called by the TensorFlow
engine only.

Mixed precision means float16 for convolutions and matrix products, and float32 wherever the digits matter. TensorFlow's
own rewriter (Grappler's `auto_mixed_precision`) converts this one graph ahead of time. The process-wide option would
also convert the float32 models of the process, and would not affect a model that XLA compiles. The rewriter is always
told that there is a GPU with tensor cores, so it produces the same graph on every machine, and tests can run that graph
on a CPU (slowly: CPUs compute half precision in software). Sums, means and the coordinates of the bottle's crop stay
float32. On two published models the probabilities shifted by up to 0.004 and 0.011.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# The oldest NVIDIA architecture on which Grappler considers half precision faster: Volta, the first with tensor cores.
_TENSOR_CORES = "7.0"

Call = Callable[[Any], Any]


def freeze(signature: Any) -> Call:
    """The signature with its variables turned into constants."""
    function = _frozen_function(signature)

    def call(images: Any) -> Any:
        (answer,) = function(images)
        return answer

    return call


def to_mixed_precision(signature: Any) -> Call:
    """The frozen signature with convolutions and matrix products in half precision."""
    import tensorflow as tf

    function = _frozen_function(signature)
    (image,), (answer,) = function.inputs, function.outputs
    graph = _rewritten(tf, function.graph, fetch=answer.name)
    imported = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
    pruned: Call = imported.prune(image.name, answer.name)
    return pruned


def _frozen_function(signature: Any) -> Any:
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(signature)


def _rewritten(tf: Any, graph: Any, *, fetch: str) -> Any:
    """The GraphDef of `graph` after this one rewriter. Grappler's other optimizers run when the graph first runs."""
    from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
    from tensorflow.python.grappler import tf_optimizer

    config = config_pb2.ConfigProto()
    options = config.graph_options.rewrite_options
    options.min_graph_nodes = -1  # otherwise graphs of fewer than four nodes are not rewritten
    options.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    options.optimizers.append("auto_mixed_precision")  # naming one optimizer turns off all others
    meta_graph = tf.compat.v1.train.export_meta_graph(graph_def=graph.as_graph_def(), graph=graph)
    meta_graph.collection_def["train_op"].node_list.value.append(fetch)
    return tf_optimizer.OptimizeGraph(config, meta_graph, cluster=_with_tensor_cores())


def _with_tensor_cores() -> Any:
    from tensorflow.core.protobuf import device_properties_pb2
    from tensorflow.python.grappler import cluster

    named, properties = device_properties_pb2.NamedDevice, device_properties_pb2.DeviceProperties
    cpu = properties(type="CPU", frequency=1000, num_cores=40)
    gpu = properties(
        type="GPU",
        vendor="NVIDIA",
        environment={"architecture": _TENSOR_CORES},
        frequency=1000,
        num_cores=40,
        memory_size=1 << 33,
    )
    return cluster.Cluster(devices=[named(name="/CPU:0", properties=cpu), named(name="/GPU:0", properties=gpu)])
