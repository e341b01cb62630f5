"""A lane: its workers, and for each criticality a queue and what runs.

A job waits in the queue of the criticality it counts as, earliest deadline first, and runs in the
place of its worker's criticality, for that is how the kernel sees it. Mostly they are the same; a
job beyond its decision's declared arrivals, or lowered by its asker, waits further down. A level
predicts from upper service times; whether to promise anything is `admission`'s business.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from math import isqrt
from operator import attrgetter

from msgspec import Struct

from tidsram.estate.types import Criticality
from tidsram.schedule.estimate import Estimate
from tidsram.schedule.events import Job

Urgency = tuple[int, int, int]


def urgency(job: Job) -> Urgency:
    """Order of service inside a criticality: priority, then the due time."""
    return (job.priority, job.due_ns, job.job_id)


WORK_QUESTIONS = 64  # what a question brings is an average over about so many


class Worker:
    """A warm worker: one decision on one lane, with what is known of each of its variants.

    `ladder` holds (rung, estimate) of the variants that it has, most accurate first. `stuck` is a
    run that was set aside: the worker takes nothing until that has ended. One that is `leaving`
    begins nothing more; `heir`, if there is one, takes its place when its last run has ended.
    """

    __slots__ = (
        *("decision", "down_ns", "heir", "ladder", "lane", "leaving", "place", "rank", "stuck"),
        "work_ns",
    )

    def __init__(
        self, decision: str, lane: int, rank: int, ladder: Sequence[tuple[int, Estimate]]
    ) -> None:
        self.decision, self.lane, self.rank = decision, lane, rank
        self.ladder = ladder
        self.stuck: Placed | None = None
        self.leaving = False
        self.heir: Worker | None = None
        self.work_ns = ladder[0][1].typical_ns  # what a question brings the lane on average
        self.place = 0  # in `ladder`, where it stands
        self.down_ns = -(1 << 62)  # when it last had to step down

    def brought(self, run_ns: int) -> None:
        """Take in what a question brought: its run, or nothing where it was refused."""
        self.work_ns += (run_ns - self.work_ns) // WORK_QUESTIONS

    def rung_of(self, estimate: Estimate) -> int:
        """Return the rung that the estimate is of."""
        return next(rung for rung, known in self.ladder if known is estimate)

    def estimate_of(self, rung: int) -> Estimate:
        """Return what is known of the rung."""
        return next(estimate for known, estimate in self.ladder if known == rung)

    @property
    def fastest(self) -> Estimate:
        """The estimate of the variant that makes the tightest budgets."""
        ladder = self.ladder
        return ladder[0][1] if len(ladder) == 1 else min((e for _, e in ladder), key=_upper_ns)


_upper_ns = attrgetter("upper_ns")


class Placed(Struct, eq=False, gc=False):
    """A job on its lane. `rank` is the criticality it counts as, `estimate` its variant's.

    Until it starts that is the fastest variant's: what was promised holds however late the choice.
    `ended`: its outcome is told, its run may go on. `kill_ns`: when its worker is killed if that
    run has not ended by then, 0 for never; the run had `told_ns` to `kill_ns` to obey.
    """

    job: Job
    worker: Worker
    rank: int
    estimate: Estimate
    urgency: Urgency
    rung: int = 0
    promised_ns: int = 0  # the finish predicted at admission, or at the start where that is later
    began_ns: int = 0
    ended: bool = False
    told_ns: int = 0
    kill_ns: int = 0


by_urgency = attrgetter("urgency")


def work_of(jobs: Iterable[Placed]) -> int:
    """Return the upper time of these runs in a row."""
    mean_ns = variance = 0
    for placed in jobs:
        mean_ns += placed.estimate.mean_ns
        variance += placed.estimate.variance
    return mean_ns + isqrt(variance)


class Level:
    """One criticality on one lane: the jobs that count as it, and the run of its workers."""

    def __init__(self) -> None:
        self.queue: list[Placed] = []  # in order of urgency
        self.strangers = 0  # in the queue: those whose workers are of a higher criticality
        self.running: Placed | None = None
        self.deck: Placed | None = None
        self.decisions: set[str] = set()  # those with a worker here
        self._higher: list[tuple[int, int]] = []  # when higher work ran, as far as reported

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits here."""
        return self.running is not None or bool(self.queue)

    def insert(self, placed: Placed) -> None:
        """Queue an admitted job."""
        insort(self.queue, placed, key=by_urgency)
        self.strangers += placed.rank != placed.worker.rank

    def take(self, place: int) -> Placed:
        """Take the job at this place out of the queue."""
        placed = self.queue.pop(place)
        self.strangers -= placed.rank != placed.worker.rank
        return placed

    def withdraw(self, placed: Placed) -> bool:
        """Take the job out of the queue; False when it is not there (running, on deck, ended)."""
        at = bisect_left(self.queue, placed.urgency, key=by_urgency)
        if at == len(self.queue) or self.queue[at] is not placed:
            return False
        self.take(at)
        return True

    def begin(self, now_ns: int, placed: Placed) -> None:
        """The job runs from now on."""
        self.running, placed.began_ns = placed, now_ns

    def end(self, now_ns: int, ended_ns: int) -> None:
        """The run has ended at `ended_ns`; what was on deck runs."""
        self.running, self.deck = self.deck, None
        if self.running is not None:
            self.running.began_ns = now_ns
        if self._higher:
            # What comes after belongs to the run that was on deck: its worker began it long since.
            self._higher = [span for span in self._higher if span[1] > ended_ns]

    def set_aside(self) -> None:
        """The run goes on, but no longer here."""
        self.running = None
        self._higher.clear()

    def lost(self, decision: str) -> list[Placed]:
        """The decision's worker is gone: take out its run and what was on deck, and return them."""
        gone = [
            p for p in (self.running, self.deck) if p is not None and p.job.decision == decision
        ]
        if gone:
            # On deck is only ever a job of the decision that runs.
            self.running = self.deck = None
            self._higher.clear()
        return gone

    # What it predicts --------------------------------------------------------------------------

    def residual_ns(self, now_ns: int, since_ns: int) -> int:
        """Upper time until the running job and the one on deck have ended.

        `since_ns` is when higher work began that runs still; now, when there is none.
        """
        if self.running is None:
            return 0
        left_ns = self.left_ns(now_ns, since_ns, self.running.estimate.upper_ns)
        deck = self.deck
        # A job on deck that was told to stop is skipped when its turn comes.
        return left_ns if deck is None or deck.ended else left_ns + deck.estimate.upper_ns

    def left_ns(self, now_ns: int, since_ns: int, bound_ns: int) -> int:
        """How long the run goes on if it takes `bound_ns` in all."""
        assert self.running is not None
        began_ns = self.running.began_ns
        ran_ns = now_ns - began_ns - self.preempted_ns(began_ns, now_ns, since_ns)
        left_ns = bound_ns - ran_ns
        # A run past its bound is not "about to finish": the longer it is past it, the longer yet.
        return max(left_ns, bound_ns >> 3, -left_ns)

    def work_ns(self, now_ns: int, since_ns: int) -> int:
        """Upper time until everything admitted here has ended, were the lane its own."""
        left_ns = self.residual_ns(now_ns, since_ns)
        return left_ns + work_of(self.queue)

    # What higher work took ---------------------------------------------------------------------

    def interrupted(self, start_ns: int, end_ns: int) -> None:
        """Higher work had the lane from `start_ns` to `end_ns`."""
        if self.running is None:
            return
        spans = self._higher
        # A critical run inside a standard one is one interruption of what lies below both.
        while spans and spans[-1][1] >= start_ns and spans[-1][0] <= end_ns:
            start, end = spans.pop()
            start_ns, end_ns = min(start_ns, start), max(end_ns, end)
        spans.append((start_ns, end_ns))

    def preempted_ns(self, start_ns: int, end_ns: int, since_ns: int) -> int:
        """How much of the span higher work had the lane: that is not this run's doing.

        `since_ns` is when higher work began that runs still; `end_ns` or later: none.
        """
        lost_ns = 0
        if since_ns < end_ns:
            lost_ns = end_ns - max(start_ns, since_ns)
            end_ns = since_ns
        for start, end in self._higher:
            start, end = max(start, start_ns), min(end, end_ns)  # noqa: PLW2901 - cut to the span
            if end > start:
                lost_ns += end - start
        return lost_ns

    def doomed(self, now_ns: int, free_ns: int, since_ns: int) -> list[Placed]:
        """Return who can no longer make it, each run taking its typical time from `free_ns` on."""
        ahead = []
        if self.running is not None:
            typical_ns = self.running.estimate.typical_ns
            ahead.append((self.running, self.left_ns(now_ns, since_ns, typical_ns)))
        if self.deck is not None:
            ahead.append((self.deck, self.deck.estimate.typical_ns))
        ahead += [(placed, placed.estimate.typical_ns) for placed in self.queue]
        doomed = []
        for placed, left_ns in ahead:
            if placed.ended:
                continue
            if free_ns + left_ns <= placed.job.deadline_ns:
                free_ns += left_ns
            else:
                doomed.append(placed)
        return doomed


