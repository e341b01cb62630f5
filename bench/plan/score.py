"""Our planner and the others on eight generated Swedish estates: what plans cost, and who holds.

`python -m bench plan`. Every planner dimensions for every single lost node, site and link that a
decision is to survive. Its plan is then simulated with a seed that no planner has seen: healthy and
in the three losses that leave the highest load on some node. The score is the cost among plans
of which no promise is contradicted at 99 %.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.machine import facts
from bench.models import OUT
from bench.plan import clouds, comparators, estates, published
from bench.plan.comparators import Cannot, Result
from bench.plan.ground import Ground, Layout
from bench.plan.judges import Judge, SimulationJudge
from bench.plan.judging import judge
from tidsram.clock import today
from tidsram.estate.types import Estate
from tidsram.lab.facts import Measured
from tidsram.plan.prove import Prover
from tidsram.plan.solve import make_plan

OURS = "tidsram"
TODAY = "2026-11-24"
SEARCH_SEED, JUDGE_SEED = 11, 4242
ROUGHLY = 5  # times fewer requests for who does not answer everyone, or breaks the law
RESULT = OUT / "plan_score.json"

Row = dict[str, Any]


@dataclass(frozen=True)
class Planned:
    """What one of the others came to; in a cloud also what could not be moved there, or may not."""

    ground: Ground
    result: Result
    moved: clouds.Moved | None = None

    @property
    def told(self) -> Row:
        """Return what a cloud leaves undone."""
        if self.moved is None:
            return {}
        return {"unserved": list(self.moved.unserved), "unlawful": len(self.moved.unlawful)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Plan, judge, print, and write bench/out/plan_score.json after each estate."""
    parser = argparse.ArgumentParser(prog="python -m bench plan", description=__doc__)
    parser.add_argument("--estates", type=int, default=len(estates.SIZES))
    parser.add_argument("--first", type=int, default=1, help="go on from this estate's number")
    parser.add_argument("--requests", type=int, default=20_000, help="of each flow, judged")
    parser.add_argument("--search-requests", type=int, default=2_000, help="of each flow, searched")
    parser.add_argument("--own-requests", type=int, default=4_000, help="of each flow, by our plan")
    parser.add_argument("--greedy-seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    result: dict[str, Any] = {
        "command": " ".join(
            ["python -m bench plan", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "date": today(),
        "machine": facts(),
        "requests": options.requests,
        "search_requests": options.search_requests,
        "own_requests": options.own_requests,
        "greedy_seconds": options.greedy_seconds,
        **_before(options.first),
    }
    begun = time.monotonic() - result["seconds"]
    last = min(options.first - 1 + options.estates, len(estates.SIZES))
    for number in range(options.first - 1, last):
        estate = estates.swedish(number)
        rows = list(_rows(estate, options))
        result["estates"].append(_about(estate, rows))
        result["seconds"] = time.monotonic() - begun
        OUT.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1))
    print(f"{result['seconds']:.0f} s; wrote {RESULT.name}", file=sys.stderr)


def _before(first: int) -> dict[str, Any]:
    """Return what an earlier call found out about the estates before the first of this one."""
    if first == 1 or not RESULT.exists():
        return {"estates": [], "seconds": 0.0}
    earlier = json.loads(RESULT.read_text())
    return {"estates": earlier["estates"][: first - 1], "seconds": earlier["seconds"]}


def _about(estate: Estate, rows: Sequence[Row]) -> dict[str, Any]:
    ground = Ground(estate)
    ours = next(row for row in rows if row["planner"] == OURS)
    others = [row["cost"] for row in rows if row["planner"] != OURS and row["verifies"]]
    ratio = ours["cost"] / min(others) if others and ours["verifies"] else None
    return {
        "name": estate.name,
        "decisions": len(estate.decisions),
        "flows": len(ground.flows),
        "sites": len(estate.sites),
        "cases": len(ground.cases),
        "rows": rows,
        "ratio": ratio,
    }


