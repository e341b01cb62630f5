"""The report's bars and columns as inline SVG.

Lengths along a bar are shares of its width, so that the page can be as narrow as a telephone while
text keeps its size. Nothing is told by colour alone. Names go through Markup, which escapes them.
"""

from collections.abc import Sequence

from markupsafe import Markup
from msgspec import Struct

from tidsram.estate.plan import PlannedTerm
from tidsram.lab.page import ALERT, FAINT, INK, MAIN, SOFT
from tidsram.units import US, show_ns

# Cool where time is spent on the way, warm where it is spent on the answer; neighbours differ in
# lightness, so that they part on a black and white printer too.
SHADES = {
    "capture": "#b4bbc2",
    "access": "#a9cde6",
    "link": "#4a8fc4",
    "gate": "#1d3f5c",
    "wait": "#f2dfb4",
    "run": "#c8743c",
}
_DARK = ("link", "gate", "run")
_PATTERNS = {"declared": "sketched", "prior": "guessed"}

_NARROW_BAR, _WIDE_BAR = 330, 560  # how wide a bar is at least: on a telephone, elsewhere
_TEXT_LETTER = 6.9  # at 12 px


class Column(Struct, frozen=True, kw_only=True):
    """One column of a chart: how tall, what stands on it and, in two lines, under it."""

    value: float
    words: str
    label: str
    below: str = ""
    alert: bool = False
    doubtful: bool = False


def patterns() -> Markup:
    """Return the hatchings that the bars refer to; once on a page, before the first bar."""
    return Markup(
        '<svg class="hidden" width="0" height="0" aria-hidden="true"><defs>'
        '<pattern id="sketched" width="7" height="7" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="2" height="7" fill="#fff" opacity=".55"/>'
        '</pattern><pattern id="guessed" width="6" height="6" patternUnits="userSpaceOnUse">'
        '<circle cx="2" cy="2" r="1.4" fill="#fff" opacity=".8"/>'
        '<circle cx="5" cy="5" r="1.4" fill="#fff" opacity=".8"/></pattern></defs></svg>'
    )


def budget_bar(terms: Sequence[PlannedTerm], budget_us: int) -> Markup:
    """Draw what a budget goes to, from left to right, with a line where it ends."""
    spent_us = sum(term.us for term in terms)
    whole_us = max(spent_us, budget_us, 1)
    pieces, at_us = [], 0
    for term in terms:
        pieces.append(_piece(term, at_us / whole_us, term.us / whole_us))
        at_us += term.us
    if spent_us < budget_us:
        pieces.append(_unspent(at_us / whole_us, budget_us - spent_us))
    pieces.append(
        Markup('<line x1="{0}" x2="{0}" y1="0" y2="34" stroke="{1}" stroke-width="2.5"/>').format(
            _percent(budget_us / whole_us), ALERT
        )
    )
    words = ", ".join(f"{term.stage} {show_ns(term.us * US)}" for term in terms)
    return Markup(
        '<svg class="bar" width="100%" height="34" role="img" aria-label="{}">{}</svg>'
    ).format(words, Markup("").join(pieces))


def swatch(stage: str = "", basis: str = "measured") -> Markup:
    """Draw a legend's square: a stage's colour, or how a basis is hatched."""
    return Markup('<svg class="swatch" width="16" height="16" aria-hidden="true">{}</svg>').format(
        _filled(SHADES.get(stage, SOFT), basis, 16)
    )


def meter(share: float) -> Markup:
    """Draw a share of a whole as a thin bar; what is beyond the whole is cut off."""
    return Markup(
        '<svg class="meter" width="64" height="8" aria-hidden="true">'
        '<rect width="64" height="8" fill="{}"/><rect width="{}" height="8" fill="{}"/></svg>'
    ).format(FAINT, f"{64 * min(1.0, share):.1f}", MAIN)


