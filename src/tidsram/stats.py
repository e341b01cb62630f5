"""Histograms, exact bounds, and the law of how many samples a percentile needs.

Pure arithmetic on integers and floats: no numpy, no randomness, and never a percentile or a
verdict that the number of samples cannot carry. Every bound here is one-sided at 99 %.
"""

from collections.abc import Sequence
from math import ceil, exp, lgamma, log, log1p
from typing import Literal, Protocol

CONFIDENCE = 0.99
_DOUBT = 1 - CONFIDENCE

# 16 buckets an octave (an edge is at most 6.25 % above what it stands for), 2^10 ns to 2^36 ns.
_SUB_BITS = 4
_LOWEST_BITS = 10
_HIGHEST_BITS = 36
_LOWEST_NS = 1 << _LOWEST_BITS
_HIGHEST_NS = (1 << _HIGHEST_BITS) - 1
_FIRST = (_LOWEST_BITS - _SUB_BITS + 1) << _SUB_BITS
BUCKETS = (_HIGHEST_BITS - _LOWEST_BITS) << _SUB_BITS

Verdict = Literal["met", "contradicted", "not enough evidence"]


class Counts(Protocol):
    """A histogram: BUCKETS whole numbers, as a list, an array or shared memory ('Q')."""

    def __getitem__(self, index: int, /) -> int:
        """Return the count of bucket `index`."""

    def __len__(self) -> int:
        """Return the number of buckets."""


def bucket(ns: int) -> int:
    """Return the histogram bucket of a time; what lies outside 1 µs … 68 s is clamped."""
    if ns < _LOWEST_NS:
        return 0
    if ns > _HIGHEST_NS:
        return BUCKETS - 1
    # The top five bits: the leading one adds 16, which is why an octave's base is one step up.
    shift = ns.bit_length() - 5
    return (shift << 4) + (ns >> shift) - _FIRST


def bucket_top_ns(index: int) -> int:
    """Return the longest time that falls into bucket `index` (of the last: without clamping)."""
    octave, step = divmod(index, 1 << _SUB_BITS)
    return ((step + (1 << _SUB_BITS) + 1) << (octave + _LOWEST_BITS - _SUB_BITS)) - 1


def quantile(counts: Counts, q: float) -> int | None:
    """Return the upper edge of the bucket that holds the `q`-quantile; None without samples."""
    total = sum(counts[index] for index in range(BUCKETS))
    if total == 0:
        return None
    rank, seen = _rank(total, q), 0
    for index in range(BUCKETS):
        seen += counts[index]
        if seen >= rank:
            return bucket_top_ns(index)
    raise AssertionError("the rank of a quantile is at most the number of samples")


def count_at_most(counts: Counts, ns: int) -> int:
    """Return how many samples were surely at most `ns`: those of buckets that end by then."""
    return sum(counts[index] for index in range(BUCKETS) if bucket_top_ns(index) <= ns)


def percentile(sorted_ns: Sequence[int], q: float) -> int | None:
    """Return the `q`-quantile of samples in ascending order; None while there are too few."""
    if not claimable(len(sorted_ns), q):
        return None
    return sorted_ns[_rank(len(sorted_ns), q) - 1]


def claimable(n: int, q: float) -> bool:
    """Tell whether `n` samples reach beyond the true `q`-quantile with 99 % confidence.

    With fewer, even the largest sample may well lie below it, and nothing seen says how far.
    """
    return q**n <= _DOUBT


def samples_needed(p: float, misses: int) -> int:
    """Return the samples after which `misses` misses still prove a share `p` in time."""
    assert 0 < p < 1, "no number of samples proves a share of 0 or 1"
    enough = misses + 1
    while not _proves(enough, misses, p):
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if _proves(middle, misses, p):
            enough = middle
        else:
            too_few = middle
    return enough


def lower_bound(k: int, n: int) -> float:
    """Return the share that is surely exceeded when `k` of `n` were seen (Clopper-Pearson)."""
    if k == 0:
        return 0.0
    low, high = 0.0, k / n
    for _ in range(64):
        middle = (low + high) / 2
        # k or more of n would be too great a luck at `middle`: the true share is above it.
        if 1 - _at_most(k - 1, n, middle) <= _DOUBT:
            low = middle
        else:
            high = middle
    return low


def upper_bound(k: int, n: int) -> float:
    """Return the share that is surely not reached when `k` of `n` were seen (Clopper-Pearson)."""
    return 1 - lower_bound(n - k, n)


def verdict(in_time: int, n: int, objective: float) -> Verdict:
    """Judge a promise that a share `objective` is in time by `in_time` of `n`, at 99 %."""
    misses = n - in_time
    if _proves(n, misses, objective):
        return "met"
    if misses and 1 - _at_most(misses - 1, n, 1 - objective) <= _DOUBT:
        return "contradicted"
    return "not enough evidence"


def _proves(n: int, misses: int, p: float) -> bool:
    """Tell whether so few misses would be seen in at most 1 % of cases if `p` did not hold."""
    return _at_most(misses, n, 1 - p) <= _DOUBT


def _rank(n: int, q: float) -> int:
    """Return the rank (1 … n) of the `q`-quantile: the smallest that covers a share `q`."""
    # 0.07 * 100 is a little more than 7 in floating point, and must not become the eighth.
    return min(n, max(1, ceil(q * n * (1 - 1e-12))))


def _at_most(k: int, n: int, p: float) -> float:
    """Return the probability of at most `k` hits in `n` trials of probability `p` each."""
    if k >= n or p <= 0:
        return 1.0
    return 0.0 if p >= 1 else 1 - _beta_share(k + 1, n - k, p)


def _beta_share(a: int, b: int, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b) for 0 < x < 1."""
    scale = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x))
    # The continued fraction converges fast on its own side of the mean only.
    if x < (a + 1) / (a + b + 2):
        return scale * _beta_fraction(a, b, x) / a
    return 1 - scale * _beta_fraction(b, a, 1 - x) / b


def _beta_fraction(a: int, b: int, x: float) -> float:
    """Evaluate the continued fraction of the incomplete beta function by Lentz's method."""
    tiny = 1e-300
    c, d = 1.0, 1 / _nonzero(1 - (a + b) * x / (a + 1), tiny)
    result = d
    for m in range(1, 100_000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _nonzero(1 + numerator * d, tiny)
            c = _nonzero(1 + numerator / c, tiny)
            result *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return result


def _nonzero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
