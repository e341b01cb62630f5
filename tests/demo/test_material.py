"""The demo's pictures and its truth: that scoring tells right from wrong."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from tidsram.client.answer import Box, Boxes, Mask
from tidsram.demo.material import CHIP, CORE, Boards, Chips, Frames, load_material
from tidsram.errors import QuestionError
from tidsram.estate.load import load_estate

DEMO = Path(__file__).parents[2] / "examples" / "demo"
DECISIONS = load_estate(DEMO / "tidsram.toml").decisions


@pytest.fixture(scope="module")
def frames():
    return load_material(DECISIONS["obstacle"], DEMO)


@pytest.fixture(scope="module")
def chips():
    return load_material(DECISIONS["tissue"], DEMO)


@pytest.fixture(scope="module")
def boards():
    return load_material(DECISIONS["inspection"], DEMO)


def test_the_truth_itself_scores_full_marks(frames, boards):
    """Answer every question with the truth."""
    for material in (frames, boards):
        answered = [(i, Boxes(tuple(material.truth[i]))) for i in range(material.count)]

        accuracy = material.score(answered)

        assert accuracy.measures == {"recall": 1.0, "precision": 1.0}
        assert accuracy.count == sum(map(len, material.truth))


def test_a_box_elsewhere_costs_recall_and_precision(boards):
    """Move one defect of a board away."""
    truth = boards.truth[0]
    moved = msgspec.structs.replace(truth[0], x1=0, y1=0, x2=4, y2=4)

    accuracy = boards.score([(0, Boxes((moved, *truth[1:])))])

    assert accuracy.measures["recall"] == pytest.approx(1 - 1 / len(truth))
    assert accuracy.measures["precision"] == pytest.approx(1 - 1 / len(truth))
    assert boards.overlooked(0, [moved, *truth[1:]]) == [truth[0]]


def test_a_person_found_twice_counts_once(frames):
    """Answer one frame with a doubled box."""
    truth = frames.truth[0]

    accuracy = frames.score([(0, Boxes((truth[0], truth[0])))])

    assert accuracy.measures["precision"] == 0.5
    assert accuracy.measures["recall"] == pytest.approx(1 / len(truth))


def test_another_label_or_another_place_is_another_thing(frames):
    """Call a person a car; move a person by its own width."""
    person = frames.truth[0][0]
    width = person.x2 - person.x1

    car = msgspec.structs.replace(person, label="car")
    beside = msgspec.structs.replace(person, x1=person.x1 + width, x2=person.x2 + width)

    assert frames.score([(0, Boxes((car,)))]).measures["precision"] == 0
    assert frames.score([(0, Boxes((beside,)))]).measures["precision"] == 0


def test_nothing_answered_claims_nothing(frames, chips):
    """Score no answers at all."""
    assert frames.score([]).measures == {"recall": None, "precision": None}
    assert chips.score([]).measures == {"iou": None}


def test_chips_cover_the_field_and_show_it_with_its_surroundings(chips):
    """Put the middles of all chips back together."""
    rebuilt = np.zeros((chips.rows * CORE, chips.columns * CORE, 3), np.uint8)
    margin = (CHIP - CORE) // 2

    for index in range(chips.count):
        left, top = chips.corner(index)
        chip = np.asarray(chips.images(index)[0])
        rebuilt[top : top + CORE, left : left + CORE] = chip[margin:-margin, margin:-margin]

    field = np.asarray(chips.field)
    assert np.array_equal(rebuilt[: field.shape[0], : field.shape[1]], field)


def test_a_mask_is_compared_where_its_chip_lies(chips):
    """Answer the chip with most white cell rightly, then its neighbour with the same mask."""
    truth = np.asarray(_truth())
    index = max(range(chips.count), key=lambda i: _core(truth, chips.corner(i)).sum())
    mask = Mask(_core(truth, chips.corner(index)), (44, 44, 144, 144))

    right, wrong = chips.score([(index, mask)]), chips.score([(index + 2, mask)])

    assert right.measures["iou"] == 1
    assert wrong.measures["iou"] < 0.5


def test_questions_go_round_and_round(frames, chips, boards):
    """Ask past the last picture."""
    for material in (frames, chips, boards):
        first, again = material.images(1), material.images(material.count + 1)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))


def test_missing_data_is_named(tmp_path):
    """Load from an empty directory."""
    with pytest.raises(QuestionError, match="demo's data is missing"):
        Boards(tmp_path, ())
    with pytest.raises(QuestionError, match="demo's data is missing"):
        Frames(tmp_path)
    with pytest.raises(QuestionError, match="demo's data is missing"):
        Chips(tmp_path)


def test_label_files_are_read_with_either_separator(tmp_path):
    """DeepPCB uses spaces, its copies commas."""
    from PIL import Image

    (tmp_path / "a.txt").write_text("1 2 3 4 2\n5,6,7,8,1\n")
    for side in ("test", "temp"):
        Image.new("L", (8, 8)).save(tmp_path / f"a_{side}.jpg")

    boards = Boards(tmp_path, ("open", "short"))

    assert boards.truth == [[Box(1, 2, 3, 4, "short", 1.0), Box(5, 6, 7, 8, "open", 1.0)]]


def _truth():
    from PIL import Image

    return Image.open(DEMO / "tissue" / "lab_mask.png").convert("1")


def _core(truth, corner):
    left, top = corner
    return truth[top : top + CORE, left : left + CORE].astype(bool)
