"""A bundle as one page for those who choose from its ladder: `report.html`.

The page is self-contained: no script, no font, no picture from elsewhere; it prints as it stands.
It claims no percentile that its runs do not carry; the same facts always give the same page.
"""

from collections.abc import Sequence
from math import floor

import jinja2
from markupsafe import Markup
from msgspec import Struct
from PIL import Image

from tidsram import stats
from tidsram.client.answer import Reading
from tidsram.estate.bundle import LeftOut, Manifest, Score
from tidsram.lab import drawing, page
from tidsram.lab.drawing import Mark, show_accuracy
from tidsram.stats import Verdict
from tidsram.units import show_ns, show_size

SAMPLES_SHOWN = 6
_WIDE, _NARROW = 1000, 430  # of the chart, on paper and screens, and on a telephone
_SMALL = 320  # pixels: of smaller pictures two stand in a row
_LABELS_NAMED = 3
_LEVELS = (0.99, 0.95, 0.9, 0.5)  # of the chart, the first that all its variants can claim
_ENGINES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_BAD: Verdict = "contradicted"
_OPEN: Verdict = "not enough evidence"
_GOOD: Verdict = "met"
_VERDICTS = (_BAD, _OPEN, _GOOD)  # worst first


class VariantRow(Struct, frozen=True, kw_only=True):
    """All that is known of one variant; `why` says why it is not kept.

    `times` are a worker's runs in ns by condition, the first condition being the plainest; what
    was not measured is None or not there. `threads` are 0 for one on each core of the lane.
    """

    name: str
    precision: str
    engine: str
    bytes: int
    kept: bool
    why: str = ""
    threads: int = 0
    size: tuple[int, int] | None = None
    accuracy: float | None = None
    scores: tuple[Score, ...] = ()
    times: dict[str, tuple[int, ...]] = {}
    memory_bytes: int | None = None
    cold_start_ns: int | None = None
    longest_operator: tuple[str, int] | None = None


class Sample(Struct, frozen=True, kw_only=True):
    """A piece of the data with two answers; without an image only the words are shown."""

    name: str
    image: Image.Image | None
    original: Reading
    variant: Reading


class Page(Struct, frozen=True, kw_only=True):
    """What the page is about. `rows` stand in the ladder's order, those left out at the end.

    `shown` names the variant that answered the samples; `conditions` say on what was measured.
    `objective` is the share of runs that must be inside the budget.
    """

    manifest: Manifest
    digest: str
    date: str
    rows: tuple[VariantRow, ...]
    budget_ns: int | None = None
    objective: float = 0.99
    samples: tuple[Sample, ...] = ()
    shown: str = ""
    conditions: dict[str, str] = {}


class _Headline(Struct, frozen=True, kw_only=True):
    """The answer in one line, what it rests on, and in which colour to say it."""

    words: str
    because: str
    kind: str


class _Timing(Struct, frozen=True, kw_only=True):
    """A variant's times in one condition; a percentile that cannot be claimed is None."""

    condition: str
    runs: int
    p50_ns: int | None
    p99_ns: int | None
    p99_9_ns: int | None
    longest_ns: int
    over: int | None  # the budget
    verdict: Verdict | None


class _Told(Struct, frozen=True, kw_only=True):
    """A variant as the tables tell it."""

    row: VariantRow
    form: str
    timings: tuple[_Timing, ...]


class _Pair(Struct, frozen=True, kw_only=True):
    """A sample with both its answers, drawn and in words."""

    name: str
    original: Markup | None
    variant: Markup | None
    original_words: str
    variant_words: str
    small: bool


def render(told: Page) -> str:
    """Return the page's HTML."""
    kept = [_tell(row, told) for row in told.rows if row.kept]
    level, marks = _marks(told.rows)
    return _template().render(
        page=told,
        manifest=told.manifest,
        headline=_headline(told),
        decides=_decides(told.manifest),
        tiles=_tiles(told),
        kept=kept,
        left_out=_left_out(told),
        also_left_out=_also_left_out(told),
        metric=_metric(told.rows),
        conditions=_conditions(told.rows),
        level=_nth(level),
        charts=_charts(told, marks),
        undrawn=[row.name for row in told.rows if row.name not in {mark.name for mark in marks}],
        tails=_tails(told),
        pairs=[_pair(sample, at) for at, sample in enumerate(told.samples[:SAMPLES_SHOWN])],
    )


