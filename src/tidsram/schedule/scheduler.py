"""The scheduler of one node. Tell it what happened and when; carry out what it returns, in order.

It never reads a clock, sleeps or does I/O: instants are arguments, in nanoseconds. The gate drives
it with real workers, `simulate` with virtual ones, so what is simulated is what serves. Call
`tick` no later than `next_wake_ns`.
"""

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import Literal

from msgspec import Struct

from tidsram.estate.types import Criticality
from tidsram.outcome import Reason
from tidsram.schedule.admission import Forecast, earliest_feasible_ns, forecast
from tidsram.schedule.estimate import Estimate
from tidsram.schedule.events import Action, Evict, Job, Kill, Miss, Probe, Reject, Start, Stop
from tidsram.schedule.lane import Level
from tidsram.units import MS, SECOND

# A told worker ends its run at the next operator. Without a profile the longest operator is not
# known, so a whole run's bound stands in for it.
KILL_GRACE_NS = 10 * MS
PROBE_AFTER_NS = SECOND  # evidence older than this, on an idle worker, is measured anew


class Policy(Struct, frozen=True):
    """What the scheduler needs to know of a decision."""

    name: str
    criticality: Criticality = Criticality.STANDARD
    objective: float = 0.99
    queue: Literal["edf", "newest"] = "edf"


class _Placed(Struct, gc=False):
    """Where an admitted job is. `ended`: its outcome is told, its run may go on."""

    job: Job
    lane: int
    level: Level
    ended: bool = False


