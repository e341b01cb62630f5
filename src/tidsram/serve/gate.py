"""The gate: one request's way, top to bottom.

    receive → decode → admit → queue → run → encode → send

`Asker` receives; `Gate._decode` … `Gate._send` are the rest in that order. The scheduler decides
and this file carries out. Each arrow is stamped once; the stamps are the breakdown in the answer
and in the metrics, and they sum to the whole. The gate never waits for a worker.
"""

import asyncio
import contextlib
import gc
import mmap
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any

import uvloop

from tidsram import clock
from tidsram.estate.types import Criticality, Decision
from tidsram.outcome import Reason
from tidsram.protocol import oip, wire
from tidsram.protocol.oip import Ask, RequestError
from tidsram.protocol.tensors import ModelSpec
from tidsram.protocol.wire import COMPARE, DONE, JOB, JSON_LIMIT, TICKET
from tidsram.schedule.events import (
    Action,
    Aside,
    Evict,
    Job,
    Kill,
    Miss,
    Probe,
    Reject,
    Retire,
    Start,
    Stop,
)
from tidsram.schedule.scheduler import Policy, Scheduler
from tidsram.serve import http, machine
from tidsram.serve.http import Head
from tidsram.serve.lending import LEND_S, Shadow
from tidsram.serve.messages import (
    Beat,
    Drain,
    Open,
    Pool,
    Try,
    WorkerAside,
    WorkerLeft,
    WorkerLost,
    WorkerReady,
    WorkerSpared,
    receive,
    send,
)
from tidsram.serve.metrics import Metrics, Row, metrics_bytes
from tidsram.serve.pages import Pages, model_of
from tidsram.serve.sentences import (
    EVICTED,
    SHUTTING_DOWN,
    json_too_large,
    no_slot,
    not_ready,
    refusal,
    too_many_connections,
)
from tidsram.serve.slots import Slots
from tidsram.serve.trial import Trial, trial_name
from tidsram.units import SECOND, US, show_ns

RETURN_NS = 500 * US  # the way back to the asker, until it is measured
MAX_CONNECTIONS = 4096
HEAD_TIME_NS = 10 * SECOND  # for a head that has begun to arrive
DISCARD_LIMIT = 16 << 20  # a refused body longer than this costs the connection
SWEEP_S = 0.02
SYNC_S = 1.0  # for a worker to end an earlier gate's run, and as long again as it takes
COLLECT_S = 10.0
PING_S = 1.0  # an idle worker that does not answer for so long is replaced
TALLY_S = 0.25
GREED = 3  # times what is left free: more of a common good one asker does not get
_PEER = struct.Struct("3i")  # SO_PEERCRED: process, user, group
SCRATCH_BYTES = 1 << 18
_NO_HEAD = bytes(SCRATCH_BYTES + 1)  # longer than what can arrive, so it is never recognised


class Link:
    """One warm worker: its sockets and what it serves.

    `name` is what the scheduler calls what it serves: the decision, or a version of it on trial.
    `told`, by rung, is what answers of that variant have in common.
    """

    def __init__(
        self,
        served: "Served",
        ready: WorkerReady,
        sockets: tuple[socket.socket, socket.socket],
        told: tuple[bytes, ...],
    ) -> None:
        self.served, self.lane, self.pid = served, ready.lane, ready.pid
        self.name = trial_name(served.name) if ready.trial else served.name
        self.version, self.variants, self.told = ready.version, ready.variants, told
        self.jobs, self.tickets = sockets
        self.warm_up_ns = ready.warm_up_ns
        self.best = next(rung for rung, runs_ns in enumerate(self.warm_up_ns) if runs_ns)
        self.synced = False  # it has ended whatever an earlier gate gave it
        self.asked = False  # for a sign of life, and has not given it
        self.welcome = False

    @property
    def on_trial(self) -> bool:
        """Whether its version only answers a share of the questions."""
        return self.name != self.served.name

    def close(self) -> None:
        """Let go of the worker."""
        self.jobs.close()
        self.tickets.close()


class Served:
    """One decision as the gate knows it."""

    def __init__(self, decision: Decision, row: Row) -> None:
        self.decision, self.row = decision, row
        self.name = decision.name
        self.variants = tuple(variant.name for variant in decision.ladder)  # by rung
        self.rank = decision.criticality.rank
        self.budget_us = decision.budget_ns // US
        self.links: dict[int, Link] = {}
        self.heirs: dict[int, Link] = {}  # of another version, to take a link's place
        self.versions: dict[int, str] = {}  # by lane: of the last worker that served there
        self.tried: dict[int, Link] = {}  # of a version on trial
        self.trial: Trial | None = None
        self.shadows: dict[int, Shadow] = {}  # by lane: what runs another version beside
        self.spec: ModelSpec | None = None
        self.slots: Slots[Request] | None = None
        self.room = 0  # bytes of tensors a question has
        self.held: dict[str, int] = {}  # asker → slots

    @property
    def everyone(self) -> Iterator[Link]:
        """The workers that may be given something to run."""
        yield from self.links.values()
        yield from self.tried.values()


class Request:
    """One request in flight, from the end of its head until nothing of it is left."""

    __slots__ = (
        "admitted_ns",
        "arrival_ns",
        "ask",
        "asker",
        "body_ns",
        "budget_us",
        "deadline_ns",
        "decoded_ns",
        "generation",
        "keep_alive",
        "lane",
        "link",
        "number",
        "rung",
        "served",
        "slot",
        "spent_us",
        "told",
        "tried",
        "who",
    )

    body_ns: int  # the stamps, in the order of the stages
    decoded_ns: int
    admitted_ns: int

    def __init__(self, asker: "Asker", served: Served, number: int, arrival_ns: int) -> None:
        self.asker: Asker | None = asker
        self.served, self.number, self.arrival_ns = served, number, arrival_ns
        self.deadline_ns = arrival_ns + served.decision.budget_ns
        self.budget_us, self.spent_us = served.budget_us, 0
        self.slot = self.lane = -1  # lane: where it runs, −1 before
        self.link: Link | None = None  # and which worker runs it
        self.tried = False  # by a version on trial, if there still is one
        self.who, self.rung = asker.name, 0
        self.generation = 0
        self.keep_alive = True
        self.told = False  # its outcome
        self.ask: Ask | None = None


