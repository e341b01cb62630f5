"""Scores: the same answers score 1, worse answers never score more, and nothing leaves [0, 1]."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from tidsram.client.agreement import (
    agreement,
    class_agreement,
    closeness,
    mask_iou,
    match_boxes,
    overlap,
    resampled,
    unmatched,
)
from tidsram.client.answer import Box, Boxes, Label, Mask, Tensors
from tidsram.lab.scores import score

PLACE = st.integers(0, 40)
BOXES = st.lists(
    st.builds(
        lambda x, y, width, height, label, score: Box(x, y, x + width, y + height, label, score),
        *(PLACE, PLACE, st.integers(1, 20), st.integers(1, 20)),
        st.sampled_from(["car", "person"]),
        st.integers(1, 100).map(lambda percent: percent / 100),
    ),
    max_size=4,
).map(lambda boxes: Boxes(tuple(boxes)))
LABELS = st.sampled_from(["a", "b", "c"]).map(lambda label: Label(label, 0.9))
MASKS = st_numpy.arrays(np.bool_, (2, 3)).map(lambda pixels: Mask(pixels, (0, 0, 6, 4)))
FLOATS = st.floats(width=32)
TENSORS = st_numpy.arrays(np.float32, (2,), elements=FLOATS.filter(lambda x: x == x)).map(
    lambda array: Tensors({"y": array})
)
KINDS = (("boxes", BOXES), ("class", LABELS), ("mask", MASKS), ("tensor", TENSORS))


@st.composite
def answered(draw):
    """One kind of answer, and two models' answers to the same samples."""
    kind, readings = draw(st.sampled_from(KINDS))
    count = draw(st.integers(1, 3))
    several = st.lists(readings, min_size=count, max_size=count)
    return kind, draw(several), draw(several)


@given(answered())
def test_every_score_is_a_share(case):
    """A Score that is none could not be written into a manifest."""
    kind, wanted, got = case

    scored = score(kind, wanted, got, against="original")

    assert 0 <= scored.value <= 1
    assert scored.samples == len(got)


@given(answered())
def test_a_model_agrees_with_itself(case):
    """Whatever it answers: nothing at all, infinities, boxes on top of each other."""
    kind, wanted, _ = case

    assert score(kind, wanted, wanted, against="original").value == 1


