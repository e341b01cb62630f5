"""From a detector's raw outputs to a hundred rows of boxes, inside the graph.

All sizes inside are bounded, so that the time of the worst frame is, too.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidsram.client.question import Size
from tidsram.engine.screen import Refuse
from tidsram.estate.types import Answer
from tidsram.lab.fuse_graph import BOOL, FLOAT, INT64, Graph, int64
from tidsram.lab.fuse_outputs import as_float, check_labels, not_read
from tidsram.lab.fuse_question import Placing
from tidsram.protocol.tensors import TensorSpec

if TYPE_CHECKING:
    import onnx

BOXES_MAX: Final = 100
_CANDIDATES_MAX: Final = 3 * BOXES_MAX  # surest cells that are decoded: each thing has several
_OVERLAP_MAX: Final = 0.5
_SMALLEST_DEFECT: Final = 2.0  # cells
_SPREADS: Final = 4  # in one step of joining cells; the rest of a step costs as much as these
_FINEST_STRIDE: Final = 8
_BOX: Final = 6  # x1, y1, x2, y2, score, class


def add_boxes(
    graph: Graph, answer: Answer, outputs: Sequence[TensorSpec], placing: Placing | None
) -> tuple[str, tuple[int, ...]]:
    """Append what makes boxes of the outputs, as the answer's decoder does; return rows, shape."""
    if placing is None:
        raise Refuse(
            "boxes are in pixels of a frame, and no question's table says what that is",
            'Declare the question: kind = "image" and what the model was trained with',
        )
    if answer.decoder == "nanodet":
        rows = _add_nanodet(graph, answer, outputs, placing)
    elif answer.decoder == "defect-grid":
        rows = _add_defects(graph, answer, outputs, placing)
    else:
        raise Refuse(
            f'the answer\'s table says decoder = "{answer.decoder}", which decodes nothing',
            'Write decoder = "nanodet" or "defect-grid"',
        )
    shape = 1, BOXES_MAX, _BOX
    return graph.add("Reshape", rows, int64(*shape)), shape


# NanoDet: the surest cells are picked first, so that only they are decoded.


class _Level(NamedTuple):
    """One square grid of cells: class scores and four distance distributions for each."""

    scores: TensorSpec
    distances: TensorSpec
    stride: int


def _add_nanodet(
    graph: Graph, answer: Answer, outputs: Sequence[TensorSpec], placing: Placing
) -> str:
    levels = _nanodet_levels(outputs, placing.model)
    classes, bins = levels[0].scores.shape[2], levels[0].distances.shape[2] // 4
    check_labels(answer, classes)
    cells = sum(level.scores.shape[1] for level in levels)
    wanted = min(_CANDIDATES_MAX, cells)
    scores = _joined(graph, [level.scores for level in levels])
    best, candidates = graph.add_many(
        "TopK", 2, graph.reduce("ReduceMax", scores, 1), int64(wanted), axis=0
    )
    their_scores = graph.add("Gather", scores, candidates, axis=0)
    their_class = graph.add("ArgMax", their_scores, axis=1, keepdims=1)
    their_class = graph.add("Cast", their_class, to=FLOAT)
    distances = _joined(graph, [level.distances for level in levels])
    distances = graph.add("Gather", distances, candidates, axis=0)
    reach = _expected_bins(graph, distances, bins)
    centres, spreads = _cells_in_frame(levels, placing)
    spread = graph.add("Mul", reach, graph.add("Gather", spreads, candidates, axis=0))
    corners = graph.add("Add", graph.add("Gather", centres, candidates, axis=0), spread)
    corners = _inside(graph, corners, placing.frame)
    column = graph.add("Reshape", best, int64(wanted, 1))
    rows = graph.add("Concat", corners, column, their_class, axis=1)
    kept = _without_doubles(graph, answer, corners, best, their_class, max(placing.frame))
    found = graph.add("Concat", graph.add("Gather", rows, kept, axis=0), _no_boxes(), axis=0)
    return graph.add("Slice", found, int64(0), int64(BOXES_MAX), int64(0))


