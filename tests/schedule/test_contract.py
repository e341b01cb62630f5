"""Both sides keep the contract: declared arrivals, declared higher work, fairness among askers."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tidsram.estate.types import Criticality
from tidsram.outcome import Reason
from tidsram.schedule.admission import WHOLE
from tidsram.schedule.bucket import HEADROOM, Bucket
from tidsram.schedule.events import Evict, Start
from tidsram.schedule.scheduler import LEAST_LEFT, Policy
from tidsram.simulate.arrivals import periodic, poisson
from tidsram.simulate.run import Node, Questions, run
from tidsram.testing import FirstCome, Shell, loads, play
from tidsram.units import MS, SECOND

CRITICAL = Criticality.CRITICAL
RUN_NS = 10 * MS


def shared_lane(*policies: Policy) -> Shell:
    node = Shell(*policies)
    for policy in policies:
        node.ready(policy.name, RUN_NS)
    return node


# The declared arrivals ----------------------------------------------------------------------------


def test_a_full_bucket_gives_its_burst_and_no_more():
    """Three at once, then one each 1 ÷ (1.25 × rate)."""
    bucket = Bucket(rate=10, burst=3)

    assert [bucket.take(0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(80 * MS - 1)
    assert bucket.take(80 * MS)
    assert not bucket.take(80 * MS)


@given(
    st.lists(st.integers(0, 3 * SECOND), min_size=1, max_size=60),
    st.integers(1, 50),
    st.integers(1, 5),
)
def test_a_bucket_never_gives_more_than_rate_and_burst(gaps_ns, rate, burst):
    """In any span whatever: at most burst + 1.25 × rate × span."""
    bucket, now_ns, taken = Bucket(rate, burst), 0, []
    for gap_ns in gaps_ns:
        now_ns += gap_ns
        if bucket.take(now_ns):
            taken.append(now_ns)

    for first in range(len(taken)):
        for last in range(first, len(taken)):
            span = (taken[last] - taken[first]) / SECOND
            assert last - first + 1 <= burst + HEADROOM * rate * span * (1 + 1e-6)


@given(st.integers(1, 200), st.integers(0, 99))
def test_a_periodic_source_at_its_declared_rate_is_never_demoted(rate, seed):
    """Jitter of a fifth of the period included, with the smallest burst."""
    rng = np.random.default_rng(seed)
    instants = periodic(rng, rate, 200 * SECOND // rate, jitter_ns=SECOND // rate // 5)
    bucket = Bucket(rate, 2)

    assert all(bucket.take(now_ns) for now_ns in instants.tolist())


def test_beyond_the_declared_it_counts_as_standard():
    """The third at once waits behind standard work, though its worker could go first."""
    node = shared_lane(Policy("c", CRITICAL, rate=1, burst=2), Policy("s"))
    node.ask("s", 500 * MS)
    node.ask("c", 500 * MS)
    node.ask("c", 500 * MS)

    assert node.ask("c", 100 * MS) == []
    node.end(1)
    node.end(2)
    assert node.end(0) == [Start(node.jobs[3], 0, on_deck=False)]


def test_a_flood_takes_nothing_from_another_critical_decision():
    """Only what was declared goes before; a run beyond it gives way."""
    node = shared_lane(Policy("flood", CRITICAL, rate=1, burst=1), Policy("c", CRITICAL))
    for _ in range(20):
        node.ask("flood", 1000 * MS)
    node.end(0)
    assert node.runs[0, 0] == [node.jobs[1]]  # beyond the declared, on an idle lane

    actions = node.ask("c", 12 * MS)

    assert actions[0] == Evict(node.jobs[1], Reason.EVICTED)
    assert node.fail(1) == [Start(node.jobs[20], 0, on_deck=False)]


def test_a_flood_leaves_others_their_share_in_simulation():
    """Ten times the declared: critical and standard neighbours lose next to nothing."""
    rng = np.random.default_rng(7)
    span_ns = 20 * SECOND
    policies = [
        Policy("flood", CRITICAL, rate=50, burst=2),
        Policy("c", CRITICAL, rate=50, burst=12),
        Policy("s"),
    ]
    node = Node(policies=policies)
    asked = [
        Questions(decision="c", arrivals_ns=poisson(rng, 50, span_ns), budget_ns=20 * MS),
        Questions(decision="s", arrivals_ns=poisson(rng, 50, span_ns), budget_ns=60 * MS),
    ]
    flood = Questions(decision="flood", arrivals_ns=periodic(rng, 500, span_ns), budget_ns=20 * MS)

    beside = run(node, [*asked, flood], dict.fromkeys(("flood", "c", "s"), 2 * MS)).decisions

    share = {name: played.in_time / played.offered for name, played in beside.items()}
    assert share["c"] > 0.99
    assert share["s"] > 0.98
    assert beside["flood"].in_time > 50 * 1.25 * 20  # it has what was declared, and what is left


# Declared higher work -----------------------------------------------------------------------------


def test_declared_higher_work_stretches_the_promise():
    """Half of the lane is declared to be taken: a run of 10 takes 20."""
    node = shared_lane(Policy("c", CRITICAL, rate=50), Policy("s"))

    node.ask("s", 19 * MS)
    node.ask("s", 20 * MS)

    assert node.reasons == {0: Reason.OVERLOAD}
    assert node.scheduler.promised_ns(1) == 20 * MS


def test_declared_work_of_ones_own_criticality_does_not_count():
    """It is no higher, and it is not here yet."""
    node = shared_lane(Policy("a", rate=50), Policy("s"))

    assert node.ask("s", RUN_NS) == [Start(node.jobs[0], 0, on_deck=False)]


def test_more_declared_than_a_lane_can_do_leaves_something():
    """A declaration out of proportion must not shut out lower work for ever."""
    node = shared_lane(Policy("c", CRITICAL, rate=5000), Policy("s"))

    node.ask("s", RUN_NS * WHOLE // LEAST_LEFT)

    assert node.reasons == {}


# Fairness among askers ----------------------------------------------------------------------------


def test_who_asks_most_gives_way_to_who_asks_less():
    """Nine wait for one asker: the newest of them is told, and the other has its answer."""
    node = shared_lane(Policy("a"))
    for _ in range(10):
        node.ask("a", 100 * MS, asker="many")

    actions = node.ask("a", 100 * MS, asker="few")

    assert actions == [Evict(node.jobs[9], Reason.EVICTED)]
    assert 10 not in node.reasons


def test_equals_do_not_give_way():
    """Who would have less than the newcomer after it keeps all."""
    node = shared_lane(Policy("a"))
    for asker in ("x", "x", "x", "y", "y"):
        node.ask("a", 50 * MS, asker=asker)

    node.ask("a", 50 * MS, asker="y")

    assert node.reasons == {5: Reason.OVERLOAD}


def test_decisions_of_one_asker_are_flows_of_their_own():
    """A burst to one decision leaves the other its turn."""
    node = shared_lane(Policy("a"), Policy("b"))
    for _ in range(10):
        node.ask("a", 100 * MS, asker="x")

    node.ask("b", 100 * MS, asker="x")

    assert node.reasons == {9: Reason.EVICTED}


def test_ten_thousand_at_once_cost_another_asker_nothing():
    """One asks 10,000 times in a moment; the other, ten times a second, is answered each time."""
    burst = Questions(
        decision="a",
        arrivals_ns=np.sort(np.arange(10_000) * 5_000),
        budget_ns=100 * MS,
        asker="many",
    )
    calm = Questions(
        decision="a",
        arrivals_ns=np.arange(0, SECOND, 50 * MS) + MS,
        budget_ns=30 * MS,
        asker="few",
    )
    log = []
    result = run(Node(policies=[Policy("a")]), [burst, calm], {"a": 2 * MS}, log=log)

    calmly = result.asked.deadline_ns - result.asked.arrival_ns == 30 * MS
    assert calmly.sum() == 20
    assert np.all(result.asked.answered[calmly])


@given(loads(("a", "b"), (10, 25), askers=("x", "y", "z")))
def test_an_eviction_for_fairness_leaves_its_flow_no_worse(load):
    """Never is more told no than without: one goes for each that comes."""
    node = Node(
        policies=[Policy("a"), Policy("b")],
        warm_up_ns={"a": (10,), "b": (25,)},
        return_ns=1,
    )
    asked = play(node, load).asked

    evicted = asked.reasons.get(Reason.EVICTED, 0)
    assert evicted <= asked.in_time


def test_without_fairness_the_first_come_keep_their_places():
    """What the mechanism changes, seen with it taken out."""
    node = Node(policies=[Policy("a")], scheduler=FirstCome)
    many = Questions(decision="a", arrivals_ns=np.arange(60), budget_ns=100 * MS, asker="many")
    few = Questions(decision="a", arrivals_ns=np.array([100]), budget_ns=100 * MS, asker="few")

    result = run(node, [many, few], {"a": 2 * MS})

    assert result.asked.reasons[Reason.OVERLOAD] > 0
    assert Reason.EVICTED not in result.asked.reasons
    assert all(a <= b for a, b in pairwise(result.asked.arrival_ns))
