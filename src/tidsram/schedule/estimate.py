"""How long the next run will take at most, from runs seen lately (DESIGN §4.8).

The bound comes from time-bounded windows, so it follows a change within seconds and forgets a
spike; with too little evidence it is the largest run seen, half as much again: *uncalibrated*.

Of several runs in a row the bound is not the sum of their bounds: that all of them are long is
rarer than that one is. `mean_ns` is summed, `variance` too, and its root is added: for independent
runs the spreads add in quadrature. What is not independent, the error of the estimate itself, is in
`mean_ns`.
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
MEAN_GUARD = 1.02  # the mean's error is far smaller, but does not average out over a queue
UNCALIBRATED = 1.5
STEP_RUNS = 8  # of these newest, so many over the bound, or
STEP_OVER = 4
STEP_ABOVE_RUNS = 12  # so many in a row well above the median, or
STEP_ABOVE = 1.25
STEP_UNDER_RUNS = 32  # so many well under it: a step, not the tail
STEP_UNDER = 0.8
AFTER_STEP = 1.15  # the few runs since the step, and so much more
SOME = 5  # runs from which on the largest alone is not believed
UNCALIBRATED_RUNS = 10  # the newest, warm-up runs included: a disturbed start is forgotten too


class Estimate:
    """The service time of one decision on one lane."""

    def __init__(self, objective: float, warm_up_ns: Sequence[int]) -> None:
        """Take the runs on zeros before any question came; at least one."""
        self._q = objective
        self._first = deque(warm_up_ns, maxlen=UNCALIBRATED_RUNS)
        self._fast: deque[tuple[int, int]] = deque()
        self._sorted: list[int] = []
        self._fast_sum = 0
        self._last: deque[int] = deque(maxlen=FAST_RUNS)  # however long ago
        self._slow: deque[tuple[int, list[int]]] = deque()
        self._slow_sum = [0] * BUCKETS
        self._runs = 0
        self._inflate = UNCALIBRATED
        self._over = 0  # the newest runs, a bit each: 1 for over the bound
        self._above = self._under = 0  # the newest runs in a row well above, under the median
        self.steps = 0  # alarms so far: the service time has changed at once
        self.upper_ns = ceil(max(warm_up_ns) * UNCALIBRATED)
        self.typical_ns = sorted(warm_up_ns)[len(warm_up_ns) // 2]
        self.mean_ns, self.variance = self.upper_ns, 0
        self.newest_ns = 0  # when the last run was observed

    @property
    def calibrated(self) -> bool:
        """Whether enough runs were seen for a bound of its own."""
        return self._runs >= ENOUGH

    def observe(self, now_ns: int, service_ns: int) -> None:
        """Take in one finished run."""
        self.newest_ns = now_ns
        over = service_ns > self.upper_ns
        self._over = (self._over << 1 | over) & ((1 << STEP_RUNS) - 1)
        above = self.calibrated and service_ns > self.typical_ns * STEP_ABOVE
        under = self.calibrated and service_ns < self.typical_ns * STEP_UNDER
        self._above = self._above + 1 if above else 0
        self._under = self._under + 1 if under else 0
        self._runs += 1
        self._first.append(service_ns)
        self._fast.append((now_ns, service_ns))
        self._fast_sum += service_ns
        insort(self._sorted, service_ns)
        self._last.append(service_ns)
        self._add_slow(now_ns, service_ns)
        if over and self.calibrated and self._over.bit_count() >= STEP_OVER:
            self._stepped(STEP_RUNS)
        elif self._above >= STEP_ABOVE_RUNS:
            self._stepped(STEP_ABOVE_RUNS)
        elif self._under >= STEP_UNDER_RUNS:
            self._stepped(STEP_UNDER_RUNS)
        self.refresh(now_ns)

    def refresh(self, now_ns: int) -> None:
        """Drop what is too old and settle the bound; called at each run and each refusal."""
        fast, ordered = self._fast, self._sorted
        oldest_ns = now_ns - FAST_NS
        while fast and (len(fast) > FAST_RUNS or fast[0][0] < oldest_ns):
            old_ns = fast.popleft()[1]
            del ordered[bisect_left(ordered, old_ns)]
            self._fast_sum -= old_ns
        if len(ordered) >= ENOUGH:
            self.typical_ns = ordered[len(ordered) // 2]
            self._settle(self._fast_sum // len(ordered), self._bound_ns(ordered))
        elif self._runs >= ENOUGH:
            # The day dilutes a spike among the newest runs; they in turn soon forget a bad hour,
            # which would speak for the whole day.
            newest = sorted(self._last)
            self.typical_ns = newest[len(newest) // 2]
            bound_ns = min(self._bound_ns(newest), self._slow_bound_ns(now_ns))
            self._settle(sum(newest) // len(newest), bound_ns)
        else:
            few = sorted(self._first)
            self.typical_ns = few[len(few) // 2]
            # A run that the machine held up is not believed alone here either.
            largest_ns = few[-2] if len(few) >= SOME else few[-1]
            self.upper_ns = self.mean_ns = ceil(largest_ns * self._inflate)
            self.variance = 0

    def _settle(self, mean_ns: int, bound_ns: int) -> None:
        self.upper_ns = int(bound_ns * GUARD)
        self.mean_ns = min(int(mean_ns * MEAN_GUARD), self.upper_ns)
        self.variance = (self.upper_ns - self.mean_ns) ** 2

    def _stepped(self, runs: int) -> None:
        """Forget what was before the newest `runs`: they are of another time."""
        self.steps += 1
        self._fast = deque(list(self._fast)[-runs:])
        self._sorted = sorted(service_ns for _, service_ns in self._fast)
        self._fast_sum = sum(self._sorted)
        times_ns = list(self._last)[-runs:]
        self._last = deque(times_ns, maxlen=FAST_RUNS)
        self._first = deque(times_ns, maxlen=UNCALIBRATED_RUNS)
        self._slow.clear()
        self._slow_sum = [0] * BUCKETS
        self._runs, self._inflate = len(times_ns), AFTER_STEP
        self._over = self._above = self._under = 0

    def _bound_ns(self, ordered: Sequence[int]) -> int:
        # The largest is never believed alone: one hiccup must not refuse for ten seconds.
        return ordered[min(ceil(len(ordered) * self._q), len(ordered) - 1) - 1]

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

    def _slow_bound_ns(self, now_ns: int) -> int:
        self._drop_slow(now_ns // SLOW_PART_NS)
        bound_ns = quantile(self._slow_sum, self._q)
        return max(self._last) if bound_ns is None else bound_ns
