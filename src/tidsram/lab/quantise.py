"""Make the int8 form of a model: weights and activations in 8 bits, ranges measured on samples.

Says nothing about what that costs in accuracy: a form may run at full speed and find nothing, so
`lab.validate` judges it like any other.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from tidsram.engine import ort
from tidsram.engine.base import Array, Engine, RunFailed, words_of
from tidsram.engine.inspect import fix_model
from tidsram.engine.memory import zeros
from tidsram.errors import TidsramError
from tidsram.lab.optimise import first, optimised, tidy, with_sizes, written

if TYPE_CHECKING:
    import onnx

_LAYERS: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # where the time goes
# What lies between layers and has an 8-bit kernel: left in float, it would convert to and fro.
_BETWEEN: Final = (
    "Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "LeakyRelu",
    "MaxPool", "Mul", "Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Split", "Squeeze",
    "Transpose", "Unsqueeze",
)  # fmt: skip
_OPSET_MIN: Final = 13  # the first in which each channel has a scale of its own
_F32: Final = 1  # ONNX's number for the type
_INFERRED: Final = ("onnx.infer", "onnxruntime.quant")  # tells the quantiser that sizes are known


class CannotQuantise(TidsramError):
    """A model that has no int8 form; the sentence says why."""

    code = "cannot-quantise"

    def __init__(self, model: str, reason: str) -> None:
        self.model, self.reason = model, reason
        super().__init__(f"model {model} has no int8 form: {reason}.")


def quantises(operators: Iterable[str]) -> bool:
    """Tell whether one of the operators is of a quantised model."""
    marks = ("QuantizeLinear", "DequantizeLinear", "QLinear", "QGemm", "Integer", "NBits")
    return any(mark in operator for operator in operators for mark in marks)


def layers_of(data: bytes) -> tuple[str, ...]:
    """Return the names of a screened model's layers, the first first: for `int8` to leave out.

    Leaving the first out often saves accuracy and costs little time.
    """
    import onnx

    graph = _named(onnx.ModelProto.FromString(data)).graph
    return tuple(node.name for node in graph.node if node.op_type in _LAYERS)


def int8(
    data: bytes,
    name: str,
    samples: Iterable[Mapping[str, Array]],
    scratch: Path,
    exclude: Sequence[str] = (),
) -> bytes:
    """Return the model in int8, calibrated on `samples` (input → array); the same gives the same.

    The last layers and what follows them stay in float, and so do the nodes named in `exclude`. A
    number beyond all that the samples lead to is cut off, so they must hold what is rare. `scratch`
    is a directory for files that are gone at the end. Raises CannotQuantise.
    """
    import onnx

    source = _named(onnx.ModelProto.FromString(fix_model(data, name)[0]))
    _check_can(source, name, exclude)
    proto = _prepared(written(source), name, scratch)
    ranges = _ranges(proto, name, samples)
    kept_float = {*exclude, *_leading_to_no_layer(proto.graph), *_unbounded(proto.graph, ranges)}
    if not any(n.op_type in _LAYERS and n.name not in kept_float for n in proto.graph.node):
        raise CannotQuantise(name, "it has no layer, beside the last, that int8 would make faster")
    result = _quantised(proto, name, ranges, kept_float)
    tidy(result)
    return written(result)


def _check_can(proto: "onnx.ModelProto", name: str, exclude: Sequence[str]) -> None:
    if quantises(node.op_type for node in proto.graph.node):
        raise CannotQuantise(name, "it is quantised already; give the float model")
    unknown = set(exclude) - {node.name for node in proto.graph.node}
    if unknown:
        raise CannotQuantise(name, f"it has no node {min(unknown)!r} to leave in float")
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < _OPSET_MIN:
        raise CannotQuantise(
            name, f"it uses opset {opset}, and int8 needs {_OPSET_MIN}; export it with a later one"
        )


def _named(proto: "onnx.ModelProto") -> "onnx.ModelProto":
    """Give every node a name, to tell what stays in float."""
    for i, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
    return proto


# Before: a graph whose ranges can be measured


def _prepared(data: bytes, name: str, scratch: Path) -> "onnx.ModelProto":
    """Return the simplified model with its sizes inferred."""
    import onnx

    fixed, _ = fix_model(optimised(data, name, scratch), name)
    proto = onnx.ModelProto.FromString(fixed)
    _merge_pads(proto.graph)
    del proto.graph.value_info[:]
    return with_sizes(_named(proto))


def _merge_pads(graph: "onnx.GraphProto") -> None:
    """Give pools the padding that stands before them.

    Exporters pad with −∞ before a MaxPool. In a quantised graph that number would stretch the range
    of its tensor over everything, and all that is real would round to zero.
    """
    pads = {first(node.output): node for node in graph.node if node.op_type == "Pad"}
    for pool in graph.node:
        pad = pads.get(first(pool.input)) if pool.op_type == "MaxPool" else None
        margins = _lowest_margins(pad, graph) if pad is not None else None
        if pad is not None and margins is not None and _takes(pool, margins):
            pool.input[0] = pad.input[0]
    used = {name for node in graph.node for name in node.input}
    used.update(value.name for value in graph.output)
    for i in reversed(range(len(graph.node))):
        if graph.node[i].op_type == "Pad" and first(graph.node[i].output) not in used:
            del graph.node[i]


def _lowest_margins(pad: "onnx.NodeProto", graph: "onnx.GraphProto") -> list[int] | None:
    """Return the margins of a padding that no maximum can see, else None."""
    import onnx

    constants = {t.name: t for t in graph.initializer if t.name in pad.input}
    plain = all(a.name != "mode" or a.s == b"constant" for a in pad.attribute)
    if not plain or len(pad.input) != 3 or not {*pad.input[1:]} <= constants.keys():
        return None
    margins, filling = (onnx.numpy_helper.to_array(constants[name]) for name in pad.input[1:])
    if float(filling) > np.finfo(np.float32).min:
        return None
    return [int(margin) for margin in margins]


def _takes(pool: "onnx.NodeProto", margins: list[int]) -> bool:
    """Add margins to a pool's own, where they surround its places only; tell whether that went."""
    import onnx

    rank = len(margins) // 2
    outer = [margins[0], margins[1], margins[rank], margins[rank + 1]]
    inner = margins[2:rank] + margins[rank + 2 :]
    has = {a.name: onnx.helper.get_attribute_value(a) for a in pool.attribute}
    kernel, own = has.get("kernel_shape", []), has.get("pads", [0] * len(inner))
    if not len(kernel) * 2 == len(own) == len(inner) > 0:
        return False
    total = [a + b for a, b in zip(inner, own, strict=True)]
    if any(outer) or min(inner) < 0 or has.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return False
    if any(margin >= size for margin, size in zip(total, [*kernel, *kernel], strict=True)):
        return False
    kept = [a for a in pool.attribute if a.name not in ("pads", "auto_pad")]
    del pool.attribute[:]
    pool.attribute.extend([*kept, onnx.helper.make_attribute("pads", total)])
    return True


