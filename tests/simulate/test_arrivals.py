"""Arrival processes: their rate, their order, and that a seed replays them."""

import numpy as np
import pytest
from numpy.random import default_rng

from tidsram.simulate.arrivals import periodic, poisson
from tidsram.units import MS, SECOND


def test_periodic_comes_at_even_steps_from_its_phase():
    """Ten a second from a quarter of a period on, as whole nanoseconds."""
    instants = periodic(default_rng(0), 10, SECOND, phase=0.25)

    assert instants.tolist() == [25 * MS + n * 100 * MS for n in range(10)]
    assert instants.dtype == np.int64


def test_periodic_draws_its_phase():
    """Two cameras that nobody synchronised do not fire together."""
    first, second = (periodic(default_rng(seed), 10, SECOND)[0] for seed in (1, 2))

    assert first != second
    assert 0 <= first < 100 * MS


def test_jitter_comes_late_never_early_and_stays_in_order():
    """Even jitter longer than a period keeps the instants ascending."""
    plain = periodic(default_rng(0), 1000, SECOND, phase=0)

    jittered = periodic(default_rng(0), 1000, SECOND, phase=0, jitter_ns=3 * MS)

    assert np.all(np.diff(jittered) >= 0)
    assert np.all(jittered >= plain)
    assert jittered.max() < SECOND + 3 * MS


@pytest.mark.parametrize("seed", range(3))
def test_poisson_has_its_rate_and_its_spread(seed):
    """Counts in 10 ms: mean and variance are the same, as they are for no other process."""
    instants = poisson(default_rng(seed), 1000, 100 * SECOND)

    counts = np.bincount(instants // (10 * MS), minlength=10_000)

    assert counts.mean() == pytest.approx(10, rel=0.02)
    assert counts.var() == pytest.approx(10, rel=0.06)
    assert np.all(np.diff(instants) >= 0)
    assert instants.max() < 100 * SECOND


@pytest.mark.parametrize("process", [periodic, poisson])
def test_seed_replays_the_day(process):
    """Randomness is an argument, so nothing else can change what comes."""
    first, again = (process(default_rng(7), 50, SECOND).tolist() for _ in range(2))

    assert first == again
