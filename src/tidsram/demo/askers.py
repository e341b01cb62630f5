"""Askers: one process a decision, asking on schedule whether or not answers come (open loop).

Preparing a question and reading its answer are the asker's work and inside the measured time.
A process of its own, so that telling the story never delays a question; run as
`python -m tidsram.demo.askers`, with courses on its standard input and what became of each
question on its standard output.
"""

import gc
import itertools
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Final

import msgspec
import numpy as np

from tidsram import clock
from tidsram.client.answer import Box, Boxes, Mask, read
from tidsram.client.connection import Connection
from tidsram.client.question import tensors
from tidsram.client.wire import Array
from tidsram.demo.material import Material, load_material
from tidsram.errors import NodeError
from tidsram.estate.load import load_estate
from tidsram.estate.types import Answer, Decision, Question
from tidsram.outcome import Outcome, Reason
from tidsram.units import MS, SECOND

_WIDTH_MAX: Final = 64  # questions one asker has open at a time, at most
_PATIENCE_NS: Final = SECOND  # after the budget: in a story we want to see how late
_SILENCE_S: Final = 30.0


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """What one asker will ask, and when each question arises (on the machine's monotonic clock)."""

    decision: str
    arises_ns: list[int]
    first: int = 0  # index of the first question's pictures; the next has the next ones
    stream: str = ""
    reserve_ns: int = 0  # kept of the budget for reading the answer
    round_trip_ns: int = 0  # added by waiting, half before the question leaves, half after


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one question, with the asker's own stamps."""

    decision: str
    index: int
    arose_ns: int  # when it should have been asked; every time counts from here
    began_ns: int
    sent_ns: int
    replied_ns: int
    done_ns: int
    outcome: Outcome
    reason: Reason = Reason.NONE
    text: str = ""
    stages_us: dict[str, int] = {}
    boxes: tuple[Box, ...] | None = None
    mask: bytes | None = None  # packed bits of CORE × CORE pixels

    @property
    def took_ns(self) -> int:
        """From the moment it arose to when the asker had the answer, or knew that there is none."""
        return self.done_ns - self.arose_ns

    def in_time(self, budget_ns: int) -> bool:
        """Tell whether it was answered, and within the budget."""
        return self.outcome is Outcome.ANSWERED and self.took_ns <= budget_ns

    def flew_at(self, instant_ns: int) -> bool:
        """Tell whether it was between asker and answer at that instant."""
        return self.sent_ns <= instant_ns < self.replied_ns


_encode: Final = msgspec.msgpack.Encoder().encode
_courses: Final = msgspec.msgpack.Decoder(Course | None)
_told: Final = msgspec.msgpack.Decoder(Asked | None)


# The story's side.


class Askers:
    """The processes that ask, one for each decision; leaving the context ends them."""

    def __init__(self, url: str, estate_file: Path, decisions: Iterable[str]) -> None:
        self._told: queue.SimpleQueue[Asked | str | None] = queue.SimpleQueue()
        self._processes = {name: _start(url, estate_file, name) for name in decisions}
        for name, process in self._processes.items():
            assert process.stdout is not None, "started with a pipe"
            threading.Thread(target=self._listen, args=(name, process.stdout), daemon=True).start()

    def __enter__(self) -> "Askers":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            assert process.stdin is not None, "started with a pipe"
            process.stdin.close()
        for process in self._processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def wait_until_here(self) -> None:
        """Return when every asker has its pictures loaded and its connection open."""
        for _ in self._processes:
            self._next()

    def run(
        self, courses: Sequence[Course], tell: Callable[[Asked], None] = lambda _: None
    ) -> list[Asked]:
        """Ask everything; call `tell` as each outcome comes; return them as they arose."""
        for course in courses:
            process = self._processes[course.decision]
            assert process.stdin is not None, "started with a pipe"
            _write(process.stdin, course)
        asked: list[Asked] = []
        running = len(courses)
        while running:
            told = self._next()
            if told is None:
                running -= 1
            else:
                asked.append(told)
                tell(told)
        return sorted(asked, key=lambda one: one.arose_ns)

    def _next(self) -> Asked | None:
        try:
            told = self._told.get(timeout=_SILENCE_S)
        except queue.Empty:
            raise NodeError(f"no asker has said anything for {_SILENCE_S:.0f} s") from None
        if isinstance(told, str):
            raise NodeError(f"the asker of {told} has died; what it said is above")
        return told

    def _listen(self, name: str, stdout: IO[bytes]) -> None:
        while (message := _read(stdout)) is not None:
            self._told.put(_told.decode(message))
        self._told.put(name)


