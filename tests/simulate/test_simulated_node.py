"""The driver in virtual time: kernel, workers and gate behave as real ones would."""

import numpy as np
from numpy.random import default_rng

from tidsram.estate.types import Criticality
from tidsram.outcome import Outcome, Reason
from tidsram.schedule.scheduler import KILL_GRACE_NS, Policy
from tidsram.simulate.arrivals import periodic, poisson
from tidsram.simulate.run import Node, Questions, run
from tidsram.simulate.script import Drained, Gone, Hung, Lost, Slower
from tidsram.testing import Asked, FixedEstimate, play
from tidsram.units import MS, SECOND, US

STANDARD, CRITICAL = Policy("a"), Policy("c", Criticality.CRITICAL)


def fixed(*policies: Policy, bound_ns: int = 10 * MS, **facts) -> Node:
    warm_up_ns = {policy.name: (bound_ns,) for policy in policies}
    return Node(
        policies=policies, warm_up_ns=warm_up_ns, estimate=FixedEstimate, return_ns=0, **facts
    )


def ask(at_ms: float, decision: str = "a", budget_ms: float = 100, service_ms: float = 10) -> Asked:
    at_ns, budget_ns = int(at_ms * MS), int(budget_ms * MS)
    return Asked(
        at_ns=at_ns, decision=decision, budget_ns=budget_ns, service_ns=int(service_ms * MS)
    )


def ended_ms(result) -> list[float]:
    return (result.asked.ended_ns / MS).tolist()


def test_runs_follow_each_other_without_a_gap():
    """The second was on deck, the third queued; both begin when the one before ends."""
    result = play(fixed(STANDARD), [ask(1), ask(2), ask(3)])

    assert (result.asked.started_ns / MS).tolist() == [1, 11, 21]
    assert ended_ms(result) == [11, 21, 31]
    assert result.decisions["a"].in_time == 3


def test_critical_run_suspends_the_standard_one():
    """The standard run resumes where it was; its service time is not charged with the wait."""
    node = Node(policies=[STANDARD, CRITICAL], warm_up_ns={"a": (10 * MS,), "c": (3 * MS,)})

    result = play(node, [ask(0), ask(4, "c", service_ms=3), ask(20)])

    assert ended_ms(result) == [13, 7, 30]
    # Promised with one and a half times the largest run: 10 ms, not 13.
    assert result.asked.promised_ns[2] == 35 * MS
    assert result.busy_ns == 23 * MS


def test_standard_run_waits_for_a_critical_one_to_begin():
    """It has its worker, but the core only when the critical run has ended."""
    result = play(fixed(STANDARD, CRITICAL), [ask(0, "c"), ask(1)])

    assert (result.asked.started_ns / MS).tolist() == [0, 10]
    assert ended_ms(result) == [10, 20]


def test_lanes_run_beside_each_other():
    """Two lanes, two runs at once."""
    result = play(fixed(STANDARD, lane_count=2), [ask(0), ask(0)])

    assert ended_ms(result) == [10, 10]
    assert result.busy_ns == 20 * MS


def test_decision_runs_on_its_lanes_only():
    """The second lane stays idle when the decision is not warm there."""
    result = play(fixed(STANDARD, lane_count=2, lanes={"a": [1]}), [ask(0), ask(0)])

    assert ended_ms(result) == [10, 20]


def test_stopped_run_ends_with_its_operator():
    """Missed at 30 while at the fourth operator of 8 ms: the lane is free at 32."""
    node = fixed(STANDARD, operator_ns=8 * MS)

    result = play(node, [ask(0, budget_ms=30, service_ms=99), ask(1)])

    assert result.asked.told_ns[0] == 30 * MS
    assert (result.asked.started_ns / MS).tolist() == [0, 32]
    assert result.wasted_ns == 32 * MS
    assert result.asked.reasons == {Reason.NONE: 1, Reason.DEADLINE: 1}


