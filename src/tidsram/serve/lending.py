"""A worker in the shadow as the gate knows it: one answered question at a time is lent to it.

The slot is lent until the worker has copied it, or until it has had time enough. What it does then
is its own affair: nobody waits for it.
"""

import socket
from typing import Any, Final

from tidsram.protocol import wire
from tidsram.protocol.wire import DONE
from tidsram.serve.slots import Slots

LEND_S: Final = 0.05  # a worker that got no core to copy a slot by then has lost it again
FREE_PARTS: Final = 4  # a part of the slots that is free, or nothing is lent


class Shadow:
    """One worker, and what is lent to it."""

    def __init__(self, lane: int, pid: int, sockets: tuple[socket.socket, socket.socket]) -> None:
        self.lane, self.pid = lane, pid
        self.jobs, self._tickets = sockets
        self._slots: Slots[Any] | None = None  # of the slot that is lent
        self._slot = -1
        self._generation = 0  # of the question that it is at, 0 for none

    def takes(self, slots: Slots[Any]) -> bool:
        """Whether it is idle, and there are slots enough that one may be lent."""
        return not self._generation and slots.free * FREE_PARTS >= slots.layout.slots

    def lend(self, slots: Slots[Any], slot: int, generation: int, question: bytes) -> bool:
        """Lend a slot, whose question it compares; False where the worker is not to be had."""
        slots.lend(slot)
        self._slots, self._slot, self._generation = slots, slot, generation
        try:
            self.jobs.send(question)
        except OSError:  # gone, which is noticed elsewhere; nobody else has had the slot
            self._generation, self._slots = 0, None
        return bool(self._generation)

    def take_back(self, generation: int) -> None:
        """Free the slot of this question, unless that is done: a copy of it counts no more."""
        if self._slots is not None and self._generation == generation:
            self._slots.give_back(self._slot)
            self._slots = None

    def hear(self) -> bool:
        """Take in how far the worker is; False when it is gone."""
        try:
            message = self.jobs.recv(wire.MESSAGE_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not message:
            return False
        status, _, generation, _, _, _ = DONE.unpack_from(message)
        self.take_back(generation)
        if status == wire.COMPARED and generation == self._generation:
            self._generation = 0
        return True

    def close(self) -> None:
        """Let go of the worker, and take back what it has."""
        self.take_back(self._generation)
        self.jobs.close()
        self._tickets.close()
