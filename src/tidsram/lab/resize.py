"""Make the same net for images of another size, where the net allows it.

Convolutions work at any size, but exporters write sizes of the whole image into constants: the
target of a Reshape, the kernel of a pool over everything. Each is found by comparing the sizes of
the tensors around it before and after, and changed only where one reading fits; what cannot be
carried over is refused, never guessed.
"""

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

from tidsram.engine import ort
from tidsram.engine.base import RunFailed
from tidsram.engine.inspect import fix_model
from tidsram.engine.memory import zeros
from tidsram.engine.screen import quoted
from tidsram.errors import ModelRefused, TidsramError
from tidsram.lab.optimise import first, tidy, with_sizes, written

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]
Size = tuple[int, int]  # width, height
Layout = Literal["nchw", "nhwc"]
_Constant = np.ndarray[Any, Any]

_SCALES: Final = (1.0, 0.77, 0.54)  # 416 → 320 → 224: each about half the work of the one before
_STARTS, _ENDS, _AXES = 1, 2, 3  # inputs of a Slice
_SMALL: Final = 1024  # elements: a larger constant is no list of sizes


class CannotResize(TidsramError):
    """A net that is made for one image size; the sentence says what in it is."""

    code = "cannot-resize"

    def __init__(self, model: str, size: Size, reason: str) -> None:
        self.model, self.size, self.reason = model, size, reason
        super().__init__(f"model {model} cannot be made {size[0]} × {size[1]}: {reason}.")


class _Fixed(Exception):
    """A reason, on its way to becoming a CannotResize."""


def sizes_for(data: bytes, layout: Layout) -> list[Size]:
    """Return the image sizes worth trying, the model's own first; none where it takes no image.

    They lie a whole number of the net's strides apart, so that every grid in it stays whole.
    """
    import onnx

    proto = onnx.ModelProto.FromString(fix_model(data, "to resize")[0])
    image = _image(proto.graph, layout)
    if image is None:
        return []
    stride = _stride(proto)
    own = image.size
    sizes = [(_near(own[0], scale, stride), _near(own[1], scale, stride)) for scale in _SCALES]
    return [own, *(s for s in dict.fromkeys(sizes) if s != own and min(s) >= 2 * stride)]


def resized(data: bytes, name: str, size: Size, layout: Layout) -> bytes:
    """Return the net for images of `size`, proved by a run; raise CannotResize with the reason.

    `name` is the model's in the sentence. The same model and size give the same bytes.
    """
    try:
        return _resized(data, name, size, layout)
    except _Fixed as fixed:
        raise CannotResize(name, size, str(fixed)) from None


def _resized(data: bytes, name: str, size: Size, layout: Layout) -> bytes:
    import onnx

    proto = onnx.ModelProto.FromString(fix_model(data, name)[0])
    image = _image(proto.graph, layout)
    if image is None:
        raise _Fixed("it has no input, or several, that may be an image")
    if image.size == size:
        return data
    before = _shapes(proto)
    _set_size(proto.graph, image, size)
    _carry_over(proto, before)
    _check_layers(proto, before)
    tidy(proto)
    result = written(proto)
    _prove(result, name)
    return result


# The image


class _Image(NamedTuple):
    name: str
    shape: Shape
    axes: tuple[int, int]  # of height and width

    @property
    def size(self) -> Size:
        return self.shape[self.axes[1]], self.shape[self.axes[0]]


def _image(graph: "onnx.GraphProto", layout: Layout) -> _Image | None:
    """Return the one input that may be an image."""
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in graph.input}
    images = [name for name, shape in shapes.items() if len(shape) == len(layout)]
    if len(images) != 1:
        return None
    return _Image(images[0], shapes[images[0]], (layout.index("h"), layout.index("w")))


def _set_size(graph: "onnx.GraphProto", image: _Image, size: Size) -> None:
    for value in graph.input:
        if value.name == image.name:
            dims = value.type.tensor_type.shape.dim
            dims[image.axes[0]].dim_value, dims[image.axes[1]].dim_value = size[1], size[0]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]


# The sizes to try


def _near(side: int, scale: float, stride: int) -> int:
    return side - stride * round(side * (1 - scale) / stride)


