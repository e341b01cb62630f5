"""The asker: open-loop load over keep-alive connections, or one asker back to back.

A request is bytes prepared beforehand and belongs to its intended instant: whatever delays it, a
full pool, a busy machine or the server, counts in its latency. It never waits for an answer
before it sends the next question, so a slow server cannot slow the load that judges it.
"""

import re
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from bench.machine import Watch
from tidsram.stats import percentile

SPIN_NS = 50_000  # the last stretch before a send that is spent spinning instead of sleeping
FIRST_CONNECTIONS = 16
GIVE_UP_NS = 5_000_000_000  # after the last intended instant; what is open then has failed
RECEIVE_BYTES = 1 << 16

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CLOSE = re.compile(rb"(?i)\r\nconnection: *close")

Ints = npt.NDArray[np.int64]


def periodic(rate: float, seconds: float, rng: np.random.Generator) -> Ints:
    """Return instants in ns, one every 1/rate from a random phase on."""
    return np.asarray((np.arange(int(rate * seconds)) + rng.random()) / rate * 1e9, np.int64)


def poisson(rate: float, seconds: float, rng: np.random.Generator) -> Ints:
    """Return the instants in ns of a Poisson process."""
    count = rng.poisson(rate * seconds)
    return np.sort(np.asarray(rng.random(count) * seconds * 1e9, np.int64))


def connect(address: str) -> socket.socket:
    """Open a connection to "host:port" or to the Unix socket at an absolute path."""
    if address.startswith("/"):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address)
        return sock
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def receive_reply(sock: socket.socket, reply: bytes = b"") -> bytes:
    """Receive on a blocking socket until `reply` is whole."""
    while not (size := _reply_size(reply)) or len(reply) < size:
        more = sock.recv(RECEIVE_BYTES)
        if not more:
            raise ConnectionError(f"the server closed the connection after {reply[:80]!r}")
        reply += more
    return reply


def back_to_back(sock: socket.socket, request: bytes, count: int) -> list[int]:
    """Ask `count` times, each after the answer to the last; return each latency in ns."""
    now, send, receive = time.monotonic_ns, sock.sendall, sock.recv
    latencies = [0] * count
    for index in range(count):
        start = now()
        send(request)
        reply = receive(RECEIVE_BYTES)
        end = now()
        if not (size := _reply_size(reply)) or len(reply) < size:
            reply = receive_reply(sock, reply)
            end = now()
        if reply[9:12] != b"200":
            raise SystemExit(f"the server refused a question: {reply[:500]!r}")
        latencies[index] = end - start
    return latencies


@dataclass(frozen=True)
class Run:
    """What happened to each request of one open-loop run; instants in ns, 0 where none."""

    intended: Ints
    sent: Ints
    done: Ints
    status: Ints
    shares: dict[str, float]
    replies: Sequence[bytes] = ()  # whole, where they were to be kept; empty where none came

    def report(self, budget_ns: int) -> dict[str, float | int | None]:
        """Count outcomes as the asker sees them; percentiles only where the sample allows one."""
        latency = self.done - self.intended
        answered, rejected = self.status == 200, self.status == 503
        missed = self.status == 504
        in_time = self.in_time(budget_ns)
        return {
            "offered": len(self.intended),
            "answered": int(answered.sum()),
            "in_time": in_time,
            "late": int(answered.sum()) - in_time,
            "rejected": int(rejected.sum()),
            "missed": int(missed.sum()),
            "failed": int((~answered & ~rejected & ~missed).sum()),
            **percentiles("latency", latency[answered]),
            **percentiles("notice", latency[rejected]),
            **percentiles("own_lateness", (self.sent - self.intended)[self.sent > 0]),
            **self.shares,
        }

    @classmethod
    def pooled(cls, runs: Sequence["Run"]) -> Self:
        """Return all requests of several runs as one; shares are means."""
        return cls(
            np.concatenate([run.intended for run in runs]),
            np.concatenate([run.sent for run in runs]),
            np.concatenate([run.done for run in runs]),
            np.concatenate([run.status for run in runs]),
            {key: sum(run.shares[key] for run in runs) / len(runs) for key in runs[0].shares},
        )

    def in_time(self, budget_ns: int) -> int:
        """Count the answers that the asker had within the budget of the intended instant."""
        return int(((self.status == 200) & (self.done - self.intended <= budget_ns)).sum())

    @property
    def answers_per_second(self) -> float:
        """Return answers over the time from the first request sent to the last reply."""
        span_ns = int(self.done.max()) - int(self.sent[0])
        return float((self.status == 200).sum() / max(1, span_ns) * 1e9)


def percentiles(name: str, values_ns: Ints) -> dict[str, float | None]:
    """Return p50, p99, p99.9 and the maximum in µs; null where too few samples would claim it."""
    ordered = sorted(int(value) for value in values_ns)
    found = {
        f"{name}_{label}_us": percentile(ordered, q)
        for label, q in (("p50", 0.5), ("p99", 0.99), ("p99_9", 0.999))
    }
    found[f"{name}_max_us"] = ordered[-1] if ordered else None
    return {key: None if ns is None else ns / 1e3 for key, ns in found.items()}


def show(value: float | None, digits: int = 0) -> str:
    """Show a figure, or a dash where the sample was too small to claim it."""
    return "–" if value is None else f"{value:.{digits}f}"