def _template() -> jinja2.Template:
    environment = page.environment()
    environment.filters |= {
        "time": lambda ns: "–" if ns is None else _time(ns),
        "size": lambda size: _together(show_size(size)),
        "accuracy": lambda share: "–" if share is None else show_accuracy(share),
        "share": _show_share,
        "number": lambda number: f"{number:,}",
        "nth": _nth,
    }
    environment.globals |= {
        "needed": lambda q: stats.samples_needed(q, 0),
        "swatch": drawing.stroke_swatch,
    }
    return environment.get_template("lab/report.html.j2")


# The answer


def _headline(told: Page) -> _Headline:
    kept = [row for row in told.rows if row.kept]
    if told.budget_ns is None:
        return _Headline(words=_range(kept), because="No budget was given.", kind="unjudged")
    inside = f"inside {_time(told.budget_ns)} at the {_nth(told.objective)} percentile"
    by_verdict = {
        verdict: [row for row in kept if _judge(row, told) == verdict] for verdict in _VERDICTS
    }
    because = _because(by_verdict, told)
    if by_verdict[_GOOD]:
        best = max(by_verdict[_GOOD], key=lambda row: row.accuracy or 0.0)
        words = f"{inside.capitalize()}: {best.name} ({_accuracy_words(best)})."
        return _Headline(words=words, because=because, kind=_GOOD)
    if by_verdict[_OPEN]:
        words = f"Not measured enough to say which variant is {inside}."
        return _Headline(words=words, because=because, kind=_OPEN)
    return _Headline(words=f"No variant is {inside}.", because=because, kind=_BAD)


def _judge(row: VariantRow, told: Page) -> Verdict:
    """Judge a variant in the condition that suits it least."""
    if told.budget_ns is None or not row.times:
        return _OPEN
    verdicts = [_kept_by(times, told.budget_ns, told.objective) for times in row.times.values()]
    return min(verdicts, key=_VERDICTS.index)


def _kept_by(times: Sequence[int], budget_ns: int, objective: float) -> Verdict:
    return stats.verdict(sum(ns <= budget_ns for ns in times), len(times), objective)


def _because(by_verdict: dict[Verdict, list[VariantRow]], told: Page) -> str:
    """Say on what the answer rests, and how the other variants of the ladder stand."""
    conditions = _conditions(told.rows)
    where = f" in every condition measured ({', '.join(conditions)})" if conditions[1:] else ""
    said = [f"Judged by runs on a worker{where}, at 99\u00a0% confidence."]
    if not by_verdict[_GOOD]:
        said += _holds_somewhere(told)
    if by_verdict[_BAD]:
        said.append(f"Too slow: {_named(by_verdict[_BAD])}.")
    if by_verdict[_OPEN]:
        enough = stats.samples_needed(told.objective, 0)
        said.append(
            f"Not measured enough to tell: {_named(by_verdict[_OPEN])}; it takes at least "
            f"{enough:,} runs in each condition."
        )
    said.append("The way to the node and back is not in these times; it needs its own share.")
    return " ".join(said)


def _holds_somewhere(told: Page) -> list[str]:
    """Say of each condition which variants keep the budget in it."""
    return [
        f"In the condition “{condition}” it holds with {_named(holding)}."
        for condition in _conditions(told.rows)
        if (holding := [row for row in told.rows if row.kept and _holds(row, condition, told)])
    ]


def _holds(row: VariantRow, condition: str, told: Page) -> bool:
    times = row.times.get(condition)
    if not times or told.budget_ns is None:
        return False
    return _kept_by(times, told.budget_ns, told.objective) == _GOOD


def _named(rows: Sequence[VariantRow]) -> str:
    return ", ".join(row.name for row in rows)


def _range(kept: Sequence[VariantRow]) -> str:
    """Say from where to where the ladder reaches."""
    if not kept:
        return "No variant is in the ladder."
    first, last = kept[0], kept[-1]
    if first is last:
        return f"One variant: {first.name} ({_accuracy_words(first)})."
    return (
        f"{len(kept)} variants, from {first.name} ({_accuracy_words(first)}) "
        f"to {last.name} ({_accuracy_words(last)})."
    )


