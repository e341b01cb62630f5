"""Triton's own HTTP client talks to a node as to any server of the Open Inference Protocol."""

import numpy as np
import pytest
import tritonclient.http as triton
from nodes import infer
from tritonclient.utils import InferenceServerException

from tidsram import __version__

X = np.array([[1, -2, 3, 4]], np.float32)


@pytest.fixture(scope="module")
def address(served):
    """The node's TCP address, as the client wants it."""
    host, port = served.tcp
    return f"{host}:{port}"


@pytest.fixture(scope="module")
def client(address):
    """The client."""
    with triton.InferenceServerClient(address) as client:
        yield client


def given(name, content, *, binary):
    datatype = {"float32": "FP32", "int64": "INT64"}[content.dtype.name]
    tensor = triton.InferInput(name, list(content.shape), datatype)
    tensor.set_data_from_numpy(content, binary_data=binary)
    return tensor


def ask(client, *, binary=True, **options):
    return client.infer("tiny", [given("x", X, binary=binary)], **options)


def promise(result):
    return result.get_response()["parameters"]


def test_the_server_is_live_and_ready(client):
    """Health, of the node and of each decision."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("nobody")
    assert not client.is_model_ready("tiny", "2")


def test_the_server_describes_itself(client):
    """Name, version, and which extensions it speaks."""
    told = client.get_server_metadata()

    assert (told["name"], told["version"]) == ("tidsram", __version__)
    assert "binary_tensor_data" in told["extensions"]


@pytest.mark.parametrize("version", ["", "1"])
def test_the_model_is_described(client, version):
    """Inputs and outputs by name, datatype and shape; −1 where the data decides."""
    assert client.get_model_metadata("tiny", version) == {
        "name": "tiny",
        "versions": ["1"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2]}],
    }
    assert client.get_model_metadata("found")["outputs"][0]["shape"] == [2, -1]


def test_the_model_has_a_config(client):
    """Without batching: each question is one run."""
    config = client.get_model_config("slow")

    assert config["max_batch_size"] == 0
    assert config["input"][1] == {"name": "rounds", "data_type": "TYPE_INT64", "dims": [1]}
    assert config["output"] == [{"name": "y", "data_type": "TYPE_FP32", "dims": [1, 4]}]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("binary_back", [True, False])
def test_tensors_travel_raw_and_as_json(client, binary, binary_back):
    """Every combination of question and answer."""
    wanted = [triton.InferRequestedOutput("y", binary_data=binary_back)]

    result = ask(client, binary=binary, outputs=wanted)

    assert result.as_numpy("y").tolist() == [[8, 1]]
    assert ("data" in result.get_output("y")) != binary_back


@pytest.mark.parametrize("order", [("x", "rounds"), ("rounds", "x")])
@pytest.mark.parametrize("raw", [("x", "rounds"), ("x",), ("rounds",), ()])
def test_several_inputs_in_any_order_and_form(client, order, raw):
    """Raw tensors lie in the order of the JSON, whatever the model's own is."""
    content = {"x": X, "rounds": np.array([3])}
    inputs = [given(name, content[name], binary=name in raw) for name in order]

    assert client.infer("slow", inputs).as_numpy("y").tolist() == X.tolist()


@pytest.mark.parametrize("binary_back", [True, False])
def test_an_output_sized_by_the_data(client, binary_back):
    """Its shape comes with the answer."""
    x = np.array([[0, 5, 0, 7]], np.float32)
    wanted = [triton.InferRequestedOutput("places", binary_data=binary_back)]

    result = client.infer("found", [given("x", x, binary=True)], outputs=wanted)

    assert result.as_numpy("places").tolist() == [[0, 0], [1, 3]]


def test_the_request_id_comes_back(client):
    """And only where one was sent."""
    assert ask(client, request_id="question 7 “ä”").get_response()["id"] == "question 7 “ä”"
    assert "id" not in ask(client).get_response()


