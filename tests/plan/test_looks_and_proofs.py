"""What simulations say of nodes: nothing that was refused is played, or placed, again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_estates import make_decision, make_estate, make_hardware, make_instance_of

from tidsram.estate.types import Arrivals
from tidsram.plan.judge import Judge, Provers
from tidsram.plan.optimise import arrange, optimise, part_of
from tidsram.plan.pack import Home, load_of, node_loads, pack
from tidsram.plan.prove import Prover, holds

PRICED = {"edge-2": make_hardware(yearly_cost=100)}
POOL, LULEA = ("stockholm", "edge-2"), ("lulea", "edge-2")


def several(count, rate, budget_ms=100.0):
    arrivals = Arrivals(kind="poisson", rate=float(rate))
    return [
        make_decision(f"d{n}", arrivals=arrivals, budget_ms=budget_ms, survives=())
        for n in range(count)
    ]


def packed(decisions):
    """Return an instance with all of it on one node, and its scenarios."""
    instance = make_instance_of(make_estate(*decisions, sites=("stockholm",), hardware=PRICED))
    solution = optimise(instance, {POOL: 9.0}, seconds=5, most={POOL: 1})
    return instance, pack(instance, solution)


@pytest.fixture
def provers():
    lengths = ((1, 1.0), (2, 3.0), (3, 1.5), (4, None))
    return Provers(*(Prover(600, seed, 1, times=times) for seed, times in lengths))


def test_what_the_proof_refuses_is_known_from_then_on(provers):
    """It is found unseen, by itself and under more."""
    judge = Judge(provers)
    instance, scenarios = packed(several(2, 110, budget_ms=30))

    tallies, broken = judge.prove(instance, scenarios)
    asked = provers.asked

    assert asked > 0
    assert tallies == []
    assert {home for _, home, _ in broken} == {Home(POOL, 0)}
    assert judge.known.refuses(Home(POOL, 3), load_of(instance, scenarios[0], Home(POOL, 0)))
    assert judge.known_to_break(instance, scenarios)
    assert provers.asked == asked


def test_what_a_proof_bears_out_is_told_for_every_node_of_every_scenario(provers):
    instance, scenarios = packed(several(2, 10))

    tallies, broken = Judge(provers).prove(instance, scenarios)

    assert not broken
    for scenario, told in zip(scenarios, tallies, strict=True):
        assert set(told) == set(node_loads(instance, scenario))
        for tally in told.values():
            assert {holds(one, 0.99) for one in tally.values()} == {"met"}


def test_the_same_is_not_played_twice(provers):
    judge = Judge(provers)
    instance, scenarios = packed(several(2, 10))

    first, second = judge.prove(instance, scenarios), provers.asked
    again = judge.prove(instance, scenarios)

    assert again == first
    assert provers.asked == second


@settings(max_examples=15)
@given(st.sets(st.integers(0, 3), min_size=1))
def test_an_arrangement_leaves_what_was_refused_apart(tasks):
    """On two sites of one node each; where they must all be together there is none."""
    instance = make_instance_of(make_estate(*several(4, 5), hardware=PRICED))
    load = frozenset(
        part_of(task, choice)
        for number, task in enumerate(instance.tasks)
        for choice in task.choices[0].values()
        if number in tasks and choice.pool == POOL
    )
    nodes = {POOL: 1, LULEA: 1}

    found = arrange(
        instance, {}, nodes, seconds=5, fullest=1.15, memory=False, refused={"edge-2": [load]}
    )

    assert found is not None
    assert not all(found.placed[number].pool == POOL for number in tasks)
