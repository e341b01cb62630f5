"""Ask a server open loop, and tell what became of the questions as the simulation does.

Everything is as the asker sees it: instants are his, and count from the intended one.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.loadgen import Ints, Run, open_loop
from bench.machine import ASKER_CORE, settled
from bench.pressure.live_servers import Target
from bench.pressure.server import REFUSED, Outcome, order
from bench.pressure.workloads import Asked
from tidsram.outcome import TABLE, Reason
from tidsram.outcome import Outcome as Fate
from tidsram.simulate.result import REASONS, Played
from tidsram.units import US

MOST = 2048  # connections: one that lets everybody wait must not delay the next question
REFUSALS = {reason for reason, row in TABLE.items() if row.outcome is Fate.REJECTED}
REFUSALS -= {Reason.EVICTED, Reason.STALE}  # those had been admitted


@dataclass(frozen=True)
class Reply:
    """What one reply says; a variant and stages only where the server is ours."""

    reason: Reason
    rung: int = REFUSED
    queue_ns: int = 0
    run_ns: int = 0


@dataclass(frozen=True)
class Heard:
    """What became of all questions, in the order in which they were due."""

    outcome: Outcome
    run: Run
    replies: Sequence[Reply]


def ask(target: Target, asked: Sequence[Asked]) -> Heard:
    """Ask all questions at their instants from now on, each kind its own."""
    kinds, _ = order(asked)
    offsets_ns = np.sort(np.concatenate([a.arrivals_ns for a in asked]), kind="stable")
    requests = [target.questions[asked[kind].kind.decision] for kind in kinds.tolist()]
    with settled(ASKER_CORE, punctual=True):
        run = open_loop(
            target.address, requests, offsets_ns, most_connections=MOST, keep_replies=True
        )
    budgets_ns = np.array([a.kind.budget_ns for a in asked])[kinds]
    return hear(target.variants, run, budgets_ns, kinds)


def hear(variants: Sequence[str], run: Run, budgets_ns: Ints, kinds: Ints) -> Heard:
    """Read all replies; without variants they are Triton's, which admits everybody."""
    deadline_ns = run.intended + budgets_ns
    told_ns = np.where(run.done > 0, run.done, deadline_ns)
    in_time = (told_ns < deadline_ns).tolist()
    statuses = run.status.tolist()
    replies = [
        read(variants, reply) if variants else read_triton(status, early=early)
        for reply, status, early in zip(run.replies, statuses, in_time, strict=True)
    ]
    promised = np.array([not variants or r.reason not in REFUSALS for r in replies], np.bool_)
    played = Played(
        arrival_ns=run.intended,
        deadline_ns=deadline_ns,
        reason=np.array([REASONS.index(r.reason) for r in replies], np.int64),
        told_ns=told_ns,
        promised_ns=np.where(promised, deadline_ns, 0),
        started_ns=np.zeros_like(told_ns),
        ended_ns=told_ns,
        rung=np.array([r.rung for r in replies], np.int64),
    )
    return Heard(Outcome(played, kinds, 0, 0), replace(run, replies=()), replies)


def read(variants: Sequence[str], reply: bytes) -> Reply:
    """Read one of our node's replies; an empty one stands for a connection that was lost."""
    if not reply:
        return Reply(Reason.GATE_LOST)
    told, _ = json.JSONDecoder().raw_decode(reply.partition(b"\r\n\r\n")[2].decode("latin-1"))
    if reply[9:12] != b"200":
        return Reply(Reason(told["reason"]))
    parameters = told["parameters"]
    stages = parameters["stages_us"]
    rung = variants.index(parameters["variant"])
    return Reply(Reason.NONE, rung, stages["queue"] * US, stages["run"] * US)


def read_triton(status: int, *, early: bool) -> Reply:
    """Read one of Triton's: 503 is its queue timeout."""
    if status == 200:
        return Reply(Reason.NONE, 0)
    if status == 503:
        return Reply(Reason.EVICTED if early else Reason.DEADLINE)
    return Reply(Reason.MODEL)


def way_ns(heard: Heard) -> int:
    """Return what a question of our node takes at the asker beside its wait and its run."""
    played = heard.outcome.played
    stages_ns = np.array([reply.queue_ns + reply.run_ns for reply in heard.replies])
    took_ns = played.told_ns - played.arrival_ns - stages_ns
    return int(np.median(took_ns[played.answered])) if played.answered.any() else 0


def runs_ns(heard: Heard, rungs: Sequence[float]) -> Ints:
    """Return how long critical runs took, as if each had been of the most accurate variant.

    Others' run stages hold the time in which they were preempted.
    """
    critical = (heard.outcome.kinds == 0).tolist()
    times = [
        int(reply.run_ns / rungs[reply.rung])
        for reply, wanted in zip(heard.replies, critical, strict=True)
        if wanted and reply.reason is Reason.NONE
    ]
    return np.array(times, np.int64)
