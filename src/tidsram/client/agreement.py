"""How much two answers agree: readings of one model beside another's, or beside what was wanted.

Every agreement is a share in [0, 1]. Arithmetic only: no files, no models.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tidsram.client.answer import Array, Box, Boxes, Label, Mask, Reading, Tensors

Values = NDArray[np.float64]

SAME_THING: Final = 0.5  # intersection over union at which two boxes mean one thing


def agreement(given: Reading, other: Reading) -> float:
    """Return how much another answer to a question agrees with the one that was given.

    Classes agree or not; boxes by their F1, masks by their intersection over union, numbers by
    how small their differences are beside the numbers given.
    """
    if isinstance(given, Label) and isinstance(other, Label):
        return class_agreement([given], [other])
    if isinstance(given, Boxes) and isinstance(other, Boxes):
        return match_boxes([given], [other]).f1
    if isinstance(given, Mask) and isinstance(other, Mask):
        return mask_iou([given], [other])
    assert isinstance(given, Tensors), "both answers are read by one table"
    assert isinstance(other, Tensors), "both answers are read by one table"
    return min(_nearness(array, other.outputs[name]) for name, array in given.outputs.items())


class Matches(Struct, frozen=True, kw_only=True):
    """How many boxes were found, how many were wanted, and how many are both."""

    hits: int
    found: int
    wanted: int

    @property
    def precision(self) -> float | None:
        """Share of the boxes found that were wanted; None where none was found."""
        return self.hits / self.found if self.found else None

    @property
    def recall(self) -> float | None:
        """Share of the boxes wanted that were found; None where none was wanted."""
        return self.hits / self.wanted if self.wanted else None

    @property
    def f1(self) -> float:
        """The harmonic mean of both; 1 where nothing was wanted and nothing found."""
        boxes = self.found + self.wanted
        return 2 * self.hits / boxes if boxes else 1.0


def class_agreement(wanted: Sequence[Label], got: Sequence[Label]) -> float:
    """Return the share of the samples whose most probable class is the one wanted."""
    pairs = zip(wanted, got, strict=True)
    return sum(one.label == other.label for one, other in pairs) / len(wanted)


# Boxes


def match_boxes(
    wanted: Sequence[Boxes], got: Sequence[Boxes], overlap_min: float = SAME_THING
) -> Matches:
    """Count in all samples together the boxes that mean one thing."""
    missing = sum(
        len(unmatched(there.boxes, here.boxes, overlap_min))
        for here, there in zip(wanted, got, strict=True)
    )
    count = sum(len(reading.boxes) for reading in wanted)
    return Matches(
        hits=count - missing, found=sum(len(reading.boxes) for reading in got), wanted=count
    )


def unmatched(
    found: Sequence[Box], wanted: Sequence[Box], overlap_min: float = SAME_THING
) -> list[Box]:
    """Return the wanted boxes that were not found.

    Each box found, the surest first, takes the wanted box of its class that it overlaps most.
    """
    rest = list(wanted)
    for box in sorted(found, key=lambda box: -box.score):
        overlaps = [overlap(box, other) if box.label == other.label else 0.0 for other in rest]
        best = max(range(len(rest)), key=overlaps.__getitem__, default=None)
        if best is not None and overlaps[best] >= overlap_min:
            del rest[best]
    return rest


def overlap(one: Box, other: Box) -> float:
    """Return the intersection over union of two boxes, 0 where they do not meet."""
    width = min(one.x2, other.x2) - max(one.x1, other.x1)
    height = min(one.y2, other.y2) - max(one.y1, other.y1)
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / (_area(one) + _area(other) - common)


def _area(box: Box) -> float:
    return (box.x2 - box.x1) * (box.y2 - box.y1)


# Masks


def mask_iou(wanted: Sequence[Mask], got: Sequence[Mask]) -> float:
    """Return the pixels marked in both over those marked in either; 1 where none is in any."""
    both = either = 0
    for one, other in zip(wanted, got, strict=True):
        pixels = resampled(other, one).pixels
        both += int((one.pixels & pixels).sum())
        either += int((one.pixels | pixels).sum())
    return both / either if either else 1.0


def resampled(mask: Mask, like: Mask) -> Mask:
    """Return `mask` on the pixels of `like`, by nearest pixel; unmarked where it says nothing."""
    rows, columns = like.pixels.shape
    left, top, right, bottom = like.inside
    across = _nearest(columns, (left, right), mask.pixels.shape[1], mask.inside[::2])
    down = _nearest(rows, (top, bottom), mask.pixels.shape[0], mask.inside[1::2])
    # One row and one column of nothing stand for all that lies outside.
    padded = np.pad(mask.pixels, ((0, 1), (0, 1)))
    return Mask(padded[np.ix_(down, across)], like.inside)


def _nearest(
    count: int, span: tuple[float, float], pixels: int, inside: Sequence[float]
) -> NDArray[np.intp]:
    """Return for each of `count` pixels over `span` which of the others it lies in, or `pixels`."""
    centres = span[0] + (np.arange(count) + 0.5) * ((span[1] - span[0]) / count)
    places = np.floor((centres - inside[0]) * (pixels / (inside[1] - inside[0])))
    return np.where((places >= 0) & (places < pixels), places, pixels).astype(np.intp)


# Numbers


def closeness(wanted: Sequence[Tensors], got: Sequence[Tensors]) -> float:
    """Return 1 − RMS error ÷ RMS of how the wanted values vary, not below 0; 1 is equal.

    Values vary around the mean that each place of an output has over the samples, so a model that
    ignores its input and always gives that mean scores 0. Of several outputs the worst counts.
    Outputs of other sizes than wanted score 0.
    """
    names = list(wanted[0].outputs)
    if set(names) != set(got[0].outputs):  # labels: one row of numbers for all outputs
        return _closeness(list(map(joined, wanted)), list(map(joined, got)))
    return min(
        _closeness(
            [reading.outputs[name] for reading in wanted],
            [reading.outputs[name] for reading in got],
        )
        for name in names
    )


def _closeness(wanted: Sequence[Array], got: Sequence[Array]) -> float:
    if any(one.size != other.size for one, other in zip(wanted, got, strict=True)):
        return 0.0
    with np.errstate(all="ignore"):  # what overflows is as far away as can be
        mean = _mean(wanted)
        error = variation = 0.0  # sums of squares; one sample at a time, as outputs may be large
        for one, other in zip(map(_flat, wanted), map(_flat, got), strict=True):
            differs = one != other  # two equal infinities differ by nothing
            error += float(np.square(other[differs] - one[differs]).sum())
            variation += float(np.square(one - mean).sum())
        if error == 0:
            return 1.0
        share = 1 - math.sqrt(error / variation) if variation > 0 else 0.0
    return min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0


def _nearness(given: Array, other: Array) -> float:
    """Return 1 − RMS difference ÷ RMS of what was given, not below 0; 1 is equal.

    One answer alone does not show how answers vary, so that `closeness` cannot judge it.
    """
    if given.size != other.size:
        return 0.0
    one, two = _flat(given), _flat(other)
    with np.errstate(all="ignore"):
        differs = one != two
        error = float(np.square(two[differs] - one[differs]).sum())
        size = float(np.square(one).sum())
    if error == 0:
        return 1.0
    share = 1 - math.sqrt(error / size) if size > 0 else 0.0
    return max(share, 0.0) if math.isfinite(share) else 0.0


def _mean(samples: Sequence[Array]) -> Values | float:
    """Return the mean at each place, or of all values where samples differ in size or are one."""
    total = sum(sample.size for sample in samples)
    if len(samples) == 1 or any(sample.size != samples[0].size for sample in samples):
        return sum(float(_flat(sample).sum()) for sample in samples) / max(1, total)
    mean = np.zeros(samples[0].size)
    for sample in samples:
        mean += _flat(sample) / len(samples)
    return mean


def _flat(array: Array) -> Values:
    return array.astype(np.float64).ravel()


def joined(reading: Tensors) -> Values:
    """Return all outputs as one row of numbers, in their order."""
    return np.concatenate([_flat(array) for array in reading.outputs.values()])
