"""The proof of a plan: flows of known fate played through the scheduler that serves."""

from multiprocessing import active_children

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.random import default_rng

from tidsram import stats
from tidsram.cli.serve import BURST_SEED
from tidsram.estate.types import Arrivals, Criticality, Decision, Delay, Estate, Variant
from tidsram.plan import prove
from tidsram.plan.problem import Flow, NodeLoad, Option, Served, Spread, Tally, Term
from tidsram.plan.prove import Prover, holds, proof, simulate_node
from tidsram.simulate.burst import with_bursts
from tidsram.units import MS, SECOND, US

POISSON = Arrivals(kind="poisson", rate=1)
PERIODIC = Arrivals(kind="periodic", rate=1)


def times(p50_ns: int, p99_9_ns: int = 0) -> Spread:
    """Return a time that spreads, or with one number a constant."""
    delay = Delay(p50_ns=p50_ns, p99_9_ns=p99_9_ns or p50_ns)
    return Spread(delay=delay, basis="declared", source="test")


NO_TIME, RUN = times(0), times(4 * MS)


def served(
    name: str = "a",
    *,
    rate: float = 10,
    askers: int = 1,
    source: str = "s",
    budget_ns: int = 50 * MS,
    run: Spread = RUN,
    rtt: Spread = NO_TIME,
    gate: Spread = NO_TIME,
    planned_rtt_ns: int | None = None,
    arrivals: Arrivals = POISSON,
    variant: str = "v",
    **facts,
) -> Served:
    decision = Decision(
        name=name,
        ladder=(Variant(name=variant, model=""),),
        budget_ns=budget_ns,
        arrivals=replace(arrivals, rate=rate / askers),
        **facts,
    )
    link_ns = rtt.delay.p99_9_ns if planned_rtt_ns is None else planned_rtt_ns
    option = Option(
        site="x",
        hardware="h",
        variant=variant,
        accuracy=1.0,
        wait_ns=5 * MS,
        terms=(Term(stage="link", ns=link_ns, basis="declared", source="test"),),
        path=(source, "x"),
        rtt=rtt,
        gate=gate,
        service=run,
        memory_bytes=1,
    )
    flow = Flow(decision=name, source=source, askers=askers, rate=rate)
    return Served(decision=decision, flow=flow, option=option)


def node(*flows: Served, lanes: int = 1) -> NodeLoad:
    return NodeLoad(lanes=lanes, served=flows)


def share(tally: Tally) -> float:
    return tally.in_time / tally.asked


LIGHT = node(
    served("a", rate=20, criticality=Criticality.CRITICAL, run=times(4 * MS, 5 * MS)),
    served("b", rate=15, arrivals=PERIODIC, askers=3, run=times(4 * MS, 5 * MS)),
)
OVERLOADED = node(served("a", rate=150), served("b", rate=150, arrivals=PERIODIC))


def test_a_lightly_loaded_node_keeps_its_promises():
    tallies = simulate_node(LIGHT, 1000, 1)

    assert {holds(tally, 0.99) for tally in tallies.values()} == {"met"}
    assert all(tally.asked >= 1000 for tally in tallies.values())


def test_an_overloaded_node_does_not():
    """At 1.2 of what the lane can do no more than 1 ÷ 1.2 can be in time."""
    tallies = simulate_node(OVERLOADED, 1000, 1)

    assert {holds(tally, 0.99) for tally in tallies.values()} == {"contradicted"}
    everything = sum(tally.in_time for tally in tallies.values())
    assert everything <= sum(tally.asked for tally in tallies.values()) / 1.2 * 1.05


def test_what_is_too_much_for_one_lane_is_not_for_two():
    tallies = simulate_node(replace(OVERLOADED, lanes=2), 500, 1)

    assert {holds(tally, 0.99) for tally in tallies.values()} == {"met"}


