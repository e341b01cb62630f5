"""Capacity by tail: bandwidths that bound a wait, and are never below what runs take on average."""

from math import e, exp, inf, log

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from small_estates import make_delay

from tidsram.estate.types import Arrivals
from tidsram.plan.capacity import bandwidth, busy, run_times_s, tail_rate
from tidsram.plan.problem import Flow, Spread
from tidsram.units import MS

RATES = st.floats(0.1, 200)
RUNS_S = st.floats(1e-4, 0.05)
ETAS = st.floats(1, 400)
SPANS_S = st.floats(0.01, 20)
SPREADS_S = st.lists(RUNS_S, min_size=1, max_size=20).map(np.array)


def flow_of(rate: float, askers: int = 1) -> Flow:
    return Flow(decision="obstacle", source="stockholm", askers=askers, rate=rate)


def arrive(kind: str, **declared) -> Arrivals:
    return Arrivals(kind=kind, rate=1.0, **declared)  # the flow says how often


def taken(kind: str, flow: Flow, run_s, eta: float, span_s: float = 1.0, **declared) -> float:
    return bandwidth(arrive(kind, **declared), flow, np.atleast_1d(run_s), eta, span_s)


def allowed(wait_runs: float, epsilon: float, run_ms: int = 4) -> float:
    """Return how busy Poisson questions of constant runs may keep a node."""
    flow, run_s = flow_of(10), np.array([run_ms / 1000])
    eta = tail_rate(round(wait_runs * run_ms * MS), epsilon)
    return busy(flow, run_s) / bandwidth(arrive("poisson"), flow, run_s, eta, 1.0)


# Renewal arrivals -----------------------------------------------------------------------------


@given(RATES, RUNS_S, ETAS)
def test_poisson_bandwidth_of_constant_runs_is_the_closed_form(rate, run_s, eta):
    """λ(e^{ηS} − 1)/η."""
    expected = rate * (exp(eta * run_s) - 1) / eta

    assert taken("poisson", flow_of(rate), run_s, eta) == pytest.approx(expected, rel=1e-9)


@given(RATES, SPREADS_S, ETAS)
def test_gamma_gaps_that_vary_as_much_as_poisson_ones_are_poisson(rate, run_s, eta):
    assert taken("gamma", flow_of(rate), run_s, eta, cv=1.0) == pytest.approx(
        taken("poisson", flow_of(rate), run_s, eta)
    )


@given(RATES, SPREADS_S, ETAS, st.floats(0.2, 2))
def test_gamma_bandwidth_solves_the_renewal_equation(rate, run_s, eta, cv):
    """E e^(−θA) · E e^(ηS) = 1, with the bandwidth θ/η and gaps of mean 1/λ."""
    found = taken("gamma", flow_of(rate), run_s, eta, cv=cv)
    assume(found < inf)
    theta = eta * found
    shape = 1 / cv**2

    log_gaps = -shape * np.log1p(theta / (rate * shape))

    assert log_gaps + log(np.exp(eta * run_s).mean()) == pytest.approx(0, abs=1e-6)


@given(RATES, SPREADS_S, ETAS, ETAS, st.sampled_from(["poisson", "gamma", "periodic"]))
def test_a_stricter_tail_takes_no_less(rate, run_s, one, other, kind):
    mild, strict = sorted((one, other))
    flow, cv = flow_of(rate), 1.5 if kind == "gamma" else 1.0

    at_mild, at_strict = (taken(kind, flow, run_s, eta, cv=cv) for eta in (mild, strict))

    assert at_mild <= at_strict * (1 + 1e-9)


@given(RATES, SPREADS_S, ETAS, st.floats(0.1, 3), st.floats(0.1, 3))
def test_burstier_questions_take_no_less(rate, run_s, eta, one, other):
    calm, bursty = sorted((one, other))

    of_calm, of_bursty = (taken("gamma", flow_of(rate), run_s, eta, cv=cv) for cv in (calm, bursty))

    assert of_calm <= of_bursty * (1 + 1e-9)


def test_how_it_grows_is_seen_in_numbers():
    """What only may not fall could stand still: here each step takes clearly more."""
    flow, run_s = flow_of(20), 0.01

    by_eta = [taken("poisson", flow, run_s, eta) for eta in (10, 100, 300)]
    by_cv = [taken("gamma", flow, run_s, 100, cv=cv) for cv in (0.5, 1, 2)]

    assert by_eta == pytest.approx([0.2103, 0.3437, 1.2724], rel=1e-3)
    assert by_cv == pytest.approx([0.2272, 0.3437, 2.6799], rel=1e-3)


@pytest.mark.parametrize(
    ("wait_runs", "epsilon", "safe"),
    [
        (1, 1e-2, 0.047),
        (2, 1e-3, 0.113),
        (5, 1e-2, 0.609),
        (5, 1e-4, 0.347),
        (10, 1e-3, 0.694),
        (20, 1e-6, 0.694),
    ],
)
def test_constant_runs_may_be_as_busy_as_the_reference_table_says(wait_runs, epsilon, safe):
    """M/D/1: the safe cut by the allowed wait in runs and the share that may wait longer."""
    assert allowed(wait_runs, epsilon) == pytest.approx(safe, abs=0.005)


# Periodic arrivals ----------------------------------------------------------------------------


