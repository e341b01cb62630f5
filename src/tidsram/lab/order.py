"""What the lab is to make, and whether that can be made here at all."""

import os
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

from tidsram.errors import EstateError
from tidsram.estate.types import Answer, Question
from tidsram.lab.bench import Bench
from tidsram.lab.facts import Condition
from tidsram.lab.profile import HERE, lane_of

Size = tuple[int, int]  # width, height
EngineName = Literal["onnxruntime", "openvino"]

ENGINES: Final[dict[str, EngineName]] = {"onnxruntime": "onnxruntime", "openvino": "openvino"}


class Order(Struct, frozen=True, kw_only=True):
    """What is to be made, of what, and within what.

    `sizes` are those that the model itself is to see, beside its own; None: as the lab sees fit.
    `frame` is the size of a raw question; None: that of the data's pictures.
    """

    name: str
    model: Path
    data: Path
    question: Question | None = None
    answer: Answer | None = None
    labels: Path | None = None
    pair: tuple[str, ...] = ()
    budget_ns: int | None = None
    floor: float = 0.0
    frame: Size | None = None
    sizes: tuple[Size, ...] | None = None
    threads: tuple[int, ...] = (1,)
    engines: tuple[EngineName, ...] = ("onnxruntime",)
    samples: int = 100
    runs: int = 500
    conditions: tuple[Condition, ...] = ("alone",)
    hardware: str = HERE
    licence: str = ""
    provenance: str = ""

    def check(self) -> None:
        """Refuse what cannot be done, before any work; raise EstateError or NotMeasured."""
        for threads in self.threads:
            for condition in self.conditions:
                self.bench(threads, condition).check()
        for option, size in (("--sizes", self.sizes), ("--frame", self.frame)):
            if size is not None and self.question is None:
                raise EstateError(
                    option,
                    "is about questions of images, and no table says that these are; name the "
                    "decision that has a [question] table with --decision, or leave it out",
                )

    def bench(self, threads: int, condition: Condition) -> Bench:
        """Return where a form of so many threads is timed."""
        cores = tuple(sorted(os.sched_getaffinity(0)))
        return Bench(lane=lane_of(threads, cores), cores=cores, condition=condition)
