"""How long planning takes: 100 decisions on 12 sites in three variants, and 1,000 decisions.

`python -m bench plan-speed`. Solving and verifying apart, in 25 cases: healthy, a node lost at each
site, each site down. With --every-loss there are two hardware types at each site and links are cut
as well: 58 cases. The bound is the solver's own: no plan within the same cuts costs less.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench.machine import facts
from bench.models import OUT
from bench.plan import estates
from tidsram.clock import today
from tidsram.lab.facts import Measured
from tidsram.plan.latency import cases
from tidsram.plan.solve import make_plan

TODAY = "2026-11-24"
RESULT = OUT / "plan_speed.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Plan each size, print, and write bench/out/plan_speed.json."""
    parser = argparse.ArgumentParser(prog="python -m bench plan-speed", description=__doc__)
    parser.add_argument("--decisions", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--requests", type=int, default=2_000, help="of each flow")
    parser.add_argument("--solve-seconds", type=float, default=30)
    parser.add_argument("--every-loss", action="store_true")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    result: dict[str, Any] = {
        "command": " ".join(
            ["python -m bench plan-speed", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "date": today(),
        "machine": facts(),
        "requests": options.requests,
        "rows": [],
    }
    OUT.mkdir(exist_ok=True)
    for decisions in options.decisions:
        result["rows"].append(_row(decisions, options))
        print(json.dumps(result["rows"][-1]), file=sys.stderr, flush=True)
        RESULT.write_text(json.dumps(result, indent=1))


def _row(decisions: int, options: argparse.Namespace) -> dict[str, Any]:
    estate = estates.large(decisions, every_loss=options.every_loss)
    begun = time.monotonic()
    plan = make_plan(
        estate,
        Measured(),
        today=TODAY,
        requests=options.requests,
        processes=options.processes,
        solve_seconds=options.solve_seconds,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    return {
        "decisions": decisions,
        "sites": len(estate.sites),
        "variants": max(len(decision.ladder) for decision in estate.decisions.values()),
        "flows": len(plan.flows),
        "cases": len(cases(estate)),
        "nodes": len(plan.nodes),
        "cost": plan.yearly_cost,
        "bound": plan.cost_bound,
        "gap": (plan.yearly_cost - plan.cost_bound) / max(1.0, plan.yearly_cost),
        "machine": min(hardware.yearly_cost for hardware in estate.hardware.values()),
        "solve_s": plan.solve_seconds,
        "verify_s": plan.verify_seconds,
        "rounds": plan.rounds,
        "verified": plan.verified,
        "all_s": time.monotonic() - begun,
    }


if __name__ == "__main__":
    main()
