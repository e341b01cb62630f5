"""One connection against a scripted node on a real socket, and the node's own bytes."""

import threading

import msgspec
import numpy as np
import pytest
from scripted_node import Last, Trickle

from tidsram.client.connection import Connection, Mute, Unreachable
from tidsram.errors import QuestionError
from tidsram.outcome import TABLE, Outcome, Reason
from tidsram.protocol.oip import (
    answered_by,
    decode_infer,
    encode_answer,
    encode_error,
    model_metadata,
)
from tidsram.protocol.tensors import ModelSpec, TensorSpec
from tidsram.units import MS

SPEC = ModelSpec(
    (TensorSpec("x", "FP32", (1, 3)), TensorSpec("n", "INT64", (2,))),
    (TensorSpec("y", "FP32", (1, 3)), TensorSpec("z", "INT8", (3,))),
)
X = np.array([[1, 2, 3]], np.float32)
N = np.array([4, 5], np.int64)
QUESTION = {"x": X, "n": N}


def http(status, body, *, json_size=None, extra=b""):
    lines = [b"HTTP/1.1 %d Told" % status, b"Content-Length: %d" % len(body)]
    if json_size is not None:
        lines.append(b"Inference-Header-Content-Length: %d" % json_size)
    return b"\r\n".join(lines) + b"\r\n" + extra + b"\r\n" + body


def json_size_of(head):
    return int(head.split(b"Inference-Header-Content-Length: ")[1].split()[0])


def answering(head, body):
    """Answer as the node does, with its own encoder: y = 2x, z = 1, 2, 3."""
    json_size = json_size_of(head)
    ask = decode_infer(body[:json_size], len(body) - json_size, "m", SPEC)
    x = np.frombuffer(body[json_size:], np.float32, 3)
    outputs = [x * 2, np.array([1, 2, 3], np.int8)]

    def output(index):
        return SPEC.outputs[index].shape, outputs[index].data.cast("B")

    numbers = (100_000, 700, 99_300, 1, 2, 3, 4, 5, 6, b"boot", 7)
    told, raw = encode_answer(ask, "m", SPEC, answered_by("here", "m"), output, numbers)
    return http(200, told + b"".join(raw), json_size=len(told))


def test_a_question_and_its_answer_survive_the_way_to_the_nodes_own_codec(scripted):
    """Ask a node that decodes and encodes with the real protocol code; compare every field."""
    node = scripted(answering)

    with Connection(node.url) as connection:
        reply = connection.ask("m", QUESTION, budget_ns=100 * MS)

    assert (reply.outcome, reply.reason, reply.status) == (Outcome.ANSWERED, Reason.NONE, 200)
    assert reply.outputs["y"].tolist() == [[2, 4, 6]]
    assert reply.outputs["z"].tolist() == [1, 2, 3]
    assert reply.parameters.budget_us == 100_000
    assert reply.parameters.slack_us == 99_300
    assert reply.parameters.stages_us["encode"] == 6
    assert reply.parameters.request == "boot-7"
    assert reply.took_ns > 0


def test_the_question_says_budget_spent_stream_and_id(scripted):
    """Look at the JSON that arrives when everything is given."""
    heads = []

    def script(head, body):
        heads.append(msgspec.json.decode(body[: json_size_of(head)]))
        return answering(head, body)

    with Connection(scripted(script).url) as connection:
        connection.ask("m", QUESTION, budget_ns=20 * MS, spent_ns=1_500_001, stream="s", id="i")

    assert heads[0]["id"] == "i"
    assert heads[0]["parameters"] == {
        "binary_data_output": True,
        "budget_us": 20_000,
        "spent_us": 1501,  # rounded up: time that was spent is never given back
        "stream": "s",
    }


def test_questions_share_one_connection(scripted):
    """Ask three times and count the connections."""
    node = scripted(answering)

    with Connection(node.url) as connection:
        outcomes = [connection.ask("m", QUESTION).outcome for _ in range(3)]

    assert outcomes == [Outcome.ANSWERED] * 3
    assert node.connections == 1


def test_a_connection_closed_between_questions_is_opened_anew(scripted):
    """Hang up after the first answer; the second question must not fail."""
    node = scripted(answering)
    with Connection(node.url) as connection:
        connection.ask("m", QUESTION)
        node.hang_up()

        reply = connection.ask("m", QUESTION)

    assert reply.outcome is Outcome.ANSWERED
    assert node.connections == 2


