"""One decision on one lane, one inference at a time. Knows no network and no other decision.

The main thread waits for a job, runs it in the slot's own memory and says so. A second thread,
kept off the lane's cores, waits for tickets of runs to abort.
"""

import gc
import mmap
import os
import socket
import sys
import threading

import msgspec
import numpy as np

from tidsram import clock
from tidsram.engine import ort
from tidsram.engine.base import Array, Engine, RunAborted, RunFailed
from tidsram.engine.inspect import fix_model
from tidsram.engine.memory import dtype_of, zeros
from tidsram.errors import ModelRefused
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
from tidsram.serve.messages import Load, Loaded, Pool, Ready, Refused, receive, send

WARM_UP_RUNS = 10
WARM_UP_NS = 500_000_000
CANCELLED_MAX = 64


class Worker:
    """The loop from job to answer."""

    def __init__(
        self,
        engine: Engine,
        spec: ModelSpec,
        layout: SlotLayout,
        pool: memoryview,
        jobs: socket.socket,
    ) -> None:
        self._engine, self._spec, self._layout, self._pool = engine, spec, layout, pool
        self._jobs = jobs
        self._bindings: dict[tuple[int, bytes], object] = {}
        self._cancelled: dict[int, None] = {}
        self._in_order = self._default_offsets()
        for slot in range(layout.slots):
            self._binding(slot, self._in_order)

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
        self._engine.abort(generation)

    def _answer(self, message: bytes) -> bytes:
        kind, slot, generation, deadline_ns = JOB.unpack_from(message)
        started_ns = clock.now_ns()
        if kind == wire.SYNC:
            return DONE.pack(wire.SYNCED, slot, generation, started_ns, started_ns, 0)
        if kind == wire.PROBE:
            return self._probe(slot, generation)
        if generation in self._cancelled or started_ns >= deadline_ns:
            self._cancelled.pop(generation, None)
            return DONE.pack(wire.ABORTED, slot, generation, started_ns, started_ns, 0)
        offsets = message[JOB.size :]
        try:
            binding = self._bindings.get((slot, offsets)) or self._binding(slot, offsets)
            started_ns = clock.now_ns()
            own = self._engine.run(binding, generation)
            ended_ns = clock.now_ns()
        except RunAborted:
            self._cancelled.pop(generation, None)
            return DONE.pack(wire.ABORTED, slot, generation, started_ns, clock.now_ns(), 0)
        except RunFailed as error:
            return _failed(slot, generation, started_ns, str(error))
        if own and any(array is not None for array in own):
            return self._with_shapes(slot, generation, started_ns, ended_ns, own)
        return DONE.pack(wire.OK, slot, generation, started_ns, ended_ns, 0)

    def _probe(self, slot: int, generation: int) -> bytes:
        try:
            (service_ns,) = self._engine.warm_up(1)
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

    def _binding(self, slot: int, offsets: bytes) -> object:
        base = slot * self._layout.slot_bytes
        inputs: list[Array] = []
        for tensor, offset in zip(self._spec.inputs, unpack_offsets(offsets), strict=True):
            at = base + self._layout.input_at + offset
            inputs.append(_view(self._pool, at, tensor))
        outputs: list[Array | None] = []
        for tensor, at in zip(self._spec.outputs, self._layout.output_at, strict=True):
            fixed = tensor.nbytes >= 0
            outputs.append(_view(self._pool, base + at, tensor) if fixed else None)
        binding = self._engine.bind(inputs, outputs)
        if offsets == self._in_order:  # other orders are rare and their number is not bounded
            self._bindings[slot, offsets] = binding
        return binding


def _view(pool: memoryview, at: int, tensor: TensorSpec) -> Array:
    dtype = dtype_of(tensor)
    count = tensor.nbytes // dtype.itemsize
    return np.frombuffer(pool, dtype, count, at).reshape(tensor.shape)


def _failed(slot: int, generation: int, started_ns: int, text: str) -> bytes:
    tail = text.encode()[: wire.MESSAGE_BYTES - DONE.size]
    ended_ns = clock.now_ns()
    head = DONE.pack(wire.MODEL_FAILED, slot, generation, started_ns, ended_ns, len(tail))
    return head + tail


