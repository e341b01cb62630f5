"""Spare workers: loaded and warm, on no lane, so that a lost worker is replaced in milliseconds."""

from collections.abc import Iterator, Mapping, Sequence

from tidsram.estate.types import Decision, Lane
from tidsram.serve.children import Process
from tidsram.units import SECOND, show_size


class Spares:
    """Which decisions have a spare worker, and which gets the next one: critical ones first.

    A decision has one spare for all its lanes; it fits those with as many cores as the first.
    """

    def __init__(self, homes: Mapping[str, tuple[Decision, int]], lanes: Sequence[Lane]) -> None:
        """Take each decision's name, the decision and the first of its lanes."""
        by_rank = sorted(homes.items(), key=lambda home: home[1][0].criticality.rank)
        self._homes, self._lanes = dict(by_rank), lanes
        self._spares: dict[str, Process] = {}
        self._ended: dict[str, tuple[Process, int]] = {}  # and when it may be started again
        self._no_room: dict[str, str] = {}  # and why not

    def __iter__(self) -> Iterator[Process]:
        return iter(list(self._spares.values()))

    def next(
        self, now_ns: int, sizes: Mapping[str, int], used_bytes: int, free_bytes: int
    ) -> Process | None:
        """Return the spare to start now: one at a time, while as much again is left afterwards.

        `sizes` are what one worker of each decision uses; all of them use `used_bytes`.
        """
        if any(not spare.ready for spare in self):
            return None
        self._no_room.clear()
        for name, (decision, lane) in self._homes.items():
            spare, not_before_ns = self._ended.get(name, (None, 0))
            needed = used_bytes + sizes[name]
            if name in self._spares or now_ns < not_before_ns:
                continue
            if free_bytes < needed:
                self._no_room[name] = f"{show_size(free_bytes)} of {show_size(needed)}"
                continue
            self._spares[name] = spare or Process(decision, lane, spare=True)
            return self._spares[name]
        return None

    def fits(self, worker: Process) -> bool:
        """Whether a spare is ready that can take this worker's place."""
        spare = self._spares.get(worker.name)
        if spare is None or not spare.ready:
            return False
        return len(self._lanes[spare.lane].cores) == len(self._lanes[worker.lane].cores)

    def expects(self, name: str) -> bool:
        """Whether the decision's spare is being loaded."""
        return name in self._spares and not self._spares[name].ready

    def take(self, worker: Process) -> Process | None:
        """Return the spare that takes this worker's place, now of its lane; None without one."""
        if not self.fits(worker):
            return None
        spare = self._spares.pop(worker.name)
        self._ended.pop(worker.name, None)
        spare.lane, spare.spare = worker.lane, False
        return spare

    def renew(self, decision: Decision) -> Process | None:
        """Keep the decision's spare by its new version; return the old one, which is no longer."""
        self._homes[decision.name] = decision, self._homes[decision.name][1]
        self._ended.pop(decision.name, None)
        return self._spares.pop(decision.name, None)

    def ended(self, now_ns: int, spare: Process) -> None:
        """Note that a spare has ended; it starts again, later each time that it does not hold."""
        self._spares.pop(spare.name, None)
        self._ended[spare.name] = spare, now_ns + int(spare.next_wait_s() * SECOND)

    @property
    def settled(self) -> bool:
        """Whether each decision has its spare, or there is no room for one."""
        ready = sum(spare.ready for spare in self)
        return ready + len(self._no_room) == len(self._homes)

    def news(self) -> list[str]:
        """Say which decisions have a spare, and why others have none."""
        ready = [name for name, spare in self._spares.items() if spare.ready]
        lines = [
            f"no spare worker for {name}, as {room} of memory are free: when its worker is lost, "
            f"nobody answers in its place until another has loaded"
            for name, room in self._no_room.items()
        ]
        if ready:
            lines.append(
                f"a spare worker stands by for {', '.join(ready)}, to take a lost one's place "
                f"within milliseconds"
            )
        return lines
