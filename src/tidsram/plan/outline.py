"""The world around the sites, as lines on a sheet: coasts, lakes and borders.

The projection is sinusoidal about the sites' own meridian: distances along each parallel and
along that meridian are true, so no country looks wider or narrower than it is.
"""

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from itertools import pairwise
from math import cos, radians
from typing import Literal

from msgspec import Struct

Point = tuple[float, float]  # to the right and down, in the sheet's units
Layer = Literal["land", "lakes", "borders"]
LAYERS: tuple[Layer, ...] = ("land", "lakes", "borders")  # from the bottom up

_MARGIN = 0.14  # of the sites' extent, on each side
_ALONE_DEGREES, _CLOSE_DEGREES = 3.0, 0.5  # shown around one site, and around sites in one town
_TALLEST, _WIDEST = 1.45, 0.62  # height over width


class Sheet(Struct, frozen=True, kw_only=True):
    """A piece of the world and the drawing it is put on."""

    meridian: float
    left: float  # degrees of longitude at the equator, from the meridian
    top: float  # degrees north
    scale: float  # units per degree
    width: float
    height: float

    def point(self, location: Point) -> Point:
        """Return where a latitude and longitude lie on the sheet."""
        latitude, longitude = location
        x, y = _projected(latitude, longitude, self.meridian)
        return (x - self.left) * self.scale, (self.top - y) * self.scale


def around(locations: Sequence[Point], width: float) -> Sheet:
    """Return a sheet of `width` that shows all `locations` with a margin."""
    longitudes = [longitude for _, longitude in locations]
    meridian = (min(longitudes) + max(longitudes)) / 2
    flat = [_projected(latitude, longitude, meridian) for latitude, longitude in locations]
    least = _CLOSE_DEGREES if len(set(locations)) > 1 else _ALONE_DEGREES
    west, east = _widened([x for x, _ in flat], least)
    south, north = _widened([y for _, y in flat], least)
    # What is too tall or too wide for a page gets more of the world on its short side.
    wide = max(east - west, (north - south) / _TALLEST)
    tall = max(north - south, wide * _WIDEST)
    return Sheet(
        meridian=meridian,
        left=(west + east - wide) / 2,
        top=(south + north + tall) / 2,
        scale=width / wide,
        width=width,
        height=width * tall / wide,
    )


def lines(sheet: Sheet, layer: Layer) -> list[list[Point]]:
    """Return the lines of `layer` that touch the sheet; land and lakes are cut to it."""
    drawn = []
    for line in _outline()[layer]:
        points = [sheet.point(location) for location in line]
        if _apart(points, sheet):
            continue
        shown = points if layer == "borders" else _cut(points, sheet)
        if len(shown) > 1:
            drawn.append(shown)
    return drawn


def _projected(latitude: float, longitude: float, meridian: float) -> Point:
    return (longitude - meridian) * cos(radians(latitude)), latitude


def _widened(values: Sequence[float], least: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = max((high - low) * _MARGIN, (least - (high - low)) / 2)
    return low - margin, high + margin


@cache
def _outline() -> dict[Layer, list[list[Point]]]:
    """Read the lines as latitudes and longitudes in degrees."""
    told = tomllib.loads((files("tidsram.plan") / "outline.toml").read_text("utf-8"))
    return {layer: [_walk(line) for line in told[layer]] for layer in LAYERS}


def _walk(steps: str) -> list[Point]:
    """Follow a line's steps, given in hundredths of a degree to the east and to the north."""
    numbers = iter(int(number) for number in steps.split())
    east = north = 0
    line = []
    for to_east, to_north in zip(numbers, numbers, strict=True):
        east, north = east + to_east, north + to_north
        line.append((north / 100, east / 100))
    return line


def _apart(points: Sequence[Point], sheet: Sheet) -> bool:
    """Say whether all points lie beyond the same edge, so that nothing can show."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return max(xs) < 0 or min(xs) > sheet.width or max(ys) < 0 or min(ys) > sheet.height


def _cut(ring: list[Point], sheet: Sheet) -> list[Point]:
    """Cut a closed ring to a little more than the sheet, edge by edge (Sutherland-Hodgman).

    The little more keeps the cut's own lines out of sight.
    """
    room = 4.0
    for axis, limit, sign in (
        (0, -room, 1),
        (0, sheet.width + room, -1),
        (1, -room, 1),
        (1, sheet.height + room, -1),
    ):
        kept: list[Point] = []
        for before, here in pairwise([*ring[-1:], *ring]):
            was_in = sign * (before[axis] - limit) >= 0
            is_in = sign * (here[axis] - limit) >= 0
            if was_in != is_in:
                kept.append(_crossing(before, here, axis, limit))
            if is_in:
                kept.append(here)
        ring = kept
    return ring


def _crossing(a: Point, b: Point, axis: int, limit: float) -> Point:
    share = (limit - a[axis]) / (b[axis] - a[axis])
    return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])
