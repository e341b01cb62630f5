"""The Open Inference Protocol's bodies: what goes in comes out, and every refusal is a sentence."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tidsram.estate.types import Criticality
from tidsram.outcome import Outcome, Reason
from tidsram.protocol import oip
from tidsram.protocol.oip import HOUR_US, Ask, RequestError
from tidsram.protocol.tensors import DATATYPES, ModelSpec, TensorSpec
from tidsram.protocol.wire import JSON_LIMIT, unpack_offsets

NUMPY = {
    "BOOL": np.bool_,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    **{
        f"{sign}{bits}": np.dtype(f"{sign.lower()}{bits}")
        for sign in ("UINT", "INT")
        for bits in (8, 16, 32, 64)
    },
}
ANY = sorted(DATATYPES)
IN_JSON = sorted(set(DATATYPES) - {"FP16"})
TOLD = oip.answered_by("here", "m-fp32")
NUMBERS = (100_000, 700, 99_300, 10, 20, 30, 200, 400, 40, b"0a1b", 17)

X = TensorSpec("x", "FP32", (1, 2))
ONE = ModelSpec((X,), (TensorSpec("y", "FP32", (1, 3)),))
TWO = ModelSpec(
    (X, TensorSpec("mask", "BOOL", (2,))),
    (TensorSpec("y", "FP32", (1, 3)), TensorSpec("boxes", "INT64", (-1, 4))),
)


def decode(question: object, tail_bytes: int = 0, spec: ModelSpec = ONE) -> Ask:
    header = question if isinstance(question, bytes) else json.dumps(question).encode()
    return oip.decode_infer(header, tail_bytes, "m", spec)


def refusal(question: object, tail_bytes: int = 0, spec: ModelSpec = ONE) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decode(question, tail_bytes, spec)
    return caught.value


def x(**changes: object) -> dict[str, object]:
    """Return a right input, or one with something changed; None takes a key out."""
    right = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    return {key: value for key, value in (right | changes).items() if value is not None}


def raw(size: int, **changes: object) -> dict[str, object]:
    """Return an input whose bytes follow the JSON."""
    return x(**{"data": None, "parameters": {"binary_data_size": size}} | changes)


def y(**parameters: object) -> dict[str, object]:
    return {"name": "y", "parameters": parameters}


def asking(**rest: object) -> dict[str, object]:
    return {"inputs": [x()], **rest}


def answer(ask: Ask, spec: ModelSpec, outputs: list[np.ndarray]) -> tuple[dict, bytes]:
    """Encode an answer; return its JSON, read by another parser, and its raw tail."""
    given = [
        (o.shape, memoryview(np.ascontiguousarray(o).reshape(-1).view(np.uint8))) for o in outputs
    ]
    head, raw = oip.encode_answer(ask, "m", spec, TOLD, given.__getitem__, NUMBERS)
    return json.loads(head), b"".join(raw)


# What goes in comes out ------------------------------------------------------------------------


@st.composite
def tensors(draw, datatypes=ANY):
    """Any tensor of these datatypes; finite, as JSON has nothing else."""
    datatype = draw(st.sampled_from(datatypes))
    shape = draw(arrays.array_shapes(max_dims=4, max_side=4))
    finite = {"allow_nan": False, "allow_infinity": False} if "FP" in datatype else {}
    dtype = np.dtype(NUMPY[datatype])
    content = draw(arrays.arrays(dtype, shape, elements=arrays.from_dtype(dtype, **finite)))
    return datatype, content


@given(tensors(IN_JSON), st.booleans())
def test_numbers_in_json_become_the_tensors_bytes(tensor, nested):
    """Nested or flat, every datatype: packed from JSON equals what numpy would have sent."""
    datatype, content = tensor
    spec = ModelSpec((TensorSpec("t", datatype, content.shape),), ONE.outputs)
    numbers = content.tolist() if nested else content.reshape(-1).tolist()

    ask = decode(
        {"inputs": [{"name": "t", "shape": content.shape, "datatype": datatype, "data": numbers}]},
        spec=spec,
    )

    assert ask.packed == content.tobytes()
    assert unpack_offsets(ask.offsets) == (0,)


@given(st.lists(st.tuples(tensors(IN_JSON), st.booleans()), min_size=1, max_size=6), st.randoms())
def test_any_mix_of_binary_and_json_lands_where_its_offset_says(given_tensors, random):
    """Inputs in any order, raw or as numbers: each is found whole behind the header."""
    names = [f"t{i}" for i in range(len(given_tensors))]
    spec = ModelSpec(
        tuple(
            TensorSpec(name, datatype, content.shape)
            for name, ((datatype, content), _) in zip(names, given_tensors, strict=True)
        ),
        ONE.outputs,
    )
    order = list(range(len(names)))
    random.shuffle(order)
    inputs, tail = [], b""
    for i in order:
        (datatype, content), binary = given_tensors[i]
        item = {"name": names[i], "shape": content.shape, "datatype": datatype}
        if binary:
            item["parameters"] = {"binary_data_size": content.nbytes}
            tail += content.tobytes()
        else:
            item["data"] = content.tolist()
        inputs.append(item)

    ask = decode({"inputs": inputs}, len(tail), spec)

    memory = tail + ask.packed
    assert len(memory) == sum(tensor.nbytes for tensor in spec.inputs)
    for ((_, content), _), at in zip(given_tensors, unpack_offsets(ask.offsets), strict=True):
        assert memory[at : at + content.nbytes] == content.tobytes()


@given(tensors(), st.booleans(), st.booleans())
def test_an_answer_reads_back_as_its_output(tensor, binary, settled):
    """As JSON or raw, of a size known before or decided by the data: the asker gets the numbers."""
    datatype, content = tensor
    shape = content.shape if settled else (-1, *content.shape[1:])
    spec = ModelSpec(ONE.inputs, (TensorSpec("o", datatype, shape),))
    question = asking(parameters={"binary_data_output": binary})
    if datatype == "FP16" and not binary:
        assert "FP16" in str(refusal(question, spec=spec))
        return

    told, raw = answer(decode(question, spec=spec), spec, [content])

    (output,) = told["outputs"]
    assert (output["name"], output["datatype"]) == ("o", datatype)
    assert output["shape"] == list(content.shape)
    if binary:
        assert output["parameters"] == {"binary_data_size": content.nbytes}
        assert raw == content.tobytes()
    else:
        assert np.array(output["data"], NUMPY[datatype]).tobytes() == content.tobytes()
        assert raw == b""


def test_not_a_number_is_null_in_json():
    """JSON has no NaN and no infinity; an asker that needs them asks for raw bytes."""
    content = np.array([[math.nan, math.inf, 1]], np.float32)

    told, _ = answer(decode(asking()), ONE, [content])

    assert told["outputs"][0]["data"] == [None, None, 1.0]


def test_an_empty_output_is_an_empty_list():
    """A detector that found nothing has an answer too."""
    spec = ModelSpec(ONE.inputs, (TensorSpec("boxes", "INT64", (-1, 4)),))
    content = np.zeros((0, 4), np.int64)

    told, _ = answer(decode(asking(), spec=spec), spec, [content])

    assert told["outputs"] == [{"name": "boxes", "datatype": "INT64", "shape": [0, 4], "data": []}]


def test_the_answer_says_what_the_promise_was():
    """Every answer parameter of the contract, by its name and value."""
    told, _ = answer(decode(asking(id="q-7")), ONE, [np.zeros((1, 3), np.float32)])

    assert told["model_name"], told["model_version"] == ("m", "1")
    assert told["id"] == "q-7"
    assert told["parameters"] == {
        "outcome": "answered",
        "variant": "m-fp32",
        "site": "here",
        "budget_us": 100_000,
        "spent_us": 700,
        "slack_us": 99_300,
        "stages_us": dict(zip(oip.STAGES, (10, 20, 30, 200, 400, 40), strict=True)),
        "request": "0a1b-17",
    }


@given(st.text(st.characters(codec="utf-8")) | st.integers(-(2**63), 2**63 - 1))
def test_the_id_comes_back_as_it_was(identity):
    """Text or number, whatever is in it; an empty one counts as none."""
    told, _ = answer(decode(asking(id=identity)), ONE, [np.zeros((1, 3), np.float32)])

    assert told.get("id", "") == identity


def test_only_the_wanted_outputs_come_in_the_wanted_order():
    """`outputs` chooses, orders and decides the form of each."""
    y, boxes = np.ones((1, 3), np.float32), np.arange(8).reshape(2, 4)
    wanted = [{"name": "boxes", "parameters": {"binary_data": True}}, {"name": "y"}]
    question = {"inputs": [x(), x(name="mask", shape=[2], datatype="BOOL", data=[True, False])]}

    told, raw = answer(decode(question | {"outputs": wanted}, spec=TWO), TWO, [y, boxes])
    alone, _ = answer(decode(question | {"outputs": wanted[1:]}, spec=TWO), TWO, [y, boxes])

    assert [o["name"] for o in told["outputs"]] == ["boxes", "y"]
    assert raw == boxes.tobytes()
    assert told["outputs"][1]["data"] == [1, 1, 1]
    assert [o["name"] for o in alone["outputs"]] == ["y"]


def test_the_request_decides_the_form_that_its_outputs_leave_open():
    """`binary_data_output` is for the whole request; an output's own `binary_data` comes first."""
    all_raw = {"parameters": {"binary_data_output": True}}

    assert decode(asking(outputs=[y()], **all_raw)).wanted[0].binary
    assert not decode(asking(outputs=[y(binary_data=False)], **all_raw)).wanted[0].binary
    assert not decode(asking(outputs=[y()])).wanted[0].binary


