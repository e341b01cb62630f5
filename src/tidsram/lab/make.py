"""From a model to a bundle: make its forms, prove each, time each, keep the frontier.

What the lab makes of one model, top to bottom: read it, make its forms, hold each against the
original, time what is right on a real worker, choose the ladder, and write it whole.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from tidsram import clock, stats
from tidsram.client.answer import Reading
from tidsram.engine.choose import load_engine
from tidsram.engine.inspect import fix_model
from tidsram.errors import ModelRefused
from tidsram.estate.bundle import REPORT, LeftOut, Manifest, Member, Source, Tensor
from tidsram.lab.bench import NotMeasured
from tidsram.lab.bundle import check_place, encode, unfinished, write_bundle
from tidsram.lab.conditions import versions
from tidsram.lab.data import Data, Split, evenly, read_data
from tidsram.lab.facts import PROFILES, Condition, Profile, digest_of, profile_name
from tidsram.lab.forms import Form, Forms
from tidsram.lab.labels import open_picture, unpack
from tidsram.lab.ladder import Ladder, choose
from tidsram.lab.node import RefusedByNode
from tidsram.lab.order import Order, Size
from tidsram.lab.profile import measure_form
from tidsram.lab.report import SAMPLES_SHOWN, Page, Sample, VariantRow, render
from tidsram.lab.source import SourceModel, read_source
from tidsram.lab.validate import (
    Candidate,
    Reference,
    Timed,
    Verdict,
    answers,
    consult,
    judge,
)
from tidsram.protocol.tensors import ModelSpec, TensorSpec
from tidsram.units import show_ns

CALIBRATE: Final = 32  # samples: more hardly move the ranges of int8
_BUDGET_QUANTILE: Final = 0.99
_WORDS_MAX: Final = 500
_NO_DIGEST: Final = "0" * 64  # of a bundle that only serves to time one form

Tell = Callable[[str, int, int], None]  # a sentence; how many steps are done, of how many


class Made(Struct, frozen=True, kw_only=True):
    """What came of it. `fits`: some variant keeps the budget, as far as there is one."""

    manifest: Manifest
    digest: str
    rows: tuple[VariantRow, ...]
    fits: bool


def make(order: Order, out: Path, tell: Tell) -> Made:
    """Make the bundle of an order in `out`; `tell` hears how it goes.

    Whatever is raised, and however it ends, `out` holds what it held before, or the whole bundle.
    """
    order.check()
    check_place(out)
    begun_ns = clock.now_ns()
    with unfinished(out) as scratch:
        source = read_source(order.model)
        fixed, spec = fix_model(source.data, str(order.model))
        data = _read_data(order, spec.inputs)
        split = data.split(CALIBRATE)
        frame = _frame(order, data)
        forms = Forms(order, source, split.calibration, frame, scratch)
        tell(_about(source, data, split), 0, len(forms))
        original = Candidate(
            name=str(order.model),
            load=lambda: load_engine("onnxruntime", "", fixed, str(order.model), 1, spec),
            question=order.question,
            answer=order.answer,
        )
        reference = consult(original, split.validation)
        lab = _Lab(order, source, data.sha256, reference, scratch, tell)
        made = lab.run(forms, out)
        tell(f"written to {out} after {show_ns(clock.now_ns() - begun_ns)}", 1, 1)
        return made


def _read_data(order: Order, inputs: Sequence[TensorSpec]) -> Data:
    return read_data(
        order.data,
        question=order.question,
        answer=order.answer,
        inputs=inputs,
        labels=order.labels,
        pair=order.pair,
        most=order.samples + CALIBRATE,
    )


def _frame(order: Order, data: Data) -> Size | None:
    """Return the size of a raw question; the pictures' own where all have the same."""
    sizes = {sample.size for sample in data.samples if sample.size is not None}
    if order.frame is not None or order.question is None or not sizes:
        return order.frame
    if len(sizes) > 1:
        shown = ", ".join(f"{width}x{height}" for width, height in sorted(sizes)[:4])
        raise ModelRefused(
            str(order.data),
            f"its pictures have {len(sizes)} sizes ({shown}), and a raw question has one",
            "Say which with --frame WIDTHxHEIGHT; pictures of other sizes are resized to it.",
        )
    return sizes.pop()


class _Tried(Struct, kw_only=True):
    """A form, what was found out about it, and what it took in each condition."""

    form: Form
    verdict: Verdict
    profiles: dict[Condition, Profile] = field(default_factory=dict)


