"""Deadlines: missed at that moment, the run stopped, a worker that does not obey killed."""

from tidsram.estate.types import Criticality
from tidsram.outcome import Reason
from tidsram.schedule.events import Evict, Kill, Miss, Start, Stop
from tidsram.schedule.scheduler import KILL_GRACE_NS, Policy
from tidsram.testing import Shell
from tidsram.units import MS

CRITICAL = Criticality.CRITICAL
GRACE_NS = KILL_GRACE_NS + 10 * MS  # a run's bound stands in for its longest operator


def one_lane(*policies: Policy, service_ns: int = 10 * MS) -> Shell:
    node = Shell(*(policies or (Policy("a"),)))
    for policy in policies or (Policy("a"),):
        node.ready(policy.name, service_ns)
    return node


def test_hung_run_is_missed_at_its_deadline_and_stopped():
    """Not a moment before, and not later; the asker needs no timer of its own."""
    node = one_lane()
    node.ask("a", 30 * MS)

    assert node.wait_until(30 * MS - 1) == []
    assert node.wait_until(30 * MS) == [Miss(node.jobs[0]), Stop(node.jobs[0], 0)]


def test_worker_that_does_not_stop_is_killed_after_its_grace():
    """Ten milliseconds and a run's bound after it was told; once."""
    node = one_lane()
    node.ask("a", 30 * MS)
    node.wait_until(30 * MS)

    assert node.wait_until(30 * MS + GRACE_NS - 1) == []
    assert node.wait_until(30 * MS + GRACE_NS) == [Kill("a", 0)]
    assert node.wait_until(1000 * MS) == []


def test_worker_is_killed_once():
    """The deadline of the run that hangs comes after its kill, and must not kill again."""
    node = one_lane()
    node.ask("a", 500 * MS)
    node.leave(0)

    assert node.wait_until(1000 * MS) == [Kill("a", 0)]


def test_run_that_stops_in_time_is_not_killed():
    """The next job starts when the run has ended, and nobody is killed later."""
    node = one_lane()
    node.ask("a", 30 * MS)
    node.wait_until(35 * MS)
    node.ask("a", 100 * MS)

    assert node.fail(0) == []
    assert node.wait_until(100 * MS) == []
    assert node.runs[0, 1] == [node.jobs[1]]


def test_queued_job_is_missed_at_its_deadline_too():
    """Behind a hung run: it leaves the queue with its outcome, the one on deck is skipped."""
    node = one_lane()
    for budget in (100, 40, 50):
        node.ask("a", budget * MS)

    assert node.wait_until(40 * MS) == [Miss(node.jobs[1]), Stop(node.jobs[1], 0)]
    assert node.wait_until(50 * MS) == [Miss(node.jobs[2])]


def test_stopped_job_on_deck_does_not_get_a_healthy_worker_killed():
    """It cannot end before the run in front of it: its grace begins when its turn comes."""
    node = one_lane()
    node.ask("a", 500 * MS)
    node.ask("a", 500 * MS)
    node.leave(1)

    assert node.wait_until(200 * MS) == []
    node.end(0)
    assert node.wait_until(200 * MS + GRACE_NS) == [Kill("a", 0)]


def test_stopped_run_under_critical_work_has_its_grace_when_that_lets_it_run():
    """A suspended run cannot obey; the time that critical work takes is not held against it."""
    node = one_lane(Policy("a"), Policy("c", CRITICAL))
    node.ask("a", 100 * MS)
    node.ask("c", 500 * MS)
    node.leave(0)

    assert node.wait_until(100 * MS) == []
    node.end(1, started_ns=0)
    assert node.wait_until(100 * MS + GRACE_NS - 2 * MS) == []
    assert node.wait_until(100 * MS + 2 * GRACE_NS) == [Kill("a", 0)]


def test_answer_at_the_last_moment_is_no_miss():
    """Finished just before the deadline: the timer that was set for it finds nothing."""
    node = one_lane()
    node.ask("a", 30 * MS)
    node.wait_until(30 * MS - 1)
    node.end(0)

    assert node.scheduler.next_wake_ns is None
    assert node.wait_until(100 * MS) == []
    assert node.reasons == {0: Reason.NONE}


def test_next_wake_is_the_earliest_deadline():
    """A tighter arrival brings it forward, its end gives it back."""
    node = one_lane(Policy("a"), Policy("c", Criticality.CRITICAL))
    node.ask("a", 90 * MS)
    node.ask("c", 60 * MS)
    assert node.scheduler.next_wake_ns == 60 * MS

    node.ask("c", 40 * MS)
    assert node.scheduler.next_wake_ns == 40 * MS

    node.wait_until(10 * MS)
    node.end(1)
    node.end(2)
    assert node.scheduler.next_wake_ns == 90 * MS


def test_early_tick_does_nothing():
    """The loop may wake for other reasons."""
    node = one_lane()
    node.ask("a", 30 * MS)

    assert node.tick() == []


def test_late_tick_catches_up_with_everything():
    """All that fell due meanwhile, in the order in which it did."""
    node = one_lane()
    for budget in (100, 40, 50):
        node.ask("a", budget * MS)
    node.now_ns = 300 * MS

    actions = node.tick()

    assert [action.job.job_id for action in actions if isinstance(action, Miss)] == [1, 2, 0]
    assert node.scheduler.next_wake_ns == 300 * MS + GRACE_NS


def test_asker_that_leaves_withdraws_its_queued_job():
    """Nothing is said, nothing runs."""
    node = one_lane(Policy("a"), Policy("b"))
    node.ask("a", 100 * MS)
    node.ask("b", 100 * MS)

    assert node.leave(1) == []
    assert node.end(0) == []
    assert node.scheduler.idle


def test_asker_that_leaves_stops_its_run():
    """The lane is free at the next operator, for whoever waits."""
    node = one_lane(Policy("a"), Policy("b"))
    node.ask("a", 100 * MS)
    node.ask("b", 100 * MS)

    assert node.leave(0) == [Stop(node.jobs[0], 0)]
    assert node.fail(0) == [Start(node.jobs[1], 0, on_deck=False)]


def test_asker_that_leaves_after_its_outcome_changes_nothing():
    """The gate need not know who was told what."""
    node = one_lane()
    node.ask("a", 30 * MS)
    node.wait_until(30 * MS)

    assert node.leave(0) == []
    assert node.scheduler.gone(node.now_ns, 99) == []


def test_job_on_deck_that_was_told_to_skip_takes_no_time_in_a_forecast():
    """Its worker skips it at once when its turn comes."""
    node = one_lane()
    for _ in range(2):
        node.ask("a", 100 * MS)
    node.leave(1)

    node.ask("a", 100 * MS)

    assert node.scheduler.promised_ns(2) == 20 * MS


def test_evicted_run_frees_the_lane_for_those_behind_it():
    """A lower run that cannot make it is stopped, so the next one still can."""
    node = one_lane(Policy("a"), Policy("b"), Policy("c", CRITICAL))
    node.ask("a", 19 * MS)
    node.ask("b", 21 * MS)

    actions = node.ask("c", 100 * MS)

    assert Evict(node.jobs[0], Reason.EVICTED) in actions
    assert 1 not in node.reasons
