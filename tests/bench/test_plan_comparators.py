"""Generated estates are possible, and every other planner plays by the rules on them."""

import pytest
from bench.plan import clouds, comparators, estates, report
from bench.plan.comparators import Cannot
from bench.plan.ground import HEALTHY, Ground, Node, mean_busy
from bench.plan.judges import MeanJudge, SimulationJudge, confirms, worst_failures
from bench.plan.judging import judge
from bench.plan.optimum import Simulated, fewest_nodes
from msgspec.structs import replace

from tidsram.estate.placement import allowed_at
from tidsram.estate.types import Arrivals, Decision, Delay, Estate, Hardware, Lane, Site, Variant
from tidsram.plan.prove import Prover
from tidsram.units import MS

EVERY = range(len(estates.SIZES))
SMALL = 2  # the estate on which planners are looked at closely
STRICT = MeanJudge(0.5)  # stands for the simulation where only the rules of placing matter

PLANNERS = {
    "80 %": comparators.mean_utilisation,
    "tuned": lambda ground: comparators.tuned_utilisation(ground, STRICT),
    "nearest": lambda ground: comparators.nearest_site(ground, STRICT),
    "greedy": lambda ground: comparators.greedy(ground, STRICT, seconds=60),
}


@pytest.fixture(scope="module")
def ground():
    return Ground(estates.swedish(SMALL))


@pytest.fixture(scope="module")
def layouts(ground):
    return {name: plan(ground) for name, plan in PLANNERS.items()}


# Estates -----------------------------------------------------------------------------------------


def test_same_seed_same_estate():
    """Make each twice; no two of them are alike."""
    made = [estates.swedish(number) for number in EVERY]

    assert made == [estates.swedish(number) for number in EVERY]
    assert len({next(iter(estate.decisions.values())).budget_ns for estate in made}) > 4
    assert [len(estate.decisions) for estate in made] == list(estates.SIZES)


@pytest.mark.parametrize(
    "estate",
    [estates.swedish(n) for n in EVERY]
    + [estates.tiny(n) for n in range(len(estates.TINY))]
    + [estates.large(100), estates.large(100, every_loss=True)],
    ids=lambda estate: estate.name,
)
def test_estates_are_possible(estate):
    """Each flow has a place in every case that it has to survive."""
    ground = Ground(estate)

    for case in ground.cases:
        for key in ground.flows:
            if ground.judged(key, case):
                assert ground.ways(key, case), f"{key} in {case.name}"


@pytest.mark.parametrize("number", EVERY)
def test_estates_hold_tight_and_wide_decisions(number):
    """Some survive no lost site, some any; law binds some; every kind of arrivals is there."""
    decisions = estates.swedish(number).decisions.values()

    assert 0 < sum("site" in d.survives for d in decisions) < len(decisions)
    assert any(d.data for d in decisions)
    assert {d.arrivals.kind for d in decisions} == {"periodic", "poisson", "gamma"}
    assert all(len(d.ladder) >= 2 for d in decisions)


@pytest.mark.parametrize(("every_loss", "cases"), [(False, 25), (True, 58)])
def test_large_estate_is_as_large_as_the_target_says(every_loss, cases):
    """100 decisions, 12 sites, 3 variants, at least 13 cases."""
    estate = estates.large(100, every_loss=every_loss)

    assert len(estate.decisions) == 100
    assert len(estate.sites) == 12
    assert {len(decision.ladder) for decision in estate.decisions.values()} == {3}
    assert len(Ground(estate).cases) == cases


# Rules that hold for everyone --------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANNERS)
def test_everyone_who_must_be_answered_is_answered_once(name, ground, layouts):
    """In each scenario a flow has one seat, on a node that is still there."""
    layout = layouts[name]

    assert layout.unseated == []
    for scenario in layout.scenarios:
        for key in ground.flows:
            if ground.judged(key, scenario.case):
                node = scenario.seats[key].node
                assert node in layout.nodes
                assert node != scenario.lost
                assert scenario.case.kind != "site" or node.site != scenario.case.site


@pytest.mark.parametrize("name", PLANNERS)
def test_nobody_is_answered_against_the_law(name, ground, layouts):
    """Data classes and jurisdictions, in every scenario; and nobody is answered too late."""
    for scenario in layouts[name].scenarios:
        for key, (node, option) in scenario.seats.items():
            site = ground.estate.sites[node.site]
            assert not allowed_at(ground.estate, ground.decision(key), site)
            assert (option.site, option.hardware) == node.pool
            assert option.wait_ns >= 0


