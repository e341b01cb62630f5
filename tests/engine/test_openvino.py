"""The engine on OpenVINO, where it must be itself and not only an engine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from tiny_models import F32, I64, constant, file_of, graph, node, value

from tidsram.engine import openvino, ort
from tidsram.engine.base import RunFailed
from tidsram.engine.choose import load_engine
from tidsram.engine.inspect import fix_model
from tidsram.engine.memory import dtype_of, zeros
from tidsram.errors import ModelRefused
from tidsram.protocol.tensors import DATATYPES

MODELS = Path(__file__).parents[2] / "models"


def answers(engine, questions):
    """Run once on the given inputs, in memory that is bound; return the outputs."""
    outputs = [zeros(tensor) for tensor in engine.spec.outputs]
    engine.run(engine.bind(questions, outputs), 1)
    return outputs


@pytest.mark.parametrize(
    ("path", "difference"),
    [
        ("voice/silero_vad_openvino_16k.onnx", 1e-4),
        ("inspection/pcb_defect_fcn16_320_int8.onnx", 4 / 256),  # a few steps of its int8
    ],
)
def test_real_models_answer_as_on_the_other_engine(path, difference):
    """Run models of the examples on the same random question on both; only rounding may differ."""
    data = (MODELS / path).read_bytes()
    engines = ort.load(data, path, 1), openvino.load(data, path, 1)
    generator = np.random.default_rng(20261124)
    questions = [
        generator.uniform(-1, 1, tensor.shape).astype(dtype_of(tensor))
        for tensor in engines[0].spec.inputs
    ]

    expected, ours = (answers(engine, questions) for engine in engines)

    assert engines[0].spec == engines[1].spec
    assert max(float(output.max()) for output in expected) > 0.5
    for theirs, own in zip(expected, ours, strict=True):
        np.testing.assert_allclose(own, theirs, atol=difference)


def products() -> bytes:
    """Return y = x @ w with weights that bfloat16 does not hold exactly."""
    weights = np.random.default_rng(3).uniform(-1, 1, (64, 64)).astype(np.float32)
    return file_of(
        graph(
            [node("MatMul", ["x", "w"], ["y"])],
            [value("x", F32, [64, 64])],
            [value("y", F32, [64, 64])],
            [constant("w", weights)],
        )
    )


def error_of(precision: str) -> float:
    """Return how far a matrix product of the given precision is from ONNX Runtime's, at most."""
    x = np.random.default_rng(4).uniform(-1, 1, (64, 64)).astype(np.float32)
    (expected,) = answers(ort.load(products(), "products.onnx", 1), [x])
    engine = openvino.load(products(), "products.onnx", 1, precision=precision)
    (ours,) = answers(engine, [x])
    return float(np.abs(ours - expected).max())


@pytest.mark.parametrize("precision", ["", "f32"])
def test_the_precision_is_f32_unless_another_is_named(precision):
    """Multiply matrices: left to itself, OpenVINO rounds to bfloat16 where the processor can."""
    assert error_of(precision) < 1e-4


