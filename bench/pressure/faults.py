"""What becomes of everybody's requests while a node's processes are killed, stopped and hung.

`python -m bench.pressure.faults`. One lane; two standard decisions and a critical one, asked open
loop at less than half of what the lane can do. One of them loses its worker again and again; then
the gate is lost, a thousand connections stay silent, runs are held up until their deadline has
passed, and more is asked than the lane can do.
"""

import argparse
import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.loadgen import (
    Ints,
    Run,
    back_to_back,
    connect,
    open_loop,
    percentiles,
    periodic,
    poisson,
    receive_reply,
    show,
)
from bench.machine import ASKER_CORE, Watch, facts, most_files, others_busy, settled
from bench.models import OUT, make
from bench.pressure.nodes import (
    Declared,
    PressureNode,
    ask_punctually,
    asking,
    by_status,
    calm,
    family,
    spread,
    still_open,
    until_answered,
)
from tidsram.clock import today
from tidsram.serve.machine import is_runnable
from tidsram.stats import verdict
from tidsram.units import MS

VICTIM = "victim"
FAULT_EVERY_S = 1.25  # a new worker that has served for a second is not made to wait next time
GATE_EVERY_S = 1.2
GATE_BACK_WITHIN_S = 5.0
IDLE_CONNECTIONS = 1000
OVERLOAD = 2.0
HELD_BUDGET_NS = 20 * MS
PLAIN_RUNS = 19


@dataclass(frozen=True)
class Asked:
    """How one decision is asked in the fault runs."""

    budget_ns: int
    rate: float
    arrivals: Callable[[float, float, np.random.Generator], Ints]
    criticality: str = "standard"


LOAD = {
    VICTIM: Asked(50 * MS, 100, poisson),
    "other": Asked(20 * MS, 50, poisson),
    "critical": Asked(20 * MS, 50, periodic, "critical"),
}


@dataclass(frozen=True)
class Striking:
    """One run of all decisions' askers, and when which fault was committed meanwhile."""

    runs: Mapping[str, Run]
    faults_ns: Sequence[int]
    recorded: Mapping[tuple[str, str], int]  # by decision and reason, as the node counted them

    def reasons(self, name: str) -> dict[str, int]:
        """Return how many of a decision's requests ended for each reason; answered: no reason."""
        return {why or "answered": n for (one, why), n in self.recorded.items() if one == name}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a line per figure, and write bench/out/pressure_faults.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.pressure.faults", description=__doc__)
    parser.add_argument("--times", type=int, default=100, help="each kind of fault")
    parser.add_argument("--quick", action="store_true", help="5 times, and few of everything else")
    options = parser.parse_args(arguments)
    times = min(options.times, 5) if options.quick else options.times
    most_files()
    result: dict[str, Any] = {
        "command": " ".join(["python -m bench.pressure.faults", *(arguments or sys.argv[1:])]),
        "date": today(),
        "machine": facts(),
        "others_busy": others_busy(),
        "times": times,
    }
    watch = Watch()
    with PressureNode(_decisions()) as node:
        processes = family(node.supervisor)
        result["workers"], result["left_over"] = _workers_lost(node, times)
        processes += family(node.supervisor)
    result["left_over"]["after_the_end"] = sum(Path(f"/proc/{pid}").exists() for pid in processes)
    with PressureNode(_decisions()) as node:
        result["gate"] = _gate_lost(node, min(times, 10))
    tiny = make("tiny")
    decisions = {
        "tiny": Declared(tiny, "20 ms"),
        "steady": Declared(make("steady"), "20 ms"),
        # Of its runs one in PLAIN_RUNS + 1 is held up: too few to say what a run takes.
        "held": Declared(tiny, "20 ms", objective=0.9),
    }
    with PressureNode(decisions) as node:
        result["idle"] = _idle_connections(node, *((3, 1000) if options.quick else (7, 3000)))
        result["missed"] = _missed(node, 50 if options.quick else 500)
        result["notice"] = _notice(node, 2 if options.quick else 8)
    result["steal"] = watch.shares()["steal"]
    (OUT / "pressure_faults.json").write_text(json.dumps(result, indent=1))
    _print(result)


def _decisions() -> dict[str, Declared]:
    steady = make("steady")
    return {
        name: Declared(
            steady,
            f"{asked.budget_ns // MS} ms",
            asked.criticality,
            rate=asked.rate if asked.criticality == "critical" else 0,
        )
        for name, asked in LOAD.items()
    }


