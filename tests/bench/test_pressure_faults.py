"""The fault runs' own judgement: who was answered when, and what a comparison may say."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from bench.loadgen import Run
from bench.models import make
from bench.pressure.faults import (
    LOAD,
    Striking,
    after_deadline_ns,
    answered_again_ms,
    differs,
    judge,
)
from bench.pressure.nodes import (
    Declared,
    Footprint,
    PressureNode,
    asking,
    by_status,
    family,
    until_answered,
)
from bench.pressure.report_faults import pressure_faults

from tidsram.units import MS


def asked(sent_ms, took_ms, status):
    """Return a run whose questions were sent when they were intended."""
    sent = np.array(sent_ms, np.int64) * MS
    status = np.array(status, np.int64)
    done = np.where(status == 0, 0, sent + (np.array(took_ms) * MS).astype(np.int64))
    return Run(sent, sent, done, status, {"steal": 0.0})


def striking(victim, other, faults_ns=()):
    runs = {"victim": victim, "other": other, "critical": other}
    recorded = {("victim", ""): 2, ("victim", "worker-lost"): 1, ("other", ""): 3}
    return Striking(runs, faults_ns, recorded)


def test_a_decision_answers_again_with_what_was_sent_after_the_fault():
    """Sent before, answered after: an older promise. The earliest later answer counts."""
    run = asked([0, 10, 20, 30, 40], [15, 1, 1, 25, 2], [200, 500, 503, 200, 200])

    assert answered_again_ms(run, [5 * MS]) == [37.0]
    assert answered_again_ms(run, [5 * MS, 50 * MS]) == [37.0]


def test_who_has_no_outcome_is_late_until_the_end():
    """Everyone else counts from the send to the reply."""
    run = asked([0, 10, 90], [5, 0, 10], [200, 0, 504])

    assert (after_deadline_ns(run, 20 * MS) / MS).tolist() == [-15, 70, -10]


@pytest.mark.parametrize(
    ("meanwhile", "quiet", "share", "contradicted"),
    [
        (7, 0, 0.5, True),  # 1 in 128
        (6, 0, 0.5, False),  # 1 in 64
        (0, 0, 0.5, False),
        (0, 20, 0.5, False),  # fewer than without faults
        (60, 50, 0.5, False),
        (90, 50, 0.5, True),
        (7, 0, 0.9, False),  # most was asked meanwhile
    ],
)
def test_a_share_is_contradicted_by_what_chance_hardly_brings(
    meanwhile, quiet, share, contradicted
):
    """The exact conditional test at 99 %, by hand for the small ones."""
    assert differs(meanwhile, quiet, share) is contradicted


def test_what_became_of_everyone_is_told():
    """Three questions to the victim, one lost; the other decision late once in ten."""
    victim = asked([0, 10, 20], [5, 1, 80], [200, 500, 200])
    quiet, noisy = (
        asked(range(10), [3] * 10, [200] * 10),
        asked(range(10), [3] * 9 + [30], [200] * 10),
    )

    row = judge(striking(victim, noisy, [8 * MS]), striking(victim, quiet))

    told = row["victim"]
    assert told["asked"] == 3
    assert told["by_status"] == {"200": 2, "500": 1}
    assert told["recorded"] == {"answered": 2, "worker-lost": 1}
    assert told["late_answers"] == 1
    assert told["latest_after_deadline_us"] == 30_000
    assert row["answered_again_ms"] == {"median": 92, "low": 92, "high": 92}
    other = row["others"]["other"]
    assert (other["in_time"], other["in_time_quiet"], other["contradicted"]) == (9, 10, False)


def test_growth_is_by_kind():
    before = Footprint(5, 30, 27, 1000, 2000, 0, 0)
    after = Footprint(5, 31, 27, 1010, 1990, 0, 0)

    grown = {name: more for name, more in after.growth(before).items() if more}

    assert grown == {"supervisor_files": 1, "supervisor_kb": 10, "gate_kb": -10}


def test_a_real_node_counts_what_was_asked_and_is_gone_with_all_its_processes():
    """Ask two decisions at once, kill a worker, ask until one answers, stop the node."""
    tiny = make("tiny")
    decisions = {"a": Declared(tiny, "1 s"), "b": Declared(tiny, "1 s", "critical", rate=100)}
    with PressureNode(decisions) as node:
        processes = family(node.supervisor)
        offsets = np.arange(20) * 5 * MS
        loads = {name: (node.question(name), offsets) for name in decisions}
        before = node.outcomes()
        with asking(loads, node.address) as jobs:
            runs = {name: job.result() for name, job in jobs.items()}
        counted = node.outcomes() - before
        pid = node.wait_worker("a")
        os.kill(pid, signal.SIGKILL)
        again = until_answered(node.address, node.question("a"), 20)
        other = node.wait_worker("a", besides=[pid])

    assert {name: by_status(run) for name, run in runs.items()} == {
        name: {"200": 20} for name in decisions
    }
    assert counted == {("a", ""): 20, ("b", ""): 20}
    assert again
    assert other != pid
    assert len(processes) >= 4
    assert node.supervisor in processes
    assert not any(Path(f"/proc/{pid}").exists() for pid in processes)
    assert not node.state.exists()


def test_the_section_shows_every_part():
    """Figures of a made-up run; each table is there, with what a reader looks for."""
    victim = asked([0, 10], [5, 1], [200, 500])
    row = judge(striking(victim, victim, [0]), striking(victim, victim))
    three = {
        f"{n}_{p}_us": 412.0 for n in ("after_deadline", "notice") for p in ("p50", "p99", "max")
    }
    once = {"median": 1.0, "low": 0.9, "high": 1.1}
    latency = {"latency_p50_us": 200.0, "latency_p99_us": None}
    gate = {
        "times": 1,
        "answered_again_ms": None,
        "never_answered_again": 1,
        "workers_unchanged": 1,
    }
    result = {
        "workers": {"killed": row, "hung": row},
        "gate": {"stopped": gate},
        "left_over": {
            "requests": 10_000,
            "kills": 50,
            "before": {"gate_files": 27},
            "growth": {"gate_files": 2},
            "after_the_end": 0,
        },
        "idle": {
            "connections": 1000,
            "still_open": 999,
            "pairs": 7,
            "requests": 3000,
            "alone": latency,
            "beside": latency,
            "ratio_p50": once,
            "ratio_p99": once,
        },
        "missed": three,
        "notice": {"load": 2.0, "at_leisure": three, "overloaded": three},
        "steal": 0.0,
        "date": "today",
        "machine": {"cpu": "one"},
        "others_busy": 0.0,
        "command": "python -m bench.pressure.faults",
    }

    section = pressure_faults(json.loads(json.dumps(result)))

    for told in (
        "| killed, 1 times | 5 (5–5) | 0 | 2 | 1 × 200, 1 × 500 | 3 |",
        "| hung | critical | 1 of 2 | 1 | not contradicted |",
        "| stopped, 1 times | – | 1 | 1 of 1 |",
        "| gate files | 27 | +2 |",
        "999 still open",
        "| refused: from the send, load 2.0 | 412 | 412 | 412 |",
    ):
        assert told in section
    assert set(LOAD) == {"victim", "other", "critical"}
