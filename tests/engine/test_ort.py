"""The engine on ONNX Runtime, where it must be itself and not only an engine."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from tiny_models import F32, constant, file_of, graph, node, value

from tidsram.engine import ort
from tidsram.engine.base import RunFailed
from tidsram.engine.memory import dtype_of, zeros
from tidsram.errors import ModelRefused
from tidsram.protocol.tensors import DATATYPES, ModelSpec, TensorSpec

MODELS = Path(__file__).parents[2] / "models"


def plain_session(data):
    """Return ONNX Runtime's own session with one thread, to compare with."""
    options = ort.runtime().SessionOptions()
    options.intra_op_num_threads = 1
    return ort.runtime().InferenceSession(data, options, providers=["CPUExecutionProvider"])


def random_content(tensor: TensorSpec, generator: np.random.Generator):
    return generator.uniform(-2, 2, tensor.shape).astype(dtype_of(tensor))


@pytest.mark.parametrize(
    "path",
    [
        "obstacle/nanodet_g_320_int8.onnx",
        "tissue/cbc_wbc_unet_188_int8.onnx",
        "inspection/pcb_defect_fcn16_320_int8.onnx",
    ],
)
def test_real_models_answer_bit_for_bit_as_in_a_plain_session(path):
    """Run each model of the examples on two random questions in the same bound memory."""
    data = (MODELS / path).read_bytes()
    engine = ort.load(data, path, 1)
    generator = np.random.default_rng(20261124)
    inputs, outputs = [
        [zeros(t) for t in side] for side in (engine.spec.inputs, engine.spec.outputs)
    ]
    binding = engine.bind(inputs, outputs)
    session = plain_session(data)

    for ticket in range(2):
        for tensor, memory in zip(engine.spec.inputs, inputs, strict=True):
            memory[...] = random_content(tensor, generator)
        engine.run(binding, ticket)

        question = {t.name: m for t, m in zip(engine.spec.inputs, inputs, strict=True)}
        expected = session.run(None, question)
        assert [output.tobytes() for output in outputs] == [array.tobytes() for array in expected]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_of_the_protocol_passes_through_memory(datatype):
    """Send random bits of each type through an Identity; NaN and all must come out as they were."""
    element = ort.ELEMENT_OF[datatype]
    size = [3, 5]
    data = file_of(
        graph(
            [node("Identity", ["x"], ["y"])],
            [value("x", element, size)],
            [value("y", element, size)],
        )
    )
    engine = ort.load(data, "identity.onnx", 1)
    x, y = zeros(engine.spec.inputs[0]), zeros(engine.spec.outputs[0])
    bits = np.random.default_rng(1).bytes(x.nbytes)
    x.view(np.uint8).ravel()[:] = np.frombuffer(bits, np.uint8) & (1 if datatype == "BOOL" else 255)

    engine.run(engine.bind([x], [y]), 1)

    assert engine.spec.inputs[0].datatype == datatype
    assert y.tobytes() == x.tobytes()


def test_nan_and_infinity_come_out_of_a_model_as_numbers_like_others():
    """Divide by zero in the model: judging the answer is not the engine's work."""
    data = file_of(
        graph(
            [node("Div", ["x", "zero"], ["y"])],
            [value("x", F32, [3])],
            [value("y", F32, [3])],
            [constant("zero", np.zeros(3, np.float32))],
        )
    )
    engine = ort.load(data, "divide.onnx", 1)
    x, y = np.array([1, -1, 0], np.float32), np.zeros(3, np.float32)

    engine.run(engine.bind([x], [y]), 1)

    assert [str(number) for number in y] == ["inf", "-inf", "nan"]


def test_memory_need_not_be_aligned():
    """Bind input and output one byte after an aligned address, as packed tensors may lie."""
    engine = ort.load(tiny_models.relu([1, 64]), "relu.onnx", 1)
    raw = np.zeros(2 * 256 + 1, np.uint8)
    x = raw[1:257].view(np.float32).reshape(1, 64)
    y = raw[257:].view(np.float32).reshape(1, 64)
    x[...] = np.arange(64) - 32

    engine.run(engine.bind([x], [y]), 1)

    np.testing.assert_array_equal(y, np.maximum(x, 0))


@pytest.mark.parametrize("threads", [1, 2])
def test_any_number_of_threads_gives_the_answer(threads):
    """Run a chain of matrix products on one and on two threads."""
    engine = ort.load(tiny_models.slow(8, 64), "chain.onnx", threads)
    x, y = (zeros(side[0]) for side in (engine.spec.inputs, engine.spec.outputs))
    x[...] = np.arange(x.size).reshape(x.shape)

    engine.run(engine.bind([x], [y]), 1)

    np.testing.assert_array_equal(y, np.roll(x, 8, axis=1))


