"""How others would plan, re-implemented by their ideas and given all that we give ourselves.

Everyone has the same options (the fastest variant above the floor, the law kept), the same losses
to survive, and the same simulation where they simulate. What is theirs is the rule:

- *mean utilisation*: count nodes so that none is busier than 80 % on average, in every scenario.
  Flows go to the nearest site, or are pooled on few sites; the cheaper of both counts. N+1 comes
  with the scenarios: whoever loses a place must find one on a node within the rule, else a node is
  added there. *Tuned*: the highest of several shares whose plan the simulation confirms.
- *nearest site*: every flow at its source's site, or the nearest that may answer it. Dimensioned by
  simulation: wherever a promise breaks, in any scenario, that site gets one node more.
- *greedy by simulation* (the idea of InferLine, Crankshaw et al. 2020): start over-provisioned
  on the fastest hardware, then take the step that saves most (drop a node, or swap it for a cheaper
  one) as long as the simulation confirms every scenario, until no step is left or time is up.
- *all in one cloud region*: see `clouds`.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.plan.ground import (
    HEALTHY,
    Ground,
    Layout,
    Node,
    Pool,
    Rank,
    Scenario,
    Seat,
    Seats,
    lay_out,
    mean_busy,
    settle,
)
from bench.plan.judges import HOPELESS, Judge, MeanJudge, confirms

MEAN = 0.8
SHARES = (0.8, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.2)  # that the tuned rule tries
GENEROUS = 0.35  # mean busy share from which the greedy planner starts
EXPECTED = 0.6  # mean busy share by which a site's hardware is chosen
ROUNDS = 60  # of adding nodes

HardwareOf = Callable[[str], str]
_Move = tuple[Node, Node | None]  # what goes, and what comes for it


@dataclass(frozen=True)
class Cannot:
    """A planner's rule leads nowhere on this estate, and why."""

    why: str


Result = Layout | Cannot


def mean_utilisation(ground: Ground, most: float = MEAN) -> Result:
    """Plan so that no node is busier than `most` on average; the cheaper of two ways to place."""
    results = _by_mean(ground, most)
    layouts = [result for result in results if isinstance(result, Layout)]
    return min(layouts, key=lambda layout: ground.cost(layout.nodes)) if layouts else results[0]


def tuned_utilisation(ground: Ground, judge: Judge) -> Result:
    """Return the cheapest plan by mean utilisation, over shares and placings, that holds."""
    results = [result for share in SHARES for result in _by_mean(ground, share)]
    layouts = [result for result in results if isinstance(result, Layout)]
    for layout in sorted(layouts, key=lambda layout: ground.cost(layout.nodes)):
        if confirms(judge, ground, layout):
            return layout
    return Cannot(f"no plan for {SHARES[-1]:.0%} to {SHARES[0]:.0%} busy nodes holds")


def _by_mean(ground: Ground, most: float) -> list[Result]:
    judge = MeanJudge(most)
    return [
        dimension(ground, rank, usual_hardware(ground, rank), judge)
        for rank in (nearest(ground), pooled(ground))
    ]


def nearest_site(ground: Ground, judge: Judge) -> Result:
    """Answer where it is asked; add nodes until `judge` confirms every scenario."""
    rank = nearest(ground)
    return dimension(ground, rank, usual_hardware(ground, rank), judge)


def greedy(ground: Ground, judge: Judge, seconds: float) -> Result:
    """Start with too much and take away while `judge` confirms every scenario."""
    until = time.monotonic() + seconds
    fastest = max(ground.estate.hardware, key=lambda name: (ground.lanes(name), name))
    start = dimension(ground, nearest(ground), lambda _: fastest, _Both(MeanJudge(GENEROUS), judge))
    if isinstance(start, Cannot):
        return start
    layout: Layout | None = start
    refused: set[_Move] = set()
    while layout is not None:
        best = layout
        layout = _step(ground, best, judge, refused, until)
    return best


