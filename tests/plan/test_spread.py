"""Times as distributions."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng

from tidsram.estate.types import Delay
from tidsram.plan.problem import Spread
from tidsram.plan.spread import BLOCK, draw_ns, in_a_row, quantile_ns, weakest
from tidsram.units import MS, SECOND


def spread(p50_ns: int, p99_9_ns: int, *, floor_ns: int = 0, basis="declared") -> Spread:
    delay = Delay(p50_ns=p50_ns, p99_9_ns=p99_9_ns)
    return Spread(delay=delay, basis=basis, source="test", floor_ns=floor_ns)


def measured(*samples_ns: int) -> Spread:
    ordered = sorted(samples_ns)
    delay = Delay(p50_ns=ordered[len(ordered) // 2], p99_9_ns=ordered[-1])
    return Spread(delay=delay, basis="measured", source="test", samples_ns=samples_ns)


@st.composite
def declared(draw):
    floor_ns = draw(st.integers(0, SECOND))
    above_ns = draw(st.integers(1, SECOND))
    return spread(
        floor_ns + above_ns,
        floor_ns + above_ns + draw(st.integers(0, SECOND)),
        floor_ns=floor_ns,
    )


@given(declared())
def test_it_goes_through_both_quantiles(times):
    assert quantile_ns(times, 0.5) == pytest.approx(times.delay.p50_ns, abs=2)
    assert quantile_ns(times, 0.999) == pytest.approx(times.delay.p99_9_ns, rel=1e-6, abs=2)


@given(declared(), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_higher_quantile_is_no_shorter(times, one, other):
    low, high = sorted((one, other))

    assert times.floor_ns <= quantile_ns(times, low) <= quantile_ns(times, high)


@given(st.lists(st.integers(0, SECOND), min_size=1, max_size=99), st.floats(0, 1))
def test_a_measured_quantile_is_a_sample_that_covers_its_share(samples_ns, q):
    found_ns = quantile_ns(measured(*samples_ns), q)

    assert found_ns in samples_ns
    assert sum(ns <= found_ns for ns in samples_ns) >= q * len(samples_ns) * (1 - 1e-9)


@given(declared(), st.sampled_from([0.5, 0.9, 0.99]))
def test_draws_agree_with_the_quantiles(times, q):
    """The share of 20,000 draws at most a quantile is within five standard deviations of it."""
    drawn_ns = draw_ns(times, default_rng(1), 20_000)

    # A distribution narrower than rounding has all its mass at one place.
    share = np.mean(drawn_ns <= quantile_ns(times, q) + 1)
    assert share >= q - 5 * (q * (1 - q) / 20_000) ** 0.5
    if times.delay.p99_9_ns - times.delay.p50_ns > times.delay.p50_ns // 100 + 1000:
        assert share <= q + 5 * (q * (1 - q) / 20_000) ** 0.5 + 0.001
    assert drawn_ns.min() >= times.floor_ns


def test_no_spread_is_a_constant():
    assert set(draw_ns(spread(5 * MS, 5 * MS), default_rng(1), 50).tolist()) == {5 * MS}
    assert draw_ns(spread(0, 0), default_rng(1), 3).tolist() == [0, 0, 0]


def test_a_median_at_the_floor_still_reaches_the_upper_quantile():
    times = spread(2 * MS, 9 * MS, floor_ns=2 * MS)

    assert quantile_ns(times, 0.999) == pytest.approx(9 * MS, rel=1e-6)
    assert quantile_ns(times, 0.5) < 3 * MS


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK + 8, 200])
def test_every_measured_sample_is_drawn_as_often_as_any_other(count):
    """Also the first and the last: a spike there is as likely as one in the middle."""
    drawn = draw_ns(measured(*range(count)), default_rng(1), 64_000)

    often = np.bincount(drawn, minlength=count)
    assert often.sum() == 64_000
    assert often.min() > 0.7 * 64_000 / count
    assert often.max() < 1.3 * 64_000 / count


def test_measured_samples_keep_their_neighbours():
    """Of draws beside each other all but one in a block were beside each other when measured."""
    drawn = draw_ns(measured(*range(1000)), default_rng(1), 32_000)

    beside = np.mean(np.diff(drawn) % 1000 == 1)
    assert beside == pytest.approx((BLOCK - 1) / BLOCK, abs=0.001)


def test_times_in_a_row_add_up():
    both = in_a_row([spread(2 * MS, 5 * MS, floor_ns=MS), spread(3 * MS, 4 * MS)], "both")

    assert (both.delay.p50_ns, both.delay.p99_9_ns) == (5 * MS, 9 * MS)
    assert (both.floor_ns, both.source, both.samples_ns) == (MS, "both", ())


def test_measured_times_in_a_row_stay_measured_and_lose_no_sample():
    """The shorter series begins again; its longest time and the other's are both still there."""
    both = in_a_row([measured(1, 2, 3), measured(10, 20, 30, 40, 90)], "both")

    assert both.samples_ns == (11, 22, 33, 41, 92)
    assert both.basis == "measured"


def test_a_row_with_an_assumption_is_an_assumption():
    both = in_a_row([measured(1, 2, 3), spread(5, 9, basis="prior")], "both")

    assert (both.basis, both.samples_ns) == ("prior", ())
    assert both.delay == Delay(p50_ns=2 + 5, p99_9_ns=3 + 9)
    assert weakest(["measured", "declared"]) == "declared"


def test_nothing_in_a_row_takes_no_time():
    nothing = in_a_row([], "the same site")

    assert draw_ns(nothing, default_rng(1), 2).tolist() == [0, 0]
    assert quantile_ns(nothing, 0.999) == 0


def test_the_upper_quantile_is_the_normal_law_s():
    """By hand: sigma = ln(4) ÷ z(0.999), and the p99 is median × e^(sigma × z(0.99))."""
    normal = NormalDist()
    by_hand = 2 * MS * 4 ** (normal.inv_cdf(0.99) / normal.inv_cdf(0.999))

    assert quantile_ns(spread(2 * MS, 8 * MS), 0.99) == pytest.approx(by_hand, abs=1)
