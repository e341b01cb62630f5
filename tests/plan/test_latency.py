"""Latency: budgets that add up, paths that respect light, and refusals that name the term."""

from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from small_estates import (
    LOCATIONS,
    make_decision,
    make_delay,
    make_estate,
    make_hardware,
    make_probe,
    make_profile,
    make_site,
    make_variant,
)

from tidsram.errors import PlanError
from tidsram.estate.distance import floor_ns
from tidsram.estate.types import Arrivals, Criticality, DataClass, Link
from tidsram.lab.facts import Measured
from tidsram.plan.assumptions import assumptions, measured_share
from tidsram.plan.demand import flows
from tidsram.plan.geography import CLOUDS, STOCKHOLM, cloud_rtt, prior
from tidsram.plan.latency import World, access, cases, needs, reaction_ns, wait_epsilon
from tidsram.plan.problem import Case, Term
from tidsram.plan.spread import quantile_ns
from tidsram.units import MS

NOTHING = Measured()
TOWNS = list(LOCATIONS)
ORDER = ["capture", "access", "link", "gate", "wait", "run"]


def world_of(*decisions, measured=NOTHING, **declared):
    return World(make_estate(*decisions, **declared), measured)


def answers(world, case=None, quarter="2026-Q4"):
    (flow,) = flows(world.estate, quarter)
    return world.options(flow, case or Case())


def refusal_at(world, site, case=None):
    _, refusals = answers(world, case)
    (refusal,) = [refusal for refusal in refusals if refusal.site == site]
    return refusal


def link_term(option):
    return next(term for term in option.terms if term.stage == "link")


@st.composite
def decisions(draw):
    """Any decision asked at Stockholm, with up to three variants."""
    ladder = tuple(
        make_variant(f"v{rung}", p50 := draw(st.floats(0.1, 60)), p50 * draw(st.floats(1, 3)))
        for rung in range(draw(st.integers(1, 3)))
    )
    synchronised = draw(st.booleans())
    return make_decision(
        budget_ms=draw(st.floats(0.5, 200)),
        ladder=ladder,
        objective=draw(st.sampled_from([0.9, 0.99, 0.999, 0.9999])),
        capture_ns=draw(st.integers(0, 20 * MS)),
        access=draw(st.none() | st.builds(make_delay, st.floats(0.01, 2), st.floats(2, 30))),
        sources={"stockholm": draw(st.integers(1, 9))},
        arrivals=Arrivals(kind="periodic", rate=10.0, synchronised=synchronised),
    )


@st.composite
def networks(draw):
    """Any links between the towns, some with a declared round trip that light allows."""
    pairs = [(a, b) for a in TOWNS for b in TOWNS if a < b]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, min_size=1, max_size=12))
    return [Link(a=a, b=b, rtt=draw(st.none() | _rtts(a, b))) for a, b in chosen]


def _rtts(a, b):
    light_ms = floor_ns(LOCATIONS[a], LOCATIONS[b]) / MS
    return st.builds(
        lambda above, tail: make_delay(light_ms + above, light_ms + above + tail),
        st.floats(0.01, 30),
        st.floats(0, 30),
    )


@given(decisions(), networks(), st.integers(1, 4))
def test_the_terms_of_an_option_are_the_budget(decision, links, lanes):
    """They add up to it exactly, none below zero, in the order in which they pass."""
    world = world_of(decision, sites=TOWNS, links=links, hardware={"edge-2": make_hardware(lanes)})

    options, refusals = answers(world)

    for option in options:
        stages = [term.stage for term in option.terms]
        assert sum(term.ns for term in option.terms) == decision.budget_ns
        assert min(term.ns for term in option.terms) >= 0
        assert stages == [stage for stage in ORDER if stage != "link" or len(option.path) > 1]
        assert 0 <= option.wait_ns <= option.terms[-2].ns
    assert len({o.site for o in options} | {r.site for r in refusals}) == len(TOWNS)


@given(decisions(), networks())
def test_no_option_is_faster_than_light(decision, links):
    """Neither in its spread nor in its term, however its links were declared."""
    world = world_of(decision, sites=TOWNS, links=links)

    options, _ = answers(world)

    for option in options:
        light_ns = floor_ns(LOCATIONS["stockholm"], LOCATIONS[option.site])
        assert option.rtt.floor_ns >= light_ns
        assert quantile_ns(option.rtt, 0.001) >= light_ns
        if len(option.path) > 1:
            assert link_term(option).ns >= light_ns


