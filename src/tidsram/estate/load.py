"""Read a `tidsram.toml` into an Estate, or say what is wrong with it in one sentence.

This module alone reads files; `parse_estate` is its pure part. Anything the file says that this
version would not act on is refused: a declared promise is kept or complained about, never ignored.
"""

import errno
import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from tidsram.errors import EstateError, ModelRefused
from tidsram.estate import values
from tidsram.estate.bundle import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Bundle,
    Manifest,
    ladder_of,
    parse_manifest,
)
from tidsram.estate.decisions import FindBundle, only_variant, read_decisions
from tidsram.estate.placement import reach
from tidsram.estate.plan import Plan, parse_plan
from tidsram.estate.tables import Table
from tidsram.estate.types import (
    DataClass,
    Decision,
    Estate,
    Hardware,
    Lane,
    Link,
    Site,
    Variant,
)

MAX_ESTATE_BYTES = 10_000_000
MAX_PLAN_BYTES = 200_000_000
MAX_MODEL_BYTES = 2**31  # protobuf's own limit, and so that of an .onnx file
DEFAULT_HTTP = "127.0.0.1:8700"
DEFAULT_STATE = ".tidsram"
LOCAL = "local"
MAX_NODES = 1000

T = TypeVar("T")

_SITE_KEYS = (
    *("hardware", "http", "unix", "jurisdiction", "nodes", "max_nodes", "offers", "location"),
    "yearly_cost",
)
_SITE_LATER = ("node", "grpc", "fabric")
_HARDWARE_KEYS = ("lanes", "scheduling", "memory", "yearly_cost", "lead_time")
_RTT = 'rtt = { p50 = "9 ms", p99_9 = "13 ms" }'
# Deeper than any estate; a key of ten thousand parts takes the parser seconds, of a million days.
_DEEP_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){20}""")


def load_estate(path: Path) -> Estate:
    """Read the estate in the file `path`."""
    where = str(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_ESTATE_BYTES + 1)
    except FileNotFoundError:
        raise EstateError(
            where, "no such file; write one with `tidsram init`, or name another with -f"
        ) from None
    except OSError as error:
        raise EstateError(where, f"cannot be read: {error.strerror or error}") from None
    return parse_estate(_decode(content, where), where, partial(_find_bundle, path.parent))


def _single_file(_: str) -> None:
    """Take whatever is named for a single file, as long as nobody looks."""


def parse_estate(text: str, where: str, find_bundle: FindBundle = _single_file) -> Estate:
    """Return the estate that `text` declares; `where` names it in complaints.

    `find_bundle` returns the bundle that a path names; None where that is a single file.
    """
    if len(text) > MAX_ESTATE_BYTES:
        raise EstateError(where, _TOO_LARGE)
    top = ("estate", "site", "link", "hardware", "data", "decision")
    root = Table(where, (), "an estate", _parse_toml(text, where), top)
    head = root.table("estate", "the estate", ("name", "state", "measured", "currency"))
    if head is None:
        root.refuse('[estate] is missing; begin the file with [estate] and name = "my-estate"')
    state = head.get("state", values.text, DEFAULT_STATE)
    places = Estate(
        name=head.need("name", values.name, 'name = "my-estate"'),
        state=state,
        measured=head.get("measured", values.text, _default_measured(state)),
        currency=head.get("currency", values.text, "EUR"),
        hardware=(hardware := _hardware(root)),
        sites=(sites := _sites(root, state, hardware)),
        links=_links(root, sites),
        data=_data(root, sites),
    )
    return replace(places, decisions=read_decisions(root, places, find_bundle))


def quick_estate(
    model: Path,
    budget_ns: int,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    http: str = DEFAULT_HTTP,
    unix: str | None = None,
) -> Estate:
    """Return the estate of `tidsram serve MODEL --budget B`: one decision, named after the model.

    The model is a single .onnx file or a bundle's directory.
    """
    if not 0 < budget_ns <= values.MAX_DURATION_NS:
        raise EstateError("--budget", f'{budget_ns} ns is not above zero and at most "1 h"')
    decision = Decision(
        name=values.valid_name(model.stem) or "model",
        ladder=only_variant(str(model.absolute())),
        budget_ns=budget_ns,
        shapes=dict(shapes or {}),
    )
    with suppress(OSError):  # whoever reads the model says what is wrong with its path
        if model.is_dir():
            decision = _with_bundle(decision, read_bundle(Path(), str(model.absolute())))
    site = Site(
        name=LOCAL,
        http=read_option("--http", values.address, http),
        unix=_default_unix(DEFAULT_STATE, LOCAL) if unix is None else unix,
    )
    return Estate(
        name=LOCAL,
        sites={LOCAL: site},
        decisions={decision.name: decision},
        measured=_default_measured(DEFAULT_STATE),
    )


def read_option(option: str, read: values.Reader[T], value: object) -> T:
    """Read a value from the command line by the rules of the estate file."""
    try:
        return read(value)
    except ValueError as error:
        raise EstateError(option, str(error)) from None


def read_variant(folder: Path, decision: Decision, variant: Variant) -> bytes:
    """Return the bytes of a variant's model; the estate lies in `folder`."""
    if not variant.model:
        name = f"{decision.name}/{variant.name}"
        problem = "it is declared for planning only and names no file"
        raise ModelRefused(name, problem, 'Give it one, such as model = "models/my.onnx".')
    return read_model(folder / variant.model, variant.sha256)


