"""From the model's outputs to what a person or a machine acts on: boxes, a mask, a class.

Coordinates are those of the image the asker holds, never of the model's input. Runs inside the
asker's budget; numpy only.
"""

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tidsram.client.question import Size, placed
from tidsram.errors import QuestionError
from tidsram.estate.types import Answer

Array = NDArray[np.generic]
Floats = NDArray[np.float32]

_OVERLAP_MAX = 0.5  # two boxes of one class that overlap more are one thing seen twice
_SMALLEST_DEFECT = 2  # grid cells: a single cell is noise
_FINEST_STRIDE = 8  # NanoDet's finest level looks at every 8th pixel; each coarser one at half that


class Box(Struct, frozen=True):
    """One thing found: where, what, and how sure the model is."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str
    score: float

    @property
    def centre(self) -> tuple[float, float]:
        """The point halfway between the corners."""
        return (self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2


class Boxes(Struct, frozen=True):
    """Everything found, the surest first."""

    boxes: tuple[Box, ...]


class Mask(Struct, frozen=True):
    """Which pixels belong: `pixels` covers the part `inside` (x1, y1, x2, y2) of the image."""

    pixels: NDArray[np.bool_]
    inside: tuple[float, float, float, float]

    @property
    def share(self) -> float:
        """Share of the pixels that belong, 0 to 1."""
        return float(self.pixels.mean())


class Label(Struct, frozen=True):
    """The most probable class."""

    label: str
    score: float


class Tensors(Struct, frozen=True):
    """The outputs as they came, by name."""

    outputs: dict[str, Array]


Reading = Boxes | Mask | Label | Tensors


def read(
    answer: Answer,
    outputs: Mapping[str, Array],
    image_size: Size,
    model_size: Size | None = None,
    fit: Literal["stretch", "letterbox"] = "stretch",
) -> Reading:
    """Read the model's outputs for an image of `image_size` (width, height) pixels.

    `model_size` is what the model was given, where the image was made to fit that, and `fit` how.
    """
    if answer.kind == "boxes":
        return Boxes(_boxes_by_decoder(answer, outputs, image_size, model_size, fit))
    if answer.kind == "mask":
        return _mask(answer, outputs, _Way(model_size or image_size, image_size, fit))
    if answer.kind == "class":
        return _class_row(answer, outputs) if answer.decoder == "rows" else _class(answer, outputs)
    return Tensors(dict(outputs))


class _Way:
    """The way back from the model's frame of `size` to the image that was made to fit it."""

    def __init__(self, size: Size, image_size: Size, fit: Literal["stretch", "letterbox"]) -> None:
        self.size, self.image_size = size, image_size
        self.inner, self.at = placed(size, image_size, fit)
        self.scale = image_size[0] / self.inner[0], image_size[1] / self.inner[1]

    def back(self, corners: Floats) -> Floats:
        """Return x1, y1, x2, y2 in pixels of the image, cut at its edges."""
        there = (corners - np.array(self.at * 2, np.float32)) * np.array(self.scale * 2, np.float32)
        cut: Floats = np.clip(there, 0, np.array(self.image_size * 2, np.float32))
        return cut


def _boxes_by_decoder(
    answer: Answer,
    outputs: Mapping[str, Array],
    image_size: Size,
    model_size: Size | None,
    fit: Literal["stretch", "letterbox"],
) -> tuple[Box, ...]:
    if answer.decoder == "rows":
        return _box_rows(answer, outputs, _Way(model_size or image_size, image_size, fit))
    if answer.decoder == "nanodet":
        return _nanodet(answer, outputs, image_size, fit)
    if answer.decoder == "defect-grid":
        return _defect_grid(answer, outputs, _Way(model_size or image_size, image_size, fit))
    raise QuestionError(
        'the answer\'s table says kind = "boxes" without a decoder; '
        'add decoder = "nanodet", "defect-grid" or "rows"'
    )


# Rows: what a fused model has finished itself, in pixels of the frame, the surest first.


def _box_rows(answer: Answer, outputs: Mapping[str, Array], way: _Way) -> tuple[Box, ...]:
    rows = _rows(outputs, "boxes", 6)
    rows = rows[rows[:, 4] > 0]
    boxes = []
    corners, found = way.back(rows[:, :4]).tolist(), rows[:, 4:].tolist()
    for (x1, y1, x2, y2), (score, index) in zip(corners, found, strict=True):
        boxes.append(Box(x1, y1, x2, y2, _name(answer, int(index)), score))
    return tuple(boxes)


