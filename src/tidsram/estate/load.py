"""Read a `tidsram.toml` into an Estate, or say what is wrong with it in one sentence.

This module alone reads files; `parse_estate` is its pure part. Anything the file says that this
version would not act on is refused: a declared promise is kept or complained about, never ignored.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

from tidsram.errors import EstateError, ModelRefused
from tidsram.estate import values
from tidsram.estate.tables import Table
from tidsram.estate.types import (
    MAX_VARIANTS,
    Answer,
    Arrivals,
    Criticality,
    Decision,
    Estate,
    Hardware,
    Lane,
    Question,
    Site,
    Variant,
)

MAX_ESTATE_BYTES = 10_000_000
MAX_MODEL_BYTES = 2**31  # protobuf's own limit, and so that of an .onnx file
DEFAULT_HTTP = "127.0.0.1:8700"
DEFAULT_STATE = ".tidsram"
LOCAL = "local"
MAX_BURST = 10_000

T = TypeVar("T")

_DECISION_KEYS = (
    *("bundle", "budget", "objective", "criticality", "arrivals", "queue"),
    *("safe_action", "record", "shapes", "question", "answer", "variants", "accuracy_floor"),
)
_DECISION_LATER = ("sources", "growth", "data", "jurisdictions")
_ARRIVALS_KEYS = ("kind", "rate", "cv", "burst")
_SITE_KEYS = ("hardware", "http", "unix")
_SITE_LATER = ("jurisdiction", "nodes", "node", "location", "grpc", "fabric")
_QUESTION_KEYS = ("kind", "size", "color", "mean", "std", "layout", "images")
_DECODED_KIND = {"nanodet": "boxes", "defect-grid": "boxes"}


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
    return parse_estate(_decode(content, where), where)


def parse_estate(text: str, where: str) -> Estate:
    """Return the estate that `text` declares; `where` names it in complaints."""
    if len(text) > MAX_ESTATE_BYTES:
        raise EstateError(where, _TOO_LARGE)
    top = ("estate", "site", "hardware", "decision")
    root = Table(where, (), "an estate", _parse_toml(text, where), top, later=("link",))
    head = root.table("estate", "the estate", ("name", "state"))
    if head is None:
        root.refuse('[estate] is missing; begin the file with [estate] and name = "my-estate"')
    state = head.get("state", values.text, DEFAULT_STATE)
    return Estate(
        name=head.need("name", values.name, 'name = "my-estate"'),
        state=state,
        hardware=(hardware := _hardware(root)),
        sites=_sites(root, state, hardware),
        decisions=_decisions(root),
    )


def quick_estate(
    model: Path,
    budget_ns: int,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    http: str = DEFAULT_HTTP,
    unix: str | None = None,
) -> Estate:
    """Return the estate of `tidsram serve MODEL --budget B`: one decision, named after the file."""
    if not 0 < budget_ns <= values.MAX_DURATION_NS:
        raise EstateError("--budget", f'{budget_ns} ns is not above zero and at most "1 h"')
    name = values.valid_name(model.stem) or "model"
    decision = Decision(
        name=name,
        ladder=_only(str(model.absolute())),
        budget_ns=budget_ns,
        shapes=dict(shapes or {}),
    )
    site = Site(
        name=LOCAL,
        http=read_option("--http", values.address, http),
        unix=_default_unix(DEFAULT_STATE, LOCAL) if unix is None else unix,
    )
    return Estate(name=LOCAL, sites={LOCAL: site}, decisions={name: decision})


def read_option(option: str, read: values.Reader[T], value: object) -> T:
    """Read a value from the command line by the rules of the estate file."""
    try:
        return read(value)
    except ValueError as error:
        raise EstateError(option, str(error)) from None


def read_model(file: Path) -> bytes:
    """Return the bytes of a variant's model file."""
    name = str(file)
    try:
        if file.is_dir():
            problem = f"it is a directory, and version {values.VERSION} reads single files only"
            raise ModelRefused(name, problem, "Name the .onnx file in it.")
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
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise EstateError(where, "is nested too deeply; an estate needs three levels") from None
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
    declared = root.named(
        "hardware", "a hardware type", ("lanes", "scheduling", "memory"), later=("yearly_cost",)
    )
    return {
        name: Hardware(
            lanes=_lanes(table) if "lanes" in table else (),
            memory_bytes=table.get("memory", values.memory, 0),
            scheduling=table.get("scheduling", values.choice("auto", "fifo", "nice"), "auto"),
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
    kind = table.get("hardware", values.name, "")
    if kind and kind not in hardware:
        near = values.nearest(kind, list(hardware)) or f"; add [hardware.{kind}], or take it out"
        table.refuse_value("hardware", f"is not declared in this file{near}")
    return Site(
        name=name,
        hardware=kind,
        http=table.get("http", values.address, DEFAULT_HTTP),
        unix=table.get("unix", values.text, _default_unix(state, name)),
    )


def _default_unix(state: str, site: str) -> str:
    return str(Path(state) / f"{site}.sock")


def _decisions(root: Table) -> dict[str, Decision]:
    declared = root.named("decision", "a decision", _DECISION_KEYS, later=_DECISION_LATER)
    decisions = {name: _decision(name, table) for name, table in declared}
    if not decisions:
        root.refuse("declares no decision; add [decision.NAME] with its bundle and its budget")
    return decisions


def _decision(name: str, table: Table) -> Decision:
    return Decision(
        name=name,
        ladder=_ladder(table),
        budget_ns=table.need("budget", values.duration, 'budget = "100 ms"'),
        accuracy_floor=table.get("accuracy_floor", values.score, 0.0),
        objective=table.get("objective", values.share, 0.99),
        criticality=Criticality(table.get("criticality", values.choice(*Criticality), "standard")),
        arrivals=_arrivals(table),
        queue=table.get("queue", values.choice("edf", "newest"), "edf"),
        safe_action=table.get("safe_action", values.action, None),
        record=table.get("record", values.choice("none", later=("required", "durable")), "none"),
        shapes=table.get("shapes", values.shapes, {}),
        question=_question(table),
        answer=_answer(table),
    )


def _ladder(decision: Table) -> tuple[Variant, ...]:
    """Return the variants at or above the floor; equally accurate ones stay as declared."""
    if "variants" not in decision:
        return _only(_bundle(decision))
    if "bundle" in decision:
        decision.refuse_value(
            "bundle", "stands beside variants; keep one of them, each variant names its own model"
        )
    declared = list(
        decision.named("variants", "a variant", ("model", "accuracy"), later=("memory", "service"))
    )
    if not 1 <= len(declared) <= MAX_VARIANTS:
        decision.refuse_value(
            "variants", f"declares {len(declared)} variants; allowed are 1 to {MAX_VARIANTS}"
        )
    compared = len(declared) > 1 or "accuracy_floor" in decision
    variants = [_variant(name, table, compared=compared) for name, table in declared]
    return _above_floor(decision, variants)


def _bundle(decision: Table) -> str:
    if "accuracy_floor" in decision:
        decision.refuse_value(
            "accuracy_floor", "compares variants, and there are none; declare them, or take it out"
        )
    return decision.need("bundle", values.text, 'bundle = "models/my.onnx"')


def _only(model: str) -> tuple[Variant, ...]:
    return (Variant(name=model.rsplit("/", 1)[-1].removesuffix(".onnx"), model=model),)


def _variant(name: str, table: Table, *, compared: bool) -> Variant:
    model = table.need("model", values.text, 'model = "models/my-int8.onnx"')
    accuracy: float | None
    if compared:
        accuracy = table.need("accuracy", values.score, "accuracy = 0.9")
    else:
        accuracy = table.get("accuracy", values.score, None)
    return Variant(name=name, model=model, accuracy=accuracy)


def _above_floor(decision: Table, variants: list[Variant]) -> tuple[Variant, ...]:
    floor = decision.get("accuracy_floor", values.score, 0.0)
    ranked = sorted(variants, key=lambda variant: -(variant.accuracy or 0.0))
    ladder = tuple(v for v in ranked if v.accuracy is None or v.accuracy >= floor)
    if not ladder:
        best = f"the most accurate is {ranked[0].name} with {ranked[0].accuracy:g}"
        decision.refuse_value(
            "accuracy_floor", f"leaves no variant, {best}; lower it, or add a better variant"
        )
    return ladder


def _arrivals(decision: Table) -> Arrivals | None:
    table = decision.table("arrivals", "arrivals", _ARRIVALS_KEYS, later=("file", "trace"))
    if table is None:
        return None
    kinds = values.choice("periodic", "poisson", "gamma", later=("trace",))
    kind = table.need("kind", kinds, 'kind = "periodic"')
    if kind != "gamma" and "cv" in table:
        table.refuse_value("cv", f'is of kind = "gamma" only, not of "{kind}"; take it out')
    return Arrivals(
        kind=kind,
        rate=table.need("rate", values.rate, 'rate = "10/s"'),
        cv=table.need("cv", values.variation, "cv = 2") if kind == "gamma" else 1.0,
        burst=table.get("burst", values.whole(1, MAX_BURST), 0),
    )


def _question(decision: Table) -> Question | None:
    table = decision.table("question", "a question", _QUESTION_KEYS)
    if table is None:
        return None
    color: Literal["rgb", "bgr", "gray"]
    color = table.get("color", values.choice("rgb", "bgr", "gray"), "rgb")
    channels = 1 if color == "gray" else 3
    return Question(
        kind=table.need("kind", values.choice("image"), 'kind = "image"'),
        size=table.get("size", values.size, None),
        color=color,
        mean=_per_channel(table, "mean", values.number, 0.0, channels),
        std=_per_channel(table, "std", values.divisor, 1.0, channels),
        layout=table.get("layout", values.choice("nchw", "nhwc"), "nchw"),
        images=table.get("images", values.whole(1, 16), 1),
    )


def _per_channel(
    table: Table, key: str, read: values.Reader[float], default: float, channels: int
) -> tuple[float, ...]:
    unset: tuple[float, ...] = (default,)
    found = table.get(key, values.list_of(read, most=16), unset)
    if len(found) not in (1, channels):
        allowed = "1 number" if channels == 1 else f"1 number or {channels}"
        table.refuse_value(
            key, f"holds {len(found)} numbers; allowed is {allowed}, one a channel of an image"
        )
    return found


def _answer(decision: Table) -> Answer | None:
    table = decision.table("answer", "an answer", ("kind", "decoder", "threshold", "labels"))
    if table is None:
        return None
    kinds = values.choice("boxes", "mask", "class", "tensor")
    kind = table.need("kind", kinds, 'kind = "boxes"')
    decoder: Literal["", "nanodet", "defect-grid"]
    decoder = table.get("decoder", values.choice(*_DECODED_KIND), "")
    if decoder and _DECODED_KIND[decoder] != kind:
        table.refuse_value("decoder", f'makes kind = "{_DECODED_KIND[decoder]}", not "{kind}"')
    if kind in _DECODED_KIND.values() and not decoder:
        words = ", ".join(f'"{word}"' for word in _DECODED_KIND)
        table.refuse_value("kind", f"needs a decoder beside it; allowed is decoder = {words}")
    return Answer(
        kind=kind,
        decoder=decoder,
        threshold=table.get("threshold", values.score, 0.5),
        labels=table.get("labels", values.list_of(values.text, most=10_000), ()),
    )
