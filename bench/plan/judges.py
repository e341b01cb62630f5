"""What a planner goes by: the mean, or the simulation. Each tells which loads it will not have."""

from collections.abc import Sequence
from math import sqrt
from typing import Protocol

from bench.plan.ground import Ground, Layout, Node, Scenario, Seats, mean_busy
from tidsram.plan.problem import Tally
from tidsram.plan.prove import Prover

HOPELESS = 0.95  # mean busy share that no simulation is asked about


class Judge(Protocol):
    """Looks at scenarios; returns the nodes that are too full, by the scenario's place."""

    def failing(self, ground: Ground, scenarios: Sequence[Scenario]) -> list[tuple[int, Node]]:
        """Return (scenario, node) for each node that does not do; empty when all is well."""


class MeanJudge:
    """A node may be busy for a share `most` of the time on average."""

    def __init__(self, most: float) -> None:
        self._most = most

    def failing(self, ground: Ground, scenarios: Sequence[Scenario]) -> list[tuple[int, Node]]:
        """Return the nodes that are busier."""
        return _busier(ground, scenarios, self._most)


class SimulationJudge:
    """Every flow's simulated share lies at least one standard error above its objective.

    The standard error is the room that a careful planner leaves for the luck of its own draws.
    """

    def __init__(self, prover: Prover) -> None:
        self._prover = prover

    def failing(self, ground: Ground, scenarios: Sequence[Scenario]) -> list[tuple[int, Node]]:
        """Return the nodes with a flow below that; those hopelessly full without simulating.

        Losses are not simulated while the first scenario fails: mending it changes them all.
        """
        if hopeless := _busier(ground, scenarios, HOPELESS):
            return hopeless
        first = self._failing(ground, list(enumerate(scenarios[:1])))
        return first or self._failing(ground, list(enumerate(scenarios))[1:])

    def _failing(
        self, ground: Ground, scenarios: Sequence[tuple[int, Scenario]]
    ) -> list[tuple[int, Node]]:
        places = [
            (number, scenario.case, node, load)
            for number, scenario in scenarios
            for node, load in ground.loads(scenario.seats).items()
        ]
        tallies = self._prover.tallies([load for *_, load in places], give_up=True)
        return [
            (number, node)
            for (number, case, node, _), told in zip(places, tallies, strict=True)
            if not all(holds(ground, k, t) for k, t in told.items() if ground.judged(k, case))
        ]


def confirms(judge: Judge, ground: Ground, layout: Layout) -> bool:
    """Tell whether `judge` has no complaint; asked bit by bit, where one is likeliest first."""
    healthy, *losses = layout.scenarios
    losses.sort(key=lambda scenario: (-fullest(ground, scenario.seats), scenario.name))
    return not any(
        judge.failing(ground, part)
        for part in ([healthy], *(losses[n : n + 2] for n in range(0, len(losses), 2)))
    )


def holds(ground: Ground, key: str, tally: Tally) -> bool:
    """Tell whether a flow's share clears its objective by a standard error."""
    objective = ground.decision(key).objective
    error = sqrt(objective * (1 - objective) / max(1, tally.asked))
    return tally.in_time >= (objective + error) * tally.asked


def fullest(ground: Ground, seats: Seats) -> float:
    """Return the mean busy share of the busiest node."""
    return max(mean_busy(ground, seats).values(), default=0.0)


def worst_failures(ground: Ground, layout: Layout, count: int) -> list[Scenario]:
    """Return the losses that leave the highest load on some node, the worst first."""
    losses = layout.scenarios[1:]
    return sorted(losses, key=lambda s: (-fullest(ground, s.seats), s.name))[:count]


def _busier(ground: Ground, scenarios: Sequence[Scenario], most: float) -> list[tuple[int, Node]]:
    return [
        (number, node)
        for number, scenario in enumerate(scenarios)
        for node, share in mean_busy(ground, scenario.seats).items()
        if share > most
    ]