def _rows(estate: Estate, options: argparse.Namespace) -> Iterator[Row]:
    with (
        Prover(options.requests, JUDGE_SEED, options.processes) as prover,
        Prover(options.requests // ROUGHLY, JUDGE_SEED, options.processes) as rough,
    ):
        yield (ours := _told(estate, _ours(estate, options, prover)))
        for name, plan in _others(estate, options).items():
            yield _told(estate, _theirs(name, plan, prover, rough, ours["cost"]))


def _told(estate: Estate, row: Row) -> Row:
    cost = f"{row['cost']:8.0f} {row['nodes']:3} nodes" if row["nodes"] else row["why"]
    holds = "holds" if row["verifies"] else f"does not hold ({row['contradicted']} contradicted)"
    print(
        f"{estate.name} {row['planner']:24} {cost}, {holds}; found in {row['search_s']:.0f} s, "
        f"judged in {row['judged_s']:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return row


def _ours(estate: Estate, options: argparse.Namespace, prover: Prover) -> Row:
    begun = time.monotonic()
    plan = make_plan(
        estate,
        Measured(),
        today=TODAY,
        requests=options.own_requests,
        seed=SEARCH_SEED,
        processes=options.processes,
    )
    search_s = time.monotonic() - begun
    ground, layout = published.read(estate, plan)
    row = _judged(OURS, ground, layout, search_s, prover)
    return row | {
        "solve_s": plan.solve_seconds,
        "verify_s": plan.verify_seconds,
        "rounds": plan.rounds,
        "bound": plan.cost_bound,
        "claims": plan.verified,
        "problems": list(plan.problems),
    }


def _others(estate: Estate, options: argparse.Namespace) -> dict[str, Callable[[], Planned]]:
    """Return how each of the others plans this estate."""
    ground = Ground(estate)

    def simulated(plan: Callable[[Ground, Judge], Result], ground: Ground = ground) -> Result:
        with Prover(options.search_requests, SEARCH_SEED, options.processes) as prover:
            return plan(ground, SimulationJudge(prover))

    def greedy(ground: Ground, judge: Judge) -> Result:
        return comparators.greedy(ground, judge, options.greedy_seconds)

    def all_in(region: str) -> Planned:
        moved = clouds.move(estate, region)
        if moved.ground is None:
            return Planned(ground, Cannot("nothing can be answered in time there"), moved)
        return Planned(moved.ground, simulated(comparators.nearest_site, moved.ground), moved)

    return {
        "mean utilisation 80 %": lambda: Planned(ground, comparators.mean_utilisation(ground)),
        "mean utilisation, tuned": lambda: Planned(
            ground, simulated(comparators.tuned_utilisation)
        ),
        "greedy by simulation": lambda: Planned(ground, simulated(greedy)),
        "nearest site": lambda: Planned(ground, simulated(comparators.nearest_site)),
        **{f"all in {region}": partial(all_in, region) for region in clouds.REGIONS},
    }


def _theirs(
    name: str, plan: Callable[[], Planned], prover: Prover, rough: Prover, our_cost: float
) -> Row:
    """Return what became of a plan.

    Where it is out of the question, or dearer than ours whether it holds or not, it is simulated
    with fewer requests.
    """
    begun = time.monotonic()
    planned = plan()
    search_s = time.monotonic() - begun
    if isinstance(planned.result, Cannot):
        return _nothing(name, planned.result.why, search_s) | planned.told
    broken = planned.moved is not None and (planned.moved.unserved or planned.moved.unlawful)
    dearer = planned.ground.cost(planned.result.nodes) > our_cost
    by = rough if broken or dearer else prover
    row = _judged(name, planned.ground, planned.result, search_s, by) | planned.told
    return row | {"verifies": row["verifies"] and not (row["unserved"] or row["unlawful"])}


def _judged(name: str, ground: Ground, layout: Layout, search_s: float, prover: Prover) -> Row:
    begun = time.monotonic()
    judged = judge(ground, layout, prover)
    about = {"planner": name, "why": "", "unlawful": 0, "search_s": search_s}
    return about | judged | {"judged_s": time.monotonic() - begun}


def _nothing(name: str, why: str, search_s: float) -> Row:
    return {
        "planner": name,
        "why": why,
        "cost": 0.0,
        "nodes": 0,
        "scenarios": [],
        "contradicted": 0,
        "unserved": [],
        "overcommitted": [],
        "unlawful": 0,
        "verifies": False,
        "search_s": search_s,
        "judged_s": 0.0,
    }


if __name__ == "__main__":
    main()
