"""Describe a model from its bytes: inputs and outputs, with every size that can be known.

An open batch axis becomes 1; any other open size must be given, and the refusal says how.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tidsram.engine.screen import Refuse, check_contents, check_tensor_bytes, parse, quoted
from tidsram.errors import ModelRefused
from tidsram.protocol.tensors import ModelSpec, TensorSpec
from tidsram.protocol.wire import MAX_TENSORS

if TYPE_CHECKING:
    import onnx

Shapes = Mapping[str, Sequence[int]]
Dims = tuple[int | str | None, ...]  # a size, the name of an open one, an open one without name

INFERENCE_BYTES_MAX = 2**28  # shape inference takes about 3 ms and three copies a megabyte

# ONNX's number for what a tensor holds → its datatype in the Open Inference Protocol.
DATATYPE_OF = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
}
ELEMENT_OF = {datatype: element for element, datatype in DATATYPE_OF.items()}
_STRING = 8

_IMAGE_RANK = 4
_EXAMPLE_IMAGE_SIZE, _EXAMPLE_SIZE = 640, 128

_NUMBERS_FOR_TEXT = "Leave the text step out of the export and pass numbers: token ids, class ids"
_PLAIN_TENSORS = (
    "Export it with plain tensors; in scikit-learn: "
    "skl2onnx.to_onnx(model, X, options={'zipmap': False})"
)
_FLOAT32_OUTSIDE = "Export it with float32 inputs and outputs; inside, it may stay as it is"
_INFER_TYPES = (
    "Write the types into it: "
    "onnx.save(onnx.shape_inference.infer_shapes(onnx.load('model.onnx')), 'typed.onnx')"
)
_OPEN_SIZES = (
    "If the file declares less than the model can do, open its sizes first: "
    "m = onnx.load('model.onnx'); weights = {t.name for t in m.graph.initializer}; "
    "[d.Clear() for v in [*m.graph.input, *m.graph.output] if v.name not in weights "
    "for d in v.type.tensor_type.shape.dim]; onnx.save(m, 'open.onnx')"
)


class _Tensor(NamedTuple):
    """An input or output as the file declares it; `dims` is None where not even a rank is."""

    name: str
    datatype: str
    dims: Dims | None


def inspect_model(data: bytes, model: str, shapes: Shapes | None = None) -> ModelSpec:
    """Describe the model in `data`, or raise ModelRefused with the line that fixes it.

    `model` is its name in the refusal; `shapes` gives inputs the sizes that the file leaves open.
    An output size that cannot be told without a run is −1.
    """
    return fix_model(data, model, shapes)[1]


def fix_model(data: bytes, model: str, shapes: Shapes | None = None) -> tuple[bytes, ModelSpec]:
    """Do the same, and return with it the model with all its inputs' sizes written down.

    An engine needs no more than these two, so a worker can do without the `onnx` package.
    """
    try:
        proto = parse(data)
        check_contents(proto)
        inputs, outputs = _inputs(proto.graph), _outputs(proto.graph)
        sizes = _named_sizes(inputs, shapes or {})
        fixed = _fix_inputs(inputs, shapes or {}, sizes)
        if _settle_inputs(proto, {t.name: s for t, s in zip(inputs, fixed, strict=True)}):
            data = proto.SerializeToString()
        if len(data) <= INFERENCE_BYTES_MAX:
            outputs = _inferred_outputs(proto, outputs)
    except Refuse as refusal:
        raise ModelRefused(model, refusal.problem, f"{refusal.remedy}.") from None
    spec = ModelSpec(
        tuple(TensorSpec(t.name, t.datatype, s) for t, s in zip(inputs, fixed, strict=True)),
        tuple(TensorSpec(t.name, t.datatype, _output_shape(t, sizes)) for t in outputs),
    )
    return data, spec


# What the file declares


def _inputs(graph: "onnx.GraphProto") -> list[_Tensor]:
    # Old exporters list the weights among the inputs.
    weights = {tensor.name for tensor in graph.initializer}
    weights |= {sparse.values.name for sparse in graph.sparse_initializer}
    inputs = [_declared("input", value) for value in graph.input if value.name not in weights]
    if not inputs:
        raise Refuse("it has no input, so it answers no question", "Export it with an input")
    if len(inputs) > MAX_TENSORS:
        problem = f"it has {len(inputs)} inputs, and a question brings at most {MAX_TENSORS}"
        raise Refuse(problem, "Join some of them in the model")
    return inputs


def _outputs(graph: "onnx.GraphProto") -> list[_Tensor]:
    outputs = [_declared("output", value) for value in graph.output]
    if not outputs:
        raise Refuse("it has no output", "Export it with an output")
    # ONNX Runtime does not write either of these into bound memory: it would keep old bytes.
    inputs = {value.name for value in graph.input} - {t.name for t in graph.initializer}
    for i, output in enumerate(outputs):
        if output.name in inputs:
            raise Refuse(
                f"its output {quoted(output.name)} is its input, unchanged",
                "Export it without that output: whoever asks has it already",
            )
        if any(output.name == other.name for other in outputs[:i]):
            raise Refuse(
                f"it has the output {quoted(output.name)} twice", "Export it with that output once"
            )
    return outputs


def _declared(role: str, value: "onnx.ValueInfoProto") -> _Tensor:
    what, kind = f"its {role} {quoted(value.name)}", value.type.WhichOneof("value")
    _check_text(what, value.name)
    if kind in ("sequence_type", "map_type"):
        raise Refuse(f"{what} is a {kind.removesuffix('_type')}, not a tensor", _PLAIN_TENSORS)
    if kind in ("optional_type", "sparse_tensor_type", "opaque_type"):
        problem = f"{what} is {kind.removesuffix('_type').replace('_', ' ')}, not a plain tensor"
        raise Refuse(problem, "Export it with plain tensors, always present")
    tensor = value.type.tensor_type
    if tensor.elem_type == 0:
        raise Refuse(f"{what} has no type", _INFER_TYPES)
    if tensor.elem_type == _STRING:
        raise Refuse(f"{what} is text", _NUMBERS_FOR_TEXT)
    if tensor.elem_type not in DATATYPE_OF:
        datatype = _element_name(tensor.elem_type)
        raise Refuse(f"{what} has type {datatype}, which no question can carry", _FLOAT32_OUTSIDE)
    dims = tuple(_dim(what, d) for d in tensor.shape.dim) if tensor.HasField("shape") else None
    return _Tensor(value.name, DATATYPE_OF[tensor.elem_type], dims)


def _element_name(element: int) -> str:
    import onnx

    names: dict[int, str] = {number: name for name, number in onnx.TensorProto.DataType.items()}
    return names.get(element, f"number {element}").lower()


def _dim(what: str, dim: "onnx.TensorShapeProto.Dimension") -> int | str | None:
    if dim.dim_value < -1:
        raise Refuse(f"{what} has the size {dim.dim_value}", "Export it again")
    if dim.dim_value > 0:
        return dim.dim_value
    _check_text(what, dim.dim_param)
    # Some exporters write 0 or −1 for an open size, others call every one of them "?".
    return None if dim.dim_param == "?" else dim.dim_param or None


def _check_text(what: str, name: str | bytes) -> None:
    if isinstance(name, bytes):
        raise Refuse(f"{what} has a name that is not text", "Export it again")


# What the open sizes become


def _named_sizes(inputs: list[_Tensor], shapes: Shapes) -> dict[str, int]:
    """Return the size that each named open dimension gets, from `shapes` or as a batch of 1."""
    by_name = {tensor.name: tensor for tensor in inputs}
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in by_name:
            known = ", ".join(quoted(known) for known in by_name)
            raise Refuse(
                f"a shape is given for {quoted(name)}, which is not among its inputs: {known}",
                "Correct the name, or leave that shape out",
            )
        _take_shape(by_name[name], tuple(shape), sizes)
    inner = {dim for tensor in inputs for dim in (tensor.dims or ())[1:]}
    for tensor in inputs:
        first = tensor.dims[0] if _may_be_batch(tensor.dims) and tensor.dims else None
        if tensor.name not in shapes and isinstance(first, str) and first not in inner:
            sizes.setdefault(first, 1)
    return sizes


def _take_shape(tensor: _Tensor, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Note the named sizes in a given shape, or refuse a shape that does not fit the file."""
    dims = tensor.dims if tensor.dims is not None else (None,) * len(shape)
    fits = len(dims) == len(shape) and all(
        size >= 1 and (not isinstance(dim, int) or size == dim)
        for dim, size in zip(dims, shape, strict=True)
    )
    if not fits:
        example = _flag(tensor.name, _example(tensor, dict(sizes)))
        raise Refuse(
            f"its input {quoted(tensor.name)} is {_shown(dims)} and cannot be {list(shape)}",
            f"Give it a shape that fits, such as `{example}`. {_OPEN_SIZES}",
        )
    for dim, size in zip(dims, shape, strict=True):
        if isinstance(dim, str) and sizes.setdefault(dim, size) != size:
            raise Refuse(
                f"the given shapes make its size {quoted(dim)} both {sizes[dim]} and {size}",
                "Give all inputs that share this size the same number for it",
            )


