"""Demand: quarters in order, growth that holds and machines that stay, and who asks where."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_estates import make_decision, make_estate

from tidsram.errors import PlanError
from tidsram.estate.types import Arrivals
from tidsram.plan import demand
from tidsram.plan.problem import Flow

days = st.dates(min_value=date(2020, 1, 1), max_value=date(2090, 12, 31))
quarters = st.builds(lambda day: demand.quarter_of(day.isoformat()), days)
growths = st.dictionaries(quarters, st.floats(0.1, 10), max_size=5)


@given(days)
def test_a_day_lies_in_its_quarter(day):
    """A quarter starts on or before its days, and the day before it lies in another."""
    quarter = demand.quarter_of(day.isoformat())

    start = date.fromisoformat(demand.starts_on(quarter))
    assert start <= day < start + timedelta(days=93)
    assert demand.quarter_of(start.isoformat()) == quarter
    assert demand.quarter_of((start - timedelta(days=1)).isoformat()) != quarter


@given(quarters, quarters)
def test_quarters_follow_each_other(one, other):
    """Each quarter starts the day after the one before it ends; both ends are included."""
    first, last = sorted((one, other))

    row = demand.quarters_until(first, last)

    assert (row[0], row[-1]) == (first, last)
    assert len(row) == len(set(row))
    assert row == sorted(row)


def test_quarters_to_the_end_of_2027():
    """The horizon of the example estate."""
    assert demand.quarters_until("2026-Q4", "2027-Q4") == [
        "2026-Q4",
        "2027-Q1",
        "2027-Q2",
        "2027-Q3",
        "2027-Q4",
    ]


def test_an_order_leaves_the_lead_time():
    """Twelve weeks before New Year."""
    assert demand.order_by("2027-Q1", 12) == "2026-10-09"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: demand.starts_on("2027Q1"), '"2027Q1": is not a quarter; write one like'),
        (lambda: demand.starts_on("2027-Q5"), "is not a quarter"),
        (lambda: demand.quarter_of("24/11/2026"), "is not a date; write one like"),
        (lambda: demand.quarters_until("2027-Q1", "2026-Q4"), "is before 2027-Q1"),
    ],
)
def test_what_is_no_quarter_is_told(call, words):
    """A slip on the command line ends in a sentence."""
    with pytest.raises(PlanError, match=words):
        call()


def test_growth_holds_until_the_next_declared():
    """Before the first it is 1; between two, the earlier one holds."""
    decision = make_decision(growth={"2027-Q4": 4.0, "2027-Q1": 1.5})

    years = demand.quarters_until("2026-Q4", "2028-Q1")
    assert [demand.factor(decision, q) for q in years] == [1.0, 1.5, 1.5, 1.5, 4.0, 4.0]


@given(growths, quarters, quarters)
def test_machines_that_were_bought_stay(growth, one, other):
    """The peak never falls and never lies below a quarter's own factor, nor below today's."""
    decision = make_decision(growth=growth)
    first, last = sorted((one, other))

    peaks = [demand.peak_factor(decision, quarter) for quarter in (first, last)]

    assert 1.0 <= peaks[0] <= peaks[1]
    assert peaks[1] >= max(demand.factor(decision, quarter) for quarter in (first, last))
    assert peaks[1] == max([1.0, *(by for since, by in growth.items() if since <= last)])


def test_a_flow_for_each_decision_and_source():
    """In the order of the file; growth comes as more askers, each as often as today."""
    tissue = make_decision("tissue", sources={"lulea": 10, "stockholm": 1}, growth={"2027-Q1": 1.1})

    flows = demand.flows(make_estate(make_decision(), tissue), "2027-Q2")

    assert [flow.key for flow in flows] == [
        "obstacle@stockholm",
        "tissue@lulea",
        "tissue@stockholm",
    ]
    assert flows[0] == Flow(decision="obstacle", source="stockholm", askers=1, rate=10.0)
    assert [flow.askers for flow in flows[1:]] == [11, 2]
    assert [flow.rate for flow in flows[1:]] == pytest.approx([110.0, 11.0])


def test_the_only_site_is_the_source():
    """With one site there is nothing to choose."""
    estate = make_estate(make_decision(sources={}), sites=["gavle"])

    assert [flow.source for flow in demand.flows(estate, "2026-Q4")] == ["gavle"]


def test_without_sources_several_sites_are_named():
    """Nobody guesses where questions arise."""
    with pytest.raises(PlanError, match=r"\[decision.obstacle\]: .* add sources = .*stockholm"):
        demand.flows(make_estate(make_decision(sources={})), "2026-Q4")


def test_without_arrivals_the_line_to_add_is_told():
    """Nobody guesses how often."""
    with pytest.raises(PlanError, match=r"add arrivals = \{ kind = .*rate = "):
        demand.flows(make_estate(make_decision(arrivals=None)), "2026-Q4")


def test_the_rate_is_that_of_all_askers():
    """Three askers, each at the declared rate."""
    cameras = make_decision(arrivals=Arrivals(kind="periodic", rate=25.0), sources={"lulea": 3})

    (flow,) = demand.flows(make_estate(cameras), "2026-Q4")

    assert (flow.askers, flow.rate) == (3, 75.0)
