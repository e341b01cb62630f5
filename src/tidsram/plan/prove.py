"""Proof of a plan by simulation: each node's flows played through the scheduler that serves.

Nothing here knows how the plan was found. A flow is judged from its asker's side: a question
counts when its answer is back within the budget, and the bound on its share is exact.
"""

import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from hashlib import sha256
from math import ceil, sqrt
from multiprocessing import get_context
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
from msgspec import Struct, msgpack
from msgspec.structs import replace
from numpy.random import Generator, default_rng  # noqa: TID251 - made from the caller's seed

from tidsram import stats
from tidsram.estate.plan import Proof
from tidsram.estate.types import Arrivals, Decision
from tidsram.plan.problem import NodeLoad, Served, Tally
from tidsram.plan.spread import draw_ns
from tidsram.schedule.estimate import UNCALIBRATED_RUNS, Estimate
from tidsram.schedule.scheduler import Policy
from tidsram.serve.machine import be_nice, die_with_parent
from tidsram.simulate.arrivals import gamma, poisson
from tidsram.simulate.burst import smallest_burst
from tidsram.simulate.run import Node, Questions, run
from tidsram.units import MS, SECOND, US

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

RUNS = 8  # each from a seed of its own; between them a hopeless node may be given up
MOST = 20  # × the requests of a flow are played on a node in all: rarer flows then get fewer
EVIDENCE = 5  # questions missed by chance that a proof has to bear
EXTRA = 0.02  # of a node's time, for asking rare questions more often than they are
SPAN = 2  # a window counts for so many times its run-in
LEAST_RUN_IN_NS, MOST_RUN_IN_NS = 100 * MS, SECOND
LEARNT = 64  # runs of each worker before the first question: no plan is for a first minute
LEAD = 20  # mean gaps before the first window: a renewal process forgets how it began
CLEAR = 3.0  # standard errors beyond its objective: such a share does not come by luck
UNSPENT = 1 << 20  # a bucket so deep has no bottom
BURST_SEED = 1  # a node's own: the same declaration, the same burst
NICENESS = 10


class Prover:
    """Simulates nodes on several processes; what it has seen before it does not play again.

    The tallies are the same for any number of processes. Close it, or use it as a context.
    """

    def __init__(
        self,
        requests: int,
        seed: int,
        processes: int | None = None,
        *,
        times: float | None = None,
    ) -> None:
        """Take how many requests each flow is to have; processes: one per core if not said.

        With `times` a node gets fewer where its objectives need fewer: so many times what proves
        the strictest of them though EVIDENCE questions are missed.
        """
        self._requests, self._seed, self._times = requests, seed, times
        self._processes = processes or os.cpu_count() or 1
        self._pool: ProcessPoolExecutor | None = None
        self.asked = 0  # questions that were played: a measure of work that hangs on no clock
        self._whole: dict[bytes, dict[str, Tally]] = {}
        self._given_up: dict[bytes, dict[str, Tally]] = {}

    def tallies(
        self, loads: Sequence[NodeLoad], *, give_up: bool = False
    ) -> list[dict[str, Tally]]:
        """Return what each node's flows came to, by `Flow.key`, in the order of `loads`.

        With `give_up` a node is left as soon as one of its flows is contradicted, or as all of
        them are clear of their promises.
        """
        packed = [_pack(load) for load in loads]
        digests = [sha256(data).digest() for data in packed]
        known = self._whole | self._given_up if give_up else self._whole
        new = {
            digest: (load, data)
            for digest, load, data in zip(digests, loads, packed, strict=True)
            if digest not in known
        }
        played = self._play([data for _, data in new.values()], give_up=give_up)
        for (digest, (load, _)), tallies in zip(new.items(), played, strict=True):
            left = give_up and _is_settled(load, tallies)
            self.asked += sum(tally.asked for tally in tallies.values())
            (self._given_up if left else self._whole)[digest] = tallies
        known = self._given_up | self._whole
        return [known[digest] for digest in digests]

    def close(self) -> None:
        """End the processes; what they have not begun is left."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _play(self, packed: Sequence[bytes], *, give_up: bool) -> list[dict[str, Tally]]:
        play = partial(_unpack_and_play, self._requests, self._times, self._seed, give_up)
        if self._processes == 1 or len(packed) < 2:
            return list(map(play, packed))
        if self._pool is None:
            # Not forked: the solver and numpy have threads, which a fork would leave half-way.
            context = get_context("spawn")
            self._pool = ProcessPoolExecutor(self._processes, context, _begin_process)
        try:
            return list(self._pool.map(play, packed))
        except BrokenProcessPool:
            # One was killed, as a machine short of memory does. It takes longer here, no more.
            self.close()
            self._processes = 1
            return list(map(play, packed))


def prove(
    loads: Sequence[NodeLoad], *, requests: int, seed: int, processes: int | None = None
) -> list[dict[str, Tally]]:
    """Return what each node's flows came to, by `Flow.key`, in the order of `loads`."""
    with Prover(requests, seed, processes) as prover:
        return prover.tallies(loads)


