"""Machines a step away: what else could be bought instead of these."""

from collections.abc import Iterator, Mapping

from tidsram.plan.instance import Instance, Pool
from tidsram.plan.optimise import cost_of

Machines = dict[Pool, int]


def machines_near(
    instance: Instance,
    machines: Mapping[Pool, int],
    costs: tuple[float, float],
    least: Mapping[Pool, int],
    most: Mapping[Pool, int],
) -> list[Machines]:
    """Return machines of which up to two are gone and up to one has come, the cheapest first.

    Only those that cost from the first of `costs` to less than the second, and keep within
    `least`, `most` and what a site may have.
    """
    low, high = costs
    near = {
        frozenset(step.items()): step
        for step in _steps(instance, machines)
        if low <= cost_of(instance, step) < high and _may_be(instance, step, least, most)
    }
    return sorted(near.values(), key=lambda step: (cost_of(instance, step), sorted(step.items())))


def _steps(instance: Instance, machines: Mapping[Pool, int]) -> Iterator[Machines]:
    nodes = sorted(pool for pool, count in machines.items() for _ in range(min(count, 2)))
    pairs = {(one, other) for n, one in enumerate(nodes) for other in nodes[n + 1 :]}
    for gone in sorted({(), *((pool,) for pool in nodes), *pairs}):
        left = dict(machines)
        for pool in gone:
            left[pool] -= 1
        for come in (None, *instance.pools):
            step = left if come is None else left | {come: left.get(come, 0) + 1}
            yield {pool: count for pool, count in step.items() if count}


def _may_be(
    instance: Instance,
    machines: Mapping[Pool, int],
    least: Mapping[Pool, int],
    most: Mapping[Pool, int],
) -> bool:
    at_site: dict[str, int] = {}
    for pool, count in machines.items():
        at_site[pool[0]] = at_site.get(pool[0], 0) + count
    return (
        all(machines.get(pool, 0) >= count for pool, count in least.items())
        and all(
            count <= most.get(pool, instance.pools[pool].most) for pool, count in machines.items()
        )
        and all(count <= instance.site_most[site] for site, count in at_site.items())
    )
