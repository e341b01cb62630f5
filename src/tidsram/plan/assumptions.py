"""What a plan takes as given: every measured fact, declaration and prior once, with its source."""

from collections.abc import Iterable, Iterator, Sequence

from tidsram.estate.distance import NS_PER_KM
from tidsram.estate.plan import Assumption
from tidsram.estate.types import Decision, Delay, Estate
from tidsram.plan.demand import sources_of
from tidsram.plan.geography import CLOUD_SOURCE, CLOUDS
from tidsram.plan.latency import ACCESS_PRIOR, GATE_PRIOR, World, pools
from tidsram.plan.problem import Spread, Term
from tidsram.units import show_ns, show_rate, show_size


def assumptions(world: World) -> list[Assumption]:
    """Return all that the plan of this world rests on, in the order in which a reader asks."""
    estate = world.estate
    return [
        *(_questions(estate, decision) for decision in estate.decisions.values()),
        *_growth(estate),
        *_edges(estate),
        *_links(world),
        *_gates(world),
        *_runs(world),
        *_accuracy(estate),
        *_machines(estate),
        *_physics(),
    ]


def measured_share(budgets: Iterable[Sequence[Term]]) -> float:
    """Return how much of the budgets' time rests on measurement.

    The wait does not count on either side: it is what the others leave, and nobody measures it.
    """
    terms = [term for budget in budgets for term in budget if term.stage != "wait"]
    measured_ns = sum(term.ns for term in terms if term.basis == "measured")
    return measured_ns / max(1, sum(term.ns for term in terms))


def _questions(estate: Estate, decision: Decision) -> Assumption:
    arrivals = decision.arrivals
    askers = ", ".join(f"{n} at {site}" for site, n in sources_of(estate, decision).items())
    value = f"askers: {askers}"
    if arrivals is not None:
        together = ", all of a site at once" if arrivals.synchronised else ""
        value += f"; {arrivals.kind}, {show_rate(arrivals.rate)} each{together}"
    source = f"[decision.{decision.name}]"
    source += "" if decision.sources else "; its source is the estate's only site"
    return _declared(f"questions of {decision.name}", value, source)


def _growth(estate: Estate) -> Iterator[Assumption]:
    for decision in estate.decisions.values():
        if decision.growth:
            steps = ", ".join(f"{by:g} × from {q}" for q, by in sorted(decision.growth.items()))
            value = f"{steps}; by more askers, each asking as often as today"
            yield _declared(f"growth of {decision.name}", value, f"[decision.{decision.name}]")
    none = [decision.name for decision in estate.decisions.values() if not decision.growth]
    yield from _undeclared("growth", "none", none)


def _edges(estate: Estate) -> Iterator[Assumption]:
    """Tell what lies between the world and the first network: capture, access, actuation."""
    decisions = estate.decisions.values()
    for decision in decisions:
        source = f"[decision.{decision.name}]"
        if decision.capture_ns:
            yield _declared(f"capture of {decision.name}", show_ns(decision.capture_ns), source)
        if decision.access:
            yield _declared(f"access of {decision.name}", _show(decision.access), source)
        if decision.actuation_ns:
            value = show_ns(decision.actuation_ns)
            yield _declared(f"actuation of {decision.name}", value, source)
    yield from _undeclared("capture", "0 ms", [d.name for d in decisions if not d.capture_ns])
    yield from _undeclared("actuation", "0 ms", [d.name for d in decisions if not d.actuation_ns])
    if any(decision.access is None for decision in decisions):
        yield _spread("access to the own site, where not declared", ACCESS_PRIOR)


def _links(world: World) -> Iterator[Assumption]:
    for (a, b), spread in world.network.links.items():
        yield _spread(f"round trip {a}–{b}", spread)


def _gates(world: World) -> Iterator[Assumption]:
    for (decision, variant, hardware), spread in world.gates.items():
        yield _spread(f"gate for {decision}, {variant} on {hardware}", spread)
    if world.runs.keys() - world.gates.keys():
        yield _spread("gate, where not measured", GATE_PRIOR)


def _runs(world: World) -> Iterator[Assumption]:
    used = {hardware for _, hardware in pools(world.estate)}
    uncounted = []
    for key, spread in world.runs.items():
        decision, variant, hardware = key
        if hardware not in used:
            continue
        name = f"{decision}, {variant} on {hardware}"
        yield _spread(f"run of {name}", spread)
        if size := world.memory_bytes[key]:
            yield Assumption(
                what=f"memory of a worker of {name}",
                value=show_size(size),
                basis=spread.basis,
                source=spread.source,
            )
        else:
            uncounted.append(name)
    yield from _undeclared("memory", "not counted", uncounted)


def _accuracy(estate: Estate) -> Iterator[Assumption]:
    unknown = []
    for decision in estate.decisions.values():
        for variant in decision.ladder:
            if variant.accuracy is None:
                unknown.append(f"{decision.name}, {variant.name}")
                continue
            source = f"[decision.{decision.name}.variants.{variant.name}]"
            what = f"accuracy of {decision.name}, {variant.name}"
            yield _declared(what, f"{variant.accuracy:g}", source)
    yield from _undeclared("accuracy", "unknown, taken as 0", unknown)


def _machines(estate: Estate) -> Iterator[Assumption]:
    for name in dict.fromkeys(hardware for _, hardware in pools(estate)):
        hardware = estate.hardware[name]
        value = (
            f"lanes: {len(hardware.lanes)}; {hardware.yearly_cost:,.0f} {estate.currency} a year"
        )
        value += f", {hardware.lead_weeks} weeks from order to first answer"
        yield _declared(f"a node of {name}", value, f"[hardware.{name}]")
    for site in estate.sites.values():
        if site.yearly_cost:
            value = f"{site.yearly_cost:,.0f} {estate.currency} a year, without its nodes"
            yield _declared(f"keeping {site.name} open", value, f"[site.{site.name}]")


def _physics() -> Iterator[Assumption]:
    yield Assumption(
        what="light in fibre, there and back",
        value=f"{show_ns(100 * NS_PER_KM)} per 100 km",
        basis="prior",
        source="physics: 4.9 µs/km one way",
    )
    medians = ", ".join(f"{cloud.name} {show_ns(cloud.stockholm_ns)}" for cloud in CLOUDS)
    yield Assumption(
        what="round trips to public clouds", value=medians, basis="prior", source=CLOUD_SOURCE
    )


def _declared(what: str, value: str, source: str) -> Assumption:
    return Assumption(what=what, value=value, basis="declared", source=source)


def _undeclared(what: str, value: str, of: Sequence[str]) -> Iterator[Assumption]:
    if of:
        names = "; ".join(of)
        yield Assumption(
            what=f"{what} of {names}", value=value, basis="prior", source="not declared"
        )


def _spread(what: str, spread: Spread) -> Assumption:
    return Assumption(
        what=what, value=_show(spread.delay), basis=spread.basis, source=spread.source
    )


def _show(delay: Delay) -> str:
    return f"{show_ns(delay.p50_ns)} at p50, {show_ns(delay.p99_9_ns)} at p99.9"
