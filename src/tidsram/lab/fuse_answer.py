"""From the model's outputs to the finished answer, inside the graph.

The truth is what `client.answer` makes with numpy. What comes out has one shape whatever was found.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from tidsram.client.question import Size
from tidsram.engine.screen import Refuse
from tidsram.estate.types import Answer
from tidsram.lab.fuse_boxes import add_boxes
from tidsram.lab.fuse_graph import FLOAT, UINT8, Graph, int64
from tidsram.lab.fuse_outputs import Output, as_float, check_labels, check_numbers, not_read
from tidsram.lab.fuse_question import Placing
from tidsram.protocol.tensors import TensorSpec

if TYPE_CHECKING:
    import onnx

BOXES, CLASSES, MASK = "boxes", "classes", "mask"
OUTPUT_OF: Final = {"boxes": BOXES, "class": CLASSES, "mask": MASK, "tensor": ""}
CLASSES_MAX: Final = 5
_PROBABLE: Final = ("Softmax", "Sigmoid", "HardSigmoid")  # what makes scores into probabilities
_KEEPS_VALUES: Final = (
    "Identity",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Transpose",
    "Cast",
    "QuantizeLinear",
    "DequantizeLinear",
)


def add_answer(
    graph: Graph,
    answer: Answer,
    outputs: Sequence[TensorSpec],
    placing: Placing | None,
    model: "onnx.GraphProto",
) -> Output:
    """Append what makes the answer of the model's outputs; return the one output there is now."""
    for output in outputs if answer.kind == "boxes" else outputs[:1]:
        check_numbers(output)
    if answer.kind == "mask":
        made, tensor = _add_mask(graph, answer, outputs[0], placing)
    elif answer.kind == "class":
        made, tensor = _add_classes(graph, answer, outputs[0], model)
    else:
        made, shape = add_boxes(graph, answer, outputs, placing)
        tensor = Output(BOXES, FLOAT, shape)
    graph.publish(made, tensor.name)
    return tensor


# A mask, a class


def _add_mask(
    graph: Graph, answer: Answer, output: TensorSpec, placing: Placing | None
) -> tuple[str, Output]:
    sizes = [size for size in output.shape if size != 1]
    if len(sizes) != 2:
        raise not_read('kind = "mask"', [output], "one plane of numbers")
    height, width = sizes
    if placing is not None:
        _check_whole(placing, (width, height))
    plane = graph.add("Reshape", as_float(graph, output), int64(1, height, width))
    above = graph.add("Greater", plane, np.array(answer.threshold, np.float32))
    return graph.add("Cast", above, to=UINT8), Output(MASK, UINT8, (1, height, width))


def _check_whole(placing: Placing, mask: Size) -> None:
    """Refuse a mask of which nobody could tell where in the frame it lies."""
    covers_all = all(placing.model[i] % mask[i] == 0 for i in (0, 1))
    if placing.inner != placing.model or (placing.frame != placing.model and not covers_all):
        raise Refuse(
            f"a frame of {_by(placing.frame)} is fitted to its {_by(placing.model)}, and its mask "
            f"of {_by(mask)} does not cover the frame edge to edge",
            f"Ask it with frames of {_by(placing.model)}"
            + (', or declare fit = "stretch"' if covers_all else ""),
        )


def _by(size: Size) -> str:
    return f"{size[0]} × {size[1]}"


def _add_classes(
    graph: Graph, answer: Answer, output: TensorSpec, model: "onnx.GraphProto"
) -> tuple[str, Output]:
    count = int(np.prod(output.shape))
    if count != max(output.shape, default=0) or count < 2:
        raise not_read('kind = "class"', [output], "a number for each of at least two classes")
    check_labels(answer, count)
    scores = graph.add("Reshape", as_float(graph, output), int64(count))
    if not _ends_in(model, output.name, _PROBABLE):
        scores = graph.add("Softmax", scores, axis=0)
    rows = min(CLASSES_MAX, count)
    best, classes = graph.add_many("TopK", 2, scores, int64(rows), axis=0)
    columns = [graph.add("Reshape", column, int64(1, rows, 1)) for column in (classes, best)]
    columns[0] = graph.add("Cast", columns[0], to=FLOAT)
    return graph.add("Concat", *columns, axis=2), Output(CLASSES, FLOAT, (1, rows, 2))


def _ends_in(model: "onnx.GraphProto", output: str, operators: Sequence[str]) -> bool:
    """Tell whether `output` comes from one of the operators, through such as keep its values."""
    made_by = {name: node for node in model.node for name in node.output}
    node = made_by.pop(output, None)
    while node is not None and node.op_type in _KEEPS_VALUES and node.input:
        node = made_by.pop(node.input[0], None)  # popped: a file with a circle ends, too
    return node is not None and node.op_type in operators
