"""What an outcome comes to, in figures that are the same for every policy.

Admitted is who was not refused at arrival. A promise is broken by an eviction or missed: no answer
within the budget. In time is an answer within the budget; goodput is those ÷ offered.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.pressure.server import Outcome
from bench.pressure.workloads import ACCURACY, Asked
from tidsram.simulate.result import Ints, Played
from tidsram.units import SECOND, US

Cell = dict[str, Any]


def measure(asked: Sequence[Asked], outcome: Outcome, cpu_s: float, best: Outcome) -> Cell:
    """Return a cell's figures, all in all and by kind; `best` is what the oracle made of it."""
    played = outcome.played
    at_best = limit(asked)
    count = max(1, played.offered)
    goodput = played.in_time / count
    return {
        "offered": played.offered,
        "load_drawn": _work_ns(asked, 0) / max(1, _span_ns(asked)),
        "limit": at_best,
        "goodput": goodput,
        "of_limit": goodput / at_best,
        "wasted": outcome.wasted_ns / max(1, outcome.busy_ns),
        "busy": outcome.busy_ns / max(1, _span_ns(asked)),
        "cpu_us_per_request": cpu_s / US * SECOND / count,
        "requests_per_second": count / max(cpu_s, 1e-9),
        "kinds": {
            _name(a): _kind(chosen(outcome, place), chosen(best, place))
            for place, a in enumerate(asked)
        },
    }


def limit(asked: Sequence[Asked]) -> float:
    """Return the share of what is offered that fits into the time by its fastest variants."""
    return min(1.0, _span_ns(asked) / max(1, _work_ns(asked, -1)))


def chosen(outcome: Outcome, kind: int) -> Played:
    """Return the questions of one kind."""
    mask = outcome.kinds == kind
    columns = {name: getattr(outcome.played, name)[mask] for name in Played.__struct_fields__}
    return Played(**columns)


def longest_run(bad: npt.NDArray[np.bool_]) -> int:
    """Return the length of the longest run of consecutive True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], bad, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _kind(played: Played, best: Played) -> Cell:
    in_time = played.answered & (played.told_ns <= played.deadline_ns)
    offered, answered = max(1, played.offered), int(played.answered.sum())
    admitted = max(1, played.admitted)
    kept = int((in_time & (played.promised_ns > 0)).sum())
    notice_ns = played.notice_ns
    return {
        "offered": played.offered,
        "admitted": played.admitted / offered,
        "goodput": played.in_time / offered,
        "missed_of_admitted": (played.admitted - kept - played.evicted) / admitted,
        "evicted_of_admitted": played.evicted / admitted,
        "late_of_answered": played.late / max(1, answered),
        # Below 0 where a greedy oracle does worse.
        "false_rejections": (best.in_time - played.in_time) / offered,
        # The time that a refused asker has left when told; 99 % of them have the second.
        "notice_p50_us": _quantile_us(notice_ns, 0.5),
        "notice_p99_us": _quantile_us(notice_ns, 0.01),
        "finished_as_promised": int((played.lateness_ns <= 0).sum()) / answered
        if answered
        else None,
        "longest_without": longest_run(~in_time),
        "accuracy": float(np.array(ACCURACY)[played.rung[in_time]].mean())
        if in_time.any()
        else None,
    }


def _quantile_us(values_ns: Ints, q: float) -> float | None:
    return float(np.quantile(values_ns, q)) / US if len(values_ns) else None


def _name(asked: Asked) -> str:
    return asked.kind.asker or asked.kind.decision


def _work_ns(asked: Sequence[Asked], rung: int) -> float:
    return sum(float(a.service_ns.sum()) * a.kind.rungs[rung] for a in asked)


def _span_ns(asked: Sequence[Asked]) -> int:
    """From the first question to the last deadline: the time anybody has."""
    begins = [a.arrivals_ns[0] for a in asked if len(a.arrivals_ns)]
    ends = [a.arrivals_ns[-1] + a.kind.budget_ns for a in asked if len(a.arrivals_ns)]
    return int(max(ends) - min(begins)) if begins else 0
