"""What one node serves of an estate: what the law lets it, or what a plan gives it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tidsram.errors import EstateError
from tidsram.estate.node import part_by_law, part_by_plan, pick_node
from tidsram.estate.plan import Place, Plan, PlannedFlow, PlannedNode, WarmDecision, parse_plan
from tidsram.estate.types import Arrivals, Decision, Estate, Hardware, Lane, Site, Variant

CORES = (0, 1)
LADDER = tuple(Variant(name=name, model=f"{name}.onnx") for name in ("exact", "middle", "quick"))


def decision(name: str, kind: str = "periodic", rate: float = 10.0, **keys) -> Decision:
    """Return a decision of three variants."""
    arrivals = Arrivals(kind=kind, rate=rate, burst=keys.pop("burst", 0))
    return Decision(name=name, ladder=LADDER, budget_ns=10**8, arrivals=arrivals, **keys)


def estate(*decisions: Decision) -> Estate:
    """Return an estate of two sites, with machines of two lanes and of one."""
    lanes = tuple(Lane(cores=(core,)) for core in CORES)
    return Estate(
        name="e",
        sites={
            "here": Site(name="here", hardware="box", jurisdiction="SE"),
            "there": Site(name="there", hardware="box", jurisdiction="DE"),
        },
        hardware={"box": Hardware(lanes=lanes), "small": Hardware(lanes=lanes[:1])},
        decisions={one.name: one for one in decisions},
    )


def warm(name: str, variant: str = "middle", lanes: tuple[int, ...] = (1,)) -> WarmDecision:
    """Return a decision that is kept warm."""
    return WarmDecision(
        decision=name,
        variant=variant,
        role="serves",
        lanes=lanes,
        wait_us=1000,
        rate=1.0,
        neighbours=(),
    )


def node(number: int, *entries: WarmDecision, site: str = "here", hw: str = "box") -> PlannedNode:
    """Return a node of the plan."""
    return PlannedNode(
        site=site, node=number, hardware=hw, load=0.5, busy=0.2, memory_bytes=0, warm=entries
    )


def flow(name: str, askers: int, rate: float, place: Place, **backups: Place) -> PlannedFlow:
    """Return a flow of the plan; backups by case."""
    return PlannedFlow(
        decision=name,
        source="here",
        part=0,
        parts=1,
        askers=askers,
        rate=rate,
        criticality="standard",
        budget_us=100_000,
        objective=0.99,
        reaction_us=0,
        place=place,
        variant="middle",
        accuracy=0.9,
        terms=(),
        elsewhere=(),
        backups=backups,
        proofs=(),
    )


def plan(nodes: tuple[PlannedNode, ...], flows: tuple[PlannedFlow, ...] = ()) -> Plan:
    """Return a plan of these nodes and flows."""
    return Plan(
        estate="e",
        estate_sha256="",
        made="2026-11-24",
        quarter="2026-Q4",
        currency="EUR",
        yearly_cost=0.0,
        cost_bound=0.0,
        solve_seconds=0.0,
        verify_seconds=0.0,
        rounds=1,
        verified=True,
        requests=0,
        measured_share=0.0,
        nodes=nodes,
        flows=flows,
        cases=(),
        quarters=(),
        purchases=(),
        savings=(),
        assumptions=(),
        problems=(),
    )


A, B = Place(site="here", node=1), Place(site="here", node=2)

# By law ---------------------------------------------------------------------------------------


def test_what_the_law_forbids_is_left_out_and_named():
    """The rest is served as declared."""
    world = estate(decision("free"), decision("bound", jurisdictions=("SE",)))

    here, there = (part_by_law(world, world.sites[name]) for name in ("here", "there"))

    assert here.estate == world
    assert here.left_out == {}
    assert list(there.estate.decisions) == ["free"]
    assert "its jurisdictions are SE" in there.left_out["bound"]


def test_all_who_ask_at_a_site_are_within_the_declaration():
    """Eight cameras at 10/s are 80/s; a site where nobody asks answers for all."""
    world = estate(decision("seen", sources={"here": 8}))

    for site in world.sites.values():
        arrivals = part_by_law(world, site).estate.decisions["seen"].arrivals
        assert (arrivals.rate, arrivals.burst) == (80.0, 16)


# By plan --------------------------------------------------------------------------------------


def part(world: Estate, whole: Plan, number: int = 1):
    """Return what a node of the plan serves."""
    return part_by_plan(world, whole, pick_node(whole, "here", number, "p"), CORES, "p")


def test_a_planned_node_has_only_what_is_warm_there_in_its_variant_on_its_lanes():
    """Whatever else the estate declares."""
    world = estate(decision("a"), decision("b"), decision("c"))
    whole = plan(
        (node(1, warm("c", "quick", (0, 1)), warm("a", "exact", (0,))), node(2, warm("b")))
    )

    found = part(world, whole)

    ladders = {name: [v.name for v in d.ladder] for name, d in found.estate.decisions.items()}
    assert ladders == {"c": ["quick"], "a": ["exact"]}
    assert found.warm == {"c": (0, 1), "a": (0,)}


def test_a_planned_node_is_of_the_hardware_that_the_plan_gives_it():
    """Not of the one that stands at its site today."""
    whole = plan((node(1, warm("a", lanes=(0,)), hw="small"),))

    assert part(estate(decision("a")), whole).estate.sites["here"].hardware == "small"


def test_what_a_loss_brings_is_within_the_declaration():
    """A node that stands by for another's critical questions must not demote them."""
    flows = (flow("a", 2, 20.0, A), flow("a", 5, 50.0, B, down=A))
    whole = plan((node(1, warm("a")), node(2, warm("a"))), flows)

    first, second = (
        part(estate(decision("a")), whole, number).estate.decisions["a"].arrivals
        for number in (1, 2)
    )

    assert (first.rate, first.burst) == (70.0, 14)
    assert (second.rate, second.burst) == (50.0, 10)


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.sampled_from([A, B]), st.sampled_from([None, A, B])),
        min_size=1,
        max_size=6,
    )
)
def test_no_case_brings_more_than_is_declared(told):
    """Whatever is lost, alone."""
    flows = tuple(
        flow("a", askers, 10.0 * askers, place, **({f"case {number % 3}": to} if to else {}))
        for number, (askers, place, to) in enumerate(told)
    )
    whole = plan((node(1, warm("a")), node(2, warm("a"))), flows)

    for number, here in ((1, A), (2, B)):
        declared = part(estate(decision("a")), whole, number).estate.decisions["a"].arrivals
        for case in ("healthy", "case 0", "case 1", "case 2"):
            brought = sum(f.rate for f in flows if f.backups.get(case, f.place) == here)
            assert brought <= declared.rate


