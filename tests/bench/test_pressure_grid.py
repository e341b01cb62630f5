"""The grid's questions, figures, ablations and tables."""

import json

import numpy as np
import pytest
from bench.pressure import grid, ours
from bench.pressure.metrics import limit, longest_run, measure
from bench.pressure.report import pressure_grid
from bench.pressure.server import Outcome
from bench.pressure.workloads import ARRIVALS, FLOOD, MIXED, STRESS, Asked, Kind, draw
from numpy.random import default_rng

from bench import report
from tidsram.estate.types import Criticality
from tidsram.outcome import Reason
from tidsram.schedule.bucket import Bucket
from tidsram.simulate.arrivals import gamma, periodic, poisson
from tidsram.simulate.result import REASONS, Played
from tidsram.units import MS, SECOND, US


@pytest.mark.parametrize("arrivals", ARRIVALS)
def test_as_many_come_as_the_load_says(arrivals):
    """Within 2 % for each kind, however bursty, so that cells can be compared."""
    asked = draw(MIXED, arrivals, 1.2, 5, seed=1)

    for kind in asked:
        work_ns = kind.service_ns.sum()
        assert len(kind.arrivals_ns) == pytest.approx(0.5 * 5 * SECOND / (2.2 * MS), rel=0.021)
        assert work_ns == pytest.approx(2.5 * SECOND, rel=0.03)


def test_a_kind_asks_the_same_when_it_asks_alone():
    """Take the standard questions away: the critical ones are those they were."""
    beside, alone = draw(MIXED, "poisson", 2, 1, seed=1)[0], draw(MIXED[:1], "poisson", 2, 1, 1)[0]

    assert beside.arrivals_ns.tolist() == alone.arrivals_ns.tolist()
    assert beside.service_ns.tolist() == alone.service_ns.tolist()


def test_impossible_draw_is_refused_with_a_way_out():
    """Too little time for a single question."""
    with pytest.raises(SystemExit, match="simulate more seconds"):
        draw(MIXED, "poisson", 1, 1e-5, seed=1)


