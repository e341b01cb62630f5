"""A run far past its bound: set aside, so that it harms its own decision only."""

from tidsram.estate.types import Criticality
from tidsram.outcome import Reason
from tidsram.schedule.events import Aside, Evict, Kill, Miss, Reject, Start, Stop
from tidsram.schedule.scheduler import ASIDE_NS, KILL_GRACE_NS, Policy
from tidsram.testing import Shell
from tidsram.units import MS

RUN_NS = 10 * MS
LIMIT_NS = 2 * RUN_NS + ASIDE_NS


def two_decisions(*policies: Policy, lanes: int = 1) -> Shell:
    node = Shell(*(policies or (Policy("a"), Policy("b"))), lanes=lanes)
    for policy in policies or (Policy("a"), Policy("b")):
        node.ready(policy.name, RUN_NS)
    return node


def test_others_go_on_beside_a_stuck_run():
    """Past twice its bound it has only leftover time, and who waits behind it starts."""
    node = two_decisions()
    node.ask("a", 100 * MS)
    node.ask("b", 200 * MS)

    actions = node.wait_until(LIMIT_NS)

    assert actions == [Aside("a", 0, over=False), Start(node.jobs[1], 0, on_deck=False)]


def test_not_a_moment_before():
    """A run may take its bound and as much again."""
    node = two_decisions()
    node.ask("a", 100 * MS)
    node.ask("b", 200 * MS)

    assert node.wait_until(LIMIT_NS - 1) == []


def test_nobody_waits_nothing_happens_until_somebody_asks():
    """Alone on the level it is in nobody's way; the first to ask finds the lane free."""
    node = two_decisions()
    node.ask("a", 100 * MS)
    assert node.wait_until(2 * LIMIT_NS) == []

    actions = node.ask("b", RUN_NS)

    assert actions == [Aside("a", 0, over=False), Start(node.jobs[1], 0, on_deck=False)]


def test_its_own_decision_waits_and_is_refused():
    """Its worker is busy: what was queued behind it stays, what comes new hears not-ready."""
    node = two_decisions()
    node.ask("a", 100 * MS)
    node.ask("a", 90 * MS)
    node.ask("b", 200 * MS)

    node.wait_until(LIMIT_NS)
    (refusal,) = node.ask("a", 500 * MS)

    assert refusal == Reject(node.jobs[3], Reason.NOT_READY, 0, 0)
    assert node.reasons == {3: Reason.NOT_READY}


def test_it_may_end_after_all():
    """Then its asker has the answer, and the worker takes the next job of its decision."""
    node = two_decisions()
    node.ask("a", 100 * MS)
    node.ask("a", 90 * MS)
    node.ask("b", 200 * MS)
    node.wait_until(LIMIT_NS)
    node.end(2)
    node.wait_until(LIMIT_NS + 5 * MS)

    actions = node.end(0, started_ns=0)

    assert actions == [Aside("a", 0, over=True), Start(node.jobs[1], 0, on_deck=False)]
    assert node.reasons == {0: Reason.NONE, 2: Reason.NONE}


def test_it_is_missed_stopped_and_killed_in_time():
    """Set aside it keeps its deadline and its grace, and higher work is no excuse any more."""
    node = two_decisions()
    node.ask("a", 40 * MS)
    node.ask("b", 200 * MS)
    node.wait_until(39 * MS)

    assert node.wait_until(40 * MS) == [Miss(node.jobs[0]), Stop(node.jobs[0], 0)]
    node.end(1)
    assert node.wait_until(40 * MS + KILL_GRACE_NS + RUN_NS) == [Kill("a", 0)]


def test_its_death_fails_what_waited_for_it():
    """The replacement is not here yet: whoever waited hears it now."""
    node = two_decisions()
    node.ask("a", 100 * MS)
    node.ask("a", 90 * MS)
    node.ask("b", 200 * MS)
    node.wait_until(LIMIT_NS)

    actions = node.lose("a")

    assert actions == [
        Evict(node.jobs[0], Reason.WORKER_LOST),
        Evict(node.jobs[1], Reason.WORKER_LOST),
    ]
    assert node.end(2) == []
    assert node.scheduler.idle


def test_what_waited_moves_to_another_lane():
    """A decision warm on two lanes goes on with the other."""
    node = two_decisions(lanes=2)
    node.ready("a", RUN_NS, lane=1)
    node.ask("a", 100 * MS)
    node.ask("a", 90 * MS)
    node.ask("a", 200 * MS)
    node.ask("b", 200 * MS)
    node.end(1)
    lanes = {job.job_id: lane for (lane, _), runs in node.runs.items() for job in runs}

    actions = node.wait_until(LIMIT_NS)

    assert lanes[0] == 0
    assert Aside("a", 0, over=False) in actions
    assert Start(node.jobs[3], 0, on_deck=False) in actions
    assert {job.job_id for job in node.runs[1, 1]} == {2}


def test_time_that_higher_work_took_does_not_count():
    """A standard run that critical work kept from the core is not stuck."""
    node = two_decisions(Policy("a"), Policy("b"), Policy("c", Criticality.CRITICAL))
    node.ask("a", 300 * MS)
    node.ask("b", 400 * MS)
    node.ask("c", 300 * MS)
    node.wait_until(30 * MS)
    node.end(2, started_ns=0)

    assert node.wait_until(50 * MS) == []
    assert Aside("a", 0, over=False) in node.wait_until(30 * MS + LIMIT_NS)


def test_a_stuck_probe_is_killed_and_harms_nobody():
    """Nobody waits for a probe's result, and who waits behind it is started by its death."""
    node = two_decisions()
    node.wait_until(2000 * MS)
    node.ask("a", 5 * MS)  # refused on old evidence: probed
    assert node.runs[0, 1]

    node.ask("b", 100 * MS)

    assert node.wait_until(node.now_ns + LIMIT_NS) == [Kill("a", 0)]
    assert node.lose("a") == [Start(node.jobs[1], 0, on_deck=False)]
