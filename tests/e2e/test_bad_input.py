"""Bad input: whatever is sent, a sentence comes back and the node is as it was before."""

import json
import random
import socket
import time

import pytest
from nodes import eventually, get, head, infer, resident_bytes, tensor, tiny

X = tensor("x", [1, -2, 3, 4])
JSON_LIMIT = 65536
MAX_CONNECTIONS = 4096
GREED = 3  # to one: what one asker may hold of it, to what is left


def asking(**rest: object) -> bytes:
    return infer("tiny", {"inputs": [X], **rest})


def with_x(**changes: object) -> bytes:
    changed = {key: value for key, value in (X | changes).items() if value is not None}
    return infer("tiny", {"inputs": [changed]})


def raw_x(size: int) -> bytes:
    return with_x(data=None, parameters={"binary_data_size": size})


# Not HTTP --------------------------------------------------------------------------------------

NOT_HTTP = {
    "a zero byte": b"\0",
    "zero bytes and an end": b"\0\0\0\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an answer": b"HTTP/1.1 200 OK\r\n\r\n",
    "only an end": b"\r\n\r\n",
    "words": b"hello node, are you there?\r\n\r\n",
    "a header without a name": b"GET /v2 HTTP/1.1\r\n: x\r\n\r\n",
    "a zero byte in a header": b"GET /v2 HTTP/1.1\r\nA: \0\r\n\r\n",
    "negative length": head("tiny", {"Content-Length": -1}),
    "two lengths": infer("tiny", b"{}", {"content-length": 3}),
    "chunks": head("tiny", {"Transfer-Encoding": "chunked"}) + b"0\r\n\r\n",
    "chunks and a length": infer("tiny", b"{}", {"Transfer-Encoding": "chunked"}),
    "zipped": infer("tiny", b"{}", {"Content-Encoding": "gzip"}),
    "another protocol": get("/v2")[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "a tunnel": b"CONNECT node:22 HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("sent", NOT_HTTP.values(), ids=NOT_HTTP)
def test_what_is_not_http_gets_a_sentence_and_the_end(node, sent):
    """400 with words, then the connection is closed: nothing after it could be understood."""
    with node.connect() as connection:
        if b"\r\n\r\n" not in sent:
            sent += b"\r\n\r\n"
        answer = connection.ask(sent)

        assert answer.status == 400
        assert answer.reason == "invalid"
        assert answer.json["error"]
        assert answer.headers["connection"] == "close"
        assert connection.is_closed()


def test_a_head_without_an_end_is_cut_off_at_its_limit(node):
    """431 as soon as more than 16 KiB have come, and not a byte more is kept."""
    with node.connect() as connection:
        connection.send(b"GET /v2 HTTP/1.1\r\n" + b"X-Fill: " + b"y" * 16384)
        answer = connection.read()

        assert answer.status == 431
        assert answer.reason == "too-large"
        assert "16384" in answer.json["error"]


def test_a_request_may_come_in_any_pieces(node):
    """Byte by byte, or cut anywhere: the same answer."""
    question = tiny()
    for size in (1, 7, len(question) - 1):
        with node.connect(tcp=True) as connection:
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(0, len(question), size):
                connection.send(question[at : at + size])
            answer = connection.read()

            assert answer.status == 200
            assert answer.output().tolist() == [[8, 1]]


def test_a_request_that_came_in_pieces_does_not_end_the_connection_at_its_deadline(node):
    """Having arrived slowly is forgiven once it has arrived."""
    question = infer("prompt", {"inputs": [X]})
    with node.connect() as connection:
        connection.send(question[:30])
        time.sleep(0.05)
        assert connection.ask(question[30:]).status == 200
        time.sleep(0.4)

        assert connection.ask(question).status == 200


def test_requests_sent_at_once_are_answered_in_turn(node):
    """Pipelining: equal heads or different ones, with good and bad questions between them."""
    bad = with_x(shape=[4, 1])
    sent = [tiny(), tiny(), get("/v2"), tiny((5, 0, 0, 0)), bad, tiny((5, 0, 0, 0)), tiny()]
    with node.connect() as connection:
        for _ in range(3):
            connection.send(b"".join(sent))
            answers = [connection.read() for _ in sent]

            assert [answer.status for answer in answers] == [200, 200, 200, 200, 400, 200, 200]
            assert [a.output()[0, 0] for i, a in enumerate(answers) if i not in (2, 4)] == [
                8,
                8,
                5,
                5,
                8,
            ]


def test_nothing_is_answered_after_the_last_word(node):
    """What is pipelined behind `Connection: close` was never promised anything."""
    closing = get("/v2")[:-2] + b"Connection: close\r\n\r\n"
    for sent in (closing + tiny() + tiny(), tiny()[:0] + closing + get("/nothing") + tiny()):
        with node.connect() as connection:
            assert connection.ask(sent).headers["connection"] == "close"
            assert connection.is_closed()
    assert node.count("tiny", "asker-left") == 0


def test_a_closing_question_is_answered_and_then_closed(node):
    """`Connection: close` on a question."""
    with node.connect() as connection:
        question = infer("tiny", {"inputs": [X]}, {"Connection": "close"})

        assert connection.ask(question).output().tolist() == [[8, 1]]
        assert connection.is_closed()


def test_an_upload_may_be_asked_about_first(node):
    """Expect: 100-continue is answered where the body is wanted, and refused where it is not."""
    body = json.dumps({"inputs": [X]}).encode()
    wanted = infer("tiny", body, {"Expect": "100-continue"})
    unwanted = head("nobody", {"Content-Length": 500, "Expect": "100-continue"})
    with node.connect() as connection:
        assert connection.ask(wanted[: -len(body)]).status == 100
        assert connection.ask(body).status == 200
        assert connection.ask(unwanted).status == 404
        assert connection.is_closed()


# Not a page ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "decision", ["nobody", "Tiny", "tiny/versions/2", "", "../../etc/passwd", "%00"]
)
def test_an_unknown_decision_is_named_with_those_that_are_known(node, decision):
    """404, what was asked for, and what there is."""
    answer = node.ask(infer(decision, {"inputs": [X]}))

    assert answer.status == 404
    assert answer.reason == "unknown-decision"
    assert "tiny, slow, prompt, found, failing, large" in answer.json["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/tiny/infer", 404),
        ("POST", "/v2/models/tiny", 405),
        ("POST", "/v2/models/tiny/config", 405),
        ("DELETE", "/v2/models/tiny", 405),
        ("PUT", "/metrics", 405),
        ("OPTIONS", "*", 405),
        ("GET", "/", 404),
        ("GET", "/" + "a" * 9000, 404),
    ],
)
def test_other_paths_and_methods_get_a_sentence(node, method, path, status):
    """No path of ours, no effect; the connection goes on."""
    with node.connect() as connection:
        answer = connection.ask(f"{method} {path} HTTP/1.1\r\nHost: n\r\n\r\n".encode())

        assert answer.status == status
        assert len(answer.json["error"]) < 400
        assert connection.ask(tiny()).status == 200


