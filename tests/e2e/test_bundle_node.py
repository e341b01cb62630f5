"""Bundles on a whole node: a changed variant is refused, and a fused model answers a raw frame."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import toy_models
from nodes import Node, infer, tensor
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw

from tidsram.cli.ask import run as ask
from tidsram.estate.bundle import Manifest, Member, Source, Tensor
from tidsram.estate.types import Answer, Question
from tidsram.lab.bundle import write_bundle
from tidsram.lab.facts import digest_of

WIDTH, HEIGHT = 64, 48
GAUGE = (
    (Tensor(name="x", datatype="FP32", shape=(1, 4)),),
    (Tensor(name="y", datatype="FP32", shape=(1, 2)),),
)
FINDER = (
    (Tensor(name="frame", datatype="UINT8", shape=(1, HEIGHT, WIDTH, 3)),),
    (Tensor(name="boxes", datatype="FP32", shape=(1, 100, 6)),),
)

node = helper.make_node
value = helper.make_tensor_value_info


def finder() -> bytes:
    """Return a fused model: the box around all bright pixels of a frame, in the frame's pixels."""
    nodes = [
        node("Cast", ["frame"], ["numbers"], to=TensorProto.FLOAT),
        node("ReduceMax", ["numbers"], ["columns"], axes=[0, 1, 3], keepdims=0),
        node("ReduceMax", ["numbers"], ["rows"], axes=[0, 2, 3], keepdims=0),
    ]
    for side in ("columns", "rows"):
        nodes += [
            node("Greater", [side, "bright"], [f"{side}_marked"]),
            node("Cast", [f"{side}_marked"], [f"{side}_at"], to=TensorProto.FLOAT),
            node("ArgMax", [f"{side}_at"], [f"{side}_first"], axis=0),
            node("ArgMax", [f"{side}_at"], [f"{side}_last"], axis=0, select_last_index=1),
            node("Add", [f"{side}_last", "one"], [f"{side}_end"]),
        ]
    corners = ["columns_first", "rows_first", "columns_end", "rows_end"]
    nodes += [
        node("Concat", corners, ["corners"], axis=0),
        node("Cast", ["corners"], ["corners_f"], to=TensorProto.FLOAT),
        node("Concat", ["corners_f", "score_and_class", "unused"], ["flat"], axis=0),
        node("Reshape", ["flat", "shape"], ["boxes"]),
    ]
    weights = {
        "bright": np.array(128, np.float32),
        "one": np.array([1]),
        "score_and_class": np.array([0.75, 1], np.float32),
        "unused": np.zeros(99 * 6, np.float32),
        "shape": np.array([1, 100, 6]),
    }
    graph = helper.make_graph(
        nodes,
        "finder",
        [value("frame", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3])],
        [value("boxes", TensorProto.FLOAT, [1, 100, 6])],
        [numpy_helper.from_array(content, name) for name, content in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


@pytest.fixture
def serve(tmp_path):
    """Return a function that starts a node with one decision, whose bundle it has written."""
    started = []

    def start(form, models, spoilt=(), engine="onnxruntime", **tables) -> Node:
        directory = tmp_path / "bundle"
        members = (
            Member(
                name=name,
                sha256=digest_of(model),
                bytes=len(model),
                accuracy=1 - rung / 10,
                engine=engine,
            )
            for rung, (name, model) in enumerate(models.items())
        )
        manifest = Manifest(
            name="made",
            inputs=form[0],
            outputs=form[1],
            ladder=tuple(members),
            source=Source(file="m.onnx", sha256="0" * 64),
            data_sha256="0" * 64,
            **tables,
        )
        write_bundle(directory, manifest, models)
        for name in spoilt:
            file = directory / "variants" / f"{name}.onnx"
            changed = bytearray(file.read_bytes())
            changed[len(changed) // 2] ^= 1
            file.write_bytes(changed)
        estate = '[estate]\nname = "test"\n[decision.seen]\nbundle = "bundle"\nbudget = "2 s"\n'
        (tmp_path / "tidsram.toml").write_text(estate)
        started.append(Node(tmp_path))
        return started[-1]

    yield start
    for node in started:
        node.stop()


def test_a_variant_with_one_changed_byte_is_refused_and_the_next_one_answers(serve):
    """One bit in the middle of the file; the warning names both digests."""
    models = {"exact": toy_models.marked(1), "quick": toy_models.marked(2)}

    node = serve(GAUGE, models, spoilt=["exact"]).wait_ready()

    answer = node.ask(infer("seen", {"inputs": [tensor("x", (1, 2, 3, 4))]}))
    assert answer.json["parameters"]["variant"] == "quick"
    (warning,) = [line for line in node.told().splitlines() if "without its variant" in line]
    assert "seen is served without its variant exact: its SHA-256 begins with" in warning
    assert warning.endswith("Copy the bundle again, or make it again with `tidsram lab`.")


def test_a_node_does_not_start_when_every_variant_was_changed(serve):
    """One sentence with the file, both digests and the remedy."""
    model = toy_models.marked(1)

    node = serve(GAUGE, {"exact": model}, spoilt=["exact"])

    assert node.process.wait(20) == 2
    assert "bundle/variants/exact.onnx: its SHA-256 begins with " in node.told()
    assert f"the bundle's manifest says {digest_of(model)[:12]}" in node.told()
    node.check_nothing_left()


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_a_variant_runs_on_the_engine_that_its_bundle_names(serve):
    """Look at what the worker has loaded."""
    node = serve(GAUGE, {"exact": toy_models.marked(1)}, engine="openvino").wait_ready()

    (worker,) = node.workers("seen")

    loaded = Path(f"/proc/{worker}/maps").read_text()
    assert "libopenvino" in loaded
    assert "onnxruntime" not in loaded


@pytest.mark.parametrize("scale", [1, 3])
def test_a_fused_model_finds_boxes_in_a_picture(serve, tmp_path, capsys, scale):
    """`ask` sends the raw frame; boxes come back in the picture's pixels, whatever its size."""
    node = serve(
        FINDER,
        {"fp32": finder()},
        question=Question(kind="image", size=(WIDTH, HEIGHT), layout="nhwc"),
        answer=Answer(kind="boxes", decoder="rows", labels=("cat", "dog")),
    ).wait_ready()
    image = Image.new("RGB", (WIDTH * scale, HEIGHT * scale))
    corners = [edge * scale for edge in (10, 20, 30, 40)]
    ImageDraw.Draw(image).rectangle((*corners[:2], corners[2] - 1, corners[3] - 1), "white")
    image.save(tmp_path / "a.png")

    status = ask(
        decision="seen",
        files=[tmp_path / "a.png"],
        file=tmp_path / "tidsram.toml",
        url=f"unix:{node.unix}",
        budget_ns=None,
        as_json=True,
        out=None,
    )

    (box,) = json.loads(capsys.readouterr().out)["answer"]["boxes"]
    assert status == 0
    assert (box["label"], box["score"]) == ("dog", 0.75)
    found = [box[edge] for edge in ("x1", "y1", "x2", "y2")]
    assert found == pytest.approx(corners, abs=scale)  # a resize blurs an edge by a pixel
