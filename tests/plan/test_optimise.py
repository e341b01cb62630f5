"""The cheapest machines: known optima, room in every case, bounds that are bounds."""

from collections import defaultdict
from math import ceil, inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from small_estates import (
    estates,
    make_decision,
    make_delay,
    make_estate,
    make_hardware,
    make_instance_of,
    make_site,
    make_variant,
)

from tidsram.estate.types import Arrivals, Criticality
from tidsram.plan.instance import LEVELS
from tidsram.plan.optimise import balance, lean, optimise

STOCKHOLM, GAVLE, LULEA = ((site, "edge-2") for site in ("stockholm", "gavle", "lulea"))
PRICED = {"edge-2": make_hardware(yearly_cost=100)}
HALL = "stockholm"


def arrive(rate, kind="poisson"):
    return Arrivals(kind=kind, rate=float(rate))


def solved(estate, room=None, **bounds):
    """Return an estate's instance and its solution."""
    instance = make_instance_of(estate)
    return instance, optimise(instance, room or {}, seconds=10, **bounds)


def alone(*decisions, **declared):
    """Return an estate of one site."""
    return make_estate(*decisions, sites=(make_site(HALL, **declared),), hardware=PRICED)


def displaced(instance, solution, case, number):
    """Tell whether a case takes a task's place: its pool is hit, gone, or farther."""
    task, placed = instance.tasks[number], solution.placed[number]
    if placed is None or not task.touched(case):
        return False
    lost, stays = instance.cases[case], lean(task.choices[case]).get(placed.pool)
    hit = placed.pool == (lost.site, lost.hardware)
    return hit or stays is None or stays.option.path != placed.option.path


def in_case(instance, solution, case):
    """Return the bandwidth at each pool and level in a case, from what the solution says."""
    full = defaultdict(float)
    for number, (task, placed) in enumerate(zip(instance.tasks, solution.placed, strict=True)):
        shares = [(placed, 1.0)] if placed is not None else []
        if displaced(instance, solution, case, number):
            answers = lean(task.choices[case])
            shares = [(answers[pool], s) for pool, s in solution.moves[case, number].items()]
        for choice, share in shares:
            for level in range(LEVELS):
                full[choice.pool, level] += share * choice.levels[level]
    return full


def survivors(instance, solution, case):
    """Return how many nodes of each pool a case leaves."""
    lost = instance.cases[case]
    left = {}
    for pool, count in solution.nodes.items():
        one_less = lost.kind == "node" and pool == (lost.site, lost.hardware)
        gone = lost.kind == "site" and pool[0] == lost.site
        left[pool] = 0 if gone else count - one_less
    return left


# Known optima ---------------------------------------------------------------------------------


def test_one_small_flow_that_survives_nothing_needs_one_machine():
    """The cheapest of those that hold its budget, wherever that is."""
    hardware = {"edge-2": make_hardware(yearly_cost=100), "edge-4": make_hardware(yearly_cost=60)}
    service = {"edge-2": make_delay(5, 7), "edge-4": make_delay(5, 7)}
    decision = make_decision(survives=(), ladder=(make_variant(service=service),))
    sites = ("stockholm", make_site("lulea", hardware="edge-4"))

    _, solution = solved(make_estate(decision, sites=sites, hardware=hardware))

    assert solution.nodes == {("lulea", "edge-4"): 1}
    assert (solution.cost, solution.shed, solution.count) == (60, (), 1)
    assert solution.placed[0].pool == ("lulea", "edge-4")


def test_between_equal_costs_the_nearer_is_taken():
    """And a farther one that is cheaper before a nearer one."""
    decision = make_decision(survives=(), sources={"lulea": 1})
    near = make_estate(decision, sites=("stockholm", "gavle", "lulea"), hardware=PRICED)
    rented = make_site("lulea", yearly_cost=50)

    _, nearest = solved(near)
    _, cheapest = solved(make_estate(decision, sites=("stockholm", rented), hardware=PRICED))

    assert nearest.nodes == {LULEA: 1}
    assert cheapest.nodes == {STOCKHOLM: 1}


