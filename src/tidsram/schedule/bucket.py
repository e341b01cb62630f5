"""The declared arrivals as a contract: what comes beyond them counts as less (DESIGN §4.3)."""

from tidsram.units import SECOND

HEADROOM = 1.25  # of the declared rate: a clock a little fast must not cost the contract


class Bucket:
    """A token bucket of `burst` tokens, refilled at 1.25 × the declared rate.

    Kept as the generic cell rate algorithm does (ITU-T I.371): one instant, by which all that was
    taken is paid for.
    """

    def __init__(self, rate: float, burst: int) -> None:
        """Take the declared rate in questions per second; the bucket begins full."""
        self._period_ns = max(1, round(SECOND / (HEADROOM * rate)))
        self._credit_ns = (max(1, burst) - 1) * self._period_ns
        self._paid_ns = 0

    def take(self, now_ns: int) -> bool:
        """Take one token; False, and nothing is taken, when there is none."""
        paid_ns = max(self._paid_ns, now_ns)
        if paid_ns - now_ns > self._credit_ns:
            return False
        self._paid_ns = paid_ns + self._period_ns
        return True