@given(decisions(), networks())
def test_access_and_link_have_their_due(decision, links):
    """Each at the percentile of its own, and both together at that of their sum."""
    world = world_of(decision, sites=TOWNS, links=links)
    q = 1 - (1 - decision.objective) / 5

    options, _ = answers(world)

    for option in options:
        times = {term.stage: term.ns for term in option.terms}
        path = world.network.path("stockholm", option.site, Case())
        assert times["access"] == quantile_ns(access(decision), q)
        assert times.get("link", 0) >= quantile_ns(path.rtt, q)
        assert times["access"] + times.get("link", 0) >= quantile_ns(option.rtt, q)


@given(decisions(), networks(), st.floats(0, 100))
def test_more_budget_loses_no_option(decision, links, more_ms):
    """And each option gains the whole of it for its wait."""
    more = replace(decision, budget_ns=decision.budget_ns + round(more_ms * MS))
    tight, loose = (
        {
            (option.site, option.variant): option.wait_ns
            for option in answers(world_of(asked, sites=TOWNS, links=links))[0]
        }
        for asked in (decision, more)
    )

    assert tight.keys() <= loose.keys()
    assert all(loose[key] - tight[key] == round(more_ms * MS) for key in tight)


@given(networks(), st.data())
def test_a_cut_link_makes_no_path_shorter(links, data):
    """A detour costs; what can no longer be reached has no path."""
    world = world_of(sites=TOWNS, links=links)
    cut = data.draw(st.sampled_from(links))
    case = Case(kind="link", link=(cut.b, cut.a))

    for town in TOWNS:
        whole = world.network.path("stockholm", town, Case())
        rest = world.network.path("stockholm", town, case)
        if rest is not None:
            assert whole is not None
            assert whole.rtt.delay.p50_ns <= rest.rtt.delay.p50_ns
            assert {cut.a, cut.b} not in [set(hop) for hop in pairwise(rest.sites)]


@given(networks(), st.sampled_from(TOWNS))
def test_a_site_that_is_down_neither_forwards_nor_answers(links, down):
    """Its own askers go on asking over its links."""
    world = world_of(sites=TOWNS, links=links)
    case = Case(kind="site", site=down)

    for source in TOWNS:
        for town in TOWNS:
            path = world.network.path(source, town, case)
            assert path is None or down not in path.sites[1:]
    beside = [link.b if link.a == down else link.a for link in links if down in (link.a, link.b)]
    assert all(world.network.path(down, town, case) for town in beside)


def test_the_prior_between_stockholm_and_lulea():
    """The published default: 726 km, 14.7 ms at the median and 20.5 ms at p99.9."""
    spread = prior(STOCKHOLM, LOCATIONS["lulea"])

    assert spread.delay.p50_ns / MS == pytest.approx(14.7, abs=0.3)
    assert spread.delay.p99_9_ns / MS == pytest.approx(20.5, abs=0.3)
    assert (spread.basis, spread.source) == ("prior", "fibre prior, 726 km")


def test_measured_beats_declared_beats_prior():
    """For a link; each is named for what it is."""
    declared = [Link(a="stockholm", b="lulea", rtt=make_delay(16, 30))]
    probe = make_probe("lulea", "stockholm", [12.0] * 2990 + [40.0] * 10)
    measured = Measured(links={probe.key: probe})

    found = [
        link_term(answers(world)[0][1])
        for world in (
            world_of(),
            world_of(links=declared),
            world_of(links=declared, measured=measured),
        )
    ]

    assert [term.basis for term in found] == ["prior", "declared", "measured"]
    assert found[2].source == "measured 2026-11-24, 3,000 round trips"
    assert found[2].ns == 40 * MS


def test_a_profile_beats_a_declared_run():
    """Run and gate; what is too little to prove the percentile says so."""
    profile = make_profile("obstacle", "fp32", "edge-2", [20.0, 30.0], [1.0, 2.0], 4096)
    here = make_estate(sites=["stockholm"])

    ((declared,), _), ((profiled,), _) = (
        answers(World(here, measured))
        for measured in (NOTHING, Measured(profiles={profile.key: profile}))
    )

    terms = {term.stage: term for term in profiled.terms}
    assert (declared.service.basis, declared.gate.basis) == ("declared", "prior")
    assert (terms["run"].ns, terms["run"].basis) == (30 * MS, "measured")
    assert (terms["gate"].ns, terms["gate"].basis) == (2 * MS, "measured")
    assert terms["run"].source == "measured 2026-11-24, 2 runs, too few to prove p99.8"
    assert (declared.memory_bytes, profiled.memory_bytes) == (0, 4096)


