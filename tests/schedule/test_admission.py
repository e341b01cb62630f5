"""Admission: what is promised, what is refused, and what a refusal says."""

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from tidsram.estate.types import Criticality
from tidsram.outcome import Reason
from tidsram.schedule.events import Action, Evict, Job, Reject, Start, Stop
from tidsram.schedule.scheduler import Policy
from tidsram.testing import FirstCome, FixedEstimate, Shell
from tidsram.units import MS

MANY = 3 * settings.default.max_examples
CRITICAL, BEST_EFFORT = Criticality.CRITICAL, Criticality.BEST_EFFORT


def one_lane(*policies: Policy, service_ns: int = 10 * MS) -> Shell:
    node = Shell(*(policies or (Policy("a"),)))
    for policy in policies or (Policy("a"),):
        node.ready(policy.name, service_ns)
    return node


def test_refused_where_no_worker_is_warm():
    """Before the first worker nothing is known, and nothing is claimed."""
    node = Shell(Policy("a"))

    assert node.ask("a", 100 * MS) == [Reject(node.jobs[0], Reason.NOT_READY, 0, 0)]


def test_refused_while_draining_but_promises_are_kept():
    """What was admitted before still runs, also what waits in the queue."""
    node = one_lane()
    for _ in range(3):
        node.ask("a", 100 * MS)

    node.drain()

    assert node.ask("a", 100 * MS) == [Reject(node.jobs[3], Reason.DRAINING, 0, 0)]
    for number in range(3):
        node.end(number)
    assert [node.reasons[number] for number in range(3)] == [Reason.NONE] * 3
    assert node.scheduler.idle


def test_infeasible_when_the_budget_is_below_one_run():
    """Alone on an idle lane it would be late: asking again is of no use."""
    node = one_lane()

    actions = node.ask("a", 9 * MS)

    assert actions == [Reject(node.jobs[0], Reason.INFEASIBLE, 10 * MS, 10 * MS)]


def test_infeasible_counts_the_way_back():
    """One run fits into the budget, but not one run and the way back to the asker."""
    node = one_lane()

    (refusal,) = node.ask("a", 10 * MS, return_ns=1)

    assert refusal.reason is Reason.INFEASIBLE


def test_overload_when_others_stand_before_it():
    """Feasible alone; the refusal names the finish and what could have been promised."""
    node = one_lane()
    for _ in range(2):
        node.ask("a", 100 * MS)

    actions = node.ask("a", 29 * MS)

    assert actions == [Reject(node.jobs[2], Reason.OVERLOAD, 30 * MS, 30 * MS)]


def test_overload_when_another_would_be_late():
    """The new one would make it, at the cost of a promise."""
    node = one_lane()
    for _ in range(2):
        node.ask("a", 100 * MS)
    node.ask("a", 35 * MS)

    (refusal,) = node.ask("a", 33 * MS)

    assert (refusal.reason, refusal.predicted_finish_ns) == (Reason.OVERLOAD, 30 * MS)
    # Behind the third; not level with it, for it would still finish at 40.
    assert refusal.earliest_feasible_ns == 40 * MS


def test_refusal_for_the_sake_of_lower_priority_names_the_end_of_all():
    """It would go before them at any due time, and one of them has no time to give."""
    node = one_lane(Policy("a"), Policy("b"))
    node.ask("a", 100 * MS)
    node.ask("a", 25 * MS, priority=2)
    node.ask("a", 90 * MS, priority=3)

    (refusal,) = node.ask("b", 500 * MS)

    assert refusal.reason is Reason.OVERLOAD
    assert refusal.earliest_feasible_ns == 40 * MS


def test_promise_covers_the_time_until_the_run_ends():
    """The running job's remaining bound counts, not its whole one."""
    node = one_lane()
    node.ask("a", 100 * MS)
    node.wait_until(4 * MS)

    assert node.ask("a", 16 * MS) == [Start(node.jobs[1], 0, on_deck=True)]
    assert node.scheduler.promised_ns(1) == 20 * MS


def test_overdue_run_is_not_expected_to_end_at_once():
    """Past its bound it is given an eighth of it, and as long again as it is overdue."""
    node = one_lane()
    node.ask("a", 1000 * MS)

    node.wait_until(10 * MS)
    node.ask("a", 1000 * MS)
    node.wait_until(18 * MS)
    node.ask("a", 1000 * MS)

    assert node.scheduler.promised_ns(1) == (10 + 1.25 + 10) * MS
    assert node.scheduler.promised_ns(2) == (18 + 8 + 10 + 10) * MS


