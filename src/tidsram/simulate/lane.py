"""A lane in virtual time: one core, on which the kernel lets the more critical run go first."""

from tidsram.estate.types import Criticality
from tidsram.schedule.events import Job

NEVER = 1 << 62


class Run:
    """One job, or a probe, in the hands of its worker."""

    __slots__ = (
        *("aborted", "cancelled", "decision", "job", "left_ns", "ran_ns", "rank", "rung"),
        "started",
    )

    def __init__(
        self, decision: str, rank: int, service_ns: int, job: Job | None, rung: int = 0
    ) -> None:
        self.decision, self.rank, self.job, self.rung = decision, rank, job, rung
        self.left_ns = service_ns
        self.ran_ns = 0
        self.started = -1  # when it first had the core
        self.cancelled = self.aborted = False


class VirtualLane:
    """A core and its runs: of each criticality one at a time, one on deck, the higher first.

    Runs set aside have what the others leave. `end_ns` is when the run that has the core will end;
    NEVER or later without one.
    """

    __slots__ = ("_aside", "_decks", "_operator_ns", "_running", "_since_ns", "_top", "end_ns")

    def __init__(self, operator_ns: int) -> None:
        """Take how long an operator runs: a stopped run ends with the one it is at."""
        self._operator_ns = operator_ns
        self._running: list[Run | None] = [None] * len(Criticality)
        self._decks: list[Run | None] = [None] * len(Criticality)
        self._aside: list[Run] = []
        self._top: Run | None = None
        self._since_ns = 0
        self.end_ns = NEVER

    def hand_over(self, now_ns: int, run: Run, *, on_deck: bool) -> None:
        """Give a run to its worker."""
        running = self._running[run.rank]
        if not on_deck:
            assert running is None, "one run of a criticality at a time"
            assert all(a.decision != run.decision for a in self._aside), "its worker is stuck"
            self._running[run.rank] = run
            self._reschedule(now_ns)
            return
        assert running is not None, "on deck is behind a run"
        assert running.decision == run.decision, "only the worker that runs takes up the next"
        assert self._decks[run.rank] is None, "one job on deck at a time"
        self._decks[run.rank] = run

    def end(self, now_ns: int) -> Run:
        """End the run that has the core; what was on deck behind it begins."""
        run = self._top
        assert run is not None, "nothing runs here"
        self._pause(now_ns)
        if run in self._aside:
            self._aside.remove(run)
        else:
            self._running[run.rank] = self._decks[run.rank]
            self._decks[run.rank] = None
        self._reschedule(now_ns)
        return run

    def stop(self, now_ns: int, job_id: int) -> None:
        """Abort the job's run at its next operator; on deck it is skipped when its turn comes."""
        for run in (*self._running, *self._decks, *self._aside):
            if run is None or run.job is None or run.job.job_id != job_id:
                continue
            run.cancelled = True
            if run.started >= 0 and run.left_ns < NEVER:  # a hung one does not heed it
                self._pause(now_ns)
                to_next_ns = -run.ran_ns % self._operator_ns if self._operator_ns else 0
                if to_next_ns < run.left_ns:
                    run.left_ns, run.aborted = to_next_ns, True
                self._reschedule(now_ns)

    def set_aside(self, now_ns: int, decision: str) -> None:
        """Leave the decision's run to leftover time; its place is free."""
        for rank, run in enumerate(self._running):
            if run is not None and run.decision == decision:
                assert self._decks[rank] is None, "set aside with a job on deck"
                self._pause(now_ns)
                self._running[rank] = None
                self._aside.append(run)
                self._reschedule(now_ns)

    def hang(self, now_ns: int, decision: str) -> None:
        """The decision's run in progress, if it has one, will not end by itself nor when told."""
        for run in self._running:
            if run is not None and run.decision == decision and run.started >= 0:
                self._pause(now_ns)
                run.left_ns = NEVER
                self._reschedule(now_ns)

    def lose(self, now_ns: int, decision: str) -> list[Run]:
        """The decision's worker ends, and with it what it had; return that."""
        self._pause(now_ns)
        lost = [run for run in self._aside if run.decision == decision]
        self._aside = [run for run in self._aside if run.decision != decision]
        for held in (self._running, self._decks):
            for rank, run in enumerate(held):
                if run is not None and run.decision == decision:
                    held[rank] = None
                    lost.append(run)
        self._reschedule(now_ns)
        return lost

    def _pause(self, now_ns: int) -> None:
        top = self._top
        if top is not None:
            top.ran_ns += now_ns - self._since_ns
            if top.left_ns < NEVER:
                top.left_ns -= now_ns - self._since_ns
            self._since_ns = now_ns

    def _reschedule(self, now_ns: int) -> None:
        """Give the core to the most critical run."""
        self._pause(now_ns)
        for run in self._running:
            if run is not None:
                break
        else:
            if not self._aside:
                self._top, self.end_ns = None, NEVER
                return
            run = self._aside[0]
        self._top, self._since_ns = run, now_ns
        if run.started < 0:
            run.started = now_ns
            if run.cancelled or (run.job is not None and now_ns >= run.job.deadline_ns):
                run.left_ns, run.aborted = 0, True
        self.end_ns = now_ns + run.left_ns
