"""Measured facts: dated files beside the estate, which beat what is declared or assumed.

profiles/DECISION.VARIANT.HARDWARE.json and links/A--B.json. A fact is written whole or not at all,
and read as if a stranger had written it. Reading changes nothing.
"""

import contextlib
import hashlib
import os
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar, get_args
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from tidsram.errors import EstateError
from tidsram.estate.bundle import directory_of
from tidsram.estate.types import Estate, Variant
from tidsram.units import SECOND

PROFILES, LINKS = "profiles", "links"
MAX_FACTS = 10_000  # of one kind
MAX_SAMPLES = 100_000
MAX_FACT_BYTES = 4_000_000  # the samples of a profile, at 20 bytes each

_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")]
_Words = Annotated[str, Meta(max_length=500, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")]
_Date = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")]
_Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Time = Annotated[int, Meta(ge=0, le=3600 * SECOND)]
_Times = Annotated[tuple[_Time, ...], Meta(min_length=1, max_length=MAX_SAMPLES)]


# Who else is at work: nobody, a neighbouring lane, or background work on every core.
Condition = Literal["alone", "neighbour", "background"]
CONDITIONS: Final[tuple[Condition, ...]] = get_args(Condition)


class Profile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one variant took on one hardware type, run after run on a real worker, in ns."""

    decision: _Name
    variant: _Words
    hardware: _Name
    date: _Date  # 2026-11-24
    machine: _Words  # processor, cores, kernel: the conditions in words
    model_sha256: _Digest
    run_ns: _Times  # in the order in which they ran
    gate_ns: _Times  # of each question: all else until its asker, on that machine, had the answer
    memory_bytes: Annotated[int, Meta(ge=0, le=2**50)]  # of its worker
    condition: Condition = "alone"
    threads: Annotated[int, Meta(ge=0, le=256)] = 0  # 0: not noted
    cold_start_ns: _Time = 0  # from starting a node to its first answer; 0: not noted
    longest_operator: _Words = ""
    longest_operator_ns: _Time = 0
    circumstances: dict[_Words, _Words] = {}  # the conditions in full, by name

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is a fact about."""
        return self.decision, self.variant, self.hardware


class LinkProbe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Round trips between two sites, in ns, in the order in which they were measured."""

    a: _Name
    b: _Name
    date: _Date
    rtt_ns: _Times

    @property
    def key(self) -> tuple[str, str]:
        """The two sites in alphabetical order."""
        return (self.a, self.b) if self.a < self.b else (self.b, self.a)


class Measured(Struct, frozen=True, kw_only=True):
    """All facts of an estate: profiles by (decision, variant, hardware), probes by site pair.

    `stale` says in a sentence for each profile that was left out, why, and what renews it.
    """

    profiles: dict[tuple[str, str, str], Profile] = {}
    links: dict[tuple[str, str], LinkProbe] = {}
    stale: tuple[str, ...] = ()


_Fact = TypeVar("_Fact", Profile, LinkProbe)


def read_measured(estate: Estate, folder: Path) -> Measured:
    """Return what has been measured for the estate whose file lies in `folder`.

    A profile of a model file that has changed since is left out. Nothing measured is no error.
    What a bundle brings along counts until this estate has measured the same.
    """
    if not estate.measured:
        return Measured()
    directory = folder / estate.measured
    # A plan adds what others cost by simulation: what it needs is a variant's own time.
    alone = (f for f in _read_all(directory / PROFILES, Profile) if f.condition == "alone")
    profiles = _of_bundles(estate, folder) | {fact.key: fact for fact in alone}
    links = {fact.key: fact for fact in _read_all(directory / LINKS, LinkProbe)}
    stale = _find_stale(estate, folder, profiles)
    fresh = {key: profile for key, profile in profiles.items() if key not in stale}
    return Measured(profiles=fresh, links=links, stale=tuple(stale.values()))


def write_profile(directory: Path, profile: Profile) -> Path:
    """Write a profile in place of the one before; return its file."""
    return _write(directory / PROFILES / profile_name(profile), profile)


def write_probe(directory: Path, probe: LinkProbe) -> Path:
    """Write a link's round trips in place of those before; return their file."""
    return _write(directory / LINKS / probe_name(probe), probe)


def profile_name(profile: Profile) -> str:
    """Return the name of a profile's file: no two profiles share one."""
    parts = profile.key if profile.condition == "alone" else (*profile.key, profile.condition)
    return ".".join(quote(part, safe="").replace(".", "%2E") for part in parts) + ".json"


def probe_name(probe: LinkProbe) -> str:
    """Return the name of a probe's file: no two pairs of sites share one."""
    return "--".join(site.replace("--", "%2D%2D") for site in probe.key) + ".json"


def digest_of(model: bytes) -> str:
    """Return what a profile knows its model by."""
    return hashlib.sha256(model).hexdigest()


# Reading


def _read_all(directory: Path, kind: type[_Fact]) -> list[_Fact]:
    try:
        found = (file for file in directory.iterdir() if file.suffix == ".json")
        files = sorted(islice(found, MAX_FACTS + 1))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EstateError(str(directory), f"cannot be read: {error.strerror or error}") from None
    if len(files) > MAX_FACTS:
        raise EstateError(
            str(directory),
            f"holds more than {MAX_FACTS} files; take out what was not measured",
        )
    return [_read(file, kind) for file in files]


def _read(file: Path, kind: type[_Fact]) -> _Fact:
    what, verb = _WORDS[kind]
    remedy = f"delete it, and measure again with `tidsram {verb}`"
    try:
        fact = msgspec.json.decode(_content(file, remedy), type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise EstateError(str(file), f"is no {what} ({error}); {remedy}") from None
    expected = profile_name(fact) if isinstance(fact, Profile) else probe_name(fact)
    if file.name != expected:
        problem = f"holds the {what} that belongs in {expected}; rename it, or {remedy}"
        raise EstateError(str(file), problem)
    return fact


_WORDS = {Profile: ("profile", "profile"), LinkProbe: ("probe of a link", "probe")}


def _content(file: Path, remedy: str) -> bytes:
    try:
        if not file.is_file():  # a pipe would keep its reader waiting
            raise EstateError(str(file), f"is no plain file; {remedy}")
        with file.open("rb") as opened:
            content = opened.read(MAX_FACT_BYTES + 1)
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error}); let this user read it, or {remedy}"
        raise EstateError(str(file), problem) from None
    if len(content) > MAX_FACT_BYTES:
        raise EstateError(str(file), f"is larger than {MAX_FACT_BYTES // 10**6} MB; {remedy}")
    return content


def _of_bundles(estate: Estate, folder: Path) -> dict[tuple[str, str, str], Profile]:
    """Return the profiles in bundles, each for the decision here that has the very same variant."""
    found = {}
    for decision in estate.decisions.values():
        if not (directory := directory_of(decision)):
            continue
        digests = {variant.name: variant.sha256 for variant in decision.ladder}
        for fact in _read_all(folder / directory / PROFILES, Profile):
            if fact.condition == "alone" and digests.get(fact.variant) == fact.model_sha256:
                own = replace(fact, decision=decision.name)
                found[own.key] = own
    return found


def _find_stale(
    estate: Estate, folder: Path, profiles: dict[tuple[str, str, str], Profile]
) -> dict[tuple[str, str, str], str]:
    """Say of each profile whose model file has changed what renews it."""
    digest = cache(_digest_of_file)  # one model has a profile for each hardware type
    stale = {}
    for key, profile in profiles.items():
        variant = _declared(estate, profile)
        if variant is None or not variant.model:
            continue
        now = variant.sha256 or digest(folder / variant.model)
        if now not in (None, profile.model_sha256):
            stale[key] = (
                f"the profile of {profile.decision}, variant {profile.variant}, on "
                f"{profile.hardware} is not used: {variant.model} has changed since "
                f"{profile.date}; measure it again with `tidsram profile {profile.decision} "
                f"--hardware {profile.hardware}`"
            )
    return stale


def _declared(estate: Estate, profile: Profile) -> Variant | None:
    decision = estate.decisions.get(profile.decision)
    ladder = decision.ladder if decision else ()
    return next((variant for variant in ladder if variant.name == profile.variant), None)


def _digest_of_file(file: Path) -> str | None:
    """Return None where there is no such file: there is nothing then that could have changed."""
    try:
        with file.open("rb") as model:
            return hashlib.file_digest(model, "sha256").hexdigest()
    except OSError:
        return None


# Writing


def make_directory(directory: Path) -> None:
    """Make a directory of facts: worth knowing before anything is measured whether that can be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"cannot be made ({error.strerror or error}); let this user write there"
        raise EstateError(str(directory), problem) from None


def _write(file: Path, fact: Profile | LinkProbe) -> Path:
    """Replace the file at once: whoever reads sees the old fact or the new one."""
    make_directory(file.parent)
    unfinished = file.with_name(f".{os.getpid()}.unfinished")
    try:
        with unfinished.open("wb") as opened:
            opened.write(msgspec.json.encode(fact))
            opened.flush()
            os.fsync(opened.fileno())
        unfinished.replace(file)
        _sync(file.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        problem = f"cannot be written ({error.strerror or error}); let this user write there"
        raise EstateError(str(file), problem) from None
    return file


def _sync(directory: Path) -> None:
    """Let the directory's new entry survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