@pytest.mark.parametrize("name", PLANNERS)
def test_capacity_is_at_least_what_comes(name, ground, layouts):
    """No node is asked for more than its lanes can do, and no site has too many."""
    layout = layouts[name]

    for scenario in layout.scenarios:
        assert max(mean_busy(ground, scenario.seats).values()) <= (0.8 if name == "80 %" else 0.5)
    for site in ground.estate.sites:
        assert sum(node.site == site for node in layout.nodes) <= ground.most_nodes(site)


@pytest.mark.parametrize("name", PLANNERS)
def test_what_a_loss_does_not_hit_stays(name, layouts):
    """Stickiness, as our own plans have it."""
    healthy, *losses = layouts[name].scenarios

    for scenario in losses:
        down = scenario.case.site if scenario.case.kind == "site" else None
        for key, seat in scenario.seats.items():
            before = healthy.seats[key].node
            cut = scenario.case.kind == "link"
            assert cut or before == scenario.lost or before.site == down or seat.node == before


@pytest.mark.parametrize("name", PLANNERS)
def test_every_node_is_lost_once(name, ground, layouts):
    """N+1 over every single node, each site and each link."""
    layout = layouts[name]
    lost = [scenario.lost for scenario in layout.scenarios if scenario.lost]

    assert sorted(lost) == sorted(layout.nodes)
    kinds = [scenario.case.kind for scenario in layout.scenarios]
    assert kinds.count("site") == len(ground.estate.sites)
    assert kinds.count("link") == len(ground.estate.links)


# What is theirs ----------------------------------------------------------------------------------


def test_nearest_site_answers_at_home(ground, layouts):
    """When all is well everyone who may is answered where it is asked."""
    for key, seat in layouts["nearest"].scenarios[0].seats.items():
        source = ground.flows[key].source
        at_home = any(site == source for site, _ in ground.ways(key, HEALTHY))
        assert not at_home or seat.node.site == source


def test_greedy_saves_on_its_start(ground, layouts):
    """No single node of its plan can be dropped or swapped for a cheaper one."""
    layout = layouts["greedy"]
    start = comparators.dimension(
        ground, comparators.nearest(ground), lambda _: "edge-4", MeanJudge(comparators.GENEROUS)
    )

    assert ground.cost(layout.nodes) < ground.cost(start.nodes)
    assert comparators.greedy(ground, STRICT, seconds=0).nodes == start.nodes


def test_tuning_finds_the_cheapest_that_is_confirmed(ground, layouts):
    """A stricter judge costs more; one that nobody pleases leads nowhere."""
    lax = comparators.tuned_utilisation(ground, MeanJudge(0.8))
    never = comparators.tuned_utilisation(ground, MeanJudge(0.0))

    assert ground.cost(lax.nodes) <= ground.cost(layouts["tuned"].nodes)
    assert confirms(STRICT, ground, layouts["tuned"])
    assert isinstance(never, Cannot)


def test_mean_utilisation_says_what_it_cannot():
    """A site for one node and a flow that has to survive the loss of it."""
    estate = one_site(flows=1, run_ms=10, rate=10.0, max_nodes=1)

    result = comparators.mean_utilisation(Ground(estate))

    assert isinstance(result, Cannot)
    assert "here" in result.why


@pytest.mark.parametrize("region", clouds.REGIONS)
def test_a_cloud_is_planned_without_law_and_its_breaches_are_counted(region, ground):
    """Whoever may be decided in Sweden only is unlawful there; tight budgets are not answered."""
    moved = clouds.move(ground.estate, region)
    layout = comparators.nearest_site(moved.ground, STRICT)

    lawful_only = {k for k in ground.flows if ground.decision(k).jurisdictions == ("SE",)}
    assert lawful_only - set(moved.unserved) <= set(moved.unlawful)
    assert set(moved.ground.flows) == set(ground.flows) - set(moved.unserved)
    assert {node.site for node in layout.nodes} == {region.lower()}
    for key, (_, option) in layout.scenarios[0].seats.items():
        assert option.rtt.delay.p50_ns > 10 * MS, key