def dimension(ground: Ground, rank: Rank, hardware: HardwareOf, judge: Judge) -> Result:
    """Add nodes where `rank` wants them until all have a place and `judge` has no complaint.

    A site's nodes are of one type where that is fast enough. A round adds a node to each site that
    is too full.
    """
    counts = _first_counts(ground, rank, hardware)
    for _ in range(ROUNDS):
        nodes = _nodes(counts)
        healthy, _ = settle(ground, nodes, {}, ground.flows, HEALTHY, rank)
        layout = lay_out(ground, nodes, healthy, rank)
        wanted = {_wish(ground, rank, hardware, s, key) for s, key in layout.unseated}
        if None in wanted:
            return Cannot(_hopeless(ground, rank, hardware, layout))
        if not wanted:
            failing = judge.failing(ground, layout.scenarios)
            if not failing:
                return layout
            wanted = {node.pool for _, node in failing}
        for pool in sorted(pool for pool in wanted if pool):
            counts[pool] = counts.get(pool, 0) + 1
            if counts[pool] > ground.most_nodes(pool[0]):
                return Cannot(f"{pool[0]} would need more than {ground.most_nodes(pool[0])} nodes")
    return Cannot(f"after {ROUNDS} rounds of adding nodes promises still break")


# Where a flow would like to be -------------------------------------------------------------------


def nearest(ground: Ground) -> Rank:
    """Rank nodes by the round trip from the flow's source."""
    trips = {
        key: {pool[0]: way.rtt.delay.p50_ns for pool, way in ground.ways(key, HEALTHY).items()}
        for key in ground.flows
    }
    return lambda key, node: float(trips[key].get(node.site, float("inf")))


def pooled(ground: Ground) -> Rank:
    """Rank sites by how much of all work they could answer: few sites then take most of it."""
    could: dict[str, float] = {}
    for key, flow in ground.flows.items():
        for site in {pool[0] for pool in ground.ways(key, HEALTHY)}:
            could[site] = could.get(site, 0.0) + flow.rate
    return lambda _, node: -could.get(node.site, 0.0)


