"""From the raw frame to the model's input, inside the graph.

The truth is what `client.question` makes with pillow, whose BILINEAR looks at every pixel when it
shrinks. ONNX's Resize does that too, but slowly. Shrinking is two sparse matrix products, one down
the rows and one along them; cut into blocks of neighbouring outputs they are dense and small, and
8-bit integers hold the pixels and weights: half of Resize's time, and nearer to pillow, within
2 of 255 levels on photographs.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidsram.client.question import GROUND, Size, placed
from tidsram.estate.types import Question
from tidsram.lab.fuse_graph import FLOAT, Graph, int64

Floats = NDArray[np.float64]

FRAME: Final = "frame"
_ROWS_A_BLOCK: Final = 8
_COLUMNS_A_BLOCK: Final = 16

_ROW_WEIGHTS: Final = 255  # what the weights of a row add up to: 8 bits without a sign
# Along the rows the weights are the constant side of the product, where signed ones are faster.
# Adding up to 127, two of them times 255 never exceed the 16 bits that older processors sum in.
_COLUMN_WEIGHTS: Final = 127

_ONE: Final = np.array(1, np.float32)
_ZERO_U8: Final = np.array(0, np.uint8)
_ZERO_I8: Final = np.array(0, np.int8)


class Placing(NamedTuple):
    """Where a frame lies in what the model sees: `inner` is its size there; all in pixels."""

    frame: Size
    model: Size
    inner: Size
    corner: Size  # left, top

    @property
    def scale(self) -> tuple[float, float]:
        """How many pixels of the frame one of the model's covers, across and down."""
        return self.frame[0] / self.inner[0], self.frame[1] / self.inner[1]


def place(question: Question, frame: Size, model: Size) -> Placing:
    """Say where `frame` comes to lie in the model's input."""
    inner, corner = placed(model, frame, question.fit)
    return Placing(frame, model, inner, corner)


def channels_of(question: Question) -> int:
    """Return how many channels the frame of a question has, all its images together."""
    return (1 if question.color == "gray" else 3) * question.images


def add_question(graph: Graph, question: Question, placing: Placing) -> str:
    """Append what makes the model's float32 input from the frame; return its name."""
    channels = channels_of(question)
    (width, height), (inner_width, inner_height) = placing.frame, placing.inner
    rows = graph.add("Reshape", FRAME, int64(1, height, width * channels))
    if inner_height != height:
        rows = _resize_rows(graph, rows, height, inner_height, width * channels)
    order = _channel_order(question)
    if inner_width != width:
        planes = _resize_columns(graph, rows, width, placing.inner, order)
    else:
        pixels = graph.add("Reshape", rows, int64(inner_height, width, channels))
        planes = _as_planes(graph, pixels, order)
    shape = int64(1, channels, inner_height, inner_width)
    planes = _on_ground(graph, graph.add("Reshape", planes, shape), placing)
    planes = _normalise(graph, graph.add("Cast", planes, to=FLOAT), question)
    return (
        planes if question.layout == "nchw" else graph.add("Transpose", planes, perm=[0, 2, 3, 1])
    )


def _channel_order(question: Question) -> list[int]:
    """Return for each of the model's channels which of the frame's it is."""
    if question.color == "gray":
        return list(range(question.images))
    one = [2, 1, 0] if question.color == "bgr" else [0, 1, 2]
    return [3 * image + channel for image in range(question.images) for channel in one]


def _resize_rows(graph: Graph, rows: str, height: int, wanted: int, row: int) -> str:
    """Make `height` rows of `row` bytes into as many as `wanted`."""
    starts, blocks = _blocks(height, wanted, _ROWS_A_BLOCK)
    windows = starts[:, None] + np.arange(blocks.shape[2])
    weights = _in_steps(blocks, _ROW_WEIGHTS).astype(np.uint8)
    step = np.array(1 / _ROW_WEIGHTS, np.float32)
    flat = graph.add("Reshape", rows, int64(height, row))
    seen = graph.add("Gather", flat, windows, axis=0)
    made = graph.add("QLinearMatMul", weights, step, _ZERO_U8, seen, _ONE, _ZERO_U8, _ONE, _ZERO_U8)
    joined = graph.add("Reshape", made, int64(1, -1, row))
    return _first(graph, joined, 1, weights.shape[0] * weights.shape[1], wanted)


