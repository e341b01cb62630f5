"""Times as distributions: their quantiles, their sums, and draws from them."""

from collections.abc import Sequence
from math import exp, log
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from numpy.random import Generator  # noqa: TID251 - the type only; the caller makes one

from tidsram.estate.types import Delay
from tidsram.plan.problem import Basis, Spread

Ints = npt.NDArray[np.int64]

BLOCK = 32  # runs drawn in a row, so that slow ones stay beside each other as they were
_WEAKEST_FIRST: tuple[Basis, ...] = ("prior", "declared", "measured")
_NORMAL = NormalDist()
_Z_P99_9 = _NORMAL.inv_cdf(0.999)


def quantile_ns(spread: Spread, q: float) -> int:
    """Return the `q`-quantile; of measured samples never more than the largest."""
    if spread.samples_ns:
        return int(np.quantile(np.asarray(spread.samples_ns), q, method="higher"))
    median_ns, sigma = _lognormal(spread)
    if median_ns == 0:
        return spread.floor_ns
    return spread.floor_ns + round(median_ns * exp(sigma * _NORMAL.inv_cdf(q)))


def draw_ns(spread: Spread, rng: Generator, count: int) -> Ints:
    """Return `count` times. Measured ones come in blocks: a bootstrap that keeps what follows what.

    The samples are a circle (Politis & Romano 1992), else those at either end would be rarer.
    """
    if spread.samples_ns:
        samples = np.asarray(spread.samples_ns, np.int64)
        starts = rng.integers(0, len(samples), -(-count // BLOCK))
        places = (starts[:, None] + np.arange(BLOCK)).ravel()[:count]
        drawn: Ints = samples[places % len(samples)]
        return drawn
    median_ns, sigma = _lognormal(spread)
    times = spread.floor_ns + median_ns * np.exp(sigma * rng.standard_normal(count))
    return times.astype(np.int64)


def in_a_row(parts: Sequence[Spread], source: str) -> Spread:
    """Return the time of `parts` one after another.

    Quantiles are added, which is safe; measured samples are added place by place, the fewer of
    them again from the start, so that no slow one is left out.
    """
    measured = bool(parts) and all(part.samples_ns for part in parts)
    length = max((len(part.samples_ns) for part in parts), default=0)
    sums = np.sum([np.resize(p.samples_ns, length) for p in parts], axis=0) if measured else ()
    return Spread(
        delay=Delay(
            p50_ns=sum(part.delay.p50_ns for part in parts),
            p99_9_ns=sum(part.delay.p99_9_ns for part in parts),
        ),
        basis=weakest([part.basis for part in parts]),
        source=source,
        floor_ns=sum(part.floor_ns for part in parts),
        samples_ns=tuple(int(ns) for ns in sums),
    )


def weakest(bases: Sequence[Basis]) -> Basis:
    """Return what a sum of such parts rests on."""
    return min(bases, key=_WEAKEST_FIRST.index, default="measured")


def _lognormal(spread: Spread) -> tuple[float, float]:
    """Return median (without the floor) and sigma of the time through both quantiles."""
    median_ns = float(max(0, spread.delay.p50_ns - spread.floor_ns))
    tail_ns = max(median_ns, spread.delay.p99_9_ns - spread.floor_ns)
    if median_ns == 0:
        # A median at the floor: all that is above it must still reach the upper quantile.
        median_ns = tail_ns / 1000
    return median_ns, log(tail_ns / median_ns) / _Z_P99_9 if tail_ns else 0.0
