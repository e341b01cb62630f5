"""A worker that another version's takes over from: nothing is lost, nothing runs twice."""

from hypothesis import given
from hypothesis import strategies as st

from tidsram.estate.types import Criticality
from tidsram.outcome import Outcome, Reason
from tidsram.schedule.estimate import Estimate
from tidsram.schedule.events import Evict, Retire, Start
from tidsram.schedule.scheduler import Policy
from tidsram.simulate.run import Node
from tidsram.simulate.script import Replaced
from tidsram.testing import FixedEstimate, Shell, loads, play
from tidsram.units import MS


def busy() -> Shell:
    """One run, one job on deck, two in the queue."""
    node = Shell(Policy("a"))
    node.ready("a", 10 * MS)
    for _ in range(4):
        node.ask("a", 100 * MS)
    return node


def test_an_idle_worker_is_replaced_at_once():
    """The next question runs on the new one."""
    node = Shell(Policy("a"))
    node.ready("a", 10 * MS)

    assert node.replace("a", 5 * MS) == [Retire("a", 0)]
    assert node.ask("a", 100 * MS) == [Start(node.jobs[0], 0, on_deck=False)]
    assert node.scheduler.promised_ns(0) == 5 * MS


def test_what_runs_and_is_on_deck_ends_at_the_old_worker():
    """What waits starts at the new one, behind both, and none of it is lost."""
    node = busy()

    assert node.replace("a", 5 * MS) == []
    assert node.end(0) == []
    assert node.end(1) == [
        Retire("a", 0),
        Start(node.jobs[2], 0, on_deck=False),
        Start(node.jobs[3], 0, on_deck=True),
    ]
    node.end(2)
    node.end(3)
    assert set(node.reasons.values()) == {Reason.NONE}


def test_nothing_more_goes_on_deck_of_a_worker_that_is_leaving():
    """A saturated worker would never be free otherwise."""
    node = busy()
    node.replace("a", 5 * MS)

    assert node.ask("a", 500 * MS) == []


def test_a_dying_old_worker_costs_only_what_it_had():
    """The new one is warm: what waited goes on there."""
    node = busy()
    node.replace("a", 5 * MS)

    assert node.lose("a") == [
        Evict(node.jobs[0], Reason.WORKER_LOST),
        Evict(node.jobs[1], Reason.WORKER_LOST),
        Retire("a", 0),
        Start(node.jobs[2], 0, on_deck=False),
        Start(node.jobs[3], 0, on_deck=True),
    ]


def test_a_dying_new_worker_leaves_the_old_one_in_its_place():
    """As if there had been no change."""
    node = busy()
    node.replace("a", 5 * MS)

    assert node.lose_heir("a") == []
    assert node.end(0) == [Start(node.jobs[2], 0, on_deck=True)]
    assert node.scheduler.estimate("a", 0).upper_ns == 10 * MS


def test_the_new_versions_times_are_its_own():
    """Its ladder may be longer; nothing of the old one's is believed."""
    node = Shell(Policy("a"), estimate=Estimate)
    node.ready("a", 90 * MS)

    node.replace("a", 20 * MS, faster_ns=[4 * MS])

    known = {rung: e.upper_ns for (_, _, rung), e in node.scheduler.estimates.items()}
    assert known == {0: 30 * MS, 1: 6 * MS}


def test_a_trial_counts_against_the_declared_arrivals_of_its_decision():
    """The third of three at once is beyond a burst of two, whichever version it is for."""
    node = Shell(Policy("a", Criticality.CRITICAL, rate=1.0, burst=2))
    node.ready("a", 10 * MS)
    node.try_version("a", "a~trial")
    node.ready("a~trial", 10 * MS)

    for name in ("a", "a~trial", "a~trial"):
        node.ask(name, 500 * MS)

    ranks = [node.scheduler._placed[number].rank for number in range(3)]
    assert ranks == [0, 0, 1]


def test_what_waits_for_a_withdrawn_trial_goes_to_the_others():
    """Its run ends where it is; then it is let go."""
    node = Shell(Policy("a"))
    node.ready("a", 10 * MS)
    node.try_version("a", "a~trial")
    node.ready("a~trial", 10 * MS)
    node.ask("a~trial", 100 * MS)
    node.ask("a~trial", 100 * MS)

    assert node.withdraw("a~trial") == []
    actions = node.end(0)

    assert actions[0] == Retire("a~trial", 0)
    assert [(action.job.job_id, action.job.decision) for action in actions[1:]] == [(1, "a")]
    assert not node.scheduler.is_ready("a~trial")


def test_a_dying_trial_costs_only_what_it_had():
    """What waited for it is run by the version that is served."""
    node = Shell(Policy("a"))
    node.ready("a", 10 * MS)
    node.try_version("a", "a~trial")
    node.ready("a~trial", 10 * MS)
    node.ask("a~trial", 100 * MS)
    node.ask("a~trial", 100 * MS)

    actions = node.lose("a~trial")

    assert actions[0] == Evict(node.jobs[0], Reason.WORKER_LOST)
    assert [(action.job.job_id, action.job.decision) for action in actions[1:]] == [(1, "a")]


def test_a_promoted_trial_keeps_what_was_learnt_of_it():
    """Its runs on real questions say more than its warm-up."""
    node = Shell(Policy("a"), estimate=Estimate)
    node.ready("a", 10 * MS)
    node.try_version("a", "a~trial")
    node.ready("a~trial", 40 * MS)
    for number in range(40):
        node.ask("a~trial", 500 * MS)
        node.now_ns += 5 * MS
        node.end(number, started_ns=node.now_ns - 5 * MS)
    node.withdraw("a~trial")

    node.replace("a", 40 * MS, tried_as="a~trial")

    assert node.scheduler.estimate("a", 0).upper_ns < 6 * MS


@given(
    load=loads(["a"], [5 * MS], streams=("", "left")),
    at_ms=st.lists(st.integers(0, 100), max_size=4),
    rungs=st.sampled_from([(1.0,), (0.5,), (1.0, 0.3)]),
)
def test_a_version_that_is_no_slower_never_costs_a_promise(load, at_ms, rungs):
    """Whenever it comes, and however often: what was promised is answered in time."""
    node = Node(policies=[Policy("a")], warm_up_ns={"a": (5 * MS,)}, estimate=FixedEstimate)
    script = [Replaced(at_ns=ms * MS, decision="a", rungs=rungs) for ms in sorted(at_ms)]

    result = play(node, load, script)

    assert (result.decisions["a"].missed, result.decisions["a"].failed) == (0, 0)
    assert result.decisions["a"].in_time + result.decisions["a"].count(Outcome.REJECTED) == len(
        load
    )