def _resize_columns(graph: Graph, rows: str, width: int, wanted: Size, order: list[int]) -> str:
    """Make rows of `width` interleaved pixels into planes of the size `wanted`, in `order`."""
    channels, (columns, height) = len(order), wanted
    starts, blocks = _blocks(width, columns, _COLUMNS_A_BLOCK)
    count, block, window = blocks.shape
    weights = np.zeros((count, window, channels, channels, block), np.int8)
    for to, channel in enumerate(order):
        steps = _in_steps(blocks, _COLUMN_WEIGHTS)
        weights[:, :, channel, to, :] = steps.transpose(0, 2, 1)
    flat = weights.reshape(count, window * channels, channels * block)
    cuts = [(int(start) * channels, int(start + window) * channels) for start in starts]
    seen = [graph.add("Slice", rows, int64(a), int64(b), int64(2)) for a, b in cuts]
    step = np.array(1 / _COLUMN_WEIGHTS, np.float32)
    joined = graph.add("Concat", *seen, axis=0)
    made = graph.add("QLinearMatMul", joined, _ONE, _ZERO_U8, flat, step, _ZERO_I8, _ONE, _ZERO_U8)
    apart = graph.add("Reshape", made, int64(count, height, channels, block))
    planes = graph.add("Transpose", apart, perm=[2, 1, 0, 3])
    joined = graph.add("Reshape", planes, int64(channels, height, count * block))
    return _first(graph, joined, 2, count * block, columns)


def _first(graph: Graph, value: str, axis: int, size: int, wanted: int) -> str:
    """Cut off what the last block made too much."""
    if size == wanted:
        return value
    return graph.add("Slice", value, int64(0), int64(wanted), int64(axis))


def _as_planes(graph: Graph, pixels: str, order: list[int]) -> str:
    planes = graph.add("Transpose", pixels, perm=[2, 0, 1])
    if order == sorted(order):
        return planes
    return graph.add("Gather", planes, int64(*order), axis=0)


def _on_ground(graph: Graph, planes: str, placing: Placing) -> str:
    """Lay the planes on a grey ground of the model's size."""
    if placing.inner == placing.model:
        return planes
    left, top = placing.corner
    right, bottom = (placing.model[i] - placing.inner[i] - placing.corner[i] for i in (0, 1))
    pads = int64(0, 0, top, left, 0, 0, bottom, right)
    return graph.add("Pad", planes, pads, np.array(GROUND, np.uint8))


def _normalise(graph: Graph, planes: str, question: Question) -> str:
    """Append (x − mean) / std for each channel: a BatchNormalization does it in one pass."""
    channels = channels_of(question)
    mean, std = _for_each(question.mean, channels), _for_each(question.std, channels)
    if not mean.any() and (std == 1).all():
        return planes
    scale, shift = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    return graph.add("BatchNormalization", planes, scale, shift, mean, std**2, epsilon=0.0)


def _for_each(values: tuple[float, ...], channels: int) -> NDArray[np.float32]:
    """Repeat one number, or one image's numbers, for all channels."""
    return np.tile(np.array(values, np.float32), channels // len(values))


# The weights of pillow's BILINEAR


def _weights(size: int, wanted: int) -> Floats:
    """Return the share of each of `size` pixels in each of `wanted`: a triangle around it."""
    scale = size / wanted
    reach = max(scale, 1.0)
    centres = (np.arange(wanted) + 0.5) * scale
    pixels = np.arange(size) + 0.5
    triangles = np.clip(1 - np.abs(pixels - centres[:, None]) / reach, 0, None)
    shares: Floats = triangles / triangles.sum(axis=1, keepdims=True)
    return shares


def _blocks(size: int, wanted: int, block: int) -> tuple[NDArray[np.int64], Floats]:
    """Cut the weights into blocks of outputs, each over the window of pixels that it looks at.

    All windows have one length; returns where each starts, and weights [blocks, block, window].
    """
    count = -(-wanted // block)
    weights = np.zeros((count * block, size))
    weights[:wanted] = _weights(size, wanted)
    looked_at: NDArray[np.bool_] = weights.reshape(count, block, size).max(axis=1) > 0
    first, last = looked_at.argmax(axis=1), size - looked_at[:, ::-1].argmax(axis=1)
    window = int((last - first).max())
    starts = np.minimum(first, size - window)
    cut = [weights[i * block : (i + 1) * block, s : s + window] for i, s in enumerate(starts)]
    return starts.astype(np.int64), np.stack(cut)


def _in_steps(weights: Floats, total: int) -> Floats:
    """Round the weights to whole steps that add up to `total` for each output, as they did to 1.

    So a plain area keeps its colour exactly.
    """
    exact = weights * total
    steps = np.floor(exact)
    missing = np.rint(exact.sum(axis=-1) - steps.sum(axis=-1))
    rank = np.argsort(np.argsort(steps - exact, axis=-1, kind="stable"), axis=-1)
    steps += rank < missing[..., None]
    return steps
