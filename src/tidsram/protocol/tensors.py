"""What a tensor is on the wire: a name, a datatype of the Open Inference Protocol, a shape."""

import math

from msgspec import Struct

# Datatype → (bytes an element, struct/array code where JSON numbers can be packed without numpy).
DATATYPES: dict[str, tuple[int, str]] = {
    "BOOL": (1, "?"),
    "UINT8": (1, "B"),
    "UINT16": (2, "H"),
    "UINT32": (4, "I"),
    "UINT64": (8, "Q"),
    "INT8": (1, "b"),
    "INT16": (2, "h"),
    "INT32": (4, "i"),
    "INT64": (8, "q"),
    "FP16": (2, "e"),
    "FP32": (4, "f"),
    "FP64": (8, "d"),
}


class TensorSpec(Struct, frozen=True):
    """A model's input or output. `shape` has −1 only where an output's size depends on the data."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor; −1 where the shape depends on the data."""
        return -1 if any(dim < 0 for dim in self.shape) else self.nbytes_of(self.shape)

    def nbytes_of(self, shape: tuple[int, ...]) -> int:
        """Bytes of the tensor with this shape."""
        return math.prod(shape) * DATATYPES[self.datatype][0]


class ModelSpec(Struct, frozen=True):
    """A model's inputs and outputs, in the model's own order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def difference(own: ModelSpec, top: ModelSpec, top_name: str) -> str:
    """Say where a variant first differs from the one that decides; empty where they are alike."""
    for role, ours, theirs in (
        ("input", own.inputs, top.inputs),
        ("output", own.outputs, top.outputs),
    ):
        if len(ours) != len(theirs):
            return f"it has {len(ours)} {role}s and {top_name} has {len(theirs)}"
        for mine, other in zip(ours, theirs, strict=True):
            if mine != other:
                return f"its {role} is {_show(mine)}, and that of {top_name} {_show(other)}"
    return ""


def _show(tensor: TensorSpec) -> str:
    return f"{tensor.name} {tensor.datatype} {list(tensor.shape)}"
