"""A real worker in the shadow, with the test in the place of supervisor and gate."""

import mmap
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import toy_models

from tidsram.estate.types import Answer, Question
from tidsram.protocol import wire
from tidsram.protocol.tensors import TensorSpec
from tidsram.protocol.wire import COMPARE, DONE, LENT, MARK, TAKEN, pack_offsets, plan_slots
from tidsram.serve.machine import sealed_memory
from tidsram.serve.messages import Compared, Load, Loaded, Model, Pool, Ready, Tables, receive, send
from tidsram.serve.shadow import size_of

PATIENCE_S = 20.0
SLOT = 3
PAIR = socket.AF_UNIX, socket.SOCK_SEQPACKET


class InTheShadow:
    """A worker in the shadow with one model."""

    def __init__(self, model: bytes, tables: Tables) -> None:
        self.control, theirs = socket.socketpair(*PAIR)
        self.jobs, jobs = socket.socketpair(*PAIR)
        self.tickets, tickets = socket.socketpair(*PAIR)
        command = [sys.executable, "-m", "tidsram.serve.shadow", str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))
        for end in (self.control, self.jobs):
            end.settimeout(PATIENCE_S)
        cores = (max(os.sched_getaffinity(0)),)
        load = Load("gauge", (Model(0, "own"),), 1, {}, cores, cores, None, True, tables)
        fd = os.memfd_create("own")
        os.write(fd, model)
        send(self.control, load, (jobs.fileno(), tickets.fileno(), fd))
        for end in (theirs, jobs, tickets):
            end.close()
        os.close(fd)
        verdict, fds = receive(self.control)
        assert isinstance(verdict, Loaded)
        for fd in fds:
            os.close(fd)
        self._map(verdict)

    def _map(self, loaded: Loaded) -> None:
        self.spec, self.layout = loaded.spec, plan_slots(loaded.spec, loaded.output_seen)
        fd = sealed_memory("slots", self.layout.pool_bytes)
        self.memory = mmap.mmap(fd, self.layout.pool_bytes)
        send(self.control, Pool("gauge", self.layout, self.spec), (fd,))
        os.close(fd)
        assert receive(self.control)[0] == Ready(0)

    def lend(self, x, y, *, generation=5, marked=5, state=LENT) -> None:
        """Lend a question and its answer."""
        base = SLOT * self.layout.slot_bytes
        MARK.pack_into(self.memory, base, state, 77, marked, 0, 0)
        for at, numbers in ((self.layout.input_at, x), (self.layout.output_at[0], y)):
            data = np.array(numbers, np.float32).tobytes()
            self.memory[base + at : base + at + len(data)] = data
        self.jobs.send(COMPARE.pack(SLOT, generation, 77, 1234) + pack_offsets((0,)))

    def statuses(self) -> list[int]:
        """Return what it says to the gate of one question."""
        return [DONE.unpack_from(self.jobs.recv(wire.MESSAGE_BYTES))[0] for _ in range(2)]

    def compared(self) -> Compared:
        """Return what it says to the supervisor."""
        message, _ = receive(self.control)
        assert isinstance(message, Compared)
        return message

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        for end in (self.control, self.jobs, self.tickets):
            end.close()


def square() -> bytes:
    """Return a model whose y [1, 2, 2] are the four numbers of x."""
    nodes = [toy_models.node("Reshape", ["x", "sides"], ["y"])]
    x = toy_models.value("x", toy_models.F32, [1, 4])
    y = toy_models.value("y", toy_models.F32, [1, 2, 2])
    return toy_models._file(nodes, [x], [y], {"sides": np.array([1, 2, 2])})


@pytest.fixture
def start():
    """Return a function that starts a worker in the shadow, whose every y is (1, 3)."""
    started = []

    def start_worker(given=None, own=None, model=None):
        model = model or toy_models.marked(np.array([1, 3], np.float32))
        started.append(InTheShadow(model, Tables(None, given, own)))
        return started[-1]

    yield start_worker
    for worker in started:
        worker.stop()


def test_it_copies_compares_and_tells_numbers_only(start):
    """To the gate that the slot is free and that it is done, to the supervisor how it agrees."""
    worker = start()
    worker.lend([1, 2, 3, 4], [1, 3])
    same = worker.compared()
    assert worker.statuses() == [wire.COPIED, wire.COMPARED]
    worker.lend([1, 2, 3, 4], [2, 0])
    other = worker.compared()

    assert (same.number, same.agreement, same.given_ns, same.problem) == (77, 1.0, 1234, "")
    assert same.own_ns > 0
    assert other.agreement == 0.0


@pytest.mark.parametrize(("marked", "state"), [(6, LENT), (5, wire.FREE), (6, TAKEN)])
def test_a_slot_that_was_taken_back_is_not_compared(start, marked, state):
    """Its mark says whose it is now: the copy may be half of this and half of that."""
    worker = start()
    worker.lend([1, 2, 3, 4], [0, 0], marked=marked, state=state)
    assert worker.statuses() == [wire.COPIED, wire.COMPARED]
    worker.lend([1, 2, 3, 4], [1, 3], generation=7, marked=7)

    assert worker.compared().agreement == 1.0


def test_answers_are_read_by_the_decisions_table(start):
    """The same class by other numbers is the same answer, another class is another."""
    labels = Answer(kind="class", labels=("good", "bad"))
    worker = start(labels, labels)
    for given, agreement in (([0.2, 0.8], 1.0), ([0.9, 0.1], 0.0)):
        worker.lend([1, 2, 3, 4], given)
        assert worker.compared().agreement == agreement


def test_each_version_is_read_by_its_own_threshold(start):
    """Marked above 2 here, above 0.2 there: the same pixels, then only one of three in both."""
    given, own = Answer(kind="mask", threshold=0.2), Answer(kind="mask", threshold=2.0)
    worker = start(given, own, square())
    for y, agreement in (([0.1, 0.3, 0.1, 0.4], 1.0), ([0.3, 0.3, 0.1, 0.1], 1 / 3)):
        worker.lend([1, 3, 0, 5], y)
        assert worker.compared().agreement == pytest.approx(agreement)


def test_an_answer_that_cannot_be_read_is_a_problem_and_not_the_end(start):
    """It goes on with the next question."""
    grid = Answer(kind="boxes", decoder="defect-grid")
    worker = start(grid, grid)
    for _ in range(2):
        worker.lend([1, 2, 3, 4], [1, 3])
        assert "defect-grid" in worker.compared().problem


@pytest.mark.parametrize(
    ("question", "datatype", "shape", "size"),
    [
        (None, "UINT8", (1, 480, 640, 3), (640, 480)),
        (None, "FP32", (1, 3, 480, 640), (640, 480)),
        (Question(kind="image", layout="nhwc"), "FP32", (1, 480, 640, 3), (640, 480)),
        (Question(kind="image", size=(320, 240)), "FP32", (1, 3, 480, 640), (320, 240)),
        (None, "FP32", (1, 4), (1, 1)),
    ],
)
def test_places_are_told_in_the_pixels_of_the_question(question, datatype, shape, size):
    """By its table, else by the input's shape."""
    assert size_of(question, [TensorSpec("x", datatype, shape)]) == size
