"""Processing built into a graph does what pillow and numpy do beside it, or is refused."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from tidsram.client.answer import read
from tidsram.client.question import placed, tensors
from tidsram.engine import ort
from tidsram.engine.inspect import fix_model
from tidsram.errors import ModelRefused
from tidsram.estate.types import Answer, Question
from tidsram.lab.fuse import fuse

SIDE = 64  # of what the toy models see
BINS = 8
F32, U8 = TensorProto.FLOAT, TensorProto.UINT8
TENSORS = Answer(kind="tensor")


# Toy models


def model_of(nodes, inputs, outputs, constants=(), opset=17, ir_version=8, domains=()):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "toy",
        [value(name, element, shape) for name, element, shape in inputs],
        [value(name, element, shape) for name, element, shape in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version).SerializeToString()


def mirror(shape, name="x", output="y", **versions):
    """Give back what it was given."""
    nodes = [helper.make_node("Mul", [name, "one"], [output])]
    one = [("one", np.ones(1, np.float32))]
    return model_of(nodes, [(name, F32, shape)], [(output, F32, shape)], one, **versions)


def always(outputs, side=(SIDE, SIDE), ending=None):
    """Give the same `outputs` whatever comes; `ending` is the operator that makes them."""
    width, height = side
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    constants = [("zero", np.float32(0))]
    for name, array in outputs.items():
        constants.append((f"{name}_is", array))
        made = f"{name}_sum" if ending else name
        nodes.append(helper.make_node("Add", [f"{name}_is", "nothing"], [made]))
        if ending:
            nodes.append(helper.make_node(ending, [made], [name]))
    described = [(name, F32, list(array.shape)) for name, array in outputs.items()]
    return model_of(nodes, [("x", F32, [1, 3, height, width])], described, constants)


def ask(fused, frame):
    """Run a fused model on a frame of [height, width, channels]; check that it is sound."""
    onnx.checker.check_model(fused.data, full_check=True)
    fix_model(fused.data, "fused")
    engine = ort.load(fused.data, "fused", 1)
    outputs = [
        np.zeros(t.shape, np.uint8 if t.datatype == "UINT8" else np.float32)
        for t in engine.spec.outputs
    ]
    engine.run(engine.bind([np.ascontiguousarray(frame[None])], outputs), 1)
    return {
        tensor.name: output for tensor, output in zip(engine.spec.outputs, outputs, strict=True)
    }


def found(rows):
    return [row for row in rows[0].tolist() if row[4] > 0]


def channels_of(question):
    return (1 if question.color == "gray" else 3) * question.images


# The question


@st.composite
def questions(draw):
    """Draw a question's table and a raw frame size."""
    color = draw(st.sampled_from(["rgb", "bgr", "gray"]))
    numbers = st.lists(st.floats(0.5, 128), min_size=3, max_size=3).map(tuple)
    many = color != "gray" and draw(st.booleans())
    question = Question(
        kind="image",
        size=(draw(st.integers(16, 70)), draw(st.integers(16, 70))),
        fit=draw(st.sampled_from(["stretch", "letterbox"])),
        color=color,
        mean=draw(numbers) if many else (draw(st.floats(0, 128)),),
        std=draw(numbers) if many else (draw(st.floats(0.5, 128)),),
        layout=draw(st.sampled_from(["nchw", "nhwc"])),
        images=draw(st.integers(1, 2)),
    )
    return question, (draw(st.integers(3, 200)), draw(st.integers(3, 200)))


def mirror_of(question, **versions):
    width, height = question.size
    channels = channels_of(question)
    nchw = question.layout == "nchw"
    shape = [1, channels, height, width] if nchw else [1, height, width, channels]
    return mirror(shape, **versions)


@settings(max_examples=60)
@given(questions(), st.integers(0, 2**32 - 1))
def test_the_models_input_is_what_pillow_makes(table, seed):
    """Compare with the client's own processing on noise, the hardest picture, level by level.

    Frames are up to 13 times as large as what the model sees: shrinking more, the 7 bits of a
    weight would show.
    """
    question, (width, height) = table
    channels = channels_of(question)
    generator = np.random.default_rng(seed)
    frame = generator.integers(0, 256, (height, width, channels), np.uint8)
    parts = np.split(frame, question.images, axis=2)
    images = [
        Image.fromarray(np.squeeze(part, 2) if part.shape[2] == 1 else part) for part in parts
    ]
    (expected,) = tensors(question, images)

    fused = fuse(mirror_of(question), "toy", question, TENSORS, (width, height))
    given_to_model = ask(fused, frame)["y"]

    steps = np.resize(np.array(question.std, np.float32), channels)
    steps = steps[:, None, None] if question.layout == "nchw" else steps
    off_levels = np.abs(given_to_model - expected) * steps
    assert off_levels.max() <= 3.1
    assert off_levels.mean() <= 1


