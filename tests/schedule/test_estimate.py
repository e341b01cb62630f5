"""The bound on a run's time: it follows what is seen, and forgets what is over."""

import pytest
from numpy.random import default_rng

from tidsram.estate.types import Criticality
from tidsram.outcome import Reason
from tidsram.schedule.estimate import (
    AFTER_STEP,
    ENOUGH,
    FAST_NS,
    FAST_RUNS,
    GUARD,
    SOME,
    STEP_OVER,
    STEP_UNDER_RUNS,
    UNCALIBRATED,
    UNCALIBRATED_RUNS,
    Estimate,
)
from tidsram.schedule.events import Reject
from tidsram.schedule.scheduler import Policy
from tidsram.testing import Shell
from tidsram.units import MS, SECOND

HOUR = 3600 * SECOND
STEP_NS = 10 * MS  # between runs, as a rule


def seen(*runs_ns: int, objective: float = 0.99, step_ns: int = STEP_NS) -> tuple[Estimate, int]:
    """An estimate after runs at even steps, and the instant of the last."""
    estimate, now_ns = Estimate(objective, [2 * MS]), 0
    for run_ns in runs_ns:
        now_ns += step_ns
        estimate.observe(now_ns, run_ns)
    return estimate, now_ns


def test_few_runs_are_uncalibrated():
    """The largest of warm-up and runs, half as much again."""
    warm = Estimate(0.99, [2 * MS, 4 * MS, 2 * MS])
    estimate, _ = seen(*[6 * MS] * (ENOUGH - 1))

    assert (warm.upper_ns, warm.typical_ns) == (6 * MS, 2 * MS)
    assert estimate.upper_ns == 9 * MS
    assert not estimate.calibrated


def test_disturbed_start_is_forgotten_after_some_runs():
    """Of five the largest is not believed alone; two such are, until ten came after them."""
    once = Estimate(0.99, [2 * MS, 90 * MS, 2 * MS])
    twice = Estimate(0.99, [2 * MS, 90 * MS, 90 * MS])

    for n in range(UNCALIBRATED_RUNS):
        assert once.upper_ns == (135 * MS if n < SOME - 3 else 3 * MS)
        assert n >= UNCALIBRATED_RUNS - 1 or twice.upper_ns == 135 * MS
        once.observe(n * STEP_NS, 2 * MS)
        twice.observe(n * STEP_NS, 2 * MS)

    assert once.upper_ns == twice.upper_ns == 3 * MS


def test_a_step_is_followed_and_counted_within_eight_runs():
    """Twice as long from one run to the next: at 90 % the window alone would take 26."""
    before = [1 * MS] * 200
    unaware, _ = seen(*before, *[2 * MS] * 3, objective=0.9)
    aware, _ = seen(*before, *[2 * MS] * STEP_OVER, objective=0.9)

    assert unaware.upper_ns < 2 * MS
    assert aware.upper_ns >= 2 * MS
    assert (unaware.steps, aware.steps) == (0, 1)


def test_a_step_back_is_followed_within_32_runs():
    """Half as long: what was long is forgotten, and the lane is not underrated for a window."""
    slow, _ = seen(*[2 * MS] * 200, *[1 * MS] * (STEP_UNDER_RUNS - 1))
    healed, _ = seen(*[2 * MS] * 200, *[1 * MS] * STEP_UNDER_RUNS)

    assert slow.upper_ns >= 2 * MS
    assert healed.upper_ns <= 1 * MS * AFTER_STEP
    assert healed.steps == 1


def test_a_run_held_up_within_a_step_does_not_stand_for_it():
    """Four slow runs are a step; that one of them took ten times as long is not."""
    estimate, _ = seen(*[1 * MS] * 200, 2 * MS, 20 * MS, 2 * MS, 2 * MS, objective=0.9)

    assert estimate.steps == 1
    assert 2 * MS <= estimate.upper_ns <= 2 * MS * AFTER_STEP + 1


def test_noise_is_no_step():
    """Ten thousand normal runs with 5 %, then with a heavy tail: no alarm."""
    rng = default_rng(4)
    normal = (MS * (1 + 0.05 * rng.standard_normal(10_000))).astype(int).tolist()
    heavy = (MS * (1 + 0.02 * rng.pareto(2.5, 10_000))).astype(int).tolist()

    assert seen(*normal)[0].steps == 0
    assert seen(*heavy)[0].steps == 0


