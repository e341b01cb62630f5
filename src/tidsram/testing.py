"""Fakes for tests: they keep the promises of the real things, without their weight."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from tidsram import clock
from tidsram.engine.base import Array, RunAborted, RunFailed
from tidsram.engine.memory import check_fits, zeros
from tidsram.outcome import Reason
from tidsram.protocol.tensors import ModelSpec
from tidsram.schedule.admission import Forecast, Opening
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
from tidsram.schedule.lane import Placed
from tidsram.schedule.scheduler import Policy, Scheduler
from tidsram.simulate.result import Result
from tidsram.simulate.run import Node, Questions, run
from tidsram.simulate.script import Event

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Operator = Callable[[list[Array]], list[Array]]


class FakeBinding:
    """The memory of one run."""

    def __init__(self, inputs: Sequence[Array], outputs: Sequence[Array | None]) -> None:
        self.inputs, self.outputs = list(inputs), list(outputs)


class FakeEngine:
    """An engine whose model is a list of Python functions, its operators.

    The first takes the inputs, each other what the one before returned; the last returns the
    outputs. As in a real runtime, an abort takes effect between operators. What an operator
    raises becomes RunFailed.
    """

    def __init__(
        self,
        spec: ModelSpec,
        operators: Sequence[Operator],
        now_ns: Callable[[], int] = clock.now_ns,
    ) -> None:
        self.spec = spec
        self._operators, self._now_ns = tuple(operators), now_ns
        self._current: tuple[int, list[bool]] | None = None  # ticket; filled in by an abort

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array | None]) -> FakeBinding:
        """Prepare runs on the given memory; refuse arrays that do not fit the spec."""
        memory = zip((*self.spec.inputs, *self.spec.outputs), (*inputs, *outputs), strict=True)
        for tensor, array in memory:
            if array is not None:
                check_fits(tensor, array)
        return FakeBinding(inputs, outputs)

    def run(self, binding: FakeBinding, ticket: int) -> list[Array | None]:
        """Run the operators in order; write or return what the last one gives."""
        aborted: list[bool] = []
        self._current = (ticket, aborted)
        values = self._results(binding.inputs, aborted)
        if values is None:
            raise RunAborted(f"run {ticket} was aborted")
        return [_deliver(value, to) for value, to in zip(values, binding.outputs, strict=True)]

    def _results(self, values: list[Array], aborted: list[bool]) -> list[Array] | None:
        for operator in self._operators:
            if aborted:
                return None
            try:
                values = operator(values)
            except Exception as error:  # noqa: BLE001 - whatever the test's function raises
                raise RunFailed(str(error)) from None
        return values

    def abort(self, ticket: int) -> None:
        """End the run `ticket` before its next operator, if it is the one in progress."""
        current = self._current
        if current is not None and current[0] == ticket:
            current[1].append(True)

    def warm_up(self, runs: int) -> list[int]:
        """Run on zeros; return each run's nanoseconds."""
        binding = self.bind([zeros(t) for t in self.spec.inputs], [None] * len(self.spec.outputs))
        times_ns = []
        for _ in range(runs):
            start_ns = self._now_ns()
            self.run(binding, -1)
            times_ns.append(self._now_ns() - start_ns)
        return times_ns


def _deliver(value: Array, output: Array | None) -> Array | None:
    """Write a value into bound memory, or hand it over."""
    if output is None:
        return value
    output[...] = value
    return None


class FixedEstimate(Estimate):
    """A service time known beforehand: the largest warm-up run, whatever is seen later."""

    def __init__(self, objective: float, warm_up_ns: Sequence[int]) -> None:
        super().__init__(objective, warm_up_ns)
        self.upper_ns = self.typical_ns = self.mean_ns = max(warm_up_ns)

    @property
    def calibrated(self) -> bool:
        """Always: there is nothing to find out."""
        return True

    def observe(self, now_ns: int, service_ns: int) -> None:
        """Note that there was a run."""
        del service_ns
        self.newest_ns = now_ns

    def refresh(self, now_ns: int) -> None:
        """Leave the bound as it is."""


class FirstCome(Scheduler):
    """The scheduler without per-asker fairness: nobody gives way to one who has less waiting."""

    def _share(
        self, now_ns: int, new: Placed, seen: Forecast, opening: Opening, actions: list[Action]
    ) -> Forecast:
        del now_ns, new, opening, actions
        return seen


PROBE = -1


