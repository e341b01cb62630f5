"""What is left of a plan's machines, and which ones have to be ordered when."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from tidsram.estate.plan import Purchase
from tidsram.estate.types import Criticality
from tidsram.plan.demand import order_by
from tidsram.plan.instance import Instance, Pool, strain
from tidsram.plan.pack import Home, Scenario, node_loads
from tidsram.plan.problem import Case, Flow, Served, Tally
from tidsram.plan.prove import Prover
from tidsram.plan.search import Found

GROWS = (1.1, 1.25, 1.5, 2.0, 3.0)  # times the questions, tried one after the other
WORST = 2  # losses among the states tried


class _Broken(NamedTuple):
    missing: float  # of the promised share
    served: Served
    home: Home
    tally: Tally


def headroom(found: Found, prover: Prover) -> tuple[float, str]:
    """Return how many times its questions a plan takes with nothing moved, and what gives way.

    Tried by simulation, when all is well and in the losses that strain a node the most.
    """
    if not found.holds:
        return 0.0, ""
    reached = 1.0
    for times in GROWS:
        for scenario in (found.scenarios[0], *_hardest(found.scenarios[1:])):
            broken = _first_broken(found.instance, scenario, times, prover)
            if broken is not None:
                return reached, f"at {times:g} × the questions, {_told(broken, scenario.case)}"
        reached = times
    return reached, f"nothing yet at {reached:g} × the questions"


def bought(quarter: str, found: Found, had: Mapping[Pool, int], today: str) -> list[Purchase]:
    """Return the machines that a quarter needs beyond those there are."""
    if not found.holds:
        return []
    lead = {pool: facts.lead_weeks for pool, facts in found.instance.pools.items()}
    return [
        Purchase(
            quarter=quarter,
            site=pool[0],
            hardware=pool[1],
            nodes=count - had.get(pool, 0),
            order_by=max(today, order_by(quarter, lead[pool])),
        )
        for pool, count in sorted(found.solution.nodes.items())
        if count > had.get(pool, 0)
    ]


def _hardest(scenarios: Sequence[Scenario]) -> list[Scenario]:
    def hard(scenario: Scenario) -> float:
        homes = {home for home in scenario.homes if home is not None}
        return max((strain(scenario.held(home)) for home in homes), default=0.0)

    return sorted(scenarios, key=hard, reverse=True)[:WORST]


def _first_broken(
    instance: Instance, scenario: Scenario, times: float, prover: Prover
) -> _Broken | None:
    """Return the promise that is missed by most when every flow asks `times` as often."""
    loads = {
        home: replace(load, served=tuple(_more(one, times) for one in load.served))
        for home, load in node_loads(instance, scenario).items()
    }
    played = prover.tallies(list(loads.values()), give_up=True)
    found = [
        _Broken(one.decision.objective - tally.in_time / tally.asked, one, home, tally)
        for (home, load), tallies in zip(loads.items(), played, strict=True)
        for one in load.served
        if one.decision.criticality is not Criticality.BEST_EFFORT
        and (tally := tallies[one.flow.key]).asked
    ]
    worst = max(found, key=lambda broken: broken.missing, default=None)
    return worst if worst is not None and worst.missing > 0 else None


def _more(served: Served, times: float) -> Served:
    flow: Flow = served.flow
    askers = max(1, round(flow.askers * times))
    return replace(served, flow=replace(flow, rate=flow.rate * times, askers=askers))


def _told(broken: _Broken, case: Case) -> str:
    decision, (site, hardware) = broken.served.decision, broken.home.pool
    when = "when all is well" if case.kind == "healthy" else f"with {case.name}"
    return (
        f"{decision.name} of {broken.served.flow.source} on {hardware} at {site}, {when}: "
        f"{broken.tally.in_time / broken.tally.asked * 100:.1f} % in time of the "
        f"promised {decision.objective * 100:g} %"
    )
