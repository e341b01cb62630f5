"""Our scheduler on the bench's questions: whole, or with one mechanism taken out."""

import time
from collections.abc import Callable, Iterable, Sequence
from math import ceil

import numpy as np
from msgspec.structs import replace

from bench.pressure.server import Outcome, order
from bench.pressure.workloads import Asked
from tidsram.schedule.admission import WHOLE, Forecast, Opening
from tidsram.schedule.bucket import HEADROOM
from tidsram.schedule.events import Action, Job
from tidsram.schedule.lane import Placed, Worker
from tidsram.schedule.scheduler import LOWEST, Policy, Scheduler
from tidsram.simulate.arrivals import Instants
from tidsram.simulate.run import Node, Questions, run
from tidsram.simulate.script import Event
from tidsram.units import MS, SECOND

OBJECTIVE = 0.99
RESTART_NS = 300 * MS  # from a worker's end to its replacement


def serve(
    asked: Sequence[Asked],
    scheduler: Callable[..., Scheduler] = Scheduler,
    script: Iterable[Event] = (),
) -> Outcome:
    """Serve the questions; the way back to the asker takes no time here, nor is any kept for it."""
    policies = {a.kind.decision: _policy(a) for a in asked}
    node = Node(
        policies=list(policies.values()),
        rungs={a.kind.decision: a.kind.rungs for a in asked},
        return_ns=0,
        restart_ns=RESTART_NS,
        scheduler=scheduler,
    )
    questions = [
        Questions(
            decision=a.kind.decision,
            arrivals_ns=a.arrivals_ns,
            budget_ns=a.kind.budget_ns,
            asker=a.kind.asker,
        )
        for a in asked
    ]
    kinds, numbers = order(asked)
    result = run(node, questions, _services(asked, kinds, numbers), script)
    return Outcome(result.asked, kinds, result.busy_ns, result.wasted_ns)


def burst(arrivals_ns: Instants, rate: float, objective: float) -> int:
    """Return a bucket's tokens with which hardly any of these arrivals is beyond `rate`.

    A question finds the bucket empty when what came before is not paid for by the refill; that
    may happen to (1 − objective) ÷ 10 of them, as in the contract. `simulate.burst` knows the
    processes that can be declared; here are others, so the questions themselves are the evidence.
    """
    if len(arrivals_ns) < 2:
        return 2
    period_ns = SECOND / (HEADROOM * rate)
    # Unpaid periods at each arrival, as in a queue (Lindley): the sum less its lowest so far.
    owed = np.concatenate([[0.0], np.cumsum(1 - np.diff(arrivals_ns) / period_ns)])
    owed -= np.minimum.accumulate(owed)
    return max(2, ceil(float(np.quantile(owed, 1 - (1 - objective) / 10))) + 1)


def _policy(asked: Asked) -> Policy:
    """Declare the decision: the process that comes, at the rate it was declared with."""
    kind, rate = asked.kind, asked.rate * asked.kind.declared
    return Policy(
        kind.decision,
        kind.criticality,
        OBJECTIVE,
        rate=rate,
        # One that keeps its contract has the burst of its own process, others that of periodic.
        burst=burst(asked.arrivals_ns, rate, OBJECTIVE) if kind.declared >= 1 else 2,
    )


def _services(asked: Sequence[Asked], kinds: Instants, numbers: Instants) -> dict[str, Instants]:
    """Return each decision's service times in the order in which its questions come."""
    first = np.cumsum([0, *(len(a.arrivals_ns) for a in asked)])[:-1]
    coming = np.concatenate([a.service_ns for a in asked])[first[kinds] + numbers]
    names = np.array([a.kind.decision for a in asked])
    return {str(name): coming[names[kinds] == name] for name in np.unique(names)}


class WithoutDeclared(Scheduler):
    """Predicts without the higher work that is declared and yet to come."""

    def _left(self, lane: int, rank: int) -> int:
        del lane, rank
        return WHOLE


class WithoutEviction(Scheduler):
    """Leaves lower work that can no longer make it to its turn or its deadline."""

    def _evict_below(self, now_ns: int, lane: int, rank: int, actions: list[Action]) -> None:
        """Tell nobody."""


class WithoutLadder(Scheduler):
    """Has each decision's most accurate variant only."""

    def worker_ready(
        self, now_ns: int, decision: str, lane: int, warm_up_ns: Sequence[Sequence[int]]
    ) -> list[Action]:
        return super().worker_ready(now_ns, decision, lane, warm_up_ns[:1])


class WithoutBucket(Scheduler):
    """Takes whatever a critical decision asks for critical, declared or not."""

    def _counts_as(self, now_ns: int, job: Job) -> int:
        del now_ns
        return min(self._ranks[job.decision] + job.lowered, LOWEST)


class WithoutFairness(Scheduler):
    """Lets who came first keep the queue, whoever it is."""

    def _share(
        self, now_ns: int, new: Placed, seen: Forecast, opening: Opening, actions: list[Action]
    ) -> Forecast:
        del now_ns, new, opening, actions
        return seen


class WithoutAside(Scheduler):
    """Lets a run that is stuck hold up the others until its worker is killed."""

    def _set_aside_if_stuck(
        self, now_ns: int, placed: Placed, actions: list[Action], waiting: Worker | None = None
    ) -> None:
        """Leave it where it is."""


class WithoutAdmission(Scheduler):
    """Promises everyone an answer."""

    def _forecast(
        self, now_ns: int, job: Job, rank: int, worker: Worker
    ) -> tuple[Placed, Forecast]:
        new, seen = super()._forecast(now_ns, job, rank, worker)
        return new, replace(seen, fits=True)


ABLATIONS: dict[str, type[Scheduler]] = {
    "declared higher work": WithoutDeclared,
    "eviction at once": WithoutEviction,
    "ladder": WithoutLadder,
    "token bucket": WithoutBucket,
    "per-asker fairness": WithoutFairness,
    "stuck runs set aside": WithoutAside,
    "admission": WithoutAdmission,
}


def judging_times(asked: Sequence[Asked]) -> list[tuple[int, int]]:
    """Serve the questions; return for each how many waited and the ns that judging it took."""
    judged: list[tuple[int, int]] = []

    class Timed(Scheduler):
        def arrived(self, now_ns: int, job: Job) -> list[Action]:
            waiting = sum(len(level.queue) for level in self._lanes[0].levels)
            began_ns = time.perf_counter_ns()
            actions = super().arrived(now_ns, job)
            judged.append((waiting, time.perf_counter_ns() - began_ns))
            return actions

    serve(asked, Timed)
    return judged
