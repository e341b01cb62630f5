"""One decision on one lane, one inference at a time. Knows no network and no other decision.

The main thread waits for a job, runs the variant that it names in the slot's own memory and says
so. A second thread, kept off the lane's cores, waits for tickets of runs to abort.
"""

import gc
import math
import mmap
import os
import socket
import sys
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tidsram import clock
from tidsram.engine.base import Array, Engine, RunAborted, RunFailed
from tidsram.engine.memory import dtype_of, holds_nan
from tidsram.protocol import wire
from tidsram.protocol.tensors import ModelSpec, TensorSpec
from tidsram.protocol.wire import (
    DONE,
    JOB,
    TICKET,
    SlotLayout,
    pack_offsets,
    unpack_offsets,
)
from tidsram.serve import machine
from tidsram.serve.ladder import Ladder
from tidsram.serve.messages import Load, Pool, Ready, Refused, receive, send

CANCELLED_MAX = 64


class Bound(NamedTuple):
    """One variant's run in one slot; `floats` are the outputs that could hold NaN.

    Each with its index and its memory; None where the engine allocates it.
    """

    engine: Engine
    binding: Any
    floats: tuple[tuple[int, Array | None], ...]


class Worker:
    """The loop from job to answer. `engines` are the ladder's, by rung."""

    def __init__(
        self,
        engines: Mapping[int, Engine],
        spec: ModelSpec,
        layout: SlotLayout,
        pool: memoryview,
        jobs: socket.socket,
    ) -> None:
        self._engines, self._spec, self._layout, self._pool = engines, spec, layout, pool
        self._jobs = jobs
        self._bound: dict[tuple[int, int, bytes], Bound] = {}
        self._cancelled: dict[int, None] = {}
        self._in_order = self._default_offsets()
        for rung in engines:
            for slot in range(layout.slots):
                self._bind(rung, slot, self._in_order)

    def run(self) -> None:
        """Serve jobs until the gate's side of the socket is gone for good."""
        jobs, answer = self._jobs, self._answer
        while True:
            message = jobs.recv(wire.MESSAGE_BYTES)
            if not message:
                return
            jobs.send(answer(message))

    def cancel(self, generation: int) -> None:
        """Abort the run of this generation, or skip it when it comes. Any thread may call it."""
        while len(self._cancelled) >= CANCELLED_MAX:
            del self._cancelled[next(iter(self._cancelled))]
        self._cancelled[generation] = None
        for engine in self._engines.values():  # only the one that runs it takes notice
            engine.abort(generation)

    def _answer(self, message: bytes) -> bytes:
        kind, rung, slot, generation, deadline_ns = JOB.unpack_from(message)
        started_ns = clock.now_ns()
        if kind == wire.SYNC:
            return DONE.pack(wire.SYNCED, slot, generation, started_ns, started_ns, 0)
        if kind == wire.PROBE:
            return self._probe(rung, slot, generation)
        if generation in self._cancelled or started_ns >= deadline_ns:
            self._cancelled.pop(generation, None)
            return DONE.pack(wire.ABORTED, slot, generation, started_ns, started_ns, 0)
        offsets = message[JOB.size :]
        try:
            bound = self._bound.get((rung, slot, offsets)) or self._bind(rung, slot, offsets)
            started_ns = clock.now_ns()
            own = bound.engine.run(bound.binding, generation)
            ended_ns = clock.now_ns()
        except RunAborted:
            self._cancelled.pop(generation, None)
            return DONE.pack(wire.ABORTED, slot, generation, started_ns, clock.now_ns(), 0)
        except RunFailed as error:
            return _failed(slot, generation, started_ns, str(error))
        if spoilt := self._find_nan(bound, own):
            return _failed(slot, generation, started_ns, f"output {spoilt!r} holds NaN")
        if own and any(array is not None for array in own):
            return self._with_shapes(slot, generation, started_ns, ended_ns, own)
        return DONE.pack(wire.OK, slot, generation, started_ns, ended_ns, 0)

    def _find_nan(self, bound: Bound, own: list[Array | None]) -> str:
        """Return the name of an output that holds NaN, which is no answer; empty without one."""
        for index, memory in bound.floats:
            output = own[index] if memory is None else memory
            assert output is not None, "an output is in the slot or the engine's own"
            if holds_nan(output):
                return self._spec.outputs[index].name
        return ""

    def _probe(self, rung: int, slot: int, generation: int) -> bytes:
        try:
            (service_ns,) = self._engines[rung].warm_up(1)
        except (RunAborted, RunFailed) as error:
            return _failed(slot, generation, clock.now_ns(), str(error))
        ended_ns = clock.now_ns()
        return DONE.pack(wire.PROBED, slot, generation, ended_ns - service_ns, ended_ns, 0)

    def _with_shapes(
        self, slot: int, generation: int, started_ns: int, ended_ns: int, own: list[Array | None]
    ) -> bytes:
        """Copy outputs whose size the data decided into the slot, and say their shapes."""
        shapes: list[list[int]] = []
        for i, array in enumerate(own):
            if array is None:
                shapes.append([])
                continue
            room = self._layout.output_room[i]
            if array.nbytes > room:
                return _failed(
                    slot,
                    generation,
                    started_ns,
                    f"output {self._spec.outputs[i].name!r} became {array.nbytes} bytes, "
                    f"more than the {room} kept for it",
                )
            at = slot * self._layout.slot_bytes + self._layout.output_at[i]
            self._pool[at : at + array.nbytes] = (
                np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            )
            shapes.append(list(array.shape))
        tail = wire.pack_shapes(shapes)
        return DONE.pack(wire.OK, slot, generation, started_ns, ended_ns, len(tail)) + tail

    def _default_offsets(self) -> bytes:
        offsets, at = [], 0
        for tensor in self._spec.inputs:
            offsets.append(at)
            at += tensor.nbytes
        return pack_offsets(tuple(offsets))

    def _bind(self, rung: int, slot: int, offsets: bytes) -> Bound:
        base = slot * self._layout.slot_bytes
        inputs: list[Array] = []
        for tensor, offset in zip(self._spec.inputs, unpack_offsets(offsets), strict=True):
            at = base + self._layout.input_at + offset
            inputs.append(view(self._pool, at, tensor, tensor.shape))
        outputs: list[Array | None] = []
        for tensor, at in zip(self._spec.outputs, self._layout.output_at, strict=True):
            fixed = tensor.nbytes >= 0
            outputs.append(view(self._pool, base + at, tensor, tensor.shape) if fixed else None)
        floats = [
            (index, output)
            for index, (tensor, output) in enumerate(zip(self._spec.outputs, outputs, strict=True))
            if tensor.datatype.startswith("FP")
        ]
        engine = self._engines[rung]
        bound = Bound(engine, engine.bind(inputs, outputs), tuple(floats))
        if offsets == self._in_order:  # other orders are rare and their number is not bounded
            self._bound[rung, slot, offsets] = bound
        return bound


