"""Properties of whole loads: a promise is kept, and every request has one outcome."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tidsram.estate.types import Criticality
from tidsram.outcome import Reason
from tidsram.schedule.events import Evict, Miss, Reject, Start
from tidsram.schedule.scheduler import Policy
from tidsram.simulate.result import REASONS
from tidsram.simulate.run import Node
from tidsram.simulate.script import Drained, Gone, Hung, Lost, Slower
from tidsram.testing import FirstCome, FixedEstimate, loads, play

MANY = 3 * settings.default.max_examples
NAMES, BOUNDS_NS = ("a", "b", "c"), (10, 25, 60)
WARM_UP_NS = {name: (bound,) for name, bound in zip(NAMES, BOUNDS_NS, strict=True)}


def node(*policies: Policy, lane_count: int = 1, return_ns: int = 1) -> Node:
    return Node(
        policies=policies,
        lane_count=lane_count,
        warm_up_ns=WARM_UP_NS,
        return_ns=return_ns,
        estimate=FixedEstimate,
        restart_ns=200,
    )


@given(
    loads(NAMES, BOUNDS_NS, priorities=(1, 2, 3)),
    st.integers(1, 3),
    st.integers(1, 20),
)
@settings(max_examples=MANY)
def test_promise_is_kept_when_every_run_keeps_its_bound(load, lane_count, return_ns):
    """Any arrivals, budgets, priorities, lanes; what is admitted ends before its due time."""
    unshared = node(*map(Policy, NAMES), lane_count=lane_count, return_ns=return_ns)

    asked = play(replace(unshared, scheduler=FirstCome), load).asked

    promised = asked.promised_ns > 0
    assert set(asked.reason[promised]) <= {REASONS.index(Reason.NONE)}
    assert np.all(asked.ended_ns[promised] <= asked.deadline_ns[promised] - return_ns)


@given(loads(NAMES, BOUNDS_NS), st.integers(1, 3))
def test_promise_is_kept_to_critical_whatever_else_comes(load, lane_count):
    """Standard and best-effort work on the same lanes cannot make a critical answer late."""
    mixed = node(
        Policy("a", Criticality.BEST_EFFORT),
        Policy("b", Criticality.CRITICAL),
        Policy("c"),
        lane_count=lane_count,
    )

    critical = play(mixed, load).decisions["b"]

    assert critical.admitted == critical.in_time


@given(loads(NAMES, BOUNDS_NS, most=15))
def test_critical_is_served_as_if_it_were_alone(load):
    """Take all lower work away: the same critical requests are answered, at the same instants."""
    mixed = node(Policy("a"), Policy("b", Criticality.CRITICAL), Policy("c"))

    beside = play(mixed, load).decisions["b"]
    alone = play(mixed, [one for one in load if one.decision == "b"]).decisions["b"]

    assert beside.told_ns.tolist() == alone.told_ns.tolist()
    assert beside.reason.tolist() == alone.reason.tolist()


INSTANTS, LANES = st.integers(0, 1500), st.integers(0, 1)
EVENTS = st.one_of(
    st.builds(Lost, at_ns=INSTANTS, decision=st.sampled_from(NAMES), lane=LANES),
    st.builds(
        Lost,
        at_ns=INSTANTS,
        decision=st.sampled_from(NAMES),
        lane=LANES,
        ready_ns=st.integers(1500, 2500),
    ),
    st.builds(Hung, at_ns=INSTANTS, decision=st.sampled_from(NAMES), lane=LANES),
    st.builds(
        Slower, at_ns=INSTANTS, decision=st.sampled_from(NAMES), factor=st.sampled_from([0.5, 3])
    ),
    st.builds(Gone, at_ns=INSTANTS, number=st.integers(0, 30)),
    st.builds(Drained, at_ns=st.integers(1000, 1500)),
)


@given(
    loads(
        NAMES,
        BOUNDS_NS,
        priorities=(1, 2),
        lowered=(0, 1),
        askers=("x", "y"),
        streams=("", "left", "right"),
    ),
    st.lists(EVENTS, max_size=8),
    st.permutations(list(Criticality)),
    st.sampled_from(["edf", "newest"]),
)
@settings(max_examples=MANY)
def test_every_request_has_one_outcome_whatever_happens(load, script, criticalities, queue):
    """Losses, hangs, departures, slow runs, draining, on two lanes: nothing is left or told twice.

    The driver asserts that nothing is told twice and that no level runs two jobs.
    """
    policies = [
        Policy(name, criticality, queue=queue)
        for name, criticality in zip(NAMES, criticalities, strict=True)
    ]
    script = [e for e in script if not isinstance(e, Gone) or e.number < len(load)]
    log = []

    asked = play(node(*policies, lane_count=2), load, script, log).asked

    assert np.all(asked.reason >= 0)
    assert np.all(asked.told_ns >= asked.arrival_ns)
    told = {action.job.job_id: n for n, (_, action) in enumerate(log) if ends(action)}
    starts = [
        (action.job.job_id, n) for n, (_, action) in enumerate(log) if isinstance(action, Start)
    ]
    assert len(dict(starts)) == len(starts)
    assert all(n < told.get(number, len(log)) for number, n in starts)


def ends(action) -> bool:
    return isinstance(action, Reject | Evict | Miss)


@given(loads(NAMES, BOUNDS_NS))
def test_same_load_gives_the_same_actions(load):
    """No clock, no chance, no order of a set: a recorded day replays to the letter."""
    logs = [[], []]

    for log in logs:
        play(node(*map(Policy, NAMES), lane_count=2), load, log=log)

    assert logs[0] == logs[1]
