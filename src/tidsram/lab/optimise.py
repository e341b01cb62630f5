"""Simplify a model's graph once, before it is served: what does not depend on the question.

Only what holds on every processor: ONNX Runtime's further steps choose kernels of this one, and
it takes them when it loads.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidsram.engine.inspect import fix_model, inspect_model
from tidsram.engine.ort import runtime
from tidsram.errors import ModelRefused

if TYPE_CHECKING:
    import onnx

_FATAL_ONLY = 4  # a level of ONNX Runtime's log


def optimised(data: bytes, name: str, scratch: Path) -> bytes:
    """Return the model with constants folded and what can be merged merged, or as it was.

    `name` is its name in a refusal; what is written under `scratch` is gone at the end. The same
    model gives the same bytes. Raises ModelRefused for a model that nobody could serve.
    """
    import onnx

    fixed, spec = fix_model(data, name)
    simpler = _simplify(fixed, scratch)
    if simpler is None:
        return data
    before, after = onnx.ModelProto.FromString(fixed), onnx.ModelProto.FromString(simpler)
    if len(after.graph.node) >= len(before.graph.node):
        return data
    tidy(after)
    result = written(after)
    try:
        same = inspect_model(result, name) == spec
    except ModelRefused:
        return data
    return result if same else data


def _simplify(data: bytes, scratch: Path) -> bytes | None:
    """Return what ONNX Runtime makes of a model, or None where it makes nothing of it."""
    ort = runtime()
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        file = Path(folder) / "simpler.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(file)
        options.intra_op_num_threads = 1
        options.log_severity_level = _FATAL_ONLY
        try:
            ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception:  # noqa: BLE001 - the runtime's errors share no other base
            return None  # whoever loads the model next says why it cannot be loaded
        return file.read_bytes() if file.exists() else None


def tidy(proto: "onnx.ModelProto") -> None:
    """Take out of a model what nothing in it uses, and give one order to what needs none."""
    nodes = list(_nodes(proto))
    used = {name for node in nodes for name in node.input}
    used.update(value.name for graph in _graphs(proto.graph) for value in graph.output)
    domains = {node.domain for node in nodes} | {"", "ai.onnx"}
    _keep(proto.graph.initializer, lambda tensor: tensor.name in used)
    _keep(proto.opset_import, lambda opset: opset.domain in domains)
    proto.graph.initializer.sort(key=lambda tensor: tensor.name)
    proto.opset_import.sort(key=lambda opset: opset.domain)
    # Whoever needs sizes finds them anew; those written down may be of the model it was before.
    del proto.graph.value_info[:]


def written(proto: "onnx.ModelProto") -> bytes:
    """Return the bytes of a model: the same for the same model."""
    return bytes(proto.SerializeToString(deterministic=True))


def with_sizes(proto: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return the model with the size of every tensor that can be told without a run."""
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return proto  # a node contradicts its operator; what loads the model says how


def first(names: Sequence[str]) -> str:
    """Return the first of a node's inputs or outputs; in a broken model it may have none."""
    return names[0] if names else ""


def _nodes(proto: "onnx.ModelProto") -> "Iterator[onnx.NodeProto]":
    for graph in _graphs(proto.graph):
        yield from graph.node
    for function in proto.functions:
        yield from function.node


def _graphs(graph: "onnx.GraphProto") -> "Iterator[onnx.GraphProto]":
    """Give a graph and all that are nested in it."""
    pending = [graph]
    while pending:
        part = pending.pop()
        yield part
        for node in part.node:
            for attribute in node.attribute:
                pending += ([attribute.g] if attribute.HasField("g") else []) + [*attribute.graphs]


def _keep(field: Any, wanted: Callable[[Any], bool]) -> None:  # noqa: ANN401 - a repeated field
    for i in reversed(range(len(field))):
        if not wanted(field[i]):
            del field[i]
