"""`tidsram background`: run a command on the time that decisions leave over."""

import contextlib
import os
from pathlib import Path

import msgspec
from msgspec.structs import replace

from tidsram.client.address import node_url
from tidsram.errors import EstateError
from tidsram.estate.load import load_estate
from tidsram.estate.placement import pick_site, show_cores
from tidsram.estate.types import Criticality
from tidsram.ops.background import CommandError, Job, Report, run_background


def run(
    *,
    command: list[str],
    file: Path,
    site: str | None,
    node: str | None,
    memory_bytes: int | None,
    processes: int,
    cores: str | None,
    as_json: bool,
) -> int:
    """Run the command to its end; its exit status is ours."""
    if not command:
        raise CommandError("say what to run: tidsram background -- CMD ...")
    # Without an estate file one can still give way to a node that was started without one.
    missing = file == Path("tidsram.toml") and not file.exists() and site is None
    estate = None if missing else load_estate(file)
    spared = frozenset[str]()
    if estate is not None:
        decisions = estate.decisions.values()
        spared = frozenset(d.name for d in decisions if d.criticality is Criticality.BEST_EFFORT)
        if site is not None:
            estate = replace(estate, sites={site: pick_site(estate, site)})
    job = Job(
        command=command,
        url=node_url(node, estate, file.resolve().parent),
        spared=spared,
        memory_bytes=memory_bytes,
        processes=processes,
        cores=_cores(cores),
    )
    return run_background(job, _say, _tell if as_json else _keep)


def _cores(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    cores: set[int] = set()
    available = os.sched_getaffinity(0)
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdecimal() and len(end) < 6 for end in ends):
            raise EstateError("--cores", f'"{text}" names no cores; write them like "1,4-7"')
        cores |= set(range(int(ends[0]), int(ends[1]) + 1))
    if not cores or not cores <= available:
        given = show_cores(sorted(available))
        raise EstateError("--cores", f'"{text}" is not within what this machine gives us: {given}')
    return tuple(sorted(cores))


def _say(line: str) -> None:
    # Whether anyone reads it or not, the command goes on.
    with contextlib.suppress(OSError):
        os.write(2, f"tidsram: {line}\n".encode())


def _tell(report: Report) -> None:
    print(msgspec.json.encode(report).decode(), flush=True)


def _keep(_: Report) -> None:
    pass
