"""Others' rules for one lane, and one who knows: each re-implemented here from its description.

None of them preempts a run. One that predicts nothing promises the deadline itself.
"""

from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from msgspec.structs import replace

from bench.pressure.server import REFUSED, Lane, Outcome, Request, Rule, play
from tidsram.simulate.result import Ints

ROLLING = 10  # runs that Clockwork's prediction looks back on


class Fifo:
    """First come, first served; everyone is admitted and run, however late."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, int, Request]] = []  # in order of service

    def key(self, request: Request) -> int:
        """Return what the order of service goes by; the smallest is next."""
        del request
        return 0

    def rung(self, now_ns: int, request: Request) -> int:
        """Return the variant of the request whose turn it is, or REFUSED."""
        del now_ns, request
        return 0

    def arrived(self, now_ns: int, free_ns: int, request: Request) -> int:
        del now_ns, free_ns
        insort(self.waiting, (self.key(request), request.number, request))
        return request.deadline_ns

    def take(self, now_ns: int) -> tuple[Request, int] | None:
        if not self.waiting:
            return None
        request = self.waiting.pop(0)[2]
        return request, self.rung(now_ns, request)

    def ran(self, request: Request, service_ns: int) -> None:
        """Learn nothing."""


class FifoTimeout(Fifo):
    """First come, first served with a queue timeout, as in Triton's queue policy.

    At its turn a request is refused if it has waited longer than the timeout, which is the budget;
    how long its run will take plays no part.
    """

    def rung(self, now_ns: int, request: Request) -> int:
        return REFUSED if now_ns > request.deadline_ns else 0


class FifoTuned(Fifo):
    """The same with the best timeout that could be set by hand: it leaves room for a run."""

    def rung(self, now_ns: int, request: Request) -> int:
        return REFUSED if now_ns + request.upper_ns[0] > request.deadline_ns else 0


class Clockwork(Fifo):
    """Clockwork's rule (OSDI 2020) at batch 1: least slack first, refused once it cannot finish.

    The prediction is the 99th percentile of a kind's last ten runs, which is their largest; slack
    is what is left of the deadline after it. Those who wait ahead are not counted, so most
    refusals come from the queue, at the first turn that would be too late.
    """

    def __init__(self) -> None:
        super().__init__()
        self._runs: dict[int, deque[int]] = {}

    def key(self, request: Request) -> int:
        return request.deadline_ns - self._predicted_ns(request)

    def arrived(self, now_ns: int, free_ns: int, request: Request) -> int:
        feasible = free_ns <= self.key(request)
        return super().arrived(now_ns, free_ns, request) if feasible else 0

    def rung(self, now_ns: int, request: Request) -> int:
        return REFUSED if now_ns > self.key(request) else 0

    def ran(self, request: Request, service_ns: int) -> None:
        self._runs.setdefault(request.kind, deque(maxlen=ROLLING)).append(service_ns)

    def _predicted_ns(self, request: Request) -> int:
        runs = self._runs.get(request.kind)
        return max(runs) if runs else request.upper_ns[0]


class Edf(Fifo):
    """Earliest deadline first; everyone is admitted and run, however late."""

    def key(self, request: Request) -> int:
        return request.deadline_ns


class EdfAdmission(Edf):
    """Earliest deadline first with a test at arrival, one class for all.

    A request is admitted only if it and all admitted before it would finish in time, each taking
    its profile's 99th percentile.
    """

    def arrived(self, now_ns: int, free_ns: int, request: Request) -> int:
        super().arrived(now_ns, free_ns, request)
        finish_ns = promised_ns = free_ns
        for deadline_ns, number, waiting in self.waiting:
            finish_ns += waiting.upper_ns[0]
            if finish_ns > deadline_ns:
                self.waiting.remove((request.deadline_ns, request.number, request))
                return 0
            if number == request.number:
                promised_ns = finish_ns
        return promised_ns


class SlackFit(Edf):
    """SlackFit's ladder (SuperServe, NSDI 2025) at batch 1, on earliest deadline first.

    At its turn a request has the slowest variant whose profile fits its slack. One that none fits
    is refused there, which spares the lane a run that would be late.
    """

    def rung(self, now_ns: int, request: Request) -> int:
        slack_ns = request.deadline_ns - now_ns
        fitting = (rung for rung, upper_ns in enumerate(request.upper_ns) if upper_ns <= slack_ns)
        return next(fitting, REFUSED)


class Clairvoyant(Fifo):
    """Questions of one budget, served by one who knows what every run will take.

    Admitted is who will be in time if all that wait have their fastest variant; then each has the
    most accurate with which all that wait stay in time. First come is first due.
    """

    def __init__(self) -> None:
        super().__init__()
        self._fastest_ns = 0  # of all that wait

    def arrived(self, now_ns: int, free_ns: int, request: Request) -> int:
        assert not self.waiting or self.waiting[-1][2].deadline_ns <= request.deadline_ns
        fastest_ns = request.service_ns[-1]
        if free_ns + self._fastest_ns + fastest_ns > request.deadline_ns:
            return 0
        self._fastest_ns += fastest_ns
        return super().arrived(now_ns, free_ns, request)

    def rung(self, now_ns: int, request: Request) -> int:
        self._fastest_ns -= request.service_ns[-1]
        latest_ns, rest_ns = request.deadline_ns, 0
        for _, _, waiting in self.waiting:
            rest_ns += waiting.service_ns[-1]
            latest_ns = min(latest_ns, waiting.deadline_ns - rest_ns)
        for rung, service_ns in enumerate(request.service_ns):
            if now_ns + service_ns <= latest_ns:
                return rung
        raise AssertionError("admitted, yet not even the fastest is in time")


RULES: dict[str, Callable[[], Rule]] = {
    "FIFO": Fifo,
    "FIFO, timeout": FifoTimeout,
    "FIFO, tuned timeout": FifoTuned,
    "Clockwork": Clockwork,
    "EDF": Edf,
    "EDF, admission": EdfAdmission,
    "SlackFit": SlackFit,
}


def oracle(requests: Sequence[Request]) -> Outcome:
    """Serve as one who knows what every run takes, and what time critical questions will leave.

    Critical requests have the lane as if alone, by preemption without cost; the others have what
    they leave. Both are taken greedily as they come. That is a strong reference, not the optimum:
    one who knew all that comes could refuse a long run in favour of two short ones.
    """
    lane = Lane(requests)
    critical = [request for request in requests if request.critical]
    others = [request for request in requests if not request.critical]
    play(lane, critical, Clairvoyant())
    ran = [r.number for r in critical if lane.rung[r.number] != REFUSED]
    left = Leftover([lane.started_ns[n] for n in ran], [lane.ended_ns[n] for n in ran])
    arrivals_ns = left.at(np.array([r.arrival_ns for r in others], np.int64)).tolist()
    deadlines_ns = left.at(np.array([r.deadline_ns for r in others], np.int64)).tolist()
    inside = [
        replace(request, arrival_ns=arrival_ns, deadline_ns=deadline_ns)
        for request, arrival_ns, deadline_ns in zip(others, arrivals_ns, deadlines_ns, strict=True)
    ]
    play(lane, inside, Clairvoyant())
    lane.put_back(others, left.last, left.first)
    return lane.outcome()


class Leftover:
    """Time that spans leave over: a clock that stands still in each of them."""

    def __init__(self, starts_ns: Sequence[int], ends_ns: Sequence[int]) -> None:
        self._starts_ns, self._ends_ns = np.array([starts_ns, ends_ns], np.int64)
        self._taken_ns = np.concatenate([[0], np.cumsum(self._ends_ns - self._starts_ns)])
        self._standing_ns = self._starts_ns - self._taken_ns[:-1]  # what it shows in each span

    def at(self, instants_ns: Ints) -> Ints:
        """Return what the clock shows at these instants."""
        begun = np.searchsorted(self._starts_ns, instants_ns, side="right")
        ends_ns = np.concatenate([[0], self._ends_ns])[begun]
        shown: Ints = np.maximum(instants_ns, ends_ns) - self._taken_ns[begun]
        return shown

    def first(self, shown_ns: int) -> int:
        """Return the first instant at which the clock shows this: when something ends."""
        return shown_ns + int(self._taken_ns[np.searchsorted(self._standing_ns, shown_ns)])

    def last(self, shown_ns: int) -> int:
        """Return the last instant at which the clock shows this: when something begins."""
        begun = np.searchsorted(self._standing_ns, shown_ns, side="right")
        return shown_ns + int(self._taken_ns[begun])
