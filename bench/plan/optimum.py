"""The fewest nodes for an estate, by trying everything; for very small estates only."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

from bench.plan.ground import HEALTHY, Ground, Node, Pool, Seat, Seats, losses, mean_busy
from tidsram.plan.problem import Case, NodeLoad
from tidsram.plan.prove import Prover

Accepts = Callable[[Node, NodeLoad, Case], bool]


def fewest_nodes(ground: Ground, accepts: Accepts) -> tuple[Node, ...] | None:
    """Return the fewest nodes, the cheapest of those, that `accepts` lets answer everything."""
    for nodes in _by_count(ground):
        if any(
            _survives(ground, nodes, seats, accepts) for seats in _healthy(ground, nodes, accepts)
        ):
            return nodes
    return None


class Simulated:
    """Accepts a load when the share of each flow that counts is at least its objective.

    More flows on a node are never easier: what contains a refused load is refused unseen.
    """

    def __init__(self, ground: Ground, prover: Prover) -> None:
        self._ground, self._prover = ground, prover
        self._refused: list[tuple[str, frozenset[object]]] = []

    def __call__(self, node: Node, load: NodeLoad, case: Case) -> bool:
        """Tell whether the node keeps its promises with this load."""
        flows = frozenset((one.flow.key, one.option.path) for one in load.served)
        if any(node.hardware == hardware and few <= flows for hardware, few in self._refused):
            return False
        (tallies,) = self._prover.tallies([load], give_up=True)
        for key, tally in tallies.items():
            objective = self._ground.decision(key).objective
            if self._ground.judged(key, case) and tally.in_time < objective * tally.asked:
                if self._ground.must(key, case):
                    self._refused.append((node.hardware, flows))
                return False
        return True


def _by_count(ground: Ground) -> Iterator[tuple[Node, ...]]:
    """Yield all sets of nodes, fewer before more, cheaper before dearer."""
    pools: list[Pool] = sorted({p for key in ground.flows for p in ground.ways(key, HEALTHY)})
    most = [range(ground.most_nodes(site) + 1) for site, _ in pools]
    made = []
    for counts in product(*most):
        by_site: dict[str, int] = {}
        for (site, _), count in zip(pools, counts, strict=True):
            by_site[site] = by_site.get(site, 0) + count
        if all(count <= ground.most_nodes(site) for site, count in by_site.items()):
            numbered = zip(pools, counts, strict=True)
            made.append(tuple(Node(*pool, n) for pool, count in numbered for n in range(count)))
    yield from sorted(made, key=lambda nodes: (len(nodes), ground.cost(nodes)))


def _healthy(ground: Ground, nodes: Sequence[Node], accepts: Accepts) -> Iterator[Seats]:
    keys = sorted(ground.flows)
    yield from _placings(ground, nodes, {}, keys, HEALTHY, accepts)


def _survives(ground: Ground, nodes: Sequence[Node], healthy: Seats, accepts: Accepts) -> bool:
    """Tell whether each loss leaves a placing of what it hits that is accepted."""
    return all(
        _survives_one(ground, nodes, healthy, case, lost, accepts)
        for case, lost in losses(ground, nodes)
    )


def _survives_one(
    ground: Ground,
    nodes: Sequence[Node],
    healthy: Seats,
    case: Case,
    lost: Node | None,
    accepts: Accepts,
) -> bool:
    down = case.site if case.kind == "site" else None
    left = [node for node in nodes if node != lost and node.site != down]
    staying: Seats = {}
    hit = []
    for key, seat in healthy.items():
        way = ground.ways(key, case).get(seat.node.pool)
        if seat.node in left and way is not None:
            staying[key] = Seat(seat.node, way)
        elif ground.must(key, case):
            hit.append(key)
    return any(True for _ in _placings(ground, left, staying, hit, case, accepts))


def _placings(
    ground: Ground,
    nodes: Sequence[Node],
    seats: Seats,
    keys: Sequence[str],
    case: Case,
    accepts: Accepts,
) -> Iterator[Seats]:
    """Yield every placing of `keys` beside `seats` that is accepted, like nodes told apart once."""
    if not keys:
        if all(accepts(node, load, case) for node, load in ground.loads(seats).items()):
            yield seats
        return
    key, *others = keys
    ways = ground.ways(key, case)
    empty_tried: set[Pool] = set()
    taken = mean_busy(ground, seats)
    for node in nodes:
        if node.pool not in ways or (node not in taken and node.pool in empty_tried):
            continue
        if node not in taken:
            empty_tried.add(node.pool)
        placed = {**seats, key: Seat(node, ways[node.pool])}
        if mean_busy(ground, placed)[node] < 1:
            yield from _placings(ground, nodes, placed, others, case, accepts)
