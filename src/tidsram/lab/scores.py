"""How right answers are: the readings of one model beside those wanted, scored by task.

Every score is a share in [0, 1] over all samples taken together. Arithmetic only: no files, no
models.
"""

from collections.abc import Sequence
from typing import Literal, TypeVar

from tidsram.client.agreement import (
    SAME_THING,
    class_agreement,
    closeness,
    mask_iou,
    match_boxes,
)
from tidsram.client.answer import Boxes, Label, Mask, Reading, Tensors
from tidsram.estate.bundle import Score

Against = Literal["original", "labels"]
Kind = Literal["boxes", "mask", "class", "tensor"]

_Reading = TypeVar("_Reading", Boxes, Mask, Label, Tensors)


def score(
    kind: Kind,
    wanted: Sequence[Reading],
    got: Sequence[Reading],
    *,
    against: Against,
    overlap_min: float = SAME_THING,
) -> Score:
    """Score what a model answered to some samples beside what was wanted; both in one order."""
    assert len(wanted) == len(got), "one reading for each sample"
    if kind == "boxes":
        matches = match_boxes(of_kind(Boxes, wanted), of_kind(Boxes, got), overlap_min)
        return Score(against=against, metric="box F1", value=matches.f1, samples=len(got))
    if kind == "mask":
        iou = mask_iou(of_kind(Mask, wanted), of_kind(Mask, got))
        return Score(against=against, metric="mask IoU", value=iou, samples=len(got))
    if kind == "class":
        agreement = class_agreement(of_kind(Label, wanted), of_kind(Label, got))
        return Score(against=against, metric="class agreement", value=agreement, samples=len(got))
    value = closeness(of_kind(Tensors, wanted), of_kind(Tensors, got))
    return Score(against=against, metric="closeness", value=value, samples=len(got))


def of_kind(kind: type[_Reading], readings: Sequence[Reading]) -> list[_Reading]:
    """Return the readings as what they all are."""
    chosen = [reading for reading in readings if isinstance(reading, kind)]
    assert len(chosen) == len(readings), f"all readings are {kind.__name__}"
    return chosen
