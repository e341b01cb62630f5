"""Where a decision may be made, which lanes a node has, and what is kept warm on them."""

from collections.abc import Iterable, Mapping, Sequence, Set

from tidsram.errors import EstateError
from tidsram.estate.types import DataClass, Decision, Estate, Hardware, Lane, Site
from tidsram.estate.values import nearest

# A warm model costs memory and start-up time; the fifth lane no longer buys much against either.
MAX_WARM_LANES = 4


def pick_site(estate: Estate, name: str | None) -> Site:
    """Return the site called `name`; without a name the only one there is."""
    known = list(estate.sites)
    if name is None:
        if len(known) > 1:
            raise EstateError(
                f"estate {estate.name}",
                f"declares {len(known)} sites; say which one with --site: {', '.join(known)}",
            )
        return estate.sites[known[0]]
    if name not in estate.sites:
        near = nearest(name, known) or f"; declared are {', '.join(known)}"
        raise EstateError(f"estate {estate.name}", f'declares no site "{name}"{near}')
    return estate.sites[name]


def allowed_at(estate: Estate, decision: Decision, site: Site) -> str:
    """Say why law or data class keep `decision` away from `site`; empty where they allow it.

    A site that names no jurisdiction is in none: where either restricts, it is not allowed.
    """
    data = estate.data[decision.data] if decision.data else DataClass(name="")
    here = f"this site is in {site.jurisdiction}" if site.jurisdiction else "this site names none"
    if decision.jurisdictions and site.jurisdiction not in decision.jurisdictions:
        return f"its jurisdictions are {', '.join(decision.jurisdictions)}, {here}"
    if data.jurisdictions and site.jurisdiction not in data.jurisdictions:
        return f"the jurisdictions of {data.name} data are {', '.join(data.jurisdictions)}, {here}"
    if data.sites and site.name not in data.sites:
        return f"{data.name} data may be at {', '.join(data.sites)} only"
    return ""


def reach(data: DataClass, sites: Mapping[str, Site], present: Set[str]) -> Set[str]:
    """Return the jurisdictions of the sites where `data` may be; `present` are those of all.

    What `allowed_at` says of each site, of all at once: a large estate has no time for the former.
    """
    reached = {sites[name].jurisdiction for name in data.sites} if data.sites else present
    return reached & set(data.jurisdictions) if data.jurisdictions else reached


def lanes_of(estate: Estate, site_name: str, cores_available: Sequence[int]) -> tuple[Lane, ...]:
    """Return the lanes of a node of this site on a machine with these cores.

    Where none are declared: one for each core but the first, which is left to gate and kernel; on
    a one-core machine, one lane on that core.
    """
    assert cores_available, "a process runs on some core"
    site = estate.sites[site_name]
    declared = estate.hardware.get(site.hardware, Hardware()).lanes
    if not declared:
        cores = sorted(cores_available)
        return tuple(Lane(cores=(core,)) for core in cores[1:] or cores)
    for index, lane in enumerate(declared):
        for core in lane.cores:
            if core not in cores_available:
                raise EstateError(
                    f"[hardware.{site.hardware}] lanes[{index}]",
                    f"names core {core}, but this machine gives us "
                    f"{show_cores(cores_available)}; change cores, or run site "
                    f"{site_name} on the machine it was declared for",
                )
    return declared


def warm_lanes(decisions: Iterable[Decision], lane_count: int) -> dict[str, tuple[int, ...]]:
    """Return for each decision the lanes that keep it warm: round-robin, critical first."""
    assert lane_count > 0, "a node has at least one lane"
    many = min(MAX_WARM_LANES, lane_count)
    placed: dict[str, tuple[int, ...]] = {}
    for place, decision in enumerate(sorted(decisions, key=lambda d: d.criticality.rank)):
        first = place * many
        placed[decision.name] = tuple(
            sorted(lane % lane_count for lane in range(first, first + many))
        )
    return placed


def show_cores(cores: Sequence[int]) -> str:
    """Show cores as a person would: (0, 1, 2, 5) -> "cores 0-2, 5"."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    shown = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return f"core{'s' if len(cores) > 1 else ''} {', '.join(shown)}"