def test_standard_is_promised_behind_all_critical_work():
    """Running and queued critical work counts in full, though none of it is in its queue."""
    node = one_lane(Policy("a"), Policy("c", CRITICAL))
    for _ in range(3):
        node.ask("c", 100 * MS)

    node.ask("a", 39 * MS)
    node.ask("a", 40 * MS)

    assert node.reasons == {3: Reason.OVERLOAD}
    assert node.scheduler.promised_ns(4) == 40 * MS


def test_critical_is_promised_as_if_nothing_lower_were_there():
    """The kernel lets it go first, so standard work does not count."""
    node = one_lane(Policy("a"), Policy("c", CRITICAL))
    node.ask("a", 1000 * MS)

    assert node.ask("c", 10 * MS) == [Start(node.jobs[1], 0, on_deck=False)]


def test_critical_arrival_evicts_what_can_no_longer_make_it():
    """Of three standard jobs the run still makes it, the second does not, the third again does."""
    node = one_lane(Policy("a"), Policy("b"), Policy("c", CRITICAL))
    node.ask("a", 20 * MS)
    node.ask("a", 29 * MS)
    node.ask("b", 30 * MS)

    actions = node.ask("c", 100 * MS)

    assert actions == [
        Start(node.jobs[3], 0, on_deck=False),
        Evict(node.jobs[1], Reason.EVICTED),
    ]


def test_critical_arrival_stops_a_run_that_can_no_longer_make_it():
    """Its asker hears it now, and the run does not waste the lane; the next one gains."""
    node = one_lane(Policy("a"), Policy("b"), Policy("c", CRITICAL))
    node.ask("a", 19 * MS)
    node.ask("b", 29 * MS)

    actions = node.ask("c", 100 * MS)

    assert actions == [
        Start(node.jobs[2], 0, on_deck=False),
        Evict(node.jobs[0], Reason.EVICTED),
        Stop(node.jobs[0], 0),
    ]
    assert node.end(2) == []
    assert node.fail(0) == [Start(node.jobs[1], 0, on_deck=False)]


def test_critical_arrival_evicts_the_job_on_deck():
    """On deck is not out of reach: the worker is told to skip it."""
    node = one_lane(Policy("a"), Policy("c", CRITICAL))
    node.ask("a", 100 * MS)
    node.ask("a", 29 * MS)

    actions = node.ask("c", 100 * MS)

    assert actions[1:] == [Evict(node.jobs[1], Reason.EVICTED), Stop(node.jobs[1], 0)]


def test_stopped_run_is_not_in_the_way_of_those_behind_it():
    """It was told to stop before: what waits behind it is not evicted for its sake."""
    node = one_lane(Policy("a"), Policy("b"), Policy("c", CRITICAL))
    node.ask("a", 100 * MS)
    node.ask("b", 25 * MS)
    node.leave(0)

    node.ask("c", 100 * MS)

    assert 1 not in node.reasons


def test_criticalities_are_kept_in_three_steps():
    """Critical evicts best-effort and standard, standard evicts best-effort, never upwards."""
    node = one_lane(Policy("a"), Policy("b", BEST_EFFORT), Policy("c", CRITICAL))
    node.ask("c", 20 * MS)
    node.ask("b", 25 * MS)
    node.ask("a", 25 * MS)
    node.ask("b", 25 * MS)

    assert node.reasons == {1: Reason.EVICTED, 3: Reason.OVERLOAD}


def test_idle_lane_is_taken_before_one_with_lower_work():
    """Both could take the critical job at once; on one of them it would hold somebody up."""
    node = Shell(Policy("a"), Policy("c", CRITICAL), lanes=2)
    for decision in ("a", "c"):
        for lane in range(2):
            node.ready(decision, 10 * MS, lane=lane)
    node.ask("a", 100 * MS)

    assert node.ask("c", 100 * MS) == [Start(node.jobs[1], 1, on_deck=False)]


def test_job_goes_where_it_finishes_first():
    """Two lanes, one busy: each new job takes the lane with the earlier predicted finish."""
    node = Shell(Policy("a"), lanes=2)
    node.ready("a", 10 * MS, lane=0)
    node.ready("a", 14 * MS, lane=1)

    lanes = [node.ask("a", 100 * MS)[0].lane for _ in range(4)]

    assert lanes == [0, 1, 0, 1]


