"""Others' rules in the bench: each does what it is said to do, on a lane that keeps its account."""

from itertools import pairwise

import numpy as np
import pytest
from bench.pressure import ours
from bench.pressure.policies import RULES, Leftover, oracle
from bench.pressure.server import REFUSED, Request, requests_of, serve
from bench.pressure.workloads import MIXED, SINGLE, draw
from hypothesis import given
from hypothesis import strategies as st

from tidsram.simulate.result import Played

UPPER_NS = 40
BUDGETS_NS = (5 * UPPER_NS, 30 * UPPER_NS)  # critical, others
COLUMNS = Played.__struct_fields__


def request(number, arrival_ns, *, budget_ns, service_ns=(40, 20), upper_ns=None, kind=1):
    upper_ns = service_ns if upper_ns is None else upper_ns
    deadline_ns = arrival_ns + budget_ns
    return Request(number, kind, kind == 0, arrival_ns, deadline_ns, service_ns, upper_ns)


@st.composite
def loads(draw):
    """Any questions of two kinds, several at an instant, of runs within their profile."""
    now_ns, made = 0, []
    for number in range(draw(st.integers(1, 40))):
        now_ns += draw(st.integers(0, 60))
        kind = draw(st.integers(0, 1))
        first_ns = draw(st.integers(2, UPPER_NS))
        service_ns = (first_ns, first_ns // 2)
        upper_ns = (UPPER_NS, UPPER_NS // 2)
        made.append(
            request(
                number,
                now_ns,
                budget_ns=BUDGETS_NS[kind],
                service_ns=service_ns,
                upper_ns=upper_ns,
                kind=kind,
            )
        )
    return made


def runs(played):
    """Return (arrival, start, end) of what ran, in the order of service."""
    ran = played.rung != REFUSED
    columns = (played.arrival_ns, played.started_ns, played.ended_ns)
    return sorted(zip(*(c[ran].tolist() for c in columns), strict=True), key=lambda run: run[1])


@pytest.mark.parametrize("name", RULES)
@given(asked=loads())
def test_lane_is_never_idle_while_somebody_waits(name, asked):
    """A run begins where the last one ended, or when the first of the rest came."""
    played = serve(asked, RULES[name]()).played

    served, free_ns = runs(played), 0
    for place, (_, started_ns, ended_ns) in enumerate(served):
        first_ns = min(arrival_ns for arrival_ns, _, _ in served[place:])
        assert started_ns == max(free_ns, first_ns)
        free_ns = ended_ns


@pytest.mark.parametrize("name", RULES)
@given(asked=loads())
def test_account_is_right(name, asked):
    """Count what was in time, late and wasted again from starts and service times."""
    outcome = serve(asked, RULES[name]())

    played = outcome.played
    in_time = busy_ns = wasted_ns = 0
    for n, question in enumerate(asked):
        rung = int(played.rung[n])
        assert played.told_ns[n] >= question.arrival_ns
        if rung == REFUSED:
            assert not played.answered[n]
            continue
        service_ns = question.service_ns[rung]
        good = played.started_ns[n] + service_ns <= question.deadline_ns
        in_time += good
        busy_ns += service_ns
        wasted_ns += 0 if good else service_ns
    assert (outcome.busy_ns, outcome.wasted_ns, played.in_time) == (busy_ns, wasted_ns, in_time)


@pytest.mark.parametrize("name", ["FIFO, tuned timeout", "EDF, admission", "SlackFit"])
@given(asked=loads())
def test_rules_that_know_the_profile_waste_nothing(name, asked):
    """What takes no longer than its profile is never late by a rule that plans with it."""
    outcome = serve(asked, RULES[name]())

    assert outcome.wasted_ns == outcome.played.late == 0


@given(asked=loads())
def test_admission_keeps_every_promise(asked):
    """Refused at arrival or answered in time: there is nothing between."""
    played = serve(asked, RULES["EDF, admission"]()).played

    assert played.in_time == played.admitted


def order(name, asked):
    """Return the numbers in the order in which they ran, by the rule of this name."""
    played = serve(asked, RULES[name]()).played
    return [int(n) for n in np.argsort(played.started_ns) if played.rung[n] != REFUSED]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("FIFO", [0, 1, 2, 3]), ("EDF", [0, 3, 2, 1]), ("Clockwork", [0, 3, 2, 1])],
)
def test_order_of_service(name, expected):
    """While one runs, three come whose deadlines are in the other order."""
    asked = [request(0, 0, budget_ns=900)]
    asked += [request(n, n, budget_ns=900 - 100 * n) for n in (1, 2, 3)]

    assert order(name, asked) == expected


def test_clockwork_goes_by_slack_not_by_deadline():
    """Of two who wait, the one with the longer run has less slack though it is due later."""
    asked = [
        request(0, 0, budget_ns=900),
        request(1, 1, budget_ns=500, service_ns=(10,), kind=1),
        request(2, 2, budget_ns=510, service_ns=(100,), kind=2),
    ]

    assert order("Clockwork", asked) == [0, 2, 1]
    assert order("EDF", asked) == [0, 1, 2]


def test_clockwork_learns_how_long_runs_take():
    """The profile says 10, ten runs took 50: who has 40 left is refused at once."""
    asked = [request(n, 100 * n, budget_ns=99, service_ns=(50,), upper_ns=(10,)) for n in range(10)]
    asked.append(request(10, 1000, budget_ns=40, service_ns=(30,), upper_ns=(10,)))

    played = serve(asked, RULES["Clockwork"]()).played

    assert played.in_time == 10
    assert played.told_ns[10] == 1000
    assert played.rung[10] == REFUSED


