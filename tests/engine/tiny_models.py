"""Small ONNX models for tests, as the bytes of their files."""

from collections.abc import Sequence

import numpy as np
from onnx import (
    FunctionProto,
    GraphProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

F32, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL

node = helper.make_node
value = helper.make_tensor_value_info


def constant(name: str, content: object) -> TensorProto:
    """Return a weight."""
    return numpy_helper.from_array(np.asarray(content), name)


def graph(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    weights: Sequence[TensorProto] = (),
) -> GraphProto:
    """Return a graph, for a model or for the body of a Loop."""
    return helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(weights))


def file_of(
    body: GraphProto,
    *,
    domains: Sequence[str] = (),
    functions: Sequence[FunctionProto] = (),
    ir_version: int = 9,
    opset: int = 17,
) -> bytes:
    """Return the bytes of a model file around a graph."""
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    model = helper.make_model(
        body, opset_imports=opsets, ir_version=ir_version, functions=list(functions)
    )
    return bytes(model.SerializeToString())


def relu(shape: Sequence[int | str | None] | None, element: int = F32, **versions: int) -> bytes:
    """Return y = max(x, 0) with x of a declared shape."""
    body = graph(
        [node("Relu", ["x"], ["y"])], [value("x", element, shape)], [value("y", element, shape)]
    )
    return file_of(body, **versions)


def sum_and_difference() -> bytes:
    """Return total, change = b + a, b - a: two inputs and two outputs, b before a."""
    size = [2, 3]
    return file_of(
        graph(
            [node("Add", ["b", "a"], ["total"]), node("Sub", ["b", "a"], ["change"])],
            [value("b", F32, size), value("a", F32, size)],
            [value("total", F32, size), value("change", F32, size)],
        )
    )


def nonzero() -> bytes:
    """Return the indices of x's elements other than 0: how many there are depends on the data."""
    return file_of(
        graph(
            [node("NonZero", ["x"], ["indices"])],
            [value("x", F32, [1, 4])],
            [value("indices", I64, [2, None])],
        )
    )


def pick() -> bytes:
    """Return picked = x[index]: fails at an index that x does not have."""
    return file_of(
        graph(
            [node("Gather", ["x", "index"], ["picked"])],
            [value("x", F32, [4]), value("index", I64, [2])],
            [value("picked", F32, [2])],
        )
    )


def fold() -> bytes:
    """Return folded = x in a given shape: fails where x has not as many elements."""
    return file_of(
        graph(
            [node("Reshape", ["x", "shape"], ["folded"])],
            [value("x", F32, [4]), value("shape", I64, [2])],
            [value("folded", F32, [None, None])],
        )
    )


def slow(operators: int = 400, size: int = 256) -> bytes:
    """Return y = x after many rotations of its columns by one, each a matrix product."""
    rotation = np.roll(np.eye(size, dtype=np.float32), 1, axis=1)
    names = ["x", *(f"x{i}" for i in range(1, operators)), "y"]
    products = [node("MatMul", [names[i], "r"], [names[i + 1]]) for i in range(operators)]
    return file_of(
        graph(
            products,
            [value("x", F32, [size, size])],
            [value("y", F32, [size, size])],
            [constant("r", rotation)],
        )
    )


def loop(trips: int, body: GraphProto) -> bytes:
    """Return y = x after `trips` runs of a body that takes and returns a condition and x."""
    return file_of(
        graph(
            [node("Loop", ["trips", "go", "x"], ["y"], body=body, name="spin")],
            [value("x", F32, [1, 4])],
            [value("y", F32, [1, 4])],
            [constant("trips", np.int64(trips)), constant("go", np.bool_(True))],
        )
    )


def body_of_loop(nodes: Sequence[NodeProto], weights: Sequence[TensorProto] = ()) -> GraphProto:
    """Return a body whose nodes may make "on" and "x_out"; what they leave out passes through."""
    made = {name for n in nodes for name in n.output}
    return graph(
        nodes,
        [value("i", I64, []), value("cond", BOOL, []), value("x_in", F32, [1, 4])],
        [
            value("on" if "on" in made else "cond", BOOL, []),
            value("x_out" if "x_out" in made else "x_in", F32, [1, 4]),
        ],
        weights,
    )