class _Lab:
    """One order's forms, from being made to being in the ladder or left out with a reason."""

    def __init__(
        self,
        order: Order,
        source: SourceModel,
        data_sha256: str,
        reference: Reference,
        scratch: Path,
        tell: Tell,
    ) -> None:
        self._order, self._source, self._data_sha256 = order, source, data_sha256
        self._reference, self._scratch, self._tell_all = reference, scratch, tell
        self._others = [one for one in order.conditions if one != "alone"]
        self._tried: dict[str, _Tried] = {}
        self._left_out: list[LeftOut] = []
        self._spec: ModelSpec | None = None  # that all forms share
        self._done = self._steps = 0

    def run(self, forms: Forms, out: Path) -> Made:
        """Make, judge and time every form, and write the bundle of those that stay."""
        self._steps = len(forms) * (1 + len(self._others))
        for form in forms:
            if isinstance(form, LeftOut):
                self._leave(form)
            elif self._judged(form):
                self._timed(form)
            self._done += 1
        ladder = self._ladder()
        self._steps = self._done + len(ladder.names) * len(self._others)
        for name in ladder.names:
            self._time_in_company(name)
        return self._written(ladder, out)

    def _tell(self, sentence: str) -> None:
        self._tell_all(sentence, self._done, self._steps)

    def _leave(self, left: LeftOut) -> None:
        left = replace(left, why=_line(left.why))
        self._left_out.append(left)
        self._tell(f"{left.name} is left out: {left.why}")

    # Judging and timing --------------------------------------------------------------------------

    def _judged(self, form: Form) -> bool:
        if self._spec is None:
            self._spec = fix_model(form.data, form.name)[1]
        candidate = Candidate(
            name=form.name, load=form.load, question=form.question, answer=form.answer
        )
        verdict = judge(self._reference, candidate, self._order.floor, self._spec)
        self._tried[form.name] = _Tried(form=form, verdict=verdict)
        if not verdict.kept:
            self._leave(LeftOut(name=form.name, why=verdict.why, accuracy=verdict.accuracy))
        return verdict.kept

    def _timed(self, form: Form) -> None:
        """Time a form on a worker of a node; what no node serves is left out."""
        tried = self._tried[form.name]
        accuracy = tried.verdict.accuracy
        try:
            tried.profiles["alone"] = profile = self._profile(form, "alone")
        except (RefusedByNode, NotMeasured) as error:
            # Where it lay is no fact about it, and another place each time.
            why = str(error).replace(f"{self._scratch}/", "")
            self._leave(LeftOut(name=form.name, why=why, accuracy=accuracy))
        else:
            took = show_ns(_median(profile))
            self._tell(f"{form.name}: accuracy {accuracy or 0.0:.3f}, {took} a run")

    def _time_in_company(self, name: str) -> None:
        tried = self._tried[name]
        for condition in self._others:
            self._tell(f"{name} is timed again: {condition}")
            tried.profiles[condition] = self._profile(tried.form, condition)
            self._done += 1

    def _profile(self, form: Form, condition: Condition) -> Profile:
        order = self._order
        directory = self._scratch / f"{form.name}.{condition}"
        directory.mkdir()
        return measure_form(
            self._manifest([form.name], _NO_DIGEST),
            form.data,
            form.name,
            order.hardware,
            order.bench(form.threads, condition),
            directory,
            order.runs,
            _unheard,
        )

    # The ladder ----------------------------------------------------------------------------------

    def _ladder(self) -> Ladder:
        timed, slow_ns = [], {}
        for name, tried in self._tried.items():
            if profile := tried.profiles.get("alone"):
                accuracy = tried.verdict.accuracy or 0.0
                timed.append(Timed(name=name, accuracy=accuracy, time_ns=_median(profile)))
                slow_ns[name] = _slow(profile)
        if not timed:
            reasons = "; ".join(f"{one.name} – {one.why}" for one in self._left_out)
            raise ModelRefused(
                str(self._order.model),
                f"none of its forms can be in a ladder: {reasons}",
                "Lower --floor if that is accurate enough, or mend the model or its tables.",
            )
        ladder = choose(timed, slow_ns, self._order.budget_ns)
        for left in ladder.left_out:
            self._leave(left)
        return ladder

    def _written(self, ladder: Ladder, out: Path) -> Made:
        manifest = self._manifest(ladder.names, self._data_sha256)
        members = [self._tried[name] for name in ladder.names]
        taken = [profile for one in members for profile in one.profiles.values()]
        profiles = {f"{PROFILES}/{profile_name(one)}": msgspec.json.encode(one) for one in taken}
        others = [one for name, one in self._tried.items() if name not in ladder.names]
        rows = (*map(_row, members), *(self._row_left_out(one) for one in others))
        page = self._page(manifest, rows, members)
        variants = {one.form.name: one.form.data for one in members}
        digest = write_bundle(out, manifest, variants, {**profiles, REPORT: page})
        return Made(manifest=manifest, digest=digest, rows=rows, fits=ladder.fits)

    def _manifest(self, ladder: Sequence[str], data_sha256: str) -> Manifest:
        order, first = self._order, self._tried[ladder[0]].form
        assert self._spec is not None, "what is in a ladder has been judged"
        return Manifest(
            name=order.name,
            question=first.question,
            answer=first.answer,
            inputs=_tensors(self._spec.inputs),
            outputs=_tensors(self._spec.outputs),
            ladder=tuple(_member(self._tried[name]) for name in ladder),
            left_out=tuple(sorted(self._left_out, key=lambda one: one.name)),
            accuracy_floor=order.floor,
            source=Source(file=_line(self._source.file), sha256=self._source.sha256),
            data_sha256=data_sha256,
            licence=order.licence,
            provenance=order.provenance,
            made_with=versions(),
        )

    # The page ------------------------------------------------------------------------------------

    def _row_left_out(self, tried: _Tried) -> VariantRow:
        why = next(one.why for one in self._left_out if one.name == tried.form.name)
        return replace(_row(tried), kept=False, why=why)

    def _page(
        self, manifest: Manifest, rows: tuple[VariantRow, ...], members: Sequence[_Tried]
    ) -> bytes:
        shown = members[-1].form
        picked = evenly(range(len(self._reference.samples)), SAMPLES_SHOWN)
        samples = [self._reference.samples[place] for place in picked]
        readings = answers(shown.load(), samples, shown.question, shown.answer)
        page = Page(
            manifest=manifest,
            digest=digest_of(encode(manifest)),
            date=clock.today()[:10],
            rows=rows,
            budget_ns=self._order.budget_ns,
            samples=tuple(
                _drawn(self._reference, place, reading)
                for place, reading in zip(picked, readings, strict=True)
            ),
            shown=shown.name,
            conditions=members[0].profiles["alone"].circumstances,
        )
        return render(page).encode()


