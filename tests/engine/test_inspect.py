"""What a model file says about itself, and what must be added to it."""

import re
import shlex
import tomllib

import numpy as np
import onnx
import pytest
import tiny_models
from tiny_models import BOOL, F32, I64, constant, file_of, graph, node, value

from tidsram.engine import ort
from tidsram.engine.inspect import fix_model, inspect_model
from tidsram.errors import ModelRefused
from tidsram.protocol.tensors import TensorSpec


def refusal(data, shapes=None) -> ModelRefused:
    with pytest.raises(ModelRefused) as refused:
        inspect_model(data, "m.onnx", shapes)
    assert refused.value.model == "m.onnx"
    assert refused.value.remedy.endswith(".")
    assert "\n" not in str(refused.value)
    return refused.value


def shape_of(data, shapes=None) -> tuple[int, ...]:
    return inspect_model(data, "m.onnx", shapes).inputs[0].shape


def add(first, second) -> bytes:
    """Return y = a + b with declared shapes of a and b; y's is left open."""
    inputs = [value("a", F32, first), value("b", F32, second)]
    return file_of(graph([node("Add", ["a", "b"], ["y"])], inputs, [value("y", F32, None)]))


def test_fixed_sizes_are_described_as_they_are():
    """Inspect a model with nothing open."""
    spec = inspect_model(tiny_models.relu([1, 3, 4]), "m.onnx")

    assert spec.inputs == (TensorSpec("x", "FP32", (1, 3, 4)),)
    assert spec.outputs == (TensorSpec("y", "FP32", (1, 3, 4)),)


@pytest.mark.parametrize("batch", ["N", "batch_size", None, 0, -1])
def test_an_open_batch_axis_becomes_one(batch):
    """Declare the first axis in every way that exporters have."""
    spec = inspect_model(tiny_models.relu([batch, 4]), "m.onnx")

    assert spec.inputs[0].shape == (1, 4)
    assert spec.outputs[0].shape in [(1, 4), (-1, 4)]


def test_a_batch_of_one_holds_wherever_its_name_stands():
    """Let a vector and an output of unknowable operators share the batch's name."""
    body = graph(
        [node("Add", ["x", "n"], ["y"]), node("NonZero", ["x"], ["z"])],
        [value("n", F32, ["N"]), value("x", F32, ["N", 4])],
        [value("y", F32, ["N", 4]), value("z", I64, ["N", "found"])],
    )

    spec = inspect_model(file_of(body), "m.onnx")

    assert [tensor.shape for tensor in spec.inputs] == [(1,), (1, 4)]
    assert spec.outputs[0].shape == (1, 4)
    assert spec.outputs[1].shape[1] == -1


@pytest.mark.parametrize("shape", [["samples"], ["L", "L"], ["N", 3, "H", "W"], [None, None]])
def test_an_open_size_that_is_no_batch_must_be_given(shape):
    """Leave open a vector's length, a square's side, an image's size."""
    problem = refusal(tiny_models.relu(shape)).problem

    names = ", ".join("?" if size is None else str(size) for size in shape)
    assert problem == f"its input 'x' [{names}] leaves sizes open"


@pytest.mark.parametrize(
    "data",
    [
        tiny_models.relu(["samples"]),
        tiny_models.relu(["N", 3, "H", "W"]),
        tiny_models.relu(None),
        add(["N", "T", 8], ["N", "S", 8]),
        add(["N", 3, "H", "W"], ["N", "H", "W"]),
        file_of(
            graph(
                [node("Relu", ['odd "name":0 of tensor'], ["y"])],
                [value('odd "name":0 of tensor', F32, ["N", "T"])],
                [value("y", F32, None)],
            )
        ),
    ],
)
def test_the_remedy_for_open_sizes_works_word_for_word(data):
    """Take the flags, then the estate's line, from the refusal as a reader would, and load."""
    flags, table = re.findall(r"`([^`]*)`", refusal(data).remedy)
    words = shlex.split(flags)
    pairs = [word.rsplit("=", 1) for word in words[1::2]]
    by_flag = {name: tuple(map(int, sizes.split(","))) for name, sizes in pairs}
    by_estate = tomllib.loads(table)["shapes"]

    assert set(words[::2]) == {"--shape"}
    assert {name: list(shape) for name, shape in by_flag.items()} == by_estate
    assert ort.load(data, "m.onnx", 1, by_flag).warm_up(1)


