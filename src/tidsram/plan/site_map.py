"""The report's map as inline SVG: sites where they lie, and the ways that questions go.

Names go through Markup, which escapes them.
"""

from collections.abc import Mapping, Sequence
from math import cos, hypot, pi, sin, sqrt

from markupsafe import Markup
from msgspec import Struct

from tidsram.estate.plan import Plan
from tidsram.estate.types import Estate
from tidsram.lab.page import INK, MAIN, OTHER, SOFT
from tidsram.plan import outline
from tidsram.plan.outline import Point, Sheet
from tidsram.plan.words import count

_SEA, _LAND, _COAST = "#e9f0f5", "#faf8f3", "#a9b6c0"

_WIDTH = 440.0
_DIAGRAM_HEIGHT = 300.0
_BEND = 0.16  # how far an arc leaves the straight line; always to its left, so pairs part
_LETTER, _SMALL_LETTER = 8.2, 6.7  # width of a letter at 13 and 11 px, on the safe side
_LABEL_HEIGHT = 30.0


class Way(Struct, frozen=True, kw_only=True):
    """Questions from one site to another, all decisions together."""

    source: str
    target: str
    rate: float
    decisions: tuple[str, ...]
    backup: bool = False


def draw_map(plan: Plan, estate: Estate) -> Markup:
    """Draw the sites where they lie, with the questions' ways; a plain diagram without locations.

    Sites without a location are left out where others have one.
    """
    located = {n: s.location for n, s in estate.sites.items() if s.location is not None}
    if located:
        sheet = outline.around(list(located.values()), _WIDTH)
        at = {name: sheet.point(location) for name, location in located.items()}
        ground, height = _ground(sheet), sheet.height
    else:
        at, ground, height = _in_a_circle(list(estate.sites)), Markup(""), _DIAGRAM_HEIGHT
    arcs = [arc for arc in ways(plan) if arc.source in at and arc.target in at]
    most = max((arc.rate for arc in arcs), default=1.0) or 1.0
    nodes = nodes_by_site(plan)
    return Markup(
        '<svg class="map" viewBox="0 0 {} {}" role="img" '
        'aria-label="The sites, and which way questions go">{}{}{}</svg>'
    ).format(
        f"{_WIDTH:.0f}",
        f"{height:.0f}",
        ground,
        Markup("").join(_arc(arc, at, most) for arc in arcs),
        _sites(at, nodes, [_curve(at[arc.source], at[arc.target]) for arc in arcs], height),
    )


def ways(plan: Plan) -> list[Way]:
    """Return the ways of questions between sites, backups first so that they lie beneath."""
    usual: dict[tuple[str, str], dict[str, float]] = {}
    backup: dict[tuple[str, str], dict[str, float]] = {}
    for flow in plan.flows:
        home = flow.place.site if flow.place else ""
        targets = {place.site for place in flow.backups.values() if place}
        for target in sorted(targets - {home, flow.source}):
            _add(backup, (flow.source, target), flow.decision, flow.rate)
        if home and home != flow.source:
            _add(usual, (flow.source, home), flow.decision, flow.rate)
    return [
        Way(
            source=source,
            target=target,
            rate=sum(rates.values()),
            decisions=tuple(rates),
            backup=kind is backup,
        )
        for kind in (backup, usual)
        for (source, target), rates in kind.items()
    ]


def nodes_by_site(plan: Plan) -> dict[str, int]:
    """Count the plan's nodes at each site that has any."""
    counts: dict[str, int] = {}
    for node in plan.nodes:
        counts[node.site] = counts.get(node.site, 0) + 1
    return counts


class _Box(Struct, frozen=True, kw_only=True):
    """A rectangle on the map."""

    x: float
    y: float
    width: float
    height: float

    def overlap(self, other: "_Box") -> float:
        """Return the area that both cover."""
        across = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        down = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return max(0.0, across) * max(0.0, down)

    def holds(self, point: Point) -> bool:
        """Say whether `point` lies inside."""
        return 0 <= point[0] - self.x <= self.width and 0 <= point[1] - self.y <= self.height


