"""A made-up tale: what the demo hands to its page, without running it."""

import msgspec

from tidsram.demo import results
from tidsram.demo.askers import Asked
from tidsram.demo.material import Accuracy
from tidsram.demo.story import FRAMES, PLACES, VICTIM, Tale
from tidsram.outcome import Outcome, Reason
from tidsram.units import MS, SECOND

START_NS = 1000 * SECOND


def asked(decision, number, took_ms=20.0, outcome=Outcome.ANSWERED, reason=Reason.NONE, **more):
    arose_ns = START_NS + number * 100 * MS
    done_ns = arose_ns + round(took_ms * MS)
    return Asked(
        decision=decision,
        index=number,
        arose_ns=arose_ns,
        began_ns=arose_ns,
        sent_ns=arose_ns + 1 * MS,
        replied_ns=done_ns - 1000,
        done_ns=done_ns,
        outcome=outcome,
        reason=reason,
        stages_us={"run": 8000} if outcome is Outcome.ANSWERED else {},
        **more,
    )


def tale(decisions, *, outcome=Outcome.ANSWERED, reason=Reason.NONE):
    """Return a tale in which every question had this outcome."""

    def some(count):
        names = list(decisions)
        made = [asked(n, i, outcome=outcome, reason=reason) for i in range(count) for n in names]
        return [_with_reading(one) for one in made] if outcome is Outcome.ANSWERED else made

    quiet, killed_ns = some(20), START_NS + 5 * MS
    acts = results.Acts(
        results.burst(
            decisions[VICTIM],
            [one for one in some(5) if one.decision == VICTIM],
            capacity_per_s=50,
            offered_per_s=100,
            others=results.shares(decisions, some(5)),
        ),
        results.kill(
            decisions[VICTIM],
            [one for one in some(5) if one.decision == VICTIM],
            pid=7,
            killed_ns=killed_ns,
            back_ns=None,
            others={},
        ),
        results.cloud(decisions, PLACES, {place: some(3) for place in PLACES}),
    )
    tallies = {
        name: results.tally(
            decision,
            [one for one in quiet if one.decision == name],
            Accuracy("nothing", {"iou": None} if name == VICTIM else {"recall": 0.5}, 3, "things"),
        )
        for name, decision in decisions.items()
    }
    return Tale(
        ready_ns=SECOND,
        room_ns=dict.fromkeys(decisions, MS),
        quiet=quiet,
        burst=some(5),
        burst_ns=(START_NS, START_NS + SECOND),
        killed=some(5),
        killed_ns=killed_ns,
        back_ns=None,
        cloud={place: some(3) for place in PLACES},
        results=results.Results(tallies, acts, ok=True),
    )


def _with_reading(one):
    if one.decision == VICTIM:
        return msgspec.structs.replace(one, mask=b"\xff" * 1250)
    return msgspec.structs.replace(one, boxes=()) if one.decision == FRAMES else one
