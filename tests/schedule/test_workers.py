"""Workers that come, go and are measured: what happens to the jobs they had."""

from tidsram.estate.types import Criticality
from tidsram.outcome import Reason
from tidsram.schedule.estimate import SOME, Estimate
from tidsram.schedule.events import Evict, Kill, Probe, Reject, Start
from tidsram.schedule.scheduler import KILL_GRACE_NS, PROBE_AFTER_NS, Policy
from tidsram.testing import Shell
from tidsram.units import MS, SECOND

CRITICAL = Criticality.CRITICAL


def two_lanes() -> Shell:
    node = Shell(Policy("a"), lanes=2)
    for lane in range(2):
        node.ready("a", 10 * MS, lane=lane)
    return node


def test_lost_worker_fails_what_it_ran_and_held_on_deck():
    """There is one lane: what was queued is told now too, not at its deadline."""
    node = Shell(Policy("a"))
    node.ready("a", 10 * MS)
    for _ in range(3):
        node.ask("a", 100 * MS)

    actions = node.lose("a")

    assert actions == [Evict(node.jobs[number], Reason.WORKER_LOST) for number in range(3)]
    assert node.scheduler.idle
    assert not node.scheduler.is_ready("a")
    assert isinstance(node.ask("a", 100 * MS)[0], Reject)


def test_lost_workers_queue_moves_to_another_lane():
    """What was queued behind it is promised there, if it can be; else it hears it now."""
    node = two_lanes()
    for budget in (100, 100, 100, 100, 41, 100):
        node.ask("a", budget * MS)
    node.wait_until(1 * MS)

    actions = node.lose("a")

    assert actions == [
        Evict(node.jobs[0], Reason.WORKER_LOST),
        Evict(node.jobs[2], Reason.WORKER_LOST),
    ]
    assert node.scheduler.promised_ns(4) == 30 * MS


def test_moved_job_that_does_not_fit_is_failed():
    """It was promised a time that no other lane can keep."""
    node = two_lanes()
    for budget in (100, 100, 100, 100, 30):
        node.ask("a", budget * MS)
    node.wait_until(1 * MS)
    node.ask("a", 30 * MS)

    actions = node.lose("a")

    assert Evict(node.jobs[4], Reason.WORKER_LOST) in actions
    assert 5 not in node.reasons


def test_other_decisions_go_on_when_a_worker_is_lost():
    """The level's next job of another decision starts at once."""
    node = Shell(Policy("a"), Policy("b"))
    for name in ("a", "b"):
        node.ready(name, 10 * MS)
    node.ask("a", 100 * MS)
    node.ask("b", 100 * MS)

    actions = node.lose("a")

    assert actions == [
        Evict(node.jobs[0], Reason.WORKER_LOST),
        Start(node.jobs[1], 0, on_deck=False),
    ]


def test_run_of_another_decision_survives_the_loss():
    """Only the queued jobs of the lost worker go; alone now, the other may use the deck."""
    node = Shell(Policy("a"), Policy("b"))
    for name in ("a", "b"):
        node.ready(name, 10 * MS)
    node.ask("b", 100 * MS)
    node.ask("a", 100 * MS)
    node.ask("b", 100 * MS)

    assert node.lose("a") == [
        Evict(node.jobs[1], Reason.WORKER_LOST),
        Start(node.jobs[2], 0, on_deck=True),
    ]


def test_loss_after_a_kill_tells_nobody_twice():
    """The killed run was missed long before; the queue behind it is told now."""
    node = Shell(Policy("a"))
    node.ready("a", 10 * MS)
    node.ask("a", 30 * MS)
    node.ask("a", 500 * MS)
    node.ask("a", 500 * MS)
    assert node.wait_until(50 * MS)[-1] == Kill("a", 0)

    actions = node.lose("a")

    assert actions == [Evict(node.jobs[n], Reason.WORKER_LOST) for n in (1, 2)]
    assert node.reasons[0] is Reason.DEADLINE


