"""`tidsram check` on a bundle: its version, its ladder, and what is left out and why."""

import json
import sys

import pytest
from onnx import TensorProto, helper

from tidsram.cli import main
from tidsram.estate.bundle import LeftOut, Manifest, Member, Source, Tensor
from tidsram.lab.bundle import encode, write_bundle
from tidsram.lab.facts import digest_of

ESTATE = """[estate]
name = "n"
[decision.my]
bundle = "models/my"
budget = "20 ms"
accuracy_floor = 0.8
"""


def double(name: str) -> bytes:
    """Return a model that adds its input [1, 3] to itself; `name` makes its bytes its own."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3])
    twice = helper.make_tensor_value_info("twice", TensorProto.FLOAT, [1, 3])
    node = helper.make_node("Add", ["image", "image"], ["twice"])
    graph = helper.make_graph([node], name, [image], [twice])
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


MODELS = {name: double(name) for name in ("fp32", "int8", "int8-224")}


def member(name: str, accuracy: float, **more: object) -> Member:
    """Return what a manifest says of a model."""
    model = MODELS[name]
    return Member(
        name=name, sha256=digest_of(model), bytes=len(model), accuracy=accuracy, threads=1, **more
    )


MANIFEST = Manifest(
    name="my",
    inputs=(Tensor(name="image", datatype="FP32", shape=(1, 3)),),
    outputs=(Tensor(name="twice", datatype="FP32", shape=(1, 3)),),
    ladder=(
        member("fp32", 1.0, size=(320, 320)),
        member("int8", 0.9, precision="int8"),
        member("int8-224", 0.75, precision="int8"),
    ),
    left_out=(LeftOut(name="int8-160", why="finds\nnothing at all", accuracy=0.0),),
    accuracy_floor=0.5,
    source=Source(file="my.onnx", sha256="0" * 64),
    data_sha256="0" * 64,
)


@pytest.fixture
def check(monkeypatch, tmp_path, capsys):
    """Return a function that checks an estate with the bundle: status, stdout, stderr."""
    (tmp_path / "tidsram.toml").write_text(ESTATE)
    write_bundle(tmp_path / "models" / "my", MANIFEST, MODELS)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tidsram", "check", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code or 0, *capsys.readouterr())

    return run


def test_a_bundle_is_shown_with_its_version_its_ladder_and_what_is_left_out(check):
    """A line each; the reason for what is left out may have had several."""
    status, out, err = check()

    size = len(MODELS["fp32"])
    assert (status, err) == (0, "")
    assert f"  bundle     models/my, version {digest_of(encode(MANIFEST))[:12]}\n" in out
    assert (
        f"  variant    fp32, accuracy 1, onnxruntime, fp32, sees 320 × 320, 1 thread, {size} B\n"
        f"  variant    int8, accuracy 0.9, onnxruntime, int8, 1 thread, {size} B\n"
        "  left out   int8-160, accuracy 0: finds nothing at all\n"
        "  left out   int8-224, accuracy 0.75: below this estate's floor, accuracy 0.8\n"
        "  takes      image FP32 [1, 3] → twice FP32 [1, 3]\n"
    ) in out


def test_a_bundle_is_in_json(check):
    """The same for scripts, with whole digests."""
    status, out, _ = check("--json")

    (decision,) = json.loads(out)["decisions"]
    assert status == 0
    assert decision["bundle"]["directory"] == "models/my"
    assert decision["bundle"]["sha256"] == digest_of(encode(MANIFEST))
    assert [left["name"] for left in decision["bundle"]["left_out"]] == ["int8-160", "int8-224"]
    assert decision["ladder"][1] == {
        "variant": "int8",
        "accuracy": 0.9,
        "model": "models/my/variants/int8.onnx",
        "problem": "",
        "engine": "onnxruntime",
        "precision": "int8",
        "threads": 1,
        "sha256": digest_of(MODELS["int8"]),
        "bytes": len(MODELS["int8"]),
    }


def test_a_changed_variant_is_a_no(check, tmp_path):
    """The rest of the ladder is shown as it is."""
    file = tmp_path / "models" / "my" / "variants" / "int8.onnx"
    file.write_bytes(MODELS["fp32"])

    status, out, err = check()

    assert status == 1
    assert "  variant    int8, accuracy 0.9, onnxruntime, int8, 1 thread, " in out
    assert out.count("REFUSED, see below") == 1
    assert err.startswith("tidsram: model models/my/variants/int8.onnx: its SHA-256 begins with ")


def test_half_a_bundle_is_bad_input(check, tmp_path):
    """One sentence on stderr, no traceback."""
    (tmp_path / "models" / "my" / "manifest.json").write_bytes(encode(MANIFEST)[:100])

    status, out, err = check()

    assert (status, out) == (2, "")
    assert err.startswith("tidsram: models/my/manifest.json: is no manifest (")
    assert err.count("\n") == 1