# What a question may bring ---------------------------------------------------------------------


def test_the_tighter_of_budget_and_timeout_applies():
    """Both are microseconds; a timeout of 0 is Triton's way to say none."""
    both = {"budget_us": 900, "timeout": 500}

    assert decode(asking(parameters=both)).budget_us == 500
    assert decode(asking(parameters=both | {"timeout": 0})).budget_us == 900
    assert decode(asking(parameters={"timeout": 700})).budget_us == 700
    assert decode(asking()).budget_us == 0


@given(st.floats() | st.integers() | st.text() | st.booleans() | st.just([]) | st.just({}))
def test_a_budget_is_taken_or_refused_but_never_bent(value):
    """NaN, infinity, zero, negative, huge, text: between 1 µs and an hour, or a sentence."""
    question = asking(parameters={"budget_us": value})
    number = isinstance(value, int | float) and not isinstance(value, bool)

    if number and 1 <= value <= HOUR_US:
        assert decode(question).budget_us == int(value)
    else:
        error = refusal(question)
        assert error.reason is Reason.INVALID
        assert (
            "NaN" in json.dumps(value)
            or "Infinity" in json.dumps(value)
            or "budget_us" in str(error)
        )


@pytest.mark.parametrize(
    ("given_parameters", "spent_us", "captured_us", "odd"),
    [
        ({}, 0, 0, False),
        ({"spent_us": 1500}, 1500, 0, False),
        ({"spent_us": 1500.9}, 1500, 0, False),
        ({"spent_us": -3}, 0, 0, True),
        ({"captured_unix_us": 1_700_000_000_000_000}, 0, 1_700_000_000_000_000, False),
        ({"captured_unix_us": -1}, 0, 0, True),
    ],
)
def test_time_spent_is_clamped_and_the_oddity_noted(given_parameters, spent_us, captured_us, odd):
    """Nobody gains time by claiming a negative past."""
    ask = decode(asking(parameters=given_parameters))

    assert (ask.spent_us, ask.captured_unix_us, ask.odd) == (spent_us, captured_us, odd)


