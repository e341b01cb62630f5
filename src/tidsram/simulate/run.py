"""Plays questions through the real scheduler in virtual time: what is simulated is what serves.

The driver stands in for gate, workers and kernel. It carries out the scheduler's actions on
virtual lanes and reports back what a real node would, at the instants at which it would.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush

import numpy as np
from msgspec import Struct

from tidsram.outcome import Reason
from tidsram.schedule.estimate import Estimate
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
from tidsram.schedule.scheduler import Policy, Scheduler
from tidsram.simulate.lane import NEVER, Run, VirtualLane
from tidsram.simulate.result import REASONS, Ints, Played, Result
from tidsram.simulate.script import (
    Drained,
    Event,
    Gone,
    Hung,
    Lost,
    Replaced,
    Restarted,
    Slower,
)
from tidsram.units import SECOND, US

WARM_UP_RUNS = 10
UNTOLD = -1
_CODE = {reason: code for code, reason in enumerate(REASONS)}
_ANSWERED, _MISSED, _GONE = (
    _CODE[reason] for reason in (Reason.NONE, Reason.DEADLINE, Reason.ASKER_LEFT)
)


class Questions(Struct, frozen=True, kw_only=True, eq=False):
    """Questions of one kind: when they come, and what they ask for."""

    decision: str
    arrivals_ns: Ints
    budget_ns: int
    priority: int = 1
    lowered: int = 0
    stream: str = ""
    asker: str = ""


class Node(Struct, frozen=True, kw_only=True):
    """What the questions meet. `lanes` names a decision's lanes, all where it says nothing.

    `rungs` names what each of a decision's variants takes, most accurate first, as a share of the
    question's service time; one variant that takes all of it where it says nothing.
    """

    policies: Sequence[Policy]
    lane_count: int = 1
    lanes: Mapping[str, Sequence[int]] = {}
    rungs: Mapping[str, Sequence[float]] = {}
    warm_up_ns: Mapping[str, Sequence[int]] = {}  # else the first service times
    return_ns: int = 500 * US  # what the gate keeps for the way back
    real_return_ns: int = 0  # what the way back takes
    operator_ns: int = 0  # a stopped run ends at the next multiple of it
    restart_ns: int = SECOND  # from a worker's end to its replacement
    estimate: Callable[[float, Sequence[int]], Estimate] = Estimate
    scheduler: Callable[..., Scheduler] = Scheduler  # or one with a mechanism taken out


def run(
    node: Node,
    questions: Iterable[Questions],
    service_ns: Mapping[str, int | Ints],
    script: Iterable[Event] = (),
    log: list[tuple[int, Action]] | None = None,
) -> Result:
    """Play the questions out to the last outcome.

    The k-th question of a decision takes the k-th of its service times when it runs, whatever the
    order; they repeat when there are too few. `log` is given every action with its instant.
    """
    return _Driver(node, tuple(questions), service_ns, script, log).play()


class _Driver:
    def __init__(
        self,
        node: Node,
        questions: Sequence[Questions],
        service_ns: Mapping[str, int | Ints],
        script: Iterable[Event],
        log: list[tuple[int, Action]] | None,
    ) -> None:
        self._node, self._log = node, log
        self._scheduler = node.scheduler(node.policies, node.lane_count, node.estimate)
        self._ranks = {policy.name: policy.criticality.rank for policy in node.policies}
        self._lanes = [VirtualLane(node.operator_ns) for _ in range(node.lane_count)]
        self._times = {
            name: np.atleast_1d(np.asarray(times, np.int64)).tolist()
            for name, times in service_ns.items()
        }
        self._up: set[tuple[str, int]] = set()  # workers
        self._slower = dict.fromkeys(self._times, 1.0)
        self._shares = {
            (name, lane): tuple(node.rungs.get(name, (1.0,)))
            for name in self._times
            for lane in range(node.lane_count)
        }
        self._next_shares: dict[tuple[str, int], tuple[float, ...]] = {}  # of a version to come
        self._jobs, self._services = self._number(questions)
        count = len(self._jobs)
        self._code, self._told_ns = [UNTOLD] * count, [0] * count
        self._promised_ns, self._started_ns = [0] * count, [0] * count
        self._ended_ns, self._rung = [0] * count, [-1] * count
        self._events = [(event.at_ns, number, event) for number, event in enumerate(script)]
        heapify(self._events)
        self._event_count = len(self._events)
        self._now_ns = self._busy_ns = self._wasted_ns = 0

    def _number(self, questions: Sequence[Questions]) -> tuple[list[Job], list[int]]:
        """Make jobs of all questions, numbered in the order in which they come."""
        instants = np.concatenate([np.empty(0, np.int64), *(q.arrivals_ns for q in questions)])
        counts = np.array([len(q.arrivals_ns) for q in questions], np.int64)
        sources = np.repeat(np.arange(len(questions)), counts)
        order = np.argsort(instants, kind="stable")
        return_ns = self._node.return_ns
        jobs, services = [], []
        asked = dict.fromkeys(self._times, 0)
        pairs = zip(instants[order].tolist(), sources[order].tolist(), strict=True)
        for number, (now_ns, source) in enumerate(pairs):
            q = questions[source]
            name, deadline_ns = q.decision, now_ns + q.budget_ns
            due_ns = deadline_ns - return_ns
            asks = (q.priority, q.lowered, q.stream, q.asker)
            jobs.append(Job(number, name, now_ns, deadline_ns, due_ns, *asks))
            times = self._times[name]
            services.append(times[asked[name] % len(times)])
            asked[name] += 1
        return jobs, services

    def play(self) -> Result:
        self._warm_up()
        jobs, lanes, scheduler = self._jobs, self._lanes, self._scheduler
        arrived, promised_ns = scheduler.arrived, self._promised_ns
        only = lanes[0] if len(lanes) == 1 else None
        following, count = 0, len(jobs)
        arrival_ns = jobs[0].arrival_ns if jobs else NEVER
        while True:
            lane = only or min(lanes, key=_end_ns)
            other_ns = self._next_other_ns()
            if lane.end_ns <= arrival_ns and lane.end_ns <= other_ns:
                if lane.end_ns >= NEVER:
                    return self._result()
                self._run_ended(lane)
            elif other_ns <= arrival_ns:
                self._other(other_ns)
            else:
                self._carry_out(arrival_ns, arrived(arrival_ns, jobs[following]))
                promised_ns[following] = scheduler.promised_ns(following)
                following += 1
                arrival_ns = jobs[following].arrival_ns if following < count else NEVER

    # What happens ------------------------------------------------------------------------------

    def _warm_up(self) -> None:
        every = range(self._node.lane_count)
        for policy in self._node.policies:
            for lane in self._node.lanes.get(policy.name, every):
                self._ready(0, policy.name, lane)

    def _ready(self, now_ns: int, decision: str, lane: int) -> None:
        if (decision, lane) not in self._up:
            self._up.add((decision, lane))
            ready = self._scheduler.worker_ready
            ladder = self._warm_up_of(decision, self._shares[decision, lane])
            self._carry_out(now_ns, ready(now_ns, decision, lane, ladder))

    def _warm_up_of(self, decision: str, shares: Sequence[float]) -> list[list[int]]:
        first = self._times[decision][:WARM_UP_RUNS]
        warm_up_ns = self._node.warm_up_ns.get(decision, first)
        return [[int(ns * share) for ns in warm_up_ns] for share in shares]

    def _replace(self, now_ns: int, event: Replaced) -> None:
        place = event.decision, event.lane
        if place in self._up:
            self._next_shares[place] = event.rungs
        else:
            self._up.add(place)
            self._shares[place] = event.rungs
        ladder = self._warm_up_of(event.decision, event.rungs)
        self._carry_out(now_ns, self._scheduler.worker_replaced(now_ns, *place, ladder))

    def _next_other_ns(self) -> int:
        """When the scheduler wants to be woken or the script goes on."""
        wake_ns = self._scheduler.next_wake_ns
        other_ns = NEVER if wake_ns is None else wake_ns
        if self._events and self._events[0][0] < other_ns:
            return self._events[0][0]
        return other_ns

    def _other(self, now_ns: int) -> None:
        if self._events and self._events[0][0] <= now_ns:
            self._happen(now_ns, heappop(self._events)[2])
        else:
            self._carry_out(now_ns, self._scheduler.tick(now_ns))

    def _happen(self, now_ns: int, event: Event) -> None:
        if isinstance(event, Lost):
            self._lose(now_ns, event.decision, event.lane, event.ready_ns)
        elif isinstance(event, Hung):
            self._lanes[event.lane].hang(now_ns, event.decision)
        elif isinstance(event, Slower):
            self._slower[event.decision] = event.factor
        elif isinstance(event, Gone):
            if self._code[event.number] == UNTOLD and self._jobs[event.number].arrival_ns < now_ns:
                self._tell(event.number, _GONE, now_ns)
                self._carry_out(now_ns, self._scheduler.gone(now_ns, event.number))
        elif isinstance(event, Drained):
            self._carry_out(now_ns, self._scheduler.draining(now_ns))
        elif isinstance(event, Replaced):
            self._replace(now_ns, event)
        else:
            self._ready(now_ns, event.decision, event.lane)

    def _run_ended(self, lane: VirtualLane) -> None:
        now_ns = self._now_ns = lane.end_ns
        ended = lane.end(now_ns)
        self._busy_ns += ended.ran_ns
        job = ended.job
        if job is None:
            probed = self._scheduler.probed
            number = self._lanes.index(lane)
            self._carry_out(now_ns, probed(now_ns, ended.decision, number, ended.ran_ns))
            return
        number = job.job_id
        self._started_ns[number], self._ended_ns[number] = ended.started, now_ns
        self._rung[number] = ended.rung
        # Where a slower variant was chosen at the start, that is what was promised last.
        self._promised_ns[number] = self._scheduler.promised_ns(number)
        if ended.aborted:
            actions = self._scheduler.failed(now_ns, number)
        else:
            actions = self._scheduler.finished(now_ns, number, ended.started, now_ns)
        if self._code[number] == UNTOLD:
            if ended.aborted or now_ns >= job.deadline_ns:
                self._tell(number, _MISSED, now_ns)
            else:
                self._tell(number, _ANSWERED, now_ns + self._node.real_return_ns)
        if self._code[number] != _ANSWERED or self._told_ns[number] > job.deadline_ns:
            self._wasted_ns += ended.ran_ns
        self._carry_out(now_ns, actions)

    def _lose(self, now_ns: int, decision: str, lane: int, ready_ns: int | None) -> None:
        """A worker is gone with what it had."""
        if (decision, lane) not in self._up:
            return
        self._up.discard((decision, lane))
        for run in self._lanes[lane].lose(now_ns, decision):
            self._busy_ns += run.ran_ns
            self._wasted_ns += run.ran_ns
        self._carry_out(now_ns, self._scheduler.worker_lost(now_ns, decision, lane))
        if ready_ns is not None:
            self._event_count += 1
            event = Restarted(at_ns=ready_ns, decision=decision, lane=lane)
            heappush(self._events, (ready_ns, self._event_count, event))

    # What the scheduler decided ----------------------------------------------------------------

    def _carry_out(self, now_ns: int, actions: Sequence[Action]) -> None:
        self._now_ns = now_ns
        if self._log is not None:
            self._log.extend((now_ns, action) for action in actions)
        for action in actions:
            if isinstance(action, Start):
                self._start(now_ns, action)
            elif isinstance(action, Reject | Evict):
                self._tell(action.job.job_id, _CODE[action.reason], now_ns)
            elif isinstance(action, Miss):
                self._tell(action.job.job_id, _MISSED, now_ns)
            elif isinstance(action, Stop):
                self._lanes[action.lane].stop(now_ns, action.job.job_id)
            elif isinstance(action, Kill):
                ready_ns = now_ns + self._node.restart_ns
                self._lose(now_ns, action.decision, action.lane, ready_ns)
            elif isinstance(action, Aside):
                if not action.over:
                    self._lanes[action.lane].set_aside(now_ns, action.decision)
            elif isinstance(action, Retire):
                place = action.decision, action.lane
                self._up.add(place)
                self._shares[place] = self._next_shares.pop(place)
            else:
                self._probe(now_ns, action)

    def _start(self, now_ns: int, action: Start) -> None:
        job = action.job
        name = job.decision
        service_ns = self._services[job.job_id]
        share = self._slower[name] * self._shares[name, action.lane][action.rung]
        if share != 1:
            service_ns = int(service_ns * share)
        run = Run(name, self._ranks[name], service_ns, job, action.rung)
        self._lanes[action.lane].hand_over(now_ns, run, on_deck=action.on_deck)

    def _probe(self, now_ns: int, action: Probe) -> None:
        name = action.decision
        share = self._slower[name] * self._shares[name, action.lane][action.rung]
        service_ns = int(self._times[name][0] * share)
        run = Run(name, self._ranks[name], service_ns, None, action.rung)
        self._lanes[action.lane].hand_over(now_ns, run, on_deck=False)

    def _tell(self, number: int, code: int, now_ns: int) -> None:
        assert self._code[number] == UNTOLD, "one question, one outcome"
        self._code[number], self._told_ns[number] = code, now_ns

    # What it came to ---------------------------------------------------------------------------

    def _result(self) -> Result:
        columns = np.array(
            [
                [job.arrival_ns for job in self._jobs],
                [job.deadline_ns for job in self._jobs],
                self._code,
                self._told_ns,
                self._promised_ns,
                self._started_ns,
                self._ended_ns,
                self._rung,
            ],
            np.int64,
        )
        names = np.array([job.decision for job in self._jobs])
        played = {name: Played(*columns[:, names == name]) for name in self._times}
        return Result(Played(*columns), played, self._now_ns, self._busy_ns, self._wasted_ns)


def _end_ns(lane: VirtualLane) -> int:
    return lane.end_ns
