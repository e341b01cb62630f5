"""Solve, simulate, tighten, solve again: until what the optimiser chose keeps its promises.

Where the simulation shows a broken promise, nodes of that pool are given less room than what broke
it, and the program is solved anew. What passes a short simulation is proved by a long one. Once
something holds, cheaper machines are tried the same way.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import inf, sqrt
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from tidsram.clock import now_ns
from tidsram.errors import PlanError
from tidsram.plan.accuracy import better_variants
from tidsram.plan.instance import MOST_PARTS, Choice, Choices, Instance, Key, Pool, Task
from tidsram.plan.optimise import Solution, balance, optimise
from tidsram.plan.pack import (
    Home,
    Scenario,
    fullness,
    node_loads,
    pack,
    short_of_memory,
    with_variants,
)
from tidsram.plan.problem import Case, Tally
from tidsram.plan.prove import EVIDENCE, Prover, holds
from tidsram.stats import samples_needed
from tidsram.units import SECOND

FIRST_ROOM = 0.85  # of a node: the cut is a bound, but a sum knows nothing of whole flows
LOOSER = 1.12  # times the room that something seemed to hold with
REFINED = 2  # simulations of better variants: all, then all but where they break something
ROUND_SECONDS, TASK_SECONDS = 4.0, 0.12  # of solving, while the cut is still being found
_LESS = 1 - 1e-6
STEP, LONGEST_STEP = 0.96, 0.85  # of what broke a promise: so much less the next time
MANY = 15_000  # questions of one flow
ALONE_FULL = 0.4  # of a node: a flow that breaks its promise there alone is too much for one

Tallies = list[dict[Home, dict[str, Tally]]]  # by scenario
Broken = dict[tuple[int, Home], list[int]]  # (scenario, node) → tasks whose promise breaks there


class Provers(NamedTuple):
    """Simulations of four lengths: to look, to prove the healthy state and each loss, to settle."""

    quick: Prover
    healthy: Prover
    lost: Prover
    longest: Prover  # what is so near to its promise that the others do not tell


class Found(Struct, frozen=True, kw_only=True):
    """What the search came to. `tallies` are of the long simulation; `holds` when all promises do.

    `room` is how much bandwidth a node of each pool turned out to take.
    """

    instance: Instance
    solution: Solution
    scenarios: tuple[Scenario, ...]
    tallies: Tallies
    holds: bool
    rounds: int
    room: dict[Pool, float]
    limits: "Limits"
    solve_ns: int
    verify_ns: int


class Limits(Struct, frozen=True):
    """What bounds a search: rounds, and seconds of the last solve.

    Once something holds, cheaper is looked for until that fails `tries` times in a row or
    `patience` seconds are over. `least` and `most` bound the nodes of pools; `room` is where the
    cut begins.
    """

    rounds: int = 40
    tries: int = 3
    patience: float = 120.0
    seconds: float = 20.0
    least: dict[Pool, int] = {}
    most: dict[Pool, int] = {}
    room: dict[Pool, float] = {}


def search(
    make: Callable[[Mapping[str, int]], Instance],
    provers: Provers,
    limits: Limits,
    say: Callable[[str], None],
) -> Found:
    """Return the cheapest found whose promises hold; without one, the last that was tried.

    `make` returns the instance for so many parts of a flow, by the name of the flow.
    """
    return _Search(make, provers, limits, say).run()


class _Search:
    def __init__(
        self,
        make: Callable[[Mapping[str, int]], Instance],
        provers: Provers,
        limits: Limits,
        say: Callable[[str], None],
    ) -> None:
        self._make, self._provers, self._limits, self._say = make, provers, limits, say
        self._parts: dict[str, int] = {}
        self._memory = False  # it is left out of the program until it turns out to matter
        self._failures: Counter[Pool] = Counter()  # so that what fails often is tightened faster
        self._ruled_out: set[tuple[str, Key]] = set()
        self._instance = make(self._parts)
        self._room = dict.fromkeys(self._instance.pools, FIRST_ROOM) | limits.room
        self._rounds = self._solve_ns = self._verify_ns = 0

    def run(self) -> Found:
        """Look for what seems to hold, then for cheaper, and prove the cheapest that can be."""
        seem = [self._tightened(0.0)]
        failures, until_ns = 0, now_ns() + round(self._limits.patience * SECOND)
        while seem[-1].holds and failures < self._limits.tries and now_ns() < until_ns:
            if not seem[-1].solution.cost:
                break  # nothing is cheaper
            if not failures:
                self._room = {pool: room * LOOSER for pool, room in self._room.items()}
                self._failures.clear()
            cheaper = self._try(0.0, seem[-1].solution.cost * _LESS)
            if cheaper is None or cheaper.solution.shed:
                break
            failures = 0 if cheaper.holds else failures + 1
            seem += [cheaper] if cheaper.holds else []
        found = seem[-1]
        while seem and found.holds and not (found := self._prove(seem.pop())).holds:
            if not seem and self._rounds < self._limits.rounds:
                seem.append(self._tightened(found.solution.cost * _LESS))
            found = seem[-1] if seem else found
        return self._bounded(self._refined(found))

    def _tightened(self, above: float) -> Found:
        """Solve and look, with less room after each failure, until something seems to hold."""
        found = self._try(above, inf) or self._try(above, inf, patient=True)
        if found is None:
            raise PlanError(
                "the optimiser",
                f"found nothing in {self._limits.seconds:g} s; give it longer with --seconds, or "
                "plan fewer decisions at once",
            )
        while not found.holds and not found.solution.shed and self._rounds < self._limits.rounds:
            # A tighter cut makes nothing cheaper, and knowing that spares the solver the proof.
            found = self._try(found.solution.cost * _LESS, inf) or found
        return found

    def _prove(self, seems: Found) -> Found:
        """Return what seemed to hold with the long simulations' tallies and verdict."""
        begun_ns = now_ns()
        proved = self._play(seems, proven=True)
        self._verify_ns += now_ns() - begun_ns
        cost = f"{seems.solution.cost:,.0f}"
        self._say(f"cost {cost} is {'proved' if proved.holds else 'not borne out'}")
        return proved

    def _refined(self, found: Found) -> Found:
        """Return what was found with better variants where they keep all promises too."""
        if not found.holds:
            return found
        begun_ns = now_ns()
        instance = found.instance
        variants = better_variants(instance, found.scenarios)
        refined = found
        for _ in range(REFINED if variants else 0):
            scenarios = [with_variants(instance, one, variants) for one in found.scenarios]
            tallies = play(self._provers, instance, scenarios, proven=True)
            self._settle(instance, scenarios, tallies)
            broken = _tasks_that(_breaks, instance, scenarios, tallies)
            if not broken:
                refined = replace(found, scenarios=tuple(scenarios), tallies=tallies)
                break
            homes = {home for _, home in broken}
            variants = {key: v for key, v in variants.items() if key[0] not in homes}
        self._verify_ns += now_ns() - begun_ns
        return refined

    def _bounded(self, found: Found) -> Found:
        """Return what was found with a bound that the solver had time for."""
        begun_ns = now_ns()
        limits = self._limits
        proof = optimise(
            found.instance,
            found.room,
            seconds=limits.seconds,
            least=limits.least,
            most=limits.most,
            below=found.solution.cost,
            memory=self._memory,
        )
        self._solve_ns += now_ns() - begun_ns
        bound = min(found.solution.cost, proof.bound) if proof else found.solution.bound
        return replace(
            found,
            solution=replace(found.solution, bound=bound),
            rounds=self._rounds,
            solve_ns=self._solve_ns,
            verify_ns=self._verify_ns,
        )

    def _try(self, above: float, below: float, *, patient: bool = False) -> Found | None:
        """Solve once and simulate; tighten where a promise breaks."""
        limits, begun_ns = self._limits, now_ns()
        enough = ROUND_SECONDS + TASK_SECONDS * len(self._instance.tasks)
        seconds = limits.seconds if patient else min(limits.seconds, enough)
        self._rounds += 1
        solution = optimise(
            self._instance,
            self._room,
            seconds=seconds,
            least=limits.least,
            most=limits.most,
            above=above,
            below=below,
            memory=self._memory,
        )
        if solution is not None:
            solution = balance(
                self._instance,
                self._room,
                solution,
                seconds=seconds / 2,
                memory=self._memory,
            )
        self._solve_ns += now_ns() - begun_ns
        if solution is None:
            return None
        begun_ns = now_ns()
        found = self._look(solution)
        self._verify_ns += now_ns() - begun_ns
        self._say(
            f"round {self._rounds}: {solution.count} nodes, cost {solution.cost:,.0f}, "
            + ("seems to hold" if found.holds else "does not hold")
        )
        return found

    def _look(self, solution: Solution) -> Found:
        """Pack a solution and simulate it shortly."""
        scenarios = pack(self._instance, solution)
        short = short_of_memory(self._instance, scenarios)
        found = Found(
            instance=self._instance,
            solution=solution,
            scenarios=tuple(scenarios),
            tallies=[],
            holds=not (short or solution.shed or unplaced(self._instance, scenarios)),
            rounds=0,
            room=dict(self._room),
            limits=self._limits,
            solve_ns=0,
            verify_ns=0,
        )
        if short:
            # The program did not count memory, or counted it for a pool and not for its nodes.
            self._narrow({pool: self._room[pool] for pool in short} if self._memory else {})
            self._memory = True
        return self._play(found, proven=False)

    def _play(self, found: Found, *, proven: bool) -> Found:
        """Simulate, the healthy state first as most fail there; tighten where a promise breaks."""
        tallies: Tallies = []
        for scenarios in (found.scenarios[:1], found.scenarios):
            tallies = play(self._provers, found.instance, scenarios, proven=proven)
            if proven:
                self._settle(found.instance, scenarios, tallies)
            judge = _breaks if proven else _is_contradicted
            broken = _tasks_that(judge, found.instance, scenarios, tallies)
            if broken:
                self._tighten(found.instance, scenarios, broken)
                return replace(found, tallies=tallies, holds=False)
        return replace(found, tallies=tallies)

    def _settle(self, instance: Instance, scenarios: Sequence[Scenario], tallies: Tallies) -> None:
        """Ask more often where a promise seems kept, and the questions do not prove it yet."""
        doubtful = list(_tasks_that(_is_doubtful, instance, scenarios, tallies))
        loads = [node_loads(instance, scenarios[number])[home] for number, home in doubtful]
        longest = self._provers.longest.tallies(loads)
        for (number, home), tally in zip(doubtful, longest, strict=True):
            before = tallies[number][home]
            # What a loss does not touch shares the tally of the healthy state.
            for played in tallies:
                if played.get(home) is before:
                    played[home] = tally

    def _tighten(self, instance: Instance, scenarios: Sequence[Scenario], broken: Broken) -> None:
        """Give pools less room than what broke a promise, so that this is not chosen again."""
        too_much: dict[Pool, float] = {}
        for (number, home), tasks in broken.items():
            scenario = scenarios[number]
            for index in tasks:
                choice = scenario.choices[index]
                assert choice is not None, "who breaks a promise has one"
                if _is_alone(choice, scenario.held(home)):
                    self._cannot(instance.tasks[index], choice)
                else:
                    mean = _mean_fullness(scenario, home.pool, choice.rank)
                    too_much[home.pool] = min(mean, too_much.get(home.pool, inf))
        self._narrow(too_much)

    def _narrow(self, too_much: Mapping[Pool, float]) -> None:
        for pool, room in too_much.items():
            self._failures[pool] += 1
            step = max(LONGEST_STEP, STEP ** self._failures[pool])
            self._room[pool] = min(self._room[pool], room) * step

    def _cannot(self, task: Task, choice: Choice) -> None:
        """A flow that fails with a node to itself is divided, or does not go there."""
        flow = task.flow
        if choice.own > ALONE_FULL and flow.parts < MOST_PARTS:
            self._parts[flow.whole] = flow.parts + 1
            self._instance = _without(self._make(self._parts), self._ruled_out)
        else:
            self._ruled_out.add((flow.whole, choice.key))
            self._instance = _without(self._instance, self._ruled_out)


