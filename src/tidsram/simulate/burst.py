"""The burst that a declaration stands for: how many questions may come at once within it.

A critical decision's questions beyond its token bucket (1.25 × the declared rate) count as
standard. The bucket must be deep enough that the declared process itself hardly ever meets its
bottom: `smallest_burst` finds that depth by simulation (DESIGN §4.3).
"""

import numpy as np
from msgspec.structs import replace
from numpy.random import Generator  # noqa: TID251 - the type only; the caller makes one

from tidsram.estate.types import Estate, left_open
from tidsram.schedule.bucket import HEADROOM

LEAST = 2  # a periodic source with jitter now and then sends two close together
REPLICAS = 512  # simulated beside each other
ENOUGH = 100  # of the rare ones, where
MOST = 2_000_000  # arrivals hold so many: a node waits for this at its start
WARM_UP = 20  # times the burst: by then the full bucket at the start is forgotten


def smallest_burst(rng: Generator, kind: str, cv: float, objective: float) -> int:
    """Return the smallest burst for which (1 − objective) ÷ 10 of the arrivals find no token.

    `kind` is periodic, poisson or gamma with coefficient of variation `cv` of the gaps. The rate
    plays no part: all times are in refills of one token.
    """
    if kind == "periodic":
        return LEAST
    allowed = (1 - objective) / 10
    shape = 1.0 if kind == "poisson" else 1 / cv**2
    per_replica = int(np.ceil(min(ENOUGH / allowed, MOST) / REPLICAS))
    low, high = LEAST, LEAST
    while _demoted(rng, shape, high, per_replica) > allowed:
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        if _demoted(rng, shape, middle, per_replica) > allowed:
            low = middle + 1
        else:
            high = middle
    return low


def with_bursts(estate: Estate, rng: Generator) -> Estate:
    """Return the estate with a burst wherever a critical decision's declaration leaves it open."""
    decisions = dict(estate.decisions)
    for name, decision in decisions.items():
        if (declared := left_open(decision)) is None:
            continue
        burst = smallest_burst(rng, declared.kind, declared.cv, decision.objective)
        decisions[name] = replace(decision, arrivals=replace(declared, burst=burst))
    return replace(estate, decisions=decisions)


def _demoted(rng: Generator, shape: float, burst: int, arrivals: int) -> float:
    """Return the share of arrivals that find the bucket empty."""
    owed = np.zeros(REPLICAS)  # tokens taken and not yet refilled
    demoted = 0
    warm_up = WARM_UP * burst
    for number in range(warm_up + arrivals):
        gaps = rng.gamma(shape, HEADROOM / shape, REPLICAS)
        owed = np.maximum(owed - gaps, 0)
        empty = owed > burst - 1
        owed += ~empty
        if number >= warm_up:
            demoted += int(empty.sum())
    return demoted / (arrivals * REPLICAS)