@pytest.mark.parametrize(
    ("survives", "nodes"),
    [((), {STOCKHOLM: 1}), (("node",), {STOCKHOLM: 2}), (("site",), {STOCKHOLM: 1, LULEA: 1})],
)
def test_what_is_survived_decides_what_stands_where(survives, nodes):
    """A node's loss is cheapest survived where a site is open; a site's, at another."""
    sites = ("stockholm", make_site("lulea", yearly_cost=20))

    _, solution = solved(
        make_estate(make_decision(survives=survives), sites=sites, hardware=PRICED)
    )

    assert solution.nodes == nodes
    assert solution.cost == 100 * sum(nodes.values()) + (20 if LULEA in nodes else 0)


@settings(max_examples=25)
@given(st.lists(st.floats(5, 120), min_size=1, max_size=4), st.booleans(), st.floats(0.5, 1))
def test_one_site_needs_its_bandwidth_rounded_up_and_one_more(rates, spare, room):
    """A property with a known answer: ⌈Σ bandwidth / room⌉, and one that may be lost."""
    survives = ("node",) if spare else ()
    decisions = [
        make_decision(f"d{number}", arrivals=arrive(rate), survives=survives)
        for number, rate in enumerate(rates)
    ]

    instance, solution = solved(alone(*decisions), {STOCKHOLM: room})

    total = sum(next(iter(t.choices[0].values())).own for t in instance.tasks)
    assert solution.nodes == {STOCKHOLM: ceil(total / room - 1e-6) + spare}


def test_only_the_leanest_variant_above_the_floor_counts():
    """Accuracy is bought with what the machines have left, not with machines."""
    ladder = (make_variant("fp32", p50_ms=20, p99_9_ms=22), make_variant("int8", accuracy=0.8))
    decision = make_decision(ladder=ladder, arrivals=arrive(60), survives=())

    _, free = solved(alone(decision))
    _, bound = solved(alone(replace(decision, accuracy_floor=0.85)))

    assert free.placed[0].option.variant == "int8"
    assert bound.placed[0].option.variant == "fp32"
    assert free.cost < bound.cost


def test_the_leanest_variant_is_the_one_of_least_bandwidth_not_of_the_shortest_mean():
    """Its runs are shorter on average; the slow ones among them leave no room to wait."""
    steady = make_variant("steady", p50_ms=8, p99_9_ms=9)
    uneven = make_variant("uneven", p50_ms=2, p99_9_ms=40)
    ladder = (steady, uneven)
    decision = make_decision(ladder=ladder, arrivals=arrive(40), budget_ms=56, survives=())

    instance, solution = solved(alone(decision))

    mean = {c.option.variant: c.busy for c in instance.tasks[0].choices[0].values()}
    assert mean["uneven"] < mean["steady"]
    assert (solution.placed[0].option.variant, solution.count) == ("steady", 1)


# Room in every case ---------------------------------------------------------------------------


@settings(max_examples=20)
@given(estates(), st.floats(0.6, 1))
def test_every_loss_leaves_room_for_all_that_must_be_answered(estate, share):
    """N+1: in each case, at each level, what is there fits on what survives."""
    room = dict.fromkeys(make_instance_of(estate).pools, share)

    instance, solution = solved(estate, room)

    levels = {task.decision.criticality.rank for task in instance.tasks}
    for case in range(len(instance.cases)):
        left = survivors(instance, solution, case)
        for (pool, level), full in in_case(instance, solution, case).items():
            if level in levels:
                assert full <= share * left[pool] + 1e-5
        shed = [number for lost, number in solution.shed if lost in (0, case)]
        for number, task in enumerate(instance.tasks):
            moved = displaced(instance, solution, case, number)
            if task.must[case] and moved and number not in shed:
                assert sum(solution.moves[case, number].values()) == pytest.approx(1, abs=1e-3)


