"""Heads: what is taken, and the sentence for each that is not."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidsram.outcome import Reason
from tidsram.protocol.oip import RequestError
from tidsram.serve import http
from tidsram.serve.http import Head, parse_head


def head(*lines: str, start: str = "POST /v2/models/m/infer HTTP/1.1") -> bytes:
    return "\r\n".join((start, *lines, "", "")).encode("latin1")


def refusal(data: bytes) -> str:
    with pytest.raises(RequestError) as caught:
        parse_head(data)

    assert caught.value.reason is Reason.INVALID
    return str(caught.value)


def test_a_question_with_binary_tensors_is_read():
    """Both lengths, whatever case their names are in."""
    read = parse_head(
        head("host: a", "CONTENT-LENGTH: 900", "inference-header-CONTENT-length: 100")
    )

    assert read == Head(
        method="POST",
        path="/v2/models/m/infer",
        content_bytes=900,
        json_bytes=100,
        keep_alive=True,
        expect_continue=False,
    )


def test_without_a_header_length_the_whole_body_is_json():
    """−1 says so; 0 says that there is no JSON at all."""
    assert parse_head(head("Content-Length: 9")).json_bytes == -1
    raw = parse_head(head("Content-Length: 9", "Inference-Header-Content-Length: 0"))
    assert raw.json_bytes == 0


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/metrics?x=1&y=2", "/metrics"),
        ("http://node:8700/v2/models/m/infer?q", "/v2/models/m/infer"),
        ("http://node", "/"),
        ("/" + "a" * 10_000, "/" + "a" * 10_000),
    ],
)
def test_the_path_is_without_host_and_query(target, path):
    """Also where a client sends the whole URL, as to a proxy."""
    assert parse_head(head(start=f"GET {target} HTTP/1.1")).path == path


@pytest.mark.parametrize(
    ("version", "lines", "keeps"),
    [
        ("1.1", (), True),
        ("1.1", ("Connection: close",), False),
        ("1.0", (), False),
        ("1.0", ("Connection: keep-alive",), True),
    ],
)
def test_a_connection_is_kept_as_its_version_says(version, lines, keeps):
    """HTTP/1.1 keeps unless told; HTTP/1.0 closes unless told."""
    assert parse_head(head(*lines, start=f"GET / HTTP/{version}")).keep_alive is keeps


def test_expect_continue_is_seen():
    """Large uploads of curl wait for it."""
    assert parse_head(head("Expect: 100-Continue", "Content-Length: 5")).expect_continue


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"\0\r\n\r\n", "not HTTP/1.1: Invalid method"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", "not HTTP/1.1: Invalid method"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "not HTTP/1.1"),
        (b"\r\n\r\n", "the head does not end"),
        (b"GET / HTTP/1.1\r\n", "the head does not end"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", "not HTTP/1.1: Invalid char in url"),
        (head(start="GET a/b HTTP/1.1"), "not HTTP/1.1"),
        (head(start="CONNECT a:1 HTTP/1.1"), "does not change protocols"),
        (head("Connection: Upgrade", "Upgrade: websocket"), "leave Upgrade out"),
        (head("A B: c"), "not HTTP/1.1: Invalid header token"),
        (head("A: b\0"), "not HTTP/1.1: Invalid header value"),
        (head("A: b", " folded"), "not HTTP/1.1"),
        (head("Content-Length: -5"), "Invalid character in Content-Length"),
        (head("Content-Length: 5, 5"), "Invalid character in Content-Length"),
        (head("Content-Length:"), "Empty Content-Length"),
        (head("Content-Length: " + "9" * 30), "Content-Length overflow"),
        (head("Content-Length: " + "9" * 16), "give a whole number of bytes"),
        (head("Content-Length: 5", "Content-Length: 5"), "Duplicate Content-Length"),
        (head("Transfer-Encoding: chunked"), "send Content-Length: a chunked body"),
        (head("Transfer-Encoding: chunked", "Content-Length: 5"), "Content-Length can't be"),
        (head("Content-Encoding: gzip", "Content-Length: 5"), "send the body uncompressed"),
        (head("Host: a", "Host: b"), "header 'host' is given twice; give it once"),
    ],
)
def test_a_bad_head_gets_its_sentence(data, part):
    """Smuggling, other protocols, noise: one sentence each, and the connection ends."""
    told = refusal(data)

    assert part in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("6", "is 6, but the body has 5 bytes; it counts the JSON before the tensors"),
        ("-1", "header inference-header-content-length is '-1': give a whole number"),
        ("5.0", "is '5.0': give a whole number"),
        ("0x5", "is '0x5': give a whole number"),
        ("", "is '': give a whole number"),
        ("9" * 400, "give a whole number"),
    ],
)
def test_a_wrong_header_length_gets_its_sentence(value, part):
    """It decides where the tensors begin: no guessing."""
    told = refusal(head("Content-Length: 5", f"Inference-Header-Content-Length: {value}"))

    assert part in told
    assert len(told) < 200


def test_a_header_length_given_twice_is_refused():
    """Two answers to where the tensors begin are none."""
    twice = ["Inference-Header-Content-Length: 1", "Inference-Header-Content-Length: 2"]

    assert "given twice" in refusal(head("Content-Length: 5", *twice))


@given(st.binary(max_size=300))
def test_no_bytes_at_all_break_the_parser(data):
    """A head, or a sentence: never another exception."""
    for sent in (data, b"GET " + data + b"\r\n\r\n", head("A: b")[:-2] + data + b"\r\n\r\n"):
        with contextlib.suppress(RequestError):
            parse_head(sent)


def test_a_refusal_is_a_whole_answer():
    """Status by the table, or as told; closing where the connection cannot go on."""
    facts = {"budget_us": 5}
    framed = http.refusal(Reason.OVERLOAD, "too much", facts, keep_alive=True)
    closing = http.refusal(Reason.TOO_LARGE, "too long", {}, keep_alive=False, status=431)

    start, _, body = framed.partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert f"Content-Length: {len(body)}".encode() in start
    assert b"Connection" not in start
    assert json.loads(body) | facts == json.loads(body)
    assert closing.startswith(b"HTTP/1.1 431 ")
    assert b"\r\nConnection: close\r\n" in closing


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.ASKER_LEFT])
def test_every_reason_can_be_told(reason):
    """The status line exists for each status of the outcome table."""
    assert http.refusal(reason, "a sentence", {}, keep_alive=True).startswith(b"HTTP/1.1 ")
