"""`tidsram profile`: measure variants on real workers, and write down what they take."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from tidsram.cli import measuring
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
from tidsram.errors import EstateError, ModelRefused, NodeError
from tidsram.estate.bundle import MANIFEST, VARIANTS
from tidsram.estate.load import load_estate, read_manifest, read_model
from tidsram.lab.bench import Bench, NotMeasured, Tell
from tidsram.lab.facts import PROFILES, Condition, Profile, make_directory, write_profile
from tidsram.lab.node import RefusedByNode
from tidsram.lab.profile import (
    HERE,
    lane_of,
    measure,
    measure_member,
    pick_hardware,
    pick_subjects,
)
from tidsram.units import US, show_ns, show_size


class _Written(msgspec.Struct, frozen=True, kw_only=True):
    decision: str
    variant: str
    hardware: str
    date: str
    machine: str
    run: Times
    gate: Times
    condition: str
    memory_bytes: int
    threads: int
    cold_start_us: int
    longest_operator: str
    longest_operator_us: int
    circumstances: dict[str, str]
    file: str


class _Report(msgspec.Struct):
    profiles: list[_Written] = []
    failed: list[Failure] = []


def run(
    *,
    named: list[str],
    hardware: str | None,
    runs: int,
    conditions: tuple[Condition, ...],
    file: Path,
    as_json: bool,
) -> int:
    """Measure; 0 all of it, 2 a model was refused, 3 something could not be found out."""
    bundles = [Path(name) for name in named if _names_bundle(name)]
    if bundles and len(bundles) < len(named):
        raise EstateError("tidsram profile", "names bundles and decisions; profile them in turn")
    measurements = (
        _of_bundles(bundles, hardware, runs, conditions)
        if bundles
        else _of_estate(file, named, hardware, runs)
    )
    report, status = _Report(), 0
    with ended_in_order():
        for one in measurements:
            try:
                with bar(one.what, runs) as tell:
                    profile = one.measure(tell)
            except (ModelRefused, RefusedByNode, NodeError, NotMeasured) as error:
                say(str(error))
                report.failed.append(Failure(what=one.what, problem=str(error)))
                refused = isinstance(error, (ModelRefused, RefusedByNode))
                status = max(status, 2 if refused else 3)
            else:
                written = write_profile(one.directory, profile)
                report.profiles.append(_written(profile, written))
    if as_json:
        print(msgspec.json.encode(report).decode())
    elif report.profiles:
        _print(report.profiles)
    return status


def _names_bundle(name: str) -> bool:
    """Tell a directory from a decision, whose name has no slash."""
    return "/" in name or (Path(name) / MANIFEST).is_file()


class _Measurement(NamedTuple):
    """One thing to be measured, and the directory of facts that it belongs in."""

    what: str
    measure: Callable[[Tell], Profile]
    directory: Path


def _of_estate(
    file: Path, decisions: list[str], hardware: str | None, runs: int
) -> list[_Measurement]:
    estate, folder = load_estate(file), file.resolve().parent
    subjects = pick_subjects(estate, decisions, pick_hardware(estate, hardware))
    directory = folder / estate.measured
    make_directory(directory / PROFILES)
    return [
        _Measurement(
            f"{subject.decision.name} {subject.variant.name}",
            partial(measure, estate, folder, subject, runs),
            directory,
        )
        for subject in subjects
    ]


def _of_bundles(
    bundles: list[Path], hardware: str | None, runs: int, conditions: tuple[Condition, ...]
) -> list[_Measurement]:
    cores = tuple(sorted(os.sched_getaffinity(0)))
    name = measuring.hardware(hardware or HERE)
    measurements = []
    for bundle in bundles:
        members = read_manifest(bundle).ladder
        for member in members:  # before any is measured
            read_model(bundle / VARIANTS / f"{member.name}.onnx", member.sha256)
        make_directory(bundle / PROFILES)
        for member in members:
            lane = lane_of(max(1, member.threads), cores)
            for condition in conditions:
                bench = Bench(lane=lane, cores=cores, condition=condition)
                measurements.append(
                    _Measurement(
                        f"{bundle.name} {member.name}, {condition}",
                        partial(measure_member, bundle, member, name, bench, runs),
                        bundle,
                    )
                )
    return measurements


def _written(profile: Profile, file: Path) -> _Written:
    return _Written(
        decision=profile.decision,
        variant=profile.variant,
        hardware=profile.hardware,
        date=profile.date,
        machine=profile.machine,
        run=times(profile.run_ns),
        gate=times(profile.gate_ns),
        condition=profile.condition,
        memory_bytes=profile.memory_bytes,
        threads=profile.threads,
        cold_start_us=profile.cold_start_ns // US,
        longest_operator=profile.longest_operator,
        longest_operator_us=profile.longest_operator_ns // US,
        circumstances=profile.circumstances,
        file=str(file),
    )


def _print(profiles: list[_Written]) -> None:
    out = console()
    shown = table("", "p50", "p99", "p99.9", "largest", "runs", "worker")
    for one in profiles:
        runs, memory = f"{one.run.samples:,}", show_size(one.memory_bytes)
        company = "" if one.condition == "alone" else f", {one.condition}"
        shown.add_row(f"{one.decision} {one.variant}{company}", *cells(one.run), runs, memory)
        shown.add_row("  all else in the node", *cells(one.gate), style="dim")
    out.print(shown)
    out.print()
    if any(one.run.p99_9_us is None for one in profiles):
        out.print(TOO_FEW, style="dim")
    for machine in dict.fromkeys(one.machine for one in profiles):
        out.print(f"On {profiles[0].hardware}, {profiles[0].date}: {machine}.")
    for one in profiles:
        if one.condition == "alone":
            longest = f"; longest operator {show_ns(one.longest_operator_us * US)}"
            out.print(
                f"{one.decision} {one.variant}: first answer "
                f"{show_ns(one.cold_start_us * US)} after the start of a node"
                f"{longest if one.longest_operator else ''}.",
                style="dim",
            )
    for one in profiles:
        out.print(f"Written to {one.file}.")
