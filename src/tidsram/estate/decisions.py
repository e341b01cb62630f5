"""Read the decisions of an estate: what is asked, where and how often, and what is promised.

Nothing here reads a file. A decision may name sites, hardware and data classes of the same file.
"""

from collections.abc import Callable
from typing import Literal

from msgspec.structs import replace

from tidsram.estate import values
from tidsram.estate.bundle import Bundle, ladder_of
from tidsram.estate.placement import reach
from tidsram.estate.questions import read_answer, read_question
from tidsram.estate.tables import Table
from tidsram.estate.types import (
    MAX_VARIANTS,
    Arrivals,
    Criticality,
    Decision,
    Delay,
    Estate,
    Variant,
)

MAX_BURST = 10_000
MAX_ASKERS = 1_000_000  # at one site

_DECISION_KEYS = (
    *("bundle", "budget", "objective", "criticality", "arrivals", "queue"),
    *("safe_action", "record", "shapes", "question", "answer", "variants", "accuracy_floor"),
    *("sources", "growth", "data", "jurisdictions", "survives", "access", "capture", "actuation"),
    *("memory", "service"),
)
_VARIANT_KEYS = ("model", "accuracy", "memory", "service")
_ARRIVALS_KEYS = ("kind", "rate", "cv", "burst", "synchronised")
_OF_A_BUNDLE = ("question", "answer", "memory", "service")  # it says them itself, or its profiles
_LOSSES: tuple[Literal["node", "site", "link"], ...] = ("node", "site", "link")
_SERVICE = '{ edge-2 = { p50 = "18.5 ms", p99_9 = "21 ms" } }'
_GROWTH = values.table_of(values.quarter, values.growth, "{ 2027-Q1 = 1.5 }")
_SURVIVES = values.set_of(values.choice(*_LOSSES), most=len(_LOSSES), least=0)

FindBundle = Callable[[str], Bundle | None]  # None: a single file; raises WrongValue where nothing


def read_decisions(root: Table, places: Estate, find_bundle: FindBundle) -> dict[str, Decision]:
    """Return the decisions, at least one; `places` is all else that the file declares.

    `find_bundle` returns what lies where a decision's `bundle` points.
    """
    declared = root.named("decision", "a decision", _DECISION_KEYS)
    reading = _Reading(places, find_bundle)
    decisions = {name: _decision(name, table, reading) for name, table in declared}
    if not decisions:
        root.refuse("declares no decision; add [decision.NAME] with its bundle and its budget")
    return decisions


def only_variant(model: str) -> tuple[Variant, ...]:
    """Return the ladder of a decision that has but one model."""
    return (Variant(name=model.rsplit("/", 1)[-1].removesuffix(".onnx"), model=model),)


class _Reading:
    """The readers of what refers to other tables or files, and how far each data class reaches."""

    def __init__(self, places: Estate, find_bundle: FindBundle) -> None:
        self._find_bundle = find_bundle
        site = values.declared("site", places.sites)
        hardware = values.declared("hardware", places.hardware)
        present = frozenset(found.jurisdiction for found in places.sites.values())
        self.site_list = values.set_of(site, most=values.MAX_LISTED)
        self.site_counts = values.table_of(site, values.whole(1, MAX_ASKERS), "{ gavle = 4 }")
        self.service = values.table_of(hardware, values.delay, _SERVICE)
        self.data = values.declared("data", places.data)
        self.jurisdictions = values.jurisdictions(present)
        self.reach = {
            name: reach(data, places.sites, present) for name, data in places.data.items()
        }

    def sources(self, value: object) -> dict[str, int]:
        """Read who asks: a list of sites with one asker each, or a table that counts them."""
        if isinstance(value, dict):
            return self.site_counts(value)
        return dict.fromkeys(self.site_list(value), 1)

    def bundle(self, value: object) -> Bundle | None:
        """Read the bundle that is named; None for a single file."""
        return self._find_bundle(values.text(value))


def _decision(name: str, table: Table, reading: _Reading) -> Decision:
    jurisdictions: tuple[str, ...] = table.get("jurisdictions", reading.jurisdictions, ())
    data = table.get("data", reading.data, "")
    if jurisdictions and data and reading.reach[data].isdisjoint(jurisdictions):
        where = ", ".join(jurisdictions)
        table.refuse_value(
            "data", f"may be at no site in {where}, where the decision may be made; change one"
        )
    bundle = _bundle(table, reading)
    floor = table.get(
        "accuracy_floor", values.score, bundle.manifest.accuracy_floor if bundle else 0.0
    )
    return Decision(
        name=name,
        ladder=_bundled(table, bundle, floor) if bundle else _ladder(name, table, reading),
        budget_ns=table.need("budget", values.duration, 'budget = "100 ms"'),
        accuracy_floor=floor,
        objective=table.get("objective", values.share, 0.99),
        criticality=Criticality(table.get("criticality", values.choice(*Criticality), "standard")),
        arrivals=_arrivals(table),
        queue=table.get("queue", values.choice("edf", "newest"), "edf"),
        safe_action=table.get("safe_action", values.action, None),
        record=table.get("record", values.choice("none", later=("required", "durable")), "none"),
        shapes=table.get("shapes", values.shapes, {}),
        question=bundle.manifest.question if bundle else read_question(table),
        answer=bundle.manifest.answer if bundle else read_answer(table),
        sources=table.get("sources", reading.sources, {}),
        growth=table.get("growth", _GROWTH, {}),
        data=data,
        jurisdictions=jurisdictions,
        survives=table.get("survives", _SURVIVES, _LOSSES),
        access=table.get("access", values.delay, None),
        capture_ns=table.get("capture", values.duration, 0),
        actuation_ns=table.get("actuation", values.duration, 0),
        bundle_sha256=bundle.sha256 if bundle else "",
    )