def open_loop(
    address: str,
    request: bytes | Sequence[bytes],
    offsets_ns: Ints,
    *,
    most_connections: int = 256,
    keep_replies: bool = False,
) -> Run:
    """Send `request`, or one for each offset, at each offset from now on; wait for the replies.

    With all offsets zero and few connections this is a saturated closed loop.
    """
    requests = [request] * len(offsets_ns) if isinstance(request, bytes) else request
    replies = [b""] * len(offsets_ns) if keep_replies else []
    return _Asker(address, requests, offsets_ns, most_connections, replies).run()


class _Connection:
    __slots__ = ("index", "reply", "sock", "unsent")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.index = -1  # of the request in flight; -1: none
        self.unsent = memoryview(b"")
        self.reply = b""


class _Asker:
    def __init__(
        self,
        address: str,
        requests: Sequence[bytes],
        offsets: Ints,
        most: int,
        replies: list[bytes],
    ) -> None:
        self._address, self._requests, self._most = address, requests, most
        self._offsets, self._replies = offsets, replies
        count = len(offsets)
        self._sent, self._done, self._status = [0] * count, [0] * count, [0] * count
        self._open_requests = count
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._idle = [self._connect() for _ in range(min(FIRST_CONNECTIONS, most))]

    def run(self) -> Run:
        watch = Watch()
        now = time.monotonic_ns
        first_ns = now() + 5_000_000
        due: Sequence[int] = (self._offsets + first_ns).tolist()
        give_up_ns = due[-1] + GIVE_UP_NS
        following, count = 0, len(due)
        while self._open_requests and (now_ns := now()) < give_up_ns:
            free = bool(self._idle) or len(self._connections) < self._most
            if free and following < count and due[following] <= now_ns:
                self._send(following)
                following += 1
                continue
            wake_ns = due[following] if free and following < count else give_up_ns
            self._receive(wake_ns - now_ns - SPIN_NS)
        shares = watch.shares()
        for connection in self._connections.values():
            connection.sock.close()
        self._epoll.close()
        return Run(
            np.array(due, np.int64),
            np.array(self._sent, np.int64),
            np.array(self._done, np.int64),
            np.array(self._status, np.int64),
            shares,
            self._replies,
        )

    def _connect(self) -> _Connection:
        sock = connect(self._address)
        sock.setblocking(False)
        connection = self._connections[sock.fileno()] = _Connection(sock)
        self._epoll.register(sock, select.EPOLLIN)
        return connection

    def _send(self, index: int) -> None:
        connection = self._idle.pop() if self._idle else self._connect()
        connection.index, connection.unsent = index, memoryview(self._requests[index])
        self._sent[index] = time.monotonic_ns()
        self._push(connection)
        if connection.unsent:
            self._epoll.modify(connection.sock, select.EPOLLIN | select.EPOLLOUT)

    def _push(self, connection: _Connection) -> None:
        try:
            while connection.unsent:
                connection.unsent = connection.unsent[connection.sock.send(connection.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._lost(connection)

    def _receive(self, wait_ns: int) -> None:
        # epoll's own timeout counts in milliseconds; select's, on the epoll, in microseconds.
        if wait_ns > 0:
            select.select((self._epoll,), (), (), wait_ns / 1e9)
        for number, events in self._epoll.poll(0):
            connection = self._connections[number]
            if events & select.EPOLLOUT:
                self._push_more(connection)
            if events & ~select.EPOLLOUT and number in self._connections:
                self._read(connection)

    def _push_more(self, connection: _Connection) -> None:
        self._push(connection)
        if connection.unsent or connection.sock.fileno() < 0:
            return
        self._epoll.modify(connection.sock, select.EPOLLIN)
        if connection.index < 0:  # it was refused before its body had been sent
            self._idle.append(connection)

    def _read(self, connection: _Connection) -> None:
        try:
            received = connection.sock.recv(RECEIVE_BYTES)
        except OSError:
            received = b""
        now_ns = time.monotonic_ns()
        if not received:
            self._lost(connection)
            return
        reply = connection.reply = connection.reply + received
        size = _reply_size(reply)
        if not size or len(reply) < size:
            return
        if self._replies:
            self._replies[connection.index] = reply
        self._end(connection, int(reply[9:12]), now_ns)
        connection.reply = b""
        if _CLOSE.search(reply, 0, size):
            self._drop(connection)
        elif not connection.unsent:
            self._idle.append(connection)

    def _lost(self, connection: _Connection) -> None:
        if connection.index >= 0:
            self._end(connection, 0, time.monotonic_ns())
        elif connection in self._idle:
            self._idle.remove(connection)
        self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection.sock.fileno()]
        connection.unsent = memoryview(b"")
        connection.sock.close()  # leaves the epoll by itself

    def _end(self, connection: _Connection, status: int, now_ns: int) -> None:
        index, connection.index = connection.index, -1
        self._done[index], self._status[index] = now_ns, status
        self._open_requests -= 1


def _reply_size(reply: bytes) -> int:
    """Return the length of the whole reply, or 0 while its head is incomplete."""
    end = reply.find(b"\r\n\r\n")
    if end < 0:
        return 0
    length = _LENGTH.search(reply, 0, end + 2)
    return end + 4 + (int(length[1]) if length else 0)
