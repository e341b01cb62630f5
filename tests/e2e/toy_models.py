"""Models whose answers are known and whose run time can be chosen."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

F32, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
SIDE = 128  # a round multiplies two matrices of this size: tens of microseconds

node = helper.make_node
value = helper.make_tensor_value_info


def tiny() -> bytes:
    """Return a small perceptron on x [1, 4]: y [1, 2] = (sum of x's positive parts, x[0])."""
    first = np.concatenate([np.eye(4), -np.eye(4)], axis=1, dtype=np.float32)
    second = np.array([[1, 1], [1, 0], [1, 0], [1, 0], [0, -1], [0, 0], [0, 0], [0, 0]], np.float32)
    nodes = [
        node("MatMul", ["x", "first"], ["both"]),
        node("Relu", ["both"], ["parts"]),
        node("MatMul", ["parts", "second"], ["y"]),
    ]
    weights = {"first": first, "second": second}
    return _file(nodes, [value("x", F32, [1, 4])], [value("y", F32, [1, 2])], weights)


def slow(rounds_at_least: int) -> bytes:
    """Return a model that takes its time: x [1, 4] and rounds [1] give y = x, after a loop.

    It makes `rounds_at_least` rounds, which its warm-up sees, and as many more as `rounds` says,
    which come as a surprise. An abort takes effect between rounds.
    """
    body = helper.make_graph(
        [
            node("Identity", ["going"], ["still_going"]),
            node("MatMul", ["state", "unit"], ["next_state"]),
        ],
        "round",
        [value("i", I64, []), value("going", BOOL, []), value("state", F32, [SIDE, SIDE])],
        [value("still_going", BOOL, []), value("next_state", F32, [SIDE, SIDE])],
    )
    nodes = [
        node("Add", ["rounds", "least"], ["count"]),
        node("Squeeze", ["count"], ["trips"]),
        node("Loop", ["trips", "yes", "unit"], ["state_out"], body=body),
        node("Slice", ["state_out", "from", "to"], ["corner"]),
        node("MatMul", ["x", "corner"], ["y"]),
    ]
    weights = {
        "least": np.array([rounds_at_least]),
        "yes": np.array(True),
        "unit": np.eye(SIDE, dtype=np.float32),
        "from": np.array([0, 0]),
        "to": np.array([4, 4]),
    }
    inputs = [value("x", F32, [1, 4]), value("rounds", I64, [1])]
    return _file(nodes, inputs, [value("y", F32, [1, 4])], weights)


def stubborn() -> bytes:
    """Return y = x [1, 4], after one operator that takes as long as `side` [1] says.

    It multiplies two square matrices of whole numbers, and no abort takes effect within.
    """
    one = helper.make_tensor("one", TensorProto.INT32, [1], [1])
    nodes = [
        node("Concat", ["side", "side"], ["shape"], axis=0),
        node("ConstantOfShape", ["shape"], ["square"], value=one),
        node("MatMul", ["square", "square"], ["product"]),
        node("ReduceMin", ["product"], ["least"], keepdims=0),
        node("Sub", ["least", "least"], ["nothing"]),
        node("Cast", ["nothing"], ["zero"], to=F32),
        node("Add", ["x", "zero"], ["y"]),
    ]
    inputs = [value("x", F32, [1, 4]), value("side", I64, [1])]
    return _file(nodes, inputs, [value("y", F32, [1, 4])], {})


def hungry() -> bytes:
    """Return y = x [1, 4], after taking memory for `count` [1] numbers, which the runtime keeps."""
    one = helper.make_tensor("one", F32, [1], [1.0])
    nodes = [
        node("ConstantOfShape", ["count"], ["many"], value=one),
        node("ReduceMin", ["many"], ["least"], keepdims=0),
        node("Sub", ["least", "least"], ["zero"]),
        node("Add", ["x", "zero"], ["y"]),
    ]
    inputs = [value("x", F32, [1, 4]), value("count", I64, [1])]
    return _file(nodes, inputs, [value("y", F32, [1, 4])], {})


def large_answer(megabytes: int) -> bytes:
    """Return y = the one number x, repeated until it is as long as told."""
    count = np.array([megabytes << 18])
    return _file(
        [node("Expand", ["x", "count"], ["y"])],
        [value("x", F32, [1])],
        [value("y", F32, [int(count[0])])],
        {"count": count},
    )


def found() -> bytes:
    """Return the places of x [1, 4] that are not zero: the data decides how many there are."""
    nodes = [node("NonZero", ["x"], ["places"])]
    return _file(nodes, [value("x", F32, [1, 4])], [value("places", I64, [2, "n"])], {})


def failing() -> bytes:
    """Return what x [1, 4] holds at `place`, which fails when there is no such place."""
    nodes = [node("Gather", ["x", "place"], ["y"], axis=1)]
    inputs = [value("x", F32, [1, 4]), value("place", I64, [1])]
    return _file(nodes, inputs, [value("y", F32, [1, 1])], {})


def marked(number: float, width: int = 2) -> bytes:
    """Return a model on x [1, 4] whose every y [1, width] is the number, whatever x is."""
    nodes = [node("MatMul", ["x", "nothing"], ["zero"]), node("Add", ["zero", "number"], ["y"])]
    weights = {
        "nothing": np.zeros((4, width), np.float32),
        "number": np.full((1, width), number, np.float32),
    }
    return _file(nodes, [value("x", F32, [1, 4])], [value("y", F32, [1, width])], weights)


def never() -> bytes:
    """Return a model that loads and fails in every run: there is no place 7 in x [1, 4]."""
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Cast", ["sum"], ["zero"], to=I64),
        node("Abs", ["zero"], ["size"]),
        node("Max", ["size", "seven"], ["place"]),
        node("Gather", ["x", "place"], ["y"], axis=1),
    ]
    y = value("y", F32, [1, 2])
    return _file(nodes, [value("x", F32, [1, 4])], [y], {"seven": np.array([7, 7])})


def root() -> bytes:
    """Return y [1, 4], the roots of x [1, 4]: NaN for what is below zero."""
    nodes = [node("Sqrt", ["x"], ["y"])]
    return _file(nodes, [value("x", F32, [1, 4])], [value("y", F32, [1, 4])], {})


def found_roots() -> bytes:
    """Return the roots of those of x [1, 4] that are not zero: the data decides how many."""
    nodes = [
        node("NonZero", ["x"], ["places"]),
        node("Transpose", ["places"], ["rows"]),
        node("GatherND", ["x", "rows"], ["found"]),
        node("Sqrt", ["found"], ["y"]),
    ]
    return _file(nodes, [value("x", F32, [1, 4])], [value("y", F32, ["n"])], {})


def _file(nodes, inputs, outputs, weights) -> bytes:
    tensors = [numpy_helper.from_array(content, name) for name, content in weights.items()]
    graph = helper.make_graph(nodes, "toy", inputs, outputs, tensors)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
