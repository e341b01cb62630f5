"""`tidsram profile`: measure variants on real workers, and write down what they take."""

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
from tidsram.errors import ModelRefused, NodeError
from tidsram.estate.load import load_estate
from tidsram.lab.facts import PROFILES, Profile, make_directory, write_profile
from tidsram.lab.node import RefusedByNode
from tidsram.lab.profile import NotMeasured, Subject, measure, pick_hardware, pick_subjects
from tidsram.units import show_size


class _Written(msgspec.Struct, frozen=True, kw_only=True):
    decision: str
    variant: str
    hardware: str
    date: str
    machine: str
    run: Times
    gate: Times
    memory_bytes: int
    file: str


class _Report(msgspec.Struct):
    profiles: list[_Written] = []
    failed: list[Failure] = []


def run(*, decisions: list[str], hardware: str | None, runs: int, file: Path, as_json: bool) -> int:
    """Measure; 0 all of it, 2 a model was refused, 3 something could not be found out."""
    estate, folder = load_estate(file), file.resolve().parent
    subjects = pick_subjects(estate, decisions, pick_hardware(estate, hardware))
    directory = folder / estate.measured
    make_directory(directory / PROFILES)
    report, status = _Report(), 0
    with ended_in_order():
        for subject in subjects:
            try:
                with bar(_name(subject), runs) as tell:
                    profile = measure(estate, folder, subject, runs, tell)
            except (ModelRefused, RefusedByNode, NodeError, NotMeasured) as error:
                say(str(error))
                report.failed.append(Failure(what=_name(subject), problem=str(error)))
                refused = isinstance(error, (ModelRefused, RefusedByNode))
                status = max(status, 2 if refused else 3)
            else:
                report.profiles.append(_written(profile, write_profile(directory, profile)))
    if as_json:
        print(msgspec.json.encode(report).decode())
    elif report.profiles:
        _print(report.profiles)
    return status


def _name(subject: Subject) -> str:
    return f"{subject.decision.name} {subject.variant.name}"


def _written(profile: Profile, file: Path) -> _Written:
    return _Written(
        decision=profile.decision,
        variant=profile.variant,
        hardware=profile.hardware,
        date=profile.date,
        machine=profile.machine,
        run=times(profile.run_ns),
        gate=times(profile.gate_ns),
        memory_bytes=profile.memory_bytes,
        file=str(file),
    )


def _print(profiles: list[_Written]) -> None:
    out = console()
    shown = table("", "p50", "p99", "p99.9", "largest", "runs", "worker")
    for one in profiles:
        runs, memory = f"{one.run.samples:,}", show_size(one.memory_bytes)
        shown.add_row(f"{one.decision} {one.variant}", *cells(one.run), runs, memory)
        shown.add_row("  all else in the node", *cells(one.gate), style="dim")
    out.print(shown)
    out.print()
    if any(one.run.p99_9_us is None for one in profiles):
        out.print(TOO_FEW, style="dim")
    for machine in dict.fromkeys(one.machine for one in profiles):
        out.print(f"On {profiles[0].hardware}, {profiles[0].date}: {machine}.")
    for one in profiles:
        out.print(f"Written to {one.file}.")
