"""A plan made by hand for six Swedish sites: what planning would hand to its readers."""

from msgspec.structs import replace

from tidsram.estate.plan import (
    Assumption,
    Elsewhere,
    Place,
    Plan,
    PlannedFlow,
    PlannedNode,
    PlannedTerm,
    Proof,
    Purchase,
    QuarterPlan,
    Saving,
    WarmDecision,
)
from tidsram.estate.types import (
    Arrivals,
    Criticality,
    DataClass,
    Decision,
    Delay,
    Estate,
    Hardware,
    Link,
    Site,
    Variant,
)
from tidsram.stats import lower_bound, verdict
from tidsram.units import MS

REQUESTS = 20_000
PRIOR = "fibre prior from the sites' coordinates: 2.0 × light's time + 0.5 ms, p99.9 2.6 × + 2 ms"
RUNS = "measured 2026-11-18, 2,000 runs on edge-4 (Xeon D-1736, 8 cores, kernel 6.18)"
GATE = "measured 2026-11-18 with the runs, all that a node takes but waiting"
REST = "what the budget leaves once the other parts have had their due"

LOCATIONS = {
    "arjeplog": (66.05, 17.89),
    "gavle": (60.67, 17.14),
    "gotland": (57.64, 18.30),
    "skelleftea": (64.75, 20.95),
    "trollhattan": (58.28, 12.29),
    "umea": (63.83, 20.26),
}
# name: budget ms, objective, criticality, rate, askers by source, actuation ms, data
DECISIONS: dict[str, tuple[int, float, str, float, dict[str, int], int, str]] = {
    "obstacle": (100, 0.99, "critical", 10.0, {"arjeplog": 12}, 150, "camera"),
    "tissue": (300, 0.999, "critical", 4.0, {"gavle": 4, "umea": 6}, 0, "patient"),
    "weld": (40, 0.999, "critical", 20.0, {"trollhattan": 8}, 12, "process"),
    "board": (80, 0.99, "standard", 12.0, {"skelleftea": 10}, 20, "process"),
    "acoustic": (250, 0.99, "standard", 5.0, {"gotland": 16}, 0, "watch"),
    "dose": (500, 0.99, "standard", 2.0, {"umea": 8}, 0, "patient"),
    "archive": (5000, 0.9, "best-effort", 3.0, {"arjeplog": 12, "gavle": 4}, 0, "camera"),
}
NODES = {
    ("arjeplog", 1): ("edge-4", 0.71, 0.38),
    ("gavle", 1): ("edge-4", 0.63, 0.34),
    ("gavle", 2): ("edge-4", 0.22, 0.12),
    ("skelleftea", 1): ("edge-2", 0.66, 0.41),
    ("trollhattan", 1): ("edge-4", 0.82, 0.29),
    ("trollhattan", 2): ("edge-4", 0.08, 0.03),
    ("umea", 1): ("edge-4", 0.74, 0.43),
    ("umea", 2): ("edge-4", 0.31, 0.17),
}
CASES = (
    "healthy",
    "a node lost at arjeplog (edge-4)",
    "a node lost at gavle (edge-4)",
    "a node lost at trollhattan (edge-4)",
    "a node lost at umea (edge-4)",
    "gavle down",
    "umea down",
    "link arjeplog–skelleftea cut",
    "link gavle–umea cut",
)


def estate() -> Estate:
    """Return the estate of the plan below."""
    places = {
        name: Site(
            name=name, hardware="edge-4", jurisdiction="SE", location=at, yearly_cost=18_000.0
        )
        for name, at in LOCATIONS.items()
    }
    return Estate(
        name="norrland",
        currency="SEK",
        sites=places,
        hardware={
            "edge-2": Hardware(yearly_cost=31_000.0, lead_weeks=8, memory_bytes=8 << 30),
            "edge-4": Hardware(yearly_cost=58_000.0, lead_weeks=12, memory_bytes=16 << 30),
        },
        decisions={name: _decision(name) for name in DECISIONS},
        links=(
            Link(a="arjeplog", b="skelleftea", rtt=Delay(p50_ns=4 * MS, p99_9_ns=9 * MS)),
            Link(a="skelleftea", b="umea"),
            Link(a="gavle", b="umea"),
            Link(a="gavle", b="gotland"),
            Link(a="gavle", b="trollhattan"),
        ),
        data={"patient": DataClass(name="patient", jurisdictions=("SE",))},
    )