def _accuracy_words(row: VariantRow) -> str:
    score = _deciding(row)
    accuracy = "accuracy not measured" if row.accuracy is None else show_accuracy(row.accuracy)
    if score is None:
        return accuracy if row.accuracy is None else f"accuracy {accuracy}"
    return f"{score.metric} {accuracy} against the {score.against}"


def _deciding(row: VariantRow) -> Score | None:
    """Return the score that counts: against labels where they were given."""
    by_kind = {score.against: score for score in row.scores}
    return by_kind.get("labels") or by_kind.get("original")


def _metric(rows: Sequence[VariantRow]) -> str:
    scores = [score for row in rows if (score := _deciding(row))]
    return f"{scores[0].metric} against the {scores[0].against}" if scores else "accuracy"


def _decides(manifest: Manifest) -> str:
    """Say what goes in and what comes out."""
    answer, question = manifest.answer, manifest.question
    kind = answer.kind if answer else "tensor"
    gives = {
        "boxes": "Finds things in boxes",
        "mask": "Marks pixels",
        "class": "Tells classes apart",
        "tensor": "Computes " + ", ".join(tensor.name for tensor in manifest.outputs),
    }[kind]
    named = _few(answer.labels) if answer and answer.labels and kind != "tensor" else ""
    if question is None:
        given = "from " + ", ".join(tensor.name for tensor in manifest.inputs)
    else:
        size = f"of {_by(question.size)} pixels" if question.size else "of any size"
        colour = "grey" if question.color == "gray" else "colour"
        pictures = "a" if question.images == 1 else str(question.images)
        given = f"in {pictures} {colour} picture{'s' if question.images > 1 else ''} {size}"
    return f"{gives}{named} {given}."


def _few(labels: Sequence[str]) -> str:
    more = len(labels) - _LABELS_NAMED
    named = ", ".join(labels[:_LABELS_NAMED])
    return f" ({named} and {more} more)" if more > 0 else f" ({named})"


def _tiles(told: Page) -> list[tuple[str, str]]:
    """Return the four figures that are looked at first."""
    kept = [row for row in told.rows if row.kept]
    out = len(told.rows) - len(kept) + len(_also_left_out(told))
    times = [(stats.percentile(_plain(row), 0.5), row.name) for row in kept if _plain(row)]
    medians = [(ns, name) for ns, name in times if ns is not None]
    scores = [score for row in told.rows if (score := _deciding(row))]
    fastest, slowest = (min(medians), max(medians)) if medians else ((0, ""), (0, ""))
    return [
        (_time(told.budget_ns), f"budget, to be kept by {_show_share(told.objective)} of runs")
        if told.budget_ns
        else ("–", "no budget was given"),
        (
            f"{len(kept)} variant{'' if len(kept) == 1 else 's'}",
            f"in the ladder; {out} left out, each for its reason" if out else "in the ladder",
        ),
        (
            f"{slowest[0] / max(1, fastest[0]):.1f}×" if medians else "–",
            f"as fast: {fastest[1]} against {slowest[1]}, medians" if medians else "not measured",
        ),
        (
            f"{max((score.samples for score in scores), default=0):,} samples",
            f"validated by {_metric(told.rows)}; floor {told.manifest.accuracy_floor:g}",
        ),
    ]


# Times


def _tell(row: VariantRow, told: Page) -> _Told:
    timings = [_timing(condition, times, told) for condition, times in row.times.items() if times]
    return _Told(row=row, form=_form(row), timings=tuple(timings))


def _timing(condition: str, times: Sequence[int], told: Page) -> _Timing:
    ascending = sorted(times)
    budget_ns = told.budget_ns
    return _Timing(
        condition=condition,
        runs=len(times),
        p50_ns=stats.percentile(ascending, 0.5),
        p99_ns=stats.percentile(ascending, 0.99),
        p99_9_ns=stats.percentile(ascending, 0.999),
        longest_ns=ascending[-1],
        over=sum(ns > budget_ns for ns in times) if budget_ns else None,
        verdict=_kept_by(times, budget_ns, told.objective) if budget_ns else None,
    )


def _form(row: VariantRow) -> str:
    threads = "a thread for each core" if row.threads == 0 else f"{row.threads} thread"
    threads += "s" if row.threads > 1 else ""
    return f"{row.precision}, {_ENGINES.get(row.engine, row.engine)}, {threads}"


def _conditions(rows: Sequence[VariantRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.times))


