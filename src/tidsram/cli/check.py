"""`tidsram check`: read an estate, look at its models, and say in words what it promises here."""

import os
import sys
from pathlib import Path

import msgspec

from tidsram.errors import EstateError, ModelRefused
from tidsram.estate.bundle import LeftOut, Manifest, Member, directory_of
from tidsram.estate.doubts import doubts
from tidsram.estate.load import load_estate, read_bundle, read_variant
from tidsram.estate.placement import allowed_at, lanes_of, show_cores, warm_lanes
from tidsram.estate.types import Arrivals, Decision, Estate, Lane, Variant
from tidsram.protocol.tensors import ModelSpec, TensorSpec
from tidsram.units import US, show_ns, show_rate, show_size

_VERSION_SHOWN = 12  # hexadecimal digits of a digest


class SiteHere(msgspec.Struct, frozen=True):
    """What a site's node would be on this machine; `problem` says why it cannot be one.

    `forbidden` says of each decision that may not be made there why not.
    """

    site: str
    jurisdiction: str
    nodes: int
    max_nodes: int
    hardware: str
    http: str
    unix: str
    scheduling: str
    lanes: tuple[Lane, ...]
    warm: dict[str, tuple[int, ...]]
    forbidden: dict[str, str]
    problem: str


class CheckedVariant(msgspec.Struct, frozen=True):
    """One variant with what its model turned out to be; `problem` says why it is refused.

    Without a model and without a problem it is planned only, and others can be served.
    """

    variant: Variant
    model: ModelSpec | None
    problem: str


class Checked(msgspec.Struct, frozen=True):
    """One decision with its ladder, the most accurate variant first."""

    decision: Decision
    ladder: tuple[CheckedVariant, ...]
    manifest: Manifest | None  # its bundle's

    @property
    def members(self) -> dict[str, Member]:
        """What the bundle says of its variants, by name."""
        return {member.name: member for member in self.manifest.ladder} if self.manifest else {}

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What of the bundle does not answer, and why: by the lab's verdict, then by the floor."""
        if self.manifest is None:
            return ()
        served = {checked.variant.name for checked in self.ladder}
        why = f"below this estate's floor, accuracy {self.decision.accuracy_floor:g}"
        below = (
            LeftOut(name=member.name, why=why, accuracy=member.accuracy)
            for member in self.manifest.ladder
            if member.name not in served
        )
        return (*self.manifest.left_out, *below)

    @property
    def model(self) -> ModelSpec | None:
        """The inputs and outputs of the variants that can be served."""
        return next((checked.model for checked in self.ladder if checked.model), None)

    @property
    def problems(self) -> list[str]:
        """Why variants are refused."""
        return [checked.problem for checked in self.ladder if checked.problem]


class _VariantJson(msgspec.Struct):
    variant: str
    accuracy: float | None
    model: str
    problem: str
    engine: str
    precision: str
    threads: int
    sha256: str
    bytes: int | None


class _BundleJson(msgspec.Struct):
    directory: str
    sha256: str
    left_out: tuple[LeftOut, ...]


class _DecisionJson(msgspec.Struct):
    decision: str
    bundle: _BundleJson | None
    ladder: list[_VariantJson]
    accuracy_floor: float
    budget_us: int
    objective: float
    criticality: str
    queue: str
    arrivals: dict[str, str | float] | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sources: dict[str, int]
    growth: dict[str, float]
    data: str
    jurisdictions: tuple[str, ...]
    survives: tuple[str, ...]


class _ReportJson(msgspec.Struct):
    file: str
    estate: str
    ok: bool
    cores: list[int]
    sites: list[SiteHere]
    decisions: list[_DecisionJson]
    doubts: tuple[str, ...]


def run(*, file: Path, as_json: bool) -> int:
    """Explain the estate in `file`; 0 when this machine could serve it, 1 when not."""
    estate = load_estate(file)
    cores = sorted(os.sched_getaffinity(0))
    sites = [_site_here(estate, name, cores) for name in estate.sites]
    checked = [_check_ladder(file.parent, decision) for decision in estate.decisions.values()]
    # Sites on other machines are no fault of this one: it has to fit one of them.
    ok = not any(c.problems for c in checked) and any(not s.problem for s in sites)
    if as_json:
        _print_json(file, estate, cores, sites, checked, ok=ok)
    else:
        _print_words(file, estate, cores, sites, checked)
    return 0 if ok else 1


