"""Reading the model that was brought: made one file, described, or refused with what to do."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_nets
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import F32, image_net, model_of, node, value

from tidsram.engine import ort
from tidsram.errors import ModelRefused
from tidsram.lab.source import Port, read_source

MODELS = Path(__file__).parents[2] / "models"
WEIGHTS = np.arange(4, dtype=np.float32)


def refusal(path) -> ModelRefused:
    with pytest.raises(ModelRefused) as refused:
        read_source(path)
    assert refused.value.model == str(path)
    assert refused.value.remedy.endswith(".")
    assert "\n" not in str(refused.value)
    return refused.value


def in_other_files(*tensors: tuple[str, dict], dims=(4,)) -> bytes:
    """Return y = x + w0 + w1 + …, with the weights where the entries say."""
    names = ["x", *(f"s{i}" for i in range(1, len(tensors))), "y"]
    nodes, weights = [], []
    for i, (location, entries) in enumerate(tensors):
        weight = onnx.TensorProto(name=f"w{i}", data_type=F32, dims=dims)
        weight.data_location = onnx.TensorProto.EXTERNAL
        for key, entry in {"location": location, **entries}.items():
            weight.external_data.add(key=key, value=str(entry))
        weights.append(weight)
        nodes.append(node("Add", [names[i], f"w{i}"], [names[i + 1]]))
    ends = [value("x", F32, [1, 4])], [value("y", F32, [1, 4])]
    return model_of(onnx.helper.make_graph(nodes, "g", *ends, weights))


def written(directory, *tensors, dims=(4,)) -> Path:
    file = directory / "model.onnx"
    file.write_bytes(in_other_files(*tensors, dims=dims))
    return file


def answer(data) -> list[float]:
    engine = ort.load(data, "m", 1)
    output = np.zeros((1, 4), np.float32)
    engine.run(engine.bind([np.zeros((1, 4), np.float32)], [output]), 0)
    return output[0].tolist()


def weights_of(data) -> dict[str, np.ndarray]:
    weights = onnx.ModelProto.FromString(data).graph.initializer
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in weights}


# What is read


def test_a_single_file_is_taken_as_it_is():
    """Read a real model: its bytes, and the digest that sha256sum prints."""
    file = MODELS / "inspection" / "pcb_defect_fcn16_320_int8.onnx"

    source = read_source(file)

    assert source.data == file.read_bytes()
    assert source.file == file.name
    assert source.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_facts_of_a_model():
    """Describe a real quantised model."""
    facts = read_source(MODELS / "inspection" / "pcb_defect_fcn16_320_int8.onnx").facts

    assert facts.quantised
    assert facts.operators["Conv"] == 8
    assert facts.nodes == sum(facts.operators.values())
    assert facts.inputs == (Port(name="pair", datatype="FP32", shape=(1, 320, 320, 2)),)
    assert facts.outputs == (Port(name="cls", datatype="FP32", shape=(1, 80, 80, 7)),)
    assert facts.bytes == 127_060


def test_the_facts_name_what_is_left_open(tmp_path):
    """Leave a batch, a named size and a nameless one open, in a model with old-style weights."""
    body = onnx.helper.make_graph(
        [node("Add", ["x", "w"], ["y"])],
        "g",
        [value("x", F32, ["N", "samples", None, 3]), value("w", F32, [3])],
        [value("y", F32, ["N", "samples", None, 3])],
        [onnx.numpy_helper.from_array(np.ones(3, np.float32), "w")],
    )
    file = tmp_path / "open.onnx"
    file.write_bytes(model_of(body))

    facts = read_source(file).facts

    assert facts.inputs == (Port(name="x", datatype="FP32", shape=("N", "samples", "?", 3)),)
    assert (facts.opset, facts.ir_version, facts.parameters) == (17, 8, 3)
    assert (facts.external, facts.quantised) == ((), False)


def test_files_beside_the_model_become_part_of_it(tmp_path):
    """Keep three weights in two files, one of them at a place inside its file."""
    (tmp_path / "a.bin").write_bytes(bytes(8) + WEIGHTS.tobytes() + bytes(8))
    (tmp_path / "b.bin").write_bytes((2 * WEIGHTS).tobytes())
    place = {"offset": 8, "length": 16}
    file = written(tmp_path, ("b.bin", {}), ("a.bin", place), ("b.bin", {"length": 16}))

    source = read_source(file)

    assert answer(source.data) == (5 * WEIGHTS).tolist()
    assert source.facts.external == ("b.bin", "a.bin")
    whole = b"".join(f.read_bytes() for f in (file, tmp_path / "b.bin", tmp_path / "a.bin"))
    assert source.sha256 == hashlib.sha256(whole).hexdigest()
    assert source.facts.bytes == len(whole)


def test_a_model_saved_in_two_files_by_onnx_is_the_model_in_one(tmp_path):
    """Save a net with its weights outside, as exporters do, and compare what comes back."""
    data = image_net(small_nets.pooled)
    options = {"save_as_external_data": True, "location": "weights", "size_threshold": 0}
    onnx.save_model(onnx.ModelProto.FromString(data), tmp_path / "two.onnx", **options)

    source = read_source(tmp_path / "two.onnx")

    assert source.facts.external == ("weights",)
    kept, found = (weights_of(model) for model in (data, source.data))
    assert found.keys() == kept.keys()
    assert all(np.array_equal(found[name], kept[name]) for name in kept)


def test_the_digest_changes_with_a_file_beside_it(tmp_path):
    """Alter one byte of the weights."""
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    file = written(tmp_path, ("w.bin", {}))
    before = read_source(file).sha256

    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes()[:-1] + b"\1")

    assert read_source(file).sha256 != before


# What is refused: other files


@pytest.mark.parametrize(
    "location",
    [
        "../secret", "/etc/hostname", "sub/weights", "./weights", "..", ".", "", "a\\..\\b/c",
        "*/_ORT_MEM_ADDR_/*", "weights\0",
    ],
)  # fmt: skip
def test_only_a_plain_name_beside_the_model_is_looked_at(location, tmp_path):
    """Name files above, elsewhere and below, all there to be read, and a place in memory."""
    inside = tmp_path / "models"
    (inside / "sub").mkdir(parents=True)
    for there in (tmp_path / "secret", inside / "weights", inside / "sub" / "weights"):
        there.write_bytes(bytes(16))

    refused = refusal(written(inside, (location, {})))

    assert "which is no plain name of a file beside it" in refused.problem
    assert "save_as_external_data=False" in refused.remedy


def test_a_link_beside_the_model_is_not_followed(tmp_path):
    """Put a symbolic link, then a hard link, to a file elsewhere where the weights should be."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(bytes(16))
    inside = tmp_path / "models"
    inside.mkdir()
    file = written(inside, ("weights", {}))

    (inside / "weights").symlink_to(elsewhere)
    symbolic = refusal(file)
    (inside / "weights").unlink()
    (inside / "weights").hardlink_to(elsewhere)
    hard = refusal(file)

    assert "cannot be read" in symbolic.problem
    assert "no link" in symbolic.remedy
    assert "hard-linked from elsewhere" in hard.problem
    assert "Copy it" in hard.remedy


