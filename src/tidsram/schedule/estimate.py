"""How long the next run will take at most, from runs seen lately (DESIGN §4.8).

The bound comes from time-bounded windows, so it follows a change within seconds and forgets a
spike; with too little evidence it is the largest run seen, half as much again: *uncalibrated*.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from math import ceil

from tidsram.stats import BUCKETS, bucket, quantile
from tidsram.units import SECOND

FAST_RUNS = 256
FAST_NS = 10 * SECOND
ENOUGH = 32  # runs before a window speaks for itself
SLOW_PARTS = 24
SLOW_PART_NS = 3600 * SECOND
GUARD = 1.05  # the estimate's own error: a quantile of 256 runs is itself a sample
UNCALIBRATED = 1.5


class Estimate:
    """The service time of one decision on one lane."""

    def __init__(self, objective: float, warm_up_ns: Sequence[int]) -> None:
        """Take the runs on zeros before any question came; at least one."""
        # Below 0.99 the misses allowed are kept for the unforeseen, not spent on the forecast.
        self._q = max(objective, 0.99)
        self._largest_ns = max(warm_up_ns)
        self._fast: deque[tuple[int, int]] = deque()
        self._sorted: list[int] = []
        self._slow: deque[tuple[int, list[int]]] = deque(maxlen=SLOW_PARTS)
        self._runs = 0
        self.upper_ns = ceil(self._largest_ns * UNCALIBRATED)
        self.typical_ns = sorted(warm_up_ns)[len(warm_up_ns) // 2]
        self.newest_ns = 0  # when the last run was observed

    @property
    def calibrated(self) -> bool:
        """Whether enough runs were seen for a bound of its own."""
        return self._runs >= ENOUGH

    def observe(self, now_ns: int, service_ns: int) -> None:
        """Take in one finished run."""
        self.newest_ns = now_ns
        self._runs += 1
        self._fast.append((now_ns, service_ns))
        insort(self._sorted, service_ns)
        self._add_slow(now_ns, service_ns)
        self.refresh(now_ns)

    def refresh(self, now_ns: int) -> None:
        """Drop what is too old and settle the bound; cheap, called at each run and each probe."""
        fast, ordered = self._fast, self._sorted
        while len(fast) > FAST_RUNS or (fast and fast[0][0] < now_ns - FAST_NS):
            del ordered[bisect_left(ordered, fast.popleft()[1])]
        if len(ordered) >= ENOUGH:
            self.upper_ns = int(ordered[ceil(len(ordered) * self._q) - 1] * GUARD)
            self.typical_ns = ordered[len(ordered) // 2]
        elif self._runs >= ENOUGH:
            self.upper_ns = int(self._slow_quantile(now_ns) * GUARD)
        else:
            largest = max(self._largest_ns, ordered[-1] if ordered else 0)
            self.upper_ns = ceil(largest * UNCALIBRATED)

    def _add_slow(self, now_ns: int, service_ns: int) -> None:
        part = now_ns // SLOW_PART_NS
        if not self._slow or self._slow[-1][0] != part:
            self._slow.append((part, [0] * BUCKETS))
        self._slow[-1][1][bucket(service_ns)] += 1

    def _slow_quantile(self, now_ns: int) -> int:
        oldest = now_ns // SLOW_PART_NS - SLOW_PARTS
        parts = [counts for part, counts in self._slow if part > oldest]
        bound = quantile([sum(column) for column in zip(*parts, strict=True)], self._q)
        return self._largest_ns if bound is None else bound
