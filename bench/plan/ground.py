"""What every planner is given, and what it hands back: nodes, and who sits where in each scenario.

All of them have the same options, from the same latency model; of a pool's variants they take the
fastest, since all are above their floor and it needs the least. In a scenario of a loss what is not
hit stays where it is; what is hit takes the least loaded of the nodes that a planner prefers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tidsram.estate.types import Decision, Estate
from tidsram.lab.facts import Measured
from tidsram.plan.capacity import run_times_s
from tidsram.plan.demand import flows as flows_of
from tidsram.plan.latency import World, cases, needs
from tidsram.plan.problem import Case, Flow, NodeLoad, Option, Served

QUARTER = "2026-Q4"
HEALTHY = Case()

Pool = tuple[str, str]  # site, hardware


class Node(NamedTuple):
    """One machine of a layout."""

    site: str
    hardware: str
    number: int

    @property
    def pool(self) -> Pool:
        """Its like at the same site."""
        return self.site, self.hardware


class Seat(NamedTuple):
    """Where a flow is answered, and by which option."""

    node: Node
    option: Option


Seats = dict[str, Seat]  # by the flow's key
Rank = Callable[[str, Node], float]  # how little a flow's planner likes a node; the least wins


@dataclass(frozen=True)
class Scenario:
    """All well, or one thing lost; `unseated` are flows that have to be answered and are not."""

    case: Case
    lost: Node | None
    seats: Seats
    unseated: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Say it in words, with the number of a lost node."""
        return f"{self.case.name}{f' #{self.lost.number}' if self.lost else ''}"


@dataclass(frozen=True)
class Layout:
    """A planner's result: its machines, and every scenario, the healthy one first."""

    nodes: tuple[Node, ...]
    scenarios: tuple[Scenario, ...]

    @property
    def unseated(self) -> list[tuple[Scenario, str]]:
        """Return who is not answered, and when."""
        return [(scenario, key) for scenario in self.scenarios for key in scenario.unseated]


class Ground:
    """An estate in a planner's eyes. Answers from the latency model are kept."""

    def __init__(self, estate: Estate, flows: Iterable[Flow] = ()) -> None:
        """`flows` are the estate's own where none are given."""
        self.estate = estate
        self.world = World(estate, Measured())
        chosen = list(flows) or flows_of(estate, QUARTER)
        self.flows: dict[str, Flow] = {flow.key: flow for flow in chosen}
        self.cases: Sequence[Case] = cases(estate)
        self._ways: dict[tuple[str, Case], Mapping[Pool, Option]] = {}
        self._busy: dict[tuple[str, Pool], float] = {}

    def decision(self, key: str) -> Decision:
        """Return a flow's decision."""
        return self.estate.decisions[self.flows[key].decision]

    def must(self, key: str, case: Case) -> bool:
        """Tell whether a flow has to be answered in a case."""
        return needs(self.decision(key), self.flows[key], case)

    def judged(self, key: str, case: Case) -> bool:
        """Tell whether a flow's objective counts: when all is well everyone's does."""
        return case.kind == "healthy" or self.must(key, case)

    def ways(self, key: str, case: Case) -> Mapping[Pool, Option]:
        """Return a flow's option in each pool where it has one."""
        case = HEALTHY if case.kind == "node" else case  # a lost node takes away no way
        if (key, case) not in self._ways:
            self._ways[key, case] = self._find(key, case)
        return self._ways[key, case]

    def busy(self, key: str, option: Option) -> float:
        """Return how many lanes a flow keeps busy on average."""
        pool = option.site, option.hardware
        if (key, pool) not in self._busy:
            run_s = float(run_times_s(option.service, 1).mean())
            self._busy[key, pool] = self.flows[key].rate * run_s
        return self._busy[key, pool]

    def lanes(self, hardware: str) -> int:
        """Return the lanes of a node."""
        return len(self.estate.hardware[hardware].lanes)

    def most_nodes(self, site: str) -> int:
        """Return how many nodes a site may have."""
        return self.estate.sites[site].max_nodes

    def price(self, hardware: str) -> float:
        """Return what a node costs in a year."""
        return self.estate.hardware[hardware].yearly_cost

    def cost(self, nodes: Iterable[Node]) -> float:
        """Return what these nodes and the sites that they keep open cost in a year."""
        nodes = list(nodes)
        sites = {node.site for node in nodes}
        return sum(self.price(node.hardware) for node in nodes) + sum(
            self.estate.sites[site].yearly_cost for site in sites
        )

    def loads(self, seats: Seats) -> dict[Node, NodeLoad]:
        """Return what each node serves."""
        served: dict[Node, list[Served]] = {}
        for key in sorted(seats):
            node, option = seats[key]
            one = Served(decision=self.decision(key), flow=self.flows[key], option=option)
            served.setdefault(node, []).append(one)
        return {
            node: NodeLoad(lanes=self.lanes(node.hardware), served=tuple(flows))
            for node, flows in served.items()
        }

    def _find(self, key: str, case: Case) -> Mapping[Pool, Option]:
        options, _ = self.world.options(self.flows[key], case)
        fastest: dict[Pool, Option] = {}
        for option in options:
            pool = option.site, option.hardware
            known = fastest.get(pool)
            if known is None or option.service.delay.p50_ns < known.service.delay.p50_ns:
                fastest[pool] = option
        return fastest


