"""What supervisor, gate and workers tell each other outside the request path: typed values.

They travel as MessagePack over seqpacket sockets, one value a message, with the file descriptors
named in each value's docstring attached.
"""

import socket
from typing import TypeVar

import msgspec
from msgspec import Struct

from tidsram.estate.types import MAX_VARIANTS, Answer, Estate, Question
from tidsram.protocol.tensors import ModelSpec
from tidsram.protocol.wire import SlotLayout

MAX_MESSAGE = 131072
MAX_FDS = MAX_VARIANTS + 2  # a worker's models and its two sockets


class Model(Struct, frozen=True):
    """One variant's model to load: its rung in the decision's ladder, its variant's name.

    On `threads` threads, and never on more than the lane has cores; 0 means one for each core.
    """

    rung: int
    name: str
    engine: str = "onnxruntime"
    precision: str = ""
    threads: int = 0


class Tables(Struct, frozen=True):
    """How a worker in the shadow reads what was answered, and what it answers itself."""

    question: Question | None
    given: Answer | None
    own: Answer | None


class Load(Struct, frozen=True, tag=True):
    """Supervisor → worker: load these models, the most accurate first.

    Descriptors: jobs socket, tickets socket, then one for each model.
    """

    decision: str
    models: tuple[Model, ...]
    rungs: int  # of the whole ladder
    shapes: dict[str, tuple[int, ...]]
    cores: tuple[int, ...]
    housekeeping: tuple[int, ...]
    spec: ModelSpec | None  # as found before; None: inspect them
    at_leisure: bool = False  # a node serves already: stay on the cores and in the class given
    tables: Tables | None = None  # of a worker in the shadow


class Loaded(Struct, frozen=True, tag=True):
    """Worker → supervisor: loaded and warm on memory of its own.

    Descriptors: the models that stay, as they were loaded, for the workers that come after.
    """

    spec: ModelSpec  # of every rung
    output_seen: tuple[int, ...]  # bytes of each output, at most
    warm_up_ns: tuple[tuple[int, ...], ...]  # by rung of the whole ladder, empty where it is not
    left_out: tuple[tuple[str, str], ...]  # variant and why, in a sentence


class Refused(Struct, frozen=True, tag=True):
    """Worker → supervisor: no model can be served; why not the last, with the line that fixes it.

    `left_out` are the variants before it, as in Loaded.
    """

    rung: int
    problem: str
    remedy: str
    left_out: tuple[tuple[str, str], ...]


class Pool(Struct, frozen=True, tag=True):
    """Supervisor → worker and gate: the decision's slots. Descriptor: the pool."""

    decision: str
    layout: SlotLayout
    spec: ModelSpec


class Ready(Struct, frozen=True, tag=True):
    """Worker → supervisor: the slots are mapped; jobs may come."""

    tickets_thread: int  # its id; all other threads are the lane's


class Open(Struct, frozen=True, tag=True):
    """Supervisor → gate: what to serve. Descriptors: metrics, then the listening sockets."""

    estate: Estate
    site: str
    boot: str
    epoch: int  # how many gates this boot has had, this one included
    lane_count: int
    endpoints: tuple[str, ...]


class WorkerReady(Struct, frozen=True, tag=True):
    """Supervisor → gate: a worker is warm. Descriptors: jobs socket, tickets socket.

    Where the lane has one of the decision already, this one is to take its place; unless it is on
    `trial`, then it serves beside it, or in the `shadow`, then it only compares.
    """

    decision: str
    lane: int
    pid: int
    warm_up_ns: tuple[tuple[int, ...], ...]  # as in Loaded
    version: str = ""  # by its digest
    variants: tuple[str, ...] = ()  # by rung
    trial: bool = False
    shadow: bool = False


class WorkerLeft(Struct, frozen=True, tag=True):
    """Gate → supervisor: this worker runs nothing any more, and will be given nothing."""

    decision: str
    lane: int
    pid: int


class Try(Struct, frozen=True, tag=True):
    """Supervisor → gate: ask this share of a decision's questions of the workers on trial.

    None of them: withdraw the workers. `promote`: they take the places of the others.
    """

    decision: str
    percent: int
    promote: bool = False


class Counts(Struct, frozen=True):
    """What became of the questions that one version had since this gate knows of the trial."""

    answered: int = 0
    refused: int = 0  # infeasible, overload, evicted: nobody's fault, if the other has as many
    missed: int = 0
    failed: int = 0
    p50_us: int = 0  # of its runs, upper edges; 0 without one
    p99_us: int = 0

    @property
    def asked(self) -> int:
        """How many questions it had."""
        return self.answered + self.refused + self.missed + self.failed


class Tally(Struct, frozen=True, tag=True):
    """Gate → supervisor: how a trial stands."""

    decision: str
    served: Counts
    tried: Counts


class Compared(Struct, frozen=True, tag=True):
    """Worker in the shadow → supervisor: how much its answer agrees with the one that was given.

    With a `problem` it has none, and agrees with nothing.
    """

    number: int  # the request's
    agreement: float
    given_ns: int  # the run that was answered
    own_ns: int  # its own, on leftover time
    problem: str = ""


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


class WorkerAside(Struct, frozen=True, tag=True):
    """Gate → supervisor: let this worker run in leftover time only, or in its class again."""

    decision: str
    lane: int
    pid: int
    aside: bool


class Beat(Struct, frozen=True, tag=True):
    """Supervisor → gate, and back: a sign of life, answered with the same number."""

    number: int


class Drain(Struct, frozen=True, tag=True):
    """Supervisor → gate: refuse new requests, finish what was promised, then leave."""


Message = (
    Load
    | Loaded
    | Refused
    | Pool
    | Ready
    | Open
    | WorkerReady
    | WorkerLeft
    | WorkerLost
    | Try
    | Tally
    | Compared
    | WorkerSpared
    | WorkerAside
    | Beat
    | Drain
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