def main() -> None:
    """Run the worker's life: load, warm up, map the slots, serve."""
    machine.die_with_parent()
    control = socket.socket(fileno=int(sys.argv[1]))
    load, (model_fd, jobs_fd, tickets_fd) = receive(control)
    assert isinstance(load, Load)
    machine.pin(load.cores)
    hurry = machine.may_hurry()
    if hurry:  # loading takes no time from running decisions, warming up is measured undisturbed
        machine.be_nice(machine.LOADING_NICE)
    try:
        spec = load.spec
        if spec is None:
            model_fd, spec = _inspect_apart(_read(model_fd), load)
        engine = ort.OrtEngine(_read(model_fd), load.model, len(load.cores), spec)
        if hurry:
            machine.be_nice(machine.WARM_UP_NICE)
        spec, seen, warm_up_ns = _warm_up(engine)
    except ModelRefused as refusal:
        send(control, Refused(refusal.problem, refusal.remedy))
        return
    except RunFailed as failure:
        send(control, Refused(f"it fails on zeros ({failure})", "Check it in the lab."))
        return
    send(control, Loaded(spec, seen, warm_up_ns), (model_fd,))
    os.close(model_fd)
    message, (pool_fd,) = receive(control)
    assert isinstance(message, Pool)
    pool = mmap.mmap(pool_fd, 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    os.close(pool_fd)
    jobs = socket.socket(fileno=jobs_fd)
    worker = Worker(engine, message.spec, message.layout, memoryview(pool), jobs)
    tickets = socket.socket(fileno=tickets_fd)
    threading.Thread(
        target=_take_tickets, args=(tickets, worker, load.housekeeping), daemon=True
    ).start()
    gc.collect()
    gc.freeze()
    gc.disable()
    send(control, Ready())
    worker.run()


def _take_tickets(tickets: socket.socket, worker: Worker, housekeeping: tuple[int, ...]) -> None:
    machine.pin(housekeeping)
    while message := tickets.recv(TICKET.size):
        worker.cancel(*TICKET.unpack(message))


def _read(fd: int) -> bytes:
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as data:
        return data[:]


def _inspect_apart(data: bytes, load: Load) -> tuple[int, ModelSpec]:
    """Inspect the model in a child of its own: its parser is large and its input untrusted.

    Return memory with the model as this worker, and those after it, will load it.
    """
    fixed_fd = os.memfd_create("tidsram-model", os.MFD_CLOEXEC)
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        verdict: ModelSpec | Refused
        try:
            fixed, verdict = fix_model(data, load.model, load.shapes)
            with os.fdopen(fixed_fd, "wb") as out:
                out.write(fixed)
        except ModelRefused as refusal:
            verdict = Refused(refusal.problem, refusal.remedy)
        with os.fdopen(write_fd, "wb") as out:
            out.write(msgspec.msgpack.encode((isinstance(verdict, Refused), verdict)))
        os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as result:
        told = result.read()
    os.waitpid(child, 0)
    if not told:
        raise ModelRefused(load.model, "its inspection crashed", "Export the model anew.")
    refused, value = msgspec.msgpack.decode(told)
    if refused:
        raise ModelRefused(load.model, value["problem"], value["remedy"])
    return fixed_fd, msgspec.convert(value, ModelSpec)


def _warm_up(engine: Engine) -> tuple[ModelSpec, tuple[int, ...], tuple[int, ...]]:
    """Run on zeros until the times settle; return what was learnt of outputs and times."""
    spec = engine.spec
    inputs = [zeros(tensor) for tensor in spec.inputs]
    nothing: list[Array | None] = [None] * len(spec.outputs)
    outputs = engine.run(engine.bind(inputs, nothing), 0)
    seen = tuple(0 if array is None else array.nbytes for array in outputs)
    engine.warm_up(2)
    warm_up_ns: list[int] = []
    begun_ns = clock.now_ns()
    while len(warm_up_ns) < WARM_UP_RUNS:
        warm_up_ns += engine.warm_up(1)
        if len(warm_up_ns) >= 3 and clock.now_ns() - begun_ns > WARM_UP_NS:
            break
    return spec, seen, tuple(warm_up_ns)


if __name__ == "__main__":
    main()
