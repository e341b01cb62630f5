"""A quarter as numbers: who may go where, in which case, and what that takes of a node."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from small_estates import (
    make_decision,
    make_delay,
    make_estate,
    make_hardware,
    make_instance_of,
    make_site,
    make_variant,
)

from tidsram.estate.types import Arrivals, Criticality, DataClass, Link
from tidsram.plan.capacity import tail_rate
from tidsram.plan.instance import MOST_PARTS, NEAR, strain
from tidsram.plan.latency import wait_epsilon
from tidsram.units import MS

ROW = ("stockholm", "gavle", "lulea")


def sites_of(choices):
    return {choice.option.site for choice in choices.values()}


def only_task(estate):
    (task,) = make_instance_of(estate).tasks
    return task


def arrive(rate, kind="poisson", **declared):
    return Arrivals(kind=kind, rate=float(rate), **declared)


# Where ----------------------------------------------------------------------------------------


def test_no_choice_is_beyond_the_law_in_any_case():
    """Neither when all is well nor as a backup."""
    abroad = make_site("malmo", jurisdiction="DK")
    sites = ("stockholm", "gavle", "lulea", abroad)
    by_place = make_decision("place", jurisdictions=("SE",))
    by_data = make_decision("data", data="camera")
    data = {"camera": DataClass(name="camera", sites=("stockholm", "lulea"))}

    instance = make_instance_of(make_estate(by_place, by_data, sites=sites, data=data))

    for task in instance.tasks:
        lawful = {"place": set(ROW), "data": {"stockholm", "lulea"}}[task.flow.decision]
        assert sites_of(task.choices[0]) == lawful
        assert all(sites_of(choices) <= lawful for choices in task.choices)
        assert {r.site for r in task.refusals} == {"stockholm", "gavle", "lulea", "malmo"} - lawful


def test_a_flow_is_considered_at_its_nearest_sites_only():
    """Ten sites in a row: so many of them, and the nearest."""
    names = [f"site-{number}" for number in range(NEAR + 4)]
    near = make_delay(1, 2)
    links = [
        Link(a=names[0], b=name, rtt=make_delay(9 - n / 2, 20)) for n, name in enumerate(names)
    ]
    estate = make_estate(
        make_decision(sources={names[0]: 1}, survives=("node",)),
        sites=[make_site(name) for name in names],
        links=[replace(links[1], rtt=near), *links[2:]],
    )

    found = sites_of(only_task(estate).choices[0])

    assert found == {names[0], names[1], *names[-(NEAR - 2) :]}


def test_of_a_site_each_hardware_and_variant_is_a_choice():
    hardware = {"edge-2": make_hardware(), "edge-4": make_hardware(lanes=2)}
    service = {"edge-2": make_delay(5, 7), "edge-4": make_delay(4, 6)}
    ladder = (make_variant("fp32", service=service), make_variant("int8", service=service))
    estate = make_estate(
        make_decision(ladder=ladder),
        sites=(make_site("stockholm", offers=("edge-4",)),),
        hardware=hardware,
    )

    instance = make_instance_of(estate)

    keys = {(site, hw, v) for site, hw in instance.pools for v in ("fp32", "int8")}
    assert set(instance.tasks[0].choices[0]) == keys
    assert {pool: facts.lanes for pool, facts in instance.pools.items()} == {
        ("stockholm", "edge-2"): 1,
        ("stockholm", "edge-4"): 2,
    }
    assert {pool: facts.standing for pool, facts in instance.pools.items()} == {
        ("stockholm", "edge-2"): 1,
        ("stockholm", "edge-4"): 0,
    }


# Cases ----------------------------------------------------------------------------------------


def test_cases_share_the_healthy_dictionary_where_nothing_is_lost_to_the_flow():
    """Asked at Stockholm, in a row Stockholm – Gävle – Luleå, and lawful at the first two."""
    data = {"camera": DataClass(name="camera", sites=("stockholm", "gavle"))}
    estate = make_estate(make_decision(data="camera"), sites=ROW, data=data)
    instance = make_instance_of(estate)
    (task,) = instance.tasks

    touched = {case.name for number, case in enumerate(instance.cases) if task.touched(number)}

    assert touched == {
        "a node lost at stockholm (edge-2)",
        "a node lost at gavle (edge-2)",
        "stockholm down",
        "gavle down",
        "link stockholm–gavle cut",
    }
    for number, case in enumerate(instance.cases):
        if case.name not in touched:
            assert task.choices[number] is task.choices[0]


def test_each_case_leaves_what_it_does_not_take():
    estate = make_estate(sites=ROW)
    instance = make_instance_of(estate)
    (task,) = instance.tasks

    left = {case.name: sites_of(task.choices[n]) for n, case in enumerate(instance.cases)}

    assert left["healthy"] == left["a node lost at gavle (edge-2)"] == set(ROW)
    assert left["gavle down"] == {"stockholm"}
    assert left["link stockholm–gavle cut"] == {"stockholm"}
    assert left["link gavle–lulea cut"] == {"stockholm", "gavle"}
    assert left["lulea down"] == {"stockholm", "gavle"}


def test_a_longer_way_round_is_another_choice():
    """In a ring a cut link takes no place away; what is reached the other way waits less."""
    links = [Link(a=a, b=b) for a, b in [ROW[:2], ROW[1:], (ROW[0], ROW[2])]]
    instance = make_instance_of(make_estate(sites=ROW, links=links))
    (task,) = instance.tasks
    cut = [case.name for case in instance.cases].index("link stockholm–gavle cut")

    (key,) = [key for key in task.choices[0] if key[0] == "gavle"]
    before, after = task.choices[0][key].option, task.choices[cut][key].option

    assert after.path == ("stockholm", "lulea", "gavle")
    assert after.wait_ns < before.wait_ns
    assert task.choices[cut][key].own > task.choices[0][key].own


def test_who_must_be_answered_follows_from_what_it_survives():
    careful = make_decision("careful", survives=("node", "site"))
    plain = make_decision("plain", survives=())
    spare = make_decision("spare", criticality=Criticality.BEST_EFFORT)
    instance = make_instance_of(make_estate(careful, plain, spare))

    must = {
        task.flow.decision: {case.kind for n, case in enumerate(instance.cases) if task.must[n]}
        for task in instance.tasks
    }

    assert must == {"careful": {"healthy", "node", "site"}, "plain": {"healthy"}, "spare": set()}


# Parts ----------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 12), st.floats(0.5, 20))
def test_parts_sum_to_the_flow(askers, parts, rate):
    """In rate, in whole askers while there are enough, and in names of their own."""
    estate = make_estate(make_decision(sources={"stockholm": askers}, arrivals=arrive(rate)))

    tasks = make_instance_of(estate, {"obstacle@stockholm": parts}).tasks

    each = [task.flow for task in tasks]
    assert sum(flow.rate for flow in each) == pytest.approx(askers * rate)
    assert len(each) >= parts
    assert len({flow.key for flow in each}) == len(each)
    assert {flow.whole for flow in each} == {"obstacle@stockholm"}
    assert {flow.parts for flow in each} == {len(each)}
    if askers >= len(each):
        assert sum(flow.askers for flow in each) == askers
        assert max(f.askers for f in each) - min(f.askers for f in each) <= 1


@settings(max_examples=25)
@given(st.floats(10, 5000))
def test_a_flow_larger_than_a_node_comes_in_parts_that_fit(rate):
    """Each of them takes less than a node, and all are asked for."""
    tasks = make_instance_of(make_estate(make_decision(arrivals=arrive(rate)))).tasks

    least = [min(choice.own for choice in task.choices[0].values()) for task in tasks]

    assert sum(task.flow.rate for task in tasks) == pytest.approx(rate)
    assert max(least) < 1
    assert 1 <= len(tasks) <= MOST_PARTS


# What it takes --------------------------------------------------------------------------------


def levels_of(criticality, **declared):
    others = [
        make_decision(kind.value, criticality=kind, budget_ms=budget_ms)
        for kind, budget_ms in zip(Criticality, (50, 100, 1000), strict=True)
        if kind is not criticality
    ]
    mine = make_decision("mine", criticality=criticality, **declared)
    instance = make_instance_of(make_estate(mine, *others, sites=("stockholm",)))
    (task,) = [task for task in instance.tasks if task.flow.decision == "mine"]
    (choice,) = task.choices[0].values()
    return choice


@pytest.mark.parametrize("criticality", Criticality)
def test_a_flow_is_nothing_to_those_that_preempt_it_and_less_to_those_below(criticality):
    choice = levels_of(criticality, budget_ms=40)
    rank = criticality.rank

    assert choice.levels[:rank] == (0.0,) * rank
    assert choice.levels[rank] == choice.own
    assert list(choice.levels[rank:]) == sorted(choice.levels[rank:], reverse=True)
    assert all(level >= choice.busy for level in choice.levels[rank:])
    if rank < 2:
        assert choice.levels[2] < choice.own


def test_a_shorter_budget_takes_more_of_a_node():
    tight, loose = (levels_of(Criticality.STANDARD, budget_ms=ms) for ms in (30, 300))

    assert tight.own > loose.own
    assert tight.busy == pytest.approx(loose.busy)


def test_one_alone_strains_a_node_by_its_own_bandwidth():
    choice = levels_of(Criticality.STANDARD, budget_ms=40)

    assert strain([]) == 0
    assert strain([choice]) == pytest.approx(choice.own)
    assert strain([choice, choice]) == pytest.approx(2 * choice.own)


def test_what_preempts_counts_at_the_tail_of_whom_it_preempts():
    """And those below are not seen by those above."""
    above = make_decision("above", criticality=Criticality.CRITICAL, budget_ms=1000)
    below = make_decision("below", criticality=Criticality.BEST_EFFORT, budget_ms=20)
    instance = make_instance_of(make_estate(above, below, sites=("stockholm",)))
    by_name = {t.flow.decision: next(iter(t.choices[0].values())) for t in instance.tasks}
    high, low = by_name["above"], by_name["below"]

    found = strain([high, low])

    assert low.eta > high.eta
    assert found == pytest.approx(low.own + high.seen(low.eta))
    assert found > low.own + high.own
    assert strain([high]) == pytest.approx(high.own)


@pytest.mark.parametrize("budget_ms", [48, 50, 52])
def test_nothing_that_cannot_fit_a_node_at_all_is_a_choice(budget_ms):
    """A run of 40 ms and a wait of some ms: one run behind another breaks the promise."""
    ladder = (make_variant(p50_ms=40, p99_9_ms=42),)
    estate = make_estate(make_decision(ladder=ladder, budget_ms=budget_ms), sites=("stockholm",))

    task = only_task(estate)

    assert task.choices[0] == {}
    assert task.must[0]
    assert task.refusals == ()


def test_growth_asks_more_by_more_askers():
    estate = make_estate(make_decision(sources={"stockholm": 4}, growth={"2027-Q1": 2.5}))

    now, then = (make_instance_of(estate, quarter=q).tasks for q in ("2026-Q4", "2027-Q1"))

    assert [(task.flow.askers, task.flow.rate) for task in now] == [(4, 40.0)]
    assert [(task.flow.askers, task.flow.rate) for task in then] == [(10, 100.0)]


def test_times_are_those_of_the_options():
    """A choice's tail rate comes from the wait that its option leaves."""
    (choice,) = only_task(make_estate(sites=("stockholm",))).choices[0].values()

    assert 0 < choice.option.wait_ns < 100 * MS
    assert choice.eta == tail_rate(choice.option.wait_ns, wait_epsilon(0.99))
    assert choice.pool == ("stockholm", "edge-2")
    assert choice.key == ("stockholm", "edge-2", "fp32")
