"""When a version on trial is taken back: what chance does not explain, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidsram.serve.judge import fault_of
from tidsram.serve.messages import Counts

FEW = st.integers(0, 500)


@given(served=st.builds(Counts, FEW, FEW, FEW, FEW), asked=FEW)
def test_a_version_that_answers_all_is_never_at_fault(served, asked):
    """However the other fares."""
    assert fault_of(served, Counts(answered=asked), 0.999) == ""


@given(
    counts=st.tuples(st.integers(900, 1000), st.integers(0, 100), st.integers(0, 2)),
    scale=st.integers(1, 9),
)
def test_a_version_that_fares_as_the_other_does_is_not_at_fault(counts, scale):
    """With ten per mille of misses allowed and two seen, and as many refused in share."""
    answered, refused, missed = counts
    served = Counts(answered * scale, refused * scale, missed * scale)

    assert fault_of(served, Counts(answered, refused, missed), 0.99) == ""


@given(served=st.builds(Counts, FEW, FEW, FEW, FEW), failed=st.integers(2, 500))
def test_a_version_that_only_fails_is_at_fault_from_the_second_question_on(served, failed):
    """Two of two contradict 95 %; one of one may be bad luck."""
    assert "contradicts the objective" in fault_of(served, Counts(failed=failed), 0.95)
    assert fault_of(Counts(), Counts(failed=1), 0.95) == ""


@pytest.mark.parametrize(
    ("tried", "why"),
    [
        (Counts(answered=96, missed=4), "4 of its 100 questions were missed or failed, and 0 of"),
        (Counts(answered=80, refused=20), "20 of its 100 questions were refused, and 5 of 1000"),
    ],
)
def test_more_than_the_others_is_a_fault_though_the_objective_allows_it(tried, why):
    """The objective is low; the version that is served does far better."""
    served = Counts(answered=995, refused=5)

    assert why in fault_of(served, tried, 0.5)


def test_what_both_refuse_is_nobodys_fault():
    """Overload: more is asked than there is time for."""
    served, tried = Counts(answered=500, refused=500), Counts(answered=50, refused=50)

    assert fault_of(served, tried, 0.99) == ""
