"""Instants at which questions come. Randomness is an argument, so a seed replays a day."""

import numpy as np
import numpy.typing as npt
from numpy.random import Generator  # noqa: TID251 - the type only; the caller makes one

from tidsram.units import SECOND

Instants = npt.NDArray[np.int64]


def periodic(
    rng: Generator,
    rate: float,
    duration_ns: int,
    *,
    phase: float | None = None,
    jitter_ns: int = 0,
) -> Instants:
    """Return instants in ns, `rate` a second, in ascending order.

    `phase` is the share of a period before the first, drawn when None; each instant comes up to
    `jitter_ns` late.
    """
    period_ns = SECOND / rate
    first_ns = (rng.random() if phase is None else phase) * period_ns
    instants = np.arange(first_ns, duration_ns, period_ns)
    if jitter_ns:
        instants = np.sort(instants + rng.random(len(instants)) * jitter_ns)
    return instants.astype(np.int64)


def poisson(rng: Generator, rate: float, duration_ns: int) -> Instants:
    """Return the instants in ns of a Poisson process of `rate` a second, in ascending order."""
    count = rng.poisson(rate * duration_ns / SECOND)
    return np.sort((rng.random(count) * duration_ns).astype(np.int64))
