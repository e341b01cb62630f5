"""What a node costs beside its answers, and what losing a worker costs.

`python -m bench.node`: start, memory, idle time, the gap between two runs of a busy lane, and the
outcome of every request while workers are killed (SIGKILL) and hung (SIGSTOP) under load.
"""

import argparse
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.loadgen import Run, open_loop, periodic, poisson
from bench.machine import ASKER_CORE, facts, most_files, others_busy, settled
from bench.models import OUT, Model, make, session
from bench.questions import infer_request
from bench.servers import Server
from tidsram.clock import today
from tidsram.stats import lower_bound, upper_bound
from tidsram.units import MS

VICTIM_BUDGET_NS, OTHER_BUDGET_NS = 50 * MS, 20 * MS
FAULT_EVERY_S = 3.0


class Node(Server):
    """A node with the given decisions (name → model, budget); standard, objective 0.99."""

    name = "tidsram-node"

    def __init__(self, decisions: dict[str, tuple[Model, str]]) -> None:
        super().__init__()
        self.unix = str(OUT / f"node-{self._port}.sock")
        self._estate = OUT / f"node-{self._port}.toml"
        tables = [f'[estate]\nname = "bench"\nstate = "{OUT / "state"}"\n']
        tables += [
            f'[decision.{name}]\nbundle = "{model.path}"\nbudget = "{budget}"\n'
            for name, (model, budget) in decisions.items()
        ]
        self._estate.write_text("\n".join(tables))

    def command(self) -> Sequence[str]:
        """Return the command that serves the estate."""
        return [
            *(sys.executable, "-m", "tidsram", "serve", "-f", str(self._estate)),
            *("--http", self.address, "--unix", str(self.unix)),
        ]

    def clean_up(self) -> None:
        """Remove the estate that was written."""
        self._estate.unlink(missing_ok=True)

    def health(self) -> dict[str, Any]:
        """Return what the node says of itself."""
        told: dict[str, Any] = json.loads(self.page("/v2/health/ready"))
        return told

    def page(self, path: str) -> bytes:
        """Return one page's body."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def pids(self) -> dict[str, int]:
        """Return the node's processes: supervisor, gate, and a worker for each decision."""
        health = self.health()
        workers = {name: state["workers"][0]["pid"] for name, state in health["decisions"].items()}
        return {"supervisor": self._process.pid, "gate": health["gate"], **workers}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write bench/out/node.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.node", description=__doc__)
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--idle-seconds", type=float, default=20)
    parser.add_argument("--gap-requests", type=int, default=3000)
    parser.add_argument("--faults", type=int, default=10, help="of each kind")
    options = parser.parse_args(arguments)
    most_files()
    tiny, shufflenet, steady = make("tiny"), make("shufflenet"), make("steady")
    result = {
        "command": " ".join(["python -m bench.node", *(arguments or sys.argv[1:])]),
        "date": today(),
        "machine": facts(),
        "others_busy": others_busy(),
        "start": _start(shufflenet, options.starts),
        "idle": _idle(tiny, options.idle_seconds),
        "gap": {
            "on deck": _gap({"a": (steady, "1 s")}, options.gap_requests),
            "through the gate": _gap(
                {"a": (steady, "1 s"), "b": (steady, "1 s")}, options.gap_requests
            ),
            "through the gate, 600 KB a question": _gap(
                {"a": (shufflenet, "1 s"), "b": (shufflenet, "1 s")}, options.gap_requests
            ),
        },
        "faults": {
            kind: _faults(shufflenet, tiny, signal_number, options.faults)
            for kind, signal_number in (("killed", signal.SIGKILL), ("hung", signal.SIGSTOP))
        },
    }
    (OUT / "node.json").write_text(json.dumps(result, indent=1))
    print(json.dumps({key: result[key] for key in ("start", "idle", "gap", "faults")}, indent=1))


