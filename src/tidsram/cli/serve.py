"""`tidsram serve`: run a node, from an estate or from one model file."""

import json
import os
import sys
from pathlib import Path

from msgspec.structs import replace

from tidsram.errors import NodeError
from tidsram.estate.load import load_estate, quick_estate
from tidsram.estate.placement import pick_site
from tidsram.estate.types import Estate, left_open
from tidsram.serve.supervisor import run_node

BURST_SEED = 1


def run(
    *,
    model: Path | None,
    budget_ns: int | None,
    shapes: dict[str, tuple[int, ...]],
    file: Path,
    site: str | None,
    http: str | None,
    unix: str | None,
    as_json: bool,
) -> int:
    """Serve until told to stop; 0 after a drain."""
    if model is not None:
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
    chosen = pick_site(estate, site)
    if http is not None:
        chosen = replace(chosen, http=http)
    if unix is not None:
        chosen = replace(chosen, unix=str(Path(unix).resolve()))
    run_node(_with_bursts(estate), chosen, folder, _say_json if as_json else _say)
    return 0


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