@given(RATES, SPREADS_S, ETAS, SPANS_S, st.integers(1, 50))
def test_periodic_questions_take_no_more_than_poisson_ones(rate, run_s, eta, span_s, askers):
    flow = flow_of(rate, askers)

    periodic = taken("periodic", flow, run_s, eta, span_s)

    assert periodic <= taken("poisson", flow, run_s, eta) * (1 + 1e-9)


@given(RATES, RUNS_S, ETAS, st.integers(1, 5))
def test_over_a_long_span_periodic_questions_take_their_mean(rate, run_s, eta, askers):
    flow = flow_of(rate, askers)
    of_poisson = taken("poisson", flow, run_s, eta)

    after = {runs: taken("periodic", flow, run_s, eta, runs * askers / rate) for runs in (0.5, 1e6)}

    assert after[1e6] == pytest.approx(rate * run_s, rel=1e-3)
    assert rate * run_s < after[0.5] < of_poisson


@given(RATES, SPREADS_S, ETAS, SPANS_S, st.integers(2, 20))
def test_askers_at_one_instant_take_no_less_than_those_at_their_own(
    rate, run_s, eta, span_s, askers
):
    flow = flow_of(rate, askers)

    apart, together = (
        taken("periodic", flow, run_s, eta, span_s, synchronised=at_once)
        for at_once in (False, True)
    )

    assert apart <= together * (1 + 1e-9)


def test_one_asker_is_synchronised_with_itself():
    """A batch of one is no batch; a batch of eight takes clearly more."""

    def of(askers: int, *, at_once: bool) -> float:
        return taken("periodic", flow_of(30, askers), 0.002, 200, 0.05, synchronised=at_once)

    assert of(1, at_once=True) == of(1, at_once=False)
    assert of(8, at_once=True) > 2 * of(8, at_once=False)


# All kinds ------------------------------------------------------------------------------------


@given(RATES, SPREADS_S, ETAS, SPANS_S, st.integers(1, 20), st.data())
def test_nothing_takes_less_than_its_mean(rate, run_s, eta, span_s, askers, data):
    kind = data.draw(st.sampled_from(["poisson", "gamma", "periodic"]))
    declared = {"cv": data.draw(st.floats(0.1, 3))} if kind == "gamma" else {}
    if kind == "periodic":
        declared = {"synchronised": data.draw(st.booleans())}
    flow = flow_of(rate, askers)

    found = taken(kind, flow, run_s, eta, span_s, **declared)

    assert busy(flow, run_s) == pytest.approx(rate * run_s.mean())
    assert found >= busy(flow, run_s) * (1 - 1e-9)


@given(RATES, SPREADS_S, st.floats(1.001, 10), st.sampled_from(["poisson", "gamma", "periodic"]))
def test_a_flow_does_not_fit_where_one_run_breaks_it(rate, run_s, beyond, kind):
    """Though that run be one of many."""
    eta = 50 * beyond / run_s.max()

    assert taken(kind, flow_of(rate), run_s, eta) == inf


@given(RUNS_S, st.integers(2, 40))
def test_a_batch_does_not_fit_where_its_runs_in_a_row_break_it(run_s, askers):
    """Each run alone would."""
    eta = 55 / (run_s * askers)
    flow = flow_of(1, askers)
    assume(eta * run_s <= 50)

    assert taken("periodic", flow, run_s, eta, synchronised=True) == inf
    assert taken("periodic", flow, run_s, eta) < inf


def test_bursts_that_no_number_holds_do_not_fit():
    """Gaps that vary so much that the power would overflow are refused, not an error."""
    assert taken("gamma", flow_of(10), 0.01, 400, cv=20) == inf


# What a run takes and what a wait asks for ----------------------------------------------------


@given(st.integers(1, 10**10), st.floats(1e-6, 0.5))
def test_the_tail_falls_to_epsilon_within_the_wait(wait_ns, epsilon):
    assert exp(-tail_rate(wait_ns, epsilon) * wait_ns / 1e9) == pytest.approx(epsilon)


def test_no_wait_at_all_asks_for_a_tail_that_nothing_keeps():
    """Rather than for a division by nothing."""
    eta = tail_rate(0, 1 / e)

    assert eta == pytest.approx(1e9)
    assert taken("poisson", flow_of(1), 0.001, eta) == inf


@given(st.integers(1, 8), st.floats(0.1, 20), st.floats(1, 4))
def test_declared_runs_keep_their_median_and_more_lanes_are_faster(lanes, p50_ms, ratio):
    service = Spread(delay=make_delay(p50_ms, p50_ms * ratio), basis="declared", source="")

    run_s = run_times_s(service, lanes)

    assert np.median(run_s) == pytest.approx(p50_ms / 1000 / lanes, rel=0.02)
    assert run_s.max() <= p50_ms * ratio / 1000 / lanes * (1 + 1e-6)
    assert list(run_s) == sorted(run_s)


def test_measured_runs_keep_their_mean_and_their_slow_ones():
    """One in ten takes five times as long: that is what their bandwidth is made of."""
    samples_ns = (*[2 * MS] * 90, *[10 * MS] * 10)
    service = Spread(
        delay=make_delay(2, 10), basis="measured", source="", samples_ns=samples_ns * 10
    )

    run_s = run_times_s(service, 1)

    assert run_s.mean() == pytest.approx(0.0028, rel=0.05)
    assert (run_s.min(), run_s.max()) == (0.002, 0.01)