@pytest.mark.parametrize(
    "part", [b"", b"HTTP/1.1 200 O", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
def test_a_node_that_dies_before_the_whole_answer_is_a_lost_gate(scripted, part):
    """Hang up instead of answering, or in the middle of the answer."""
    node = scripted(lambda *_: Last(part))

    with Connection(node.url) as connection:
        reply = connection.ask("m", QUESTION)

    assert (reply.outcome, reply.reason) == (Outcome.FAILED, Reason.GATE_LOST)
    assert "closed" in reply.text


def test_silence_until_the_deadline_is_a_miss_and_its_late_answer_meets_nobody(scripted):
    """Answer the first question only after its deadline; the second must get its own answer."""
    release = threading.Event()
    asked = []

    def script(head, body):
        asked.append(1)
        if len(asked) == 1:
            release.wait(5)
        return answering(head, body)

    node = scripted(script)
    with Connection(node.url) as connection:
        missed = connection.ask("m", QUESTION, timeout_ns=30 * MS)
        release.set()
        answered = connection.ask("m", {"x": X * 10, "n": N})

    assert (missed.outcome, missed.reason) == (Outcome.MISSED, Reason.DEADLINE)
    assert answered.outputs["y"].tolist() == [[20, 40, 60]]
    assert node.connections == 2


def test_a_refusal_brings_its_facts(scripted):
    """Refuse as the node does, with its own encoder."""
    facts = {
        "predicted_finish_us": 122_000,
        "earliest_feasible_us": 122_000,
        "safe_action": {"brake": True},
    }
    node = scripted(lambda *_: http(503, encode_error(Reason.OVERLOAD, "too much", facts)))

    with Connection(node.url) as connection:
        reply = connection.ask("m", QUESTION)

    assert (reply.outcome, reply.reason, reply.status) == (Outcome.REJECTED, Reason.OVERLOAD, 503)
    assert reply.text == "too much"
    assert reply.earliest_feasible_us == 122_000
    assert reply.safe_action == {"brake": True}
    assert reply.outputs == {}


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.NONE])
def test_every_reason_comes_back_as_itself(scripted, reason):
    """Send every reason the table knows through the node's encoder."""
    node = scripted(lambda *_: http(TABLE[reason].http, encode_error(reason, "no", {})))

    with Connection(node.url) as connection:
        reply = connection.ask("m", QUESTION)

    assert (reply.outcome, reply.reason) == (TABLE[reason].outcome, reason)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",  # no length
        b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\n",
        http(200, b"[]"),
        http(200, b'{"outputs":[{"name":"y","datatype":"FP32","shape":[9],"data":[1]}]}'),
        http(200, b'{"outputs":[{"name":"y","datatype":"NONE","shape":[1],"data":[1]}]}'),
        http(
            200,
            b'{"outputs":[{"name":"y","datatype":"FP32","shape":[2],'
            b'"parameters":{"binary_data_size":8}}]}1234',
            json_size=84,
        ),
    ],
)
def test_what_is_no_answer_fails_and_never_raises(scripted, answer):
    """Answer with another protocol, wrong lengths and wrong shapes."""
    node = scripted(lambda *_: answer)

    with Connection(node.url) as connection:
        reply = connection.ask("m", QUESTION, timeout_ns=1000 * MS)

    assert (reply.outcome, reply.reason) == (Outcome.FAILED, Reason.GATE_LOST)
    assert reply.text


def test_metadata_is_the_nodes_or_none_for_an_unknown_decision(scripted):
    """Describe one decision with the node's encoder and say 404 to another."""

    def script(head, body):
        if b"/v2/models/m " in head:
            return http(200, model_metadata("m", SPEC))
        return http(404, encode_error(Reason.UNKNOWN_DECISION, "no such", {}))

    with Connection(scripted(script).url) as connection:
        found, unknown = connection.metadata("m"), connection.metadata("a b/c")

    assert found is not None
    assert (found.inputs, found.outputs) == (SPEC.inputs, SPEC.outputs)
    assert unknown is None


def test_where_nothing_listens_a_question_fails_and_a_look_raises(tmp_path):
    """Point at a socket that is not there."""
    connection = Connection(f"unix:{tmp_path / 'nobody'}")

    reply = connection.ask("m", QUESTION)

    assert (reply.outcome, reply.reason) == (Outcome.FAILED, Reason.GATE_LOST)
    with pytest.raises(Unreachable, match=r"nothing answers at .* start a node"):
        connection.ready()


def test_a_listener_that_is_no_node_is_told_apart_from_nobody(scripted):
    """Let something else answer where a node was expected."""
    node = scripted(lambda *_: b"220 mail.example ESMTP\r\n\r\n")

    with Connection(node.url) as connection, pytest.raises(Mute, match="as a node does"):
        connection.health()


def test_a_type_the_protocol_does_not_carry_is_refused_before_anything_is_sent(scripted):
    """Ask with complex numbers."""
    node = scripted(answering)

    with Connection(node.url) as connection, pytest.raises(QuestionError, match="complex128"):
        connection.ask("m", {"x": np.array([1j])})

    assert node.connections == 0


def test_an_answer_in_pieces_is_put_together(scripted):
    """Send the answer one byte at a time."""
    node = scripted(lambda head, body: Trickle(answering(head, body)))

    with Connection(node.url) as connection:
        reply = connection.ask("m", QUESTION)

    assert reply.outputs["y"].tolist() == [[2, 4, 6]]


def test_tensors_lie_where_numpy_reads_them_fast(scripted):
    """Look at the alignment of the first tensor, whatever the length of the JSON before it."""
    node = scripted(answering)

    with Connection(node.url) as connection:
        replies = [connection.ask("m", QUESTION, id="i" * n) for n in range(5)]

    assert all(reply.outputs["y"].flags.aligned for reply in replies)


@pytest.mark.parametrize(
    "url", ["", "localhost:8700", "https://a", "unix:", "http://a:b", "http://"]
)
def test_what_is_no_address_is_refused(url):
    """Try what people type."""
    with pytest.raises(QuestionError, match="write http://host:port or unix:/path"):
        Connection(url)
