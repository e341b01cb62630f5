"""Whether a job fits: a prediction of every finish it would change (DESIGN §4.2).

The rule: promise only if this job and every job of its criticality that was promised before still
finish by their due times, all of them taking their upper time, behind all higher work on the lane,
known and declared.
"""

from bisect import bisect_left
from collections.abc import Sequence
from math import isqrt
from operator import attrgetter

from msgspec import Struct

from tidsram.schedule.lane import Placed, by_urgency

WHOLE = 1024  # the lane's time, in parts, as `left` below counts them
_by_priority = attrgetter("job.priority")


class Opening(Struct, frozen=True, gc=False):
    """When a level's queue can start, and how much of the lane's time is left to it from now on.

    `free_ns`: after all higher work that is known and the level's own residual. `left` of WHOLE
    parts of the lane remain beside the higher work that is declared and yet to come, taken as a
    steady flow (the usual fluid approximation): work w then takes w × WHOLE ÷ left.
    """

    now_ns: int
    free_ns: int
    left: int = WHOLE

    def finish_ns(self, end_ns: int) -> int:
        """When work ends that would end at `end_ns` had the level all of the lane."""
        return self.now_ns + (end_ns - self.now_ns) * WHOLE // self.left

    def latest_ns(self, due_ns: int) -> int:
        """When work that is due must end, were all of the lane the level's."""
        return self.now_ns + (due_ns - self.now_ns) * self.left // WHOLE


class Forecast(Struct, frozen=True, gc=False):
    """What admitting the job would mean on one lane.

    `finish_ns` is the job's own predicted finish; `fits` whether every promise is kept.
    """

    finish_ns: int
    fits: bool


def forecast(queue: Sequence[Placed], opening: Opening, new: Placed) -> Forecast:
    """Predict the finishes in `queue` if `new` joined it."""
    place = bisect_left(queue, new.urgency, key=by_urgency)
    mean_ns, variance = opening.free_ns + new.estimate.mean_ns, new.estimate.variance
    for ahead in queue[:place]:
        mean_ns += ahead.estimate.mean_ns
        variance += ahead.estimate.variance
    finish_ns = opening.finish_ns(mean_ns + isqrt(variance))
    fits = finish_ns <= new.job.due_ns
    return Forecast(finish_ns, fits and keeps(queue[place:], opening, mean_ns, variance))


def keeps(behind: Sequence[Placed], opening: Opening, mean_ns: int, variance: int) -> bool:
    """Whether these jobs in a row are in time, behind work of this mean end and variance."""
    for placed in behind:
        mean_ns += placed.estimate.mean_ns
        variance += placed.estimate.variance
        if mean_ns + isqrt(variance) > opening.latest_ns(placed.job.due_ns):
            return False
    return True


def push_out(
    queue: Sequence[Placed], opening: Opening, new: Placed, seen: Forecast
) -> tuple[Forecast, list[Placed]]:
    """Find who has to give way so that `new` fits: per-asker fairness, by push-out.

    An asker's questions to one decision are a flow. The flow with the most work waiting loses its
    least urgent job, and so on, as long as it keeps no less than the newcomer's flow then has.
    Return what is seen then and who goes; nobody does where it would not help.
    """
    waiting: dict[tuple[str, str], int] = {_flow(new): new.estimate.upper_ns}
    for placed in queue:
        flow = _flow(placed)
        waiting[flow] = waiting.get(flow, 0) + placed.estimate.upper_ns
    own_ns = waiting[_flow(new)]
    rest, pushed = list(queue), []
    now = seen
    while not now.fits:
        most = max(waiting, key=waiting.__getitem__)
        victim = next((placed for placed in reversed(rest) if _flow(placed) == most), None)
        if most == _flow(new) or victim is None:
            return seen, []
        waiting[most] -= victim.estimate.upper_ns
        if waiting[most] < own_ns:
            return seen, []
        rest.remove(victim)
        pushed.append(victim)
        now = forecast(rest, opening, new)
    return now, pushed


def _flow(placed: Placed) -> tuple[str, str]:
    return (placed.job.decision, placed.job.asker)


def earliest_feasible_ns(queue: Sequence[Placed], opening: Opening, new: Placed) -> int:
    """Return the earliest due time that could be promised to `new` now.

    A due time decides the job's place among those of its own priority, and every place has a
    finish. The first place will do that leaves everyone behind it in time. Where none does, because
    of jobs that go after it at any due time: when it would finish after all of them.
    """
    own, priority = new.estimate, new.job.priority
    mean_ns, variance = opening.free_ns + own.mean_ns, own.variance
    ends = [mean_ns + isqrt(variance)]  # of the new job behind none, one, two …
    for placed in queue:
        mean_ns += placed.estimate.mean_ns
        variance += placed.estimate.variance
        ends.append(mean_ns + isqrt(variance))
    first = bisect_left(queue, priority, key=_by_priority)
    last = bisect_left(queue, priority + 1, key=_by_priority)
    place = len(queue)
    # Whoever is behind the new one ends when the new one would have ended behind them.
    while place > first and opening.latest_ns(queue[place - 1].job.due_ns) >= ends[place]:
        place -= 1
    if place > last:
        return opening.finish_ns(ends[-1])
    # Behind the job before it, not level with it: of two due at once, the older goes first.
    ahead_due_ns = queue[place - 1].job.due_ns if place > first else 0
    return max(opening.finish_ns(ends[place]), ahead_due_ns)