# The ranges


def _ranges(
    proto: "onnx.ModelProto", name: str, samples: Iterable[Mapping[str, Array]]
) -> dict[str, tuple[np.float32, np.float32]]:
    """Return the smallest and largest number seen in each float tensor."""
    tensors = sorted(_float_tensors(proto.graph))
    engine = ort.load(_with_extremes(proto, tensors), name, 1)
    inputs, seen = [zeros(t) for t in engine.spec.inputs], zeros(engine.spec.outputs[0])
    binding = engine.bind(inputs, [seen])
    low, high = np.full(len(tensors), np.inf), np.full(len(tensors), -np.inf)
    count = 0
    for sample in samples:
        _fill(engine, inputs, sample, name)
        try:
            engine.run(binding, count)
        except RunFailed as failed:
            raise CannotQuantise(name, f"it fails on a sample ({failed})") from None
        low, high = np.minimum(low, seen[0]), np.maximum(high, seen[1])
        count += 1
    if not count:
        raise CannotQuantise(name, "there is no sample to measure its ranges on; give some data")
    return {t: (np.float32(a), np.float32(b)) for t, a, b in zip(tensors, low, high, strict=True)}


def _fill(engine: Engine, inputs: Sequence[Array], sample: Mapping[str, Array], name: str) -> None:
    for tensor, array in zip(engine.spec.inputs, inputs, strict=True):
        given = sample.get(tensor.name)
        if given is None or given.shape != array.shape or given.dtype != array.dtype:
            wanted = f"its input {tensor.name!r} is {array.dtype} {list(array.shape)}"
            found = "none" if given is None else f"{given.dtype} {list(given.shape)}"
            raise CannotQuantise(name, f"{wanted}, and a sample has {found}")
        array[...] = given


