"""The lab's drawings as inline SVG: time against accuracy, how times are spread, what was answered.

Nothing is told by colour alone. Names and labels go through Markup, which escapes them.
"""

import base64
import io
from collections.abc import Sequence
from itertools import pairwise
from math import floor, log, log10

import numpy as np
from markupsafe import Markup
from msgspec import Struct
from PIL import Image

from tidsram import stats
from tidsram.client.answer import Box, Boxes, Label, Mask, Reading
from tidsram.lab.page import ALERT, FAINT, INK, MAIN, OTHER, SOFT
from tidsram.units import SECOND, US, show_ns

_STROKES = ((MAIN, "none"), (OTHER, "7 3"), (INK, "1.5 3"), (SOFT, "9 3 2 3"))
_LEVELS = ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"), (0.9999, "p99.99"))
_FOUND, _MASKED = "#ffd23f", (213, 94, 0)
_TEXT_LETTER = 6.7  # at 12 px
_NAME_HEIGHT = 14.0
_TICK_GAP = 46.0
_TOP, _BOTTOM = 46, 310  # of the chart within its words
_LARGEST = 720  # pixels of a picture's longer side
_QUALITY = 80
_STEPS = 90  # of a curve

_Rectangle = tuple[float, float, float, float]


class Mark(Struct, frozen=True, kw_only=True):
    """A variant on the chart: its accuracy, its time, and what that is usually and at worst."""

    name: str
    accuracy: float
    time_ns: int
    usual_ns: int
    worst_ns: int
    kept: bool


