"""Placement: which lanes a node has, and which decisions are warm on them."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidsram.errors import EstateError
from tidsram.estate.placement import (
    MAX_WARM_LANES,
    lanes_of,
    pick_site,
    show_cores,
    warm_lanes,
)
from tidsram.estate.types import Criticality, Decision, Estate, Hardware, Lane, Site, Variant

DECLARED = Estate(
    name="e",
    sites={"gavle": Site(name="gavle", hardware="edge"), "lulea": Site(name="lulea")},
    hardware={"edge": Hardware(lanes=(Lane(cores=(1,)), Lane(cores=(2, 3))))},
)


def decision(name: str, criticality: Criticality = Criticality.STANDARD) -> Decision:
    ladder = (Variant(name="m", model="m.onnx"),)
    return Decision(name=name, ladder=ladder, budget_ns=1, criticality=criticality)


def lanes(*cores: int) -> tuple[Lane, ...]:
    return tuple(Lane(cores=(core,)) for core in cores)


def test_declared_lanes_are_taken_as_they_are():
    """The declaration wins over what the machine has more of."""
    assert lanes_of(DECLARED, "gavle", range(8)) == (Lane(cores=(1,)), Lane(cores=(2, 3)))


def test_undeclared_lanes_leave_the_first_core_to_the_gate():
    """One lane for each core but the first, whatever numbers the machine gives us."""
    assert lanes_of(DECLARED, "lulea", [0, 1, 2]) == lanes(1, 2)
    assert lanes_of(DECLARED, "lulea", [7, 4, 5]) == lanes(5, 7)


def test_one_core_machine_has_one_lane():
    """Gate and lane share the only core."""
    assert lanes_of(DECLARED, "lulea", [3]) == lanes(3)


def test_hardware_without_lanes_is_like_none():
    """A hardware type may be declared for its scheduling alone."""
    estate = Estate(name="e", sites={"s": Site(name="s", hardware="h")}, hardware={"h": Hardware()})

    assert lanes_of(estate, "s", [0, 1]) == lanes(1)


def test_lane_on_a_core_that_the_machine_lacks_is_refused():
    """The complaint names the lane, the core, and what there is instead."""
    with pytest.raises(EstateError) as caught:
        lanes_of(DECLARED, "gavle", [0, 1, 2])

    assert str(caught.value) == (
        "[hardware.edge] lanes[1]: names core 3, but this machine gives us cores 0-2; "
        "change cores, or run site gavle on the machine it was declared for"
    )


def test_site_is_picked_by_name_or_when_it_is_the_only_one():
    """Without a name there must be no choice to make."""
    single = Estate(name="e", sites={"s": Site(name="s")})

    assert pick_site(single, None).name == "s"
    assert pick_site(DECLARED, "lulea").name == "lulea"
    with pytest.raises(EstateError, match="2 sites; say which one with --site: gavle, lulea"):
        pick_site(DECLARED, None)
    with pytest.raises(EstateError, match='declares no site "gavel"; did you mean "gavle"'):
        pick_site(DECLARED, "gavel")


def test_critical_decisions_are_placed_first_and_spread():
    """Two lanes each on a node of eight: the two critical ones share none."""
    decisions = [
        decision("background", Criticality.BEST_EFFORT),
        decision("a", Criticality.CRITICAL),
        decision("normal"),
        decision("b", Criticality.CRITICAL),
    ]

    assert warm_lanes(decisions, 8) == {
        "a": (0, 1, 2, 3),
        "b": (4, 5, 6, 7),
        "normal": (0, 1, 2, 3),
        "background": (4, 5, 6, 7),
    }
    assert list(warm_lanes(decisions, 8)) == ["a", "b", "normal", "background"]


def test_few_lanes_keep_everything_warm():
    """On a small machine each decision is on every lane."""
    assert warm_lanes([decision("a"), decision("b")], 2) == {"a": (0, 1), "b": (0, 1)}


@given(st.lists(st.sampled_from(Criticality), max_size=20), st.integers(1, 40))
def test_warm_lanes_are_many_enough_and_evenly_loaded(criticalities, lane_count):
    """Each decision on up to four different lanes; no lane has two more than another."""
    decisions = [decision(f"d{i}", criticality) for i, criticality in enumerate(criticalities)]

    placed = warm_lanes(decisions, lane_count)

    assert set(placed) == {d.name for d in decisions}
    for warm in placed.values():
        assert len(set(warm)) == len(warm) == min(MAX_WARM_LANES, lane_count)
        assert set(warm) <= set(range(lane_count))
    load = Counter(lane for warm in placed.values() for lane in warm)
    counts = [load[lane] for lane in range(lane_count)]
    assert max(counts) - min(counts) <= 1


def test_cores_are_shown_as_runs():
    """A person reads runs, not lists of numbers."""
    assert show_cores((0, 1, 2, 5)) == "cores 0-2, 5"
    assert show_cores([3]) == "core 3"
