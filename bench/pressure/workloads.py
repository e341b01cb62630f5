"""What is asked of one lane: kinds of questions, when they come, and how long each run takes.

Loads are in full runs: at load 1 the most accurate variant of everything would just keep the lane
busy. Everybody who is compared meets the same questions.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from msgspec import Struct
from numpy.random import Generator

from tidsram.estate.types import Criticality
from tidsram.simulate.arrivals import (
    Instants,
    gamma,
    on_off,
    periodic,
    poisson,
    step,
    synchronised,
)
from tidsram.units import MS, SECOND, US

SERVICE_NS, CV = 2200 * US, 0.05
RUNGS, ACCURACY = (1.0, 0.5), (1.0, 0.9)  # variants: share of the time, and share of right answers
SOURCES = 4  # that fire together
CLOSE, MOST_DRAWS = 0.02, 10_000  # to the mean number of questions; before giving up
STEPS = (0.5, 2.0, 0.5)  # of the mean rate, a third of the time each

Process = Callable[[Generator, float, int], Instants]

ARRIVALS: dict[str, Process] = {
    "periodic": periodic,
    "synchronised": lambda rng, rate, span_ns: synchronised(rng, rate, span_ns, sources=SOURCES),
    "poisson": poisson,
    "gamma 2": lambda rng, rate, span_ns: gamma(rng, rate, 2, span_ns),
    "gamma 4": lambda rng, rate, span_ns: gamma(rng, rate, 4, span_ns),
    "on-off": on_off,
    "step": lambda rng, rate, span_ns: step(rng, [(f * rate, span_ns // 3) for f in STEPS]),
}


class Kind(Struct, frozen=True):
    """Questions to one decision from one asker; `share` is its part of the offered work.

    `declared` is the rate it was declared with, as a multiple of the rate at which it comes.
    """

    decision: str
    criticality: Criticality
    budget_ns: int
    share: float
    rungs: Sequence[float] = RUNGS
    asker: str = ""
    declared: float = 1.0


class Asked(Struct, frozen=True, eq=False):
    """The questions of a kind; `service_ns` is each one's time with the most accurate variant."""

    kind: Kind
    rate: float  # questions a second
    arrivals_ns: Instants
    service_ns: Instants


MIXED = (
    Kind("critical", Criticality.CRITICAL, 5 * SERVICE_NS, 0.5),
    Kind("standard", Criticality.STANDARD, 30 * SERVICE_NS, 0.5),
)
SINGLE = (Kind("single", Criticality.STANDARD, 20 * MS, 1.0, (1.0,)),)
JUDGED = (Kind("long", Criticality.STANDARD, 40 * SERVICE_NS, 1.0),)  # so that many wait
WORKLOADS: Mapping[str, Sequence[Kind]] = {"mixed": MIXED, "single": SINGLE}


def draw(
    kinds: Sequence[Kind], arrivals: str, load: float, work_s: float, seed: int
) -> list[Asked]:
    """Draw the questions of a cell: about `work_s` seconds of work, at `load`.

    Each kind has its own randomness, so it asks the same when it asks alone. A process with long
    bursts would seldom come to its mean in the time, and the loads of cells not be comparable:
    taken is the first draw that comes within CLOSE of it.
    """
    span_ns = int(work_s / load * SECOND)
    return [
        _questions(kind, arrivals, load, span_ns, np.random.default_rng([seed, place]))
        for place, kind in enumerate(kinds)
    ]


def _questions(kind: Kind, arrivals: str, load: float, span_ns: int, rng: Generator) -> Asked:
    rate = kind.share * load * SECOND / SERVICE_NS
    mean = rate * span_ns / SECOND
    for _ in range(MOST_DRAWS):
        arrivals_ns = ARRIVALS[arrivals](rng, rate, span_ns)
        if abs(len(arrivals_ns) - mean) <= CLOSE * mean:
            break
    else:
        raise SystemExit(f"No draw of {arrivals!r} comes near its mean: simulate more seconds.")
    service_ns = np.maximum(rng.normal(SERVICE_NS, CV * SERVICE_NS, len(arrivals_ns)), 1)
    return Asked(kind, rate, arrivals_ns, service_ns.astype(np.int64))


class Stress(Struct, frozen=True):
    """What shows a mechanism of ours at work: questions, and the figure of one kind to look at.

    A run of the decision that `hangs` stops there every HUNG_NS, if it has one.
    """

    kinds: Sequence[Kind]
    load: float
    watched: str
    figure: str
    hangs: str = ""


HUNG_NS = 200 * MS
TIGHT_NS = 5 * SERVICE_NS
FLOOD = (
    Kind("keeps", Criticality.CRITICAL, TIGHT_NS, 0.3 / 1.6),
    Kind("floods", Criticality.CRITICAL, TIGHT_NS, 1.3 / 1.6, declared=0.3 / 1.3),
)
GREED = (
    Kind("shared", Criticality.STANDARD, 20 * MS, 0.1, (1.0,), asker="modest"),
    Kind("shared", Criticality.STANDARD, 20 * MS, 0.9, (1.0,), asker="greedy"),
)
FAULT = (
    Kind("healthy", Criticality.CRITICAL, TIGHT_NS, 0.5),
    Kind("hangs", Criticality.CRITICAL, TIGHT_NS, 0.5),
)
STRESS: dict[str, Stress] = {
    "declared higher work": Stress(MIXED, 1.2, "standard", "evicted_of_admitted"),
    "eviction at once": Stress(MIXED, 1.2, "standard", "missed_of_admitted"),
    "ladder": Stress(MIXED, 1.2, "standard", "goodput"),
    "token bucket": Stress(FLOOD, 1.6, "keeps", "goodput"),
    "per-asker fairness": Stress(GREED, 2.0, "modest", "goodput"),
    "stuck runs set aside": Stress(FAULT, 0.6, "healthy", "goodput", hangs="hangs"),
    "admission": Stress(MIXED, 2.0, "standard", "evicted_of_admitted"),
}