def _plain(row: VariantRow) -> list[int]:
    """Return a variant's times in its plainest condition, in ascending order."""
    return sorted(next(iter(row.times.values()), ()))


def _marks(rows: Sequence[VariantRow]) -> tuple[float, list[Mark]]:
    """Return the chart's percentile, one for all, and the variants that can be drawn at it."""
    timed = [row for row in rows if row.times and row.accuracy is not None]
    runs = [len(times) for row in timed if row.kept for times in row.times.values()]
    level = next(
        (q for q in _LEVELS if runs and stats.claimable(min(runs), q)),
        _LEVELS[-1],
    )
    return level, [mark for row in timed if (mark := _mark(row, level))]


def _mark(row: VariantRow, level: float) -> Mark | None:
    plain = _plain(row)
    usual_ns, time_ns = stats.percentile(plain, 0.5), stats.percentile(plain, level)
    worse = [stats.percentile(sorted(times), level) for times in row.times.values()]
    if usual_ns is None or time_ns is None or row.accuracy is None:
        return None
    return Mark(
        name=row.name,
        accuracy=row.accuracy,
        time_ns=time_ns,
        usual_ns=usual_ns,
        worst_ns=max(time_ns, *(ns or 0 for ns in worse)),
        kept=row.kept,
    )


def _charts(told: Page, marks: Sequence[Mark]) -> tuple[Markup, ...]:
    """Draw time against accuracy twice: for wide pages and for narrow ones."""
    if not marks:
        return ()
    title = f"{_metric(told.rows)} ↑"
    floor_at = told.manifest.accuracy_floor
    return tuple(
        drawing.draw_ladder(marks, told.budget_ns, floor_at, title, width)
        for width in (_WIDE, _NARROW)
    )


def _tails(told: Page) -> list[tuple[str, Markup]]:
    """Draw how the times of each kept variant are spread, all over one axis."""
    timed = [row for row in told.rows if row.kept and any(map(len, row.times.values()))]
    curves = {row.name: [tuple(sorted(t)) for t in row.times.values() if t] for row in timed}
    shown = [ns for every in curves.values() for times in every for ns in _shown(times)]
    if not shown:
        return []
    most = max(len(times) for every in curves.values() for times in every)
    ends = drawing.around([*shown, *([told.budget_ns] if told.budget_ns else [])])
    return [
        (name, drawing.draw_tails(name, every, ends, most, told.budget_ns))
        for name, every in curves.items()
    ]


def _shown(times: Sequence[int]) -> tuple[int, ...]:
    """Return the ends of a curve: nothing is drawn beyond the last percentile it can claim."""
    claimed = [stats.percentile(times, q) for q in (0.5, 0.9, 0.99, 0.999, 0.9999)]
    return (times[0], *(ns for ns in claimed if ns is not None))


# What was left out, and what was answered


def _left_out(told: Page) -> list[_Told]:
    return [_tell(row, told) for row in told.rows if not row.kept]


def _also_left_out(told: Page) -> list[LeftOut]:
    """Return what never came far enough to have a row."""
    known = {row.name for row in told.rows}
    return [one for one in told.manifest.left_out if one.name not in known]


def _pair(sample: Sample, number: int) -> _Pair:
    image, key = sample.image, f"sample-{number + 1}"
    return _Pair(
        name=sample.name,
        original=drawing.draw_answer(image, sample.original, key, again=False) if image else None,
        variant=drawing.draw_answer(image, sample.variant, key, again=True) if image else None,
        original_words=drawing.words(sample.original),
        variant_words=drawing.words(sample.variant),
        small=image is None or max(image.size) < _SMALL,
    )


# Words


def _time(ns: int) -> str:
    return _together(show_ns(ns))


def _together(words: str) -> str:
    """Keep words on one line."""
    return words.replace(" ", "\u00a0")


def _by(size: tuple[int, int]) -> str:
    return _together(f"{size[0]} × {size[1]}")


def _show_share(share: float) -> str:
    """Show a share in percent, never rounded up."""
    return f"{floor(share * 100_000 + 1e-6) / 1000:.7g}\u00a0%"


def _nth(share: float) -> str:
    """Name a percentile: 0.999 → 99.9th."""
    percent = f"{share * 100:.6g}"
    ending = {"1": "st", "2": "nd", "3": "rd"}.get(percent[-1], "th")
    return percent + ("th" if percent in {"11", "12", "13"} else ending)
