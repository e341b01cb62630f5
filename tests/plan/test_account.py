"""What was found, told as a plan: budgets that add up, places that exist, backups kept warm."""

from collections import Counter

import pytest
from small_estates import (
    make_decision,
    make_delay,
    make_estate,
    make_hardware,
    make_instance_of,
    make_site,
    make_variant,
    search_for,
)

from tidsram.estate.plan import Place
from tidsram.estate.types import Arrivals, Criticality
from tidsram.lab.facts import Measured
from tidsram.plan.account import numbered, planned_flows, planned_nodes
from tidsram.plan.latency import World
from tidsram.plan.search import Limits

ORDER = ["capture", "access", "link", "gate", "wait", "run", "actuation"]


def arrive(rate, kind="poisson"):
    return Arrivals(kind=kind, rate=float(rate))


def rich_estate():
    """Return three sites in a row, two kinds of machines, and four decisions of all kinds."""
    service = {"edge-2": make_delay(5, 7), "edge-4": make_delay(4, 6)}
    ladder = (make_variant(service=service, memory_bytes=100),)
    decisions = [
        make_decision(
            "brake",
            criticality=Criticality.CRITICAL,
            arrivals=arrive(30, "periodic"),
            capture_ns=1_234_567,
            actuation_ns=20_000_999,
            ladder=ladder,
        ),
        make_decision("weld", sources={"stockholm": 1, "gavle": 2}, ladder=ladder),
        make_decision("count", budget_ms=70.0009, sources={"lulea": 1}, ladder=ladder),
        make_decision("spare", criticality=Criticality.BEST_EFFORT, ladder=ladder),
    ]
    return make_estate(
        *decisions,
        sites=(make_site("stockholm", offers=("edge-4",)), "gavle", "lulea"),
        hardware={
            "edge-2": make_hardware(yearly_cost=100),
            "edge-4": make_hardware(lanes=2, yearly_cost=101),
        },
    )


@pytest.fixture(scope="module")
def rich():
    """Return the estate, what was found for it, and both halves of the account."""
    estate = rich_estate()
    both = {("stockholm", "edge-2"): 1, ("stockholm", "edge-4"): 1}
    found = search_for(estate, Limits(least=both))
    world = World(estate, Measured())
    return estate, found, planned_flows(found, world), planned_nodes(found)


# Flows ----------------------------------------------------------------------------------------


def test_the_terms_of_each_flow_sum_to_its_budget(rich):
    """In whole microseconds, though none of the terms is one; what moves comes after it."""
    estate, _, flows, _ = rich

    for flow in flows:
        within = [term.us for term in flow.terms if term.stage != "actuation"]
        assert sum(within) == flow.budget_us == estate.decisions[flow.decision].budget_ns // 1000
        assert min(within) >= 0
        stages = [term.stage for term in flow.terms]
        assert stages == [stage for stage in ORDER if stage in stages]
        assert {"wait", "run", "gate"} <= set(stages)


def test_actuation_is_told_where_there_is_one(rich):
    """Worst: one period, the budget, and what it takes to move."""
    _, _, flows, _ = rich

    (brake,) = [flow for flow in flows if flow.decision == "brake"]

    assert [(term.stage, term.us) for term in brake.terms][-1] == ("actuation", 20_000)
    assert brake.reaction_us == (round(1e9 / 30) + 100_000_000 + 20_000_999) // 1000
    assert all(
        term.stage != "actuation" for flow in flows if flow is not brake for term in flow.terms
    )


def test_every_flow_is_told_with_its_questions(rich):
    estate, _, flows, _ = rich

    asked = {name: sum(f.rate for f in flows if f.decision == name) for name in estate.decisions}
    assert asked == pytest.approx({"brake": 30, "weld": 30, "count": 10, "spare": 10})
    assert {(f.decision, f.source) for f in flows} == {
        (name, source) for name, decision in estate.decisions.items() for source in decision.sources
    }
    assert {flow.criticality for flow in flows} == {"critical", "standard", "best-effort"}


def test_places_and_backups_are_nodes_of_the_plan(rich):
    """And a backup is elsewhere than the place, in a case that takes it."""
    _, found, flows, nodes = rich

    there = {Place(site=node.site, node=node.node) for node in nodes}
    names = {case.name for case in found.instance.cases}
    assert {flow.place for flow in flows} <= there
    for flow in flows:
        assert set(flow.backups) <= names - {"healthy"}
        assert set(flow.backups.values()) <= there | {None}
        assert flow.place not in flow.backups.values()
        down = flow.backups.get(f"{flow.place.site} down")
        assert flow.criticality == "best-effort" or down.site != flow.place.site


def test_why_not_elsewhere_is_told_of_every_other_site(rich):
    """Each site once, and the clouds after them."""
    estate, _, flows, _ = rich

    for flow in flows:
        told = Counter(one.where for one in flow.elsewhere)
        own = {site: count for site, count in told.items() if site in estate.sites}
        assert own == dict.fromkeys(set(estate.sites) - {flow.place.site}, 1)
        assert any(where.startswith("public cloud") for where in told)
        assert all(one.why for one in flow.elsewhere)


def test_proofs_begin_with_the_healthy_state_and_contradict_nothing(rich):
    """One of each case at most: the worst of its nodes."""
    _, found, flows, _ = rich

    assert found.holds
    for flow in flows:
        cases = [proof.case for proof in flow.proofs]
        assert cases[0] == "healthy"
        assert len(cases) == len(set(cases))
        assert set(flow.backups) - set(cases) <= {c for c, p in flow.backups.items() if p is None}
        assert all(proof.verdict != "contradicted" for proof in flow.proofs)
        assert all(proof.in_time <= proof.asked for proof in flow.proofs)
    assert "met" in {proof.verdict for flow in flows for proof in flow.proofs}