def _site_here(estate: Estate, name: str, cores: list[int]) -> SiteHere:
    site = estate.sites[name]
    forbidden = {
        decision.name: why
        for decision in estate.decisions.values()
        if (why := allowed_at(estate, decision, site))
    }
    lanes: tuple[Lane, ...] = ()
    warm: dict[str, tuple[int, ...]] = {}
    problem = ""
    try:
        lanes = lanes_of(estate, name, cores)
        allowed = [d for d in estate.decisions.values() if d.name not in forbidden]
        warm = warm_lanes(allowed, len(lanes))
    except EstateError as error:
        problem = str(error)
    hardware = estate.hardware.get(site.hardware)
    return SiteHere(
        site=name,
        jurisdiction=site.jurisdiction,
        nodes=site.nodes,
        max_nodes=site.max_nodes,
        hardware=site.hardware,
        http=site.http,
        unix=site.unix,
        scheduling=hardware.scheduling if hardware else "auto",
        lanes=lanes,
        warm=warm,
        forbidden=forbidden,
        problem=problem,
    )


def _check_ladder(base: Path, decision: Decision) -> Checked:
    ladder: list[CheckedVariant] = []
    served = any(variant.model for variant in decision.ladder)
    for variant in decision.ladder:
        if served and not variant.model:
            ladder.append(CheckedVariant(variant, None, ""))
            continue
        top = next((checked for checked in ladder if checked.model), None)
        try:
            model = _inspect(base, decision, variant, top)
            ladder.append(CheckedVariant(variant, model, ""))
        except ModelRefused as refused:
            ladder.append(CheckedVariant(variant, None, str(refused)))
    return Checked(decision, tuple(ladder), _manifest_of(base, decision))


def _manifest_of(base: Path, decision: Decision) -> Manifest | None:
    """Return the manifest of the decision's bundle: it says more than serving needs to know."""
    if not (directory := directory_of(decision)):
        return None
    bundle = read_bundle(base, directory)
    if bundle.sha256 != decision.bundle_sha256:
        raise EstateError(directory, "has changed while it was being read; check once more")
    return bundle.manifest


def _inspect(
    base: Path, decision: Decision, variant: Variant, top: CheckedVariant | None
) -> ModelSpec:
    # They bring the whole ONNX package along, which a mistake in the estate need not wait for.
    from tidsram.engine.inspect import inspect_model
    from tidsram.serve.ladder import check_alike

    data = read_variant(base, decision, variant)
    model = inspect_model(data, variant.model, decision.shapes)
    if variant.engine == "openvino":
        from tidsram.engine.openvino import load

        # An extra that may not be installed here, and refuses some models that are valid.
        load(data, variant.model, variant.threads or 1, decision.shapes, variant.precision)
    if top is not None and top.model is not None:
        check_alike(variant.model, model, top.variant.name, top.model)
    return model


def _print_json(
    file: Path,
    estate: Estate,
    cores: list[int],
    sites: list[SiteHere],
    checked: list[Checked],
    *,
    ok: bool,
) -> None:
    report = _ReportJson(
        file=str(file),
        estate=estate.name,
        ok=ok,
        cores=cores,
        sites=sites,
        decisions=[_decision_json(c) for c in checked],
        doubts=doubts(estate),
    )
    print(msgspec.json.encode(report).decode())