def _class_row(answer: Answer, outputs: Mapping[str, Array]) -> Label:
    rows = _rows(outputs, "classes", 2)
    if not len(rows):
        raise _not_read("rows", outputs)
    index, probability = rows[0].tolist()
    return Label(_name(answer, int(index)), probability)


def _rows(outputs: Mapping[str, Array], name: str, width: int) -> Floats:
    output = outputs.get(name, np.empty(0))
    if output.ndim != 3 or output.shape[0] != 1 or output.shape[2] != width:
        raise _not_read("rows", outputs)
    rows: Floats = output[0].astype(np.float32, copy=False)
    if not np.isfinite(rows).all():
        raise QuestionError(f"the answer's output {name!r} holds NaN or infinity; it says nothing")
    return rows


# NanoDet: three levels of square grids, each with class scores and four distance distributions.


def _nanodet(
    answer: Answer,
    outputs: Mapping[str, Array],
    image_size: Size,
    fit: Literal["stretch", "letterbox"],
) -> tuple[Box, ...]:
    levels = _nanodet_levels(outputs)
    corners, scores, classes = [], [], []
    for level, (level_scores, distances) in enumerate(levels):
        best = level_scores.max(axis=1)
        cells = np.flatnonzero(best > answer.threshold)
        if cells.size:
            grid = round(len(best) ** 0.5)
            corners.append(_corners(distances[cells], cells, grid, _FINEST_STRIDE << level))
            scores.append(best[cells])
            classes.append(level_scores[cells].argmax(axis=1))
    if not corners:
        return ()
    side = round(len(levels[0][0]) ** 0.5) * _FINEST_STRIDE
    boxes = _Way((side, side), image_size, fit).back(np.concatenate(corners))
    return _boxes(answer, boxes, np.concatenate(scores), np.concatenate(classes))


def _nanodet_levels(outputs: Mapping[str, Array]) -> list[tuple[Floats, Floats]]:
    """Pair scores and distances by their number of cells, finest grid first: order is not fixed."""
    by_cells: dict[int, dict[bool, Floats]] = {}
    for output in outputs.values():
        if output.ndim != 3 or output.shape[0] != 1:
            raise _not_read("nanodet", outputs)
        is_distances = output.shape[2] % 4 == 0 and output.shape[2] < 80
        by_cells.setdefault(output.shape[1], {})[is_distances] = output[0].astype(
            np.float32, copy=False
        )
    if not by_cells or any(len(pair) != 2 for pair in by_cells.values()):
        raise _not_read("nanodet", outputs)
    return [(by_cells[n][False], by_cells[n][True]) for n in sorted(by_cells, reverse=True)]


