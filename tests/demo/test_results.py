"""What may be said about outcomes: counting, percentiles, verdicts, stages."""

import numpy as np

from tidsram.client.answer import Box, Boxes
from tidsram.demo import results
from tidsram.demo.askers import Asked
from tidsram.demo.material import CORE, Accuracy
from tidsram.estate.types import Decision, Variant
from tidsram.outcome import Outcome, Reason
from tidsram.units import MS, US

LADDER = (Variant(name="m", model="m.onnx"),)
DECISION = Decision(name="d", ladder=LADDER, budget_ns=100 * MS, objective=0.95)
ACCURACY = Accuracy("nothing", {}, 0, "things")


def asked(took_ms=20, outcome=Outcome.ANSWERED, *, decision="d", arose_ms=0, **more):
    arose_ns = arose_ms * MS
    return Asked(
        decision=decision,
        index=0,
        arose_ns=arose_ns,
        began_ns=arose_ns,
        sent_ns=arose_ns + 5 * MS,
        replied_ns=arose_ns + took_ms * MS - 1 * MS,
        done_ns=arose_ns + took_ms * MS,
        outcome=outcome,
        **more,
    )


def test_outcomes_are_counted_apart_and_late_is_answered_but_not_in_time():
    """Tally one of each kind and two that are late."""
    all_asked = [
        *[asked() for _ in range(5)],
        *[asked(101) for _ in range(2)],
        asked(outcome=Outcome.REJECTED, reason=Reason.OVERLOAD),
        asked(outcome=Outcome.MISSED, reason=Reason.DEADLINE),
        asked(outcome=Outcome.FAILED, reason=Reason.MODEL),
    ]

    tally = results.tally(DECISION, all_asked, ACCURACY)

    assert (tally.asked, tally.answered, tally.late) == (10, 7, 2)
    assert (tally.rejected, tally.missed, tally.failed) == (1, 1, 1)
    assert tally.in_time_share == 0.5
    assert tally.budget_us == 100_000


def test_an_answer_exactly_at_its_deadline_is_in_time():
    """Compare a nanosecond before and after."""
    at = asked(100)

    assert at.in_time(100 * MS)
    assert not at.in_time(100 * MS - 1)


def test_percentiles_stand_only_where_samples_carry_them():
    """Claim the median with 20 answers and the 99th percentile with 459."""
    few = results.tally(DECISION, [asked()] * 20, ACCURACY)
    many = results.tally(DECISION, [asked()] * 459, ACCURACY)

    assert (few.p50_us, few.p99_us, few.p99_9_us) == (20_000, None, None)
    assert (many.p50_us, many.p99_us, many.p99_9_us) == (20_000, 20_000, None)


def test_verdicts_follow_the_evidence():
    """Judge 200 in time, 20 in time, and 100 of which a fifth was refused."""
    refused = asked(outcome=Outcome.REJECTED)

    assert results.tally(DECISION, [asked()] * 200, ACCURACY).verdict == "met"
    assert results.tally(DECISION, [asked()] * 20, ACCURACY).verdict == "not enough evidence"
    bad = [asked()] * 80 + [refused] * 20
    assert results.tally(DECISION, bad, ACCURACY).verdict == "contradicted"


def test_stages_add_up_to_the_whole_response():
    """Sum the stages of answers with the node's stamps inside the asker's."""
    one = asked(20, stages_us={"receive": 1000, "run": 8000, "encode": 500})

    stages = results.stages_us(one)

    assert stages["prepare"] == 5000
    assert stages["transport"] == 14_000 - 9500
    assert stages["read"] == 1000
    assert sum(stages.values()) == one.took_ns // US


def test_mean_stages_leave_out_what_was_not_answered():
    """Mix an answer with a refusal that took long."""
    told = results.mean_stages_us(
        [asked(20, stages_us={"run": 8000}), asked(90, outcome=Outcome.REJECTED)]
    )

    assert sum(told.values()) == 20_000


def test_in_flight_means_sent_and_not_yet_replied():
    """Look at instants before, inside and after."""
    one = asked(20)

    assert results.in_flight([one], 5 * MS) == [one]
    assert results.in_flight([one], 5 * MS - 1) == []
    assert results.in_flight([one], 19 * MS) == []


def test_a_kill_tells_each_fate_and_what_was_asked_meanwhile():
    """Kill at 10 ms: two are in flight, one is asked while it is away, one after its return."""
    told = results.kill(
        DECISION,
        [
            asked(20),
            asked(30, Outcome.FAILED, reason=Reason.WORKER_LOST),
            asked(7, Outcome.REJECTED, arose_ms=50, reason=Reason.NOT_READY),
            asked(20, arose_ms=500),
        ],
        pid=7,
        killed_ns=10 * MS,
        back_ns=400 * MS,
        others={},
    )

    assert [(one.outcome, one.after_us, one.in_time) for one in told.in_flight] == [
        (Outcome.ANSWERED, 9000, True),
        (Outcome.FAILED, 19_000, False),
    ]
    assert told.back_after_us == 390_000
    assert told.meanwhile == {"rejected": 1}


def test_shares_are_counted_by_decision():
    """Mix two decisions, one late."""
    other = Decision(name="e", ladder=LADDER, budget_ns=10 * MS)

    told = results.shares({"d": DECISION, "e": other}, [asked(), asked(decision="e"), asked()])

    assert told == {"d": results.Share(2, 2, 1.0), "e": results.Share(1, 0, 0.0)}


def test_a_burst_is_summed_up_by_outcome():
    """Two answered, one of them late; two refused after 1 ms on the way."""
    refused = asked(7, Outcome.REJECTED, reason=Reason.OVERLOAD)

    told = results.burst(
        DECISION,
        [asked(20), asked(120), refused, refused],
        capacity_per_s=50,
        offered_per_s=100,
        others={},
    )

    assert (told.answered, told.late, told.rejected) == (2, 1, 2)
    assert told.reasons == {"overload": 2}
    assert told.rejected_max_us == 1000
    assert told.answered_max_us == 120_000


def test_what_was_read_survives_the_way_between_processes():
    """Pack a mask and boxes as an asker does."""
    pixels = np.zeros((CORE, CORE), np.bool_)
    pixels[3, 4:9] = True
    box = Box(1, 2, 3, 4, "person", 0.5)

    mask = results.reading(asked(mask=np.packbits(pixels).tobytes()))

    assert np.array_equal(mask.pixels, pixels)
    assert results.reading(asked(boxes=(box,))) == Boxes((box,))
    assert results.reading(asked()) is None


def test_a_share_is_never_rounded_up_to_all():
    """Show one miss in ten thousand."""
    assert results.show_share(0.9999) == "99.9 %"
    assert results.show_share(1) == "100 %"
    assert results.show_share(0.5) == "50 %"
    assert results.show_share(None) == "–"
