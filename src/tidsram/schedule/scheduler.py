"""The scheduler of one node. Tell it what happened and when; carry out what it returns, in order.

It never reads a clock, sleeps or does I/O: instants are arguments, in nanoseconds. The gate drives
it with real workers, `simulate` with virtual ones, so what is simulated is what serves. Call
`tick` no later than `next_wake_ns`.
"""

from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from tidsram.estate.types import Criticality
from tidsram.outcome import Reason
from tidsram.schedule.admission import Forecast, earliest_feasible_ns, forecast
from tidsram.schedule.estimate import FAST_NS, GUARD, Estimate
from tidsram.schedule.events import Action, Evict, Job, Kill, Miss, Probe, Reject, Start, Stop
from tidsram.schedule.lane import Level, Placed, urgency
from tidsram.units import MS, SECOND

# A told worker ends its run at the next operator. Without a profile the longest operator is not
# known, so a whole run's bound stands in for it.
KILL_GRACE_NS = 10 * MS
PROBE_AFTER_NS = SECOND  # evidence older than this, on an idle worker, is measured anew
PROBE_FOR_NS = FAST_NS  # by then no run from before is left in the estimate's window


class Policy(Struct, frozen=True):
    """What the scheduler needs to know of a decision."""

    name: str
    criticality: Criticality = Criticality.STANDARD
    objective: float = 0.99
    queue: Literal["edf", "newest"] = "edf"


