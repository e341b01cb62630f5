"""The forms that are made of one model: smaller inputs, int8, and what each engine makes of them.

Each takes the raw question and gives the finished answer. Nothing here says whether a form is any
good: that is for those who judge and time it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from tidsram.engine.base import Engine
from tidsram.engine.choose import load_engine
from tidsram.engine.inspect import fix_model
from tidsram.errors import ModelRefused
from tidsram.estate.bundle import LeftOut
from tidsram.estate.types import Answer, Question
from tidsram.lab.data import Sample, prepared
from tidsram.lab.fuse import Fused, fuse
from tidsram.lab.optimise import optimised
from tidsram.lab.order import EngineName, Order, Size
from tidsram.lab.quantise import CannotQuantise, int8
from tidsram.lab.resize import CannotResize, resized, sizes_for
from tidsram.lab.source import SourceModel

Precision = Literal["fp32", "int8", "bf16"]


class Form(Struct, frozen=True, kw_only=True):
    """One form of the model, ready to be served: `data` is the file of its variant."""

    name: str
    precision: Precision
    engine: EngineName
    threads: int
    size: Size | None  # of the images that the model itself sees
    data: bytes
    question: Question | None
    answer: Answer | None

    def load(self) -> Engine:
        """Load it as a worker does; raise ModelRefused."""
        fixed, spec = fix_model(self.data, self.name)
        return load_engine(self.engine, self._pinned, fixed, self.name, self.threads, spec)

    @property
    def _pinned(self) -> str:
        if self.engine == "onnxruntime":
            return ""
        return "bf16" if self.precision == "bf16" else "f32"


class Forms:
    """All forms of one order, in the order in which they are made: the model as it is first."""

    def __init__(
        self,
        order: Order,
        source: SourceModel,
        calibration: Sequence[Sample],
        frame: Size | None,
        scratch: Path,
    ) -> None:
        """Plan them; `frame` is the size of a raw question of images."""
        self._order, self._source, self._calibration = order, source, calibration
        self._frame, self._scratch = frame, scratch
        self._sizes = _sizes(order, source)
        self._kinds = _kinds(order, quantised=source.facts.quantised)

    def __len__(self) -> int:
        return len(self._sizes) * len(self._order.threads) * sum(len(e) for _, e in self._kinds)

    def __iter__(self) -> Iterator[Form | LeftOut]:
        """Make them one by one; what cannot be made is left out with the reason.

        Raises ModelRefused for the model as it is: then the tables do not fit it.
        """
        for size in self._sizes:
            fused: dict[Precision, Fused] = {}
            for precision, engines in self._kinds:
                try:
                    yield from self._served(precision, engines, size, fused)
                except (CannotResize, CannotQuantise, ModelRefused) as error:
                    if (size, precision) == (self._sizes[0], self._kinds[0][0]):
                        raise
                    why = error.problem if isinstance(error, ModelRefused) else str(error)
                    for engine in engines:
                        for threads in self._order.threads:
                            yield LeftOut(name=_name(precision, size, engine, threads), why=why)

    def _served(
        self,
        precision: Precision,
        engines: Sequence[EngineName],
        size: Size | None,
        made: dict[Precision, Fused],
    ) -> Iterator[Form]:
        """Yield a form for each engine and count of threads; they share one file."""
        file: Precision = "fp32" if precision == "bf16" else precision  # the engine rounds it
        if file not in made:
            made[file] = self._fused(file, size)
        for engine in engines:
            for threads in self._order.threads:
                yield Form(
                    name=_name(precision, size, engine, threads),
                    precision=precision,
                    engine=engine,
                    threads=threads,
                    size=size,
                    data=made[file].data,
                    question=made[file].question,
                    answer=made[file].answer,
                )

    def _fused(self, precision: Precision, size: Size | None) -> Fused:
        order, name = self._order, _name(precision, size)
        question = order.question
        data = self._source.data
        if question is not None and size is not None:
            if size != self._sizes[0]:
                data = resized(data, order.name, size, question.layout)
            question = replace(question, size=size)
        if precision == "int8" and not self._source.facts.quantised:
            data = self._int8(data, name, question)
        fused = fuse(data, name, question, order.answer, self._frame)
        return Fused(optimised(fused.data, name, self._scratch), fused.question, fused.answer)

    def _int8(self, data: bytes, name: str, question: Question | None) -> bytes:
        _, spec = fix_model(data, name)
        samples = (prepared(one, spec.inputs, question).inputs for one in self._calibration)
        return int8(data, name, samples, self._scratch)


def _sizes(order: Order, source: SourceModel) -> tuple[Size | None, ...]:
    """Return the sizes that the model is to see, its own first; None where it sees no image."""
    if order.question is None:
        return (None,)
    fitting = sizes_for(source.data, order.question.layout)
    own = order.question.size or next(iter(fitting), None)
    wanted = fitting if order.sizes is None else order.sizes
    return tuple(dict.fromkeys((own, *wanted)))


def _kinds(order: Order, *, quantised: bool) -> list[tuple[Precision, tuple[EngineName, ...]]]:
    """Return the precisions, each with the engines that compute in it."""
    if quantised:
        return [("int8", order.engines)]
    kinds: list[tuple[Precision, tuple[EngineName, ...]]] = [
        ("fp32", order.engines),
        ("int8", order.engines),
    ]
    return [*kinds, ("bf16", ("openvino",))] if "openvino" in order.engines else kinds


def _name(
    precision: Precision,
    size: Size | None,
    engine: EngineName = "onnxruntime",
    threads: int = 1,
) -> str:
    """Name a form: int8-320, openvino-fp32-416, int8-640x480-2t."""
    parts = ["openvino"] if engine == "openvino" else []
    parts.append(precision)
    if size is not None:
        parts.append(str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}")
    parts += [f"{threads}t"] if threads > 1 else []
    return "-".join(parts)
