"""What happens to the scheduler and what it decides, as values. The shell carries actions out."""

from msgspec import Struct

from tidsram.outcome import Reason


class Job(Struct, frozen=True, gc=False):
    """A request as the scheduler sees it; instants in ns on the node's monotonic clock.

    `due_ns` is the finish the scheduler plans for: `deadline_ns` less the way back to the asker.
    `priority` sorts before the due time inside a criticality, 1 first. `lowered` is by how many
    steps its asker put it below its decision's criticality. `stream` names a source whose newest
    question counts, `asker` who asks.
    """

    job_id: int
    decision: str
    arrival_ns: int
    deadline_ns: int
    due_ns: int
    priority: int = 1
    lowered: int = 0
    stream: str = ""
    asker: str = ""


class Start(Struct, frozen=True, gc=False):
    """Hand the job to its worker, to be run by the ladder's variant number `rung`.

    `on_deck`: the worker is busy and takes it up by itself next.
    """

    job: Job
    lane: int
    on_deck: bool
    rung: int = 0


class Reject(Struct, frozen=True, gc=False):
    """Refuse an arriving request now.

    `predicted_finish_ns` is when it would have finished, `earliest_feasible_ns` the earliest due
    time that could have been promised, or its finish behind everything that waits where its
    priority would break a promise at any due time; both 0 where nothing is predicted (not ready,
    draining).
    """

    job: Job
    reason: Reason
    predicted_finish_ns: int
    earliest_feasible_ns: int


class Evict(Struct, frozen=True, gc=False):
    """Tell an admitted job's asker now that it will not be answered: evicted, stale or failed."""

    job: Job
    reason: Reason


class Stop(Struct, frozen=True, gc=False):
    """Abort the job's run; its outcome is told by another action or already was."""

    job: Job
    lane: int


class Miss(Struct, frozen=True, gc=False):
    """The deadline has come without an answer: say so now."""

    job: Job


class Kill(Struct, frozen=True, gc=False):
    """The worker did not stop when told: end its process, the supervisor starts another."""

    decision: str
    lane: int


class Aside(Struct, frozen=True, gc=False):
    """The worker's run is far past its bound: it gets only leftover time, others go on.

    `over`: the run has ended after all, the worker is back in its class.
    """

    decision: str
    lane: int
    over: bool


class Probe(Struct, frozen=True, gc=False):
    """Measure one run of a variant on zeros: its estimate refuses on old evidence."""

    decision: str
    lane: int
    rung: int = 0


class Retire(Struct, frozen=True, gc=False):
    """The worker has ended its last run here: let it go. Its successor, if it has one, starts now.

    Only what was replaced or withdrawn is retired.
    """

    decision: str
    lane: int


Action = Start | Reject | Evict | Stop | Miss | Kill | Aside | Probe | Retire
