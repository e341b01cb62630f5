"""Run a model on a real worker of a real node, one question after the other, and time it.

The node serves nothing else, on one lane, without a network. One asker asks zeros back to back.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from msgspec import Struct

from tidsram import clock
from tidsram.client.connection import Connection
from tidsram.client.files import prepare
from tidsram.client.wire import Array, Reply
from tidsram.errors import EstateError, TidsramError
from tidsram.estate.placement import show_cores
from tidsram.estate.types import Decision, Lane
from tidsram.lab.bundle import NO_ROOM
from tidsram.lab.conditions import stolen_share
from tidsram.lab.facts import Condition
from tidsram.lab.node import Node
from tidsram.outcome import Outcome
from tidsram.serve import usage
from tidsram.serve.machine import die_with_parent
from tidsram.units import SECOND, US

_WARM_UP_NS: Final = SECOND  # in which the node settles how it schedules a lane that is full
_WARM_UP_RUNS: Final = 10
_PATIENCE_NS: Final = 120 * SECOND

Tell = Callable[[int], None]


class NotMeasured(TidsramError):
    """The measurement came to nothing; the sentence says why."""

    code = "not-measured"


class Bench(Struct, frozen=True, kw_only=True):
    """Where on this machine is measured, and who else is at work meanwhile."""

    lane: Lane
    cores: tuple[int, ...]  # of the machine
    scheduling: str = "auto"
    condition: Condition = "alone"

    def check(self) -> None:
        """Raise NotMeasured where this machine has no place for who is to be at work."""
        if self.condition == "neighbour" and set(self.cores) <= set(self.lane.cores):
            raise NotMeasured(
                f"a busy neighbour needs a core beside the lane, and this machine gives us only "
                f"{show_cores(self.cores)}; measure on a larger one, or leave that condition out"
            )


class Taken(Struct, frozen=True, kw_only=True, eq=False):
    """What the runs took, question by question, in ns."""

    run_ns: tuple[int, ...]
    gate_ns: tuple[int, ...]
    memory_bytes: int
    cold_start_ns: int
    stolen: float  # share of the lane's time


def take(
    decision: Decision, bundle: Path, bench: Bench, directory: Path, runs: int, tell: Tell
) -> Taken:
    """Serve `bundle` (or a single model) on a node in `directory`, and ask it `runs` questions."""
    lane = bench.lane
    begun_ns = clock.now_ns()
    with _node(decision, bundle, lane, bench.scheduling, directory) as node, _off(lane):
        with Connection(node.url) as connection:
            _answer(connection, decision.name, _zeros(connection, decision.name))
        cold_start_ns = clock.now_ns() - begun_ns
        with in_company(decision, bundle, bench, directory):
            stolen_before = usage.stolen(lane.cores)
            replies, memory_bytes = _ask(node.url, decision.name, runs, tell)
            stolen = stolen_share(stolen_before, usage.stolen(lane.cores))
    return Taken(
        run_ns=tuple(_run_ns(reply) for reply in replies),
        # With one asker nobody waits: what the stage "queue" takes is the way to the worker.
        gate_ns=tuple(reply.took_ns - _run_ns(reply) for reply in replies),
        memory_bytes=memory_bytes,
        cold_start_ns=cold_start_ns,
        stolen=stolen,
    )


# The node


@contextmanager
def working_directory(state: Path) -> Iterator[Path]:
    """Make a directory for one node, and take it away at the end."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix="lab-", dir=state, ignore_cleanup_errors=True)
    except OSError as error:
        problem = f"cannot be written to ({error.strerror or error}); let this user write there"
        raise EstateError(str(state), problem) from None
    with made as name:
        try:
            yield Path(name).resolve()
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            problem = f"has no room ({error.strerror or error}); make some and measure again"
            raise EstateError(str(state), problem) from None


@contextmanager
def _node(
    decision: Decision, bundle: Path, lane: Lane, scheduling: str, directory: Path
) -> Iterator[Node]:
    """Serve `bundle` on a node in `directory`, which is ready."""
    file = directory / "tidsram.toml"
    # A socket's name has at most 107 bytes, and the directory may lie deep.
    with tempfile.TemporaryDirectory(prefix="tidsram-", ignore_cleanup_errors=True) as short:
        socket = Path(short) / "node.sock"
        file.write_text(_estate_text(decision, bundle, lane, scheduling, socket), "utf-8")
        with Node(file, socket) as node:
            node.wait_until_ready()
            yield node