@settings(max_examples=30)
@given(questions(), st.integers(0, 255))
def test_a_plain_frame_keeps_its_colour(table, level):
    """Weights that did not add up to one would darken or brighten it."""
    question, (width, height) = table
    plain = Question(kind="image", size=question.size, color=question.color,
                     layout=question.layout, images=question.images)  # fmt: skip

    fused = fuse(mirror_of(question), "toy", plain, TENSORS, (width, height))

    assert (
        ask(fused, np.full((height, width, channels_of(question)), level, np.uint8))["y"] == level
    ).all()


def test_a_letterbox_has_a_grey_ground_and_the_whole_frame_in_its_middle():
    """Put a white frame twice as wide as high into a square."""
    question = Question(kind="image", size=(SIDE, SIDE), fit="letterbox")

    fused = fuse(mirror_of(question), "toy", question, TENSORS, (100, 50))
    seen = ask(fused, np.full((50, 100, 3), 255, np.uint8))["y"][0, 0]

    assert (seen[SIDE // 4 : -SIDE // 4] == 255).all()
    assert (seen[: SIDE // 4] == 114).all()
    assert (seen[-SIDE // 4 :] == 114).all()


# Boxes


def nanodet(boxes, side=(SIDE, SIDE)):
    """Return outputs that say `boxes`: (x1, y1, x2, y2, class, score) in the model's pixels."""
    outputs = {}
    for level, stride in enumerate((8, 16)):
        columns, rows = -(-side[0] // stride), -(-side[1] // stride)
        scores = np.zeros((1, rows * columns, 5), np.float32)
        distances = np.zeros((1, rows * columns, 4, BINS), np.float32)
        for x1, y1, x2, y2, kind, score in boxes if stride == 8 else ():
            column, row = int((x1 + x2) / 2 / stride), int((y1 + y2) / 2 / stride)
            cell = row * columns + column
            scores[0, cell, kind] = score
            x, y = (column + 0.5) * stride, (row + 0.5) * stride
            for i, reach in enumerate((x - x1, y - y1, x2 - x, y2 - y)):
                distances[0, cell, i] = bins_of(reach / stride)
        outputs[f"scores{level}"] = scores
        outputs[f"distances{level}"] = distances.reshape(1, rows * columns, 4 * BINS)
    return outputs


def bins_of(mean):
    """Return scores whose softmax has this mean."""
    low = min(int(mean), BINS - 2)
    share = np.full(BINS, 1e-9)
    share[low], share[low + 1] = max(low + 1 - mean, 1e-9), max(mean - low, 1e-9)
    return np.log(share)


@settings(max_examples=40)
@given(
    st.integers(60, 180),
    st.integers(60, 180),
    st.sampled_from(["stretch", "letterbox"]),
    st.tuples(*[st.floats(0.1, 0.3)] * 2, *[st.floats(0.7, 0.9)] * 2),
)
def test_boxes_return_to_where_they_were_in_the_frame(width, height, fit, shares):
    """Let the model see a box of the frame where the fit puts it, and look where it comes out."""
    box = np.array(shares) * [width, height, width, height]
    inner, corner = placed((SIDE, SIDE), (width, height), fit)
    seen = box * (np.array(inner * 2) / [width, height, width, height]) + np.array(corner * 2)
    question = Question(kind="image", size=(SIDE, SIDE), fit=fit)
    answer = Answer(kind="boxes", decoder="nanodet", threshold=0.4)

    fused = fuse(always(nanodet([(*seen, 3, 0.75)])), "toy", question, answer, (width, height))
    (row,) = found(ask(fused, np.zeros((height, width, 3), np.uint8))["boxes"])

    assert row[:4] == pytest.approx(box.tolist(), abs=max(width, height) / 500)
    assert row[4:] == pytest.approx([0.75, 3])


def test_the_same_thing_seen_twice_is_one_box_and_another_class_is_another():
    """Say one place three times: a second time less surely, and as another class."""
    boxes = [(6, 6, 46, 46, 1, 0.9), (12, 12, 54, 54, 1, 0.8), (6, 6, 46, 30, 2, 0.7)]
    outputs = nanodet(boxes)
    question = Question(kind="image", size=(SIDE, SIDE))
    answer = Answer(kind="boxes", decoder="nanodet", threshold=0.4)

    fused = fuse(always(outputs), "toy", question, answer)
    rows = found(ask(fused, np.zeros((SIDE, SIDE, 3), np.uint8))["boxes"])

    assert [(row[5], pytest.approx(row[4])) for row in rows] == [(1, 0.9), (2, 0.7)]
    expected = read(answer, outputs, (SIDE, SIDE))
    assert [row[:4] for row in rows] == [
        pytest.approx([box.x1, box.y1, box.x2, box.y2], abs=0.01) for box in expected.boxes
    ]


def test_nothing_found_is_a_hundred_empty_rows():
    """Let no cell be sure enough."""
    question = Question(kind="image", size=(SIDE, SIDE))
    answer = Answer(kind="boxes", decoder="nanodet", threshold=0.4)

    fused = fuse(always(nanodet([(10, 10, 40, 40, 1, 0.3)])), "toy", question, answer)
    rows = ask(fused, np.zeros((SIDE, SIDE, 3), np.uint8))["boxes"]

    assert rows.shape == (1, 100, 6)
    assert not rows.any()


# The defect grid: a toy whose every pixel is a cell, and dark where something is


def defect_grid(rows, columns):
    nodes = [
        helper.make_node("Div", ["x", "full"], ["nothing"]),
        helper.make_node("Sub", ["one", "nothing"], ["thing"]),
        helper.make_node("Mul", ["thing", "shares"], ["things"]),
        helper.make_node("Concat", ["nothing", "things"], ["grid"], axis=3),
    ]
    constants = [("full", np.float32(255)), ("one", np.float32(1)),
                 ("shares", np.array([0.3, 0.7], np.float32))]  # fmt: skip
    shape = [1, rows, columns]
    return model_of(nodes, [("x", F32, [*shape, 1])], [("grid", F32, [*shape, 3])], constants)


GRID_QUESTION = Question(kind="image", color="gray", layout="nhwc")
GRID_ANSWER = Answer(kind="boxes", decoder="defect-grid", threshold=0.6)


def both_readings(frame):
    """Return the boxes found in the graph, and by the client."""
    rows, columns = frame.shape
    fused = fuse(defect_grid(rows, columns), "toy", GRID_QUESTION, GRID_ANSWER)
    in_graph = found(ask(fused, frame[:, :, None])["boxes"])
    nothing = frame.astype(np.float32) / np.float32(255)
    thing = 1 - nothing
    grid = np.stack([nothing, thing * np.float32(0.3), thing * np.float32(0.7)], axis=2)
    by_client = read(GRID_ANSWER, {"grid": grid[None]}, (columns, rows)).boxes
    return in_graph, [[b.x1, b.y1, b.x2, b.y2, b.score, int(b.label[6:])] for b in by_client]


def rounded(rows):
    return sorted([round(value, 3) for value in row] for row in rows)


@settings(max_examples=40)
@given(st.integers(4, 26), st.integers(4, 26), st.floats(0, 0.6), st.integers(0, 2**32 - 1))
def test_defects_are_the_groups_of_cells_that_touch(rows, columns, share, seed):
    """Strew marks of random darkness over a grid and group them both ways."""
    generator = np.random.default_rng(seed)
    marked = generator.random((rows, columns)) < share
    frame = np.where(marked, generator.integers(0, 90, marked.shape), 230).astype(np.uint8)

    in_graph, by_client = both_readings(frame)

    if len(by_client) <= 100:
        assert rounded(in_graph) == rounded(by_client)
    scores = [row[4] for row in in_graph]
    assert scores == sorted(scores, reverse=True)


def test_a_defect_in_a_letterbox_is_told_in_pixels_of_the_frame():
    """Show a dark rectangle in a frame twice as wide as high."""
    question = Question(kind="image", size=(40, 40), fit="letterbox", color="gray", layout="nhwc")
    sure = Answer(kind="boxes", decoder="defect-grid", threshold=0.8)  # surer than the grey ground
    frame = np.full((40, 80, 1), 255, np.uint8)
    frame[10:30, 20:60] = 0

    fused = fuse(defect_grid(40, 40), "toy", question, sure, (80, 40))
    (row,) = found(ask(fused, frame)["boxes"])

    assert row[:4] == pytest.approx([20, 10, 60, 30], abs=2)


def test_a_winding_defect_is_one():
    """Mark every second row, joined at alternating ends: one group as long as half the grid."""
    frame = np.full((40, 40), 255, np.uint8)
    frame[::2] = 0
    frame[1::4, -1] = frame[3::4, 0] = 0

    in_graph, by_client = both_readings(frame)

    assert [row[:4] for row in in_graph] == [[0, 0, 40, 40]]
    assert rounded(in_graph) == rounded(by_client)


def test_of_more_than_a_hundred_defects_the_surest_are_told():
    """Mark 13 × 13 pairs of cells, each pair darker than the one before."""
    frame = np.full((26, 39), 255, np.uint8)
    darkness = np.arange(169, dtype=np.uint8).reshape(13, 13) // 2
    frame[::2, ::3] = frame[::2, 1::3] = darkness

    in_graph, by_client = both_readings(frame)

    assert len(by_client) == 169
    scores = [row[4] for row in in_graph]
    assert scores == pytest.approx([row[4] for row in by_client[:100]])


# Classes and masks


@pytest.mark.parametrize("ending", [None, "Softmax", "Sigmoid"])
def test_the_surest_classes_come_first_with_their_probabilities(ending):
    """End in raw scores, in probabilities of all, and in independent ones."""
    raw = np.array([[0.5, 3.0, -1.0, 2.0, 0.0, 1.0]], np.float32)
    question = Question(kind="image", size=(SIDE, SIDE))

    fused = fuse(always({"y": raw}, ending=ending), "toy", question, Answer(kind="class"))
    (rows,) = ask(fused, np.zeros((SIDE, SIDE, 3), np.uint8))["classes"]

    assert rows[:, 0].tolist() == [1, 3, 5, 0, 4]
    shares = 1 / (1 + np.exp(-raw[0])) if ending == "Sigmoid" else np.exp(raw[0])
    shares = shares if ending == "Sigmoid" else shares / shares.sum()
    assert rows[:, 1] == pytest.approx(shares[[1, 3, 5, 0, 4]], abs=1e-6)


def test_a_mask_is_one_where_the_model_is_above_the_threshold():
    """Go one step around it."""
    plane = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)
    question = Question(kind="image", size=(SIDE, SIDE))
    answer = Answer(kind="mask", threshold=float(plane[0, 0, 3, 3]))

    fused = fuse(always({"y": plane}), "toy", question, answer, (100, 80))
    mask = ask(fused, np.zeros((80, 100, 3), np.uint8))["mask"]

    assert mask.tolist() == (plane[:, 0] > plane[0, 0, 3, 3]).astype(int).tolist()


# Other models


@pytest.mark.parametrize("name", ["frame", "boxes", "fuse/question/0.Reshape.0"])
def test_a_models_own_names_are_in_nobodys_way(name):
    """Call the model's input as the lab calls its own things."""
    question = Question(kind="image", size=(4, 4))

    fused = fuse(mirror([1, 3, 4, 4], name=name), "toy", question, TENSORS)

    assert (ask(fused, np.full((4, 4, 3), 7, np.uint8))["y"] == 7).all()


@pytest.mark.parametrize("opset", [9, 11, 12, 13, 15, 18, 21])
def test_models_of_any_opset_can_be_fused(opset):
    """Older ones are raised, others stay what they are."""
    ir_version = 4 if opset < 13 else 10

    fused = fuse(defect_grid_at(opset, ir_version), "toy", GRID_QUESTION, GRID_ANSWER)

    frame = np.full((6, 6, 1), 255, np.uint8)
    frame[2:4, 1:3] = 0
    assert [row[:4] for row in found(ask(fused, frame)["boxes"])] == [[1, 2, 3, 4]]
    kept = onnx.ModelProto.FromString(fused.data).opset_import[0].version
    assert kept == (17 if opset < 13 else opset)


def defect_grid_at(opset, ir_version):
    proto = onnx.ModelProto.FromString(defect_grid(6, 6))
    proto.opset_import[0].version, proto.ir_version = opset, ir_version
    return proto.SerializeToString()


def test_onnx_runtimes_own_operators_stay():
    """Put one of them into the model."""
    node = helper.make_node("QuickGelu", ["x"], ["y"], domain="com.microsoft", alpha=1e6)
    shape = [1, 3, 4, 4]
    model = model_of([node], [("x", F32, shape)], [("y", F32, shape)], domains=["com.microsoft"])

    fused = fuse(model, "toy", Question(kind="image", size=(4, 4)), TENSORS)

    assert (ask(fused, np.full((4, 4, 3), 7, np.uint8))["y"] == 7).all()


def test_without_tables_a_model_stays_as_it_is():
    """Fuse nothing."""
    model = mirror([1, 3, 4, 4])

    fused = fuse(model, "toy", None, None)

    assert (fused.question, fused.answer) == (None, None)
    before, after = (ort.load(data, "toy", 1).spec for data in (model, fused.data))
    assert before == after


def test_the_same_model_and_tables_make_the_same_bytes():
    """Fuse twice: a bundle's digest hangs on it."""
    question = Question(kind="image", size=(SIDE, SIDE))
    answer = Answer(kind="boxes", decoder="nanodet")
    model = always(nanodet([]))

    once, again = (fuse(model, "toy", question, answer, (100, 90)).data for _ in range(2))

    assert once == again


# Refusals

SQUARE = Question(kind="image", size=(SIDE, SIDE))
TWO_INPUTS = model_of(
    [helper.make_node("Add", ["a", "b"], ["y"])],
    [("a", F32, [1, 3, 4, 4]), ("b", F32, [1, 3, 4, 4])],
    [("y", F32, [1, 3, 4, 4])],
)
OF_BYTES = model_of(
    [helper.make_node("Cast", ["x"], ["y"], to=F32)],
    [("x", U8, [1, 3, SIDE, SIDE])],
    [("y", F32, [1, 3, SIDE, SIDE])],
)
OF_OLD = model_of(
    [helper.make_node("ImageScaler", ["x"], ["y"])],
    [("x", F32, [1, 3, SIDE, SIDE])],
    [("y", F32, [1, 3, SIDE, SIDE])],
    opset=7,
    ir_version=3,
)
PLANE = np.zeros((1, 1, 40, 40), np.float32)
VALUES = np.zeros((1, 5), np.float32)


@pytest.mark.parametrize(
    ("model", "question", "answer", "frame", "said"),
    [
        (TWO_INPUTS, SQUARE, None, None, "has 2 inputs"),
        (OF_BYTES, SQUARE, None, None, "has type UINT8"),
        (OF_OLD, SQUARE, None, None, "Export it with opset 17"),
        (mirror([1, 3, 32, 48]), SQUARE, None, None, "size = [48, 32]"),
        (mirror([1, 1, SIDE, SIDE]), SQUARE, None, None, "Change color"),
        (mirror([1, SIDE, SIDE, 3]), SQUARE, None, None, "Change color"),
        (mirror([2, 3, SIDE, SIDE]), SQUARE, None, None, "Change color"),
        (mirror([1, 12]), SQUARE, None, None, "Change color"),
        (always({"y": VALUES}), SQUARE, Answer(kind="mask"), None, "one plane"),
        (always({"y": PLANE}), SQUARE, Answer(kind="class"), None, "at least two classes"),
        (always({"y": VALUES}), SQUARE, Answer(kind="class", labels=("a",)), None, "5 classes"),
        (always({"y": PLANE}), SQUARE, Answer(kind="mask"), (99, 99), "frames of 64 × 64"),
        (always({"y": VALUES}), SQUARE, Answer(kind="boxes", decoder="nanodet"), None, "nanodet"),
        (always({"y": VALUES}), SQUARE, Answer(kind="boxes", decoder="rows"), None, "nanodet"),
        (always({"y": VALUES}), SQUARE, Answer(kind="boxes", decoder="defect-grid"), None, "grid"),
        (always(nanodet([])), None, Answer(kind="boxes", decoder="nanodet"), None, "Declare"),
        (b"no model", SQUARE, None, None, "not an ONNX model"),
    ],
)
def test_tables_that_do_not_fit_are_refused_with_what_to_change(
    model, question, answer, frame, said
):
    """Give each a table that the model was not made for."""
    with pytest.raises(ModelRefused) as refused:
        fuse(model, "toy.onnx", question, answer, frame)

    assert said in str(refused.value)
    assert refused.value.remedy.endswith(".")
    assert "\n" not in str(refused.value)
