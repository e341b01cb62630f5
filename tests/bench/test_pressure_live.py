"""The live comparison's reading of replies, its simulation beside, its servers and its tables."""

import json

import numpy as np
import pytest
from bench.loadgen import Run
from bench.models import make, session
from bench.pressure import live, live_figures, live_replies, live_servers, live_triton
from bench.pressure.live_simulated import simulate, stretched
from bench.pressure.report import pressure_live
from bench.pressure.workloads import SERVICE_NS, Asked, Kind

from tidsram.estate.load import load_estate
from tidsram.estate.types import Criticality
from tidsram.outcome import TABLE, Reason
from tidsram.units import MS, SECOND

VARIANTS = ("steady", "steady-half")
TIGHT = Kind("tight", Criticality.CRITICAL, 10 * MS, 0.5)
LOOSE = Kind("loose", Criticality.STANDARD, 60 * MS, 0.5)


def answered(variant, queue_us=100, run_us=2000):
    """An answer as the node sends it, with raw tensors behind the JSON."""
    stages = {"receive": 0, "decode": 50, "admit": 50, "queue": queue_us, "run": run_us}
    told = {"outputs": [], "parameters": {"variant": variant, "stages_us": stages}}
    return b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(told).encode() + b"\x82}\x18\xff{"


def refused(reason):
    told = {"error": "a sentence", "outcome": str(TABLE[reason].outcome), "reason": str(reason)}
    return b"HTTP/1.1 %d X\r\n\r\n" % TABLE[reason].http + json.dumps(told).encode()


def run_of(replies, done_ms, every_ms=20):
    """A run with a question every so often; its reply comes `done_ms` later, 0: never."""
    intended = np.arange(len(replies)) * every_ms * MS + SECOND
    after = np.array(done_ms) * MS
    done = np.where(after > 0, intended + after, 0)
    status = np.array([int(reply[9:12] or 0) for reply in replies])
    return Run(intended, intended, done, status, {"steal": 0.0, "busy": 0.5}, replies)


def heard_of(variants, replies, done_ms):
    run, count = run_of(replies, done_ms), len(replies)
    return live_replies.hear(variants, run, np.full(count, 10 * MS), np.zeros(count, np.int64))


def test_each_reply_of_ours_counts_as_what_it_says():
    """One of each fate: two variants, late, refused at once, evicted, missed, no reply at all."""
    replies = [answered(VARIANTS[0]), answered(VARIANTS[1]), answered(VARIANTS[0])]
    replies += [refused(r) for r in (Reason.OVERLOAD, Reason.EVICTED, Reason.DEADLINE)] + [b""]
    heard = heard_of(VARIANTS, replies, [3, 4, 11, 1, 4, 10, 0])
    asked = [Asked(TIGHT, 50.0, np.arange(7) * 20 * MS, np.full(7, 2 * MS))]

    told = live_figures.row({}, [live_figures.Round(asked, heard)])

    tight = {figure: told["kinds"]["tight"][figure]["median"] for figure in live_figures.FIGURES}
    assert told["offered"] == 7
    assert told["failed"] == 1
    assert tight["goodput"] == pytest.approx(2 / 7)
    assert tight["admitted"] == pytest.approx(6 / 7)
    assert tight["evicted_of_admitted"] == pytest.approx(1 / 6)
    assert tight["missed_of_admitted"] == pytest.approx(3 / 6)
    assert tight["late_of_answered"] == pytest.approx(1 / 3)
    assert tight["longest_without"] == 5
    assert tight["accuracy"] == pytest.approx(0.95)
    assert told["kinds"]["tight"]["reasons"] == {
        "answered": 3,
        "overload": 1,
        "evicted": 1,
        "deadline": 1,
        "gate-lost": 1,
    }
    assert told["kinds"]["tight"]["refused_after_max_us"] == 1000
    assert "simulated" not in told


def test_triton_admits_everybody_and_its_timeout_counts_by_when_it_is_told():
    """A 503 before the deadline is an eviction, after it a broken promise; others are failures."""
    head = b"HTTP/1.1 %d X\r\n\r\n{}"
    heard = heard_of((), [head % status for status in (200, 503, 503, 500)], [3, 8, 12, 1])

    played = heard.outcome.played
    assert [reply.reason for reply in heard.replies] == [
        *(Reason.NONE, Reason.EVICTED, Reason.DEADLINE, Reason.MODEL)
    ]
    assert played.admitted == 4
    assert played.in_time == 1
    assert played.rung.tolist() == [0, -1, -1, -1]


def test_run_times_come_from_critical_answers_as_if_of_the_first_variant():
    """Standard runs hold the time of those that preempted them, so they are left out."""
    replies = [answered(VARIANTS[0], run_us=2000), answered(VARIANTS[1], run_us=1100)]
    replies += [answered(VARIANTS[0], run_us=9000), refused(Reason.OVERLOAD)]
    run = run_of(replies, [3, 2, 9.5, 1])
    heard = live_replies.hear(VARIANTS, run, np.full(4, 10 * MS), np.array([0, 0, 1, 0]))

    assert live_replies.runs_ns(heard, (1.0, 0.5)).tolist() == [2 * MS, 2.2 * MS]
    assert live_replies.way_ns(heard) == pytest.approx(0.8 * MS)


