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
        self._last: deque[int] = deque(maxlen=ENOUGH)
        self._slow: deque[tuple[int, list[int]]] = deque()
        self._slow_sum = [0] * BUCKETS
        self._runs = 0
        self.upper_ns = ceil(self._largest_ns * UNCALIBRATED)
        self.typical_ns = sorted(warm_up_ns)[len(warm_up_ns) // 2]
        self.newest_ns = 0  # when the last run was observed

    @property
    def calibrated(self) -> bool:
        """Whether enough runs were seen for a bound of its own."""
        return self._runs >= ENOUGH

    @property
    def fresh(self) -> bool:
        """Whether the runs of the last seconds alone carry the bound."""
        return len(self._sorted) >= ENOUGH

    def observe(self, now_ns: int, service_ns: int) -> None:
        """Take in one finished run."""
        self.newest_ns = now_ns
        self._runs += 1
        self._fast.append((now_ns, service_ns))
        insort(self._sorted, service_ns)
        self._last.append(service_ns)
        self._add_slow(now_ns, service_ns)
        self.refresh(now_ns)

    def refresh(self, now_ns: int) -> None:
        """Drop what is too old and settle the bound; called at each run and each refusal."""
        fast, ordered = self._fast, self._sorted
        oldest_ns = now_ns - FAST_NS
        while fast and (len(fast) > FAST_RUNS or fast[0][0] < oldest_ns):
            del ordered[bisect_left(ordered, fast.popleft()[1])]
        seen = len(ordered)
        if seen >= ENOUGH:
            self.upper_ns = int(ordered[ceil(seen * self._q) - 1] * GUARD)
            self.typical_ns = ordered[seen // 2]
        elif self._runs >= ENOUGH:
            # A bad hour would speak for a day: the newest runs, few as they are, cap it.
            slow_ns = int(self._slow_quantile(now_ns) * GUARD)
            self.upper_ns = min(slow_ns, ceil(max(self._last) * UNCALIBRATED))
        else:
            largest = max(self._largest_ns, ordered[-1] if ordered else 0)
            self.upper_ns = ceil(largest * UNCALIBRATED)

    def _add_slow(self, now_ns: int, service_ns: int) -> None:
        part = now_ns // SLOW_PART_NS
        slow = self._slow
        if not slow or slow[-1][0] != part:
            self._drop_slow(part)
            slow.append((part, [0] * BUCKETS))
        index = bucket(service_ns)
        slow[-1][1][index] += 1
        self._slow_sum[index] += 1

    def _drop_slow(self, part: int) -> None:
        """Forget the parts that are a day old when `part` is the present one."""
        while self._slow and self._slow[0][0] <= part - SLOW_PARTS:
            old = self._slow.popleft()[1]
            self._slow_sum = [a - b for a, b in zip(self._slow_sum, old, strict=True)]

    def _slow_quantile(self, now_ns: int) -> int:
        self._drop_slow(now_ns // SLOW_PART_NS)
        bound = quantile(self._slow_sum, self._q)
        return self._largest_ns if bound is None else bound