def columns(title: str, bars: Sequence[Column], line: float | None = None) -> Markup:
    """Draw one column for each of `bars`; `line` marks a value across all of them."""
    top, floor = 22.0, 104.0
    most = max([bar.value for bar in bars] + [line or 0.0, 1e-9])
    drawn = []
    if line is not None:
        y = floor - (floor - top) * line / most
        drawn.append(
            Markup(
                '<line x1="0" x2="100%" y1="{0}" y2="{0}" stroke="{1}" stroke-dasharray="4 3"/>'
            ).format(f"{y:.1f}", ALERT)
        )
    for number, bar in enumerate(bars):
        height = (floor - top) * max(0.0, bar.value) / most
        drawn.append(_column(bar, number / len(bars), 1 / len(bars), floor - height, height))
    words = "; ".join(f"{bar.label}: {bar.words}" for bar in bars)
    return Markup(
        '<svg class="columns" width="100%" height="138" role="img" aria-label="{}">'
        '{}<line x1="0" x2="100%" y1="{}" y2="{}" stroke="{}"/></svg>'
    ).format(f"{title}. {words}", Markup("").join(drawn), floor, floor, SOFT)


def _piece(term: PlannedTerm, start: float, share: float) -> Markup:
    """Draw one part; a nested drawing cuts its words off where it ends."""
    shade = SHADES.get(term.stage, SOFT)
    # Nobody measures or declares the wait: it is what the others leave, and drawn plain.
    basis = "" if term.stage == "wait" else term.basis
    told = f"{term.stage} {show_ns(term.us * US)}, {basis or 'computed'}: {term.source}"
    return Markup(
        '<svg x="{}" width="{}" y="4" height="26" data-us="{}"><title>{}</title>{}{}'
        '<line x1="100%" x2="100%" y1="0" y2="26" stroke="#fff" stroke-width="2"/></svg>'
    ).format(
        _percent(start),
        _percent(share),
        term.us,
        told,
        _filled(shade, basis, 26),
        _words(term, share),
    )


def _unspent(start: float, left_us: int) -> Markup:
    return Markup(
        '<svg x="{}" width="{}" y="4" height="26" data-us="{}"><title>unspent {}</title>'
        '<rect width="100%" height="26" fill="#fff" stroke="{}"/></svg>'
    ).format(_percent(start), _percent(1 - start), left_us, show_ns(left_us * US), FAINT)


def _filled(shade: str, basis: str, height: int) -> Markup:
    drawn = Markup('<rect width="100%" height="{}" fill="{}"/>').format(height, shade)
    if basis in _PATTERNS:
        drawn += Markup('<rect width="100%" height="{}" fill="url(#{})"/>').format(
            height, _PATTERNS[basis]
        )
    return drawn


def _words(term: PlannedTerm, share: float) -> Markup:
    """Write the stage and its time on its part where they fit, in the widest form that does."""
    time = show_ns(term.us * US)
    for words in (f"{term.stage} {time}", term.stage):
        needed = len(words) * _TEXT_LETTER + 6
        if share * _WIDE_BAR >= needed:
            dark = term.stage in _DARK
            return Markup(
                '<text x="50%" y="17.5" text-anchor="middle" class="{}{}" fill="{}" stroke="{}">'
                "{}</text>"
            ).format(
                "on-bar",
                "" if share * _NARROW_BAR >= needed else " wide-only",
                "#fff" if dark else INK,
                SHADES.get(term.stage, SOFT),
                words,
            )
    return Markup("")


def _column(bar: Column, start: float, share: float, y: float, height: float) -> Markup:
    shade = ALERT if bar.alert else MAIN
    drawn = Markup('<rect x="22%" width="56%" y="{}" height="{}" fill="{}"/>').format(
        f"{y:.1f}", f"{height:.1f}", shade
    )
    if bar.doubtful:
        drawn += Markup(
            '<rect x="22%" width="56%" y="{}" height="{}" fill="url(#sketched)"/>'
        ).format(f"{y:.1f}", f"{height:.1f}")
    return Markup(
        '<svg x="{}" width="{}" height="138" overflow="visible">{}'
        '<text x="50%" y="{}" text-anchor="middle" class="value">{}</text>'
        '<text x="50%" y="119" text-anchor="middle" class="label">{}</text>'
        '<text x="50%" y="132" text-anchor="middle" class="label">{}</text></svg>'
    ).format(
        _percent(start), _percent(share), drawn, f"{y - 6:.1f}", bar.words, bar.label, bar.below
    )


def _percent(share: float) -> str:
    return f"{share * 100:.3f}%"