def test_head_is_get_without_its_body(node):
    """Health checkers ask so; a body after it would be taken for the next answer."""
    with node.connect() as connection:
        connection.send(get("/v2/health/ready").replace(b"GET", b"HEAD") + get("/v2/health/live"))
        head = connection.socket.recv(1 << 16)
        while b"true}" not in head:
            head += connection.socket.recv(1 << 16)

        first, second, body = head.split(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 200 OK")
        assert second.startswith(b"HTTP/1.1 200 OK")
        assert json.loads(body) == {"live": True}


# Not a question --------------------------------------------------------------------------------

ITEM = b'{"name":"x","shape":[1,4],"datatype":"FP32","data":%b}'
ONE = b'{"inputs":[' + ITEM + b"]}"
BOMBS = {
    "deep lists": b'{"inputs":' + b"[" * 65_000,
    "deep objects": b'{"a":' * 13_000 + b"1" + b"}" * 100,
    "deep data": ONE % (b"[" * 32_000 + b"]" * 32_000),
    "many inputs": b'{"inputs":[' + b",".join([ITEM % b"[1,2,3,4]"] * 1000) + b"]}",
    "many keys": b'{"inputs":[],' + b",".join(b'"%d":1' % i for i in range(7_000)) + b"}",
    "a long number": ONE % (b"[" + b"9" * 60_000 + b",1,1,1]"),
    "a long name": b'{"inputs":[{"name":"%b","shape":[],"datatype":""}]}' % (b"n" * 65_000),
    "a long shape": b'{"inputs":[{"name":"x","shape":[%b1],"datatype":"FP32"}]}' % (b"1," * 32_000),
    "nothing": b"",
    "half": b'{"inputs":[{"name":"x"',
    "not UTF-8": b'{"inputs":[{"name":"\xff"}]}',
    "NaN": ONE % b"[NaN,1,1,1]",
}


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS)
def test_a_json_bomb_is_a_bad_question_like_any_other(node, body):
    """400, a short sentence, within the time of a normal answer; the connection goes on."""
    with node.connect() as connection:
        answer = connection.ask(infer("tiny", body))

        assert (answer.status, answer.reason) == (400, "invalid")
        assert len(answer.json["error"]) < 600
        assert connection.ask(tiny()).status == 200


