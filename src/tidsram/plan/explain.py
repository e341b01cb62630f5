"""A plan in words: the whole of it, and one decision of it, for people who read terminals.

Everything said here stands in the plan; nothing is computed anew.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Literal

from tidsram.errors import EstateError
from tidsram.estate.plan import Place, Plan, PlannedFlow, PlannedNode, PlannedTerm, Proof, Saving
from tidsram.estate.types import Estate
from tidsram.estate.values import nearest
from tidsram.plan.problem import Case
from tidsram.plan.words import (
    Section,
    budget_terms,
    count,
    hardware_at,
    sentences,
    show_cases,
    show_flow,
    show_money,
    show_place,
    show_share,
    show_us,
    table,
)
from tidsram.units import US, show_rate

Standing = Literal["holds", "does not hold", "is not proven"]

_BAR = 24  # signs for a whole budget
_HEALTHY = "healthy"


def standing(plan: Plan, *, growing: bool = False) -> Standing:
    """Say whether every budget holds; with `growing` in all quarters, as far as they are solved."""
    later = growing and any(quarter.problem for quarter in plan.quarters)
    proofs = [proof for flow in plan.flows for proof in flow.proofs]
    if plan.problems or later or any(proof.verdict == "contradicted" for proof in proofs):
        return "does not hold"
    return "holds" if plan.verified else "is not proven"


def summary(plan: Plan, *, growing: bool = False) -> list[Section]:
    """Say what a plan comes to, the verdict first."""
    problems = [*plan.problems, *(_quarter_problems(plan) if growing else ())]
    parts = [
        Section(_verdict(plan, growing=growing), _items(problems)),
        Section("Machines", tuple(_sites(plan))),
        Section("Decisions", tuple(line for flow in plan.flows for line in _flow(plan, flow))),
        Section("Cost", tuple(_cost(plan))),
        Section("Quarter by quarter", tuple(_quarters(plan))),
        Section("To order", tuple(_purchases(plan))),
        Section("What a promise costs", _items([s.sentence for s in _worthwhile(plan)])),
        Section("What it rests on", tuple(_basis(plan))),
    ]
    return [parts[0], *(part for part in parts[1:] if part.lines)]


def explain(plan: Plan, estate: Estate, decision: str) -> list[Section]:
    """Say of one decision where it is made, why there, and on what its promise rests."""
    flows = [flow for flow in plan.flows if flow.decision == decision]
    if not flows:
        raise unknown(decision, [flow.decision for flow in plan.flows])
    savings = [saving.sentence for saving in plan.savings if saving.decision == decision]
    declared = estate.decisions.get(decision)
    actuation_us = declared.actuation_ns // US if declared else 0
    parts = [part for flow in flows for part in _explained(plan, flow, actuation_us)]
    if savings:
        parts.append(Section(f"What the promise of {decision} costs", _items(savings)))
    return parts


def unknown(decision: str, known: Iterable[str]) -> EstateError:
    """Return the complaint about a decision that is not one of those `known`."""
    names = list(dict.fromkeys(known))
    near = nearest(decision, names) or f"; there are {', '.join(names)}"
    return EstateError("--explain", f'there is no decision "{decision}"{near}')


def proof_in(flow: PlannedFlow, case: str) -> Proof | None:
    """Return what simulation says of a flow in a case; None where it was not simulated."""
    return next((proof for proof in flow.proofs if proof.case == case), None)


def losses(plan: Plan, flow: PlannedFlow) -> dict[str, Place | None]:
    """Return where a flow is answered in each case that takes its place; None: nowhere.

    A case that takes its node and names no other place leaves it none.
    """
    if flow.place is None:
        return {}
    hardware = hardware_at(plan, flow.place)
    own = (
        Case(kind="site", site=flow.place.site),
        Case(kind="node", site=flow.place.site, hardware=hardware),
    )
    nowhere: dict[str, Place | None] = {case.name: None for case in own}
    after = nowhere | flow.backups
    return {case: after[case] for case in plan.cases if case in after}


def wait_us(plan: Plan, flow: PlannedFlow) -> int | None:
    """Return the wait class that a flow has on its node; None where it is not answered."""
    for node in plan.nodes:
        if flow.place and (node.site, node.node) == (flow.place.site, flow.place.node):
            for warm in node.warm:
                if warm.decision == flow.decision:
                    return warm.wait_us
    return None


# The whole ------------------------------------------------------------------------------------


def _verdict(plan: Plan, *, growing: bool) -> str:
    found = standing(plan, growing=growing)
    begins = f"{plan.estate} {found} in {plan.quarter}"
    if found == "does not hold":
        told = plan.problems or (growing and _quarter_problems(plan))
        return f"{begins}:" if told else f"{begins}: the simulation contradicts a promise"
    if found == "is not proven":
        return f"{begins}: the simulation has not shown that every budget is kept"
    return (
        f"{begins}: verified by simulating up to {plan.requests:,} questions of each flow in "
        f"{show_cases(plan)}"
    )


def _quarter_problems(plan: Plan) -> list[str]:
    return [f"{one.quarter}: {one.problem}" for one in plan.quarters if one.problem]


def _sites(plan: Plan) -> list[str]:
    rows = []
    by_site = sorted(plan.nodes, key=_kind)
    for (site, hardware), nodes in groupby(by_site, key=_kind):
        here = list(nodes)
        warm = {entry.decision for node in here for entry in node.warm}
        rows.append(
            (
                site,
                f"{len(here)} × {hardware or 'machine'}",
                f"load {_range([node.load for node in here])}",
                f"busy {_range([node.busy for node in here])}",
                f"{count(len(warm), 'decision')} warm{_idle(here)}",
            )
        )
    return table(rows, indent="  ")


def _idle(nodes: Sequence[PlannedNode]) -> str:
    """Say how many answer nothing while all is well."""
    idle = sum(not node.busy for node in nodes)
    if not idle:
        return ""
    return f"; {count(idle, 'node')} only {'stands' if idle == 1 else 'stand'} by for losses"


def _kind(node: PlannedNode) -> tuple[str, str]:
    return node.site, node.hardware


def _range(shares: Sequence[float]) -> str:
    low, high = round(min(shares) * 100), round(max(shares) * 100)
    return f"{low} %" if low == high else f"{low}–{high} %"


def _flow(plan: Plan, flow: PlannedFlow) -> list[str]:
    asked = f"{show_flow(flow)}, {show_rate(flow.rate)}"
    if flow.place is None:
        what = "left out" if flow.criticality == "best-effort" else "NOT ANSWERED"
        return sentences(f"{asked}: {what}", "  ")
    wait = wait_us(plan, flow)
    shown = f", waits {show_us(wait)} at most" if wait is not None else ""
    first = f"{asked} → {show_place(flow.place)}, {flow.variant}{shown}"
    parts = " + ".join(f"{term.stage} {_ms(term.us)}" for term in budget_terms(flow))
    return [
        *sentences(first, "  "),
        *sentences(f"{show_us(flow.budget_us)} = {parts} ms", "      "),
        *sentences(_proven(flow), "      "),
    ]


def _ms(us: int) -> str:
    return f"{us / 1000:.3g}" if us < 100_000 else f"{us / 1000:.0f}"


def _proven(flow: PlannedFlow) -> str:
    promised = f"{show_share(flow.objective)} promised"
    if not flow.proofs:
        return f"{promised}, not simulated"
    said = []
    healthy = proof_in(flow, _HEALTHY)
    if healthy:
        said.append(f"≥ {show_share(healthy.share_at_least)} in time ({healthy.verdict})")
    worst = min(flow.proofs, key=lambda proof: (proof.verdict == "met", proof.share_at_least))
    if worst is not healthy:
        said.append(f"{worst.case}: ≥ {show_share(worst.share_at_least)} ({worst.verdict})")
    return f"{promised}, {'; worst with '.join(said)}"


def _cost(plan: Plan) -> list[str]:
    cost, bound = (
        show_money(plan.yearly_cost, plan.currency),
        show_money(plan.cost_bound, plan.currency),
    )
    gap = (plan.yearly_cost - plan.cost_bound) / plan.yearly_cost if plan.yearly_cost else 0.0
    return sentences(
        f"{cost} a year. No plan within the same cuts costs less than {bound}: a gap of "
        f"{max(0.0, gap) * 100:.1f} %.",
        "  ",
    )


def _quarters(plan: Plan) -> list[str]:
    if not plan.quarters:
        return []
    rows = [("quarter", "asked", "nodes", "a year", "room for", "breaks first")]
    problem = " ".join(plan.problems)
    for one in plan.quarters:
        nodes = str(sum(one.nodes.values()))
        row = one.quarter, show_rate(one.demand), nodes, f"{one.yearly_cost:,.0f}"
        if one.problem:
            told = "does not hold, as above" if one.problem == problem else one.problem
            rows.append((*row, "–", told))
        else:
            told = one.breaks_first + ("" if one.verified else " (not verified)")
            rows.append((*row, f"{one.headroom:.2f} ×", told))
        problem = one.problem
    return table(rows, right=(1, 2, 3, 4), indent="  ")


def _purchases(plan: Plan) -> list[str]:
    rows = [
        (
            f"by {one.order_by}",
            f"{one.nodes} × {one.hardware} at {one.site}, needed in {one.quarter}",
        )
        for one in plan.purchases
    ]
    return table(rows, indent="  ")


def _worthwhile(plan: Plan) -> list[Saving]:
    """Return what is worth saying: what saves something, or what would make the plan hold."""
    return [s for s in plan.savings if s.saves_nodes > 0 or s.saves_cost > 0 or plan.problems]


def _basis(plan: Plan) -> list[str]:
    return sentences(
        f"{plan.measured_share * 100:.0f} % of what the budgets go to, waits left out, is "
        f"measured; the rest is declared or assumed. Solved in {plan.solve_seconds:.1f} s and "
        f"{count(plan.rounds, 'round')}, verified in another {plan.verify_seconds:.1f} s.",
        "  ",
    )


def _items(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(line for text in texts for line in table([("  –", text)]))


# One decision ---------------------------------------------------------------------------------


def _explained(plan: Plan, flow: PlannedFlow, actuation_us: int) -> list[Section]:
    askers = f"{count(flow.askers, 'asker')}, {show_rate(flow.rate)} in all, {flow.criticality}"
    parts = [
        Section(f"{show_flow(flow)}: {askers}", tuple(_here(plan, flow))),
        Section("Where the budget goes", tuple(_waterfall(flow))),
        Section("Why not elsewhere", tuple(table(_elsewhere(flow), indent="  "))),
        Section("When something is lost", tuple(_losses(plan, flow))),
        Section("Proof by simulation", tuple(_proofs(flow))),
        Section("Worst reaction", tuple(_reaction(flow, actuation_us))),
    ]
    return [parts[0], *(part for part in parts[1:] if part.lines)]


def _here(plan: Plan, flow: PlannedFlow) -> list[str]:
    if flow.place is None:
        why = (
            "It is best-effort, and leaving it out costs less than machines for it."
            if flow.criticality == "best-effort"
            else "Nowhere can its budget be kept."
        )
        return sentences(f"It is not answered. {why}", "  ")
    where = f"{flow.place.site}, node {flow.place.node}"
    kind = hardware_at(plan, flow.place)
    wait = next((term.us for term in flow.terms if term.stage == "wait"), 0)
    found = (
        ", and of the plans that keep every promise none cheaper was found"
        if standing(plan) == "holds"
        else ""
    )
    return sentences(
        f"Answered at {where}{f' ({kind})' if kind else ''}, by variant {flow.variant}, accuracy "
        f"{flow.accuracy:g}. Why here: law and accuracy allow it, all else leaves {show_us(wait)} "
        f"of {show_us(flow.budget_us)} to wait in{found}.",
        "  ",
    )


def _waterfall(flow: PlannedFlow) -> list[str]:
    rows, spent_us = [], 0
    for term in budget_terms(flow):
        bar = _bar(spent_us, term.us, flow.budget_us)
        rows.append((term.stage, show_us(term.us), bar, _source(term)))
        spent_us += term.us
    if rows:
        at = f"at the {show_share(flow.objective)} promised"
        rows.append(("budget", show_us(flow.budget_us), "█" * _BAR, at))
    return table(rows, right=(1,), indent="  ")


def _source(term: PlannedTerm) -> str:
    computed = term.stage == "wait" or term.source.startswith(term.basis)
    return term.source if computed else f"{term.basis}: {term.source}"


def _bar(before_us: int, us: int, budget_us: int) -> str:
    """Draw a term where it lies in its budget; the shortest is seen, too."""
    begins = round(before_us / budget_us * _BAR)
    ends = max(round((before_us + us) / budget_us * _BAR), begins + (us > 0))
    return (" " * min(begins, _BAR - 1) + "█" * (ends - begins))[:_BAR]


def _elsewhere(flow: PlannedFlow) -> list[tuple[str, str]]:
    return [(one.where, one.why) for one in flow.elsewhere]


def _losses(plan: Plan, flow: PlannedFlow) -> list[str]:
    if flow.place is None:
        return []
    rows = [
        (case, f"→ {show_place(place)}{_share(flow, case)}" if place else "not answered then")
        for case, place in losses(plan, flow).items()
    ]
    others = len([case for case in plan.cases if case != _HEALTHY]) - len(rows)
    if others > 0:
        which = "the other" if rows else "all"
        rows.append(
            (f"in {which} {count(others, 'single loss')}", f"it stays at {show_place(flow.place)}")
        )
    return table(rows, indent="  ")


def _share(flow: PlannedFlow, case: str) -> str:
    proof = proof_in(flow, case)
    return f", ≥ {show_share(proof.share_at_least)} in time ({proof.verdict})" if proof else ""


def _proofs(flow: PlannedFlow) -> list[str]:
    if not flow.proofs:
        return []
    head = ("asked", "in time", "at least", "p50", "p99", "p99.9", "verdict", "case")
    rows: list[tuple[str, ...]] = [head]
    rows += [
        (
            f"{proof.asked:,}",
            f"{proof.in_time:,}",
            show_share(proof.share_at_least),
            *(show_us(us) if us else "–" for us in (proof.p50_us, proof.p99_us, proof.p99_9_us)),
            proof.verdict,
            proof.case,
        )
        for proof in flow.proofs
    ]
    return table(rows, right=range(6), indent="  ")


def _reaction(flow: PlannedFlow, actuation_us: int) -> list[str]:
    """Add up the worst: it happens just after a question was asked, and the answer takes it all."""
    if flow.place is None:
        return []
    period_us = flow.reaction_us - flow.budget_us - actuation_us
    parts = [f"{show_us(flow.budget_us)} budget"]
    if period_us > 0:
        parts.insert(0, f"{show_us(period_us)} until it is asked next")
    if actuation_us:
        parts.append(f"{show_us(actuation_us)} actuation")
    return sentences(f"{show_us(flow.reaction_us)} = {' + '.join(parts)}.", "  ")
