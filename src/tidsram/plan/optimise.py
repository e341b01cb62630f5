"""The cheapest machines for an instance, as a mixed-integer program solved by HiGHS.

Everything is linear because capacity is cut by effective bandwidth. When all is well every flow has
one place; in each other case only what is touched moves. Machines, open sites and what is kept
warm are the same in all cases: backups are warm before they are needed. Where flows go when
something is lost may be divided here, which makes the bound a bound; `pack` decides for whole ones.

Of a decision's variants only the leanest above its accuracy floor counts: what machines cost comes
first, and `search` spends what they have left on accuracy.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from math import inf
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from tidsram.estate.types import Criticality
from tidsram.plan.instance import LEVELS, Choice, Choices, Instance, Pool, Task
from tidsram.plan.problem import Case
from tidsram.units import MS

if TYPE_CHECKING:
    from highspy import Highs, HighsLp

GAP = 0.02  # relative; the plan prints the bound it comes to
_SHED = 1e4  # machines' worth: what has to be answered is left out only where nothing else is left
_SHED_LESS = 10.0  # and of best-effort
_TASTE = 0.01  # of a machine in all: nearness decides between equal costs
_FINE = 0.1  # of a machine: below that no cost is worth a search
FEW = 4.0  # nodes: so many there are anyway, for what is lost
_MOST, _NONE = 0.5, 1e-4


Part = tuple[str, int, str, tuple[str, ...]]  # a flow, its parts, by which variant and path
Refused = Mapping[str, Collection[frozenset[Part]]]  # by hardware type


class Solution(Struct, frozen=True):
    """What the optimiser chose.

    `placed` is each task's choice when all is well, None for what is shed; `moves[case, task]` says
    which part of what the case takes from it goes to which pool.
    """

    nodes: dict[Pool, int]
    placed: tuple[Choice | None, ...]
    moves: dict[tuple[int, int], dict[Pool, float]]
    shed: tuple[tuple[int, int], ...]  # (case, task) of what has to be answered and is not
    cost: float
    bound: float  # no choice of machines within the same cuts costs less
    full: float = 0.0  # of its room, the fullest pool; known where machines were given

    @property
    def count(self) -> int:
        """All nodes."""
        return sum(self.nodes.values())


def optimise(
    instance: Instance,
    room: Mapping[Pool, float],
    *,
    seconds: float,
    least: Mapping[Pool, int] | None = None,
    most: Mapping[Pool, int] | None = None,
    above: float = 0.0,
    below: float = inf,
    memory: bool = True,
) -> Solution | None:
    """Return the cheapest solution of those that cost `above` to `below`; None without one.

    `room` is how much bandwidth a node of each pool takes, 1 where it says nothing; `least` and
    `most` bound the nodes of pools. Without `memory` what is kept warm takes none: it makes most
    of the program's rows, and seldom matters.
    """
    return _Program(instance, room, least or {}, most or {}, (above, below), memory=memory).solve(
        seconds
    )


def balance(
    instance: Instance, room: Mapping[Pool, float], found: Solution, *, seconds: float, memory: bool
) -> Solution:
    """Return the same machines with their fullest pool as little full as can be found.

    The cheapest solution fills what it pays for to the brim; of all arrangements on its machines
    this one has most to spare for what the cut does not know.
    """
    program = _fixed(instance, room, found.nodes, fullest=1.0, memory=memory)
    program.start_from(found)
    better = program.solve(seconds)
    return found if better is None else replace(better, cost=found.cost, bound=found.bound)


def arrange(
    instance: Instance,
    room: Mapping[Pool, float],
    nodes: Mapping[Pool, int],
    *,
    seconds: float,
    fullest: float,
    memory: bool,
    refused: Refused | None = None,
) -> Solution | None:
    """Return the least full arrangement on given machines, up to `fullest` times their room.

    Where one node of a pool is left it does not get what was refused before (a combinatorial
    Benders cut); among several, `pack` avoids it.
    """
    program = _fixed(instance, room, nodes, fullest=fullest, memory=memory)
    program.avoid(refused or {})
    return program.solve(seconds)


def cost_of(instance: Instance, nodes: Mapping[Pool, int]) -> float:
    """Return what machines and the sites that they open cost in a year."""
    opened = {pool[0] for pool, count in nodes.items() if count}
    machines = sum(instance.pools[pool].yearly_cost * count for pool, count in nodes.items())
    return machines + sum(instance.site_cost[site] for site in opened)


def _fixed(
    instance: Instance,
    room: Mapping[Pool, float],
    nodes: Mapping[Pool, int],
    *,
    fullest: float,
    memory: bool,
) -> "_Program":
    exactly = dict.fromkeys(instance.pools, 0) | dict(nodes)
    return _Program(instance, room, exactly, exactly, (0.0, inf), memory=memory, fullest=fullest)


class _Program:
    """Columns and rows; each column is at most one meaning, kept in a dictionary."""

    def __init__(
        self,
        instance: Instance,
        room: Mapping[Pool, float],
        least: Mapping[Pool, int],
        most: Mapping[Pool, int],
        costs: tuple[float, float],
        *,
        memory: bool,
        fullest: float | None = None,
    ) -> None:
        self._instance, self._room, self._costs = instance, room, costs
        self._cost: list[float] = []
        self._low: list[float] = []
        self._high: list[float] = []
        self._whole: list[bool] = []
        self._rows: list[tuple[float, float, dict[int, float]]] = []
        self._shed: dict[tuple[int, int], int] = {}  # the columns of (case, task)
        self._unit = _cheapest(instance)
        balanced = fullest is not None
        self._nodes = {
            pool: self._column(
                least.get(pool, 0),
                most.get(pool, facts.most),
                0.0 if balanced else self._price(pool),
            )
            for pool, facts in instance.pools.items()
        }
        # Balanced: of given machines, how full the fullest is of its room is to be minimised.
        self._full = None if fullest is None else self._column(0, fullest, self._unit, whole=False)
        self._start: dict[int, float] = {}
        self._used = {pool: self._column(0, 1) for pool in instance.pools}
        self._opened = {
            site: self._column(0, 1, 0.0 if balanced else cost)
            for site, cost in instance.site_cost.items()
        }
        self._lean = [[lean(choices) for choices in task.choices] for task in instance.tasks]
        self._placed = [self._place(number) for number in range(len(instance.tasks))]
        # (case, task) → what moves to each pool then; only where the case touches the task
        self._moved = {
            (case, number): self._move(case, number)
            for case in range(1, len(instance.cases))
            for number, task in enumerate(instance.tasks)
            if task.touched(case)
        }

        self._machines()
        self._cover()
        if memory:
            self._memory()
        for case in range(len(instance.cases)):
            self._capacity(case)

    def _price(self, pool: Pool) -> float:
        return self._instance.pools[pool].yearly_cost or self._unit

    # Columns and rows --------------------------------------------------------------------------

    def _column(self, low: float, high: float, cost: float = 0.0, *, whole: bool = True) -> int:
        self._cost.append(cost)
        self._whole.append(whole)
        self._low.append(low)
        self._high.append(high)
        return len(self._cost) - 1

    def _row(self, low: float, high: float, terms: dict[int, float]) -> None:
        self._rows.append((low, high, terms))

    def _machines(self) -> None:
        by_site: dict[str, dict[int, float]] = {}
        spent: dict[int, float] = {}
        for pool, nodes in self._nodes.items():
            most, site = self._high[nodes], pool[0]
            self._row(-inf, 0, {nodes: 1, self._used[pool]: -most})
            self._row(-inf, 0, {self._used[pool]: 1, self._opened[site]: -1})
            by_site.setdefault(site, {})[nodes] = 1
            spent[nodes] = self._price(pool)
        for site, terms in by_site.items():
            self._row(-inf, self._instance.site_most[site], terms)
        for site, column in self._opened.items():
            spent[column] = self._instance.site_cost[site]
        if self._costs != (0.0, inf):
            self._row(*self._costs, spent)

    def _place(self, number: int) -> dict[Pool, int]:
        """When all is well a task has one place, or is shed."""
        columns = {
            pool: self._column(0, 1, self._taste(choice))
            for pool, choice in self._lean[number][0].items()
        }
        shed = self._sheds(0, number)
        self._row(1, 1, dict.fromkeys((*columns.values(), shed), 1.0))
        return columns

    def _move(self, case: int, number: int) -> dict[Pool, int]:
        """What a case takes away goes elsewhere, or back to what is left of its pool."""
        columns = {pool: self._column(0, 1, whole=False) for pool in self._lean[number][case]}
        row = dict.fromkeys(columns.values(), 1.0)
        row |= {self._placed[number][pool]: -1.0 for pool in self._loses(case, number)}
        if self._instance.tasks[number].must[case]:
            # What was shed before needs no place now.
            self._row(0, 0, row | {self._sheds(case, number): 1.0})
        else:
            self._row(-inf, 0, row)
        return columns

    def _sheds(self, case: int, number: int) -> int:
        task = self._instance.tasks[number]
        best_effort = task.decision.criticality is Criticality.BEST_EFFORT
        worth = (_SHED_LESS if best_effort else _SHED) * self._unit
        if not case and not best_effort:
            # Left out when all is well it is left out of all cases: never the cheaper way out.
            worth *= len(self._instance.cases)
        column = self._shed[case, number] = self._column(0, 1, worth, whole=not case)
        return column

    def _loses(self, case: int, number: int) -> set[Pool]:
        """Return the pools that the case takes from a task: gone, short of a node, or farther."""
        lost = self._instance.cases[case]
        before, after = self._lean[number][0], self._lean[number][case]
        return {
            pool
            for pool, choice in before.items()
            if pool == (lost.site, lost.hardware)
            or pool not in after
            or after[pool].option.path != choice.option.path
        }

    def _taste(self, choice: Choice) -> float:
        tasks = len(self._instance.tasks)
        far = min(1.0, sum(t.ns for t in choice.option.terms if t.stage == "link") / (100 * MS))
        return self._unit * _TASTE / tasks * far

    def _capacity(self, case: int) -> None:
        lost = self._instance.cases[case]
        rows: dict[tuple[Pool, int], dict[int, float]] = {}
        changed: set[Pool] = set()

        for number, choice, column in self._held(case):
            rank = self._instance.tasks[number].decision.criticality.rank
            for level in range(rank, LEVELS):
                rows.setdefault((choice.pool, level), {})[column] = choice.levels[level]
        for number in range(len(self._instance.tasks)):
            changed.update(self._moved.get((case, number), ()) if case else self._placed[number])
        levels = {task.decision.criticality.rank for task in self._instance.tasks}
        for (pool, level), row in rows.items():
            if level in levels and pool in changed:
                self._row(-inf, 0, row | self._holds(pool, lost))

    def _held(self, case: int) -> Iterator[tuple[int, Choice, int]]:
        """Yield what may be where in a case: a task, by which choice, if which column is 1."""
        for number, lean in enumerate(self._lean):
            moved = self._moved.get((case, number), {})
            gone = self._loses(case, number) if moved else ()
            for pool, column in self._placed[number].items():
                if pool not in gone and pool in lean[case]:
                    yield number, lean[0][pool], column
            for pool, column in moved.items():
                yield number, lean[case][pool], column

    def avoid(self, refused: Refused) -> None:
        """Keep what was refused from pools that have one node, case by case."""
        for case, lost in enumerate(self._instance.cases):
            columns: dict[Pool, dict[Part, list[int]]] = {}
            for number, choice, column in self._held(case):
                part = part_of(self._instance.tasks[number], choice)
                columns.setdefault(choice.pool, {}).setdefault(part, []).append(column)
            for pool, by_part in columns.items():
                left = self._low[self._nodes[pool]] - (pool == (lost.site, lost.hardware))
                for load in refused.get(pool[1], ()) if left == 1 else ():
                    if load <= by_part.keys():
                        terms = {column: 1.0 for part in load for column in by_part[part]}
                        self._row(-inf, len(load) - 1, terms)

    def _holds(self, pool: Pool, lost: Case) -> dict[int, float]:
        """Return what a pool takes in a case, as terms on the left of a row."""
        room, nodes = self._room.get(pool, 1.0), self._nodes[pool]
        hit = pool == (lost.site, lost.hardware)
        if self._full is not None:
            return {self._full: -room * max(0.0, self._low[nodes] - hit)}
        return {nodes: -room} | ({self._used[pool]: room} if hit else {})

    def _cover(self) -> None:
        """All nodes together have the memory of each decision once, twice where a node is lost.

        One row for the many of `_memory`, which says where.
        """
        lost = [case for case, what in enumerate(self._instance.cases) if what.kind == "node"]
        rows: dict[str, tuple[float, dict[int, float]]] = {}
        for number, task in enumerate(self._instance.tasks):
            share = min((self._share(c) for c in self._lean[number][0].values()), default=0.0)
            backed = [case for case in lost if task.must[case] and (case, number) in self._shed]
            copies = 2 if backed else 1
            shed = {self._shed[0, number]: copies * share}
            shed |= {self._shed[case, number]: share for case in backed}
            row = copies * share, shed
            name = task.flow.decision
            rows[name] = max(rows.get(name, (0.0, {})), row, key=lambda row: row[0])
        least = sum(share for share, _ in rows.values())
        if least > FEW:
            shed = {column: share for _, row in rows.values() for column, share in row.items()}
            self._row(least, inf, dict.fromkeys(self._nodes.values(), 1.0) | shed)

    def _share(self, choice: Choice) -> float:
        """Return how much of a node's memory the workers of a choice take."""
        facts = self._instance.pools[choice.pool]
        taken = choice.option.memory_bytes * facts.lanes
        return taken / facts.memory_bytes if facts.memory_bytes else 0.0

    def _memory(self) -> None:
        """Whatever answers in some case is warm always, and has its memory."""
        warm: dict[tuple[str, Pool], int] = {}
        shares: dict[tuple[str, Pool], float] = {}
        places = [((0, number), columns) for number, columns in enumerate(self._placed)]
        for (case, number), columns in (*places, *self._moved.items()):
            for pool, column in columns.items():
                facts = self._instance.pools[pool]
                taken = self._lean[number][case][pool].option.memory_bytes * facts.lanes
                if not facts.memory_bytes or not taken:
                    continue
                name = (self._instance.tasks[number].flow.decision, pool)
                if name not in warm:
                    warm[name] = self._column(0, 1, whole=False)
                shares[name] = max(shares.get(name, 0.0), taken / facts.memory_bytes)
                self._row(-inf, 0, {column: 1, warm[name]: -1})
        rows: dict[Pool, dict[int, float]] = {}
        for name, column in warm.items():
            pool = name[1]
            rows.setdefault(pool, {self._nodes[pool]: -1})[column] = shares[name]
        for row in rows.values():
            self._row(-inf, 0, row)

    def start_from(self, found: Solution) -> None:
        """Begin with the places of a solution that is known."""
        for columns, choice in zip(self._placed, found.placed, strict=True):
            pool = None if choice is None else choice.pool
            self._start |= {column: float(p == pool) for p, column in columns.items()}

    # The solver --------------------------------------------------------------------------------

    def solve(self, seconds: float) -> Solution | None:
        import highspy

        solver = _silent_solver()
        for option, value in (
            ("time_limit", seconds),
            ("mip_rel_gap", GAP),
            ("mip_abs_gap", _FINE * self._unit),
            ("random_seed", 1),
        ):
            solver.setOptionValue(option, value)
        solver.passModel(self._model())
        if self._start:
            columns, values = zip(*sorted(self._start.items()), strict=True)
            solver.setSolution(len(columns), np.array(columns, np.int32), np.array(values))
        solver.run()
        info = solver.getInfo()
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return None
        gap = info.objective_function_value - info.mip_dual_bound
        return self._read(np.asarray(solver.getSolution().col_value), max(0.0, gap))

    def _model(self) -> "HighsLp":
        import highspy

        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = len(self._cost), len(self._rows)
        model.col_cost_ = np.array(self._cost)
        model.col_lower_, model.col_upper_ = np.array(self._low), np.array(self._high)
        model.row_lower_ = np.array([low for low, _, _ in self._rows])
        model.row_upper_ = np.array([high for _, high, _ in self._rows])
        matrix = model.a_matrix_
        matrix.format_ = highspy.MatrixFormat.kRowwise
        matrix.start_ = np.cumsum([0, *(len(terms) for _, _, terms in self._rows)])
        matrix.index_ = np.fromiter((c for _, _, terms in self._rows for c in terms), np.int32)
        matrix.value_ = np.fromiter(
            (v for _, _, terms in self._rows for v in terms.values()), np.float64
        )
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        model.integrality_ = [kinds[whole] for whole in self._whole]
        return model

    def _read(self, values: npt.NDArray[np.float64], gap: float) -> Solution:
        nodes = {pool: round(values[column]) for pool, column in self._nodes.items()}
        nodes = {pool: count for pool, count in nodes.items() if count}
        cost = cost_of(self._instance, nodes)
        placed = tuple(
            next((lean[0][pool] for pool, c in columns.items() if values[c] > _MOST), None)
            for lean, columns in zip(self._lean, self._placed, strict=True)
        )
        moves = {
            key: {pool: float(values[c]) for pool, c in columns.items() if values[c] > _NONE}
            for key, columns in self._moved.items()
        }
        shed = tuple(
            (case, number)
            for (case, number), column in self._shed.items()
            if values[column] > _NONE and self._instance.tasks[number].must[case]
        )
        full = 0.0 if self._full is None else float(values[self._full])
        return Solution(nodes, placed, moves, shed, cost, max(0.0, cost - gap), full)


def part_of(task: Task, choice: Choice) -> Part:
    """Return what a task is to its node by one of its choices."""
    return task.flow.key, task.flow.parts, choice.option.variant, choice.option.path


def _silent_solver() -> "Highs":
    """Return a solver that says nothing: it greets on stdout while it is being made."""
    import highspy

    class Silent(highspy.Highs):
        def enableCallbacks(self) -> None:  # noqa: N802 - the solver's name for it
            self.setOptionValue("output_flag", False)
            super().enableCallbacks()  # type: ignore[no-untyped-call]

    return Silent()  # type: ignore[no-untyped-call]


def lean(choices: Choices) -> dict[Pool, Choice]:
    """Return of each pool the choice that takes least of a node."""
    leanest: dict[Pool, Choice] = {}
    for choice in choices.values():
        known = leanest.get(choice.pool)
        if known is None or choice.own < known.own:
            leanest[choice.pool] = choice
    return leanest


def _cheapest(instance: Instance) -> float:
    """Return the price of the cheapest node: the unit of what is weighed against machines."""
    prices: Iterable[float] = (facts.yearly_cost for facts in instance.pools.values())
    return min((price for price in prices if price), default=1.0)