def test_misses_are_as_many_as_queueing_theory_foretells():
    """M/D/1 at load 0.63 waits longer than 5 runs with probability 1 %.

    Who refuses those at once meets (1 − 0.63) of that: 0.4 %, and a little for its bound's guard.
    """
    flow = served(rate=0.63 / 0.004, budget_ns=6 * 4 * MS + 4 * MS // 20 + 500 * US)

    tally = simulate_node(node(flow), 8000, 1)["a@s"]

    assert 0.993 < share(tally) < 0.998


def test_a_hopeless_node_is_given_up_early():
    whole = simulate_node(OVERLOADED, 1000, 1)
    given_up = simulate_node(OVERLOADED, 1000, 1, give_up=True)

    assert given_up["a@s"].asked < whole["a@s"].asked / 4


def test_a_node_that_is_clear_of_its_promises_is_left_early_too():
    """By its own questions: it is the first runs of the whole, and says the same."""
    whole = simulate_node(LIGHT, 4000, 1)
    left = simulate_node(LIGHT, 4000, 1, give_up=True)

    for served in LIGHT.served:
        tally, objective = left[served.flow.key], served.decision.objective
        assert tally.asked < whole[served.flow.key].asked
        assert holds(tally, objective) == holds(whole[served.flow.key], objective) == "met"


def test_a_seed_fixes_the_tallies():
    assert simulate_node(LIGHT, 300, 7) == simulate_node(LIGHT, 300, 7)
    assert simulate_node(LIGHT, 300, 7) != simulate_node(LIGHT, 300, 8)


def test_critical_work_does_not_suffer_from_best_effort():
    """Best-effort is played too, and judged like any other: here it asks for too much."""
    load = node(
        served("c", rate=20, criticality=Criticality.CRITICAL),
        served("e", rate=300, criticality=Criticality.BEST_EFFORT),
    )

    tallies = simulate_node(load, 600, 1)

    assert holds(tallies["c@s"], 0.99) == "met"
    assert holds(tallies["e@s"], 0.99) == "contradicted"


# The asker's side --------------------------------------------------------------------------------


def test_each_part_of_a_response_counts_once():
    """Capture, the way there and back, the gate and the run; nothing waits at one a second."""
    flow = served(rate=1, rtt=times(3 * MS), gate=times(2 * MS), capture_ns=7 * MS)

    tally = simulate_node(node(flow), 500, 1)["a@s"]

    assert tally.p50_ns == pytest.approx((7 + 3 + 2 + 4) * MS, abs=5)
    assert tally.in_time == tally.asked


# The scheduler plans with 1.05 × the run and keeps 0.5 ms for the way back.
JUST_ENOUGH_NS = 20 * MS + 4 * MS + 4 * MS // 20 + 500 * US


@pytest.mark.parametrize(
    ("budget_ns", "all_in_time"),
    [(JUST_ENOUGH_NS + 100 * US, True), (JUST_ENOUGH_NS - 100 * US, False)],
)
def test_a_remote_budget_is_enough_or_not(budget_ns, all_in_time):
    """A round trip of 20 ms and a run of 4: the node is told what is left of the budget."""
    flow = served(rate=1, rtt=times(20 * MS), budget_ns=budget_ns, arrivals=PERIODIC)

    tally = simulate_node(node(flow), 500, 1)["a@s"]

    assert share(tally) == (1 if all_in_time else 0)


def test_a_slow_way_back_is_late_although_the_node_was_in_time():
    """One round trip in ten is slower than planned, and no budget is left for it."""
    slow = replace(times(5 * MS), samples_ns=(5 * MS,) * 90 + (40 * MS,) * 10)
    flow = served(rate=5, rtt=slow, planned_rtt_ns=5 * MS, budget_ns=20 * MS)

    tally = simulate_node(node(flow), 3000, 1)["a@s"]

    assert share(tally) == pytest.approx(0.9, abs=0.02)
    assert tally.p99_ns == pytest.approx(44 * MS, abs=5)  # late answers are timed too


def test_what_a_gate_would_send_too_late_is_not_in_time():
    """The gate takes longer than it keeps: it says that it has missed, however fast the link."""
    slow_gate = served(rate=5, gate=times(10 * MS), rtt=times(1), planned_rtt_ns=30 * MS)

    assert simulate_node(node(slow_gate), 500, 1)["a@s"].in_time > 0
    assert simulate_node(node(replace_budget(slow_gate, 40 * MS)), 500, 1)["a@s"].in_time == 0


def replace_budget(flow: Served, budget_ns: int) -> Served:
    return replace(flow, decision=replace(flow.decision, budget_ns=budget_ns))


def test_two_sources_of_a_decision_are_told_apart():
    """Same decision, same workers; the far source's way takes longer than its budget."""
    near = served(rate=30, source="near", rtt=times(MS, 2 * MS))
    far = served(rate=10, source="far", rtt=times(80 * MS), planned_rtt_ns=30 * MS)
    other = served("b", rate=10, rtt=times(9 * MS))

    tallies = simulate_node(node(far, other, near), 1000, 1)

    assert tallies["a@far"].in_time == 0
    assert holds(tallies["a@near"], 0.99) == "met"
    assert tallies["a@far"].p50_ns >= 84 * MS
    assert tallies["a@near"].p50_ns < 8 * MS
    assert tallies["a@near"].asked > 2 * tallies["a@far"].asked


def test_two_sources_share_what_they_ask_of_one_lane():
    """Each alone is fine; together they are the overload of one decision, and both suffer."""
    one, other = (served(rate=150, source=source, arrivals=PERIODIC) for source in ("n", "m"))

    assert share(simulate_node(node(one), 600, 1)["a@n"]) == 1
    both = simulate_node(node(one, other), 600, 1)
    assert {holds(tally, 0.99) for tally in both.values()} == {"contradicted"}


def test_two_variants_of_a_decision_keep_their_own_run_times():
    small = served(rate=2, source="n", variant="small", run=times(2 * MS))
    large = served(rate=2, source="m", variant="large", run=times(20 * MS))

    tallies = simulate_node(node(small, large, lanes=2), 500, 1)

    assert tallies["a@n"].p50_ns == 2 * MS
    assert tallies["a@m"].p50_ns == 20 * MS


# What is asked -----------------------------------------------------------------------------------


def test_askers_at_one_instant_wait_for_each_other():
    """Five at once, 4 ms each, one lane: 15 ms have room for three of them, always."""
    together = replace(PERIODIC, synchronised=True)
    flow = served(rate=10, askers=5, arrivals=together, budget_ns=15 * MS)
    apart = served(rate=10, askers=5, arrivals=PERIODIC, budget_ns=15 * MS)

    assert share(simulate_node(node(flow), 500, 1)["a@s"]) == 3 / 5
    assert share(simulate_node(node(apart), 500, 1)["a@s"]) > 0.99


def test_a_critical_batch_is_within_the_declaration():
    """Eight critical askers at once are what was declared: none is demoted below the others."""
    together = replace(PERIODIC, synchronised=True)
    critical = served(rate=16, askers=8, arrivals=together, criticality=Criticality.CRITICAL)
    load = node(critical, served("b", rate=100, run=times(8 * MS)))

    assert share(simulate_node(load, 600, 1)["a@s"]) == 1


@pytest.mark.parametrize("arrivals", [POISSON, Arrivals(kind="gamma", rate=1, cv=2, burst=7)])
def test_a_burst_is_the_one_that_a_node_derives(arrivals):
    """Several askers who each may send a declared burst may send as many times that."""
    decision = served(arrivals=arrivals, criticality=Criticality.CRITICAL).decision
    estate = Estate(name="e", decisions={"a": decision})

    derived = with_bursts(estate, default_rng(BURST_SEED)).decisions["a"].arrivals

    assert prove._burst(decision, 1) == derived.burst
    assert prove._burst(decision, 3) == (derived.burst * 3 if arrivals.burst else derived.burst)


def test_only_the_newest_question_of_a_source_is_kept():
    """A source that asks faster than it can be answered hears of the newest, not of the oldest."""
    facts = {"rate": 100, "run": times(15 * MS), "budget_ns": 100 * MS, "arrivals": PERIODIC}
    newest = simulate_node(node(served(queue="newest", **facts)), 500, 1)["a@s"]
    oldest = simulate_node(node(served(queue="edf", **facts)), 500, 1)["a@s"]

    assert newest.p50_ns < 35 * MS
    assert oldest.p50_ns > 60 * MS


@pytest.mark.parametrize(
    "arrivals",
    [
        POISSON,
        PERIODIC,
        replace(PERIODIC, synchronised=True),
        Arrivals(kind="gamma", rate=1, cv=0.5),
        Arrivals(kind="gamma", rate=1, cv=2),
    ],
    ids=["poisson", "periodic", "synchronised", "regular", "clustered"],
)
@pytest.mark.parametrize(("rate", "askers"), [(40, 4), (0.2, 4), (3, 1)])
def test_every_process_asks_at_its_rate(arrivals, rate, askers):
    """Also where an asker asks less than once in a window; each asker as often as another."""
    windows = prove._Windows(500, SECOND // 2, 2 * SECOND)
    flow = served(rate=rate, askers=askers, arrivals=arrivals)

    at_ns, whose = prove._instants(flow, windows, default_rng(3))

    expected = rate * windows.total_ns / SECOND
    spread = 5 * (expected * askers) ** 0.5 * max(1, arrivals.cv)
    assert len(at_ns) == pytest.approx(expected, abs=spread)
    assert 0 <= at_ns.min() <= at_ns.max() < windows.total_ns
    each = np.bincount(whose, minlength=askers)
    assert each == pytest.approx(expected / askers, abs=spread)


def test_an_asker_keeps_its_period_within_a_window_and_not_beyond():
    windows = prove._Windows(50, SECOND // 2, 2 * SECOND)
    flow = served(rate=30, askers=3, arrivals=PERIODIC)

    at_ns, whose = prove._instants(flow, windows, default_rng(3))

    own_ns = np.sort(at_ns[whose == 1])
    window = own_ns // windows.width_ns
    gaps_ns, within = np.diff(own_ns), np.diff(window) == 0
    assert np.abs(gaps_ns[within] - SECOND // 10).max() <= 1
    phases_ns = [own_ns[window == number][0] % windows.width_ns for number in range(50)]
    assert len(set(phases_ns)) == 50
    assert max(phases_ns) < SECOND // 10


def test_a_rare_flow_gets_its_questions_beside_a_busy_one():
    """Asked more often than it is, but not so often that it loads the node."""
    rare = served("r", rate=0.01, arrivals=PERIODIC)
    busy = served("b", rate=100)
    costly = served("c", rate=0.01, run=times(40 * MS), budget_ns=400 * MS)

    beside = simulate_node(node(rare, busy), 500, 1)
    heavy = prove._more_of_the_rare(node(costly, busy), 10)

    assert beside["r@s"].asked >= 450
    assert holds(beside["r@s"], 0.98) == "met"
    assert beside["b@s"].asked < 13_000
    assert [flow.flow.rate for flow in heavy.served] == [pytest.approx(0.51), 100]


# What it comes to --------------------------------------------------------------------------------


@st.composite
def loads(draw):
    """Any small node, from idle to hopeless."""
    flows = []
    for number in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["periodic", "poisson", "gamma"]))
        flows.append(
            served(
                draw(st.sampled_from(["a", "b"])),
                source=f"s{number}",
                rate=draw(st.floats(5, 200)),
                askers=draw(st.integers(1, 4)),
                arrivals=Arrivals(kind=kind, rate=1, cv=1.5),
                budget_ns=draw(st.integers(1, 100)) * MS,
                run=times(draw(st.integers(1, 20)) * MS, 21 * MS),
                rtt=times(MS, draw(st.integers(1, 20)) * MS),
                gate=times(MS // 5, MS),
                criticality=draw(st.sampled_from(Criticality)),
                queue=draw(st.sampled_from(["edf", "newest"])),
            )
        )
    return node(*flows, lanes=draw(st.integers(1, 3)))


@settings(max_examples=30, deadline=None)
@given(loads())
def test_every_question_of_every_flow_is_accounted_for(load):
    """No more in time than asked, and no answer faster than its way and its run."""
    tallies = simulate_node(load, 40, 1)

    assert set(tallies) == {flow.flow.key for flow in load.served}
    for flow in load.served:
        tally = tallies[flow.flow.key]
        assert 0 <= tally.in_time <= tally.asked
        known = [ns for ns in (tally.p50_ns, tally.p99_ns, tally.p99_9_ns) if ns is not None]
        assert known == sorted(known)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(5, 50), st.integers(5, 50), st.sampled_from([POISSON, PERIODIC]), st.integers(0, 99)
)
def test_more_budget_is_never_worse_while_there_is_room(one_ms, other_ms, arrivals, seed):
    """At load 0.2 the same questions with the longer budget are in time at least as often."""
    tight, wide = sorted((one_ms, other_ms))
    flow = served(rate=50, arrivals=arrivals, run=times(4 * MS, 6 * MS))

    in_time = [
        simulate_node(node(replace_budget(flow, budget * MS)), 200, seed)["a@s"].in_time
        for budget in (tight, wide)
    ]

    assert in_time[0] <= in_time[1]


def test_runs_add_up():
    """A tally is what its runs came to, each from a seed of its own."""
    one = prove._Count([np.array([3, 1])], 3, 1)
    other = prove._Count([np.array([2])], 2, 1)

    tally = one.plus(other).tally

    assert (tally.asked, tally.in_time) == (5, 2)
    many = prove._Count([np.arange(1, 1001)], 1000, 1000).tally
    assert (many.p50_ns, many.p99_ns, many.p99_9_ns) == (500, 990, None)


def test_nothing_asked_is_no_evidence():
    assert holds(Tally(asked=0, in_time=0, p50_ns=None, p99_ns=None, p99_9_ns=None), 0.9) == (
        "not enough evidence"
    )


def test_a_proof_says_what_the_tally_says():
    tally = Tally(asked=1000, in_time=998, p50_ns=1_000_001, p99_ns=2_000_000, p99_9_ns=None)

    said = proof("gavle down", tally, 0.99)

    assert (said.case, said.asked, said.in_time) == ("gavle down", 1000, 998)
    assert said.share_at_least == stats.lower_bound(998, 1000)
    assert said.verdict == "met"
    assert (said.p50_us, said.p99_us, said.p99_9_us) == (1001, 2000, None)


# Many nodes --------------------------------------------------------------------------------------


def test_processes_do_not_change_what_comes_out():
    """In this process or in others, and in whatever order the flows were found."""
    other_way_round = replace(LIGHT, served=LIGHT.served[::-1])
    loads = [LIGHT, OVERLOADED, other_way_round]

    with Prover(200, 1, 1) as alone:
        here = alone.tallies(loads)
    with Prover(200, 1, 2) as pooled:
        there = pooled.tallies(loads)

    assert here == there == prove.prove(loads, requests=200, seed=1, processes=1)
    assert there[0] is there[2]
    assert there[0] == simulate_node(LIGHT, 200, 1)
    assert active_children() == []


def test_killed_processes_do_not_change_it_either():
    with Prover(200, 1, 2) as prover:
        prover.tallies([LIGHT, OVERLOADED])
        for process in active_children():
            process.kill()
            process.join()

        more = prover.tallies([replace(LIGHT, lanes=2), replace(OVERLOADED, lanes=2)])

    assert more[0] == simulate_node(replace(LIGHT, lanes=2), 200, 1)
    assert more[1] == simulate_node(replace(OVERLOADED, lanes=2), 200, 1)


def test_a_prover_does_not_play_the_same_node_twice():
    with Prover(200, 1, 1) as prover:
        first = prover.tallies([LIGHT])[0]

        assert prover.tallies([LIGHT])[0] is first
        assert prover.tallies([LIGHT], give_up=True)[0] is first
        assert prover.tallies([]) == []


def test_an_idle_node_has_nothing_to_prove():
    with Prover(200, 1, 1) as prover:
        assert prover.tallies([node()]) == [{}]


def test_a_node_given_up_is_played_whole_when_its_proof_is_wanted():
    with Prover(500, 1, 1) as prover:
        given_up = prover.tallies([OVERLOADED], give_up=True)[0]
        whole = prover.tallies([OVERLOADED])[0]

    assert given_up["a@s"].asked < whole["a@s"].asked
    assert whole == simulate_node(OVERLOADED, 500, 1)