def plan() -> Plan:
    """Return a plan that holds and is verified."""
    return Plan(
        estate="norrland",
        estate_sha256="3f1c" * 16,
        made="2026-11-24",
        quarter="2026-Q4",
        currency="SEK",
        yearly_cost=527_000.0,
        cost_bound=511_500.0,
        solve_seconds=3.2,
        verify_seconds=41.0,
        rounds=2,
        verified=True,
        requests=REQUESTS,
        measured_share=0.637,
        nodes=tuple(_node(*key) for key in NODES),
        flows=_flows(),
        cases=CASES,
        quarters=_quarters(),
        purchases=(
            Purchase(
                quarter="2027-Q2",
                site="arjeplog",
                hardware="edge-4",
                nodes=1,
                order_by="2027-01-06",
            ),
            Purchase(
                quarter="2027-Q4", site="umea", hardware="edge-4", nodes=1, order_by="2027-07-09"
            ),
        ),
        savings=(
            Saving(
                decision="weld",
                change="budget from 40 ms to 48 ms",
                saves_nodes=1,
                saves_cost=58_000.0,
                sentence="With 48 ms instead of 40 ms, weld needs one node less.",
            ),
            Saving(
                decision="obstacle",
                change="survives without site",
                saves_nodes=0,
                saves_cost=0.0,
                sentence="Not surviving the loss of arjeplog would save nothing for obstacle.",
            ),
        ),
        assumptions=_assumptions(),
        problems=(),
    )


def failing_plan() -> Plan:
    """Return a plan that does not hold: one decision has no place, and one is contradicted."""
    whole = plan()
    flows = tuple(
        replace(one, place=None, variant="", accuracy=0.0, terms=(), backups={}, proofs=())
        if one.decision == "weld"
        else replace(one, proofs=(_proof("healthy", 19_420, one.objective, one.budget_us),))
        if one.decision == "board"
        else one
        for one in whole.flows
    )
    return replace(
        whole,
        verified=False,
        flows=flows,
        problems=(
            "weld at trollhattan: the budget is 40 ms, its best placement takes 47 ms.",
            "board at skelleftea keeps 96.6 % of its questions in time, 99 % are promised.",
        ),
    )


def unverified_plan() -> Plan:
    """Return a plan that was solved and never simulated."""
    whole = plan()
    return replace(
        whole,
        verified=False,
        requests=0,
        verify_seconds=0.0,
        flows=tuple(replace(flow, proofs=()) for flow in whole.flows),
    )


def crowded_plan(decisions: int = 60) -> Plan:
    """Return a plan of many decisions, each asked at two sites."""
    whole, names = plan(), list(LOCATIONS)
    models = whole.flows
    flows = [
        replace(
            models[number % len(models)],
            decision=f"process-{number:02}",
            source=names[(number + 3 * second) % len(names)],
        )
        for number in range(decisions)
        for second in range(2)
    ]
    return replace(whole, flows=tuple(flows))


def _decision(name: str) -> Decision:
    budget_ms, objective, criticality, rate, sources, actuation_ms, data = DECISIONS[name]
    return Decision(
        name=name,
        ladder=(Variant(name="int8", model=f"{name}.onnx", accuracy=0.91),),
        budget_ns=budget_ms * MS,
        objective=objective,
        criticality=Criticality(criticality),
        arrivals=Arrivals(kind="periodic", rate=rate),
        sources=sources,
        data=data,
        jurisdictions=("SE",),
        actuation_ns=actuation_ms * MS,
    )


