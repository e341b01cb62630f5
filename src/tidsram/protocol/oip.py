"""The Open Inference Protocol's REST bodies: bytes ↔ values, no sockets.

Speaks Triton's dialect (binary tensors behind the JSON header) and adds the budget's parameters.
A question's JSON header repeats byte for byte between questions of one kind, so everything that
can be settled from it alone is settled once, in `decode_infer`, and kept by the caller.
"""

import json
from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from math import isinf
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from tidsram.errors import TidsramError
from tidsram.estate.types import Criticality
from tidsram.outcome import TABLE, Reason
from tidsram.protocol.tensors import DATATYPES, ModelSpec, TensorSpec
from tidsram.protocol.wire import JSON_LIMIT, pack_offsets

VERSION = "1"
EXTENSIONS = ("binary_tensor_data", "schedule_policy", "model_configuration", "tidsram_budget")
STAGES = ("receive", "decode", "admit", "queue", "run", "encode")
HOUR_US = 3_600_000_000
SHOWN_MAX = 200

_CONFIG_TYPES = {name: "TYPE_" + name for name in DATATYPES}


class RequestError(TidsramError):
    """A request that cannot be taken; `reason` has its row in the outcome table."""

    code = "request"

    def __init__(self, reason: Reason, sentence: str) -> None:
        self.reason = reason
        super().__init__(sentence)


def _invalid(sentence: str) -> RequestError:
    return RequestError(Reason.INVALID, sentence)


class _Parameters(Struct):
    budget_us: int | float | None = None
    spent_us: int | float = 0
    captured_unix_us: int | float | None = None
    stream: str = ""
    criticality: Criticality | None = None
    priority: int = 0
    timeout: int | None = None
    binary_data_output: bool = False
    sequence_id: int | str | None = None


class _TensorParameters(Struct):
    binary_data_size: int | None = None
    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None