class Shell:
    """A gate without I/O: tells the scheduler what happens, carries out and checks what it returns.

    The test plays workers and clock. Every action is held against what a gate could carry out:
    one outcome for each request, one run for each criticality on a lane, nothing out of order.
    """

    def __init__(
        self,
        *policies: Policy,
        lanes: int = 1,
        estimate: Callable[[float, Sequence[int]], Estimate] = FixedEstimate,
    ) -> None:
        self.scheduler = Scheduler(policies, lanes, estimate)
        self.now_ns = 0
        self.jobs: dict[int, Job] = {}  # every request by its number
        self.reasons: dict[int, Reason] = {}  # its outcome, once told
        self.runs: dict[
            tuple[int, int], list[Job]
        ] = {}  # (lane, rank) → what runs, what is on deck
        self.up: set[tuple[str, int]] = set()  # warm workers
        self.stopped: set[int] = set()
        self.aside: dict[tuple[str, int], list[Job]] = {}  # (decision, lane) → its stuck run
        self.leaving: set[tuple[str, int]] = set()  # workers that are to begin nothing more
        self.heirs: set[tuple[str, int]] = set()  # places that another worker is to take
        self._ranks = {policy.name: policy.criticality.rank for policy in policies}
        self._started: set[int] = set()

    # What happens ------------------------------------------------------------------------------

    def ready(
        self, decision: str, *warm_up_ns: int, lane: int = 0, faster_ns: Sequence[int] = ()
    ) -> list[Action]:
        """A worker is warm; `faster_ns` is one warm-up run of each variant down the ladder."""
        self.up.add((decision, lane))
        ladder = [warm_up_ns, *([one] for one in faster_ns)]
        actions = self.scheduler.worker_ready(self.now_ns, decision, lane, ladder)
        return self._carry_out(actions)

    def replace(
        self,
        decision: str,
        *warm_up_ns: int,
        lane: int = 0,
        faster_ns: Sequence[int] = (),
        tried_as: str = "",
    ) -> list[Action]:
        """A worker of another version is warm beside the decision's."""
        place = decision, lane
        if place in self.up:
            self.leaving.add(place)
            self.heirs.add(place)
        self.up.add(place)
        ladder = [warm_up_ns, *([one] for one in faster_ns)]
        replaced = self.scheduler.worker_replaced
        return self._carry_out(replaced(self.now_ns, decision, lane, ladder, tried_as))

    def lose_heir(self, decision: str, lane: int = 0) -> list[Action]:
        """The worker that was to take a place is gone."""
        self.leaving.discard((decision, lane))
        self.heirs.discard((decision, lane))
        return self._carry_out(self.scheduler.heir_lost(self.now_ns, decision, lane))

    def try_version(self, decision: str, name: str) -> None:
        """Serve some of a decision's questions by another version."""
        self._ranks[name] = self._ranks[decision]
        self.scheduler.try_version(decision, name)

    def withdraw(self, name: str, lane: int = 0) -> list[Action]:
        """Begin nothing more on a worker of a trial."""
        if (name, lane) in self.up:
            self.leaving.add((name, lane))
        return self._carry_out(self.scheduler.worker_withdrawn(self.now_ns, name, lane))

    def ask(
        self,
        decision: str,
        budget_ns: int,
        *,
        priority: int = 1,
        lowered: int = 0,
        stream: str = "",
        asker: str = "",
        return_ns: int = 0,
    ) -> list[Action]:
        """A request comes; its number is how many came before it."""
        number, deadline_ns = len(self.jobs), self.now_ns + budget_ns
        due_ns = deadline_ns - return_ns
        asks = (priority, lowered, stream, asker)
        job = Job(number, decision, self.now_ns, deadline_ns, due_ns, *asks)
        self.jobs[number] = job
        return self._carry_out(self.scheduler.arrived(self.now_ns, job), arriving=number)

    def end(
        self, number: int, started_ns: int | None = None, ended_ns: int | None = None
    ) -> list[Action]:
        """The request's run has ended with an answer; it was a short one that ended now."""
        ended_ns = self.now_ns if ended_ns is None else ended_ns
        started_ns = ended_ns - 1 if started_ns is None else started_ns
        actions = self.scheduler.finished(self.now_ns, number, started_ns, ended_ns)
        return self._run_ended(number, Reason.NONE, actions)

    def fail(self, number: int) -> list[Action]:
        """The request's run has ended without an answer: a stopped one, or the model failed."""
        actions = self.scheduler.failed(self.now_ns, number)
        return self._run_ended(number, Reason.MODEL, actions)

    def probe_ended(self, decision: str, service_ns: int, lane: int = 0) -> list[Action]:
        """A probe has measured a run."""
        runs = self.aside.get((decision, lane)) or self._runs(lane, decision)
        assert runs.pop(0).job_id == PROBE, "no probe is under way"
        actions = self.scheduler.probed(self.now_ns, decision, lane, service_ns)
        return self._carry_out(actions)

    def lose(self, decision: str, lane: int = 0) -> list[Action]:
        """A worker is gone."""
        self._vacate((decision, lane), heirless=True)
        runs = self._runs(lane, decision)
        runs[:] = [job for job in runs if job.decision != decision]
        self.aside.pop((decision, lane), None)
        return self._carry_out(self.scheduler.worker_lost(self.now_ns, decision, lane))

    def leave(self, number: int) -> list[Action]:
        """The asker of a request goes."""
        if number not in self.reasons:
            self._tell(self.jobs[number], Reason.ASKER_LEFT)
        return self._carry_out(self.scheduler.gone(self.now_ns, number))

    def drain(self) -> list[Action]:
        """The node takes nothing more."""
        return self._carry_out(self.scheduler.draining(self.now_ns))

    def tick(self) -> list[Action]:
        """The timer fires."""
        return self._carry_out(self.scheduler.tick(self.now_ns))

    def wait_until(self, instant_ns: int) -> list[Action]:
        """Let time pass; the timer fires whenever the scheduler wants it to."""
        actions = []
        while (wake_ns := self.scheduler.next_wake_ns) is not None and wake_ns <= instant_ns:
            self.now_ns = max(self.now_ns, wake_ns)
            actions += self.tick()
        self.now_ns = instant_ns
        return actions

    # What the scheduler decided ----------------------------------------------------------------

    def _carry_out(self, actions: list[Action], arriving: int = -1) -> list[Action]:
        for action in actions:
            if isinstance(action, Start):
                self._start(action)
            elif isinstance(action, Reject):
                assert action.job.job_id == arriving, "only an arriving request is rejected"
                self._tell(action.job, action.reason)
            elif isinstance(action, Evict):
                assert action.job.job_id != arriving or action.reason is Reason.EVICTED
                self._tell(action.job, action.reason)
            elif isinstance(action, Miss):
                assert self.now_ns >= action.job.deadline_ns, "missed before the deadline"
                self._tell(action.job, Reason.DEADLINE)
            elif isinstance(action, Stop):
                self._stop(action)
            elif isinstance(action, Kill):
                self._kill(action)
            elif isinstance(action, Aside):
                self._put_aside(action)
            elif isinstance(action, Retire):
                self._retire(action)
            else:
                self._probe(action)
        return actions

    def _retire(self, action: Retire) -> None:
        place = action.decision, action.lane
        assert place in self.leaving, "retired a worker that was to stay"
        runs = self._runs(action.lane, action.decision)
        mine = [job for job in runs if job.decision == action.decision]
        assert not mine, "retired a worker that runs"
        assert not self.aside.get(place), "retired a worker that is stuck"
        self._vacate(place)

    def _vacate(self, place: tuple[str, int], *, heirless: bool = False) -> None:
        """A worker is gone; its heir, which `Retire` names where it was lost, takes its place."""
        if heirless and place in self.heirs:
            return
        self.leaving.discard(place)
        if place not in self.heirs:
            self.up.discard(place)
        self.heirs.discard(place)

    def _start(self, action: Start) -> None:
        job = action.job
        assert job.job_id not in self.reasons, "started after its outcome"
        assert job.job_id not in self._started, "started twice"
        place = job.decision, action.lane
        assert place in self.up, "started without a worker"
        assert place not in self.leaving, "started on a worker that is leaving"
        runs = self._runs(action.lane, job.decision)
        running = [other.decision for other in runs]
        assert running == ([job.decision] if action.on_deck else []), "the worker is not free"
        assert not self.aside.get((job.decision, action.lane)), "its worker is stuck"
        self._started.add(job.job_id)
        self.jobs[job.job_id] = job  # one that was moved from a trial is the decision's own now
        runs.append(job)

    def _stop(self, action: Stop) -> None:
        job = action.job
        runs = self._runs(action.lane, job.decision)
        aside = self.aside.get((job.decision, action.lane), [])
        assert job in (*runs, *aside), "stopped what does not run"
        assert job.job_id in self.reasons, "stopped before its outcome"
        assert job.job_id not in self.stopped, "stopped twice"
        self.stopped.add(job.job_id)

    def _kill(self, action: Kill) -> None:
        key = (action.decision, action.lane)
        assert key in self.up, "killed a worker that is gone"
        runs = self.aside.get(key) or self._runs(action.lane, action.decision)
        number = runs[0].job_id
        assert number == PROBE or number in self.stopped, "killed without a warning"

    def _put_aside(self, action: Aside) -> None:
        key = (action.decision, action.lane)
        if action.over:
            assert key in self.aside, "back from aside without having been there"
            assert not self.aside.pop(key), "back before its run has ended"
            return
        runs = self._runs(action.lane, action.decision)
        assert [job.decision for job in runs] == [action.decision], "set aside what does not run"
        self.aside[key] = [runs.pop()]

    def _probe(self, action: Probe) -> None:
        assert (action.decision, action.lane) in self.up, "probed a worker that is gone"
        runs = self._runs(action.lane, action.decision)
        assert not runs, "probed a busy worker"
        assert not self.aside.get((action.decision, action.lane)), "probed a stuck worker"
        runs.append(Job(PROBE, action.decision, self.now_ns, self.now_ns, self.now_ns))

    def _run_ended(self, number: int, reason: Reason, actions: list[Action]) -> list[Action]:
        job = self.jobs[number]
        every = (*self.runs.values(), *self.aside.values())
        runs = next(runs for runs in every if job in runs)
        assert runs.pop(0) is job, "a worker ends what it began first"
        if number not in self.reasons:
            in_time = self.now_ns < job.deadline_ns
            self._tell(job, reason if in_time else Reason.DEADLINE)
        return self._carry_out(actions)

    def _tell(self, job: Job, reason: Reason) -> None:
        assert job.job_id not in self.reasons, "one request, one outcome"
        self.reasons[job.job_id] = reason

    def _runs(self, lane: int, decision: str) -> list[Job]:
        return self.runs.setdefault((lane, self._ranks[decision]), [])