@settings(max_examples=20)
@given(estates())
def test_the_bound_is_below_the_cost_and_the_cost_is_that_of_the_nodes(estate):
    _, solution = solved(estate)

    assert solution.bound <= solution.cost + 1e-9
    assert solution.cost == 100 * solution.count
    assert all(0 < count <= 16 for count in solution.nodes.values())


@settings(max_examples=15)
@given(estates())
def test_the_same_instance_has_the_same_solution(estate):
    (_, first), (_, second) = solved(estate), solved(estate)

    assert first.nodes == second.nodes
    assert [c and c.key for c in first.placed] == [c and c.key for c in second.placed]
    assert first.moves == second.moves
    assert (first.shed, first.cost, first.bound) == (second.shed, second.cost, second.bound)


@settings(max_examples=12)
@given(estates(), st.floats(1.1, 3))
def test_a_longer_budget_never_costs_more(estate, times):
    """Up to the gap that the solver leaves: a fraction of a machine."""
    longer = replace(
        estate,
        decisions={
            name: replace(decision, budget_ns=round(decision.budget_ns * times))
            for name, decision in estate.decisions.items()
        },
    )

    (_, before), (_, after) = solved(estate), solved(longer)

    assert after.cost <= before.cost
    assert len(after.shed) <= len(before.shed)


def test_a_lost_site_moves_its_flows_to_a_lawful_one():
    """The nearer one is abroad, and cheaper; it is not even a backup."""
    abroad = make_site("gavle", jurisdiction="NO", hardware="cheap")
    hardware = PRICED | {"cheap": make_hardware(yearly_cost=1)}
    service = {"edge-2": make_delay(5, 7), "cheap": make_delay(5, 7)}
    decision = make_decision(ladder=(make_variant(service=service),), jurisdictions=("SE",))
    sites = ("stockholm", abroad, "lulea")

    instance, solution = solved(make_estate(decision, sites=sites, hardware=hardware))
    down = [case.name for case in instance.cases].index("stockholm down")

    assert solution.placed[0].pool == STOCKHOLM
    assert set(solution.nodes) == {STOCKHOLM, LULEA}
    # Gävle lies on the way to Luleå: without it nothing moves, and with it nothing may stay there.
    assert all(pool[0] != "gavle" for moved in solution.moves.values() for pool in moved)
    assert solution.shed in ((), ((down, 0),))


# Best-effort and what cannot be ---------------------------------------------------------------


def test_best_effort_is_left_out_rather_than_that_an_estate_fails():
    """One node, full with what must be answered: the rest waits for better times."""
    full = make_decision("full", arrivals=arrive(100), survives=())
    spare = make_decision("spare", arrivals=arrive(100), criticality=Criticality.BEST_EFFORT)

    _, small = solved(alone(full, spare, max_nodes=1))
    _, large = solved(alone(full, spare, max_nodes=4))

    assert small.shed == large.shed == ()
    assert small.placed[0] is not None
    assert small.placed[1] is None
    assert large.placed[1] is not None


@settings(max_examples=10)
@given(st.integers(1, 3), st.integers(20, 300))
def test_best_effort_never_makes_anything_fail(most, rate):
    """With it an estate sheds no more of what must be answered than without it."""
    must = make_decision("must", arrivals=arrive(120), survives=("node",))
    spare = make_decision(
        "spare", arrivals=arrive(rate), criticality=Criticality.BEST_EFFORT, budget_ms=40
    )

    _, without = solved(alone(must, max_nodes=most))
    instance, beside = solved(alone(must, spare, max_nodes=most))

    assert len(beside.shed) <= len(without.shed)
    assert all(instance.tasks[number].flow.decision == "must" for _, number in beside.shed)


def test_what_fits_nowhere_is_shed_and_no_error():
    """More questions than all machines take; and a budget that no place keeps."""
    crowd = make_decision("crowd", arrivals=arrive(900), survives=())
    hurried = make_decision("hurried", budget_ms=1, survives=())

    instance, solution = solved(alone(crowd, hurried, max_nodes=2))

    shed = {instance.tasks[number].flow.decision for _, number in solution.shed}
    assert shed == {"crowd", "hurried"}
    assert solution.nodes[STOCKHOLM] == 2
    assert any(c is not None for c in solution.placed)


