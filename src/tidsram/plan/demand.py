"""What is asked where, by quarter: the flows that a plan must answer.

Pure: quarters are text such as "2027-Q1" and come from the caller; no clock is read.
"""

import re
from datetime import date, timedelta
from math import ceil

from tidsram.errors import PlanError
from tidsram.estate.types import Decision, Estate
from tidsram.plan.problem import Flow

_QUARTER = re.compile(r"(20[0-9]{2})-Q([1-4])")


def quarter_of(day: str) -> str:
    """Return the quarter that `day` lies in: "2026-11-24" → "2026-Q4"."""
    try:
        when = date.fromisoformat(day)
    except ValueError:
        raise PlanError(f'"{day}"', 'is not a date; write one like "2026-11-24"') from None
    return f"{when.year}-Q{(when.month + 2) // 3}"


def quarters_until(first: str, last: str) -> list[str]:
    """Return the quarters from `first` to `last`, both included."""
    start, end = _count(first), _count(last)
    if end < start:
        raise PlanError(f'"{last}"', f"is before {first}; name a quarter from then on")
    return [f"{count // 4}-Q{count % 4 + 1}" for count in range(start, end + 1)]


def starts_on(quarter: str) -> str:
    """Return the first day of `quarter`: "2027-Q1" → "2027-01-01"."""
    return _first_day(quarter).isoformat()


def order_by(quarter: str, lead_weeks: int) -> str:
    """Return the last day to order what takes `lead_weeks` and is needed when `quarter` starts."""
    return (_first_day(quarter) - timedelta(weeks=lead_weeks)).isoformat()


def factor(decision: Decision, quarter: str) -> float:
    """Return how many times today's questions come in `quarter`.

    Declared growth holds from its quarter until the next declared one; before the first it is 1.
    """
    declared = [since for since in decision.growth if _count(since) <= _count(quarter)]
    return decision.growth[max(declared, key=_count)] if declared else 1.0


def peak_factor(decision: Decision, quarter: str) -> float:
    """Return the largest factor from today to `quarter`: machines that were bought stay."""
    now = _count(quarter)
    so_far = (times for since, times in decision.growth.items() if _count(since) <= now)
    return max([1.0, *so_far])


def flows(estate: Estate, quarter: str) -> list[Flow]:
    """Return each decision's questions from each of its sources, in the order of the file.

    More questions come from more askers: each asks as often as today.
    """
    return [
        _flow(decision, source, askers, peak_factor(decision, quarter))
        for decision in estate.decisions.values()
        for source, askers in sources_of(estate, decision).items()
    ]


def sources_of(estate: Estate, decision: Decision) -> dict[str, int]:
    """Return who asks where; the only site there is, where the file says nothing."""
    if decision.sources:
        return decision.sources
    if len(estate.sites) == 1:
        return dict.fromkeys(estate.sites, 1)
    known = ", ".join(estate.sites)
    raise PlanError(
        f"[decision.{decision.name}]",
        f'does not say where it is asked; add sources = ["SITE"] with one or more of {known}',
    )


def _flow(decision: Decision, source: str, askers: int, times: float) -> Flow:
    if decision.arrivals is None:
        raise PlanError(
            f"[decision.{decision.name}]",
            'does not say how often it is asked; add arrivals = { kind = "poisson", '
            'rate = "10/s" } with its own kind (periodic, poisson or gamma) and rate',
        )
    return Flow(
        decision=decision.name,
        source=source,
        askers=ceil(round(askers * times, 9)),  # 10 × 1.1 is 11 askers, not 12
        rate=askers * decision.arrivals.rate * times,
    )


def _first_day(quarter: str) -> date:
    count = _count(quarter)
    return date(count // 4, count % 4 * 3 + 1, 1)


def _count(quarter: str) -> int:
    """Number the quarters, so that they can be compared and counted."""
    match = _QUARTER.fullmatch(quarter)
    if match is None:
        raise PlanError(f'"{quarter}"', 'is not a quarter; write one like "2027-Q1"')
    return int(match[1]) * 4 + int(match[2]) - 1