def test_enough_runs_speak_for_themselves():
    """The warm-up on zeros no longer counts, nor the margin for not knowing."""
    estimate, _ = seen(*[1 * MS] * ENOUGH)

    assert estimate.upper_ns == int(1 * MS * GUARD)
    assert estimate.typical_ns == 1 * MS
    assert estimate.calibrated


@pytest.mark.parametrize(("objective", "place"), [(0.9, 230), (0.99, 253), (0.999, 254)])
def test_bound_is_the_objectives_quantile_of_the_window(objective, place):
    """Of 256 different runs: the third largest at 99 %, and never the largest alone."""
    runs = [MS + n for n in range(FAST_RUNS)]

    estimate, _ = seen(*runs, objective=objective)

    assert estimate.upper_ns == int(runs[place] * GUARD)


def test_one_spike_does_not_move_the_bound():
    """At 99 % one run in a hundred may be longer."""
    estimate, _ = seen(*[1 * MS] * 200, 50 * MS, 1 * MS)

    assert estimate.upper_ns == int(1 * MS * GUARD)


def test_largest_run_is_forgotten_after_the_window():
    """At 99.9 % two spikes are the bound, for 256 runs and no longer."""
    estimate, now_ns = seen(*[1 * MS] * 100, 50 * MS, 50 * MS, objective=0.999)
    assert estimate.upper_ns == int(50 * MS * GUARD)

    for _ in range(FAST_RUNS):
        now_ns += STEP_NS
        estimate.observe(now_ns, 1 * MS)

    assert estimate.upper_ns == int(1 * MS * GUARD)


def test_largest_run_is_forgotten_after_ten_seconds():
    """With few runs a second, time bounds the window before their number does."""
    spikes = [50 * MS, 50 * MS]
    estimate, now_ns = seen(*[1 * MS] * 100, *spikes, objective=0.999, step_ns=100 * MS)

    for _ in range(101):
        now_ns += 100 * MS
        estimate.observe(now_ns, 1 * MS)

    assert estimate.upper_ns == int(1 * MS * GUARD)


def test_twice_as_slow_is_noticed_within_three_runs():
    """One in a hundred of 256 is two: the third slow run is the new bound."""
    estimate, now_ns = seen(*[1 * MS] * FAST_RUNS)

    for n in range(3):
        estimate.observe(now_ns + n, 2 * MS)

    assert estimate.upper_ns == int(2 * MS * GUARD)


def test_twice_as_fast_is_noticed_after_a_window():
    """Caution lasts as long as the slow runs are in the window, and no longer."""
    estimate, now_ns = seen(*[2 * MS] * FAST_RUNS)

    for n in range(FAST_RUNS):
        estimate.observe(now_ns + n, 1 * MS)

    assert estimate.upper_ns == int(1 * MS * GUARD)


def test_rare_runs_are_judged_by_the_day():
    """One a minute: the fast window is never full, the slow one has the tail."""
    runs = [2 * MS if n % 20 == 0 else 1 * MS for n in range(400)]

    estimate, _ = seen(*runs, step_ns=60 * SECOND)

    assert 2 * MS * GUARD <= estimate.upper_ns <= 2 * MS * GUARD * 17 / 16


def test_slow_hour_does_not_speak_for_the_rest_of_the_day():
    """So many good runs in a row are a step, and the bound is theirs."""
    bad_hour = [20 * MS] * 400

    still_slow, _ = seen(*bad_hour, *[1 * MS] * (STEP_UNDER_RUNS - 1), step_ns=10 * SECOND)
    healed, now_ns = seen(*bad_hour, *[1 * MS] * STEP_UNDER_RUNS, step_ns=10 * SECOND)

    assert still_slow.upper_ns >= 20 * MS
    assert healed.upper_ns == int(1 * MS * GUARD)
    assert now_ns < 24 * HOUR


def test_spike_of_a_rare_decision_is_diluted_by_the_day():
    """Among the newest 256 it would be the bound at 99.9 %; of 1,500 in a day it is not."""
    runs = [1 * MS] * 1400

    estimate, _ = seen(*runs, 50 * MS, *runs[:50], objective=0.999, step_ns=50 * SECOND)

    assert estimate.upper_ns <= 1 * MS * GUARD * 17 / 16


