"""Slots and messages: nothing overlaps, and what is packed comes out."""

from hypothesis import given
from hypothesis import strategies as st

from tidsram.protocol import wire
from tidsram.protocol.tensors import DATATYPES, ModelSpec, TensorSpec

shapes = st.lists(st.integers(1, 200), max_size=3).map(tuple)
datatypes = st.sampled_from(sorted(DATATYPES))


@st.composite
def specs(draw):
    """Any model, with the bytes that each output had when it was warmed up."""
    inputs = draw(st.lists(st.tuples(datatypes, shapes), min_size=1, max_size=wire.MAX_TENSORS))
    outputs = draw(st.lists(st.tuples(datatypes, shapes, st.booleans()), min_size=1, max_size=8))
    spec = ModelSpec(
        tuple(TensorSpec(f"i{n}", kind, shape) for n, (kind, shape) in enumerate(inputs)),
        tuple(
            TensorSpec(f"o{n}", kind, (-1, *shape) if grows else shape)
            for n, (kind, shape, grows) in enumerate(outputs)
        ),
    )
    seen = tuple(tensor.nbytes_of((1, *tensor.shape[1:])) for tensor in spec.outputs)
    return spec, seen


@given(specs())
def test_nothing_in_a_slot_overlaps(made):
    """Mark, JSON, question, each output: one behind the other, aligned, inside the slot."""
    spec, seen = made
    layout = wire.plan_slots(spec, seen)

    ends = [wire.MARK_BYTES + wire.JSON_LIMIT]
    spans = [
        (layout.input_at, layout.input_bytes),
        *zip(layout.output_at, layout.output_room, strict=True),
    ]
    for start, size in spans:
        assert start >= ends[-1]
        assert start % wire.ALIGN == 0
        ends.append(start + size)
    assert ends[-1] <= layout.slot_bytes
    assert layout.slot_bytes % wire.PAGE == 0
    assert layout.pool_bytes == layout.slots * layout.slot_bytes


@given(specs())
def test_every_tensor_has_its_room(made):
    """A settled output has its size; one that data decides has four times what zeros gave."""
    spec, seen = made
    layout = wire.plan_slots(spec, seen)

    assert layout.input_bytes == sum(tensor.nbytes for tensor in spec.inputs)
    for tensor, room, size in zip(spec.outputs, layout.output_room, seen, strict=True):
        assert (
            room == tensor.nbytes if tensor.nbytes >= 0 else room >= max(4 * size, wire.JSON_LIMIT)
        )
    assert wire.MIN_SLOTS <= layout.slots <= wire.MAX_SLOTS


@given(st.lists(st.integers(0, 2**32 - 1), max_size=wire.MAX_TENSORS).map(tuple))
def test_offsets_come_out_as_they_went_in(offsets):
    """The end of a job's message, for any number of inputs that a model may have."""
    assert wire.unpack_offsets(wire.pack_offsets(offsets)) == offsets


@given(st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_a_job_is_24_bytes_and_names_its_rung(rung, slot, number):
    """Kind and rung share the first word, as docs/wire.md says."""
    message = wire.JOB.pack(wire.RUN, rung, slot, number, number)

    assert len(message) == 24
    assert int.from_bytes(message[:4], "little") == wire.RUN + (rung << 16)
    assert wire.JOB.unpack_from(message) == (wire.RUN, rung, slot, number, number)


@given(st.lists(st.lists(st.integers(0, 2**31)), max_size=8))
def test_shapes_come_out_as_they_went_in(given_shapes):
    """Behind a fixed head, as the gate receives it."""
    message = wire.DONE.pack(wire.OK, 3, 5, 7, 11, 0) + wire.pack_shapes(given_shapes)

    assert wire.shapes_in(message) == [tuple(shape) for shape in given_shapes]