@pytest.mark.parametrize("budget_ms", range(44, 62, 2))
def test_however_little_is_left_to_wait_there_is_a_solution(budget_ms):
    """Bandwidths grow beyond all measure there; the program must not grow with them."""
    ladder = (make_variant(p50_ms=40, p99_9_ms=42),)

    _, solution = solved(alone(make_decision(ladder=ladder, budget_ms=budget_ms, survives=())))

    assert solution.shed
    assert solution.nodes == {}


def test_what_only_a_loss_makes_impossible_is_shed_in_that_loss_alone():
    """An island has no second site: it is answered until the site is down."""
    instance, solution = solved(alone(make_decision()))

    assert [(instance.cases[case].name, n) for case, n in solution.shed] == [("stockholm down", 0)]
    assert solution.placed[0] is not None
    assert solution.nodes == {STOCKHOLM: 2}


# Bounds ---------------------------------------------------------------------------------------


def test_least_and_most_bound_the_nodes():
    estate = make_estate(make_decision(survives=()), hardware=PRICED)

    _, free = solved(estate)
    _, least = solved(estate, least={LULEA: 2})
    _, most = solved(estate, most={STOCKHOLM: 0})
    _, none = solved(estate, most={STOCKHOLM: 0, LULEA: 0})

    assert free.nodes == {STOCKHOLM: 1}
    assert least.nodes[LULEA] == 2
    assert most.nodes == {LULEA: 1}
    assert (none.nodes, none.shed) == ({}, ((0, 0),))


def test_a_sites_own_limit_counts_all_its_hardware():
    hardware = PRICED | {"edge-4": make_hardware(yearly_cost=100)}
    service = {"edge-2": make_delay(5, 7), "edge-4": make_delay(5, 7)}
    decision = make_decision(
        ladder=(make_variant(service=service),), arrivals=arrive(2000), survives=()
    )
    site = make_site("stockholm", offers=("edge-4",), max_nodes=3)

    _, solution = solved(make_estate(decision, sites=(site,), hardware=hardware))

    assert solution.count == 3
    assert solution.shed


def test_above_and_below_bound_the_cost():
    """Where no machines cost so little, all is left out; where none cost so much, there is None."""
    estate = make_estate(make_decision(survives=()), hardware=PRICED)

    _, dearer = solved(estate, above=150)
    _, cheaper = solved(estate, below=99)
    _, none = solved(estate, above=1e9, below=inf)

    assert (dearer.cost, dearer.shed) == (200, ())
    assert (cheaper.cost, cheaper.shed) == (0, ((0, 0),))
    assert none is None


def test_less_room_takes_more_machines():
    decision = make_decision(arrivals=arrive(100), survives=())

    costs = [solved(alone(decision), {STOCKHOLM: room})[1].cost for room in (1.0, 0.7, 0.3)]

    assert costs == sorted(costs)
    assert costs[-1] > costs[0]


# Memory ---------------------------------------------------------------------------------------


def test_memory_takes_machines_where_it_is_short():
    """Three workers of 400 and 1,000 on a node: two nodes, unless memory is left out."""
    hardware = {"edge-2": make_hardware(yearly_cost=100, memory_bytes=1000)}
    ladder = (make_variant(memory_bytes=400),)
    decisions = [make_decision(f"d{n}", ladder=ladder, survives=()) for n in range(3)]
    estate = make_estate(*decisions, sites=("stockholm",), hardware=hardware)

    _, with_memory = solved(estate)
    _, without = solved(estate, memory=False)

    assert with_memory.nodes == {STOCKHOLM: 2}
    assert without.nodes == {STOCKHOLM: 1}


