"""The simplified graph: fewer operators, the same answers, and no worse than before."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import small_nets
from small_nets import RESIZABLE, image_net, node, numbers, picture

from tidsram.engine import ort
from tidsram.engine.inspect import inspect_model
from tidsram.errors import ModelRefused
from tidsram.lab.optimise import optimised

MODELS = Path(__file__).parents[2] / "models"


def grid_from_shape(height: int, width: int):
    """Compute a Reshape's target from the tensor's own sizes, and normalise, as exporters do."""
    return [
        node("BatchNormalization", ["features", "scale", "shift", "mean", "var"], ["normal"]),
        node("Shape", ["normal"], ["shape"]),
        node("Gather", ["shape", "first"], ["batch"]),
        node("Unsqueeze", ["batch", "axis"], ["batches"]),
        node("Concat", ["batches", "rest"], ["target"], axis=0),
        node("Reshape", ["normal", "target"], ["y"]),
    ], {
        "scale": small_nets.noise(6),
        "shift": small_nets.noise(6),
        "mean": small_nets.noise(6),
        "var": np.abs(small_nets.noise(6)) + 1,
        "first": np.int64(0),
        "axis": numbers(0),
        "rest": numbers(-1),
    }


def answer(data) -> np.ndarray:
    engine = ort.load(data, "net", 1)
    output = np.zeros(engine.spec.outputs[0].shape, np.float32)
    engine.run(engine.bind([picture()], [output]), 0)
    return output


def operators(data) -> list[str]:
    return [n.op_type for n in onnx.ModelProto.FromString(data).graph.node]


def test_what_does_not_depend_on_the_question_is_computed_once(tmp_path):
    """Fold a shape computation into its result and a normalisation into the layer before it."""
    data = image_net(grid_from_shape)

    simpler = optimised(data, "net", tmp_path)

    assert operators(simpler) == ["Conv", "Relu", "Conv", "Reshape"]
    assert inspect_model(simpler, "net") == inspect_model(data, "net")
    assert np.allclose(answer(simpler), answer(data), rtol=1e-4, atol=1e-4)
    assert list(tmp_path.iterdir()) == []


def test_only_what_the_model_uses_is_named_in_it(tmp_path):
    """Look for operator sets of this machine's kernels, and for constants left over."""
    simpler = onnx.ModelProto.FromString(optimised(image_net(grid_from_shape), "net", tmp_path))

    used = {name for n in simpler.graph.node for name in n.input}
    assert [opset.domain for opset in simpler.opset_import] == [""]
    assert {tensor.name for tensor in simpler.graph.initializer} <= used


@pytest.mark.parametrize("end", [e for e in RESIZABLE if e is not small_nets.as_rows_and_back])
def test_a_graph_that_is_simple_already_is_returned_as_it_is(end, tmp_path):
    """Give nets in which nothing can be folded: not a byte may change."""
    data = image_net(end)

    assert optimised(data, "net", tmp_path) == data


def test_a_quantised_model_is_not_taken_apart(tmp_path):
    """Give a real int8 model, of which the runtime's own simplification has more operators."""
    data = (MODELS / "inspection" / "pcb_defect_fcn16_320_int8.onnx").read_bytes()

    assert optimised(data, "net", tmp_path) == data


def test_the_simplified_model_is_as_simple_as_it_gets(tmp_path):
    """Optimise what is optimised."""
    once = optimised(image_net(grid_from_shape), "net", tmp_path)

    assert optimised(once, "net", tmp_path) == once


def test_a_nested_graph_keeps_what_it_refers_to(tmp_path):
    """Let a branch use a weight of the graph around it, beside something that can be folded."""
    branches = {
        name: onnx.helper.make_graph(
            [node(operator, ["x", "w"], [name])],
            name,
            [],
            [small_nets.value(name, small_nets.F32, [1, 4])],
        )
        for name, operator in (("then_branch", "Add"), ("else_branch", "Sub"))
    }
    nodes = [
        node("Add", ["one", "one"], ["two"]),
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Less", ["two", "sum"], ["less"]),
        node("If", ["less"], ["y"], **branches),
    ]
    weights = {"w": small_nets.noise(1, 4), "one": np.float32(1)}
    data = small_nets.model_of(
        onnx.helper.make_graph(
            nodes,
            "g",
            [small_nets.value("x", small_nets.F32, [1, 4])],
            [small_nets.value("y", small_nets.F32, [1, 4])],
            [onnx.numpy_helper.from_array(v, k) for k, v in weights.items()],
        )
    )

    simpler = optimised(data, "net", tmp_path)

    assert len(operators(simpler)) < len(operators(data))
    assert ort.load(simpler, "net", 1).warm_up(1)


def test_what_is_no_model_is_refused(tmp_path):
    """Give half a file."""
    with pytest.raises(ModelRefused, match="not an ONNX model"):
        optimised(image_net(grid_from_shape)[:100], "net", tmp_path)


def test_a_model_that_the_runtime_cannot_read_is_left_to_those_who_load_it(tmp_path):
    """Use an operator that does not exist: the words for that are the engine's."""
    body = onnx.helper.make_graph(
        [node("Unheard", ["x"], ["y"])],
        "g",
        [small_nets.value("x", small_nets.F32, [1, 4])],
        [small_nets.value("y", small_nets.F32, [1, 4])],
    )
    data = small_nets.model_of(body)

    assert optimised(data, "net", tmp_path) == data
