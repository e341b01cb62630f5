"""Our plan as it is published, read back into nodes and scenarios by nothing but plan.json's types.

Whoever is on a node that is lost goes where `backups` sends it; everybody else stays.
"""

from collections.abc import Mapping

from bench.plan.ground import HEALTHY, Ground, Layout, Node, Scenario, Seat, Seats, losses
from tidsram.estate.plan import Place, Plan, PlannedFlow
from tidsram.estate.types import Estate
from tidsram.plan.problem import Case, Flow, Option


def read(estate: Estate, plan: Plan) -> tuple[Ground, Layout]:
    """Return the plan's own flows, which may come in parts, and what it does in each scenario."""
    flows = {flow.key: flow for flow in map(_flow, plan.flows)}
    ground = Ground(estate, flows.values())
    planned = {_flow(flow).key: flow for flow in plan.flows}
    nodes = tuple(Node(node.site, node.hardware, node.node) for node in plan.nodes)
    scenarios = [
        _scenario(ground, nodes, planned, case, lost)
        for case, lost in ((HEALTHY, None), *losses(ground, nodes))
    ]
    return ground, Layout(nodes, tuple(scenarios))


def _scenario(
    ground: Ground,
    nodes: tuple[Node, ...],
    planned: Mapping[str, PlannedFlow],
    case: Case,
    lost: Node | None,
) -> Scenario:
    at = {Place(site=node.site, node=node.number): node for node in nodes}
    seats: Seats = {}
    unseated = []
    for key, flow in planned.items():
        home = at[flow.place] if flow.place else None
        hit = case.kind != "node" or home == lost
        place = flow.backups.get(case.name, flow.place) if hit else flow.place
        node = at[place] if place else None
        gone = node is None or node == lost or (case.kind == "site" and node.site == case.site)
        option = None if node is None or gone else _option(ground, key, case, node, flow.variant)
        if node is not None and option is not None:
            seats[key] = Seat(node, option)
        elif ground.must(key, case):
            unseated.append(key)
    return Scenario(case, lost, seats, tuple(unseated))


def _option(ground: Ground, key: str, case: Case, node: Node, variant: str) -> Option | None:
    """Return the option of this variant there, or of another: a backup may keep a faster one."""
    options, _ = ground.world.options(ground.flows[key], case)
    there = [option for option in options if (option.site, option.hardware) == node.pool]
    return next((o for o in there if o.variant == variant), there[-1] if there else None)


def _flow(planned: PlannedFlow) -> Flow:
    return Flow(
        decision=planned.decision,
        source=planned.source,
        askers=planned.askers,
        rate=planned.rate,
        part=planned.part,
        parts=planned.parts,
    )
