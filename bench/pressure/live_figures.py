"""The figures of a live cell: medians over its rounds with their spread, beside the simulated."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from bench.loadgen import percentiles
from bench.pressure.live_replies import Heard
from bench.pressure.metrics import chosen, measure
from bench.pressure.server import Outcome
from bench.pressure.workloads import Asked

FIGURES = (
    *("goodput", "admitted", "missed_of_admitted", "evicted_of_admitted", "late_of_answered"),
    *("notice_p50_us", "notice_p99_us", "longest_without", "accuracy"),
)

Spread = dict[str, float] | None
Row = dict[str, Any]


@dataclass(frozen=True)
class Round:
    """The questions of one round, what became of them, and what the simulation made of them."""

    asked: Sequence[Asked]
    heard: Heard
    simulated: Outcome | None = None


def row(about: Mapping[str, Any], rounds: Sequence[Round]) -> Row:
    """Return a cell's figures by kind, what the asker's machine did, and how far both agree."""
    live = [_kinds(r.asked, r.heard.outcome) for r in rounds]
    names = list(live[0])
    runs = [r.heard.run for r in rounds]
    lateness_ns = np.concatenate([(run.sent - run.intended)[run.sent > 0] for run in runs])
    told: Row = {
        **about,
        "offered": sum(len(run.intended) for run in runs),
        "failed": sum(int((~np.isin(run.status, (200, 503, 504))).sum()) for run in runs),
        "kinds": {
            name: _spreads(live, name) | _pooled(rounds, place) for place, name in enumerate(names)
        },
        **percentiles("own_lateness", lateness_ns),
        **{share: median(run.shares[share] for run in runs) for share in runs[0].shares},
    }
    simulated = [_kinds(r.asked, r.simulated) for r in rounds if r.simulated is not None]
    if simulated:
        told["simulated"] = {name: _spreads(simulated, name) for name in names}
        told["live_minus_simulated"] = {name: _difference(live, simulated, name) for name in names}
    return told


def beside(about: Mapping[str, Any], alone: Sequence[Round], together: Sequence[Round]) -> Row:
    """Return the first kind's share in time alone and beside the others, round by round."""
    name = alone[0].asked[0].kind.decision
    without, with_others = (
        [_kinds(r.asked, r.heard.outcome) for r in rounds] for rounds in (alone, together)
    )
    return {
        **about,
        "alone": spread([kinds[name]["goodput"] for kinds in without]),
        "beside": spread([kinds[name]["goodput"] for kinds in with_others]),
        "difference": _difference(with_others, without, name),
    }


def spread(values: Sequence[float | None]) -> Spread:
    """Return the middle and the ends of those that there are."""
    known = [value for value in values if value is not None]
    return {"median": median(known), "low": min(known), "high": max(known)} if known else None


def _kinds(asked: Sequence[Asked], outcome: Outcome) -> dict[str, dict[str, Any]]:
    kinds: dict[str, dict[str, Any]] = measure(asked, outcome, 0, outcome)["kinds"]
    return kinds


def _spreads(rounds: Sequence[Mapping[str, Any]], name: str) -> Row:
    return {figure: spread([kinds[name][figure] for kinds in rounds]) for figure in FIGURES}


def _pooled(rounds: Sequence[Round], place: int) -> Row:
    """Return what one round has too few samples for: percentiles and outcomes by their reasons."""
    took_ns, refused_ns = [], []
    reasons: Counter[str] = Counter()
    for r in rounds:
        played = chosen(r.heard.outcome, place)
        after_ns = played.told_ns - played.arrival_ns
        took_ns.append(after_ns[played.answered])
        refused_ns.append(after_ns[played.promised_ns == 0])
        reasons.update({str(reason) or "answered": n for reason, n in played.reasons.items()})
    answers = percentiles("latency", np.concatenate(took_ns))
    refusals = percentiles("refused_after", np.concatenate(refused_ns))
    return {**answers, **refusals, "reasons": dict(reasons)}


def _difference(
    ones: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], name: str
) -> Spread:
    pairs = zip(ones, others, strict=True)
    return spread([one[name]["goodput"] - other[name]["goodput"] for one, other in pairs])