def test_bf16_is_bf16_and_not_f32():
    """Ask for bfloat16: products must show its rounding."""
    try:
        error = error_of("bf16")
    except ModelRefused as refusal:
        pytest.skip(refusal.problem)

    assert 1e-3 < error < 1


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_of_the_protocol_passes_through_unaligned_memory(datatype):
    """Send random bits of each type through an Identity, one byte after an aligned address."""
    element, size = ort.ELEMENT_OF[datatype], [3, 5]
    data = file_of(
        graph(
            [node("Identity", ["x"], ["y"])],
            [value("x", element, size)],
            [value("y", element, size)],
        )
    )
    engine = openvino.load(data, "identity.onnx", 1)
    tensor = engine.spec.inputs[0]
    raw = np.zeros(2 * tensor.nbytes + 1, np.uint8)
    x, y = (half.view(dtype_of(tensor)).reshape(size) for half in np.split(raw[1:], 2))
    bits = np.frombuffer(np.random.default_rng(1).bytes(x.nbytes), np.uint8)
    x.view(np.uint8).ravel()[:] = bits & (1 if datatype == "BOOL" else 255)
    if datatype in ("INT64", "UINT64"):
        x >>= 33  # what it has room for

    engine.run(engine.bind([x], [y]), 1)

    assert tensor.datatype == datatype
    assert y.tobytes() == x.tobytes()


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 2**40])
def test_a_number_beyond_32_bits_fails_instead_of_losing_bits(number):
    """Ask with a whole number that OpenVINO would cut, then with the largest that it would not."""
    data = file_of(
        graph([node("Abs", ["x"], ["y"])], [value("x", I64, [2])], [value("y", I64, [2])])
    )
    engine = openvino.load(data, "abs.onnx", 1)
    x, y = np.array([1, number]), np.zeros(2, np.int64)
    binding = engine.bind([x], [y])

    with pytest.raises(RunFailed, match="beyond 32 bits"):
        engine.run(binding, 1)
    x[1] = 2**31 - 1
    engine.run(binding, 2)

    assert y.tolist() == [1, 2**31 - 1]


def test_bound_outputs_are_written_in_place():
    """Look for OpenVINO's own output tensors at the addresses of the bound arrays."""
    engine = openvino.load(tiny_models.sum_and_difference(), "sums.onnx", 1)
    outputs = [zeros(tensor) for tensor in engine.spec.outputs]
    binding = engine.bind([zeros(tensor) for tensor in engine.spec.inputs], outputs)

    engine.run(binding, 1)

    written = [binding.request.get_output_tensor(i).data.ctypes.data for i in range(2)]
    assert written == [output.ctypes.data for output in outputs]
    assert binding.taken == ()


def expand() -> bytes:
    """Return y with as many ones as the question says, declared as ten of them."""
    return file_of(
        graph(
            [node("Expand", ["one", "size"], ["y"])],
            [value("size", I64, [1])],
            [value("y", F32, [10])],
            [constant("one", np.ones(1, np.float32))],
        )
    )


@pytest.mark.parametrize("wrong", [5, 1000])
def test_an_output_of_another_size_than_declared_fails_and_writes_nothing(wrong):
    """Let the data ask for fewer and more than are bound, between guards that must stay."""
    engine = openvino.load(expand(), "expand.onnx", 1)
    size, guarded = np.array([wrong]), np.full(3000, 7, np.float32)
    binding = engine.bind([size], [guarded[1000:1010]])

    with pytest.raises(RunFailed, match=str(wrong)):
        engine.run(binding, 1)
    assert (guarded == 7).all()
    size[:] = 10
    engine.run(binding, 2)

    assert engine.spec.outputs[0].shape == (10,)
    assert (guarded[1000:1010] == 1).all()
    assert (guarded[:1000] == 7).all()
    assert (guarded[1010:] == 7).all()


def test_an_output_size_that_the_file_declares_wrongly_is_left_to_the_run():
    """Declare [1, 2] for what is [1, 4]: the spec says −1 there and the run returns the truth."""
    data = file_of(
        graph([node("Relu", ["x"], ["y"])], [value("x", F32, [1, 4])], [value("y", F32, [1, 2])])
    )
    engine = openvino.load(data, "wrong.onnx", 1)
    x = np.ones((1, 4), np.float32)

    (y,) = engine.run(engine.bind([x], [None]), 1)

    assert engine.spec.outputs[0].shape == (1, -1)
    np.testing.assert_array_equal(y, x)


def test_an_input_without_a_part_in_the_answer_is_taken_all_the_same():
    """Declare an input that nothing reads; OpenVINO leaves it out of the model."""
    data = file_of(
        graph(
            [node("Relu", ["x"], ["y"])],
            [value("unread", F32, [3]), value("x", F32, [2])],
            [value("y", F32, [2])],
        )
    )
    engine = openvino.load(data, "unread.onnx", 1)

    (y,) = answers(engine, [np.full(3, 9, np.float32), np.array([-1, 2], np.float32)])

    assert [tensor.name for tensor in engine.spec.inputs] == ["unread", "x"]
    assert y.tolist() == [0, 2]