def test_what_is_no_file_is_never_waited_for(tmp_path):
    """Put a pipe that nobody writes to, and a directory, where the weights should be."""
    file = written(tmp_path, ("pipe", {}))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()

    assert "is a directory, a device or a pipe" in refusal(file).problem
    assert (
        "is a directory, a device or a pipe" in refusal(written(tmp_path, ("folder", {}))).problem
    )
    assert "is a device or a pipe" in refusal(tmp_path / "pipe").problem


def test_a_missing_file_is_named(tmp_path):
    """Leave the weights out."""
    refused = refusal(written(tmp_path, ("weights.bin", {})))

    assert refused.problem == "its file 'weights.bin' is not there"
    assert refused.remedy == "Put it beside the model."


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ({"offset": 8}, "has 8 bytes in its file, which do not fit it"),
        ({"offset": 0, "length": 12}, "has 12 bytes in its file, which do not fit it"),
        ({"offset": 8, "length": 16}, "lies outside its file: bytes 8 to 24 of 16"),
        ({"offset": -8, "length": 16}, "lies outside its file: bytes -8 to 8 of 16"),
        ({"length": -4}, "lies outside its file"),
        ({"offset": 2**70, "length": 16}, "lies outside its file"),
        ({"offset": "all"}, "a place in its file that is no number"),
    ],
)
def test_a_place_outside_the_file_is_refused(place, words, tmp_path):
    """Ask for less, for more, for what lies before the file and beyond it."""
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())

    assert words in refusal(written(tmp_path, ("w.bin", place))).problem