@pytest.mark.parametrize("process", [periodic, poisson, lambda *a: gamma(a[0], a[1], 2, a[2])])
def test_burst_is_the_smallest_that_demotes_hardly_any(process):
    """A thousandth at most with the burst; clearly more with three quarters of it."""
    arrivals_ns = process(default_rng(2), 100, 300 * SECOND)
    tokens = ours.burst(arrivals_ns, 100, 0.99)

    def demoted(burst):
        bucket = Bucket(100, burst)
        return sum(not bucket.take(now_ns) for now_ns in arrivals_ns.tolist()) / len(arrivals_ns)

    assert demoted(tokens) <= 0.001
    assert tokens == 2 or demoted(3 * tokens // 4) > 0.001


def test_burst_of_hardly_any_questions_is_the_smallest():
    """Nothing to count: what a periodic source needs."""
    assert ours.burst(np.array([5]), 100, 0.99) == 2


@pytest.mark.parametrize(
    ("bad", "length"), [([], 0), ([0, 0], 0), ([1, 1, 1], 3), ([1, 0, 1, 1, 0], 2)]
)
def test_longest_run(bad, length):
    """Of consecutive questions without an answer in time."""
    assert longest_run(np.array(bad, np.bool_)) == length


def test_figures_of_a_known_outcome():
    """Five critical questions, one of each fate; an oracle that would have answered them all."""
    codes = [Reason.NONE, Reason.NONE, Reason.OVERLOAD, Reason.EVICTED, Reason.DEADLINE]
    arrival_ns = np.arange(5) * 10 * MS
    played = Played(
        arrival_ns=arrival_ns,
        deadline_ns=arrival_ns + 11 * MS,
        reason=np.array([REASONS.index(code) for code in codes]),
        told_ns=arrival_ns + np.array([2, 12, 0, 4, 11]) * MS,
        promised_ns=(arrival_ns + 3 * MS) * np.array([1, 1, 0, 1, 1]),
        started_ns=arrival_ns,
        ended_ns=arrival_ns + 2 * MS * np.array([1, 6, 0, 0, 0]),
        rung=np.array([1, 0, -1, -1, -1]),
    )
    best = Outcome(
        Played(*(getattr(played, name)[[0] * 5] for name in Played.__struct_fields__)),
        np.zeros(5, np.int64),
        0,
        0,
    )
    kind = Kind("critical", Criticality.CRITICAL, 11 * MS, 1.0)
    asked = [Asked(kind, 100.0, arrival_ns, np.full(5, 2 * MS))]

    cell = measure(asked, Outcome(played, np.zeros(5, np.int64), 10 * MS, 4 * MS), 1e-3, best)

    figures = cell["kinds"].pop("critical")
    assert figures == {
        "offered": 5,
        "admitted": 0.8,
        "goodput": 0.2,
        "missed_of_admitted": 0.5,
        "evicted_of_admitted": 0.25,
        "late_of_answered": 0.5,
        "false_rejections": 0.8,
        "notice_p50_us": 7000.0,
        "notice_p99_us": pytest.approx(140.0),
        "finished_as_promised": 0.5,
        "longest_without": 4,
        "accuracy": 0.9,
    }
    assert (cell["wasted"], cell["limit"], cell["cpu_us_per_request"]) == (0.4, 1.0, 200.0)
    assert cell["goodput"] == cell["of_limit"] == 0.2


def test_limit_counts_the_fastest_variants():
    """Work of twice the time fits by variants of half the time, not by one alone."""
    instants = np.arange(1000) * MS
    for rungs, share in (((1.0, 0.5), 1.0), ((1.0,), 0.5)):
        kind = Kind("only", Criticality.STANDARD, 1 * US, 1.0, rungs)
        asked = [Asked(kind, 1000.0, instants, np.full(1000, 2 * MS))]

        assert limit(asked) == pytest.approx(share, rel=0.002)


@pytest.mark.parametrize("mechanism", STRESS)
def test_each_ablation_takes_its_mechanism_out(mechanism):
    """On the questions that need it, the watched figure is clearly worse without."""
    row = grid._stress(mechanism, STRESS[mechanism], 4, seed=1)

    shown = [row[way]["kinds"][row["watched"]][row["figure"]] for way in ("with", "without")]
    gain = shown[0] - shown[1] if row["figure"] == "goodput" else shown[1] - shown[0]
    assert gain > 0.01


def test_every_mechanism_has_its_ablation_and_its_stress():
    """Neither table has a row that the other lacks."""
    assert list(ours.ABLATIONS) == list(STRESS)


def test_one_that_breaks_its_contract_has_a_periodic_ones_burst():
    """Its own process must not make the bucket as large as its flood."""
    keeps, floods = (ours._policy(a) for a in draw(FLOOD, "poisson", 1.6, 1, seed=1))

    assert floods.burst == 2
    assert keeps.burst > 2
    assert floods.rate == pytest.approx(keeps.rate)


def test_report_has_every_policy_and_every_mechanism(tmp_path, monkeypatch):
    """Simulate two loads for a moment and make the page's section and plot of it."""
    monkeypatch.setattr(grid, "LOADS", (1.2, 2.0))
    monkeypatch.setattr(grid, "FEW_LOADS", (1.2,))
    monkeypatch.setattr(grid, "OUT", tmp_path)
    monkeypatch.setattr(report, "PLOTS", tmp_path)

    grid.main(["--seconds", "1"])

    result = json.loads((tmp_path / "pressure_grid.json").read_text())
    section = pressure_grid(result)
    names = {cell["policy"] for cell in result["cells"]}
    assert {"ours", "oracle", "FIFO", "SlackFit"} < names
    for name in (*names, *ours.ABLATIONS, *ARRIVALS):
        assert f"| {name} |" in section
    assert "| policy | 1.2 | 2.0 |" in section
    assert "pressure.grid --seconds 1" in section
    assert "<svg" in (tmp_path / "pressure-grid.svg").read_text()
