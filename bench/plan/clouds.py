"""An estate moved into one public cloud region, as its planner would see it.

The law is set aside and counted as broken; the region itself is never lost, only a machine in it,
and its machines cost what ours do. Round trips are the published ones, as the planner has them.
"""

from dataclasses import dataclass

from msgspec.structs import replace

from bench.plan.ground import HEALTHY, Ground
from tidsram.estate.placement import allowed_at
from tidsram.estate.types import Decision, Estate, Link, Site
from tidsram.plan.geography import CLOUDS, Cloud, cloud_rtt

REGIONS = ("Frankfurt", "Dublin")
MAX_NODES = 64


@dataclass(frozen=True)
class Moved:
    """The estate in the region, without the flows that cannot be answered there in time."""

    ground: Ground | None  # None where nothing can be
    unserved: tuple[str, ...]
    unlawful: tuple[str, ...]


def move(estate: Estate, region: str) -> Moved:
    """Return `estate` with all machines in `region`."""
    cloud = next(cloud for cloud in CLOUDS if cloud.name == region)
    everything = Ground(_in_cloud(estate, cloud))
    unserved = tuple(key for key in everything.flows if not everything.ways(key, HEALTHY))
    there = Site(name=_name(cloud), jurisdiction=cloud.jurisdiction)
    unlawful = tuple(
        key
        for key, flow in everything.flows.items()
        if key not in unserved and allowed_at(estate, estate.decisions[flow.decision], there)
    )
    served = [flow for key, flow in everything.flows.items() if key not in unserved]
    ground = Ground(everything.estate, served) if served else None
    return Moved(ground, unserved, unlawful)


def _in_cloud(estate: Estate, cloud: Cloud) -> Estate:
    region = Site(
        name=_name(cloud),
        hardware="edge-2",
        offers=("edge-4",),
        jurisdiction=cloud.jurisdiction,
        nodes=0,
        max_nodes=MAX_NODES,
        location=cloud.location,
    )
    sites = {name: replace(site, max_nodes=0) for name, site in estate.sites.items()}
    return replace(
        estate,
        sites={**sites, region.name: region},
        decisions={name: _lawless(d) for name, d in estate.decisions.items()},
        links=tuple(_link(site, cloud) for site in estate.sites.values()),
    )


def _lawless(decision: Decision) -> Decision:
    return replace(decision, data="", jurisdictions=(), survives=("node",))


def _link(site: Site, cloud: Cloud) -> Link:
    assert site.location is not None, "generated sites have locations"
    return Link(a=site.name, b=_name(cloud), rtt=cloud_rtt(cloud, site.location).delay)


def _name(cloud: Cloud) -> str:
    return cloud.name.lower()
