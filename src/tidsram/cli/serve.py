"""`tidsram serve`: run a node, from an estate or from one model file."""

import json
import os
import sys
from pathlib import Path

from msgspec.structs import replace

from tidsram.errors import NodeError
from tidsram.estate.load import estate_sha256, load_estate, load_plan, quick_estate
from tidsram.estate.node import Part, part_by_law, part_by_plan, pick_node
from tidsram.estate.placement import pick_site
from tidsram.estate.types import Estate, left_open
from tidsram.serve.supervisor import Say, run_node

BURST_SEED = 1


def run(
    *,
    model: Path | None,
    budget_ns: int | None,
    shapes: dict[str, tuple[int, ...]],
    file: Path,
    site: str | None,
    plan: Path | None,
    node: int | None,
    http: str | None,
    unix: str | None,
    as_json: bool,
) -> int:
    """Serve until told to stop; 0 after a drain."""
    say = _say_json if as_json else _say
    if node is not None and plan is None:
        raise NodeError("--node says which of a plan's nodes to be; name the plan with --plan FILE")
    if model is not None:
        if plan is not None:
            raise NodeError("--plan goes with an estate; a model file alone has no plan")
        if budget_ns is None:
            raise NodeError(
                f"{model} needs a budget to be served by: tidsram serve {model} --budget 20ms"
            )
        estate = quick_estate(model, budget_ns, shapes=shapes)
        folder = Path.cwd()
    else:
        if budget_ns is not None or shapes:
            raise NodeError("--budget and --shape go with a model file; declare them in the estate")
        estate, folder = load_estate(file), file.resolve().parent
    if plan is not None:
        name, part = _planned(estate, file, plan, site, node, say)
    else:
        name, part = _allowed(estate, site, say)
    chosen = part.estate.sites[name]
    if http is not None:
        chosen = replace(chosen, http=http)
    if unix is not None:
        chosen = replace(chosen, unix=str(Path(unix).resolve()))
    run_node(_with_bursts(part.estate), chosen, folder, say, part.warm)
    return 0


def _planned(
    estate: Estate, file: Path, plan_file: Path, site: str | None, number: int | None, say: Say
) -> tuple[str, Part]:
    """Return the site and what its planned node serves, if the plan is of this very estate."""
    if site is not None:
        pick_site(estate, site)  # a misspelt one is told from one that has no node
    plan = load_plan(plan_file)
    if plan.estate_sha256 != estate_sha256(file):
        raise NodeError(
            f"{plan_file} was made on {plan.made} for estate {plan.estate}, and {file} is not "
            f"what it was then; make the plan anew with `tidsram plan -f {file}`"
        )
    if not plan.verified:
        say(f"warning: it is not verified that {plan_file} keeps every budget")
    node = pick_node(plan, site, number, str(plan_file))
    cores = sorted(os.sched_getaffinity(0))
    part = part_by_plan(estate, plan, node, cores, str(plan_file))
    if not part.estate.decisions:
        raise NodeError(f"{plan_file} keeps nothing warm on node {node.node} at {node.site}")
    return node.site, part


def _allowed(estate: Estate, site: str | None, say: Say) -> tuple[str, Part]:
    """Return the site and what law and data classes let it serve; the rest is named."""
    chosen = pick_site(estate, site)
    part = part_by_law(estate, chosen)
    for name, why in part.left_out.items():
        say(f"{name} is not served at {chosen.name}: {why}")
    if not part.estate.decisions:
        raise NodeError(
            f"no decision of estate {estate.name} may be made at {chosen.name}; "
            "change its jurisdiction or theirs, or serve at another site"
        )
    return chosen.name, part


def _with_bursts(estate: Estate) -> Estate:
    """Derive what a declaration leaves open; most leave nothing open that takes a simulation."""
    if not any(left_open(decision) for decision in estate.decisions.values()):
        return estate
    from numpy.random import default_rng  # noqa: TID251 - the same declaration, the same burst

    from tidsram.simulate.burst import with_bursts

    return with_bursts(estate, default_rng(BURST_SEED))


def _say(line: str) -> None:
    print(f"tidsram[{os.getpid()}]: {line}", file=sys.stderr, flush=True)


def _say_json(line: str) -> None:
    print(json.dumps({"pid": os.getpid(), "told": line}), file=sys.stderr, flush=True)