def mean_busy(ground: Ground, seats: Seats) -> dict[Node, float]:
    """Return each node's share of time in which its lanes run, on average."""
    taken: dict[Node, float] = {}
    for key, (node, option) in seats.items():
        share = ground.busy(key, option) / ground.lanes(node.hardware)
        taken[node] = taken.get(node, 0.0) + share
    return taken


def settle(
    ground: Ground,
    nodes: Iterable[Node],
    seats: Seats,
    keys: Iterable[str],
    case: Case,
    rank: Rank,
) -> tuple[Seats, list[str]]:
    """Add `keys` to a copy of `seats`, the busiest first; return it and who found no place."""
    seats, left = dict(seats), []
    taken = mean_busy(ground, seats)
    open_nodes = list(nodes)
    for key in sorted(keys, key=lambda key: (-_largest(ground, key, case), key)):
        ways = ground.ways(key, case)
        fitting = [node for node in open_nodes if node.pool in ways]
        if not fitting:
            left.append(key)
            continue
        shares = {
            node: taken.get(node, 0.0)
            + ground.busy(key, ways[node.pool]) / ground.lanes(node.hardware)
            for node in fitting
        }
        best = min(fitting, key=lambda node: (rank(key, node), shares[node], node))
        seats[key], taken[best] = Seat(best, ways[best.pool]), shares[best]
    return seats, left


def lay_out(ground: Ground, nodes: Sequence[Node], healthy: Seats, rank: Rank) -> Layout:
    """Return every scenario of these nodes, given who sits where when all is well."""
    missing = tuple(key for key in ground.flows if key not in healthy)
    all_well = Scenario(HEALTHY, None, healthy, missing)
    broken = (_without(ground, nodes, healthy, *loss, rank) for loss in losses(ground, nodes))
    return Layout(tuple(nodes), (all_well, *broken))


def losses(ground: Ground, nodes: Sequence[Node]) -> list[tuple[Case, Node | None]]:
    """Return each loss; a case of a lost node once for each node of its pool."""
    return [
        (case, node)
        for case in ground.cases[1:]
        for node in (_of_pool(nodes, case) if case.kind == "node" else [None])
    ]


def _without(
    ground: Ground,
    nodes: Sequence[Node],
    healthy: Seats,
    case: Case,
    lost: Node | None,
    rank: Rank,
) -> Scenario:
    """Who is not hit stays, by the option that the case leaves; the others look for a place."""
    down = case.site if case.kind == "site" else None
    left = [node for node in nodes if node != lost and node.site != down]
    standing, staying, hit = set(left), {}, []
    for key, seat in healthy.items():
        ways = ground.ways(key, case)
        if seat.node in standing and seat.node.pool in ways:
            staying[key] = Seat(seat.node, ways[seat.node.pool])
        elif ground.must(key, case):
            hit.append(key)
    seats, unseated = settle(ground, left, staying, hit, case, rank)
    return Scenario(case, lost, seats, tuple(unseated))


def _of_pool(nodes: Iterable[Node], case: Case) -> list[Node]:
    return [node for node in nodes if node.pool == (case.site, case.hardware)]


def _largest(ground: Ground, key: str, case: Case) -> float:
    ways = ground.ways(key, case).values()
    return max((ground.busy(key, option) for option in ways), default=0.0)