def test_day_is_forgotten_after_a_day():
    """A tail seen only yesterday is no longer in the bound."""
    estimate, now_ns = seen(*[2 * MS] * 400, step_ns=10 * SECOND)

    now_ns += 25 * HOUR
    for n in range(40):
        estimate.observe(now_ns + n * 10 * SECOND, 1 * MS)

    assert estimate.upper_ns <= 1 * MS * GUARD * 17 / 16


def test_window_without_runs_empties_when_asked():
    """Refreshing drops what is too old without a new run; the day then speaks, more mildly."""
    estimate, now_ns = seen(*[1 * MS] * 2000, 5 * MS, 5 * MS, objective=0.999)
    assert estimate.upper_ns == int(5 * MS * GUARD)

    estimate.refresh(now_ns + FAST_NS + 1)

    assert estimate.upper_ns <= 1 * MS * GUARD * 17 / 16


# In the scheduler ---------------------------------------------------------------------------------


def node_with(*policies: Policy) -> Shell:
    node = Shell(*policies, estimate=Estimate)
    for policy in policies:
        node.ready(policy.name, 2 * MS)
    return node


def test_preempted_time_is_not_charged_to_the_lower_run():
    """A standard run of 12 ms that critical work interrupted for 10 took 2 itself."""
    node = node_with(Policy("a"), Policy("c", Criticality.CRITICAL))
    node.ask("a", 100 * MS)
    node.now_ns = 1 * MS
    node.ask("c", 100 * MS)
    node.now_ns = 11 * MS
    node.end(1, started_ns=1 * MS)
    node.now_ns = 12 * MS

    node.end(0, started_ns=0)

    assert node.scheduler.estimate("a", 0).upper_ns == 2 * MS * UNCALIBRATED
    assert node.scheduler.estimate("c", 0).upper_ns == 10 * MS * UNCALIBRATED


def test_nested_preemption_is_counted_once():
    """Critical inside standard inside best-effort: the lowest run lost 9 ms, not 9 + 3."""
    node = node_with(
        Policy("b", Criticality.BEST_EFFORT), Policy("a"), Policy("c", Criticality.CRITICAL)
    )
    node.ask("b", 100 * MS)
    node.now_ns = 1 * MS
    node.ask("a", 100 * MS)
    node.now_ns = 4 * MS
    node.ask("c", 100 * MS)
    node.now_ns = 7 * MS
    node.end(2, started_ns=4 * MS)
    node.now_ns = 10 * MS
    node.end(1, started_ns=1 * MS)
    node.now_ns = 15 * MS

    node.end(0, started_ns=0)

    assert node.scheduler.estimate("b", 0).upper_ns == 6 * MS * UNCALIBRATED
    assert node.scheduler.estimate("a", 0).upper_ns == 6 * MS * UNCALIBRATED


def test_preemption_that_is_reported_late_is_not_charged():
    """The lower run's end is heard before the end of the critical run that interrupted it."""
    node = node_with(Policy("a"), Policy("c", Criticality.CRITICAL))
    node.ask("a", 100 * MS)
    node.now_ns = 1 * MS
    node.ask("c", 100 * MS)
    node.now_ns = 6 * MS

    node.end(0, started_ns=0)

    assert node.scheduler.estimate("a", 0).upper_ns == 2 * MS * UNCALIBRATED


def test_preemption_of_a_run_from_the_deck_is_its_own():
    """It began at 5 and was interrupted from 6 to 10; the gate heard of its beginning last.

    The one before it held the place until 6, by what the gate knew.
    """
    node = node_with(Policy("a"), Policy("c", Criticality.CRITICAL))
    for _ in range(2):
        node.ask("a", 100 * MS)
    node.now_ns = 6 * MS
    node.ask("c", 100 * MS)
    node.now_ns = 10 * MS
    node.end(2, started_ns=6 * MS)
    node.end(0, started_ns=0, ended_ns=5 * MS)
    node.now_ns = 13 * MS

    node.end(1, started_ns=5 * MS)

    assert node.scheduler.estimate("a", 0)._sorted == [4 * MS, 6 * MS]


