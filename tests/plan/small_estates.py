"""Small estates for the tests of planning, made from the types; name only what matters."""

from itertools import pairwise

from hypothesis import strategies as st

from tidsram.estate.types import (
    Arrivals,
    Criticality,
    Decision,
    Delay,
    Estate,
    Hardware,
    Lane,
    Link,
    Site,
    Variant,
)
from tidsram.lab.facts import LinkProbe, Measured, Profile
from tidsram.plan.demand import flows
from tidsram.plan.instance import make_instance
from tidsram.plan.judge import Provers
from tidsram.plan.latency import World, cases
from tidsram.plan.prove import Prover
from tidsram.plan.search import Limits, search
from tidsram.units import MS

LOCATIONS = {
    "stockholm": (59.33, 18.07),
    "gavle": (60.67, 17.14),
    "sundsvall": (62.39, 17.31),
    "umea": (63.83, 20.26),
    "lulea": (65.58, 22.15),
    "goteborg": (57.71, 11.97),
    "malmo": (55.60, 13.00),
}


def make_delay(p50_ms, p99_9_ms):
    """Return a delay from milliseconds."""
    return Delay(p50_ns=round(p50_ms * MS), p99_9_ns=round(p99_9_ms * MS))


def make_hardware(lanes=1, **declared):
    """Return a hardware type of so many lanes of one core each."""
    cores = tuple(Lane(cores=(core,)) for core in range(1, lanes + 1))
    return Hardware(lanes=cores, **declared)


def make_site(name, **declared):
    """Return a Swedish site with edge-2 machines, where its town lies."""
    standard = {"hardware": "edge-2", "jurisdiction": "SE", "location": LOCATIONS.get(name)}
    return Site(name=name, **standard | declared)


def make_variant(name="fp32", p50_ms=5, p99_9_ms=7, **declared):
    """Return a variant that declares its time on edge-2."""
    standard = {"accuracy": 0.9, "service": {"edge-2": make_delay(p50_ms, p99_9_ms)}}
    return Variant(name=name, model="", **standard | declared)


def make_decision(name="obstacle", *, budget_ms=100, **declared):
    """Return a decision asked at Stockholm ten times a second."""
    standard = {
        "ladder": (make_variant(),),
        "arrivals": Arrivals(kind="poisson", rate=10.0),
        "sources": {"stockholm": 1},
    }
    return Decision(name=name, budget_ns=round(budget_ms * MS), **standard | declared)


def make_estate(*decisions, sites=("stockholm", "lulea"), links=None, hardware=None, **declared):
    """Return an estate; `sites` are names or Sites, joined in a row where `links` says nothing."""
    placed = [make_site(site) if isinstance(site, str) else site for site in sites]
    names = [site.name for site in placed]
    if links is None:
        links = [Link(a=a, b=b) for a, b in pairwise(names)]
    return Estate(
        name="test",
        sites={site.name: site for site in placed},
        hardware=hardware or {"edge-2": make_hardware()},
        decisions={decision.name: decision for decision in decisions or [make_decision()]},
        links=tuple(links),
        **declared,
    )


def make_profile(decision, variant, hardware, run_ms, gate_ms=(), memory_bytes=1):
    """Return a profile with these runs."""
    return Profile(
        decision=decision,
        variant=variant,
        hardware=hardware,
        date="2026-11-24",
        machine="a test's",
        model_sha256="",
        run_ns=tuple(round(ms * MS) for ms in run_ms),
        gate_ns=tuple(round(ms * MS) for ms in gate_ms),
        memory_bytes=memory_bytes,
    )


def make_probe(a, b, rtt_ms):
    """Return a probe with these round trips."""
    return LinkProbe(a=a, b=b, date="2026-11-24", rtt_ns=tuple(round(ms * MS) for ms in rtt_ms))


@st.composite
def estates(draw):
    """Any estate of two or three sites in a row, and up to four decisions of any criticality."""
    names = draw(st.sampled_from([("stockholm", "lulea"), ("stockholm", "gavle", "lulea")]))
    decisions = [
        make_decision(
            f"d{number}",
            budget_ms=draw(st.sampled_from([60, 100, 400])),
            arrivals=Arrivals(kind="poisson", rate=float(draw(st.integers(5, 80)))),
            criticality=draw(st.sampled_from(list(Criticality))),
            survives=draw(st.sampled_from([(), ("node",), ("node", "site", "link")])),
            sources={draw(st.sampled_from(names)): draw(st.integers(1, 2))},
        )
        for number in range(draw(st.integers(1, 4)))
    ]
    return make_estate(*decisions, sites=names, hardware={"edge-2": make_hardware(yearly_cost=100)})


def make_instance_of(estate, parts=None, quarter="2026-Q4"):
    """Return the problem that an estate is in a quarter, nothing of it measured."""
    world = World(estate, Measured())
    return make_instance(estate, world, cases(estate), flows(estate, quarter), parts)


def search_for(estate, limits=None, *, measured=None, requests=400, say=lambda _: None):
    """Return what a search finds for an estate in its first quarter, in this process."""
    world = World(estate, measured or Measured())
    asked = flows(estate, "2026-Q4")

    def make(parts):
        return make_instance(estate, world, cases(estate), asked, parts)

    provers = Provers(*(Prover(requests, seed, 1, times=times) for seed, times in _LENGTHS))
    return search(make, provers, limits or Limits(), say)


_LENGTHS = ((1, 1.0), (2, 3.0), (3, 1.5), (4, None))  # seed and times of each prover
