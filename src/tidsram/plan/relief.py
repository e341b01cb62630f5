"""Why a plan does not hold, with the nearest way out; and what would make one cheaper that does."""

from collections.abc import Iterator, Sequence
from math import ceil

from msgspec.structs import replace

from tidsram.estate.plan import Saving
from tidsram.estate.types import Decision, Estate
from tidsram.lab.facts import Measured
from tidsram.plan.demand import flows
from tidsram.plan.instance import Task, make_instance
from tidsram.plan.latency import World, cases
from tidsram.plan.optimise import Solution, optimise
from tidsram.plan.problem import Case, Refusal
from tidsram.plan.search import Found, unplaced
from tidsram.units import MS, show_ns

RELAXED = 1.25  # times the budget
MOST = 4  # decisions whose relaxation is tried
SECONDS = 3.0  # of solving for each


def problems(found: Found, world: World) -> list[str]:
    """Return a sentence for each flow without a place, with the nearest way out."""
    if found.holds:
        return []
    instance = found.instance
    shed = [(instance.cases[case], instance.tasks[task]) for case, task in found.solution.shed]
    told: dict[str, str] = {}
    for case, task in [*shed, *unplaced(instance, found.scenarios)]:
        told.setdefault(task.flow.whole, _no_place(found, world, case, task))
    if told:
        return list(told.values())
    head = f"after {found.rounds} rounds the simulation still contradicts a promise"
    return [f"{head}; {_wider(found)}"]


def savings(found: Found, estate: Estate, measured: Measured, quarter: str) -> Iterator[Saving]:
    """Tell what a longer budget, or a site's loss less to survive, would save."""
    if not found.holds:
        return
    base = optimise(found.instance, found.room, seconds=SECONDS, memory=False)
    for decision in _taxed(found, estate) if base else ():
        longer = replace(decision, budget_ns=ceil(decision.budget_ns * RELAXED))
        changes = {
            f"budget from {show_ns(decision.budget_ns)} to {show_ns(longer.budget_ns)}": longer
        }
        if "site" in decision.survives:
            fewer = tuple(kind for kind in decision.survives if kind != "site")
            changes["not surviving the loss of a site"] = replace(decision, survives=fewer)
        for change, relaxed in changes.items():
            other = replace(estate, decisions=estate.decisions | {decision.name: relaxed})
            instance = make_instance(
                other, World(other, measured), cases(other), flows(other, quarter)
            )
            then = optimise(instance, found.room, seconds=SECONDS, memory=False)
            if base and then and not then.shed and then.cost < base.cost:
                yield _saving(decision.name, change, base, then, estate.currency)


def _saving(name: str, change: str, base: Solution, then: Solution, currency: str) -> Saving:
    fewer, cheaper = max(0, base.count - then.count), base.cost - then.cost
    nodes = f"{fewer} node{'s' if fewer > 1 else ''} and " if fewer else ""
    return Saving(
        decision=name,
        change=change,
        saves_nodes=fewer,
        saves_cost=cheaper,
        sentence=f"{name}: {change} saves {nodes}{cheaper:,.0f} {currency} a year",
    )


def _taxed(found: Found, estate: Estate) -> list[Decision]:
    """Return the decisions whose tails take most of the machines beyond their mean use."""
    tax: dict[str, float] = {}
    for task, choice in zip(found.instance.tasks, found.scenarios[0].choices, strict=True):
        if choice is not None:
            name = task.flow.decision
            tax[name] = tax.get(name, 0.0) + choice.own - choice.busy
    return [estate.decisions[name] for name in sorted(tax, key=lambda n: -tax[n])[:MOST]]


def _no_place(found: Found, world: World, case: Case, task: Task) -> str:
    when = "when all is well" if case.kind == "healthy" else f"with {case.name}"
    head = f"{task.flow.decision} of {task.flow.source} cannot be answered {when}"
    choices = task.choices[found.instance.cases.index(case)]
    if choices:
        sites = " or ".join(sorted({choice.option.site for choice in choices.values()}))
        return f"{head}: its places at {sites} are full; {_wider(found)}"
    options, refusals = world.options(task.flow, case)
    if options:
        most = max(options, key=lambda option: option.wait_ns)
        return (
            f"{head}: of its budget of {show_ns(task.decision.budget_ns)} at most "
            f"{show_ns(most.wait_ns)} are left to wait, at {most.site}, too little for its "
            "questions to queue in; allow a longer budget or a faster variant"
        )
    nearest = _nearest(refusals)
    sentence = nearest.sentence if nearest else "no site may answer it"
    return f"{head}: {sentence}. {_way_out(task.decision, case, nearest)}"


def _wider(found: Found) -> str:
    """Say how there could be more machines."""
    late = sorted({pool[0] for pool in found.limits.most})
    if late:
        return (
            f"no node ordered today is at {', '.join(late)} in time (lead_time); begin with more "
            "nodes, grow later, or allow a longer budget"
        )
    return "raise max_nodes, offer larger hardware, or allow a longer budget or a faster variant"


def _nearest(refusals: Sequence[Refusal]) -> Refusal | None:
    """Return the refusal that least would mend: one of time before all others."""
    short = [refusal for refusal in refusals if refusal.short_ns]
    if short:
        return min(short, key=lambda refusal: refusal.short_ns)
    return refusals[0] if refusals else None


def _way_out(decision: Decision, case: Case, nearest: Refusal | None) -> str:
    ways = []
    if nearest is not None and nearest.short_ns:
        needed_ns = ceil((decision.budget_ns + nearest.short_ns) / MS) * MS
        ways.append(f"raise its budget from {show_ns(decision.budget_ns)} to {show_ns(needed_ns)}")
    if case.kind != "healthy":
        others = ", ".join(f'"{kind}"' for kind in decision.survives if kind != case.kind)
        ways.append(f"say survives = [{others}] for it")
    if nearest is not None and nearest.term in ("jurisdiction", "data"):
        ways.append(f"allow {nearest.site} by its jurisdictions and its data class")
    if nearest is not None and nearest.term == "path":
        ways.append("declare a link")
    return "To mend it, " + ", or ".join(ways or ["add a site or hardware that can answer it"])