def test_every_lane_has_its_worker():
    """Four lanes take four times the memory."""
    hardware = {"edge-2": make_hardware(lanes=4, yearly_cost=100, memory_bytes=1000)}
    ladder = (make_variant(memory_bytes=200),)
    decisions = [make_decision(f"d{n}", ladder=ladder, survives=()) for n in range(2)]

    _, solution = solved(make_estate(*decisions, sites=("stockholm",), hardware=hardware))

    assert solution.nodes == {STOCKHOLM: 2}


def test_backups_have_their_memory_before_they_are_needed():
    """What only a lost site sends to Luleå is warm there when all is well."""
    hardware = {"edge-2": make_hardware(yearly_cost=100, memory_bytes=1000)}
    ladder = (make_variant(memory_bytes=600),)
    here, there = (
        make_decision(name, ladder=ladder, sources={site: 1}, survives=("site",))
        for name, site in (("here", "stockholm"), ("there", "lulea"))
    )
    estate = make_estate(here, there, hardware=hardware)

    _, with_memory = solved(estate)
    _, without = solved(estate, memory=False)

    assert with_memory.count == 4
    assert without.count == 2


# Balance --------------------------------------------------------------------------------------


def fullest(instance, solution):
    """Return how full the fullest pool is in any case, of what it has then."""
    levels = {task.decision.criticality.rank for task in instance.tasks}
    return max(
        (
            full / left
            for case in range(len(instance.cases))
            for (pool, level), full in in_case(instance, solution, case).items()
            if level in levels and (left := survivors(instance, solution, case)[pool])
        ),
        default=0.0,
    )


@settings(max_examples=20)
@given(estates(), st.integers(1, 16))
def test_balance_leaves_the_fullest_pool_less_full_and_nothing_else(estate, most):
    """The same machines at the same cost, and no more and no less is left out."""
    bounds = {"most": dict.fromkeys(make_instance_of(estate).pools, most)}
    instance, found = solved(estate, **bounds)

    balanced = balance(instance, {}, found, seconds=10, memory=True)

    assert (balanced.nodes, balanced.cost, balanced.bound) == (found.nodes, found.cost, found.bound)
    assert len(balanced.shed) <= len(found.shed)
    assert fullest(instance, balanced) <= max(1, fullest(instance, found)) + 1e-5


def test_balance_spreads_what_the_cheapest_solution_piles_up():
    """Two flows asked at Stockholm, where a node takes both; Luleå's stands there anyway."""
    decisions = [make_decision(f"d{n}", arrivals=arrive(60), survives=()) for n in range(2)]
    estate = make_estate(*decisions, hardware=PRICED)
    instance, found = solved(estate, least={STOCKHOLM: 1, LULEA: 1})

    balanced = balance(instance, {}, found, seconds=10, memory=True)

    assert [choice.pool for choice in found.placed] == [STOCKHOLM, STOCKHOLM]
    assert {choice.pool for choice in balanced.placed} == {STOCKHOLM, LULEA}
    assert fullest(instance, balanced) < fullest(instance, found)


def test_balance_fills_nothing_beyond_its_room_with_what_was_left_out():
    """Neither with best-effort, nor with what an estate too small cannot answer in a loss."""
    must = make_decision("must", arrivals=arrive(120), survives=())
    spare = make_decision("spare", arrivals=arrive(120), criticality=Criticality.BEST_EFFORT)
    pair = [make_decision(f"d{n}", arrivals=arrive(120), survives=("node",)) for n in range(2)]

    for decisions, most in (((must, spare), 1), (pair, 2)):
        instance, found = solved(alone(*decisions, max_nodes=most))
        balanced = balance(instance, {}, found, seconds=10, memory=True)

        assert found.shed or None in found.placed
        assert len(balanced.shed) == len(found.shed)
        assert [c is None for c in balanced.placed] == [c is None for c in found.placed]


# The solver -----------------------------------------------------------------------------------


def test_the_solver_says_nothing(capfd):
    """It greets on stdout while it is being made, unless it is told not to."""
    solved(make_estate(hardware=PRICED))

    assert capfd.readouterr() == ("", "")
