"""The asker's own honesty: what it counts, from when, and as what."""

import socket
import threading
import time

import numpy as np
import pytest
from bench.loadgen import Run, back_to_back, connect, open_loop, periodic, poisson, receive_reply

MS = 1_000_000


def reply(status: int) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: 2\r\n\r\n{}" % status


def request(size: int = 4) -> bytes:
    return b"POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (size, b"x" * size)


@pytest.fixture
def serve():
    """Start a server that treats each connection with the given function; return its address."""
    listeners = []

    def start(treat):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def accept():
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=guarded, args=(sock,), daemon=True).start()

        def guarded(sock):
            with sock:
                try:
                    treat(sock)
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def answer_all(sock):
    while True:
        receive_reply(sock)
        sock.sendall(reply(200))


def test_each_status_is_counted_as_what_the_asker_got():
    """One request of each kind: in time, late, rejected, missed, failed, never answered."""
    intended = np.zeros(6, np.int64)
    done = np.array([5, 25, 1, 20, 3, 0]) * MS
    status = np.array([200, 200, 503, 504, 500, 0])

    report = Run(intended, intended + 1, done, status, {}).report(20 * MS)

    names = ("offered", "answered", "in_time", "late", "rejected", "missed", "failed")
    assert [report[name] for name in names] == [6, 2, 1, 1, 1, 1, 2]
    assert report["latency_p99_us"] is None  # two samples claim nothing
    assert report["latency_max_us"] == 25_000


def test_arrivals_depend_on_the_seed_only_and_keep_their_rate():
    """A Poisson count stays within five standard deviations; periodic gaps are equal."""
    first = poisson(100, 50, np.random.default_rng(1))
    again = poisson(100, 50, np.random.default_rng(1))
    even = periodic(100, 2, np.random.default_rng(1))

    assert np.array_equal(first, again)
    assert abs(len(first) - 5000) < 5 * 5000**0.5
    assert len(even) == 200
    assert np.ptp(np.diff(even)) <= 1


def test_latency_counts_from_the_intended_instant_when_the_pool_is_full(serve):
    """Three questions due at once on one connection to a server of 20 ms: each waits its turn."""

    def slow(sock):
        while True:
            receive_reply(sock)
            time.sleep(0.02)
            sock.sendall(reply(200))

    run = open_loop(serve(slow), request(), np.zeros(3, np.int64), most_connections=1)

    latencies = np.sort(run.done - run.intended)
    assert list(run.status) == [200, 200, 200]
    assert all(latencies >= np.array([20, 40, 60]) * MS)


def test_each_question_can_be_another_and_keep_its_reply(serve):
    """The server sends back what it got; each reply stands in the place of its question."""

    def echo(sock):
        while True:
            asked = receive_reply(sock)
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(asked), asked))

    questions = [request(size) for size in (1, 2, 3)]
    address, offsets = serve(echo), np.zeros(3, np.int64)

    kept = open_loop(address, questions, offsets, keep_replies=True)
    thrown_away = open_loop(address, questions, offsets)

    assert [reply.partition(b"\r\n\r\n")[2] for reply in kept.replies] == questions
    assert thrown_away.replies == []


def test_a_slow_server_does_not_slow_the_load(serve):
    """Answers take 30 ms, questions are due every 2 ms: all are sent before the first answer."""

    def slow(sock):
        receive_reply(sock)
        time.sleep(0.03)
        sock.sendall(reply(200))

    offsets = np.arange(5) * 2 * MS

    run = open_loop(serve(slow), request(), offsets)

    assert list(run.status) == [200] * 5
    assert run.sent.max() < run.done.min()


def test_a_refusal_before_the_body_was_sent_leaves_the_connection_usable(serve):
    """The server answers at the head of 8 MB, then reads the rest and answers the next question."""

    def refuse_first(sock):
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(1 << 16)
        sock.sendall(reply(503))
        left = len(large) - len(head)
        time.sleep(0.02)
        while left:
            left -= len(sock.recv(min(left, 1 << 20)))
        answer_all(sock)

    large = request(8_000_000)

    run = open_loop(serve(refuse_first), large, np.zeros(2, np.int64), most_connections=1)

    assert list(run.status) == [503, 200]


def test_a_closed_connection_fails_its_request_and_is_replaced(serve):
    """Every connection dies after one question without an answer, or after one with."""
    seen = []

    def close_first(sock):
        receive_reply(sock)
        seen.append(sock)
        if len(seen) > 1:
            sock.sendall(reply(200))

    offsets = np.array([0, 30 * MS, 60 * MS])

    run = open_loop(serve(close_first), request(), offsets, most_connections=1)

    assert list(run.status) == [0, 200, 200]


def test_back_to_back_takes_one_latency_per_answer_and_stops_at_a_refusal(serve):
    """An overhead figure made of error replies would look splendid."""
    address = serve(answer_all)
    with connect(address) as sock:
        latencies = back_to_back(sock, request(), 50)

    def refuse(sock):
        receive_reply(sock)
        sock.sendall(reply(500))

    with connect(serve(refuse)) as sock, pytest.raises(SystemExit, match="500"):
        back_to_back(sock, request(), 1)
    assert len(latencies) == 50
    assert min(latencies) > 0
