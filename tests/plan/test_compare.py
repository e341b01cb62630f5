"""What changed from one plan to another, and nothing else."""

import sample_plan
from msgspec.structs import replace

from tidsram.estate.plan import Place, Plan
from tidsram.plan.compare import FlowChange, compare, told

PLAN = sample_plan.plan()


def with_flow(decision: str, **changes: object) -> Plan:
    """Return the plan with one decision's flows changed."""
    flows = tuple(
        replace(flow, **changes) if flow.decision == decision else flow for flow in PLAN.flows
    )
    return replace(PLAN, flows=flows)


def said(before: Plan, after: Plan) -> str:
    """Return the comparison in words, on one line."""
    parts = told(compare(before, after))
    return " ".join(" ".join(line for part in parts for line in (part.title, *part.lines)).split())


def test_a_plan_has_not_changed_from_itself():
    """No noise."""
    found = compare(PLAN, PLAN)

    assert (found.nodes, found.flows) == ({}, ())
    assert said(PLAN, PLAN).endswith("the old one holds, the new one holds Nothing has changed.")


def test_a_comparison_turned_round_says_the_opposite():
    """Before and after are not mixed up."""
    other = replace(sample_plan.failing_plan(), nodes=PLAN.nodes[1:], yearly_cost=469_000.0)

    there, back = compare(PLAN, other), compare(other, PLAN)

    assert there.nodes == {"arjeplog edge-4": (1, 0)}
    assert there.flows
    assert back.nodes == {name: pair[::-1] for name, pair in there.nodes.items()}
    assert back.yearly_cost == there.yearly_cost[::-1]
    assert back.standing == there.standing[::-1]
    assert {(c.decision, c.source, c.after, c.before) for c in there.flows} == {
        (c.decision, c.source, c.before, c.after) for c in back.flows
    }


def test_machines_and_their_cost_are_told():
    """One node less, and what it saves."""
    fewer = replace(PLAN, nodes=PLAN.nodes[:-1], yearly_cost=469_000.0)

    text = said(PLAN, fewer)

    assert "527,000 → 469,000 SEK a year: 58,000 SEK a year less." in text
    assert "umea edge-4 2 → 1" in text


def test_a_move_is_told_with_both_places():
    """From where to where."""
    moved = with_flow("weld", place=Place(site="gavle", node=2))

    assert "weld at trollhattan moves from trollhattan 1 to gavle 2" in said(PLAN, moved)


def test_variant_budget_and_what_is_left_to_wait_are_told():
    """What makes the same place another promise."""
    (weld,) = [flow for flow in PLAN.flows if flow.decision == "weld"]
    terms = tuple(replace(t, us=t.us + 8000) if t.stage == "wait" else t for t in weld.terms)
    changed = with_flow("weld", variant="fp32", budget_us=48_000, terms=terms)

    assert (
        "weld at trollhattan variant int8 → fp32; budget 40 ms → 48 ms; left to wait 23.6 ms → "
        "31.6 ms" in said(PLAN, changed)
    )


def test_a_verdict_that_turned_is_told():
    """With the shares on which it rests."""
    text = said(PLAN, sample_plan.failing_plan())

    assert "the old one holds, the new one does not hold" in text
    assert "board at skelleftea met → contradicted; in time at least" in text
    assert "weld at trollhattan moves from trollhattan 1 to nowhere" in text


def test_new_and_gone_decisions_are_told():
    """A change of the estate."""
    without = replace(PLAN, flows=PLAN.flows[1:], estate_sha256="0" * 64)

    assert "for an estate that has changed" in said(without, PLAN)
    assert "obstacle at arjeplog is new" in said(without, PLAN)
    assert "obstacle at arjeplog is gone" in said(PLAN, without)


def test_parts_of_a_flow_that_only_trade_places_are_no_change():
    """Askers of one source have no names."""
    *rest, first, second = [flow for flow in PLAN.flows if flow.decision != "dose"] + [
        replace(flow, place=Place(site="umea", node=1 + flow.part))
        for flow in PLAN.flows
        if flow.decision == "dose"
    ]
    there = replace(PLAN, flows=(*rest, first, second))
    back = replace(
        PLAN,
        flows=(*rest, replace(first, place=second.place), replace(second, place=first.place)),
    )

    assert compare(there, back).flows == ()
    assert all(isinstance(change, FlowChange) for change in compare(PLAN, there).flows)
    assert "moves from umea 2 to umea 1, umea 2" in said(PLAN, there)