def view(pool: memoryview, at: int, tensor: TensorSpec, shape: tuple[int, ...]) -> Array:
    """Return a tensor of this shape as it lies in the pool."""
    return np.frombuffer(pool, dtype_of(tensor), math.prod(shape), at).reshape(shape)


def _failed(slot: int, generation: int, started_ns: int, text: str) -> bytes:
    tail = text.encode()[: wire.MESSAGE_BYTES - DONE.size]
    ended_ns = clock.now_ns()
    head = DONE.pack(wire.MODEL_FAILED, slot, generation, started_ns, ended_ns, len(tail))
    return head + tail


class Prepared(NamedTuple):
    """A worker that is warm and has its slots; `pool` says where in `memory` they are."""

    load: Load
    ladder: Ladder
    pool: Pool
    memory: memoryview
    jobs: socket.socket
    tickets: socket.socket


def prepare(control: socket.socket) -> Prepared | None:
    """Load, warm up and map the slots; None where nothing of it can be served."""
    machine.die_with_parent(control)
    load, (jobs_fd, tickets_fd, *model_fds) = receive(control)
    assert isinstance(load, Load)
    if not load.at_leisure:
        machine.pin(load.cores)
    ladder = Ladder(load, model_fds)
    verdict = ladder.verdict
    send(control, verdict, ladder.model_fds)
    if isinstance(verdict, Refused):
        return None
    for model_fd in ladder.model_fds:
        os.close(model_fd)
    pool, (pool_fd,) = receive(control)
    assert isinstance(pool, Pool)
    memory = memoryview(mmap.mmap(pool_fd, 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE))
    os.close(pool_fd)
    jobs, tickets = socket.socket(fileno=jobs_fd), socket.socket(fileno=tickets_fd)
    return Prepared(load, ladder, pool, memory, jobs, tickets)


def main() -> None:
    """Run the worker's life: load, warm up, map the slots, serve."""
    control = socket.socket(fileno=int(sys.argv[1]))
    prepared = prepare(control)
    if prepared is None:
        return
    load, ladder, pool, memory, jobs, tickets = prepared
    worker = Worker(ladder.engines, pool.spec, pool.layout, memory, jobs)
    taker = threading.Thread(
        target=_take_tickets, args=(tickets, worker, load.housekeeping), daemon=True
    )
    taker.start()
    assert taker.native_id is not None, "a started thread has an id"
    gc.collect()
    gc.freeze()
    gc.disable()
    machine.lock_memory()
    send(control, Ready(taker.native_id))
    worker.run()


def _take_tickets(tickets: socket.socket, worker: Worker, housekeeping: tuple[int, ...]) -> None:
    machine.pin(housekeeping)
    while message := tickets.recv(TICKET.size):
        worker.cancel(*TICKET.unpack(message))


if __name__ == "__main__":
    main()