def _flows() -> tuple[PlannedFlow, ...]:
    elsewhere_of_tissue = {
        "trollhattan": "41.2 ms of link to trollhattan leave 8 ms to wait, less than one run",
        "gotland": "no node stands there, and opening the site would cost 18,000 SEK a year",
    }
    return (
        _flow("obstacle", "arjeplog", Place(site="arjeplog", node=1),
              (("capture", 8_000), ("access", 15_200), ("gate", 900), ("run", 34_800)),
              {"a node lost at arjeplog (edge-4)": Place(site="skelleftea", node=1)},
              {"skelleftea": "possible; kept for the loss of the node at arjeplog"}),
        _flow("tissue", "gavle", Place(site="gavle", node=1),
              (("capture", 20_000), ("access", 400), ("gate", 1_300), ("run", 118_000)),
              {"a node lost at gavle (edge-4)": Place(site="gavle", node=2),
               "gavle down": Place(site="umea", node=1)}, elsewhere_of_tissue),
        _flow("tissue", "umea", Place(site="umea", node=1),
              (("capture", 20_000), ("access", 400), ("gate", 1_300), ("run", 118_000)),
              {"a node lost at umea (edge-4)": Place(site="umea", node=2),
               "umea down": Place(site="gavle", node=2)}, elsewhere_of_tissue),
        _flow("weld", "trollhattan", Place(site="trollhattan", node=1),
              (("capture", 4_000), ("access", 300), ("gate", 700), ("run", 11_400)),
              {"a node lost at trollhattan (edge-4)": Place(site="trollhattan", node=2)},
              {"gavle": "the link to gavle takes 12.9 ms and leaves 10.7 ms to wait, less than one "
                        "run"}),
        _flow("board", "skelleftea", Place(site="skelleftea", node=1),
              (("capture", 6_000), ("access", 300), ("gate", 800), ("run", 21_500)), {},
              {"umea": "possible, but edge-4 at umea is full with patients' data"}),
        _flow("acoustic", "gotland", Place(site="gavle", node=2),
              (("capture", 64_000), ("access", 2_500), ("link", 11_800), ("gate", 900),
               ("run", 42_000)),
              {"gavle down": Place(site="trollhattan", node=2)},
              {"gotland": "no node stands there, and one would cost 76,000 SEK a year"}),
        _flow("dose", "umea", Place(site="umea", node=2),
              (("capture", 30_000), ("access", 400), ("gate", 1_200), ("run", 61_000)),
              {"a node lost at umea (edge-4)": Place(site="umea", node=1),
               "umea down": Place(site="gavle", node=1)}, {}, part=0, parts=2),
        _flow("dose", "umea", Place(site="umea", node=2),
              (("capture", 30_000), ("access", 400), ("gate", 1_200), ("run", 61_000)),
              {"a node lost at umea (edge-4)": Place(site="umea", node=1),
               "umea down": Place(site="gavle", node=1)}, {}, part=1, parts=2),
        _flow("archive", "arjeplog", Place(site="umea", node=2),
              (("access", 15_200), ("link", 14_900), ("gate", 1_900), ("run", 240_000)),
              {"umea down": None, "a node lost at umea (edge-4)": None,
               "link arjeplog–skelleftea cut": None}, {}),
        _flow("archive", "gavle", None, (), {}, {"gavle": "best-effort, left out to save a node"}),
    )  # fmt: skip


def _flow(
    name: str,
    source: str,
    place: Place | None,
    parts_us: tuple[tuple[str, int], ...],
    backups: dict[str, Place | None],
    elsewhere: dict[str, str],
    part: int = 0,
    parts: int = 1,
) -> PlannedFlow:
    budget_ms, objective, criticality, rate, sources, actuation_ms, _ = DECISIONS[name]
    askers, budget_us = sources[source] // parts, budget_ms * 1000
    abroad = {
        "public cloud, Frankfurt": "not allowed: jurisdiction DE; its round trip is 38 ms at p99",
        "public cloud, Dublin": "not allowed: jurisdiction IE; its round trip is 61 ms at p99",
    }
    return PlannedFlow(
        decision=name,
        source=source,
        part=part,
        parts=parts,
        askers=askers,
        rate=rate * askers,
        criticality=criticality,
        budget_us=budget_us,
        objective=objective,
        reaction_us=round(1_000_000 / rate) + budget_us + actuation_ms * 1000,
        place=place,
        variant="int8" if place else "",
        accuracy=0.91 if place else 0.0,
        terms=_terms(parts_us, budget_us),
        elsewhere=tuple(Elsewhere(where=w, why=y) for w, y in (elsewhere | abroad).items()),
        backups=backups,
        proofs=_proofs(objective, budget_us, backups) if place else (),
    )


def _terms(parts_us: tuple[tuple[str, int], ...], budget_us: int) -> tuple[PlannedTerm, ...]:
    """Return the parts with the wait before the run: what they leave of the budget."""
    rests = {
        "capture": ("declared", "tidsram.toml: capture"),
        "access": ("declared", "tidsram.toml: access, a private 5G cell"),
        "link": ("prior", PRIOR),
        "gate": ("measured", GATE),
        "run": ("measured", RUNS),
    }
    wait_us = budget_us - sum(us for _, us in parts_us)
    terms = [
        PlannedTerm(stage=stage, us=us, basis=rests[stage][0], source=rests[stage][1])
        for stage, us in parts_us
    ]
    if terms:
        wait = PlannedTerm(stage="wait", us=wait_us, basis="measured", source=REST)
        terms.insert(len(terms) - 1, wait)
    return tuple(terms)


