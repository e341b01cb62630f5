"""What if something is lost: read, answered from the plan, never answered beyond it."""

import pytest
import sample_plan
from msgspec.structs import replace

from tidsram.errors import EstateError
from tidsram.estate.plan import Place
from tidsram.plan.whatif import Effect, Loss, More, effects, parse_changes, told, with_more

PLAN, ESTATE = sample_plan.plan(), sample_plan.estate()


def effect_of(text: str, plan=PLAN) -> Effect:
    """Return the one effect of one loss."""
    (loss,) = parse_changes(text, ESTATE)
    (effect,) = effects(plan, loss)
    return effect


# Reading --------------------------------------------------------------------------------------


def test_each_form_is_read():
    """Sites, nodes, links, questions, and several of them."""
    assert parse_changes("site.gavle down,node.umea down", ESTATE) == (
        Loss(kind="site", site="gavle"),
        Loss(kind="node", site="umea"),
    )
    assert parse_changes("node.umea.edge-4 down", ESTATE) == (
        Loss(kind="node", site="umea", hardware="edge-4"),
    )
    assert parse_changes("link.umea.gavle down", ESTATE) == (
        Loss(kind="link", link=("umea", "gavle")),
    )
    assert parse_changes("decision.weld rate 2.5", ESTATE) == (More(decision="weld", times=2.5),)


@pytest.mark.parametrize("name", ["gavle", "north.gavle", "a.b.c"])
def test_names_may_hold_dots(name):
    """As the estate's names may."""
    sites = {name: replace(ESTATE.sites["gavle"], name=name), "umea": ESTATE.sites["umea"]}
    link = replace(ESTATE.links[0], a="umea", b=name)
    estate = replace(ESTATE, sites=sites, links=(link,))

    assert parse_changes(f"site.{name} down", estate) == (Loss(kind="site", site=name),)
    assert parse_changes(f"node.{name}.edge-4 down", estate) == (
        Loss(kind="node", site=name, hardware="edge-4"),
    )
    assert parse_changes(f"link.{name}.umea down", estate) == (
        Loss(kind="link", link=(name, "umea")),
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("site.gaevle down", 'no site "gaevle"; did you mean "gavle"?'),
        ("node.gaevle down", 'no site "gaevle"; did you mean "gavle"?'),
        ("link.gavle.ume down", 'no link "gavle.ume"; did you mean "gavle.umea"?'),
        ("decision.wedl rate 2", 'no decision "wedl"; did you mean "weld"?'),
        ("decision.weld rate 0", '"0" is not how many times as often'),
        ("decision.weld rate nan", '"nan" is not how many times as often'),
        ("decision.weld rate twice", '"twice" is not how many times as often'),
        ("site.xyz down", "there are arjeplog, gavle"),
        ("gavle down", 'is nothing that can be supposed; write "site.NAME down"'),
        ("site.gavle up", "is nothing that can be supposed"),
        ("", "is nothing that can be supposed"),
        ("site.gavle down,", "is nothing that can be supposed"),
    ],
)
def test_a_mistake_is_one_sentence(text, problem):
    """With what is near, or what there is."""
    with pytest.raises(EstateError) as refused:
        parse_changes(text, ESTATE)

    assert str(refused.value).startswith("--what-if: ")
    assert problem in str(refused.value)


# Answering ------------------------------------------------------------------------------------


def test_a_lost_site_moves_what_was_there_and_nothing_else():
    """By the plan's own backups."""
    effect = effect_of("site.gavle down")

    moved = {(one.flow, one.before, one.after) for one in effect.moved}
    assert moved == {
        ("tissue at gavle", "gavle 1", "umea 1"),
        ("acoustic at gotland", "gavle 2", "trollhattan 2"),
    }
    answered = sum(flow.place is not None for flow in PLAN.flows)
    assert effect.stay == answered - len(effect.moved)


def test_a_link_is_the_same_from_both_ends():
    """Whichever way round it is named."""
    assert effect_of("link.umea.gavle down") == effect_of("link.gavle.umea down")