def test_worst_failures_are_the_fullest(ground, layouts):
    """No loss that is left out has a fuller node."""
    layout = layouts["80 %"]
    worst = worst_failures(ground, layout, 3)

    shown = {scenario.name for scenario in worst}
    least = min(max(mean_busy(ground, s.seats).values()) for s in worst)
    rest = [s for s in layout.scenarios[1:] if s.name not in shown]
    assert all(max(mean_busy(ground, s.seats).values()) <= least for s in rest)
    assert len(shown) == 3


# By simulation -----------------------------------------------------------------------------------


def one_site(*, flows, run_ms, rate, max_nodes=4, budget_ms=60):
    """One site, one lane a node, periodic decisions with runs that hardly vary."""
    service = {"box": Delay(p50_ns=run_ms * MS, p99_9_ns=int(run_ms * 1.01 * MS))}
    decision = Decision(
        name="d",
        ladder=(Variant(name="v", model="", service=service),),
        budget_ns=budget_ms * MS,
        objective=0.95,
        arrivals=Arrivals(kind="periodic", rate=rate),
        sources={"here": 1},
        survives=("node",),
    )
    names = [f"d{number}" for number in range(flows)]
    return Estate(
        name="one",
        sites={"here": Site(name="here", hardware="box", nodes=0, max_nodes=max_nodes)},
        hardware={"box": Hardware(lanes=(Lane(cores=(1,)),), yearly_cost=1000)},
        decisions={name: replace(decision, name=name) for name in names},
    )


@pytest.mark.parametrize(
    ("flows", "run_ms", "rate", "fewest"),
    [
        (1, 10, 10.0, 2),  # one node, and another for when it is lost
        (3, 10, 10.0, 2),  # together they are 30 % of a lane
        (3, 20, 30.0, 4),  # 60 % each: no two of them fit on a lane
        (4, 20, 20.0, 3),  # 40 % each: two fit on a lane, three do not
    ],
)
def test_exhaustive_search_finds_the_known_optimum(flows, run_ms, rate, fewest):
    """Nodes of one lane; every flow has to survive the loss of any of them."""
    ground = Ground(one_site(flows=flows, run_ms=run_ms, rate=rate, budget_ms=100))

    with Prover(300, 1, 1) as prover:
        nodes = fewest_nodes(ground, Simulated(ground, prover))

    assert nodes == tuple(Node("here", "box", number) for number in range(fewest))


def test_simulation_refuses_what_the_mean_allows():
    """Two flows of synchronous 25 ms runs are 75 % of a lane, and too late for 30 ms budgets."""
    ground = Ground(one_site(flows=2, run_ms=25, rate=15.0, budget_ms=32))
    with Prover(400, 1, 1) as prover:
        by_mean = comparators.mean_utilisation(ground)
        simulated = comparators.nearest_site(ground, SimulationJudge(prover))
        verdicts = [judge(ground, layout, prover)["verifies"] for layout in (by_mean, simulated)]

    assert verdicts == [False, True]
    assert len(simulated.nodes) > len(by_mean.nodes)


# In words ----------------------------------------------------------------------------------------


def test_score_is_told(ground, layouts):
    """A plan that holds is told with its cost, another with a cross, a missing one in words."""
    scenario = {"worst_margin": -0.01}
    told = {
        "search_s": 1.0,
        "unserved": [],
        "unlawful": 0,
        "scenarios": [{"worst_margin": 0.004}, scenario],
    }
    rows = [
        told | {"planner": "tidsram", "cost": 9000.0, "nodes": 3, "verifies": True},
        told | {"planner": "other", "cost": 8000.0, "nodes": 2, "verifies": False, "unlawful": 4},
        told | {"planner": "third", "cost": 0.0, "nodes": 0, "verifies": False, "scenarios": []},
    ]
    result = {
        "estates": [{"name": "e", "decisions": 12, "sites": 3, "rows": rows, "ratio": None}],
        "requests": 20_000,
        "search_requests": 2000,
        "own_requests": 4000,
        "greedy_seconds": 60.0,
        "seconds": 120.0,
        "date": "2026-11-24",
        "machine": {"cpu": "a machine"},
        "command": "python -m bench plan",
    }

    page = report.plan_score(result)

    assert "| e | 12 | 3 | 9,000 (3) | ✗ 8,000 (2) | no plan | – |" in page
    assert "+0.40 / -1.00, 4 against the law" in page
