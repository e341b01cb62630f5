"""What changed from one plan to another: machines, cost, places, waits, verdicts."""

from collections.abc import Iterable

from msgspec import Struct

from tidsram.estate.plan import Plan, PlannedFlow
from tidsram.plan.explain import Standing, standing
from tidsram.plan.words import (
    Section,
    sentences,
    show_money,
    show_place,
    show_share,
    show_us,
    table,
)

_WORST_FIRST = ("contradicted", "not enough evidence", "met")


class Side(Struct, frozen=True):
    """One decision from one source in one plan, all its parts together; no places: not answered."""

    places: tuple[str, ...]
    variants: tuple[str, ...]
    budget_us: int
    wait_us: int  # the least that is left to wait in
    share_at_least: float | None  # in the worst case that was simulated
    verdict: str


class FlowChange(Struct, frozen=True):
    """A decision from a source in both plans; None: not in that one."""

    decision: str
    source: str
    before: Side | None
    after: Side | None


class Comparison(Struct, frozen=True):
    """All that is different. `nodes` and `flows` hold only what is."""

    before: str  # when it was made
    after: str
    same_estate: bool
    standing: tuple[Standing, Standing]
    yearly_cost: tuple[float, float]
    currency: str
    nodes: dict[str, tuple[int, int]]  # "site hardware" → how many
    flows: tuple[FlowChange, ...]


def compare(before: Plan, after: Plan) -> Comparison:
    """Return what is different in `after`."""
    old, new = _sides(before), _sides(after)
    return Comparison(
        before=before.made,
        after=after.made,
        same_estate=before.estate_sha256 == after.estate_sha256,
        standing=(standing(before), standing(after)),
        yearly_cost=(before.yearly_cost, after.yearly_cost),
        currency=after.currency,
        nodes=_different(_nodes(before), _nodes(after)),
        flows=tuple(
            FlowChange(*key, old.get(key), new.get(key))
            for key in dict.fromkeys([*old, *new])
            if old.get(key) != new.get(key)
        ),
    )


def told(found: Comparison) -> list[Section]:
    """Say a comparison in words."""
    was, now = found.standing
    estate = "the same estate" if found.same_estate else "an estate that has changed"
    title = (
        f"From the plan of {found.before} to that of {found.after}, for {estate}: "
        f"the old one {was}, the new one {now}"
    )
    rows = [(where, f"{then} → {count}") for where, (then, count) in found.nodes.items()]
    flows = [(f"{one.decision} at {one.source}", "; ".join(_said(one))) for one in found.flows]
    parts = [
        Section(title, tuple(_cost(found))),
        Section("Machines", tuple(table(rows, indent="  "))),
        Section("Decisions", tuple(table(flows, indent="  "))),
    ]
    return [parts[0], *(part for part in parts[1:] if part.lines)]


def _nodes(plan: Plan) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in plan.nodes:
        key = f"{node.site} {node.hardware}"
        counts[key] = counts.get(key, 0) + 1
    return counts


def _different(before: dict[str, int], after: dict[str, int]) -> dict[str, tuple[int, int]]:
    pairs = {key: (before.get(key, 0), after.get(key, 0)) for key in sorted({*before, *after})}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _sides(plan: Plan) -> dict[tuple[str, str], Side]:
    parts: dict[tuple[str, str], list[PlannedFlow]] = {}
    for flow in plan.flows:
        parts.setdefault((flow.decision, flow.source), []).append(flow)
    return {key: _side(flows) for key, flows in parts.items()}


def _side(flows: list[PlannedFlow]) -> Side:
    proofs = [proof for flow in flows for proof in flow.proofs]
    verdicts = {proof.verdict for proof in proofs}
    return Side(
        places=_each(show_place(flow.place) for flow in flows if flow.place),
        variants=_each(flow.variant for flow in flows if flow.place),
        budget_us=flows[0].budget_us,
        wait_us=min((t.us for flow in flows for t in flow.terms if t.stage == "wait"), default=0),
        share_at_least=min((proof.share_at_least for proof in proofs), default=None),
        verdict=next((word for word in _WORST_FIRST if word in verdicts), "not simulated"),
    )


def _each(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(texts)))


def _cost(found: Comparison) -> list[str]:
    before, after = found.yearly_cost
    if before == after and not found.nodes and not found.flows:
        return ["  Nothing has changed."]
    less = f"{show_money(abs(after - before), found.currency)} a year"
    change = f"{less} {'more' if after > before else 'less'}" if after != before else "the same"
    shown = f"{before:,.0f} → {show_money(after, found.currency)} a year"
    return sentences(f"{shown}: {change}.", "  ")


def _said(change: FlowChange) -> list[str]:
    before, after = change.before, change.after
    if before is None or after is None:
        return ["is new" if before is None else "is gone"]
    said = []
    if before.places != after.places:
        said.append(f"moves from {_places(before)} to {_places(after)}")
    if not before.places or not after.places:
        return said
    if before.variants != after.variants:
        said.append(f"variant {', '.join(before.variants)} → {', '.join(after.variants)}")
    if before.budget_us != after.budget_us:
        said.append(f"budget {show_us(before.budget_us)} → {show_us(after.budget_us)}")
    if before.wait_us != after.wait_us:
        said.append(f"left to wait {show_us(before.wait_us)} → {show_us(after.wait_us)}")
    if before.verdict != after.verdict:
        said.append(f"{before.verdict} → {after.verdict}")
    if before.share_at_least != after.share_at_least:
        said.append(f"in time at least {_share(before)} → {_share(after)}")
    return said


def _places(side: Side) -> str:
    return ", ".join(side.places) or "nowhere"


def _share(side: Side) -> str:
    return "–" if side.share_at_least is None else show_share(side.share_at_least)
