"""What is to be measured, and where: picked from an estate, or refused with the next step."""

import pytest

from tidsram.errors import EstateError
from tidsram.estate.distance import great_circle_km
from tidsram.estate.types import Decision, Estate, Hardware, Lane, Link, Site, Variant
from tidsram.lab.probe import joined_to, light_ns, pick_here
from tidsram.lab.profile import pick_hardware, pick_lane, pick_subjects
from tidsram.units import MS, SECOND

GAVLE = Site(name="gavle", hardware="edge", location=(60.67, 17.14))
LULEA = Site(name="lulea", location=(65.58, 22.15))
KIRUNA = Site(name="kiruna")


def decision(name: str, **models: str) -> Decision:
    ladder = tuple(Variant(name=variant, model=model) for variant, model in models.items())
    return Decision(name=name, ladder=ladder, budget_ns=SECOND)


ESTATE = Estate(
    name="n",
    sites={site.name: site for site in (LULEA, GAVLE, KIRUNA)},
    hardware={"edge": Hardware(), "rack": Hardware()},
    links=(Link(a="gavle", b="lulea"), Link(a="kiruna", b="gavle")),
    decisions={
        "obstacle": decision("obstacle", fp32="o.onnx", int8="o8.onnx"),
        "planned": decision("planned", later=""),
    },
)


def test_the_hardware_is_the_first_sites_that_has_one():
    """Unless another is named."""
    assert pick_hardware(ESTATE, None) == "edge"
    assert pick_hardware(ESTATE, "rack") == "rack"


def test_hardware_that_is_not_declared_is_refused():
    """With the nearest spelling, or with what to declare."""
    with pytest.raises(EstateError, match='did you mean "edge"'):
        pick_hardware(ESTATE, "edgee")
    with pytest.raises(EstateError, match=r"add \[hardware\.edge\]"):
        pick_hardware(Estate(name="n", sites={"lulea": LULEA}), None)


def test_every_variant_that_has_a_model_is_measured():
    """What is planned only is left out, unless it is asked for."""
    picked = pick_subjects(ESTATE, [], "edge")

    assert [(p.decision.name, p.variant.name) for p in picked] == [
        ("obstacle", "fp32"),
        ("obstacle", "int8"),
    ]
    assert pick_subjects(ESTATE, ["obstacle", "obstacle"], "edge") == picked


def test_a_decision_that_cannot_be_measured_is_refused():
    """Unknown, or without a model."""
    with pytest.raises(EstateError, match='did you mean "obstacle"'):
        pick_subjects(ESTATE, ["obstcle"], "edge")
    with pytest.raises(EstateError, match=r"\[decision\.planned\]: has no model to run"):
        pick_subjects(ESTATE, ["obstacle", "planned"], "edge")
    with pytest.raises(EstateError, match="has no model to run"):
        pick_subjects(
            Estate(name="n", decisions={"planned": ESTATE.decisions["planned"]}), [], "edge"
        )


def test_the_narrowest_lane_that_is_here_is_measured():
    """Of lanes on cores that another machine has, none is."""
    wide, narrow, away = Lane(cores=(0, 1)), Lane(cores=(1,)), Lane(cores=(7,))

    assert pick_lane("edge", Hardware(lanes=(wide, away, narrow)), [0, 1]) == narrow
    assert pick_lane("edge", Hardware(), [0, 1, 2]) == Lane(cores=(1,))
    assert pick_lane("edge", Hardware(), [3]) == Lane(cores=(3,))
    with pytest.raises(EstateError, match="measure on a machine of that type"):
        pick_lane("edge", Hardware(lanes=(away,)), [0, 1])


def test_sites_are_joined_in_either_direction():
    """And those that no link joins to this one are not asked."""
    assert [far.there.name for far in joined_to(ESTATE, GAVLE)] == ["lulea", "kiruna"]
    assert [far.there.name for far in joined_to(ESTATE, LULEA)] == ["gavle"]
    with pytest.raises(EstateError, match="is joined to no other site"):
        joined_to(ESTATE, Site(name="alone"))


def test_where_this_machine_stands_must_be_clear():
    """One of many, by its name."""
    assert pick_here(ESTATE, "kiruna") == KIRUNA
    with pytest.raises(EstateError, match="with --from: lulea, gavle, kiruna"):
        pick_here(ESTATE, None)
    with pytest.raises(EstateError, match='did you mean "kiruna"'):
        pick_here(ESTATE, "kirunaa")


@pytest.mark.parametrize(
    ("a", "b", "km"),
    [
        ((59.33, 18.07), (57.71, 11.97), 397),  # Stockholm–Göteborg
        ((57.71, 11.97), (50.11, 8.68), 872),  # Göteborg–Frankfurt
        ((0, 179), (0, -179), 222),  # across the date line
        ((90, 0), (-90, 0), 20_015),
        ((60, 10), (60, 10), 0),
    ],
)
def test_distances_are_those_of_the_globe(a, b, km):
    """Within a kilometre or so, in both directions."""
    assert great_circle_km(a, b) == pytest.approx(km, abs=1.5)
    assert great_circle_km(b, a) == great_circle_km(a, b)


def test_light_sets_the_floor():
    """0.98 ms for 100 km there and back; unknown where a place is not declared."""
    assert light_ns(GAVLE, LULEA) == pytest.approx(5.9 * MS, rel=0.02)
    assert light_ns(GAVLE, KIRUNA) is None
