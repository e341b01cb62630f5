"""Which decision's spare is loaded next, and whose place it may take."""

import pytest

from tidsram.estate.types import Criticality, Decision, Lane, Variant
from tidsram.serve.children import Process, trusted
from tidsram.serve.spares import Spares
from tidsram.units import SECOND

MIB = 1 << 20
SIZES = {"gauge": 100 * MIB, "obstacle": 100 * MIB}
USED = 200 * MIB
PLENTY = 10_000 * MIB
ONLY = (Variant(name="only", model="only.onnx"),)
LANES = (Lane(cores=(1,)), Lane(cores=(2,)), Lane(cores=(3, 4)))


def decision(name: str, criticality: Criticality) -> Decision:
    return Decision(name=name, ladder=ONLY, budget_ns=SECOND, criticality=criticality)


GAUGE = decision("gauge", Criticality.STANDARD)
OBSTACLE = decision("obstacle", Criticality.CRITICAL)


@pytest.fixture
def spares():
    return Spares({"gauge": (GAUGE, 0), "obstacle": (OBSTACLE, 1)}, LANES)


def warm(spares: Spares) -> Process:
    """Load the next spare."""
    spare = spares.next(0, SIZES, USED, PLENTY)
    assert spare is not None
    spare.ready = True
    return spare


def test_critical_decisions_come_first_and_one_at_a_time(spares):
    """The second is loaded when the first is warm; then there is nothing left to load."""
    first = spares.next(0, SIZES, USED, PLENTY)
    assert first is not None
    assert first.name == "obstacle"
    assert spares.expects("obstacle")
    assert spares.next(0, SIZES, USED, PLENTY) is None

    first.ready = True
    second = spares.next(0, SIZES, USED, PLENTY)

    assert second is not None
    assert second.name == "gauge"
    assert not spares.settled
    second.ready = True
    assert spares.next(0, SIZES, USED, PLENTY) is None
    assert spares.settled
    (line,) = spares.news()
    assert line.startswith("a spare worker stands by for obstacle, gauge, ")


def test_as_much_memory_again_is_left_after_loading(spares):
    """One byte less than all workers and the spare itself use is too little, and is said."""
    assert spares.next(0, SIZES, USED, 300 * MIB - 1) is None
    assert spares.settled
    assert [line.split(",")[0] for line in spares.news()] == [
        "no spare worker for obstacle",
        "no spare worker for gauge",
    ]
    assert "300 MiB" in spares.news()[0]

    assert spares.next(0, SIZES, USED, 300 * MIB) is not None


def test_a_spare_takes_any_lane_of_its_size(spares):
    """Its threads are as many as the first lane's cores; it leaves room for the next spare."""
    spare = warm(spares)
    elsewhere, larger = Process(OBSTACLE, 0), Process(OBSTACLE, 2)

    assert spares.take(larger) is None
    assert spares.take(Process(GAUGE, 0)) is None
    assert spares.take(elsewhere) is spare

    assert (spare.lane, spare.spare) == (0, False)
    assert spares.take(elsewhere) is None
    assert warm(spares).name == "obstacle"


def test_a_spare_that_is_not_warm_takes_nobodys_place(spares):
    """It is being loaded: the lost worker is started anew instead."""
    spares.next(0, SIZES, USED, PLENTY)

    assert not spares.fits(Process(OBSTACLE, 1))


def test_a_spare_is_renewed_with_its_decision(spares):
    """The old version's is handed back to be ended; the next one is of the new version."""
    old = warm(spares)
    again = Decision(name="obstacle", ladder=(Variant(name="new", model="new.onnx"),), budget_ns=1)

    assert spares.renew(again) is old
    assert not spares.fits(Process(OBSTACLE, 0))
    new = spares.next(0, SIZES, USED, PLENTY)
    assert new is not None
    assert new.decision is again
    assert spares.renew(again) is new


def test_a_spare_that_fails_again_and_again_is_waited_for_longer(spares):
    """Other decisions get theirs meanwhile."""
    for _ in range(3):
        spare = spares.next(10 * SECOND, SIZES, USED, PLENTY)
        assert spare is not None
        assert spare.name == "obstacle"
        spares.ended(0, spare)
    assert spares.next(0, SIZES, USED, PLENTY).name == "gauge"


def test_figures_measured_while_others_were_served_say_only_what_still_loads():
    """The start's figures stay; a rung that does not load any more is gone, a new one is there."""
    assert trusted((), ((5, 6), ())) == ((5, 6), ())
    assert trusted(((1, 2), (3,), ()), ((50, 60), (), (70,))) == ((1, 2), (), (70,))
