"""Which of the forms that are right and timed make the ladder."""

from collections.abc import Sequence
from itertools import pairwise

from msgspec import Struct

from tidsram.estate.bundle import LeftOut
from tidsram.estate.types import MAX_VARIANTS
from tidsram.lab.validate import Timed, frontier
from tidsram.units import show_ns


class Ladder(Struct, frozen=True, kw_only=True):
    """The names that stay, the most accurate first. `fits`: some form keeps the budget, if any."""

    names: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    fits: bool


def choose(timed: Sequence[Timed], slow_ns: dict[str, int], budget_ns: int | None) -> Ladder:
    """Keep the frontier, as long as a ladder may be, and of that what keeps the budget.

    `slow_ns` says by name what a slow run takes. Where nothing keeps the budget, all stay: what is
    nearest to it is worth knowing. No reason names a time: it would be part of the version.
    """
    best = frontier(timed)
    kept, left_out = list(best.kept), list(best.left_out)
    while len(kept) > MAX_VARIANTS:
        least = _gains_least(kept)
        kept.remove(least)
        left_out.append(_left_out(least, f"gains least of more than {MAX_VARIANTS} rungs"))
    if budget_ns is None:
        return Ladder(names=_names(kept), left_out=tuple(left_out), fits=True)
    within = [one for one in kept if slow_ns[one.name] <= budget_ns]
    if not within:
        return Ladder(names=_names(kept), left_out=tuple(left_out), fits=False)
    too_slow = [one for one in kept if one not in within]
    why = f"takes longer than the budget of {show_ns(budget_ns)}"
    left_out += [_left_out(one, why) for one in too_slow]
    return Ladder(names=_names(within), left_out=tuple(left_out), fits=True)


def _gains_least(kept: Sequence[Timed]) -> Timed:
    """Return the rung that is least faster than the one above; never the most accurate."""
    _, least = min(pairwise(kept), key=lambda pair: pair[0].time_ns / pair[1].time_ns)
    return least


def _left_out(one: Timed, why: str) -> LeftOut:
    return LeftOut(name=one.name, why=why, accuracy=one.accuracy)


def _names(kept: Sequence[Timed]) -> tuple[str, ...]:
    return tuple(one.name for one in kept)
