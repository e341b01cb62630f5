"""A plan from end to end: growth, lead times, what cannot be and what would make it, in words."""

import msgspec
import pytest
from msgspec.structs import replace
from small_estates import (
    make_decision,
    make_delay,
    make_estate,
    make_hardware,
    make_site,
    make_variant,
)

from tidsram.errors import PlanError
from tidsram.estate.plan import parse_plan
from tidsram.estate.types import Arrivals, Criticality, DataClass, Link
from tidsram.lab.facts import Measured
from tidsram.plan.solve import make_plan

TODAY = "2026-11-24"
PRICED = {"edge-2": make_hardware(yearly_cost=100)}
SLOW_TO_COME = {"edge-2": make_hardware(yearly_cost=100, lead_weeks=12)}
HERE = "stockholm edge-2"


def arrive(rate):
    return Arrivals(kind="poisson", rate=float(rate))


def planned(estate, **declared):
    """Return a plan of few requests, made in this process."""
    standard = {"today": TODAY, "requests": 400, "processes": 1, "solve_seconds": 5}
    return make_plan(estate, Measured(), **standard | declared)


def alone(*decisions, hardware=PRICED, **declared):
    return make_estate(*decisions, sites=(make_site("stockholm", **declared),), hardware=hardware)


def growing(**growth):
    """Return a decision that grows: q1=6.0 is six times as often from 2027-Q1."""
    quarters = {f"2027-{quarter.upper()}": times for quarter, times in growth.items()}
    return make_decision(arrivals=arrive(40), growth=quarters, survives=())


def problem_of(estate):
    """Return the one sentence that says why an estate cannot be planned."""
    plan = planned(estate)
    (problem,) = plan.problems
    assert not plan.verified
    assert problem in plan.quarters[0].problem
    return problem


# What holds -----------------------------------------------------------------------------------


def test_a_plan_says_what_it_came_to():
    plan = planned(make_estate(hardware=PRICED))

    assert plan.verified
    assert plan.problems == ()
    assert (plan.yearly_cost, plan.quarter, plan.made) == (200, "2026-Q4", TODAY)
    assert plan.cost_bound <= plan.yearly_cost
    assert [quarter.quarter for quarter in plan.quarters] == ["2026-Q4"]
    assert plan.quarters[0].nodes == {HERE: 1, "lulea edge-2": 1}
    assert plan.quarters[0].headroom >= 1.1
    assert plan.cases[0] == "healthy"
    assert parse_plan(msgspec.json.encode(plan), "plan.json") == plan


def test_the_same_inputs_make_the_same_plan():
    """But for the seconds that it took."""
    decisions = [make_decision("one", arrivals=arrive(60)), growing(q2=2.0)]
    estate = make_estate(*decisions, sites=("stockholm", "gavle"), hardware=PRICED)

    first, second = (replace(planned(estate), solve_seconds=0, verify_seconds=0) for _ in range(2))

    assert first == second


def test_what_is_said_meanwhile_names_rounds_and_quarters():
    lines = []

    planned(alone(growing(q1=6.0)), say=lines.append)

    assert lines[0].startswith("round 1: 1 nodes, cost 100, ")
    assert any(line.startswith("2027-Q1") for line in lines)


# Growth ---------------------------------------------------------------------------------------


def test_growth_buys_machines_and_keeps_them():
    """Twelve times the questions need more of them, and twice as many leave them standing."""
    plan = planned(alone(growing(q1=6.0, q3=2.0)))

    counts = [quarter.nodes[HERE] for quarter in plan.quarters]
    assert [quarter.quarter for quarter in plan.quarters] == [
        "2026-Q4",
        "2027-Q1",
        "2027-Q2",
        "2027-Q3",
    ]
    assert counts[0] == 1 < counts[1]
    assert counts[1:] == [counts[1]] * 3
    assert all(quarter.verified for quarter in plan.quarters)
    assert [quarter.yearly_cost for quarter in plan.quarters] == [100 * n for n in counts]
    assert plan.quarters[1].demand == pytest.approx(240)


