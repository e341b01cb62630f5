"""The same judgement for everyone's plan: an independent simulation, healthy and in the worst."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from bench.plan.ground import Ground, Layout, Node, Scenario
from bench.plan.judges import fullest, worst_failures
from tidsram.plan.problem import Tally
from tidsram.plan.prove import Prover
from tidsram.stats import verdict

WORST = 3  # losses that are judged beside the healthy state


def judge(ground: Ground, layout: Layout, prover: Prover) -> dict[str, Any]:
    """Return what a layout comes to; it verifies when no promise is contradicted at 99 %.

    Whoever is not answered, and a node whose workers do not fit into its memory, break it as well.
    """
    scenarios = [layout.scenarios[0], *worst_failures(ground, layout, WORST)]
    told = [
        _scenario(ground, scenario, tallies)
        for scenario, tallies in _play(ground, scenarios, prover)
    ]
    unserved = sorted({key for _, key in layout.unseated})
    overcommitted = sorted(f"{n.site} {n.hardware}" for n in _overcommitted(ground, layout))
    contradicted = sum(scenario["contradicted"] for scenario in told)
    return {
        "cost": ground.cost(layout.nodes),
        "nodes": len(layout.nodes),
        "scenarios": told,
        "contradicted": contradicted,
        "unserved": unserved,
        "overcommitted": overcommitted,
        "verifies": not (contradicted or unserved or overcommitted),
    }


def _play(
    ground: Ground, scenarios: Sequence[Scenario], prover: Prover
) -> list[tuple[Scenario, dict[str, Tally]]]:
    loads = [list(ground.loads(scenario.seats).values()) for scenario in scenarios]
    tallies = iter(prover.tallies([load for of_one in loads for load in of_one]))
    played = []
    for scenario, of_one in zip(scenarios, loads, strict=True):
        told: dict[str, Tally] = {}
        for _ in of_one:
            told |= next(tallies)
        played.append((scenario, told))
    return played


def _scenario(ground: Ground, scenario: Scenario, tallies: Mapping[str, Tally]) -> dict[str, Any]:
    """Return the worst flow's share beyond its objective, and how the verdicts fall."""
    verdicts: dict[str, int] = defaultdict(int)
    margins = {}
    for flow, (objective, tally) in _whole_flows(ground, scenario, tallies).items():
        verdicts[verdict(tally.in_time, tally.asked, objective)] += 1
        margins[flow] = tally.in_time / tally.asked - objective
    worst = min(margins, key=lambda flow: margins[flow], default="")
    return {
        "name": scenario.name,
        "fullest": fullest(ground, scenario.seats),
        "worst_flow": worst,
        "worst_margin": margins.get(worst, 0.0),
        "asked_least": min((tally.asked for tally in tallies.values()), default=0),
        "met": verdicts["met"],
        "undecided": verdicts["not enough evidence"],
        "contradicted": verdicts["contradicted"],
    }


def _whole_flows(
    ground: Ground, scenario: Scenario, tallies: Mapping[str, Tally]
) -> dict[str, tuple[float, Tally]]:
    """Return each judged flow's objective and tally, its parts taken together."""
    whole: dict[str, tuple[float, Tally]] = {}
    for key, tally in tallies.items():
        if not ground.judged(key, scenario.case):
            continue
        flow = ground.flows[key]
        name = f"{flow.decision}@{flow.source}"
        before = whole[name][1] if name in whole else None
        summed = _plus(before, tally) if before else tally
        whole[name] = ground.decision(key).objective, summed
    return whole


def _plus(one: Tally, other: Tally) -> Tally:
    return Tally(
        asked=one.asked + other.asked,
        in_time=one.in_time + other.in_time,
        p50_ns=None,
        p99_ns=None,
        p99_9_ns=None,
    )


def _overcommitted(ground: Ground, layout: Layout) -> list[Node]:
    """Return the nodes without room for a worker on each lane of all that they ever answer."""
    warm: dict[Node, dict[str, int]] = defaultdict(dict)
    for scenario in layout.scenarios:
        for key, (node, option) in scenario.seats.items():
            worker = f"{ground.flows[key].decision} {option.variant}"
            warm[node][worker] = option.memory_bytes * ground.lanes(node.hardware)
    hardware = ground.estate.hardware
    return [
        node
        for node, workers in warm.items()
        if 0 < hardware[node.hardware].memory_bytes < sum(workers.values())
    ]