def read_model(file: Path, sha256: str = "") -> bytes:
    """Return the bytes of a model file; with a digest, only if they are those it belongs to."""
    return _read_proven(file, sha256) if sha256 else _read_single(file)


def read_bundle(folder: Path, directory: str) -> Bundle:
    """Read what the bundle in `directory` says, which is relative to `folder` or absolute.

    Its variants are read and compared with their digests when they are loaded.
    """
    where = str(folder / directory / MANIFEST)
    try:
        content = _read_beneath(folder / directory, (MANIFEST,), MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise EstateError(
            where,
            "no such file, so this is no finished bundle; make one with `tidsram lab`, or copy it "
            "whole",
        ) from None
    except OSError as error:
        raise EstateError(where, f"cannot be read: {_why(error)}") from None
    manifest = parse_manifest(content, where)
    return Bundle(
        directory=directory, sha256=hashlib.sha256(content).hexdigest(), manifest=manifest
    )


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of the bundle in `directory`."""
    return read_bundle(Path(), str(directory)).manifest


def _find_bundle(folder: Path, written: str) -> Bundle | None:
    """Return the bundle in a directory; None for a single file, which may be missing yet."""
    place = folder / written
    try:
        if stat.S_ISDIR(place.stat().st_mode):
            return read_bundle(folder, written)
    except OSError as error:
        if not written.endswith(".onnx"):
            shown = values.show(written)
            raise values.WrongValue(
                f"{shown} names no bundle ({error.strerror or error}); make it with `tidsram lab`, "
                "change its path, or name an .onnx file"
            ) from None
    return None


def _with_bundle(decision: Decision, bundle: Bundle) -> Decision:
    """Return a decision that declares nothing of its own with all that its bundle says."""
    manifest = bundle.manifest
    return replace(
        decision,
        name=manifest.name,
        ladder=ladder_of(manifest, bundle.directory),
        accuracy_floor=manifest.accuracy_floor,
        question=manifest.question,
        answer=manifest.answer,
        bundle_sha256=bundle.sha256,
    )


def _read_proven(file: Path, sha256: str) -> bytes:
    """Return the bytes of a bundle's variant: what is hashed is what is returned."""
    remedy = "Copy the bundle again, or make it again with `tidsram lab`."
    try:
        data = _read_beneath(file.parent.parent, file.parts[-2:], MAX_MODEL_BYTES)
    except OSError as error:
        raise ModelRefused(str(file), f"it cannot be read ({_why(error)})", remedy) from None
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        problem = (
            f"its SHA-256 begins with {found[:12]} and the bundle's manifest says {sha256[:12]}, "
            "so it is not the file that was validated"
        )
        raise ModelRefused(str(file), problem, remedy)
    return data


def _read_beneath(directory: Path, names: Sequence[str], most: int) -> bytes:
    """Read at most so many bytes of a plain file in `directory` that no link leads to.

    Who may write a link there could let it point at what this user may read and others may not.
    """
    at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in names:
        try:
            # Without O_NONBLOCK a pipe would keep its reader waiting.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            below = os.open(name, flags, dir_fd=at)
        finally:
            os.close(at)
        at = below
    if not stat.S_ISREG(os.fstat(at).st_mode):
        os.close(at)
        raise OSError(errno.EINVAL, "it is no plain file")
    with os.fdopen(at, "rb") as file:
        return file.read(most)


def _why(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "it is a symbolic link; put the file itself there"
    return error.strerror or str(error)


def _read_single(file: Path) -> bytes:
    name = str(file)
    try:
        if file.is_dir():
            problem = "it is a directory, and not the file of one model"
            raise ModelRefused(name, problem, 'Name an .onnx file, or a bundle with bundle = "…".')
        if file.stat().st_size > MAX_MODEL_BYTES:
            raise ModelRefused(name, "it is larger than 2 GiB", "Export a smaller model.")
        data = file.read_bytes()
    except FileNotFoundError:
        problem = "there is no such file"
        raise ModelRefused(name, problem, "Put it there, or change its path.") from None
    except OSError as error:
        problem = f"it cannot be read ({error.strerror or error})"
        raise ModelRefused(name, problem, "Let this user read it, or change its path.") from None
    if not data:
        raise ModelRefused(name, "the file is empty", "Export or copy it again.")
    return data


_TOO_DEEP = "is nested too deeply; an estate needs three levels"
_TOO_LARGE = f"is larger than {MAX_ESTATE_BYTES // 10**6} MB; an estate is a text of some kilobytes"


def _decode(content: bytes, where: str) -> str:
    if len(content) > MAX_ESTATE_BYTES:
        raise EstateError(where, _TOO_LARGE)
    try:
        # Some editors begin a file with a byte order mark; TOML knows none.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise EstateError(
            f"{where}, line {line}",
            f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8 text",
        ) from None


def _parse_toml(text: str, where: str) -> dict[str, object]:
    if _DEEP_KEY.search(text):
        raise EstateError(where, _TOO_DEEP)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise EstateError(where, _TOO_DEEP) from None
    except tomllib.TOMLDecodeError as error:
        # Its text ends in "(at line 3, column 5)" or "(at end of document)".
        problem, _, place = str(error).rpartition(" (at ")
        found = re.fullmatch(r"line (\d+), (column \d+)\)", place)
        line, column = found.groups() if found else (text.count("\n") + 1, "the end of the file")
        sentence = f"{problem or error}, at {column}; this is not TOML"
        raise EstateError(f"{where}, line {line}", sentence) from None
    except ValueError:  # Python's own limit on the digits of a number
        raise EstateError(where, "holds a number of more than 4300 digits; shorten it") from None


def _hardware(root: Table) -> dict[str, Hardware]:
    declared = root.named("hardware", "a hardware type", _HARDWARE_KEYS)
    return {
        name: Hardware(
            lanes=_lanes(table) if "lanes" in table else (),
            memory_bytes=table.get("memory", values.memory, 0),
            scheduling=table.get("scheduling", values.choice("auto", "fifo", "nice"), "auto"),
            yearly_cost=table.get("yearly_cost", values.cost, 0.0),
            lead_weeks=table.get("lead_time", values.weeks, 0),
        )
        for name, table in declared
    }


def _lanes(table: Table) -> tuple[Lane, ...]:
    lanes: list[Lane] = []
    taken: dict[int, int] = {}
    items = table.listed("lanes", "a lane", ("cores", "device"), example="[{ cores = [1] }]")
    for index, item in enumerate(items):
        cores = item.need("cores", values.list_of(values.whole(0, 4095), most=1024), "cores = [1]")
        for core in cores:
            if core in taken:
                other = (
                    "twice" if taken[core] == index else f"that lanes[{taken[core]}] has already"
                )
                item.refuse_value("cores", f"names core {core} {other}; lanes never share a core")
            taken[core] = index
        item.get("device", values.choice("cpu"), "cpu")
        lanes.append(Lane(cores=cores))
    return tuple(lanes)


def _sites(root: Table, state: str, hardware: Mapping[str, Hardware]) -> dict[str, Site]:
    sites = {
        name: _site(name, table, state, hardware)
        for name, table in root.named("site", "a site", _SITE_KEYS, later=_SITE_LATER)
    }
    return sites or {LOCAL: Site(name=LOCAL, unix=_default_unix(state, LOCAL))}


def _site(name: str, table: Table, state: str, hardware: Mapping[str, Hardware]) -> Site:
    known = values.declared("hardware", hardware)
    nodes = table.get("nodes", values.whole(0, MAX_NODES), 1)
    max_nodes = table.get("max_nodes", values.whole(0, MAX_NODES), max(16, nodes))
    if max_nodes < nodes:
        table.refuse_value(
            "max_nodes", f"is less than nodes = {nodes}, which stand there today; raise it"
        )
    return Site(
        name=name,
        hardware=table.get("hardware", known, ""),
        http=table.get("http", values.address, DEFAULT_HTTP),
        unix=table.get("unix", values.text, _default_unix(state, name)),
        jurisdiction=table.get("jurisdiction", values.name, ""),
        nodes=nodes,
        max_nodes=max_nodes,
        offers=table.get("offers", values.set_of(known, most=64), ()),
        location=table.get("location", values.location, None),
        yearly_cost=table.get("yearly_cost", values.cost, 0.0),
    )


def _default_unix(state: str, site: str) -> str:
    return str(Path(state) / f"{site}.sock")


def _default_measured(state: str) -> str:
    return str(Path(state) / "measured")


def _links(root: Table, sites: Mapping[str, Site]) -> tuple[Link, ...]:
    """Return the links, each pair of sites once; one without rtt has a prior to stand in for it."""
    links: dict[frozenset[str], Link] = {}
    known = values.declared("site", sites)
    for a, ends in root.named("link", "a link", None, read_name=known):
        for b, table in ends.each("a link", ("rtt",), read_name=known):
            if frozenset((a, b)) in links:
                table.refuse_self(f"is there already as [link.{b}.{a}]; keep one of them")
            links[frozenset((a, b))] = _link(a, b, table, sites)
    return tuple(links.values())


def _link(a: str, b: str, table: Table, sites: Mapping[str, Site]) -> Link:
    if a == b:
        table.refuse_self("joins a site to itself; take it out")
    rtt = table.get("rtt", values.delay, None)
    nowhere = [end for end in (a, b) if sites[end].location is None]
    if rtt is None and nowhere:
        table.refuse_self(
            f"has no rtt, and {nowhere[0]} no location to estimate one from; add {_RTT} here, or "
            f"location = [60.67, 17.14] to [site.{nowhere[0]}]"
        )
    return Link(a=a, b=b, rtt=rtt)


def _data(root: Table, sites: Mapping[str, Site]) -> dict[str, DataClass]:
    known = values.declared("site", sites)
    present = frozenset(site.jurisdiction for site in sites.values())
    found: dict[str, DataClass] = {}
    for name, table in root.named("data", "a data class", ("jurisdictions", "sites")):
        data = found[name] = DataClass(
            name=name,
            jurisdictions=table.get("jurisdictions", values.jurisdictions(present), ()),
            sites=table.get("sites", values.set_of(known, most=values.MAX_LISTED), ()),
        )
        if not reach(data, sites, present):
            where = ", ".join(data.jurisdictions)
            table.refuse_value("sites", f"are all outside its jurisdictions, {where}; change one")
    return found


def load_plan(path: Path) -> Plan:
    """Read the plan in the file `path`."""
    where = str(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_PLAN_BYTES + 1)
    except FileNotFoundError:
        raise EstateError(where, "no such file; make a plan with `tidsram plan`") from None
    except OSError as error:
        raise EstateError(where, f"cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_PLAN_BYTES:
        raise EstateError(where, f"is larger than {MAX_PLAN_BYTES // 10**6} MB; it is no plan")
    return parse_plan(content, where)


def estate_sha256(path: Path) -> str:
    """Return the digest of an estate file, by which a plan knows its estate."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise EstateError(str(path), f"cannot be read: {error.strerror or error}") from None
