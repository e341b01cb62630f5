"""Refuse files that are no model, and models that no node should try to load.

Works on bytes and opens no file, so the paths that a hostile model names are never touched.
"""

import math
from collections.abc import Hashable, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from tidsram.units import show_size

if TYPE_CHECKING:
    import onnx

MODEL_BYTES_MAX = 2**31 - 1  # what one protobuf message may hold
NODES_MAX = 100_000  # with every call of a model's own functions written out
TENSOR_BYTES_MAX = 2**30
NAME_SHOWN_MAX = 80

# "com.microsoft" is ONNX Runtime's own: an operator missing from its CPU provider fails to load.
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")

# What people hand over in place of a model: offset and bytes of its beginning, its name, remedy.
_LOOKALIKES = (
    (0, b"version https://git-lfs", "a Git LFS pointer", "Fetch the model itself: git lfs pull"),
    (
        0,
        b"PK\x03\x04",
        "a zip archive, as PyTorch and Keras write them,",
        "Export it: torch.onnx.export(model, example, 'model.onnx')",
    ),
    (
        4,
        b"TFL3",
        "a TensorFlow Lite model",
        "Convert it: python -m tf2onnx.convert --tflite model.tflite --output model.onnx",
    ),
    (
        4,
        b"ORTM",
        "a model in ONNX Runtime's own format",
        "Give the .onnx file that it was made from",
    ),
    (0, b"<", "a web page or XML", "Download the file itself, or convert the model to ONNX"),
)

_ONE_FILE = (
    "Make it one file where it was exported: "
    "onnx.save_model(onnx.load('model.onnx'), 'one-file.onnx', save_as_external_data=False)"
)
_STANDARD = (
    "Export it again with standard operators; in PyTorch: "
    "torch.onnx.export(model, example, 'model.onnx', opset_version=17)"
)
_ASKERS_WORK = "Leave that step out of the export and do it where the question is made"
_UNOPTIMISED = "Give the model as it was before ONNX Runtime optimised it"
_DOMAIN_REMEDIES = {
    "com.microsoft.extensions": _ASKERS_WORK,
    "ai.onnx.contrib": _ASKERS_WORK,
    "com.microsoft.nchwc": _UNOPTIMISED,
    "com.ms.internal.nhwc": _UNOPTIMISED,
}


class Refuse(Exception):
    """A problem and its remedy, on their way to becoming a ModelRefused with the model's name."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem, self.remedy = problem, remedy


def parse(data: bytes) -> "onnx.ModelProto":
    """Return the model in `data`, or refuse what is none."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not data:
        raise Refuse("the file is empty", "Export or copy the model again")
    if len(data) > MODEL_BYTES_MAX:
        raise Refuse(
            f"its {show_size(len(data))} are more than the 2 GiB that one ONNX file may hold",
            "Quantise it, or split it into two decisions",
        )
    for offset, beginning, kind, remedy in _LOOKALIKES:
        if data.startswith(beginning, offset):
            raise Refuse(f"it is {kind} and not an ONNX model", remedy)
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError:
        proto = onnx.ModelProto()
    if not proto.HasField("graph") or not proto.opset_import:
        raise Refuse(
            "it is not an ONNX model, or only a part of one",
            "Compare its size with the original's and copy or export it again",
        )
    return proto


def check_contents(proto: "onnx.ModelProto") -> None:
    """Refuse external data, foreign operators, absurd sizes and runs that cannot be stopped."""
    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    calls: dict[Hashable, list[Hashable]] = {}
    sizes: dict[Hashable, int] = {}
    for key, body in ((None, proto.graph), *functions.items()):
        nodes, tensors = _unfold(body)
        for tensor in tensors:
            _check_tensor(tensor)
        called = [(n.domain, n.op_type, n.overload) for n in nodes]
        calls[key] = [call for call in called if call in functions]
        sizes[key] = len(nodes)
        for node, call in zip(nodes, called, strict=True):
            if call not in functions:
                _check_operator(node)
    _check_node_count(calls, sizes)


def quoted(name: str | bytes) -> str:
    """Show a name from the file, however long or broken; protobuf gives broken text as bytes."""
    text = name if isinstance(name, str) else name.decode(errors="replace")
    return repr(text if len(text) <= NAME_SHOWN_MAX else text[:NAME_SHOWN_MAX] + "…")


