"""From what became of each question to what may be said about it. Arithmetic only."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from tidsram import stats
from tidsram.client.answer import Boxes, Mask, Reading
from tidsram.demo.askers import Asked
from tidsram.demo.material import CORE, Accuracy
from tidsram.estate.types import Decision
from tidsram.outcome import Outcome
from tidsram.units import US

# The way of a question, in order; the asker's own work first and last.
STAGES = (
    *("prepare", "receive", "decode", "admit", "queue", "run", "encode", "transport", "read"),
)


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """One decision over the quiet time, as `--json` prints it. Percentiles are of the answered."""

    asked: int
    answered: int
    late: int  # answered, but past the deadline at the asker
    rejected: int
    missed: int
    failed: int
    budget_us: int
    objective: float
    in_time_share: float | None
    p50_us: int | None  # None: too few answers to claim it at 99 %
    p99_us: int | None
    p99_9_us: int | None
    stages_us: dict[str, int]  # means, so that they add up to the mean response
    accuracy: Accuracy
    verdict: stats.Verdict


class Share(msgspec.Struct, frozen=True):
    """How many questions of a decision were in time; `share` is None when nothing was asked."""

    asked: int
    in_time: int
    share: float | None

    @classmethod
    def of(cls, in_time: int, asked: int) -> "Share":
        """Return the share of `in_time` in `asked`."""
        return cls(asked, in_time, round(in_time / asked, 4) if asked else None)


class Burst(msgspec.Struct, frozen=True, kw_only=True):
    """Act 1: one decision asked twice as often as the lanes can answer, the others as ever."""

    decision: str
    capacity_per_s: float
    offered_per_s: float
    asked: int
    answered: int
    late: int
    rejected: int
    missed: int
    failed: int
    reasons: dict[str, int]
    answered_p50_us: int | None
    answered_max_us: int | None
    rejected_p50_us: int | None  # from asking to the refusal in hand
    rejected_max_us: int | None
    others: dict[str, Share]


class InFlight(msgspec.Struct, frozen=True):
    """What became of a question that was in flight when its worker was killed."""

    outcome: Outcome
    reason: str
    after_us: int  # from the kill to the asker's knowing
    in_time: bool


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """Act 2: a worker killed with -9."""

    decision: str
    pid: int
    in_flight: list[InFlight]
    back_after_us: int | None  # from the kill until the node called the decision ready again
    meanwhile: dict[str, int]  # questions of the decision asked while it was away: by outcome
    others: dict[str, Share]


class Cloud(msgspec.Struct, frozen=True, kw_only=True):
    """Act 3: the same questions from afar. Shares by decision, then by place."""

    round_trips_us: dict[str, int]
    shares: dict[str, dict[str, Share]]
    p50_us: dict[str, dict[str, int | None]]


class Acts(msgspec.Struct, frozen=True):
    """The three acts; objectives are not judged in them."""

    burst: Burst
    killed_worker: Kill
    cloud: Cloud


class Results(msgspec.Struct, frozen=True):
    """What `tidsram demo --json` prints."""

    decisions: dict[str, Tally]
    acts: Acts
    ok: bool


def tally(decision: Decision, asked: Sequence[Asked], accuracy: Accuracy) -> Tally:
    """Count one decision's outcomes and judge its objective."""
    outcomes = Counter(one.outcome for one in asked)
    answered_ns = sorted(one.took_ns for one in asked if one.outcome is Outcome.ANSWERED)
    in_time = sum(one.in_time(decision.budget_ns) for one in asked)
    return Tally(
        asked=len(asked),
        answered=len(answered_ns),
        late=len(answered_ns) - in_time,
        rejected=outcomes[Outcome.REJECTED],
        missed=outcomes[Outcome.MISSED],
        failed=outcomes[Outcome.FAILED] + outcomes[Outcome.GONE],
        budget_us=decision.budget_ns // US,
        objective=decision.objective,
        in_time_share=Share.of(in_time, len(asked)).share,
        p50_us=_us(stats.percentile(answered_ns, 0.5)),
        p99_us=_us(stats.percentile(answered_ns, 0.99)),
        p99_9_us=_us(stats.percentile(answered_ns, 0.999)),
        stages_us=mean_stages_us(asked),
        accuracy=accuracy,
        verdict=stats.verdict(in_time, len(asked), decision.objective),
    )


def mean_stages_us(asked: Iterable[Asked]) -> dict[str, int]:
    """Return the mean of each stage over the answered questions; they sum to the mean response."""
    ways = [stages_us(one) for one in asked if one.outcome is Outcome.ANSWERED]
    return {
        stage: round(sum(way.get(stage, 0) for way in ways) / len(ways)) for stage in STAGES if ways
    }