def _ground(sheet: Sheet) -> Markup:
    size = f"{sheet.width:.0f}", f"{sheet.height:.0f}"
    parts = [Markup('<rect width="{}" height="{}" fill="{}"/>').format(*size, _SEA)]
    for layer in outline.LAYERS:
        drawn = outline.lines(sheet, layer)
        closed = layer != "borders"
        parts.append(
            Markup('<path d="{}" fill="{}" stroke="{}" stroke-width=".7"{}/>').format(
                "".join(_path(line) + ("Z" if closed else "") for line in drawn),
                {"land": _LAND, "lakes": _SEA, "borders": "none"}[layer],
                _COAST,
                "" if closed else Markup(' stroke-dasharray="5 3"'),
            )
        )
    return Markup("").join(parts)


def _path(line: Sequence[Point]) -> str:
    """Write a line with tenths of a unit, leaving out points that fall on the one before."""
    points = list(dict.fromkeys(f"{x:.1f} {y:.1f}" for x, y in line))
    return "M" + "L".join(points)


def _in_a_circle(names: Sequence[str]) -> dict[str, Point]:
    """Place sites without locations evenly, the first on top."""
    across, down = _WIDTH * 0.28, _DIAGRAM_HEIGHT * 0.36
    if len(names) == 1:
        across = down = 0.0
    return {
        name: (
            _WIDTH / 2 + across * sin(2 * pi * number / len(names)),
            _DIAGRAM_HEIGHT / 2 - down * cos(2 * pi * number / len(names)),
        )
        for number, name in enumerate(names)
    }


def _add(
    ways: dict[tuple[str, str], dict[str, float]], way: tuple[str, str], decision: str, rate: float
) -> None:
    rates = ways.setdefault(way, {})
    rates[decision] = rates.get(decision, 0.0) + rate


def _arc(arc: Way, at: Mapping[str, Point], most: float) -> Markup:
    start, end = at[arc.source], at[arc.target]
    control = _control(start, end)
    thick = 1.6 if arc.backup else 1.4 + 3.2 * sqrt(arc.rate / most)
    shade = OTHER if arc.backup else MAIN
    told = "{}{} → {}: {}".format(
        "if something is lost, " if arc.backup else "",
        arc.source,
        arc.target,
        ", ".join(arc.decisions),
    )
    return Markup(
        '<g fill="none" stroke="{}" stroke-width="{}"><title>{}</title>'
        '<path d="M{} {}Q{} {} {} {}"{} stroke-linecap="round"/>{}</g>'
    ).format(
        shade,
        f"{thick:.1f}",
        told,
        *(f"{number:.1f}" for number in (*start, *control, *end)),
        Markup(' stroke-dasharray="2 5"') if arc.backup else "",
        _head(start, control, end, thick, shade),
    )


def _control(start: Point, end: Point) -> Point:
    """Return the point towards which the way bends."""
    across, down = end[0] - start[0], end[1] - start[1]
    return (start[0] + end[0]) / 2 + _BEND * 2 * down, (start[1] + end[1]) / 2 - _BEND * 2 * across


def _on_curve(start: Point, control: Point, end: Point, share: float) -> Point:
    """Return the point a share of the way along (a quadratic Bézier curve)."""
    back = 1 - share
    x, y = (
        back * back * a + 2 * back * share * b + share * share * c
        for a, b, c in zip(start, control, end, strict=True)
    )
    return x, y


def _curve(start: Point, end: Point) -> list[Point]:
    control = _control(start, end)
    return [_on_curve(start, control, end, step / 24) for step in range(25)]


def _head(start: Point, control: Point, end: Point, thick: float, shade: str) -> Markup:
    """Draw an arrow's head past the middle of the way, where no dot hides it."""
    tip, behind = (_on_curve(start, control, end, share) for share in (0.62, 0.58))
    across, down = tip[0] - behind[0], tip[1] - behind[1]
    length = hypot(across, down) or 1.0
    along_x, along_y = across / length, down / length
    long, half = 6 + thick * 1.4, 3.4 + thick * 0.9
    root = tip[0] - along_x * long, tip[1] - along_y * long
    corners = (
        tip,
        (root[0] - along_y * half, root[1] + along_x * half),
        (root[0] + along_y * half, root[1] - along_x * half),
    )
    return Markup('<path d="{}Z" fill="{}" stroke="none"/>').format(_path(corners), shade)


