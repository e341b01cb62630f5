"""`tidsram lab` on what it cannot use: one sentence with a remedy, exit 2, and nothing written."""

import json
import os
import sys

import numpy as np
import pytest
import toy_models
from PIL import Image

from tidsram.cli import main

SAMPLES = 10
IMAGE = """[estate]
name = "n"
[decision.toy]
bundle = "toy.onnx"
budget = "20 ms"
[decision.toy.question]
kind = "image"
size = [4, 4]
color = "gray"
[decision.toy.answer]
kind = "class"
labels = ["a", "b"]
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with a model that takes four numbers, and with data that fit it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.onnx").write_bytes(toy_models.tiny())
    data = tmp_path / "data"
    data.mkdir()
    numbers = np.random.default_rng(7).normal(size=(SAMPLES, 1, 4)).astype(np.float32)
    for index, x in enumerate(numbers):
        np.savez(data / f"{index}.npz", x=x)
    return tmp_path


@pytest.fixture
def refused(place, monkeypatch, capsys):
    """Return a function that runs the lab, which must refuse: the sentence on stderr."""

    def run(*arguments: str, model: str = "toy.onnx", data: str = "data") -> str:
        before = listed(place)
        command = ["tidsram", "lab", model, "--data", data, "--runs", "20", *arguments]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert ended.value.code == 2, said.err
        assert "Traceback" not in said.err
        assert said.out == ""
        assert listed(place) == before
        return said.err.strip().splitlines()[-1]

    return run


def listed(place):
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def a_symlink(place):
    (place / "other.onnx").symlink_to(place / "toy.onnx")


def a_sparse_giant(place):
    with (place / "other.onnx").open("wb") as file:
        file.truncate(2**31)


def weights_elsewhere(place):
    import onnx

    model = onnx.ModelProto.FromString(toy_models.tiny())
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../secret")
    (place / "other.onnx").write_bytes(model.SerializeToString())


MODELS = {
    "missing": (lambda place: None, "there is no such file"),
    "empty": (lambda place: (place / "other.onnx").write_bytes(b""), "the file is empty"),
    "a directory": (lambda place: (place / "other.onnx").mkdir(), "it is a directory"),
    "no model": (lambda place: (place / "other.onnx").write_bytes(b"\0" * 99), "not an ONNX model"),
    "half a model": (
        lambda place: (place / "other.onnx").write_bytes(toy_models.tiny()[:-40]),
        "not an ONNX model, or only a part of one",
    ),
    "a symbolic link": (a_symlink, "symbolic link"),
    "a pipe": (lambda place: os.mkfifo(place / "other.onnx"), "a device or a pipe"),
    "2 GiB": (a_sparse_giant, "more than the 2 GiB"),
    "weights elsewhere": (weights_elsewhere, "no plain name of a file beside it"),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_is_none_is_refused(refused, place, case):
    """Before anything is made of it, whatever it is."""
    prepare, part = MODELS[case]
    prepare(place)

    assert part in refused(model="other.onnx")


def no_data(data):
    for file in data.iterdir():
        file.unlink()


def too_few(data):
    for index in range(5):
        (data / f"{index}.npz").unlink()


def one_of_another_size(data):
    np.savez(data / "3.npz", x=np.zeros((1, 5), np.float32))


def two_kinds(data):
    Image.new("RGB", (4, 4)).save(data / "one.png")


def no_arrays(data):
    (data / "3.npz").write_bytes(b"no archive")


def pictures_only(data):
    no_data(data)
    for index in range(SAMPLES):
        Image.new("RGB", (4, 4), (index, 0, 0)).save(data / f"{index}.png")


DATA = {
    "none": (no_data, "holds no samples; put files there"),
    "few": (too_few, "holds 5 of the 8 samples"),
    "another size": (one_of_another_size, "the model takes float32 [1, 4]"),
    "two kinds": (two_kinds, "give one kind only"),
    "no arrays": (no_arrays, "3.npz"),
    "pictures without a question": (pictures_only, "add the decision's [question] table"),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_do_not_fit_are_refused(refused, place, case):
    """With what to give instead."""
    prepare, part = DATA[case]
    prepare(place / "data")

    assert part in refused()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--threads", "1,99"], "99 threads need as many cores"),
        (["--threads", "0"], "write them like 1,2"),
        (["--engines", "openvin"], 'did you mean "openvino"'),
        (["--engines", ""], "known are onnxruntime, openvino"),
        (["--conditions", "alnoe"], 'did you mean "alone"'),
        (["--conditions", ""], "names none"),
        (["--sizes", "4"], "name the decision that has a [question] table"),
        (["--frame", "4x4"], "name the decision that has a [question] table"),
        (["--frame", "0x4"], "write 320 or 640x480"),
        (["--hardware", "a b"], 'did you mean "a-b"'),
        (["--licence", "a\nb"], "takes one line"),
        (["--decision", "toy"], "no such file; write one with `tidsram init`"),
        (["-f", "gone.toml"], "no such file; write one with `tidsram init`"),
        (["--labels", "gone"], "gone"),
        (["--pair", "a,b"], "leave out --pair"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_cannot_be_met_are_refused(refused, arguments, part):
    """Before any work; none is silently left out."""
    assert part in refused(*arguments)


def test_labels_of_the_wrong_form_are_refused(refused, place):
    """They belong to no answer that the model gives."""
    (place / "labels.json").write_text(json.dumps(["a", 7]))

    assert "labels.json" in refused("--labels", "labels.json")


def test_a_question_that_does_not_fit_the_model_is_refused(refused, place):
    """The model takes four numbers, and the table says that it sees images."""
    (place / "tidsram.toml").write_text(IMAGE)
    pictures_only(place / "data")

    assert "x" in refused()


def test_an_estate_without_a_decision_of_that_model_says_how_to_name_one(refused, place):
    """How its questions look is unknown then, and nothing is guessed."""
    (place / "tidsram.toml").write_text(IMAGE.replace("toy.onnx", "another.onnx"))

    assert "name one with --decision" in refused()


def test_a_place_that_holds_something_else_is_left_alone(refused, place):
    """What lies there would be lost."""
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("all of it")

    assert "holds files and no bundle" in refused("--out", "mine")
    assert (place / "mine" / "thesis.txt").read_text() == "all of it"


@pytest.mark.parametrize("out", ["toy.onnx", "toy.onnx/bundle", "link"])
def test_a_place_that_no_directory_can_be_in_is_refused(refused, place, out):
    """A file, below a file, a link."""
    (place / "link").symlink_to(place / "data")

    assert "--out" in refused("--out", out)


def test_a_neighbour_needs_a_core_of_its_own(refused, monkeypatch):
    """On a machine with one core that is said before any work."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert "needs a core beside the lane" in refused("--conditions", "alone,neighbour")
    finally:
        os.sched_setaffinity(0, cores)