def test_many_weights_cannot_share_bytes_into_more_than_a_model_may_have(tmp_path, monkeypatch):
    """Let five weights name the same bytes: read once, they would be copied five times.

    The limit is lowered from 2 GiB, which would take as much memory here.
    """
    monkeypatch.setattr("tidsram.lab.source.MODEL_BYTES_MAX", 4999)
    (tmp_path / "w.bin").write_bytes(bytes(1024))

    refused = refusal(written(tmp_path, *[("w.bin", {})] * 5, dims=(256,)))

    assert "that a model may have" in refused.problem


# What is refused: the file itself


def test_a_model_that_is_not_there_or_no_file_is_refused(tmp_path):
    """Name nothing, a directory, and a link, whose target the remedy names."""
    (tmp_path / "net.onnx").write_bytes(image_net(small_nets.pooled))
    (tmp_path / "link.onnx").symlink_to("net.onnx")

    assert refusal(tmp_path / "none.onnx").problem == "there is no such file"
    assert refusal(tmp_path).problem == "it is a directory"
    assert refusal(tmp_path / "link.onnx").remedy.endswith(f"leads to: {tmp_path / 'net.onnx'}.")


def test_a_huge_file_is_refused_unread(tmp_path):
    """Give three sparse gigabytes, alone and as weights beside a model."""
    for name in ("huge.onnx", "huge.bin"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(3 * 2**30)

    alone, beside = refusal(tmp_path / "huge.onnx"), refusal(written(tmp_path, ("huge.bin", {})))

    assert alone.problem == "it has more than the 2 GiB that a model may have"
    assert beside.problem == "its file 'huge.bin' has more than the 2 GiB that a model may have"


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_broken_file_is_refused_in_a_sentence_or_read(tmp_path_factory, data):
    """Cut a model short, or alter some of its bytes: nothing but a refusal may come of it."""
    whole = bytearray(image_net(small_nets.as_rows))
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    for _ in range(data.draw(st.integers(0, 4))):
        if whole:
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.mktemp("broken") / "model.onnx"
    file.write_bytes(whole)

    with suppress(ModelRefused):
        assert read_source(file).data == bytes(whole)


def test_what_no_node_would_load_is_refused_at_once(tmp_path):
    """Bring an operator of another's, an endless empty loop, absurd sizes; the screen says why."""
    body = onnx.helper.make_graph(
        [],
        "b",
        [value("i", onnx.TensorProto.INT64, []), value("c", onnx.TensorProto.BOOL, [])],
        [value("c", onnx.TensorProto.BOOL, [])],
    )
    spin = node("Loop", ["trips", "go"], [], body=body, name="spin")
    weights = [
        onnx.numpy_helper.from_array(np.int64(2**62), "trips"),
        onnx.numpy_helper.from_array(np.bool_(True), "go"),
    ]
    ends = [value("x", F32, [1, 4])], [value("y", F32, [1, 4])]
    huge = [value("x", F32, [1, 2**40])], [value("y", F32, [1, 2**40])]
    pass_on = node("Relu", ["x"], ["y"])
    graphs = {
        "belongs to 'of.others'": onnx.helper.make_graph(
            [node("Odd", ["x"], ["y"], domain="of.others")], "g", *ends
        ),
        "repeats a body": onnx.helper.make_graph([spin, pass_on], "g", *ends, weights),
        "would take": onnx.helper.make_graph([pass_on], "g", *huge),
    }
    for words, graph in graphs.items():
        file = tmp_path / "bad.onnx"
        file.write_bytes(model_of(graph))

        assert words in refusal(file).problem