def check_tensor_bytes(what: str, dims: Sequence[int], element: int) -> None:
    """Refuse a tensor of ONNX's type number `element` that no model here should need."""
    size = math.prod(dims) * _itemsize(element)
    if size > TENSOR_BYTES_MAX:
        raise Refuse(
            f"{what} {list(dims)} would take {show_size(size)}, "
            f"more than the {show_size(TENSOR_BYTES_MAX)} that one tensor may have",
            "Give it smaller inputs, or use a smaller model",
        )


def _itemsize(element: int) -> int:
    import onnx

    try:
        return onnx.helper.tensor_dtype_to_np_dtype(element).itemsize
    except KeyError:
        return 1  # an unknown type does not load


def _unfold(
    body: "onnx.GraphProto | onnx.FunctionProto",
) -> "tuple[list[onnx.NodeProto], list[onnx.TensorProto]]":
    """Return all nodes and constants of a body, with those of the graphs nested in it."""
    import onnx

    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    pending = [body]
    while pending:
        part = pending.pop()
        sparse: list[onnx.SparseTensorProto] = []
        attributes = [attribute for node in part.node for attribute in node.attribute]
        nodes += part.node
        if len(nodes) > NODES_MAX:
            raise _too_many_nodes()
        if isinstance(part, onnx.FunctionProto):
            attributes += part.attribute_proto
        else:
            tensors += part.initializer
            sparse += part.sparse_initializer
        for attribute in attributes:
            tensors += ([attribute.t] if attribute.HasField("t") else []) + [*attribute.tensors]
            sparse += (attribute.sparse_tensor, *attribute.sparse_tensors)
            pending += ([attribute.g] if attribute.HasField("g") else []) + [*attribute.graphs]
        for values in sparse:
            tensors += (values.values, values.indices)
    return nodes, tensors


def _check_tensor(tensor: "onnx.TensorProto") -> None:
    if tensor.external_data or tensor.data_location == tensor.EXTERNAL:
        raise Refuse(
            f"its weights {quoted(tensor.name)} are in another file, which is never opened",
            _ONE_FILE,
        )
    what = f"its constant {quoted(tensor.name)}"
    if any(dim < 0 for dim in tensor.dims):
        raise Refuse(f"{what} has a negative size", "Export it again")
    check_tensor_bytes(what, tensor.dims, tensor.data_type)


def _check_operator(node: "onnx.NodeProto") -> None:
    where = f"operator {quoted(node.op_type)} (node {quoted(node.name)})"
    if node.domain not in DOMAINS:
        raise Refuse(
            f"{where} belongs to {quoted(node.domain)}, which the CPU provider does not have",
            _DOMAIN_REMEDIES.get(node.domain, _STANDARD),
        )
    if node.op_type == "Loop" and not _can_stop(node):
        raise Refuse(
            f"{where} repeats a body that computes nothing, which no deadline could stop",
            "Leave the loop out: its results are known before it runs",
        )


def _can_stop(loop: "onnx.NodeProto") -> bool:
    """Tell whether the body keeps a node that runs: an abort takes effect between nodes.

    Nodes that use none of the body's inputs may be computed once, at load, and vanish.
    """
    for attribute in loop.attribute:
        if attribute.name == "body":
            given = {value.name for value in attribute.g.input}
            return any(
                not given.isdisjoint(node.input) or any(a.HasField("g") for a in node.attribute)
                for node in attribute.g.node
            )
    return True  # a Loop without a body does not load


def _check_node_count(calls: dict[Hashable, list[Hashable]], sizes: dict[Hashable, int]) -> None:
    """Refuse what would be too much with every call written out: ONNX Runtime does just that."""
    try:
        callees_first = list(TopologicalSorter(calls).static_order())
    except CycleError:
        raise Refuse("one of its functions calls itself", "Export it without functions") from None
    for key in callees_first:
        sizes[key] += sum(sizes[callee] for callee in calls[key])
        if sizes[key] > NODES_MAX:
            raise _too_many_nodes()


def _too_many_nodes() -> Refuse:
    return Refuse(
        f"it has more than {NODES_MAX} nodes",
        "Simplify it: onnxslim model.onnx smaller.onnx; or split it into two decisions",
    )