def _decision_json(checked: Checked) -> _DecisionJson:
    decision, model, members = checked.decision, checked.model, checked.members
    bundle = None
    if decision.bundle_sha256:
        bundle = _BundleJson(directory_of(decision), decision.bundle_sha256, checked.left_out)
    return _DecisionJson(
        decision=decision.name,
        bundle=bundle,
        ladder=[_variant_json(c, members.get(c.variant.name)) for c in checked.ladder],
        accuracy_floor=decision.accuracy_floor,
        budget_us=decision.budget_ns // US,
        objective=decision.objective,
        criticality=decision.criticality.value,
        queue=decision.queue,
        arrivals=_arrivals_json(decision.arrivals) if decision.arrivals else None,
        inputs=model.inputs if model else (),
        outputs=model.outputs if model else (),
        sources=decision.sources,
        growth=decision.growth,
        data=decision.data,
        jurisdictions=decision.jurisdictions,
        survives=decision.survives,
    )


def _variant_json(checked: CheckedVariant, member: Member | None) -> _VariantJson:
    variant = checked.variant
    return _VariantJson(
        variant=variant.name,
        accuracy=variant.accuracy,
        model=variant.model,
        problem=checked.problem,
        engine=variant.engine,
        precision=member.precision if member else variant.precision,
        threads=variant.threads,
        sha256=variant.sha256,
        bytes=member.bytes if member else None,
    )


def _arrivals_json(arrivals: Arrivals) -> dict[str, str | float]:
    found: dict[str, str | float] = {"kind": arrivals.kind, "rate_per_s": arrivals.rate}
    if arrivals.kind == "gamma":
        found["cv"] = arrivals.cv
    if arrivals.burst:
        found["burst"] = arrivals.burst
    if arrivals.synchronised:
        found["synchronised"] = True
    return found


def _print_words(
    file: Path, estate: Estate, cores: list[int], sites: list[SiteHere], checked: list[Checked]
) -> None:
    print(
        f"{file} declares estate {estate.name}: {_count(len(checked), 'decision')}, "
        f"{_count(len(sites), 'site')}; this machine gives it {show_cores(cores)}."
    )
    for one in checked:
        print(f"\nDecision {one.decision.name}, {one.decision.criticality.value}")
        for label, words in _decision_lines(one, sites):
            print(f"  {label:<10} {words}")
    for site in sites:
        print(f"\nSite {site.site}")
        for label, words in _site_lines(site):
            print(f"  {label:<10} {words}")
    for doubt in doubts(estate):
        print(f"\nAsk about {doubt}")
    refused = [problem for one in checked for problem in one.problems]
    lost = [site.problem for site in sites if site.problem]
    print()
    if not refused and len(lost) < len(sites):
        print("All models can be served here.")
    # Stdout first: the verdict belongs below the explanation when both reach one terminal.
    sys.stdout.flush()
    for problem in refused + (lost if len(lost) == len(sites) else []):
        print(f"tidsram: {problem}", file=sys.stderr)


def _decision_lines(one: Checked, sites: list[SiteHere]) -> list[tuple[str, str]]:
    decision, budget = one.decision, show_ns(one.decision.budget_ns)
    lines = _ladder_lines(one)
    if decision.accuracy_floor:
        floor = f"accuracy {decision.accuracy_floor:g}; no variant below it answers"
        lines.append(("floor", floor))
    lines.append(("arrivals", _show_arrivals(decision.arrivals)))
    share = f"{decision.objective * 100:.6g} %"
    lines.append(("budget", f"{budget} from when the question arose to the answer in hand"))
    lines.append(("objective", f"{share} of requests answered within {budget}"))
    lines.append(("otherwise", f'a rejection at once, or "missed" after {budget}; no late answer'))
    if decision.safe_action is not None:
        action = msgspec.json.encode(decision.safe_action).decode()
        lines.append(("then", f"the client does {action}"))
    if decision.queue == "newest":
        lines.append(("queue", "of each stream only the newest waiting question counts"))
    lines += _planning_lines(decision)
    for site in sites:
        if decision.name in site.forbidden:
            lines.append(("never at", f"{site.site}: {site.forbidden[decision.name]}"))
        elif not site.problem:
            lanes = ", ".join(str(lane) for lane in site.warm[decision.name])
            lines.append(("warm on", f"{site.site}: lane {lanes}"))
    return lines


