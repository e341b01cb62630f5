"""The gate on real runs: what is right stays, and each way of being wrong is named.

The toy net is the identity: a picture's own colours are the probabilities that its answer is read
from, so every sample and every fault can be made by hand.
"""

import tomllib
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import convert
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tidsram.client.answer import Boxes, Label, Mask, Tensors
from tidsram.engine import ort
from tidsram.errors import ModelRefused
from tidsram.estate.types import Answer, Question
from tidsram.lab.data import read_data
from tidsram.lab.labels import DataError
from tidsram.lab.validate import (
    Candidate,
    Reference,
    Timed,
    answers,
    consult,
    frontier,
    judge,
    weigh,
)
from tidsram.protocol.tensors import ModelSpec
from tidsram.units import MS

ROOT = Path(__file__).parents[2]
QUESTION = Question(kind="image", size=(8, 8), std=(255.0,), layout="nhwc")
DEFECTS = Answer(kind="boxes", decoder="defect-grid", labels=("spot", "line"))
node = helper.make_node
MASK = Answer(kind="mask")
CLASS = Answer(kind="class", labels=("red", "green", "blue"))


def net(*nodes, output="y", shape=(1, 8, 8, 3), **weights):
    """Return a model of x [1, 8, 8, 3]; without nodes it gives back what it gets."""
    return file_of(
        nodes or [node("Identity", ["x"], [output])],
        helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 8, 8, 3)),
        helper.make_tensor_value_info(output, TensorProto.FLOAT, shape),
        weights,
    )


def file_of(nodes, given, made, weights):
    constants = [
        numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()
    ]
    graph = helper.make_graph(list(nodes), "net", [given], [made], constants)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


SQUARE_ROOT = net(node("Sub", ["x", "two"], ["z"]), node("Sqrt", ["z"], ["y"]), two=np.float32(2))
MEAN_COLOUR = net(node("ReduceMean", ["x"], ["y"], axes=[1, 2], keepdims=0), shape=(1, 3))
GREEN = net(node("Gather", ["x", "one"], ["y"], axis=3), shape=(1, 8, 8), one=np.array(1))


def candidate(name, model, answer=DEFECTS, question=QUESTION):
    return Candidate(
        name=name, load=lambda: ort.load(model, name, 1), question=question, answer=answer
    )


def samples(folder, *pictures, answer=DEFECTS, labels=None):
    for place, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"{place}.png")
    spec = ort.load(net(), "net", 1).spec
    return read_data(
        folder, question=QUESTION, answer=answer, inputs=spec.inputs, labels=labels, least=1
    ).samples


def board(*spots):
    """A picture that reads as one defect of 2 × 2 cells at each (row, column)."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :, 0] = 255  # all of it is certainly nothing
    for row, column in spots:
        pixels[row : row + 2, column : column + 2] = (0, 255, 0)
    return pixels


BOARDS = (board((0, 0), (4, 4)), board(), board((5, 1)))


@pytest.fixture
def boards(tmp_path):
    """Three boards with 2, 0 and 1 defects."""
    return samples(tmp_path, *BOARDS)


def verdict_on(model, boards, floor=0.5, answer=DEFECTS):
    reference = consult(candidate("original", net(), answer), boards)
    return judge(reference, candidate("int8", model, answer), floor, reference.spec)


# What is kept


def test_a_variant_that_answers_alike_is_kept(boards):
    """A little less sure everywhere, and the same boxes."""
    verdict = verdict_on(net(node("Mul", ["x", "c"], ["y"]), c=np.float32(0.9)), boards)

    assert (verdict.kept, verdict.why, verdict.accuracy) == (True, "", 1)
    assert [(one.against, one.metric, one.samples) for one in verdict.scores] == [
        ("original", "box F1", 3)
    ]


def test_what_counts_is_the_labels_and_the_original_is_told_too(tmp_path):
    """Label one defect that the original does not see: it has 3 of 4, and so has its like."""
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "0.txt").write_text("0 0 2 2 spot\n4 4 6 6 1\n6 0 8 2 line\n")
    (labels / "2.txt").write_text("1 5 3 7 spot\n")
    boards = samples(tmp_path, *BOARDS, labels=labels)
    reference = consult(candidate("original", net()), boards)

    verdict = judge(reference, candidate("fp32", net()), 0.9, reference.spec)

    assert (verdict.matches.precision, verdict.matches.recall) == (1, 3 / 4)
    assert verdict.accuracy == reference.score.value == pytest.approx(6 / 7)
    assert [(one.against, one.samples) for one in verdict.scores] == [
        ("labels", 2),
        ("original", 3),
    ]
    assert verdict.why == (
        "box F1 0.857 against the labels is below the floor of 0.9; the original itself has 0.857"
    )


def test_a_grids_boxes_count_from_a_third_of_a_label_and_from_half_of_the_original(tmp_path):
    """A label of 2 × 5 around a box of 2 × 2 overlaps it by 0.4."""
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "2.txt").write_text("1 3 3 8 spot\n")
    boards = samples(tmp_path, *BOARDS, labels=labels)

    reference = consult(candidate("original", net()), boards)

    assert reference.score.value == 1


def test_a_mask_is_labelled_where_the_net_answers(tmp_path):
    """A net without padding says nothing about the rim, so the label's rim does not count."""
    middle = net(
        node("Gather", ["x", "one"], ["green"], axis=3),
        node("Slice", ["green", "from", "to", "axes"], ["y"]),
        shape=(1, 6, 6),
        **{"one": np.array(1), "from": np.array([1, 1]), "to": np.array([7, 7])},
        axes=np.array([1, 2]),
    )
    labels = tmp_path / "labels"
    labels.mkdir()
    marked = np.zeros((8, 8), np.uint8)
    marked[0:3, 0:3] = 1
    Image.fromarray(marked).save(labels / "0.png")
    taken = samples(tmp_path, board((1, 1)), answer=MASK, labels=labels)

    reference = consult(candidate("original", middle, MASK), taken)

    assert (reference.score.metric, reference.score.value) == ("mask IoU", 1)


