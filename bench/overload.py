"""What remains of the answers in time when more is asked than one lane can do.

`python -m bench.overload`. Capacity is a saturated closed loop through the same lane; the load is
open loop and Poisson at shares of it; in time is what the asker had within the budget, counted
from the intended instant, over what was offered. No server can exceed capacity ÷ offered.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from bench.loadgen import Run, open_loop, poisson, show
from bench.machine import ASKER_CORE, LANE_CORE, facts, most_files, others_busy, settled
from bench.models import OUT, Model, make, session
from bench.ours import Ours
from bench.questions import check_answer, infer_request
from bench.triton import SERVER_VERSION, Triton
from tidsram.clock import today
from tidsram.units import MS, US

BUDGET_NS = 20 * MS
TRITON_TIMEOUTS_US = (5_000, 8_000, 11_000, 15_000)
TRIAL_S = 5
SATURATING = 3  # connections back to back: one runs, one waits, one is on its way
LOADS = (0.5, 1.0, 1.35, 2.0)


@dataclass(frozen=True)
class Target:
    """A server, the question with its deadline, and where its lane's capacity can be asked for."""

    name: str
    address: str
    question: bytes
    capacity_at: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a line per server and load, and write bench/out/overload-MODEL.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="of each load in each repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--servers", default="tidsram,triton", help="those to start")
    parser.add_argument("--model", default="shufflenet")
    parser.add_argument(
        "--triton-timeout-us", type=int, default=0, help="instead of its best, found by trial"
    )
    options = parser.parse_args(arguments)
    most_files()
    model = make(options.model)
    others = others_busy()
    with ExitStack() as stack:
        servers = options.servers.split(",")
        targets = _targets(model, servers, options.triton_timeout_us, stack)
        repeats = [
            _repeat(targets, model, options.seconds, np.random.default_rng(seed))
            for seed in range(options.repeats)
        ]
    result = {
        "command": " ".join(["python -m bench.overload", *(arguments or sys.argv[1:])]),
        "date": today(),
        "machine": {**facts(), "triton": SERVER_VERSION},
        "others_busy": others,
        "model": model.name,
        "budget_us": BUDGET_NS // US,
        "seconds": options.seconds,
        "repeats": options.repeats,
        "capacities": {
            name: _spread([repeat.capacities[name] for repeat in repeats])
            for name in repeats[0].capacities
        },
        "rows": [
            _row(target.name, load, repeats, options.seconds)
            for load in LOADS
            for target in targets
        ],
    }
    (OUT / f"overload-{model.name}.json").write_text(json.dumps(result, indent=1))
    _print(result)


@dataclass(frozen=True)
class _Repeat:
    capacities: Mapping[str, float]
    runs: Mapping[tuple[str, float], Run]