def _planning_lines(decision: Decision) -> list[tuple[str, str]]:
    lines = []
    if decision.sources:
        askers = [f"{many} at {site}" for site, many in decision.sources.items()]
        survives = " or ".join(decision.survives)
        lines.append(("askers", ", ".join(askers)))
        lines.append(("survives", f"the loss of any {survives}" if survives else "no loss"))
    if decision.growth:
        grown = [f"{factor:g} times by {quarter}" for quarter, factor in decision.growth.items()]
        lines.append(("grows", ", ".join(grown)))
    if decision.data:
        lines.append(("data", decision.data))
    if decision.jurisdictions:
        lines.append(("decided in", ", ".join(decision.jurisdictions)))
    return lines


def _ladder_lines(one: Checked) -> list[tuple[str, str]]:
    if one.manifest is None:
        return [_variant_line(checked) for checked in one.ladder]
    directory, version = directory_of(one.decision), one.decision.bundle_sha256[:_VERSION_SHOWN]
    lines = [("bundle", f"{directory}, version {version}")]
    lines += [_member_line(checked, one.members[checked.variant.name]) for checked in one.ladder]
    lines += [("left out", _left_out_words(left)) for left in one.left_out]
    if one.model:
        lines.append(("takes", _show_model(one.model)))
    return lines


def _member_line(checked: CheckedVariant, member: Member) -> tuple[str, str]:
    words = [f"{member.name}, accuracy {member.accuracy:g}", member.engine, member.precision]
    if member.size is not None:
        words.append(f"sees {member.size[0]} × {member.size[1]}")
    if member.threads:
        words.append(_count(member.threads, "thread"))
    words.append(show_size(member.bytes))
    if checked.problem:
        words.append("REFUSED, see below")
    return "variant", ", ".join(words)


def _left_out_words(left: LeftOut) -> str:
    accuracy = "" if left.accuracy is None else f", accuracy {left.accuracy:g}"
    return f"{left.name}{accuracy}: {' '.join(left.why.split())}"


def _variant_line(checked: CheckedVariant) -> tuple[str, str]:
    variant = checked.variant
    found = f"{variant.model}: {_show_model(checked.model)}" if variant.model else "planned only"
    if variant.accuracy is None:
        return "model", found
    return "variant", f"{variant.name}, accuracy {variant.accuracy:g}, {found}"


def _show_arrivals(arrivals: Arrivals | None) -> str:
    if arrivals is None:
        return "not declared, so no rate is promised for"
    words = [arrivals.kind, show_rate(arrivals.rate)]
    if arrivals.kind == "gamma":
        words.append(f"coefficient of variation {arrivals.cv:g}")
    if arrivals.burst:
        words.append(f"bursts of up to {arrivals.burst}")
    if arrivals.synchronised:
        words.append("all askers of a source at once")
    return ", ".join(words)


def _site_lines(site: SiteHere) -> list[tuple[str, str]]:
    where = [site.jurisdiction, f"{_count(site.nodes, 'node')} today, at most {site.max_nodes}"]
    place = ("place", ", ".join(filter(None, [*where, site.hardware])))
    if site.problem:
        return [place, ("not here", site.problem)]
    opened = [f"http://{site.http}" if site.http else "", site.unix]
    lines = [place, ("listens", " and ".join(filter(None, opened)) or "nowhere")]
    for index, lane in enumerate(site.lanes):
        warm = [name for name, lanes in site.warm.items() if index in lanes]
        lines.append((f"lane {index}", f"{show_cores(lane.cores)}: {', '.join(warm) or 'idle'}"))
    lines.append(("scheduling", site.scheduling))
    return lines


def _show_model(model: ModelSpec | None) -> str:
    if model is None:
        return "REFUSED, see below"
    return f"{_show_tensors(model.inputs)} → {_show_tensors(model.outputs)}"


def _show_tensors(tensors: tuple[TensorSpec, ...]) -> str:
    shown = [f"{t.name} {t.datatype} {list(t.shape)}" for t in tensors[:2]]
    return ", ".join(shown) + (f" and {len(tensors) - 2} more" if len(tensors) > 2 else "")


def _count(many: int, what: str) -> str:
    return f"{many} {what}{'' if many == 1 else 's'}"