def _corners(distances: Floats, cells: NDArray[np.intp], grid: int, stride: int) -> Floats:
    """Turn each cell's four distance distributions (left, top, right, bottom) into corners."""
    bins = distances.reshape(len(cells), 4, -1)
    weights = np.exp(bins - bins.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    reach = (weights @ np.arange(bins.shape[2], dtype=np.float32)) * stride
    x = (cells % grid + 0.5) * stride
    y = (cells // grid + 0.5) * stride
    left, top, right, bottom = reach.T
    return np.stack([x - left, y - top, x + right, y + bottom], axis=1).astype(np.float32)


def _boxes(
    answer: Answer, corners: Floats, scores: Floats, classes: NDArray[np.intp]
) -> tuple[Box, ...]:
    kept = _without_doubles(corners, scores, classes)
    boxes = []
    for i in kept:
        x1, y1, x2, y2 = corners[i].tolist()
        boxes.append(Box(x1, y1, x2, y2, _name(answer, int(classes[i])), float(scores[i])))
    return tuple(boxes)


def _without_doubles(corners: Floats, scores: Floats, classes: NDArray[np.intp]) -> list[int]:
    """Keep the surest box of every group of one class that overlaps; return them surest first."""
    # Pushing each class to a place of its own lets one pass do all classes.
    apart = corners + (classes * (corners.max() + 1))[:, None].astype(np.float32)
    overlaps = _overlaps(apart)
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        if not kept or overlaps[i, kept].max() <= _OVERLAP_MAX:
            kept.append(i)
    return kept


def _overlaps(corners: Floats) -> Floats:
    """Intersection over union of every box with every other."""
    low = np.maximum(corners[:, None, :2], corners[None, :, :2])
    high = np.minimum(corners[:, None, 2:], corners[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    overlaps: Floats = common / np.maximum(areas[:, None] + areas[None, :] - common, 1e-9)
    return overlaps


# Defect grid: class probabilities for every cell; channel 0 is "nothing here".


def _defect_grid(answer: Answer, outputs: Mapping[str, Array], way: _Way) -> tuple[Box, ...]:
    grid = next(iter(outputs.values()), np.empty(0))
    if len(outputs) != 1 or grid.ndim != 4 or grid.shape[0] != 1 or grid.shape[3] < 2:
        raise _not_read("defect-grid", outputs)
    probabilities = grid[0].astype(np.float32, copy=False)
    rows, columns = probabilities.shape[:2]
    step = way.size[0] / columns, way.size[1] / rows
    # Background below 1 − threshold; 1 − x ≥ threshold would round differently.
    marked = np.argwhere(probabilities[:, :, 0] < 1 - answer.threshold).tolist()
    boxes = [
        _defect(answer, probabilities, cells, step, way)
        for cells in _connected({(row, column) for row, column in marked})
        if len(cells) >= _SMALLEST_DEFECT
    ]
    return tuple(sorted(boxes, key=lambda box: -box.score))


def _connected(marked: set[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Group cells that touch, corners included."""
    groups = []
    while marked:
        group, edge = [], [marked.pop()]
        while edge:
            row, column = edge.pop()
            group.append((row, column))
            around = [(row + dy, column + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            fresh = marked.intersection(around)
            marked -= fresh
            edge.extend(fresh)
        groups.append(group)
    return groups


def _defect(
    answer: Answer,
    grid: Floats,
    cells: list[tuple[int, int]],
    step: tuple[float, float],
    way: _Way,
) -> Box:
    rows, columns = np.array(cells).T
    mean = grid[rows, columns].mean(axis=0)
    corners = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
    x1, y1, x2, y2 = way.back(corners * np.array(step * 2, np.float32)).tolist()
    return Box(
        x1=x1,
        y1=y1,
        x2=x2,
        y2=y2,
        label=_name(answer, int(mean[1:].argmax())),
        score=float(1 - mean[0]),
    )


# One output, read directly.


def _mask(answer: Answer, outputs: Mapping[str, Array], way: _Way) -> Mask:
    output = _first(outputs)
    # A mask of bytes is a fused model's, which has applied the threshold itself.
    threshold = 0.0 if output.dtype == np.uint8 else answer.threshold
    marked = output.squeeze().astype(np.float32, copy=False) > threshold
    if marked.ndim != 2:
        raise _not_read("mask", outputs)
    columns, left, right = _span(marked.shape[1], way, 0)
    rows, top, bottom = _span(marked.shape[0], way, 1)
    return Mask(marked[rows, columns], (left, top, right, bottom))


def _span(pixels: int, way: _Way, axis: int) -> tuple[slice, float, float]:
    """Return which of a side's pixels lie on the image, and from where to where in it."""
    given, inner, at = way.size[axis], way.inner[axis], way.at[axis]
    # A network without padding answers for the centre of what it was given, pixel for pixel; any
    # other for all of it, perhaps coarser.
    step, start = (given / pixels, 0.0) if given % pixels == 0 else (1.0, (given - pixels) / 2)
    first = max(0, math.floor((at - start) / step))
    last = min(pixels, math.ceil((at + inner - start) / step))
    edges = [(start + edge * step - at) * way.scale[axis] for edge in (first, last)]
    return slice(first, last), edges[0], edges[1]


def _class(answer: Answer, outputs: Mapping[str, Array]) -> Label:
    values = _first(outputs).astype(np.float64).ravel()
    if values.min() < 0 or abs(values.sum() - 1) > 0.01:  # raw scores, not yet probabilities
        values = np.exp(values - values.max())
        values /= values.sum()
    best = int(values.argmax())
    return Label(_name(answer, best), float(values[best]))


def _first(outputs: Mapping[str, Array]) -> Array:
    output = next(iter(outputs.values()), None)
    if output is None or output.size == 0:
        raise _not_read("first output", outputs)
    return output


def _name(answer: Answer, index: int) -> str:
    return answer.labels[index] if 0 <= index < len(answer.labels) else f"class {index}"


def _not_read(decoder: str, outputs: Mapping[str, Array]) -> QuestionError:
    shapes = ", ".join(f"{name} {list(output.shape)}" for name, output in outputs.items())
    return QuestionError(
        f"the answer's outputs ({shapes or 'none'}) are not what the decoder {decoder!r} reads; "
        'change the answer\'s table in the estate, or use kind = "tensor"'
    )
