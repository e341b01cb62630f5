"""What a node's processes use, looked at once a second: counted, and said where it costs runs.

Stolen time and page faults go into the metrics; a worker that grows for ever is found here, and
replaced by the supervisor.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from tidsram.serve import usage
from tidsram.serve.children import Process
from tidsram.serve.metrics import Metrics
from tidsram.serve.usage import Faults, Stolen
from tidsram.units import SECOND

STEAL_LOOKS: Final = 10
STEAL_MAX: Final = 0.01  # of a core's time
QUIET_NS: Final = 60 * SECOND  # between two lines of one kind
GROWTH_MIN: Final = 256 << 20


class Watch:
    """Keeps what was seen before; `cores` are the node's."""

    def __init__(self, metrics: Metrics, cores: Iterable[int]) -> None:
        self._metrics, self._cores = metrics, tuple(cores)
        self._stolen: deque[dict[int, Stolen]] = deque(maxlen=STEAL_LOOKS + 1)
        self._faults: dict[int, Faults] = {}
        self._quiet_until_ns: dict[str, int] = {}

    def look(self, now_ns: int, gate: Process, workers: Iterable[Process]) -> list[str]:
        """Count what has come since the last look, and return what should be said."""
        lines = self._once_a_minute("steal", now_ns, self._look_at_steal(usage.stolen(self._cores)))
        thrashing: list[str] = []
        seen: dict[int, Faults] = {}
        if gate.ready:
            seen[gate.pid] = usage.faults(gate.pid)
            self._metrics.count_faults("gate", *self._new(gate.pid, seen[gate.pid]))
        for worker in workers:
            faults = seen[worker.pid] = usage.faults(worker.pid)
            minor, major = self._new(worker.pid, faults)
            self._metrics.count_faults("worker", minor, major)
            if major:
                thrashing.append(
                    f"warning: {worker.name}: worker {worker.pid} had to read memory back from a "
                    f"disk {major} times while serving; add memory or allow it to be locked"
                )
        self._faults = seen  # without those that have ended
        return lines + self._once_a_minute("faults", now_ns, thrashing)

    def _look_at_steal(self, stolen: dict[int, Stolen]) -> Iterator[str]:
        history = self._stolen
        history.append(stolen)
        if len(history) > 1:
            self._metrics.add_steal(sum(gain[0] for gain in _gains(history[-2], stolen).values()))
        if len(history) <= STEAL_LOOKS:
            return
        for core, (steal_ns, total_ns) in _gains(history[0], stolen).items():
            if steal_ns > STEAL_MAX * total_ns:
                share = steal_ns / total_ns
                yield (
                    f"warning: {share:.1%} of core {core}'s time was stolen in the last "
                    f"{STEAL_LOOKS} s: another machine of this host had it. Runs take that much "
                    f"longer, and in bursts; ask for cores of your own"
                )

    def _new(self, pid: int, faults: Faults) -> Faults:
        """Return the faults since the last look; what came before the first is loading's."""
        before = self._faults.get(pid, faults)
        return Faults(faults.minor - before.minor, faults.major - before.major)

    def _once_a_minute(self, kind: str, now_ns: int, lines: Iterable[str]) -> list[str]:
        """Return the first line, if none of its kind was said in the last minute."""
        found = list(lines)[:1]
        if not found or now_ns < self._quiet_until_ns.get(kind, 0):
            return []
        self._quiet_until_ns[kind] = now_ns + QUIET_NS
        return found


def growth_limit(ready_bytes: int) -> int:
    """Return how large a worker may become that had `ready_bytes` when it was ready."""
    return ready_bytes + max(GROWTH_MIN, ready_bytes)


def _gains(before: dict[int, Stolen], after: dict[int, Stolen]) -> dict[int, tuple[int, int]]:
    """Return each core's stolen and whole time between two looks."""
    return {
        core: (
            max(0, now.steal_ns - before[core].steal_ns),  # it has been seen to go backwards
            now.total_ns - before[core].total_ns,
        )
        for core, now in after.items()
        if core in before
    }