def simulate_node(
    load: NodeLoad, requests: int, seed: int, *, give_up: bool = False
) -> dict[str, Tally]:
    """Play the node's flows until the rarest has `requests` questions; tallies by `Flow.key`.

    A node plays about MOST × `requests` questions, so that a rare flow does not hold up all. Rare
    ones are asked more often instead, as far as that adds at most EXTRA to the node's load: what
    holds under it holds. One that still has too few says so by its verdict. With `give_up` the
    node is left between two runs once that settles it.
    """
    if not load.served:
        return {}
    enough = requests + 3 * requests**0.5  # on average, so that chance hardly ever leaves fewer
    seconds = _seconds(load, enough)
    load = _more_of_the_rare(load, enough / seconds)
    windows = _windows(load, seconds)
    counts = {served.flow.key: _Count([], 0, 0) for served in load.served}
    tallies: dict[str, Tally] = {}
    for number in range(RUNS):
        for key, count in _play_once(load, windows, default_rng([seed, number])).items():
            counts[key] = counts[key].plus(count)
        tallies = {key: count.tally for key, count in counts.items()}
        if give_up and _is_settled(load, tallies):
            break
    return tallies


def holds(tally: Tally, objective: float) -> stats.Verdict:
    """Judge a flow's promise by what it came to, at 99 %."""
    return stats.verdict(tally.in_time, tally.asked, objective)


def proof(case: str, tally: Tally, objective: float) -> Proof:
    """Say what a flow came to in one case, as a plan is written."""
    return Proof(
        case=case,
        asked=tally.asked,
        in_time=tally.in_time,
        share_at_least=stats.lower_bound(tally.in_time, tally.asked),
        verdict=holds(tally, objective),
        p50_us=_us(tally.p50_ns),
        p99_us=_us(tally.p99_ns),
        p99_9_us=_us(tally.p99_9_ns),
    )


def _us(ns: int | None) -> int | None:
    return None if ns is None else ceil(ns / US)


def _is_settled(load: NodeLoad, tallies: dict[str, Tally]) -> bool:
    """Tell whether a promise is contradicted, or all are kept by so much that more says the same.

    Asked after each run, chance has several times to make it look so: hence CLEAR, and not "met".
    """
    promises = [(tallies[s.flow.key], s.decision.objective) for s in load.served]
    return any(holds(tally, objective) == "contradicted" for tally, objective in promises) or all(
        _is_clear(tally, objective) for tally, objective in promises
    )


def _is_clear(tally: Tally, objective: float) -> bool:
    error = sqrt(objective * (1 - objective) * tally.asked)  # of how many are in time
    return tally.in_time >= objective * tally.asked + CLEAR * error


# In another process ------------------------------------------------------------------------------


