"""One blocking connection to a node: the Open Inference Protocol with binary tensors.

Keeps one socket open between questions and gives up at the deadline whatever the network does.
Never asks twice on its own: a question may have been acted on although its answer was lost.
"""

import select
import socket
from collections.abc import Mapping
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
import numpy as np

from tidsram import clock
from tidsram.client import wire
from tidsram.client.address import parse_url
from tidsram.client.wire import Array, Metadata, Reply
from tidsram.errors import NodeError
from tidsram.outcome import Outcome, Reason
from tidsram.units import MS, SECOND

_HEAD_MAX: Final = 64 * 1024
_BODY_MAX: Final = 1024**3
_TIMEOUT_NS: Final = 10 * SECOND  # for a question without a budget of its own
_GRACE_NS: Final = 20 * MS  # at the deadline the node says `missed` itself; we wait this much more
_ALIGNMENT: Final = 64

T = TypeVar("T")


class Unreachable(NodeError):
    """Nothing listens where a node was expected."""


class Mute(NodeError):
    """Something listens, but it does not answer as a node does."""


class Connection:
    """A node at "http://host:port" or "unix:/path". One thread uses it; close it when done."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._address = parse_url(url)
        self._host = urlsplit(url).netloc or "localhost"
        self._socket: socket.socket | None = None
        self._give_up_at_ns = 0

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; the next question opens a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(
        self,
        decision: str,
        inputs: Mapping[str, Array],
        *,
        budget_ns: int | None = None,
        spent_ns: int = 0,
        stream: str | None = None,
        id: str | None = None,  # noqa: A002 - the protocol's word
        timeout_ns: int | None = None,
    ) -> Reply:
        """Ask one question and return what became of it, at the latest at its deadline.

        `spent_ns` is what the asker has used of the budget already. `timeout_ns` counts from this
        call; without it the budget decides. Only a question that cannot be sent raises.
        """
        called_ns = clock.now_ns()
        if timeout_ns is None:
            left_ns = None if budget_ns is None else max(0, budget_ns - spent_ns) + _GRACE_NS
            timeout_ns = left_ns or _TIMEOUT_NS
        parts = wire.question(inputs, budget_ns=budget_ns, spent_ns=spent_ns, stream=stream, id_=id)
        path = f"/v2/models/{quote(decision, safe='')}/infer"
        try:
            reply = wire.reply(*self._exchange("POST", path, parts, called_ns + timeout_ns))
        except TimeoutError:
            text = "no answer came before the deadline"
            reply = Reply(outcome=Outcome.MISSED, reason=Reason.DEADLINE, text=text)
        except (Unreachable, OSError, wire.Malformed) as error:
            reply = Reply(outcome=Outcome.FAILED, reason=Reason.GATE_LOST, text=str(error))
        return msgspec.structs.replace(reply, took_ns=clock.now_ns() - called_ns)

    def metadata(self, decision: str) -> Metadata | None:
        """Return what the decision takes and gives; None when the node does not know it."""
        status, body = self._get(f"/v2/models/{quote(decision, safe='')}")
        return None if status == 404 else self._decode(body, Metadata)

    def ready(self) -> bool:
        """Return whether the node takes questions now."""
        return self._get("/v2/health/ready")[0] == 200

    def health(self) -> dict[str, Any]:
        """Return what the node says of itself: ready or not, its decisions and their workers."""
        return self._decode(self._get("/v2/health/ready")[1], dict[str, Any])

    def _get(self, path: str) -> tuple[int, memoryview]:
        try:
            status, _, body = self._exchange("GET", path, [], clock.now_ns() + _TIMEOUT_NS)
        except (OSError, wire.Malformed) as error:
            raise self._mute(error) from None
        return status, body

    def _decode(self, body: memoryview, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError as error:
            raise self._mute(error) from None

    def _mute(self, error: Exception) -> Mute:
        return Mute(
            f"what listens at {self.url} does not answer as a node does ({error}); "
            "is it a node, and is it alive?"
        )

    def _exchange(
        self, verb: str, path: str, parts: list[wire.Part], give_up_at_ns: int
    ) -> tuple[int, int | None, memoryview]:
        """Send one request, receive its answer: status, length of the JSON part, body."""
        self._give_up_at_ns = give_up_at_ns
        lines = [f"{verb} {path} HTTP/1.1", f"Host: {self._host}"]
        if parts:
            lines += [
                "Content-Type: application/octet-stream",
                f"Inference-Header-Content-Length: {len(parts[0])}",
                f"Content-Length: {sum(map(len, parts))}",
            ]
        try:
            connected = self._connected()
            self._send(connected, ["\r\n".join([*lines, "\r\n"]).encode("ascii"), *parts])
            status, headers, early = self._receive_head(connected)
            body = self._receive_body(connected, headers, early)
        except BaseException:
            self.close()  # what still comes here must not be taken for the next answer
            raise
        if headers.get("connection", "").lower() == "close":
            self.close()
        return status, _size(headers, "inference-header-content-length"), body

    def _connected(self) -> socket.socket:
        if self._socket is not None and _idle(self._socket):
            return self._socket
        self.close()
        try:
            self._socket = self._dial()
        except TimeoutError:  # an OSError too, and not this sentence
            raise
        except OSError as error:
            raise Unreachable(
                f"nothing answers at {self.url} ({error.strerror or error}); start a node with "
                "`tidsram serve`, or name another with --url"
            ) from None
        return self._socket

    def _dial(self) -> socket.socket:
        if isinstance(self._address, tuple):
            dialled = socket.create_connection(self._address, self._patience_s())
            dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return dialled
        dialled = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        dialled.settimeout(self._patience_s())
        try:
            dialled.connect(self._address)
        except OSError:
            dialled.close()
            raise
        return dialled

    def _patience_s(self) -> float:
        left_ns = self._give_up_at_ns - clock.now_ns()
        if left_ns <= 0:
            raise TimeoutError("the deadline has passed")
        return left_ns / 1e9

    def _send(self, connected: socket.socket, parts: list[wire.Part]) -> None:
        views = [memoryview(part) for part in parts]
        while views:
            connected.settimeout(self._patience_s())
            sent = connected.sendmsg(views)
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if sent:
                views[0] = views[0][sent:]

    def _receive_head(self, connected: socket.socket) -> tuple[int, dict[str, str], bytes]:
        received = b""
        while b"\r\n\r\n" not in received:
            if len(received) > _HEAD_MAX:
                raise wire.Malformed("the answer's HTTP head has no end")
            connected.settimeout(self._patience_s())
            more = connected.recv(_HEAD_MAX)
            if not more:
                raise ConnectionResetError("the connection was closed before the answer came")
            received += more
        head, _, early = received.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in rest)
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        version, _, status = first.partition(" ")
        if not version.startswith("HTTP/1.") or not status[:3].isdigit():
            raise wire.Malformed(f"it says {first[:40]!r} where HTTP has its status line")
        return int(status[:3]), headers, early

    def _receive_body(
        self, connected: socket.socket, headers: dict[str, str], early: bytes
    ) -> memoryview:
        length = _size(headers, "content-length")
        if length is None or length > _BODY_MAX or len(early) > length:
            raise wire.Malformed("the answer's length is not given or cannot be")
        # Start so that the tensors, after the JSON, lie where numpy reads them fastest.
        pad = -(_size(headers, "inference-header-content-length") or 0) % _ALIGNMENT
        body = np.empty(pad + length, np.uint8).data[pad:]
        body[: len(early)] = early
        filled = len(early)
        while filled < length:
            connected.settimeout(self._patience_s())
            count = connected.recv_into(body[filled:])
            if count == 0:
                raise ConnectionResetError("the connection was closed in the middle of the answer")
            filled += count
        return body


def _idle(connected: socket.socket) -> bool:
    """Tell whether the other side is silent: bytes between two questions mean that it closed."""
    poll = select.poll()
    poll.register(connected, select.POLLIN)
    return not poll.poll(0)


def _size(headers: dict[str, str], name: str) -> int | None:
    value = headers.get(name)
    if value is None:
        return None
    if not value.isdigit():
        raise wire.Malformed(f"its header {name} is {value!r}, not a number")
    return int(value)