class Asked(Struct, frozen=True, kw_only=True):
    """One question of a load, with the time that its run will take."""

    at_ns: int
    decision: str
    budget_ns: int
    service_ns: int
    priority: int = 1
    lowered: int = 0
    stream: str = ""
    asker: str = ""


def play(
    node: Node,
    load: Iterable[Asked],
    script: Iterable[Event] = (),
    log: list[tuple[int, Action]] | None = None,
) -> Result:
    """Play single questions in virtual time; they are numbered in the order of their instants."""
    asked = sorted(load, key=lambda question: question.at_ns)
    questions = [
        Questions(
            decision=one.decision,
            arrivals_ns=np.array([one.at_ns]),
            budget_ns=one.budget_ns,
            priority=one.priority,
            lowered=one.lowered,
            stream=one.stream,
            asker=one.asker,
        )
        for one in asked
    ]
    service_ns = {}
    for policy in node.policies:
        own = [one.service_ns for one in asked if one.decision == policy.name]
        service_ns[policy.name] = np.array(own or [1])
    return run(node, questions, service_ns, script, log)


def loads(
    decisions: Sequence[str],
    bounds_ns: Sequence[int],
    *,
    most: int = 30,
    lowered: Sequence[int] = (0,),
    priorities: Sequence[int] = (1,),
    streams: Sequence[str] = ("",),
    askers: Sequence[str] = ("",),
) -> "SearchStrategy[list[Asked]]":
    """Draw loads of these decisions whose runs keep their bounds (needs hypothesis)."""
    from hypothesis import strategies as st

    bound_of = dict(zip(decisions, bounds_ns, strict=True))
    widest = max(bounds_ns)

    @st.composite
    def draw_load(draw: st.DrawFn) -> list[Asked]:
        now_ns, load = 0, []
        for _ in range(draw(st.integers(1, most))):
            now_ns += draw(st.integers(0, 2 * widest))
            decision = draw(st.sampled_from(decisions))
            load.append(
                Asked(
                    at_ns=now_ns,
                    decision=decision,
                    budget_ns=draw(st.integers(1, 8 * widest)),
                    service_ns=draw(st.integers(1, bound_of[decision])),
                    priority=draw(st.sampled_from(priorities)),
                    lowered=draw(st.sampled_from(lowered)),
                    stream=draw(st.sampled_from(streams)),
                    asker=draw(st.sampled_from(askers)),
                )
            )
        return load

    return draw_load()