def test_a_run_counts_for_as_long_as_it_holds_its_place():
    """Handed over at 0, begun at 1, ended at 5, known at 6: those behind it wait for 6."""
    node = node_with(Policy("a"))
    node.ask("a", 100 * MS)
    node.now_ns = 6 * MS

    node.end(0, started_ns=1 * MS, ended_ns=5 * MS)

    assert node.scheduler.estimate("a", 0)._sorted == [6 * MS]


def test_interruptions_of_runs_that_have_ended_are_forgotten():
    """However long the level is busy, it keeps only what touches the present run."""
    node = node_with(Policy("a"), Policy("c", Criticality.CRITICAL))
    node.ask("a", 500 * MS)
    for number in range(1, 40, 2):
        node.ask("c", 500 * MS)
        node.ask("a", 500 * MS)
        node.now_ns += 1 * MS
        node.end(number)
        node.now_ns += 1 * MS
        node.end(number - 1)

    assert len(node.scheduler._lanes[0].levels[1]._higher) <= 1


def test_time_under_a_critical_worker_that_was_lost_is_not_charged():
    """It had the lane until it died."""
    node = node_with(Policy("a"), Policy("c", Criticality.CRITICAL))
    node.ask("a", 100 * MS)
    node.ask("c", 100 * MS)
    node.now_ns = 7 * MS
    node.lose("c")
    node.now_ns = 9 * MS

    node.end(0, started_ns=0)

    assert node.scheduler.estimate("a", 0).upper_ns == 2 * MS * UNCALIBRATED


def test_forecast_gives_back_what_higher_work_has_taken_so_far():
    """Interrupted since 5 ms, and still: at 9 the standard run has had 5 of its 10."""
    node = Shell(Policy("a"), Policy("c", Criticality.CRITICAL))
    for name in ("a", "c"):
        node.ready(name, 10 * MS)
    node.ask("a", 100 * MS)
    node.wait_until(5 * MS)
    node.ask("c", 100 * MS)
    node.wait_until(9 * MS)

    node.ask("a", 100 * MS)

    assert node.scheduler.promised_ns(2) == (9 + 6 + 5 + 10) * MS


def test_run_stopped_beyond_its_bound_is_learnt():
    """Slower than its budget, none ends by itself: it would be promised and missed for ever."""
    node = node_with(Policy("a"))
    answered_late = []
    for number in range(60):
        actions = node.ask("a", 20 * MS)
        if isinstance(actions[0], Reject):
            break
        node.wait_until(node.now_ns + 20 * MS)
        node.fail(number)
        answered_late.append(node.reasons[number])

    assert node.reasons[number] is Reason.INFEASIBLE
    assert answered_late == [Reason.DEADLINE]


def test_run_stopped_within_its_bound_teaches_nothing():
    """It says only that the run would have taken longer than that."""
    node = node_with(Policy("a"))
    node.ask("a", 20 * MS)
    node.now_ns = 1 * MS
    node.leave(0)

    node.fail(0)

    assert node.scheduler.estimate("a", 0).upper_ns == 2 * MS * UNCALIBRATED
    assert node.scheduler.estimate("a", 0).newest_ns == 0


def node_after_two_spikes() -> Shell:
    """Two slow runs that bound a decision at 99.9 %; eleven seconds later the window is empty."""
    node = node_with(Policy("a", objective=0.999), Policy("b"))
    estimate = node.scheduler.estimate("a", 0)
    for run_ns in [1 * MS] * 4000 + [50 * MS] * 2:
        node.now_ns += 1 * MS
        estimate.observe(node.now_ns, run_ns)
    node.now_ns += 11 * SECOND
    return node


def test_refusal_drops_what_is_too_old_even_on_a_busy_lane():
    """There is no idle moment to measure anew, but the old runs are forgotten all the same."""
    node = node_after_two_spikes()
    node.ask("b", 500 * MS)

    node.ask("a", 20 * MS)
    node.ask("a", 20 * MS)

    assert node.reasons == {1: Reason.INFEASIBLE}


def test_replaced_worker_is_not_bounded_by_runs_long_ago():
    """What is too old is dropped when the new one is ready, not with the first refusal."""
    node = node_after_two_spikes()
    node.lose("a")
    node.ready("a", 2 * MS)

    node.ask("a", 20 * MS)

    assert node.reasons == {}