def test_loss_of_a_worker_that_is_not_there_changes_nothing():
    """The supervisor may tell a death that the gate has seen itself."""
    node = Shell(Policy("a"))

    assert node.lose("a") == []


def test_replaced_worker_keeps_what_was_learnt():
    """Its warm-up on zeros does not overrule real runs."""
    node = Shell(Policy("a"), estimate=Estimate)
    node.ready("a", 10 * MS)
    node.lose("a")

    node.ready("a", 99 * MS)

    assert node.scheduler.estimate("a", 0).upper_ns == 15 * MS


def test_spared_worker_is_given_its_grace_again():
    """The supervisor found that it had not had the core; if it still hangs, it is killed later."""
    node = Shell(Policy("a"))
    node.ready("a", 10 * MS)
    node.ask("a", 30 * MS)
    grace_ns = KILL_GRACE_NS + 10 * MS
    assert Kill("a", 0) in node.wait_until(30 * MS + grace_ns)

    assert node.scheduler.spared(node.now_ns, "a", 0) == []

    assert node.wait_until(30 * MS + 2 * grace_ns - 1) == []
    assert node.wait_until(30 * MS + 2 * grace_ns) == [Kill("a", 0)]


def test_sparing_a_worker_that_obeyed_meanwhile_changes_nothing():
    """Its run has ended, and another one goes on."""
    node = Shell(Policy("a"))
    node.ready("a", 10 * MS)
    node.ask("a", 30 * MS)
    node.wait_until(60 * MS)
    node.ask("a", 500 * MS)
    node.fail(0)

    node.scheduler.spared(node.now_ns, "a", 0)

    assert node.wait_until(500 * MS) == []


def test_only_a_job_that_is_not_on_deck_waits_for_the_lane():
    """What is on deck starts by itself; the gate need not hurry for it."""
    node = Shell(Policy("a"))
    node.ready("a", 10 * MS)

    waiting = []
    for _ in range(3):
        node.ask("a", 500 * MS)
        waiting.append(node.scheduler.has_waiting(0))

    assert waiting == [False, False, True]


def test_draining_node_is_idle_when_the_last_run_has_ended():
    """A probe under way keeps nobody from leaving."""
    node = Shell(Policy("a"), estimate=Estimate)
    node.ready("a", 10 * MS)
    node.now_ns = 2 * SECOND
    assert Probe("a", 0) in node.ask("a", 1 * MS)

    node.drain()

    assert node.scheduler.idle


def test_idle_worker_is_probed_when_old_evidence_refuses():
    """Refused on evidence older than a second: measure, so that the next is judged on new."""
    node = Shell(Policy("a"), estimate=Estimate)
    node.ready("a", 10 * MS)
    node.now_ns = 10 * SECOND

    actions = node.ask("a", 1 * MS)

    assert isinstance(actions[0], Reject)
    assert actions[1:] == [Probe("a", 0)]


def test_fresh_evidence_is_not_probed():
    """A run a moment ago says the same; a second later it is old."""
    node = Shell(Policy("a"))
    node.ready("a", 10 * MS)
    node.now_ns = 10 * SECOND
    node.ask("a", 50 * MS)
    node.end(0)

    node.now_ns += PROBE_AFTER_NS
    assert len(node.ask("a", 1 * MS)) == 1
    node.now_ns += 1
    assert len(node.ask("a", 1 * MS)) == 2


def test_uncalibrated_worker_is_probed_however_fresh_its_evidence():
    """A disturbed warm-up must not refuse for a second what it could do."""
    node = Shell(Policy("a"), estimate=Estimate)
    node.ready("a", 10 * MS)
    node.ask("a", 50 * MS)
    node.end(0)

    assert node.ask("a", 1 * MS)[1:] == [Probe("a", 0)]