def _begin_process() -> None:
    """Leave the machine to others, and end with the parent or at Ctrl-C without a word."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    be_nice(NICENESS)


def _pack(load: NodeLoad) -> bytes:
    """Return what is simulated, as bytes: the order in which a solver found it plays no part."""
    served = sorted(load.served, key=lambda served: served.flow.key)
    return msgpack.encode(replace(load, served=tuple(served)))


def _unpack_and_play(
    requests: int, times: float | None, seed: int, give_up: bool, packed: bytes
) -> dict[str, Tally]:
    load = msgpack.decode(packed, type=NodeLoad)
    if times is not None and load.served:
        strictest = max(served.decision.objective for served in load.served)
        requests = min(requests, ceil(times * stats.samples_needed(strictest, EVIDENCE)))
    return simulate_node(load, requests, seed, give_up=give_up)


# How long ----------------------------------------------------------------------------------------


class _Windows(Struct, frozen=True):
    """The time of one run: windows on end, each with a run-in that does not count.

    Periodic askers have fresh phases in every window: a verdict is about the declared process,
    not about one lucky choice of phases. Windows are short, as questions of one choice share
    their fate and are together hardly more evidence than one.
    """

    count: int
    run_in_ns: int
    span_ns: int

    @property
    def width_ns(self) -> int:
        return self.run_in_ns + self.span_ns

    @property
    def total_ns(self) -> int:
        return self.count * self.width_ns

    def counts(self, at_ns: Ints) -> Flags:
        """Tell which instants are not in a run-in."""
        return np.greater_equal(at_ns % self.width_ns, self.run_in_ns)


def _seconds(load: NodeLoad, requests: float) -> float:
    rates = [served.flow.rate for served in load.served]
    return min(requests / min(rates), MOST * requests / sum(rates))


def _more_of_the_rare(load: NodeLoad, rate: float) -> NodeLoad:
    """Return the load with flows that ask less than `rate` asking up to so often."""
    lacking = [max(0.0, rate - served.flow.rate) for served in load.served]
    run_ns = [served.option.service.delay.p50_ns for served in load.served]
    extra = sum(more * ns for more, ns in zip(lacking, run_ns, strict=True)) / SECOND / load.lanes
    share = min(1.0, EXTRA / extra) if extra else 0.0
    served = tuple(
        replace(served, flow=replace(served.flow, rate=served.flow.rate + share * more))
        for served, more in zip(load.served, lacking, strict=True)
    )
    return replace(load, served=served)


def _windows(load: NodeLoad, seconds: float) -> _Windows:
    # After the longest budget nothing of the last window is in the node; long ones bind little.
    longest_ns = max(served.decision.budget_ns for served in load.served)
    run_in_ns = min(max(2 * longest_ns, LEAST_RUN_IN_NS), MOST_RUN_IN_NS)
    span_ns = SPAN * run_in_ns
    return _Windows(ceil(seconds * SECOND / span_ns / RUNS), run_in_ns, span_ns)


# What is asked -----------------------------------------------------------------------------------


class _Asked(Struct, frozen=True, eq=False):
    """One flow's questions, by asker: when each arose, reached the gate, and took to get back."""

    served: Served
    at_ns: Ints
    reached_ns: Ints
    gate_ns: Ints
    down_ns: Ints
    firsts: Ints  # where each asker's questions begin, but the first's

    @property
    def gate_budget_ns(self) -> int:
        """What the asker tells the node: its budget less what lies outside, there and back.

        It cannot know beforehand what this one question's way back will take, and so takes off
        what the plan has put down for both ways.
        """
        decision = self.served.decision
        outside = (term.ns for term in self.served.option.terms if term.stage in _OUTSIDE)
        return max(0, decision.budget_ns - decision.capture_ns - sum(outside))

    def questions(self) -> list[Questions]:
        """Return them as the node gets them, each asker's apart."""
        newest, key = self.served.decision.queue == "newest", self.served.flow.key
        return [
            Questions(
                decision=_worker(self.served),
                arrivals_ns=arrivals_ns,
                budget_ns=self.gate_budget_ns,
                stream=f"{key}#{number}" if newest else "",
                asker=f"{key}#{number}",
            )
            for number, arrivals_ns in enumerate(np.split(self.reached_ns, self.firsts))
        ]


