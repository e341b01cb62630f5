"""Write ONNX operators one call at a time: what the lab adds before and behind a model."""

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

Array = NDArray[np.generic]

FLOAT: Final = 1
UINT8: Final = 2
INT64: Final = 7
BOOL: Final = 9

PREFIX: Final = "fuse/"  # every name inside begins so, and none of a model's does
_AXES_ARE_AN_INPUT: Final = 18  # of ReduceMax and ReduceMin, from this opset on


class Graph:
    """Operators in the order in which they run, and the constants that they use."""

    def __init__(self, opset: int, prefix: str = PREFIX) -> None:
        self.opset, self._prefix = opset, prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str | Array, **attributes: Any) -> str:  # noqa: ANN401
        """Append an operator and return its output; an array among its inputs is a constant."""
        return self.add_many(operator, 1, *inputs, **attributes)[0]

    def add_many(
        self,
        operator: str,
        outputs: int,
        *inputs: str | Array,
        **attributes: Any,  # noqa: ANN401
    ) -> list[str]:
        """Append an operator with several outputs and return them."""
        import onnx

        names = [self._name(f"{operator}.{i}") for i in range(outputs)]
        given = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        self.nodes.append(onnx.helper.make_node(operator, given, names, names[0], **attributes))
        return names

    def reduce(self, operator: str, value: str, axis: int) -> str:
        """Append ReduceMax or ReduceMin over one axis, which goes."""
        if self.opset < _AXES_ARE_AN_INPUT:
            return self.add(operator, value, axes=[axis], keepdims=0)
        return self.add(operator, value, int64(axis), keepdims=0)

    def publish(self, value: str, name: str) -> None:
        """Give `value` a name that the world knows."""
        import onnx

        self.nodes.append(
            onnx.helper.make_node("Identity", [value], [name], self._name("Identity"))
        )

    def own(self, name: str) -> str:
        """Return `name` as nobody else in the model can have it."""
        return self._prefix + name

    def _name(self, what: str) -> str:
        return self.own(f"{len(self.nodes)}.{what}")

    def _constant(self, value: Array) -> str:
        import onnx

        name = self._name(f"constant.{len(self.constants)}")
        self.constants.append(onnx.numpy_helper.from_array(value, name))
        return name


def int64(*values: int) -> NDArray[np.int64]:
    """Return the values as a vector, the way ONNX takes shapes, axes and bounds."""
    return np.array(values, np.int64)