def test_an_output_size_that_the_file_declares_wrongly_is_left_to_the_run():
    """Declare [1, 2] for what is [1, 4]: the spec says −1 there and the run returns the truth."""
    data = file_of(
        graph([node("Relu", ["x"], ["y"])], [value("x", F32, [1, 4])], [value("y", F32, [1, 2])])
    )
    engine = ort.load(data, "wrong.onnx", 1)
    x = np.ones((1, 4), np.float32)

    (y,) = engine.run(engine.bind([x], [None]), 1)

    assert engine.spec.outputs[0].shape == (1, -1)
    np.testing.assert_array_equal(y, x)


def test_an_output_that_outgrows_its_memory_fails_and_writes_nothing():
    """Let the data ask for 1000 elements where 10 are bound, between guards that must stay."""
    expand = [node("Expand", ["one", "size"], ["y"])]
    data = file_of(
        graph(
            expand,
            [value("size", tiny_models.I64, [1])],
            [value("y", F32, [10])],
            [constant("one", np.ones(1, np.float32))],
        )
    )
    engine = ort.load(data, "expand.onnx", 1)
    size, guarded = np.array([1000]), np.full(3000, 7, np.float32)
    binding = engine.bind([size], [guarded[1000:1010]])

    with pytest.raises(RunFailed, match="1000"):
        engine.run(binding, 1)
    assert (guarded == 7).all()
    size[:] = 10
    engine.run(binding, 2)

    assert (guarded[1000:1010] == 1).all()
    assert (guarded[:1000] == 7).all()
    assert (guarded[1010:] == 7).all()


def of_one_node(operator, **details):
    body = graph([operator], [value("x", F32, [1])], [value("y", F32, [1])])
    return file_of(body, **details)


def test_a_runtime_that_writes_elsewhere_is_caught_on_the_first_run():
    """Bind memory for an output that is the input itself, which inspection would refuse."""
    x = value("x", F32, [1, 4])
    tensor = TensorSpec("x", "FP32", (1, 4))
    data = file_of(graph([], [x], [x]))
    engine = ort.OrtEngine(data, "echo.onnx", 1, ModelSpec((tensor,), (tensor,)))
    binding = engine.bind([zeros(tensor)], [zeros(tensor)])

    with pytest.raises(RunFailed, match="not written where it was bound"):
        engine.run(binding, 1)


@pytest.mark.parametrize(
    ("data", "problem", "remedy"),
    [
        (tiny_models.relu([1], ir_version=99), "model IR version: 99", "m.ir_version = 10"),
        (tiny_models.relu([1], opset=99), "Opset 99", "opset_version=17"),
        (of_one_node(node("Unheard", ["x"], ["y"])), "Unheard", "the CPU provider has"),
        (
            of_one_node(
                node("Unheard", ["x"], ["y"], domain="com.microsoft"), domains=["com.microsoft"]
            ),
            "com.microsoft:Unheard",
            "the CPU provider has",
        ),
        (of_one_node(node("Relu", ["elsewhere"], ["y"])), "'elsewhere'", "onnx.checker"),
    ],
)
def test_what_the_runtime_cannot_load_is_refused_in_one_sentence(data, problem, remedy, capfd):
    """Load models that pass inspection and not the runtime; nothing else may be printed."""
    with pytest.raises(ModelRefused) as refusal:
        ort.load(data, "odd.onnx", 1)

    assert problem in refusal.value.problem
    assert remedy in refusal.value.remedy
    assert "\n" not in str(refusal.value)
    assert "onnxruntime_src" not in str(refusal.value)
    assert capfd.readouterr() == ("", "")


def test_failed_and_aborted_runs_print_nothing(capfd):
    """Fail a run: the exception tells it, and the runtime's own log would tell it twice."""
    engine = ort.load(tiny_models.pick(), "pick.onnx", 1)
    memory = [np.zeros(4, np.float32), np.full(2, 99)]

    with pytest.raises(RunFailed):
        engine.run(engine.bind(memory, [None]), 1)

    assert capfd.readouterr() == ("", "")


def test_the_runtime_is_never_imported_with_its_telemetry_on(tmp_path):
    """Import it first in a fresh process, without the switch: our own import must refuse."""
    script = "import onnxruntime; from tidsram.engine.ort import runtime; runtime()"
    environment = {
        name: text for name, text in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"
    }
    environment |= {"HOME": str(tmp_path), "CI": "true"}  # the stray import itself stays silent

    stray = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )

    assert stray.returncode != 0
    assert "use tidsram.engine.ort.runtime()" in stray.stderr
