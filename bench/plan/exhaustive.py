"""How near to the best: on tiny estates every plan is tried, from few nodes to many.

`python -m bench plan-exhaustive`. The optimum is the smallest number of nodes for which some
placing of the flows, and for each loss some placing of what it hits, is confirmed by the simulation
that judges our plans. What a loss does not hit stays where it is, as in ours.
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
from bench.plan.ground import Ground
from bench.plan.optimum import Simulated, fewest_nodes
from tidsram.clock import today
from tidsram.lab.facts import Measured
from tidsram.plan.prove import Prover
from tidsram.plan.solve import make_plan

TODAY = "2026-11-24"
SEED = 11
LIMIT = 1.15  # our nodes over the optimum's
RESULT = OUT / "plan_exhaustive.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Try everything on each tiny estate, print, and write bench/out/plan_exhaustive.json."""
    parser = argparse.ArgumentParser(prog="python -m bench plan-exhaustive", description=__doc__)
    parser.add_argument("--estates", type=int, default=len(estates.TINY))
    parser.add_argument("--requests", type=int, default=4_000, help="of each flow")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    rows = []
    for number in range(min(options.estates, len(estates.TINY))):
        rows.append(_row(number, options))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    result = {
        "command": " ".join(
            ["python -m bench plan-exhaustive", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "date": today(),
        "machine": facts(),
        "requests": options.requests,
        "limit": LIMIT,
        "rows": rows,
    }
    OUT.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1))


def _row(number: int, options: argparse.Namespace) -> dict[str, Any]:
    estate = estates.tiny(number)
    ground = Ground(estate)
    begun = time.monotonic()
    with Prover(options.requests, SEED, 1) as prover:
        best = fewest_nodes(ground, Simulated(ground, prover))
    searched_s = time.monotonic() - begun
    plan = make_plan(
        estate,
        Measured(),
        today=TODAY,
        requests=options.requests,
        seed=SEED,
        processes=options.processes,
    )
    optimum = len(best) if best else 0
    return {
        "estate": estate.name,
        "flows": len(ground.flows),
        "sites": len(estate.sites),
        "optimum": optimum,
        "optimum_cost": ground.cost(best or ()),
        "ours": len(plan.nodes),
        "ours_cost": plan.yearly_cost,
        "verified": plan.verified,
        "ratio": len(plan.nodes) / optimum if optimum else None,
        "searched_s": searched_s,
    }


if __name__ == "__main__":
    main()