def test_the_simulation_beside_plays_the_same_questions():
    """At half of the lane everybody is in time; with runs of the whole budget hardly anybody."""
    arrivals_ns = np.arange(100) * 10 * MS
    asked = [
        Asked(TIGHT, 100.0, arrivals_ns, np.full(100, 2 * MS)),
        Asked(LOOSE, 100.0, arrivals_ns + MS, np.full(100, 2 * MS)),
    ]
    shares = []
    for run_us in (2000, 30_000):
        replies = [answered(VARIANTS[0], run_us=run_us)] * 20
        heard = heard_of(VARIANTS, replies, [run_us / 1000 + 0.5] * 20)
        outcome = simulate(asked, "poisson", heard, np.random.default_rng(1))
        assert (
            outcome.played.arrival_ns.tolist()
            == np.sort(np.concatenate([a.arrivals_ns for a in asked])).tolist()
        )
        shares.append(outcome.played.in_time / outcome.played.offered)

    assert shares[0] == 1
    assert shares[1] < 0.5


def test_questions_stretch_with_the_run():
    """A run twice as long: half the rate, twice the budget, the same count."""
    before = Asked(TIGHT, 100.0, np.array([1, 5]) * MS, np.full(2, SERVICE_NS))

    after = stretched(before, 2 * SERVICE_NS, (1.0, 0.6))

    assert after.rate == 50
    assert after.kind.budget_ns == 20 * MS
    assert after.kind.rungs == (1.0, 0.6)
    assert after.arrivals_ns.tolist() == [2 * MS, 10 * MS]


@pytest.mark.parametrize("arrivals", live.ARRIVALS)
def test_an_estate_holds_the_ladder_and_what_is_declared(arrivals):
    """Read the file that is written: criticalities, budgets, variants, arrivals of one only."""
    ladder = [make("steady"), make("steady-half")]
    declared = {"tight": live_servers.declaration(arrivals, 250)}
    node = live_servers.LadderNode("test", [TIGHT, LOOSE], ladder, declared)

    try:
        decisions = load_estate(node._estate).decisions
    finally:
        node.clean_up()

    tight, loose = decisions["tight"], decisions["loose"]
    assert (tight.criticality, loose.criticality) == (TIGHT.criticality, LOOSE.criticality)
    assert (tight.budget_ns, loose.budget_ns) == (10 * MS, 60 * MS)
    assert [v.accuracy for v in loose.ladder] == [1.0, 0.9]
    assert tight.arrivals.kind == arrivals.split()[0]
    assert (tight.arrivals.rate, loose.arrivals) == (250, None)


def test_the_second_variant_asks_and_answers_like_the_first():
    """Same input and output, another model."""
    full, half = make("steady"), make("steady-half")
    feed = {full.input_name: full.question}

    answers = [session(model.path).run(None, feed)[0] for model in (full, half)]

    assert answers[0].shape == answers[1].shape == full.output_shape
    assert not np.allclose(*answers)
    assert half.path.stat().st_size < 0.55 * full.path.stat().st_size


def test_the_best_way_to_ask_triton_is_the_one_that_scores_most():
    """Let the score prefer a critical kind without a timeout."""
    model = make("steady")
    asked = [Asked(kind, 50.0, np.zeros(1, np.int64), np.full(1, MS)) for kind in (TIGHT, LOOSE)]
    plain = b"/v2/models/tight-plain/infer"
    tried = []

    def score(target):
        tried.append(target)
        return float(plain in target.questions["tight"]) - len(tried) / 1000

    target, words = live_triton.best_of_own_queues("a", model, asked, MS, score, pause_s=0)

    assert plain in target.questions["tight"]
    assert b'"timeout":59000' in target.questions["loose"]
    assert words == "tight no timeout, loose 1 S"
    assert len(tried) == 12


def test_an_unknown_policy_is_refused_with_the_known_ones(capsys):
    """Before anything is started."""
    with pytest.raises(SystemExit):
        live.main(["--policies", "ours,lifo"])

    assert "no policy lifo: choose of ours, edf, fifo, triton" in capsys.readouterr().err


def test_the_page_shows_every_cell_the_agreement_and_critical_alone():
    """Make the section of two cells that were heard, one of them simulated too."""
    asked = [Asked(TIGHT, 50.0, np.arange(2) * 20 * MS, np.full(2, 2 * MS))]
    ours = heard_of(VARIANTS, [answered(VARIANTS[0])] * 2, [3, 11])
    theirs = heard_of((), [b"HTTP/1.1 503 X\r\n\r\n"] * 2, [4, 4])
    simulated = simulate(asked, "poisson", ours, np.random.default_rng(1))
    rounds = [live_figures.Round(asked, ours, simulated)]
    about = {"arrivals": "poisson", "load": 1.2, "critical_share": 0.5}
    result = {
        "command": "python -m bench.pressure.live",
        "date": "today",
        "machine": {"cpu": "a core"},
        "others_busy": 0.01,
        "run_us": [2400.0, 1200.0],
        "run_us_afterwards": 2410.0,
        "seconds": 10,
        "repeats": 1,
        "settings": {"fifo": "in words"},
        "rows": [
            live_figures.row({**about, "policy": "ours"}, rounds),
            live_figures.row({**about, "policy": "Triton"}, [live_figures.Round(asked, theirs)]),
        ],
        "beside": [live_figures.beside(about, rounds, rounds)],
    }

    section = pressure_live(json.loads(json.dumps(result)))

    assert "| poisson | 1.2 | ours | tight | 0.500 (0.500–0.500) |" in section
    assert "| poisson | 1.2 | Triton | tight | 0.000 (0.000–0.000) | 0.0000 | 1.0000 |" in section
    assert "| poisson | 1.2 | tight | 0.500 (0.500–0.500) | 1.000 (1.000–1.000) |" in section
    assert "-0.500 (-0.500–-0.500) |" in section
    assert "| poisson | 1.2, of which critical 0.6 |" in section
    assert "- FIFO, timeout: in words." in section