def stages_us(one: Asked) -> dict[str, int]:
    """Return where one question's time went: the asker's stamps around the node's."""
    here = one.replied_ns - one.sent_ns
    return {
        "prepare": (one.sent_ns - one.arose_ns) // US,
        **one.stages_us,
        "transport": max(0, here // US - sum(one.stages_us.values())),
        "read": (one.done_ns - one.replied_ns) // US,
    }


def burst(
    decision: Decision,
    asked: Sequence[Asked],
    *,
    capacity_per_s: float,
    offered_per_s: float,
    others: dict[str, Share],
) -> Burst:
    """Sum up act 1."""
    outcomes = Counter(one.outcome for one in asked)
    answered = sorted(one.took_ns for one in asked if one.outcome is Outcome.ANSWERED)
    rejected = sorted(
        one.replied_ns - one.sent_ns for one in asked if one.outcome is Outcome.REJECTED
    )
    return Burst(
        decision=decision.name,
        capacity_per_s=round(capacity_per_s, 1),
        offered_per_s=round(offered_per_s, 1),
        asked=len(asked),
        answered=len(answered),
        late=sum(took > decision.budget_ns for took in answered),
        rejected=len(rejected),
        missed=outcomes[Outcome.MISSED],
        failed=outcomes[Outcome.FAILED] + outcomes[Outcome.GONE],
        reasons=dict(Counter(one.reason.value for one in asked if one.reason)),
        answered_p50_us=_us(stats.percentile(answered, 0.5)),
        answered_max_us=_us(answered[-1] if answered else None),
        rejected_p50_us=_us(stats.percentile(rejected, 0.5)),
        rejected_max_us=_us(rejected[-1] if rejected else None),
        others=others,
    )


def kill(
    decision: Decision,
    asked: Sequence[Asked],
    *,
    pid: int,
    killed_ns: int,
    back_ns: int | None,
    others: dict[str, Share],
) -> Kill:
    """Sum up act 2."""
    away = [one for one in asked if killed_ns <= one.sent_ns < (back_ns or one.sent_ns + 1)]
    return Kill(
        decision=decision.name,
        pid=pid,
        in_flight=[
            InFlight(
                one.outcome,
                one.reason.value,
                (one.replied_ns - killed_ns) // US,
                one.in_time(decision.budget_ns),
            )
            for one in in_flight(asked, killed_ns)
        ],
        back_after_us=None if back_ns is None else (back_ns - killed_ns) // US,
        meanwhile=dict(Counter(one.outcome.value for one in away)),
        others=others,
    )


def cloud(
    decisions: Mapping[str, Decision],
    round_trips_ns: Mapping[str, int],
    by_place: Mapping[str, Sequence[Asked]],
) -> Cloud:
    """Sum up act 3."""
    by_decision = {
        name: {
            place: [one for one in asked if one.decision == name]
            for place, asked in by_place.items()
        }
        for name in decisions
    }
    return Cloud(
        round_trips_us={place: ns // US for place, ns in round_trips_ns.items()},
        shares={
            name: {place: share(decisions[name], asked) for place, asked in places.items()}
            for name, places in by_decision.items()
        },
        p50_us={
            name: {place: median_us(asked) for place, asked in places.items()}
            for name, places in by_decision.items()
        },
    )


def in_flight(asked: Iterable[Asked], instant_ns: int) -> list[Asked]:
    """Return the questions that were between asker and answer at that instant."""
    return [one for one in asked if one.flew_at(instant_ns)]


def shares(decisions: Mapping[str, Decision], asked: Iterable[Asked]) -> dict[str, Share]:
    """Count the questions in time, by decision."""
    by_name: dict[str, list[Asked]] = {}
    for one in asked:
        by_name.setdefault(one.decision, []).append(one)
    return {name: share(decisions[name], own) for name, own in by_name.items()}


def share(decision: Decision, asked: Sequence[Asked]) -> Share:
    """Count the questions of one decision that were in time."""
    return Share.of(sum(one.in_time(decision.budget_ns) for one in asked), len(asked))


def median_us(asked: Iterable[Asked]) -> int | None:
    """Return the median response of the answered questions; None when they are too few."""
    return _us(
        stats.percentile(sorted(o.took_ns for o in asked if o.outcome is Outcome.ANSWERED), 0.5)
    )


def reading(one: Asked) -> Reading | None:
    """Return what was read from an answer, as the asker's process passed it on."""
    if one.boxes is not None:
        return Boxes(one.boxes)
    if one.mask is not None:
        bits = np.unpackbits(np.frombuffer(one.mask, np.uint8), count=CORE * CORE)
        return Mask(bits.reshape(CORE, CORE).astype(np.bool_), (0, 0, CORE, CORE))
    return None


def show_ms(us: int | None) -> str:
    """Show microseconds as a person reads milliseconds; – where there is nothing to claim."""
    if us is None:
        return "–"
    return f"{us / 1000:.1f}" if us < 10_000 else f"{us / 1000:.0f}"


def show_share(share: float | None) -> str:
    """Show a share in percent, never rounded up to all: the last one is what this is about."""
    if share is None:
        return "–"
    return f"{min(share * 100, 99.9 if share < 1 else 100):.3g} %"


def _us(ns: int | None) -> int | None:
    return None if ns is None else ns // US
