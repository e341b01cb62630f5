"""Which questions go to a version on trial: the share that was asked for, evenly spread."""

from hypothesis import given
from hypothesis import strategies as st

from tidsram.outcome import Reason
from tidsram.serve.trial import Trial
from tidsram.units import MS


@given(percent=st.integers(1, 50), asked=st.integers(0, 2000))
def test_the_share_is_exact_at_any_time(percent, asked):
    """Never more than one question away from it."""
    trial = Trial("gauge on trial", percent)

    wanted = sum(trial.wants() for _ in range(asked))

    assert wanted == asked * percent // 100


def test_every_tenth_is_spread():
    """Not ten in a row of a hundred."""
    trial = Trial("gauge on trial", 10)

    turns = [number for number in range(100) if trial.wants()]

    assert turns == list(range(9, 100, 10))


def test_an_ended_trial_wants_nothing():
    """Its workers may still be ending their last runs."""
    trial = Trial("gauge on trial", 50)
    trial.end(promoted=False)

    assert not any(trial.wants() for _ in range(10))


def test_outcomes_are_counted_by_version_and_kind():
    """What an asker got wrong counts for nobody."""
    trial = Trial("gauge on trial", 10)
    for reason in Reason:
        trial.count(reason, tried=True, run_ns=5 * MS)
    trial.count(Reason.NONE, tried=False, run_ns=3 * MS)

    tally = trial.tally("gauge")

    tried = tally.tried
    assert (tried.answered, tried.refused, tried.missed, tried.failed) == (1, 3, 1, 2)
    assert (tally.served.answered, tally.served.asked) == (1, 1)
    assert 3000 <= tally.served.p50_us < 3200
    assert 5000 <= tried.p99_us < 5400