class Scheduler:
    """Admission, order of service, deadlines and outcomes for all decisions of a node."""

    def __init__(
        self,
        policies: Iterable[Policy],
        lane_count: int,
        estimate: Callable[[float, Sequence[int]], Estimate] = Estimate,
    ) -> None:
        """`estimate` makes one from an objective and the first warm-up; a test may fix it."""
        self._policies = {policy.name: policy for policy in policies}
        self._ranks = {policy.name: policy.criticality.rank for policy in self._policies.values()}
        self._lanes = [[Level() for _ in Criticality] for _ in range(lane_count)]
        self._new_estimate = estimate
        self._estimates: dict[tuple[str, int], Estimate] = {}
        self._ready: dict[str, list[int]] = {name: [] for name in self._policies}
        self._placed: dict[int, Placed] = {}
        self._newest: dict[tuple[str, str], Placed] = {}
        self._alarms: list[tuple[int, int]] = []  # (instant, job_id): deadlines, then kills
        self._probes = 0  # ever sent: the n-th probe's job_id is -n
        self._probing = 0  # under way
        self._draining = False

    # What happens to it ------------------------------------------------------------------------

    def arrived(self, now_ns: int, job: Job) -> list[Action]:
        """Promise the job an answer, or refuse it now."""
        if self._draining:
            return [Reject(job, Reason.DRAINING, 0, 0)]
        if not self._ready[job.decision]:
            return [Reject(job, Reason.NOT_READY, 0, 0)]
        actions: list[Action] = []
        older = self._unstarted_older(job) if job.stream else None
        seen = self._admit(now_ns, job, actions, older)
        if not seen.fits:
            self._refuse(now_ns, job, seen, actions)
            if older is not None:  # a promise is not broken for one that cannot be made
                self._level(older).insert(older)
        return actions

    def finished(self, now_ns: int, job_id: int, started_ns: int, ended_ns: int) -> list[Action]:
        """The worker's run of the job ended by itself, after running from start to end."""
        placed = self._placed[job_id]
        service_ns = self._own_ns(placed, started_ns, ended_ns)
        placed.estimate.observe(now_ns, max(service_ns, 1))
        return self._run_ended(now_ns, placed, started_ns, ended_ns)

    def failed(self, now_ns: int, job_id: int) -> list[Action]:
        """The worker's run of the job ended without an answer: the model failed or was stopped."""
        placed = self._placed[job_id]
        started_ns = self._level(placed).started_ns
        ran_ns = self._own_ns(placed, started_ns, now_ns)
        # A run stopped beyond its bound would have taken longer still. Were that not learnt, a
        # model that has become slower than its budget would be promised and missed for ever.
        if ran_ns > placed.estimate.upper_ns:
            placed.estimate.observe(now_ns, ran_ns)
        return self._run_ended(now_ns, placed, started_ns, now_ns)

    def probed(self, now_ns: int, decision: str, lane: int, service_ns: int) -> list[Action]:
        """A probe has measured one run."""
        rank = self._ranks[decision]
        level = self._lanes[lane][rank]
        probe = level.running
        if probe is None or probe.job.job_id >= 0 or probe.job.decision != decision:
            return []  # its worker was given up meanwhile
        started_ns = level.started_ns
        service_ns = max(service_ns - self._preempted_ns(probe, started_ns, now_ns), 1)
        probe.estimate.observe(now_ns, service_ns)
        actions = self._run_ended(now_ns, probe, started_ns, now_ns)
        if self._worth_another(now_ns, probe, service_ns):
            self._probe(now_ns, probe.job, lane, actions)
        return actions

    def worker_ready(
        self, now_ns: int, decision: str, lane: int, warm_up_ns: Sequence[int]
    ) -> list[Action]:
        """A worker is warm; a replaced one keeps what was learnt of its decision."""
        key = (decision, lane)
        if key not in self._estimates:
            self._estimates[key] = self._new_estimate(
                self._policies[decision].objective, warm_up_ns
            )
        self._estimates[key].refresh(now_ns)
        self._ready[decision].append(lane)
        self._lanes[lane][self._ranks[decision]].decisions.add(decision)
        return []

    def worker_lost(self, now_ns: int, decision: str, lane: int) -> list[Action]:
        """A worker is gone: fail what it ran, move what was queued or fail it now."""
        if lane not in self._ready[decision]:
            return []
        self._ready[decision].remove(lane)
        rank = self._ranks[decision]
        level = self._lanes[lane][rank]
        level.decisions.discard(decision)
        actions: list[Action] = []
        started_ns = level.started_ns
        lost = level.lost(decision)
        if lost:
            self._interrupt_below(lane, rank, started_ns, now_ns)
        for placed in lost:
            if not placed.ended:
                actions.append(Evict(placed.job, Reason.WORKER_LOST))
            self._forget(placed)
        queued = [placed for placed in level.queue if placed.job.decision == decision]
        level.queue = [placed for placed in level.queue if placed.job.decision != decision]
        for placed in queued:
            self._move(now_ns, placed, actions)
        self._dispatch(now_ns, lane, rank, actions)
        return actions

    def spared(self, now_ns: int, decision: str, lane: int) -> list[Action]:
        """The worker that was to be killed had not got the core to stop: its grace begins anew."""
        running = self._lanes[lane][self._ranks[decision]].running
        if running is not None and running.job.decision == decision and running.ended:
            self._expect_stop(now_ns, running)
        return []

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
            placed = self._placed.get(heappop(self._alarms)[1])
            if placed is None:
                continue
            if not placed.ended:
                actions.append(Miss(placed.job))
                self._withdraw(now_ns, placed, actions)
            elif placed.kill_ns and placed.kill_ns <= now_ns:
                self._kill(now_ns, placed, actions)
        return actions

    @property
    def next_wake_ns(self) -> int | None:
        """When `tick` is next needed; None when nothing is due."""
        alarms = self._alarms
        while alarms and alarms[0][1] not in self._placed:
            heappop(alarms)
        return alarms[0][0] if alarms else None

    # What may be asked of it -------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether no job is queued or running."""
        return len(self._placed) == self._probing

    def has_waiting(self, lane: int) -> bool:
        """Whether a job waits for the lane and is not on deck."""
        return any(level.queue for level in self._lanes[lane])

    def is_ready(self, decision: str) -> bool:
        """Whether a warm worker stands by."""
        return bool(self._ready[decision])

    def estimate(self, decision: str, lane: int) -> Estimate | None:
        """What is known of the decision's service time there; None before its first worker."""
        return self._estimates.get((decision, lane))

    def promised_ns(self, job_id: int) -> int:
        """When an admitted job was predicted to finish; 0 for one that is not here."""
        placed = self._placed.get(job_id)
        return 0 if placed is None else placed.promised_ns

    # Admission ---------------------------------------------------------------------------------

    def _admit(
        self, now_ns: int, job: Job, actions: list[Action], older: Placed | None = None
    ) -> Forecast:
        """If the job fits, promise it an answer, in the place of `older`."""
        best, seen = self._best_lane(now_ns, job)
        if not seen.fits:
            return seen
        if older is not None:
            self._forget(older)
            actions.append(Evict(older.job, Reason.STALE))
        for displaced in seen.displaced:
            actions.append(Evict(displaced.job, Reason.EVICTED))
            self._withdraw(now_ns, displaced, actions)
        best.promised_ns = seen.finish_ns
        self._level(best).insert(best)
        self._placed[job.job_id] = best
        heappush(self._alarms, (job.deadline_ns, job.job_id))
        if job.stream and self._policies[job.decision].queue == "newest":
            self._newest[job.decision, job.stream] = best
        self._dispatch(now_ns, best.lane, best.rank, actions)
        self._evict_below(now_ns, best.lane, best.rank, actions)
        return seen

    def _best_lane(self, now_ns: int, job: Job) -> tuple[Placed, Forecast]:
        """The lane where the job fits, displaces the fewest, and finishes first."""
        lanes, rank = self._ready[job.decision], self._ranks[job.decision]
        if len(lanes) == 1:
            return self._forecast(now_ns, job, rank, lanes[0])
        candidates = [self._forecast(now_ns, job, rank, lane) for lane in lanes]
        return min(candidates, key=self._cost)

    def _forecast(self, now_ns: int, job: Job, rank: int, lane: int) -> tuple[Placed, Forecast]:
        estimate = self._estimates[job.decision, lane]
        new = Placed(job, lane, rank, estimate, urgency(job))
        free_ns = self._free_ns(now_ns, lane, rank)
        return new, forecast(self._lanes[lane][rank].queue, free_ns, new)

    def _cost(self, candidate: tuple[Placed, Forecast]) -> tuple[bool, int, int]:
        new, seen = candidate
        finish_ns = seen.finish_ns
        # Between lanes about as good, take the one where no lower work is held up.
        if any(lower.busy for lower in self._lanes[new.lane][new.rank + 1 :]):
            finish_ns += new.estimate.upper_ns >> 3
        return (not seen.fits, len(seen.displaced), finish_ns)

    def _free_ns(self, now_ns: int, lane: int, rank: int) -> int:
        """When the level's queue can start: after all higher work and its own residual."""
        higher_ns, since_ns = self._higher_work(now_ns, lane, rank)
        return now_ns + higher_ns + self._lanes[lane][rank].residual_ns(now_ns, since_ns)

    def _higher_work(self, now_ns: int, lane: int, rank: int) -> tuple[int, int]:
        """Upper time of all work above the level, and since when some of it has been running."""
        work_ns, since_ns = 0, now_ns
        levels = self._lanes[lane]
        for above in range(rank):
            higher = levels[above]
            if higher.running is not None:
                work_ns += higher.work_ns(now_ns, since_ns)
                since_ns = min(since_ns, higher.started_ns)
        return work_ns, since_ns

    def _refuse(self, now_ns: int, job: Job, seen: Forecast, actions: list[Action]) -> None:
        """Say why, and what could have been promised; look again at what old evidence refused."""
        lanes, rank = self._ready[job.decision], self._ranks[job.decision]
        alone_ns = min(self._estimates[job.decision, lane].upper_ns for lane in lanes)
        reason = Reason.INFEASIBLE if now_ns + alone_ns > job.due_ns else Reason.OVERLOAD
        earliest_ns = min(self._earliest_ns(now_ns, job, rank, lane) for lane in lanes)
        actions.append(Reject(job, reason, seen.finish_ns, earliest_ns))
        for lane in lanes:
            estimate = self._estimates[job.decision, lane]
            if not estimate.calibrated or estimate.newest_ns < now_ns - PROBE_AFTER_NS:
                estimate.refresh(now_ns)
                if not any(level.busy for level in self._lanes[lane][: rank + 1]):
                    refused = Job(0, job.decision, now_ns, job.deadline_ns, job.due_ns)
                    self._probe(now_ns, refused, lane, actions)

    def _earliest_ns(self, now_ns: int, job: Job, rank: int, lane: int) -> int:
        new = Placed(job, lane, rank, self._estimates[job.decision, lane], urgency(job))
        queue = self._lanes[lane][rank].queue
        return earliest_feasible_ns(queue, self._free_ns(now_ns, lane, rank), new)

    def _unstarted_older(self, job: Job) -> Placed | None:
        """Take the stream's unstarted older job out of its queue, while the new one is judged."""
        older = self._newest.get((job.decision, job.stream))
        return older if older is not None and self._level(older).withdraw(older) else None

    def _move(self, now_ns: int, placed: Placed, actions: list[Action]) -> None:
        """Find a lost worker's queued job another lane, else its asker hears it now."""
        job = placed.job
        self._forget(placed)
        if not self._ready[job.decision] or not self._admit(now_ns, job, actions).fits:
            actions.append(Evict(job, Reason.WORKER_LOST))

    # Order of service --------------------------------------------------------------------------

    def _dispatch(self, now_ns: int, lane: int, rank: int, actions: list[Action]) -> None:
        """Start what can start: one job a criticality, the kernel lets the higher go first."""
        level = self._lanes[lane][rank]
        queue = level.queue
        while queue and level.running is None:
            placed = queue.pop(0)
            if _too_late(now_ns, placed):
                self._forget(placed)
                actions.append(Evict(placed.job, Reason.EVICTED))
            else:
                level.begin(now_ns, placed)
                actions.append(Start(placed.job, lane, on_deck=False))
        if queue and level.deck is None and _may_deck(level):
            level.deck = queue.pop(0)
            actions.append(Start(level.deck.job, lane, on_deck=True))

    def _run_ended(
        self, now_ns: int, placed: Placed, started_ns: int, ended_ns: int
    ) -> list[Action]:
        lane, rank = placed.lane, placed.rank
        level = self._lanes[lane][rank]
        assert level.running is placed, "a run ended that was not running"
        self._interrupt_below(lane, rank, started_ns, ended_ns)
        level.end(now_ns, ended_ns)
        self._forget(placed)
        actions: list[Action] = []
        if level.running is not None:
            self._deck_began(now_ns, level.running, actions)
        self._dispatch(now_ns, lane, rank, actions)
        return actions

    def _deck_began(self, now_ns: int, placed: Placed, actions: list[Action]) -> None:
        """What was on deck runs: its worker began it by itself, wanted or not."""
        if placed.ended:
            self._expect_stop(now_ns, placed)
        elif _too_late(now_ns, placed):
            actions.append(Evict(placed.job, Reason.EVICTED))
            self._withdraw(now_ns, placed, actions)

    def _evict_below(self, now_ns: int, lane: int, rank: int, actions: list[Action]) -> None:
        """Tell lower work that can no longer make it, while its askers still have time."""
        for lower in range(rank + 1, len(self._lanes[lane])):
            level = self._lanes[lane][lower]
            if level.running is None:
                continue
            higher_ns, since_ns = self._higher_work(now_ns, lane, lower)
            free_ns = now_ns + higher_ns
            typical_ns = level.running.estimate.typical_ns
            left_ns = level.left_ns(now_ns, since_ns, typical_ns)
            ahead = [(level.running, left_ns)]
            if level.deck is not None:
                ahead.append((level.deck, level.deck.estimate.typical_ns))
            ahead += [(placed, placed.estimate.typical_ns) for placed in level.queue]
            for placed, left_ns in ahead:
                if placed.ended:
                    continue
                if free_ns + left_ns <= placed.job.deadline_ns:
                    free_ns += left_ns
                else:
                    actions.append(Evict(placed.job, Reason.EVICTED))
                    self._withdraw(now_ns, placed, actions)

    # Runs that end, and runs that are made to end ----------------------------------------------

    def _withdraw(self, now_ns: int, placed: Placed, actions: list[Action]) -> None:
        """Take a job whose outcome is told off its lane, stopping its run if it has one."""
        level = self._level(placed)
        if level.withdraw(placed):
            self._forget(placed)
            return
        placed.ended = True
        actions.append(Stop(placed.job, placed.lane))
        if level.running is placed:
            self._expect_stop(now_ns, placed)

    def _expect_stop(self, now_ns: int, placed: Placed) -> None:
        """A run nobody waits for must end soon, or its worker hangs."""
        placed.told_ns = now_ns
        placed.kill_ns = now_ns + KILL_GRACE_NS + placed.estimate.upper_ns
        heappush(self._alarms, (placed.kill_ns, placed.job.job_id))

    def _kill(self, now_ns: int, placed: Placed, actions: list[Action]) -> None:
        """The grace is over; but what higher work kept from running could not obey either."""
        kept_ns = self._preempted_ns(placed, placed.told_ns, now_ns)
        if kept_ns > MS:
            placed.told_ns, placed.kill_ns = now_ns, now_ns + kept_ns
            heappush(self._alarms, (placed.kill_ns, placed.job.job_id))
            return
        # The loss comes back as `worker_lost`; until then nothing starts there.
        placed.kill_ns = 0
        actions.append(Kill(placed.job.decision, placed.lane))

    def _probe(self, now_ns: int, refused: Job, lane: int, actions: list[Action]) -> None:
        """Measure a run on zeros. It has the level as a job has, but nobody waits for it.

        `refused` is what the result is held against: since when, and due when.
        """
        self._probes += 1
        self._probing += 1
        job = replace(refused, job_id=-self._probes)
        rank, estimate = self._ranks[job.decision], self._estimates[job.decision, lane]
        probe = Placed(job, lane, rank, estimate, urgency(job), ended=True)
        self._placed[job.job_id] = probe
        self._lanes[lane][rank].begin(now_ns, probe)
        self._expect_stop(now_ns, probe)
        actions.append(Probe(job.decision, lane))

    def _worth_another(self, now_ns: int, probe: Placed, service_ns: int) -> bool:
        """Whether old runs still refuse what this one shows to be possible, on an idle lane."""
        refused = probe.job
        wanted_ns = refused.due_ns - refused.arrival_ns
        if not service_ns * GUARD <= wanted_ns < probe.estimate.upper_ns:
            return False
        idle = not any(level.busy for level in self._lanes[probe.lane])
        return idle and now_ns < refused.arrival_ns + PROBE_FOR_NS

    def _own_ns(self, placed: Placed, started_ns: int, ended_ns: int) -> int:
        """How long the run had the lane itself."""
        return ended_ns - started_ns - self._preempted_ns(placed, started_ns, ended_ns)

    def _preempted_ns(self, placed: Placed, start_ns: int, end_ns: int) -> int:
        """How much of the span higher work had the lane, also such that runs still."""
        levels = self._lanes[placed.lane]
        since_ns = end_ns
        for above in range(placed.rank):
            if levels[above].running is not None:
                since_ns = min(since_ns, levels[above].started_ns)
        return levels[placed.rank].preempted_ns(start_ns, end_ns, since_ns)

    def _interrupt_below(self, lane: int, rank: int, start_ns: int, end_ns: int) -> None:
        """What ran here, lower runs on the lane did not have."""
        levels = self._lanes[lane]
        for lower in range(rank + 1, len(levels)):
            levels[lower].interrupted(start_ns, end_ns)

    def _forget(self, placed: Placed) -> None:
        job = placed.job
        del self._placed[job.job_id]
        if job.job_id < 0:
            self._probing -= 1
        if job.stream and self._newest.get((job.decision, job.stream)) is placed:
            del self._newest[job.decision, job.stream]

    def _level(self, placed: Placed) -> Level:
        return self._lanes[placed.lane][placed.rank]


def _too_late(now_ns: int, placed: Placed) -> bool:
    """Whether a run begun now would end after its deadline, even if it takes no more than usual."""
    return now_ns + placed.estimate.typical_ns > placed.job.deadline_ns


def _may_deck(level: Level) -> bool:
    # A job on deck cannot be overtaken. With one decision here that costs no order worth
    # having; with several, a loose job on deck would stand before a tight one. And a frame
    # that a newer one may replace stays where it can be replaced.
    return len(level.decisions) == 1 and not level.queue[0].job.stream