def test_what_is_left_out_then_is_told_apart_from_what_must_not_be():
    """Best-effort work may wait; a promise may not."""
    title, *parts = told(effect_of("site.umea down"))

    (unanswered,) = [part for part in parts if part.title == "Not answered"]
    assert "cannot be answered" not in title.title
    assert unanswered.lines == ("  archive at arjeplog  best-effort: left out",)


def test_a_promise_without_a_place_is_a_no():
    """Its decision had no other node."""
    effect = effect_of("node.gavle down")

    assert effect.holds is False
    assert "1 flow cannot be answered" in told(effect)[0].title


def test_an_effect_holds_only_when_every_moved_flow_was_simulated_and_met():
    """Otherwise the plan does not know."""
    only = replace(PLAN, flows=tuple(f for f in PLAN.flows if f.decision == "obstacle"))
    unsimulated = replace(only, flows=tuple(replace(f, proofs=f.proofs[:1]) for f in only.flows))

    assert effect_of("node.arjeplog down", only).holds is True
    assert effect_of("node.arjeplog down", unsimulated).holds is None


def test_a_contradicted_share_is_a_no():
    """Though it has a place."""
    flow = next(f for f in PLAN.flows if f.decision == "obstacle")
    healthy, lost = flow.proofs
    failed = replace(flow, proofs=(healthy, replace(lost, verdict="contradicted")))

    assert effect_of("node.arjeplog down", replace(PLAN, flows=(failed,))).holds is False


def test_a_flow_that_stays_and_is_not_shown_to_hold_is_named():
    """What a loss moves can crowd out what it does not touch."""
    doubtful = tuple(
        replace(
            flow,
            proofs=(
                *flow.proofs,
                replace(flow.proofs[0], case="gavle down", verdict="not enough evidence"),
            ),
        )
        if flow.decision == "weld"
        else flow
        for flow in PLAN.flows
    )
    effect = effect_of("site.gavle down", replace(PLAN, flows=doubtful))

    assert effect.holds is None
    assert [(one.flow, one.after) for one in effect.strained] == [
        ("weld at trollhattan", "trollhattan 1")
    ]
    assert told(effect)[-1].title == "Stay, but are not shown to hold"


def test_what_the_plan_does_not_cover_has_no_verdict():
    """No decision is declared to survive it."""
    effect = effect_of("site.gotland down")

    assert effect.holds is None
    assert "no decision declares that it survives this" in told(effect)[0].title


def test_a_node_where_none_stands_is_bad_input():
    """The plan has none there."""
    (loss,) = parse_changes("node.gotland down", ESTATE)

    with pytest.raises(EstateError, match="the plan has no node at gotland"):
        effects(PLAN, loss)


def test_a_site_with_two_kinds_of_machine_has_two_effects():
    """It matters which is lost, unless it is said."""
    nodes = [n for n in PLAN.nodes if (n.site, n.node) != ("umea", 2)]
    other = next(n for n in PLAN.nodes if (n.site, n.node) == ("umea", 2))
    plan = replace(PLAN, nodes=(*nodes, replace(other, hardware="edge-2")))

    either, named = (
        parse_changes(text, ESTATE)[0] for text in ("node.umea down", "node.umea.edge-4 down")
    )

    assert [effect.case for effect in effects(plan, either)] == [
        "a node lost at umea (edge-2)",
        "a node lost at umea (edge-4)",
    ]
    assert len(effects(plan, named)) == 1


def test_more_questions_change_the_declared_arrivals_only():
    """Of that decision."""
    faster = with_more(ESTATE, parse_changes("decision.weld rate 2", ESTATE))

    assert faster.decisions["weld"].arrivals.rate == 40.0
    rest = {name: d for name, d in faster.decisions.items() if name != "weld"}
    assert rest == {name: d for name, d in ESTATE.decisions.items() if name != "weld"}


def test_a_place_named_for_a_case_is_where_it_goes():
    """Even to another node of the same site."""
    assert [one.after for one in effect_of("node.trollhattan down").moved] == ["trollhattan 2"]
    assert Place(site="trollhattan", node=2) in PLAN.flows[3].backups.values()
