"""Slots: taken once, given back once, and readable after the gate's death."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidsram.protocol.tensors import ModelSpec, TensorSpec
from tidsram.protocol.wire import MARK, MIN_SLOTS, TAKEN, SlotLayout, plan_slots
from tidsram.serve import machine
from tidsram.serve.slots import Slots, count_taken

SPEC = ModelSpec((TensorSpec("x", "UINT8", (3 << 20,)),), (TensorSpec("y", "FP32", (1,)),))
LAYOUT: SlotLayout = plan_slots(SPEC, (4,))


@pytest.fixture
def pool():
    fd = machine.sealed_memory("tidsram-test", LAYOUT.pool_bytes)
    yield fd
    os.close(fd)


def test_slots_run_out_and_come_back(pool):
    """Every slot once, then none, then the one that was given back."""
    slots = Slots(pool, LAYOUT, first_generation=7)

    taken = [slots.take(f"asker {i}", i, 0, 0) for i in range(MIN_SLOTS)]

    assert sorted(taken) == list(range(MIN_SLOTS))
    assert slots.take("one too many", 99, 0, 0) == -1
    assert slots.taken == MIN_SLOTS
    assert slots.holder[taken[3]] == "asker 3"
    slots.give_back(taken[3])
    assert slots.holder[taken[3]] is None
    assert slots.take("next", 100, 0, 0) == taken[3]


def test_each_taking_has_a_generation_of_its_own(pool):
    """A killed worker's late answer for the slot's last holder meets nobody."""
    slots = Slots(pool, LAYOUT, first_generation=1 << 40)
    generations = []
    for number in range(5):
        slot = slots.take("asker", number, 0, 0)
        generations.append(slots.generation)
        slots.give_back(slot)

    assert len(set(generations)) == 5
    assert min(generations) > 1 << 40


def test_the_mark_says_what_a_slot_holds(pool):
    """Request, generation, arrival, deadline: what the supervisor finds when the gate has died."""
    slots = Slots(pool, LAYOUT, first_generation=3)

    slot = slots.take("asker", 17, 1_000, 2_000)

    mark = MARK.unpack_from(slots.memory, slot * LAYOUT.slot_bytes)
    assert mark == (TAKEN, 17, slots.generation, 1_000, 2_000)


def test_what_a_dead_gate_had_in_flight_is_counted_once(pool):
    """Counting frees: the next death does not count the same requests again."""
    slots = Slots(pool, LAYOUT, first_generation=0)
    for number in range(3):
        slots.take("asker", number, 0, 0)

    assert count_taken(pool, LAYOUT) == 3
    assert count_taken(pool, LAYOUT) == 0


def test_a_new_gate_begins_with_all_slots_free(pool):
    """Whatever the pool's marks say from before."""
    before = Slots(pool, LAYOUT, first_generation=0)
    before.take("asker", 1, 0, 0)

    after = Slots(pool, LAYOUT, first_generation=1 << 40)

    assert after.taken == 0
    assert count_taken(pool, LAYOUT) == 0


@given(st.lists(st.booleans(), max_size=60))
def test_no_slot_has_two_holders(steps):
    """Take and give back in any order: the taken ones are always different."""
    fd = machine.sealed_memory("tidsram-test", LAYOUT.pool_bytes)
    try:
        slots, held = Slots(fd, LAYOUT, first_generation=0), []
        for take in steps:
            if take and (slot := slots.take("asker", 1, 0, 0)) >= 0:
                held.append(slot)
            elif not take and held:
                slots.give_back(held.pop(0))
            assert len(set(held)) == len(held) == slots.taken
            assert count_marked(slots) == len(held)
    finally:
        os.close(fd)


def count_marked(slots: Slots) -> int:
    starts = range(0, LAYOUT.pool_bytes, LAYOUT.slot_bytes)
    return sum(MARK.unpack_from(slots.memory, at)[0] == TAKEN for at in starts)


def test_nobody_can_cut_a_pool_short(pool):
    """Sealed: a process that truncates it would kill every other one that has it mapped."""
    with pytest.raises(PermissionError):
        os.ftruncate(pool, 0)
    with pytest.raises(PermissionError):
        os.ftruncate(pool, 2 * LAYOUT.pool_bytes)