def test_job_that_fits_on_one_lane_only_goes_there():
    """The first lane would finish it earlier, at the cost of a promise."""
    node = Shell(Policy("a"), Policy("b"), lanes=2)
    node.ready("a", 10 * MS, lane=0)
    node.ready("b", 10 * MS, lane=0)
    node.ready("a", 22 * MS, lane=1)
    node.ask("b", 100 * MS)
    node.ask("b", 29 * MS)

    assert node.ask("a", 25 * MS) == [Start(node.jobs[2], 1, on_deck=False)]


def test_hopeless_job_is_told_when_its_turn_comes():
    """The run before it took too long: it is evicted, not run in vain, and the next one starts."""
    node = one_lane(Policy("a"), Policy("b"))
    node.ask("a", 100 * MS)
    node.ask("b", 25 * MS)
    node.ask("b", 100 * MS)
    node.wait_until(16 * MS)

    actions = node.end(0)

    assert actions == [
        Evict(node.jobs[1], Reason.EVICTED),
        Start(node.jobs[2], 0, on_deck=False),
    ]


def test_hopeless_job_on_deck_is_stopped_when_its_turn_comes():
    """Its worker has begun it by itself; it must not go on in vain."""
    node = one_lane()
    node.ask("a", 100 * MS)
    node.ask("a", 25 * MS)
    node.wait_until(16 * MS)

    actions = node.end(0)

    assert actions == [Evict(node.jobs[1], Reason.EVICTED), Stop(node.jobs[1], 0)]


# Against an oracle --------------------------------------------------------------------------------

SERVICE_NS = {"a": 3, "b": 5, "c": 8}
QUESTIONS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 40)), min_size=1, max_size=6)


def ask_all(questions) -> tuple[list[Job], list[Action]]:
    """Ask a lane for all of these at once; return what it promised, and its last decision."""
    scheduler = FirstCome([Policy(name) for name in SERVICE_NS], 1, FixedEstimate)
    for name, service_ns in SERVICE_NS.items():
        scheduler.worker_ready(0, name, 0, [[service_ns]])
    promised, actions = [], []
    for number, (name, due_ns, *priority) in enumerate(questions):
        job = Job(number, name, 0, 1000 + due_ns, due_ns, *priority)
        actions = scheduler.arrived(0, job)
        if not refusals(actions):
            promised.append(job)
    return promised, actions


def refusals(actions) -> list[Reject]:
    return [action for action in actions if isinstance(action, Reject)]


def some_order_fits(running: Job, queued: list[Job]) -> bool:
    """Whether any order at all keeps every promise behind the run, by trying each."""
    for order in permutations(queued):
        now_ns = SERVICE_NS[running.decision]
        for job in order:
            now_ns += SERVICE_NS[job.decision]
            if now_ns > job.due_ns:
                break
        else:
            return True
    return False


@given(QUESTIONS)
@settings(max_examples=MANY)
def test_refused_only_what_no_order_could_fit(questions):
    """Try every order of what was promised and what was refused: none may keep all promises."""
    before, _ = ask_all(questions[:-1])
    after, actions = ask_all(questions)
    name, due_ns = questions[-1]

    if not refusals(actions):
        assert some_order_fits(after[0], after[1:])
    elif not before:
        assert SERVICE_NS[name] > due_ns
    else:
        new = refusals(actions)[0].job
        assert not some_order_fits(before[0], [*before[1:], new])


@given(QUESTIONS, st.sampled_from("abc"))
@settings(max_examples=MANY)
def test_earliest_feasible_is_feasible_and_the_earliest(questions, name):
    """Ask again due exactly then: it is promised; due any earlier, it is refused."""
    (refused,) = refusals(ask_all([*questions, (name, 1)])[1])
    earliest_ns = refused.earliest_feasible_ns

    promised = [
        due_ns
        for due_ns in range(1, earliest_ns + 1)
        if not refusals(ask_all([*questions, (name, due_ns)])[1])
    ]

    assert promised == [earliest_ns]


PRIORITIES = st.integers(1, 2)
ORDERED = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 60), PRIORITIES), max_size=6)


@given(ORDERED, st.sampled_from("abc"), PRIORITIES)
@settings(max_examples=MANY)
def test_earliest_feasible_respects_priority(questions, name, priority):
    """As above, unless no due time at all could be promised now: then it is after all others."""
    (refused,) = refusals(ask_all([*questions, (name, 1, priority)])[1])
    earliest_ns = refused.earliest_feasible_ns

    promised = [
        due_ns
        for due_ns in [*range(1, earliest_ns + 1), 10_000]
        if not refusals(ask_all([*questions, (name, due_ns, priority)])[1])
    ]

    assert promised in ([earliest_ns, 10_000], [])
