"""The scheduler of the node in virtual time, on the questions that the node was asked."""

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace
from numpy.random import Generator

from bench.pressure.live_replies import Heard, runs_ns, way_ns
from bench.pressure.server import Outcome, order
from bench.pressure.workloads import SERVICE_NS, Asked
from tidsram.estate.types import Criticality
from tidsram.schedule.scheduler import Policy
from tidsram.simulate.burst import smallest_burst
from tidsram.simulate.run import Node, Questions, run

OBJECTIVE = 0.99  # the estate's own when it declares none
CVS = {"poisson": 1.0, "gamma 4": 4.0}


def simulate(asked: Sequence[Asked], arrivals: str, heard: Heard, rng: Generator) -> Outcome:
    """Return what the simulation makes of questions that the node was asked.

    They come at the same instants; their runs take what critical ones took on the node, drawn at
    random, and the rest of the way what it took there in the middle.
    """
    times_ns = runs_ns(heard, asked[0].kind.rungs)
    node = Node(
        policies=[_policy(a, arrivals, rng) for a in asked],
        rungs={a.kind.decision: a.kind.rungs for a in asked},
        real_return_ns=way_ns(heard),
    )
    questions = [
        Questions(decision=a.kind.decision, arrivals_ns=a.arrivals_ns, budget_ns=a.kind.budget_ns)
        for a in asked
    ]
    services = {
        a.kind.decision: rng.choice(times_ns if len(times_ns) else a.service_ns, len(a.arrivals_ns))
        for a in asked
    }
    kinds, _ = order(asked)
    result = run(node, questions, services)
    return Outcome(result.asked, kinds, result.busy_ns, result.wasted_ns)


def stretched(asked: Asked, service_ns: int, rungs: Sequence[float]) -> Asked:
    """Return the questions as they are where a run takes `service_ns` instead of the grid's."""
    factor = service_ns / SERVICE_NS
    kind = replace(asked.kind, budget_ns=int(asked.kind.budget_ns * factor), rungs=rungs)
    return Asked(
        kind,
        asked.rate / factor,
        (asked.arrivals_ns * factor).astype(np.int64),
        (asked.service_ns * factor).astype(np.int64),
    )


def _policy(asked: Asked, arrivals: str, rng: Generator) -> Policy:
    """Declare what the estate declares: arrivals of critical kinds only."""
    kind = asked.kind
    if kind.criticality is not Criticality.CRITICAL:
        return Policy(kind.decision, kind.criticality, OBJECTIVE)
    process = "gamma" if CVS[arrivals] > 1 else arrivals
    tokens = smallest_burst(rng, process, CVS[arrivals], OBJECTIVE)
    return Policy(kind.decision, kind.criticality, OBJECTIVE, rate=asked.rate, burst=tokens)
