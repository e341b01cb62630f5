"""What the comparison beside other work says, and the long model it is made with."""

import json

import numpy as np
import pytest
from bench.loadgen import Run
from bench.models import make, session
from bench.pressure import contention
from bench.pressure.contention import compare, latency
from bench.pressure.report_faults import pressure_contention

from tidsram.units import MS


def block(took_ms, busy=1.0):
    intended = np.arange(len(took_ms)) * 10 * MS
    took = (np.array(took_ms) * MS).astype(np.int64)
    shares = {"steal": 0.0, "busy": busy, "asker_cpu": 0.1}
    return Run(intended, intended, intended + took, np.full(len(took_ms), 200), shares)


def test_each_block_is_compared_with_that_of_its_pair():
    """Twice as long in both pairs, though the second pair was slower in all."""
    alone = [block([2.0] * 10), block([4.0] * 10)]

    told = compare([block([4.0] * 10), block([8.0] * 10, busy=0.9)], alone)

    assert told["ratio_p99_9"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert told["added_p99_9_us"] == {"median": 3000, "low": 2000, "high": 4000}
    assert told["busy"]["low"] == 0.9
    assert told["latency_p99_9_us"] is None  # twenty samples claim nothing


def test_a_refusal_or_no_outcome_is_no_short_latency():
    """Who got no answer waits until the end of the run, however soon he was told."""
    run = block([2.0, 2.0, 2.0])
    run.status[0] = run.done[0] = 0
    run.status[1] = 503

    assert (latency(run) / MS).tolist() == [22, 12, 2]


def test_the_long_model_is_the_steady_one_again_and_again(monkeypatch):
    """One copy answers as it does; of three the later ones have something to work on."""
    monkeypatch.setattr(contention, "LONG_COPIES", 1)
    once = contention.long_model()
    steady = make("steady")
    feed = {"x": steady.question}
    expected = session(steady.path).run(None, feed)[0]
    assert np.array_equal(session(once.path).run(None, feed)[0], expected)

    monkeypatch.setattr(contention, "LONG_COPIES", 3)
    thrice = session(contention.long_model().path).run(None, feed)[0]

    assert thrice.shape == expected.shape
    assert np.abs(thrice).max() < np.abs(expected).max() / 2  # each copy damps what goes through


@pytest.mark.parametrize("mode", ["fifo", "nice", "auto"])
def test_the_section_shows_every_part(mode):
    """Figures of a made-up run."""
    row = {
        "by_status": {"200": 5},
        **{f"latency_{p}_us": 2500.0 for p in ("p50", "p99", "p99_9", "max")},
        "answers": 2000,
        "frozen": 8,
        "steal": 0.0,
    }
    background = compare([block([2.0] * 5)], [block([2.0] * 5)])
    result = {
        "period_ms": 7,
        "background": dict.fromkeys(("alone", "command", "decision"), background),
        "scheduling": {mode: {"saturated": row, "beside_long": row}},
        "loading": {"loads": 6, "calm": row, "loading": row},
        "date": "today",
        "machine": {"cpu": "one"},
        "others_busy": 0.0,
        "command": "python -m bench.pressure.contention",
    }

    section = pressure_contention(json.loads(json.dumps(result)))

    assert "a question every 7 ms" in section
    assert "| a command | – | – | – | 1.00 (1.00–1.00) | 0 (0–0) | 1.00 (1.00–1.00) |" in section
    assert f"| {mode} | 2500 | 2500 | 8 of 2000 | 2500 | 2500 | 2500 |" in section
    assert "| 6 loads | 2500 | 2500 | 2500 | 2500 | 5 × 200 |" in section
