"""Another version of a decision in the shadow: it runs what is answered already, and compares.

It has leftover time only. Question and answer are copied out of their slot at once, so that the
slot is free again; what it finds goes to the supervisor as numbers. It never answers anybody.
"""

import socket
import sys
from collections.abc import Mapping, Sequence

from tidsram import clock
from tidsram.client.agreement import agreement
from tidsram.client.answer import Reading, Tensors, read
from tidsram.client.question import Size
from tidsram.engine.base import Array, RunAborted, RunFailed
from tidsram.engine.memory import holds_nan, zeros
from tidsram.errors import QuestionError
from tidsram.estate.types import Answer, Question
from tidsram.protocol import wire
from tidsram.protocol.tensors import TensorSpec
from tidsram.protocol.wire import COMPARE, DONE, LENT, MARK, split_offsets, unpack_shapes
from tidsram.serve.messages import Compared, Ready, send
from tidsram.serve.worker import Prepared, prepare, view


class Shadow:
    """The most accurate variant of a version, on memory of its own."""

    def __init__(self, prepared: Prepared, control: socket.socket) -> None:
        tables = prepared.load.tables
        assert tables is not None, "a worker in the shadow is told how to read answers"
        self._tables, self._control, self._jobs = tables, control, prepared.jobs
        self._spec, self._layout = prepared.pool.spec, prepared.pool.layout
        self._memory = prepared.memory
        self._size = size_of(tables.question, self._spec.inputs)
        self._engine = next(iter(prepared.ladder.engines.values()))
        self._inputs = [zeros(tensor) for tensor in self._spec.inputs]
        self._outputs = [zeros(t) if t.nbytes >= 0 else None for t in self._spec.outputs]
        self._binding = self._engine.bind(self._inputs, self._outputs)

    def run(self) -> None:
        """Compare what is lent until the gate's side of the socket is gone for good."""
        while message := self._jobs.recv(wire.MESSAGE_BYTES):
            slot, generation, number, given_ns = COMPARE.unpack_from(message)
            given = self._copy(slot, generation, message[COMPARE.size :])
            self._jobs.send(DONE.pack(wire.COPIED, slot, generation, 0, 0, 0))
            if given is not None:
                send(self._control, self._compare(number, given_ns, given))
            self._jobs.send(DONE.pack(wire.COMPARED, slot, generation, 0, 0, 0))

    def _copy(self, slot: int, generation: int, where: bytes) -> dict[str, Array] | None:
        """Copy the question and return the answer; None where the slot was taken back meanwhile."""
        offsets, packed = split_offsets(where)
        shapes = unpack_shapes(packed) if packed else [()] * len(self._spec.outputs)
        base = slot * self._layout.slot_bytes
        for own, tensor, offset in zip(self._inputs, self._spec.inputs, offsets, strict=True):
            at = base + self._layout.input_at + offset
            own[...] = view(self._memory, at, tensor, tensor.shape)
        given = {}
        outputs = zip(self._spec.outputs, self._layout.output_at, shapes, strict=True)
        for tensor, at, shape in outputs:
            known = tensor.shape if tensor.nbytes >= 0 else shape
            given[tensor.name] = view(self._memory, base + at, tensor, known).copy()
        state, _, now, _, _ = MARK.unpack_from(self._memory, base)
        return given if (state, now) == (LENT, generation) else None

    def _compare(self, number: int, given_ns: int, given: Mapping[str, Array]) -> Compared:
        agrees, problem, started_ns = 0.0, "", clock.now_ns()
        ended_ns = started_ns
        try:
            allocated = self._engine.run(self._binding, 0)
            ended_ns = clock.now_ns()
            agrees = self._agreement(given, self._named(allocated))
        except (RunFailed, RunAborted, QuestionError) as error:
            problem = str(error)
        return Compared(number, agrees, given_ns, ended_ns - started_ns, problem)

    def _named(self, allocated: Sequence[Array | None]) -> dict[str, Array]:
        """Return the outputs by name. Raises RunFailed where one holds NaN, as a worker does."""
        outputs = {}
        for tensor, own, array in zip(self._spec.outputs, self._outputs, allocated, strict=True):
            output = array if own is None else own
            assert output is not None, "an output is the engine's own or this worker's"
            if tensor.datatype.startswith("FP") and holds_nan(output):
                raise RunFailed(f"output {tensor.name!r} holds NaN")
            outputs[tensor.name] = output
        return outputs

    def _agreement(self, given: Mapping[str, Array], own: Mapping[str, Array]) -> float:
        there, here = self._read(self._tables.given, given), self._read(self._tables.own, own)
        return agreement(there, here)

    def _read(self, answer: Answer | None, outputs: Mapping[str, Array]) -> Reading:
        if answer is None:
            return Tensors(dict(outputs))
        return read(answer, outputs, self._size, self._size)


def size_of(question: Question | None, inputs: Sequence[TensorSpec]) -> Size:
    """Return the width and height of the picture in a question, (1, 1) where there is none."""
    if question is not None and question.size is not None:
        return question.size
    shape = inputs[0].shape
    if len(shape) != 4:
        return 1, 1
    raw = inputs[0].datatype == "UINT8" if question is None else question.layout == "nhwc"
    height, width = shape[1:3] if raw else shape[2:]
    return width, height


def main() -> None:
    """Run the life of a worker in the shadow: load, warm up, map the slots, compare."""
    control = socket.socket(fileno=int(sys.argv[1]))
    prepared = prepare(control)
    if prepared is None:
        return
    shadow = Shadow(prepared, control)
    send(control, Ready(0))
    shadow.run()


if __name__ == "__main__":
    main()