QUESTIONS = {
    "wrong datatype": (with_x(datatype="FP64"), "is FP64; the model takes FP32"),
    "no such datatype": (with_x(datatype="FP128"), "is FP128; the model takes FP32"),
    "wrong shape": (with_x(shape=[4, 1]), "has shape [4, 1]; the model takes [1, 4]"),
    "negative dimension": (with_x(shape=[1, -4]), "has shape [1, -4]; the model takes [1, 4]"),
    "too few numbers": (with_x(data=[1, 2]), "has 2 elements; shape [1, 4] needs 4"),
    "too many numbers": (with_x(data=[1] * 5), "has 5 elements; shape [1, 4] needs 4"),
    "text for numbers": (with_x(data=["a"] * 4), "is not FP32 data"),
    "truth for numbers": (with_x(data=[True] * 4), "true and false are not numbers"),
    "no data": (with_x(data=None), "neither data nor binary_data_size"),
    "unknown input": (with_x(name="z"), "input 'z' is not one of tiny's: 'x'"),
    "missing input": (infer("tiny", {"inputs": []}), "input 'x' of tiny is missing"),
    "input twice": (infer("tiny", {"inputs": [X, X]}), "input 'x' is given twice"),
    "one input too many": (infer("tiny", {"inputs": [X, X | {"name": "z"}]}), "'z' is not one of"),
    "unknown output": (asking(outputs=[{"name": "z"}]), "output 'z' is not one of tiny's: 'y'"),
    "output twice": (asking(outputs=[{"name": "y"}] * 2), "asked for twice"),
    "declared too small": (raw_x(12), "declares 12 bytes; FP32 [1, 4] is 16"),
    "declared but not sent": (raw_x(16), "16 bytes of binary data, but 0 follow"),
    "budget 0": (asking(parameters={"budget_us": 0}), "budget_us is 0: a budget is between 1 and"),
    "budget −1": (asking(parameters={"budget_us": -1}), "budget_us is -1"),
    "budget of a day": (asking(parameters={"budget_us": 86_400 * 10**6}), "is 86400000000: a"),
    "budget 1e300": (asking(parameters={"budget_us": 1e300}), "budget_us is 1e+300"),
    "budget NaN": (asking(parameters={"budget_us": float("nan")}), "not an inference request"),
    "budget infinite": (asking(parameters={"budget_us": float("inf")}), "not an inference request"),
    "budget in words": (asking(parameters={"budget_us": "20ms"}), "$.parameters.budget_us"),
    "timeout −1": (asking(parameters={"timeout": -1}), "timeout is -1: a budget is between"),
    "spent 1e300": (asking(parameters={"spent_us": 1e300}), "spent_us is 1e+300"),
    "sequence": (asking(parameters={"sequence_id": 5}), "no stateful sequences"),
    "criticality": (asking(parameters={"criticality": "most"}), "'most'"),
}  # fmt: skip


@pytest.mark.parametrize(("question", "part"), QUESTIONS.values(), ids=QUESTIONS)
def test_a_bad_question_gets_its_sentence_and_the_next_its_answer(node, question, part):
    """400 and what is wrong; the same connection goes on, and `invalid` is counted once."""
    before = node.count("tiny", "invalid")
    with node.connect() as connection:
        assert connection.ask(tiny()).status == 200
        answer = connection.ask(question)

        assert (answer.status, answer.reason) == (400, "invalid")
        assert part in answer.json["error"]
        assert answer.json["outcome"] == "rejected"
        assert connection.ask(tiny()).status == 200
    assert node.count("tiny", "invalid") == before + 1