def test_boxes_are_told_in_the_picture_not_in_what_was_made_of_it(tmp_path):
    """Twice as wide as high, and so shrunk whole onto a grey ground."""
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, :, 0] = 255
    wide[0:4, 4:8] = (0, 255, 0)
    boxed = Question(kind="image", size=(8, 8), std=(255.0,), layout="nhwc", fit="letterbox")

    sure = Answer(kind="boxes", decoder="defect-grid", threshold=0.7)

    (reading,) = answers(ort.load(net(), "m", 1), samples(tmp_path, wide), boxed, sure)

    assert [(box.x1, box.y1, box.x2, box.y2) for box in reading.boxes] == [(4, 0, 8, 4)]


def test_a_frame_as_bytes_is_held_against_separate_processing(boards):
    """The fused form takes what the camera gives; the original what the tables make of it."""
    frame = Question(kind="image", size=(8, 8), layout="nhwc")
    model = file_of(
        [node("Cast", ["frame"], ["f"], to=TensorProto.FLOAT), node("Div", ["f", "c"], ["y"])],
        helper.make_tensor_value_info("frame", TensorProto.UINT8, (1, 8, 8, 3)),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8, 8, 3)),
        {"c": np.float32(255)},
    )
    fused = candidate("fused", model, question=frame)

    reference = consult(candidate("original", net()), boards)
    verdict = judge(reference, fused, 0.99, fused.load().spec)

    assert (verdict.kept, verdict.accuracy) == (True, 1)


# What is not


def test_a_variant_that_finds_nothing_is_named_as_that(boards):
    """It runs, in normal time, without an error: the trap of a spoilt calibration."""
    silent = net(node("Max", ["x", "c"], ["y"]), c=np.array([1, 0, 0], np.float32))

    verdict = verdict_on(silent, boards, floor=0.0)

    assert not verdict.kept
    assert verdict.why == "finds nothing in 3 samples where the original finds 3 boxes"
    assert verdict.accuracy == 0


def test_a_variant_below_the_floor_is_told_by_how_much(boards):
    """It finds what lies left, and calls the right half nothing."""
    half = np.zeros((1, 8, 8, 3), np.float32)
    half[:, :, 4:, 0] = 1

    verdict = verdict_on(net(node("Max", ["x", "c"], ["y"]), c=half), boards, floor=0.9)

    assert verdict.accuracy == pytest.approx(4 / 5)
    assert verdict.why == "box F1 0.800 against the original is below the floor of 0.9"


def test_a_floor_that_is_reached_is_kept_and_a_score_is_not_rounded_up_to_it():
    """Two of three classes: 0.6667 shown as 0.667 would look like the floor it is below."""
    readings = tuple(Label(label, 1.0) for label in ("red", "green", "blue"))
    reference = Reference(
        samples=(), readings=readings, labels=(None,) * 3, answer=CLASS, spec=ModelSpec((), ())
    )
    got = (*readings[:2], Label("red", 1.0))

    assert weigh(reference, "int8", got, 2 / 3).kept
    assert weigh(reference, "int8", got, 0.667).why == (
        "class agreement 0.666 against the original is below the floor of 0.667"
    )