_OUTSIDE = ("access", "link")


def _ask(served: Served, windows: _Windows, rng: Generator) -> _Asked:
    at_ns, askers = _instants(served, windows, rng)
    by_asker = np.argsort(askers, kind="stable")
    at_ns = at_ns[by_asker]
    rtt_ns = draw_ns(served.option.rtt, rng, len(at_ns))
    up_ns = rtt_ns // 2
    return _Asked(
        served=served,
        at_ns=at_ns,
        reached_ns=at_ns + served.decision.capture_ns + up_ns,
        gate_ns=draw_ns(served.option.gate, rng, len(at_ns)),
        down_ns=rtt_ns - up_ns,
        firsts=np.searchsorted(askers[by_asker], np.arange(1, served.flow.askers)),
    )


def _instants(served: Served, windows: _Windows, rng: Generator) -> tuple[Ints, Ints]:
    """Return when questions arise in one run, and which asker's each is."""
    arrivals, flow = _arrivals(served.decision), served.flow
    if arrivals.kind == "periodic":
        return _periodic(flow.rate, flow.askers, windows, rng, together=arrivals.synchronised)
    if arrivals.kind == "poisson":
        at_ns = poisson(rng, flow.rate, windows.total_ns)
        return at_ns, rng.integers(0, flow.askers, len(at_ns))
    rate, cv = flow.rate / flow.askers, arrivals.cv
    lead_ns = int(LEAD * max(1.0, cv**2) * SECOND / rate)
    each = [gamma(rng, rate, cv, lead_ns + windows.total_ns) - lead_ns for _ in range(flow.askers)]
    each = [at_ns[at_ns >= 0] for at_ns in each]
    return np.concatenate(each), np.repeat(np.arange(flow.askers), [len(at) for at in each])


def _periodic(
    rate: float, askers: int, windows: _Windows, rng: Generator, *, together: bool
) -> tuple[Ints, Ints]:
    period_ns, width_ns = SECOND * askers / rate, windows.width_ns
    clocks = 1 if together else askers
    cells = windows.count * clocks  # each clock in each window
    if period_ns > width_ns:
        # Most do not ask in a window at all: draw those that do, instead of going through all.
        cell = rng.choice(cells, rng.binomial(cells, width_ns / period_ns), replace=False)
        within_ns = rng.random(len(cell)) * width_ns
    else:
        ticks = np.arange(ceil(width_ns / period_ns))
        ticked_ns = (rng.random((cells, 1)) + ticks) * period_ns
        asks = ticked_ns < width_ns
        cell, within_ns = np.nonzero(asks)[0], ticked_ns[asks]
    window, clock = np.divmod(cell, clocks)
    at_ns = (window * width_ns + within_ns).astype(np.int64)
    if together:
        return np.repeat(at_ns, askers), np.tile(np.arange(askers), len(at_ns))
    return at_ns, clock


# What it comes to --------------------------------------------------------------------------------


class _Count(Struct, frozen=True, eq=False):
    """A flow's questions so far: response times of those answered, how many asked and in time."""

    response_ns: list[Ints]
    asked: int
    in_time: int

    def plus(self, other: "_Count") -> "_Count":
        """Take in another run."""
        return _Count(
            self.response_ns + other.response_ns,
            self.asked + other.asked,
            self.in_time + other.in_time,
        )

    @property
    def tally(self) -> Tally:
        """What it came to; the percentiles are of the questions that were answered."""
        ordered = np.sort(np.concatenate(self.response_ns)).tolist()
        return Tally(
            asked=self.asked,
            in_time=self.in_time,
            p50_ns=stats.percentile(ordered, 0.5),
            p99_ns=stats.percentile(ordered, 0.99),
            p99_9_ns=stats.percentile(ordered, 0.999),
        )


