"""From the model's outputs to what a person or a machine acts on: boxes, a mask, a class.

Coordinates are those of the image the asker holds, never of the model's input. Runs inside the
asker's budget; numpy only.
"""

from collections.abc import Mapping

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

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
    image_size: tuple[int, int],
    model_size: tuple[int, int] | None = None,
) -> Reading:
    """Read the model's outputs for an image of `image_size` (width, height) pixels.

    `model_size` is what the model was given, where the image was resized for it.
    """
    if answer.kind == "boxes" and answer.decoder == "nanodet":
        return Boxes(_nanodet(answer, outputs, image_size))
    if answer.kind == "boxes" and answer.decoder == "defect-grid":
        return Boxes(_defect_grid(answer, outputs, image_size))
    if answer.kind == "boxes":
        raise QuestionError(
            'the answer\'s table says kind = "boxes" without a decoder; '
            'add decoder = "nanodet" or "defect-grid"'
        )
    if answer.kind == "mask":
        return _mask(answer, outputs, image_size, model_size or image_size)
    if answer.kind == "class":
        return _class(answer, outputs)
    return Tensors(dict(outputs))


# NanoDet: three levels of square grids, each with class scores and four distance distributions.


def _nanodet(
    answer: Answer, outputs: Mapping[str, Array], image_size: tuple[int, int]
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
    boxes = _to_image(np.concatenate(corners), side, image_size)
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


def _to_image(corners: Floats, side: int, image_size: tuple[int, int]) -> Floats:
    width, height = image_size
    scaled = corners * np.array([width / side, height / side] * 2, np.float32)
    return np.clip(scaled, 0, np.array([width, height] * 2, np.float32))


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


def _defect_grid(
    answer: Answer, outputs: Mapping[str, Array], image_size: tuple[int, int]
) -> tuple[Box, ...]:
    grid = next(iter(outputs.values()), np.empty(0))
    if len(outputs) != 1 or grid.ndim != 4 or grid.shape[0] != 1 or grid.shape[3] < 2:
        raise _not_read("defect-grid", outputs)
    probabilities = grid[0].astype(np.float32, copy=False)
    rows, columns = probabilities.shape[:2]
    step = image_size[0] / columns, image_size[1] / rows
    # Background below 1 − threshold; 1 − x ≥ threshold would round differently.
    marked = np.argwhere(probabilities[:, :, 0] < 1 - answer.threshold).tolist()
    boxes = [
        _defect(answer, probabilities, cells, step)
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
    answer: Answer, grid: Floats, cells: list[tuple[int, int]], step: tuple[float, float]
) -> Box:
    rows, columns = np.array(cells).T
    mean = grid[rows, columns].mean(axis=0)
    return Box(
        x1=float(columns.min() * step[0]),
        y1=float(rows.min() * step[1]),
        x2=float((columns.max() + 1) * step[0]),
        y2=float((rows.max() + 1) * step[1]),
        label=_name(answer, int(mean[1:].argmax())),
        score=float(1 - mean[0]),
    )


# One output, read directly.


def _mask(
    answer: Answer,
    outputs: Mapping[str, Array],
    image_size: tuple[int, int],
    model_size: tuple[int, int],
) -> Mask:
    pixels = _first(outputs).squeeze().astype(np.float32, copy=False)
    if pixels.ndim != 2:
        raise _not_read("mask", outputs)
    rows, columns = pixels.shape
    across, left = _span(columns, model_size[0], image_size[0])
    down, top = _span(rows, model_size[1], image_size[1])
    return Mask(pixels > answer.threshold, (left, top, left + across, top + down))


def _span(pixels: int, given: int, image: int) -> tuple[float, float]:
    """Return how much of the image a side of the mask covers, and where that starts."""
    if given % pixels == 0:  # all of it, perhaps coarser
        return float(image), 0.0
    # A network without padding answers for the centre of what it was given, pixel for pixel.
    scale = image / given
    return pixels * scale, (given - pixels) / 2 * scale


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
    return answer.labels[index] if index < len(answer.labels) else f"class {index}"


def _not_read(decoder: str, outputs: Mapping[str, Array]) -> QuestionError:
    shapes = ", ".join(f"{name} {list(output.shape)}" for name, output in outputs.items())
    return QuestionError(
        f"the answer's outputs ({shapes or 'none'}) are not what the decoder {decoder!r} reads; "
        'change the answer\'s table in the estate, or use kind = "tensor"'
    )
