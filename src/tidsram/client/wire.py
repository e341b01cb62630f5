"""The Open Inference Protocol as an asker sees it: a question out, a reply in. No I/O."""

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidsram.errors import QuestionError
from tidsram.outcome import TABLE, Outcome, Reason
from tidsram.protocol.tensors import DATATYPES, TensorSpec
from tidsram.units import US

Array = NDArray[np.generic]
Part = bytes | memoryview

_DTYPES: Final[dict[str, np.dtype[np.generic]]] = {
    name: np.dtype("<" + code) for name, (_, code) in DATATYPES.items()
}
_DATATYPES: Final = {dtype: name for name, dtype in _DTYPES.items()}

# For a server that gives a status and no reason of ours.
_REASON_OF_STATUS: Final = {
    400: Reason.INVALID,
    404: Reason.UNKNOWN_DECISION,
    413: Reason.TOO_LARGE,
    429: Reason.QUOTA,
    503: Reason.NOT_READY,
    504: Reason.DEADLINE,
}


class Malformed(ValueError):
    """What came is not an answer of the Open Inference Protocol."""


class Parameters(msgspec.Struct, frozen=True):
    """What the node tells about an answer besides its tensors."""

    variant: str = ""
    site: str = ""
    budget_us: int | None = None  # what was applied
    spent_us: int | None = None  # on this question's clock, when the answer left
    slack_us: int | None = None
    stages_us: dict[str, int] = {}
    request: str = ""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one question; `outputs` is empty unless it was answered."""

    outcome: Outcome
    reason: Reason = Reason.NONE
    text: str = ""
    status: int = 0  # HTTP; 0: nothing came
    took_ns: int = 0  # from the call to its return, by the asker's clock
    parameters: Parameters = Parameters()
    predicted_finish_us: int | None = None
    earliest_feasible_us: int | None = None
    safe_action: dict[str, Any] | None = None
    outputs: dict[str, Array] = {}


class Metadata(msgspec.Struct, frozen=True):
    """A decision's inputs and outputs, as the node describes them."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class _Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class _Answer(msgspec.Struct):
    outputs: list[_Tensor]
    parameters: Parameters = Parameters()


class _Refusal(msgspec.Struct):
    error: str = ""
    outcome: str = ""
    reason: str = ""
    predicted_finish_us: int | None = None
    earliest_feasible_us: int | None = None
    safe_action: dict[str, Any] | None = None
    parameters: Parameters = Parameters()


_answers: Final = msgspec.json.Decoder(_Answer)
_refusals: Final = msgspec.json.Decoder(_Refusal)


def dtype(spec: TensorSpec) -> np.dtype[np.generic]:
    """Return numpy's type for a tensor."""
    return _DTYPES[spec.datatype]


def question(
    inputs: Mapping[str, Array],
    *,
    budget_ns: int | None,
    spent_ns: int,
    stream: str | None,
    id_: str | None,
) -> list[Part]:
    """Return the JSON head and each tensor's bytes, to be sent one after the other."""
    parameters: dict[str, Any] = {"binary_data_output": True}
    if budget_ns is not None:
        parameters["budget_us"] = max(1, budget_ns // US)
    if spent_ns:
        parameters["spent_us"] = -(-spent_ns // US)
    if stream is not None:
        parameters["stream"] = stream
    tensors = [_described(name, array) for name, array in inputs.items()]
    head: dict[str, Any] = {"parameters": parameters, "inputs": [tensor for tensor, _ in tensors]}
    if id_ is not None:
        head["id"] = id_
    return [msgspec.json.encode(head), *(body for _, body in tensors)]


def reply(status: int, json_size: int | None, body: memoryview) -> Reply:
    """Read one answer; raises Malformed when it is none."""
    head = body if json_size is None else body[:json_size]
    try:
        if status != 200:
            return _refused(status, head)
        answer = _answers.decode(head)
        return Reply(
            outcome=Outcome.ANSWERED,
            status=status,
            parameters=answer.parameters,
            outputs=_outputs(answer.outputs, body[len(head) :]),
        )
    except (msgspec.DecodeError, ValueError, KeyError) as error:
        raise Malformed(f"the answer cannot be read: {error}") from None


def _described(name: str, array: Array) -> tuple[dict[str, Any], memoryview]:
    datatype = _DATATYPES.get(array.dtype.newbyteorder("<"))
    if datatype is None:
        raise QuestionError(
            f"input {name!r} has the type {array.dtype}, which the protocol does not carry; "
            f"convert it to one of {', '.join(str(dtype) for dtype in _DATATYPES)}"
        )
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    tensor = {
        "name": name,
        "shape": list(array.shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": array.nbytes},
    }
    return tensor, array.reshape(-1).view(np.uint8).data


def _refused(status: int, head: memoryview) -> Reply:
    refusal = _refusals.decode(head) if len(head) else _Refusal()
    try:
        reason = Reason(refusal.reason) if refusal.reason else None
    except ValueError:  # a reason that a newer node knows
        reason = None
    if reason is None:
        reason = _REASON_OF_STATUS.get(status, Reason.MODEL)
    return Reply(
        outcome=TABLE[reason].outcome,
        reason=reason,
        text=refusal.error or f"the node answered HTTP {status}",
        status=status,
        parameters=refusal.parameters,
        predicted_finish_us=refusal.predicted_finish_us,
        earliest_feasible_us=refusal.earliest_feasible_us,
        safe_action=refusal.safe_action,
    )


def _outputs(tensors: list[_Tensor], binary: memoryview) -> dict[str, Array]:
    """Read every output where it lies: the arrays share the answer's memory."""
    outputs: dict[str, Array] = {}
    for tensor in tensors:
        dtype, count = _DTYPES[tensor.datatype], math.prod(tensor.shape)
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            array: Array = np.array(tensor.data, dtype)
        elif size != count * dtype.itemsize:
            raise ValueError(f"output {tensor.name!r} does not have the size it names")
        else:
            array = np.frombuffer(binary[:size], dtype)
            binary = binary[size:]
        outputs[tensor.name] = array.reshape(tensor.shape)
    return outputs
