"""What is told of a comparison: counts, bounds that hold, and the ten worst."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidsram.serve.comparison import WORST_MAX, Comparison
from tidsram.serve.judge import drift_of, mean_at_least
from tidsram.serve.messages import Compared
from tidsram.units import MS

MESSAGES = st.lists(
    st.builds(
        Compared,
        st.integers(1, 1000),
        st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
        st.integers(1, 10 * MS),
        st.integers(1, 10 * MS),
    ),
    max_size=40,
)


@given(MESSAGES, st.sampled_from([0.25, 0.5, 1.0]))
def test_all_is_counted_and_the_worst_are_kept(messages, agree):
    """The worst are the lowest of all, in order; those that are equal need no mention."""
    comparison = Comparison("boot", agree)
    for message in messages:
        comparison.take(message)
    told = comparison.told

    assert told.compared == len(messages)
    assert told.agreed == sum(message.agreement >= agree for message in messages)
    lowest = sorted(message.agreement for message in messages if message.agreement < 1)
    assert [one.agreement for one in told.worst] == lowest[:WORST_MAX]
    if messages:
        assert told.agreed_at_least <= told.agreed / told.compared
        assert 0 <= told.agreement_at_least <= told.agreement


def test_nothing_compared_claims_nothing():
    """No share, no mean, no time."""
    told = Comparison("boot", 0.5).told

    assert told.agreed_at_least is told.agreement is told.agreement_at_least is None
    assert told.served_p50_us is told.shadow_p99_us is None


def test_a_run_that_failed_agrees_with_nothing_and_has_no_time():
    """Its request and its problem are told."""
    comparison = Comparison("boot", 0.5)
    agrees = comparison.take(Compared(7, 0.0, 3 * MS, 0, "it holds NaN"))
    told = comparison.told

    assert not agrees
    assert (told.compared, told.agreed, told.failed) == (1, 0, 1)
    assert (told.worst[0].request, told.worst[0].problem) == ("boot-7", "it holds NaN")
    assert 3000 <= told.served_p50_us < 3200
    assert told.shadow_p50_us is None


@given(compared=st.integers(1, 500), share=st.floats(0.01, 1))
def test_a_version_that_always_agrees_never_drifts(compared, share):
    """Whatever share is asked for."""
    assert drift_of(compared, compared, share) == ""


def test_one_that_differs_is_no_drift_and_many_are():
    """Of ten per cent that may differ: 1 of 1 may be chance, 6 of 100 are within, 20 are not."""
    assert drift_of(0, 1, 0.9) == ""
    assert drift_of(94, 100, 0.9) == ""
    assert "80 of the 100 answers" in drift_of(80, 100, 0.9)


@pytest.mark.parametrize(("n", "bound"), [(1, 0.0), (100, 0.74826), (10_000, 0.88483)])
def test_the_bound_of_a_mean_is_hoeffdings(n, bound):
    """0.9 less the root of ln(100) / 2n."""
    assert mean_at_least(0.9, n) == pytest.approx(bound, abs=1e-5)
