"""What the demo asks, and the truth its answers are scored against: real pictures, real labels.

An asker takes `images(index)` inside the measured time: a camera's frame arrives compressed and is
decoded then; a microscope's field is raw pixels, of which a question cuts one chip.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from PIL import Image

from tidsram.client.agreement import SAME_THING, overlap
from tidsram.client.answer import Box, Boxes, Mask, Reading
from tidsram.errors import QuestionError
from tidsram.estate.types import Answer, Decision
from tidsram.lab.labels import parse_boxes

CHIP = 188  # pixels of the field a tissue question shows
CORE = 100  # of which the model answers for the middle
_MARGIN = (CHIP - CORE) // 2
_LABEL_SLACK = 8  # pixels: the defect grid is as coarse as that

Answered = Sequence[tuple[int, Reading]]  # index of the question, what was read from its answer


class Accuracy(msgspec.Struct, frozen=True):
    """How right the answers were: `measures` by name, against what, over how many of what."""

    against: str
    measures: dict[str, float | None]
    count: int
    unit: str


class Material(Protocol):
    """One decision's questions; `count` different ones, asked round and round."""

    count: int
    image_size: tuple[int, int]

    def images(self, index: int) -> list[Image.Image]:
        """Return the pictures of one question, decoded now."""

    def score(self, answered: Answered) -> Accuracy:
        """Compare the answers with the truth."""


def load_material(decision: Decision, directory: Path) -> Material:
    """Load one decision's questions from the demo's data."""
    if decision.name == "obstacle":
        return Frames(directory / "obstacle")
    if decision.name == "tissue":
        return Chips(directory / "tissue")
    assert decision.answer is not None, "the demo's estate declares how answers are read"
    return Boards(directory / "inspection", decision.answer.labels)


class Frames:
    """Consecutive frames of a camera beside a path: people walking, parked cars.

    Nobody labelled them; the truth is what the lab's own model (larger, not quantised) finds.
    """

    def __init__(self, directory: Path) -> None:
        files = _files(directory / "frames", "*.jpg")
        self._frames = [file.read_bytes() for file in files]
        self.count = len(files)
        self.image_size = Image.open(io.BytesIO(self._frames[0])).size
        lab = msgspec.json.decode(
            (directory / "lab_boxes.json").read_bytes(), type=dict[str, list[Box]]
        )
        self.truth = [lab[file.stem] for file in files]

    def images(self, index: int) -> list[Image.Image]:
        """Decode one frame."""
        return [_decoded(self._frames[index % self.count])]

    def score(self, answered: Answered) -> Accuracy:
        """Count the lab's boxes that were found, and the boxes found that are the lab's."""
        pairs = [(_boxes(reading), self.truth[index % self.count]) for index, reading in answered]
        measures, count = _recall_and_precision(pairs, _same_thing)
        return Accuracy("what the lab's model finds", measures, count, "boxes")


