"""What a simulated run came to: for each question its outcome and when, and what may be counted."""

from collections import Counter

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from tidsram.outcome import TABLE, Outcome, Reason

Ints = npt.NDArray[np.int64]

REASONS = tuple(Reason)


class Played(Struct, frozen=True, eq=False):
    """One decision's questions, in the order in which they came; instants in ns.

    `reason` is an index into REASONS; `told_ns` when the asker had the outcome; `promised_ns` the
    finish predicted at admission, 0 for a question refused at once; `started_ns` and `ended_ns`
    of its run, 0 where there was none; `rung` the variant that ran, −1 where none did.
    """

    arrival_ns: Ints
    deadline_ns: Ints
    reason: Ints
    told_ns: Ints
    promised_ns: Ints
    started_ns: Ints
    ended_ns: Ints
    rung: Ints

    @property
    def offered(self) -> int:
        """All questions."""
        return len(self.arrival_ns)

    @property
    def admitted(self) -> int:
        """Those that were promised an answer."""
        return int((self.promised_ns > 0).sum())

    @property
    def answered(self) -> npt.NDArray[np.bool_]:
        """Which have an answer, in time or late."""
        return np.equal(self.reason, REASONS.index(Reason.NONE))

    @property
    def in_time(self) -> int:
        """Answers that the asker had by the deadline."""
        return int((self.answered & (self.told_ns <= self.deadline_ns)).sum())

    @property
    def late(self) -> int:
        """Answers sent before the deadline that came after it."""
        return int(self.answered.sum()) - self.in_time

    @property
    def reasons(self) -> dict[Reason, int]:
        """How often each reason was told."""
        return {
            REASONS[code]: count for code, count in sorted(Counter(self.reason.tolist()).items())
        }

    def count(self, outcome: Outcome) -> int:
        """How many had this outcome."""
        return sum(n for reason, n in self.reasons.items() if TABLE[reason].outcome is outcome)

    @property
    def evicted(self) -> int:
        """Promises taken back for more urgent work."""
        return self.reasons.get(Reason.EVICTED, 0)

    @property
    def missed(self) -> int:
        """Promises not kept: nothing by the deadline."""
        return self.count(Outcome.MISSED)

    @property
    def failed(self) -> int:
        """Those whose worker was lost."""
        return self.count(Outcome.FAILED)

    @property
    def response_ns(self) -> Ints:
        """From arrival to the answer, of those answered."""
        return (self.told_ns - self.arrival_ns)[self.answered]

    @property
    def notice_ns(self) -> Ints:
        """The time left to the asker when told that there will be no answer."""
        return (self.deadline_ns - self.told_ns)[~self.answered]

    @property
    def lateness_ns(self) -> Ints:
        """The real finish less the predicted one, of those answered: how good the promise was."""
        return (self.ended_ns - self.promised_ns)[self.answered]


class Result(Struct, frozen=True, eq=False):
    """All questions of a run, and by decision.

    `busy_ns` is run time on all lanes; `wasted_ns` the part of it that led to no answer in time.
    """

    asked: Played
    decisions: dict[str, Played]
    span_ns: int  # from the start to the last event
    busy_ns: int
    wasted_ns: int