def test_run_that_would_end_before_its_operator_does_ends_well():
    """Stopped 1 ms before its end: it ends by itself, too late for its asker."""
    node = fixed(STANDARD, operator_ns=8 * MS)

    result = play(node, [ask(0, budget_ms=30, service_ms=31), ask(1)])

    assert ended_ms(result)[0] == 31
    assert result.decisions["a"].missed == 1


def test_hung_run_is_killed_and_the_worker_replaced():
    """Missed at its deadline, killed after the grace, ready again after the restart."""
    node = fixed(STANDARD, restart_ns=50 * MS)
    killed_ms = 30 + KILL_GRACE_NS / MS + 10
    load = [ask(0, budget_ms=30), ask(5, budget_ms=500), ask(60), ask(killed_ms + 51)]

    result = play(node, load, [Hung(at_ns=4 * MS, decision="a")])

    reasons = (Reason.DEADLINE, Reason.WORKER_LOST, Reason.NOT_READY, Reason.NONE)
    assert result.asked.reasons == dict.fromkeys(reasons, 1)
    assert (result.asked.told_ns / MS).tolist() == [30, killed_ms, 60, killed_ms + 61]
    assert result.decisions["a"].failed == 1


def test_answer_at_the_very_deadline_is_a_miss():
    """The deadline is the first instant that is too late."""
    load = [ask(0, budget_ms=20, service_ms=20), ask(50, budget_ms=20, service_ms=19.999)]

    result = play(fixed(STANDARD), load)

    assert (result.decisions["a"].missed, result.decisions["a"].in_time) == (1, 1)


def test_only_the_worker_that_hangs_hangs():
    """A critical run in progress ends; the standard one below it is the one that is missed."""
    load = [ask(0, budget_ms=30), ask(1, "c")]

    result = play(fixed(STANDARD, CRITICAL), load, [Hung(at_ns=4 * MS, decision="a")])

    assert result.decisions["c"].in_time == 1
    assert result.decisions["a"].missed == 1


def test_lost_worker_takes_its_run_along():
    """The asker hears it at that moment; what was done is wasted."""
    lost = Lost(at_ns=6 * MS, decision="a", ready_ns=20 * MS)

    result = play(fixed(STANDARD), [ask(0), ask(30)], [lost])

    assert result.asked.reasons == {Reason.NONE: 1, Reason.WORKER_LOST: 1}
    assert result.asked.told_ns[0] == 6 * MS
    assert result.wasted_ns == 6 * MS


def test_slower_runs_take_longer_until_they_are_healed():
    """What has begun keeps its time."""
    script = [
        Slower(at_ns=5 * MS, decision="a", factor=2),
        Slower(at_ns=35 * MS, decision="a", factor=1),
    ]

    result = play(fixed(STANDARD), [ask(0), ask(20), ask(60)], script)

    assert ended_ms(result) == [10, 40, 70]


def test_asker_that_leaves_frees_the_lane():
    """Its run stops at once where operators take no time."""
    result = play(fixed(STANDARD), [ask(0), ask(1)], [Gone(at_ns=3 * MS, number=0)])

    assert result.asked.count(Outcome.GONE) == 1
    assert (result.asked.started_ns / MS).tolist() == [0, 3]


def test_drained_node_keeps_what_it_promised():
    """What comes later is refused."""
    result = play(fixed(STANDARD), [ask(0), ask(1), ask(5)], [Drained(at_ns=2 * MS)])

    assert result.asked.reasons == {Reason.NONE: 2, Reason.DRAINING: 1}


def test_answer_can_be_late_on_its_way_back():
    """The gate keeps 1 ms for it, it takes 4: sent before the deadline, there after it."""
    node = Node(
        policies=[STANDARD],
        warm_up_ns={"a": (10 * MS,)},
        estimate=FixedEstimate,
        return_ns=1 * MS,
        real_return_ns=4 * MS,
    )

    result = play(node, [ask(0, budget_ms=20), ask(20, budget_ms=12)])

    decision = result.decisions["a"]
    assert (decision.in_time, decision.late) == (1, 1)
    assert result.wasted_ns == 10 * MS


