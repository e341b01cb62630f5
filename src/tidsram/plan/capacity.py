"""How much of a node a flow takes when its waiting has to stay short: capacity by tail, not mean.

A queue's wait W exceeds w with probability at most e^(−ηw) as long as the effective bandwidths of
its flows at η sum to no more than its capacity (Kelly, Notes on effective bandwidths, 1996; for
Poisson arrivals this is Kingman's exponential bound). With η = ln(1/ε)/w fixed by the promise, a
flow's bandwidth is a constant, and a sum of constants is what a linear optimiser can bound.

A node of L lanes is taken as one server that is L times as fast. That is an approximation, as is
the sum over flows of different budgets; the simulation of the plan decides, not the cut.
"""

from math import expm1, floor, inf, log, log1p

import numpy as np
import numpy.typing as npt

from tidsram.estate.types import Arrivals
from tidsram.plan.problem import Flow, Spread
from tidsram.plan.spread import quantile_ns
from tidsram.units import SECOND

Floats = npt.NDArray[np.float64]

_STEEPEST = 50.0  # a power of e beyond which a flow does not fit at all
_GRID = (np.arange(64) + 0.5) / 64  # of a service time's distribution


def tail_rate(wait_ns: int, epsilon: float) -> float:
    """Return η in 1/s: how fast the wait's tail must fall to exceed `wait_ns` so rarely."""
    return log(1 / epsilon) * SECOND / max(wait_ns, 1)


def run_times_s(service: Spread, lanes: int) -> Floats:
    """Return equally likely run times in seconds on a node taken as one fast server."""
    if service.samples_ns:
        runs = np.quantile(np.asarray(service.samples_ns, np.float64), _GRID)
    else:
        runs = np.array([quantile_ns(service, q) for q in _GRID], np.float64)
    return np.asarray(runs / SECOND / lanes)


def bandwidth(arrivals: Arrivals, flow: Flow, run_s: Floats, eta: float, span_s: float) -> float:
    """Return the effective bandwidth of a flow in nodes: 1 fills a node.

    `eta` is the tail rate in 1/s; `span_s` the time scale on which periodic arrivals are looked
    at, the allowed wait. Infinite where one run alone breaks the promise.
    """
    if eta * float(run_s.max()) > _STEEPEST:
        return inf
    grown = log(float(np.exp(eta * run_s).mean()))  # ln E e^(ηS)
    if arrivals.kind == "periodic":
        return _periodic(arrivals, flow, grown, eta, span_s)
    # Renewal arrivals: E e^(−θA) · E e^(ηS) = 1 solved for θ, the bandwidth being θ/η. Gaps are
    # gamma distributed; with cv = 1 they are a Poisson process's.
    variance = arrivals.cv**2
    if grown * variance > _STEEPEST:
        return inf
    return flow.rate * expm1(grown * variance) / (eta * variance)


def busy(flow: Flow, run_s: Floats) -> float:
    """Return the share of a node that the flow's runs take on average."""
    return flow.rate * float(run_s.mean())


def _periodic(arrivals: Arrivals, flow: Flow, grown: float, eta: float, span_s: float) -> float:
    """Independent phases: in a span each source brings so many runs for sure, or one more."""
    sources, batch = (1, flow.askers) if arrivals.synchronised else (flow.askers, 1)
    due = span_s * flow.rate / (sources * batch)
    sure, perhaps = floor(due), due - floor(due)
    if grown * batch > _STEEPEST:
        return inf
    brought = sure * grown * batch + log1p(perhaps * expm1(grown * batch))
    return sources * brought / (eta * span_s)