@pytest.mark.parametrize("declare", ["declared", "measured"])
def test_nothing_below_light_is_believed(declare):
    """A round trip that physics forbids is refused with what light needs."""
    declared = [Link(a="stockholm", b="lulea", rtt=make_delay(1, 2))]
    probe = make_probe("lulea", "stockholm", [1.0, 15.0])
    given_facts = {
        "declared": {"links": declared},
        "measured": {"measured": Measured(links={probe.key: probe})},
    }

    with pytest.raises(PlanError, match=f"1 ms is {declare}, but physics .* needs 7.11 ms"):
        world_of(**given_facts[declare])


def test_light_counts_end_to_end_over_an_unknown_place():
    """Two hops over a site of no known location are no way around physics."""
    links = [
        Link(a="stockholm", b="hub", rtt=make_delay(1, 2)),
        Link(a="hub", b="lulea", rtt=make_delay(1, 2)),
    ]

    with pytest.raises(PlanError, match="physics"):
        answers(world_of(sites=["stockholm", make_site("hub"), "lulea"], links=links))


def test_light_holds_for_a_spread_over_an_unknown_place():
    """The hops' own floors are not known, the one between the ends is."""
    links = [
        Link(a="stockholm", b="hub", rtt=make_delay(5, 6)),
        Link(a="hub", b="lulea", rtt=make_delay(5, 6)),
    ]
    world = world_of(sites=["stockholm", make_site("hub"), "lulea"], links=links)

    path = world.network.path("stockholm", "lulea", Case())

    assert path.sites == ("stockholm", "hub", "lulea")
    assert path.rtt.floor_ns == floor_ns(LOCATIONS["stockholm"], LOCATIONS["lulea"])


def test_a_detour_is_judged_anew():
    """The same site over another path is another option."""
    rtt = make_delay(10, 11)
    links = [Link(a="stockholm", b="lulea", rtt=rtt), Link(a="stockholm", b="umea", rtt=rtt)]
    links.append(Link(a="umea", b="lulea", rtt=rtt))
    world = world_of(sites=["stockholm", "umea", "lulea"], links=links)

    direct, around = (
        next(option for option in answers(world, case)[0] if option.site == "lulea")
        for case in (Case(), Case(kind="link", link=("stockholm", "lulea")))
    )

    assert (direct.path, around.path) == (("stockholm", "lulea"), ("stockholm", "umea", "lulea"))
    assert direct.wait_ns > around.wait_ns


def test_a_link_of_unknown_length_names_the_line_to_add():
    """Neither declared, nor measured, nor located."""
    with pytest.raises(PlanError, match=r"\[link.stockholm.hub\]: .* add rtt = .* tidsram probe"):
        world_of(sites=["stockholm", make_site("hub")])


def test_the_law_comes_first():
    """Its own jurisdictions, else its data class's; a place out of reach is still named for law."""
    abroad = make_site("oslo", jurisdiction="NO", location=(59.91, 10.75))
    estate = {"sites": ["stockholm", "lulea", abroad], "links": []}
    patients = DataClass(name="patients", sites=("stockholm",))

    bound = world_of(make_decision(jurisdictions=("SE",)), **estate)
    private = world_of(make_decision(data="patients"), data={"patients": patients}, **estate)

    assert refusal_at(bound, "oslo").term == "jurisdiction"
    assert refusal_at(bound, "oslo").sentence == "its jurisdictions are SE, this site is in NO"
    assert refusal_at(bound, "lulea").term == "path"
    assert refusal_at(private, "lulea").term == "data"
    assert refusal_at(private, "lulea").sentence == "patients data may be at stockholm only"


def test_light_itself_is_named_where_the_budget_is_shorter():
    """No machine and no network would help."""
    refusal = refusal_at(
        world_of(make_decision(budget_ms=7, ladder=(make_variant("s", 1, 2),))), "lulea"
    )

    assert refusal.term == "physics"
    assert refusal.short_ns > 110_621, "light alone is not enough: the run takes time, too"
    assert refusal.sentence == (
        "physics: light in fibre needs 7.11 ms from stockholm and back, the budget is 7 ms"
    )