def _estate_text(decision: Decision, model: Path, lane: Lane, scheduling: str, socket: Path) -> str:
    """Declare a node for one decision on one lane, with no network and no spare worker.

    What is measured is its own time: how others go before it is the plan's to say, so it is at the
    highest criticality here.
    """
    shapes = ", ".join(f"{_quoted(name)} = {list(s)}" for name, s in decision.shapes.items())
    # Back to back its lane is full, and a full lane that is pinned to SCHED_FIFO is frozen by the
    # kernel for 50 ms of each second. Memory: a spare would be loaded while we measure.
    return f"""\
[estate]
name = "lab"
state = "."
[site.lab]
http = ""
unix = {_quoted(str(socket))}
hardware = "lab"
[hardware.lab]
lanes = [{{ cores = {list(lane.cores)} }}]
scheduling = "{"nice" if scheduling == "nice" else "auto"}"
memory = "1 B"
[decision.{_quoted(decision.name)}]
bundle = {_quoted(str(model))}
budget = "1 h"
criticality = "critical"
{f"shapes = {{ {shapes} }}" if shapes else ""}
"""


def _quoted(text: str) -> str:
    """Write a text as TOML does, which takes JSON's strings."""
    return json.dumps(text, ensure_ascii=False)


@contextmanager
def _off(lane: Lane) -> Iterator[None]:
    """Keep this process off the lane's cores, as an asker should be."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores - set(lane.cores) or cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


# The questions


def _ask(url: str, name: str, runs: int, tell: Tell) -> tuple[list[Reply], int]:
    """Warm up, ask, and return the answers with the memory of the worker that gave them."""
    with Connection(url) as connection:
        inputs = _zeros(connection, name)
        until_ns = clock.now_ns() + _WARM_UP_NS
        warm = 0
        while warm < _WARM_UP_RUNS or clock.now_ns() < until_ns:
            _answer(connection, name, inputs)
            warm += 1
        replies = []
        for done in range(1, runs + 1):
            replies.append(_answer(connection, name, inputs))
            tell(done)
        (worker,) = connection.health()["decisions"][name]["workers"]
    return replies, usage.resident_bytes(worker["pid"])


def _zeros(connection: Connection, name: str) -> dict[str, Array]:
    metadata = connection.metadata(name)
    assert metadata is not None, "the node serves what it was started for"
    return prepare((), metadata, None).inputs


def _answer(connection: Connection, name: str, inputs: dict[str, Array]) -> Reply:
    reply = connection.ask(name, inputs, timeout_ns=_PATIENCE_NS)
    if reply.outcome is not Outcome.ANSWERED:
        raise NotMeasured(
            f"decision {name!r} gave no answer to a question of zeros: {reply.text}. Where its "
            f"model cannot run on zeros, declare its times instead (service in a variant's table)"
        )
    return reply


def _run_ns(reply: Reply) -> int:
    return reply.parameters.stages_us["run"] * US


# The company


# Products of matrices that do not fit into a cache: they fill cores and memory bandwidth alike.
_HOG: Final = "import numpy; a = numpy.ones((1500, 1500), numpy.float32)\nwhile True: a @ a"


@contextmanager
def in_company(decision: Decision, bundle: Path, bench: Bench, directory: Path) -> Iterator[None]:
    """Keep others at work meanwhile, as the condition says."""
    if bench.condition == "neighbour":
        with _neighbour(decision, bundle, bench, directory / "neighbour"):
            yield
    elif bench.condition == "background":
        with _background(directory):
            yield
    else:
        yield


@contextmanager
def _neighbour(decision: Decision, bundle: Path, bench: Bench, directory: Path) -> Iterator[None]:
    """Run the same model back to back on a core beside the lane, on a node of its own."""
    bench.check()
    others = [core for core in bench.cores if core not in bench.lane.cores]
    directory.mkdir()
    lane, enough = Lane(cores=(others[-1],)), threading.Event()
    with _node(decision, bundle, lane, bench.scheduling, directory) as node:
        asker = threading.Thread(target=_keep_asking, args=(node.url, decision.name, enough))
        asker.start()
        try:
            yield
        finally:
            enough.set()
            asker.join()


def _keep_asking(url: str, name: str, enough: threading.Event) -> None:
    with Connection(url) as connection:
        inputs = _zeros(connection, name)
        while not enough.is_set():
            _answer(connection, name, inputs)


@contextmanager
def _background(directory: Path) -> Iterator[None]:
    """Fill every core with work that gives way, as `tidsram background` runs it."""
    hog = subprocess.Popen(
        [
            *(sys.executable, "-m", "tidsram", "background", "-f", str(directory / "tidsram.toml")),
            *("--", sys.executable, "-c", _HOG),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - it is only told to end with us
    )
    try:
        yield
    finally:
        hog.terminate()
        hog.wait()
