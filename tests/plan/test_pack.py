"""From pools to machines: homes that exist, nothing moved without need, one variant to a node."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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

from tidsram.estate.types import Arrivals
from tidsram.plan.optimise import lean, optimise
from tidsram.plan.pack import (
    Home,
    Known,
    fullness,
    load_of,
    node_loads,
    pack,
    short_of_memory,
)

POOL = ("stockholm", "edge-2")


def arrive(rate):
    return Arrivals(kind="poisson", rate=float(rate))


def packed(estate, room=0.85, **bounds):
    """Return an estate's instance, its solution and the scenarios of it."""
    instance = make_instance_of(estate)
    rooms = dict.fromkeys(instance.pools, room)
    solution = optimise(instance, rooms, seconds=10, **bounds)
    return instance, solution, pack(instance, solution)


def case_of(instance, scenario):
    return instance.cases.index(scenario.case)


def is_lost(scenario, home):
    down = scenario.case.kind == "site" and scenario.case.site == home.pool[0]
    return home == scenario.lost or down


def served_with(instance, scenarios):
    """Return by node and decision the variants that any scenario serves it with."""
    variants = defaultdict(set)
    for scenario in scenarios:
        for task, home, choice in zip(
            instance.tasks, scenario.homes, scenario.choices, strict=True
        ):
            if home is not None:
                variants[home, task.flow.decision].add(choice.option.variant)
    return variants


# Any estate -----------------------------------------------------------------------------------


@settings(max_examples=30)
@given(estates())
def test_whatever_must_be_answered_has_a_home_that_exists_and_survives(estate):
    """In every scenario, unless the optimiser found no room; at a choice of that very case."""
    instance, solution, scenarios = packed(estate)

    there = {Home(pool, index) for pool, n in solution.nodes.items() for index in range(n)}
    for scenario in scenarios:
        case = case_of(instance, scenario)
        shed = {number for lost, number in solution.shed if lost in (0, case)}
        for number, (task, home) in enumerate(zip(instance.tasks, scenario.homes, strict=True)):
            choice = scenario.choices[number]
            assert (home is None) == (choice is None)
            if home is None:
                assert not task.must[case] or number in shed
                continue
            assert home in there
            assert not is_lost(scenario, home)
            assert task.choices[case][choice.key] == choice
            assert choice.pool == home.pool


@settings(max_examples=30)
@given(estates())
def test_nothing_moves_that_a_loss_does_not_touch(estate):
    """Its node is there, and the way to it is the same: it stays, though others come."""
    instance, _, (healthy, *losses) = packed(estate)

    for scenario in losses:
        case = case_of(instance, scenario)
        for task, before, was, after in zip(
            instance.tasks, healthy.homes, healthy.choices, scenario.homes, strict=True
        ):
            if before is None or is_lost(scenario, before):
                continue
            same = lean(task.choices[case]).get(before.pool)
            if same is not None and same.option.path == was.option.path:
                assert after == before


@settings(max_examples=30)
@given(estates())
def test_each_node_is_lost_in_turn_and_every_other_loss_once(estate):
    instance, solution, (healthy, *losses) = packed(estate)

    assert (healthy.case, healthy.lost) == (instance.cases[0], None)
    expected = []
    for case in instance.cases[1:]:
        count = solution.nodes.get((case.site, case.hardware), 0)
        nodes = [Home((case.site, case.hardware), index) for index in range(count)]
        expected += [(case, lost) for lost in (nodes if case.kind == "node" else [None])]
    assert [(scenario.case, scenario.lost) for scenario in losses] == expected


@settings(max_examples=20)
@given(estates(), st.sampled_from([3, 8, 12]))
def test_a_node_keeps_one_variant_of_a_decision(estate, int8_ms):
    """In all scenarios together: it could not change it in the moment of a loss."""
    ladder = (make_variant("fp32"), make_variant("int8", p50_ms=int8_ms, p99_9_ms=int8_ms + 2))
    decisions = [make_decision("two", ladder=ladder), *estate.decisions.values()]
    more = make_estate(*decisions, sites=tuple(estate.sites))

    instance, _, scenarios = packed(more)

    assert all(len(variants) == 1 for variants in served_with(instance, scenarios).values())