def _about(source: SourceModel, data: Data, split: Split) -> str:
    apart = "" if split.disjoint else ", the same ones as there are so few"
    return (
        f"{source.file}: {source.facts.nodes} operators; {len(split.calibration)} samples to "
        f"calibrate, {len(split.validation)} to validate{apart}, of {len(data.samples)}"
    )


def _tensors(specs: Sequence[TensorSpec]) -> tuple[Tensor, ...]:
    return tuple(Tensor(name=t.name, datatype=t.datatype, shape=t.shape) for t in specs)


def _member(tried: _Tried) -> Member:
    form, verdict = tried.form, tried.verdict
    return Member(
        name=form.name,
        sha256=digest_of(form.data),
        bytes=len(form.data),
        engine=form.engine,
        precision=form.precision,
        threads=form.threads,
        size=form.size,
        accuracy=verdict.accuracy or 0.0,
        scores=verdict.scores,
    )


def _row(tried: _Tried) -> VariantRow:
    form, verdict = tried.form, tried.verdict
    row = VariantRow(
        name=form.name,
        precision=form.precision,
        engine=form.engine,
        bytes=len(form.data),
        kept=True,
        threads=form.threads,
        size=form.size,
        accuracy=verdict.accuracy,
        scores=verdict.scores,
    )
    alone = tried.profiles.get("alone")
    if alone is None:
        return row
    longest = (alone.longest_operator, alone.longest_operator_ns)
    return replace(
        row,
        times={condition: profile.run_ns for condition, profile in tried.profiles.items()},
        memory_bytes=alone.memory_bytes,
        cold_start_ns=alone.cold_start_ns,
        longest_operator=longest if alone.longest_operator else None,
    )


def _drawn(reference: Reference, place: int, reading: Reading) -> Sample:
    sample, image = reference.samples[place], None
    if sample.size is not None:
        where = str(sample.files[0])
        with open_picture(sample.files[0], where) as opened:
            unpack(opened, where)
            image = opened.convert("RGB")
    return Sample(
        name=sample.name, image=image, original=reference.readings[place], variant=reading
    )


def _median(profile: Profile) -> int:
    return sorted(profile.run_ns)[len(profile.run_ns) // 2]


def _slow(profile: Profile) -> int:
    """Return the 99th percentile; the slowest run where there were too few to claim one."""
    ordered = sorted(profile.run_ns)
    return stats.percentile(ordered, _BUDGET_QUANTILE) or ordered[-1]


def _line(text: str) -> str:
    """Return words that may quote a stranger's file as one printable line of bounded length."""
    said = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return said if len(said) <= _WORDS_MAX else f"{said[: _WORDS_MAX - 1]}…"


def _unheard(_: int) -> None:
    """A form is timed in seconds: nobody needs to hear of single runs."""
