"""A plan in words: complete, narrow, and never more than the plan says."""

import pytest
import sample_plan
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tidsram.errors import EstateError
from tidsram.estate.plan import Place, PlannedTerm
from tidsram.plan.explain import explain, losses, standing, summary
from tidsram.plan.words import WIDTH, Section, sentences, show_share, table

PLAN, ESTATE = sample_plan.plan(), sample_plan.estate()
MADE = [PLAN, sample_plan.failing_plan(), sample_plan.unverified_plan(), sample_plan.crowded_plan()]


def text(parts: list[Section]) -> str:
    """Return all that is said, spaces made one, so that a broken line is still a sentence."""
    return " ".join(" ".join(line for part in parts for line in (part.title, *part.lines)).split())


def section(parts: list[Section], title: str) -> str:
    """Return what stands under a headline, spaces made one."""
    (found,) = [part for part in parts if part.title == title]
    return " ".join(" ".join(found.lines).split())


# The whole ------------------------------------------------------------------------------------


def test_the_verdict_comes_first():
    """Who reads one line reads the right one."""
    first, *_ = summary(PLAN)

    assert first.title == (
        "norrland holds in 2026-Q4: verified by simulating up to 20,000 questions of each flow in "
        "9 cases (all well, 8 single losses)"
    )
    assert first.lines == ()


def test_what_fails_is_said_with_its_remedy_under_the_verdict():
    """In the plan's own sentences."""
    failing = sample_plan.failing_plan()

    first, *_ = summary(failing)

    assert first.title == "norrland does not hold in 2026-Q4:"
    for problem in failing.problems:
        assert problem in text([first])


@pytest.mark.parametrize("plan", MADE, ids=["holds", "fails", "unverified", "crowded"])
def test_no_line_is_wider_than_a_terminal(plan):
    """Of the whole and of every decision."""
    parts = summary(plan, growing=True)
    for decision in {flow.decision for flow in plan.flows}:
        parts += explain(plan, ESTATE, decision)

    assert max(len(line) for part in parts for line in part.lines) <= WIDTH


def test_every_flow_is_said_with_its_place_variant_budget_and_share():
    """One decision, all that belongs to it."""
    said = section(summary(PLAN), "Decisions")

    assert "weld at trollhattan, 160/s → trollhattan 1, int8, waits 20 ms at most" in said
    assert "40 ms = capture 4 + access 0.3 + gate 0.7 + wait 23.6 + run 11.4 ms" in said
    (weld,) = [flow for flow in PLAN.flows if flow.decision == "weld"]
    healthy, lost = (show_share(proof.share_at_least) for proof in weld.proofs)
    assert f"99.9 % promised, ≥ {healthy} in time (met); worst with {weld.proofs[1].case}" in said
    assert f"≥ {lost} (met)" in said
    assert "archive at gavle, 12/s: left out" in said


def test_a_part_that_takes_no_time_is_not_shown():
    """A capture that nobody declared is no line of a budget; the data keeps it."""
    nothing = PlannedTerm(stage="capture", us=0, basis="prior", source="not declared")
    (weld,) = [flow for flow in PLAN.flows if flow.decision == "weld"]
    kept = tuple(term for term in weld.terms if term.stage != "capture")
    made = replace(PLAN, flows=(replace(weld, terms=(nothing, *kept)),))

    assert "capture" not in section(summary(made), "Decisions")
    assert "capture" not in section(explain(made, ESTATE, "weld"), "Where the budget goes")


def test_nodes_that_answer_nothing_are_said_to_stand_by():
    """Who reads "busy 0 %" wonders what they are for."""
    first, second, *others = PLAN.nodes
    made = replace(PLAN, nodes=(replace(first, busy=0.0, load=0.0), second, *others))

    said = section(summary(made), "Machines")

    assert said.count("stands by for losses") == 1
    assert "1 node only stands by for losses" in said


def test_a_contradiction_that_no_problem_explains_is_said():
    """A headline does not end in a colon with nothing below it."""
    silent = replace(sample_plan.failing_plan(), problems=())

    assert summary(silent)[0].title.endswith("the simulation contradicts a promise")


