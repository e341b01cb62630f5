"""The models of the measurements, made or copied into bench/out.

`tiny` and `mid` are two layers; `shufflenet` brings 600 KB a question; `steady` runs about as long
on 1 KB, so that it shows the scheduling without the cost of large bodies, and `steady-half` half as
long on the same.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

WIDTH, ROWS, LAYERS = 256, 64, 28  # of `steady`

OUT = Path(__file__).parent / "out"

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Model:
    """One model file, the names and shapes of its tensors, and one question for it."""

    name: str
    path: Path
    input_name: str
    output_name: str
    output_shape: tuple[int, ...]
    question: Array


def make(name: str) -> Model:
    """Write the model `name` and return it; the same bytes every time."""
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{name}.onnx"
    rng = np.random.default_rng(7)
    if name == "shufflenet":
        import onnx

        light = Path(onnx.__file__).parent / "backend/test/data/light/light_shufflenet.onnx"
        shutil.copyfile(light, path)
        names = ("gpu_0/data_0", "gpu_0/softmax_1")
        shapes: tuple[tuple[int, ...], ...] = ((1, 3, 224, 224), (1, 1000))
    elif name in ("steady", "steady-half"):
        _save_steady(path, rng, LAYERS if name == "steady" else LAYERS // 2)
        names, shapes = ("x", "y"), ((1, WIDTH), (1, WIDTH))
    else:
        sizes = {"tiny": (30, 64, 2), "mid": (3072, 256, 10)}[name]
        _save_two_layers(path, sizes, rng)
        names, shapes = ("x", "y"), ((1, sizes[0]), (1, sizes[2]))
    question = rng.standard_normal(shapes[0]).astype(np.float32)
    return Model(name, path, *names, shapes[1], question)


class Session(Protocol):
    """What a measurement needs of an ONNX Runtime session."""

    def run(self, outputs: None, feed: dict[str, Array], /) -> list[Array]:
        """Run once."""


def session(path: Path) -> Session:
    """Open the ONNX Runtime session that every server of a comparison runs: one thread, no spin."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # it is read when the runtime is imported
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    opened: Session = onnxruntime.InferenceSession(str(path), options)
    return opened


def _save_steady(path: Path, rng: np.random.Generator, layers: int) -> None:
    from onnx import TensorProto, checker, helper, numpy_helper, save

    shapes = {"rows": (ROWS, WIDTH)} | {f"w{layer}": (WIDTH, WIDTH) for layer in range(layers)}
    weights = [
        numpy_helper.from_array((rng.standard_normal(shape) / 12).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [helper.make_node("Add", ["x", "rows"], ["h0"])]
    for layer in range(layers):
        nodes.append(helper.make_node("MatMul", [f"h{layer}", f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Relu", [f"m{layer}"], [f"h{layer + 1}"]))
    nodes.append(helper.make_node("ReduceMean", [f"h{layers}"], ["y"], axes=[0], keepdims=1))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, WIDTH])
    graph = helper.make_graph(nodes, "steady", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    save(model, path)


def _save_two_layers(path: Path, sizes: tuple[int, int, int], rng: np.random.Generator) -> None:
    from onnx import TensorProto, checker, helper, numpy_helper, save

    inputs, hidden, outputs = sizes
    shapes = {"w1": (inputs, hidden), "b1": (hidden,), "w2": (hidden, outputs), "b2": (outputs,)}
    weights = [
        numpy_helper.from_array((0.1 * rng.standard_normal(shape)).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, inputs])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, outputs])
    graph = helper.make_graph(nodes, "two_layers", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    save(model, path)
