"""The scheduler of one node. Tell it what happened and when; carry out what it returns, in order.

It never reads a clock, sleeps or does I/O: instants are arguments, in nanoseconds. The gate drives
it with real workers, `simulate` with virtual ones, so what is simulated is what serves. Call
`tick` no later than `next_wake_ns`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from tidsram.estate.types import Criticality
from tidsram.outcome import Reason
from tidsram.schedule.admission import (
    WHOLE,
    Forecast,
    Opening,
    earliest_feasible_ns,
    forecast,
    push_out,
)
from tidsram.schedule.bucket import Bucket
from tidsram.schedule.estimate import FAST_NS, GUARD, Estimate
from tidsram.schedule.events import (
    Action,
    Aside,
    Evict,
    Job,
    Kill,
    Miss,
    Probe,
    Reject,
    Retire,
    Start,
    Stop,
)
from tidsram.schedule.ladder import pick_variant
from tidsram.schedule.lane import Lane, Level, Placed, Worker, urgency
from tidsram.units import MS, SECOND

# A told worker ends its run at the next operator. Without a profile the longest operator is not
# known, so a whole run's bound stands in for it.
KILL_GRACE_NS = 10 * MS
ASIDE_BOUNDS = 2  # a run past so many of its bounds, and
ASIDE_NS = MS  # as much again as a busy machine may take, no longer holds others up
PROBE_AFTER_NS = SECOND  # evidence older than this, on an idle worker, is measured anew
PROBE_SOON_NS = 100 * MS  # and this, of a variant that is hardly known yet
PROBE_FOR_NS = FAST_NS  # by then no run from before is left in the estimate's window
LEAST_LEFT = WHOLE // 16  # of the lane beside declared higher work, however much is declared
LOWEST = len(Criticality) - 1


class Policy(Struct, frozen=True):
    """What the scheduler needs to know of a decision.

    `rate` is what is declared, in questions per second, 0 for nothing; a critical decision's
    questions beyond a bucket of `burst` tokens refilled at 1.25 × `rate` count as standard.
    """

    name: str
    criticality: Criticality = Criticality.STANDARD
    objective: float = 0.99
    queue: Literal["edf", "newest"] = "edf"
    rate: float = 0.0
    burst: int = 2


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
        self._buckets = {
            policy.name: Bucket(policy.rate, policy.burst)
            for policy in self._policies.values()
            if policy.rate and policy.criticality is Criticality.CRITICAL
        }
        self._lanes = [Lane() for _ in range(lane_count)]
        self._new_estimate = estimate
        self._estimates: dict[tuple[str, int, int], Estimate] = {}
        self._ready: dict[str, list[Worker]] = {name: [] for name in self._policies}
        self._placed: dict[int, Placed] = {}
        self._newest: dict[tuple[str, str], Placed] = {}
        self._trial_of: dict[str, str] = {}  # name of a version on trial → whose version it is
        self._alarms: list[tuple[int, int]] = []  # (instant, job_id): deadline, overdue, kill
        self._probes = 0  # ever sent: the n-th probe's job_id is -n
        self._probing = 0  # under way
        self._draining = False

    # What happens to it ------------------------------------------------------------------------

    def arrived(self, now_ns: int, job: Job) -> list[Action]:
        """Promise the job an answer, or refuse it now."""
        if self._draining:
            return [Reject(job, Reason.DRAINING, 0, 0)]
        actions: list[Action] = []
        workers = self._able(now_ns, job.decision, actions)
        if not workers:
            return [*actions, Reject(job, Reason.NOT_READY, 0, 0)]
        rank = self._counts_as(now_ns, job)
        older = self._unstarted_older(job) if job.stream else None
        seen = self._admit(now_ns, job, rank, workers, actions, older)
        if not seen.fits:
            self._refuse(now_ns, job, rank, workers, seen, actions)
            if older is not None:  # a promise is not broken for one that cannot be made
                self._level(older).insert(older)
        return actions

    def finished(self, now_ns: int, job_id: int, started_ns: int, ended_ns: int) -> list[Action]:
        """The worker's run of the job ended by itself, after running from start to end."""
        placed = self._placed[job_id]
        # A run takes its place from when it is handed over until its end is known here: to those
        # behind it that is what counts. One on deck began before its turn.
        held_ns = self._own_ns(placed, placed.began_ns, now_ns)
        service_ns = max(self._own_ns(placed, started_ns, ended_ns), held_ns)
        placed.estimate.observe(now_ns, max(service_ns, 1))
        placed.worker.brought(service_ns)
        return self._run_ended(now_ns, placed, started_ns, ended_ns)

    def failed(self, now_ns: int, job_id: int) -> list[Action]:
        """The worker's run of the job ended without an answer: the model failed or was stopped."""
        placed = self._placed[job_id]
        started_ns = placed.began_ns
        ran_ns = self._own_ns(placed, started_ns, now_ns)
        # A run stopped beyond its bound would have taken longer still. Were that not learnt, a
        # model that has become slower than its budget would be promised and missed for ever.
        placed.worker.brought(ran_ns)
        if ran_ns > placed.estimate.upper_ns:
            placed.estimate.observe(now_ns, ran_ns)
        return self._run_ended(now_ns, placed, started_ns, now_ns)

    def probed(self, now_ns: int, decision: str, lane: int, service_ns: int) -> list[Action]:
        """A probe has measured one run."""
        probe = self._run_of(decision, lane)
        if probe is None or probe.job.job_id >= 0:
            return []  # its worker was given up meanwhile
        started_ns = probe.began_ns
        kept_ns = self._lanes[lane].preempted_ns(probe, started_ns, now_ns)
        service_ns = max(service_ns - kept_ns, 1)
        probe.estimate.observe(now_ns, service_ns)
        actions = self._run_ended(now_ns, probe, started_ns, now_ns)
        if self._worth_another(now_ns, probe, service_ns):
            self._probe(now_ns, probe.job, probe.worker, probe.rung, actions)
        return actions

    def worker_ready(
        self, now_ns: int, decision: str, lane: int, warm_up_ns: Sequence[Sequence[int]]
    ) -> list[Action]:
        """A worker is warm; `warm_up_ns` holds each variant's runs, none for one it has not got.

        A replaced worker keeps what was learnt of its decision.
        """
        objective, rank = self._policies[decision].objective, self._ranks[decision]
        ladder = []
        for rung, runs_ns in enumerate(warm_up_ns):
            if not runs_ns:
                continue
            key = (decision, lane, rung)
            if key not in self._estimates:
                self._estimates[key] = self._new_estimate(objective, runs_ns)
            self._estimates[key].refresh(now_ns)
            ladder.append((rung, self._estimates[key]))
        self._join(Worker(decision, lane, rank, ladder))
        return []

    def worker_replaced(
        self,
        now_ns: int,
        decision: str,
        lane: int,
        warm_up_ns: Sequence[Sequence[int]],
        tried_as: str = "",
    ) -> list[Action]:
        """Another version's worker is warm beside this one, and takes its place between two runs.

        What runs or is on deck ends where it is; then `Retire` says that the place has changed.
        Nothing that was learnt of the old version's times counts for the new one's; where that was
        on trial, under the name `tried_as`, what was learnt then does.
        """
        objective, ladder = self._policies[decision].objective, []
        for rung, runs_ns in enumerate(warm_up_ns):
            learnt = self._estimates.pop((tried_as, lane, rung), None)
            if runs_ns:
                estimate = learnt or self._new_estimate(objective, runs_ns)
                estimate.refresh(now_ns)
                ladder.append((rung, estimate))
        heir = Worker(decision, lane, self._ranks[decision], ladder)
        worker = self._worker(decision, lane)
        if worker is None:
            self._take_place(heir)
            return []
        worker.heir = heir
        return self._dismiss(now_ns, worker)

    def worker_withdrawn(self, now_ns: int, name: str, lane: int) -> list[Action]:
        """Begin nothing more on this worker of a trial: what waits for it goes to the others."""
        worker = self._worker(name, lane)
        return [] if worker is None else self._dismiss(now_ns, worker)

    def heir_lost(self, now_ns: int, decision: str, lane: int) -> list[Action]:
        """The worker that was to take this one's place is gone: it stays."""
        worker = self._worker(decision, lane)
        actions: list[Action] = []
        if worker is not None:
            worker.leaving, worker.heir = False, None
            self._dispatch(now_ns, lane, actions)
        return actions

    def try_version(self, decision: str, name: str) -> None:
        """Serve some of a decision's questions by another version of it, which is called `name`.

        The questions count against the decision's declared arrivals as before.
        """
        for key in [key for key in self._estimates if key[0] == name]:
            del self._estimates[key]  # of another version that was once on trial
        # The rate is the decision's: here it would be counted twice as work that is yet to come.
        self._policies[name] = replace(self._policies[decision], name=name, rate=0.0)
        self._ranks[name] = self._ranks[decision]
        self._ready.setdefault(name, [])
        self._trial_of[name] = decision
        if decision in self._buckets:
            self._buckets[name] = self._buckets[decision]

    def worker_lost(self, now_ns: int, decision: str, lane: int) -> list[Action]:
        """A worker is gone: fail what it ran, move what was queued or fail it now."""
        worker = self._worker(decision, lane)
        if worker is None:
            return []
        self._part(worker)
        on = self._lanes[lane]
        actions: list[Action] = []
        lost = on.levels[worker.rank].lost(decision)
        if lost:
            on.interrupt_below(worker.rank, lost[0].began_ns, now_ns)
        if worker.stuck is not None:
            lost.append(worker.stuck)
            worker.stuck = None
        for placed in lost:
            if not placed.ended:
                actions.append(Evict(placed.job, Reason.WORKER_LOST))
            self._forget(placed)
        if worker.heir is not None:
            self._take_place(worker.heir)
            actions.append(Retire(decision, lane))
        self._move_queue(now_ns, worker, actions)
        self._dispatch(now_ns, lane, actions)
        return actions

    def spared(self, now_ns: int, decision: str, lane: int) -> list[Action]:
        """The worker that was to be killed had not got the core to stop: its grace begins anew."""
        running = self._run_of(decision, lane)
        if running is not None and running.ended:
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
        """Miss what is due and unanswered; set aside and kill what does not end."""
        actions: list[Action] = []
        while self._alarms and self._alarms[0][0] <= now_ns:
            placed = self._placed.get(heappop(self._alarms)[1])
            if placed is None:
                continue
            if not placed.ended and placed.job.deadline_ns <= now_ns:
                actions.append(Miss(placed.job))
                self._withdraw(now_ns, placed, actions)
            elif placed.kill_ns and placed.kill_ns <= now_ns:
                self._kill(now_ns, placed, actions)
            else:
                self._set_aside_if_stuck(now_ns, placed, actions)
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
        return any(level.queue for level in self._lanes[lane].levels)

    def is_busy(self, lane: int) -> bool:
        """Whether anything runs on the lane or waits for it."""
        return self._lanes[lane].busy()

    def is_ready(self, decision: str) -> bool:
        """Whether a warm worker stands by."""
        return bool(self._ready[decision])

    def estimate(self, decision: str, lane: int, rung: int = 0) -> Estimate | None:
        """What is known of a variant's service time there; None before its first worker."""
        return self._estimates.get((decision, lane, rung))

    @property
    def estimates(self) -> Mapping[tuple[str, int, int], Estimate]:
        """What is known of service times, by decision, lane and rung."""
        return self._estimates

    def promised_ns(self, job_id: int) -> int:
        """When an admitted job was predicted to finish; 0 for one that is not here."""
        placed = self._placed.get(job_id)
        return 0 if placed is None else placed.promised_ns

    # Workers -----------------------------------------------------------------------------------

    def _join(self, worker: Worker) -> None:
        """Count with a warm worker from now on."""
        self._ready[worker.decision].append(worker)
        on = self._lanes[worker.lane]
        on.workers.append(worker)
        on.levels[worker.rank].decisions.add(worker.decision)

    def _part(self, worker: Worker) -> None:
        """Count with a worker no longer."""
        self._ready[worker.decision].remove(worker)
        on = self._lanes[worker.lane]
        on.workers.remove(worker)
        on.levels[worker.rank].decisions.discard(worker.decision)

    def _take_place(self, heir: Worker) -> None:
        """Count with a worker of another version; the old one's times are no longer known."""
        place = heir.decision, heir.lane
        for key in [key for key in self._estimates if key[:2] == place]:
            del self._estimates[key]
        for rung, estimate in heir.ladder:
            self._estimates[*place, rung] = estimate
        self._join(heir)

    def _dismiss(self, now_ns: int, worker: Worker) -> list[Action]:
        """Let a worker go, at once or when its last run has ended."""
        worker.leaving = True
        actions: list[Action] = []
        if self._lanes[worker.lane].run_of(worker) is None:
            self._leave(now_ns, worker, actions)
        elif worker.heir is None:
            self._move_queue(now_ns, worker, actions)
        self._dispatch(now_ns, worker.lane, actions)
        return actions

    def _leave(self, now_ns: int, worker: Worker, actions: list[Action]) -> None:
        """A worker that was let go has ended its last run."""
        self._part(worker)
        if worker.heir is not None:
            self._take_place(worker.heir)
        actions.append(Retire(worker.decision, worker.lane))
        self._move_queue(now_ns, worker, actions)

    def _move_queue(self, now_ns: int, worker: Worker, actions: list[Action]) -> None:
        """Give what waits for a worker to whoever is in its place, else to another lane's."""
        decision = self._trial_of.get(worker.decision, worker.decision)
        other = self._worker(decision, worker.lane)
        for placed in self._lanes[worker.lane].queued_for(worker):
            if other is not None and other is not worker and other.stuck is None:
                placed.worker, placed.estimate = other, other.fastest
                placed.job = replace(placed.job, decision=decision)
            elif not self._readmit(now_ns, placed, actions):
                actions.append(Evict(placed.job, Reason.WORKER_LOST))

    # Admission ---------------------------------------------------------------------------------

    def _counts_as(self, now_ns: int, job: Job) -> int:
        """The criticality that the job has in fact, as a rank: lowered, or beyond the declared."""
        rank = min(self._ranks[job.decision] + job.lowered, LOWEST)
        if rank == 0:
            bucket = self._buckets.get(job.decision)
            if bucket is not None and not bucket.take(now_ns):
                return Criticality.STANDARD.rank
        return rank

    def _able(self, now_ns: int, decision: str, actions: list[Action]) -> list[Worker]:
        """The decision's workers that can take a job, once what holds a level up is set aside."""
        workers = self._ready[decision]
        for worker in workers:
            running = self._lanes[worker.lane].levels[worker.rank].running
            if running is not None and now_ns - running.began_ns > _aside_ns(running):
                self._set_aside_if_stuck(now_ns, running, actions, waiting=worker)
        if any(worker.stuck is not None for worker in workers):
            return [worker for worker in workers if worker.stuck is None]
        return workers

    def _admit(
        self,
        now_ns: int,
        job: Job,
        rank: int,
        workers: Sequence[Worker],
        actions: list[Action],
        older: Placed | None = None,
    ) -> Forecast:
        """If the job fits, promise it an answer, in the place of `older`."""
        best, seen = self._best_lane(now_ns, job, rank, workers)
        if not seen.fits:
            seen = self._make_room(now_ns, best, seen, actions)
        if not seen.fits:
            return seen
        if older is not None:
            self._forget(older)
            actions.append(Evict(older.job, Reason.STALE))
        best.promised_ns = seen.finish_ns
        self._enqueue(best)
        heappush(self._alarms, (job.deadline_ns, job.job_id))
        lane = best.worker.lane
        self._dispatch(now_ns, lane, actions)
        self._evict_below(now_ns, lane, rank, actions)
        return seen

    def _best_lane(
        self, now_ns: int, job: Job, rank: int, workers: Sequence[Worker]
    ) -> tuple[Placed, Forecast]:
        """The lane where the job fits and finishes first."""
        if len(workers) == 1:
            return self._forecast(now_ns, job, rank, workers[0])
        candidates = [self._forecast(now_ns, job, rank, worker) for worker in workers]
        return min(candidates, key=self._cost)

    def _forecast(
        self, now_ns: int, job: Job, rank: int, worker: Worker
    ) -> tuple[Placed, Forecast]:
        new = Placed(job, worker, rank, worker.fastest, urgency(job))
        queue = self._lanes[worker.lane].levels[rank].queue
        return new, forecast(queue, self._opening(now_ns, worker.lane, rank), new)

    def _cost(self, candidate: tuple[Placed, Forecast]) -> tuple[bool, int]:
        new, seen = candidate
        finish_ns = seen.finish_ns
        # Between lanes about as good, take the one where no lower work is held up.
        if any(lower.busy for lower in self._lanes[new.worker.lane].levels[new.rank + 1 :]):
            finish_ns += new.estimate.upper_ns >> 3
        return (not seen.fits, finish_ns)

    def _opening(self, now_ns: int, lane: int, rank: int) -> Opening:
        """When the level's queue can start, after all higher work and its own residual."""
        on = self._lanes[lane]
        if rank == 0:
            return Opening(now_ns, now_ns + on.levels[0].residual_ns(now_ns, now_ns))
        higher_ns, since_ns = on.higher_work(now_ns, rank)
        own_ns = on.levels[rank].residual_ns(now_ns, since_ns)
        return Opening(now_ns, now_ns + higher_ns + own_ns, self._left(lane, rank))

    def _left(self, lane: int, rank: int) -> int:
        """How much of the lane the declared higher work leaves, in parts of WHOLE.

        A declared question counts with what questions brought lately: a decision that is pressed
        steps down its ladder and refuses, and with its best variant for each it would seem to leave
        nothing.
        """
        taken = 0.0
        for worker in self._lanes[lane].workers:
            if worker.rank < rank:
                rate = self._policies[worker.decision].rate / len(self._ready[worker.decision])
                taken += rate * worker.work_ns
        return max(LEAST_LEFT, WHOLE - int(WHOLE * taken / SECOND)) if taken else WHOLE

    def _make_room(
        self, now_ns: int, new: Placed, seen: Forecast, actions: list[Action]
    ) -> Forecast:
        """Where the job does not fit, see whether others have to give way, and let them."""
        lane, rank = new.worker.lane, new.rank
        if now_ns + new.estimate.upper_ns > new.job.due_ns:
            return seen
        opening = self._opening(now_ns, lane, rank)
        queue = self._lanes[lane].levels[rank].queue
        for level in self._lanes[lane].levels[: rank + 1]:
            run = level.running
            if run is not None and run.rank > rank and not run.ended:
                # It runs up here, but it counts as less: lower work never stands in the way.
                held_ns = run.estimate.upper_ns - (run.estimate.upper_ns >> 3)
                sooner = Opening(now_ns, max(now_ns, opening.free_ns - held_ns), opening.left)
                if (freed := forecast(queue, sooner, new)).fits:
                    self._evict(now_ns, run, actions)
                    return freed
        return self._share(now_ns, new, seen, opening, actions)

    def _share(
        self, now_ns: int, new: Placed, seen: Forecast, opening: Opening, actions: list[Action]
    ) -> Forecast:
        """Let who has most waiting give way to an asker who has less."""
        seen, pushed = push_out(self._level(new).queue, opening, new, seen)
        for victim in pushed:
            self._evict(now_ns, victim, actions)
        return seen

    def _refuse(
        self,
        now_ns: int,
        job: Job,
        rank: int,
        workers: Sequence[Worker],
        seen: Forecast,
        actions: list[Action],
    ) -> None:
        """Say why, and what could have been promised; look again at what old evidence refused."""
        alone_ns = min(worker.fastest.upper_ns for worker in workers)
        reason = Reason.INFEASIBLE if now_ns + alone_ns > job.due_ns else Reason.OVERLOAD
        earliest_ns = min(self._earliest_ns(now_ns, job, rank, worker) for worker in workers)
        actions.append(Reject(job, reason, seen.finish_ns, earliest_ns))
        for worker in workers:
            worker.brought(0)
            estimate = worker.fastest
            if not estimate.calibrated or estimate.newest_ns < now_ns - PROBE_AFTER_NS:
                estimate.refresh(now_ns)
                if not self._lanes[worker.lane].busy(max(rank, worker.rank) + 1):
                    refused = Job(0, job.decision, now_ns, job.deadline_ns, job.due_ns)
                    self._probe(now_ns, refused, worker, worker.rung_of(estimate), actions)

    def _earliest_ns(self, now_ns: int, job: Job, rank: int, worker: Worker) -> int:
        new = Placed(job, worker, rank, worker.fastest, urgency(job))
        queue = self._lanes[worker.lane].levels[rank].queue
        return earliest_feasible_ns(queue, self._opening(now_ns, worker.lane, rank), new)

    def _unstarted_older(self, job: Job) -> Placed | None:
        """Take the stream's unstarted older job out of its queue, while the new one is judged."""
        older = self._newest.get(self._source(job))
        return older if older is not None and self._level(older).withdraw(older) else None

    def _readmit(self, now_ns: int, placed: Placed, actions: list[Action]) -> bool:
        """Take a job whose worker is lost or stuck out of its queue, and find it another lane."""
        self._level(placed).withdraw(placed)
        self._forget(placed)
        job = placed.job
        workers = self._taking(job.decision)
        if not workers and job.decision in self._trial_of:
            job = replace(job, decision=self._trial_of[job.decision])
            workers = self._taking(job.decision)
        return bool(workers) and self._admit(now_ns, job, placed.rank, workers, actions).fits

    def _taking(self, decision: str) -> list[Worker]:
        """Return the decision's workers that take jobs."""
        ready = self._ready[decision]
        return [w for w in ready if w.stuck is None and (w.heir is not None or not w.leaving)]

    # Order of service --------------------------------------------------------------------------

    def _dispatch(self, now_ns: int, lane: int, actions: list[Action]) -> None:
        """Start what can start: one job a criticality, the kernel lets the higher go first."""
        for rank, level in enumerate(self._lanes[lane].levels):
            if level.queue:
                self._start_waiting(now_ns, lane, rank, level, actions)
                if level.queue and level.deck is None and _may_deck(level):
                    self._choose(now_ns, level.take(0), level, actions, on_deck=True)

    def _start_waiting(
        self, now_ns: int, lane: int, rank: int, level: Level, actions: list[Action]
    ) -> None:
        levels, place = self._lanes[lane].levels, 0
        while place < len(level.queue):
            placed = level.queue[place]
            worker = placed.worker
            # One that runs above the level it counts as must not go before any of the levels
            # between: it waits until they have nothing to run.
            held = any(levels[r].running is not None for r in range(worker.rank, rank + 1))
            if held or worker.stuck is not None:
                if level.running is not None and not level.strangers:
                    return
                place += 1
                continue
            level.take(place)
            if _too_late(now_ns, placed):
                self._forget(placed)
                actions.append(Evict(placed.job, Reason.EVICTED))
            else:
                self._choose(now_ns, placed, levels[worker.rank], actions, on_deck=False)

    def _choose(
        self, now_ns: int, placed: Placed, runs_at: Level, actions: list[Action], *, on_deck: bool
    ) -> None:
        """Hand the job to its worker, by the most accurate variant that keeps every promise."""
        worker = placed.worker
        if len(worker.ladder) > 1:
            self._pick_variant(now_ns, placed)
        else:
            placed.rung = worker.ladder[0][0]
        if on_deck:
            runs_at.deck = placed
        else:
            runs_at.begin(now_ns, placed)
            if len(runs_at.decisions) > 1:  # others would wait behind it, were it stuck
                heappush(self._alarms, (now_ns + _aside_ns(placed), placed.job.job_id))
        actions.append(Start(placed.job, worker.lane, on_deck, placed.rung))

    def _pick_variant(self, now_ns: int, placed: Placed) -> None:
        """Take the most accurate variant that keeps every promise, and promise what it takes."""
        worker = placed.worker
        opening = self._opening(now_ns, worker.lane, placed.rank)
        queue = self._level(placed).queue
        place, placed.rung, placed.estimate = pick_variant(now_ns, placed, queue, opening)
        if place > worker.place:
            worker.down_ns = now_ns
        worker.place = place
        end_ns = opening.finish_ns(opening.free_ns + placed.estimate.upper_ns)
        placed.promised_ns = max(placed.promised_ns, end_ns)

    def _run_ended(
        self, now_ns: int, placed: Placed, started_ns: int, ended_ns: int
    ) -> list[Action]:
        worker = placed.worker
        lane, rank = worker.lane, worker.rank
        actions: list[Action] = []
        if worker.stuck is placed:
            worker.stuck = None
            actions.append(Aside(worker.decision, lane, over=True))
        else:
            level = self._lanes[lane].levels[rank]
            assert level.running is placed, "a run ended that was not running"
            self._lanes[lane].interrupt_below(rank, started_ns, ended_ns)
            level.end(now_ns, ended_ns)
            if level.running is not None:
                self._deck_began(now_ns, level.running, actions)
        self._forget(placed)
        if worker.leaving and self._lanes[lane].run_of(worker) is None:
            self._leave(now_ns, worker, actions)
        self._dispatch(now_ns, lane, actions)
        if len(worker.ladder) > 1 and not worker.leaving:
            self._look_around(now_ns, placed, actions)
        return actions

    def _look_around(self, now_ns: int, placed: Placed, actions: list[Action]) -> None:
        """On an idle lane, measure a variant that old or little evidence keeps out."""
        worker, job = placed.worker, placed.job
        if job.job_id < 0 or self._lanes[worker.lane].busy():
            return
        for place, (rung, estimate) in enumerate(worker.ladder):
            kept_out = estimate.calibrated and place < worker.place
            age_ns = now_ns - estimate.newest_ns
            unknown = not estimate.calibrated and age_ns > PROBE_SOON_NS
            if unknown or (kept_out and age_ns > PROBE_AFTER_NS):
                due_ns = now_ns + job.due_ns - job.arrival_ns
                wanted = Job(0, job.decision, now_ns, due_ns, due_ns)
                self._probe(now_ns, wanted, worker, rung, actions)
                return

    def _deck_began(self, now_ns: int, placed: Placed, actions: list[Action]) -> None:
        """What was on deck runs: its worker began it by itself, wanted or not."""
        if placed.ended:
            self._expect_stop(now_ns, placed)
        elif _too_late(now_ns, placed):
            self._evict(now_ns, placed, actions)

    def _evict_below(self, now_ns: int, lane: int, rank: int, actions: list[Action]) -> None:
        """Tell lower work that can no longer make it, while its askers still have time."""
        on = self._lanes[lane]
        for lower in range(rank + 1, len(on.levels)):
            if on.levels[lower].busy:
                higher_ns, since_ns = on.higher_work(now_ns, lower)
                for placed in on.levels[lower].doomed(now_ns, now_ns + higher_ns, since_ns):
                    self._evict(now_ns, placed, actions)

    # Runs that end, and runs that are made to end ----------------------------------------------

    def _evict(self, now_ns: int, placed: Placed, actions: list[Action]) -> None:
        """Tell a job's asker that it has to give way, wherever the job is."""
        actions.append(Evict(placed.job, Reason.EVICTED))
        self._withdraw(now_ns, placed, actions)

    def _withdraw(self, now_ns: int, placed: Placed, actions: list[Action]) -> None:
        """Take a job whose outcome is told off its lane, stopping its run if it has one."""
        if self._level(placed).withdraw(placed):
            self._forget(placed)
            return
        placed.ended = True
        worker = placed.worker
        actions.append(Stop(placed.job, worker.lane))
        if self._lanes[worker.lane].run_of(worker) is placed:
            self._expect_stop(now_ns, placed)

    def _expect_stop(self, now_ns: int, placed: Placed) -> None:
        """A run nobody waits for must end soon, or its worker hangs."""
        placed.told_ns = now_ns
        placed.kill_ns = now_ns + KILL_GRACE_NS + placed.estimate.upper_ns
        heappush(self._alarms, (placed.kill_ns, placed.job.job_id))

    def _set_aside_if_stuck(
        self, now_ns: int, placed: Placed, actions: list[Action], waiting: Worker | None = None
    ) -> None:
        """A run far past its bound no longer holds up the other decisions of its criticality.

        `waiting` is a worker that somebody asks for who is not in any queue yet.
        """
        worker = placed.worker
        on = self._lanes[worker.lane]
        level = on.levels[worker.rank]
        if level.running is not placed or level.deck is not None:
            return
        others = waiting is not None and waiting is not worker
        if not others and all(queued.worker is worker for queued in level.queue):
            return
        early_ns = _aside_ns(placed) - self._own_ns(placed, placed.began_ns, now_ns)
        if early_ns > 0:  # higher work had the lane
            heappush(self._alarms, (now_ns + early_ns, placed.job.job_id))
            return
        on.interrupt_below(worker.rank, placed.began_ns, now_ns)
        level.set_aside()
        worker.stuck = placed
        actions.append(Aside(worker.decision, worker.lane, over=False))
        for queued in on.queued_for(worker):
            if not self._readmit(now_ns, queued, actions):  # then it waits for the stuck one
                self._enqueue(queued)
        self._dispatch(now_ns, worker.lane, actions)

    def _kill(self, now_ns: int, placed: Placed, actions: list[Action]) -> None:
        """The grace is over; but what higher work kept from running could not obey either."""
        worker = placed.worker
        if worker.stuck is not placed:
            kept_ns = self._lanes[worker.lane].preempted_ns(placed, placed.told_ns, now_ns)
            if kept_ns > MS:
                placed.told_ns, placed.kill_ns = now_ns, now_ns + kept_ns
                heappush(self._alarms, (placed.kill_ns, placed.job.job_id))
                return
        # The loss comes back as `worker_lost`; until then nothing starts there.
        placed.kill_ns = 0
        actions.append(Kill(placed.job.decision, worker.lane))

    def _probe(
        self, now_ns: int, refused: Job, worker: Worker, rung: int, actions: list[Action]
    ) -> None:
        """Measure a run on zeros. It has the level as a job has, but nobody waits for it.

        `refused` is what the result is held against: since when, and due when.
        """
        self._probes += 1
        self._probing += 1
        job = replace(refused, job_id=-self._probes)
        estimate = worker.estimate_of(rung)
        probe = Placed(job, worker, worker.rank, estimate, urgency(job), rung, ended=True)
        self._placed[job.job_id] = probe
        self._lanes[worker.lane].levels[worker.rank].begin(now_ns, probe)
        self._expect_stop(now_ns, probe)
        actions.append(Probe(job.decision, worker.lane, rung))

    def _worth_another(self, now_ns: int, probe: Placed, service_ns: int) -> bool:
        """Whether old runs still refuse what this one shows to be possible, on an idle lane."""
        refused = probe.job
        wanted_ns = refused.due_ns - refused.arrival_ns
        if probe.worker.leaving:
            return False
        if not service_ns * GUARD <= wanted_ns < probe.estimate.upper_ns:
            return False
        idle = not self._lanes[probe.worker.lane].busy()
        return idle and now_ns < refused.arrival_ns + PROBE_FOR_NS

    def _own_ns(self, placed: Placed, started_ns: int, ended_ns: int) -> int:
        """How long the run had the lane itself."""
        on = self._lanes[placed.worker.lane]
        own_ns = ended_ns - started_ns - on.preempted_ns(placed, started_ns, ended_ns)
        if placed.worker.stuck is placed:  # since it was set aside it had leftover time only
            return min(own_ns, _aside_ns(placed))
        return own_ns

    def _enqueue(self, placed: Placed) -> None:
        job = placed.job
        self._level(placed).insert(placed)
        self._placed[job.job_id] = placed
        if job.stream and self._policies[job.decision].queue == "newest":
            self._newest[self._source(job)] = placed

    def _forget(self, placed: Placed) -> None:
        job = placed.job
        del self._placed[job.job_id]
        if job.job_id < 0:
            self._probing -= 1
        if job.stream and self._newest.get(self._source(job)) is placed:
            del self._newest[self._source(job)]

    def _source(self, job: Job) -> tuple[str, str]:
        """The stream that the job is of, whichever version answers."""
        return self._trial_of.get(job.decision, job.decision), job.stream

    def _level(self, placed: Placed) -> Level:
        """The level whose queue the job belongs to."""
        return self._lanes[placed.worker.lane].levels[placed.rank]

    def _worker(self, decision: str, lane: int) -> Worker | None:
        return next((w for w in self._ready[decision] if w.lane == lane), None)

    def _run_of(self, decision: str, lane: int) -> Placed | None:
        worker = self._worker(decision, lane)
        return None if worker is None else self._lanes[lane].run_of(worker)


def _aside_ns(placed: Placed) -> int:
    return ASIDE_BOUNDS * placed.estimate.upper_ns + ASIDE_NS


def _too_late(now_ns: int, placed: Placed) -> bool:
    """Whether a run begun now would end after its deadline, even if it takes no more than usual."""
    return now_ns + placed.estimate.typical_ns > placed.job.deadline_ns


def _may_deck(level: Level) -> bool:
    # A job on deck cannot be overtaken. With one decision here that costs no order worth
    # having; with several, a loose job on deck would stand before a tight one. A frame that a
    # newer one may replace stays where it can be replaced, and the choice among variants is put
    # off until it is known who waits behind.
    following = level.queue[0]
    worker = following.worker
    own = level.running is not None and level.running.worker is worker
    alone = len(level.decisions) == 1 and len(worker.ladder) == 1
    return own and alone and not worker.leaving and not following.job.stream
