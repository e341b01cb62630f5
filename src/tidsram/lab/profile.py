"""Measure what a variant takes, on a real worker of a real node that does nothing else.

One asker asks zeros back to back. What that leaves out is said in docs/measuring.md.
"""

import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from msgspec import Struct

from tidsram import clock
from tidsram.client.connection import Connection
from tidsram.client.files import prepare
from tidsram.client.wire import Array, Reply
from tidsram.errors import EstateError, NodeError, TidsramError
from tidsram.estate.load import read_model
from tidsram.estate.placement import show_cores
from tidsram.estate.types import Decision, Estate, Hardware, Lane, Variant
from tidsram.estate.values import nearest, show_key
from tidsram.lab.facts import Profile, digest_of
from tidsram.lab.node import Node
from tidsram.outcome import Outcome
from tidsram.serve import usage
from tidsram.units import SECOND, US

_WARM_UP_NS: Final = SECOND  # in which the node settles how it schedules a lane that is full
_WARM_UP_RUNS: Final = 10
_PATIENCE_NS: Final = 120 * SECOND
_STEAL_SAID: Final = 0.005

Tell = Callable[[int], None]


class NotMeasured(TidsramError):
    """The measurement came to nothing; the sentence says why."""

    code = "not-measured"


class Subject(Struct, frozen=True, kw_only=True):
    """What is to be measured, on which hardware type this machine is to stand for."""

    decision: Decision
    variant: Variant
    hardware: str


def pick_hardware(estate: Estate, name: str | None) -> str:
    """Return the hardware type `name`; without a name that of the first site which has one."""
    known = list(estate.hardware)
    if name is None:
        name = next((site.hardware for site in estate.sites.values() if site.hardware), None)
    if name is None:
        raise EstateError(
            f"estate {estate.name}",
            "no site says what hardware it has, and a profile is a fact about a hardware type; "
            'add [hardware.edge], and hardware = "edge" to the site\'s table',
        )
    if name not in known:
        near = nearest(name, known) or f"; declared are {', '.join(known) or 'none'}"
        raise EstateError(f"estate {estate.name}", f'declares no hardware "{name}"{near}')
    return name


def pick_subjects(estate: Estate, names: Sequence[str], hardware: str) -> list[Subject]:
    """Return the variants to measure: of the decisions `names`, or of all; those with a model."""
    picked = [
        Subject(decision=decision, variant=variant, hardware=hardware)
        for decision in _pick_decisions(estate, names)
        for variant in decision.ladder
        if variant.model
    ]
    measured = {subject.decision.name for subject in picked}
    without = [name for name in names if name not in measured] or (
        [] if picked else list(estate.decisions)
    )
    if without:
        raise EstateError(
            f"[decision.{show_key(without[0])}]",
            "has no model to run; name its file with bundle, or with model in a variant's table",
        )
    return picked


def _pick_decisions(estate: Estate, names: Sequence[str]) -> list[Decision]:
    known = list(estate.decisions)
    for name in names:
        if name not in known:
            near = nearest(name, known) or f"; declared are {', '.join(known)}"
            raise EstateError(f"estate {estate.name}", f'declares no decision "{name}"{near}')
    return [estate.decisions[name] for name in (dict.fromkeys(names) or known)]


def pick_lane(name: str, hardware: Hardware, cores: Sequence[int]) -> Lane:
    """Return the narrowest lane that this machine has: what holds there holds on wider ones."""
    lanes = hardware.lanes or tuple(Lane(cores=(core,)) for core in cores[1:] or cores)
    here = [lane for lane in lanes if set(lane.cores) <= set(cores)]
    if not here:
        raise EstateError(
            f"[hardware.{show_key(name)}] lanes",
            f"has no lane on {show_cores(cores)}, which are what this machine gives us; "
            f"measure on a machine of that type",
        )
    return min(here, key=lambda lane: len(lane.cores))


def measure(estate: Estate, folder: Path, subject: Subject, runs: int, tell: Tell) -> Profile:
    """Measure `runs` runs of one variant; `tell` hears how many there are so far.

    Raises RefusedByNode when its model cannot be served, NodeError or NotMeasured when it could
    not be found out.
    """
    cores = sorted(os.sched_getaffinity(0))
    hardware = estate.hardware[subject.hardware]
    lane = pick_lane(subject.hardware, hardware, cores)
    model = (folder / subject.variant.model).resolve()
    digest = digest_of(read_model(model))
    with _directory(folder / estate.state) as directory:
        file = directory / "tidsram.toml"
        file.write_text(_estate_text(subject.decision, model, lane, hardware), "utf-8")
        with Node(file, directory / "node.sock") as node, _off(lane):
            node.wait_until_ready()
            stolen_before = usage.stolen(lane.cores)
            replies, memory_bytes = _ask(node.url, subject.decision.name, runs, tell)
            stolen = stolen_share(stolen_before, usage.stolen(lane.cores))
    return Profile(
        decision=subject.decision.name,
        variant=subject.variant.name,
        hardware=subject.hardware,
        date=clock.today()[:10],
        machine=conditions(cores, lane, stolen),
        model_sha256=digest,
        run_ns=tuple(_run_ns(reply) for reply in replies),
        # With one asker nobody waits: what the stage "queue" takes is the way to the worker.
        gate_ns=tuple(reply.took_ns - _run_ns(reply) for reply in replies),
        memory_bytes=memory_bytes,
    )


# The node


@contextmanager
def _directory(state: Path) -> Iterator[Path]:
    """Make a directory for one node, and take it away at the end."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix="lab-", dir=state, ignore_cleanup_errors=True)
    except OSError as error:
        problem = f"cannot be written to ({error.strerror or error}); let this user write there"
        raise EstateError(str(state), problem) from None
    with made as name:
        yield Path(name).resolve()


def _estate_text(decision: Decision, model: Path, lane: Lane, hardware: Hardware) -> str:
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
unix = "node.sock"
hardware = "lab"
[hardware.lab]
lanes = [{{ cores = {list(lane.cores)} }}]
scheduling = "{"nice" if hardware.scheduling == "nice" else "auto"}"
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
        metadata = connection.metadata(name)
        if metadata is None:
            raise NodeError(f"the node at {url} does not know the decision {name!r} it was given")
        inputs = prepare((), metadata, None).inputs
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


# The conditions


def conditions(cores: Sequence[int], lane: Lane, stolen: float) -> str:
    """Say on what was measured; `stolen` is the share of the lane's time that others had."""
    words = [
        processor(),
        f"{len(cores)} core{'s' if len(cores) > 1 else ''}",
        f"{platform.system()} {platform.release()}",
        f"lane on {show_cores(lane.cores)}",
    ]
    if stolen > _STEAL_SAID:
        words.append(f"{stolen:.1%} of the lane's time stolen by other machines of its host")
    return ", ".join(words)


def processor() -> str:
    """Name this machine's processor as the kernel does; its architecture where it does not."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def stolen_share(before: dict[int, usage.Stolen], after: dict[int, usage.Stolen]) -> float:
    """Return which share of some cores' time the hypervisor gave to others meanwhile."""
    steal_ns = sum(max(0, after[core].steal_ns - before[core].steal_ns) for core in before)
    total_ns = sum(after[core].total_ns - before[core].total_ns for core in before)
    return steal_ns / total_ns if total_ns > 0 else 0.0
