"""The page's figures: matplotlib's lines as inline SVG, with text that stays text.

Every mark is told apart by its shape or its word, never by colour alone.
"""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tidsram.demo import results
from tidsram.demo.askers import Asked
from tidsram.demo.results import show_share
from tidsram.estate.types import Decision
from tidsram.outcome import Outcome
from tidsram.units import MS, SECOND

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _SOFT, _FAINT = "#22262b", "#6b737c", "#d9dde2"
_MAIN, _ALERT = "#2b6ca3", "#b3261e"
_SHADES = ("#16324a", "#2b6ca3", "#6fa3cf", "#b9d3e8", "#e3edf6")
_WIDTH = 8.6
_DASHED = "--"
# A few stages are shown together: alone they are too thin to see.
_PARTS = {
    "prepare": ("prepare",),
    "arrive": ("receive", "decode", "admit"),
    "queue": ("queue",),
    "run": ("run",),
    "return, read": ("encode", "transport", "read"),
}


def latency(decision: Decision, asked: Sequence[Asked]) -> str:
    """Draw how long answers took, against the budget."""
    figure, axes = _figure(1.55)
    budget_ms = decision.budget_ns / MS
    took = [one.took_ns / MS for one in asked if one.outcome is Outcome.ANSWERED]
    end = max([budget_ms * 1.12, *(ms * 1.02 for ms in took)])
    axes.hist(took, bins=np.linspace(0, end, 91).tolist(), color=_MAIN, linewidth=0)
    _line(axes, budget_ms, f"budget {budget_ms:.0f} ms", _ALERT, _DASHED)
    if took:
        middle = float(np.median(took))
        _line(axes, middle, f"median {middle:.0f} ms", _INK, "-")
    axes.set(xlim=(0, end), ylabel="answers")
    axes.set_xlabel("ms from when the question arose to the answer in hand")
    axes.locator_params(axis="y", integer=True, nbins=4)
    return _svg(figure, f"latency-{decision.name}", f"How long {decision.name} answers took")


def stages(tallies: Mapping[str, results.Tally]) -> str:
    """Draw where the mean answer's time goes, one bar a decision."""
    figure, axes = _figure(0.55 + 0.42 * len(tallies))
    names = list(tallies)
    longest = max(sum(tally.stages_us.values()) for tally in tallies.values()) / 1000 or 1
    for row, name in enumerate(names):
        at = 0.0
        for (part, members), shade in zip(_PARTS.items(), _SHADES, strict=True):
            ms = sum(tallies[name].stages_us.get(stage, 0) for stage in members) / 1000
            axes.barh(row, ms, left=at, height=0.62, color=shade, edgecolor="white", linewidth=1)
            if ms > longest * 0.05:
                named = f"{part} {ms:.1f}"
                words = named if ms > longest * 0.012 * len(named) else f"{ms:.1f}"
                ink = "white" if shade in _SHADES[:2] else _INK
                axes.text(at + ms / 2, row, words, ha="center", va="center", color=ink, size=8)
            at += ms
        axes.text(at + longest * 0.01, row, f"{at:.1f} ms", va="center", size=8.5)
    axes.set_yticks(range(len(names)), names, color=_INK)
    axes.set(xlim=(0, longest * 1.1), ylim=(len(names) - 0.5, -0.5))
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks([])
    return _svg(figure, "stages", "Where the time goes, by decision")


def burst(
    decisions: Mapping[str, Decision],
    asked: Sequence[Asked],
    span_ns: tuple[int, int],
    victim: str,
    pace: str,
) -> str:
    """Draw act 1: every question at its time and at what it took."""
    figure, axes = _figure(3.0)
    start_ns = asked[0].arose_ns
    from_s, to_s = ((at - start_ns) / SECOND for at in span_ns)
    axes.axvspan(from_s, to_s, color=_FAINT, alpha=0.45, linewidth=0)
    axes.text((from_s + to_s) / 2, 1.02, "burst", transform=axes.get_xaxis_transform(), ha="center")
    _outcomes(axes, asked, start_ns, victim, pace)
    _limit_across(axes, decisions[victim].budget_ns / MS)
    return _finish_timeline(figure, axes, "burst", "Questions before, in and after the burst")


def kill(
    decisions: Mapping[str, Decision],
    asked: Sequence[Asked],
    killed_ns: int,
    back_ns: int | None,
    victim: str,
    pace: str,
) -> str:
    """Draw act 2: what became of questions around the kill."""
    figure, axes = _figure(3.0)
    start_ns = asked[0].arose_ns
    _outcomes(axes, asked, start_ns, victim, pace)
    _limit_across(axes, decisions[victim].budget_ns / MS)
    for at_ns, words in ((killed_ns, "kill -9"), (back_ns, "ready again")):
        if at_ns is not None:
            _line(axes, (at_ns - start_ns) / SECOND, words, _INK, "-")
    return _finish_timeline(figure, axes, "kill", "Questions before and after the worker's death")