def test_the_largest_term_is_named_with_what_is_missing():
    """And the sentence holds them all, the largest first."""
    refusal = refusal_at(world_of(make_decision(budget_ms=20)), "lulea")

    assert refusal.term == "link"
    assert refusal.sentence == (
        "link 20 ms, run 6.84 ms, gate 556 µs, access 448 µs come to 27.8 ms at p99.8, "
        "7.84 ms beyond the budget of 20 ms (fp32 on edge-2)"
    )
    assert refusal.short_ns / MS == pytest.approx(7.84 + 0.05 * 6.84, abs=0.01)  # and the guard


def test_the_shortfall_is_what_more_budget_mends():
    """With so much more it fits, with a nanosecond less it does not."""
    short_ns = refusal_at(world_of(make_decision(budget_ms=20)), "lulea").short_ns
    enough = replace(make_decision(), budget_ns=20 * MS + short_ns)

    fits = [option.site for option in answers(world_of(enough))[0]]
    barely_not = replace(enough, budget_ns=enough.budget_ns - 1)

    assert fits == ["stockholm", "lulea"]
    assert refusal_at(world_of(barely_not), "lulea").short_ns == 1


def test_what_mends_a_budget_below_light_is_what_everything_needs():
    """Advice that only made room for light would be followed in vain."""
    quick = {"ladder": (make_variant("s", 1, 2),)}
    short_ns = refusal_at(world_of(make_decision(budget_ms=7, **quick)), "lulea").short_ns
    enough = make_decision(budget_ms=(7 * MS + short_ns) / MS, **quick)

    assert "lulea" in [option.site for option in answers(world_of(enough))[0]]


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_those_who_ask_at_once_wait_for_each_other(lanes):
    """Five cameras on one trigger: the last starts when the others' rounds are over."""
    arrivals = Arrivals(kind="periodic", rate=10.0, synchronised=True)
    together = make_decision(arrivals=arrivals, sources={"stockholm": 5})
    alone = replace(together, arrivals=replace(arrivals, synchronised=False))
    estate = {"sites": ["stockholm"], "hardware": {"edge-2": make_hardware(lanes)}}

    ((batch,), _), ((single,), _) = (answers(world_of(d, **estate)) for d in (together, alone))

    assert batch.terms[-1] == single.terms[-1]
    assert single.wait_ns - batch.wait_ns == (ceil(5 / lanes) - 1) * batch.terms[-1].ns


def test_a_batch_too_large_for_the_budget_is_refused():
    """Twenty runs of 7 ms in a row never fit 100 ms."""
    arrivals = Arrivals(kind="periodic", rate=10.0, synchronised=True)
    crowd = make_decision(arrivals=arrivals, sources={"stockholm": 20})

    refusal = refusal_at(world_of(crowd, sites=["stockholm"]), "stockholm")

    assert refusal.term == "batch"
    assert refusal.sentence.startswith("all 20 askers ask at once: the last waits 130 ms")
    assert refusal.short_ns > 0


def test_what_is_not_known_of_a_place_is_told_with_its_remedy():
    """Hardware without lanes, a variant without times, a site without room or hardware."""
    sites = [
        "stockholm",
        make_site("lulea", hardware="bare"),
        make_site("umea", hardware="edge-9"),
        make_site("gavle", max_nodes=0),
        make_site("malmo", hardware=""),
        make_site("goteborg", hardware="small"),
    ]
    hardware = {"edge-2": make_hardware(), "bare": make_hardware(0), "edge-9": make_hardware()}
    hardware["small"] = make_hardware(memory_bytes=2**20)
    times = {"edge-2": make_delay(5, 7), "small": make_delay(5, 7)}
    decision = make_decision(ladder=(make_variant(service=times, memory_bytes=2**21),))

    world = world_of(decision, sites=sites, hardware=hardware)

    told = {
        town: refusal_at(world, town)
        for town in LOCATIONS
        if town in world.estate.sites and town != "stockholm"
    }
    assert {town: refusal.term for town, refusal in told.items()} == {
        "lulea": "lanes",
        "umea": "profile",
        "gavle": "nodes",
        "malmo": "lanes",
        "goteborg": "memory",
    }
    assert "add lanes = [{ cores = [1] }]" in told["lulea"].sentence
    assert "`tidsram profile obstacle --hardware edge-9`" in told["umea"].sentence
    assert "a worker of fp32 takes 2 MiB, a node of small has 1 MiB" in told["goteborg"].sentence


