"""The example estate can be planned: it parses, its law holds, its facts are its own."""

from pathlib import Path

import pytest

from tidsram.estate.load import load_estate
from tidsram.lab.facts import read_measured
from tidsram.plan.demand import flows
from tidsram.plan.latency import World, cases, needs, pools
from tidsram.plan.problem import Case

NORRLAND = Path(__file__).parents[2] / "examples" / "norrland"
FIRST, LAST = "2026-Q4", "2027-Q4"


@pytest.fixture(scope="module")
def estate():
    return load_estate(NORRLAND / "tidsram.toml")


@pytest.fixture(scope="module")
def measured(estate):
    return read_measured(estate, NORRLAND)


@pytest.fixture(scope="module")
def world(estate, measured):
    return World(estate, measured)


def test_every_variant_is_measured_on_every_hardware_type_from_the_model_that_lies_here(
    estate, measured
):
    """A changed model would leave its profile stale, and the plan without its times."""
    variants = {(d.name, v.name) for d in estate.decisions.values() for v in d.ladder}
    expected = {(*variant, hardware) for variant in variants for hardware in estate.hardware}

    assert set(measured.profiles) == expected
    assert measured.stale == ()


def test_hardware_types_that_share_their_cores_are_measured_on_one_machine(measured):
    """Else a difference between two measurements would decide what is bought."""
    machines = {profile.machine for profile in measured.profiles.values()}

    assert len(machines) == 1


@pytest.mark.parametrize("quarter", [FIRST, LAST])
def test_every_question_can_be_answered_in_every_case_that_it_survives(estate, world, quarter):
    """Goal: nothing but the number of machines is left to decide. Options are judged as planned."""
    unanswered = [
        (flow.key, case.name)
        for flow in flows(estate, quarter)
        for case in cases(estate)
        if case.kind == "healthy" or needs(estate.decisions[flow.decision], flow, case)
        if not world.options(flow, case)[0]
    ]

    assert unanswered == []


def test_every_flow_has_somewhere_else_to_go(estate, world):
    """One loss at a time is survived only by what may be answered at two sites."""
    places = {
        flow.key: {option.site for option in world.options(flow, Case())[0]}
        for flow in flows(estate, LAST)
    }

    assert {key for key, sites in places.items() if len(sites) < 2} == set()


def test_patient_data_stays_in_the_hospitals_and_a_factorys_with_its_owner(estate, world):
    allowed = {"tissue": {"umea", "sundsvall"}, "inspection": {"skelleftea", "gavle"}}
    found = {name: set() for name in allowed}
    for flow in flows(estate, LAST):
        for case in cases(estate):
            if flow.decision in allowed:
                found[flow.decision] |= {o.site for o in world.options(flow, case)[0]}

    assert found == allowed


def test_what_may_be_decided_anywhere_is_an_option_away_from_where_it_is_asked(estate, world):
    """Else the map has no flows: the example is there to show them."""
    flow = next(flow for flow in flows(estate, FIRST) if flow.decision == "watch")

    elsewhere = {option.site for option in world.options(flow, Case())[0]} - {"kiruna"}

    assert "skelleftea" in elsewhere


def test_no_cut_leaves_a_site_alone(estate, world):
    names = list(estate.sites)
    cut_off = [
        (case.name, name)
        for case in cases(estate)
        if case.kind == "link"
        for name in names
        if world.network.path(names[0], name, case) is None
    ]

    assert cut_off == []


def test_there_is_a_machine_to_choose_at_every_site(estate):
    assert {site for site, _ in pools(estate)} == set(estate.sites)