def test_growth_is_within_the_declaration():
    """The plan's rate counts, not today's."""
    whole = plan((node(1, warm("a")),), (flow("a", 2, 35.0, A),))

    assert part(estate(decision("a")), whole).estate.decisions["a"].arrivals.rate == 35.0


def test_a_declared_burst_is_each_askers_and_a_random_one_stays_open():
    """Two askers may come at once; of random arrivals the burst is derived."""
    world = estate(decision("a", burst=5), decision("r", kind="poisson"))
    flows = (flow("a", 3, 30.0, A), flow("r", 3, 30.0, A))
    whole = plan((node(1, warm("a"), warm("r")),), flows)

    decisions = part(world, whole).estate.decisions

    assert decisions["a"].arrivals.burst == 15
    assert (decisions["r"].arrivals.burst, decisions["r"].arrivals.rate) == (0, 30.0)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (warm("gone"), "keeps gone warm as middle, and the estate does not declare that"),
        (warm("a", "gone"), "keeps a warm as gone, and the estate does not declare that"),
        (
            warm("a", lanes=(1, 2)),
            "keeps a warm on lanes 1, 2 of here, and this machine gives it 2",
        ),
        (warm("a", lanes=(-1,)), "keeps a warm on lanes -1"),
        (warm("a", lanes=()), "keeps a warm on lanes none"),
        (warm("bound"), "keeps bound warm at here, where it may not be: its jurisdictions are NO"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(entry, problem):
    """Somebody has changed it by hand, or the machine is another."""
    world = estate(decision("a"), decision("bound", jurisdictions=("NO",)))

    with pytest.raises(EstateError) as refused:
        part(world, plan((node(1, entry),)))

    assert problem in str(refused.value)


def test_hardware_that_is_not_declared_is_refused():
    """It says nothing of the lanes."""
    with pytest.raises(EstateError, match="has a node at here of other, and the estate does not"):
        part(estate(decision("a")), plan((node(1, warm("a"), hw="other"),)))


# Which node -----------------------------------------------------------------------------------

THREE = plan((node(1), node(2), node(1, site="there")))


def test_a_node_is_picked_by_what_is_said_and_what_is_the_only_one():
    """No word more than needed."""
    assert pick_node(THREE, "here", 2, "p") is THREE.nodes[1]
    assert pick_node(THREE, "there", None, "p") is THREE.nodes[2]
    assert pick_node(plan(THREE.nodes[:1]), None, None, "p") is THREE.nodes[0]


@pytest.mark.parametrize(
    ("site", "number", "problem"),
    [
        (None, None, "p: has nodes at 2 sites; say which with --site: here, there"),
        ("here", None, "p: has 2 nodes at here; say which with --node: 1, 2"),
        ("here", 3, "p: has no node 3 at here; there are 1, 2"),
        ("else", 1, "p: has no node at else; it has some at here, there"),
    ],
)
def test_a_node_that_is_not_clear_is_asked_for(site, number, problem):
    """With what there is."""
    with pytest.raises(EstateError) as refused:
        pick_node(THREE, site, number, "p")

    assert str(refused.value) == problem


def test_a_plan_without_nodes_says_so():
    """It found no place for anything."""
    with pytest.raises(EstateError, match="p: has no nodes"):
        pick_node(plan(()), None, None, "p")


# The file -------------------------------------------------------------------------------------


def test_a_plan_survives_its_file():
    """Every field."""
    whole = plan((node(1, warm("a")), node(2)), (flow("a", 1, 1.0, A, down=B),))

    assert parse_plan(msgspec.json.encode(whole), "p") == whole


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "p: is not a plan ("),
        (b"{}", "p: is not a plan ("),
        (b"[1, 2]", "p: is not a plan ("),
        (b"\xff\xfe", "p: is not a plan ("),
        (b"[" * 100_000, "p: is not a plan ("),
        (b'{"version": 1, "estate": "e"}', "missing required field `estate_sha256`"),
        (b'{"version": 2, "estate": "e"}', "is a plan of version 2, and this tidsram reads 1;"),
    ],
    ids=["empty", "no fields", "list", "no text", "deep", "cut", "newer"],
)
def test_what_is_no_plan_is_one_sentence(content, problem):
    """With the way to a new one."""
    with pytest.raises(EstateError) as refused:
        parse_plan(content, "p")

    assert problem in str(refused.value)
    assert "`tidsram plan`" in str(refused.value)


@given(st.data())
def test_a_broken_plan_is_never_a_traceback(data):
    """Bytes lost or changed anywhere."""
    content = bytearray(msgspec.json.encode(plan((node(1, warm("a")),))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))

    try:
        found = parse_plan(bytes(content), "p")
    except EstateError:
        return
    assert isinstance(replace(found), Plan)