class Scheduler:
    """Admission, order of service, deadlines and outcomes for all decisions of a node."""

    def __init__(self, policies: Iterable[Policy], lane_count: int) -> None:
        self._policies = {policy.name: policy for policy in policies}
        ranks = len(Criticality)
        self._lanes = [[Level() for _ in range(ranks)] for _ in range(lane_count)]
        self._estimates: dict[tuple[str, int], Estimate] = {}
        self._ready: dict[str, list[int]] = {name: [] for name in self._policies}
        self._placed: dict[int, _Placed] = {}
        self._newest: dict[tuple[str, str], Job] = {}
        self._alarms: list[tuple[int, int]] = []  # (instant, job_id): deadlines, then kills
        self._stopping: dict[int, int] = {}  # job_id → when its worker is killed
        self._probing: dict[tuple[str, int], int] = {}  # until when a probe is waited for
        self._draining = False

    # What happens to it ------------------------------------------------------------------------

    def arrived(self, now_ns: int, job: Job) -> list[Action]:
        """Promise the job an answer, or refuse it now."""
        if self._draining:
            return [Reject(job, Reason.DRAINING, 0, 0)]
        lanes = self._ready[job.decision]
        if not lanes:
            return [Reject(job, Reason.NOT_READY, 0, 0)]
        policy = self._policies[job.decision]
        actions: list[Action] = []
        if job.stream and policy.queue == "newest":
            self._drop_older(job, actions)
        self._admit(now_ns, job, policy.criticality.rank, lanes, actions)
        return actions

    def finished(self, now_ns: int, job_id: int, started_ns: int, ended_ns: int) -> list[Action]:
        """The worker's run of the job ended by itself, after running from start to end."""
        placed = self._placed[job_id]
        level = placed.level
        service_ns = ended_ns - started_ns - level.preempted_ns(started_ns, ended_ns)
        key = (placed.job.decision, placed.lane)
        self._estimates[key].observe(now_ns, max(service_ns, 1))
        return self._run_ended(now_ns, placed, started_ns, ended_ns)

    def failed(self, now_ns: int, job_id: int) -> list[Action]:
        """The worker's run of the job ended without an answer: the model failed or was stopped."""
        placed = self._placed[job_id]
        return self._run_ended(now_ns, placed, placed.level.started_ns, now_ns)

    def probed(self, now_ns: int, decision: str, lane: int, service_ns: int) -> list[Action]:
        """A probe has measured one run."""
        self._estimates[decision, lane].observe(now_ns, service_ns)
        return []

    def worker_ready(
        self, now_ns: int, decision: str, lane: int, warm_up_ns: Sequence[int]
    ) -> list[Action]:
        """A worker is warm; a replaced one keeps what was learnt of its decision."""
        key = (decision, lane)
        if key not in self._estimates:
            self._estimates[key] = Estimate(self._policies[decision].objective, warm_up_ns)
        self._estimates[key].refresh(now_ns)
        self._ready[decision].append(lane)
        self._level(decision, lane).decisions.add(decision)
        return []

    def worker_lost(self, now_ns: int, decision: str, lane: int) -> list[Action]:
        """A worker is gone: fail what it ran, move what was queued or fail it now."""
        if lane not in self._ready[decision]:
            return []
        self._ready[decision].remove(lane)
        level = self._level(decision, lane)
        level.decisions.discard(decision)
        actions: list[Action] = []
        for job in (level.running, level.deck):
            if job is not None and job.decision == decision:
                self._fail(job, actions)
                self._forget(job)
        if level.running is not None and level.running.decision == decision:
            self._interrupt_below(lane, level, level.started_ns, now_ns)
            level.running = level.deck = None
        queued = [job for job in level.queue if job.decision == decision]
        level.queue = [job for job in level.queue if job.decision != decision]
        for job in queued:
            self._move(now_ns, job, actions)
        self._dispatch(now_ns, lane, actions)
        return actions

    def gone(self, now_ns: int, job_id: int) -> list[Action]:
        """The asker left: withdraw queued work, stop the run."""
        placed = self._placed.get(job_id)
        if placed is None or placed.ended:
            return []
        actions: list[Action] = []
        self._withdraw(now_ns, placed, actions)
        return actions

    def draining(self, now_ns: int) -> list[Action]:
        """Refuse what comes from now on; what was promised is kept."""
        del now_ns
        self._draining = True
        return []

    def tick(self, now_ns: int) -> list[Action]:
        """Miss what is due and unanswered; kill a worker that did not stop when told."""
        actions: list[Action] = []
        while self._alarms and self._alarms[0][0] <= now_ns:
            _, job_id = heappop(self._alarms)
            placed = self._placed.get(job_id)
            if placed is None:
                continue
            if not placed.ended:
                actions.append(Miss(placed.job))
                self._withdraw(now_ns, placed, actions)
            elif self._stopping.get(job_id, now_ns + 1) <= now_ns:
                # The kill's loss comes back as `worker_lost`; until then nothing starts there.
                del self._stopping[job_id]
                actions.append(Kill(placed.job.decision, placed.lane))
        return actions

    @property
    def next_wake_ns(self) -> int | None:
        """When `tick` is next needed; None when nothing is due."""
        alarms = self._alarms
        while alarms and alarms[0][1] not in self._placed:
            heappop(alarms)
        return alarms[0][0] if alarms else None

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or running."""
        return not self._placed

    def has_waiting(self, lane: int) -> bool:
        """Whether a job waits for the lane and is not on deck."""
        return any(level.queue for level in self._lanes[lane])

    def is_ready(self, decision: str) -> bool:
        """Whether a warm worker stands by."""
        return bool(self._ready[decision])

    def estimate(self, decision: str, lane: int) -> Estimate | None:
        """What is known of the decision's service time there; None before its first worker."""
        return self._estimates.get((decision, lane))

    # How it decides ----------------------------------------------------------------------------

    def _admit(
        self, now_ns: int, job: Job, rank: int, lanes: Sequence[int], actions: list[Action]
    ) -> None:
        best_lane, best = -1, Forecast(0, fits=False)
        for lane in lanes:
            seen = self._forecast(now_ns, job, rank, lane)
            if best_lane < 0 or (not seen.fits, seen.finish_ns) < (not best.fits, best.finish_ns):
                best_lane, best = lane, seen
        if not best.fits:
            actions.append(self._refusal(now_ns, job, rank, lanes, best))
            self._probe_if_stale(now_ns, job.decision, lanes, actions)
            return
        for displaced in best.displaced:
            self._evict(now_ns, displaced, Reason.EVICTED, actions)
        self._place(job, best_lane, rank)
        self._dispatch(now_ns, best_lane, actions)
        self._evict_below(now_ns, best_lane, rank, actions)

    def _forecast(self, now_ns: int, job: Job, rank: int, lane: int) -> Forecast:
        level = self._lanes[lane][rank]
        service = self._service_on(lane)
        return forecast(level, self._free_ns(now_ns, lane, rank), job, service)

    def _free_ns(self, now_ns: int, lane: int, rank: int) -> int:
        """When the level's queue can start: after all higher work and its own residual."""
        levels = self._lanes[lane]
        service = self._service_on(lane)
        free_ns = now_ns + levels[rank].residual_ns(now_ns, service)
        for higher in levels[:rank]:
            free_ns += higher.work_ns(now_ns, service)
        return free_ns

    def _service_on(self, lane: int) -> "_Service":
        return _Service(self._estimates, lane)

    def _refusal(
        self, now_ns: int, job: Job, rank: int, lanes: Sequence[int], seen: Forecast
    ) -> Reject:
        alone_ns = min(self._estimates[job.decision, lane].upper_ns for lane in lanes)
        reason = Reason.INFEASIBLE if now_ns + alone_ns > job.due_ns else Reason.OVERLOAD
        earliest_ns = min(
            earliest_feasible_ns(
                self._lanes[lane][rank],
                self._free_ns(now_ns, lane, rank),
                job,
                self._service_on(lane),
            )
            for lane in lanes
        )
        return Reject(job, reason, seen.finish_ns, earliest_ns)

    def _probe_if_stale(
        self, now_ns: int, decision: str, lanes: Sequence[int], actions: list[Action]
    ) -> None:
        for lane in lanes:
            level, estimate = self._level(decision, lane), self._estimates[decision, lane]
            old = not estimate.calibrated or estimate.newest_ns < now_ns - PROBE_AFTER_NS
            if old and level.running is None and now_ns >= self._probing.get((decision, lane), 0):
                self._probing[decision, lane] = now_ns + estimate.upper_ns  # one at a time
                actions.append(Probe(decision, lane))

    def _place(self, job: Job, lane: int, rank: int) -> None:
        level = self._lanes[lane][rank]
        level.insert(job)
        self._placed[job.job_id] = _Placed(job, lane, level)
        heappush(self._alarms, (job.deadline_ns, job.job_id))
        if job.stream:
            self._newest[job.decision, job.stream] = job

    def _dispatch(self, now_ns: int, lane: int, actions: list[Action]) -> None:
        """Start what can start: one job a criticality, the kernel lets the higher go first."""
        for level in self._lanes[lane]:
            while level.queue and level.running is None:
                job = level.queue.pop(0)
                estimate = self._estimates[job.decision, lane]
                if now_ns + estimate.typical_ns > job.deadline_ns:
                    self._evict(now_ns, job, Reason.EVICTED, actions)
                    continue
                level.begin(now_ns, job)
                actions.append(Start(job, lane, on_deck=False))
            if level.queue and level.deck is None and self._may_deck(level):
                level.deck = level.queue.pop(0)
                actions.append(Start(level.deck, lane, on_deck=True))

    @staticmethod
    def _may_deck(level: Level) -> bool:
        # A job on deck cannot be overtaken. With one decision here that costs no order worth
        # having; with several, a loose job on deck would stand before a tight one. And a frame
        # that a newer one may replace stays where it can be replaced.
        return len(level.decisions) == 1 and not level.queue[0].stream

    def _run_ended(
        self, now_ns: int, placed: _Placed, started_ns: int, ended_ns: int
    ) -> list[Action]:
        level = placed.level
        assert level.running is placed.job, "a run ended that was not running"
        self._interrupt_below(placed.lane, level, started_ns, ended_ns)
        level.end(now_ns)
        self._forget(placed.job)
        actions: list[Action] = []
        self._dispatch(now_ns, placed.lane, actions)
        return actions

    def _interrupt_below(self, lane: int, level: Level, start_ns: int, end_ns: int) -> None:
        """What ran here, lower runs on the lane did not have."""
        levels = self._lanes[lane]
        for lower in levels[levels.index(level) + 1 :]:
            lower.interrupted(start_ns, end_ns)

    def _evict_below(self, now_ns: int, lane: int, rank: int, actions: list[Action]) -> None:
        """Tell lower work that can no longer make it, while its askers still have time."""
        for lower in range(rank + 1, len(self._lanes[lane])):
            level = self._lanes[lane][lower]
            if level.running is None and not level.queue:
                continue
            free_ns = self._free_ns(now_ns, lane, lower)
            if level.deck is None and level.running is not None:
                running = self._placed[level.running.job_id]
                if free_ns > running.job.deadline_ns and not running.ended:
                    self._evict_placed(now_ns, running, Reason.EVICTED, actions)
            for job in list(level.queue):
                estimate = self._estimates[job.decision, lane]
                if free_ns + estimate.typical_ns > job.deadline_ns:
                    self._evict(now_ns, job, Reason.EVICTED, actions)
                else:
                    free_ns += estimate.upper_ns

    def _drop_older(self, job: Job, actions: list[Action]) -> None:
        older = self._newest.get((job.decision, job.stream))
        if older is not None:
            placed = self._placed.get(older.job_id)
            if placed is not None and placed.level.withdraw(older):
                self._forget(older)
                actions.append(Evict(older, Reason.STALE))

    def _move(self, now_ns: int, job: Job, actions: list[Action]) -> None:
        """Find a lost worker's queued job another lane, else its asker hears it now."""
        self._forget(job)
        lanes = self._ready[job.decision]
        rank = self._policies[job.decision].criticality.rank
        moved: list[Action] = []
        if lanes:
            self._admit(now_ns, job, rank, lanes, moved)
        if not lanes or any(isinstance(a, Reject) for a in moved):
            actions.append(Evict(job, Reason.WORKER_LOST))
        else:
            actions.extend(moved)

    def _fail(self, job: Job, actions: list[Action]) -> None:
        if not self._placed[job.job_id].ended:
            actions.append(Evict(job, Reason.WORKER_LOST))

    def _evict(self, now_ns: int, job: Job, reason: Reason, actions: list[Action]) -> None:
        self._evict_placed(now_ns, self._placed[job.job_id], reason, actions)

    def _evict_placed(
        self, now_ns: int, placed: _Placed, reason: Reason, actions: list[Action]
    ) -> None:
        actions.append(Evict(placed.job, reason))
        self._withdraw(now_ns, placed, actions)

    def _withdraw(self, now_ns: int, placed: _Placed, actions: list[Action]) -> None:
        """Take a job whose outcome is told off its lane, stopping its run if it has one."""
        job, level = placed.job, placed.level
        if level.running is not job and level.deck is not job:
            level.withdraw(job)
            self._forget(job)
            return
        placed.ended = True
        actions.append(Stop(job, placed.lane))
        grace_ns = KILL_GRACE_NS + self._estimates[job.decision, placed.lane].upper_ns
        if level.deck is job and level.running is not None:
            grace_ns += self._estimates[level.running.decision, placed.lane].upper_ns
        kill_ns = now_ns + grace_ns
        self._stopping[job.job_id] = kill_ns
        heappush(self._alarms, (kill_ns, job.job_id))

    def _forget(self, job: Job) -> None:
        del self._placed[job.job_id]
        self._stopping.pop(job.job_id, None)
        if job.stream and self._newest.get((job.decision, job.stream)) is job:
            del self._newest[job.decision, job.stream]

    def _level(self, decision: str, lane: int) -> Level:
        return self._lanes[lane][self._policies[decision].criticality.rank]


class _Service:
    """The upper service time of a job on one lane."""

    __slots__ = ("_estimates", "_lane")

    def __init__(self, estimates: dict[tuple[str, int], Estimate], lane: int) -> None:
        self._estimates, self._lane = estimates, lane

    def __call__(self, job: Job) -> int:
        return self._estimates[job.decision, self._lane].upper_ns