def _fix_inputs(
    inputs: list[_Tensor], shapes: Shapes, sizes: dict[str, int]
) -> list[tuple[int, ...]]:
    """Return every input's shape, or refuse with the shapes that must be given."""
    fixed = [_fixed(tensor, shapes, sizes) for tensor in inputs]
    unfixed = [tensor for tensor, shape in zip(inputs, fixed, strict=True) if shape is None]
    if unfixed:
        raise _refuse_open(unfixed, sizes)
    return [shape for shape in fixed if shape is not None]


def _fixed(tensor: _Tensor, shapes: Shapes, sizes: dict[str, int]) -> tuple[int, ...] | None:
    if tensor.name in shapes:
        shape = tuple(shapes[tensor.name])
    elif tensor.dims is None:
        return None
    else:
        shape = tuple(s for s in _resolved(tensor.dims, sizes) if s is not None)
        if len(shape) < len(tensor.dims):
            return None
    check_tensor_bytes(f"its input {quoted(tensor.name)}", shape, ELEMENT_OF[tensor.datatype])
    return shape


def _resolved(dims: Dims, sizes: dict[str, int]) -> list[int | None]:
    """Put in the sizes that are known, 1 for a batch axis without a name, None for the rest."""
    resolved = [sizes.get(dim) if isinstance(dim, str) else dim for dim in dims]
    if dims and dims[0] is None and _may_be_batch(dims):
        resolved[0] = 1
    return resolved


