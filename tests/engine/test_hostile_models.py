"""Models made to do harm: each is refused in a sentence, or can be stopped."""

import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import BOOL, F32, constant, file_of, graph, node, value

from tidsram.engine import ort
from tidsram.engine.base import RunAborted
from tidsram.engine.inspect import inspect_model
from tidsram.engine.screen import MODEL_BYTES_MAX, NODES_MAX
from tidsram.errors import ModelRefused

REAL = Path(__file__).parents[2] / "models" / "inspection" / "pcb_defect_fcn16_320_int8.onnx"
X, Y = value("x", F32, [1, 4]), value("y", F32, [1, 4])


def refusal(data) -> ModelRefused:
    with pytest.raises(ModelRefused) as refused:
        ort.load(data, "hostile.onnx", 1)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 700
    return refused.value


def external(location) -> onnx.TensorProto:
    """Return four numbers that are said to be in another file."""
    weight = constant("w", np.zeros(4, np.float32))
    onnx.external_data_helper.set_external_data(weight, location)
    weight.ClearField("raw_data")
    return weight


def add_w(weights=()) -> onnx.GraphProto:
    return graph([node("Add", ["x", "w"], ["y"])], [X], [Y], weights)


def in_attribute(weight) -> bytes:
    made = node("Constant", [], ["w"], value=weight)
    return file_of(graph([made, node("Add", ["x", "w"], ["y"])], [X], [Y]))


def in_branch(weight) -> bytes:
    """Hide the weight in a branch of an If."""
    branches = {
        "then_branch": graph(
            [node("Add", ["x", "w"], ["t"])], [], [value("t", F32, [1, 4])], [weight]
        ),
        "else_branch": graph([node("Neg", ["x"], ["e"])], [], [value("e", F32, [1, 4])]),
    }
    body = graph([node("If", ["c"], ["y"], **branches)], [X, value("c", BOOL, [])], [Y])
    return file_of(body)


def in_function(weight) -> bytes:
    """Hide the weight in a function that the model brings along."""
    return calling_add_w(node("Constant", [], ["w"], value=weight))


def in_default(weight) -> bytes:
    """Hide the weight in the default of a function's attribute."""
    made = node("Constant", [], ["w"])
    made.attribute.add(name="value", ref_attr_name="weight", type=onnx.AttributeProto.TENSOR)
    return calling_add_w(made, [onnx.helper.make_attribute("weight", weight)])


def calling_add_w(made, defaults=()) -> bytes:
    function = onnx.helper.make_function(
        "own",
        "AddW",
        ["a"],
        ["b"],
        [made, node("Add", ["a", "w"], ["b"])],
        [onnx.helper.make_opsetid("", 17)],
        attribute_protos=defaults,
    )
    body = graph([node("AddW", ["x"], ["y"], domain="own")], [X], [Y])
    return file_of(body, domains=["own"], functions=[function])


def in_sparse(weight) -> bytes:
    """Hide the weight as the values of a sparse one."""
    body = add_w()
    indices = constant("", np.array([0, 1, 2, 3]))
    body.sparse_initializer.append(onnx.SparseTensorProto(values=weight, indices=indices, dims=[4]))
    return file_of(body)