def _float_tensors(graph: "onnx.GraphProto") -> Iterator[str]:
    values = [*graph.input, *graph.output, *graph.value_info]
    floats = {v.name for v in values if v.type.tensor_type.elem_type == _F32}
    weights = {tensor.name for tensor in graph.initializer}
    touched = {name for node in graph.node for name in (*node.input, *node.output)}
    yield from floats & touched - weights


def _with_extremes(proto: "onnx.ModelProto", tensors: Sequence[str]) -> bytes:
    """Return the model with one output: the minima and the maxima of `tensors`, in two rows."""
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    graph, make = probe.graph, onnx.helper.make_node
    for kind in ("Min", "Max"):
        row = [f"{kind} of {tensor}" for tensor in tensors]
        for tensor, end in zip(tensors, row, strict=True):
            graph.node.append(make(f"Reduce{kind}", [tensor], [f"{end} alone"], keepdims=0))
            graph.node.append(make("Reshape", [f"{end} alone", "one by one"], [end]))
        graph.node.append(make("Concat", row, [kind], axis=1))
    graph.node.append(make("Concat", ["Min", "Max"], ["extremes"], axis=0))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1]), "one by one"))
    del graph.output[:]
    sizes = [2, len(tensors)]
    graph.output.append(onnx.helper.make_tensor_value_info("extremes", _F32, sizes))
    return written(probe)


# What stays in float


def _leading_to_no_layer(graph: "onnx.GraphProto") -> Iterator[str]:
    """Give the last layers and what finishes the answer: rounding and cutting off would show.

    They cost little in float. In int8, a score above all those that the samples lead to is cut off,
    and where a sample shows nothing of what is sought, no answer ever would.
    """
    needed: set[str] = set()
    for node in reversed(graph.node):
        leads_on = not needed.isdisjoint(node.output)
        if leads_on or node.op_type in _LAYERS:
            needed.update(node.input)
        if not leads_on:
            yield node.name


def _unbounded(
    graph: "onnx.GraphProto", ranges: Mapping[str, tuple[np.float32, np.float32]]
) -> Iterator[str]:
    """Give the nodes at a tensor in which no finite range was seen, or that is no float32."""
    limit = float(np.finfo(np.float32).max)
    bounded = {t for t, (low, high) in ranges.items() if float(high) - float(low) < limit}
    bounded |= {"", *(tensor.name for tensor in graph.initializer)}
    for node in graph.node:
        if not bounded.issuperset((*node.input, *node.output)):
            yield node.name


# The int8 graph


def _quantised(
    proto: "onnx.ModelProto",
    name: str,
    ranges: Mapping[str, tuple[np.float32, np.float32]],
    kept_float: set[str],
) -> "onnx.ModelProto":
    ort.runtime()
    from onnxruntime import quantization as q

    proto.metadata_props.add(key=_INFERRED[0], value=_INFERRED[1])
    found = {
        tensor: q.TensorData(lowest=np.array(low), highest=np.array(high))
        for tensor, (low, high) in ranges.items()
    }
    try:
        with _quietly(), np.errstate(all="ignore"):
            quantiser = q.QDQQuantizer(
                proto,
                per_channel=True,
                reduce_range=False,
                weight_qType=q.QuantType.QInt8,
                activation_qType=q.QuantType.QUInt8,
                tensors_range=q.TensorsData(q.CalibrationMethod.MinMax, found),
                nodes_to_quantize=[],
                nodes_to_exclude=sorted(kept_float),
                op_types_to_quantize=[*_LAYERS, *_BETWEEN],
                extra_options={},
            )
            quantiser.quantize_model()
    except Exception as error:  # noqa: BLE001 - the quantiser's errors share no other base
        raise CannotQuantise(
            name, f"ONNX Runtime's quantiser cannot take it ({words_of(error, ())})"
        ) from None
    result: onnx.ModelProto = quantiser.model.model
    for i in reversed(range(len(result.metadata_props))):
        if result.metadata_props[i].key == _INFERRED[0]:
            del result.metadata_props[i]
    return result


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the quantiser's remarks off the terminal: they are for its authors."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
        root.handlers[:] = handlers  # its first remark would have added one for good