@pytest.mark.parametrize(
    ("length", "part"),
    [
        ("9999", "Inference-Header-Content-Length is 9999, but the body has"),
        ("-1", "'-1': give a whole number of bytes"),
        ("abc", "'abc': give a whole number of bytes"),
    ],
)
def test_an_impossible_header_length_ends_the_connection(node, length, part):
    """Where the tensors begin cannot be guessed."""
    body = json.dumps({"inputs": [X]}).encode()
    with node.connect() as connection:
        answer = connection.ask(infer("tiny", body, {"Inference-Header-Content-Length": length}))

        assert answer.status == 400
        assert part in answer.json["error"]
        assert connection.is_closed()


@pytest.mark.parametrize("off_by", [-1, 1, -100, 16])
def test_a_wrong_header_length_is_told_from_a_right_one(node, off_by):
    """Off by a little, the JSON is cut or swallows tensor bytes: told, never guessed."""
    item = {key: value for key, value in X.items() if key != "data"}
    head = json.dumps({"inputs": [item | {"parameters": {"binary_data_size": 16}}]}).encode()
    wrong = {"Inference-Header-Content-Length": len(head) + off_by}
    right = {"Inference-Header-Content-Length": len(head)}
    with node.connect() as connection:
        answer = connection.ask(infer("tiny", head + bytes(16), wrong))

        assert answer.status in (400, 413)
        assert answer.json["outcome"] == "rejected"
        assert connection.ask(infer("tiny", head + bytes(16), right)).output().tolist() == [[0, 0]]


def test_too_much_json_is_refused_before_it_arrives(node):
    """413 on the head alone, with the way out; a body that follows is passed over."""
    size = JSON_LIMIT + 1
    with node.connect() as connection:
        answer = connection.ask(head("tiny", {"Content-Length": size}))

        assert (answer.status, answer.reason) == (413, "too-large")
        assert "binary data" in answer.json["error"]
        assert connection.send(b" " * size).ask(tiny()).status == 200


def test_too_many_tensor_bytes_are_refused_before_they_arrive(node):
    """413: a slot has room for the model's inputs and no more."""
    lengths = {"Content-Length": 1017, "Inference-Header-Content-Length": 1000}
    with node.connect() as connection:
        answer = connection.ask(head("tiny", lengths))

        assert (answer.status, answer.reason) == (413, "too-large")
        assert "17 bytes of tensors; tiny takes 16" in answer.json["error"]
        assert connection.send(b" " * 1017).ask(tiny()).status == 200


def test_a_refused_body_of_a_terabyte_costs_its_connection(node):
    """Nobody can keep the node reading for hours: refused, then closed."""
    with node.connect() as connection:
        connection.socket.settimeout(2.0)
        assert connection.ask(head("tiny", {"Content-Length": 10**12})).status == 413
        assert connection.is_closed()


# Not an answer ---------------------------------------------------------------------------------


def test_a_model_that_fails_says_so_and_goes_on(node):
    """`failed: model`, with the runtime's words; the worker lives."""
    x, beyond, inside = (
        tensor("x", [1, 2, 3, 4]),
        tensor("place", [99], "INT64"),
        tensor("place", [2], "INT64"),
    )
    with node.connect() as connection:
        for _ in range(3):
            answer = connection.ask(infer("failing", {"inputs": [x, beyond]}))

            assert (answer.status, answer.reason) == (500, "model")
            assert answer.json["outcome"] == "failed"
            assert "the model failed: " in answer.json["error"]
        assert connection.ask(infer("failing", {"inputs": [x, inside]})).output().tolist() == [[3]]


def test_an_answer_may_be_as_large_as_its_data_makes_it(node):
    """Places found: some, or none."""
    with node.connect() as connection:
        some = connection.ask(infer("found", {"inputs": [tensor("x", [0, 5, 0, 7])]}))
        none = connection.ask(infer("found", {"inputs": [tensor("x", [0, 0, 0, 0])]}))

        assert some.output("places").tolist() == [[0, 0], [1, 3]]
        assert none.output("places").shape == (2, 0)


def test_an_answer_too_large_for_json_is_refused_with_the_way_out(node):
    """413 before the run; as raw bytes it comes."""
    x = {"name": "x", "shape": [1], "datatype": "FP32", "data": [7]}
    raw = {"binary_data_output": True}
    with node.connect() as connection:
        refused = connection.ask(infer("large", {"inputs": [x]}))
        answer = connection.ask(infer("large", {"inputs": [x], "parameters": raw}))

        assert (refused.status, refused.reason) == (413, "too-large")
        assert "binary_data_output" in refused.json["error"]
        size = int(answer.headers["inference-header-content-length"])
        assert len(answer.body) - size == 4 << 20
        assert answer.body[-4:] == b"\x00\x00\xe0\x40"


