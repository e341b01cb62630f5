"""One lane in virtual time that runs one request after another, by a rule that chooses.

For the rules that others use: nothing is preempted, a run that has begun is run to its end.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
from msgspec import Struct

from bench.pressure.workloads import CV, SERVICE_NS, Asked
from tidsram.estate.types import Criticality
from tidsram.outcome import Reason
from tidsram.simulate.result import REASONS, Ints, Played

UPPER = 1 + 2.33 * CV  # 99 % of the runs take at most so much of the mean
REFUSED = -1  # in the place of a variant
_ANSWERED, _OVERLOAD, _EVICTED, _DEADLINE = (
    REASONS.index(reason)
    for reason in (Reason.NONE, Reason.OVERLOAD, Reason.EVICTED, Reason.DEADLINE)
)


class Request(Struct, frozen=True, gc=False):
    """A question as a rule sees it; the numbers are those of the order in which all come.

    `upper_ns` is the profile of each variant, most accurate first: 99 % of its runs take at most
    that. `service_ns` is what this one will take, for one who knows beforehand.
    """

    number: int
    kind: int
    critical: bool
    arrival_ns: int
    deadline_ns: int
    service_ns: tuple[int, ...]
    upper_ns: tuple[int, ...]


class Rule(Protocol):
    """Who is admitted, and who is next."""

    def arrived(self, now_ns: int, free_ns: int, request: Request) -> int:
        """Return the finish promised, 0 for a refusal; the running job ends at `free_ns`."""

    def take(self, now_ns: int) -> tuple[Request, int] | None:
        """Take the next request and its variant, or REFUSED; None when nobody waits."""

    def ran(self, request: Request, service_ns: int) -> None:
        """A run has taken so long."""


class Outcome(Struct, frozen=True, eq=False):
    """What became of the questions, in the order in which they came; `kinds` says whose each is."""

    played: Played
    kinds: Ints
    busy_ns: int
    wasted_ns: int


class Lane:
    """Carries out what a rule decides, and keeps the account: a column each, by number."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = requests
        count = len(requests)
        self._code, self.rung = [_OVERLOAD] * count, [REFUSED] * count
        self._told_ns, self._promised_ns = [0] * count, [0] * count
        self.started_ns, self.ended_ns = [0] * count, [0] * count
        self._busy_ns = self._wasted_ns = 0

    def promise(self, now_ns: int, number: int, promised_ns: int) -> None:
        """Note a promise; 0 is a refusal."""
        self._promised_ns[number], self._told_ns[number] = promised_ns, now_ns

    def run(self, now_ns: int, request: Request, rung: int) -> int:
        """Run the request, or tell that there will be no run; return when the lane is free."""
        number = request.number
        if rung == REFUSED:
            self._told_ns[number] = now_ns
            self._code[number] = _EVICTED if now_ns < request.deadline_ns else _DEADLINE
            return now_ns
        service_ns = request.service_ns[rung]
        ended_ns = now_ns + service_ns
        self._code[number], self.rung[number] = _ANSWERED, rung
        self.started_ns[number] = now_ns
        self.ended_ns[number] = self._told_ns[number] = ended_ns
        self._busy_ns += service_ns
        if ended_ns > request.deadline_ns:
            self._wasted_ns += service_ns
        return ended_ns

    def put_back(
        self,
        requests: Iterable[Request],
        begin_ns: Callable[[int], int],
        end_ns: Callable[[int], int],
    ) -> None:
        """Tell on the common clock what these had on one of their own, without late answers."""
        for request in requests:
            number = request.number
            self._told_ns[number] = request.arrival_ns
            if self.rung[number] != REFUSED:
                self.started_ns[number] = begin_ns(self.started_ns[number])
                ended_ns = end_ns(self.ended_ns[number])
                self.ended_ns[number] = self._told_ns[number] = ended_ns
                self._promised_ns[number] = request.deadline_ns

    def outcome(self) -> Outcome:
        """Return what became of everyone."""
        columns = {
            "arrival_ns": [request.arrival_ns for request in self._requests],
            "deadline_ns": [request.deadline_ns for request in self._requests],
            "reason": self._code,
            "told_ns": self._told_ns,
            "promised_ns": self._promised_ns,
            "started_ns": self.started_ns,
            "ended_ns": self.ended_ns,
            "rung": self.rung,
        }
        played = Played(**{name: np.array(column, np.int64) for name, column in columns.items()})
        kinds = np.array([request.kind for request in self._requests], np.int64)
        return Outcome(played, kinds, self._busy_ns, self._wasted_ns)


def play(lane: Lane, requests: Iterable[Request], rule: Rule) -> None:
    """Play the requests, which come in their order, out to the last answer."""
    free_ns = 0
    for request in requests:
        now_ns = request.arrival_ns
        # All who come at one instant are seen before one of them is taken.
        while free_ns < now_ns and (taken := rule.take(free_ns)):
            free_ns = _carry_out(lane, free_ns, *taken, rule)
        free_ns = max(free_ns, now_ns)
        lane.promise(now_ns, request.number, rule.arrived(now_ns, free_ns, request))
    while taken := rule.take(free_ns):
        free_ns = _carry_out(lane, free_ns, *taken, rule)


def serve(requests: Sequence[Request], rule: Rule) -> Outcome:
    """Serve all by the rule."""
    lane = Lane(requests)
    play(lane, requests, rule)
    return lane.outcome()


def _carry_out(lane: Lane, now_ns: int, request: Request, rung: int, rule: Rule) -> int:
    free_ns = lane.run(now_ns, request, rung)
    if rung != REFUSED:
        rule.ran(request, free_ns - now_ns)
    return free_ns


def order(asked: Sequence[Asked]) -> tuple[Ints, Ints]:
    """Return whose each question is, and its number among its kind's, in the order they come."""
    instants = np.concatenate([a.arrivals_ns for a in asked])
    kinds = np.repeat(np.arange(len(asked)), [len(a.arrivals_ns) for a in asked])
    numbers = np.concatenate([np.arange(len(a.arrivals_ns)) for a in asked])
    coming = np.argsort(instants, kind="stable")
    return kinds[coming], numbers[coming]


def requests_of(asked: Sequence[Asked]) -> list[Request]:
    """Make requests of all questions, numbered in the order in which they come."""
    columns = [_columns(a) for a in asked]
    uppers = [tuple(int(SERVICE_NS * UPPER * rung) for rung in a.kind.rungs) for a in asked]
    critical = [a.kind.criticality is Criticality.CRITICAL for a in asked]
    budgets_ns = [a.kind.budget_ns for a in asked]
    made = []
    kinds, numbers = order(asked)
    for number, (kind, n) in enumerate(zip(kinds.tolist(), numbers.tolist(), strict=True)):
        now_ns, *service_ns = columns[kind][n]
        due_ns = now_ns + budgets_ns[kind]
        made.append(
            Request(number, kind, critical[kind], now_ns, due_ns, tuple(service_ns), uppers[kind])
        )
    return made


def _columns(asked: Asked) -> list[tuple[int, ...]]:
    """Return each question's instant and its time with every variant."""
    times = [(asked.service_ns * rung).astype(np.int64) for rung in asked.kind.rungs]
    return list(zip(*(c.tolist() for c in (asked.arrivals_ns, *times)), strict=True))