@settings(max_examples=20)
@given(estates())
def test_node_loads_are_the_tasks_that_have_a_home(estate):
    """Each of them once, with the option that the scenario gives it."""
    instance, _, scenarios = packed(estate)

    for scenario in scenarios:
        loads = node_loads(instance, scenario)
        served = {
            one.flow.key: (home, one.option) for home, load in loads.items() for one in load.served
        }
        assert served == {
            task.flow.key: (home, choice.option)
            for task, home, choice in zip(
                instance.tasks, scenario.homes, scenario.choices, strict=True
            )
            if home is not None
        }
        assert sum(len(load.served) for load in loads.values()) == len(served)
        assert {load.lanes for load in loads.values()} <= {1}


@settings(max_examples=15)
@given(estates())
def test_the_same_solution_is_packed_the_same(estate):
    instance, solution, scenarios = packed(estate)

    again = pack(instance, solution)

    assert [s.homes for s in again] == [s.homes for s in scenarios]
    assert [s.choices for s in again] == [s.choices for s in scenarios]


# Telling examples -----------------------------------------------------------------------------


def alone(*decisions, **hardware):
    types = {"edge-2": make_hardware(yearly_cost=100, **hardware)}
    return make_estate(*decisions, sites=("stockholm",), hardware=types)


def test_the_largest_goes_first_and_to_the_node_that_is_least_full():
    """Of 90, 60, 50 and 20 questions a second two nodes get 110 each."""
    decisions = [
        make_decision(f"d{rate}", arrivals=arrive(rate), survives=()) for rate in (20, 50, 60, 90)
    ]

    instance, _, (healthy,) = packed(alone(*decisions), least={POOL: 2})

    together = defaultdict(set)
    for task, home in zip(instance.tasks, healthy.homes, strict=True):
        together[home].add(task.flow.rate)
    assert sorted(map(sorted, together.values())) == [[20, 90], [50, 60]]


def test_a_lost_node_s_flows_go_to_the_others_and_all_else_stays():
    decisions = [
        make_decision(f"d{number}", arrivals=arrive(60), survives=("node",)) for number in range(3)
    ]

    _, solution, (healthy, *losses) = packed(alone(*decisions), least={POOL: 3})

    assert solution.nodes == {POOL: 3}
    assert len(set(healthy.homes)) == 3
    for scenario in losses:
        moved = [b for b, a in zip(healthy.homes, scenario.homes, strict=True) if a != b]
        assert moved == [scenario.lost]


def test_a_node_with_the_memory_is_taken_before_one_that_is_less_full():
    """The lightest would go beside the second; there only the first has room for its worker."""
    big, small = (make_variant(memory_bytes=size) for size in (600, 300))
    decisions = [
        make_decision("most", arrivals=arrive(60), ladder=(small,), survives=()),
        make_decision("much", arrivals=arrive(50), ladder=(big,), survives=()),
        make_decision("least", arrivals=arrive(2), ladder=(big,), survives=()),
    ]

    instance, solution, scenarios = packed(alone(*decisions, memory_bytes=1000))
    homes = scenarios[0].homes

    assert solution.nodes == {POOL: 2}
    assert homes[0] == homes[2] != homes[1]
    assert not short_of_memory(instance, scenarios)


@pytest.mark.parametrize(
    ("lanes", "memory_bytes", "short"),
    [(1, 999, {POOL}), (1, 1000, set()), (2, 1999, {POOL}), (2, 2000, set()), (2, 0, set())],
)
def test_memory_is_short_when_all_workers_of_a_node_take_more(lanes, memory_bytes, short):
    """Of every lane; and never where nothing is declared."""
    ladder = (make_variant(memory_bytes=500),)
    decisions = [make_decision(f"d{number}", ladder=ladder, survives=()) for number in range(2)]
    estate = alone(*decisions, lanes=lanes, memory_bytes=memory_bytes)

    instance, _, scenarios = packed(estate, memory=False)

    assert short_of_memory(instance, scenarios) == short