class _Input(Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: _TensorParameters | None = None
    data: Raw | UnsetType = UNSET


class _Output(Struct):
    name: str
    parameters: _TensorParameters | None = None


class _Infer(Struct):
    inputs: list[_Input]
    id: str | int = ""
    parameters: _Parameters | None = None
    outputs: list[_Output] | None = None


_decode_infer = msgspec.json.Decoder(_Infer).decode
encode = msgspec.json.encode
_NO_PARAMETERS = _Parameters()
_NO_TENSOR_PARAMETERS = _TensorParameters()


class Wanted(Struct, frozen=True):
    """One output of the answer: its index in the model's outputs, and whether as raw bytes."""

    index: int
    binary: bool


class Ask(Struct, frozen=True):
    """All that a question's JSON says, checked against the model.

    `offsets` say where each model input starts, from the first tensor's byte, packed as the job's
    message wants them; inputs that came as JSON numbers are `packed` and go behind the binary
    ones. `head` is the answer's JSON up to its
    numbers, when nothing in it depends on the run.
    """

    id: bytes  # as JSON, empty when not given
    budget_us: int  # tightest of what the request brings; 0 when it brings none
    spent_us: int
    captured_unix_us: int
    odd: bool  # something had to be clamped
    stream: str
    criticality: Criticality | None
    priority: int
    offsets: bytes
    packed: bytes
    wanted: tuple[Wanted, ...]
    head: bytes


def decode_infer(header: bytes, tail_bytes: int, model: str, spec: ModelSpec) -> Ask:
    """Check a question's JSON `header` against the model; `tail_bytes` of raw tensors follow it.

    Raises RequestError with the sentence for the asker.
    """
    try:
        infer = _decode_infer(header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(f"the request's JSON is not an inference request: {_cut(error)}") from None
    parameters = infer.parameters or _NO_PARAMETERS
    if parameters.sequence_id is not None:
        raise _invalid("sequence_id: this version serves no stateful sequences; leave it out")
    offsets, packed = _locate(infer.inputs, tail_bytes, model, spec)
    wanted = _choose(infer.outputs, parameters.binary_data_output, model, spec)
    spent_us = _number(parameters.spent_us, "spent_us")
    captured_us = _number(parameters.captured_unix_us or 0, "captured_unix_us")
    identity = b"" if infer.id == "" else b'"id":' + encode(infer.id) + b","
    head = b'{"model_name":%b,"model_version":"1",%b' % (encode(model), identity)
    if all(want.binary and spec.outputs[want.index].nbytes >= 0 for want in wanted):
        head += b'"outputs":%b,' % _describe(wanted, spec)
    else:
        head = b""
    return Ask(
        id=identity,
        budget_us=_tightest(parameters),
        spent_us=max(0, spent_us),
        captured_unix_us=max(0, captured_us),
        odd=spent_us < 0 or captured_us < 0,
        stream=parameters.stream,
        criticality=parameters.criticality,
        priority=max(1, parameters.priority),
        offsets=pack_offsets(offsets),
        packed=packed,
        wanted=wanted,
        head=head,
    )


def raw_header(spec: ModelSpec) -> bytes:
    """Return the JSON that a raw request stands for: one input, all outputs binary."""
    if len(spec.inputs) != 1:
        raise _invalid(
            f"a request without JSON is for models with one input; this one has "
            f"{len(spec.inputs)}: {_names(spec.inputs)}"
        )
    tensor = spec.inputs[0]
    given = {
        "name": tensor.name,
        "shape": tensor.shape,
        "datatype": tensor.datatype,
        "parameters": {"binary_data_size": tensor.nbytes},
    }
    return encode({"inputs": [given], "parameters": {"binary_data_output": True}})


def encode_answer(
    ask: Ask,
    model: str,
    spec: ModelSpec,
    told: bytes,
    output: Callable[[int], tuple[Sequence[int], memoryview]],
    numbers: tuple[int | bytes, ...],
) -> tuple[bytes, list[memoryview]]:
    """Return the answer's JSON and the raw tensors that follow it.

    `told` is `answered_by` of the variant that ran; `output(i)` gives the shape and bytes of the
    model's output i; `numbers` fill `_NUMBERS`: budget, spent, slack, the six stages (all µs), boot
    id, number.
    """
    if ask.head:
        return ask.head + told + _NUMBERS % numbers, [output(want.index)[1] for want in ask.wanted]
    items, raw = [], []
    for want in ask.wanted:
        tensor = spec.outputs[want.index]
        shape, data = output(want.index)
        if want.binary:
            raw.append(data)
            content = b'"parameters":{"binary_data_size":%d}' % data.nbytes
        else:
            content = b'"data":' + _json_numbers(tensor, data)
        items.append(_output_item(tensor, shape, content))
    head = b'{"model_name":%b,"model_version":"1",%b"outputs":[%b],' % (
        encode(model),
        ask.id,
        b",".join(items),
    )
    return head + told + _NUMBERS % numbers, raw


def encode_error(reason: Reason, sentence: str, facts: dict[str, Any]) -> bytes:
    """Return the body that tells an asker its request's outcome in words and in facts."""
    told = {"error": sentence, "outcome": TABLE[reason].outcome, "reason": reason}
    return encode(told | facts)


def server_metadata(version: str) -> bytes:
    """Return the body of GET /v2."""
    return encode({"name": "tidsram", "version": version, "extensions": EXTENSIONS})


def model_metadata(model: str, spec: ModelSpec) -> bytes:
    """Return the body of GET /v2/models/MODEL."""
    return encode(
        {
            "name": model,
            "versions": [VERSION],
            "platform": "onnx_onnxv1",
            "inputs": [_tensor_metadata(tensor) for tensor in spec.inputs],
            "outputs": [_tensor_metadata(tensor) for tensor in spec.outputs],
        }
    )


def model_config(model: str, spec: ModelSpec) -> bytes:
    """Return the body of GET /v2/models/MODEL/config, as Triton's clients read it."""
    return encode(
        {
            "name": model,
            "platform": "onnxruntime_onnx",
            "backend": "onnxruntime",
            "max_batch_size": 0,
            "input": [_tensor_config(tensor) for tensor in spec.inputs],
            "output": [_tensor_config(tensor) for tensor in spec.outputs],
        }
    )


_NUMBERS = (
    b'"budget_us":%d,"spent_us":%d,"slack_us":%d,"stages_us":{"receive":%d,"decode":%d,'
    b'"admit":%d,"queue":%d,"run":%d,"encode":%d},"request":"%b-%d"}}'
)


def answered_by(site: str, variant: str) -> bytes:
    """Return the part of an answer's JSON that is the same for each answer of a variant."""
    return b'"parameters":{"outcome":"answered","variant":%b,"site":%b,' % (
        encode(variant),
        encode(site),
    )


def _tightest(parameters: _Parameters) -> int:
    given = []
    if parameters.budget_us is not None:
        given.append(_budget(parameters.budget_us, "budget_us"))
    if parameters.timeout:
        given.append(_budget(parameters.timeout, "timeout"))
    return min(given) if given else 0


def _budget(value: float, name: str) -> int:
    if not 1 <= value <= HOUR_US:
        raise _invalid(
            f"{name} is {_cut(value)}: a budget is between 1 and {HOUR_US} microseconds (an hour)"
        )
    return int(value)


def _number(value: float, name: str) -> int:
    if not abs(value) < 2**62:
        raise _invalid(f"{name} is {_cut(value)}: give whole microseconds")
    return int(value)


def _locate(
    inputs: list[_Input], tail_bytes: int, model: str, spec: ModelSpec
) -> tuple[tuple[int, ...], bytes]:
    """Find where each model input starts behind the JSON; pack those that came as numbers."""
    binary: dict[str, int] = {}
    numbers: dict[str, bytes] = {}
    known = {tensor.name: tensor for tensor in spec.inputs}
    at = 0
    for given in inputs:
        tensor = known.get(given.name)
        if tensor is None:
            raise _invalid(
                f"input {_cut(given.name)!r} is not one of {model}'s: {_names(spec.inputs)}"
            )
        if given.name in binary or given.name in numbers:
            raise _invalid(f"input {given.name!r} is given twice; give it once")
        size = _check_input(given, tensor)
        if size is None:
            numbers[given.name] = _pack(given, tensor)
        else:
            binary[given.name] = at
            at += size
    missing = [tensor.name for tensor in spec.inputs if tensor.name not in binary | numbers]
    if missing:
        raise _invalid(f"input {missing[0]!r} of {model} is missing from the request")
    if at != tail_bytes:
        raise _invalid(
            f"the inputs declare {at} bytes of binary data, but {tail_bytes} follow the JSON; "
            f"check binary_data_size and the Inference-Header-Content-Length header"
        )
    packed = b"".join(numbers.values())
    starts = dict(binary)
    for name, data in numbers.items():
        starts[name] = at
        at += len(data)
    return tuple(starts[tensor.name] for tensor in spec.inputs), packed


def _check_input(given: _Input, tensor: TensorSpec) -> int | None:
    """Return the input's binary size, or None when its numbers are in the JSON."""
    if given.datatype != tensor.datatype:
        raise _invalid(
            f"input {given.name!r} is {_cut(given.datatype)}; the model takes {tensor.datatype}"
        )
    if tuple(given.shape) != tensor.shape:
        raise _invalid(
            f"input {given.name!r} has shape {_cut(given.shape)}; "
            f"the model takes {list(tensor.shape)}"
        )
    parameters = given.parameters or _NO_TENSOR_PARAMETERS
    if parameters.shared_memory_region is not None:
        raise _invalid(f"input {given.name!r}: shared memory is not offered; send the bytes")
    size = parameters.binary_data_size
    if size is None:
        return None
    if size != tensor.nbytes:
        raise _invalid(
            f"input {given.name!r} declares {_cut(size)} bytes; "
            f"{tensor.datatype} {list(tensor.shape)} is {tensor.nbytes}"
        )
    if given.data is not UNSET:
        raise _invalid(f"input {given.name!r} has both data and binary_data_size; choose one")
    return size


def _pack(given: _Input, tensor: TensorSpec) -> bytes:
    if given.data is UNSET:
        raise _invalid(f"input {given.name!r} has neither data nor binary_data_size")
    code = DATATYPES[tensor.datatype][1]
    if code == "e":
        raise _invalid(f"input {given.name!r}: FP16 has no JSON form; send it as binary data")
    try:
        flat = _flatten(msgspec.json.decode(given.data))
        packed = bytes(map(_bit, flat)) if code == "?" else _pack_numbers(code, flat)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _invalid(
            f"input {given.name!r} is not {tensor.datatype} data: {_cut(error)}"
        ) from None
    if len(packed) != tensor.nbytes:
        raise _invalid(
            f"input {given.name!r} has {len(flat)} elements; "
            f"shape {list(tensor.shape)} needs {tensor.nbytes // DATATYPES[tensor.datatype][0]}"
        )
    return packed


def _bit(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{_cut(repr(value))} is neither true nor false")
    return value


def _pack_numbers(code: str, flat: list[Any]) -> bytes:
    if any(isinstance(value, bool) for value in flat):
        raise TypeError("true and false are not numbers")
    packed = array(code, flat)
    # JSON has no infinity: where there is one now, a number was too large.
    if code == "f" and any(map(isinf, packed)):
        raise OverflowError(f"{max(flat, key=abs)} is too large for it")
    return packed.tobytes()


def _flatten(nested: object) -> list[Any]:
    if not isinstance(nested, list):
        raise TypeError("data must be a list")
    data: list[Any] = nested
    while data and isinstance(data[0], list):
        data = list(chain.from_iterable(data))
    return data


def _choose(
    outputs: list[_Output] | None, binary_by_default: bool, model: str, spec: ModelSpec
) -> tuple[Wanted, ...]:
    if not outputs:
        wanted = [Wanted(i, binary_by_default) for i in range(len(spec.outputs))]
    else:
        index = {tensor.name: i for i, tensor in enumerate(spec.outputs)}
        wanted = []
        for output in outputs:
            parameters = output.parameters or _NO_TENSOR_PARAMETERS
            if output.name not in index:
                raise _invalid(
                    f"output {_cut(output.name)!r} is not one of {model}'s: {_names(spec.outputs)}"
                )
            if parameters.classification or parameters.shared_memory_region is not None:
                raise _invalid(
                    f"output {output.name!r}: classification and shared memory are not offered"
                )
            binary = parameters.binary_data
            wanted.append(
                Wanted(index[output.name], binary_by_default if binary is None else binary)
            )
        if len({want.index for want in wanted}) != len(wanted):
            raise _invalid("an output is asked for twice; ask once")
    for want in wanted:
        if not want.binary:
            _check_json_form(spec.outputs[want.index])
    return tuple(wanted)


def _check_json_form(tensor: TensorSpec) -> None:
    ask_for = '"parameters": {"binary_data_output": true}'
    if tensor.nbytes > JSON_LIMIT:
        # As JSON it would hold up everyone's answers while it is written.
        raise RequestError(
            Reason.TOO_LARGE,
            f"output {tensor.name!r} is {tensor.nbytes} bytes, more than the {JSON_LIMIT} that are "
            f"written as JSON; ask for it as binary data: {ask_for}",
        )
    if tensor.datatype == "FP16":
        raise _invalid(f"output {tensor.name!r}: FP16 has no JSON form; ask with {ask_for}")


def _json_numbers(tensor: TensorSpec, data: memoryview) -> bytes:
    if data.nbytes > JSON_LIMIT:
        _check_json_form(TensorSpec(tensor.name, "UINT8", (data.nbytes,)))
    # JSON has no NaN or infinity; msgspec writes null, which is what an asker can read.
    code: Any = DATATYPES[tensor.datatype][1]
    return encode(data.cast(code).tolist())


def _describe(wanted: tuple[Wanted, ...], spec: ModelSpec) -> bytes:
    items = []
    for want in wanted:
        tensor = spec.outputs[want.index]
        content = b'"parameters":{"binary_data_size":%d}' % tensor.nbytes
        items.append(_output_item(tensor, tensor.shape, content))
    return b"[" + b",".join(items) + b"]"


def _output_item(tensor: TensorSpec, shape: Sequence[int], content: bytes) -> bytes:
    return b'{"name":%b,"datatype":"%b","shape":%b,%b}' % (
        encode(tensor.name),
        tensor.datatype.encode(),
        json.dumps(list(shape)).encode(),
        content,
    )


def _tensor_metadata(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}


def _tensor_config(tensor: TensorSpec) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "data_type": _CONFIG_TYPES[tensor.datatype],
        "dims": tensor.shape,
    }


def _names(tensors: Sequence[TensorSpec]) -> str:
    return ", ".join(repr(tensor.name) for tensor in tensors)


def _cut(value: object) -> str:
    """Shorten what an asker wrote: a sentence quotes it, whatever its length."""
    text = str(value)
    return text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "…"
