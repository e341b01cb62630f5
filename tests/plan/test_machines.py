"""Machines a step away: all of them within what was asked, and never further than a step."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_estates import make_decision, make_estate, make_hardware, make_instance_of, make_site

from tidsram.plan.machines import machines_near
from tidsram.plan.optimise import cost_of

SMALL, LARGE = ("stockholm", "edge-2"), ("stockholm", "edge-4")
FAR_SMALL, FAR_LARGE = ("lulea", "edge-2"), ("lulea", "edge-4")
POOLS = (SMALL, LARGE, FAR_SMALL, FAR_LARGE)
TYPES = {
    "edge-2": make_hardware(yearly_cost=100),
    "edge-4": make_hardware(lanes=4, yearly_cost=180),
}

machines = st.dictionaries(st.sampled_from(POOLS), st.integers(1, 3), min_size=1)


@pytest.fixture(scope="module")
def instance():
    sites = [
        make_site(name, offers=("edge-4",), max_nodes=4, yearly_cost=30)
        for name in ("stockholm", "lulea")
    ]
    return make_instance_of(make_estate(make_decision(), sites=sites, hardware=TYPES))


@given(machines, st.floats(0, 1500), st.floats(0, 1500))
def test_all_are_within_the_costs_and_the_cheapest_comes_first(instance, own, low, high):
    near = machines_near(instance, own, (low, high), {}, {})

    costs = [cost_of(instance, nodes) for nodes in near]
    assert costs == sorted(costs)
    assert all(low <= cost < high for cost in costs)


@given(machines)
def test_at_most_two_are_gone_and_at_most_one_has_come(instance, own):
    for nodes in machines_near(instance, own, (0, inf), {}, {}):
        changed = [nodes.get(pool, 0) - own.get(pool, 0) for pool in POOLS]
        assert sum(more for more in changed if more > 0) <= 1
        assert sum(-less for less in changed if less < 0) <= 2
        assert all(count > 0 for count in nodes.values())


@given(machines, machines, machines)
def test_least_most_and_the_limit_of_a_site_are_kept(instance, own, least, most):
    for nodes in machines_near(instance, own, (0, inf), least, most):
        assert all(nodes.get(pool, 0) >= count for pool, count in least.items())
        assert all(count <= most.get(pool, 4) for pool, count in nodes.items())
        for site in ("stockholm", "lulea"):
            assert sum(count for pool, count in nodes.items() if pool[0] == site) <= 4


def test_two_small_ones_may_become_a_large_one_for_less(instance):
    own = {SMALL: 2}

    near = machines_near(instance, own, (0, cost_of(instance, own)), {}, {})

    assert {LARGE: 1} in near
    assert {SMALL: 1} in near


def test_the_site_that_is_left_empty_costs_nothing(instance):
    assert cost_of(instance, {SMALL: 1, FAR_SMALL: 1}) == 260
    assert cost_of(instance, {SMALL: 2, FAR_SMALL: 0}) == 230