def test_outputs_that_cannot_be_read_are_out_in_the_readers_words(boards):
    """The tables of another model."""
    reference = consult(candidate("original", net()), boards)
    other = candidate("int8", net(), Answer(kind="boxes", decoder="nanodet"))

    verdict = judge(reference, other, 0.5, reference.spec)

    assert not verdict.kept
    assert "are not what the decoder 'nanodet' reads" in verdict.why


def test_a_variant_that_is_never_right_is_out_without_a_floor(boards):
    """Every class is another one."""
    swapped = net(node("Gather", ["x", "c"], ["y"], axis=3), c=np.array([0, 2, 1]))

    verdict = verdict_on(swapped, boards, floor=0.0)

    assert verdict.why == "nothing that it answers is right: box F1 0 against the original"


def test_nan_is_no_answer(boards):
    """The root of what is negative."""
    verdict = verdict_on(SQUARE_ROOT, boards)

    assert verdict.why == "answers NaN in 'y' for the sample 0"
    assert (verdict.kept, verdict.accuracy, verdict.scores) == (False, None, ())


def test_a_run_that_fails_is_told_in_the_engines_words(boards):
    """Take a row whose number the input says, and there is none such."""
    model = net(
        node("ReduceMax", ["x"], ["most"], keepdims=0),
        node("Mul", ["most", "seven"], ["place"]),
        node("Reshape", ["place", "row"], ["places"]),
        node("Cast", ["places"], ["rows"], to=TensorProto.INT64),
        node("Gather", ["x", "rows"], ["y"]),
        seven=np.float32(7),
        row=np.array([1]),
    )

    verdict = verdict_on(model, boards)

    assert not verdict.kept
    assert "indices element out of data bounds" in verdict.why


def test_a_model_that_an_engine_refuses_is_out(boards):
    """In the words of who refused it."""
    verdict = verdict_on(b"no model", boards)

    assert not verdict.kept
    assert verdict.why.startswith("model int8: ")


@pytest.mark.parametrize(
    ("model", "form"),
    [
        (net(output="z"), "z FP32 [1, 8, 8, 3]"),
        (net(node("Flatten", ["x"], ["y"]), shape=(1, 192)), "y FP32 [1, 192]"),
    ],
)
def test_another_form_than_the_ladders_is_out(boards, model, form):
    """Askers and nodes know one form, whichever variant answers."""
    verdict = verdict_on(model, boards)

    assert not verdict.kept
    assert verdict.why == f"gives {form} where the ladder gives y FP32 [1, 8, 8, 3]"


# What tells nothing


def test_samples_with_nothing_to_find_are_refused(tmp_path):
    """A dead variant would agree with them perfectly."""
    with pytest.raises(DataError, match="finds nothing in 2 samples, so they tell nothing"):
        consult(candidate("original", net()), samples(tmp_path, board(), board()))


def test_samples_of_one_class_are_refused(tmp_path):
    """So would a variant that always says the same."""
    red = np.zeros((8, 8, 3), np.uint8)
    red[:, :, 0] = 255

    with pytest.raises(DataError, match="answers 'red' in 2 samples"):
        consult(candidate("original", MEAN_COLOUR, CLASS), samples(tmp_path, red, red))


def test_an_original_that_fails_by_itself_is_refused(boards):
    """There is nothing then to hold a variant against."""
    with pytest.raises(ModelRefused, match="answers NaN in 'y' for the sample 0"):
        consult(candidate("original", SQUARE_ROOT), boards)


def test_a_label_of_more_numbers_than_the_model_gives_is_refused(tmp_path):
    """It belongs to another model."""
    (tmp_path / "labels.csv").write_text("file,a,b\n0,1,2\n")
    only = Answer(kind="tensor")
    taken = samples(tmp_path, board(), answer=only, labels=tmp_path)

    with pytest.raises(DataError, match="its label has 2 numbers where the model gives 192"):
        consult(candidate("original", net(), only), taken)


# Answers


