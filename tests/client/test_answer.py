"""Outputs into boxes, masks and classes, on outputs made so that the right answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidsram.client.answer import Boxes, Label, Mask, Tensors, read
from tidsram.client.question import placed
from tidsram.errors import QuestionError
from tidsram.estate.types import Answer

NANODET = Answer(kind="boxes", decoder="nanodet", labels=("person", "bicycle", "car"))
DEFECTS = Answer(
    kind="boxes", decoder="defect-grid", threshold=0.7, labels=("open", "short", "spur")
)


def nanodet_outputs(things, side=320, classes=80):
    """Place things (level, column, row, class, score, reach in strides) on empty levels."""
    outputs = {}
    for level, stride in enumerate((8, 16, 32)):
        grid = side // stride
        scores = np.full((1, grid * grid, classes), 0.01, np.float32)
        distances = np.zeros((1, grid * grid, 44), np.float32)
        for at, column, row, kind, score, reach in things:
            if at == level:
                cell = row * grid + column
                scores[0, cell, kind] = score
                bins = np.zeros((4, 11), np.float32)
                bins[range(4), reach] = 50  # softmax puts all weight here
                distances[0, cell] = bins.ravel()
        outputs[f"d{level}"], outputs[f"s{level}"] = distances, scores
    return outputs


def test_a_box_reaches_from_its_cells_centre_by_its_distances():
    """Place one thing on the middle level and compute its corners by hand."""
    outputs = nanodet_outputs([(1, 5, 3, 2, 0.9, (1, 2, 3, 4))])

    reading = read(NANODET, outputs, (640, 160))

    # Centre (5.5, 3.5) strides of 16 = (88, 56); the image is twice as wide and half as high.
    (box,) = reading.boxes
    assert box.label == "car"
    assert box.score == pytest.approx(0.9)
    assert (box.x1, box.x2) == pytest.approx(((88 - 16) * 2, (88 + 48) * 2), abs=0.01)
    assert (box.y1, box.y2) == pytest.approx(((56 - 32) / 2, (56 + 64) / 2), abs=0.01)


def test_every_level_has_its_own_stride():
    """Place the same cell on each level; centres lie at (i + ½) × 8, 16, 32."""
    for level, stride in enumerate((8, 16, 32)):
        outputs = nanodet_outputs([(level, 2, 4, 0, 0.9, (1, 1, 1, 1))])
        (box,) = read(NANODET, outputs, (320, 320)).boxes
        assert box.centre == pytest.approx((2.5 * stride, 4.5 * stride), abs=0.01)


def test_outputs_are_told_apart_by_their_shape_not_by_name_or_order():
    """Rename and reverse the outputs."""
    outputs = nanodet_outputs([(0, 5, 3, 0, 0.9, (1, 1, 1, 1)), (2, 7, 7, 1, 0.8, (2, 2, 2, 2))])
    renamed = {f"Identity_{i}": out for i, out in enumerate(reversed(list(outputs.values())))}

    assert read(NANODET, renamed, (320, 320)) == read(NANODET, outputs, (320, 320))


def test_one_thing_seen_twice_is_one_box_and_two_kinds_are_two():
    """Let neighbours see the same person, and one of them a car as well."""
    outputs = nanodet_outputs(
        [
            (0, 10, 10, 0, 0.6, (5, 5, 5, 5)),
            (0, 11, 10, 0, 0.9, (5, 5, 5, 5)),
            (0, 12, 10, 2, 0.7, (5, 5, 5, 5)),
            (0, 30, 30, 0, 0.8, (5, 5, 5, 5)),
        ]
    )

    found = [(box.label, round(box.score, 2)) for box in read(NANODET, outputs, (320, 320)).boxes]

    assert found == [("person", 0.9), ("person", 0.8), ("car", 0.7)]


def test_what_is_not_sure_enough_is_not_there():
    """Place a thing just below the threshold."""
    outputs = nanodet_outputs([(0, 5, 3, 0, 0.49, (1, 1, 1, 1))])

    assert read(NANODET, outputs, (320, 320)) == Boxes(())


def test_boxes_stay_inside_the_image():
    """Let a thing at the corner reach far out."""
    outputs = nanodet_outputs([(2, 0, 9, 0, 0.9, (10, 10, 10, 10))])

    (box,) = read(NANODET, outputs, (320, 320)).boxes

    assert (box.x1, box.y2) == (0, 320)


def defect_grid(cells, side=80):
    grid = np.zeros((1, side, side, 4), np.float32)
    grid[..., 0] = 0.99
    for (row, column), (background, kind) in cells.items():
        grid[0, row, column] = 0
        grid[0, row, column, 0] = background
        grid[0, row, column, kind] = 1 - background
    return {"cls": grid}


def test_cells_that_touch_are_one_defect_around_all_of_them():
    """Mark a diagonal, and a block elsewhere."""
    diagonal = {(10 + i, 20 + i): (0.1, 2) for i in range(3)}
    block = {(row, column): (0.2, 1) for row in (50, 51) for column in (60, 61)}

    reading = read(DEFECTS, defect_grid(diagonal | block), (640, 640))

    assert [(box.label, round(box.score, 2)) for box in reading.boxes] == [
        ("short", 0.9),
        ("open", 0.8),
    ]
    first = reading.boxes[0]
    assert (first.x1, first.y1, first.x2, first.y2) == (160, 80, 184, 104)


def test_a_single_cell_and_a_doubtful_one_are_no_defect():
    """Mark one cell alone, and a pair just above the background limit."""
    cells = {(5, 5): (0.1, 1), (30, 30): (0.31, 1), (30, 31): (0.31, 1)}

    assert read(DEFECTS, defect_grid(cells), (640, 640)) == Boxes(())


@given(st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9))))
def test_every_marked_cell_of_a_group_lies_in_exactly_one_defect(cells):
    """Mark any cells of a small grid: boxes cover all groups, and no group of one."""
    marked = dict.fromkeys(cells, (0.0, 1))

    boxes = read(DEFECTS, defect_grid(marked, side=10), (10, 10)).boxes

    for row, column in cells:
        around = {(row + a, column + b) for a in (-1, 0, 1) for b in (-1, 0, 1)}
        inside = [b for b in boxes if b.x1 <= column < b.x2 and b.y1 <= row < b.y2]
        assert bool(inside) or around & cells == {(row, column)}
    assert len(boxes) <= len(cells) // 2


def test_a_mask_smaller_than_its_input_lies_in_the_middle():
    """Read a network without padding: 100 × 100 of 188 × 188, on an image twice that size."""
    pixels = np.zeros((1, 100, 100, 1), np.float32)
    pixels[0, :50] = 0.9

    reading = read(Answer(kind="mask"), {"mask": pixels}, (376, 376), (188, 188))

    assert isinstance(reading, Mask)
    assert reading.inside == (88, 88, 288, 288)
    assert reading.share == 0.5
    assert reading.pixels[0, 0]
    assert not reading.pixels[99, 0]


def test_a_mask_that_is_a_whole_fraction_of_its_input_covers_all_of_it():
    """Read a grid of 80 × 80 for 320 × 320."""
    reading = read(Answer(kind="mask"), {"m": np.zeros((1, 1, 80, 80), np.float32)}, (320, 320))

    assert reading.inside == (0, 0, 320, 320)


@pytest.mark.parametrize("values", [[0.1, 0.7, 0.2], [-3.0, 9.0, 1.0]])
def test_the_class_is_the_largest_whether_scores_are_probabilities_or_not(values):
    """Give probabilities and raw scores."""
    answer = Answer(kind="class", labels=("a", "b"))

    reading = read(answer, {"y": np.array([values], np.float32)}, (1, 1))

    assert isinstance(reading, Label)
    assert reading.label == "b"
    assert 0.69 < reading.score <= 1


def test_a_class_without_a_name_is_called_by_its_number():
    """Let the third of two named classes win."""
    answer = Answer(kind="class", labels=("a", "b"))

    assert read(answer, {"y": np.array([0, 0, 1.0])}, (1, 1)).label == "class 2"


def test_tensors_come_as_they_are():
    """Read without a decoder."""
    outputs = {"y": np.ones(3), "z": np.zeros(2)}

    assert read(Answer(kind="tensor"), outputs, (1, 1)) == Tensors(outputs)


@pytest.mark.parametrize(
    ("answer", "outputs"),
    [
        (NANODET, {}),
        (NANODET, {"y": np.zeros((1, 5))}),
        (NANODET, {"s": np.zeros((1, 100, 80), np.float32)}),
        (NANODET, {"y": np.zeros((2, 100, 80), np.float32)}),
        (DEFECTS, {}),
        (DEFECTS, {"y": np.zeros((1, 80, 80), np.float32)}),
        (DEFECTS, {"y": np.zeros((1, 8, 8, 1), np.float32)}),
        (Answer(kind="mask"), {"y": np.zeros((2, 8, 8, 3), np.float32)}),
        (Answer(kind="mask"), {}),
        (Answer(kind="class"), {"y": np.zeros(0)}),
    ],
)
def test_outputs_that_do_not_fit_the_decoder_are_said_to(answer, outputs):
    """Give every decoder shapes it cannot read."""
    with pytest.raises(QuestionError, match="are not what the decoder"):
        read(answer, outputs, (10, 10))


ROWS = Answer(kind="boxes", decoder="rows", labels=("person", "car"))
CLASS_ROWS = Answer(kind="class", decoder="rows", labels=("cat", "dog"))


def box_rows(*rows):
    """Return what a fused detector gives: a hundred rows, the unused ones zero."""
    boxes = np.zeros((1, 100, 6), np.float32)
    if rows:
        boxes[0, : len(rows)] = rows
    return {"boxes": boxes}


def test_rows_are_boxes_in_pixels_of_the_frame():
    """Read two rows of a hundred; the class is a number without a label for it."""
    outputs = box_rows((10, 20, 30, 40, 0.75, 1), (0, 0, 5, 5, 0.25, 7))

    first, second = read(ROWS, outputs, (640, 480), (640, 480)).boxes

    assert (first.label, first.score) == ("car", 0.75)
    assert (first.x1, first.y1, first.x2, first.y2) == (10, 20, 30, 40)
    assert (second.label, second.score) == ("class 7", 0.25)


def test_without_a_used_row_nothing_is_found():
    """A row of score 0 is no box."""
    assert read(ROWS, box_rows(), (640, 480)) == Boxes(())


def test_a_class_without_a_label_is_named_by_its_number():
    """Also one below zero, which no list has from its front."""
    (box,) = read(ROWS, box_rows((0, 0, 1, 1, 0.5, -1)), (9, 9)).boxes

    assert box.label == "class -1"


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@given(
    st.tuples(st.integers(32, 700), st.integers(32, 700)),
    st.tuples(st.integers(32, 700), st.integers(32, 700)),
    st.tuples(*[st.floats(0, 1)] * 2),
)
def test_a_box_comes_back_to_where_it_was_in_the_image(fit, size, image_size, corner):
    """Place a box of the image in the model's frame and read it: as the question was fitted."""
    (width, height), (left, top) = placed(size, image_size, fit)
    x, y = corner[0] * image_size[0], corner[1] * image_size[1]
    there = (left + x * width / image_size[0], top + y * height / image_size[1])

    (box,) = read(ROWS, box_rows((*there, *there, 1, 0)), image_size, size, fit).boxes

    assert (box.x1, box.y1) == pytest.approx((x, y), abs=0.01)