def test_what_is_not_answered_is_not_said_to_be_left_out_unless_it_may_be():
    """Only best-effort may be shed."""
    said = section(summary(sample_plan.failing_plan()), "Decisions")

    assert "weld at trollhattan, 160/s: NOT ANSWERED" in said


def test_cost_stands_beside_its_bound():
    """How far from the best it may be."""
    assert section(summary(PLAN), "Cost") == (
        "527,000 SEK a year. No plan within the same cuts costs less than 511,500 SEK: a gap of "
        "2.9 %."
    )


def test_growth_says_what_breaks_first_and_what_is_not_verified():
    """A quarter that was only solved is not passed off as proven."""
    said = section(summary(PLAN), "Quarter by quarter")

    assert "2027-Q2 690/s 9 585,000 1.24 × weld on trollhattan 1: its lanes are full" in said
    assert "tissue on umea 1 once gavle is down (not verified)" in said
    assert said.count("(not verified)") == 1


def test_a_problem_that_lasts_is_told_once():
    """A table of one sentence five times says less."""
    problem = "weld has no place."
    quarters = tuple(replace(one, problem=problem, headroom=0.0) for one in PLAN.quarters)

    said = section(
        summary(replace(PLAN, problems=(problem,), quarters=quarters)), "Quarter by quarter"
    )

    assert said.count("– does not hold, as above") == len(quarters)
    assert problem not in said


def test_the_worst_proof_is_the_contradicted_one():
    """However small a share another one of fewer questions could show."""
    board = next(flow for flow in PLAN.flows if flow.decision == "board")
    healthy = board.proofs[0]
    few = replace(healthy, case="few", share_at_least=0.5)
    broken = replace(healthy, case="broken", share_at_least=0.9, verdict="contradicted")
    plan = replace(PLAN, flows=(replace(board, proofs=(healthy, few, broken)),))

    assert "worst with broken: ≥ 90 % (contradicted)" in section(summary(plan), "Decisions")


def test_a_plan_that_does_not_hold_is_not_called_the_cheapest_that_does():
    """Why a decision is where it is must be true."""
    cheapest = "of the plans that keep every promise none cheaper was found"

    assert cheapest in text(explain(PLAN, ESTATE, "board"))
    assert cheapest not in text(explain(sample_plan.failing_plan(), ESTATE, "board"))


def test_orders_say_by_when():
    """Lead times make it a date."""
    assert "by 2027-01-06 1 × edge-4 at arjeplog, needed in 2027-Q2" in section(
        summary(PLAN), "To order"
    )


def test_only_what_saves_something_is_offered_while_the_plan_holds():
    """A relaxation that is worth nothing is no advice."""
    assert section(summary(PLAN), "What a promise costs") == (
        "– With 48 ms instead of 40 ms, weld needs one node less."
    )


def test_solving_and_verifying_are_told_apart():
    """And how much rests on measurement."""
    assert section(summary(PLAN), "What it rests on") == (
        "64 % of what the budgets go to, waits left out, is measured; the rest is declared or "
        "assumed. Solved in 3.2 s and 2 rounds, verified in another 41.0 s."
    )


def test_a_plan_stands_only_when_it_is_verified():
    """Contradicted is a no; not simulated is no verdict."""
    assert standing(PLAN) == "holds"
    assert standing(sample_plan.failing_plan()) == "does not hold"
    assert standing(sample_plan.unverified_plan()) == "is not proven"


def test_a_contradicted_share_is_a_no_even_without_a_problem_in_words():
    """The proofs count, not the prose."""
    silent = replace(sample_plan.failing_plan(), problems=())

    assert standing(silent) == "does not hold"


def test_a_quarter_that_cannot_be_served_counts_when_growth_is_asked_for():
    """Today's plan holds, and next year's does not."""
    *before, last = PLAN.quarters
    short = replace(PLAN, quarters=(*before, replace(last, problem="gavle has no room for more.")))

    assert standing(short) == "holds"
    assert standing(short, growing=True) == "does not hold"
    assert "2027-Q4: gavle has no room for more." in text(summary(short, growing=True)[:1])


# One decision ---------------------------------------------------------------------------------


def test_the_waterfall_says_what_each_term_is_and_rests_on():
    """Term, time, basis and source, up to the budget."""
    said = section(explain(PLAN, ESTATE, "acoustic"), "Where the budget goes")

    assert "link 11.8 ms" in said
    assert "prior: fibre prior from the sites' coordinates" in said
    assert "measured: measured" not in said
    assert said.endswith("at the 99 % promised")


