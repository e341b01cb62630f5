"""Files into questions: pictures, .npy and .json."""

import json

import numpy as np
import pytest
from PIL import Image

from tidsram.client.files import prepare
from tidsram.client.wire import Metadata
from tidsram.errors import QuestionError
from tidsram.estate.types import Question
from tidsram.protocol.tensors import TensorSpec

X, N = TensorSpec("x", "FP32", (1, 2)), TensorSpec("n", "INT64", (2,))
ONE, TWO = Metadata("m", (X,), ()), Metadata("m", (X, N), ())


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        if isinstance(content, np.ndarray):
            np.save(path, content)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(json.dumps(content))
        return path

    return write


def test_an_array_gets_the_declared_type_and_the_batch_of_one(write):
    """Give doubles of shape (2,) where FP32 [1, 2] is taken."""
    prepared = prepare([write("a.npy", np.array([1.5, 2]))], ONE, None)

    assert prepared.inputs["x"].dtype == np.float32
    assert prepared.inputs["x"].tolist() == [[1.5, 2]]


def test_json_names_inputs_or_fills_them_in_order(write):
    """Give both inputs by name, then without names."""
    named = prepare([write("a.json", {"n": [1, 2], "x": [[3, 4]]})], TWO, None)
    ordered = prepare([write("b.json", [[3, 4]]), write("c.json", [1, 2])], TWO, None)

    for prepared in (named, ordered):
        assert prepared.inputs["x"].tolist() == [[3, 4]]
        assert prepared.inputs["n"].tolist() == [1, 2]


def test_without_a_file_every_input_is_zeros():
    """Ask about nothing."""
    prepared = prepare([], TWO, None)

    assert prepared.inputs["x"].tolist() == [[0, 0]]
    assert prepared.inputs["n"].dtype == np.int64


def test_a_picture_becomes_the_input_as_the_estate_says(tmp_path):
    """Prepare a gray picture for a model that takes its two pixels."""
    Image.new("L", (2, 1), 9).save(tmp_path / "a.png")
    question = Question(kind="image", color="gray")
    spec = Metadata("m", (TensorSpec("p", "FP32", (1, 1, 1, 2)),), ())

    prepared = prepare([tmp_path / "a.png"], spec, question)

    assert prepared.inputs["p"].ravel().tolist() == [9, 9]
    assert prepared.images[0].size == (2, 1)


def test_whole_numbers_are_taken_where_nothing_is_lost(write):
    """Give 1.0 for an INT64, then 1.5."""
    assert prepare([write("a.json", {"x": [1, 2], "n": [1.0, 2.0]})], TWO, None)

    with pytest.raises(QuestionError, match="does not hold INT64"):
        prepare([write("b.json", {"x": [1, 2], "n": [1.5, 2]})], TWO, None)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.npy", b"no array", "cannot be read as an array"),
        ("a.npy", b"", "cannot be read as an array"),
        ("a.json", b"{", "cannot be read as JSON"),
        ("a.json", b"\xff", "cannot be read as JSON"),
        ("a.json", {"y": [1, 2]}, "no input 'y'; the model takes x FP32"),
        ("a.json", {}, "'x' is missing"),
        ("a.json", [1, 2, 3], r"came with shape \[3\]; the model takes \[1, 2\]"),
        ("a.json", [[1, 2], [3]], "does not hold FP32 numbers of one shape"),
        ("a.json", ["a", "b"], "does not hold FP32"),
        ("a.txt", b"?", "no question table"),
    ],
)
def test_a_file_that_is_no_question_gets_a_sentence(write, name, content, sentence):
    """Give what people give by mistake."""
    with pytest.raises(QuestionError, match=sentence):
        prepare([write(name, content)], ONE, None)


def test_a_file_that_is_not_there_or_no_picture_gets_a_sentence(tmp_path):
    """Name a missing file, a directory and a text."""
    (tmp_path / "a.jpg").write_text("no picture")
    question = Question(kind="image")

    for path in (tmp_path / "missing.png", tmp_path, tmp_path / "a.jpg"):
        with pytest.raises(QuestionError, match="cannot be read as a picture"):
            prepare([path], ONE, question)


def test_more_inputs_than_the_model_takes_are_refused(write):
    """Give two arrays to a model with one input."""
    with pytest.raises(QuestionError, match="too many inputs"):
        prepare([write("a.json", [1, 2]), write("b.json", [1, 2])], ONE, None)