def test_a_budget_may_come_as_a_request_parameter(client):
    """`parameters` of the client; the answer echoes what was applied and says where time went."""
    told = promise(ask(client, parameters={"budget_us": 1_000_000, "spent_us": 1_000}))

    assert told["outcome"] == "answered"
    assert told["budget_us"] == 1_000_000
    assert told["spent_us"] == 1_000 + sum(told["stages_us"].values())
    assert told["slack_us"] == 1_000_000 - told["spent_us"]
    assert set(told["stages_us"]) == {"receive", "decode", "admit", "queue", "run", "encode"}


def test_tritons_timeout_is_a_budget_and_the_tighter_one_applies(client):
    """Microseconds; longer than the declared budget changes nothing."""
    assert promise(ask(client, timeout=700_000))["budget_us"] == 700_000
    assert (
        promise(ask(client, timeout=700_000, parameters={"budget_us": 600_000}))["budget_us"]
        == 600_000
    )
    assert promise(ask(client, timeout=60_000_000))["budget_us"] == 2_000_000


def test_priority_is_taken(client):
    """It orders inside a criticality."""
    assert promise(ask(client, priority=3))["outcome"] == "answered"


def refused(match):
    return pytest.raises(InferenceServerException, match=match)


def test_a_refusal_is_the_clients_exception_with_our_sentence(client):
    """Infeasible budget, unknown model, wrong shape, sequence: what went wrong, in words."""
    with refused("even alone") as late:
        ask(client, timeout=1)
    with refused("decisions here: tiny, slow, found"):
        client.infer("nobody", [given("x", X, binary=True)])
    with refused(r"has shape \[4, 1\]; the model takes \[1, 4\]"):
        client.infer("tiny", [given("x", X.reshape(4, 1), binary=True)])
    with refused("32 bytes of tensors; tiny takes 16; check the inputs' shapes"):
        client.infer("tiny", [given("x", np.zeros((2, 4), np.float32), binary=True)])
    with refused("no stateful sequences"):
        ask(client, sequence_id=5, sequence_start=True)

    assert late.value.status() == "503"


def test_what_is_not_offered_is_refused_and_not_ignored(client):
    """Classification, shared memory, compression."""
    shared = triton.InferInput("x", [1, 4], "FP32")
    shared.set_shared_memory("region", 16)

    with refused("classification and shared memory are not offered"):
        ask(client, outputs=[triton.InferRequestedOutput("y", class_count=1)])
    with refused("shared memory is not offered; send the bytes"):
        client.infer("tiny", [shared])
    with refused("send the body uncompressed"):
        ask(client, request_compression_algorithm="gzip")


def test_many_questions_at_once(address):
    """The client's own pool of connections."""
    with triton.InferenceServerClient(address, concurrency=8) as pool:
        pending = [pool.async_infer("tiny", [given("x", X * k, binary=True)]) for k in range(40)]
        results = [answer.get_result().as_numpy("y")[0, 1] for answer in pending]

    assert results == list(range(40))


def test_a_raw_request_needs_no_json_at_all(served):
    """Inference-Header-Content-Length: 0 — the one input's bytes in, the outputs' bytes out."""
    answer = served.ask(infer("tiny", X.tobytes(), {"Inference-Header-Content-Length": 0}))
    json_bytes = int(answer.headers["inference-header-content-length"])

    assert answer.status == 200
    assert np.frombuffer(answer.body[json_bytes:], np.float32).tolist() == [8, 1]
    assert answer.json["outputs"][0]["parameters"] == {"binary_data_size": 8}


def test_a_raw_request_is_for_models_with_one_input(served):
    """Of wrong size, or for two inputs: told."""
    raw = {"Inference-Header-Content-Length": 0}
    short = served.ask(infer("tiny", bytes(12), raw))
    two = served.ask(infer("slow", bytes(24), raw))

    assert (short.status, two.status) == (400, 400)
    assert "16 bytes of binary data, but 12 follow" in short.json["error"]
    assert "this one has 2: 'x', 'rounds'" in two.json["error"]
