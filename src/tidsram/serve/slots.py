"""The gate's side of a decision's pool of slots: which are free, and what the taken ones hold."""

import mmap
from typing import Generic, TypeVar

from tidsram.protocol.wire import FREE, LENT, MARK, TAKEN, SlotLayout

_T = TypeVar("_T")


class Slots(Generic[_T]):
    """Slots of one pool. `holder[slot]` is whoever has it, None when it is free."""

    def __init__(self, fd: int, layout: SlotLayout, first_generation: int) -> None:
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        self.memory = memoryview(mmap.mmap(fd, layout.pool_bytes, flags=flags))
        self.layout = layout
        self.holder: list[_T | None] = [None] * layout.slots
        self.generation = first_generation
        self._free = list(range(layout.slots - 1, -1, -1))
        for slot in self._free:
            MARK.pack_into(self.memory, slot * layout.slot_bytes, FREE, 0, 0, 0, 0)

    def take(self, holder: _T, number: int, arrival_ns: int, deadline_ns: int) -> int:
        """Take a slot for the holder and mark it; −1 when all are taken."""
        if not self._free:
            return -1
        slot = self._free.pop()
        self.holder[slot] = holder
        self.generation += 1
        at = slot * self.layout.slot_bytes
        MARK.pack_into(self.memory, at, TAKEN, number, self.generation, arrival_ns, deadline_ns)
        return slot

    def lend(self, slot: int) -> None:
        """Mark a slot whose question is answered, and which is read once more before it is free."""
        self.holder[slot] = None
        self.memory[slot * self.layout.slot_bytes] = LENT

    def give_back(self, slot: int) -> None:
        """Free a slot that nobody reads or writes any more."""
        self.holder[slot] = None
        self.memory[slot * self.layout.slot_bytes] = FREE
        self._free.append(slot)

    @property
    def free(self) -> int:
        """How many slots are not in use."""
        return len(self._free)

    @property
    def taken(self) -> int:
        """How many slots are in use."""
        return self.layout.slots - len(self._free)


def count_taken(fd: int, layout: SlotLayout) -> int:
    """Count what a dead gate had in flight in this pool, and mark it all free."""
    with mmap.mmap(fd, layout.pool_bytes) as memory:
        taken = 0
        for slot in range(layout.slots):
            at = slot * layout.slot_bytes
            taken += MARK.unpack_from(memory, at)[0] == TAKEN
            MARK.pack_into(memory, at, FREE, 0, 0, 0, 0)
    return taken
