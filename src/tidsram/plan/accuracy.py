"""Spend what bought machines have left on accuracy: slower, better variants where they fit.

The optimiser takes of every decision the leanest variant above its floor, as machines cost and
accuracy does not. Here each node goes back up the ladder as far as its strain allows, and what the
simulation does not bear out is taken back.
"""

from collections.abc import Iterator, Sequence

from tidsram.plan.instance import Instance, strain
from tidsram.plan.pack import Home, Scenario, short_of_memory, with_variants

FILL = 0.5  # of a node: as much strain as a better variant may bring it to

Variants = dict[tuple[Home, str], str]  # by node and decision


def better_variants(instance: Instance, scenarios: Sequence[Scenario]) -> Variants:
    """Return the most accurate variant of each decision that every node it is on can take."""
    chosen: Variants = {}
    for home, decision in sorted(set(_warm(instance, scenarios))):
        current = _current(instance, scenarios, home, decision)
        for variant in _ladder(instance, scenarios, home, decision):
            if variant == current:
                break
            tried = [
                with_variants(instance, scenario, chosen | {(home, decision): variant})
                for scenario in scenarios
            ]
            before = max(strain(scenario.held(home)) for scenario in scenarios)
            after = max(strain(scenario.held(home)) for scenario in tried)
            if after <= max(before, FILL) and not short_of_memory(instance, tried):
                chosen[home, decision] = variant
                break
    return chosen


def _warm(instance: Instance, scenarios: Sequence[Scenario]) -> Iterator[tuple[Home, str]]:
    for scenario in scenarios:
        for task, home in zip(instance.tasks, scenario.homes, strict=True):
            if home is not None:
                yield home, task.flow.decision


def _current(instance: Instance, scenarios: Sequence[Scenario], home: Home, decision: str) -> str:
    return next(
        choice.option.variant
        for scenario in scenarios
        for task, where, choice in zip(
            instance.tasks, scenario.homes, scenario.choices, strict=True
        )
        if where == home and choice is not None and task.flow.decision == decision
    )


def _ladder(
    instance: Instance, scenarios: Sequence[Scenario], home: Home, decision: str
) -> list[str]:
    """Return the variants that every flow of the decision can have on a node, the best first."""
    offered = [
        {c.option.variant: c.option.accuracy for c in task.choices[case].values() if c.pool == pool}
        for scenario in scenarios
        for case in [instance.cases.index(scenario.case)]
        for task, where in zip(instance.tasks, scenario.homes, strict=True)
        for pool in [home.pool]
        if where == home and task.flow.decision == decision
    ]
    common = set.intersection(*(set(variants) for variants in offered))
    return sorted(common, key=lambda variant: (-offered[0][variant], variant))
