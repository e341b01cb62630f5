"""What every engine promises a worker. Real and fake ones pass the same tests."""

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tiny_models

from tidsram import clock
from tidsram.engine import openvino, ort
from tidsram.engine.base import Array, Engine, RunAborted, RunFailed
from tidsram.protocol.tensors import ModelSpec, TensorSpec
from tidsram.testing import FakeEngine

SLOW_OPERATORS, SLOW_SIZE = 400, 256
UNWRITTEN = 7


class Ort:
    """The engine on ONNX Runtime, with small models in real files' bytes."""

    def sum_and_difference(self) -> Engine:
        return ort.load(tiny_models.sum_and_difference(), "sums.onnx", 1)

    def nonzero(self) -> Engine:
        return ort.load(tiny_models.nonzero(), "nonzero.onnx", 1)

    def fold(self) -> Engine:
        return ort.load(tiny_models.fold(), "fold.onnx", 1)

    def slow(self) -> Engine:
        return ort.load(tiny_models.slow(SLOW_OPERATORS, SLOW_SIZE), "slow.onnx", 1)


class OpenVino:
    """The engine on OpenVINO, with the same files."""

    def sum_and_difference(self) -> Engine:
        return openvino.load(tiny_models.sum_and_difference(), "sums.onnx", 1)

    def nonzero(self) -> Engine:
        return openvino.load(tiny_models.nonzero(), "nonzero.onnx", 1)

    def fold(self) -> Engine:
        return openvino.load(tiny_models.fold(), "fold.onnx", 1)

    def slow(self) -> Engine:
        return openvino.load(tiny_models.slow(SLOW_OPERATORS, SLOW_SIZE), "slow.onnx", 1)


class Fake:
    """The fake engine, with the same models as Python functions."""

    def sum_and_difference(self) -> Engine:
        size = (2, 3)
        spec = ModelSpec(
            (TensorSpec("b", "FP32", size), TensorSpec("a", "FP32", size)),
            (TensorSpec("total", "FP32", size), TensorSpec("change", "FP32", size)),
        )
        return FakeEngine(spec, [lambda v: [v[0] + v[1], v[0] - v[1]]])

    def nonzero(self) -> Engine:
        spec = ModelSpec(
            (TensorSpec("x", "FP32", (1, 4)),), (TensorSpec("indices", "INT64", (2, -1)),)
        )
        return FakeEngine(spec, [lambda v: [np.array(np.nonzero(v[0]), np.int64)]])

    def fold(self) -> Engine:
        spec = ModelSpec(
            (TensorSpec("x", "FP32", (4,)), TensorSpec("shape", "INT64", (2,))),
            (TensorSpec("folded", "FP32", (-1, -1)),),
        )
        return FakeEngine(spec, [lambda v: [v[0].reshape(v[1])]])

    def slow(self) -> Engine:
        size = (SLOW_SIZE, SLOW_SIZE)
        spec = ModelSpec((TensorSpec("x", "FP32", size),), (TensorSpec("y", "FP32", size),))
        return FakeEngine(spec, [_rotate] * SLOW_OPERATORS)


def _rotate(values: list[Array]) -> list[Array]:
    clock.sleep_ns(500_000)
    return [np.roll(values[0], 1, axis=1)]


@pytest.fixture(params=[Ort, OpenVino, Fake])
def engines(request):
    return request.param()


def filled(tensor: TensorSpec, content: object = UNWRITTEN) -> Array:
    dtype = {"FP32": np.float32, "INT64": np.int64}[tensor.datatype]
    array = np.empty(tensor.shape, dtype)
    array[...] = content
    return array


def test_the_spec_keeps_the_models_own_order(engines):
    """Load a model whose names are not in alphabetical order and read its spec."""
    spec = engines.sum_and_difference().spec

    assert [tensor.name for tensor in spec.inputs] == ["b", "a"]
    assert [tensor.name for tensor in spec.outputs] == ["total", "change"]
    assert {tensor.shape for tensor in (*spec.inputs, *spec.outputs)} == {(2, 3)}


def test_every_run_reads_and_writes_the_bound_memory_as_it_is_then(engines):
    """Change the bound inputs between two runs and look into the bound outputs after each."""
    engine = engines.sum_and_difference()
    b, a = (filled(tensor) for tensor in engine.spec.inputs)
    total, change = (filled(tensor) for tensor in engine.spec.outputs)
    binding = engine.bind([b, a], [total, change])

    for ticket, (b[...], a[...]) in enumerate([(5, 2), (-1, 10), (5, 2)]):
        assert engine.run(binding, ticket) == [None, None]

        np.testing.assert_array_equal(total, b + a)
        np.testing.assert_array_equal(change, b - a)


def test_bindings_do_not_touch_each_others_memory(engines):
    """Bind two slots, run each with its own question, and compare."""
    engine = engines.sum_and_difference()
    slots = []
    for number in (1, 2):
        inputs = [filled(tensor, number) for tensor in engine.spec.inputs]
        outputs = [filled(tensor) for tensor in engine.spec.outputs]
        slots.append((engine.bind(inputs, outputs), outputs))

    for binding, _ in slots:
        engine.run(binding, 1)

    assert [float(outputs[0][0, 0]) for _, outputs in slots] == [2.0, 4.0]


