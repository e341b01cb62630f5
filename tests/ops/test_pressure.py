"""When background work gives way: counters that grow, memory that runs short, a second of quiet."""

import pytest

from tidsram.ops.pressure import Brake, growth, read_counts, scarcity
from tidsram.units import MS, SECOND

GIB = 1024**3
TEXT = """\
# TYPE tidsram_requests_total counter
tidsram_requests_total{decision="obstacle",outcome="answered",reason=""} 90
tidsram_requests_total{decision="obstacle",outcome="missed",reason="deadline"} 3
tidsram_requests_total{decision="obstacle",outcome="rejected",reason="overload"} 4
tidsram_slots_taken{decision="obstacle"} 1
"""
BEFORE = {("obstacle", "deadline"): 3, ("obstacle", "overload"): 4, ("scan", "deadline"): 1}


def test_counters_are_read_by_decision_and_reason():
    """Other samples and comments are passed over."""
    assert read_counts(TEXT) == {
        ("obstacle", ""): 90,
        ("obstacle", "deadline"): 3,
        ("obstacle", "overload"): 4,
    }


@pytest.mark.parametrize("reason", ["deadline", "overload", "evicted", "worker-lost"])
def test_each_trouble_counts(reason):
    """Whatever the node could not do in time for want of the machine is pressure."""
    grown = growth({("obstacle", reason): 3}, {("obstacle", reason): 5}, frozenset())

    assert grown == {("obstacle", reason): 2}


@pytest.mark.parametrize("reason", ["", "invalid", "infeasible", "stale", "draining"])
def test_what_the_machine_has_no_part_in_does_not_count(reason):
    """Answers, and refusals that leftover time cannot cause, pause nothing."""
    assert not growth({("obstacle", reason): 3}, {("obstacle", reason): 5}, frozenset())


def test_spared_decisions_do_not_count():
    """A best-effort decision in trouble is no reason to pause; another one still is."""
    now = {key: many + 1 for key, many in BEFORE.items()}

    assert set(growth(BEFORE, now, frozenset({"obstacle"}))) == {("scan", "deadline")}


def test_counters_that_begin_anew_are_no_trouble():
    """A node that was restarted, or serves another decision, has nothing to be compared with."""
    now = {("obstacle", "deadline"): 1, ("new", "deadline"): 7}

    assert not growth(BEFORE, now, frozenset())


def test_memory_is_scarce_below_a_tenth():
    """Exactly a tenth is enough; the sentence says what is left."""
    assert scarcity(20 * GIB, 2 * GIB) == ""
    assert scarcity(20 * GIB, 2 * GIB - 1) == "2 GiB of 20 GiB of memory available"


def test_a_pause_ends_after_a_second_without_pressure():
    """Pressure within a pause prolongs it and begins no other; times are summed."""
    brake = Brake()

    assert brake.press(0)
    assert not brake.press(400 * MS)
    assert brake.release(400 * MS + SECOND - 1) == 0
    assert brake.release(400 * MS + SECOND) == 1400 * MS
    assert brake.release(5 * SECOND) == 0
    assert brake.press(6 * SECOND)
    assert brake.release(6 * SECOND + 1, at_once=True) == 1
    assert (brake.pauses, brake.paused_ns) == (2, 1400 * MS + 1)
