"""Generated Swedish estates: the same for the same seed, and none that is impossible.

Decisions are of the four kinds of our examples. Budgets leave room for at least three runs; who
must survive the loss of a site or a link has a budget that reaches every other site of the estate.
Nothing stands anywhere yet, so every planner starts from an empty map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from math import asin, cos, radians, sin, sqrt
from typing import Literal

import numpy as np
from msgspec.structs import replace
from numpy.random import Generator

from tidsram.estate.types import (
    Arrivals,
    Criticality,
    DataClass,
    Decision,
    Delay,
    Estate,
    Hardware,
    Lane,
    Link,
    Site,
    Variant,
)
from tidsram.units import MS

SEED = 2026
SIZES = (12, 14, 18, 24, 30, 36, 48, 60)  # decisions of the eight estates
SITES = (3, 3, 4, 5, 6, 6, 7, 8)
TINY = ((3, 1), (3, 2), (4, 1), (2, 2), (4, 2), (4, 1), (3, 2), (4, 2))  # decisions and sites
LARGE_SITES = 12
MOST_ASKERS = 4  # of a decision at a site
RATES, TINY_RATES = (14.0, 20.0), (25.0, 60.0)  # questions per second of a decision at a site

CITIES = {
    "malmo": (55.61, 13.00),
    "vaxjo": (56.88, 14.81),
    "goteborg": (57.71, 11.97),
    "jonkoping": (57.78, 14.16),
    "trollhattan": (58.28, 12.29),
    "linkoping": (58.41, 15.62),
    "orebro": (59.27, 15.21),
    "stockholm": (59.33, 18.07),
    "karlstad": (59.38, 13.50),
    "vasteras": (59.61, 16.55),
    "uppsala": (59.86, 17.64),
    "gavle": (60.67, 17.14),
    "sundsvall": (62.39, 17.31),
    "ostersund": (63.18, 14.64),
    "umea": (63.83, 20.26),
    "skelleftea": (64.75, 20.95),
    "lulea": (65.58, 22.15),
    "kiruna": (67.86, 20.23),
}
HARDWARE = {
    "edge-2": Hardware(
        lanes=tuple(Lane(cores=(core,)) for core in (1, 2)),
        memory_bytes=8 << 30,
        yearly_cost=2400,
    ),
    "edge-4": Hardware(
        lanes=tuple(Lane(cores=(core,)) for core in (1, 2, 3, 4)),
        memory_bytes=16 << 30,
        yearly_cost=4200,
    ),
}
SPEED = {"edge-2": 1.0, "edge-4": 0.9}  # what a run takes, as a share of edge-2's time
SITE_COST = 600.0
RTT_STRETCH, RTT_EXTRA_MS = 2.6, 2.0  # p99.9 over light's own time, as in the fibre prior
LIGHT_MS_PER_KM = 0.0098  # there and back in fibre
DETOUR = 1.6  # of the way around a lost site or link, over the longest direct one
GATE_MS = 3.0  # what we leave for all that is neither way, wait nor run

Survives = tuple[Literal["node", "site", "link"], ...]


@dataclass(frozen=True)
class _Kind:
    """What is common to the decisions of one kind; pairs are ranges."""

    run_ms: tuple[float, float]  # median of the most accurate variant on edge-2
    budget_ms: tuple[float, float]
    objectives: tuple[float, ...]
    criticality: Criticality
    arrivals: tuple[Literal["periodic", "poisson", "gamma", "synchronised"], ...]
    data: str = ""


KINDS = {
    "obstacle": _Kind(
        (16, 30),
        (60, 140),
        (0.99, 0.995),
        Criticality.CRITICAL,
        ("periodic", "periodic", "poisson"),
    ),
    "inspection": _Kind(
        (5, 22), (25, 100), (0.98, 0.99), Criticality.STANDARD, ("periodic", "synchronised")
    ),
    "tissue": _Kind(
        (20, 30), (150, 400), (0.95, 0.98), Criticality.STANDARD, ("poisson",), "patient"
    ),
    "voice": _Kind(
        (4, 14), (60, 250), (0.95, 0.98, 0.99), Criticality.STANDARD, ("gamma", "poisson")
    ),
}


def swedish(index: int) -> Estate:
    """Return the `index`-th of the eight estates."""
    name = f"estate-{index + 1}"
    return _estate(name, np.random.default_rng([SEED, index]), SIZES[index], SITES[index])


def large(decisions: int, *, every_loss: bool = False) -> Estate:
    """Return an estate of twelve sites for the speed of planning; each decision in three forms.

    A site offers one hardware type, and one node or one site is lost: 25 cases with the healthy
    one. With `every_loss` each site offers both types and links are lost as well: 58 cases.
    """
    rng = np.random.default_rng([SEED, 100, decisions])
    most, name = max(32, decisions), f"large-{decisions}"
    estate = _estate(name, rng, decisions, LARGE_SITES, variants=(3, 3), max_nodes=most)
    if every_loss:
        return estate
    types = cycle(HARDWARE)
    return replace(
        estate,
        sites={
            city: replace(site, hardware=next(types), offers=())
            for city, site in estate.sites.items()
        },
        decisions={
            name: replace(decision, survives=tuple(k for k in decision.survives if k != "link"))
            for name, decision in estate.decisions.items()
        },
    )


def tiny(index: int) -> Estate:
    """Return an estate on which every plan can be tried; one hardware type, so nodes compare."""
    rng = np.random.default_rng([SEED, 200, index])
    decisions, sites = TINY[index]
    estate = _estate(f"tiny-{index + 1}", rng, decisions, sites, max_nodes=5, rates=TINY_RATES)
    return replace(
        estate, sites={name: replace(site, offers=()) for name, site in estate.sites.items()}
    )


def distance_km(a: str, b: str) -> float:
    """Return the great-circle distance between two cities."""
    (lat_a, lon_a), (lat_b, lon_b) = (
        (radians(lat), radians(lon)) for lat, lon in (CITIES[a], CITIES[b])
    )
    h = sin((lat_b - lat_a) / 2) ** 2 + cos(lat_a) * cos(lat_b) * sin((lon_b - lon_a) / 2) ** 2
    return 2 * 6371 * asin(sqrt(h))


def _estate(
    name: str,
    rng: Generator,
    decisions: int,
    sites: int,
    *,
    variants: tuple[int, int] = (2, 3),
    max_nodes: int = 16,
    rates: tuple[float, float] = RATES,
) -> Estate:
    cities = sorted(
        (str(city) for city in rng.choice(list(CITIES), sites, replace=False)),
        key=lambda city: CITIES[city],
    )
    hospitals = cities[:: max(1, sites // 4)]
    maker = _Maker(rng, cities, hospitals, variants, rates)
    made = [maker.decision(number) for number in range(decisions)]
    return Estate(
        name=name,
        sites={city: _site(city, max_nodes) for city in cities},
        hardware=HARDWARE,
        decisions={decision.name: decision for decision in made},
        links=tuple(_links(rng, cities)),
        data={"patient": DataClass(name="patient", jurisdictions=("SE",), sites=tuple(hospitals))},
    )


def _site(city: str, max_nodes: int) -> Site:
    return Site(
        name=city,
        hardware="edge-2",
        offers=("edge-4",),
        jurisdiction="SE",
        nodes=0,
        max_nodes=max_nodes,
        location=CITIES[city],
        yearly_cost=SITE_COST,
    )


def _links(rng: Generator, cities: Sequence[str]) -> list[Link]:
    """Join each city with the next two to the north: no lost site or link parts the others."""
    pairs = [(a, b) for step in (1, 2) for a, b in zip(cities, cities[step:], strict=False)]
    return [Link(a=a, b=b, rtt=_declared(rng, a, b)) for a, b in pairs]


def _declared(rng: Generator, a: str, b: str) -> Delay | None:
    """A third of the links are declared, as one who has looked would; the rest are priors."""
    if rng.random() > 1 / 3:
        return None
    floor_ms = LIGHT_MS_PER_KM * distance_km(a, b)
    p50_ms = floor_ms * rng.uniform(1.4, 2.0) + rng.uniform(0.2, 0.6)
    return Delay(p50_ns=int(p50_ms * MS), p99_9_ns=int((p50_ms * 1.2 + rng.uniform(0.3, 1.5)) * MS))


class _Maker:
    """Makes decisions for one estate."""

    def __init__(
        self,
        rng: Generator,
        cities: Sequence[str],
        hospitals: Sequence[str],
        variants: tuple[int, int],
        rates: tuple[float, float],
    ) -> None:
        self._rng, self._cities, self._hospitals = rng, cities, hospitals
        self._variants, self._rates = variants, rates
        longest_km = max((distance_km(a, b) for a in cities for b in cities), default=0.0)
        light_ms = LIGHT_MS_PER_KM * longest_km
        self._farthest_ms = DETOUR * (RTT_STRETCH * light_ms + 2 * RTT_EXTRA_MS)

    def decision(self, number: int) -> Decision:
        """Return the next decision; kinds take turns."""
        rng = self._rng
        kind_name = list(KINDS)[number % len(KINDS)]
        kind = KINDS[kind_name]
        restricted = kind.data if rng.random() < 0.6 else ""
        ladder = self._ladder(kind)
        process = kind.arrivals[int(rng.integers(len(kind.arrivals)))]
        sources = self._sources(self._hospitals if restricted else self._cities)
        together = max(sources.values()) if process == "synchronised" else 1
        budget_ms = self._budget_ms(kind, ladder, together)
        criticality = kind.criticality
        if kind_name == "voice" and rng.random() < 0.25:
            criticality = Criticality.BEST_EFFORT
        return Decision(
            name=f"{kind_name}-{number + 1}",
            ladder=ladder,
            budget_ns=round(budget_ms) * MS,
            accuracy_floor=0.7,
            objective=float(rng.choice(kind.objectives)),
            criticality=criticality,
            arrivals=self._arrivals(process, max(sources.values())),
            sources=sources,
            data=restricted,
            jurisdictions=("SE",) if rng.random() < 0.5 else (),
            survives=self._survives(ladder, budget_ms, together, restricted),
            access=Delay(p50_ns=int(0.3 * MS), p99_9_ns=int(0.8 * MS)),
        )

    def _ladder(self, kind: _Kind) -> tuple[Variant, ...]:
        """Return variants from accurate and slow to less so; none falls below the floor."""
        rng = self._rng
        low, high = self._variants
        count = int(rng.integers(low, high + 1))
        run_ms, accuracy = rng.uniform(*kind.run_ms), rng.uniform(0.88, 0.96)
        tail, memory = rng.uniform(1.1, 1.4), int(rng.uniform(120, 500)) << 20
        made = []
        for rung in range(count):
            service = {
                name: Delay(
                    p50_ns=int(run_ms * share * MS), p99_9_ns=int(run_ms * share * tail * MS)
                )
                for name, share in SPEED.items()
            }
            made.append(
                Variant(
                    name=("fp32", "int8", "small")[rung],
                    model="",
                    accuracy=round(accuracy, 3),
                    memory_bytes=memory,
                    service=service,
                )
            )
            run_ms, accuracy = run_ms * rng.uniform(0.7, 0.9), accuracy - rng.uniform(0.01, 0.06)
            memory = int(memory * 0.7)
        return tuple(made)

    def _sources(self, cities: Sequence[str]) -> dict[str, int]:
        """Return one or two places where it is asked, with one to four askers each."""
        rng = self._rng
        two = len(cities) > 1 and rng.random() < 0.2
        chosen = rng.choice(list(cities), 2 if two else 1, replace=False)
        return {str(city): int(rng.integers(1, MOST_ASKERS + 1)) for city in chosen}

    def _arrivals(self, process: str, askers: int) -> Arrivals:
        """Return arrivals of 4 to 20 a second and asker, and about `rates` in all at a source."""
        rng = self._rng
        rate = round(float(np.clip(rng.uniform(*self._rates) / askers, 4, 20)), 1)
        if process == "gamma":
            return Arrivals(kind="gamma", rate=rate, cv=round(float(rng.uniform(1.3, 2.0)), 2))
        if process == "poisson":
            return Arrivals(kind="poisson", rate=rate)
        return Arrivals(kind="periodic", rate=rate, synchronised=process == "synchronised")

    def _budget_ms(self, kind: _Kind, ladder: Sequence[Variant], together: int) -> float:
        """Draw a budget; a slow model gets the time for three runs, or for all that ask at once."""
        least_ms = GATE_MS + (2 + together) * _slowest_run_ms(ladder[-1])
        return float(max(least_ms, self._rng.uniform(*kind.budget_ms)))

    def _survives(
        self, ladder: Sequence[Variant], budget_ms: float, together: int, data: str
    ) -> Survives:
        """Everything, if its budget reaches every other site and there is one that may see it."""
        least_ms = GATE_MS + (2 + together) * _slowest_run_ms(ladder[-1]) + self._farthest_ms
        others = len(self._hospitals if data else self._cities) > 1
        return ("node", "site", "link") if others and budget_ms >= least_ms else ("node", "link")


def _slowest_run_ms(variant: Variant) -> float:
    return max(delay.p99_9_ns for delay in variant.service.values()) / MS
