"""The ladder: the most accurate variant that keeps every promise, down at once and up calmly."""

import numpy as np
from msgspec.structs import replace

from tidsram.outcome import Reason
from tidsram.schedule.estimate import Estimate
from tidsram.schedule.events import Probe, Start
from tidsram.schedule.scheduler import PROBE_AFTER_NS, Policy, Scheduler
from tidsram.simulate.arrivals import poisson
from tidsram.simulate.run import Node, Questions, run
from tidsram.simulate.script import Slower
from tidsram.testing import Shell
from tidsram.units import MS, SECOND

LADDER_NS = (20 * MS, 10 * MS, 5 * MS)


def ladder(*, lanes: int = 1) -> Shell:
    node = Shell(Policy("a"), lanes=lanes)
    for lane in range(lanes):
        node.ready("a", LADDER_NS[0], faster_ns=LADDER_NS[1:], lane=lane)
    return node


def test_the_most_accurate_runs_where_there_is_time():
    """An idle lane and a wide budget: no reason to give up anything."""
    node = ladder()

    assert node.ask("a", 20 * MS) == [Start(node.jobs[0], 0, on_deck=False, rung=0)]


def test_a_tight_budget_gets_the_variant_that_fits():
    """10 ms are enough for the second, 5 for the third, 4 for none."""
    rungs = []
    for budget_ms in (19, 10, 9, 5):
        node = ladder()
        (start,) = node.ask("a", budget_ms * MS)
        rungs.append(start.rung)
    (refusal,) = ladder().ask("a", 4 * MS)

    assert rungs == [1, 1, 2, 2]
    assert refusal.reason is Reason.INFEASIBLE
    assert refusal.earliest_feasible_ns == LADDER_NS[2]


def test_those_behind_are_kept_by_stepping_down():
    """The first would have time for the best, those on its heels would not."""
    node = ladder()
    node.ask("a", 20 * MS)
    for _ in range(3):
        node.ask("a", 40 * MS)  # four at their fastest: 20 + 3 × 5

    assert node.reasons == {}
    node.wait_until(20 * MS)
    assert node.end(0) == [Start(node.jobs[1], 0, on_deck=False, rung=1)]
    node.wait_until(30 * MS)
    assert node.end(1) == [Start(node.jobs[2], 0, on_deck=False, rung=2)]


def test_admission_counts_with_the_fastest():
    """However accurate the runs so far, a burst is promised what the fastest can do."""
    node = ladder()
    for _ in range(8):
        node.ask("a", 55 * MS)

    assert node.reasons == {}
    node.ask("a", 54 * MS)
    assert node.reasons == {8: Reason.OVERLOAD}


def test_no_step_up_for_one_budget_after_a_step_down():
    """The lane is idle again at once, and stays with the faster one for 30 ms."""
    node = ladder()
    node.ask("a", 10 * MS)
    node.wait_until(9 * MS)
    node.end(0)
    rungs = []
    for _ in range(4):
        (start,) = node.ask("a", 30 * MS)
        rungs.append(start.rung)
        node.wait_until(node.now_ns + 8 * MS)
        node.end(start.job.job_id)

    assert rungs == [1, 1, 1, 0]


def test_a_variant_that_is_not_there_is_not_chosen():
    """The first failed to load: the ladder begins at the second."""
    node = Shell(Policy("a"))
    node.ready("a", faster_ns=[10 * MS])

    assert node.ask("a", 100 * MS) == [Start(node.jobs[0], 0, on_deck=False, rung=1)]


def test_a_variant_kept_out_by_old_evidence_is_measured_anew():
    """It was slow once. An idle lane finds out whether it still is."""
    node = ladder()
    node.wait_until(2 * PROBE_AFTER_NS)
    node.ask("a", 10 * MS)

    assert node.end(0) == [Probe("a", 0, rung=0)]
    node.probe_ended("a", 3 * MS)


def test_accuracy_comes_back_after_a_slow_spell_in_simulation():
    """Three times as slow for five seconds; before and after the best variant answers."""
    rng = np.random.default_rng(3)
    node = Node(policies=[Policy("a")], rungs={"a": (1.0, 0.4)})
    asked = Questions(decision="a", arrivals_ns=poisson(rng, 100, 20 * SECOND), budget_ns=22 * MS)
    spell = [
        Slower(at_ns=5 * SECOND, decision="a", factor=3),
        Slower(at_ns=10 * SECOND, decision="a", factor=1),
    ]

    played = run(node, [asked], {"a": 4 * MS}, spell).asked

    second = played.arrival_ns // SECOND
    answered = played.answered
    best = [(played.rung[answered & (second == s)] == 0).mean() for s in range(20)]
    assert min(best[1:5]) > 0.9
    assert max(best[6:10]) < 0.8
    assert min(best[14:]) > 0.9
    assert played.in_time / played.offered > 0.9


def test_a_spoilt_bound_of_the_fastest_heals_in_simulation():
    """Its warm-up was disturbed; in need it runs all the same, and a second later is known."""
    rng = np.random.default_rng(5)
    arrivals_ns = poisson(rng, 1.2 / 2.2e-3, 10 * SECOND)
    asked = Questions(decision="a", arrivals_ns=arrivals_ns, budget_ns=11 * MS)
    good = Node(policies=[Policy("a")], rungs={"a": (1.0, 0.5)}, warm_up_ns={"a": [2_200_000] * 10})
    spoilt = replace(good, scheduler=Spoilt)

    undisturbed = run(good, [asked], {"a": 2_200_000}).asked
    disturbed = run(spoilt, [asked], {"a": 2_200_000}).asked

    later = arrivals_ns > SECOND
    assert disturbed.answered[later].mean() > undisturbed.answered[later].mean() - 0.01


class Spoilt(Scheduler):
    """All warm-up runs of the faster variant took 8 ms."""

    def worker_ready(self, now_ns, decision, lane, warm_up_ns):
        return super().worker_ready(now_ns, decision, lane, [warm_up_ns[0], [8 * MS] * 10])


def test_a_variant_that_is_hardly_known_is_measured_on_an_idle_lane():
    """Warm-up runs are few: probes make it known before it is needed."""
    node = Shell(Policy("a"), estimate=Estimate)
    node.ready("a", *[20 * MS] * 10, faster_ns=[10 * MS])
    node.now_ns = SECOND
    node.ask("a", 100 * MS)
    node.now_ns += 20 * MS

    assert node.end(0, started_ns=SECOND) == [Probe("a", 0, rung=1)]