@pytest.mark.parametrize(
    ("model", "answer", "kind"),
    [
        (net(), DEFECTS, Boxes),
        (MEAN_COLOUR, CLASS, Label),
        (GREEN, MASK, Mask),
        (net(), None, Tensors),
    ],
    ids=["boxes", "class", "mask", "tensor"],
)
def test_a_sample_is_answered_as_its_kind(boards, model, answer, kind):
    """One reading for each, of the answer's own kind."""
    readings = answers(ort.load(model, "m", 1), boards, QUESTION, answer)

    assert [type(reading) for reading in readings] == [kind] * 3


def test_the_shipped_detector_agrees_with_itself_and_not_with_its_silence():
    """The obstacle detector on real frames, and with every score a tenth, as of a spoilt scale."""
    estate = tomllib.loads((ROOT / "examples/bundles/tidsram.toml").read_text())
    table = estate["decision"]["obstacle"]
    question = convert(table["question"] | {"size": (320, 320)}, Question)
    answer = convert(table["answer"], Answer)
    model = (ROOT / "models/obstacle/nanodet_g_320_int8.onnx").read_bytes()
    shipped = candidate("shipped", model, answer, question)
    quiet = candidate("quiet", a_tenth_of(model), answer, question)
    spec = shipped.load().spec
    frames = ROOT / "examples/demo/obstacle/frames"
    data = read_data(frames, question=question, answer=answer, inputs=spec.inputs, least=4, most=4)

    reference = consult(shipped, data.samples)
    right, wrong = (judge(reference, variant, 0, spec) for variant in (shipped, quiet))

    assert (right.kept, right.accuracy) == (True, 1)
    assert wrong.why.startswith("finds nothing in 4 samples where the original finds ")


def a_tenth_of(model):
    made = onnx.load_from_string(model)
    made.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "tenth"))
    for output in made.graph.output:
        whole = f"whole {output.name}"
        for one in made.graph.node:
            one.output[:] = [whole if name == output.name else name for name in one.output]
        made.graph.node.append(node("Mul", [whole, "tenth"], [output.name]))
    return made.SerializeToString()


# The frontier

VARIANTS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 60)),
    max_size=12,
).map(
    lambda pairs: [
        Timed(name=f"v{i}", accuracy=accuracy / 20, time_ns=time * MS // 10)
        for i, (accuracy, time) in enumerate(pairs)
    ]
)


@given(VARIANTS)
def test_the_ladder_falls_in_accuracy_and_in_time(timed):
    """Each rung costs accuracy and is at least a twentieth faster."""
    ladder = frontier(timed).kept

    for above, below in pairwise(ladder):
        assert above.accuracy > below.accuracy
        assert 100 * below.time_ns <= 95 * above.time_ns


@given(VARIANTS)
def test_nothing_is_lost_and_nothing_kept_is_dominated(timed):
    """Every variant is in one of the two, the most accurate always in the ladder."""
    found = frontier(timed)

    names = [one.name for one in found.kept] + [one.name for one in found.left_out]
    assert sorted(names) == sorted(one.name for one in timed)
    for rung in found.kept:
        assert not any(
            one.accuracy >= rung.accuracy and one.time_ns < rung.time_ns for one in found.kept
        )
    if timed:
        assert found.kept[0].accuracy == max(one.accuracy for one in timed)


@given(VARIANTS)
def test_every_reason_is_true(timed):
    """What it names is in the ladder, is as accurate as it says, and is not clearly slower."""
    found = frontier(timed)
    rungs = {rung.name: rung for rung in found.kept}
    by_name = {one.name: one for one in timed}

    for left in found.left_out:
        one = by_name[left.name]
        words, _, rest = left.why.partition(", which is ")
        verb, _, other = words.rpartition(" ")
        better = rungs[other]
        equal = one.accuracy == better.accuracy
        assert rest == ("as accurate" if equal else "more accurate")
        assert better.accuracy >= one.accuracy
        assert {
            "slower than": one.time_ns > better.time_ns,
            "as slow as": one.time_ns == better.time_ns,
            "less than 5 % faster than": 0.95 * better.time_ns < one.time_ns < better.time_ns,
        }[verb]


def test_int8_that_is_slower_than_fp32_is_left_out_and_says_so():
    """Measured on the small inspection net, where it is."""
    found = frontier(
        [
            Timed(name="int8", accuracy=0.93, time_ns=1_850_000),
            Timed(name="fp32", accuracy=0.95, time_ns=1_690_000),
        ]
    )

    assert [rung.name for rung in found.kept] == ["fp32"]
    assert [(one.name, one.why) for one in found.left_out] == [
        ("int8", "slower than fp32, which is more accurate")
    ]
