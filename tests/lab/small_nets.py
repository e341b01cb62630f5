"""Small image nets for tests, as the bytes of their files; their weights are always the same."""

from collections.abc import Callable, Sequence

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

F32 = TensorProto.FLOAT
CHANNELS = 6  # of the features
STRIDE = 4

node = helper.make_node
value = helper.make_tensor_value_info

# The end of a net: nodes and constants that make "y" of "features", for a grid of a size.
End = Callable[[int, int], tuple[list[NodeProto], dict[str, np.ndarray]]]


def model_of(graph: GraphProto, opset: int = 17) -> bytes:
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def image_net(end: End, size: tuple[int, int] = (64, 64), opset: int = 17) -> bytes:
    """Return a net on images [1, 3, height, width]: two strided convolutions and an end."""
    width, height = size
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"], name="first", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"], name="relu"),
        node("Conv", ["b", "w2"], ["features"], name="second", strides=[2, 2], pads=[1, 1, 1, 1]),
    ]
    weights = {"w1": noise(5, 3, 3, 3), "b1": noise(5), "w2": noise(CHANNELS, 5, 3, 3)}
    more, constants = end(height // STRIDE, width // STRIDE)
    return model_of(
        helper.make_graph(
            [*nodes, *more],
            "net",
            [value("x", F32, [1, 3, height, width])],
            [value("y", F32, None)],
            [numpy_helper.from_array(v, k) for k, v in {**weights, **constants}.items()],
        ),
        opset,
    )


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def picture(size: tuple[int, int] = (64, 64), seed: int = 1) -> np.ndarray:
    shape = (1, 3, size[1], size[0])
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def as_they_are(height: int, width: int):
    return [node("Sigmoid", ["features"], ["y"], name="end")], {}


def as_rows(height: int, width: int):
    """Give a row for each place of the grid, with the number of places written down."""
    target = numbers(1, CHANNELS, height * width)
    return [
        node("Reshape", ["features", "target"], ["flat"]),
        node("Transpose", ["flat"], ["y"], perm=[0, 2, 1]),
    ], {"target": target}


def as_rows_and_back(height: int, width: int):
    """Give a grid again, with its height and width written down."""
    nodes, constants = as_rows(height, width)
    back = node("Reshape", ["flat", "grid"], ["y"])
    return [nodes[0], back], constants | {"grid": numbers(1, CHANNELS, height, width)}


def enlarged(height: int, width: int):
    sizes = {"sizes": numbers(1, CHANNELS, height * STRIDE, width * STRIDE)}
    return [node("Resize", ["features", "", "", "sizes"], ["y"], mode="nearest")], sizes


def pooled(height: int, width: int):
    """Average over the whole grid, with its size as the kernel, and classify."""
    return [
        node("AveragePool", ["features"], ["mean"], kernel_shape=[height, width]),
        node("Flatten", ["mean"], ["flat"]),
        node("Gemm", ["flat", "layer"], ["y"], name="classes"),
    ], {"layer": noise(CHANNELS, 3)}


def spread(height: int, width: int):
    """Give every place of the grid what the average over it is."""
    return [
        node("GlobalAveragePool", ["features"], ["mean"]),
        node("Expand", ["mean", "grid"], ["all"]),
        node("Concat", ["all", "features"], ["y"], axis=1),
    ], {"grid": numbers(1, CHANNELS, height, width)}


def cropped(height: int, width: int):
    """Leave out a margin of 2 places, as far from one side as from the other."""
    return [node("Slice", ["features", "starts", "ends", "axes"], ["y"])], {
        "starts": numbers(2, 2),
        "ends": numbers(-2, -2),
        "axes": numbers(2, 3),
    }


def halved(height: int, width: int):
    """Take the upper and the lower half apart."""
    parts = {"parts": numbers(height // 2, height // 2)}
    return [
        node("Split", ["features", "parts"], ["upper", "lower"], axis=2),
        node("Sub", ["upper", "lower"], ["y"]),
    ], parts


def fully_connected(height: int, width: int):
    """Classify with a weight for each place of the grid."""
    return [
        node("Flatten", ["features"], ["flat"]),
        node("Gemm", ["flat", "layer"], ["y"], name="head"),
    ], {"layer": noise(CHANNELS * height * width, 3)}


def with_table(height: int, width: int):
    """Add a number for each place of the grid."""
    return [node("Add", ["features", "table"], ["y"], name="places")], {
        "table": noise(1, CHANNELS, height, width)
    }


def cut(height: int, width: int):
    """Take the first five rows, whatever they are in the image."""
    return [node("Slice", ["features", "starts", "ends", "axes"], ["y"], name="rows")], {
        "starts": numbers(0),
        "ends": numbers(5),
        "axes": numbers(2),
    }


def padded_pool(filling: float = -np.inf) -> End:
    """Return an end that pads with a number, and pools."""

    def end(height: int, width: int):
        return [
            node("Pad", ["features", "margins", "filling"], ["padded"]),
            node("MaxPool", ["padded"], ["highest"], kernel_shape=[3, 3], strides=[2, 2]),
            node("Conv", ["highest", "w3"], ["y"], name="last"),
        ], {
            "margins": numbers(0, 0, 1, 1, 0, 0, 1, 1),
            "filling": np.float32(filling),
            "w3": noise(2, CHANNELS, 1, 1),
        }

    return end


RESIZABLE: Sequence[End] = (
    as_they_are, as_rows, as_rows_and_back, enlarged, pooled, spread, cropped, halved,
)  # fmt: skip
