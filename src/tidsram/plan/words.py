"""How a plan's facts are said on a terminal: times, shares, places, lines of at most 100 signs."""

import re
from collections.abc import Sequence
from math import floor
from textwrap import wrap

from msgspec import Struct

from tidsram.estate.plan import Place, Plan, PlannedFlow, PlannedTerm
from tidsram.units import US, show_ns

WIDTH = 100
_GAP = "  "
_KEPT = re.compile(r"(?<=≥) | (?=%)|(?<=\d) (?=(?:ns|µs|ms|s)\b)")  # no line ends there
_GLUE = "\u00a0"


class Section(Struct, frozen=True):
    """A headline and what it stands above, line by line."""

    title: str
    lines: tuple[str, ...] = ()


def show_us(us: int) -> str:
    """Show a time in the unit a person would choose."""
    return show_ns(us * US)


def show_share(share: float) -> str:
    """Show a share in percent, never rounded up: a bound claims no more than it is."""
    return f"{floor(share * 100_000 + 1e-6) / 1000:.7g} %"


def show_money(amount: float, currency: str) -> str:
    """Show a yearly sum."""
    return f"{amount:,.0f} {currency}"


def show_place(place: Place | None) -> str:
    """Name a node; the place of what is not answered is nowhere."""
    return f"{place.site} {place.node}" if place else "nowhere"


def show_flow(flow: PlannedFlow) -> str:
    """Name a flow: dose at umea, or dose at umea (1 of 2)."""
    part = f" ({flow.part + 1} of {flow.parts})" if flow.parts > 1 else ""
    return f"{flow.decision} at {flow.source}{part}"


def show_cases(plan: Plan) -> str:
    """Say how many states of the estate the plan is for: 13 cases (all well, 12 single losses).

    A plan that has to survive nothing is for one.
    """
    losses = len([case for case in plan.cases if case != "healthy"])
    lost = f", {count(losses, 'single loss')}" if losses else ""
    return f"{count(losses + 1, 'case')} (all well{lost})"


def budget_terms(flow: PlannedFlow) -> tuple[PlannedTerm, ...]:
    """Return what a budget goes to, as far as it takes any time; the actuation comes after it."""
    return tuple(term for term in flow.terms if term.us and term.stage != "actuation")


def count(many: int, what: str) -> str:
    """Say how many there are."""
    ending = "" if many == 1 else "es" if what.endswith("s") else "s"
    return f"{many:,} {what}{ending}"


def hardware_at(plan: Plan, place: Place) -> str:
    """Return the hardware of a node of the plan; empty for one that it does not have."""
    here = (n.hardware for n in plan.nodes if (n.site, n.node) == (place.site, place.node))
    return next(here, "")


def sentences(text: str, indent: str = "") -> list[str]:
    """Break a text into lines that begin with `indent`."""
    return [indent + line for line in _broken(text, WIDTH - len(indent))]


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = (), indent: str = "") -> list[str]:
    """Align columns, those of `right` to the right; the last one is broken into lines."""
    if not rows:
        return []
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]) - 1)]
    left = len(indent) + sum(widths) + len(_GAP) * len(widths)
    lines: list[str] = []
    for row in rows:
        cells = [
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        # However wide the columns before it became, the last one gets room for its words.
        first, *more = _broken(row[-1], max(WIDTH - left, 24))
        lines.append((indent + _GAP.join([*cells, first])).rstrip())
        lines += [" " * left + line for line in more]
    return lines


def _broken(text: str, width: int) -> list[str]:
    """Break a text at its spaces, but never between a number and its unit."""
    lines = wrap(_KEPT.sub(_GLUE, text), width) or [""]
    return [line.replace(_GLUE, " ") for line in lines]
