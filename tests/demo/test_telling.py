"""What is read in the terminal."""

import io

import pytest
from rich.console import Console
from tales import START_NS, asked, tale

from tidsram.demo.askers import Course, _width
from tidsram.demo.telling import Telling
from tidsram.estate.types import Decision, Variant
from tidsram.outcome import Outcome, Reason
from tidsram.units import MS

LADDER = (Variant(name="m", model="m.onnx"),)
DECISIONS = {
    "obstacle": Decision(name="obstacle", ladder=LADDER, budget_ns=100 * MS, objective=0.95),
    "tissue": Decision(name="tissue", ladder=LADDER, budget_ns=100 * MS, objective=0.95),
    "inspection": Decision(name="inspection", ladder=LADDER, budget_ns=60 * MS, objective=0.95),
}


@pytest.fixture
def heard():
    """Return a telling and what it said so far."""
    out = io.StringIO()
    console = Console(file=out, width=80)
    return Telling(console, Console(file=io.StringIO()), DECISIONS), out


def course(decision, numbers):
    return Course(decision=decision, arises_ns=[START_NS + n * 100 * MS for n in numbers])


def test_frames_are_told_in_their_order_however_outcomes_come(heard):
    """Let the third frame be known first: nothing may be said before the first two are."""
    telling, out = heard
    tell = telling.frames([course("obstacle", range(3))], "obstacle", "tissue")

    tell(asked("obstacle", 2, 30))
    assert out.getvalue() == ""
    tell(asked("obstacle", 0, 10))
    tell(asked("obstacle", 1, 20))

    times = [line.split()[2:4] for line in out.getvalue().splitlines()]
    assert times == [["10", "ms"], ["20", "ms"], ["30", "ms"]]


def test_a_frame_waits_for_the_questions_beside_it(heard):
    """A tissue question arises during the first frame and is refused later."""
    telling, out = heard
    courses = [course("obstacle", range(2)), course("tissue", [0.5])]
    tell = telling.frames(courses, "obstacle", "tissue")

    tell(asked("obstacle", 0))
    assert out.getvalue() == ""
    tell(asked("tissue", 0.5, 3, Outcome.REJECTED, Reason.OVERLOAD))

    assert out.getvalue().split() == ["0.0", "s", "20", "ms", "1", "1", "after", "2.0", "ms"]


def test_late_and_refused_frames_are_words_and_not_only_colours(heard):
    """Tell a late frame and a refused one."""
    telling, out = heard
    tell = telling.frames([course("obstacle", range(2))], "obstacle", "tissue")

    tell(asked("obstacle", 0, 117))
    tell(asked("obstacle", 1, 2, Outcome.REJECTED, Reason.STALE))

    assert "117 ms, late" in out.getvalue()
    assert "rejected stale" in out.getvalue()


def test_everything_fits_a_terminal_of_80_columns(heard, tmp_path):
    """Tell a whole made-up tale; no line may be cut or longer."""
    telling, out = heard
    told = tale(DECISIONS)

    telling.start("a machine", tmp_path, 20)
    telling.quiet_time(told.quiet, told.results.decisions, told.room_ns)
    telling.act_burst("tissue", "obstacle", 50, 100, 2_000 * MS)
    telling.burst(told.results.acts.burst)
    telling.act_kill("tissue", "obstacle", 7, 6)
    telling.killed(told.results.acts.killed_worker)
    telling.act_cloud("obstacle")
    telling.cloud(told.results.acts.cloud)
    telling.end(told.results, tmp_path, [])

    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)


def test_the_tissue_model_is_said_to_be_not_for_diagnosis(heard, tmp_path):
    """Open the story."""
    telling, out = heard

    telling.start("a machine", tmp_path, 20)

    assert "not for diagnosis" in out.getvalue()


def test_an_asker_is_as_wide_as_the_questions_open_at_once():
    """Count overlapping questions for a sparse and a dense course."""
    sparse = Course(decision="d", arises_ns=[i * 1000 * MS for i in range(5)])
    dense = Course(decision="d", arises_ns=[i * 10 * MS for i in range(100)])

    assert _width(sparse, 100 * MS) == 1 + 2
    assert _width(dense, 100 * MS) == 15 + 2
    assert _width(Course(decision="d", arises_ns=[]), 100 * MS) == 2
