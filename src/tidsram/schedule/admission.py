"""Whether a job fits: a prediction of every finish it would change (DESIGN §4.2).

The rule: promise only if this job and every job of its criticality that was promised before still
finish by their due times, each taking its upper service time, behind all higher work on the lane.
"""

from msgspec import Struct

from tidsram.schedule.events import Job
from tidsram.schedule.lane import Level, Service, urgency


class Forecast(Struct, frozen=True, gc=False):
    """What admitting the job would mean on one lane.

    `finish_ns` is the job's own predicted finish; `fits` whether every promise is kept;
    `displaced` are jobs whose askers lowered them and which would no longer make it.
    """

    finish_ns: int
    fits: bool
    displaced: tuple[Job, ...] = ()


def forecast(level: Level, free_ns: int, job: Job, service: Service) -> Forecast:
    """Predict the finishes at `level` if `job` joined its queue.

    `free_ns` is when the level can start its queue: now, plus higher work, plus its own residual.
    """
    mine = urgency(job)
    own_ns = service(job)
    finish_ns = 0
    fits = True
    displaced: list[Job] = []
    for queued in level.queue:
        if not finish_ns and mine < urgency(queued):
            free_ns += own_ns
            finish_ns = free_ns
        free_ns += service(queued)
        if finish_ns and free_ns > queued.due_ns:
            if queued.order[0] > job.order[0]:
                displaced.append(queued)
                free_ns -= service(queued)
            else:
                fits = False
    if not finish_ns:
        finish_ns = free_ns + own_ns
    return Forecast(finish_ns, fits and finish_ns <= job.due_ns, tuple(displaced))


def earliest_feasible_ns(level: Level, free_ns: int, job: Job, service: Service) -> int:
    """Return the earliest due time that could be promised to `job` now.

    Trying each place in the queue from the front: it must leave everyone behind it in time, and a
    job at that place cannot be due before the one ahead of it.
    """
    own_ns = service(job)
    finishes = []
    for queued in level.queue:
        free_ns += service(queued)
        finishes.append(free_ns)
    base_ns = free_ns if not finishes else finishes[0] - service(level.queue[0])
    slack_ns = [q.due_ns - f for q, f in zip(level.queue, finishes, strict=True)]
    best_ns = max((finishes or [base_ns])[-1] + own_ns, level.queue[-1].due_ns if finishes else 0)
    tightest = None
    for place in range(len(level.queue) - 1, -1, -1):
        tightest = slack_ns[place] if tightest is None else min(tightest, slack_ns[place])
        if tightest < own_ns:
            break
        before_ns = finishes[place - 1] if place else base_ns
        ahead_due_ns = level.queue[place - 1].due_ns if place else 0
        best_ns = max(before_ns + own_ns, ahead_due_ns)
    return best_ns