def test_given_shapes_fill_what_the_file_leaves_open_and_all_that_shares_its_name():
    """Give one of two inputs its shape: the other has the same names."""
    spec = inspect_model(
        add(["N", 3, "H", "W"], ["N", 3, "H", "W"]), "m.onnx", {"b": (2, 3, 32, 48)}
    )

    assert {tensor.shape for tensor in (*spec.inputs, *spec.outputs)} == {(2, 3, 32, 48)}


@pytest.mark.parametrize(
    ("shapes", "problem"),
    [
        ({"c": (1,)}, "a shape is given for 'c', which is not among its inputs: 'a', 'b'"),
        ({"a": (1, 4)}, "its input 'a' is [N, 3, H] and cannot be [1, 4]"),
        ({"a": (1, 4, 5)}, "its input 'a' is [N, 3, H] and cannot be [1, 4, 5]"),
        ({"a": (1, 3, 0)}, "its input 'a' is [N, 3, H] and cannot be [1, 3, 0]"),
        ({"a": (1, 3, 5), "b": (1, 3, 6)}, "the given shapes make its size 'H' both 5 and 6"),
    ],
)
def test_a_given_shape_that_contradicts_the_file_is_refused(shapes, problem):
    """Give a wrong name, rank, fixed size, no size at all, and two sizes to one name."""
    assert refusal(add(["N", 3, "H"], ["N", 3, "H"]), shapes).problem == problem


def test_the_remedy_for_a_file_that_declares_too_little_works():
    """Ask for another size than declared, run the remedy's Python line, and ask again."""
    data = tiny_models.relu([10, 3, 32, 32])
    remedy = refusal(data, {"x": (1, 3, 48, 64)}).remedy
    line = remedy[remedy.index("m = onnx.load") :].rstrip(".")
    saved = {}

    class Shelf:
        """Stands in for the files in the line."""

        load = staticmethod(lambda name: onnx.load_from_string(data))
        save = staticmethod(lambda model, name: saved.update({name: model.SerializeToString()}))

    exec(line, {"onnx": Shelf})

    assert shape_of(saved["open.onnx"], {"x": (1, 3, 48, 64)}) == (1, 3, 48, 64)


@pytest.mark.parametrize("ir_version", [3, 9])
def test_weights_listed_as_inputs_are_none(ir_version):
    """Save a model as old exporters do; it must load and answer either way."""
    weight = constant("w", np.full(4, 2, np.float32))
    data = file_of(
        graph(
            [node("Mul", ["x", "w"], ["y"])],
            [value("w", F32, [4]), value("x", F32, ["N", 4])],
            [value("y", F32, ["N", 4])],
            [weight],
        ),
        ir_version=ir_version,
        opset=8,
    )
    engine = ort.load(data, "old.onnx", 1)
    x = np.ones((1, 4), np.float32)

    (y,) = engine.run(engine.bind([x], [None]), 1)

    assert [tensor.name for tensor in engine.spec.inputs] == ["x"]
    assert y.tolist() == [[2, 2, 2, 2]]


def test_weights_listed_as_inputs_do_not_stay_changeable():
    """Look into the fixed model: a changeable weight costs a runtime its optimisations."""
    body = graph(
        [node("Mul", ["x", "w"], ["y"])],
        [value("x", F32, [4]), value("w", F32, [4])],
        [value("y", F32, [4])],
        [constant("w", np.ones(4, np.float32))],
    )

    fixed, _ = fix_model(file_of(body), "m.onnx")

    assert [given.name for given in onnx.load_from_string(fixed).graph.input] == ["x"]


def test_a_model_with_nothing_open_stays_the_same_bytes():
    """A model's digest is its name in a record: do not write it anew without need."""
    data = tiny_models.relu([1, 4])

    assert fix_model(data, "m.onnx")[0] is data


def test_sizes_that_follow_from_the_input_are_found():
    """Leave an output's shape open and convolve an image of a given size."""
    kernel = constant("k", np.ones((5, 3, 3, 3), np.float32))
    body = graph(
        [node("Conv", ["x", "k"], ["y"], strides=[2, 2])],
        [value("x", F32, ["N", 3, "H", "W"])],
        [value("y", F32, None)],
        [kernel],
    )

    spec = inspect_model(file_of(body), "m.onnx", {"x": (1, 3, 33, 65)})

    assert spec.outputs[0].shape == (1, 5, 16, 32)


