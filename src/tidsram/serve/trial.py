"""A version on trial as the gate counts it: whose turn it is, and what came of it."""

from array import array
from typing import Final

from tidsram.outcome import Reason
from tidsram.serve.messages import Counts, Tally
from tidsram.stats import BUCKETS, bucket, quantile
from tidsram.units import US

_MISSED: Final = (Reason.DEADLINE,)
_FAILED: Final = (Reason.MODEL, Reason.WORKER_LOST)
_REFUSED: Final = (Reason.INFEASIBLE, Reason.OVERLOAD, Reason.EVICTED)
_SUFFIX: Final = " on trial"  # no decision's name has a space in it


def trial_name(decision: str) -> str:
    """Return what the scheduler calls a decision's version on trial."""
    return decision + _SUFFIX


class _Side:
    """What became of one version's questions."""

    def __init__(self) -> None:
        self._answered = self._refused = self._missed = self._failed = 0
        self._runs = array("Q", bytes(8 * BUCKETS))

    def count(self, reason: Reason, run_ns: int) -> None:
        if reason is Reason.NONE:
            self._answered += 1
            self._runs[bucket(run_ns)] += 1
        self._missed += reason in _MISSED
        self._failed += reason in _FAILED
        self._refused += reason in _REFUSED

    @property
    def counts(self) -> Counts:
        p50, p99 = (quantile(self._runs, q) or 0 for q in (0.5, 0.99))
        came = self._answered, self._refused, self._missed, self._failed
        return Counts(*came, p50 // US, p99 // US)


class Trial:
    """A share of the questions goes to a version on trial: evenly spread, counted in order."""

    def __init__(self, name: str, percent: int) -> None:
        self.name, self._percent = name, percent
        self._asked = 0
        self.ended = self.promoted = False
        self._served, self._tried = _Side(), _Side()

    def wants(self) -> bool:
        """Whether the question that has come is one for the version on trial."""
        before = self._asked * self._percent // 100
        self._asked += 1
        return not self.ended and self._asked * self._percent // 100 > before

    def end(self, *, promoted: bool) -> None:
        """Take no more questions; `promoted` workers stay."""
        self.ended, self.promoted = True, promoted

    def count(self, reason: Reason, *, tried: bool, run_ns: int = 0) -> None:
        """Take in what became of a question."""
        (self._tried if tried else self._served).count(reason, run_ns)

    def tally(self, decision: str) -> Tally:
        """Say how it stands."""
        return Tally(decision, self._served.counts, self._tried.counts)