def test_a_flow_without_a_place_is_told_without_one():
    """Best-effort that finds none, beside what must be answered."""
    must = make_decision("must", arrivals=arrive(100), survives=())
    spare = make_decision("spare", arrivals=arrive(120), criticality=Criticality.BEST_EFFORT)
    estate = make_estate(must, spare, sites=(make_site("stockholm", max_nodes=1),))
    found = search_for(estate)

    flows = planned_flows(found, World(estate, Measured()))

    (shed,) = [flow for flow in flows if flow.decision == "spare"]
    assert (shed.place, shed.variant, shed.terms, shed.proofs) == (None, "", (), ())
    assert shed.backups == {}


# Nodes ----------------------------------------------------------------------------------------


def test_nodes_are_numbered_from_one_without_gaps_at_each_site(rich):
    """Though they be of two kinds."""
    _, found, _, nodes = rich

    assert {n.hardware for n in nodes if n.site == "stockholm"} == {"edge-2", "edge-4"}
    for site in {node.site for node in nodes}:
        numbers = [node.node for node in nodes if node.site == site]
        assert sorted(numbers) == list(range(1, len(numbers) + 1))
    counts = Counter((node.site, node.hardware) for node in nodes)
    assert counts == found.solution.nodes
    assert len(set(numbered(found).values())) == found.solution.count


def test_warm_is_all_that_any_scenario_asks_of_a_node(rich):
    """No more, no less, and with the variant that answers."""
    _, found, _, nodes = rich
    places = numbered(found)

    asked = {Place(site=node.site, node=node.node): set() for node in nodes}
    for scenario in found.scenarios:
        for task, home, choice in zip(
            found.instance.tasks, scenario.homes, scenario.choices, strict=True
        ):
            if home is not None:
                asked[places[home]].add((task.flow.decision, choice.option.variant))

    for node in nodes:
        warm = {(one.decision, one.variant) for one in node.warm}
        assert warm == asked[Place(site=node.site, node=node.node)]
        assert len(warm) == len(node.warm)


def test_who_serves_has_questions_and_who_stands_by_has_none(rich):
    """All questions of all flows are somewhere when all is well."""
    _, _, flows, nodes = rich

    for node in nodes:
        here = [f for f in flows if f.place == Place(site=node.site, node=node.node)]
        for warm in node.warm:
            rate = sum(flow.rate for flow in here if flow.decision == warm.decision)
            assert warm.rate == pytest.approx(rate)
            assert warm.role == ("serves" if rate else "stands by")
    assert {warm.role for node in nodes for warm in node.warm} == {"serves", "stands by"}


def test_a_neighbour_is_another_node_that_keeps_the_decision_warm(rich):
    _, _, _, nodes = rich

    warm = {
        Place(site=node.site, node=node.node): {one.decision for one in node.warm} for node in nodes
    }
    told = 0
    for node in nodes:
        for one in node.warm:
            for neighbour in one.neighbours:
                told += 1
                assert neighbour != Place(site=node.site, node=node.node)
                assert one.decision in warm[neighbour]
            assert one.neighbours or one.role == "stands by" or one.decision == "spare"
            assert len(set(one.neighbours)) == len(one.neighbours)
    assert told


def test_load_and_memory_are_those_of_the_node(rich):
    """Busy is a mean, so less than the load, and memory is that of every lane's workers."""
    estate, found, _, nodes = rich

    for node in nodes:
        lanes = len(estate.hardware[node.hardware].lanes)
        assert 0 <= node.busy <= node.load <= 1.5
        assert node.memory_bytes == 100 * lanes * len(node.warm)
        assert all(warm.lanes == tuple(range(lanes)) for warm in node.warm)
        assert all(0 < warm.wait_us < 100_000 for warm in node.warm)
    healthy = sum(choice.busy for choice in found.scenarios[0].choices if choice)
    assert sum(node.busy for node in nodes) == pytest.approx(healthy, abs=1e-3)


def test_of_a_case_that_may_take_any_node_the_backup_is_that_of_ones_own():
    """Two nodes, one flow on each: when the own one is lost, the other answers."""
    decisions = [make_decision(f"d{n}", arrivals=arrive(30), survives=("node",)) for n in range(2)]
    estate = make_estate(*decisions, sites=("stockholm",))
    found = search_for(estate, Limits(room={("stockholm", "edge-2"): 0.85}))

    first, second = planned_flows(found, World(estate, Measured()))

    case = "a node lost at stockholm (edge-2)"
    assert {first.place.node, second.place.node} == {1, 2}
    assert first.backups == {case: second.place}
    assert second.backups == {case: first.place}


def test_parts_are_told_as_parts():
    """Each with its own place and its own share of the questions."""
    estate = make_estate(make_decision(arrivals=arrive(300), survives=()), sites=("stockholm",))
    found = search_for(estate)

    flows = planned_flows(found, World(estate, Measured()))

    assert len(flows) == len(make_instance_of(estate).tasks) > 1
    assert [flow.part for flow in flows] == list(range(len(flows)))
    assert {flow.parts for flow in flows} == {len(flows)}
    assert len({flow.place for flow in flows}) > 1
