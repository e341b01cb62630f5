"""Where sites lie, what light allows between them, and how long their links take.

What is measured beats what is declared, and that beats the fibre prior. No time below what light
in fibre needs is ever believed: whoever declares or measures one is told so.
"""

from collections import defaultdict
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from tidsram.errors import PlanError
from tidsram.estate.distance import Location, floor_ns, great_circle_km
from tidsram.estate.types import Delay, Estate, Link
from tidsram.lab.facts import LinkProbe, Measured
from tidsram.plan.problem import Basis, Case, Spread
from tidsram.plan.spread import in_a_row
from tidsram.units import MS, show_ns

# Real routes against light along the great circle: 2.0 at the median and 2.6, the worst of the
# published medians from Stockholm, at p99.9; equipment at both ends adds 0.5 ms, and 2 ms.
STRETCH, TAIL = 2.0, 1.3
CONSTANT_NS, TAIL_CONSTANT_NS = MS // 2, 3 * MS // 2
STOCKHOLM = (59.33, 18.07)


class Path(Struct, frozen=True, kw_only=True):
    """The sites that a question passes, its source first, and the round trip over them."""

    sites: tuple[str, ...]
    rtt: Spread


class Cloud(Struct, frozen=True, kw_only=True):
    """A public cloud's region; `stockholm_ns` is the published median round trip from there."""

    name: str
    jurisdiction: str
    location: Location
    stockholm_ns: int