def _stride(proto: "onnx.ModelProto") -> int:
    """Return how many pixels of the image lie between two neighbours of the coarsest grid."""
    shapes = _shapes(proto)
    strides: dict[str, float] = {}
    for node in proto.graph.node:
        stride = max((strides.get(name, 1.0) for name in node.input), default=1.0)
        grid = shapes.get(first(node.output), ())[2:]
        # A grid of one place is the whole image: no neighbours are left.
        if grid and max(grid) > 1:
            stride *= _step(node, shapes)
        strides.update(dict.fromkeys(node.output, stride))
    return max(1, math.ceil(max(strides.values(), default=1.0)))


def _step(node: "onnx.NodeProto", shapes: dict[str, Shape]) -> float:
    own = [*next((a.ints for a in node.attribute if a.name == "strides"), ())]
    if node.op_type in ("Conv", "MaxPool", "AveragePool", "LpPool"):
        return float(max(own, default=1))
    if node.op_type == "ConvTranspose":
        return 1 / max(own, default=1)
    if node.op_type in ("Resize", "Upsample"):
        ins, outs = shapes.get(first(node.input), ()), shapes.get(first(node.output), ())
        return max((a / b for a, b in zip(ins[2:], outs[2:], strict=False)), default=1.0)
    return 1.0


# What shapes the tensors have


def _shapes(proto: "onnx.ModelProto") -> dict[str, Shape]:
    """Return the shape of every tensor for which it can be told without a run."""
    inferred = with_sizes(_without_weights(proto)).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        tensor = value.type.tensor_type
        shape = tuple(dim.dim_value for dim in tensor.shape.dim)
        if tensor.HasField("shape") and all(size > 0 for size in shape):
            shapes[value.name] = shape
    return shapes


