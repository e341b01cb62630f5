"""`tidsram probe`: measure the round trips from here to other sites, and write them down."""

from pathlib import Path

import msgspec

from tidsram.cli.measuring import (
    TOO_FEW,
    Failure,
    Times,
    bar,
    cells,
    console,
    ended_in_order,
    say,
    table,
    times,
)
from tidsram.errors import EstateError
from tidsram.estate.load import load_estate
from tidsram.lab.facts import LINKS, make_directory, write_probe
from tidsram.lab.probe import NotReached, joined_to, pick_here, probe
from tidsram.units import US, show_ns


class _Written(msgspec.Struct, frozen=True, kw_only=True):
    a: str
    b: str
    date: str
    rtt: Times
    floor_us: int | None
    file: str


class _Report(msgspec.Struct):
    links: list[_Written] = []
    failed: list[Failure] = []


def run(*, here: str | None, count: int, file: Path, as_json: bool) -> int:
    """Probe every link of the site; 0 all measured, 1 some not, 3 none."""
    estate, folder = load_estate(file), file.resolve().parent
    joined = joined_to(estate, pick_here(estate, here))
    directory = folder / estate.measured
    make_directory(directory / LINKS)
    report = _Report()
    with ended_in_order():
        for far in joined:
            try:
                with bar(far.there.name, count) as tell:
                    found = probe(far, count, tell)
            except (NotReached, EstateError) as error:
                say(str(error))
                report.failed.append(Failure(what=far.there.name, problem=str(error)))
                continue
            written = _Written(
                a=found.a,
                b=found.b,
                date=found.date,
                rtt=times(found.rtt_ns),
                floor_us=None if far.floor_ns is None else far.floor_ns // US,
                file=str(write_probe(directory, found)),
            )
            report.links.append(written)
    if as_json:
        print(msgspec.json.encode(report).decode())
    elif report.links:
        _print(report.links)
    if not report.links:
        return 3
    return 1 if report.failed else 0


def _print(links: list[_Written]) -> None:
    out = console()
    shown = table("round trip", "p50", "p99", "p99.9", "largest", "in fibre", "samples")
    for one in links:
        floor = "–" if one.floor_us is None else show_ns(one.floor_us * US)
        shown.add_row(f"{one.a}–{one.b}", *cells(one.rtt), floor, f"{one.rtt.samples:,}")
    out.print(shown)
    out.print()
    if any(one.rtt.p99_9_us is None for one in links):
        out.print(TOO_FEW, style="dim")
    out.print("in fibre: what light needs along the shortest way; – : a place is not declared.")
    for one in links:
        out.print(f"Written to {one.file}.")
