"""What one node serves of an estate: all that the law allows at its site, or what a plan gives it.

Both hand the node an estate of its own, so that whatever serves need not know of plans.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from tidsram.errors import EstateError
from tidsram.estate.placement import allowed_at, lanes_of
from tidsram.estate.plan import Place, Plan, PlannedFlow, PlannedNode, WarmDecision
from tidsram.estate.types import Decision, Estate, Site

JITTERED = 2  # questions that a periodic asker now and then sends close together
_UNDECLARED = "and the estate does not declare {}; make the plan anew with `tidsram plan`"


class Part(Struct, frozen=True, kw_only=True):
    """A node's part of an estate: its decisions, and where each is kept warm.

    `left_out` says why the others are not served; no `warm` lanes: as the node sees fit.
    """

    estate: Estate
    warm: dict[str, tuple[int, ...]] = {}
    left_out: dict[str, str] = {}


def part_by_law(estate: Estate, site: Site) -> Part:
    """Return what may be decided at `site`; each declaration counts all who ask there.

    A site where nobody asks answers for the others, so there all askers count.
    """
    left_out = {
        name: why
        for name, decision in estate.decisions.items()
        if (why := allowed_at(estate, decision, site))
    }
    decisions = {
        name: _asked_by(decision, _askers(decision, site))
        for name, decision in estate.decisions.items()
        if name not in left_out
    }
    return Part(estate=replace(estate, decisions=decisions), left_out=left_out)


def pick_node(plan: Plan, site: str | None, number: int | None, where: str) -> PlannedNode:
    """Return the node of the plan at `site`; what is None must be the only one there is."""
    known = sorted({node.site for node in plan.nodes})
    if not known:
        raise EstateError(where, "has no nodes; see what `tidsram plan` says of it")
    if site is None and len(known) != 1:
        raise EstateError(
            where, f"has nodes at {len(known)} sites; say which with --site: {', '.join(known)}"
        )
    here = [node for node in plan.nodes if node.site == (site or known[0])]
    if not here:
        raise EstateError(where, f"has no node at {site}; it has some at {', '.join(known)}")
    numbers = ", ".join(str(node.node) for node in here)
    if number is None and len(here) > 1:
        raise EstateError(
            where, f"has {len(here)} nodes at {here[0].site}; say which with --node: {numbers}"
        )
    for node in here:
        if number in (None, node.node):
            return node
    raise EstateError(where, f"has no node {number} at {here[0].site}; there are {numbers}")


def part_by_plan(
    estate: Estate, plan: Plan, node: PlannedNode, cores: Sequence[int], where: str
) -> Part:
    """Return what `node` keeps warm, in the planned variants and on the planned lanes.

    A decision's arrivals are those of the case that brings most of its questions here: what a
    failure of another node sends is within the declaration, not beyond it.
    """
    site = replace(_site(estate, node, where), hardware=node.hardware)
    own = replace(estate, sites=estate.sites | {site.name: site})
    lane_count = len(lanes_of(own, site.name, cores))
    decisions: dict[str, Decision] = {}
    warm: dict[str, tuple[int, ...]] = {}
    for name in dict.fromkeys(entry.decision for entry in node.warm):
        entries = [entry for entry in node.warm if entry.decision == name]
        planned = _planned(estate, site, entries, where)
        decisions[name] = _brought_by(planned, plan, Place(site=node.site, node=node.node))
        warm[name] = _lanes(entries, node, lane_count, where)
    return Part(estate=replace(own, decisions=decisions), warm=warm)


def _site(estate: Estate, node: PlannedNode, where: str) -> Site:
    if node.site not in estate.sites or node.hardware not in {"", *estate.hardware}:
        raise EstateError(
            where, f"has a node at {node.site} of {node.hardware}, {_UNDECLARED.format('either')}"
        )
    return estate.sites[node.site]


def _lanes(
    entries: Sequence[WarmDecision], node: PlannedNode, lane_count: int, where: str
) -> tuple[int, ...]:
    lanes = tuple(sorted({lane for entry in entries for lane in entry.lanes}))
    if not lanes or not 0 <= lanes[0] <= lanes[-1] < lane_count:
        shown = ", ".join(str(lane) for lane in lanes) or "none"
        raise EstateError(
            where,
            f"keeps {entries[0].decision} warm on lanes {shown} of {node.site}, and this machine "
            f"gives it {lane_count}, from 0; declare the lanes of {node.hardware}, and plan anew",
        )
    return lanes


def _planned(estate: Estate, site: Site, entries: Sequence[WarmDecision], where: str) -> Decision:
    """Return the decision with the planned variants only."""
    name, variants = entries[0].decision, [entry.variant for entry in entries]
    decision = estate.decisions.get(name)
    ladder = tuple(v for v in decision.ladder if v.name in variants) if decision else ()
    if decision is None or len(ladder) < len(set(variants)):
        words = " and ".join(variants)
        raise EstateError(where, f"keeps {name} warm as {words}, {_UNDECLARED.format('that')}")
    if why := allowed_at(estate, decision, site):
        raise EstateError(where, f"keeps {name} warm at {site.name}, where it may not be: {why}")
    return replace(decision, ladder=ladder)


def _brought_by(decision: Decision, plan: Plan, here: Place) -> Decision:
    """Return the decision with the arrivals of the case that brings most of its questions here.

    What is here when all is well stays in every case: of several nodes it is not known which one
    is lost.
    """
    flows = [flow for flow in plan.flows if flow.decision == decision.name]
    cases = sorted({case for flow in flows for case in flow.backups}) or [""]
    brought = [[flow for flow in flows if _is_here(flow, case, here)] for case in cases]
    most = max(brought, key=lambda case: sum(flow.rate for flow in case))
    askers, rate = sum(flow.askers for flow in most), sum(flow.rate for flow in most)
    if decision.arrivals is None or not askers:
        return decision
    together = _asked_by(decision, askers)
    assert together.arrivals is not None
    # The plan's rate: it has grown with the quarter that is planned.
    return replace(together, arrivals=replace(together.arrivals, rate=rate))


def _is_here(flow: PlannedFlow, case: str, here: Place) -> bool:
    return here in (flow.place, flow.backups.get(case))


def _askers(decision: Decision, site: Site) -> int:
    return decision.sources.get(site.name, 0) or sum(decision.sources.values()) or 1


def _asked_by(decision: Decision, askers: int) -> Decision:
    """Return the decision with the arrivals of so many askers, each of whom keeps to it."""
    declared = decision.arrivals
    if declared is None or askers == 1:
        return decision
    # Of independent random arrivals the sum is no burstier, and the burst is derived as before.
    each = JITTERED if declared.kind == "periodic" else 0
    together = replace(
        declared, rate=askers * declared.rate, burst=askers * (declared.burst or each)
    )
    return replace(decision, arrivals=together)
