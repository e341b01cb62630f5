"""`tidsram lab`: make a bundle of a model, every variant proved and timed."""

from pathlib import Path

import msgspec
from msgspec import Struct

from tidsram.cli.measuring import (
    TOO_FEW,
    cells,
    console,
    ended_in_order,
    steps,
    table,
    times,
    words,
)
from tidsram.errors import EstateError
from tidsram.estate.load import load_estate
from tidsram.estate.types import Decision
from tidsram.estate.values import nearest, valid_name
from tidsram.lab.facts import Condition
from tidsram.lab.make import Made, make
from tidsram.lab.order import ENGINES, EngineName, Order, Size
from tidsram.units import show_ns, show_size

_SIDE_MAX = 16_384
_WORDS_MAX = 2000
_PICK = "name one with --decision, or another estate with -f"


class Options(Struct, frozen=True, kw_only=True):
    """What the command line says beside the model and its data."""

    labels: Path | None
    pair: tuple[str, ...]
    budget_ns: int | None
    floor: float | None
    frame: Size | None
    sizes: tuple[Size, ...] | None
    threads: tuple[int, ...]
    engines: tuple[EngineName, ...]
    samples: int
    runs: int
    conditions: tuple[Condition, ...]
    hardware: str
    licence: str
    provenance: str


def sizes(text: str | None) -> tuple[Size, ...] | None:
    """Read sizes such as "416,320" or "640x480"."""
    if text is None:
        return None
    return tuple(_size("--sizes", word) for word in words("--sizes", text))


def frame(text: str | None) -> Size | None:
    """Read a frame's size such as "768x576"."""
    return None if text is None else _size("--frame", text)


def threads(text: str) -> tuple[int, ...]:
    """Read counts of threads such as "1,2"."""
    found = words("--threads", text)
    if not found or not all(word.isascii() and word.isdecimal() and int(word) for word in found):
        raise EstateError("--threads", f'"{text}" are no counts of threads; write them like 1,2')
    return tuple(dict.fromkeys(int(word) for word in found))


def engines(text: str) -> tuple[EngineName, ...]:
    """Read the engines to try."""
    found = words("--engines", text)
    for word in found or ("",):
        if word not in ENGINES:
            near = nearest(word, list(ENGINES)) or f"; known are {', '.join(ENGINES)}"
            raise EstateError("--engines", f'there is no engine "{word}"{near}')
    return tuple(ENGINES[word] for word in dict.fromkeys(found))


def said(option: str, text: str) -> str:
    """Read words that go into the manifest as they are."""
    if len(text) > _WORDS_MAX or not all(char.isprintable() for char in text):
        raise EstateError(option, f"takes one line of at most {_WORDS_MAX} characters")
    return text


def _size(option: str, text: str) -> Size:
    width, cross, height = text.strip().partition("x")
    ends = (width, height if cross else width)
    if not all(end.isascii() and end.isdecimal() and 0 < int(end) <= _SIDE_MAX for end in ends):
        raise EstateError(
            option, f'"{text}" is no size in pixels up to {_SIDE_MAX}; write 320 or 640x480'
        )
    return int(ends[0]), int(ends[1])


class _Report(Struct):
    """What a script reads."""

    bundle: str
    digest: str
    fits: bool
    ladder: tuple[object, ...]
    left_out: tuple[object, ...]


def run(
    *,
    model: Path,
    data: Path,
    out: Path | None,
    file: Path | None,
    decision: str | None,
    options: Options,
    as_json: bool,
) -> int:
    """Make it; 0 some variant keeps the budget, 1 none does."""
    declared = _declared(file, decision, model)
    name = declared.name if declared else valid_name(model.stem) or "model"
    order = Order(
        name=name,
        model=model,
        data=data,
        question=declared.question if declared else None,
        answer=declared.answer if declared else None,
        budget_ns=options.budget_ns or (declared.budget_ns if declared else None),
        floor=_floor(options, declared),
        labels=options.labels,
        pair=options.pair,
        frame=options.frame,
        sizes=options.sizes,
        threads=options.threads,
        engines=options.engines,
        samples=options.samples,
        runs=options.runs,
        conditions=options.conditions,
        hardware=options.hardware,
        licence=options.licence,
        provenance=options.provenance,
    )
    place = out or Path("bundles") / name
    with ended_in_order(), steps(f"making {name}") as tell:
        made = make(order, place, tell)
    if as_json:
        manifest = made.manifest
        report = _Report(str(place), made.digest, made.fits, manifest.ladder, manifest.left_out)
        print(msgspec.json.encode(report).decode())
    else:
        _print(made, place, order.budget_ns)
    return 0 if made.fits else 1


def _declared(file: Path | None, name: str | None, model: Path) -> Decision | None:
    """Return the decision whose tables say how questions and answers look; None without one."""
    if file is None:
        return None
    decisions = load_estate(file).decisions
    if name is None:
        of_model = [
            decision
            for decision in decisions.values()
            for variant in decision.ladder
            if variant.model and (file.parent / variant.model).resolve() == model.resolve()
        ]
        if len(of_model) == 1:
            return of_model[0]
        count = len(of_model) or "no"
        decision = "decision that is" if count == "no" else "decisions that are"
        problem = f"has {count} {decision} made by {model}"
        raise EstateError(str(file), f"{problem}, so how its questions look is unknown; {_PICK}")
    if name not in decisions:
        near = nearest(name, list(decisions)) or f"; declared are {', '.join(decisions)}"
        raise EstateError(str(file), f'declares no decision "{name}"{near}')
    return decisions[name]


def _floor(options: Options, declared: Decision | None) -> float:
    if options.floor is not None:
        return options.floor
    return declared.accuracy_floor if declared else 0.0


def _print(made: Made, place: Path, budget_ns: int | None) -> None:
    out = console()
    shown = table("", "accuracy", "p50", "p99", "p99.9", "largest", "size", "worker")
    for row in made.rows:
        if not row.kept:
            continue
        summed = times(row.times["alone"])
        shown.add_row(
            row.name,
            f"{row.accuracy:.3f}",
            *cells(summed),
            show_size(row.bytes),
            show_size(row.memory_bytes or 0),
        )
    out.print(shown)
    out.print()
    for left in made.manifest.left_out:
        out.print(f"left out: {left.name} {left.why}", style="dim")
    if any(times(row.times["alone"]).p99_9_us is None for row in made.rows if row.kept):
        out.print(TOO_FEW, style="dim")
    if budget_ns is not None:
        verdict = "keeps" if made.fits else "does not keep: no variant is fast enough for"
        out.print(f"The ladder {verdict} the budget of {show_ns(budget_ns)} on this machine.")
    out.print(f"Bundle {made.digest[:12]} in {place}; report: {place / 'report.html'}.")