def cloud(decisions: Mapping[str, Decision], by_place: Mapping[str, Sequence[Asked]]) -> str:
    """Draw act 3: response times by decision and place, against each budget."""
    figure = _blank(1.45 * len(decisions))
    many = figure.subplots(len(decisions), 1, sharex=True, squeeze=False)[:, 0]
    ends = [one.took_ns / MS for asked in by_place.values() for one in asked]
    end = max([d.budget_ns / MS for d in decisions.values()] + ends) * 1.04
    for axes, (name, decision) in zip(many, decisions.items(), strict=True):
        budget_ms = decision.budget_ns / MS
        for row, asked in enumerate(by_place.values()):
            own = [one for one in asked if one.decision == name]
            _strip(axes, row, own, decision.budget_ns, end)
        _line(axes, budget_ms, f"budget {budget_ms:.0f} ms", _ALERT, _DASHED)
        axes.set_yticks(range(len(by_place)), list(by_place), color=_INK)
        axes.set(xlim=(0, end), ylim=(len(by_place) - 0.5, -0.5))
        axes.set_title(name, loc="left", size=9.5, weight="bold", color=_INK)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    many[-1].set_xlabel("ms from when the question arose")
    figure.subplots_adjust(hspace=0.55)
    return _svg(figure, "cloud", "Response times by place, against the budgets")


def _strip(axes: "Axes", row: int, own: Sequence[Asked], budget_ns: int, end: float) -> None:
    """Draw one place's answers as dots, its refusals as crosses, and its share in time."""
    answered = [one.took_ns / MS for one in own if one.outcome is Outcome.ANSWERED]
    others = [one.took_ns / MS for one in own if one.outcome is not Outcome.ANSWERED]
    axes.plot(answered, [row] * len(answered), "o", color=_MAIN, markersize=4, alpha=0.55, mew=0)
    axes.plot(others, [row] * len(others), "x", color=_ALERT, markersize=5)
    if own:
        share = show_share(sum(one.in_time(budget_ns) for one in own) / len(own))
        axes.text(end * 1.01, row, f"{share} in time", va="center", size=8.5, clip_on=False)


def _outcomes(axes: "Axes", asked: Iterable[Asked], start_ns: int, victim: str, pace: str) -> None:
    kinds: dict[str, tuple[list[float], list[float]]] = {}
    for one in asked:
        if one.decision not in (victim, pace):
            continue
        xs, ys = kinds.setdefault(f"{one.decision} {_word(one)}", ([], []))
        xs.append((one.arose_ns - start_ns) / SECOND)
        ys.append(one.took_ns / MS)
    marks: dict[str, tuple[str, dict[str, Any]]] = {
        f"{pace} answered": ("s", {"color": _INK, "markersize": 4.5}),
        f"{victim} answered": ("o", {"color": _MAIN, "markersize": 4, "mew": 0}),
        f"{victim} refused": ("x", {"color": _ALERT, "markersize": 4.5, "mew": 0.9}),
        f"{victim} failed": ("^", {"color": _ALERT, "markersize": 6, "mfc": "white"}),
        f"{victim} missed": ("D", {"color": _ALERT, "markersize": 4.5, "mfc": "white"}),
        f"{pace} refused": ("+", {"color": _INK, "markersize": 7}),
        f"{pace} failed": ("v", {"color": _INK, "markersize": 6, "mfc": "white"}),
        f"{pace} missed": ("d", {"color": _INK, "markersize": 6, "mfc": "white"}),
    }
    for kind, (mark, style) in marks.items():
        if kind in kinds:
            axes.plot(*kinds[kind], mark, label=kind, **style)


def _finish_timeline(figure: "Figure", axes: "Axes", name: str, title: str) -> str:
    axes.set(xlabel="s", ylabel="ms to the answer, or to the no")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=5, frameon=False)
    return _svg(figure, name, title)


def _word(one: Asked) -> str:
    return "refused" if one.outcome is Outcome.REJECTED else one.outcome.value


def _line(axes: "Axes", at: float, words: str, colour: str, style: str) -> None:
    """Draw a line from top to bottom with its words above it."""
    axes.axvline(at, color=colour, linewidth=1, linestyle=style)
    axes.text(at, 1.03, words, color=colour, ha="center", transform=axes.get_xaxis_transform())


def _limit_across(axes: "Axes", at_ms: float) -> None:
    axes.axhline(at_ms, color=_ALERT, linewidth=1, linestyle=_DASHED)
    axes.text(
        1.005,
        at_ms,
        f"budget\n{at_ms:.0f} ms",
        color=_ALERT,
        va="center",
        transform=axes.get_yaxis_transform(),
        size=8.5,
    )


def _figure(height: float) -> "tuple[Figure, Axes]":
    figure = _blank(height)
    return figure, figure.subplots()


def _blank(height: float) -> "Figure":
    import matplotlib
    import matplotlib.figure

    matplotlib.rc("svg", fonttype="none")
    matplotlib.rc("font", **{"family": "sans-serif", "sans-serif": ["DejaVu Sans"], "size": 9})
    matplotlib.rc("axes", edgecolor=_SOFT, labelcolor=_SOFT, linewidth=0.7)
    matplotlib.rc("axes.spines", top=False, right=False)
    matplotlib.rc("xtick", color=_SOFT)
    matplotlib.rc("ytick", color=_SOFT)
    matplotlib.rc("text", color=_INK)
    return matplotlib.figure.Figure(figsize=(_WIDTH, height))


def _svg(figure: "Figure", name: str, title: str) -> str:
    """Return the figure as an <svg> element whose ids are its own on the page."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(
            buffer, format="svg", bbox_inches="tight", pad_inches=0.03, transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )  # fmt: skip
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
