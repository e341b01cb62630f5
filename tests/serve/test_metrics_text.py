"""/metrics: what was counted is what a scraper reads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus import read

from tidsram.outcome import TABLE, Reason
from tidsram.protocol.oip import STAGES
from tidsram.serve.metrics import Metrics, Service, metrics_bytes

NAMES = ["obstacle", "tissue"]


def made(lanes: int = 2) -> Metrics:
    return Metrics(memoryview(bytearray(metrics_bytes(len(NAMES), lanes))), NAMES, lanes)


def render(metrics: Metrics, taken=None, service=()) -> bytes:
    return metrics.render(taken or {}, {name: ["large", "small"] for name in NAMES}, service)


def test_a_fresh_node_shows_every_series_at_zero():
    """Alerts on a rate need the zero: each decision, reason and lane is there from the start."""
    samples = read(render(made(), {"obstacle": 0, "tissue": 0}))

    requests = samples["tidsram_requests_total"]
    assert {dict(labels)["reason"] for labels in requests} == set(Reason)
    assert len(requests) == len(NAMES) * len(Reason)
    assert set(samples["tidsram_lane_busy_seconds_total"]) == {(("lane", "0"),), (("lane", "1"),)}
    assert {value for name in samples for value in samples[name].values()} == {0}


@pytest.mark.parametrize("reason", Reason)
def test_a_count_appears_under_its_outcome_and_reason_only(reason):
    """One row a reason: nothing counts towards its neighbour, or another decision."""
    metrics = made()
    metrics.row("tissue").count(reason)
    metrics.row("tissue").count(reason, 2)

    requests = read(render(metrics))["tidsram_requests_total"]

    wanted = (("decision", "tissue"), ("outcome", TABLE[reason].outcome), ("reason", reason))
    assert {labels: n for labels, n in requests.items() if n} == {wanted: 3}


@given(st.lists(st.integers(0, 2**36), min_size=1, max_size=30))
def test_stage_histograms_hold_each_observation(times_ns):
    """The sum is exact, the count too; a bucket is at most 7 % off, to the longer side."""
    metrics = made()
    for ns in times_ns:
        metrics.row("obstacle").observe([ns] * (len(STAGES) + 1))

    samples = read(render(metrics))

    for stage in (*STAGES, "spent"):
        labels = (("decision", "obstacle"), ("stage", stage))
        assert samples["tidsram_stage_seconds_count"][labels] == len(times_ns)
        total = samples["tidsram_stage_seconds_sum"][labels]
        assert total == pytest.approx(sum(times_ns) / 1e9, abs=1e-9)
        for key, count in samples["tidsram_stage_seconds_bucket"].items():
            edge_ns = float(dict(key)["le"]) * 1e9
            if key[:-1] == labels:
                assert count <= sum(ns <= edge_ns for ns in times_ns)
                assert count >= sum(max(ns, 1024) * 1.07 <= edge_ns for ns in times_ns)


def test_gauges_oddities_and_busy_time_are_what_was_told():
    """The rest of the page."""
    metrics = made()
    metrics.row("tissue").count_odd()
    metrics.add_busy(1, 1_000_000_000, critical=False)
    metrics.add_busy(1, 500_000_000, critical=True)

    samples = read(render(metrics, {"obstacle": 3, "tissue": 0}))

    assert samples["tidsram_slots_taken"][("decision", "obstacle"),] == 3
    assert samples["tidsram_oddities_total"][("decision", "tissue"),] == 1
    assert samples["tidsram_oddities_total"][("decision", "obstacle"),] == 0
    assert samples["tidsram_lane_busy_seconds_total"][("lane", "1"),] == 1.5
    assert (metrics.busy_ns(1), metrics.critical_ns(1)) == (1_500_000_000, 500_000_000)
    assert metrics.busy_ns(0) == metrics.critical_ns(0) == 0


def test_promises_variants_and_service_times_are_what_was_told():
    """Calibration, accuracy delivered, and what the scheduler goes by."""
    metrics = made()
    for kept in (True, True, False):
        metrics.row("tissue").count_promise(kept=kept)
    metrics.row("tissue").count_rung(1)
    labels = 'decision="tissue",lane="0",variant="small"'

    samples = read(render(metrics, service=[Service(labels, 0.002, 3)]))

    predictions = samples["tidsram_predictions_total"]
    assert predictions[("decision", "tissue"), ("kept", "yes")] == 2
    assert predictions[("decision", "tissue"), ("kept", "no")] == 1
    answers = {key: n for key, n in samples["tidsram_answers_total"].items() if n}
    assert answers == {(("decision", "tissue"), ("variant", "small")): 1}
    key = (("decision", "tissue"), ("lane", "0"), ("variant", "small"))
    assert samples["tidsram_service_upper_seconds"][key] == 0.002
    assert samples["tidsram_service_steps_total"][key] == 3


def test_two_views_of_the_memory_see_the_same_numbers():
    """The supervisor adds what a dead gate could not, in the same memory."""
    memory = memoryview(bytearray(metrics_bytes(len(NAMES), 1)))
    gates, supervisors = Metrics(memory, NAMES, 1), Metrics(memory, NAMES, 1)
    gates.row("obstacle").count(Reason.NONE)
    supervisors.row("obstacle").count(Reason.GATE_LOST, 4)

    assert gates.row("obstacle").count_of(Reason.GATE_LOST) == 4
    assert supervisors.row("obstacle").count_of(Reason.NONE) == 1