def _start(model: Model, times: int) -> dict[str, Any]:
    """Return seconds from the command to ready, to load the model alone, and to `--help`."""
    ready_s, help_s = [], []
    for _ in range(times):
        begun = time.monotonic()
        with Node({"a": (model, "1 s")}):
            ready_s.append(time.monotonic() - begun)
        begun = time.monotonic()
        command = [str(Path(sys.executable).with_name("tidsram")), "--help"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        help_s.append(time.monotonic() - begun)
    begun = time.monotonic()
    session(model.path)
    load_s = time.monotonic() - begun
    return {"ready_s": _spread(ready_s), "help_s": _spread(help_s), "load_alone_s": load_s}


def _idle(model: Model, seconds: float) -> dict[str, Any]:
    """Return the node's memory, and its share of one core when nobody asks."""
    with Node({"a": (model, "20 ms")}) as node:
        pids = node.pids()
        time.sleep(1)
        before = {name: _cpu_ns(pid) for name, pid in pids.items()}
        time.sleep(seconds)
        cpu = {name: (_cpu_ns(pid) - before[name]) / seconds / 1e9 for name, pid in pids.items()}
        memory = {name: _memory_mb(pid) for name, pid in pids.items()}
    return {"core_share": sum(cpu.values()), "memory_mb": memory}


def _gap(decisions: dict[str, tuple[Model, str]], requests: int) -> dict[str, Any]:
    """Keep the lane busy and return the gap between two runs, in µs, from the node's stamps."""
    model = next(iter(decisions.values()))[0]
    with Node(decisions) as node, settled(ASKER_CORE):
        with ProcessPoolExecutor(len(decisions), mp_context=get_context("fork")) as pool:
            jobs = [
                pool.submit(_saturate, node.address, model, name, requests) for name in decisions
            ]
            for job in jobs:
                job.result()
        text = node.page("/metrics").decode()
    counts: dict[float, int] = {}
    for edge, count in re.findall(r'tidsram_run_gap_seconds_bucket\{.*le="([^"]+)"\} (\d+)', text):
        counts[float(edge)] = counts.get(float(edge), 0) + int(count)
    total = max(counts.values())
    within = {q: next(e for e in sorted(counts) if counts[e] >= q * total) for q in (0.5, 0.99)}
    return {"runs": total, **{f"p{q * 100:g}_us_at_most": e * 1e6 for q, e in within.items()}}


def _saturate(address: str, model: Model, name: str, requests: int) -> None:
    request = _named(infer_request(model, binary=True), model.name, name)
    open_loop(address, request, np.zeros(requests, np.int64), most_connections=3)


def _faults(victim: Model, other: Model, signal_number: int, times: int) -> dict[str, Any]:
    """Lose the victim's worker again and again under load; look at everybody's outcomes."""
    seconds = FAULT_EVERY_S * (times + 1)
    ready_ms = []
    with Node({"victim": (victim, "50 ms"), "other": (other, "20 ms")}) as node:
        quiet = _other_asks(node.address, other, seconds / 2, seed=1)
        with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
            asked = pool.submit(_victim_asks, node.address, victim, seconds)
            beside = pool.submit(_other_asks, node.address, other, seconds, 2)
            begun = time.monotonic()
            for fault in range(1, times + 1):
                time.sleep(max(0, begun + fault * FAULT_EVERY_S - time.monotonic()))
                ready_ms.append(_lose(node, signal_number) * 1e3)
            run, noisy = asked.result(), beside.result()
    over_ms = (run.done - run.intended - VICTIM_BUDGET_NS) / 1e6
    answered = run.status == 200
    return {
        "times": times,
        "ready_again_ms": _spread(ready_ms),
        "victim": {
            "asked": len(run.status),
            "without_outcome": int((run.status == 0).sum()),
            "by_status": {str(s): int((run.status == s).sum()) for s in np.unique(run.status)},
            "latest_outcome_after_deadline_ms": float(over_ms.max()),
            "late_answers": int((answered & (over_ms > 0)).sum()),
        },
        "other_in_time": {"quiet": _share(quiet), "meanwhile": _share(noisy)},
    }


def _lose(node: Node, signal_number: int) -> float:
    """Send the victim's worker the signal; return the seconds until another one is ready."""
    while not node.health()["decisions"]["victim"]["ready"]:
        time.sleep(0.05)
    lost = node.pids()["victim"]
    begun = time.monotonic()
    os.kill(lost, signal_number)
    while time.monotonic() - begun < 30:
        state = node.health()["decisions"]["victim"]
        if state["ready"] and state["workers"][0]["pid"] != lost:
            return time.monotonic() - begun
        time.sleep(0.005)
    raise SystemExit("the victim did not come back within 30 s")


def _victim_asks(address: str, model: Model, seconds: float) -> Run:
    request = _named(infer_request(model, binary=True), model.name, "victim")
    offsets = poisson(120, seconds, np.random.default_rng(3))
    with settled(ASKER_CORE, punctual=True):
        return open_loop(address, request, offsets)


def _other_asks(address: str, model: Model, seconds: float, seed: int) -> Run:
    request = _named(infer_request(model, binary=True), model.name, "other")
    offsets = periodic(100, seconds, np.random.default_rng(seed))
    with settled(ASKER_CORE, punctual=True):
        return open_loop(address, request, offsets)


def _named(request: bytes, model: str, decision: str) -> bytes:
    return request.replace(f"/models/{model}/".encode(), f"/models/{decision}/".encode(), 1)


def _share(run: Run) -> dict[str, float]:
    in_time, asked = run.in_time(OTHER_BUDGET_NS), len(run.status)
    return {
        "asked": asked,
        "in_time": in_time / asked,
        "at_least": lower_bound(in_time, asked),
        "at_most": upper_bound(in_time, asked),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def _cpu_ns(pid: int) -> int:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def _memory_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"Pss: +(\d+) kB", text)
    assert found is not None, "smaps_rollup has a Pss line"
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
