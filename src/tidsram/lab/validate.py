"""Is a variant still right? The gate that every variant passes before it may be in a ladder.

What a variant answers is held against the labels, where there are any, and always against the
original model in its own separate processing. What is refused is refused with a reason.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Final

from msgspec import Struct

from tidsram.client.agreement import SAME_THING, Matches, joined, match_boxes, resampled
from tidsram.client.answer import Boxes, Label, Mask, Reading, Tensors, read
from tidsram.client.wire import Array
from tidsram.engine.base import Engine, RunFailed
from tidsram.engine.memory import holds_nan, zeros
from tidsram.errors import ModelRefused, QuestionError
from tidsram.estate.bundle import LeftOut, Score
from tidsram.estate.types import Answer, Question
from tidsram.lab.data import Sample, prepared
from tidsram.lab.labels import DataError
from tidsram.lab.scores import of_kind, score
from tidsram.protocol.tensors import ModelSpec, TensorSpec

# A defect grid draws boxes from whole cells, so its overlap with a box drawn by hand is capped;
# the labels' own convention, that of DeepPCB, counts a defect as found from a third on.
_FOUND_ON_A_GRID: Final = 0.33
_FASTER: Final = 5  # per cent: less is within what two runs of one model differ
_WORDS_MAX: Final = 500
_RUN_S_MAX: Final = 30


class Candidate(Struct, frozen=True, kw_only=True):
    """A model to be judged, with the tables by which askers prepare and read for it."""

    name: str
    load: Callable[[], Engine]
    question: Question | None = None
    answer: Answer | None = None


class Reference(Struct, frozen=True, kw_only=True):
    """What the original answers to the samples, and how that does against their labels.

    `labels` has one for each sample, None where nobody said what is right. `spec` are the
    original's own inputs and outputs.
    """

    samples: tuple[Sample, ...]
    readings: tuple[Reading, ...]
    labels: tuple[Reading | None, ...]
    answer: Answer
    spec: ModelSpec
    score: Score | None = None  # against the labels
    matches: Matches | None = None  # of boxes with the labels' own


class Verdict(Struct, frozen=True, kw_only=True):
    """Whether a variant may be in the ladder; `why` says why not.

    `accuracy` is the score that counts: against labels where there are some, else against the
    original; None where the variant gave no answers. `matches` are boxes beside the labels' own.
    """

    name: str
    kept: bool
    why: str = ""
    accuracy: float | None = None
    scores: tuple[Score, ...] = ()
    matches: Matches | None = None


class Timed(Struct, frozen=True, kw_only=True):
    """A variant that is right enough, and how long a run of it takes."""

    name: str
    accuracy: float
    time_ns: int


class Frontier(Struct, frozen=True, kw_only=True):
    """The measured ladder, the most accurate first, and what is no part of it, with reasons."""

    kept: tuple[Timed, ...]
    left_out: tuple[LeftOut, ...]


class NotANumber(Exception):
    """A model answered NaN; the text says where."""


def answers(
    engine: Engine, samples: Sequence[Sample], question: Question | None, answer: Answer | None
) -> list[Reading]:
    """Ask a loaded model about every sample, as an asker would.

    Raises what the engine raises, NotANumber, QuestionError where the answer is not of the form
    that `answer` says, and DataError where a sample cannot be used.
    """
    return [_answer(engine, sample, question, answer) for sample in samples]


def consult(original: Candidate, samples: Sequence[Sample]) -> Reference:
    """Ask the original about every sample: what all variants are held against.

    Raises DataError where nothing can be told from the samples, whatever a variant answers.
    """
    engine = original.load()
    try:
        readings = answers(engine, samples, original.question, original.answer)
    except (RunFailed, NotANumber) as error:
        raise ModelRefused(
            original.name,
            f"it fails on the data by itself ({_words(error)})",
            "Take out that sample, or repair the model where it comes from.",
        ) from None
    if sameness := _sameness(readings):
        raise DataError(
            original.name,
            f"the model {sameness} in {_count(len(samples), 'sample')}, so they tell nothing about "
            f"a variant; give samples that differ in what is to be found",
        )
    answer = original.answer or Answer(kind="tensor")
    labels = [_label(sample, made) for sample, made in zip(samples, readings, strict=True)]
    scored, matches = _beside_labels(answer, labels, readings)
    return Reference(
        samples=tuple(samples),
        readings=tuple(readings),
        labels=tuple(labels),
        answer=answer,
        spec=engine.spec,
        score=scored,
        matches=matches,
    )


def judge(reference: Reference, variant: Candidate, floor: float, spec: ModelSpec) -> Verdict:
    """Hold a variant against the original, the labels, the floor and the ladder's form.

    `spec` are the inputs and outputs that all variants of the ladder share.
    """
    try:
        engine = variant.load()
        if difference := _difference(spec, engine.spec):
            return Verdict(name=variant.name, kept=False, why=difference)
        readings = answers(engine, reference.samples, variant.question, variant.answer)
    except (ModelRefused, RunFailed, QuestionError, NotANumber) as error:
        return Verdict(name=variant.name, kept=False, why=_words(error))
    return weigh(reference, variant.name, readings, floor)


def weigh(reference: Reference, name: str, readings: Sequence[Reading], floor: float) -> Verdict:
    """Score a variant's answers to the reference's samples, and say whether it may stay."""
    answer = reference.answer
    scored = score(answer.kind, reference.readings, readings, against="original")
    labelled, matches = _beside_labels(answer, reference.labels, readings)
    counting = labelled or scored
    why = _silence(reference, readings) or _shortfall(reference, counting, floor)
    return Verdict(
        name=name,
        kept=not why,
        why=why,
        accuracy=counting.value,
        scores=(labelled, scored) if labelled else (scored,),
        matches=matches,
    )


def frontier(timed: Sequence[Timed]) -> Frontier:
    """Keep the variants of which no other is as accurate and as fast.

    Going down the ladder, each must be clearly faster than the one before: what two runs of one
    model differ by is no reason to give up accuracy.
    """
    kept: list[Timed] = []
    left_out = []
    for variant in sorted(timed, key=lambda one: (-one.accuracy, one.time_ns, one.name)):
        if not kept or variant.time_ns * 100 <= kept[-1].time_ns * (100 - _FASTER):
            kept.append(variant)
        else:
            why = _too_slow(variant, kept[-1])
            left_out.append(LeftOut(name=variant.name, why=why, accuracy=variant.accuracy))
    return Frontier(kept=tuple(kept), left_out=tuple(left_out))


# Asking


def _answer(
    engine: Engine, sample: Sample, question: Question | None, answer: Answer | None
) -> Reading:
    asked = prepared(sample, engine.spec.inputs, question)
    outputs = _run(engine, asked.inputs)
    for name, array in outputs.items():
        if array.dtype.kind == "f" and holds_nan(array):
            raise NotANumber(f"answers NaN in {name!r} for the sample {sample.name}")
    if answer is None:
        return Tensors(outputs)
    given = question.size if question else None
    if sample.size is None or question is None:  # no picture: places are told in shares of it
        return read(answer, outputs, given or (1, 1), given)
    return read(answer, outputs, sample.size, given, question.fit)


def _run(engine: Engine, inputs: Mapping[str, Array]) -> dict[str, Array]:
    specs = engine.spec.outputs
    bound = [zeros(spec) if spec.nbytes >= 0 else None for spec in specs]
    binding = engine.bind([inputs[spec.name] for spec in engine.spec.inputs], bound)
    own = _run_in_time(engine, binding)
    outputs = {}
    for spec, array, made in zip(specs, bound, own, strict=True):
        whole = array if array is not None else made
        assert whole is not None, "the engine gives the outputs that were left to it"
        outputs[spec.name] = whole
    return outputs


def _run_in_time(engine: Engine, binding: Any) -> list[Array | None]:  # noqa: ANN401 - an engine's
    """Run once, or raise RunFailed: a model from a stranger may loop for ever.

    The run has a thread of its own, so that this one can be interrupted meanwhile.
    """
    with ThreadPoolExecutor(1) as thread:
        run = thread.submit(engine.run, binding, 0)
        try:
            return run.result(_RUN_S_MAX)
        except TimeoutError:
            raise RunFailed(f"one run is not done after {_RUN_S_MAX} s") from None
        finally:
            while not run.done():  # it may not have begun when it is told to end
                engine.abort(0)
                wait([run], 0.1)


# Labels


def _label(sample: Sample, made: Reading) -> Reading | None:
    """Return a sample's label as far as the model answers at all, or refuse it."""
    label = sample.label
    if isinstance(label, Mask) and isinstance(made, Mask):
        return resampled(label, made)  # a net without padding answers for the middle only
    if isinstance(label, Tensors) and isinstance(made, Tensors):
        wanted, got = joined(label).size, joined(made).size
        if wanted != got:
            raise DataError(
                sample.files[0],
                f"its label has {_count(wanted, 'number')} where the model gives {got}",
            )
    return label