# workers lost ------------------------------------------------------------------------------------


def _kill(pid: int) -> int:
    """Kill the worker, whatever it is doing."""
    os.kill(pid, signal.SIGKILL)
    return time.monotonic_ns()


def _stop(pid: int) -> int:
    """Stop the worker while it waits for a question."""
    _wait_until(pid, runs=False)
    os.kill(pid, signal.SIGSTOP)
    return time.monotonic_ns()


def _hang(pid: int) -> int:
    """Stop the worker right after it has begun a run."""
    _wait_until(pid, runs=False)
    _wait_until(pid, runs=True)
    os.kill(pid, signal.SIGSTOP)
    return time.monotonic_ns()


FAULTS: dict[str, Callable[[int], int]] = {"killed": _kill, "stopped": _stop, "hung": _hang}


def _wait_until(pid: int, *, runs: bool) -> None:
    give_up = time.monotonic() + 1
    while is_runnable(pid) is not runs and time.monotonic() < give_up:
        time.sleep(0)


def _workers_lost(
    node: PressureNode, times: int
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Lose the victim's worker in each way; return what came of it, and what the kills left."""
    control = _strike(node, None, times)
    calm(node)
    rows, left_over = {}, {}
    for kind, fault in FAULTS.items():
        before = node.footprint()
        struck = _strike(node, fault, times)
        calm(node)
        if fault is _kill:
            left_over = {
                "requests": sum(len(run.status) for run in struck.runs.values()),
                "kills": len(struck.faults_ns),
                "before": vars(before),
                "growth": node.footprint().growth(before),
            }
        rows[kind] = judge(struck, control)
        print(kind, rows[kind], file=sys.stderr)
    return rows, left_over


def _strike(node: PressureNode, fault: Callable[[int], int] | None, times: int) -> Striking:
    """Ask everybody for as long as the faults take, with or without committing them."""
    seconds = FAULT_EVERY_S * (times + 1)
    loads = {
        name: (
            node.question(name),
            asked.arrivals(asked.rate, seconds, np.random.default_rng(seed)),
        )
        for seed, (name, asked) in enumerate(LOAD.items())
    }
    before = node.outcomes()
    with asking(loads, node.address) as jobs:
        faults_ns = _commit(node, fault, seconds) if fault else []
        runs = {name: job.result() for name, job in jobs.items()}
    return Striking(runs, faults_ns, node.outcomes() - before)


def _commit(node: PressureNode, fault: Callable[[int], int], seconds: float) -> list[int]:
    """Commit the fault at its pace until the askers are about to end."""
    begun = time.monotonic()
    faults_ns: list[int] = []
    struck: list[int] = []
    while (due_s := FAULT_EVERY_S * (len(struck) + 1)) < seconds - FAULT_EVERY_S / 2:
        time.sleep(max(0.0, begun + due_s - time.monotonic()))
        pid = node.wait_worker(VICTIM, besides=struck)
        if time.monotonic() - begun > seconds - FAULT_EVERY_S / 2:
            break
        faults_ns.append(fault(pid))
        struck.append(pid)
    return faults_ns


def judge(struck: Striking, control: Striking) -> dict[str, Any]:
    """Say what became of the victim's requests, and of the others' beside those of the control."""
    victim = struck.runs[VICTIM]
    late_ns = after_deadline_ns(victim, LOAD[VICTIM].budget_ns)
    again_ms = answered_again_ms(victim, struck.faults_ns)
    missed_ns = np.concatenate(
        [
            after_deadline_ns(run, LOAD[name].budget_ns)[run.status == 504]
            for name, run in struck.runs.items()
        ]
    )
    return {
        "times": len(struck.faults_ns),
        "answered_again_ms": spread(again_ms),
        "never_answered_again": len(struck.faults_ns) - len(again_ms),
        VICTIM: {
            "asked": len(victim.status),
            "without_outcome": int((victim.status == 0).sum()),
            "recorded": struck.reasons(VICTIM),
            "by_status": by_status(victim),
            "latest_after_deadline_us": float(late_ns.max()) / 1e3,
            "late_answers": int(((victim.status == 200) & (late_ns > 0)).sum()),
        },
        "missed": percentiles("after_deadline", missed_ns),
        "others": {name: _beside(name, struck, control) for name in LOAD if name != VICTIM},
        "steal": max(run.shares["steal"] for run in struck.runs.values()),
    }


def after_deadline_ns(run: Run, budget_ns: int) -> Ints:
    """Return when each outcome was here, from its deadline on; none: as at the end."""
    end_ns = max(int(run.done.max()), int(run.sent.max()))
    done = np.where(run.status == 0, end_ns, run.done)
    return np.asarray(done - run.sent - budget_ns, np.int64)


def answered_again_ms(run: Run, faults_ns: Sequence[int]) -> list[float]:
    """Return, for each fault, the time until a request sent after it was answered."""
    answered = run.status == 200
    sent, done = run.sent[answered], run.done[answered]
    found = []
    for fault_ns in faults_ns:
        later = done[sent >= fault_ns]
        if len(later):
            found.append(float(later.min() - fault_ns) / 1e6)
    return found


def _beside(name: str, struck: Striking, control: Striking) -> dict[str, Any]:
    budget_ns = LOAD[name].budget_ns
    meanwhile, quiet = struck.runs[name], control.runs[name]
    return {
        "asked": len(meanwhile.status),
        "recorded": struck.reasons(name),
        "in_time": meanwhile.in_time(budget_ns),
        "in_time_quiet": quiet.in_time(budget_ns),
        "contradicted": differs(
            len(meanwhile.status) - meanwhile.in_time(budget_ns),
            len(quiet.status) - quiet.in_time(budget_ns),
            len(meanwhile.status) / (len(meanwhile.status) + len(quiet.status)),
        ),
        "by_status": by_status(meanwhile),
        "latest_after_deadline_us": float(after_deadline_ns(meanwhile, budget_ns).max()) / 1e3,
        **{
            f"{when}_{key}": us
            for when, run in (("meanwhile", meanwhile), ("quiet", quiet))
            for key, us in _latency(run).items()
        },
    }


def differs(meanwhile: int, quiet: int, share: float) -> bool:
    """Whether losing so many meanwhile and so many when quiet contradicts one and the same rate.

    Given their sum, those meanwhile are binomial with the share of requests that were asked then,
    if nothing has changed: more of them than that makes likely at 99 % contradict it.
    """
    return verdict(quiet, meanwhile + quiet, 1 - share) == "contradicted"


def _latency(run: Run) -> dict[str, float | None]:
    answered = run.status == 200
    return percentiles("latency", (run.done - run.intended)[answered])


# the gate lost -----------------------------------------------------------------------------------


def _gate_lost(node: PressureNode, times: int) -> dict[str, dict[str, Any]]:
    """Lose the gate and ask until someone answers; the workers must be those they were."""
    return {
        kind: _lose_gate(node, number, times)
        for kind, number in (("killed", signal.SIGKILL), ("stopped", signal.SIGSTOP))
    }


def _lose_gate(node: PressureNode, number: signal.Signals, times: int) -> dict[str, Any]:
    again_ms: list[float] = []
    same = 0
    for _ in range(times):
        time.sleep(GATE_EVERY_S)
        before, gate = node.workers(), int(node.health()["gate"])
        begun = time.monotonic()
        os.kill(gate, number)
        if until_answered(node.address, node.question("critical"), GATE_BACK_WITHIN_S):
            again_ms.append((time.monotonic() - begun) * 1e3)
        else:  # nobody looks after a stopped gate: help, so that the next one can be lost
            os.kill(gate, signal.SIGKILL)
            until_answered(node.address, node.question("critical"), GATE_BACK_WITHIN_S)
        for decision in LOAD:
            node.wait_worker(decision)
        same += node.workers() == before
    return {
        "times": times,
        "answered_again_ms": spread(again_ms),
        "never_answered_again": times - len(again_ms),
        "workers_unchanged": same,
    }


# a thousand idle connections ---------------------------------------------------------------------


def _idle_connections(node: PressureNode, pairs: int, requests: int) -> dict[str, Any]:
    """Ask with and without silent company, in turn."""
    rng = np.random.default_rng(5)
    blocks: dict[int, list[list[int]]] = {0: [], IDLE_CONNECTIONS: []}
    kept = IDLE_CONNECTIONS
    for _ in range(pairs):
        for crowd in rng.permutation(list(blocks)).tolist():
            silent = [connect(node.address) for _ in range(crowd)]
            with connect(node.address) as sock, settled(ASKER_CORE):
                back_to_back(sock, node.question("tiny"), 200)
                blocks[crowd].append(back_to_back(sock, node.question("tiny"), requests))
            kept = min(kept, still_open(silent)) if crowd else kept
            for sock in silent:
                sock.close()
            time.sleep(0.2)
    return {
        "connections": IDLE_CONNECTIONS,
        "still_open": kept,
        "pairs": pairs,
        "requests": requests,
        "alone": _pooled(blocks[0]),
        "beside": _pooled(blocks[IDLE_CONNECTIONS]),
        **{
            f"ratio_{label}": spread(
                [
                    float(np.quantile(b, q) / np.quantile(a, q))
                    for a, b in zip(blocks[0], blocks[IDLE_CONNECTIONS], strict=True)
                ]
            )
            for label, q in (("p50", 0.5), ("p99", 0.99))
        },
    }


def _pooled(blocks: Sequence[Sequence[int]]) -> dict[str, float | None]:
    return percentiles("latency", np.concatenate([np.array(block) for block in blocks]))


# missed and refused ------------------------------------------------------------------------------


def _missed(node: PressureNode, runs: int) -> dict[str, Any]:
    """Hold runs up until the asker has heard that the deadline is over; return when that was."""
    pid, request = node.wait_worker("held"), node.question("held")
    after_ns: list[int] = []
    others: Counter[str] = Counter()
    with connect(node.address) as sock, settled(ASKER_CORE, punctual=True):
        back_to_back(sock, request, 300)
        for _ in range(runs):
            status, after = _hold_up(sock, request, pid)
            if status == 504:
                after_ns.append(after)
            else:
                others[str(status)] += 1
            for _ in range(PLAIN_RUNS):
                sock.sendall(request)
                receive_reply(sock)
    return {
        "runs_held_up": runs,
        "missed": len(after_ns),
        "others_by_status": others,
        "workers_replaced": node.wait_worker("held") != pid,
        **percentiles("after_deadline", np.array(after_ns, np.int64)),
    }


def _hold_up(sock: socket.socket, request: bytes, pid: int) -> tuple[int, int]:
    """Ask while the worker is stopped; return the status, and the ns after the deadline."""
    os.kill(pid, signal.SIGSTOP)
    try:
        sent_ns = time.monotonic_ns()
        sock.sendall(request)
        reply = receive_reply(sock)
        after_ns = time.monotonic_ns() - sent_ns - HELD_BUDGET_NS
    finally:
        os.kill(pid, signal.SIGCONT)
    time.sleep(0.002)
    return int(reply[9:12]), after_ns


def _notice(node: PressureNode, seconds: float) -> dict[str, Any]:
    """Return how long after it was sent a question is refused: at leisure, and overloaded."""
    rng = np.random.default_rng(6)
    impossible = node.question("steady", budget_us=1000)
    at_leisure = ask_punctually(node.address, impossible, poisson(120, seconds, rng))
    with settled(ASKER_CORE, punctual=True):
        zeros = np.zeros(800, np.int64)
        full = open_loop(node.address, node.question("steady"), zeros, most_connections=3)
    rate = OVERLOAD * full.answers_per_second
    overloaded = ask_punctually(node.address, node.question("steady"), poisson(rate, seconds, rng))
    return {
        "load": OVERLOAD,
        "offered_per_s": rate,
        "at_leisure": _refusals(at_leisure),
        "overloaded": _refusals(overloaded),
    }


def _refusals(run: Run) -> dict[str, Any]:
    refused = run.status == 503
    return {
        "by_status": by_status(run),
        "steal": run.shares["steal"],
        **percentiles("notice", (run.done - run.sent)[refused]),
    }


def _print(result: Mapping[str, Any]) -> None:
    for kind, row in result["workers"].items():
        print(kind, row["times"], "answered again ms", row["answered_again_ms"], row[VICTIM])
        for name, beside in row["others"].items():
            told = "CONTRADICTED" if beside["contradicted"] else "not contradicted"
            print(
                f"  {name}: {beside['in_time']} of {beside['asked']} in time, quiet "
                f"{beside['in_time_quiet']}, {told}; p99 {show(beside['meanwhile_latency_p99_us'])}"
                f" µs, quiet {show(beside['quiet_latency_p99_us'])}; {beside['by_status']}"
            )
    for name in ("left_over", "gate", "idle", "missed", "notice"):
        print(name, json.dumps(result[name]))


if __name__ == "__main__":
    main()