def test_busy_lane_is_not_probed():
    """Neither under a run of its own criticality nor under a higher one."""
    node = Shell(Policy("a"), Policy("b"), Policy("c", CRITICAL), estimate=Estimate)
    for name in ("a", "b", "c"):
        node.ready(name, 10 * MS)
    node.now_ns = 10 * SECOND

    node.ask("b", 5 * SECOND)
    assert len(node.ask("a", 1 * MS)) == 1
    node.end(0)
    node.ask("c", 5 * SECOND)
    assert len(node.ask("a", 1 * MS)) == 1


def test_job_waits_for_a_probe_and_its_promise_says_so():
    """A probe has the worker: a job that comes meanwhile waits for as long as it may take."""
    node = Shell(Policy("a"), estimate=Estimate)
    node.ready("a", 10 * MS)
    node.now_ns = 10 * SECOND
    node.ask("a", 1 * MS)

    assert node.ask("a", 31 * MS) == [Start(node.jobs[1], 0, on_deck=True)]
    assert node.scheduler.promised_ns(1) == node.now_ns + 30 * MS
    assert node.probe_ended("a", 10 * MS) == []
    assert node.runs[0, 1] == [node.jobs[1]]


def probe_on(node: Shell, actions, service_ns: int) -> int:
    """End probe after probe; return how many there were."""
    probes = 0
    while Probe("a", 0) in actions:
        probes += 1
        node.now_ns += service_ns
        actions = node.probe_ended("a", service_ns)
    return probes


def test_probes_go_on_until_what_was_refused_could_be_promised():
    """One slow warm-up run refuses every request: a single refusal sets that right."""
    node = Shell(Policy("a"), estimate=Estimate)
    node.ready("a", 10 * MS, 10 * MS, 90 * MS)
    node.now_ns = 10 * SECOND
    actions = node.ask("a", 50 * MS)

    assert probe_on(node, actions, 10 * MS) == SOME - 3
    node.ask("a", 50 * MS)
    assert 1 not in node.reasons


def test_probes_end_when_they_are_as_slow_as_the_bound_says():
    """What was refused cannot be done: one run shows it."""
    node = Shell(Policy("a"), estimate=Estimate)
    node.ready("a", 90 * MS)
    node.now_ns = 10 * SECOND
    actions = node.ask("a", 50 * MS)

    assert probe_on(node, actions, 90 * MS) == 1


def test_probes_end_when_somebody_wants_the_lane():
    """They are for idle time: lower work that comes meanwhile waits for one of them only."""
    node = Shell(Policy("a"), Policy("b", Criticality.BEST_EFFORT), estimate=Estimate)
    node.ready("a", 10 * MS, 90 * MS)
    node.ready("b", 10 * MS)
    node.now_ns = 10 * SECOND
    node.ask("a", 50 * MS)
    node.ask("b", 5 * SECOND)

    assert node.probe_ended("a", 10 * MS) == []


def test_probes_end_after_ten_seconds():
    """A bound that does not come down, however many good runs there are, ends it too."""
    node = Shell(Policy("a"))
    node.ready("a", 20 * MS)
    node.now_ns = 10 * SECOND
    actions = node.ask("a", 15 * MS)

    assert probe_on(node, actions, 10 * MS) == 1000


def test_probe_that_never_ends_gets_its_worker_killed():
    """Nobody asked for it, but the level waits for it."""
    node = Shell(Policy("a"), estimate=Estimate)
    node.ready("a", 10 * MS)
    node.now_ns = 10 * SECOND
    node.ask("a", 1 * MS)

    actions = node.wait_until(10 * SECOND + KILL_GRACE_NS + 15 * MS)

    assert actions == [Kill("a", 0)]
    node.lose("a")
    assert node.scheduler.idle


def test_probe_result_of_a_lost_worker_is_ignored():
    """It may still be on its way when the loss is known."""
    node = Shell(Policy("a"), estimate=Estimate)
    node.ready("a", 10 * MS)
    node.now_ns = 10 * SECOND
    node.ask("a", 1 * MS)
    node.lose("a")

    assert node.scheduler.probed(node.now_ns, "a", 0, 10 * MS) == []
