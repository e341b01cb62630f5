"""Arrival processes: their rate, their order, and that a seed replays them."""

from functools import partial

import numpy as np
import pytest
from numpy.random import default_rng

from tidsram.simulate.arrivals import gamma, on_off, periodic, poisson, step, synchronised
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


def test_synchronised_sources_fire_together():
    """Four cameras of 25 a second on one trigger: a batch of four every 40 ms."""
    instants = synchronised(default_rng(0), 100, SECOND, sources=4, phase=0.5)

    assert instants.tolist() == [20 * MS + n * 40 * MS for n in range(25) for _ in range(4)]


@pytest.mark.parametrize("cv", [0.5, 1, 2, 4])
def test_gamma_has_its_rate_and_its_cv(cv):
    """Mean and spread of the gaps; the tolerance is several standard errors at this length."""
    instants = gamma(default_rng(3), 1000, cv, 200 * SECOND)

    gaps_ns = np.diff(instants)
    assert len(instants) == pytest.approx(200_000, rel=0.01 * max(cv, 1))
    assert gaps_ns.std() / gaps_ns.mean() == pytest.approx(cv, rel=0.04)
    assert np.all(gaps_ns >= 0)
    assert instants.max() < 200 * SECOND
    assert instants.dtype == np.int64


def test_on_off_has_its_rate_in_the_mean_and_ten_times_it_in_a_burst():
    """Half of the questions come in a twentieth of the time, a tenth of which is on."""
    instants = on_off(default_rng(4), 1000, 2000 * SECOND)

    counts = np.sort(np.bincount(instants // (10 * MS), minlength=200_000))[::-1]
    assert len(instants) == pytest.approx(2_000_000, rel=0.1)
    assert counts[counts > 0].mean() == pytest.approx(100, rel=0.1)
    assert counts[:10_000].sum() >= 0.45 * len(instants)
    assert (counts == 0).mean() == pytest.approx(0.9, abs=0.03)
    assert np.all(np.diff(instants) >= 0)
    assert 0 <= instants.min() <= instants.max() < 2000 * SECOND


def test_on_off_may_be_silent_throughout():
    """A day shorter than the first silence has no question."""
    assert on_off(default_rng(4), 1000, 1).tolist() == []


def test_step_changes_its_rate_at_the_instant_told():
    """Fifty seconds each of 1000, 4000, none and 1000 a second."""
    rates = [1000, 4000, 0, 1000]

    instants = step(default_rng(5), [(rate, 50 * SECOND) for rate in rates])

    counts = np.bincount(instants // (50 * SECOND), minlength=4)
    assert counts / 50 == pytest.approx(rates, rel=0.02)
    assert np.all(np.diff(instants) >= 0)


def _steps(rng, rate, duration_ns):
    return step(rng, [(rate, duration_ns), (2 * rate, duration_ns)])


def _clusters(rng, rate, duration_ns):
    return gamma(rng, rate, 2, duration_ns)


@pytest.mark.parametrize(
    "process",
    [periodic, poisson, partial(synchronised, sources=4), _clusters, on_off, _steps],
)
def test_seed_replays_the_day(process):
    """Randomness is an argument, so nothing else can change what comes."""
    first, again = (process(default_rng(7), 50, 10 * SECOND).tolist() for _ in range(2))

    assert first == again
    assert len(first) > 0
