"""Order of service: who runs next on a lane, who waits on deck, and what a newer frame replaces."""

from hypothesis import given
from hypothesis import strategies as st

from tidsram.estate.types import Criticality
from tidsram.outcome import Reason
from tidsram.schedule.events import Evict, Job, Start, Stop
from tidsram.schedule.lane import urgency
from tidsram.schedule.scheduler import Policy
from tidsram.testing import Shell
from tidsram.units import MS

JOBS = st.builds(
    Job,
    job_id=st.integers(0, 9),
    decision=st.just("d"),
    arrival_ns=st.just(0),
    deadline_ns=st.just(0),
    due_ns=st.integers(0, 3),
    priority=st.integers(1, 3),
)


def shared_lane(*policies: Policy) -> Shell:
    """Two decisions in one criticality: nothing goes on deck, so the queue's order shows."""
    node = Shell(*(policies or (Policy("a"), Policy("b"))))
    for name in ("a", "b"):
        node.ready(name, 10 * MS)
    return node


def started(actions) -> list[int]:
    return [action.job.job_id for action in actions if isinstance(action, Start)]


def served(node: Shell) -> list[int]:
    """End run after run; return the requests in the order in which they ran."""
    order = []
    while runs := [job for jobs in node.runs.values() for job in jobs[:1]]:
        order.append(runs[0].job_id)
        node.end(runs[0].job_id)
    return order


@given(st.lists(JOBS, unique_by=lambda job: job.job_id, min_size=2))
def test_urgency_orders_any_two_jobs(jobs):
    """No two jobs are equally urgent, so neither arrival order nor a heap's whim decides."""
    keys = [urgency(job) for job in jobs]

    assert len(set(keys)) == len(keys)
    assert sorted(sorted(keys, reverse=True)) == sorted(keys)


def test_earliest_deadline_runs_first():
    """Queue three behind a run, the loosest first: they run by deadline, not by arrival."""
    node = shared_lane()
    for decision, budget in (("a", 50), ("b", 100), ("a", 90), ("b", 80)):
        node.ask(decision, budget * MS)

    assert served(node) == [0, 3, 2, 1]


def test_equal_deadlines_run_in_order_of_arrival():
    """A tie goes to the older request."""
    node = shared_lane()
    for decision in ("a", "b", "a", "b"):
        node.ask(decision, 100 * MS)

    assert served(node) == [0, 1, 2, 3]


def test_due_time_counts_not_the_deadline():
    """Two with one deadline: the asker that needs longer for the way back goes first."""
    node = shared_lane()
    node.ask("a", 100 * MS)
    node.ask("a", 100 * MS, return_ns=1 * MS)
    node.ask("b", 100 * MS, return_ns=9 * MS)

    assert served(node) == [0, 2, 1]


def test_priority_goes_before_the_deadline():
    """Inside a criticality, priority 1 overtakes a tighter priority 2."""
    node = shared_lane()
    node.ask("a", 100 * MS)
    node.ask("a", 60 * MS, priority=2)
    node.ask("b", 90 * MS, priority=1)

    assert served(node) == [0, 2, 1]


def test_what_its_asker_lowered_runs_last():
    """A lowered request waits for all others of its level, whatever its priority and deadline."""
    node = shared_lane()
    node.ask("a", 100 * MS)
    node.ask("a", 60 * MS, lowered=1)
    node.ask("b", 90 * MS, priority=7)

    assert served(node) == [0, 2, 1]


def test_what_its_asker_lowered_takes_nothing_from_others():
    """A new request is promised as if the lowered one were not there; that one hears it at once."""
    node = shared_lane()
    node.ask("a", 100 * MS)
    node.ask("a", 35 * MS, lowered=1)
    node.ask("b", 36 * MS)

    actions = node.ask("b", 37 * MS)

    assert actions == [Evict(node.jobs[1], Reason.EVICTED)]
    assert node.reasons == {1: Reason.EVICTED}
    assert served(node) == [0, 2, 3]


def test_evicted_request_makes_room_for_the_next():
    """The first lowered one goes; its time is the second's, which therefore stays."""
    node = shared_lane()
    node.ask("a", 100 * MS)
    node.ask("a", 25 * MS, lowered=1)
    node.ask("b", 35 * MS, lowered=1)

    node.ask("b", 100 * MS)

    assert node.reasons == {1: Reason.EVICTED}
    assert served(node) == [0, 3, 2]


def test_lowered_run_gives_way_to_its_own_decision():
    """It holds the only worker: where that would cost a promise, it is stopped and told."""
    node = Shell(Policy("c", Criticality.CRITICAL))
    node.ready("c", 10 * MS)
    node.ask("c", 100 * MS, lowered=1)

    actions = node.ask("c", 12 * MS)

    assert actions[:2] == [Evict(node.jobs[0], Reason.EVICTED), Stop(node.jobs[0], 0)]
    assert actions[2:] == [Start(node.jobs[1], 0, on_deck=True)]


