"""Statistics: histograms lose at most a sixteenth, bounds are exact, nothing is claimed early."""

import math
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tidsram.stats import (
    BUCKETS,
    bucket,
    bucket_top_ns,
    claimable,
    count_at_most,
    lower_bound,
    percentile,
    quantile,
    samples_needed,
    upper_bound,
    verdict,
)

LOWEST, HIGHEST = 2**10, 2**36 - 1
TIMES = st.integers(LOWEST, HIGHEST)


def at_most(k: int, n: int, p: Fraction) -> Fraction:
    """Return P(at most k hits in n), in exact arithmetic: the oracle for every bound."""
    return sum(
        (math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1)), start=Fraction(0)
    )


def histogram(times):
    counts = [0] * BUCKETS
    for ns in times:
        counts[bucket(ns)] += 1
    return counts


def test_buckets_touch_without_gap_or_overlap():
    """Walk all edges: the top of each bucket is in it, and one more ns is in the next."""
    tops = [bucket_top_ns(index) for index in range(BUCKETS)]

    assert [bucket(top) for top in tops] == list(range(BUCKETS))
    assert [bucket(top + 1) for top in tops[:-1]] == list(range(1, BUCKETS))
    assert tops[-1] == HIGHEST


@given(TIMES)
def test_bucket_errs_upwards_by_at_most_a_sixteenth(ns):
    """Sixteen buckets an octave: the edge reported for a time is never below it."""
    top = bucket_top_ns(bucket(ns))

    assert ns <= top <= ns * 17 / 16


@given(st.integers(-(2**70), 2**70))
def test_any_time_has_a_bucket(ns):
    """A wrong clock or a very long run is counted at an end, never outside the buffer."""
    assert 0 <= bucket(ns) < BUCKETS


@given(st.lists(TIMES, min_size=1, max_size=200), st.floats(0.01, 0.9999))
def test_quantile_is_the_edge_above_the_exact_one(times, q):
    """Compare with the sorted samples."""
    rank = max(1, math.ceil(q * len(times) * (1 - 1e-12)))
    exact = sorted(times)[rank - 1]

    assert quantile(histogram(times), q) == bucket_top_ns(bucket(exact))


def test_quantile_of_no_samples_is_none():
    """There is no number to give, and 0 would be a lie."""
    assert quantile([0] * BUCKETS, 0.5) is None


def test_histogram_lives_in_shared_memory():
    """The helpers work on a memoryview of 'Q', as workers and gate share one."""
    counts = memoryview(bytearray(8 * BUCKETS)).cast("Q")

    counts[bucket(5_000_000)] += 1

    assert quantile(counts, 0.5) == bucket_top_ns(bucket(5_000_000))
    assert count_at_most(counts, 6_000_000) == 1


@given(st.lists(TIMES, max_size=100), TIMES)
def test_count_at_most_never_counts_a_later_one(times, ns):
    """It may leave out what shares the limit's bucket, and nothing else."""
    counted = count_at_most(histogram(times), ns)

    assert counted <= sum(time <= ns for time in times)
    assert counted >= sum(bucket(time) < bucket(ns) for time in times)


@given(st.lists(TIMES, max_size=100), st.integers(0, BUCKETS - 1))
def test_count_at_most_is_exact_at_an_edge(times, index):
    """At the top of a bucket nothing is in doubt."""
    edge = bucket_top_ns(index)

    assert count_at_most(histogram(times), edge) == sum(time <= edge for time in times)


@pytest.mark.parametrize(
    ("p", "needed"),
    [(0.99, (459, 662, 1307)), (0.999, (4603, 6636, 13105)), (0.9999, (46050, 66381, 131081))],
)
def test_sample_size_law(p, needed):
    """Runs needed to claim a percentile with 0, 1 and 5 misses at 99 %."""
    assert tuple(samples_needed(p, misses) for misses in (0, 1, 5)) == needed


@settings(max_examples=60)
@given(st.sampled_from([0.5, 0.8, 0.9, 0.95]), st.integers(0, 6))
def test_samples_needed_is_the_smallest_number_that_proves(p, misses):
    """Exact arithmetic: it is enough, and one sample fewer is not."""
    n = samples_needed(p, misses)

    assert at_most(misses, n, 1 - Fraction(p)) <= Fraction(1, 100)
    assert at_most(misses, n - 1, 1 - Fraction(p)) > Fraction(1, 100)


@st.composite
def seen(draw):
    """Any k of n small enough for exact arithmetic."""
    n = draw(st.integers(1, 120))
    return draw(st.integers(0, n)), n


@settings(max_examples=60)
@given(seen())
def test_bounds_are_exact(k_of_n):
    """At the bound, what was seen (or more extreme) has a probability of exactly 1 %."""
    k, n = k_of_n

    low, high = lower_bound(k, n), upper_bound(k, n)

    assert 0 <= low <= k / n <= high <= 1
    if k > 0:
        assert float(1 - at_most(k - 1, n, Fraction(low))) == pytest.approx(0.01, rel=1e-6)
    if k < n:
        assert float(at_most(k, n, Fraction(high))) == pytest.approx(0.01, rel=1e-6)


def test_bounds_hold_for_a_long_run():
    """A million samples: the known normal approximation must be near."""
    low, high = lower_bound(999_000, 1_000_000), upper_bound(999_000, 1_000_000)

    deviation = 2.3263 * math.sqrt(0.001 * 0.999 / 1_000_000)
    assert low == pytest.approx(0.999 - deviation, abs=3e-6)
    assert high == pytest.approx(0.999 + deviation, abs=3e-6)


def test_claimable_begins_where_the_law_says():
    """No misses yet: 459 samples reach beyond the p99, 458 do not."""
    assert [claimable(n, 0.99) for n in (0, 458, 459)] == [False, False, True]
    assert [claimable(n, 0.999) for n in (4602, 4603)] == [False, True]


def test_percentile_is_none_until_it_can_be_claimed():
    """Too few samples give no number, enough give the sample at the rank."""
    assert percentile(range(458), 0.99) is None
    assert percentile(range(1, 1001), 0.99) == 990
    assert percentile([], 0.5) is None
    assert percentile(range(1, 101), 0.07) == 7


@settings(max_examples=80)
@given(seen(), st.sampled_from([0.5, 0.75, 0.9, 0.99]))
def test_verdict_is_what_exact_arithmetic_says(k_of_n, objective):
    """Met and contradicted each need the 99 %; between them there is no verdict."""
    in_time, n = k_of_n
    misses, allowed = n - in_time, 1 - Fraction(objective)
    few, many = at_most(misses, n, allowed), 1 - at_most(misses - 1, n, allowed)
    # On the very line (no answer of one, at 99 %) floats may fall to either side.
    assume(all(abs(chance - Fraction(1, 100)) > Fraction(1, 10**12) for chance in (few, many)))
    too_few_misses, too_many_misses = few <= Fraction(1, 100), many <= Fraction(1, 100)

    found = verdict(in_time, n, objective)

    assert (found == "met") == too_few_misses
    assert (found == "contradicted") == too_many_misses


def test_verdict_tells_the_three_cases():
    """One example each, and nothing at all is no evidence."""
    assert verdict(459, 459, 0.99) == "met"
    assert verdict(458, 458, 0.99) == "not enough evidence"
    assert verdict(950, 1000, 0.99) == "contradicted"
    assert verdict(0, 0, 0.99) == "not enough evidence"
