"""Solve, simulate, tighten: what is called holding was played and kept, and it always ends."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from msgspec.structs import replace
from small_estates import (
    estates,
    make_decision,
    make_estate,
    make_hardware,
    make_instance_of,
    make_profile,
    make_site,
    make_variant,
    search_for,
)

from tidsram.estate.types import Arrivals, Criticality
from tidsram.lab.facts import Measured
from tidsram.plan import search as searched
from tidsram.plan.pack import Home, node_loads
from tidsram.plan.prove import holds
from tidsram.plan.search import Limits, unplaced

POOL, LULEA = ("stockholm", "edge-2"), ("lulea", "edge-2")
ROOM = {POOL: 0.85, LULEA: 0.85}
PRICED = {"edge-2": make_hardware(yearly_cost=100)}
# Slow runs come in a row: together they take more than a cut by single runs can know.
UNEVEN_MS = ([5] * 300 + [25] * 64) * 6


def arrive(rate):
    return Arrivals(kind="poisson", rate=float(rate))


def uneven(*decisions):
    """Return measured facts by which these decisions' runs are slow for a while."""
    profiles = [make_profile(d.name, "fp32", "edge-2", UNEVEN_MS, [0.5] * 100) for d in decisions]
    return Measured(profiles={profile.key: profile for profile in profiles})


def hard(**declared):
    """Return an estate, and facts, where the first cut is too loose."""
    standard = {"arrivals": arrive(50), "budget_ms": 150, "survives": ()}
    decision = make_decision(**standard | declared)
    return decision, uneven(decision)


@pytest.fixture
def rounds(monkeypatch):
    """Record the room that every solve is given."""
    seen = []

    def recording(instance, room, **bounds):
        seen.append(dict(room))
        return optimise(instance, room, **bounds)

    optimise = searched.optimise
    monkeypatch.setattr(searched, "optimise", recording)
    return seen


def judged(found):
    """Return a verdict for each promise in each scenario: (must, verdict)."""
    for scenario, tallies in zip(found.scenarios, found.tallies, strict=True):
        case = found.instance.cases.index(scenario.case)
        for task, home in zip(found.instance.tasks, scenario.homes, strict=True):
            if home is not None:
                verdict = holds(tallies[home][task.flow.key], task.decision.objective)
                yield task.must[case] or case == 0, verdict


# What holds -----------------------------------------------------------------------------------


@settings(max_examples=6)
@given(estates())
def test_what_holds_was_played_and_nothing_in_it_is_contradicted(estate):
    """Every scenario of it, every flow; and all that must be answered has its place."""
    found = search_for(estate, Limits(rounds=6, tries=1))

    assert found.rounds >= 1
    if not found.holds:
        return
    assert not found.solution.shed
    assert not unplaced(found.instance, found.scenarios)
    assert all(verdict != "contradicted" for must, verdict in judged(found) if must)
    for scenario, tallies in zip(found.scenarios, found.tallies, strict=True):
        assert set(tallies) == set(node_loads(found.instance, scenario))


def test_an_easy_estate_holds_at_once_and_is_met():
    found = search_for(make_estate(make_decision(), hardware=PRICED))

    assert found.holds
    assert found.solution.nodes == {POOL: 1, LULEA: 1}
    assert {verdict for _, verdict in judged(found)} == {"met"}
    assert found.solution.bound <= found.solution.cost == 200


def test_what_the_first_cut_overlooks_is_found_by_simulation():
    """One machine is within the cut, its slow stretches are not within the budget: it takes two."""
    decision, measured = hard()
    lines = []

    found = search_for(
        make_estate(decision, hardware=PRICED),
        Limits(room=ROOM),
        measured=measured,
        say=lines.append,
    )

    assert lines[0] == "round 1: 1 nodes, cost 100, does not hold"
    assert found.holds
    assert found.solution.count == 2
    # One flow was too much for a node, so it comes in parts, each a promise of its own.
    assert [task.flow.parts for task in found.instance.tasks] == [2, 2]
    assert sum(task.flow.rate for task in found.instance.tasks) == pytest.approx(50)


def test_a_loose_first_cut_ends_at_the_machines_that_hold():
    """Three times a node's room is no room: the simulation says so, and the machines are more."""
    decisions = [
        make_decision(f"d{n}", arrivals=arrive(60), budget_ms=ms, survives=())
        for n, ms in enumerate((40, 60, 100, 300))
    ]
    lines = []

    found = search_for(
        make_estate(*decisions, sites=("stockholm",), hardware=PRICED),
        Limits(room={POOL: 3.0}),
        say=lines.append,
    )

    assert "1 nodes" in lines[0]
    assert lines[0].endswith("does not hold")
    assert found.holds
    assert found.solution.nodes == {POOL: 2}
    assert found.room[POOL] < 3


def test_once_something_holds_a_cheaper_one_is_looked_for():
    """At first the cut asks for two machines; with one of them gone, all holds as well."""
    decisions = [make_decision(f"d{n}", arrivals=arrive(60), survives=()) for n in range(2)]
    estate = make_estate(*decisions, sites=("stockholm",), hardware=PRICED)
    total = sum(next(iter(t.choices[0].values())).own for t in make_instance_of(estate).tasks)
    tight = Limits(room={POOL: total * 0.9})

    content, eager = (search_for(estate, replace(tight, tries=tries)) for tries in (0, 4))

    assert (content.holds, content.solution.count) == (True, 2)
    assert (eager.holds, eager.solution.count) == (True, 1)


