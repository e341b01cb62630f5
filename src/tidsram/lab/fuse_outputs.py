"""A model's outputs as answers are made from them, and what is said when they do not fit."""

from collections.abc import Sequence
from typing import NamedTuple

from tidsram.engine.screen import Refuse, quoted
from tidsram.estate.types import Answer
from tidsram.lab.fuse_graph import FLOAT, Graph
from tidsram.protocol.tensors import TensorSpec


class Output(NamedTuple):
    """What a fused model takes or gives: a name, ONNX's number for its elements, a shape."""

    name: str
    element: int
    shape: tuple[int, ...]


def check_numbers(output: TensorSpec) -> None:
    """Refuse an output that holds no real numbers, or any number of them."""
    if output.datatype not in ("FP32", "FP16"):
        raise Refuse(
            f"its output {quoted(output.name)} has type {output.datatype}, "
            "from which the lab makes no answer",
            'Export it with a float32 output, or declare kind = "tensor"',
        )
    if -1 in output.shape:
        raise Refuse(
            f"the size of its output {quoted(output.name)} depends on the data",
            'Export it with fixed sizes, without its own box selection, or declare kind = "tensor"',
        )


def check_labels(answer: Answer, classes: int) -> None:
    """Refuse labels that cannot be those of the model's classes."""
    if answer.labels and len(answer.labels) != classes:
        raise Refuse(
            f"it tells {classes} classes apart and the answer's table names {len(answer.labels)}",
            "Give labels one name for each class, in the model's order, or leave them out",
        )


def not_read(what: str, outputs: Sequence[TensorSpec], expected: str) -> Refuse:
    """Say that `what` is declared and that the outputs are not of its form."""
    shapes = ", ".join(f"{quoted(t.name)} {list(t.shape)}" for t in outputs)
    return Refuse(
        f"its outputs ({shapes}) are not what {what} is read from: {expected}",
        'Declare the answer that this model gives, or kind = "tensor"',
    )


def as_float(graph: Graph, output: TensorSpec) -> str:
    """Return an output as float32."""
    if output.datatype == "FP32":
        return output.name
    return graph.add("Cast", output.name, to=FLOAT)