def test_lowered_run_may_end_where_there_is_time():
    """What still makes it behind the run lets it be."""
    node = Shell(Policy("c", Criticality.CRITICAL))
    node.ready("c", 10 * MS)
    node.ask("c", 100 * MS, lowered=1)

    assert node.ask("c", 20 * MS) == [Start(node.jobs[1], 0, on_deck=True)]
    assert node.reasons == {}


def test_lowered_job_of_a_critical_decision_waits_for_standard_runs():
    """The kernel would let its worker go first, so it is not started before they are done."""
    node = Shell(Policy("c", Criticality.CRITICAL), Policy("s"))
    node.ready("c", 10 * MS)
    node.ready("s", 10 * MS)
    node.ask("s", 100 * MS)

    assert node.ask("c", 90 * MS, lowered=1) == []
    assert node.end(0) == [Start(node.jobs[1], 0, on_deck=False)]


def test_next_job_goes_on_deck_behind_its_own_decision():
    """With one decision in a level, its worker holds the next job, and only one."""
    node = Shell(Policy("a"))
    node.ready("a", 10 * MS)

    actions = [node.ask("a", 100 * MS) for _ in range(3)]

    assert actions[0] == [Start(node.jobs[0], 0, on_deck=False)]
    assert actions[1] == [Start(node.jobs[1], 0, on_deck=True)]
    assert actions[2] == []
    assert node.end(0) == [Start(node.jobs[2], 0, on_deck=True)]


def test_nothing_goes_on_deck_where_two_decisions_share_a_level():
    """A job on deck cannot be overtaken, so a tight job of the other decision must find it free."""
    node = shared_lane()
    node.ask("a", 100 * MS)

    assert node.ask("a", 90 * MS) == []
    assert started(node.ask("b", 50 * MS)) == []
    assert started(node.end(0)) == [2]


def test_decisions_of_other_criticalities_do_not_keep_a_deck_empty():
    """Each criticality has its own run; they meet in the kernel, not in the queue."""
    node = Shell(Policy("a"), Policy("b", Criticality.CRITICAL))
    node.ready("a", 10 * MS)
    node.ready("b", 10 * MS)
    for decision in ("a", "b"):
        node.ask(decision, 100 * MS)

    assert [started(node.ask(decision, 100 * MS)) for decision in ("a", "b")] == [[2], [3]]


def test_stream_job_never_goes_on_deck():
    """On deck it could not be replaced by a newer frame."""
    node = Shell(Policy("a", queue="newest"))
    node.ready("a", 10 * MS)
    node.ask("a", 100 * MS, stream="camera")

    assert node.ask("a", 100 * MS, stream="camera") == []
    assert started(node.end(0)) == [1]


def test_newest_of_a_stream_replaces_its_unstarted_older():
    """The older frame is told `stale` at once; the one that runs is left alone."""
    node = Shell(Policy("a", queue="newest"))
    node.ready("a", 10 * MS)
    for _ in range(2):
        node.ask("a", 100 * MS, stream="camera")

    actions = node.ask("a", 100 * MS, stream="camera")

    assert actions == [Evict(node.jobs[1], Reason.STALE)]
    assert served(node) == [0, 2]


def test_end_of_an_older_frame_does_not_hide_the_newest():
    """The first has run, the second still waits: the third replaces the second."""
    node = shared_lane(Policy("a", queue="newest"), Policy("b"))
    node.ask("a", 100 * MS, stream="camera")
    node.ask("b", 50 * MS)
    node.ask("a", 100 * MS, stream="camera")
    node.end(0)

    actions = node.ask("a", 100 * MS, stream="camera")

    assert actions == [Evict(node.jobs[2], Reason.STALE)]


def test_streams_replace_only_their_own():
    """Another camera's frame, and a question without a stream, stay."""
    node = Shell(Policy("a", queue="newest"))
    node.ready("a", 10 * MS)
    for stream in ("left", "left", "right", ""):
        node.ask("a", 100 * MS, stream=stream)

    node.ask("a", 100 * MS, stream="left")

    assert node.reasons == {1: Reason.STALE}
    assert served(node) == [0, 2, 3, 4]


def test_stream_of_an_edf_decision_keeps_every_question():
    """Only `queue = "newest"` lets a newer one replace an older."""
    node = Shell(Policy("a"))
    node.ready("a", 10 * MS)
    for _ in range(3):
        node.ask("a", 100 * MS, stream="camera")

    assert served(node) == [0, 1, 2]


def test_newer_frame_that_cannot_be_promised_leaves_the_older():
    """A promise is not broken for one that cannot be made."""
    node = Shell(Policy("a", queue="newest"))
    node.ready("a", 10 * MS)
    for _ in range(2):
        node.ask("a", 100 * MS, stream="camera")

    node.ask("a", 5 * MS, stream="camera")

    assert node.reasons == {2: Reason.INFEASIBLE}
    assert served(node) == [0, 1]


def test_newer_frame_takes_the_older_ones_time():
    """The lane has room for one more only because the older frame leaves."""
    node = Shell(Policy("a", queue="newest"))
    node.ready("a", 10 * MS)
    for _ in range(2):
        node.ask("a", 20 * MS, stream="camera")

    node.ask("a", 20 * MS, stream="camera")

    assert node.reasons == {1: Reason.STALE}