def test_machines_stay_where_others_would_do_it_cheaper():
    """For twelve times the questions a large node is cheaper than small ones: it joins them."""
    small, large = make_delay(5, 7), make_delay(5, 7)
    variant = make_variant(service={"edge-2": small, "edge-16": large})
    hardware = PRICED | {"edge-16": make_hardware(lanes=8, yearly_cost=150)}

    plan = planned(
        alone(replace(growing(q1=12.0), ladder=(variant,)), hardware=hardware, offers=("edge-16",))
    )

    assert [quarter.nodes.get(HERE) for quarter in plan.quarters] == [1, 1]
    assert plan.quarters[1].nodes == {HERE: 1, "stockholm edge-16": 1}
    assert [purchase.hardware for purchase in plan.purchases] == ["edge-16"]


def test_what_is_bought_is_what_is_missing_and_when_to_order_it():
    """The standing node is not; each later quarter adds to the one before."""
    hardware = {"edge-2": make_hardware(yearly_cost=100, lead_weeks=4)}

    plan = planned(alone(growing(q1=6.0, q3=12.0), hardware=hardware))

    told = {quarter.quarter: quarter.nodes[HERE] for quarter in plan.quarters}
    bought = {purchase.quarter: purchase for purchase in plan.purchases}
    assert set(bought) == {"2027-Q1", "2027-Q3"}
    assert bought["2027-Q1"].nodes == told["2027-Q1"] - 1
    assert bought["2027-Q3"].nodes == told["2027-Q3"] - told["2027-Q2"]
    assert bought["2027-Q1"].order_by == "2026-12-04"
    assert bought["2027-Q3"].order_by == "2027-06-03"
    assert {(p.site, p.hardware) for p in plan.purchases} == {("stockholm", "edge-2")}


def test_what_is_needed_now_is_ordered_today():
    """The quarter began before today."""
    plan = planned(alone(make_decision(survives=("node",))))

    assert [(p.quarter, p.nodes, p.order_by) for p in plan.purchases] == [("2026-Q4", 1, TODAY)]


def test_a_plan_goes_as_far_as_it_is_asked_to():
    plan = planned(alone(growing(q1=1.5)), until="2027-Q3")

    assert [quarter.quarter for quarter in plan.quarters][-1] == "2027-Q3"
    with pytest.raises(PlanError, match="is before 2026-Q4"):
        planned(alone(growing(q1=1.5)), until="2026-Q1")


# Lead times -----------------------------------------------------------------------------------


def test_what_cannot_be_had_before_a_quarter_is_not_used_in_it():
    """Five weeks to the quarter, twelve from an order: it has to do with what stands."""
    plan = planned(alone(growing(q1=10.0), hardware=SLOW_TO_COME))

    now, then = plan.quarters
    assert (now.verified, now.problem) == (True, "")
    assert then.nodes == {HERE: 1}
    assert not then.verified
    assert "cannot be answered when all is well" in then.problem
    assert "no node ordered today is at stockholm in time" in then.problem
    assert plan.purchases == ()


def test_what_can_be_had_in_time_is_ordered_that_long_before():
    plan = planned(alone(growing(q2=10.0), hardware=SLOW_TO_COME))

    assert all(quarter.verified for quarter in plan.quarters)
    assert [(p.quarter, p.order_by) for p in plan.purchases] == [("2027-Q2", "2027-01-07")]


def test_a_quarter_that_comes_too_soon_does_not_spoil_the_next():
    """The questions stay as many, but by then the machines can be there."""
    plan = planned(alone(growing(q1=10.0), hardware=SLOW_TO_COME), until="2027-Q2")

    assert [quarter.verified for quarter in plan.quarters] == [True, False, True]
    assert [purchase.quarter for purchase in plan.purchases] == ["2027-Q2"]


# What cannot be -------------------------------------------------------------------------------


def test_an_island_without_links_is_told_what_it_lacks():
    """It answers until its site is down; there is another site, and no way to it."""
    problem = problem_of(make_estate(make_decision(), links=[], hardware=PRICED))

    assert problem.startswith("obstacle of stockholm cannot be answered with stockholm down: ")
    assert 'survives = ["node", "link"]' in problem
    assert "declare a link" in problem


