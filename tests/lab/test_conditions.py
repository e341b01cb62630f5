"""What a profile says of the machine it was measured on."""

from hypothesis import given
from hypothesis import strategies as st

from tidsram.estate.types import Lane
from tidsram.lab.conditions import conditions, stolen_share
from tidsram.serve.usage import Stolen

LANE = Lane(cores=(1, 2))


def test_the_conditions_name_processor_cores_kernel_and_lane():
    """In words, as they stand in the profile."""
    said = conditions([0, 1, 2], LANE, 0.0)

    assert ", 3 cores, Linux " in said
    assert said.endswith("lane on cores 1-2")
    assert ", 1 core, " in conditions([1], Lane(cores=(1,)), 0.0)


def test_stolen_time_is_said_when_it_is_more_than_half_a_percent():
    """Below that it is noise."""
    assert "stolen" not in conditions([0, 1, 2], LANE, 0.005)
    assert "0.6% of the lane's time stolen" in conditions([0, 1, 2], LANE, 0.006)


def test_the_share_is_that_of_all_the_lanes_cores():
    """What was stolen before does not count."""
    before = {1: Stolen(50, 1000), 2: Stolen(0, 1000)}
    after = {1: Stolen(60, 1100), 2: Stolen(0, 1100)}

    assert stolen_share(before, after) == 0.05


@given(*[st.integers(0, 10**12)] * 4)
def test_counters_that_go_backwards_are_no_theft(steal, later_steal, total, later_total):
    """The kernel's counters have been seen to; a share is one all the same."""
    share = stolen_share({1: Stolen(steal, total)}, {1: Stolen(later_steal, later_total)})

    assert share >= 0
    if later_steal <= steal:
        assert share == 0