def _proofs(
    objective: float, budget_us: int, backups: dict[str, Place | None]
) -> tuple[Proof, ...]:
    doubt = round(REQUESTS * (1 - objective))
    cases = ["healthy", *(case for case, place in backups.items() if place)]
    return tuple(
        _proof(case, REQUESTS - doubt // (5 - number % 2 * 2) + number, objective, budget_us)
        for number, case in enumerate(cases)
    )


def _proof(case: str, in_time: int, objective: float, budget_us: int) -> Proof:
    return Proof(
        case=case,
        asked=REQUESTS,
        in_time=in_time,
        share_at_least=lower_bound(in_time, REQUESTS),
        verdict=verdict(in_time, REQUESTS, objective),
        p50_us=round(budget_us * 0.52),
        p99_us=round(budget_us * 0.86),
        p99_9_us=None if case != "healthy" else round(budget_us * 0.97),
    )


def _node(site: str, number: int) -> PlannedNode:
    hardware, load, busy = NODES[site, number]
    here = Place(site=site, node=number)
    serving = [flow for flow in _flows() if flow.place == here]
    standing_by = [flow for flow in _flows() if here in flow.backups.values()]
    warm = {flow.decision: (flow, "stands by") for flow in standing_by}
    warm |= {flow.decision: (flow, "serves") for flow in serving}
    return PlannedNode(
        site=site,
        node=number,
        hardware=hardware,
        load=load,
        busy=busy,
        memory_bytes=len(warm) * 420 * 2**20,
        warm=tuple(
            WarmDecision(
                decision=name,
                variant="int8",
                role=role,  # type: ignore[arg-type]
                lanes=(0, 1) if role == "serves" else (2,),
                wait_us=20_000,
                rate=sum(one.rate for one in serving if one.decision == name),
                neighbours=tuple(
                    dict.fromkeys(
                        place
                        for one in serving
                        if one.decision == name
                        for place in one.backups.values()
                        if place is not None
                    )
                ),
            )
            for name, (flow, role) in warm.items()
        ),
    )


def _quarters() -> tuple[QuarterPlan, ...]:
    now = {"arjeplog edge-4": 1, "gavle edge-4": 2, "skelleftea edge-2": 1}
    now |= {"trollhattan edge-4": 2, "umea edge-4": 2}
    track, ward = now | {"arjeplog edge-4": 2}, now | {"arjeplog edge-4": 2, "umea edge-4": 3}
    rows = (
        ("2026-Q4", 501.0, now, 527_000.0, 1.31, "weld on trollhattan 1: its lanes are full"),
        ("2027-Q1", 560.0, now, 527_000.0, 1.17, "obstacle on arjeplog 1: its lanes are full"),
        ("2027-Q2", 690.0, track, 585_000.0, 1.24, "weld on trollhattan 1: its lanes are full"),
        ("2027-Q3", 774.0, track, 585_000.0, 1.06, "tissue on umea 1 once gavle is down"),
        ("2027-Q4", 905.0, ward, 643_000.0, 1.12, "weld on trollhattan 1: its lanes are full"),
    )
    return tuple(
        QuarterPlan(
            quarter=quarter,
            demand=demand,
            nodes=nodes,
            yearly_cost=cost,
            headroom=headroom,
            breaks_first=breaks,
            verified=quarter != "2027-Q3",
            problem="",
        )
        for quarter, demand, nodes, cost, headroom, breaks in rows
    )


def _assumptions() -> tuple[Assumption, ...]:
    declared = [
        Assumption(
            what=f"{name}: questions",
            value=f"periodic, {rate:g}/s from each of {sum(sources.values())} askers",
            basis="declared",
            source="tidsram.toml",
        )
        for name, (_, _, _, rate, sources, _, _) in DECISIONS.items()
    ]
    return (
        Assumption(what="run of tissue int8 on edge-4", value="p50 96 ms, p99.9 118 ms",
                   basis="measured", source=RUNS),
        *declared,
        Assumption(what="link gavle–gotland", value="round trip p50 7.6 ms, p99.9 11.8 ms",
                   basis="prior", source=PRIOR),
        Assumption(what="public cloud, Frankfurt", value="round trip p50 22 ms from Stockholm",
                   basis="prior", source="published round-trip matrix, March 2023"),
    )  # fmt: skip