def test_memory_counts_what_stands_by():
    """Each node keeps its own decision and, for the loss of the other, that one's."""
    ladder = (make_variant(memory_bytes=500),)
    decisions = [
        make_decision(f"d{number}", ladder=ladder, survives=("node",)) for number in range(2)
    ]
    instance, _, scenarios = packed(alone(*decisions, memory_bytes=999), memory=False)

    assert len(set(scenarios[0].homes)) == 2
    assert not short_of_memory(instance, scenarios[:1])
    assert short_of_memory(instance, scenarios)


def test_the_variant_of_a_node_is_one_that_all_its_askers_can_use():
    """int8 is the faster on average, but its slow runs are too slow for Luleå's questions.

    Both are answered at Stockholm. What the near ones alone would have is not what the node keeps.
    """
    steady = make_variant("fp32", p50_ms=8, p99_9_ms=9)
    uneven = make_variant("int8", p50_ms=2, p99_9_ms=25)
    near, far = (
        make_decision("near", ladder=(steady, uneven), budget_ms=45, survives=(), sources=sources)
        for sources in ({"stockholm": 1}, {"stockholm": 1, "lulea": 1})
    )
    sites = ("stockholm", make_site("lulea", max_nodes=0))

    found = {}
    for decision in (near, far):
        instance, _, scenarios = packed(make_estate(decision, sites=sites))
        found[len(decision.sources)] = list(served_with(instance, scenarios).values())

    assert found == {1: [{"int8"}], 2: [{"fp32"}]}


def test_fullness_is_the_sum_by_level():
    decisions = [make_decision(name, arrivals=arrive(20)) for name in ("one", "other")]
    instance = make_instance_of(alone(*decisions))
    choices = [next(iter(task.choices[0].values())) for task in instance.tasks]

    assert fullness([]) == [0, 0, 0]
    assert fullness(choices) == pytest.approx([2 * level for level in choices[0].levels])
    assert make_delay(5, 7) == choices[0].option.service.delay


# What is known --------------------------------------------------------------------------------

HOME, LIKE, OTHER = (
    Home(("stockholm", "edge-2"), 0),
    Home(("lulea", "edge-2"), 1),
    Home(("lulea", "edge-4"), 0),
)
loads = st.frozensets(st.sampled_from([(name, 1, "fp32", ("lulea",)) for name in "abcde"]))


@given(st.lists(loads), st.lists(loads), loads)
def test_more_than_was_refused_is_refused_and_less_than_was_borne_is_borne(refused, borne, load):
    """On nodes of the same type, wherever they stand; of another type nothing is known."""
    known = Known()
    for one in refused:
        known.refuse(HOME, one)
    for one in borne:
        known.bear(HOME, one)

    assert known.refuses(LIKE, load) == any(one <= load for one in refused)
    assert known.bears(LIKE, load) == any(load <= one for one in borne)
    assert not known.refuses(OTHER, load)
    assert not known.bears(OTHER, load)


def test_two_that_were_refused_together_are_packed_apart():
    """Of three equal flows on two nodes, two share one; not the pair that broke a promise."""
    decisions = [make_decision(f"d{n}", survives=()) for n in range(3)]
    estate = make_estate(*decisions, sites=("stockholm",))
    instance = make_instance_of(estate)
    solution = optimise(instance, {}, seconds=10, least={HOME.pool: 2})
    first = pack(instance, solution)[0]
    shared = max(set(first.homes), key=first.homes.count)
    known = Known()
    known.refuse(shared, load_of(instance, first, shared))

    again = pack(instance, solution, known)[0]

    assert not any(known.refuses(home, load_of(instance, again, home)) for home in again.homes)
    assert set(again.homes) == set(first.homes)
