"""Which of a decision's variants runs: the most accurate that keeps every promise."""

from collections.abc import Sequence
from math import isqrt

from tidsram.schedule.admission import Opening, keeps
from tidsram.schedule.estimate import Estimate
from tidsram.schedule.lane import Placed


def pick_variant(
    now_ns: int, placed: Placed, queue: Sequence[Placed], opening: Opening
) -> tuple[int, int, Estimate]:
    """Return the place in the ladder, the rung and the estimate by which the job is to run now.

    Those in `queue`, behind it, count with their fastest. After a step down the ladder there is no
    step up for one budget, so that it does not flap between questions.
    """
    worker, job = placed.worker, placed.job
    held = now_ns - worker.down_ns < job.deadline_ns - job.arrival_ns
    last = len(worker.ladder) - 1
    for place in range(worker.place if held else 0, last):
        rung, estimate = worker.ladder[place]
        if _keeps_all(queue, opening, placed, estimate):
            return place, rung, estimate
    # In need the one that is mostly fastest runs, also where a few long runs have spoilt its
    # bound; and the last one while little is known of it, for the ladder's order says that it is.
    # Nothing else would ever set right what a disturbed start has taught.
    rung, estimate = worker.ladder[last]
    if estimate.calibrated:
        rung, estimate = min(worker.ladder, key=_typical_ns)
    return last, rung, estimate


def _typical_ns(variant: tuple[int, Estimate]) -> int:
    return variant[1].typical_ns


def _keeps_all(queue: Sequence[Placed], opening: Opening, first: Placed, by: Estimate) -> bool:
    """Whether every promise is kept if `first` starts now, by the variant that takes `by`."""
    mean_ns, variance = opening.free_ns + by.mean_ns, by.variance
    if mean_ns + isqrt(variance) > opening.latest_ns(first.job.due_ns):
        return False
    return keeps(queue, opening, mean_ns, variance)
