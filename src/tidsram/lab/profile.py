"""Measure what a variant takes, on a real worker of a real node that does nothing else.

What that leaves out is said in docs/measuring.md.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from tidsram import clock
from tidsram.errors import EstateError
from tidsram.estate.bundle import VARIANTS, Manifest, Member, ladder_of
from tidsram.estate.load import read_manifest, read_model
from tidsram.estate.placement import show_cores
from tidsram.estate.types import Decision, Estate, Hardware, Lane, Variant
from tidsram.estate.values import nearest, show_key
from tidsram.lab.bench import Bench, Tell, take, working_directory
from tidsram.lab.bundle import unfinished, write_bundle
from tidsram.lab.conditions import circumstances, conditions
from tidsram.lab.facts import Profile, digest_of
from tidsram.lab.operators import longest_operator
from tidsram.units import SECOND

HERE: Final = "here"  # the hardware type of what is measured beside no estate


class Subject(Struct, frozen=True, kw_only=True):
    """What is to be measured, on which hardware type this machine is to stand for."""

    decision: Decision
    variant: Variant
    hardware: str


def pick_hardware(estate: Estate, name: str | None) -> str:
    """Return the hardware type `name`; without a name that of the first site which has one."""
    known = list(estate.hardware)
    if name is None:
        name = next((site.hardware for site in estate.sites.values() if site.hardware), None)
    if name is None:
        raise EstateError(
            f"estate {estate.name}",
            "no site says what hardware it has, and a profile is a fact about a hardware type; "
            'add [hardware.edge], and hardware = "edge" to the site\'s table',
        )
    if name not in known:
        near = nearest(name, known) or f"; declared are {', '.join(known) or 'none'}"
        raise EstateError(f"estate {estate.name}", f'declares no hardware "{name}"{near}')
    return name


def pick_subjects(estate: Estate, names: Sequence[str], hardware: str) -> list[Subject]:
    """Return the variants to measure: of the decisions `names`, or of all; those with a model."""
    picked = [
        Subject(decision=decision, variant=variant, hardware=hardware)
        for decision in _pick_decisions(estate, names)
        for variant in decision.ladder
        if variant.model
    ]
    measured = {subject.decision.name for subject in picked}
    without = [name for name in names if name not in measured] or (
        [] if picked else list(estate.decisions)
    )
    if without:
        raise EstateError(
            f"[decision.{show_key(without[0])}]",
            "has no model to run; name its file with bundle, or with model in a variant's table",
        )
    return picked


def _pick_decisions(estate: Estate, names: Sequence[str]) -> list[Decision]:
    known = list(estate.decisions)
    for name in names:
        if name not in known:
            near = nearest(name, known) or f"; declared are {', '.join(known)}"
            raise EstateError(f"estate {estate.name}", f'declares no decision "{name}"{near}')
    return [estate.decisions[name] for name in (dict.fromkeys(names) or known)]


def pick_lane(name: str, hardware: Hardware, cores: Sequence[int]) -> Lane:
    """Return the narrowest lane that this machine has: what holds there holds on wider ones."""
    lanes = hardware.lanes or tuple(Lane(cores=(core,)) for core in cores[1:] or cores)
    here = [lane for lane in lanes if set(lane.cores) <= set(cores)]
    if not here:
        raise EstateError(
            f"[hardware.{show_key(name)}] lanes",
            f"has no lane on {show_cores(cores)}, which are what this machine gives us; "
            f"measure on a machine of that type",
        )
    return min(here, key=lambda lane: len(lane.cores))


def measure(estate: Estate, folder: Path, subject: Subject, runs: int, tell: Tell) -> Profile:
    """Measure `runs` runs of one variant; `tell` hears how many there are so far.

    Raises RefusedByNode when its model cannot be served, NodeError or NotMeasured when it could
    not be found out.
    """
    cores = sorted(os.sched_getaffinity(0))
    hardware, variant = estate.hardware[subject.hardware], subject.variant
    lane = pick_lane(subject.hardware, hardware, cores)
    file = (folder / variant.model).resolve()
    model = read_model(file, variant.sha256)
    bench = Bench(lane=lane, cores=tuple(cores), scheduling=hardware.scheduling)
    with working_directory(folder / estate.state) as directory:
        served = file
        if variant.sha256:
            manifest = read_manifest(file.parent.parent)
            served = _alone(manifest, variant.name, model, directory)
        return _measured(subject, model, served, bench, directory, runs, tell)


def measure_member(
    bundle: Path, member: Member, hardware: str, bench: Bench, runs: int, tell: Tell
) -> Profile:
    """Measure one variant of a bundle, in `bench`'s condition; the bundle is only read."""
    manifest = read_manifest(bundle)
    model = read_model(bundle / VARIANTS / f"{member.name}.onnx", member.sha256)
    with unfinished(bundle) as directory:
        return measure_form(manifest, model, member.name, hardware, bench, directory, runs, tell)


def measure_form(
    manifest: Manifest,
    model: bytes,
    name: str,
    hardware: str,
    bench: Bench,
    directory: Path,
    runs: int,
    tell: Tell,
) -> Profile:
    """Measure the variant `name` of a manifest, whose file's bytes are `model`, in `directory`."""
    served = _alone(manifest, name, model, directory)
    (variant,) = (one for one in ladder_of(manifest, str(served)) if one.name == name)
    decision = Decision(name=manifest.name, ladder=(variant,), budget_ns=SECOND)
    subject = Subject(decision=decision, variant=variant, hardware=hardware)
    return _measured(subject, model, served, bench, directory, runs, tell)


def lane_of(threads: int, cores: Sequence[int]) -> Lane:
    """Return a lane of so many cores, those that the machine's own work likes least."""
    if threads > len(cores):
        raise EstateError(
            "--threads",
            f"{threads} threads need as many cores, and this machine gives us {show_cores(cores)}",
        )
    return Lane(cores=tuple(cores[len(cores) - threads :]))


def _measured(
    subject: Subject,
    model: bytes,
    served: Path,
    bench: Bench,
    directory: Path,
    runs: int,
    tell: Tell,
) -> Profile:
    """Measure what serves `model`, a bundle or a single file, on a node in `directory`."""
    threads = subject.variant.threads or len(bench.lane.cores)
    taken = take(subject.decision, served, bench, directory, runs, tell)
    operator, operator_ns = "", 0
    if subject.variant.engine == "onnxruntime":
        shapes = subject.decision.shapes
        operator, operator_ns = longest_operator(
            model, subject.variant.name, threads, directory, shapes
        )
    return Profile(
        decision=subject.decision.name,
        variant=subject.variant.name,
        hardware=subject.hardware,
        date=clock.today()[:10],
        machine=conditions(bench.cores, bench.lane, taken.stolen),
        model_sha256=digest_of(model),
        run_ns=taken.run_ns,
        gate_ns=taken.gate_ns,
        memory_bytes=taken.memory_bytes,
        condition=bench.condition,
        threads=threads,
        cold_start_ns=taken.cold_start_ns,
        longest_operator=operator,
        longest_operator_ns=operator_ns,
        circumstances=circumstances(bench.lane, taken.stolen),
    )


def _alone(manifest: Manifest, name: str, model: bytes, directory: Path) -> Path:
    """Write a bundle whose ladder is this one variant of a larger one; return its directory."""
    ladder = tuple(member for member in manifest.ladder if member.name == name)
    write_bundle(directory / "bundle", replace(manifest, ladder=ladder), {name: model})
    return directory / "bundle"