def test_unfused_decoders_know_a_letterbox_too():
    """A picture twice as wide as high lies in the middle half of a square input."""
    thing = nanodet_outputs([(1, 10, 10, 0, 0.9, (1, 1, 1, 1))])
    cells = {(row, column): (0.1, 1) for row in (40, 41) for column in (40, 41)}

    (box,) = read(NANODET, thing, (640, 320), (320, 320), "letterbox").boxes
    (defect,) = read(DEFECTS, defect_grid(cells), (640, 320), (320, 320), "letterbox").boxes

    # The middle of cell (10, 10) is 168, 168; the picture begins at row 80 of 320.
    assert box.centre == pytest.approx((168 * 2, (168 - 80) * 2), abs=0.01)
    assert (defect.x1, defect.y1, defect.x2, defect.y2) == (320, 160, 336, 176)


def test_a_mask_of_a_letterbox_covers_the_picture_and_none_of_its_ground():
    """The grey above and below is no part of the picture, nor of any share."""
    pixels = np.zeros((1, 80, 80), np.uint8)
    pixels[0, 20:40] = 1  # the upper half of the picture, which lies in rows 20 to 59

    reading = read(Answer(kind="mask"), {"mask": pixels}, (640, 320), (320, 320), "letterbox")

    assert reading.inside == (0, 0, 640, 320)
    assert reading.pixels.shape == (40, 80)
    assert reading.share == 0.5


