"""A real worker process, with the test in the place of supervisor and gate."""

import mmap
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import toy_models
from nodes import PATIENCE_S, eventually

from tidsram.protocol import wire
from tidsram.protocol.wire import DONE, JOB, TICKET, plan_slots
from tidsram.serve.machine import cpu_ns, sealed_memory
from tidsram.serve.messages import Load, Loaded, Model, Pool, Ready, Refused, receive, send

NEVER_NS = 2**63
TOO_MANY = 10**9  # rounds of the slow model, which nobody waits for
RUNS_NS = 20_000_000  # more than taking up a job costs


class Started:
    """One worker with some models, by variant's name; None: this rung is not loaded."""

    def __init__(self, models: dict[str, bytes | None]) -> None:
        self.control, theirs = _pair()
        self.jobs, jobs = _pair()
        self.tickets, tickets = _pair()
        ends = (theirs, jobs, tickets)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tidsram.serve.worker", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
        )
        self._send_load(models, jobs.fileno(), tickets.fileno())
        for end in ends:
            end.close()
        self.verdict, fds = receive(self.control)
        for fd in fds:
            os.close(fd)
        self.model_count = len(fds)
        self.generation = 0

    def _send_load(self, models: dict[str, bytes | None], *sockets: int) -> None:
        named = [(rung, name, data) for rung, (name, data) in enumerate(models.items()) if data]
        cores = (max(os.sched_getaffinity(0)),)
        load = Load(
            "gauge",
            tuple(Model(rung, name) for rung, name, _ in named),
            len(models),
            {},
            cores,
            cores,
            None,
        )
        fds = []
        for _, name, data in named:
            fds.append(os.memfd_create(name))
            os.write(fds[-1], data)
        send(self.control, load, (*sockets, *fds))
        for fd in fds:
            os.close(fd)

    def map_slots(self) -> "Started":
        """Give it slots, as its supervisor does."""
        assert isinstance(self.verdict, Loaded)
        self.spec = self.verdict.spec
        self.layout = plan_slots(self.spec, self.verdict.output_seen)
        fd = sealed_memory("slots", self.layout.pool_bytes)
        self.memory = mmap.mmap(fd, self.layout.pool_bytes)
        send(self.control, Pool("gauge", self.layout, self.spec), (fd,))
        os.close(fd)
        assert isinstance(receive(self.control)[0], Ready)
        return self

    def send_job(self, *inputs: np.ndarray, rung: int = 0, kind: int = wire.RUN) -> None:
        """Send one job in the last slot."""
        self.generation += 1
        slot = self.layout.slots - 1
        at = start = slot * self.layout.slot_bytes + self.layout.input_at
        offsets = []
        for content in inputs:
            offsets.append(at - start)
            self.memory[at : at + content.nbytes] = content.tobytes()
            at += content.nbytes
        head = JOB.pack(kind, rung, slot, self.generation, NEVER_NS)
        self.jobs.send(head + wire.pack_offsets(tuple(offsets)))

    def end(self) -> tuple[int, bytes]:
        """Return the status and the tail of a job's end."""
        message = self.jobs.recv(wire.MESSAGE_BYTES)
        status, slot, generation, started_ns, ended_ns, length = DONE.unpack_from(message)
        assert (slot, generation) == (self.layout.slots - 1, self.generation)
        assert started_ns <= ended_ns
        assert len(message) == DONE.size + length
        return status, message[DONE.size :]

    def run(self, *inputs: np.ndarray, rung: int = 0) -> tuple[int, bytes]:
        """Send a job and return its end."""
        self.send_job(*inputs, rung=rung)
        return self.end()

    def output(self, count: int) -> list[float]:
        """Return the first numbers of the first output."""
        slot = self.layout.slots - 1
        at = slot * self.layout.slot_bytes + self.layout.output_at[0]
        return np.frombuffer(self.memory, np.float32, count, at).tolist()

    def stop(self) -> None:
        """End it: it leaves by itself when nobody can send it jobs any more."""
        for end in (self.jobs, self.tickets, self.control):
            end.close()
        self.process.wait(PATIENCE_S)


def _pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(PATIENCE_S)
    return ours, theirs


@pytest.fixture
def worker():
    """Return a function that starts a worker with these variants, the most accurate first."""
    started = []

    def start(**models: bytes | None) -> Started:
        started.append(Started(models))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def four(*numbers: float) -> np.ndarray:
    return np.array([numbers], np.float32)


def test_a_job_is_run_by_the_variant_that_it_names(worker):
    """The answer tells which ran, in whatever order they are asked for."""
    exact, quick = toy_models.marked(1), toy_models.marked(2)
    started = worker(exact=exact, quick=quick).map_slots()

    answers = []
    for rung in (1, 0, 1):
        assert started.run(four(1, 2, 3, 4), rung=rung)[0] == wire.OK
        answers.append(started.output(2))

    assert answers == [[2, 2], [1, 1], [2, 2]]


