"""From pools to single machines: which node of a pool answers which flow, in every scenario.

The optimiser knows pools only. Here flows go to nodes, the largest first to the least loaded
(longest processing time first, Graham 1969), and each node of a pool is lost in turn. What a
simulation has refused before is avoided where there is a choice.
"""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from tidsram.plan.instance import LEVELS, Choice, Instance, Pool, strain
from tidsram.plan.optimise import Part, Solution, lean, part_of
from tidsram.plan.problem import Case, NodeLoad, Served

CROWDED = 0.5  # of a node: so much fuller may it be to save a worker once half its memory is taken


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


class Known:
    """What nodes of a hardware type were seen to bear, and what was too much for them.

    With still more on it a node that breaks a promise breaks one as well; with less it keeps all.
    """

    def __init__(self) -> None:
        """Begin with nothing known."""
        self._refused: dict[str, set[frozenset[Part]]] = {}
        self._borne: dict[str, set[frozenset[Part]]] = {}

    def refuse(self, home: Home, load: frozenset[Part]) -> None:
        """Remember that a node like this broke a promise."""
        known = self._refused.setdefault(home.pool[1], set())
        known -= {more for more in known if load <= more}
        known.add(load)

    def bear(self, home: Home, load: frozenset[Part]) -> None:
        """Remember that a node like this kept all promises."""
        known = self._borne.setdefault(home.pool[1], set())
        known -= {less for less in known if less <= load}
        known.add(load)

    def refuses(self, home: Home, load: frozenset[Part]) -> bool:
        """Tell whether this, or less, broke a promise."""
        return any(less <= load for less in self._refused.get(home.pool[1], ()))

    def refused(self, hardware: str) -> list[frozenset[Part]]:
        """Return what was too much for nodes of a type, in an order that is always the same."""
        return sorted(self._refused.get(hardware, ()), key=sorted)

    def bears(self, home: Home, load: frozenset[Part]) -> bool:
        """Tell whether this, or more, kept all."""
        return any(load <= more for more in self._borne.get(home.pool[1], ()))


def load_of(instance: Instance, scenario: Scenario, home: Home) -> frozenset[Part]:
    """Return what is on a node."""
    places = zip(instance.tasks, scenario.homes, scenario.choices, strict=True)
    return frozenset(
        part_of(task, c) for task, where, c in places if where == home and c is not None
    )


def pack(instance: Instance, solution: Solution, known: Known | None = None) -> list[Scenario]:
    """Return all scenarios of a solution, the healthy one first."""
    healthy = _Nodes(instance, solution.nodes, known or Known())
    for number in _by_size(range(len(instance.tasks)), solution.placed):
        choice = solution.placed[number]
        if choice is not None:
            healthy.put(number, [choice], lean(instance.tasks[number].choices[0]).values())
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

    def __init__(self, instance: Instance, counts: Mapping[Pool, int], known: Known) -> None:
        self._instance, self._known = instance, known
        self._warm: dict[Home, dict[str, int]] = {}  # bytes by decision, over all scenarios
        self._held: dict[Home, dict[int, Choice]] = {
            Home(pool, index): {} for pool, count in counts.items() for index in range(count)
        }

    def without(self, case: Case, lost: Home | None) -> "_Nodes":
        """Return a copy that lacks what is lost."""
        copy = _Nodes(self._instance, {}, self._known)
        copy._warm = self._warm
        copy._held = {
            home: dict(held)
            for home, held in self._held.items()
            if home != lost and not (case.kind == "site" and home.pool[0] == case.site)
        }
        return copy

    def home(self, number: int) -> Home | None:
        """Return where a task is."""
        return next((home for home, held in self._held.items() if number in held), None)

    def put(self, number: int, wished: Iterable[Choice], others: Iterable[Choice]) -> None:
        """Put a task where one of the wished choices leaves the node least full.

        Where each of them was refused before, has no memory for it or would be overfull, the others
        count as well; nowhere without a node. On what is short of memory, who is warm already comes
        first.
        """
        first = list(wished)
        places = self._places(number, first) if first else []
        if not places or any(places[0][:2]) or places[0][2] > 1:
            places = sorted([*places, *self._places(number, others)], key=lambda place: place[:4])
        if places:
            *_, home, choice = places[0]
            self._held[home][number] = choice
            warm, name = self._warm.setdefault(home, {}), self._instance.tasks[number].decision.name
            warm[name] = max(warm.get(name, 0), choice.option.memory_bytes)

    def _places(
        self, number: int, choices: Iterable[Choice]
    ) -> list[tuple[bool, bool, float, Home, Choice]]:
        """Return where a task could be, the best first."""
        by_pool = {choice.pool: choice for choice in choices}
        places = [
            (
                self._is_refused(home, number, choice),
                not self._has_memory(home, number, choice),
                self._full_with(home, choice) + self._crowded(home, number),
                home,
                choice,
            )
            for home in self._held
            if (choice := by_pool.get(home.pool)) is not None
        ]
        return sorted(places, key=lambda place: place[:4])

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

    def _is_refused(self, home: Home, number: int, choice: Choice) -> bool:
        tasks, held = self._instance.tasks, self._held[home]
        load = frozenset(part_of(tasks[n], c) for n, c in (*held.items(), (number, choice)))
        return self._known.refuses(home, load)

    def _crowded(self, home: Home, number: int) -> float:
        """Return what a worker more counts as, in nodes: nothing while there is memory for many."""
        warm, facts = self._warm.get(home, {}), self._instance.pools[home.pool]
        if not facts.memory_bytes or self._instance.tasks[number].decision.name in warm:
            return 0.0
        return CROWDED * (2 * sum(warm.values()) * facts.lanes > facts.memory_bytes)

    def _has_memory(self, home: Home, number: int, choice: Choice) -> bool:
        facts = self._instance.pools[home.pool]
        # What answers in any scenario is warm in all.
        warm, name = self._warm.get(home, {}), self._instance.tasks[number].decision.name
        more = max(warm.get(name, 0), choice.option.memory_bytes)
        taken = (sum(warm.values()) - warm.get(name, 0) + more) * facts.lanes
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
            nodes.put(number, wished, choices.values())


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