class Chips:
    """One field of a blood smear, cut into chips, row by row; the truth is the lab's mask."""

    def __init__(self, directory: Path) -> None:
        (file,) = _files(directory, "blood_test_clahe.png")
        self.field = field = _decoded(file.read_bytes()).convert("RGB")
        self.columns, self.rows = -(-field.width // CORE), -(-field.height // CORE)
        self._padded = Image.new(
            "RGB", (self.columns * CORE + 2 * _MARGIN, self.rows * CORE + 2 * _MARGIN)
        )
        self._padded.paste(field, (_MARGIN, _MARGIN))
        self.count = self.columns * self.rows
        self.image_size = CHIP, CHIP
        self._truth_file = directory / "lab_mask.png"

    def images(self, index: int) -> list[Image.Image]:
        """Cut one chip."""
        left, top = self.corner(index)
        return [self._padded.crop((left, top, left + CHIP, top + CHIP))]

    def corner(self, index: int) -> tuple[int, int]:
        """Return where in the field the middle of a chip starts."""
        row, column = divmod(index % self.count, self.columns)
        return column * CORE, row * CORE

    def score(self, answered: Answered) -> Accuracy:
        """Return the pixels in both masks over those in either, all chips taken together."""
        truth = np.asarray(Image.open(self._truth_file).convert("1"))
        both = either = 0
        for index, reading in answered:
            left, top = self.corner(index)
            expected = truth[top : top + CORE, left : left + CORE]
            found = reading.pixels if isinstance(reading, Mask) else np.zeros_like(expected)
            both += int((expected & found).sum())
            either += int((expected | found).sum())
        share = both / either if either else None
        return Accuracy("the lab's mask", {"iou": share}, either, "pixels")


class Boards:
    """Pairs of a printed circuit board and its template, with every defect labelled."""

    def __init__(self, directory: Path, kinds: Sequence[str]) -> None:
        labels = _files(directory, "*.txt")
        self.names = [file.stem for file in labels]
        self._pairs = [
            [(directory / f"{name}_{side}.jpg").read_bytes() for side in ("test", "temp")]
            for name in self.names
        ]
        self.count = len(labels)
        self.image_size = Image.open(io.BytesIO(self._pairs[0][0])).size
        answer = Answer(kind="boxes", labels=tuple(kinds))
        self.truth = [
            list(parse_boxes(file.read_bytes(), str(file), answer, self.image_size).boxes)
            for file in labels
        ]

    def images(self, index: int) -> list[Image.Image]:
        """Decode the board, then its template."""
        return [_decoded(side) for side in self._pairs[index % self.count]]

    def score(self, answered: Answered) -> Accuracy:
        """Count the labelled defects found, and the defects found that are labelled."""
        pairs = [(_boxes(reading), self.truth[index % self.count]) for index, reading in answered]
        measures, count = _recall_and_precision(pairs, _centre_inside)
        return Accuracy("the labels", measures, count, "defects")

    def overlooked(self, index: int, found: Sequence[Box]) -> list[Box]:
        """Return the labelled defects of a board that are not among those found."""
        return _rest(found, self.truth[index % self.count], _centre_inside)


def _files(directory: Path, pattern: str) -> list[Path]:
    files = sorted(directory.glob(pattern))
    if not files:
        raise QuestionError(
            f"{directory} holds no {pattern}: the demo's data is missing; "
            "run `tidsram demo` from a full clone of the project"
        )
    return files


def _decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def _boxes(reading: Reading) -> Sequence[Box]:
    return reading.boxes if isinstance(reading, Boxes) else ()


def _recall_and_precision(
    pairs: Iterable[tuple[Sequence[Box], Sequence[Box]]], same: Callable[[Box, Box], bool]
) -> tuple[dict[str, float | None], int]:
    hits = found_count = true_count = 0
    for found, truth in pairs:
        hits += len(truth) - len(_rest(found, truth, same))
        found_count += len(found)
        true_count += len(truth)
    measures = {
        "recall": hits / true_count if true_count else None,
        "precision": hits / found_count if found_count else None,
    }
    return measures, true_count


def _rest(
    found: Sequence[Box], truth: Sequence[Box], same: Callable[[Box, Box], bool]
) -> list[Box]:
    """Match each box found, the surest first, with one true box at most; return what is left."""
    rest = list(truth)
    for box in found:
        match = next((true for true in rest if same(box, true)), None)
        if match is not None:
            rest.remove(match)
    return rest


def _same_thing(found: Box, true: Box) -> bool:
    return found.label == true.label and overlap(found, true) >= SAME_THING


def _centre_inside(found: Box, true: Box) -> bool:
    x, y = found.centre
    return (
        true.x1 - _LABEL_SLACK <= x <= true.x2 + _LABEL_SLACK
        and true.y1 - _LABEL_SLACK <= y <= true.y2 + _LABEL_SLACK
    )