_HERE = Spread(delay=Delay(p50_ns=0, p99_9_ns=0), basis="measured", source="no link")
CLOUD_SOURCE = "AWS medians from Stockholm, cloudping 2023-03"
CLOUDS = (
    Cloud(name="Stockholm", jurisdiction="SE", location=STOCKHOLM, stockholm_ns=2 * MS),
    Cloud(name="Frankfurt", jurisdiction="DE", location=(50.11, 8.68), stockholm_ns=22 * MS),
    Cloud(name="Paris", jurisdiction="FR", location=(48.86, 2.35), stockholm_ns=30 * MS),
    Cloud(name="London", jurisdiction="GB", location=(51.51, -0.13), stockholm_ns=65 * MS // 2),
    Cloud(name="Dublin", jurisdiction="IE", location=(53.35, -6.26), stockholm_ns=83 * MS // 2),
    Cloud(
        name="N. Virginia", jurisdiction="US", location=(39.04, -77.49), stockholm_ns=223 * MS // 2
    ),
)


def prior(a: Location, b: Location) -> Spread:
    """Return the round trip to expect between two places that nobody has measured yet."""
    source = f"fibre prior, {great_circle_km(a, b):,.0f} km"
    return _routed(floor_ns(a, b), STRETCH, CONSTANT_NS, source)


def cloud_rtt(cloud: Cloud, location: Location) -> Spread:
    """Return the round trip to a cloud region: its published stretch, over the way from here."""
    published_ns = floor_ns(STOCKHOLM, cloud.location)
    source = f"{CLOUD_SOURCE}, over {great_circle_km(location, cloud.location):,.0f} km"
    light_ns = floor_ns(location, cloud.location)
    if not published_ns:  # a region in Stockholm tells of its constant, not of a stretch
        return _routed(light_ns, STRETCH, cloud.stockholm_ns, source)
    stretch = (cloud.stockholm_ns - CONSTANT_NS) / published_ns
    return _routed(light_ns, stretch, CONSTANT_NS, source)


def _routed(light_ns: int, stretch: float, constant_ns: int, source: str) -> Spread:
    """Return a round trip that light would make in `light_ns`, by the prior's tail."""
    return Spread(
        delay=Delay(
            p50_ns=round(stretch * light_ns) + constant_ns,
            p99_9_ns=round(stretch * TAIL * light_ns) + constant_ns + TAIL_CONSTANT_NS,
        ),
        basis="prior",
        source=source,
        floor_ns=light_ns,
    )


def observed(samples_ns: Sequence[int], source: str, light_ns: int = 0) -> Spread:
    """Return measured times as a spread that keeps them in their order."""
    p50_ns, p99_9_ns = np.quantile(np.asarray(samples_ns), (0.5, 0.999), method="higher")
    return Spread(
        delay=Delay(p50_ns=int(p50_ns), p99_9_ns=int(p99_9_ns)),
        basis="measured",
        source=source,
        floor_ns=light_ns,
        samples_ns=tuple(samples_ns),
    )


class Network:
    """The estate's links with their times, and the paths over what is left of them in a case."""

    def __init__(self, estate: Estate, measured: Measured) -> None:
        self._estate = estate
        self.links: dict[tuple[str, str], Spread] = {}  # by site pair in alphabetical order
        self._beside: dict[str, list[str]] = defaultdict(list)
        self._known: dict[tuple[str, ...], Path] = {}
        self._paths: dict[tuple[str, str, tuple[str, str] | None], dict[str, Path]] = {}
        for link in estate.links:
            pair = _pair(link.a, link.b)
            self.links[pair] = self._time(link, measured.links.get(pair))
            self._beside[link.a].append(link.b)
            self._beside[link.b].append(link.a)

    def path(self, source: str, target: str, case: Case) -> Path | None:
        """Return the path of the shortest median round trip in `case`, where there is one.

        A site that is down forwards nothing and answers nothing; its askers keep its links.
        """
        state = (
            source,
            case.site if case.kind == "site" else "",
            _pair(*case.link) if case.link else None,
        )
        if state not in self._paths:
            self._paths[state] = self._shortest(*state)
        return self._paths[state].get(target)

    def light_ns(self, a: str, b: str) -> int:
        """Return what light needs there and back; 0 where a location is not declared."""
        here, there = self._estate.sites[a].location, self._estate.sites[b].location
        return floor_ns(here, there) if here and there else 0

    def _time(self, link: Link, probe: LinkProbe | None) -> Spread:
        here, there = (self._estate.sites[name].location for name in (link.a, link.b))
        light_ns = self.light_ns(link.a, link.b)
        if probe and probe.rtt_ns:
            self._check_light(link.a, link.b, min(probe.rtt_ns), "measured")
            source = f"measured {probe.date}, {len(probe.rtt_ns):,} round trips"
            return observed(probe.rtt_ns, source, light_ns)
        if link.rtt:
            self._check_light(link.a, link.b, link.rtt.p50_ns, "declared")
            source = f"rtt in {_table(link)}"
            return Spread(delay=link.rtt, basis="declared", source=source, floor_ns=light_ns)
        if here and there:
            return prior(here, there)
        raise PlanError(
            _table(link),
            'nothing says how long it takes; add rtt = { p50 = "9 ms", p99_9 = "13 ms" } with its '
            f"own times, or location = [LATITUDE, LONGITUDE] to [site.{link.a}] and "
            f"[site.{link.b}], or run tidsram probe",
        )

    def _shortest(self, source: str, down: str, cut: tuple[str, str] | None) -> dict[str, Path]:
        """Return the path to every site that can be reached (Dijkstra)."""
        found: dict[str, Path] = {}
        ahead: list[tuple[int, tuple[str, ...]]] = [(0, (source,))]
        while ahead:
            so_far_ns, sites = heappop(ahead)
            here = sites[-1]
            if here in found or (here == down and here != source):
                continue
            if sites not in self._known:
                self._known[sites] = self._over(sites)
            found[here] = self._known[sites]
            for there in self._beside[here]:
                if _pair(here, there) != cut:
                    hop_ns = self.links[_pair(here, there)].delay.p50_ns
                    heappush(ahead, (so_far_ns + hop_ns, (*sites, there)))
        found.pop(down, None)
        return found

    def _over(self, sites: tuple[str, ...]) -> Path:
        if len(sites) == 1:
            return Path(sites=sites, rtt=_HERE)
        hops = [self.links[_pair(a, b)] for a, b in pairwise(sites)]
        told = (f"{b}: {hop.source}" for b, hop in zip(sites[1:], hops, strict=True))
        source = hops[0].source if len(hops) == 1 else ", ".join(told)
        rtt = in_a_row(hops, source)
        # Hops over sites of unknown location may add up to less than light needs end to end.
        self._check_light(sites[0], sites[-1], rtt.delay.p50_ns, rtt.basis)
        light_ns = max(rtt.floor_ns, self.light_ns(sites[0], sites[-1]))
        return Path(sites=sites, rtt=replace(rtt, floor_ns=light_ns))

    def _check_light(self, a: str, b: str, time_ns: int, basis: Basis) -> None:
        light_ns = self.light_ns(a, b)
        if time_ns >= light_ns:
            return
        raise PlanError(
            f"{a}–{b}",
            f"a round trip of {show_ns(time_ns)} is {basis}, but physics does not allow it: light "
            f"in fibre needs {show_ns(light_ns)} between these places; correct the rtt, the "
            f"location of [site.{a}] or [site.{b}], or probe between machines that stand there",
        )


def _pair(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)


def _table(link: Link) -> str:
    return f"[link.{link.a}.{link.b}]"
