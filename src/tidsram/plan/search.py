"""From programs to machines whose promises hold: solve, look, go down by steps, prove.

A program proposes machines, a short simulation looks at them. From what seems to hold the search
goes down to cheaper machines, and proves the cheapest at length. What the proof refuses is never
proved again: other arrangements first, then one machine more where the promise broke. So it ends.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import inf

from msgspec import Struct
from msgspec.structs import replace

from tidsram.clock import now_ns
from tidsram.errors import PlanError
from tidsram.plan.accuracy import better_variants
from tidsram.plan.instance import MOST_PARTS, Choice, Choices, Instance, Key, Pool, Task
from tidsram.plan.judge import Broken, Judge, Provers, Tallies
from tidsram.plan.machines import machines_near
from tidsram.plan.optimise import Solution, arrange, balance, cost_of, optimise
from tidsram.plan.pack import (
    Scenario,
    fullness,
    pack,
    short_of_memory,
    with_variants,
)
from tidsram.plan.problem import Case
from tidsram.units import SECOND

FIRST_ROOM = 0.85  # of a node: the cut is a bound, but a sum knows nothing of whole flows
FULLEST = 1.15  # nodes: beyond that by the cut, no arrangement is worth a look
LOOKS = 6  # at one solution, each avoiding what the others were refused for
PROOFS = 2  # that fail at one cost before a machine more is bought
ARRANGE_SECONDS = 5.0
LEAST_SECONDS = 3.0  # of solving, for a bound
REFINED = 3  # proofs of better variants: all, then all but where they break something
ROUND_SECONDS, TASK_SECONDS = 4.0, 0.12  # of solving, while the cut is still being found
_LESS = 1 - 1e-6
STEP, LONGEST_STEP = 0.96, 0.85  # of what broke a promise: so much less the next time
ALONE_FULL = 0.4  # of a node: a flow that breaks its promise there alone is too much for one


class Found(Struct, frozen=True, kw_only=True):
    """What the search came to. `tallies` are of the long simulation; `holds` when all promises do.

    `room` is how much bandwidth a node of each pool turned out to take.
    """

    instance: Instance
    solution: Solution
    scenarios: tuple[Scenario, ...]
    tallies: Tallies
    broken: Broken
    holds: bool
    rounds: int
    room: dict[Pool, float]
    limits: "Limits"
    solve_ns: int
    verify_ns: int


class Limits(Struct, frozen=True):
    """What bounds a search.

    `rounds` bounds the programs solved and the machines bought beyond them. In a row, `tries`
    machines are looked at in vain, or as many as `questions` allow. One program takes `seconds` at
    most, and after `patience` seconds nothing cheaper is looked for. `least` and `most` bound the
    nodes of pools; `room` is where the cut begins.
    """

    rounds: int = 24
    tries: int = 24
    questions: int = 3_000_000
    patience: float = 240.0
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
        self._judge = Judge(provers)
        self._tried: set[frozenset[tuple[Pool, int]]] = set()  # machines
        self._too_full: dict[int, float] = {}  # what so many nodes broke promises at
        self._refuted: Counter[float] = Counter()  # proofs that failed, by cost
        self._instance = make(self._parts)
        self._room = dict.fromkeys(self._instance.pools, FIRST_ROOM) | limits.room
        self._rounds = self._solve_ns = self._verify_ns = 0
        self._until_ns = now_ns() + round(limits.patience * SECOND)

    def run(self) -> Found:
        """Find what seems to hold, go down from there step by step, and prove the cheapest."""
        found = self._climbed(self._descent(self._first()))
        while found.holds and (cheaper := self._descent(found)[1:]):
            lower = self._proved_of(cheaper)
            if not lower.holds:
                break
            found = lower
        if not found.holds:
            found = replace(found, tallies=self._judge.play(found.instance, found.scenarios))
        return self._bounded(self._refined(found))

    def _first(self) -> Found:
        """Return what the program finds, or the next dearer that seems to hold."""
        found = self._try(0.0) or self._try(0.0, patient=True)
        if found is None:
            raise PlanError(
                "the optimiser",
                f"found nothing in {self._limits.seconds:g} s; give it longer with --seconds, or "
                "plan fewer decisions at once",
            )
        return found if found.holds else self._dearer(found)

    def _dearer(self, found: Found) -> Found:
        """Go on to dearer machines until something seems to hold.

        A machine more where a promise broke first; then the program, with less room there.
        """
        while not found.holds and not found.solution.shed and self._rounds < self._limits.rounds:
            if found.instance is not self._instance:  # a flow comes in more parts, or elsewhere
                found = self._try(0.0) or replace(found, instance=self._instance)
            elif (larger := self._with_one_more(found)) is not None:
                found = larger
            else:
                # A tighter cut makes nothing cheaper; knowing that spares the solver the proof.
                found = self._try(found.solution.cost * _LESS) or found
        return found

    def _descent(self, found: Found) -> list[Found]:
        """Return what seems to hold for less, each a step from the one before."""
        seem = [found]
        while seem[-1].holds and (cheaper := self._step(seem[-1])) is not None:
            seem.append(cheaper)
        return seem

    def _step(self, found: Found) -> Found | None:
        """Return the cheapest that seems to hold a step down; None without one within reach."""
        limits, failures = self._limits, 0
        enough = self._provers.asked + limits.questions
        for nodes in machines_near(
            self._instance,
            found.solution.nodes,
            (0.0, found.solution.cost),
            limits.least,
            limits.most,
        ):
            if self._refuted[cost_of(self._instance, nodes)] >= PROOFS or self._was_tried(nodes):
                continue
            if failures >= limits.tries or self._provers.asked > enough:
                return None
            if now_ns() > self._until_ns:
                return None
            count = sum(nodes.values())
            tried = self._arranged(nodes, self._too_full.get(count, FULLEST))
            if tried is not None and tried.holds:
                return tried
            if tried is not None:
                self._too_full[count] = tried.solution.full * _LESS
                failures += 1
        return None

    def _was_tried(self, nodes: Mapping[Pool, int]) -> bool:
        """Tell whether these machines were looked at; from now on they were."""
        machines = frozenset(nodes.items())
        before = machines in self._tried
        self._tried.add(machines)
        return before

    def _proved_of(self, seem: list[Found]) -> Found:
        """Prove the last of what seems to hold; where that fails, rearranged, then the one before.

        Returns what was proved, or else the first of them, as its proof failed.
        """
        while True:
            found = self._prove(seem.pop())
            if found.holds:
                return found
            if self._refuted[found.solution.cost] < PROOFS:
                other = self._arranged(found.solution.nodes)
                if other is not None and other.holds:
                    seem.append(other)
                    continue
            if not seem:
                return found

    def _climbed(self, seem: list[Found]) -> Found:
        """Return the cheapest of these that is proved, or the next dearer machines that are."""
        if not seem[-1].holds:
            return seem[-1]
        found = self._proved_of(seem)
        while not found.holds and self._rounds < self._limits.rounds:
            found = self._dearer(found)
            if not found.holds:
                break
            found = self._proved_of([found])
        return found

    def _with_one_more(self, found: Found) -> Found | None:
        """Return it with the cheapest node more where it lacks one; None where none may be had."""
        limits, own = self._limits, found.solution.nodes
        lacking = short_of_memory(found.instance, found.scenarios) or {
            home.pool for _, home, _ in found.broken
        }
        sites = {site for site, _ in lacking}
        for nodes in machines_near(
            self._instance, own, (found.solution.cost / _LESS, inf), limits.least, limits.most
        ):
            changed = {pool[0] for pool, _ in nodes.items() ^ own.items()}
            if changed <= sites and not self._was_tried(nodes):
                self._rounds += 1
                larger = self._arranged(nodes)
                if larger is not None:
                    return larger
        return None

    def _arranged(self, nodes: Mapping[Pool, int], fullest: float = FULLEST) -> Found | None:
        """Look at given machines; None where the program sees that they are too few or too full."""
        begun_ns = now_ns()
        solution = arrange(
            self._instance,
            {},
            nodes,
            seconds=ARRANGE_SECONDS,
            fullest=fullest,
            memory=self._memory,
            refused={hardware: self._judge.known.refused(hardware) for _, hardware in nodes},
        )
        self._solve_ns += now_ns() - begun_ns
        if solution is None or solution.shed:
            return None
        found = self._looked(replace(solution, bound=0.0), f"{solution.full:.0%} full")
        # The bound is to be of cuts that allow it.
        room = {pool: max(room, solution.full) for pool, room in self._room.items()}
        return replace(found, room=room)

    def _prove(self, seems: Found) -> Found:
        """Return what seemed to hold with the long simulations' tallies and verdict."""
        begun_ns = now_ns()
        broken = self._judge.known_to_break(seems.instance, seems.scenarios)
        tallies: Tallies = []
        if not broken:
            tallies, broken = self._judge.prove(seems.instance, seems.scenarios)
        proved = replace(seems, tallies=tallies, broken=broken, holds=not broken)
        self._verify_ns += now_ns() - begun_ns
        if broken:
            self._refuted[seems.solution.cost] += 1
            self._learn_room(proved)
        cost = f"{seems.solution.cost:,.0f}"
        self._say(f"cost {cost} is {'not borne out' if broken else 'proved'}")
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
            tallies, broken = self._judge.prove(instance, scenarios)
            if not broken:
                refined = replace(found, scenarios=tuple(scenarios), tallies=tallies)
                break
            homes = {home for _, home, _ in broken}
            variants = {key: v for key, v in variants.items() if key[0] not in homes}
        self._verify_ns += now_ns() - begun_ns
        return refined

    def _bounded(self, found: Found) -> Found:
        """Return what was found with a bound that the solver had time for.

        Memory is left out: fewer rows are sooner proved, and what they allow costs no more.
        """
        begun_ns, limits = now_ns(), self._limits
        left = max(LEAST_SECONDS, limits.seconds - self._solve_ns / SECOND)
        proof = optimise(
            found.instance,
            found.room,
            seconds=left,
            least=limits.least,
            most=limits.most,
            below=found.solution.cost,
            memory=False,
        )
        self._solve_ns += now_ns() - begun_ns
        bound = min(found.solution.cost, proof.bound if proof else found.solution.bound)
        return replace(
            found,
            solution=replace(found.solution, bound=bound),
            rounds=self._rounds,
            solve_ns=self._solve_ns,
            verify_ns=self._verify_ns,
        )

    def _try(self, above: float, *, patient: bool = False) -> Found | None:
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
        self._tried.add(frozenset(solution.nodes.items()))
        found = self._looked(solution, f"round {self._rounds}")
        if not found.holds:
            self._learn_room(found)
        return found

    def _looked(self, solution: Solution, which: str) -> Found:
        """Pack and simulate shortly; again without what was refused, as long as that helps."""
        begun_ns = now_ns()
        found = self._packed(solution)
        for _ in range(LOOKS):
            if not found.holds:
                break
            broken = self._judge.look(found.instance, found.scenarios)
            found = replace(found, broken=broken, holds=not broken)
            if not broken:
                break
            found = self._packed(solution)
        self._verify_ns += now_ns() - begun_ns
        self._say(
            f"{which}: {solution.count} nodes, cost {solution.cost:,.0f}, "
            + ("seems to hold" if found.holds else "does not hold")
        )
        return found

    def _packed(self, solution: Solution) -> Found:
        """Pack a solution; it does not hold where it comes to what was refused before."""
        instance = self._instance
        scenarios = pack(instance, solution, self._judge.known)
        short = short_of_memory(instance, scenarios)
        broken = self._judge.known_to_break(instance, scenarios)
        found = Found(
            instance=instance,
            solution=solution,
            scenarios=tuple(scenarios),
            tallies=[],
            broken=broken,
            holds=not (short or solution.shed or broken or unplaced(instance, scenarios)),
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
        return found

    def _learn_room(self, found: Found) -> None:
        """Give pools less room than what broke a promise, so that this is not chosen again."""
        too_much: dict[Pool, float] = {}
        for scenario, home, tasks in found.broken:
            for index in tasks:
                choice = scenario.choices[index]
                assert choice is not None, "who breaks a promise has one"
                if _is_alone(choice, scenario.held(home)):
                    self._cannot(found.instance.tasks[index], choice)
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