def test_stream_criticality_and_priority_are_read():
    """The other parameters of the contract, and their defaults."""
    given_parameters = {"stream": "cam-1", "criticality": "best-effort", "priority": 3}

    ask, plain = decode(asking(parameters=given_parameters)), decode(asking())

    assert (ask.stream, ask.criticality, ask.priority) == ("cam-1", Criticality.BEST_EFFORT, 3)
    assert (plain.stream, plain.criticality, plain.priority) == ("", None, 1)
    assert decode(asking(parameters={"priority": -5})).priority == 1


def test_a_raw_request_stands_for_all_outputs_raw():
    """No JSON at all: the one input's bytes in, every output's bytes out."""
    ask = decode(oip.raw_header(ONE), X.nbytes)

    assert ask.wanted == (oip.Wanted(0, binary=True),)
    with pytest.raises(RequestError, match="'x', 'mask'"):
        oip.raw_header(TWO)


# Every refusal has its sentence ----------------------------------------------------------------

DATA = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":%b}]}'
SHARED = {"shared_memory_region": "region"}
BIG = "9" * 5000
REFUSED = {
    "empty": (b"", "not an inference request"),
    "not JSON": (b"\x00\x01", "not an inference request"),
    "not UTF-8": (b'{"id":"\xff","inputs":[]}', "not an inference request"),
    "cut off": (b'{"inputs":[{"name":"x"', "not an inference request"),
    "not an object": (b"[]", "Expected `object`, got `array`"),
    "null": (b"null", "Expected `object`, got `null`"),
    "no inputs": (b"{}", "missing required field `inputs`"),
    "deep": (b'{"inputs":' + b"[" * 60_000, "not an inference request"),
    "deep data": (DATA % (b"[" * 30_000 + b"]" * 30_000), "recursion"),
    "deep unknown key": (b'{"a":' * 9_000 + b"1" + b"}" * 9_000, "recursion"),
    "NaN": (b'{"inputs":[],"parameters":{"budget_us":NaN}}', "malformed"),
    "number of 5000 digits": (b'{"inputs":[],"id":%b}' % BIG.encode(), "out of range"),
    "id is a list": (asking(id=[1]), "$.id"),
    "parameters is a number": (asking(parameters=5), "$.parameters"),
    "criticality": (asking(parameters={"criticality": "vital"}), "'vital'"),
    "spent_us": (asking(parameters={"spent_us": 1e30}), "spent_us is 1e+30: give whole micro"),
    "timeout": (asking(parameters={"timeout": -5}), "timeout is -5: a budget is between 1"),
    "sequence": (asking(parameters={"sequence_id": 4}), "no stateful sequences; leave it out"),
    "missing": ({"inputs": []}, "input 'x' of m is missing"),
    "unknown": ({"inputs": [x(name="z")]}, "input 'z' is not one of m's: 'x'"),
    "twice": ({"inputs": [x(), x()]}, "input 'x' is given twice; give it once"),
    "datatype": ({"inputs": [x(datatype="FP64")]}, "'x' is FP64; the model takes FP32"),
    "shape": ({"inputs": [x(shape=[2, 1])]}, "has shape [2, 1]; the model takes [1, 2]"),
    "negative": ({"inputs": [x(shape=[-1, 2])]}, "has shape [-1, 2]; the model takes [1, 2]"),
    "zero": ({"inputs": [x(shape=[0, 2])]}, "has shape [0, 2]; the model takes [1, 2]"),
    "huge": ({"inputs": [x(shape=[1, 10**30])]}, "the model takes [1, 2]"),
    "rank": ({"inputs": [x(shape=[])]}, "has shape []; the model takes [1, 2]"),
    "size": ({"inputs": [raw(4)]}, "declares 4 bytes; FP32 [1, 2] is 8"),
    "negative size": ({"inputs": [raw(-8)]}, "declares -8 bytes"),
    "both": ({"inputs": [raw(8, data=[1, 2])]}, "both data and binary_data_size; choose"),
    "neither": ({"inputs": [x(data=None)]}, "neither data nor binary_data_size"),
    "shared memory": ({"inputs": [x(parameters=SHARED)]}, "shared memory is not offered; send"),
    "few": ({"inputs": [x(data=[1])]}, "has 1 elements; shape [1, 2] needs 2"),
    "many": ({"inputs": [x(data=[[1, 2], [3, 4]])]}, "has 4 elements; shape [1, 2] needs 2"),
    "ragged": ({"inputs": [x(data=[[1], 2])]}, "'x' is not FP32 data"),
    "text": ({"inputs": [x(data=["a", "b"])]}, "'x' is not FP32 data"),
    "null data": ({"inputs": [x(data=[None, 1])]}, "'x' is not FP32 data"),
    "data is a number": ({"inputs": [x(data=5)]}, "data must be a list"),
    "true among numbers": ({"inputs": [x(data=[True, 2])]}, "true and false are not numbers"),
    "only true": ({"inputs": [x(data=[True, True])]}, "true and false are not numbers"),
    "too large for FP32": ({"inputs": [x(data=[1, -1e39])]}, "-1e+39 is too large"),
    "too large for FP64": (DATA % b"[1e999,1]", "'x' is not FP32 data: Number out of range"),
    "unknown output": (asking(outputs=[{"name": "z"}]), "output 'z' is not one of m's: 'y'"),
    "output twice": (asking(outputs=[{"name": "y"}, {"name": "y"}]), "asked for twice; ask once"),
    "classes": (asking(outputs=[y(classification=3)]), "classification and shared memory are not"),
    "shared output": (asking(outputs=[y(**SHARED)]), "classification and shared memory are not"),
}  # fmt: skip