def play(
    provers: Provers, instance: Instance, scenarios: Sequence[Scenario], *, proven: bool
) -> Tallies:
    """Simulate the nodes of every scenario; those that a loss does not touch, only once."""
    healthy = node_loads(instance, scenarios[0])
    lost = [
        (number, home, load)
        for number, scenario in enumerate(scenarios[1:], start=1)
        for home, load in node_loads(instance, scenario).items()
        if load != healthy.get(home)
    ]
    first = provers.healthy if proven else provers.quick
    known = dict(
        zip(healthy, first.tallies(list(healthy.values()), give_up=not proven), strict=True)
    )
    tallies: Tallies = [known]
    for scenario in scenarios[1:]:
        homes = {home for home in scenario.homes if home is not None}
        tallies.append({home: known[home] for home in homes if home in known})
    then = provers.lost if proven else provers.quick
    played = then.tallies([load for _, _, load in lost], give_up=not proven)
    for (number, home, _), tally in zip(lost, played, strict=True):
        tallies[number][home] = tally
    return tallies


def _is_alone(choice: Choice, held: Sequence[Choice]) -> bool:
    """Tell whether nothing on its node can make a flow wait."""
    return all(other is choice or other.rank > choice.rank for other in held)


def _mean_fullness(scenario: Scenario, pool: Pool, rank: int) -> float:
    """Return the bandwidth on a pool's nodes, as those of a criticality see it, by node."""
    homes = {home for home in scenario.homes if home is not None and home.pool == pool}
    held = [choice for home in homes for choice in scenario.held(home)]
    return fullness(held)[rank] / len(homes)