def test_the_same_search_finds_the_same():
    decision, measured = hard()
    estate = make_estate(decision, hardware=PRICED)

    first, second = (search_for(estate, measured=measured) for _ in range(2))

    assert first.tallies == second.tallies
    assert [s.homes for s in first.scenarios] == [s.homes for s in second.scenarios]
    assert (first.room, first.rounds) == (second.room, second.rounds)


def test_best_effort_that_finds_no_place_fails_nothing():
    must = make_decision("must", arrivals=arrive(100), survives=())
    spare = make_decision("spare", arrivals=arrive(120), criticality=Criticality.BEST_EFFORT)
    site = make_site("stockholm", max_nodes=1)

    found = search_for(make_estate(must, spare, sites=(site,), hardware=PRICED))

    assert found.holds
    assert [home is None for home in found.scenarios[0].homes] == [False, True]


# What does not --------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_promise_that_cannot_hold_ends_the_search_within_its_rounds(most):
    """However often it is tried; it is said that it does not hold, and no error."""
    decision, measured = hard(arrivals=arrive(90), budget_ms=60)
    site = make_site("stockholm", max_nodes=1)
    lines = []

    found = search_for(
        make_estate(decision, sites=(site,), hardware=PRICED),
        Limits(rounds=most),
        measured=measured,
        say=lines.append,
    )

    assert not found.holds
    assert found.rounds == len(lines) <= most
    assert all(line.endswith("does not hold") for line in lines)


def test_what_a_long_simulation_does_not_bear_out_ends_within_the_rounds_too():
    """A short look lets each solution pass, so it is the proof that has to be counted."""
    decision, measured = hard(arrivals=arrive(40), budget_ms=120)
    estate = make_estate(decision, hardware=PRICED)

    limited, free = (
        search_for(estate, Limits(rounds=rounds, tries=0, room=ROOM), measured=measured)
        for rounds in (1, 40)
    )

    assert (limited.holds, limited.rounds) == (False, 1)
    assert free.holds
    assert free.solution.count == 2


def test_without_a_limit_in_reach_it_ends_by_leaving_out():
    """The cut is tightened until nothing fits, and what is left out is named."""
    decision, measured = hard()
    site = make_site("stockholm", max_nodes=1)

    found = search_for(
        make_estate(decision, sites=(site,), hardware=PRICED),
        Limits(room={POOL: 0.85}),
        measured=measured,
    )

    assert not found.holds
    assert found.solution.shed or unplaced(found.instance, found.scenarios)
    assert 1 < found.rounds <= Limits().rounds


def test_what_fits_nowhere_is_said_after_one_round():
    found = search_for(make_estate(make_decision(budget_ms=1), hardware=PRICED))

    assert (found.holds, found.rounds, found.solution.nodes) == (False, 1, {})
    assert {number for _, number in found.solution.shed} == {0}
    assert all(
        task.flow.decision == "obstacle" for _, task in unplaced(found.instance, found.scenarios)
    )


def test_a_variant_that_fails_alone_is_ruled_out_for_a_steadier_one():
    """Its runs are the shorter, but the slow ones come together: a node to itself is no help."""
    fast, steady = make_variant("fast"), make_variant("steady", p50_ms=12, p99_9_ms=13)
    ladder = (fast, steady)
    decision = make_decision(ladder=ladder, arrivals=arrive(50), budget_ms=200, survives=())
    stretches = ([2] * 256 + [30] * 32) * 8
    profile = make_profile("obstacle", "fast", "edge-2", stretches, [0.5] * 100)
    estate = make_estate(decision, sites=("stockholm",), hardware=PRICED)

    found = search_for(estate, measured=Measured(profiles={profile.key: profile}))

    assert found.holds
    assert found.rounds > 1
    assert {c.option.variant for c in found.scenarios[0].choices} == {"steady"}


# Tightening -----------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [1.0, 1.5, 3.0])
def test_from_one_failing_round_to_the_next_room_only_shrinks(rounds, first):
    """In every pool, until something seems to hold; and somewhere it does shrink."""
    decisions = [
        make_decision(f"d{n}", arrivals=arrive(35), budget_ms=200, survives=()) for n in range(2)
    ]
    room, lines = {POOL: first, LULEA: first}, []

    search_for(
        make_estate(*decisions, hardware=PRICED),
        Limits(room=room),
        measured=uneven(*decisions),
        say=lines.append,
    )

    failing = next(n for n, line in enumerate(lines) if not line.endswith("does not hold"))
    assert len(rounds[: failing + 1]) > 1
    assert rounds[0] == room
    for before, after in pairwise(rounds[: failing + 1]):
        assert all(after[pool] <= room for pool, room in before.items())
        assert after != before


def test_what_broke_a_promise_is_not_chosen_again(rounds):
    """The pool's next room is less than what was on its node."""
    decisions = [
        make_decision(f"d{n}", arrivals=arrive(60), budget_ms=ms, survives=())
        for n, ms in enumerate((40, 60, 100, 300))
    ]
    estate = make_estate(*decisions, sites=("stockholm",), hardware=PRICED)
    on_it = sum(next(iter(t.choices[0].values())).own for t in make_instance_of(estate).tasks)

    search_for(estate, Limits(room={POOL: 3.0}))

    assert rounds[0][POOL] == 3
    assert rounds[1][POOL] < on_it


def test_least_and_most_bound_every_round():
    estate = make_estate(make_decision(survives=()), hardware=PRICED)

    found = search_for(estate, Limits(least={LULEA: 2}, most={POOL: 0}))

    assert found.holds
    assert found.solution.nodes == {LULEA: 2}
    assert found.scenarios[0].homes[0] in {Home(LULEA, 0), Home(LULEA, 1)}