def _sites(
    at: Mapping[str, Point],
    nodes: Mapping[str, int],
    curves: Sequence[Sequence[Point]],
    height: float,
) -> Markup:
    radii = {name: 4.5 + 2.6 * sqrt(nodes[name]) if name in nodes else 4.5 for name in at}
    dots = [
        Markup('<circle cx="{}" cy="{}" r="{}" fill="{}" stroke="{}" stroke-width="2"/>').format(
            f"{x:.1f}",
            f"{y:.1f}",
            f"{radii[name]:.1f}",
            INK if name in nodes else "#fff",
            "#fff" if name in nodes else INK,
        )
        for name, (x, y) in at.items()
    ]
    taken = [
        _Box(x=x - radii[name], y=y - radii[name], width=2 * radii[name], height=2 * radii[name])
        for name, (x, y) in at.items()
    ]
    on_the_way = [point for curve in curves for point in curve]
    labels = []
    for name, point in at.items():
        below = count(nodes[name], "node") if name in nodes else "asks only"
        box = _label_box(point, radii[name], name, below, taken, on_the_way, height)
        taken.append(box)
        labels.append(_label(point, radii[name], box, name, below))
    return Markup("").join([*dots, *labels])


def _label_box(
    point: Point,
    radius: float,
    name: str,
    below: str,
    taken: Sequence[_Box],
    on_the_way: Sequence[Point],
    height: float,
) -> _Box:
    """Return the nearest place for a label that hides as little as possible."""
    width = max(len(name) * _LETTER, len(below) * _SMALL_LETTER)
    page = _Box(x=3, y=3, width=_WIDTH - 6, height=height - 6)

    def cost(candidate: tuple[int, _Box]) -> float:
        nth, box = candidate
        hidden = sum(box.overlap(other) for other in taken)
        beyond = box.width * box.height - box.overlap(page)
        return 10 * (hidden + beyond) + 25 * sum(box.holds(one) for one in on_the_way) + nth

    candidates = enumerate(_around(point, radius, width))
    return min(candidates, key=cost)[1]


def _around(point: Point, radius: float, width: float) -> list[_Box]:
    """Return boxes around a dot: right, left, below, above, then the corners; near before far."""
    boxes = []
    for far in (4.0, 12.0, 24.0, 40.0, 60.0):
        gap = radius + far
        for right, down in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)):
            slant = 0.7 if right and down else 1.0
            x = point[0] + right * gap * slant + (right - 1) / 2 * width
            y = point[1] + down * gap * slant + (down - 1) / 2 * _LABEL_HEIGHT
            boxes.append(_Box(x=x, y=y, width=width, height=_LABEL_HEIGHT))
    return boxes


def _label(point: Point, radius: float, box: _Box, name: str, below: str) -> Markup:
    """Write a site's name and nodes, with a thin line to its dot where they stand apart."""
    right, left = box.x >= point[0], box.x + box.width <= point[0]
    anchor = "start" if right else "end" if left else "middle"
    x = box.x if right else box.x + box.width if left else box.x + box.width / 2
    middle = box.y + _LABEL_HEIGHT / 2
    apart = hypot(x - point[0], middle - point[1]) - radius
    leader = Markup("")
    if apart > _LABEL_HEIGHT:
        leader = Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" stroke="{}"/>').format(
            *(f"{number:.1f}" for number in (*point, x, middle)), SOFT
        )
    return Markup(
        '{}<text class="site" x="{}" text-anchor="{}" y="{}">{}'
        '<tspan class="small" x="{}" dy="14">{}</tspan></text>'
    ).format(leader, f"{x:.1f}", anchor, f"{box.y + 12:.1f}", name, f"{x:.1f}", below)