def _start(url: str, estate_file: Path, decision: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", __name__, url, str(estate_file), decision]
    # One thread of numpy is enough for small arrays; more would only wake the lane's core.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


# The asker's side.


class Asker:
    """Asks one decision's questions from as many threads as may be open at a time."""

    def __init__(
        self, url: str, decision: Decision, material: Material, tell: Callable[[Asked], None]
    ) -> None:
        assert decision.question is not None, "the demo's estate says how questions are made"
        assert decision.answer is not None, "the demo's estate says how answers are read"
        self._url, self._material, self._tell = url, material, tell
        self._name, self._budget_ns = decision.name, decision.budget_ns
        self._question: Question = decision.question
        self._answer: Answer = decision.answer
        self._connections: queue.LifoQueue[Connection] = queue.LifoQueue()
        with Connection(url) as connection:
            metadata = connection.metadata(decision.name)
        if metadata is None:
            raise NodeError(f"the node at {url} does not serve {decision.name!r}")
        self._input = metadata.inputs[0]

    def rehearse(self, times: int) -> None:
        """Do the asker's own work a few times, so that the first question is like the others."""
        for index in range(times):
            self._tensor(index)

    def _tensor(self, index: int) -> Array:
        images = self._material.images(index)
        (tensor,) = tensors(self._question, images, self._input.datatype)
        return tensor

    def run(self, course: Course) -> None:
        """Ask every question of the course at its time."""
        numbers = itertools.count()
        width = _width(course, self._budget_ns)
        threads = [
            threading.Thread(target=self._ask_some, args=(course, numbers), daemon=True)
            for _ in range(width)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _ask_some(self, course: Course, numbers: "itertools.count[int]") -> None:
        try:
            connection = self._connections.get_nowait()
        except queue.Empty:
            connection = Connection(self._url)
        for number in numbers:
            if number >= len(course.arises_ns):
                break
            self._tell(self._ask(connection, course, number))
        self._connections.put(connection)

    def _ask(self, connection: Connection, course: Course, number: int) -> Asked:
        index, arose_ns = course.first + number, course.arises_ns[number]
        clock.sleep_until_ns(arose_ns)
        began_ns = clock.now_ns()
        tensor = self._tensor(index)
        clock.sleep_ns(course.round_trip_ns // 2)
        sent_ns = clock.now_ns()
        reply = connection.ask(
            self._name,
            {self._input.name: tensor},
            budget_ns=self._budget_ns - course.reserve_ns,
            spent_ns=sent_ns - arose_ns,
            stream=course.stream or None,
            timeout_ns=self._budget_ns + _PATIENCE_NS,
        )
        clock.sleep_ns(course.round_trip_ns // 2)
        replied_ns = clock.now_ns()
        reading = None
        if reply.outcome is Outcome.ANSWERED:
            size = self._material.image_size
            question = self._question
            reading = read(self._answer, reply.outputs, size, question.size, question.fit)
        return Asked(
            decision=self._name,
            index=index,
            arose_ns=arose_ns,
            began_ns=began_ns,
            sent_ns=sent_ns,
            replied_ns=replied_ns,
            done_ns=clock.now_ns(),
            outcome=reply.outcome,
            reason=reply.reason,
            text=reply.text,
            stages_us=reply.parameters.stages_us,
            boxes=reading.boxes if isinstance(reading, Boxes) else None,
            mask=np.packbits(reading.pixels).tobytes() if isinstance(reading, Mask) else None,
        )


def _width(course: Course, budget_ns: int) -> int:
    """Return how many questions may be open at once: those that arise before the first is over."""
    open_ns = budget_ns + course.round_trip_ns + 50 * MS
    arises = course.arises_ns
    first = widest = 0
    for last, instant_ns in enumerate(arises):
        while arises[first] <= instant_ns - open_ns:
            first += 1
        widest = max(widest, last - first + 1)
    return min(_WIDTH_MAX, widest + 2)


def _read(stream: IO[bytes]) -> bytes | None:
    """Read one message with its length before it; None at the stream's end."""
    length = stream.read(4)
    return stream.read(int.from_bytes(length)) if len(length) == 4 else None


def _write(stream: IO[bytes], message: object) -> None:
    body = _encode(message)
    stream.write(len(body).to_bytes(4) + body)
    stream.flush()


def main(url: str, estate_file: str, name: str) -> None:
    """Be the asker of one decision until standard input ends."""
    # Ctrl-C in the terminal reaches us too; the story ends us by closing our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    decision = load_estate(Path(estate_file)).decisions[name]
    lock = threading.Lock()

    def tell(told: Asked | None) -> None:
        with lock:
            _write(sys.stdout.buffer, told)

    asker = Asker(url, decision, load_material(decision, Path(estate_file).parent), tell)
    asker.rehearse(5)
    # Nothing made until here is garbage, and a collection in mid-question would be a stall.
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(0.0005)
    tell(None)
    while (message := _read(sys.stdin.buffer)) is not None:
        course = _courses.decode(message)
        assert course is not None, "the story sends courses"
        asker.run(course)
        tell(None)


if __name__ == "__main__":
    main(*sys.argv[1:])