def _beside_labels(
    answer: Answer, labels: Sequence[Reading | None], readings: Sequence[Reading]
) -> tuple[Score | None, Matches | None]:
    pairs = [
        (label, made) for label, made in zip(labels, readings, strict=True) if label is not None
    ]
    if not pairs:
        return None, None
    wanted, got = [label for label, _ in pairs], [made for _, made in pairs]
    enough = _FOUND_ON_A_GRID if answer.decoder == "defect-grid" else SAME_THING
    scored = score(answer.kind, wanted, got, against="labels", overlap_min=enough)
    matches = (
        match_boxes(of_kind(Boxes, wanted), of_kind(Boxes, got), enough)
        if answer.kind == "boxes"
        else None
    )
    return scored, matches


# Reasons


def _sameness(readings: Sequence[Reading]) -> str:
    """Say what samples have in common that a dead model would get right; empty where nothing."""
    if isinstance(readings[0], Boxes | Mask):
        return "" if _things(readings) else "finds nothing"
    classes = {reading.label for reading in readings if isinstance(reading, Label)}
    if len(classes) == 1 and len(readings) > 1:
        return f"answers {classes.pop()!r}"
    return ""


def _silence(reference: Reference, readings: Sequence[Reading]) -> str:
    """Name the variant that runs well and finds nothing: no score shows it as plainly."""
    wanted = _things(reference.readings)
    if not wanted or _things(readings):
        return ""
    thing = "box" if reference.answer.kind == "boxes" else "pixel"
    return (
        f"finds nothing in {_count(len(readings), 'sample')} where the original finds "
        f"{_count(wanted, thing)}"
    )


