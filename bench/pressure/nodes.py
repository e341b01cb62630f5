"""A node of declared decisions, who asks it meanwhile, and what its processes hold."""

import os
import shutil
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from bench.loadgen import Ints, Run, connect, open_loop, receive_reply
from bench.machine import ASKER_CORE, settled
from bench.models import OUT, Model
from bench.node import Node
from bench.questions import infer_request
from tidsram.ops.pressure import read_counts

READY_WITHIN_S = 30.0


@dataclass(frozen=True)
class Declared:
    """A decision's table; a rate of 0 declares no arrivals."""

    model: Model
    budget: str
    criticality: str = "standard"
    objective: float = 0.99
    rate: float = 0

    def table(self, name: str) -> str:
        """Return the table as TOML."""
        lines = [
            f"[decision.{name}]",
            f'bundle = "{self.model.path}"',
            f'budget = "{self.budget}"',
            f'criticality = "{self.criticality}"',
            f"objective = {self.objective}",
        ]
        if self.rate:
            lines.append(f'arrivals = {{ kind = "periodic", rate = "{self.rate:g}/s" }}')
        return "\n".join(lines)


class PressureNode(Node):
    """A node on one lane, core 1, with a state folder of its own."""

    name = "tidsram-pressure"

    def __init__(self, decisions: Mapping[str, Declared], scheduling: str = "auto") -> None:
        super().__init__({})
        self.state = OUT / f"state-{self._port}"
        self.decisions = decisions
        tables = [
            f'[estate]\nname = "bench"\nstate = "{self.state}"',
            '[site.here]\nhardware = "box"',
            f'[hardware.box]\nscheduling = "{scheduling}"\nlanes = [{{ cores = [1] }}]',
            *(declared.table(name) for name, declared in decisions.items()),
        ]
        self._estate.write_text("\n\n".join(tables) + "\n")

    @property
    def estate(self) -> Path:
        """The estate file."""
        return self._estate

    @property
    def supervisor(self) -> int:
        """The process that was started."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What the node has said."""
        return self._log.read_text(errors="replace")

    def clean_up(self) -> None:
        """Remove the estate that was written, and its state."""
        super().clean_up()
        shutil.rmtree(self.state, ignore_errors=True)

    def question(self, decision: str, **parameters: int) -> bytes:
        """Return a question for the decision."""
        model = replace(self.decisions[decision].model, name=decision)
        return infer_request(model, binary=True, parameters=parameters)

    def workers(self) -> dict[str, list[int]]:
        """Return the process ids of each decision's workers that are ready."""
        decisions = self.health()["decisions"]
        return {n: [w["pid"] for w in state["workers"]] for n, state in decisions.items()}

    def wait_worker(self, decision: str, besides: Sequence[int] = ()) -> int:
        """Wait for a ready worker of the decision that is not one of `besides`."""
        give_up = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < give_up:
            state = self.health()["decisions"][decision]
            for worker in state["workers"] if state["ready"] else ():
                if worker["pid"] not in besides:
                    return int(worker["pid"])
            time.sleep(0.01)
        raise SystemExit(f"no worker of {decision} was ready within {READY_WITHIN_S:.0f} s")

    def outcomes(self) -> Counter[tuple[str, str]]:
        """Return how many outcomes the node has recorded, by decision and reason."""
        return Counter(read_counts(self.page("/metrics").decode()))

    def footprint(self) -> "Footprint":
        """Return what the node holds, once it is idle."""
        gate = int(self.health()["gate"])
        return Footprint(
            processes=len(family(self.supervisor)),
            supervisor_files=_files(self.supervisor),
            gate_files=_files(gate),
            supervisor_kb=_resident_kb(self.supervisor),
            gate_kb=_resident_kb(gate),
            shared_memory=len(os.listdir("/dev/shm")),  # noqa: PTH208
            state_files=sum(1 for _ in self.state.rglob("*")),
        )


@dataclass(frozen=True)
class Footprint:
    """What a node holds of the machine."""

    processes: int
    supervisor_files: int
    gate_files: int
    supervisor_kb: int
    gate_kb: int
    shared_memory: int
    state_files: int

    def growth(self, before: "Footprint") -> dict[str, int]:
        """Return how much more it is than before."""
        return {name: now - getattr(before, name) for name, now in vars(self).items()}


def family(pid: int) -> list[int]:
    """Return the process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        children.setdefault(parent, []).append(int(entry.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def ask_punctually(address: str, request: bytes, offsets: Ints, most_connections: int = 256) -> Run:
    """Ask open loop from the asker's core, before all normal work of it."""
    with settled(ASKER_CORE, punctual=True):
        return open_loop(address, request, offsets, most_connections=most_connections)


@contextmanager
def asking(
    loads: Mapping[str, tuple[bytes, Ints]], address: str
) -> Iterator[dict[str, Future[Run]]]:
    """Ask for each name's request at its offsets, all at the same time, in processes."""
    with ProcessPoolExecutor(len(loads), mp_context=get_context("fork")) as pool:
        yield {
            name: pool.submit(ask_punctually, address, request, offsets)
            for name, (request, offsets) in loads.items()
        }


@contextmanager
def without_pause(address: str, request: bytes, askers: int = 2) -> Iterator[None]:
    """Ask in closed loop meanwhile, so that a question always waits for the lane."""
    context = get_context("fork")
    processes = [
        context.Process(target=_ask_on, args=(address, request), daemon=True) for _ in range(askers)
    ]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _ask_on(address: str, request: bytes) -> None:
    os.sched_setaffinity(0, {ASKER_CORE})
    with connect(address) as sock:
        while True:
            sock.sendall(request)
            if receive_reply(sock)[9:12] != b"200":
                time.sleep(0.001)  # a refused asker who insists would load the gate instead


def until_answered(address: str, request: bytes, within_s: float) -> bool:
    """Ask again and again, each time on a new connection; whether an answer came in time."""
    give_up = time.monotonic() + within_s
    while time.monotonic() < give_up:
        try:
            with connect(address) as sock:
                sock.settimeout(0.1)
                sock.sendall(request)
                if receive_reply(sock)[9:12] == b"200":
                    return True
        except OSError:
            pass
        time.sleep(0.001)
    return False


def still_open(sockets: Sequence[socket.socket]) -> int:
    """Count the connections on which the other side is silent but there."""
    count = 0
    for sock in sockets:
        try:
            sock.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            count += 1
        except OSError:
            continue
    return count


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Return the middle and the ends; None without values."""
    if not values:
        return None
    return {"median": median(values), "low": min(values), "high": max(values)}


def by_status(run: Run) -> dict[str, int]:
    """Count a run's requests by HTTP status; 0: no outcome."""
    return {str(status): count for status, count in sorted(Counter(run.status.tolist()).items())}


def calm(node: PressureNode, seconds: float = 10.0) -> None:
    """Wait until all decisions are ready, and as long as lost processes take to be gone."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up and not node.health()["ready"]:
        time.sleep(0.05)
    time.sleep(1.5)


def _files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


def _resident_kb(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4
