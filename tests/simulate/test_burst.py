"""The burst that a declaration stands for."""

import numpy as np
import pytest

from tidsram.estate.load import parse_estate
from tidsram.schedule.bucket import HEADROOM, Bucket
from tidsram.simulate.arrivals import gamma, poisson
from tidsram.simulate.burst import smallest_burst, with_bursts
from tidsram.units import SECOND


def demoted(instants_ns, rate: float, burst: int) -> float:
    bucket = Bucket(rate, burst)
    return np.mean([not bucket.take(now_ns) for now_ns in instants_ns.tolist()])


@pytest.mark.parametrize("objective", [0.9, 0.99])
def test_poisson_needs_just_so_much(objective):
    """With the real bucket on new arrivals: this burst is enough, two fewer are not."""
    burst = smallest_burst(np.random.default_rng(1), "poisson", 1.0, objective)
    instants = poisson(np.random.default_rng(2), 100, 3000 * SECOND)

    assert demoted(instants, 100, burst) <= (1 - objective) / 10 * 1.25
    assert demoted(instants, 100, burst - 2) > (1 - objective) / 10


def test_poisson_agrees_with_the_exact_law():
    """Accepted when the debt is at most b − 1: M/D/1 with impatience, at load 1 ÷ 1.25.

    Its loss is (1 − ρ) P / (1 − ρ P) with P the stationary P(W > b − 1) (de Kok & Tijms 1985),
    P by its dominant exponential: θ with e^θ = 1 + θ ÷ ρ, factor (1 − ρ) ÷ (ρ e^θ − 1).
    """
    rho, low, high = 1 / HEADROOM, 1e-6, 2.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if np.exp(middle) < 1 + middle / rho else (low, middle)
    factor = (1 - rho) / (rho * np.exp(low) - 1)
    loss = []
    for burst in range(2, 60):
        waits = factor * np.exp(-low * (burst - 1))
        loss.append((1 - rho) * waits / (1 - rho * waits))
    exact = 2 + next(place for place, share in enumerate(loss) if share <= 0.001)

    assert abs(smallest_burst(np.random.default_rng(1), "poisson", 1.0, 0.99) - exact) <= 1


def test_burstier_arrivals_need_more():
    """Gamma with cv 2 needs more than poisson, and what it needs is enough."""
    burst = smallest_burst(np.random.default_rng(1), "gamma", 2.0, 0.99)
    instants = gamma(np.random.default_rng(2), 100, 2.0, 3000 * SECOND)

    assert burst > smallest_burst(np.random.default_rng(1), "poisson", 1.0, 0.99)
    assert demoted(instants, 100, burst) <= 0.001 * 1.5


def test_periodic_needs_two():
    """Jitter lets two come close together, never three."""
    assert smallest_burst(np.random.default_rng(1), "periodic", 1.0, 0.999) == 2


def test_only_what_is_critical_and_left_open_is_derived():
    """A declared burst stands, and standard decisions have no bucket."""
    estate = parse_estate(ESTATE, "test")

    derived = with_bursts(estate, np.random.default_rng(1)).decisions

    bursts = {name: decision.arrivals.burst for name, decision in derived.items()}
    assert bursts["open"] > 2
    assert bursts == {"open": bursts["open"], "frames": 2, "said": 7, "standard": 0}


ESTATE = """
[estate]
name = "e"

[decision.open]
bundle = "m.onnx"
budget = "20 ms"
criticality = "critical"
arrivals = { kind = "poisson", rate = "5/s" }

[decision.frames]
bundle = "m.onnx"
budget = "20 ms"
criticality = "critical"
arrivals = { kind = "periodic", rate = "5/s" }

[decision.said]
bundle = "m.onnx"
budget = "20 ms"
criticality = "critical"
arrivals = { kind = "poisson", rate = "5/s", burst = 7 }

[decision.standard]
bundle = "m.onnx"
budget = "20 ms"
arrivals = { kind = "poisson", rate = "5/s" }
"""