def unplaced(instance: Instance, scenarios: Sequence[Scenario]) -> list[tuple[Case, Task]]:
    """Return what must be answered in a case and has no place there."""
    return [
        (scenario.case, task)
        for scenario in scenarios
        for task, home in zip(instance.tasks, scenario.homes, strict=True)
        if home is None and task.must[instance.cases.index(scenario.case)]
    ]


def _tasks_that(
    judge: Callable[[Tally, float], bool],
    instance: Instance,
    scenarios: Sequence[Scenario],
    tallies: Tallies,
) -> Broken:
    """Return the tasks that `judge` says so of, among those that must be answered or could be."""
    found: Broken = {}
    for number, (scenario, played) in enumerate(zip(scenarios, tallies, strict=False)):
        case = instance.cases.index(scenario.case)
        for index, home in enumerate(scenario.homes):
            task = instance.tasks[index]
            if home is None or not (task.must[case] or case == 0):
                continue
            if judge(played[home][task.flow.key], task.decision.objective):
                found.setdefault((number, home), []).append(index)
    return found


def _breaks(tally: Tally, objective: float) -> bool:
    """Tell whether a promise is not kept, or so nearly not that it must be taken for it."""
    share = tally.in_time / max(1, tally.asked)
    if _is_contradicted(tally, objective) or share < objective:
        return True
    # What is this near to its promise by so many questions will not be told apart by more.
    error = sqrt(objective * (1 - objective) / max(1, tally.asked))
    return _is_doubtful(tally, objective) and tally.asked >= MANY and share < objective + error


def _is_contradicted(tally: Tally, objective: float) -> bool:
    """Tell whether a first look rules a promise out; what is near to it is left to the proof."""
    return holds(tally, objective) == "contradicted"


def _is_doubtful(tally: Tally, objective: float) -> bool:
    """Tell whether a promise seems kept, without a proof though there could be one."""
    provable = tally.asked >= samples_needed(objective, EVIDENCE)
    kept = tally.in_time >= objective * tally.asked
    return provable and kept and holds(tally, objective) != "met"


def _without(instance: Instance, ruled_out: set[tuple[str, Key]]) -> Instance:
    """Return the instance without choices that turned out not to hold."""

    def kept(task: Task, choices: Choices) -> Choices:
        name = task.flow.whole
        return {key: c for key, c in choices.items() if (name, key) not in ruled_out}

    def thinned(task: Task) -> Task:
        healthy = kept(task, task.choices[0])
        others = (
            kept(task, choices) if task.touched(case) else healthy
            for case, choices in enumerate(task.choices[1:], start=1)
        )
        return replace(task, choices=(healthy, *others))

    return replace(instance, tasks=tuple(thinned(task) for task in instance.tasks))