class Lane:
    """A lane's levels, the most critical first, and its warm workers."""

    def __init__(self) -> None:
        self.levels = [Level() for _ in Criticality]
        self.workers: list[Worker] = []

    def busy(self, levels: int = len(Criticality)) -> bool:
        """Whether anything runs or waits on so many of the levels, from the top."""
        return any(level.busy for level in self.levels[:levels])

    def higher_work(self, now_ns: int, rank: int) -> tuple[int, int]:
        """Return the upper time of all work above the level, and since when some of it runs."""
        work_ns, since_ns = 0, now_ns
        for higher in self.levels[:rank]:
            if higher.running is not None:
                work_ns += higher.work_ns(now_ns, since_ns)
                since_ns = min(since_ns, higher.running.began_ns)
        return work_ns, since_ns

    def preempted_ns(self, placed: Placed, start_ns: int, end_ns: int) -> int:
        """Return how much of the span higher work had the lane, also such that runs still."""
        rank, since_ns = placed.worker.rank, end_ns
        for above in self.levels[:rank]:
            if above.running is not None:
                since_ns = min(since_ns, above.running.began_ns)
        return self.levels[rank].preempted_ns(start_ns, end_ns, since_ns)

    def interrupt_below(self, rank: int, start_ns: int, end_ns: int) -> None:
        """What ran at this level, lower runs did not have."""
        for lower in self.levels[rank + 1 :]:
            lower.interrupted(start_ns, end_ns)

    def queued_for(self, worker: Worker) -> list[Placed]:
        """Return the jobs that wait for the worker, whatever they count as."""
        return [p for level in self.levels for p in level.queue if p.worker is worker]

    def run_of(self, worker: Worker) -> Placed | None:
        """Return what the worker runs, set aside or not."""
        if worker.stuck is not None:
            return worker.stuck
        running = self.levels[worker.rank].running
        return running if running is not None and running.worker is worker else None
