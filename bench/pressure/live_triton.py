"""Triton in the live comparison: one queue for all, or each kind its own, set as well as it can be.

Its instances share the lane's core by the kernel's time slices: it has no way to preempt a run.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product

from bench.machine import LANE_CORE
from bench.models import Model
from bench.pressure.live_servers import Target
from bench.pressure.workloads import Asked, Kind
from bench.questions import infer_request
from bench.triton import Triton
from tidsram.units import US

BOTH = "both"  # the one model, hence the one queue, of first come first served
PLAIN = "-plain"  # ends the name of a model without a queue policy
CRITICAL_NICE = -20
# Without a delay this version often lets those who wait lie for 500 ms when nobody comes.
QUEUE_DELAY_US = 100
OWN_QUEUES = (
    f"Triton: a model for each, tight's instance at nice {CRITICAL_NICE} (set inside the model: "
    "its configuration's priority does not reach the python backend's process)"
)
LESS = (1, 2, 4)  # runs by which a timeout may be shorter than the budget, to leave room for one
PAUSE_S = 1.0


class LaneTriton(Triton):
    """Triton on all cores; each model has one instance, on the lane's core with its nice value."""

    def __init__(
        self,
        name: str,
        models: Sequence[Model],
        policies: Mapping[str, str],
        nice: Mapping[str, int] | None = None,
    ) -> None:
        self._policies, self._nice = policies, nice or {}
        super().__init__(models)
        self.name = f"triton-{name}"

    def _add(self, model: Model, policy: str) -> None:
        super()._add(model, policy + self._policies.get(model.name, ""))
        source = self._folder / "models" / model.name / "1/model.py"
        # The configuration's own priority reaches the server's threads, not the instance's process.
        nice = self._nice.get(model.name, 0)
        head = f"import os\nos.sched_setaffinity(0, {{{LANE_CORE}}})\n"
        head += f"os.setpriority(os.PRIO_PROCESS, 0, {nice})\n"
        source.write_text(head + source.read_text())


def one_queue(model: Model, kinds: Sequence[Kind]) -> LaneTriton:
    """Return Triton with one model for all kinds: one queue and one instance."""
    longest_ns = max(kind.budget_ns for kind in kinds)
    return LaneTriton("one-queue", [replace(model, name=BOTH)], {BOTH: _policy(longest_ns)})


def ask_one_queue(address: str, model: Model, kinds: Sequence[Kind]) -> Target:
    """Return how to ask it: each kind's timeout is its budget."""
    questions = {kind.decision: _question(model, BOTH, kind.budget_ns) for kind in kinds}
    return Target(address, questions)


def own_queues(model: Model, kinds: Sequence[Kind]) -> LaneTriton:
    """Return Triton with a model for each kind, the critical one before the others on the core.

    The critical one is there twice: with a queue policy, and without one as NAME + PLAIN.
    """
    critical = kinds[0].decision
    names = [critical + PLAIN, *(kind.decision for kind in kinds)]
    return LaneTriton(
        "own-queues",
        [replace(model, name=name) for name in names],
        {kind.decision: _policy(kind.budget_ns) for kind in kinds},
        {critical: CRITICAL_NICE, critical + PLAIN: CRITICAL_NICE},
    )


def best_of_own_queues(
    address: str,
    model: Model,
    asked: Sequence[Asked],
    service_ns: int,
    score: Callable[[Target], float],
    pause_s: float = PAUSE_S,
) -> tuple[Target, str]:
    """Return how to ask it best, found by trial, and that in words; `score` asks and judges."""
    tight, loose = (a.kind for a in asked)
    timed = {f"{less} S": _timeout_less(model, tight, less * service_ns) for less in LESS}
    plain = _question(model, tight.decision + PLAIN, tight.budget_ns)
    found: dict[str, tuple[float, Target]] = {}
    for (first, question), less in product({**timed, "no timeout": plain}.items(), LESS):
        other = _timeout_less(model, loose, less * service_ns)
        target = Target(address, {tight.decision: question, loose.decision: other})
        shown = f"{tight.decision} {first}, {loose.decision} {less} S"
        found[shown] = (score(target), target)
        print(f"Triton, {shown}: {found[shown][0]:.3f}", file=sys.stderr)
        time.sleep(pause_s)
    best = max(found, key=lambda shown: found[shown][0])
    return found[best][1], best


def _timeout_less(model: Model, kind: Kind, less_ns: int) -> bytes:
    return _question(model, kind.decision, kind.budget_ns - less_ns)


def _question(model: Model, name: str, timeout_ns: int) -> bytes:
    timeout = {"timeout": timeout_ns // US}
    return infer_request(replace(model, name=name), binary=True, parameters=timeout)


def _policy(timeout_ns: int) -> str:
    """Return the configuration of a queue; a request's own timeout may only be shorter."""
    return f"""
dynamic_batching {{
  max_queue_delay_microseconds: {QUEUE_DELAY_US}
  default_queue_policy {{
    timeout_action: REJECT
    default_timeout_microseconds: {timeout_ns // US}
    allow_timeout_override: true
  }}
}}"""
