"""What is lent to a worker in the shadow comes back once, whatever the worker does."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidsram.protocol import wire
from tidsram.protocol.wire import DONE, LENT, MARK, SlotLayout
from tidsram.serve.lending import Shadow
from tidsram.serve.machine import sealed_memory
from tidsram.serve.slots import Slots

LAYOUT = SlotLayout(8, 4096, 64, 64, (128,), (64,))
FIRST = 1 << 40
STEPS = ("ask", "copied", "compared", "stale", "time is up", "gone")


class Lent:
    """Slots, a worker in the shadow, and the worker's end of its socket."""

    def __init__(self):
        self.slots = Slots(sealed_memory("slots", LAYOUT.pool_bytes), LAYOUT, FIRST)
        ours, self.worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.tickets = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.shadow = Shadow(0, 1, (ours, self.tickets[0]))
        self.slot, self.generation = -1, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for end in (self.shadow.jobs, self.worker, *self.tickets):
            end.close()

    def ask(self):
        """Answer a question, and lend its slot if the shadow takes it."""
        slot = self.slots.take("somebody", 1, 0, 0)
        generation = self.slots.generation
        if self.shadow.takes(self.slots) and self.shadow.lend(self.slots, slot, generation, b"?"):
            self.slot, self.generation = slot, generation
        else:
            self.slots.give_back(slot)

    def say(self, status, generation):
        """Say something as the worker does."""
        self.worker.send(DONE.pack(status, 0, generation, 0, 0, 0))
        assert self.shadow.hear()

    def step(self, step):
        """Let one thing happen."""
        if step == "ask":
            self.ask()
        elif step == "copied":
            self.say(wire.COPIED, self.generation)
        elif step == "compared":
            self.say(wire.COMPARED, self.generation)
        elif step == "stale":
            self.say(wire.COMPARED, FIRST - 1)
        elif step == "time is up":
            self.shadow.take_back(self.generation)
        else:
            self.shadow.close()

    @property
    def state(self):
        """The mark of the slot that was lent last."""
        return MARK.unpack_from(self.slots.memory, self.slot * LAYOUT.slot_bytes)[0]


@given(st.lists(st.sampled_from(STEPS[:-1]), max_size=20))
def test_every_slot_is_in_one_place_and_at_most_one_is_lent(steps):
    """Whatever comes in whatever order; at the end it is all free."""
    with Lent() as lent:
        for step in steps:
            lent.step(step)
            assert lent.slots.free in (LAYOUT.slots, LAYOUT.slots - 1)
        lent.step("gone")

        assert lent.slots.free == LAYOUT.slots
        assert len({lent.slots.take("all", n, 0, 0) for n in range(LAYOUT.slots)}) == LAYOUT.slots


def test_a_lent_slot_is_nobodys_question():
    """Were the gate to end now, it would not count as one that was lost."""
    with Lent() as lent:
        lent.ask()

        assert lent.state == LENT
        assert lent.slots.holder == [None] * LAYOUT.slots
        assert lent.slots.free == LAYOUT.slots - 1


@pytest.mark.parametrize("how", ["copied", "compared", "time is up"])
def test_a_slot_comes_back_when_it_is_copied_or_time_is_up(how):
    """And the worker takes another only when it has compared."""
    with Lent() as lent:
        lent.ask()
        lent.step(how)

        assert lent.slots.free == LAYOUT.slots
        assert lent.shadow.takes(lent.slots) == (how == "compared")


def test_what_is_said_of_another_question_changes_nothing():
    """An earlier gate's, or one whose time was up."""
    with Lent() as lent:
        lent.ask()
        lent.step("stale")
        lent.shadow.take_back(FIRST - 1)

        assert lent.state == LENT
        assert lent.slots.free == LAYOUT.slots - 1
        assert not lent.shadow.takes(lent.slots)


def test_nothing_is_lent_when_few_slots_are_free():
    """They are kept for those who ask."""
    with Lent() as lent:
        for number in range(LAYOUT.slots - 1):
            lent.slots.take("others", number, 0, 0)

        assert not lent.shadow.takes(lent.slots)


def test_a_worker_that_is_gone_is_lent_nothing():
    """The question stays with who answered it."""
    with Lent() as lent:
        lent.worker.close()
        slot = lent.slots.take("somebody", 1, 0, 0)

        assert not lent.shadow.lend(lent.slots, slot, lent.slots.generation, b"?")
        lent.slots.give_back(slot)
        assert not lent.shadow.hear()
        assert lent.slots.free == LAYOUT.slots