def test_a_mask_of_bytes_has_its_threshold_behind_it():
    """Even one of 1, at which no byte of 1 would count."""
    pixels = np.array([[[0, 1], [1, 1]]], np.uint8)

    reading = read(Answer(kind="mask", threshold=1.0), {"mask": pixels}, (2, 2))

    assert reading.share == 0.75


def test_the_first_class_row_is_the_most_probable_class():
    """The model has sorted them; the rest is not asked for."""
    outputs = {"classes": np.array([[[1, 0.75], [0, 0.25]]], np.float32)}

    assert read(CLASS_ROWS, outputs, (1, 1)) == Label("dog", 0.75)


@pytest.mark.parametrize(
    ("answer", "outputs"),
    [
        (ROWS, {}),
        (ROWS, {"boxes": np.zeros((1, 100, 5), np.float32)}),
        (ROWS, {"rows": np.zeros((1, 100, 6), np.float32)}),
        (CLASS_ROWS, {"classes": np.zeros((1, 0, 2), np.float32)}),
        (CLASS_ROWS, {"classes": np.zeros((5, 2), np.float32)}),
    ],
)
def test_rows_of_another_form_are_not_read(answer, outputs):
    """As from a model that is not fused."""
    with pytest.raises(QuestionError, match="are not what the decoder 'rows' reads"):
        read(answer, outputs, (10, 10))


def test_rows_that_hold_nan_say_nothing():
    """NaN is no box, and as a class no number."""
    with pytest.raises(QuestionError, match="'boxes' holds NaN or infinity"):
        read(ROWS, box_rows((0, 0, 1, 1, 0.5, np.nan)), (10, 10))