def _play_once(load: NodeLoad, windows: _Windows, rng: Generator) -> dict[str, _Count]:
    by_worker: dict[str, list[_Asked]] = {}
    for served in load.served:
        by_worker.setdefault(_worker(served), []).append(_ask(served, windows, rng))
    learnt, services = {}, {}
    for worker, group in by_worker.items():
        service = group[0].served.option.service  # one variant on one hardware
        learnt[worker] = draw_ns(service, rng, LEARNT).tolist()
        services[worker] = draw_ns(service, rng, max(1, sum(len(asked.at_ns) for asked in group)))
    node = Node(
        policies=[_policy(worker, group) for worker, group in by_worker.items()],
        lane_count=load.lanes,
        warm_up_ns=learnt,
        estimate=_estimate,
    )
    questions = [q for group in by_worker.values() for asked in group for q in asked.questions()]
    played = run(node, questions, services).decisions
    counts = {}
    for worker, group in by_worker.items():
        # The driver has numbered a worker's questions as they came; put them back by flow.
        came = np.argsort(np.concatenate([asked.reached_ns for asked in group]), kind="stable")
        ended_ns, answered = np.empty_like(came), np.empty(len(came), bool)
        ended_ns[came], answered[came] = played[worker].ended_ns, played[worker].answered
        begin = 0
        for asked in group:
            own = slice(begin, begin := begin + len(asked.at_ns))
            key = asked.served.flow.key
            counts[key] = _count(asked, ended_ns[own], answered[own], windows)
    return counts


def _count(asked: _Asked, ended_ns: Ints, answered: Flags, windows: _Windows) -> _Count:
    # All that the gate itself takes is put after the run, once; the scheduler keeps for it what a
    # real gate keeps (Node.return_ns). Part of it before would only move the deadline along.
    sent_ns = ended_ns + asked.gate_ns
    back_ns = sent_ns + asked.down_ns
    counts = windows.counts(asked.at_ns)
    answered = answered & (
        sent_ns <= asked.reached_ns + asked.gate_budget_ns
    )  # else sent as missed
    in_time = answered & (back_ns <= asked.at_ns + asked.served.decision.budget_ns)
    response_ns = (back_ns - asked.at_ns)[answered & counts]
    return _Count([response_ns], int(counts.sum()), int((in_time & counts).sum()))


def _worker(served: Served) -> str:
    """Name who answers: a decision planned with two variants on one node has two workers."""
    return f"{served.decision.name} {served.option.variant}"


def _policy(worker: str, group: Sequence[_Asked]) -> Policy:
    decision = group[0].served.decision
    flows = [asked.served.flow for asked in group]
    return Policy(
        worker,
        decision.criticality,
        decision.objective,
        decision.queue,
        rate=sum(flow.rate for flow in flows),
        burst=_burst(decision, sum(flow.askers for flow in flows)),
    )


def _burst(decision: Decision, askers: int) -> int:
    """Return how many questions may come at once within the declarations of so many askers."""
    arrivals = _arrivals(decision)
    if arrivals.kind == "periodic":
        # Who keeps a period keeps within it. Only the new phases of a window do not, and the
        # bucket would remember that for longer than a run-in.
        return UNSPENT
    if arrivals.burst:
        return askers * arrivals.burst
    return _smallest_burst(arrivals.kind, arrivals.cv, decision.objective)


@cache
def _smallest_burst(kind: str, cv: float, objective: float) -> int:
    return smallest_burst(default_rng(BURST_SEED), kind, cv, objective)


def _arrivals(decision: Decision) -> Arrivals:
    assert decision.arrivals is not None, "nothing is planned for what nobody is said to ask"
    return decision.arrivals


def _estimate(objective: float, runs_ns: Sequence[int]) -> Estimate:
    """Return the estimate of a worker that has served for a while."""
    estimate = Estimate(objective, runs_ns[:UNCALIBRATED_RUNS])
    for service_ns in runs_ns:
        estimate.observe(0, service_ns)
    return estimate
