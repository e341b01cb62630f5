"""What comes of comparing a version in the shadow with what was answered: counts, times, the worst.

Numbers and the requests' names only; nothing of a question or an answer is kept.
"""

from array import array
from bisect import insort
from typing import Final

from tidsram.serve import admin
from tidsram.serve.admin import Difference
from tidsram.serve.judge import mean_at_least
from tidsram.serve.messages import Compared
from tidsram.stats import BUCKETS, bucket, lower_bound, quantile
from tidsram.units import US

WORST_MAX: Final = 10


class Comparison:
    """How a version's answers agree with those that were given."""

    def __init__(self, boot: str, agree: float) -> None:
        self._boot, self._agree = boot, agree
        self.compared = self.agreed = self._failed = 0
        self._sum = 0.0
        self._given, self._own = _no_runs(), _no_runs()
        self._worst: list[Difference] = []

    def take(self, message: Compared) -> bool:
        """Take one question in; return whether both answers agree."""
        agrees = not message.problem and message.agreement >= self._agree
        self.compared += 1
        self.agreed += agrees
        self._sum += message.agreement
        self._given[bucket(message.given_ns)] += 1
        if message.problem:
            self._failed += 1
        else:
            self._own[bucket(message.own_ns)] += 1
        if message.agreement < 1:
            self._keep(message)
        return agrees

    def _keep(self, message: Compared) -> None:
        request = f"{self._boot}-{message.number}"
        agreement, problem = message.agreement, message.problem
        one = Difference(request=request, agreement=agreement, problem=problem)
        insort(self._worst, one, key=lambda known: known.agreement)
        del self._worst[WORST_MAX:]

    @property
    def told(self) -> admin.Comparison:
        """Say how it stands."""
        n = self.compared
        mean = self._sum / n if n else None
        times = [quantile(runs, q) for runs in (self._given, self._own) for q in (0.5, 0.99)]
        times_us = [None if ns is None else ns // US for ns in times]
        return admin.Comparison(
            agree=self._agree,
            compared=n,
            agreed=self.agreed,
            failed=self._failed,
            agreed_at_least=lower_bound(self.agreed, n) if n else None,
            agreement=mean,
            agreement_at_least=None if mean is None else mean_at_least(mean, n),
            served_p50_us=times_us[0],
            served_p99_us=times_us[1],
            shadow_p50_us=times_us[2],
            shadow_p99_us=times_us[3],
            worst=tuple(self._worst),
        )


def _no_runs() -> "array[int]":
    return array("Q", bytes(8 * BUCKETS))
