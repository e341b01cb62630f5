"""One criticality on one lane: earliest deadline first, one job at a time.

A level knows its queue, the job that runs and the one on deck behind it. It predicts finishes from
upper service times; whether to promise anything is `admission`'s business.
"""

from bisect import insort
from collections.abc import Callable

from tidsram.schedule.events import Job

Service = Callable[[Job], int]


def urgency(job: Job) -> tuple[tuple[int, int], int, int]:
    """Order of service: what the asker lowered comes last, then priority, then the due time."""
    return (job.order, job.due_ns, job.job_id)


class Level:
    """The jobs of one criticality on one lane."""

    def __init__(self) -> None:
        self.queue: list[Job] = []  # in order of urgency
        self.running: Job | None = None
        self.deck: Job | None = None
        self.decisions: set[str] = set()  # those with a worker here
        self.started_ns = 0
        self._higher: list[tuple[int, int]] = []  # when higher work ran during this run

    def insert(self, job: Job) -> None:
        """Queue an admitted job."""
        insort(self.queue, job, key=urgency)

    def withdraw(self, job: Job) -> bool:
        """Take the job out of the queue; False when it is not there (running, on deck, ended)."""
        if job in self.queue:
            self.queue.remove(job)
            return True
        return False

    def residual_ns(self, now_ns: int, service: Service) -> int:
        """Upper time until the running job and the one on deck have ended."""
        if self.running is None:
            return 0
        bound = service(self.running)
        ran_ns = now_ns - self.started_ns - self.preempted_ns(self.started_ns, now_ns)
        # A run past its bound is not "about to finish": it is given an eighth of it anew.
        left_ns = max(bound - ran_ns, bound >> 3)
        return left_ns if self.deck is None else left_ns + service(self.deck)

    def work_ns(self, now_ns: int, service: Service) -> int:
        """Upper time until everything admitted here has ended, were the lane its own."""
        left_ns = self.residual_ns(now_ns, service)
        for job in self.queue:
            left_ns += service(job)
        return left_ns

    def begin(self, now_ns: int, job: Job) -> None:
        """The job runs from now on."""
        self.running, self.started_ns, self._higher = job, now_ns, []

    def end(self, now_ns: int) -> Job | None:
        """The run has ended; what was on deck runs. Return the job that ended."""
        ended = self.running
        self.running = None
        if self.deck is not None:
            deck, self.deck = self.deck, None
            self.begin(now_ns, deck)
        return ended

    def interrupted(self, start_ns: int, end_ns: int) -> None:
        """Higher work had the lane from `start_ns` to `end_ns`."""
        if self.running is not None:
            self._higher.append((start_ns, end_ns))

    def preempted_ns(self, start_ns: int, end_ns: int) -> int:
        """How much of the span higher work had the lane: that is not this run's doing."""
        spans = ((max(start_ns, a), min(end_ns, b)) for a, b in self._higher)
        return sum(b - a for a, b in spans if b > a)