def test_a_variant_below_the_accuracy_floor_is_refused():
    """However fast it is."""
    ladder = (make_variant(), make_variant("int8", 1, 2, accuracy=0.7))
    world = world_of(make_decision(ladder=ladder, accuracy_floor=0.8), sites=["stockholm"])

    options, refusals = answers(world)

    assert [option.variant for option in options] == ["fp32"]
    assert [(refusal.variant, refusal.term) for refusal in refusals] == [("int8", "accuracy")]


def test_a_decision_without_any_times_ends_planning_with_the_command():
    """It would otherwise look as if it fitted nowhere; best-effort may stay out."""
    unknown = make_decision(ladder=(make_variant(service={}),))
    luxury = replace(unknown, criticality=Criticality.BEST_EFFORT)

    with pytest.raises(PlanError, match="run `tidsram profile obstacle --hardware edge-2` there"):
        answers(world_of(unknown))
    assert {refusal.term for refusal in answers(world_of(luxury))[1]} == {"profile"}


def test_an_estate_without_lanes_cannot_be_planned():
    """One lane per core is known only once a machine starts."""
    with pytest.raises(PlanError, match=r"add lanes = \[\{ cores = \[1\] \}\]"):
        world_of(hardware={"edge-2": make_hardware(0)})


def test_hardware_on_offer_is_an_option_too():
    """Each type with each variant, in the order of the file."""
    times = {"edge-2": make_delay(5, 7), "edge-9": make_delay(1, 2)}
    ladder = (make_variant(service=times), make_variant("int8", service=times))
    site = make_site("stockholm", offers=("edge-9", "edge-2"))
    hardware = {"edge-2": make_hardware(), "edge-9": make_hardware()}

    options, _ = answers(world_of(make_decision(ladder=ladder), sites=[site], hardware=hardware))

    assert [(option.hardware, option.variant) for option in options] == [
        ("edge-2", "fp32"),
        ("edge-2", "int8"),
        ("edge-9", "fp32"),
        ("edge-9", "int8"),
    ]


def test_a_case_for_each_single_loss_that_someone_survives():
    """What nobody must survive is not planned for; best-effort asks for nothing."""
    estate = make_estate(make_decision(survives=("node", "site", "link")))
    modest = make_estate(
        make_decision(survives=("link",)),
        make_decision("luxury", criticality=Criticality.BEST_EFFORT),
    )

    assert [case.name for case in cases(estate)] == [
        "healthy",
        "a node lost at stockholm (edge-2)",
        "a node lost at lulea (edge-2)",
        "stockholm down",
        "lulea down",
        "link stockholm–lulea cut",
    ]
    assert [case.kind for case in cases(modest)] == ["healthy", "link"]


@pytest.mark.parametrize(
    ("kind", "criticality", "must"),
    [
        ("healthy", Criticality.STANDARD, True),
        ("site", Criticality.STANDARD, True),
        ("node", Criticality.STANDARD, False),
        ("healthy", Criticality.BEST_EFFORT, False),
        ("site", Criticality.BEST_EFFORT, False),
    ],
)
def test_a_flow_is_needed_in_what_it_survives(kind, criticality, must):
    """Also when its own site is down: its askers are alive."""
    decision = make_decision(survives=("site",), criticality=criticality)
    (flow,) = flows(make_estate(decision), "2026-Q4")

    assert needs(decision, flow, Case(kind=kind, site="stockholm")) is must


def test_askers_of_a_lost_site_are_answered_elsewhere():
    """The server room is gone, the network stands."""
    world = world_of()
    case = Case(kind="site", site="stockholm")

    options, refusals = answers(world, case)

    assert [option.path for option in options] == [("stockholm", "lulea")]
    assert [(refusal.site, refusal.sentence) for refusal in refusals] == [
        ("stockholm", "it is down")
    ]