def test_a_scalar_has_a_shape_that_is_empty():
    """Inspect and run a model on a single number."""
    engine = ort.load(tiny_models.relu([]), "scalar.onnx", 1)

    (y,) = engine.run(engine.bind([np.array(-1, np.float32)], [None]), 1)

    assert engine.spec.inputs[0].shape == engine.spec.outputs[0].shape == ()
    assert float(y) == 0


def identity(element) -> bytes:
    body = graph(
        [node("Identity", ["x"], ["y"])], [value("x", element, [2])], [value("y", element, [2])]
    )
    return file_of(body)


def of_types(input_type, output_type) -> bytes:
    made = [onnx.helper.make_value_info(n, t) for n, t in (("x", input_type), ("y", output_type))]
    return file_of(graph([node("Identity", ["x"], ["y"])], made[:1], made[1:]))


TENSOR = onnx.helper.make_tensor_type_proto(F32, [2])


@pytest.mark.parametrize(
    ("data", "problem", "remedy"),
    [
        (identity(onnx.TensorProto.STRING), "input 'x' is text", "token ids"),
        (identity(onnx.TensorProto.BFLOAT16), "has type bfloat16", "float32"),
        (identity(onnx.TensorProto.COMPLEX64), "has type complex64", "float32"),
        (identity(onnx.TensorProto.INT4), "has type int4", "float32"),
        (identity(0), "input 'x' has no type", "infer_shapes"),
        (
            of_types(TENSOR, onnx.helper.make_sequence_type_proto(TENSOR)),
            "output 'y' is a sequence",
            "zipmap",
        ),
        (
            of_types(TENSOR, onnx.helper.make_map_type_proto(I64, TENSOR)),
            "output 'y' is a map",
            "zipmap",
        ),
        (
            of_types(onnx.helper.make_optional_type_proto(TENSOR), TENSOR),
            "input 'x' is optional",
            "always present",
        ),
        (
            file_of(graph([node("Identity", ["x"], ["y"])], [], [value("y", F32, [1])])),
            "has no input",
            "with an input",
        ),
        (
            file_of(graph([node("Identity", ["x"], ["y"])], [value("x", F32, [1])], [])),
            "has no output",
            "with an output",
        ),
    ],
)
def test_what_no_question_or_answer_can_carry_is_refused(data, problem, remedy):
    """Declare each kind of input and output that the protocol has no word for."""
    refused = refusal(data)

    assert problem in refused.problem
    assert remedy in refused.remedy


@pytest.mark.parametrize("twice", ["x", "y"])
def test_outputs_that_a_runtime_would_not_write_are_refused(twice):
    """Return the input itself, and one output twice: bound memory would keep an older answer."""
    x, y = value("x", F32, [1, 4]), value("y", F32, [1, 4])
    body = graph([node("Relu", ["x"], ["y"])], [x], [y, {"x": x, "y": y}[twice]])

    assert f"{twice!r}" in refusal(file_of(body)).problem


def test_the_bool_of_onnx_is_the_bool_of_the_protocol():
    """Inspect one type apart from floats."""
    assert inspect_model(identity(BOOL), "m.onnx").inputs[0].datatype == "BOOL"


def test_question_marks_name_no_size():
    """Some exporters call every open size "?": two of them need not be equal."""
    data = tiny_models.relu(["?", 3, "?", "?"])

    assert shape_of(data, {"x": (1, 3, 48, 192)}) == (1, 3, 48, 192)


@pytest.mark.parametrize(("count", "served"), [(16, True), (17, False)])
def test_a_question_has_room_for_sixteen_inputs(count, served):
    """The message that starts a run says where each input is, and has sixteen places."""
    names = [f"x{number}" for number in range(count)]
    inputs = [value(name, F32, [1]) for name in names]
    data = file_of(graph([node("Sum", names, ["y"])], inputs, [value("y", F32, [1])]))

    if served:
        assert len(inspect_model(data, "m.onnx").inputs) == 16
    else:
        assert refusal(data).problem == "it has 17 inputs, and a question brings at most 16"