def test_each_rung_is_warmed_up_and_probed(worker):
    """Times for each rung of the whole ladder, and none for one that is not loaded here."""
    exact, quick = toy_models.marked(1), toy_models.marked(2)
    started = worker(exact=exact, gone=None, quick=quick).map_slots()

    first, missing, last = started.verdict.warm_up_ns
    assert missing == ()
    assert min(len(first), len(last)) >= 3
    assert started.model_count == 2
    assert started.verdict.left_out == ()
    for rung in (0, 2):
        started.send_job(rung=rung, kind=wire.PROBE)
        assert started.end()[0] == wire.PROBED


def test_what_does_not_fit_the_most_accurate_leaves(worker):
    """Another shape, no model at all, other inputs: each with a sentence; the rest is loaded."""
    started = worker(
        broken=b"no model",
        exact=toy_models.marked(1),
        wide=toy_models.marked(2, width=3),
        slow=toy_models.slow(1),
        quick=toy_models.marked(3),
    )

    left_out = dict(started.verdict.left_out)
    assert [bool(times) for times in started.verdict.warm_up_ns] == [
        False,
        True,
        False,
        False,
        True,
    ]
    assert started.model_count == 2
    assert left_out.keys() == {"broken", "wide", "slow"}
    assert left_out["broken"].startswith("it is not an ONNX model")
    assert left_out["wide"] == (
        "its output is y FP32 [1, 3], and that of exact y FP32 [1, 2]; the variants of a decision "
        "answer the same question in the same form. Export it with the inputs and outputs of exact."
    )
    assert left_out["slow"].startswith("it has 2 inputs and exact has 1;")


def test_a_variant_that_fails_on_zeros_leaves(worker):
    """It loads, but cannot run."""
    started = worker(failing=toy_models.never(), quick=toy_models.marked(3))

    ((name, why),) = started.verdict.left_out
    assert name == "failing"
    assert why.startswith("it fails on zeros (")
    assert [bool(times) for times in started.verdict.warm_up_ns] == [False, True]


def test_nothing_left_is_a_refusal_of_the_last_with_the_others_before_it(worker):
    """The worker ends by itself."""
    started = worker(broken=b"no model", worse=b"nor this")

    refused = started.verdict
    assert isinstance(refused, Refused)
    assert refused.rung == 1
    assert refused.problem.startswith("it is not an ONNX model")
    assert [name for name, _ in refused.left_out] == ["broken"]
    assert started.process.wait(PATIENCE_S) == 0


def test_an_abort_reaches_the_variant_that_runs(worker):
    """A run that would not end by itself, on the second rung; then both go on."""
    started = worker(exact=toy_models.slow(1), quick=toy_models.slow(2)).map_slots()
    x = four(1, 2, 3, 4)

    pid = started.process.pid
    idle_ns = cpu_ns(pid)
    started.send_job(x, np.array([TOO_MANY]), rung=1)
    eventually(lambda: cpu_ns(pid) > idle_ns + RUNS_NS, "the run")
    started.tickets.send(TICKET.pack(started.generation))

    assert started.end()[0] == wire.ABORTED
    for rung in (0, 1):
        assert started.run(x, np.array([0]), rung=rung)[0] == wire.OK


def test_nan_is_a_failed_run_and_infinity_is_an_answer(worker):
    """In the slot's own memory; both infinities at once are no NaN."""
    started = worker(root=toy_models.root()).map_slots()

    assert started.run(four(4, -1, 9, 16)) == (wire.MODEL_FAILED, b"output 'y' holds NaN")
    assert started.run(four(np.nan, 1, 9, 16))[0] == wire.MODEL_FAILED
    assert started.run(four(np.inf, 1, 9, 16))[0] == wire.OK
    assert started.output(4) == [np.inf, 1, 3, 4]


def test_nan_is_seen_where_the_data_decides_the_size(worker):
    """The engine's own memory; no numbers at all are an answer too."""
    started = worker(found=toy_models.found_roots()).map_slots()

    assert started.run(four(0, -1, 9, 0)) == (wire.MODEL_FAILED, b"output 'y' holds NaN")
    status, tail = started.run(four(0, 4, 9, 0))
    assert (status, wire.shapes_in(bytes(DONE.size) + tail)) == (wire.OK, [(2,)])
    assert started.output(2) == [2, 3]
    status, tail = started.run(four(0, 0, 0, 0))
    assert (status, wire.shapes_in(bytes(DONE.size) + tail)) == (wire.OK, [(0,)])