def _without_weights(proto: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return the model with its large constants as inputs: inferring copies all that is in it."""
    import onnx

    light = onnx.ModelProto(
        ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions
    )
    graph = light.graph
    graph.name = proto.graph.name
    graph.node.extend(proto.graph.node)
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    for tensor in proto.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return light


# Carrying the constants over


class _Place(NamedTuple):
    """A node with the shapes around it, before and after; `sizes`: what became of which size."""

    node: "onnx.NodeProto"
    before: Shape
    after: Shape
    output: Shape  # before
    sizes: dict[int, set[int]]

    @property
    def called(self) -> str:
        return f"its {self.node.op_type} {quoted(self.node.name or first(self.node.output))}"

    def became(self, size: int) -> int:
        """Return what a size of the grid has become; itself where it is none."""
        found = self.sizes.get(size, {size})
        if len(found) > 1:
            raise _Fixed(f"in {self.called}, {size} may be the width or the height")
        return next(iter(found))

    def scaled(self, number: int, axis: int) -> int:
        """Return a number that grows and shrinks with the axis."""
        new, rest = divmod(number * self.after[axis], self.before[axis])
        if rest:
            raise _Fixed(f"{self.called} would need a fraction of a place in its grid")
        return new


def _carry_over(proto: "onnx.ModelProto", before: dict[str, Shape]) -> None:
    """Give every node the constants that fit the new sizes, first to last."""
    import onnx

    constants = dict(_small_constants(proto.graph))
    after = _shapes(proto)
    settled = {value.name for value in proto.graph.input}
    for number, node in enumerate(proto.graph.node):
        index, rule = _RULES.get(node.op_type, (-1, None))
        place = _place(node, before, after, settled) if rule else None
        given = node.input[index] if 0 <= index < len(node.input) else ""
        settled.update(node.output)
        if rule is None or place is None or (given and given not in constants):
            continue  # nothing to say, or said by other nodes that follow the new sizes
        old = constants[given] if given else np.zeros(0, np.int64)
        new = rule(place, old, [constants.get(name) for name in node.input])
        if new is not None and not np.array_equal(new, old):
            name = f"{given}_of_{number}"
            proto.graph.initializer.append(onnx.numpy_helper.from_array(new, name))
            node.input[index] = name
        if place.before != place.after or new is not None:
            after = _shapes(proto)


def _place(
    node: "onnx.NodeProto",
    before: dict[str, Shape],
    after: dict[str, Shape],
    settled: set[str],
) -> _Place | None:
    source, made = first(node.input), first(node.output)
    if source not in before or source not in after or made not in before:
        return None
    if len(before[source]) != len(after[source]):
        return None
    sizes = _sizes(before, after, settled)
    return _Place(node, before[source], after[source], before[made], sizes)


def _sizes(
    before: dict[str, Shape], after: dict[str, Shape], settled: set[str]
) -> dict[int, set[int]]:
    """Return what each size that changed has become in the tensors that are settled."""
    sizes: dict[int, set[int]] = {}
    for name in settled & before.keys() & after.keys():
        for old, new in zip(before[name], after[name], strict=False):
            if old != new:
                sizes.setdefault(old, set()).add(new)
    return sizes


def _small_constants(graph: "onnx.GraphProto") -> "Iterator[tuple[str, _Constant]]":
    import onnx

    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= _SMALL:
            yield tensor.name, onnx.numpy_helper.to_array(tensor)
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value" and math.prod(attribute.t.dims) <= _SMALL:
                yield first(node.output), onnx.numpy_helper.to_array(attribute.t)
            if attribute.name == "value_ints":
                yield first(node.output), np.array(attribute.ints, np.int64)


_Rule = Callable[[_Place, _Constant, list[_Constant | None]], _Constant | None]


def _reshape(place: _Place, target: _Constant, _: list[_Constant | None]) -> _Constant | None:
    """Keep the grouping of axes: what a group of them held before, it holds after."""
    if not target.size:
        return None  # to a single number, or written in an old form that the run finds
    if math.prod(place.before) != math.prod(place.output) or target.size != len(place.output):
        raise _Fixed(f"{place.called} contradicts the sizes around it")
    new = target.copy()
    for ins, outs in _groups(place.before, place.output):
        old_count = math.prod(place.before[i] for i in ins)
        count = math.prod(place.after[i] for i in ins)
        if count == old_count:
            continue
        options = [_readings(place, place.output[k], old_count, count) for k in outs]
        fits = {choice for choice in product(*options) if math.prod(choice) == count}
        if len(fits) != 1:
            how = "in no way" if not fits else "in more than one way"
            raise _Fixed(f"{place.called} can be carried over {how}")
        for k, size in zip(outs, fits.pop(), strict=True):
            new[k] = size if target[k] > 0 else target[k]
    return new


def _readings(place: _Place, size: int, old_count: int, count: int) -> set[int]:
    """Return what a size in a Reshape's target may become."""
    if size == 1:
        return {1}
    if size == old_count:
        return {count}
    whole = {size * count // old_count} if size * count % old_count == 0 else set()
    return {size} | place.sizes.get(size, set()) | whole


def _groups(ins: Shape, outs: Shape) -> Iterator[tuple[range, range]]:
    """Give the smallest runs of axes that hold the same number of elements on both sides."""
    i = j = 0
    while i < len(ins) and j < len(outs):
        a, b = i + 1, j + 1
        while (left := math.prod(ins[i:a])) != (right := math.prod(outs[j:b])):
            a, b = (a + 1, b) if left < right else (a, b + 1)
        yield range(i, a), range(j, b)
        i, j = a, b


def _resize(place: _Place, sizes: _Constant, _: list[_Constant | None]) -> _Constant | None:
    if not sizes.size:
        return None  # by scales, which hold at any size
    new = sizes.copy()
    for axis, size in enumerate(sizes):
        changed = place.before[axis] != place.after[axis]
        if changed:
            new[axis] = place.scaled(int(size), axis)
        elif size != place.before[axis]:
            new[axis] = place.became(int(size))
    return new


def _expand(place: _Place, target: _Constant, _: list[_Constant | None]) -> _Constant:
    return np.array([place.became(int(size)) for size in target], target.dtype)


def _slice(place: _Place, ends: _Constant, given: list[_Constant | None]) -> _Constant | None:
    """Keep margins and strides; refuse a cut whose meaning cannot be told from its numbers."""
    if place.before == place.after:
        return None
    starts = given[_STARTS] if len(given) > _ENDS else None
    axes = given[_AXES] if len(given) > _AXES else np.arange(ends.size)
    if starts is None or axes is None:
        raise _Fixed(f"{place.called} cuts at places that are written in an old form")
    new = ends.copy()
    for k, axis in enumerate(int(a) for a in axes):
        old = place.before[axis]
        start, end = int(starts[k]), int(ends[k])
        if old == place.after[axis]:
            continue
        if end == old:
            new[k] = place.after[axis]
        # All of it, from its first place or the next; or with the same margin on both sides.
        if not ((end >= old and start <= 1) or (0 <= start == -end)):
            raise _Fixed(f"{place.called} cuts places {start} to {end} out of {old}")
    return new


def _split(place: _Place, parts: _Constant, _: list[_Constant | None]) -> _Constant | None:
    axis = next((a.i for a in place.node.attribute if a.name == "axis"), 0)
    if not parts.size or place.before[axis] == place.after[axis]:
        return None
    return np.array([place.scaled(int(part), axis) for part in parts], parts.dtype)


def _pool(place: _Place, _: _Constant, __: list[_Constant | None]) -> None:
    """Let a pool over the whole grid stay one."""
    over_everything = set(place.output[2:]) == {1}
    for attribute in place.node.attribute if over_everything else ():
        if attribute.name == "kernel_shape" and tuple(attribute.ints) == place.before[2:]:
            attribute.ints[:] = place.after[2:]


# Operator → which input holds its sizes (-1: none), and what becomes of them.
_RULES: Final[dict[str, tuple[int, _Rule]]] = {
    "Reshape": (1, _reshape),
    "Resize": (3, _resize),
    "Expand": (1, _expand),
    "Slice": (_ENDS, _slice),
    "Split": (1, _split),
    "AveragePool": (-1, _pool),
    "MaxPool": (-1, _pool),
}


# Whether it went


def _check_layers(proto: "onnx.ModelProto", before: dict[str, Shape]) -> None:
    """Say in words what the commonest obstacles are; the run finds the others."""
    after = _shapes(proto)
    weights = {tensor.name for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        called = f"its {node.op_type} {quoted(node.name or first(node.output))}"
        fixed = [name for name in node.input if name in weights]
        given = [name for name in node.input if name not in weights and name in after]
        if not fixed or not given or given[0] not in before:
            continue
        if node.op_type in ("Gemm", "MatMul") and before[given[0]][-1] != after[given[0]][-1]:
            raise _Fixed(
                f"{called} has weights for the {before[given[0]][-1]} places of the whole image "
                "and none for another number"
            )
        if node.op_type in ("Add", "Sub", "Mul", "Div", "Concat") and _clash(
            after[fixed[0]], before[given[0]], after[given[0]]
        ):
            raise _Fixed(
                f"{called} uses a table {list(after[fixed[0]])} that has an entry for each place "
                "of the image"
            )


def _clash(table: Shape, before: Shape, after: Shape) -> bool:
    """Tell whether a table was as long as an axis that has changed."""
    axes = zip(reversed(table), reversed(before), reversed(after), strict=False)
    return any(old != new and size == old != 1 for size, old, new in axes)


def _prove(data: bytes, name: str) -> None:
    """Run the net once: its outputs must be of the sizes that it declares, and finite."""
    try:
        engine = ort.load(data, name, 1)
        inputs = [_ramp(zeros(tensor)) for tensor in engine.spec.inputs]
        outputs = [zeros(t) if t.nbytes >= 0 else None for t in engine.spec.outputs]
        own = engine.run(engine.bind(inputs, outputs), 0)
    except ModelRefused as refused:
        raise _Fixed(refused.problem) from None
    except RunFailed as failed:
        raise _Fixed(f"it fails when run ({failed})") from None
    for output, mine in zip(outputs, own, strict=True):
        values = output if output is not None else mine
        if values is not None and not np.isfinite(values).all():
            raise _Fixed("its answers are no longer finite numbers")


def _ramp(array: _Constant) -> _Constant:
    """Fill an array with numbers from 0 to 1, an image that is not all alike."""
    array[...] = np.linspace(0, 1, array.size).reshape(array.shape).astype(array.dtype)
    return array