class Asker(asyncio.BufferedProtocol):
    """One connection: heads into scratch memory, bodies straight into slots."""

    def __init__(self, gate: "Gate", *, local: bool) -> None:
        self._gate, self._local = gate, local
        self.name = ""  # who asks
        self.transport: Any = None
        self._fd = -1
        self.request: Request | None = None
        self.since_ns = 0  # when what is being received began, 0 when nothing is
        self._pending = b""  # the start of a head, or what came while a request is in flight
        self._head_bytes = _NO_HEAD  # the last head and what it means
        self._head: Head | None = None
        self._served: Served | None = None
        self.asked: tuple[Served, int, bytes] | None = None  # the last JSON and what it means
        self.ask: Ask | None = None
        self._body: memoryview | None = None
        self._discard = 0
        self._close_after = False
        self._choked = False  # it does not read its answers

    # receive --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Meet the asker."""
        self.transport = transport
        self._fd = transport.get_extra_info("socket").fileno()
        self.name = _name_of(transport)
        self._gate.connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Receive heads into the gate's one scratch memory, bodies into their slot."""
        del sizehint
        return self._gate.scratch_view if self._body is None else self._body

    def buffer_updated(self, nbytes: int) -> None:
        """Take what has arrived; the quick way is one familiar head with its body."""
        if self._body is not None:
            self._body = self._body[nbytes:]
            if not self._body:
                self._body_complete()
            return
        scratch = self._gate.scratch
        if self._discard or self.request is not None or self._pending:
            self.feed(bytes(scratch[:nbytes]))
            return
        size = len(self._head_bytes)
        if nbytes >= size and scratch.startswith(self._head_bytes):
            assert self._head is not None
            beyond = self._head_arrived(self._head, self._gate.scratch_view[size:nbytes])
            if beyond:
                self.feed(beyond)
        else:
            self.feed(bytes(scratch[:nbytes]))

    def feed(self, data: bytes) -> None:
        """Take bytes that did not come as one familiar head with its body."""
        while data and self.transport is not None and not self.transport.is_closing():
            if self._discard:
                taken = min(self._discard, len(data))
                self._discard -= taken
                data = data[taken:]
                if not self._discard:
                    self._refused_body_gone()
                continue
            if self.request is not None or self._choked:  # a pipelined request waits its turn
                self._pending += data
                if len(self._pending) > JSON_LIMIT:
                    self.transport.pause_reading()
                return
            data, self._pending = self._pending + data, b""
            if not self.since_ns:
                self.since_ns = clock.now_ns()
            end = data.find(b"\r\n\r\n", 0, http.HEAD_LIMIT) + 4
            if end < 4:
                self._head_unfinished(data)
                return
            try:
                head = http.parse_head(data[:end])
            except RequestError as error:
                self._hang_up(400, error.reason, str(error))
                return
            self._gate.rest_came(self)
            self._head_bytes, self._head = data[:end], head
            self._served = self._gate.find_served(head)
            data = self._head_arrived(head, memoryview(data)[end:])

    def eof_received(self) -> bool:
        """Close when the asker closes."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Withdraw what the asker had in flight."""
        del exc
        self.transport = self._body = None
        self._gate.disconnected(self)

    def _head_unfinished(self, data: bytes) -> None:
        if len(data) >= http.HEAD_LIMIT:
            sentence = f"the request's head is longer than {http.HEAD_LIMIT} bytes"
            self._hang_up(431, Reason.TOO_LARGE, sentence)
            return
        self._pending = data
        self._gate.await_rest(self)

    def _head_arrived(self, head: Head, rest: memoryview) -> bytes:
        """Act on a head; return what of `rest` belongs to the next request."""
        now_ns = clock.now_ns()
        body = rest[: head.content_bytes]
        beyond = bytes(rest[head.content_bytes :])
        self._close_after = not head.keep_alive
        self.since_ns = now_ns
        if self._served is None:
            self._answer_page(head, body)
            return beyond
        request = self._gate.begin(self, self._served, head, now_ns)
        if request is None:
            self._skip_body(head, len(body))
            return beyond
        assert request.served.slots is not None
        slots = request.served.slots
        json_bytes = head.header_bytes
        start = request.slot * slots.layout.slot_bytes + slots.layout.input_at - json_bytes
        slots.memory[start : start + len(body)] = body
        if len(body) == head.content_bytes:
            self.since_ns = 0
            self._gate.decode(request, json_bytes, head.content_bytes - json_bytes, now_ns)
            return beyond
        self._body = slots.memory[start + len(body) : start + head.content_bytes]
        self._gate.await_rest(self)
        if head.expect_continue:
            self.transport.write(http.CONTINUE)
        return b""

    def _body_complete(self) -> None:
        self._body = None
        self.since_ns = 0
        self._gate.rest_came(self)
        request, head = self.request, self._head
        assert request is not None
        assert head is not None
        json_bytes = head.header_bytes
        self._gate.decode(request, json_bytes, head.content_bytes - json_bytes, clock.now_ns())

    def _answer_page(self, head: Head, body: memoryview) -> None:
        status, content, kind = self._gate.pages.page(head)
        if head.method == "HEAD":
            self.send(http.page_head(status, content, keep_alive=head.keep_alive, kind=kind))
        else:
            self.send(http.page(status, content, keep_alive=head.keep_alive, kind=kind))
        self._skip_body(head, len(body))

    def _skip_body(self, head: Head, received: int) -> None:
        """The answer is sent already: let the rest of a refused body pass, if it is not long."""
        left = head.content_bytes - received
        if left > DISCARD_LIMIT or head.expect_continue:
            self._close_after = True
            left = 0
        self._discard = left
        if left:
            self._gate.await_rest(self)
        else:
            self._refused_body_gone()

    def _refused_body_gone(self) -> None:
        self.since_ns = 0
        self._gate.rest_came(self)
        if self._close_after and self.transport is not None:
            self.transport.close()

    # send -----------------------------------------------------------------------------------------

    def send(self, *parts: bytes | memoryview) -> None:
        """Send one whole answer, now: uvloop would wait for the end of its turn."""
        if self.transport is None:
            return
        sent = 0
        if not self.transport.get_write_buffer_size():
            try:
                sent = os.writev(self._fd, parts)
            except BlockingIOError:
                pass
            except OSError:
                return  # the asker left; the loop is about to say so
        if sent < sum(map(len, parts)):
            self.transport.write(b"".join(parts)[sent:])

    def answered(self) -> None:
        """The request in flight has its outcome: close, or go on with what came meanwhile."""
        self.request = None
        if self.transport is None:
            return
        if self._close_after:
            self.transport.close()
        elif self._pending and not self._choked:
            self._go_on()

    def pause_writing(self) -> None:
        """Read no further questions of an asker that does not read its answers."""
        self._choked = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on with an asker that reads again."""
        self._choked = False
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
            if self.request is None and self._pending:
                self._go_on()

    def _go_on(self) -> None:
        data, self._pending = self._pending, b""
        if not self.transport.is_reading():
            self.transport.resume_reading()
        self.feed(data)

    def abandon_body(self) -> None:
        """Stop writing into a slot; what still comes of the body cannot be told from a head."""
        self._body = None
        self._close_after = True
        self.since_ns = 0
        self._gate.rest_came(self)

    def time_out(self) -> None:
        """What began to arrive did not arrive in time."""
        if self.request is not None:
            self._gate.body_too_late(self.request)
        elif self._discard:
            self.transport.abort()
        else:
            sentence = f"the request's head did not arrive within {show_ns(HEAD_TIME_NS)}"
            self._hang_up(400, Reason.INVALID, sentence)

    def overdue(self, now_ns: int) -> bool:
        """Whether what is arriving should have arrived."""
        if self.request is not None:
            return now_ns >= self.request.deadline_ns
        return bool(self.since_ns) and now_ns >= self.since_ns + HEAD_TIME_NS

    def turn_away(self, sentence: str) -> None:
        """Refuse the connection in words."""
        self._hang_up(503, Reason.OVERLOAD, sentence)

    @property
    def on_this_host(self) -> bool:
        """Whether the asker's wall clock is this machine's."""
        return self._local

    def _hang_up(self, status: int, reason: Reason, sentence: str) -> None:
        self._gate.rest_came(self)
        self._pending = b""
        self.send(http.refusal(reason, sentence, {}, keep_alive=False, status=status))
        self.transport.close()


class Gate:
    """Everything between the askers and the workers of one node."""

    def __init__(self, opened: Open, metrics: Metrics, control: socket.socket) -> None:
        self._control = control
        self._estate, self._site = opened.estate, opened.site
        self._boot = opened.boot.encode()
        self._number = (opened.epoch - 1) << 40
        self._first_generation = opened.epoch << 40
        self._metrics = metrics
        decisions = opened.estate.decisions
        self._served = {name: Served(d, metrics.row(name)) for name, d in decisions.items()}
        # By what the scheduler calls them: decisions, and versions of them that are on trial.
        self._teams = {name: served.links for name, served in self._served.items()}
        policies = [_policy(decision) for decision in decisions.values()]
        self._scheduler = Scheduler(policies, opened.lane_count)
        self.pages = Pages(self._served, self._scheduler, metrics, opened.endpoints)
        self._requests: dict[int, Request] = {}
        self._askers: set[Asker] = set()
        self._connections: dict[str, int] = {}  # by who asks
        self._last_end_ns: dict[tuple[int, int], int] = {}
        self._receiving: set[Asker] = set()
        self._sweeping = False
        self.scratch = bytearray(SCRATCH_BYTES)
        self.scratch_view = memoryview(self.scratch)
        self._timer = machine.DeadlineTimer()
        self._loop = asyncio.get_running_loop()
        self._servers: list[asyncio.Server] = []
        self._draining = False
        self._done = self._loop.create_future()
        self._carry = {
            Start: self._start,
            Reject: self._reject,
            Evict: self._evict,
            Stop: self._stop,
            Miss: self._miss,
            Kill: self._kill,
            Aside: self._aside,
            Probe: self._probe,
            Retire: self._retire,
        }

    async def serve(self, listeners: list[socket.socket]) -> None:
        """Serve until drained or until the supervisor is gone."""
        self._loop.add_reader(self._control.fileno(), self._told)
        self._loop.add_reader(self._timer.fd, self._timer_fired)
        for listener in listeners:
            listener.setblocking(False)
            unix = listener.family == socket.AF_UNIX
            if unix:
                server = await self._loop.create_unix_server(
                    lambda: Asker(self, local=True), sock=listener, backlog=MAX_CONNECTIONS
                )
            else:
                here = _is_loopback(listener)
                server = await self._loop.create_server(
                    lambda here=here: Asker(self, local=here),  # type: ignore[misc]
                    sock=listener,
                    backlog=MAX_CONNECTIONS,
                )
            self._servers.append(server)
        self._collect()
        self._loop.call_later(PING_S, self._ping)
        gc.collect()
        gc.freeze()
        gc.disable()
        await self._done

    # receive: after the head, before the body -----------------------------------------------------

    def find_served(self, head: Head) -> Served | None:
        """Return the decision that an inference request's path names."""
        if head.method != "POST":
            return None
        return self._served.get(model_of(head.path, "infer"))

    def begin(self, asker: Asker, served: Served, head: Head, now_ns: int) -> Request | None:
        """Give an arriving request a slot; refuse it (and return None) when there cannot be one."""
        slots = served.slots
        json_bytes = head.header_bytes
        tensors = head.content_bytes - json_bytes
        request = Request(asker, served, self._next_number(), now_ns)
        request.keep_alive = head.keep_alive
        reason, sentence = Reason.NONE, ""
        if json_bytes > JSON_LIMIT:
            reason, sentence = Reason.TOO_LARGE, json_too_large(json_bytes)
        elif self._draining:
            reason, sentence = Reason.DRAINING, SHUTTING_DOWN
        elif slots is None or not self._scheduler.is_ready(served.name):
            reason, sentence = Reason.NOT_READY, not_ready(served.name)
        elif tensors > served.room:
            reason = Reason.TOO_LARGE
            sentence = (
                f"the question brings {tensors} bytes of tensors; {served.name} takes {served.room}"
                f"; check the inputs' shapes and the Inference-Header-Content-Length header"
            )
        elif not slots.free or served.held.get(asker.name, 0) > GREED * slots.free:
            reason, sentence = Reason.OVERLOAD, no_slot(served.name, slots.layout.slots, slots.free)
        else:
            request.slot = slots.take(request, request.number, now_ns, request.deadline_ns)
            request.generation = slots.generation
            served.held[asker.name] = served.held.get(asker.name, 0) + 1
        if reason:
            self._refuse(request, reason, sentence, {})
            return None
        asker.request = request
        return request

    def body_too_late(self, request: Request) -> None:
        """The deadline came while the body was still arriving."""
        asker = request.asker
        assert asker is not None
        asker.abandon_body()
        request.keep_alive = False
        sentence = "the deadline came before the question's body had arrived"
        self._refuse(request, Reason.DEADLINE, sentence, {})

    # decode → admit -------------------------------------------------------------------------------

    def decode(self, request: Request, json_bytes: int, tail_bytes: int, now_ns: int) -> None:
        """The body is in its slot: read its JSON, fix its deadline, ask the scheduler."""
        request.body_ns = now_ns
        served, asker = request.served, request.asker
        assert served.slots is not None
        assert asker is not None
        memory, layout = served.slots.memory, served.slots.layout
        tensors_at = request.slot * layout.slot_bytes + layout.input_at
        json = bytes(memory[tensors_at - json_bytes : tensors_at])
        asked = (served, tail_bytes, json)
        ask = asker.ask
        if ask is None or asked != asker.asked:
            try:
                ask = self._read(served, json, tail_bytes)
            except RequestError as error:
                self._refuse(request, error.reason, str(error), {})
                return
            asker.asked, asker.ask = asked, ask
        if ask.packed:
            packed_at = tensors_at + tail_bytes
            memory[packed_at : packed_at + len(ask.packed)] = ask.packed
        request.ask = ask
        self._fix_deadline(request, ask, asker)
        request.decoded_ns = now_ns = clock.now_ns()
        name = served.name
        trial = served.trial
        if trial is not None and trial.wants() and self._scheduler.is_ready(trial.name):
            name, request.tried = trial.name, True
        job = Job(
            request.number,
            name,
            request.arrival_ns,
            request.deadline_ns,
            request.deadline_ns - RETURN_NS,
            ask.priority,
            _lowered_by(ask.criticality, served.rank),
            ask.stream,
            request.who,
        )
        self._requests[request.number] = request
        actions = self._scheduler.arrived(now_ns, job)
        request.admitted_ns = clock.now_ns()
        self._do(actions)
        self._timer.arm(self._scheduler.next_wake_ns)

    def _read(self, served: Served, json: bytes, tail_bytes: int) -> Ask:
        assert served.spec is not None
        header = json or oip.raw_header(served.spec)
        return oip.decode_infer(header, tail_bytes, served.name, served.spec)

    @staticmethod
    def _fix_deadline(request: Request, ask: Ask, asker: Asker) -> None:
        """The tighter budget applies, less the time that was spent before the question came."""
        budget_us = min(request.budget_us, ask.budget_us or request.budget_us)
        spent_us, odd = ask.spent_us, ask.odd
        if ask.captured_unix_us:
            if asker.on_this_host:
                since_us = clock.wall_ns() // US - ask.captured_unix_us
                odd = odd or since_us < 0
                spent_us = max(spent_us, since_us)
            else:
                odd = True  # another host's wall clock says nothing here
        if spent_us > budget_us:
            spent_us, odd = budget_us, True
        if odd:
            request.served.row.count_odd()
        request.budget_us, request.spent_us = budget_us, spent_us
        request.deadline_ns = request.arrival_ns + (budget_us - spent_us) * US

    # queue → run: what the scheduler decided ------------------------------------------------------

    def _do(self, actions: list[Action]) -> None:
        carry = self._carry
        for action in actions:
            carry[type(action)](action)  # type: ignore[operator]

    def _start(self, action: Start) -> None:
        request = self._requests[action.job.job_id]
        assert request.ask is not None
        request.lane, rung = action.lane, action.rung
        request.rung = rung
        link = request.link = self._teams[action.job.decision][action.lane]
        message = JOB.pack(wire.RUN, rung, request.slot, request.generation, request.deadline_ns)
        try:  # noqa: SIM105 - a context manager costs as much as the send's Python side
            link.jobs.send(message + request.ask.offsets)
        except OSError:
            pass  # a worker that is gone is noticed elsewhere; its jobs have their deadlines

    def _reject(self, action: Reject) -> None:
        request = self._requests.pop(action.job.job_id)
        since_ns = request.arrival_ns - request.spent_us * US - RETURN_NS
        facts: dict[str, Any] = {"budget_us": request.budget_us, "spent_us": request.spent_us}
        if action.predicted_finish_ns:
            facts["predicted_finish_us"] = (action.predicted_finish_ns - since_ns) // US + 1
            facts["earliest_feasible_us"] = (action.earliest_feasible_ns - since_ns) // US + 1
        sentence = refusal(action.reason, request.served.name, request.budget_us, facts)
        self._refuse(request, action.reason, sentence, facts)

    def _evict(self, action: Evict) -> None:
        request = self._requests[action.job.job_id]
        facts = {"budget_us": request.budget_us}
        self._refuse(request, action.reason, EVICTED[action.reason], facts)

    def _miss(self, action: Miss) -> None:
        self._tell_missed(self._requests[action.job.job_id])

    def _stop(self, action: Stop) -> None:
        request = self._requests[action.job.job_id]
        assert request.link is not None, "what is stopped was started"
        with contextlib.suppress(OSError):
            request.link.tickets.send(TICKET.pack(request.generation))

    def _kill(self, action: Kill) -> None:
        link = self._teams[action.decision].get(action.lane)
        if link is not None:
            send(self._control, WorkerLost(link.served.name, action.lane, link.pid, kill=True))

    def _aside(self, action: Aside) -> None:
        link = self._teams[action.decision].get(action.lane)
        if link is not None:
            put = WorkerAside(link.served.name, action.lane, link.pid, aside=not action.over)
            send(self._control, put)

    def _probe(self, action: Probe) -> None:
        with contextlib.suppress(OSError):
            jobs = self._teams[action.decision][action.lane].jobs
            jobs.send(JOB.pack(wire.PROBE, action.rung, 0, 0, 0))

    def _retire(self, action: Retire) -> None:
        """A worker has ended its last run: its heir takes its place, or it becomes one itself."""
        team = self._teams[action.decision]
        link = team.pop(action.lane, None)  # none: it was lost
        if link is not None:
            trial = link.served.trial
            if link.on_trial and trial is not None and trial.promoted:
                link.name, link.served.heirs[link.lane] = link.served.name, link
                self._loop.call_soon(self._promote, link)
            else:
                self._dismiss(link)
            if trial is not None and trial.ended and not link.served.tried:
                link.served.trial = None
        served = self._served.get(action.decision)
        heir = served.heirs.pop(action.lane, None) if served is not None else None
        if heir is not None:
            self._join(heir)

    # run → encode → send --------------------------------------------------------------------------

    def _run_ended(self, link: Link) -> None:
        """A worker says what became of a run."""
        try:
            message = link.jobs.recv(wire.MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self._lose(link)
            return
        now_ns = clock.now_ns()
        status, slot, generation, started_ns, ended_ns, _ = DONE.unpack_from(message)
        served = link.served
        if status == wire.SYNCED:
            link.synced, link.asked = True, False
            if served.heirs.get(link.lane) is link:
                self._succeed(link)
            else:
                self._welcome(served)
            return
        if not link.synced:
            return  # an earlier gate's
        # A worker's stamps are its word: kept between the admission and now, whatever they say.
        ended_ns = min(ended_ns, now_ns)
        started_ns = min(started_ns, ended_ns)
        if status == wire.PROBED or generation == 0:  # a probe that failed has ended too
            self._do(self._scheduler.probed(now_ns, link.name, link.lane, ended_ns - started_ns))
            self._timer.arm(self._scheduler.next_wake_ns)
            return
        assert served.slots is not None
        request = served.slots.holder[slot]
        if request is None or request.generation != generation:
            return  # one that was given up
        started_ns = max(started_ns, request.admitted_ns)
        ended_ns = max(ended_ns, started_ns)
        self._note_run(request, link.lane, started_ns, ended_ns)
        number = request.number
        lane_first = self._scheduler.has_waiting(link.lane)
        if not lane_first:  # nobody waits for the lane but the asker
            self._tell_end(request, status, message, started_ns, ended_ns)
        if status == wire.OK:
            served.row.count_promise(kept=ended_ns <= self._scheduler.promised_ns(number))
            actions = self._scheduler.finished(now_ns, number, started_ns, ended_ns)
        else:
            actions = self._scheduler.failed(now_ns, number)
        self._do(actions)
        if lane_first:
            self._tell_end(request, status, message, started_ns, ended_ns)
        self._requests.pop(number, None)
        if served.shadows and status == wire.OK:
            self._lend(request, link, message, ended_ns - started_ns)
        self._release(request)
        self._timer.arm(self._scheduler.next_wake_ns)
        self._leave_if_drained()

    def _lend(self, request: Request, link: Link, message: bytes, run_ns: int) -> None:
        """Let a worker in the shadow copy what was answered, where that holds nobody up."""
        served, slots, ask = request.served, request.served.slots, request.ask
        assert slots is not None
        assert ask is not None
        shadow = served.shadows.get(link.lane)
        if shadow is None or link.on_trial or request.rung != link.best:
            return
        if not shadow.takes(slots) or self._scheduler.is_busy(link.lane):
            return
        generation = request.generation
        head = COMPARE.pack(request.slot, generation, request.number, run_ns)
        if shadow.lend(slots, request.slot, generation, head + ask.offsets + message[DONE.size :]):
            self._forget_slot(request)
            self._loop.call_later(LEND_S, shadow.take_back, generation)

    def _note_run(self, request: Request, lane: int, started_ns: int, ended_ns: int) -> None:
        """Count the lane's busy time, and how long it stood still although a job waited."""
        self._metrics.add_busy(lane, ended_ns - started_ns, critical=request.served.rank == 0)
        last_ns = self._last_end_ns.get((lane, request.served.rank), 0)
        if request.admitted_ns < last_ns:
            request.served.row.observe_gap(max(0, started_ns - last_ns))
        self._last_end_ns[lane, request.served.rank] = ended_ns

    def _tell_end(
        self, request: Request, status: int, message: bytes, started_ns: int, ended_ns: int
    ) -> None:
        if request.told:
            return
        if status == wire.OK:
            self._encode(request, message, started_ns, ended_ns)
        elif status == wire.MODEL_FAILED:
            text = message[DONE.size :].decode(errors="replace")
            self._refuse(request, Reason.MODEL, f"the model failed: {text}", {})
        else:
            self._tell_missed(request)

    def _encode(self, request: Request, message: bytes, started_ns: int, ended_ns: int) -> None:
        served, ask = request.served, request.ask
        assert served.slots is not None
        assert served.spec is not None
        assert ask is not None
        assert request.link is not None
        outputs = _Outputs(served.slots, served.spec, request.slot, message)
        encoded_ns = clock.now_ns()
        if encoded_ns >= request.deadline_ns:
            self._tell_missed(request)
            return
        # Cumulated, then rounded: the stages sum to the whole in the answer too.
        t0 = request.arrival_ns
        t1, t2 = (request.body_ns - t0) // US, (request.decoded_ns - t0) // US
        t3, t4 = (request.admitted_ns - t0) // US, (started_ns - t0) // US
        t5, t6 = (ended_ns - t0) // US, (encoded_ns - t0) // US
        spent_us = request.spent_us + t6
        numbers = (
            request.budget_us,
            spent_us,
            request.budget_us - spent_us,
            t1,
            t2 - t1,
            t3 - t2,
            t4 - t3,
            t5 - t4,
            t6 - t5,
            self._boot,
            request.number,
        )
        try:
            json, tensors = oip.encode_answer(
                ask, served.name, served.spec, request.link.told[request.rung], outputs.get, numbers
            )
        except RequestError as error:
            self._refuse(request, error.reason, str(error), {})
            return
        head = http.answer_head(json, tensors, keep_alive=request.keep_alive)
        self._send(request, head, json, *tensors)
        served.row.count(Reason.NONE)
        if not request.link.on_trial:
            served.row.count_rung(request.rung)
        if served.trial is not None:
            served.trial.count(Reason.NONE, tried=request.tried, run_ns=ended_ns - started_ns)
        served.row.observe(
            (
                request.body_ns - t0,
                request.decoded_ns - request.body_ns,
                request.admitted_ns - request.decoded_ns,
                started_ns - request.admitted_ns,
                ended_ns - started_ns,
                encoded_ns - ended_ns,
                request.spent_us * US + encoded_ns - t0,
            )
        )

    def _tell_missed(self, request: Request) -> None:
        sentence = f"no answer within the budget of {show_ns(request.budget_us * US)}"
        self._refuse(request, Reason.DEADLINE, sentence, {"budget_us": request.budget_us})

    def _refuse(
        self, request: Request, reason: Reason, sentence: str, facts: dict[str, Any]
    ) -> None:
        """Tell any outcome but an answer, and let go of the slot unless a run still has it."""
        request.served.row.count(reason)
        if request.served.trial is not None:
            request.served.trial.count(reason, tried=request.tried)
        safe_action = request.served.decision.safe_action
        if safe_action is not None:
            facts["safe_action"] = safe_action
        facts["request"] = f"{self._boot.decode()}-{request.number}"
        self._send(request, http.refusal(reason, sentence, facts, keep_alive=request.keep_alive))
        if request.lane < 0:
            self._requests.pop(request.number, None)
            self._release(request)

    def _send(self, request: Request, *parts: bytes | memoryview) -> None:
        request.told = True
        asker, request.asker = request.asker, None
        if asker is not None:
            asker.send(*parts)
            if asker.request is request:
                asker.answered()

    def _release(self, request: Request) -> None:
        if request.slot >= 0:
            assert request.served.slots is not None
            request.served.slots.give_back(request.slot)
            self._forget_slot(request)

    @staticmethod
    def _forget_slot(request: Request) -> None:
        request.slot = -1
        held, who = request.served.held, request.who
        held[who] -= 1
        if not held[who]:
            del held[who]

    # deadlines, connections -----------------------------------------------------------------------

    def _timer_fired(self) -> None:
        self._timer.fired()
        self._do(self._scheduler.tick(clock.now_ns()))
        self._timer.arm(self._scheduler.next_wake_ns)
        self._leave_if_drained()

    def await_rest(self, asker: Asker) -> None:
        """Look after an asker whose request is arriving in pieces."""
        self._receiving.add(asker)
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_S, self._sweep)

    def rest_came(self, asker: Asker) -> None:
        """Note that the request is whole, or that nobody waits for the rest of it."""
        self._receiving.discard(asker)

    def _sweep(self) -> None:
        now_ns = clock.now_ns()
        for asker in [a for a in self._receiving if a.overdue(now_ns)]:
            asker.time_out()
        self._sweeping = bool(self._receiving)
        if self._sweeping:
            self._loop.call_later(SWEEP_S, self._sweep)

    def _collect(self) -> None:
        """Collect garbage while nothing is promised."""
        if self._scheduler.idle:
            gc.collect()
        self._loop.call_later(COLLECT_S, self._collect)

    def connected(self, asker: Asker) -> None:
        """Take a connection, if there is room, also for others."""
        mine, left = self._connections.get(asker.name, 0), MAX_CONNECTIONS - len(self._askers)
        self._askers.add(asker)
        self._connections[asker.name] = mine + 1
        if mine > GREED * left or left <= 0:
            asker.turn_away(too_many_connections(mine, left))

    def disconnected(self, asker: Asker) -> None:
        """An asker left: withdraw what it asked for."""
        self._askers.discard(asker)
        self._connections[asker.name] -= 1
        if not self._connections[asker.name]:
            del self._connections[asker.name]
        self._receiving.discard(asker)
        request, asker.request = asker.request, None
        if request is None or request.told:
            self._leave_if_drained()
            return
        request.told, request.asker = True, None
        request.served.row.count(Reason.ASKER_LEFT)
        self._do(self._scheduler.gone(clock.now_ns(), request.number))
        if request.lane < 0:
            self._requests.pop(request.number, None)
            self._release(request)
        self._leave_if_drained()

    # what the supervisor says ---------------------------------------------------------------------

    def _told(self) -> None:
        message, fds = receive(self._control)
        if isinstance(message, Pool):
            served = self._served[message.decision]
            served.spec, served.room = message.spec, message.layout.input_bytes
            served.slots = Slots(fds[0], message.layout, self._first_generation)
            os.close(fds[0])
            self._welcome(served)
        elif isinstance(message, Try):
            self._try(message)
        elif isinstance(message, WorkerReady):
            self._greet(message, fds)
        elif isinstance(message, WorkerLost):
            served = self._served[message.decision]
            for link in [*served.everyone, *served.heirs.values()]:
                if link.pid == message.pid:
                    self._lose(link)
            for shadow in list(served.shadows.values()):
                if shadow.pid == message.pid:
                    self._lose_shadow(served, shadow)
        elif isinstance(message, WorkerSpared):
            now_ns = clock.now_ns()
            self._do(self._scheduler.spared(now_ns, message.decision, message.lane))
            self._timer.arm(self._scheduler.next_wake_ns)
        elif isinstance(message, Beat):
            send(self._control, message)
        elif isinstance(message, Drain):
            self._draining = self.pages.draining = True
            self._do(self._scheduler.draining(clock.now_ns()))
            self._leave_if_drained()
        elif message is None and not self._done.done():
            self._done.set_result(None)  # the supervisor is gone

    def _greet(self, ready: WorkerReady, fds: list[int]) -> None:
        """Meet a worker, and have it say when it has ended what an earlier gate gave it."""
        jobs, tickets = (socket.socket(fileno=fd) for fd in fds)
        jobs.setblocking(False)
        tickets.setblocking(False)
        served = self._served[ready.decision]
        if ready.shadow:
            shadow = served.shadows[ready.lane] = Shadow(ready.lane, ready.pid, (jobs, tickets))
            self._loop.add_reader(jobs.fileno(), self._shadow_says, served, shadow)
            return
        told = tuple(oip.answered_by(self._site, variant) for variant in ready.variants)
        link = Link(served, ready, (jobs, tickets), told)
        if ready.trial and not served.tried:
            self._teams[link.name] = served.tried
            self._scheduler.try_version(served.name, link.name)
        team = self._teams[link.name]
        before = team.get(ready.lane)
        if before is not None and before.welcome:
            served.heirs[ready.lane] = link
        else:
            team[ready.lane] = link
            if before is not None:  # it has not begun
                self._dismiss(before)
        self._loop.add_reader(jobs.fileno(), self._run_ended, link)
        jobs.send(JOB.pack(wire.SYNC, 0, 0, self._first_generation, 0))
        longest_ns = max(ns for runs_ns in link.warm_up_ns for ns in runs_ns)
        self._loop.call_later(SYNC_S + 2 * longest_ns / SECOND, self._give_up, link)

    def _ping(self) -> None:
        """Ask idle workers for a sign of life: one that is stuck is found before it is needed."""
        for served in self._served.values():
            slots = served.slots
            for link in served.everyone:
                if slots is None or not link.synced:
                    continue
                if any(r is not None and r.link is link for r in slots.holder):
                    link.asked = False  # it has something to run, with a deadline of its own
                elif link.asked:
                    link.asked = False
                    lost = WorkerLost(served.name, link.lane, link.pid, kill=True)
                    send(self._control, lost)
                else:
                    with contextlib.suppress(OSError):
                        link.jobs.send(JOB.pack(wire.SYNC, 0, 0, self._first_generation, 0))
                        link.asked = True
        self._loop.call_later(PING_S, self._ping)

    def _give_up(self, link: Link) -> None:
        served = link.served
        known = (*served.everyone, *served.heirs.values())
        if not link.synced and any(other is link for other in known):
            send(self._control, WorkerLost(link.served.name, link.lane, link.pid, kill=True))

    def _welcome(self, served: Served) -> None:
        """Let a decision's workers begin when none still writes to an earlier gate's slots."""
        links = list(served.everyone)
        if served.slots is None or not all(link.synced for link in links):
            return
        for link in links:
            if link.welcome:
                continue
            if not link.on_trial and served.versions.get(link.lane, link.version) != link.version:
                self._succeed(link)  # the one before is gone, and so is what was learnt of it
            else:
                self._join(link)
                ready = self._scheduler.worker_ready
                self._do(ready(clock.now_ns(), link.name, link.lane, link.warm_up_ns))

    def _lose(self, link: Link) -> None:
        """A worker is gone: each of its requests gets its outcome now."""
        served = link.served
        self._let_go(link)
        if served.heirs.get(link.lane) is link:
            del served.heirs[link.lane]
            if link.welcome:
                self._do(self._scheduler.heir_lost(clock.now_ns(), served.name, link.lane))
            return
        del self._teams[link.name][link.lane]
        self._do(self._scheduler.worker_lost(clock.now_ns(), link.name, link.lane))
        self._welcome(served)
        if served.slots is None:
            return
        for request in served.slots.holder:
            if request is not None and request.link is link and request.told:
                self._requests.pop(request.number, None)
                self._release(request)
        self._leave_if_drained()

    def _shadow_says(self, served: Served, shadow: Shadow) -> None:
        if not shadow.hear():
            self._lose_shadow(served, shadow)

    def _lose_shadow(self, served: Served, shadow: Shadow) -> None:
        """A worker in the shadow is gone: nobody waits for it."""
        if served.shadows.get(shadow.lane) is shadow:
            del served.shadows[shadow.lane]
        self._loop.remove_reader(shadow.jobs.fileno())
        shadow.close()

    def _dismiss(self, link: Link) -> None:
        """Let go of a worker that nothing of a request is at."""
        self._let_go(link)
        send(self._control, WorkerLeft(link.served.name, link.lane, link.pid))

    def _let_go(self, link: Link) -> None:
        self._loop.remove_reader(link.jobs.fileno())
        link.close()

    # versions -------------------------------------------------------------------------------------

    def _join(self, link: Link) -> None:
        """Count with a worker from now on."""
        link.welcome = True
        self._teams[link.name][link.lane] = link
        if not link.on_trial:
            link.served.versions[link.lane] = link.version
            if link.served.variants != link.variants:
                link.served.variants = link.variants
                link.served.row.forget_rungs()

    def _succeed(self, heir: Link, tried_as: str = "") -> None:
        """Let a worker of another version take a place, between two runs."""
        heir.welcome = True
        replaced, served, lane = self._scheduler.worker_replaced, heir.served, heir.lane
        self._do(replaced(clock.now_ns(), served.name, lane, heir.warm_up_ns, tried_as))
        if served.links.get(lane) in (None, heir):  # nobody was there to be waited for
            served.heirs.pop(lane, None)
            self._join(heir)
        self._timer.arm(self._scheduler.next_wake_ns)

    def _try(self, message: Try) -> None:
        """Begin or end a trial."""
        served = self._served[message.decision]
        if message.percent:
            served.trial = Trial(trial_name(served.name), message.percent)
            self._loop.call_later(TALLY_S, self._tally, served, served.trial)
            return
        if served.trial is not None:
            served.trial.end(promoted=message.promote)
        for lane, link in list(served.tried.items()):
            if link.welcome:
                withdrawn = self._scheduler.worker_withdrawn
                self._do(withdrawn(clock.now_ns(), link.name, lane))
            elif message.promote:  # it takes the place as soon as it is here
                link.name, served.heirs[lane] = served.name, served.tried.pop(lane)
            else:
                self._dismiss(served.tried.pop(lane))
        self._timer.arm(self._scheduler.next_wake_ns)

    def _promote(self, link: Link) -> None:
        """A worker that was on trial takes the place of the one beside it."""
        if link.served.heirs.get(link.lane) is link:  # else it has just been lost
            self._succeed(link, trial_name(link.served.name))

    def _tally(self, served: Served, trial: Trial) -> None:
        """Tell how a trial stands, as long as it goes on."""
        if served.trial is trial and not trial.ended:
            send(self._control, trial.tally(served.name))
            self._loop.call_later(TALLY_S, self._tally, served, trial)

    def _leave_if_drained(self) -> None:
        if self._draining and self._scheduler.idle and not self._done.done():
            self._loop.call_soon(self._close)

    def _close(self) -> None:
        for server in self._servers:
            server.close()
        for asker in list(self._askers):
            if asker.transport is not None:
                asker.transport.close()
        # Those who still read their answer are waited for; the supervisor knows for how long.
        if not self._askers and not self._done.done():
            self._done.set_result(None)

    def _next_number(self) -> int:
        self._number += 1
        return self._number