def _may_be_batch(dims: Dims | None) -> bool:
    """Tell whether the first axis may be a batch: the only axis of a vector is its length."""
    return dims is not None and len(dims) > 1


def _refuse_open(unfixed: list[_Tensor], sizes: dict[str, int]) -> Refuse:
    named = " and ".join(f"{quoted(t.name)} {_shown(t.dims)}" for t in unfixed)
    many = len(unfixed) > 1
    sizes = dict(sizes)
    examples = {tensor.name: _example(tensor, sizes) for tensor in unfixed}
    flags = " ".join(_flag(name, shape) for name, shape in examples.items())
    table = ", ".join(f"{_toml_key(name)} = {list(shape)}" for name, shape in examples.items())
    return Refuse(
        f"its input{'s' * many} {named} leave{'s' * (not many)} sizes open",
        f"Give those that it was made for, for example `{flags}`, "
        f"or in the estate `shapes = {{ {table} }}`",
    )


def _example(tensor: _Tensor, sizes: dict[str, int]) -> tuple[int, ...]:
    """Return a shape that fits, and note the sizes made up for it: one name has one size."""
    dims = tensor.dims if tensor.dims is not None else (1, None)
    made_up = _EXAMPLE_IMAGE_SIZE if len(dims) == _IMAGE_RANK else _EXAMPLE_SIZE
    for dim in dims:
        if isinstance(dim, str):
            sizes.setdefault(dim, made_up)
    return tuple(size or made_up for size in _resolved(dims, sizes))


def _shown(dims: Dims | None) -> str:
    if dims is None:
        return "(of any rank)"
    return f"[{', '.join('?' if dim is None else str(dim) for dim in dims)}]"


def _flag(name: str, shape: tuple[int, ...]) -> str:
    return "--shape " + shlex.quote(f"{name}={','.join(map(str, shape))}")


def _toml_key(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]+", name):
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _settle_inputs(proto: "onnx.ModelProto", shapes: dict[str, tuple[int, ...]]) -> bool:
    """Write the inputs' sizes into the model; tell whether that changed anything."""
    changed = False
    for i in reversed(range(len(proto.graph.input))):
        value = proto.graph.input[i]
        if value.name in shapes:
            changed |= _write_sizes(value.type.tensor_type, shapes[value.name])
        else:
            # A weight listed as an input counts as changeable: nothing with it is optimised.
            del proto.graph.input[i]
            changed = True
    return changed


def _write_sizes(tensor: "onnx.TypeProto.Tensor", sizes: tuple[int, ...]) -> bool:
    if tensor.HasField("shape") and tuple(dim.dim_value for dim in tensor.shape.dim) == sizes:
        return False
    tensor.shape.Clear()
    for size in sizes:
        tensor.shape.dim.add().dim_value = size
    return True


# What the outputs' sizes are


def _inferred_outputs(proto: "onnx.ModelProto", outputs: list[_Tensor]) -> list[_Tensor]:
    """Return the outputs with the sizes that follow from the inputs'."""
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return outputs  # a model that does not add up is for the runtime to refuse
    for value in (*graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        known = [dim.dim_value for dim in tensor.shape.dim if dim.dim_value > 0]
        check_tensor_bytes(f"its tensor {quoted(value.name)}", known, tensor.elem_type)
    return [_declared("output", value) for value in graph.output]


def _output_shape(output: _Tensor, sizes: dict[str, int]) -> tuple[int, ...]:
    """Return an output's shape with −1 for what a run must tell; (−1,) where all is unknown."""
    if output.dims is None:
        return (-1,)
    known = [sizes.get(dim) if isinstance(dim, str) else dim for dim in output.dims]
    return tuple(-1 if size is None else size for size in known)
