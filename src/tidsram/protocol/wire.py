"""The slot and the messages between gate and worker. `docs/wire.md` describes the same bytes.

A slot is one request's memory, seen by the gate and by the workers of its decision:

    0     mark: what the slot holds now, readable after the gate's death
    4096  the request's JSON header, ending exactly where the tensors begin
    …     tensors of the question, contiguous, the first aligned to 64 bytes
    …     tensors of the answer, each aligned to 64 bytes

Ownership moves only by message. A message carries the slot's generation; whoever gets one with
another generation drops it, so a killed worker's late answer meets nobody.
"""

from struct import Struct as Layout

from msgspec import Struct, msgpack

from tidsram.protocol.tensors import ModelSpec

MARK_BYTES = 4096
JSON_LIMIT = 65536
ALIGN = 64
MAX_TENSORS = 16

# One job, gate → worker: kind, rung, slot, generation, deadline (ns); then `pack_offsets`.
JOB = Layout("<HHIQQ")
_OFFSETS = tuple(Layout(f"<I{n}I") for n in range(MAX_TENSORS + 1))
# One end, worker → gate: status, slot, generation, run start and end (ns), bytes of text or sizes.
DONE = Layout("<IIQQQI")
# The slot's mark: state, request number, generation, arrival and deadline (ns).
MARK = Layout("<QQQQQ")
TICKET = Layout("<Q")
# An answered question, gate → worker in the shadow: slot, generation, request number, the run's
# time (ns); then `pack_offsets`, then `pack_shapes` where the data decided them.
COMPARE = Layout("<IQQQ")

_shapes = msgpack.Decoder(list[tuple[int, ...]]).decode

RUN, PROBE, SYNC = 1, 2, 3
OK, MODEL_FAILED, ABORTED, PROBED, SYNCED, COPIED, COMPARED = 1, 2, 3, 4, 5, 6, 7
FREE, TAKEN, LENT = 0, 1, 2  # lent: its question is answered, and is being copied
MESSAGE_BYTES = 4096


class SlotLayout(Struct, frozen=True):
    """Where things are in each slot of a decision's pool, in bytes from the slot's start.

    `output_room` is what an output may take at most; outputs whose size depends on the data get
    room by their warm-up runs.
    """

    slots: int
    slot_bytes: int
    input_at: int
    input_bytes: int
    output_at: tuple[int, ...]
    output_room: tuple[int, ...]

    @property
    def pool_bytes(self) -> int:
        """Bytes of the whole pool."""
        return self.slots * self.slot_bytes


POOL_BYTES = 16 << 20
MIN_SLOTS, MAX_SLOTS = 8, 64
PAGE = 4096


def plan_slots(spec: ModelSpec, output_seen: tuple[int, ...]) -> SlotLayout:
    """Lay out a pool for a model; `output_seen` are the bytes each output had when warming up.

    A pool takes about 16 MiB, with no fewer than 8 and no more than 64 slots: what one decision
    can have in flight. Requests beyond that are refused as overload.
    """
    input_bytes = sum(tensor.nbytes for tensor in spec.inputs)
    at = _up(MARK_BYTES + JSON_LIMIT + input_bytes, ALIGN)
    output_at, output_room = [], []
    for tensor, seen in zip(spec.outputs, output_seen, strict=True):
        # Data decides the size of these: four times what zeros gave, and never less than 64 KiB.
        room = tensor.nbytes if tensor.nbytes >= 0 else max(4 * seen, JSON_LIMIT)
        output_at.append(at)
        output_room.append(room)
        at = _up(at + room, ALIGN)
    slot_bytes = _up(at, PAGE)
    slots = min(max(POOL_BYTES // slot_bytes, MIN_SLOTS), MAX_SLOTS)
    return SlotLayout(
        slots=slots,
        slot_bytes=slot_bytes,
        input_at=MARK_BYTES + JSON_LIMIT,
        input_bytes=input_bytes,
        output_at=tuple(output_at),
        output_room=tuple(output_room),
    )


def pack_shapes(shapes: list[list[int]]) -> bytes:
    """Pack the shapes of outputs that the data decided: the end of an OK message."""
    return msgpack.encode(shapes)


def unpack_shapes(packed: bytes) -> list[tuple[int, ...]]:
    """Unpack what `pack_shapes` packed."""
    return _shapes(packed)


def shapes_in(message: bytes) -> list[tuple[int, ...]]:
    """Return what `pack_shapes` put behind DONE."""
    return unpack_shapes(message[DONE.size :])


def pack_offsets(offsets: tuple[int, ...]) -> bytes:
    """Pack where each input starts, from the first tensor's byte: the end of a job's message."""
    return _OFFSETS[len(offsets)].pack(len(offsets), *offsets)


def unpack_offsets(packed: bytes) -> tuple[int, ...]:
    """Unpack what `pack_offsets` packed."""
    return _OFFSETS[packed[0]].unpack(packed)[1:]


def split_offsets(packed: bytes) -> tuple[tuple[int, ...], bytes]:
    """Unpack what `pack_offsets` packed, and return what follows it."""
    size = _OFFSETS[packed[0]].size
    return unpack_offsets(packed[:size]), packed[size:]


def _up(size: int, to: int) -> int:
    return (size + to - 1) // to * to
