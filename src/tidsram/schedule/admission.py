"""Whether a job fits: a prediction of every finish it would change (DESIGN §4.2).

The rule: promise only if this job and every job of its criticality that was promised before still
finish by their due times, each taking its upper service time, behind all higher work on the lane.
"""

from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter

from msgspec import Struct

from tidsram.schedule.lane import Placed, by_urgency

_by_order = attrgetter("job.order")


class Forecast(Struct, frozen=True, gc=False):
    """What admitting the job would mean on one lane.

    `finish_ns` is the job's own predicted finish; `fits` whether every promise is kept;
    `displaced` are jobs whose askers lowered them and which would no longer make it.
    """

    finish_ns: int
    fits: bool
    displaced: Sequence[Placed] = ()


def forecast(queue: Sequence[Placed], free_ns: int, new: Placed) -> Forecast:
    """Predict the finishes in `queue` if `new` joined it.

    `free_ns` is when the level can start its queue: now, plus higher work, plus its own residual.
    """
    place = bisect_left(queue, new.urgency, key=by_urgency)
    for ahead in queue[:place]:
        free_ns += ahead.estimate.upper_ns
    finish_ns = free_ns = free_ns + new.estimate.upper_ns
    fits = finish_ns <= new.job.due_ns
    if place == len(queue) or not fits:
        return Forecast(finish_ns, fits)
    lowered = new.job.order[0]
    displaced = []
    for behind in queue[place:]:
        free_ns += behind.estimate.upper_ns
        if free_ns > behind.job.due_ns:
            if behind.job.order[0] <= lowered:
                return Forecast(finish_ns, fits=False)
            displaced.append(behind)
            free_ns -= behind.estimate.upper_ns
    return Forecast(finish_ns, fits=True, displaced=displaced)


def earliest_feasible_ns(queue: Sequence[Placed], free_ns: int, new: Placed) -> int:
    """Return the earliest due time that could be promised to `new` now.

    A due time decides the job's place among those of its own order, and every place has a finish.
    The first place will do that leaves everyone behind it in time. Where none does, because of
    jobs that go after it at any due time: when it would finish after all of them.
    """
    own_ns, order = new.estimate.upper_ns, new.job.order
    finishes = []
    for placed in queue:
        free_ns += placed.estimate.upper_ns
        finishes.append(free_ns)
    first = bisect_left(queue, order, key=_by_order)
    last = bisect_left(queue, (order[0], order[1] + 1), key=_by_order)
    place = bisect_left(
        queue, (order[0] + 1,), key=_by_order
    )  # who is behind that may be displaced
    while place > first and queue[place - 1].job.due_ns - finishes[place - 1] >= own_ns:
        place -= 1
    if place > last:
        return free_ns + own_ns
    if place == 0:
        start_ns = finishes[0] - queue[0].estimate.upper_ns if queue else free_ns
        return start_ns + own_ns
    # Behind the job before it, not level with it: of two due at once, the older goes first.
    ahead_due_ns = queue[place - 1].job.due_ns if place > first else 0
    return max(finishes[place - 1] + own_ns, ahead_due_ns)