@pytest.mark.parametrize(
    "place", [in_attribute, in_branch, in_function, in_default, in_sparse, None]
)
@pytest.mark.parametrize(
    "location",
    ["weights.bin", "../../etc/hostname", "/etc/hostname", "link", "*/_ORT_MEM_ADDR_/*"],
)
def test_data_outside_the_file_is_never_opened(location, place, tmp_path, monkeypatch):
    """Point a weight to siblings, upward, absolutely, through a symlink, at an address.

    All of these exist and would be readable from the current directory.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    (tmp_path / "link").symlink_to("/etc/hostname")
    weight = external(location)

    refused = refusal(place(weight) if place else file_of(add_w([weight])))

    assert refused.problem == "its weights 'w' are in another file, which is never opened"
    assert "save_as_external_data=False" in refused.remedy


def test_the_remedy_for_data_outside_the_file_works(tmp_path, monkeypatch):
    """Save a model in two files, follow the remedy's line, and load the one file."""
    monkeypatch.chdir(tmp_path)
    model = onnx.load_from_string(file_of(add_w([constant("w", np.ones(4, np.float32))])))
    onnx.save_model(model, "model.onnx", save_as_external_data=True, size_threshold=0)
    remedy = refusal(Path("model.onnx").read_bytes()).remedy

    exec(remedy[remedy.index("onnx.save_model") :].rstrip("."))

    assert ort.load(Path("one-file.onnx").read_bytes(), "one-file.onnx", 1).warm_up(1)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "the file is empty"),
        (b"\x00" * 64, "not an ONNX model"),
        (bytes(range(256)) * 9, "not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (b"PK\x03\x04 and the rest of an archive", "a zip archive"),
        (b"\x1c\x00\x00\x00TFL3", "a TensorFlow Lite model"),
        (b"\x1c\x00\x00\x00ORTM", "ONNX Runtime's own format"),
        (b"<!DOCTYPE html><title>Sign in</title>", "a web page"),
    ],
)
def test_what_is_no_model_is_called_what_it_is(data, problem):
    """Hand over the files that people take for a model."""
    assert problem in refusal(data).problem


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.99, 0.99999])
def test_a_part_of_a_real_model_is_refused(share):
    """Cut a model of the examples short, as a broken download does."""
    data = REAL.read_bytes()

    assert refusal(data[: int(len(data) * share)]).problem


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 2**20), bits=st.binary(min_size=1, max_size=8))
def test_a_damaged_model_is_described_or_refused_and_nothing_else(at, bits):
    """Overwrite some bytes anywhere in a small model and inspect it."""
    data = bytearray(tiny_models.loop(3, tiny_models.body_of_loop([])))
    at %= len(data)
    data[at : at + len(bits)] = bits

    try:
        spec = inspect_model(bytes(data), "damaged.onnx")
    except ModelRefused:
        return
    assert spec.inputs


@pytest.mark.parametrize(
    ("name", "domain", "problem"),
    [
        ("input-name", "", "a name that is not text"),
        ("size-name", "", "a name that is not text"),
        ("node-name", "evil", "���"),
    ],
)
def test_names_that_are_no_text_are_refused_too(name, domain, problem):
    """Break the UTF-8 of a name: protobuf then gives bytes where text was."""
    body = graph(
        [node("Relu", ["input-name"], ["y"], name="node-name", domain=domain)],
        [value("input-name", F32, [1, 4, "size-name"])],
        [value("y", F32, None)],
    )
    data = file_of(body).replace(name.encode(), b"\xff" * len(name))

    assert problem in refusal(data).problem


def test_a_file_beyond_the_format_is_refused_unread():
    """Claim a size of 2 GiB without having it."""

    class Huge(bytes):
        def __len__(self):
            return MODEL_BYTES_MAX + 1

    assert "more than the 2 GiB" in refusal(Huge(b"x")).problem


@pytest.mark.parametrize(
    ("domain", "remedy"),
    [
        ("com.microsoft.extensions", "where the question is made"),
        ("ai.onnx.contrib", "where the question is made"),
        ("com.microsoft.nchwc", "before ONNX Runtime optimised it"),
        ("ai.onnx.preview.training", "standard operators"),
        ("evil", "standard operators"),
    ],
)
def test_foreign_operators_are_refused_by_name(domain, remedy):
    """Use an operator that would need a library of its own."""
    operator = node("Run", ["x"], ["y"], name="the-node", domain=domain)

    refused = refusal(file_of(graph([operator], [X], [Y]), domains=[domain]))

    assert f"'Run' (node 'the-node') belongs to '{domain}'" in refused.problem
    assert remedy in refused.remedy


def test_a_foreign_operator_is_found_in_a_branch_too():
    """Hide it in the else branch of an If."""
    evil = node("Run", ["x"], ["e"], domain="evil")
    branches = {
        "then_branch": graph([node("Neg", ["x"], ["t"])], [], [value("t", F32, [1, 4])]),
        "else_branch": graph([evil], [], [value("e", F32, [1, 4])]),
    }
    body = graph([node("If", ["c"], ["y"], **branches)], [X, value("c", BOOL, [])], [Y])

    assert "'evil'" in refusal(file_of(body, domains=["evil"])).problem


def own_functions(*bodies) -> list[onnx.FunctionProto]:
    """Return functions F0, F1 … whose bodies call the named operators one after the other."""
    functions = []
    for i, calls in enumerate(bodies):
        names = ["a", *(f"v{j}" for j in range(1, len(calls))), "b"]
        nodes = [
            node(call, [names[j]], [names[j + 1]], domain="own" if call.startswith("F") else "")
            for j, call in enumerate(calls)
        ]
        opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("own", 1)]
        functions.append(onnx.helper.make_function("own", f"F{i}", ["a"], ["b"], nodes, opsets))
    return functions


def calling_f0(*bodies) -> bytes:
    call = graph([node("F0", ["x"], ["y"], domain="own")], [X], [Y])
    return file_of(call, domains=["own"], functions=own_functions(*bodies))