def of_one_node(operator, **details):
    body = graph([operator], [value("x", F32, [1])], [value("y", F32, [1])])
    return file_of(body, **details)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (of_one_node(node("Unheard", ["x"], ["y"])), "Unheard"),
        (
            of_one_node(
                node("Unheard", ["x"], ["y"], domain="com.microsoft"), domains=["com.microsoft"]
            ),
            "com.microsoft.Unheard",
        ),
        (of_one_node(node("Relu", ["elsewhere"], ["y"])), "elsewhere"),
    ],
)
def test_what_openvino_cannot_load_is_refused_in_one_sentence(data, problem, capfd):
    """Load models that pass inspection and not the runtime; nothing else may be printed."""
    with pytest.raises(ModelRefused) as refusal:
        openvino.load(data, "odd.onnx", 1)

    assert problem in refusal.value.problem
    assert "ONNX Runtime" in refusal.value.remedy
    assert "\n" not in str(refusal.value)
    assert "src/" not in str(refusal.value)
    assert capfd.readouterr() == ("", "")


def test_a_precision_that_onnx_runtime_does_not_have_is_refused():
    """Name bf16 for it: to serve another precision in silence would change a promise."""
    data, spec = fix_model(tiny_models.relu([1]), "relu.onnx")

    with pytest.raises(ModelRefused, match="no precision 'bf16'"):
        load_engine("onnxruntime", "bf16", data, "relu.onnx", 1, spec)


def fresh(script: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, with the tests' models and an empty home."""
    environment = {name: text for name, text in os.environ.items() if name != "CI"}
    environment |= {"HOME": str(home), "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )


LOADED = """
import json, os, sys, tiny_models
from tidsram.engine.choose import load_engine
from tidsram.engine.inspect import fix_model
data, spec = fix_model(tiny_models.relu([1, 4]), "relu.onnx")
load_engine(ENGINE, "", data, "relu.onnx", 1, spec).warm_up(1)
try:
    import openvino_telemetry
except ImportError:
    pass
pid = os.getpid()
children = open(f"/proc/{pid}/task/{pid}/children").read().split()
mine = [name for name in ("onnxruntime", "openvino", "openvino_telemetry") if sys.modules.get(name)]
print(json.dumps([mine, children]))
"""


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_only_the_named_engine_is_imported_and_never_its_telemetry(engine, tmp_path):
    """Load and run in a fresh process: no telemetry module, no child process, no file at home."""
    done = fresh(LOADED.replace("ENGINE", repr(engine)), tmp_path)

    assert done.returncode == 0, done.stderr
    if engine == "openvino":
        assert json.loads(done.stdout) == [["openvino"], []]
    else:
        modules, children = json.loads(done.stdout)
        assert "onnxruntime" in modules
        assert "openvino" not in modules
        assert children == []
    assert list(tmp_path.iterdir()) == []


def test_openvino_is_never_imported_with_its_telemetry(tmp_path):
    """Import its telemetry first, in a fresh process: our own import must refuse."""
    script = (
        "import sys, types; sys.modules['openvino_telemetry'] = types.ModuleType('stray');"
        "from tidsram.engine.openvino import openvino; openvino()"
    )

    stray = fresh(script, tmp_path)

    assert stray.returncode != 0
    assert "use tidsram.engine.openvino.openvino()" in stray.stderr


def test_without_openvino_the_variant_is_refused_with_the_line_that_installs_it(tmp_path):
    """Keep the package out of a fresh process, as on a node that did not install the extra."""
    script = (
        "import sys, tiny_models; sys.modules['openvino'] = None\n"
        "from tidsram.engine.openvino import load\n"
        "from tidsram.errors import ModelRefused\n"
        "try:\n    load(tiny_models.relu([1]), 'relu.onnx', 1)\n"
        "except ModelRefused as refusal:\n    print(refusal)\n"
    )

    said = fresh(script, tmp_path).stdout

    assert "pip install 'tidsram[openvino]'" in said
    assert "onnxruntime" in said