def test_an_output_sized_by_the_data_is_returned_and_stays(engines):
    """Run with one, three and one non-zero elements; look at all answers at the end."""
    engine = engines.nonzero()
    x = filled(engine.spec.inputs[0])
    binding = engine.bind([x], [None])

    answers = []
    for ticket, x[...] in enumerate([(0, 0, 9, 0), (1, 0, 2, 3), (4, 0, 0, 0)]):
        answers.append(engine.run(binding, ticket)[0])

    assert engine.spec.outputs[0].shape == (2, -1)
    assert [answer[1].tolist() for answer in answers] == [[2], [0, 2, 3], [0]]


def test_memory_that_does_not_fit_is_refused_before_any_run(engines):
    """Offer a wrong shape, a wrong type and a piecemeal array as memory."""
    engine = engines.sum_and_difference()
    good = [filled(tensor) for tensor in engine.spec.inputs]

    for bad in (
        np.zeros((3, 2), np.float32),
        np.zeros((2, 3), np.float64),
        np.zeros((2, 6), np.float32)[:, ::2],
    ):
        with pytest.raises(ValueError, match="'b'"):
            engine.bind([bad, good[1]], [None, None])
        with pytest.raises(ValueError, match="'change'"):
            engine.bind(good, [None, bad])


def test_a_failed_run_says_why_and_leaves_the_engine_ready(engines):
    """Ask for a shape that four elements do not have, then for one that they have."""
    engine = engines.fold()
    x, shape = (filled(tensor) for tensor in engine.spec.inputs)
    x[...], shape[...] = [1, 2, 3, 4], [2, 9]
    binding = engine.bind([x, shape], [None])

    with pytest.raises(RunFailed, match="9"):
        engine.run(binding, 1)
    shape[...] = [2, 2]
    (folded,) = engine.run(binding, 2)

    assert folded.tolist() == [[1, 2], [3, 4]]


@pytest.fixture
def slow(engines) -> tuple[Engine, object, Array, Array]:
    """Return a slow engine, a binding of it, and the memory in it."""
    engine = engines.slow()
    x, y = filled(engine.spec.inputs[0]), filled(engine.spec.outputs[0])
    x[...] = np.arange(x.size).reshape(x.shape)
    return engine, engine.bind([x], [y]), x, y


def assert_rotated(x: Array, y: Array) -> None:
    np.testing.assert_array_equal(y, np.roll(x, SLOW_OPERATORS, axis=1))


def run_while(hammer: Callable[[], None], run: Callable[[], object]) -> None:
    """Call `run` once while another thread calls `hammer` again and again."""
    ended = threading.Event()

    def hammering() -> None:
        while not ended.is_set():
            hammer()

    thread = threading.Thread(target=hammering)
    thread.start()
    try:
        run()
    finally:
        ended.set()
        thread.join()


def test_an_abort_ends_the_run_early_and_the_next_one_is_right(slow):
    """Abort from another thread: the output stays unwritten until a second, undisturbed run."""
    engine, binding, x, y = slow

    with pytest.raises(RunAborted):
        run_while(lambda: engine.abort(1), lambda: engine.run(binding, 1))
    assert (y == UNWRITTEN).all()
    engine.run(binding, 2)

    assert_rotated(x, y)


def test_an_abort_with_another_ticket_or_without_a_run_does_nothing(slow):
    """Abort a ticket that is not running yet, and others while it runs."""
    engine, binding, x, y = slow
    engine.abort(5)

    def abort_others() -> None:
        engine.abort(4)
        engine.abort(6)
        clock.sleep_ns(100_000)

    run_while(abort_others, lambda: engine.run(binding, 5))

    assert_rotated(x, y)


def test_a_late_abort_never_ends_the_next_run(engines):
    """Abort each ticket just after its end, as a thread that is behind would, for many runs."""
    engine = engines.sum_and_difference()
    inputs = [filled(tensor) for tensor in engine.spec.inputs]
    binding = engine.bind(inputs, [filled(tensor) for tensor in engine.spec.outputs])
    tickets: Iterator[int] = iter(range(1_000_000))
    ended = [-1]

    def many_runs() -> None:
        for _ in range(3000):
            ticket = next(tickets)
            engine.run(binding, ticket)  # raises RunAborted if hit
            ended[0] = ticket

    run_while(lambda: engine.abort(ended[0]), many_runs)


def test_warm_up_times_each_of_its_runs(engines):
    """Ask for three runs of a model with an output of unknown size, too."""
    for engine in (engines.sum_and_difference(), engines.nonzero()):
        times_ns = engine.warm_up(3)

        assert len(times_ns) == 3
        assert all(time_ns > 0 for time_ns in times_ns)


def test_the_fakes_operators_see_what_the_one_before_returned():
    """Chain two functions over one value."""
    spec = ModelSpec((TensorSpec("x", "FP32", (1,)),), (TensorSpec("y", "FP32", (1,)),))
    engine = FakeEngine(spec, [lambda v: [v[0] * 2], lambda v: [v[0] + 1]])

    (y,) = engine.run(engine.bind([np.full(1, 3, np.float32)], [None]), 1)

    assert y.tolist() == [7]