def test_a_models_own_functions_are_welcome():
    """Let F0 call F1 twice and F1 negate."""
    engine = ort.load(calling_f0(["F1", "F1"], ["Neg"]), "functions.onnx", 1)

    (y,) = engine.run(engine.bind([np.ones((1, 4), np.float32)], [None]), 1)

    assert y.tolist() == [[1, 1, 1, 1]]


def test_functions_that_call_each_other_are_refused():
    """Let F0 and F1 go round in circles."""
    assert "calls itself" in refusal(calling_f0(["F1"], ["F0"])).problem


def test_functions_that_multiply_are_refused_before_they_are_written_out():
    """Let each of forty functions call the next twice: 2⁴⁰ nodes in a few kilobytes."""
    doubling = [[f"F{i + 1}"] * 2 for i in range(40)]

    assert f"more than {NODES_MAX} nodes" in refusal(calling_f0(*doubling, ["Neg"])).problem


def test_too_many_nodes_are_refused():
    """Chain one node more than the limit."""
    names = ["x", *map(str, range(NODES_MAX)), "y"]
    chain = [node("Neg", [a], [b]) for a, b in pairwise(names)]

    refused = refusal(file_of(graph(chain, [X], [Y])))

    assert f"more than {NODES_MAX} nodes" in refused.problem


def huge_weight() -> bytes:
    weight = onnx.TensorProto(name="w", data_type=F32, dims=[2**40, 2**40], raw_data=b"1234")
    return file_of(add_w([weight]))


def negative_weight() -> bytes:
    weight = onnx.TensorProto(name="w", data_type=F32, dims=[-4], raw_data=b"1234")
    return file_of(add_w([weight]))


def grown_at_load() -> bytes:
    """Return a model whose constants a runtime would compute, all 4 TiB of them, while loading."""
    body = graph(
        [
            node("ConstantOfShape", ["size"], ["zeros"]),
            node("ReduceSum", ["zeros"], ["none"], keepdims=0),
            node("Add", ["x", "none"], ["y"]),
        ],
        [X],
        [Y],
        [constant("size", np.array([2**40]))],
    )
    return file_of(body)


def tiled() -> bytes:
    body = graph(
        [node("Tile", ["x", "times"], ["y"])],
        [X],
        [value("y", F32, None)],
        [constant("times", np.array([2**20, 2**20]))],
    )
    return file_of(body)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (huge_weight(), "its constant 'w'"),
        (negative_weight(), "a negative size"),
        (grown_at_load(), "its tensor 'zeros'"),
        (tiled(), "its tensor 'y'"),
        (tiny_models.relu([1, 2**40]), "its input 'x'"),
        (tiny_models.relu([1, -7]), "the size -7"),
    ],
)
def test_absurd_sizes_are_refused_before_memory_is_taken(data, problem):
    """Declare more than any machine has, as weight, input, output and in between."""
    assert problem in refusal(data).problem


def test_an_endless_loop_loads_and_an_abort_ends_it():
    """Repeat a body 2⁶² times and abort from another thread."""
    body = tiny_models.body_of_loop(
        [node("Identity", ["cond"], ["on"]), node("Neg", ["x_in"], ["x_out"])]
    )
    engine = ort.load(tiny_models.loop(2**62, body), "spin.onnx", 1)
    binding = engine.bind([np.ones((1, 4), np.float32)], [np.ones((1, 4), np.float32)])
    ended = threading.Event()

    def abort() -> None:
        while not ended.wait(0.01):
            engine.abort(1)

    thread = threading.Thread(target=abort)
    thread.start()
    with pytest.raises(RunAborted):
        engine.run(binding, 1)
    ended.set()
    thread.join()


@pytest.mark.parametrize(
    "body",
    [
        tiny_models.body_of_loop([]),
        tiny_models.body_of_loop([node("Not", ["no"], ["on"])], [constant("no", np.bool_(False))]),
    ],
)
def test_a_loop_that_no_abort_could_end_is_refused(body):
    """Repeat nothing, and what becomes nothing once its constants are computed."""
    refused = refusal(tiny_models.loop(2**62, body))

    assert "'Loop' (node 'spin') repeats a body that computes nothing" in refused.problem


def test_a_name_as_long_as_a_book_does_not_fill_the_log():
    """Name a foreign operator with a million letters."""
    operator = node("A" * 10**6, ["x"], ["y"], domain="evil")

    assert len(str(refusal(file_of(graph([operator], [X], [Y]), domains=["evil"])))) < 500