def test_a_periodic_asker_may_react_one_period_late():
    """Sampled ten times a second, 100 ms budget, 150 ms until it brakes; an event asks at once."""
    sampled = make_decision(arrivals=Arrivals(kind="periodic", rate=10.0), actuation_ns=150 * MS)
    event = replace(sampled, arrivals=Arrivals(kind="poisson", rate=10.0))

    assert (reaction_ns(sampled), reaction_ns(event)) == (350 * MS, 250 * MS)


def test_the_permitted_misses_are_shared_out_once():
    """Link, gate and run at the percentile in the sentences, the wait with its share."""
    assert wait_epsilon(0.99) == pytest.approx(0.004)
    run = answers(world_of(sites=["stockholm"]))[0][0].terms[-1]
    spread = answers(world_of(sites=["stockholm"]))[0][0].service
    assert run.ns == quantile_ns(spread, 0.998)


def test_published_round_trips_to_clouds_come_back_from_stockholm():
    """The prior reproduces what it was made from, and never beats light from elsewhere."""
    for cloud in CLOUDS:
        assert cloud_rtt(cloud, STOCKHOLM).delay.p50_ns == cloud.stockholm_ns
        for place in LOCATIONS.values():
            assert cloud_rtt(cloud, place).delay.p50_ns > floor_ns(place, cloud.location)


def test_why_not_the_cloud():
    """Law and the round trip, whichever of them decides; then whose machines they are."""
    bound, quick, slow = (
        {there.where: there.why for there in world.clouds(flows(world.estate, "2026-Q4")[0])}
        for world in (
            world_of(make_decision(jurisdictions=("SE",))),
            world_of(make_decision(budget_ms=20)),
            world_of(make_decision(budget_ms=1000)),
        )
    )

    assert bound["public cloud, Frankfurt"] == (
        "its data may not leave SE; and the round trip is 22.1 ms at p50, 30.4 ms at p99.9 of a "
        "budget of 100 ms"
    )
    assert bound["public cloud, Stockholm"].endswith("it would fit, but not on machines you own")
    assert quick["public cloud, Frankfurt"] == (
        "the round trip is 22.1 ms at p50, 30.4 ms at p99.9 of a budget of 20 ms"
    )
    assert all(why.endswith("it would fit, but not on machines you own") for why in slow.values())


def test_a_clouds_law_is_told_where_its_round_trip_is_not_known():
    """An estate without coordinates still hears of the law."""
    decision = make_decision(jurisdictions=("SE",))
    world = world_of(decision, sites=[make_site("stockholm", location=None)])

    told = world.clouds(flows(world.estate, "2026-Q4")[0])

    (frankfurt,) = [there.why for there in told if there.where == "public cloud, Frankfurt"]
    assert frankfurt.startswith("its data may not leave SE; and the round trip is not known")


def test_every_assumption_is_told_once_with_its_source():
    """Declared, measured and assumed; what is not declared is named as such."""
    profile = make_profile("obstacle", "fp32", "edge-2", [20.0, 30.0])
    growing = make_decision(growth={"2027-Q1": 1.5}, capture_ns=5 * MS)
    world = world_of(growing, measured=Measured(profiles={profile.key: profile}))

    told = {assumption.what: assumption for assumption in assumptions(world)}

    assert len(told) == len(assumptions(world))
    assert all(assumption.value and assumption.source for assumption in told.values())
    assert told["run of obstacle, fp32 on edge-2"].basis == "measured"
    assert told["capture of obstacle"].value == "5 ms"
    assert told["actuation of obstacle"].source == "not declared"
    assert told["round trip lulea–stockholm"].basis == "prior"
    assert told["growth of obstacle"].value.startswith("1.5 × from 2027-Q1")
    assert told["gate, where not measured"].basis == "prior"


def test_the_measured_share_counts_milliseconds():
    """A quarter of the time measured is a quarter, whatever the number of terms."""
    run = Term(stage="run", ns=10, basis="measured", source="")
    link = Term(stage="link", ns=30, basis="declared", source="")

    assert measured_share([[run, link], [run, link]]) == 0.25
    assert measured_share([]) == 0


@pytest.mark.parametrize("basis", ["measured", "prior"])
def test_the_wait_is_no_measurement(basis):
    """However much is left to wait, the share is that of the rest."""
    run = Term(stage="run", ns=10, basis="measured", source="")
    gate = Term(stage="gate", ns=10, basis="prior", source="")
    wait = Term(stage="wait", ns=1000, basis=basis, source="")

    assert measured_share([[gate, wait, run]]) == 0.5