@pytest.mark.parametrize(("question", "part"), REFUSED.values(), ids=REFUSED)
def test_a_bad_question_gets_its_sentence(question, part):
    """Each says what is wrong with which part, in one line of bounded length."""
    error = refusal(question)

    assert error.reason is Reason.INVALID
    assert part in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 600


@pytest.mark.parametrize(
    ("datatype", "data", "part"),
    [
        ("UINT8", [256], "not UINT8 data"),
        ("UINT8", [-1], "not UINT8 data"),
        ("INT8", [-129], "not INT8 data"),
        ("INT64", [2**63], "not INT64 data"),
        ("UINT64", [2**64], "not UINT64 data"),
        ("INT32", [1.5], "not INT32 data"),
        ("BOOL", [1], "1 is neither true nor false"),
        ("FP16", [1], "FP16 has no JSON form; send it as binary data"),
    ],
)
def test_numbers_that_do_not_fit_their_type_are_refused(datatype, data, part):
    """Wrapping around or rounding would answer another question."""
    spec = ModelSpec((TensorSpec("t", datatype, (1,)),), ONE.outputs)
    tensor = {"name": "t", "shape": [1], "datatype": datatype, "data": data}

    assert part in str(refusal({"inputs": [tensor]}, spec=spec))


@pytest.mark.parametrize("tail_bytes", [0, 7, 9, 10**9])
def test_the_bytes_behind_the_json_are_those_declared(tail_bytes):
    """A wrong header length would shift every tensor: name both numbers and where to look."""
    question = {"inputs": [raw(8)]}

    told = str(refusal(question, tail_bytes))

    assert f"declare 8 bytes of binary data, but {tail_bytes} follow the JSON" in told
    assert "binary_data_size" in told
    assert "Inference-Header-Content-Length" in told


