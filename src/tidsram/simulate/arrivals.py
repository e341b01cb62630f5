"""Instants at which questions come. Randomness is an argument, so a seed replays a day."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from numpy.random import Generator  # noqa: TID251 - the type only; the caller makes one

from tidsram.units import MS, SECOND

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


def synchronised(
    rng: Generator,
    rate: float,
    duration_ns: int,
    *,
    sources: int,
    phase: float | None = None,
) -> Instants:
    """Return the instants in ns of periodic sources that fire together, `rate` a second in all.

    Cameras on one trigger line come as a batch each period, which no Poisson process foretells.
    """
    return np.repeat(periodic(rng, rate / sources, duration_ns, phase=phase), sources)


def gamma(rng: Generator, rate: float, cv: float, duration_ns: int) -> Instants:
    """Return the instants in ns of a renewal process, `rate` a second, in ascending order.

    Gaps are gamma distributed with the coefficient of variation `cv`: 1 is a Poisson process,
    above it questions come in clusters. AlpaServe (OSDI 2023) fits production traces with it.
    """
    shape = 1 / cv**2
    mean_ns = SECOND / rate
    parts, last_ns = [np.empty(0)], 0.0
    while last_ns < duration_ns:
        gaps_ns = rng.gamma(shape, mean_ns / shape, _about((duration_ns - last_ns) / mean_ns))
        parts.append(last_ns + np.cumsum(gaps_ns))
        last_ns = float(parts[-1][-1])
    instants = np.concatenate(parts)
    return instants[instants < duration_ns].astype(np.int64)


def on_off(
    rng: Generator,
    rate: float,
    duration_ns: int,
    *,
    factor: float = 10,
    on_ns: int = 200 * MS,
) -> Instants:
    """Return the instants in ns of bursts with silence between, `rate` a second in the mean.

    Poisson of `factor` × `rate` while on, nothing while off; the spans are exponential with mean
    `on_ns` and (`factor` − 1) × `on_ns`. This is the interrupted Poisson process (Kuczura 1973),
    the smallest Markov-modulated one.
    """
    cycle_ns = factor * on_ns
    begins, ends, last_ns = [np.empty(0)], [np.empty(0)], rng.exponential(cycle_ns - on_ns)
    while last_ns < duration_ns:
        count = _about((duration_ns - last_ns) / cycle_ns)
        on, off = rng.exponential(on_ns, count), rng.exponential(cycle_ns - on_ns, count)
        nexts = last_ns + np.cumsum(on + off)
        begins.append(np.concatenate([[last_ns], nexts[:-1]]))
        ends.append(begins[-1] + on)
        last_ns = float(nexts[-1])
    begin_ns, end_ns = (np.minimum(np.concatenate(p), duration_ns) for p in (begins, ends))
    # Poisson on the time that is on, then put back where that time lies.
    on_until_ns = np.cumsum(end_ns - begin_ns)
    total_ns = int(on_until_ns[-1]) if len(on_until_ns) else 0
    at_ns = poisson(rng, rate * factor, total_ns)
    span = np.searchsorted(on_until_ns, at_ns, side="right")
    instants: Instants = (at_ns + (end_ns - on_until_ns)[span]).astype(np.int64)
    return instants


def step(rng: Generator, rates_and_spans: Iterable[tuple[float, int]]) -> Instants:
    """Return the instants in ns of Poisson processes one after another.

    Each pair is a rate in questions a second and how long it holds in ns; rate 0 is silence.
    """
    parts, begin_ns = [np.empty(0, np.int64)], 0
    for rate, span_ns in rates_and_spans:
        parts.append(begin_ns + poisson(rng, rate, span_ns))
        begin_ns += span_ns
    return np.concatenate(parts)


def _about(mean: float) -> int:
    """As many draws as are probably enough: a few standard deviations more than the mean."""
    return int(mean + 6 * mean**0.5) + 16
