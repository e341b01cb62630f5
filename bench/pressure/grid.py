"""Every policy on every kind of arrivals at every load, simulated.

`python -m bench.pressure.grid`. One lane; runs of 2.2 ms (cv 5 %). `mixed`: half of the work is
critical with a budget of 5 runs, half standard with 30, and each decision has a second variant that
takes half the time and is right in 0.9 of the cases in which the first is. `single`: one decision
with one variant and 20 ms. Nothing is kept for the way back. Ours is the scheduler that serves;
the others are re-implemented here by their rules. Everybody meets the same questions.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import facts
from bench.pressure import ours
from bench.pressure.metrics import Cell, measure
from bench.pressure.policies import RULES, oracle
from bench.pressure.server import Outcome, Request, Rule, requests_of, serve
from bench.pressure.workloads import (
    ARRIVALS,
    CV,
    HUNG_NS,
    JUDGED,
    MIXED,
    SERVICE_NS,
    STRESS,
    WORKLOADS,
    Asked,
    Kind,
    Stress,
    draw,
)
from tidsram.clock import today
from tidsram.schedule.scheduler import Scheduler
from tidsram.simulate.script import Hung
from tidsram.units import US

LOADS = (0.3, 0.5, 0.7, 0.9, 1.0, 1.2, 1.35, 1.6, 2.0)
FEW_LOADS = (0.7, 1.2, 2.0)
FEW_ARRIVALS = ("poisson", "gamma 4")
BESIDE = {1.2: 0.5, 2.0: 0.25}  # load: critical's share of the work
WAITING = (
    0,
    1,
    9,
    25,
    81,
)  # no more than 80 fit into the budget  # bounds of the classes of queue lengths
OURS, ORACLE = "ours", "oracle"
OUT = Path(__file__).parent.parent / "out"


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate, print a table for each kind of arrivals, and write bench/out/pressure_grid.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.pressure.grid", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=45, help="of work in each cell, whatever its load"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="4 seconds, three loads")
    options = parser.parse_args(arguments)
    seconds = 4 if options.quick else options.seconds
    loads = FEW_LOADS if options.quick else LOADS
    began = time.process_time()
    cells = list(_grid(loads, seconds, options.seed))
    result = {
        "command": " ".join(["python -m bench.pressure.grid", *(arguments or sys.argv[1:])]),
        "date": today(),
        "machine": facts(),
        "service_us": SERVICE_NS // US,
        "cv": CV,
        "seconds": seconds,
        "cells": cells,
        "beside": list(_beside(seconds, options.seed)),
        "ablations": list(_ablations(seconds, options.seed)),
        "stress": [_stress(name, s, seconds, options.seed) for name, s in STRESS.items()],
        "judging": _judging(seconds, options.seed),
    }
    result["cpu_s"] = time.process_time() - began
    OUT.mkdir(exist_ok=True)
    (OUT / "pressure_grid.json").write_text(json.dumps(result, indent=1))
    _print(result)


def policies(asked: Sequence[Asked]) -> Iterator[tuple[str, Callable[[], Outcome]]]:
    """Return each policy's name and what serves these questions by it; the oracle first."""
    requests = requests_of(asked)
    yield ORACLE, partial(oracle, requests)
    for name, rule in RULES.items():
        yield name, partial(_by, rule, requests)
    yield OURS, partial(ours.serve, asked)


def _by(rule: Callable[[], Rule], requests: Sequence[Request]) -> Outcome:
    return serve(requests, rule())


def _grid(loads: Sequence[float], seconds: float, seed: int) -> Iterator[Cell]:
    for workload, kinds in WORKLOADS.items():
        for arrivals in ARRIVALS:
            print(f"{workload}, {arrivals} …", file=sys.stderr)
            for load in loads:
                about = {"workload": workload, "arrivals": arrivals, "load": load}
                for name, cell in _cells(draw(kinds, arrivals, load, seconds, seed)):
                    yield {**about, "policy": name, **cell}


def _cells(asked: Sequence[Asked]) -> Iterator[tuple[str, Cell]]:
    best: Outcome | None = None
    for name, play in policies(asked):
        outcome, cpu_s = _timed(play)
        best = best or outcome
        yield name, measure(asked, outcome, cpu_s, best)


def _timed(play: Callable[[], Outcome]) -> tuple[Outcome, float]:
    began = time.process_time()
    return play(), time.process_time() - began


def _beside(seconds: float, seed: int) -> Iterator[dict[str, Any]]:
    """Critical questions alone and the same ones beside standard ones."""
    for arrivals in FEW_ARRIVALS:
        for load, share in BESIDE.items():
            asked = draw(_shared(share), arrivals, load, seconds, seed)
            alone = dict(_cells(asked[:1]))
            for name, cell in _cells(asked):
                goodputs = [c["kinds"]["critical"]["goodput"] for c in (alone[name], cell)]
                yield {
                    "arrivals": arrivals,
                    "load": load,
                    "critical_load": load * share,
                    "policy": name,
                    "alone": goodputs[0],
                    "beside": goodputs[1],
                    "all": cell["goodput"],
                }