def _targets(
    model: Model, servers: Sequence[str], triton_timeout_us: int, stack: ExitStack
) -> list[Target]:
    targets = []
    unhurried = infer_request(model, binary=True)
    if "tidsram" in servers:
        # The node's own budget is wide so that capacity can be asked for; each question's counts.
        node = stack.enter_context(Ours(model, budget="1s"))
        ours = infer_request(model, binary=True, parameters={"budget_us": BUDGET_NS // US})
        targets.append(Target("tidsram", node.address, ours, node.address))
    if "triton" in servers:
        # Its queue policy slows it even unhurried, so its capacity is the plain queue's.
        plain = stack.enter_context(Triton([model])).address
        policy = stack.enter_context(Triton([model], deadlines=True)).address
        capacity = _capacity(plain, unhurried, count=300)
        timeout_us = triton_timeout_us or _best_timeout_us(model, policy, capacity)
        theirs = infer_request(model, binary=True, parameters={"timeout": timeout_us})
        targets.append(Target(f"triton, {timeout_us / 1e3:.0f} ms", policy, theirs, plain))
        targets.append(Target("triton, plain queue", plain, unhurried, plain))
    for target in targets:
        check_answer(target.address, model, unhurried)
    return targets


def _best_timeout_us(model: Model, address: str, capacity: float) -> int:
    """Return the queue timeout with which Triton keeps most answers in time, found by trial."""
    offsets = poisson(1.35 * capacity, TRIAL_S, np.random.default_rng(99))
    in_time = {}
    for timeout_us in TRITON_TIMEOUTS_US:
        question = infer_request(model, binary=True, parameters={"timeout": timeout_us})
        with settled(ASKER_CORE, punctual=True):
            in_time[timeout_us] = open_loop(address, question, offsets).in_time(BUDGET_NS)
        print(f"triton, {timeout_us} µs: {in_time[timeout_us]} of {len(offsets)}", file=sys.stderr)
        time.sleep(0.5)
    return max(in_time, key=lambda timeout_us: in_time[timeout_us])


def _repeat(
    targets: Sequence[Target], model: Model, seconds: float, rng: np.random.Generator
) -> _Repeat:
    service_s = _service_s(model)
    with settled(ASKER_CORE, punctual=True):
        capacities = _capacities(targets, infer_request(model, binary=True), int(3 / service_s))
        runs = {}
        for load in LOADS:
            # The same instants for every server, at shares of the first one's capacity.
            offsets = poisson(load * capacities[targets[0].name], seconds, rng)
            for target in targets if rng.random() < 0.5 else targets[::-1]:
                run = open_loop(target.address, target.question, offsets)
                runs[target.name, load] = run
                share = run.in_time(BUDGET_NS) / len(offsets)
                print(f"{target.name} at {load}: {share:.3f} in time", file=sys.stderr)
                time.sleep(0.5)
    return _Repeat({"in-process": 1 / service_s, **capacities}, runs)


def _capacities(targets: Sequence[Target], unhurried: bytes, count: int) -> dict[str, float]:
    found = {}
    for target in targets:
        _capacity(target.address, unhurried, count=100)  # warm up
        found[target.name] = _capacity(target.capacity_at, unhurried, count)
    return found


def _capacity(address: str, request: bytes, count: int) -> float:
    """Return answers per second when a question is always waiting."""
    saturated = open_loop(address, request, np.zeros(count, np.int64), most_connections=SATURATING)
    return saturated.answers_per_second


def _service_s(model: Model) -> float:
    run, feed = session(model.path).run, {model.input_name: model.question}
    with settled(LANE_CORE):
        for _ in range(20):
            run(None, feed)
        start = time.monotonic()
        for _ in range(200):
            run(None, feed)
        return (time.monotonic() - start) / 200


def _row(name: str, load: float, repeats: Sequence[_Repeat], seconds: float) -> dict[str, Any]:
    runs = [repeat.runs[name, load] for repeat in repeats]
    goodputs, of_limit = [], []
    for repeat, run in zip(repeats, runs, strict=True):
        goodputs.append(run.in_time(BUDGET_NS) / len(run.intended))
        limit = min(1.0, repeat.capacities[name] * seconds / len(run.intended))
        of_limit.append(goodputs[-1] / limit)
    report = Run.pooled(runs).report(BUDGET_NS)
    admitted = int(report["answered"] or 0) + int(report["missed"] or 0)
    return {
        "server": name,
        "load": load,
        "offered_per_s": median(len(run.intended) / seconds for run in runs),
        "goodput": _spread(goodputs),
        "of_limit": _spread(of_limit),
        "missed_of_admitted": (report["missed"] or 0) / max(1, admitted),
        "late_of_answered": (report["late"] or 0) / max(1, int(report["answered"] or 0)),
        **report,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "low": min(values), "high": max(values)}


def _print(result: dict[str, Any]) -> None:
    print({name: round(c["median"], 1) for name, c in result["capacities"].items()}, "per second")
    for row in result["rows"]:
        goodput, share = row["goodput"]["median"], row["of_limit"]
        print(
            f"{row['server']:20} at {row['load']:.2f} ({row['offered_per_s']:.0f}/s): "
            f"goodput {goodput:.3f}, {share['median']:.3f} of the limit "
            f"({show(share['low'], 3)}-{show(share['high'], 3)}), missed {row['missed']}, "
            f"late {row['late']} of {row['answered']}, failed {row['failed']}, "
            f"notice p50 {show(row['notice_p50_us'])} p99 {show(row['notice_p99_us'])} µs, "
            f"own lateness p99 {show(row['own_lateness_p99_us'])} µs, steal {row['steal']:.4f}"
        )


if __name__ == "__main__":
    main()