def test_queue_timeout_looks_at_the_waiting_time_only():
    """At its turn one has waited just less than its budget and runs for nothing; one, more."""
    asked = [request(0, 0, budget_ns=100, service_ns=(90,))]
    asked += [request(n, 1, budget_ns=budget_ns) for n, budget_ns in ((1, 95), (2, 100))]

    played = serve(asked, RULES["FIFO, timeout"]()).played

    assert played.rung.tolist() == [0, 0, REFUSED]
    assert played.in_time == 1
    assert played.told_ns.tolist() == [90, 130, 130]
    tuned = serve(asked, RULES["FIFO, tuned timeout"]()).played
    assert tuned.rung.tolist() == [0, REFUSED, REFUSED]


@pytest.mark.parametrize(("budget_ns", "rung"), [(80, 0), (79, 1), (60, 1), (59, REFUSED)])
def test_slackfit_takes_the_slowest_variant_that_fits(budget_ns, rung):
    """The lane is free 40 later; variants take 40 and 20."""
    asked = [request(0, 0, budget_ns=40), request(1, 0, budget_ns=budget_ns)]

    assert serve(asked, RULES["SlackFit"]()).played.rung.tolist() == [0, rung]


@given(asked=loads())
def test_oracle_is_never_late_and_wastes_nothing(asked):
    """Whoever it admits is answered in time."""
    outcome = oracle(asked)

    assert outcome.wasted_ns == 0
    assert outcome.played.in_time == outcome.played.admitted


@given(asked=loads())
def test_oracle_gives_every_instant_to_one_run(asked):
    """A run has what its variant takes between its start and its end, less critical runs within."""
    played = oracle(asked).played

    ran = [q for q in asked if played.rung[q.number] != REFUSED]
    spans = {q.number: (played.started_ns[q.number], played.ended_ns[q.number]) for q in ran}
    critical = [spans[q.number] for q in ran if q.critical]
    for question in ran:
        start_ns, end_ns = spans[question.number]
        inside = [(max(s, start_ns), min(e, end_ns)) for s, e in critical]
        taken_ns = 0 if question.critical else sum(max(0, e - s) for s, e in inside)
        assert start_ns >= question.arrival_ns
        assert end_ns - start_ns - taken_ns == question.service_ns[played.rung[question.number]]
    for kind in (True, False):
        own = sorted(spans[q.number] for q in ran if q.critical is kind)
        assert all(first[1] <= second[0] for first, second in pairwise(own))


@given(asked=loads())
def test_oracle_serves_critical_questions_as_if_alone(asked):
    """Take the others away: each critical question ends when it did."""
    critical = [q for q in asked if q.critical]
    renumbered = [
        request(n, q.arrival_ns, budget_ns=BUDGETS_NS[0], service_ns=q.service_ns, kind=0)
        for n, q in enumerate(critical)
    ]

    beside, alone = oracle(asked).played, oracle(renumbered).played

    assert beside.ended_ns[[q.number for q in critical]].tolist() == alone.ended_ns.tolist()


@pytest.mark.parametrize("arrivals", ["poisson", "gamma 4", "synchronised"])
@pytest.mark.parametrize("load", [0.5, 1.2, 2.0])
def test_nobody_answers_more_critical_questions_than_the_oracle(arrivals, load):
    """It is greedy and not the optimum, so half a percent is allowed."""
    asked = draw(MIXED, arrivals, load, 4, seed=3)
    requests = requests_of(asked)
    best = oracle(requests)

    outcomes = [serve(requests, rule()) for rule in RULES.values()]

    most = max(_critical_in_time(outcome) for outcome in (*outcomes, ours.serve(asked)))
    assert _critical_in_time(best) >= most - 0.005 * len(asked[0].arrivals_ns)


def _critical_in_time(outcome):
    played = outcome.played
    in_time = played.answered & (played.told_ns <= played.deadline_ns)
    return int((in_time & (outcome.kinds == 0)).sum())


@pytest.mark.parametrize("kinds", [MIXED, SINGLE])
def test_same_seed_same_outcome(kinds):
    """Draw and serve twice, by everybody: nothing but the seed decides."""

    def day(seed):
        asked = draw(kinds, "gamma 2", 1.2, 1, seed)
        requests = requests_of(asked)
        outcomes = [serve(requests, rule()) for rule in RULES.values()]
        outcomes += [oracle(requests), ours.serve(asked)]
        return [[getattr(o.played, name).tolist() for name in COLUMNS] for o in outcomes]

    assert day(5) == day(5)
    assert day(5) != day(6)


@given(
    spans=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), max_size=8),
    at=st.integers(0, 300),
)
def test_leftover_clock_stands_still_in_spans(spans, at):
    """Count the free nanoseconds one by one; and the way back gives the first such instant."""
    starts, ends, now = [], [], 0
    for gap, length in spans:
        starts.append(now + gap)
        now += gap + length
        ends.append(now)
    left = Leftover(starts, ends)

    shown = int(left.at(np.array([at]))[0])

    taken = {ns for start, end in zip(starts, ends, strict=True) for ns in range(start, end)}
    assert shown == sum(ns not in taken for ns in range(at))
    first, last = left.first(shown), left.last(shown)
    assert first <= at <= last
    assert [int(ns) - shown for ns in left.at(np.array([last, last + 1]))] == [0, 1]
    assert int(left.at(np.array([first]))[0]) == shown
    assert first == 0 or int(left.at(np.array([first - 1]))[0]) == shown - 1