def test_a_sentence_quotes_only_the_start_of_what_is_long():
    """An asker cannot make the node send back what it sent, many times over."""
    for bad in (
        {"inputs": [x(name="n" * 50_000)]},
        {"inputs": [x(shape=[1] * 20_000)]},
        {"inputs": [x(datatype="F" * 50_000)]},
        asking(outputs=[{"name": "o" * 50_000}]),
        asking(parameters={"criticality": "c" * 50_000}),
    ):
        assert len(str(refusal(bad))) < 600


def test_an_output_too_large_for_json_points_to_raw_bytes():
    """Writing it would hold up everyone else's answer."""
    spec = ModelSpec(ONE.inputs, (TensorSpec("y", "UINT8", (JSON_LIMIT + 1,)),))

    error = refusal(asking(), spec=spec)

    assert error.reason is Reason.TOO_LARGE
    assert '"binary_data_output": true' in str(error)
    assert decode(asking(parameters={"binary_data_output": True}), spec=spec).head


def test_an_output_that_grew_too_large_for_json_is_told_after_its_run():
    """Where data decides the size, the limit can only be kept then."""
    spec = ModelSpec(ONE.inputs, (TensorSpec("y", "UINT8", (-1,)),))
    content = np.zeros(JSON_LIMIT + 1, np.uint8)

    with pytest.raises(RequestError) as caught:
        answer(decode(asking(), spec=spec), spec, [content])

    assert caught.value.reason is Reason.TOO_LARGE


KEYS = ["inputs", "name", "shape", "datatype", "data", "parameters", "outputs", "id", "budget_us"]
anything_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner),
)


@given(anything_json)
def test_no_json_at_all_breaks_the_decoder(anything):
    """Whatever is sent: an inference request, or a sentence."""
    assert str(refusal(anything))


@given(st.binary(max_size=200))
def test_no_bytes_at_all_break_the_decoder(anything):
    """The same for what is not even JSON."""
    assert str(refusal(anything))


# The other bodies ------------------------------------------------------------------------------


def test_an_error_body_has_words_and_facts():
    """People read `error`, programs read `outcome` and `reason`."""
    body = json.loads(oip.encode_error(Reason.OVERLOAD, "too much", {"budget_us": 5}))

    assert body == {
        "error": "too much",
        "outcome": Outcome.REJECTED,
        "reason": Reason.OVERLOAD,
        "budget_us": 5,
    }


def test_metadata_and_config_describe_the_model():
    """What Triton's clients read before they ask."""
    metadata, config = (
        json.loads(oip.model_metadata("m", TWO)),
        json.loads(oip.model_config("m", TWO)),
    )

    assert metadata["inputs"][1] == {"name": "mask", "datatype": "BOOL", "shape": [2]}
    assert metadata["outputs"][1] == {"name": "boxes", "datatype": "INT64", "shape": [-1, 4]}
    assert config["max_batch_size"] == 0
    assert config["input"][0] == {"name": "x", "data_type": "TYPE_FP32", "dims": [1, 2]}
    assert {oip._CONFIG_TYPES[name] for name in DATATYPES} == {f"TYPE_{name}" for name in DATATYPES}
    assert json.loads(oip.server_metadata("9.9"))["version"] == "9.9"