def test_a_budget_below_light_names_light():
    """710 km are 7.11 ms there and back, in fibre as straight as no fibre is."""
    decision = make_decision(sources={"lulea": 1}, budget_ms=5, survives=())
    sites = ("stockholm", make_site("lulea", max_nodes=0))

    problem = problem_of(make_estate(decision, sites=sites, hardware=PRICED))

    assert problem.startswith("obstacle of lulea cannot be answered when all is well: physics: ")
    assert "light in fibre needs 7.11 ms from lulea and back, the budget is 5 ms" in problem
    assert "raise its budget from 5 ms to " in problem


def test_a_missing_profile_says_what_to_run():
    decision = make_decision(ladder=(make_variant(service={}),))

    with pytest.raises(PlanError) as refused:
        planned(make_estate(decision))

    assert "nothing says how long fp32 runs on edge-2" in str(refused.value)
    assert "`tidsram profile obstacle --hardware edge-2`" in str(refused.value)


def test_full_places_are_named():
    problem = problem_of(alone(make_decision(arrivals=arrive(900), survives=()), max_nodes=1))

    assert "its places at stockholm are full" in problem
    assert "raise max_nodes" in problem


def test_a_loss_that_leaves_no_lawful_place_names_the_law():
    """Its data may be at Stockholm only: nothing stands in for it."""
    data = {"camera": DataClass(name="camera", sites=("stockholm",))}
    decision = make_decision(data="camera", survives=("site",))

    problem = problem_of(make_estate(decision, data=data, hardware=PRICED))

    assert problem.startswith("obstacle of stockholm cannot be answered with stockholm down")
    assert "survives = []" in problem


def test_each_flow_without_a_place_has_one_sentence():
    """However many cases take it away."""
    decisions = [make_decision(name, budget_ms=1) for name in ("one", "other")]

    plan = planned(make_estate(*decisions, hardware=PRICED))

    assert [problem.split(" of ")[0] for problem in plan.problems] == ["one", "other"]
    assert plan.nodes == ()
    assert plan.purchases == ()


def test_best_effort_is_no_problem():
    spare = make_decision("spare", budget_ms=1, criticality=Criticality.BEST_EFFORT)

    plan = planned(make_estate(make_decision(survives=()), spare, hardware=PRICED))

    assert plan.verified
    assert [flow.place is None for flow in plan.flows] == [False, True]


# What would be cheaper ------------------------------------------------------------------------


def test_a_promise_that_costs_a_machine_is_named_with_what_it_costs():
    """A site's loss is what the second machine is for."""
    decision = make_decision(survives=("site",))

    plan = planned(make_estate(decision, hardware=PRICED))

    (saving,) = plan.savings
    assert (saving.decision, saving.saves_nodes, saving.saves_cost) == ("obstacle", 1, 100)
    assert "loss of a site" in saving.change
    assert saving.sentence.startswith("obstacle: not ")
    assert saving.sentence.endswith("saves 1 node and 100 EUR a year")


def test_a_longer_budget_that_saves_machines_is_named():
    """So tight that its tail takes three machines for what is little work."""
    decision = make_decision(arrivals=arrive(60), budget_ms=19, survives=())

    plan = planned(alone(decision))

    (saving,) = plan.savings
    assert plan.yearly_cost == 300
    assert saving.change == "budget from 19 ms to 23.8 ms"
    assert (saving.saves_nodes, saving.saves_cost) == (1, 100)


def test_where_nothing_is_saved_nothing_is_said():
    plan = planned(alone(make_decision(survives=())))

    assert plan.savings == ()


def test_a_measured_or_declared_link_is_a_way():
    """The same island with a link is planned, and says where it goes when its site is down."""
    links = [Link(a="stockholm", b="lulea", rtt=make_delay(12, 18))]

    plan = planned(make_estate(make_decision(), links=links, hardware=PRICED))

    (flow,) = plan.flows
    assert plan.verified
    assert flow.backups["stockholm down"].site == "lulea"