def _nanodet_levels(outputs: Sequence[TensorSpec], model: Size) -> list[_Level]:
    """Pair scores and distances by their number of cells, finest grid first."""
    expected = (
        "for each of its grids (every 8th pixel, 16th, …) the class scores and "
        "the distances of each cell, [1, cells, classes] and [1, cells, 4 × bins]"
    )
    by_cells: dict[int, dict[bool, TensorSpec]] = {}
    for output in outputs:
        if len(output.shape) != 3 or output.shape[0] != 1:
            raise not_read('decoder = "nanodet"', outputs, expected)
        # The same rule as the client's.
        is_distances = output.shape[2] % 4 == 0 and output.shape[2] < 80
        by_cells.setdefault(output.shape[1], {})[is_distances] = output
    levels = []
    for level, cells in enumerate(sorted(by_cells, reverse=True)):
        pair, stride = by_cells[cells], _FINEST_STRIDE << level
        width, height = (-(-side // stride) for side in model)
        if len(pair) != 2 or width * height != cells:
            raise not_read('decoder = "nanodet"', outputs, expected)
        levels.append(_Level(pair[False], pair[True], stride))
    kinds = {(level.scores.shape[2], level.distances.shape[2]) for level in levels}
    if len(kinds) != 1 or 2 * len(levels) != len(outputs):
        raise not_read('decoder = "nanodet"', outputs, expected)
    return levels


def _joined(graph: Graph, parts: Sequence[TensorSpec]) -> str:
    """Put the levels' cells one after the other: [cells, numbers of each]."""
    joined = graph.add("Concat", *(as_float(graph, part) for part in parts), axis=1)
    return graph.add("Reshape", joined, int64(-1, parts[0].shape[2]))


def _expected_bins(graph: Graph, distances: str, bins: int) -> str:
    """Return the mean bin of each cell's four distributions: [cells, 4]."""
    apart = graph.add("Reshape", distances, int64(-1, bins))
    mean = graph.add(
        "MatMul",
        graph.add("Softmax", apart, axis=1),
        np.arange(bins, dtype=np.float32)[:, None],
    )
    return graph.add("Reshape", mean, int64(-1, 4))


def _cells_in_frame(
    levels: Sequence[_Level], placing: Placing
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return all cells' centres, and how far one bin reaches left, up, right, down: [cells, 4]."""
    centres, spreads = [], []
    for level in levels:
        columns = -(-placing.model[0] // level.stride)
        cells = np.arange(level.scores.shape[1])
        x = (cells % columns + 0.5) * level.stride
        y = (cells // columns + 0.5) * level.stride
        centres.append(np.stack([x, y, x, y], axis=1))
        spreads.append(np.tile(np.array([-1.0, -1, 1, 1]) * level.stride, (len(cells), 1)))
    scale, origin = np.array(placing.scale * 2), np.array(placing.corner * 2)
    return (
        ((np.concatenate(centres) - origin) * scale).astype(np.float32),
        (np.concatenate(spreads) * scale).astype(np.float32),
    )


def _inside(graph: Graph, corners: str, frame: Size) -> str:
    """Move corners that lie outside the frame to its edge."""
    positive = graph.add("Max", corners, np.array(0, np.float32))
    return graph.add("Min", positive, np.array(frame * 2, np.float32))


def _without_doubles(
    graph: Graph, answer: Answer, corners: str, scores: str, classes: str, side: int
) -> str:
    """Return which candidates to keep, the surest first."""
    # Pushing each class to a place of its own lets one pass do all classes.
    push = graph.add("Mul", classes, np.array(side + 1, np.float32))
    apart = graph.add("Unsqueeze", graph.add("Add", corners, push), int64(0))
    picked = graph.add(
        "NonMaxSuppression",
        apart,
        graph.add("Unsqueeze", scores, int64(0, 1)),
        int64(BOXES_MAX),
        np.array([_OVERLAP_MAX], np.float32),
        np.array([answer.threshold], np.float32),
    )
    return graph.add("Gather", picked, np.array(2, np.int64), axis=1)


def _no_boxes() -> NDArray[np.float32]:
    return np.zeros((BOXES_MAX, _BOX), np.float32)


# Defect grid: class probabilities for every cell; channel 0 is "nothing here".


def _add_defects(
    graph: Graph, answer: Answer, outputs: Sequence[TensorSpec], placing: Placing
) -> str:
    shape = outputs[0].shape
    if len(outputs) != 1 or len(shape) != 4 or shape[0] != 1 or shape[3] < 2:
        expected = "one grid of class probabilities, [1, rows, columns, 1 + classes]"
        raise not_read('decoder = "defect-grid"', outputs, expected)
    _, rows, columns, kinds = shape
    check_labels(answer, kinds - 1)
    grid = graph.add("Reshape", as_float(graph, outputs[0]), int64(rows * columns, kinds))
    nothing = graph.add("Gather", grid, np.array(0, np.int64), axis=1)
    marked = graph.add("Less", nothing, np.array(1 - answer.threshold, np.float32))
    groups = _connected(graph, marked, rows, columns)
    cells = graph.add("Reshape", graph.add("NonZero", marked), int64(-1))
    member = _members(graph, graph.add("Gather", groups, cells, axis=0))
    weight = graph.add("Cast", member, to=FLOAT)
    count = graph.add("ReduceSum", weight, int64(1), keepdims=1)
    total = graph.add("MatMul", weight, graph.add("Gather", grid, cells, axis=0))
    mean = graph.add("Div", total, count)
    corners = _group_corners(graph, member, cells, (columns, rows), placing)
    one = np.array(1, np.float32)
    score = graph.add("Sub", one, graph.add("Slice", mean, int64(0), int64(1), int64(1)))
    things = graph.add("Slice", mean, int64(1), int64(kinds), int64(1))
    kind = graph.add("Cast", graph.add("ArgMax", things, axis=1, keepdims=1), to=FLOAT)
    found = graph.add("Concat", corners, score, kind, axis=1)
    small = graph.add("Less", count, np.array(_SMALLEST_DEFECT, np.float32))
    found = graph.add("Where", small, np.array(0, np.float32), found)
    return _surest(graph, graph.add("Concat", found, _no_boxes(), axis=0))


def _connected(graph: Graph, marked: str, rows: int, columns: int) -> str:
    """Give the marked cells that touch, corners included, one number; return all cells' numbers.

    Each cell takes the largest number around it, some times over, then the number that the cell of
    that number has: so even a long winding group is joined in few steps. The loop ends when no
    number changes.
    """
    count = rows * columns
    plane = 1, 1, rows, columns
    mask = graph.add("Reshape", graph.add("Cast", marked, to=FLOAT), int64(*plane))
    numbers = np.arange(1, count + 1, dtype=np.float32).reshape(plane)
    groups = graph.add(
        "Loop",
        int64(count),
        np.array(True),
        graph.add("Mul", mask, numbers),
        body=_joining(graph, mask, (rows, columns)),
    )
    return graph.add("Reshape", groups, int64(count))


def _joining(graph: Graph, mask: str, shape: tuple[int, int]) -> "onnx.GraphProto":
    """Return one step of the loop: numbers in; whether any has changed, and numbers out."""
    import onnx

    numbers, plane = graph.own("numbers"), (1, 1, *shape)
    step = Graph(graph.opset, graph.own("step/"))
    around = numbers
    for _ in range(_SPREADS):
        around = step.add("MaxPool", around, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        around = step.add("Mul", around, mask)
    flat = step.add("Reshape", around, int64(-1))
    table = step.add("Concat", np.zeros(1, np.float32), flat, axis=0)
    joined = step.add("GatherElements", table, step.add("Cast", flat, to=INT64), axis=0)
    joined = step.add("Reshape", joined, int64(*plane))
    grown = step.add("ReduceMax", step.add("Sub", joined, numbers), keepdims=0)
    changed = step.add("Greater", grown, np.array(0, np.float32))
    value = onnx.helper.make_tensor_value_info
    given = [value(graph.own("step"), INT64, []), value(graph.own("going"), BOOL, [])]
    return onnx.helper.make_graph(
        step.nodes,
        graph.own("joining"),
        [*given, value(numbers, FLOAT, plane)],
        [value(changed, BOOL, []), value(joined, FLOAT, plane)],
        step.constants,
    )


def _members(graph: Graph, groups: str) -> str:
    """Tell for each group which cells are its: [groups, cells]."""
    numbers = graph.add("Unsqueeze", graph.add("Unique", groups), int64(1))
    return graph.add("Equal", numbers, groups)


def _group_corners(
    graph: Graph, member: str, cells: str, grid: tuple[int, int], placing: Placing
) -> str:
    """Return the corners around each group's cells, in pixels of the frame: [groups, 4]."""
    edges = graph.add("Gather", _cell_edges(grid, placing), cells, axis=1)
    its_cells = graph.add("Unsqueeze", member, int64(1))
    far = np.array(np.finfo(np.float32).max)
    smallest = graph.reduce("ReduceMin", graph.add("Where", its_cells, edges, far), 2)
    corners = graph.add("Mul", smallest, np.array([1, 1, -1, -1], np.float32))
    return _inside(graph, corners, placing.frame)


def _cell_edges(grid: tuple[int, int], placing: Placing) -> NDArray[np.float32]:
    """Return each cell's left, top, −right, −bottom in the frame, so that the least is outermost.

    The shape is [4, cells].
    """
    columns, rows = grid
    x, y = np.tile(np.arange(columns), rows), np.repeat(np.arange(rows), columns)
    edges = []
    for sign, cell, axis in ((1, x, 0), (1, y, 1), (-1, x + 1, 0), (-1, y + 1, 1)):
        in_model = cell * (placing.model[axis] / grid[axis])
        edges.append(sign * (in_model - placing.corner[axis]) * placing.scale[axis])
    return np.stack(edges).astype(np.float32)


def _surest(graph: Graph, rows: str) -> str:
    scores = graph.add("Gather", rows, np.array(4, np.int64), axis=1)
    _, order = graph.add_many("TopK", 2, scores, int64(BOXES_MAX), axis=0)
    return graph.add("Gather", rows, order, axis=0)
