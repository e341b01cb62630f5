"""What supervisor, gate and workers tell each other outside the request path: typed values.

They travel as MessagePack over seqpacket sockets, one value a message, with the file descriptors
named in each value's docstring attached.
"""

import socket
from typing import TypeVar

import msgspec
from msgspec import Struct

from tidsram.estate.types import Estate
from tidsram.protocol.tensors import ModelSpec
from tidsram.protocol.wire import SlotLayout

MAX_MESSAGE = 131072
MAX_FDS = 8


class Load(Struct, frozen=True, tag=True):
    """Supervisor → worker: load this model. Descriptors: model, jobs socket, tickets socket."""

    decision: str
    model: str
    shapes: dict[str, tuple[int, ...]]
    cores: tuple[int, ...]
    housekeeping: tuple[int, ...]
    spec: ModelSpec | None  # as inspected before, None: inspect it


class Loaded(Struct, frozen=True, tag=True):
    """Worker → supervisor: loaded and warm on memory of its own.

    Descriptor: the model as it was loaded, for the workers that come after.
    """

    spec: ModelSpec
    output_seen: tuple[int, ...]  # bytes of each output
    warm_up_ns: tuple[int, ...]


class Refused(Struct, frozen=True, tag=True):
    """Worker → supervisor: the model cannot be served, with the line that fixes it."""

    problem: str
    remedy: str


class Pool(Struct, frozen=True, tag=True):
    """Supervisor → worker and gate: the decision's slots. Descriptor: the pool."""

    decision: str
    layout: SlotLayout
    spec: ModelSpec


class Ready(Struct, frozen=True, tag=True):
    """Worker → supervisor: the slots are mapped; jobs may come."""


class Open(Struct, frozen=True, tag=True):
    """Supervisor → gate: what to serve. Descriptors: metrics, then the listening sockets."""

    estate: Estate
    site: str
    boot: str
    epoch: int  # how many gates this boot has had, this one included
    lane_count: int
    endpoints: tuple[str, ...]


class WorkerReady(Struct, frozen=True, tag=True):
    """Supervisor → gate: a worker is warm. Descriptors: jobs socket, tickets socket."""

    decision: str
    lane: int
    pid: int
    warm_up_ns: tuple[int, ...]


class WorkerLost(Struct, frozen=True, tag=True):
    """Supervisor → gate, or gate → supervisor where `kill`: this worker is gone or must go."""

    decision: str
    lane: int
    pid: int
    kill: bool = False


class WorkerSpared(Struct, frozen=True, tag=True):
    """Supervisor → gate: it did not get the core it needed to stop, so it was not killed."""

    decision: str
    lane: int
    pid: int


class Drain(Struct, frozen=True, tag=True):
    """Supervisor → gate: refuse new requests, finish what was promised, then leave."""


Message = (
    Load | Loaded | Refused | Pool | Ready | Open | WorkerReady | WorkerLost | WorkerSpared | Drain
)
_decoder = msgspec.msgpack.Decoder(Message)
_encode = msgspec.msgpack.encode
_M = TypeVar("_M")


def send(channel: socket.socket, message: Message, fds: tuple[int, ...] = ()) -> None:
    """Send one message with its descriptors; raises OSError when the other side is gone."""
    socket.send_fds(channel, [_encode(message)], fds)


def receive(channel: socket.socket) -> tuple[Message | None, list[int]]:
    """Receive one message with its descriptors; None when the other side is gone."""
    try:
        data, fds, _, _ = socket.recv_fds(channel, MAX_MESSAGE, MAX_FDS)
    except ConnectionError:
        return None, []
    return (_decoder.decode(data) if data else None), fds