def test_questions_of_a_decision_take_its_service_times_in_turn():
    """The k-th takes the k-th, also when another kind of question comes between."""
    tight = Questions(decision="a", arrivals_ns=np.array([0, 40 * MS]), budget_ns=20 * MS)
    loose = Questions(decision="a", arrivals_ns=np.array([20 * MS]), budget_ns=90 * MS)

    result = run(fixed(STANDARD), [tight, loose], {"a": np.array([1 * MS, 2 * MS, 3 * MS])})

    assert (result.asked.response_ns / MS).tolist() == [1, 2, 3]
    assert (result.asked.deadline_ns / MS).tolist() == [20, 110, 60]


def test_no_questions_come_to_nothing():
    """An empty day is a day too."""
    result = run(fixed(STANDARD), [], {"a": 1 * MS})

    assert result.decisions["a"].offered == 0
    assert result.busy_ns == 0


def test_counts_of_a_mixed_load_add_up():
    """Every question is in exactly one count; times are those of the log."""
    rng = default_rng(3)
    questions = [
        Questions(decision="a", arrivals_ns=poisson(rng, 90, 5 * SECOND), budget_ns=30 * MS),
        Questions(decision="c", arrivals_ns=periodic(rng, 20, 5 * SECOND), budget_ns=20 * MS),
    ]

    result = run(
        fixed(STANDARD, CRITICAL, bound_ns=11 * MS), questions, {"a": 10 * MS, "c": 5 * MS}
    )

    for played in result.decisions.values():
        assert sum(played.count(outcome) for outcome in Outcome) == played.offered
        assert sum(played.reasons.values()) == played.offered
        assert len(played.response_ns) + len(played.notice_ns) == played.offered
    loose, critical = result.decisions["a"], result.decisions["c"]
    assert critical.in_time == critical.offered
    assert loose.evicted > 0
    assert loose.count(Outcome.REJECTED) > loose.evicted
    assert np.all(loose.lateness_ns <= 5 * MS)
    assert np.all(critical.notice_ns >= 0)


def test_service_estimates_heal_after_a_spike_of_slow_runs():
    """Ten times as slow for a second: refused or missed meanwhile, served again soon after."""
    rng = default_rng(5)
    arrivals_ns = poisson(rng, 100, 30 * SECOND)
    script = [
        Slower(at_ns=10 * SECOND, decision="a", factor=10),
        Slower(at_ns=11 * SECOND, decision="a", factor=1),
    ]
    node = Node(policies=[STANDARD])

    result = run(
        node,
        [Questions(decision="a", arrivals_ns=arrivals_ns, budget_ns=15 * MS)],
        {"a": 2 * MS},
        script,
    )

    asked = result.asked
    after = asked.answered[asked.arrival_ns > 15 * SECOND]
    during = asked.answered[(asked.arrival_ns > 10 * SECOND) & (asked.arrival_ns < 11 * SECOND)]
    assert after.mean() > 0.999
    assert during.mean() < 0.2
    assert asked.missed <= 5


def test_twice_as_slow_is_followed_without_a_wave_of_misses():
    """A lasting step within the budget: hardly a promise is broken on the way."""
    rng = default_rng(6)
    arrivals_ns = poisson(rng, 200, 20 * SECOND)
    node = Node(policies=[STANDARD])

    result = run(
        node,
        [Questions(decision="a", arrivals_ns=arrivals_ns, budget_ns=20 * MS)],
        {"a": 2200 * US},
        [Slower(at_ns=10 * SECOND, decision="a", factor=2)],
    )

    asked = result.asked
    assert asked.missed + asked.evicted <= 5
    assert asked.in_time >= 0.9 * asked.offered