@given(answered(), st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(case, random):
    """Shuffle both sides alike."""
    kind, wanted, got = case
    order = random.sample(range(len(wanted)), len(wanted))

    shuffled = score(kind, [wanted[i] for i in order], [got[i] for i in order], against="labels")

    assert shuffled.value == pytest.approx(score(kind, wanted, got, against="labels").value)


@given(BOXES, BOXES)
def test_a_box_is_matched_once_and_with_its_like(wanted, found):
    """What counts as found has a box of its class over half of it, and none counts twice."""
    rest = unmatched(found.boxes, wanted.boxes)

    hits = len(wanted.boxes) - len(rest)
    assert 0 <= hits <= min(len(wanted.boxes), len(found.boxes))
    for box in (box for box in wanted.boxes if box not in rest):
        assert any(overlap(box, one) >= 0.5 and box.label == one.label for one in found.boxes)


@given(BOXES, BOXES)
def test_boxes_that_are_nowhere_near_only_cost(wanted, found):
    """Add one far away: precision falls, recall stays."""
    before = match_boxes([wanted], [found])
    more = Boxes((*found.boxes, Box(900, 900, 950, 950, "car", 1.0)))

    after = match_boxes([wanted], [more])

    assert after.f1 < before.f1 or before.hits == 0
    assert after.recall == before.recall


def test_one_box_found_twice_is_right_once():
    """Three wanted of which one is found, twice: one hit of two found."""
    wanted = Boxes(tuple(Box(x, 0, x + 10, 10, "car", 1.0) for x in (0, 20, 40)))
    found = Boxes((Box(1, 0, 11, 10, "car", 0.9), Box(0, 1, 10, 11, "car", 0.8)))

    matches = match_boxes([wanted], [found])

    assert (matches.hits, matches.found, matches.wanted) == (1, 2, 3)
    assert (matches.precision, matches.recall, matches.f1) == (1 / 2, 1 / 3, 2 / 5)


def test_the_surest_box_chooses_first_and_takes_what_it_overlaps_most():
    """Were the weaker box asked first, or the first that will do taken, one would be left over."""
    left, right = Box(0, 0, 10, 10, "car", 1.0), Box(4, 0, 14, 10, "car", 1.0)
    sure, unsure = Box(3, 0, 13, 10, "car", 0.9), Box(0, 0, 10, 10, "car", 0.4)

    assert unmatched([unsure, sure], [left, right]) == []
    assert unmatched([sure], [left, right]) == [left]

    near_both = Box(1, 0, 11, 10, "car", 0.9)
    assert unmatched([unsure, near_both], [left, right]) == [right]


def test_the_class_is_part_of_the_answer():
    """A car where a person stands is one box too many and one too few."""
    wanted, found = Box(0, 0, 9, 9, "person", 1.0), Box(0, 0, 9, 9, "car", 1.0)

    assert match_boxes([Boxes((wanted,))], [Boxes((found,))]).f1 == 0


def test_nothing_found_where_nothing_is_costs_nothing():
    """Empty against empty is right; empty against something is not."""
    empty, one = Boxes(()), Boxes((Box(0, 0, 9, 9, "car", 1.0),))

    assert match_boxes([empty], [empty]).f1 == 1
    assert match_boxes([one], [empty]).f1 == match_boxes([empty], [one]).f1 == 0


def test_overlap_is_what_is_common_over_all():
    """Two squares of 100 that share 50: a third."""
    assert overlap(Box(0, 0, 10, 10, "a", 1), Box(5, 0, 15, 10, "b", 1)) == pytest.approx(1 / 3)
    assert overlap(Box(0, 0, 10, 10, "a", 1), Box(10, 0, 20, 10, "a", 1)) == 0


def test_classes_agree_by_share_of_samples():
    """Two of three."""
    wanted = [Label("a", 0.9), Label("b", 0.5), Label("c", 0.9)]
    got = [Label("a", 0.2), Label("b", 0.9), Label("a", 0.9)]

    assert class_agreement(wanted, got) == pytest.approx(2 / 3)


def test_masks_are_scored_over_all_pixels_together():
    """A small mask that is missed costs what it is worth in pixels, not a whole sample."""
    large = Mask(np.ones((3, 3), np.bool_), (0, 0, 3, 3))
    small = Mask(np.eye(3, dtype=np.bool_), (0, 0, 3, 3))
    empty = Mask(np.zeros((3, 3), np.bool_), (0, 0, 3, 3))

    assert mask_iou([large, small], [large, empty]) == pytest.approx(9 / 12)
    assert mask_iou([empty], [empty]) == 1


def test_a_mask_is_compared_where_it_lies():
    """The middle of a picture, cut out, is that part of the whole; beyond it nothing is marked."""
    whole = Mask(np.arange(36).reshape(6, 6) % 5 == 0, (0, 0, 12, 12))
    middle = Mask(whole.pixels[2:4, 2:4], (4, 4, 8, 8))

    assert (resampled(whole, middle).pixels == middle.pixels).all()
    assert resampled(middle, whole).pixels.sum() == middle.pixels.sum()
    assert mask_iou([middle], [whole]) == 1


def test_a_coarser_mask_looks_at_the_middle_of_its_pixels():
    """Each of two pixels over four has its middle where the right one of its two begins."""
    fine = Mask(np.array([[False, True, False, True]]), (0, 0, 4, 1))
    coarse = Mask(np.zeros((1, 2), np.bool_), (0, 0, 4, 1))

    assert resampled(fine, coarse).pixels.tolist() == [[True, True]]


@given(MASKS, st.integers(1, 4))
def test_a_finer_mask_of_the_same_shape_is_the_same(mask, times):
    """Nearest pixels there and back lose nothing."""
    finer = Mask(np.kron(mask.pixels, np.ones((times, times), np.bool_)) > 0, mask.inside)

    assert (resampled(finer, mask).pixels == mask.pixels).all()
    assert mask_iou([mask], [finer]) == mask_iou([finer], [mask]) == 1


def test_closeness_is_the_error_beside_the_variation():
    """Values that vary by 1 around their mean, and an error of a tenth of that."""
    wanted = [Tensors({"y": np.array([value])}) for value in (4.0, 6.0)]
    got = [Tensors({"y": np.array([value])}) for value in (4.1, 6.1)]

    assert closeness(wanted, got) == pytest.approx(0.9)


def test_a_constant_answer_earns_nothing():
    """Give every sample the mean of all: what differs between outputs does not hide that."""
    wanted = [Tensors({"y": np.array([1000.0, value])}) for value in (1.0, 2.0, 6.0)]
    got = [Tensors({"y": np.array([1000.0, 3.0])})] * 3

    assert closeness(wanted, got) == 0


def test_of_several_outputs_the_worst_counts():
    """One is right, one is upside down."""
    wanted = [Tensors({"a": np.array([v]), "b": np.array([v * 1e-6])}) for v in (-1.0, 1.0)]
    got = [Tensors({"a": np.array([v]), "b": np.array([-v * 1e-6])}) for v in (-1.0, 1.0)]

    assert closeness(wanted, got) == 0


def test_an_output_of_another_size_is_not_close():
    """Rows cannot be held against each other when their number differs."""
    wanted, got = Tensors({"y": np.ones((2, 4))}), Tensors({"y": np.ones((3, 4))})

    assert closeness([wanted], [got]) == 0
    assert closeness([wanted], [wanted]) == 1


@given(answered())
def test_one_answer_agrees_with_itself_and_with_another_by_a_share(case):
    """As two versions' answers to one question are compared."""
    _, wanted, got = case

    for one, other in zip(wanted, got, strict=True):
        assert agreement(one, one) == 1
        assert 0 <= agreement(one, other) <= 1


@pytest.mark.parametrize(
    ("given_y", "other_y", "share"),
    [([2.0], [1.9], 0.95), ([3.0, 4.0], [3.0, 5.0], 0.8), ([0.0], [0.1], 0.0), ([1.0], [9.0], 0.0)],
)
def test_numbers_agree_by_their_difference_beside_what_was_given(given_y, other_y, share):
    """A single number is compared too, which does not vary."""
    one, other = (Tensors({"y": np.array(y)}) for y in (given_y, other_y))

    assert agreement(one, other) == pytest.approx(share)