def _shared(share: float) -> list[Kind]:
    """Mixed kinds of which the critical ones are this share of the work."""
    critical, standard = MIXED
    return [_with_share(critical, share), _with_share(standard, 1 - share)]


def _with_share(kind: Kind, share: float) -> Kind:
    return Kind(kind.decision, kind.criticality, kind.budget_ns, share, kind.rungs)


def _ablations(seconds: float, seed: int) -> Iterator[Cell]:
    """Our scheduler on mixed questions, whole and with one mechanism taken out at a time."""
    schedulers: dict[str, type[Scheduler]] = {"": Scheduler, **ours.ABLATIONS}
    for arrivals in FEW_ARRIVALS:
        for load in FEW_LOADS:
            asked = draw(MIXED, arrivals, load, seconds, seed)
            best = oracle(requests_of(asked))
            for without, scheduler in schedulers.items():
                outcome, cpu_s = _timed(partial(ours.serve, asked, scheduler))
                about = {"arrivals": arrivals, "load": load, "without": without}
                yield {**about, **measure(asked, outcome, cpu_s, best)}


def _stress(without: str, stress: Stress, seconds: float, seed: int) -> dict[str, Any]:
    """What a mechanism does for those whom it is for: with it, and without."""
    asked = draw(stress.kinds, "poisson", stress.load, seconds, seed)
    last_ns = max(int(a.arrivals_ns[-1]) for a in asked)
    hung = range(HUNG_NS, last_ns, HUNG_NS) if stress.hangs else ()
    script = [Hung(at_ns=at_ns, decision=stress.hangs) for at_ns in hung]
    best = oracle(requests_of(asked))
    ways: dict[str, type[Scheduler]] = {"with": Scheduler, "without": ours.ABLATIONS[without]}
    cells = {}
    for name, scheduler in ways.items():
        outcome, cpu_s = _timed(partial(ours.serve, asked, scheduler, script))
        cells[name] = measure(asked, outcome, cpu_s, best)
    about = {"mechanism": without, "load": stress.load}
    return {**about, "watched": stress.watched, "figure": stress.figure, **cells}


def _judging(seconds: float, seed: int) -> list[dict[str, Any]]:
    """What it takes to judge an arriving question, by how many wait."""
    judged = np.array(ours.judging_times(draw(JUDGED, "poisson", 1, seconds, seed)))
    rows = []
    for least, beyond in pairwise(WAITING):
        spans_ns = judged[(judged[:, 0] >= least) & (judged[:, 0] < beyond), 1]
        if len(spans_ns):
            p50, p99 = np.quantile(spans_ns, [0.5, 0.99]) / US
            waiting = f"{least}–{beyond - 1}" if beyond > least + 1 else f"{least}"
            count = len(spans_ns)
            rows.append({"waiting": waiting, "count": count, "p50_us": p50, "p99_us": p99})
    return rows


def _print(result: dict[str, Any]) -> None:
    """Show the goodput of each kind, load by load."""
    loads = sorted({cell["load"] for cell in result["cells"]})
    heads = dict.fromkeys(
        (cell["workload"], cell["arrivals"], kind)
        for cell in result["cells"]
        for kind in cell["kinds"]
    )
    for workload, arrivals, kind in heads:
        print(f"\n{workload}, {arrivals}: {kind} in time ÷ offered at load")
        print(" " * 22 + "".join(f"{load:8.2f}" for load in loads))
        rows: dict[str, list[float]] = {}
        for cell in result["cells"]:
            if (cell["workload"], cell["arrivals"]) == (workload, arrivals):
                rows.setdefault(cell["policy"], []).append(cell["kinds"][kind]["goodput"])
        for name, row in rows.items():
            print(f"{name:22}" + "".join(f"{goodput:8.4f}" for goodput in row))
    print("\ncritical alone and beside standard")
    for row in result["beside"]:
        if row["policy"] in (OURS, ORACLE):
            print(
                f"{row['arrivals']}, load {row['load']}, critical {row['critical_load']}, "
                f"{row['policy']}: {row['alone']:.4f} alone, {row['beside']:.4f} beside"
            )
    print("\nwith a mechanism and without it")
    for row in result["stress"]:
        shown = [row[way]["kinds"][row["watched"]][row["figure"]] for way in ("with", "without")]
        print(f"{row['mechanism']}: {row['figure']} of {row['watched']} {shown[0]} / {shown[1]}")
    print("\njudging a question while others wait")
    for row in result["judging"]:
        judged = f"p50 {row['p50_us']:.1f} µs, p99 {row['p99_us']:.1f} µs"
        print(f"{row['waiting']} waiting: {judged}")
    print(f"\n{result['cpu_s']:.0f} s of CPU time")


if __name__ == "__main__":
    main()
