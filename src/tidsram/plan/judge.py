"""What simulations say of a plan's nodes: a short look at them, and a proof at length.

What a node was seen to bear, and what was too much for it, is remembered: nothing with a refused
load on it is played again, and no load twice at the same length.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import sqrt
from typing import NamedTuple, TypeVar

from tidsram.plan.instance import Instance, strain
from tidsram.plan.optimise import Part
from tidsram.plan.pack import Home, Known, Scenario, load_of, node_loads
from tidsram.plan.problem import NodeLoad, Tally
from tidsram.plan.prove import EVIDENCE, Prover, holds
from tidsram.stats import samples_needed

NEAR = 2.0  # times what may be missed: so near, chance may have broken a promise, or kept it
AT_ONCE = 4  # nodes that are played before it is asked whether one broke a promise
MANY = 15_000  # questions of one flow

Tallies = list[dict[Home, dict[str, Tally]]]  # by scenario
Broken = list[tuple[Scenario, Home, list[int]]]  # where which tasks' promises break
Ruling = Callable[[Tally, float], bool]
_T = TypeVar("_T")


class Provers(NamedTuple):
    """Simulations of four lengths: to look, to prove the healthy state and each loss, to settle."""

    quick: Prover
    healthy: Prover
    lost: Prover
    longest: Prover  # what is so near to its promise that the others do not tell

    @property
    def asked(self) -> int:
        """How many questions have been played."""
        return sum(prover.asked for prover in self)


class _Node(NamedTuple):
    """A node with what is on it, and all the scenarios in which that is so."""

    home: Home
    parts: frozenset[Part]
    load: NodeLoad
    scenarios: list[Scenario]
    healthy: bool  # one of them is


class Judge:
    """Rules on the scenarios of a plan, the fullest nodes first, until a promise breaks."""

    def __init__(self, provers: Provers) -> None:
        """Begin with nothing known."""
        self._provers, self.known = provers, Known()

    def known_to_break(self, instance: Instance, scenarios: Sequence[Scenario]) -> Broken:
        """Return the nodes that hold what was refused before, with all that is on them."""
        return [
            (scenario, home, [index for index, where in enumerate(scenario.homes) if where == home])
            for scenario in scenarios
            for home in homes(scenario)
            if self.known.refuses(home, load_of(instance, scenario, home))
        ]

    def look(self, instance: Instance, scenarios: Sequence[Scenario]) -> Broken:
        """Return what a short simulation shows to break first; what is borne is not played."""
        nodes = _by_load(instance, scenarios)
        while nodes := [n for n in nodes if not self.known.bears(n.home, n.parts)]:
            some, nodes = nodes[:AT_ONCE], nodes[AT_ONCE:]
            tallies = self._quick_tallies(instance, some)
            if broken := self._refused(_falls_short, instance, some, tallies):
                return broken
            for node, tally in zip(some, tallies, strict=True):
                if not _any_falls_short(node, tally):
                    self.known.bear(node.home, node.parts)
        return []

    def prove(self, instance: Instance, scenarios: Sequence[Scenario]) -> tuple[Tallies, Broken]:
        """Return what all nodes come to at length; where a promise breaks, that, and no more.

        What is left in doubt is asked longest, and last: none of it matters where others break.
        """
        nodes = _by_load(instance, scenarios)
        told: list[dict[str, Tally]] = []
        for some in _batches(nodes, AT_ONCE):
            tallies = self._tallies_at_length(some)
            if broken := self._refused(_breaks_clearly, instance, some, tallies):
                return [], broken
            told += tallies
        doubts = {
            number: _doubt(instance, nodes[number], told[number]) for number in range(len(nodes))
        }
        doubtful = sorted((n for n, doubt in doubts.items() if doubt), key=lambda n: -doubts[n])
        for few in _batches(doubtful, AT_ONCE // 2):
            some = [nodes[number] for number in few]
            tallies = self._longest_tallies(some)
            if broken := self._refused(_breaks, instance, some, tallies):
                return [], broken
            told = [dict(zip(few, tallies, strict=True)).get(n, t) for n, t in enumerate(told)]
        return _by_scenario(scenarios, nodes, told), []

    def play(self, instance: Instance, scenarios: Sequence[Scenario]) -> Tallies:
        """Return what all nodes come to, whatever breaks."""
        nodes = _by_load(instance, scenarios)
        return _by_scenario(scenarios, nodes, self._tallies_at_length(nodes))

    def _tallies_at_length(self, nodes: Sequence[_Node]) -> list[dict[str, Tally]]:
        """Play nodes so long that the promises on them can be proved."""
        healthy = self._provers.healthy.tallies([node.load for node in nodes if node.healthy])
        lost = self._provers.lost.tallies([node.load for node in nodes if not node.healthy])
        of_healthy, of_lost = iter(healthy), iter(lost)
        return [next(of_healthy if node.healthy else of_lost) for node in nodes]

    def _longest_tallies(self, nodes: Sequence[_Node]) -> list[dict[str, Tally]]:
        return self._provers.longest.tallies([node.load for node in nodes], give_up=True)

    def _quick_tallies(self, instance: Instance, nodes: Sequence[_Node]) -> list[dict[str, Tally]]:
        """Play nodes shortly; longest where that misses a promise by what may be bad luck."""
        tallies = self._provers.quick.tallies([node.load for node in nodes], give_up=True)
        near = [
            number
            for number, node in enumerate(nodes)
            if _tasks_that(_is_near, instance, node, tallies[number])
        ]
        again = self._longest_tallies([nodes[number] for number in near])
        for number, tally in zip(near, again, strict=True):
            tallies[number] = tally
        return tallies

    def _refused(
        self,
        ruling: Ruling,
        instance: Instance,
        nodes: Sequence[_Node],
        tallies: Sequence[Mapping[str, Tally]],
    ) -> Broken:
        """Return where promises break by a ruling, and remember these loads."""
        broken: Broken = []
        for node, tally in zip(nodes, tallies, strict=True):
            if found := _tasks_that(ruling, instance, node, tally):
                self.known.refuse(node.home, node.parts)
                broken += [(scenario, node.home, tasks) for scenario, tasks in found]
        return broken


def homes(scenario: Scenario) -> list[Home]:
    """Return the nodes that answer something."""
    return sorted({home for home in scenario.homes if home is not None})


def _by_load(instance: Instance, scenarios: Sequence[Scenario]) -> list[_Node]:
    """Return the nodes of all scenarios, those with the same on them once, the fullest first."""
    alike: dict[tuple[Home, frozenset[Part]], _Node] = {}
    for number, scenario in enumerate(scenarios):
        loads = node_loads(instance, scenario)
        for home in homes(scenario):
            parts = load_of(instance, scenario, home)
            node = _Node(home, parts, loads[home], [], healthy=number == 0)
            # What a loss does not touch is the node of the healthy state.
            alike.setdefault((home, parts), node).scenarios.append(scenario)
    return sorted(alike.values(), key=lambda node: -strain(node.scenarios[0].held(node.home)))


def _by_scenario(
    scenarios: Sequence[Scenario], nodes: Sequence[_Node], tallies: Sequence[dict[str, Tally]]
) -> Tallies:
    told = {
        (node.home, id(s)): t
        for node, t in zip(nodes, tallies, strict=True)
        for s in node.scenarios
    }
    return [{home: told[home, id(scenario)] for home in homes(scenario)} for scenario in scenarios]


def _batches(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (items[begin : begin + size] for begin in range(0, len(items), size))


def _tasks_that(
    ruling: Ruling, instance: Instance, node: _Node, tally: Mapping[str, Tally]
) -> list[tuple[Scenario, list[int]]]:
    """Return the tasks on a node that a ruling says so of, where they count, by scenario."""
    found = []
    for scenario in node.scenarios:
        case = instance.cases.index(scenario.case)
        tasks = [
            index
            for index, where in enumerate(scenario.homes)
            for task in [instance.tasks[index]]
            if where == node.home and (task.must[case] or case == 0)
            if ruling(tally[task.flow.key], task.decision.objective)
        ]
        found += [(scenario, tasks)] if tasks else []
    return found


def _any_falls_short(node: _Node, tally: Mapping[str, Tally]) -> bool:
    """Tell whether any promise is missed on a node, whether it counts in the case or not."""
    return any(_falls_short(tally[s.flow.key], s.decision.objective) for s in node.load.served)


def _doubt(instance: Instance, node: _Node, tally: Mapping[str, Tally]) -> float:
    """Return how much of what may be missed is, of the most doubtful flow; 0 without doubt."""
    return max(
        (
            _missed(tally[task.flow.key], task.decision.objective)
            for _, tasks in _tasks_that(_is_doubtful, instance, node, tally)
            for task in (instance.tasks[index] for index in tasks)
        ),
        default=0.0,
    )


def _missed(tally: Tally, objective: float) -> float:
    """Return which part was missed of what may be; more than 1 falls short."""
    return (tally.asked - tally.in_time) / max(1, tally.asked) / (1 - objective)


def _breaks(tally: Tally, objective: float) -> bool:
    """Tell whether a promise is not kept, or so nearly not that it must be taken for it."""
    share = tally.in_time / max(1, tally.asked)
    if holds(tally, objective) == "contradicted" or share < objective:
        return True
    # What is this near to its promise by so many questions will not be told apart by more.
    error = sqrt(objective * (1 - objective) / max(1, tally.asked))
    return _is_doubtful(tally, objective) and tally.asked >= MANY and share < objective + error


def _breaks_clearly(tally: Tally, objective: float) -> bool:
    return _breaks(tally, objective) and not _is_doubtful(tally, objective)


def _falls_short(tally: Tally, objective: float) -> bool:
    """Tell whether a first look lets less than the promised share be in time."""
    return tally.in_time < objective * tally.asked


def _is_near(tally: Tally, objective: float) -> bool:
    """Tell whether a promise is missed by so little that its questions may have had bad luck.

    Those that wait for each other are missed together: less evidence than the bound takes them for.
    """
    return _falls_short(tally, objective) and _missed(tally, objective) <= NEAR


def _is_doubtful(tally: Tally, objective: float) -> bool:
    """Tell whether more questions could prove or break a promise."""
    provable = tally.asked >= samples_needed(objective, EVIDENCE)
    return provable and _missed(tally, objective) <= NEAR and holds(tally, objective) != "met"