def _things(readings: Sequence[Reading]) -> int:
    """Count the boxes or the marked pixels in all samples; 0 where answers are of other kinds."""
    boxes = sum(len(reading.boxes) for reading in readings if isinstance(reading, Boxes))
    return boxes + sum(int(one.pixels.sum()) for one in readings if isinstance(one, Mask))


def _shortfall(reference: Reference, counting: Score, floor: float) -> str:
    against = "the labels" if counting.against == "labels" else "the original"
    if counting.value == 0:
        return f"nothing that it answers is right: {counting.metric} 0 against {against}"
    if counting.value >= floor:
        return ""
    own = f"; the original itself has {_share(reference.score.value)}" if reference.score else ""
    return (
        f"{counting.metric} {_share(counting.value)} against {against} is below the floor of "
        f"{floor:g}{own}"
    )


def _difference(wanted: ModelSpec, given: ModelSpec) -> str:
    """Say what a variant takes or gives that the others do not; empty where all is the same."""
    for verb, ours, theirs in (
        ("takes", wanted.inputs, given.inputs),
        ("gives", wanted.outputs, given.outputs),
    ):
        if len(ours) != len(theirs) or not all(map(_alike, ours, theirs)):
            return f"{verb} {_described(theirs)} where the ladder {verb} {_described(ours)}"
    return ""


def _alike(one: TensorSpec, other: TensorSpec) -> bool:
    """Whether two tensors can stand for each other; −1 is any size."""
    return (
        (one.name, one.datatype) == (other.name, other.datatype)
        and len(one.shape) == len(other.shape)
        and all(a == b or -1 in (a, b) for a, b in zip(one.shape, other.shape, strict=True))
    )


def _described(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in specs)


def _too_slow(variant: Timed, better: Timed) -> str:
    if variant.time_ns >= better.time_ns:
        slower = "slower than" if variant.time_ns > better.time_ns else "as slow as"
    else:
        slower = f"less than {_FASTER} % faster than"
    accuracy = "as accurate" if variant.accuracy == better.accuracy else "more accurate"
    # No times: the reason is part of the bundle's version, and they are no facts about the model.
    return f"{slower} {better.name}, which is {accuracy}"


def _share(value: float) -> str:
    """Show a share to three digits, never rounded up to a floor that it does not reach."""
    return f"{math.floor(value * 1000) / 1000:.3f}"


def _count(count: int, of: str) -> str:
    if count == 1:
        return f"1 {of}"
    return f"{count} {of}{'es' if of.endswith('x') else 's'}"


def _words(error: Exception) -> str:
    """Return somebody else's words as one printable line."""
    text = "".join(char if char.isprintable() else " " for char in str(error))
    return " ".join(text.split())[:_WORDS_MAX]
