"""Whether a job fits: a prediction of every finish it would change (DESIGN §4.2).

The rule: promise only if this job and every job of its criticality that was promised before still
finish by their due times, each taking its upper service time, behind all higher work on the lane,
known and declared.
"""

from bisect import bisect_left
from collections.abc import Sequence
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
    end_ns = opening.free_ns + new.estimate.upper_ns
    for ahead in queue[:place]:
        end_ns += ahead.estimate.upper_ns
    finish_ns = opening.finish_ns(end_ns)
    fits = finish_ns <= new.job.due_ns
    if fits:
        for behind in queue[place:]:
            end_ns += behind.estimate.upper_ns
            if end_ns > opening.latest_ns(behind.job.due_ns):
                return Forecast(finish_ns, fits=False)
    return Forecast(finish_ns, fits)


def latest_start_ns(queue: Sequence[Placed], opening: Opening) -> int | None:
    """Return when `queue` must start for every promise in it to be kept; None: it is empty."""
    if not queue:
        return None
    work_ns, latest_ns = 0, 1 << 62
    for placed in queue:
        work_ns += placed.estimate.upper_ns
        latest_ns = min(latest_ns, opening.latest_ns(placed.job.due_ns) - work_ns)
    return latest_ns


def earliest_feasible_ns(queue: Sequence[Placed], opening: Opening, new: Placed) -> int:
    """Return the earliest due time that could be promised to `new` now.

    A due time decides the job's place among those of its own priority, and every place has a
    finish. The first place will do that leaves everyone behind it in time. Where none does, because
    of jobs that go after it at any due time: when it would finish after all of them.
    """
    own_ns, priority = new.estimate.upper_ns, new.job.priority
    end_ns, ends = opening.free_ns, []
    for placed in queue:
        end_ns += placed.estimate.upper_ns
        ends.append(end_ns)
    first = bisect_left(queue, priority, key=_by_priority)
    last = bisect_left(queue, priority + 1, key=_by_priority)
    place = len(queue)
    while (
        place > first and opening.latest_ns(queue[place - 1].job.due_ns) - ends[place - 1] >= own_ns
    ):
        place -= 1
    if place > last:
        return opening.finish_ns(end_ns + own_ns)
    if place == 0:
        return opening.finish_ns(opening.free_ns + own_ns)
    # Behind the job before it, not level with it: of two due at once, the older goes first.
    ahead_due_ns = queue[place - 1].job.due_ns if place > first else 0
    return max(opening.finish_ns(ends[place - 1] + own_ns), ahead_due_ns)
