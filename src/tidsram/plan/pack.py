"""From pools to single machines: which node of a pool answers which flow, in every scenario.

The optimiser knows pools only. Here flows go to nodes, the largest first to the least loaded
(longest processing time first, Graham 1969), and each node of a pool is lost in turn.
"""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from tidsram.plan.instance import LEVELS, Choice, Instance, Pool, strain
from tidsram.plan.optimise import Solution, lean
from tidsram.plan.problem import Case, NodeLoad, Served


class Home(Struct, frozen=True, order=True):
    """One node of a pool; `index` counts from 0."""

    pool: Pool
    index: int


class Scenario(Struct, frozen=True):
    """A case, for one lost node where it is about a node: where each task is answered then."""

    case: Case
    lost: Home | None
    homes: tuple[Home | None, ...]  # by task; None: not answered
    choices: tuple[Choice | None, ...]

    def held(self, home: Home) -> list[Choice]:
        """Return the choices that a node serves."""
        pairs = zip(self.homes, self.choices, strict=True)
        return [choice for where, choice in pairs if where == home and choice is not None]


def pack(instance: Instance, solution: Solution) -> list[Scenario]:
    """Return all scenarios of a solution, the healthy one first."""
    healthy = _Nodes(instance, solution.nodes)
    for number in _by_size(range(len(instance.tasks)), solution.placed):
        choice = solution.placed[number]
        if choice is not None:
            healthy.put(number, [choice])
    scenarios = [healthy.scenario(instance.cases[0], None)]
    for number, case in enumerate(instance.cases[1:], start=1):
        for lost in _lost_nodes(case, solution):
            nodes = healthy.without(case, lost)
            _rehome(instance, solution, number, nodes)
            scenarios.append(nodes.scenario(case, lost))
    return _one_variant_each(instance, scenarios)


def node_loads(instance: Instance, scenario: Scenario) -> dict[Home, NodeLoad]:
    """Return what each node serves in a scenario."""
    served: dict[Home, list[Served]] = {}
    for task, home, choice in zip(instance.tasks, scenario.homes, scenario.choices, strict=True):
        if home is not None and choice is not None:
            one = Served(decision=task.decision, flow=task.flow, option=choice.option)
            served.setdefault(home, []).append(one)
    return {
        home: NodeLoad(lanes=instance.pools[home.pool].lanes, served=tuple(flows))
        for home, flows in served.items()
    }


def with_variants(
    instance: Instance, scenario: Scenario, variants: Mapping[tuple[Home, str], str]
) -> Scenario:
    """Return the scenario with variants by node and decision, wherever they are an option."""
    case = instance.cases.index(scenario.case)
    choices = list(scenario.choices)
    for number, (home, choice) in enumerate(zip(scenario.homes, choices, strict=True)):
        task = instance.tasks[number]
        if home is not None and choice is not None and (home, task.flow.decision) in variants:
            key = (*home.pool, variants[home, task.flow.decision])
            choices[number] = task.choices[case].get(key, choice)
    return Scenario(scenario.case, scenario.lost, scenario.homes, tuple(choices))


def short_of_memory(instance: Instance, scenarios: Sequence[Scenario]) -> set[Pool]:
    """Return the pools with a node that keeps more warm, for all scenarios, than it can hold."""
    warm: dict[Home, dict[str, int]] = {}
    for scenario in scenarios:
        for task, home, choice in zip(
            instance.tasks, scenario.homes, scenario.choices, strict=True
        ):
            if home is not None and choice is not None:
                warm.setdefault(home, {})[task.flow.decision] = choice.option.memory_bytes
    return {
        home.pool
        for home, taken in warm.items()
        for facts in [instance.pools[home.pool]]
        if facts.memory_bytes and sum(taken.values()) * facts.lanes > facts.memory_bytes
    }


def fullness(choices: Iterable[Choice]) -> list[float]:
    """Return the bandwidth of flows together, as each criticality rank sees it."""
    total = [0.0] * LEVELS
    for choice in choices:
        for level, taken in enumerate(choice.levels):
            total[level] += taken
    return total