def test_the_waterfalls_bars_follow_each_other_within_the_budget():
    """No bar is wider than the budget's, and none begins before the last has begun."""
    parts = explain(PLAN, ESTATE, "weld")
    (waterfall,) = [part.lines for part in parts if part.title == "Where the budget goes"]

    bars = [(line.index("█"), line.rindex("█")) for line in waterfall if "█" in line]

    *terms, (left, right) = bars
    assert [begin for begin, _ in terms] == sorted(begin for begin, _ in terms)
    assert all(left <= begin and end <= right for begin, end in terms)


def test_where_it_is_not_made_is_said_with_the_reason():
    """Other sites and the public clouds."""
    said = section(explain(PLAN, ESTATE, "weld"), "Why not elsewhere")

    (weld,) = [flow for flow in PLAN.flows if flow.decision == "weld"]
    assert len(weld.elsewhere) > 2
    assert all(f"{one.where} {one.why}" in said for one in weld.elsewhere)


def test_losses_say_where_it_goes_and_when_it_stays():
    """Every case is accounted for."""
    said = section(explain(PLAN, ESTATE, "obstacle"), "When something is lost")

    share = show_share(PLAN.flows[0].proofs[1].share_at_least)
    assert said == (
        f"a node lost at arjeplog (edge-4) → skelleftea 1, ≥ {share} in time (met) "
        "in the other 7 single losses it stays at arjeplog 1"
    )


def test_a_flow_that_loses_its_node_and_has_no_other_place_is_not_answered():
    """It must not be told as one that stays."""
    (flow,) = [flow for flow in PLAN.flows if flow.decision == "acoustic"]

    after = losses(PLAN, flow)

    assert after == {
        "a node lost at gavle (edge-4)": None,
        "gavle down": Place(site="trollhattan", node=2),
    }
    assert "not answered then" in section(
        explain(PLAN, ESTATE, "acoustic"), "When something is lost"
    )


def test_the_worst_reaction_adds_up():
    """It arises just after a question was asked, and the answer takes the whole budget."""
    assert section(explain(PLAN, ESTATE, "obstacle"), "Worst reaction") == (
        "350 ms = 100 ms until it is asked next + 100 ms budget + 150 ms actuation."
    )
    assert section(explain(PLAN, ESTATE, "acoustic"), "Worst reaction") == (
        "450 ms = 200 ms until it is asked next + 250 ms budget."
    )


def test_each_part_of_a_large_flow_is_explained():
    """It may be answered in two places."""
    titles = [part.title for part in explain(PLAN, ESTATE, "dose")]

    assert "dose at umea (1 of 2): 4 askers, 8/s in all, standard" in titles
    assert "dose at umea (2 of 2): 4 askers, 8/s in all, standard" in titles


def test_an_unknown_decision_is_met_with_the_nearest():
    """A mistake is one sentence."""
    with pytest.raises(
        EstateError, match='there is no decision "obstacel"; did you mean "obstacle"'
    ):
        explain(PLAN, ESTATE, "obstacel")


# Words ----------------------------------------------------------------------------------------


@given(st.floats(0, 1))
def test_a_shown_share_never_claims_more(share):
    """A bound is not rounded up."""
    assert float(show_share(share).removesuffix(" %")) <= share * 100 + 1e-6


WORDS = st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=60).map(" ".join)


@given(st.lists(st.tuples(st.text("xyz", max_size=12), WORDS), min_size=1, max_size=5))
def test_a_table_keeps_every_word_and_the_width(rows):
    """Nothing is lost where a line is broken."""
    lines = table(rows, indent="  ")

    assert " ".join(lines).split() == " ".join(f"{a} {b}" for a, b in rows).split()
    assert all(len(line) <= WIDTH for line in lines)


def test_a_number_stays_with_its_unit():
    """Where the line would break between them, it breaks before."""
    for before in range(80, 100):
        lines = sentences("x" * before + " takes ≥ 99.5 % of 20 ms or 3 s")

        assert not any(line.endswith(("≥", "99.5", "20", "3")) for line in lines)