class _Outputs:
    """A run's outputs in its slot."""

    __slots__ = ("_at", "_message", "_slots", "_spec")

    def __init__(self, slots: Slots[Request], spec: ModelSpec, slot: int, message: bytes) -> None:
        self._slots, self._spec, self._message = slots, spec, message
        self._at = slot * slots.layout.slot_bytes

    def get(self, index: int) -> tuple[tuple[int, ...], memoryview]:
        """Return shape and bytes of the model's output."""
        tensor = self._spec.outputs[index]
        shape, size = tensor.shape, tensor.nbytes
        if size < 0:
            shape = wire.shapes_in(self._message)[index]
            size = tensor.nbytes_of(shape)
        at = self._at + self._slots.layout.output_at[index]
        return shape, self._slots.memory[at : at + size]


def _policy(decision: Decision) -> Policy:
    declared = decision.arrivals
    return Policy(
        decision.name,
        decision.criticality,
        decision.objective,
        decision.queue,
        rate=declared.rate if declared is not None else 0.0,
        burst=declared.burst if declared is not None else 0,
    )


def _name_of(transport: asyncio.BaseTransport) -> str:
    """Say who is at the other end: the user of this machine, else the address."""
    peer = transport.get_extra_info("socket")
    if peer.family == socket.AF_UNIX:
        given = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        return f"user {_PEER.unpack(given)[1]}"
    address = transport.get_extra_info("peername")
    return str(address[0]) if address else ""


def _lowered_by(criticality: Criticality | None, rank: int) -> int:
    """How far the asker lowered its criticality; it cannot raise it."""
    return 0 if criticality is None else max(0, criticality.rank - rank)


def _is_loopback(listener: socket.socket) -> bool:
    return str(listener.getsockname()[0]) in ("127.0.0.1", "::1")


async def _main(control: socket.socket) -> None:
    opened, fds = receive(control)
    assert isinstance(opened, Open)
    size = metrics_bytes(len(opened.estate.decisions), opened.lane_count)
    memory = memoryview(mmap.mmap(fds[0], size))
    os.close(fds[0])
    metrics = Metrics(memory, list(opened.estate.decisions), opened.lane_count)
    gate = Gate(opened, metrics, control)
    await gate.serve([socket.socket(fileno=fd) for fd in fds[1:]])


def main() -> None:
    """Run the gate's life on the loop that uvloop makes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    machine.die_with_parent(control)
    machine.be_nice(machine.GATE_NICE)
    machine.open_many_files()
    machine.lock_memory()
    uvloop.run(_main(control))


if __name__ == "__main__":
    main()