class TimeAxis(Struct, frozen=True, kw_only=True):
    """A logarithmic axis of time, from `left` to `right` on the drawing."""

    low_ns: float
    high_ns: float
    left: float
    right: float

    def at(self, ns: float) -> float:
        """Return where a time lies; what is beyond an end lies at that end."""
        inside = min(self.high_ns, max(self.low_ns, ns))
        share = log(inside / self.low_ns) / log(self.high_ns / self.low_ns)
        return self.left + share * (self.right - self.left)

    def ticks(self) -> list[int]:
        """Return as many round times as stand far enough apart to be read."""
        decades = [US * 10**power for power in range(len(str(3600 * SECOND // US)))]
        ticks: list[int] = []
        for steps in (range(1, 10), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
            times = [step * decade for decade in decades for step in steps]
            ticks = [ns for ns in times if self.low_ns <= ns <= self.high_ns]
            places = [self.at(ns) for ns in ticks]
            gaps = [b - a for a, b in pairwise(places)]
            if min(gaps, default=_TICK_GAP) >= _TICK_GAP:
                break
        return ticks


def around(times_ns: Sequence[int]) -> tuple[float, float]:
    """Return the ends of an axis on which all of `times_ns` stand free of its edges."""
    return max(1, min(times_ns)) / 1.35, max(1, *times_ns) * 1.35  # a clock may say 0


# Time against accuracy


def draw_ladder(
    marks: Sequence[Mark], budget_ns: int | None, floor_at: float, metric: str, width: int
) -> Markup:
    """Draw accuracy over time, with the frontier as the stairs that a budget climbs."""
    times = [ns for mark in marks for ns in (mark.usual_ns, mark.time_ns, mark.worst_ns)]
    low_ns, high_ns = around([*times, *([budget_ns] if budget_ns else [])])
    axis = TimeAxis(low_ns=low_ns, high_ns=high_ns, left=46, right=width - 8)
    scale = _Accuracy.around(marks, floor_at)
    stairs = _stairs(marks, scale, axis)
    drawn = [
        _time_grid(axis, _TOP, _BOTTOM),
        _accuracy_grid(scale, axis),
        _budget(budget_ns, axis, _TOP, _BOTTOM),
        _floor(floor_at, scale, axis),
        _frontier(stairs),
        *(_mark(mark, scale, axis) for mark in marks),
        *_labels(marks, stairs, scale, axis),
        Markup('<text x="0" y="13" class="axis">{}</text>').format(metric),
    ]
    words = "; ".join(_mark_words(mark) for mark in marks)
    return Markup(
        '<svg viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}">{3}</svg>'
    ).format(width, _BOTTOM + 26, f"Time against accuracy. {words}", Markup("").join(drawn))


class _Accuracy(Struct, frozen=True, kw_only=True):
    """An axis of accuracy: wide enough for what is kept; what lies lower stands at its bottom."""

    low: float
    high: float

    @classmethod
    def around(cls, marks: Sequence[Mark], floor_at: float) -> "_Accuracy":
        kept = [mark.accuracy for mark in marks if mark.kept] or [m.accuracy for m in marks]
        high = max(mark.accuracy for mark in marks)
        lowest = min(kept)
        span = max(high - lowest, 0.02)
        if 0 < lowest - floor_at < span:  # near enough to be seen
            lowest = floor_at
        return cls(low=max(0.0, lowest - 0.3 * span), high=min(1.0, high + 0.12 * span))

    def at(self, accuracy: float) -> float:
        share = (max(self.low, accuracy) - self.low) / (self.high - self.low)
        return _BOTTOM - share * (_BOTTOM - _TOP)

    def ticks(self) -> list[str]:
        span = self.high - self.low
        decade = 10.0 ** floor(log10(span / 4))
        step = next(decade * nice for nice in (1, 2, 5, 10) if span / (decade * nice) <= 5)
        digits = max(0, -floor(log10(step) + 1e-9))
        first = int(self.low / step - 1e-9) + 1
        many = int((self.high - first * step) / step + 1e-9) + 1
        return [f"{(first + number) * step:.{digits}f}" for number in range(many)]


def _accuracy_grid(scale: _Accuracy, axis: TimeAxis) -> Markup:
    return Markup("").join(
        Markup(
            '<line x1="{}" x2="{}" y1="{y}" y2="{y}" stroke="{}"/>'
            '<text x="{}" y="{}" text-anchor="end" class="tick">{}</text>'
        ).format(
            *(axis.left, axis.right, FAINT, axis.left - 6, _px(scale.at(float(tick)) + 4), tick),
            y=_px(scale.at(float(tick))),
        )
        for tick in scale.ticks()
    )


def _time_grid(axis: TimeAxis, top: float, bottom: float) -> Markup:
    ticks = Markup("").join(
        Markup(
            '<line x1="{x}" x2="{x}" y1="{}" y2="{}" stroke="{}"/>'
            '<text x="{x}" y="{}" text-anchor="middle" class="tick">{}</text>'
        ).format(top, bottom, FAINT, bottom + 17, show_ns(ns), x=_px(axis.at(ns)))
        for ns in axis.ticks()
    )
    return ticks + Markup('<line x1="{}" x2="{}" y1="{y}" y2="{y}" stroke="{}"/>').format(
        axis.left, axis.right, SOFT, y=bottom
    )


def _budget(budget_ns: int | None, axis: TimeAxis, top: float, bottom: float) -> Markup:
    """Draw where the budget ends, and shade what is too late."""
    if budget_ns is None:
        return Markup("")
    x = axis.at(budget_ns)
    right_of_it = x < (axis.left + axis.right) / 2
    return Markup(
        '<rect x="{x}" width="{}" y="{top}" height="{}" fill="{alert}" opacity=".06"/>'
        '<line x1="{x}" x2="{x}" y1="{top}" y2="{}" stroke="{alert}" stroke-width="2"/>'
        '<text x="{}" y="{}" text-anchor="{}" class="budget">budget {}</text>'
    ).format(
        _px(axis.right - x),
        bottom - top,
        bottom,
        _px(x + (-1 if right_of_it else 1)),
        top - 8,
        "start" if right_of_it else "end",
        show_ns(budget_ns),
        x=_px(x),
        top=top,
        alert=ALERT,
    )


def _floor(floor_at: float, scale: _Accuracy, axis: TimeAxis) -> Markup:
    if not scale.low < floor_at < scale.high:
        return Markup("")
    y = scale.at(floor_at)
    return Markup(
        '<line x1="{}" x2="{right}" y1="{y}" y2="{y}" stroke="{}" stroke-dasharray="4 3"/>'
        '<text x="{right}" y="{}" text-anchor="end" class="tick">accuracy floor {}</text>'
    ).format(axis.left, SOFT, _px(y + 14), f"{floor_at:g}", y=_px(y), right=axis.right)


def _stairs(marks: Sequence[Mark], scale: _Accuracy, axis: TimeAxis) -> list[tuple[float, float]]:
    """Return the corners of the best accuracy that each time buys, up to the end of the axis."""
    corners: list[tuple[float, float]] = []
    for mark in sorted(marks, key=lambda mark: (mark.time_ns, -mark.accuracy)):
        x, y = axis.at(mark.time_ns), scale.at(mark.accuracy)
        if mark.kept and (not corners or y < corners[-1][1]):
            corners += [(x, corners[-1][1]), (x, y)] if corners else [(x, y)]
    return [*corners, (axis.right, corners[-1][1])] if corners else []


def _frontier(stairs: Sequence[tuple[float, float]]) -> Markup:
    return Markup('<polyline points="{}" fill="none" stroke="{}" stroke-width="1.5"/>').format(
        " ".join(f"{_px(x)},{_px(y)}" for x, y in stairs), MAIN
    )


def _mark(mark: Mark, scale: _Accuracy, axis: TimeAxis) -> Markup:
    """Draw a variant, on a line from what it usually takes to its worst condition."""
    x, y = axis.at(mark.time_ns), scale.at(mark.accuracy)
    colour = INK if mark.kept else SOFT
    return Markup(
        '<line x1="{low}" x2="{high}" y1="{y}" y2="{y}" stroke="{c}"/>'
        '<line x1="{low}" x2="{low}" y1="{}" y2="{}" stroke="{c}" stroke-width="1.5"/>'
        '<path d="M{} {}l-5 -4v8z" fill="{c}"/>'
        '<circle cx="{}" cy="{y}" r="5.5" fill="{}" stroke="{c}" stroke-width="2"/>'
    ).format(
        _px(y - 4),
        _px(y + 4),
        _px(axis.at(mark.worst_ns)),
        _px(y),
        _px(x),
        MAIN if mark.kept else "#fff",
        low=_px(axis.at(mark.usual_ns)),
        high=_px(axis.at(mark.worst_ns)),
        y=_px(y),
        c=colour,
    )


def _labels(
    marks: Sequence[Mark],
    stairs: Sequence[tuple[float, float]],
    scale: _Accuracy,
    axis: TimeAxis,
) -> list[Markup]:
    """Name each mark where its words meet the least of what is drawn already."""
    taken = [_extent(mark, scale, axis) for mark in marks]
    taken += [
        (min(x1, x2) - 1, min(y1, y2) - 1, max(x1, x2) + 1, max(y1, y2) + 1)
        for (x1, y1), (x2, y2) in pairwise(stairs)
    ]
    taken += [(0, -99, axis.right, _TOP - 14), (0, _BOTTOM, axis.right, _BOTTOM + 99)]
    drawn = []
    for mark in sorted(marks, key=lambda mark: not mark.kept):
        below = mark.accuracy < scale.low
        details = f"{show_accuracy(mark.accuracy)} · {show_ns(mark.time_ns)}"
        lines = [mark.name, details] if mark.kept else [mark.name]
        if below:
            lines = [f"{mark.name} ↓ {show_accuracy(mark.accuracy)}"]
        place = _free_place(lines, axis.at(mark.time_ns), scale.at(mark.accuracy), taken, axis)
        taken.append(place)
        drawn.append(_label(lines, place, mark.kept))
    return drawn


def _extent(mark: Mark, scale: _Accuracy, axis: TimeAxis) -> _Rectangle:
    x, y = axis.at(mark.time_ns), scale.at(mark.accuracy)
    low, high = axis.at(mark.usual_ns), axis.at(mark.worst_ns)
    return min(low, x - 6), y - 6, max(high, x + 6), y + 6


def _free_place(
    lines: Sequence[str], x: float, y: float, taken: Sequence[_Rectangle], axis: TimeAxis
) -> _Rectangle:
    wide = max(len(line) for line in lines) * _TEXT_LETTER
    high = _NAME_HEIGHT * len(lines)
    lefts = (x - wide / 2, x + 4, x - wide - 4)
    tops = (y - 9 - high, y + 7, y - 9 - 2 * high, y + 7 + high)
    inside = [min(max(left, axis.left), axis.right - wide) for left in lefts]
    places = [(left, top, left + wide, top + high) for top in tops for left in inside]
    return min(places, key=lambda place: sum(_common(place, other) for other in taken))


def _common(a: _Rectangle, b: _Rectangle) -> float:
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, across) * max(0.0, down)


def _label(lines: Sequence[str], place: _Rectangle, kept: bool) -> Markup:
    left, top = place[:2]
    spans = [
        Markup('<tspan x="{}" y="{}"{}>{}</tspan>').format(
            _px(left),
            _px(top + _NAME_HEIGHT * (number + 1) - 3),
            Markup(' class="name"') if kept and number == 0 else "",
            line,
        )
        for number, line in enumerate(lines)
    ]
    return Markup('<text class="label{}">{}</text>').format(
        "" if kept else " out", Markup("").join(spans)
    )


def _mark_words(mark: Mark) -> str:
    fate = "" if mark.kept else ", left out"
    return f"{mark.name}: accuracy {show_accuracy(mark.accuracy)}, {show_ns(mark.time_ns)}{fate}"


# How times are spread


def draw_tails(
    name: str,
    curves: Sequence[tuple[int, ...]],
    ends: tuple[float, float],
    most: int,
    budget_ns: int | None,
) -> Markup:
    """Draw which share of runs takes longer than a time, for one variant in each condition.

    `curves` are in ascending order. Each ends where its runs no longer carry a claim; the axis
    ends where those of `most` runs do.
    """
    width, height, top, bottom = 340, 216, 20, 190
    axis = TimeAxis(low_ns=ends[0], high_ns=ends[1], left=48, right=width - 6)
    drop = (bottom - top) / -_last_power(most)
    grid = Markup("").join(
        Markup(
            '<line x1="{}" x2="{}" y1="{y}" y2="{y}" stroke="{}"/>'
            '<text x="{}" y="{}" text-anchor="end" class="tick">{}</text>'
        ).format(
            *(axis.left, axis.right, FAINT, axis.left - 4, _px(top - drop * log10(1 - q) + 4)),
            label,
            y=_px(top - drop * log10(1 - q)),
        )
        for q, label in _LEVELS
        if stats.claimable(most, q)
    )
    lines = Markup("").join(
        _tail(times, axis, top, drop, *_STROKES[number % len(_STROKES)])
        for number, times in enumerate(curves)
    )
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width,
        height,
        f"Share of runs of {name} that take longer than a time; the table below says the same.",
        _time_grid(axis, top, bottom) + grid + _budget(budget_ns, axis, top, bottom) + lines,
    )


def stroke_swatch(number: int) -> Markup:
    """Draw a legend's stroke for the condition of that number."""
    colour, dashes = _STROKES[number % len(_STROKES)]
    return Markup(
        '<svg width="34" height="10" aria-hidden="true">'
        '<path d="M1 5H33" stroke="{}" stroke-width="2" stroke-dasharray="{}"/></svg>'
    ).format(colour, dashes)


def _last_power(runs: int) -> float:
    """Return the power of ten of the share above the last percentile that is claimable."""
    return log10(1 - 0.01 ** (1 / runs)) + 1e-9


def _tail(
    times: Sequence[int], axis: TimeAxis, top: float, drop: float, colour: str, dashes: str
) -> Markup:
    """Follow the percentiles from the first to the last that is claimable."""
    last = _last_power(len(times))
    points = []
    for step in range(_STEPS + 1):
        power = last * step / _STEPS
        ns = times[0] if step == 0 else stats.percentile(times, 1 - 10**power)
        if ns is not None:
            points.append(f"{_px(axis.at(ns))} {_px(top - drop * power)}")
    return Markup(
        '<polyline points="{}" fill="none" stroke="{}" stroke-width="2" stroke-dasharray="{}"/>'
    ).format(" ".join(points), colour, dashes)


# What was answered


def draw_answer(image: Image.Image, reading: Reading, key: str, again: bool) -> Markup:
    """Draw an answer on what was asked; `again` reuses the picture drawn before under `key`."""
    width, height = image.size
    ground = (
        Markup('<use href="#{}"/>').format(key)
        if again
        else Markup('<image id="{}" width="{}" height="{}" href="{}"/>').format(
            key, width, height, _as_data(image)
        )
    )
    found = Markup("")
    if isinstance(reading, Boxes):
        found = Markup("").join(_box(box, width) for box in reversed(reading.boxes))
    elif isinstance(reading, Mask):
        found = _mask(reading)
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>').format(
        width, height, words(reading), ground, found
    )


def words(reading: Reading) -> str:
    """Say an answer in words."""
    if isinstance(reading, Boxes):
        labels = [box.label for box in reading.boxes]
        kinds = [f"{label} {labels.count(label)}" for label in dict.fromkeys(labels)]
        return f"{len(labels)} found: {', '.join(kinds)}" if labels else "nothing found"
    if isinstance(reading, Mask):
        return f"{reading.share:.1%} of the pixels marked"
    if isinstance(reading, Label):
        return f"{reading.label} {reading.score:.2f}"
    return "; ".join(f"{name} {_numbers(array)}" for name, array in reading.outputs.items())


def show_accuracy(accuracy: float) -> str:
    """Show a share to three digits, never rounded up."""
    return f"{floor(accuracy * 1000 + 1e-6) / 1000:.3f}"


def _numbers(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
    if array.size > 4:
        return " × ".join(str(size) for size in array.shape)
    return ", ".join(f"{value:.4g}" for value in array.astype(np.float64).ravel().tolist())


def _box(box: Box, width: int) -> Markup:
    """Draw a box and its words, as large as they are read on a picture of any size."""
    unit = width / 480
    text = f"{box.label} {box.score:.2f}"
    long, high = (len(text) * 6.2 + 6) * unit, 14 * unit
    x = max(0.0, min(box.x1, width - long))
    y = box.y1 - high if box.y1 >= high else box.y1
    return Markup(
        '<rect x="{x}" y="{y}" width="{w}" height="{h}" fill="none" stroke="{}" '
        'stroke-width="{}"/><rect x="{x}" y="{y}" width="{w}" height="{h}" fill="none" '
        'stroke="{}" stroke-width="{}"/><rect x="{}" y="{}" width="{}" height="{}" fill="{}"/>'
        '<text x="{}" y="{}" font-size="{}">{}</text>'
    ).format(
        *(INK, _px(3.4 * unit), _FOUND, _px(1.8 * unit)),
        *(_px(x), _px(y), _px(long), _px(high), _FOUND),
        *(_px(x + 3 * unit), _px(y + 10.8 * unit), _px(11 * unit), text),
        x=_px(box.x1),
        y=_px(box.y1),
        w=_px(box.x2 - box.x1),
        h=_px(box.y2 - box.y1),
    )


def _mask(mask: Mask) -> Markup:
    """Tint what is marked and draw its edge, pixel for pixel of the model's own resolution."""
    padded = np.pad(mask.pixels, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    tint = np.zeros((*mask.pixels.shape, 4), np.uint8)
    tint[mask.pixels] = (*_MASKED, 90)
    tint[mask.pixels & ~inner] = (*_MASKED, 255)
    x1, y1, x2, y2 = mask.inside
    return Markup(
        '<image x="{}" y="{}" width="{}" height="{}" preserveAspectRatio="none" '
        'style="image-rendering:pixelated" href="{}"/>'
    ).format(_px(x1), _px(y1), _px(x2 - x1), _px(y2 - y1), _encoded(Image.fromarray(tint), "PNG"))


def _as_data(image: Image.Image) -> str:
    picture = image.convert("RGB")
    picture.thumbnail((_LARGEST, _LARGEST))
    return _encoded(picture, "JPEG")


def _encoded(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=_QUALITY)
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{content}"


def _px(length: float) -> str:
    return f"{length:.1f}"