def usual_hardware(ground: Ground, rank: Rank) -> HardwareOf:
    """Choose each site's hardware: the cheaper for the work that comes there, and one spare."""
    work: dict[str, dict[str, float]] = {}
    for key in ground.flows:
        ways = ground.ways(key, HEALTHY)
        if not ways:
            continue
        site = _best_pool(rank, key, ways)[0]
        for (place, hardware), way in ways.items():
            if place == site:
                of_site = work.setdefault(site, {})
                of_site[hardware] = of_site.get(hardware, 0.0) + ground.busy(key, way)

    def price(site: str, hardware: str) -> tuple[float, str]:
        busy = work.get(site, {}).get(hardware, 0.0)
        nodes = -(-busy // (EXPECTED * ground.lanes(hardware))) + 1
        return nodes * ground.price(hardware), hardware

    return lambda site: min(ground.estate.hardware, key=lambda name: price(site, name))


# How nodes are added -----------------------------------------------------------------------------


def _first_counts(ground: Ground, rank: Rank, hardware: HardwareOf) -> dict[Pool, int]:
    """Open the place that each flow likes best."""
    counts: dict[Pool, int] = {}
    for key in ground.flows:
        ways = _ways_of(ground.ways(key, HEALTHY), hardware)
        if ways:
            counts[_best_pool(rank, key, ways)] = 1
    return counts


def _wish(
    ground: Ground, rank: Rank, hardware: HardwareOf, scenario: Scenario, key: str
) -> Pool | None:
    """Return the pool that would give an unseated flow a place; None where nothing would."""
    ways = _ways_of(ground.ways(key, scenario.case), hardware)
    return _best_pool(rank, key, ways) if ways else None


def _ways_of(ways: Mapping[Pool, object], hardware: HardwareOf) -> list[Pool]:
    """Return the pools of each site's usual hardware; all where only another type is in time."""
    return [pool for pool in ways if pool[1] == hardware(pool[0])] or list(ways)


def _best_pool(rank: Rank, key: str, pools: Iterable[Pool]) -> Pool:
    return min(pools, key=lambda pool: (rank(key, Node(pool[0], pool[1], 0)), pool))


def _nodes(counts: Mapping[Pool, int]) -> list[Node]:
    return [Node(*pool, number) for pool in sorted(counts) for number in range(counts[pool])]


def _hopeless(ground: Ground, rank: Rank, hardware: HardwareOf, layout: Layout) -> str:
    keys = [key for s, key in layout.unseated if _wish(ground, rank, hardware, s, key) is None]
    return f"{', '.join(sorted(set(keys)))} cannot be answered in time everywhere it has to be"


# How the greedy planner takes away ---------------------------------------------------------------


class _Both:
    """The second judge is asked where the first has no complaint."""

    def __init__(self, first: Judge, second: Judge) -> None:
        self._judges = first, second

    def failing(self, ground: Ground, scenarios: Sequence[Scenario]) -> list[tuple[int, Node]]:
        first, second = self._judges
        return first.failing(ground, scenarios) or second.failing(ground, scenarios)


def _step(
    ground: Ground, layout: Layout, judge: Judge, refused: set[_Move], until: float
) -> Layout | None:
    """Return the layout after the step that saves most of those that hold; None without one.

    A step that was refused once is not tried again: later there is only less room for it.
    """
    moves = [move for move in _moves(ground, layout) if move not in refused]
    made = [(move, _replaced(ground, layout, *move)) for move in moves]
    steps = [(ground.cost(after.nodes), move, after) for move, after in made if after is not None]
    for cost, move, after in sorted(steps, key=lambda step: step[0]):
        if cost >= ground.cost(layout.nodes) or time.monotonic() > until:
            return None
        if confirms(judge, ground, after):
            return after
        refused.add(move)
    return None


def _moves(ground: Ground, layout: Layout) -> Iterable[_Move]:
    """Yield what may be taken away and what comes for it, the least busy first."""
    taken = mean_busy(ground, layout.scenarios[0].seats)
    for node in sorted(layout.nodes, key=lambda node: (taken.get(node, 0.0), node)):
        yield node, None
        for hardware in ground.estate.hardware:
            if ground.price(hardware) < ground.price(node.hardware):
                numbers = [n.number for n in layout.nodes if n.pool == (node.site, hardware)]
                yield node, Node(node.site, hardware, max(numbers, default=-1) + 1)


def _replaced(ground: Ground, layout: Layout, gone: Node, fresh: Node | None) -> Layout | None:
    """Return the layout without `gone`: its flows go to `fresh`, or to the least busy nodes."""
    nodes = [node for node in layout.nodes if node != gone] + ([fresh] if fresh else [])
    healthy = layout.scenarios[0].seats
    staying: Seats = {key: seat for key, seat in healthy.items() if seat.node != gone}
    moving = [key for key, seat in healthy.items() if seat.node == gone]
    if fresh:
        for key in moving:
            ways = ground.ways(key, HEALTHY)
            if fresh.pool not in ways:
                return None
            staying[key] = Seat(fresh, ways[fresh.pool])
        moving = []
    seats, left = settle(ground, nodes, staying, moving, HEALTHY, _anywhere)
    if left or _too_full(ground, seats):
        return None
    made = lay_out(ground, sorted(nodes), seats, _anywhere)
    too_full = any(_too_full(ground, scenario.seats) for scenario in made.scenarios)
    return None if made.unseated or too_full else made


def _too_full(ground: Ground, seats: Seats) -> bool:
    return max(mean_busy(ground, seats).values(), default=0.0) > HOPELESS


def _anywhere(_key: str, _node: Node) -> float:
    return 0.0
