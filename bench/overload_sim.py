"""What remains of the answers in time when more is asked than one lane can do, simulated.

`python -m bench.overload_sim`. The real scheduler in virtual time, beside first come first served,
the same with a queue timeout (the whole budget, and one chosen by hand below it), and one who
knows every service time beforehand. Poisson arrivals, one decision of 2.2 ms (cv 5 %), budget
20 ms, 0.5 ms kept for the way back. Everybody meets the same questions; a request counts when its
answer is ready within the budget.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.machine import facts
from tidsram.clock import today
from tidsram.schedule.scheduler import Policy
from tidsram.simulate.arrivals import poisson
from tidsram.simulate.run import Node, Questions, run
from tidsram.units import MS, SECOND, US

SERVICE_NS, CV = 2200 * US, 0.05
BUDGET_NS, RETURN_NS = 20 * MS, 500 * US
TUNED_NS = 15 * MS  # a queue timeout that leaves room for the run, as in bench.overload
OBJECTIVE = 0.99
LOADS = (0.5, 0.9, 1.0, 1.35, 2.0)
OUT = Path(__file__).parent / "out"  # bench.models would load the engine, which nothing here needs

Ints = npt.NDArray[np.int64]


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate, print a line per load, and write bench/out/overload_sim.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.overload_sim", description=__doc__)
    parser.add_argument("--seconds", type=int, default=120, help="simulated, of each load")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(options.seed)
    rows = [_row(load, options.seconds, rng) for load in LOADS]
    result = {
        "command": " ".join(["python -m bench.overload_sim", *(arguments or sys.argv[1:])]),
        "date": today(),
        "machine": facts(),
        "service_us": SERVICE_NS // US,
        "cv": CV,
        "budget_us": BUDGET_NS // US,
        "objective": OBJECTIVE,
        "seconds": options.seconds,
        "rows": rows,
    }
    OUT.mkdir(exist_ok=True)
    (OUT / "overload_sim.json").write_text(json.dumps(result, indent=1))
    for row in rows:
        _print(row)


def _print(row: dict[str, Any]) -> None:
    notice = row["notice_p50_us"]
    print(
        f"load {row['load']:.2f}: of limit {row['of_limit']:.4f}, missed of admitted "
        f"{row['missed_of_admitted']:.5f}, wasted {row['wasted']:.4f}, false rejections "
        f"{row['false_rejections']:.4f}, notice p50 "
        f"{'-' if notice is None else f'{notice / 1000:.1f} ms'}, "
        f"{row['requests_per_second']:,.0f} requests/s"
    )
    for name, other in row["beside"].items():
        print(f"    {name}: of limit {other['of_limit']:.4f}, wasted {other['wasted']:.4f}")


def _row(load: float, seconds: int, rng: np.random.Generator) -> dict[str, Any]:
    arrivals_ns = poisson(rng, load * SECOND / SERVICE_NS, seconds * SECOND)
    count = len(arrivals_ns)
    service_ns = np.asarray(rng.normal(SERVICE_NS, CV * SERVICE_NS, count), np.int64)
    # What anybody could answer: all, or as many as fit into the time.
    limit = min(1.0, seconds * SECOND / SERVICE_NS / count)
    questions = Questions(decision="d", arrivals_ns=arrivals_ns, budget_ns=BUDGET_NS)
    node = Node(policies=[Policy("d", objective=OBJECTIVE)], return_ns=RETURN_NS)
    began = time.process_time()
    result = run(node, [questions], {"d": service_ns})
    took = time.process_time() - began
    asked = result.asked
    pairs = list(zip(arrivals_ns.tolist(), service_ns.tolist(), strict=True))
    clairvoyant = _clairvoyant(pairs)
    beside = {
        "first come first served": _first_come(pairs, None),
        "queue timeout = budget": _first_come(pairs, BUDGET_NS),
        f"queue timeout = {TUNED_NS // MS} ms": _first_come(pairs, TUNED_NS),
        "clairvoyant": (clairvoyant, 0.0),
    }
    lateness_ns, notice_ns = np.sort(asked.lateness_ns), np.sort(asked.notice_ns)
    return {
        "load": load,
        "offered": count,
        "limit": limit,
        "goodput": asked.in_time / count,
        "of_limit": asked.in_time / count / limit,
        "missed_of_admitted": (asked.missed + asked.evicted) / max(1, asked.admitted),
        "wasted": result.wasted_ns / max(1, result.busy_ns),
        "busy": result.busy_ns / result.span_ns,
        "false_rejections": (clairvoyant - asked.in_time) / count,
        # How far the real finish lies from the predicted one; above 0 is a promise at risk.
        "finish_minus_predicted_p50_us": int(lateness_ns[len(lateness_ns) // 2]) / US,
        "finish_minus_predicted_max_us": int(lateness_ns[-1]) / US,
        # The time that a refused asker has left when it is told.
        "notice_p50_us": int(notice_ns[len(notice_ns) // 2]) / US if len(notice_ns) else None,
        "requests_per_second": count / took,
        "beside": {
            name: {"of_limit": in_time / count / limit, "wasted": wasted}
            for name, (in_time, wasted) in beside.items()
        },
    }


def _first_come(pairs: Sequence[tuple[int, int]], timeout_ns: int | None) -> tuple[int, float]:
    """Serve in order of arrival; with a timeout, what waited longer is refused at its turn."""
    free_ns = in_time = busy_ns = wasted_ns = 0
    for now_ns, service_ns in pairs:
        start_ns = max(free_ns, now_ns)
        if timeout_ns is not None and start_ns - now_ns > timeout_ns:
            continue
        free_ns = start_ns + service_ns
        busy_ns += service_ns
        if free_ns <= now_ns + BUDGET_NS:
            in_time += 1
        else:
            wasted_ns += service_ns
    return in_time, wasted_ns / max(1, busy_ns)


def _clairvoyant(pairs: Sequence[tuple[int, int]]) -> int:
    """Refuse at arrival what would be late, knowing every service time beforehand."""
    free_ns = accepted = 0
    for now_ns, service_ns in pairs:
        finish_ns = max(free_ns, now_ns) + service_ns
        if finish_ns <= now_ns + BUDGET_NS - RETURN_NS:
            free_ns = finish_ns
            accepted += 1
    return accepted


if __name__ == "__main__":
    main()