def test_an_asker_who_does_not_read_is_not_kept_for(node):
    """Answers wait for their reader in bounded memory: the next question is read after them."""
    x = {"name": "x", "shape": [1], "datatype": "FP32", "data": [7]}
    question = infer("large", {"inputs": [x], "parameters": {"binary_data_output": True}})
    gate = node.health()["gate"]
    before = resident_bytes(gate)
    with node.connect() as connection:
        connection.send(question * 200)  # 800 MB of answers
        served = node.count("large", "")
        time.sleep(1.0)

        assert node.count("large", "") - served < 20
        assert resident_bytes(gate) - before < 64 << 20
        answers = [connection.read() for _ in range(200)]
        assert {(a.status, len(a.body) >> 20) for a in answers} == {(200, 4)}


def test_a_large_last_answer_arrives_before_the_end(node):
    """`Connection: close` on a question whose answer does not fit into the socket."""
    x = {"name": "x", "shape": [1], "datatype": "FP32", "data": [7]}
    raw = {"inputs": [x], "parameters": {"binary_data_output": True}}
    with node.connect(tcp=True) as connection:
        connection.send(infer("large", raw, {"Connection": "close"}))
        time.sleep(0.3)
        answer = connection.read()

        assert (answer.status, len(answer.body) >> 20) == (200, 4)
        assert connection.is_closed()


def test_one_asker_cannot_take_all_connections(node):
    """Three quarters are one's own; the rest is kept for others, who notice nothing."""
    most = MAX_CONNECTIONS * GREED // (GREED + 1) - 1  # beside the old one
    with node.connect() as old, node.connect(tcp=True) as other:
        assert old.ask(tiny()).status == 200
        crowd = [node.connect() for _ in range(most)]
        try:
            with node.connect() as beyond:
                refused = beyond.read()
                assert (refused.status, refused.reason) == (503, "overload")
                assert "the rest is kept for others" in refused.json["error"]
                assert beyond.is_closed()
            assert old.ask(tiny()).status == 200
            assert crowd[-1].ask(tiny()).status == 200
            assert other.ask(tiny()).status == 200
            assert node.ask(tiny(), tcp=True).status == 200
        finally:
            for connection in crowd:
                connection.socket.close()
    eventually(lambda: node.ask(tiny()).status == 200, "room again")


def test_damaged_requests_damage_nothing(node):
    """Good requests with bytes changed, lost, doubled and swapped: no crash, no leak, no hang."""
    chance = random.Random(7)
    good = [tiny(), asking(outputs=[{"name": "y"}]), raw_x(16) + bytes(16), get("/v2"), tiny() * 3]
    for _ in range(600):
        sent = chance.choice(good)
        for _ in range(chance.randint(1, 4)):
            sent = damaged(chance, sent)
        with node.connect() as connection:
            connection.send(sent)
            connection.socket.shutdown(socket.SHUT_WR)
            while not connection.is_closed():
                pass
    assert node.ask(tiny()).output().tolist() == [[8, 1]]


def damaged(chance: random.Random, data: bytes) -> bytes:
    at, to = sorted(chance.randint(0, len(data)) for _ in range(2))
    return chance.choice(
        [
            data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :],
            data[:at] + data[to:],
            data[:to] + data[at:],
            data[at:] + data[:at],
            data[:at]
            + chance.choice([b"\r\n", b"\r\n\r\n", b"\0", b"9", b"-", b'"', b"["])
            + data[at:],
        ]
    )


def test_thousands_of_questions_leave_no_memory_behind(node):
    """Good and bad ones, over few connections and many: the gate stays as large as it was."""
    gate = node.health()["gate"]

    def ask(times: int) -> None:
        for _ in range(times // 10):
            with node.connect() as connection:
                for question in (
                    tiny(),
                    with_x(shape=[4, 1]),
                    get("/v2"),
                    tiny(budget_us=1),
                    tiny(),
                ):
                    connection.ask(question)
                    connection.ask(question)

    ask(2000)
    before = resident_bytes(gate)
    ask(4000)

    assert resident_bytes(gate) - before < 2 << 20