class _Nodes:
    """The nodes of a scenario while flows are put on them."""

    def __init__(self, instance: Instance, counts: dict[Pool, int]) -> None:
        self._instance = instance
        self._held: dict[Home, dict[int, Choice]] = {
            Home(pool, index): {} for pool, count in counts.items() for index in range(count)
        }

    def without(self, case: Case, lost: Home | None) -> "_Nodes":
        """Return a copy that lacks what is lost."""
        copy = _Nodes(self._instance, {})
        copy._held = {
            home: dict(held)
            for home, held in self._held.items()
            if home != lost and not (case.kind == "site" and home.pool[0] == case.site)
        }
        return copy

    def home(self, number: int) -> Home | None:
        """Return where a task is."""
        return next((home for home, held in self._held.items() if number in held), None)

    def put(self, number: int, choices: Sequence[Choice]) -> None:
        """Put a task where one of `choices` leaves the node least full; nowhere without one."""
        places = [
            (not self._has_memory(home, number, choice), self._full_with(home, choice), home)
            for choice in choices
            for home in self._held
            if home.pool == choice.pool
        ]
        if places:
            home = min(places)[2]
            self._held[home][number] = next(c for c in choices if c.pool == home.pool)

    def take(self, home: Home, number: int) -> None:
        """Take a task from its node."""
        del self._held[home][number]

    def replace(self, home: Home, number: int, choice: Choice) -> None:
        """Leave a task where it is, by another of its choices."""
        self._held[home][number] = choice

    def scenario(self, case: Case, lost: Home | None) -> Scenario:
        """Return what came of it."""
        tasks = range(len(self._instance.tasks))
        where = {number: home for home, held in self._held.items() for number in held}
        homes = [where.get(number) for number in tasks]
        choices = [
            None if home is None else self._held[home][number] for number, home in enumerate(homes)
        ]
        return Scenario(case, lost, tuple(homes), tuple(choices))

    def _full_with(self, home: Home, choice: Choice) -> float:
        return strain([*self._held[home].values(), choice])

    def _has_memory(self, home: Home, number: int, choice: Choice) -> bool:
        facts = self._instance.pools[home.pool]
        workers = {self._instance.tasks[n].decision.name: c for n, c in self._held[home].items()}
        workers[self._instance.tasks[number].decision.name] = choice
        taken = sum(c.option.memory_bytes for c in workers.values()) * facts.lanes
        return not facts.memory_bytes or taken <= facts.memory_bytes


def _rehome(instance: Instance, solution: Solution, case: int, nodes: _Nodes) -> None:
    """Give a new place to what lost its own, or whose option the case changed."""
    displaced: list[int] = []
    for number, task in enumerate(instance.tasks):
        home = nodes.home(number)
        if home is None:
            displaced.append(number)
        elif task.touched(case):
            before = lean(task.choices[0]).get(home.pool)
            after = lean(task.choices[case]).get(home.pool)
            if before is None or after is None or before.option.path != after.option.path:
                nodes.take(home, number)
                displaced.append(number)
            else:
                nodes.replace(home, number, after)
    for number in _by_size(displaced, solution.placed):
        choices = lean(instance.tasks[number].choices[case])
        wished = [choices[pool] for pool in solution.moves.get((case, number), {})]
        if wished or instance.tasks[number].must[case]:
            nodes.put(number, wished or list(choices.values()))


def _by_size(numbers: Iterable[int], places: Sequence[Choice | None]) -> list[int]:
    """Return the tasks, the largest first."""
    sizes = [0.0 if place is None else place.own for place in places]
    return sorted(numbers, key=lambda number: (-sizes[number], number))


def _lost_nodes(case: Case, solution: Solution) -> list[Home | None]:
    if case.kind != "node":
        return [None]
    pool = (case.site, case.hardware)
    return [Home(pool, index) for index in range(solution.nodes.get(pool, 0))]


def _one_variant_each(instance: Instance, scenarios: Sequence[Scenario]) -> list[Scenario]:
    """A node keeps one variant of a decision warm: the leanest that all it answers can use."""
    usable: dict[tuple[Home, str], dict[str, Choice]] = {}
    for scenario in scenarios:
        case = instance.cases.index(scenario.case)
        for task, home in zip(instance.tasks, scenario.homes, strict=True):
            if home is None:
                continue
            choices = task.choices[case]
            keys = {v.name: (*home.pool, v.name) for v in task.decision.ladder}
            here = {name: choices[key] for name, key in keys.items() if key in choices}
            known = usable.setdefault((home, task.flow.decision), here)
            for name in known.keys() - here.keys():
                del known[name]
    variants = {
        place: min(common.values(), key=lambda choice: choice.own).option.variant
        for place, common in usable.items()
        if common
    }
    return [with_variants(instance, scenario, variants) for scenario in scenarios]