def _bundle(decision: Table, reading: _Reading) -> Bundle | None:
    """Return the decision's bundle; None where it names a single file, or its variants."""
    if "variants" in decision:
        return None
    bundle = decision.get("bundle", reading.bundle, None)
    for key in _OF_A_BUNDLE:
        if bundle and key in decision:
            decision.refuse_value(
                key,
                f"stands beside the bundle {bundle.directory}, which says that itself; take it out",
            )
    return bundle


def _bundled(decision: Table, bundle: Bundle, floor: float) -> tuple[Variant, ...]:
    """Return the bundle's variants at or above the floor, which is not below the bundle's own."""
    proven = bundle.manifest.accuracy_floor
    if floor < proven:
        decision.refuse_value(
            "accuracy_floor",
            f"is below {proven:g}, for which the bundle was made: it holds nothing less accurate; "
            "raise it, or take it out",
        )
    ladder = ladder_of(bundle.manifest, bundle.directory, floor)
    if not ladder:
        best = bundle.manifest.ladder[0]
        decision.refuse_value(
            "accuracy_floor",
            f"leaves no variant of the bundle, the most accurate is {best.name} with "
            f"{best.accuracy:g}; lower it, or make a better bundle with `tidsram lab`",
        )
    return ladder


def _ladder(name: str, decision: Table, reading: _Reading) -> tuple[Variant, ...]:
    """Return the variants at or above the floor; equally accurate ones stay as declared."""
    if "variants" not in decision:
        return _only(name, decision, reading)
    if "bundle" in decision:
        decision.refuse_value(
            "bundle", "stands beside variants; keep one of them, each variant names its own model"
        )
    for key in ("memory", "service"):
        if key in decision:
            decision.refuse_value(key, f"stands beside variants; give each variant its own {key}")
    declared = list(decision.named("variants", "a variant", _VARIANT_KEYS))
    if not 1 <= len(declared) <= MAX_VARIANTS:
        decision.refuse_value(
            "variants", f"declares {len(declared)} variants; allowed are 1 to {MAX_VARIANTS}"
        )
    compared = len(declared) > 1 or "accuracy_floor" in decision
    variants = [_variant(name, table, reading, compared=compared) for name, table in declared]
    return _above_floor(decision, variants)


def _only(name: str, decision: Table, reading: _Reading) -> tuple[Variant, ...]:
    """Return the one variant of a decision that declares none: its bundle, or what is planned."""
    if "accuracy_floor" in decision:
        decision.refuse_value(
            "accuracy_floor", "compares variants, and there are none; declare them, or take it out"
        )
    model = _model(decision, "bundle", 'bundle = "models/my.onnx"')
    (only,) = only_variant(model) if model else (Variant(name=name, model=""),)
    return (_planned(only, decision, reading),)


def _variant(name: str, table: Table, reading: _Reading, *, compared: bool) -> Variant:
    model = _model(table, "model", 'model = "models/my-int8.onnx"')
    accuracy: float | None
    if compared:
        accuracy = table.need("accuracy", values.score, "accuracy = 0.9")
    else:
        accuracy = table.get("accuracy", values.score, None)
    return _planned(Variant(name=name, model=model, accuracy=accuracy), table, reading)


def _model(table: Table, key: str, example: str) -> str:
    """Return the model's path; empty where declared service times stand in for it."""
    if key not in table and "service" in table:
        return ""
    return table.need(key, values.text, example)


def _planned(variant: Variant, table: Table, reading: _Reading) -> Variant:
    service: dict[str, Delay] = table.get("service", reading.service, {})
    return replace(variant, memory_bytes=table.get("memory", values.memory, 0), service=service)


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
    synchronised = table.get("synchronised", values.flag, False)
    if synchronised and kind != "periodic":
        table.refuse_value(
            "synchronised", f'is of kind = "periodic" only, not of "{kind}"; take it out'
        )
    return Arrivals(
        kind=kind,
        rate=table.need("rate", values.rate, 'rate = "10/s"'),
        cv=table.need("cv", values.variation, "cv = 2") if kind == "gamma" else 1.0,
        burst=table.get("burst", values.whole(1, MAX_BURST), 0),
        synchronised=synchronised,
    )
