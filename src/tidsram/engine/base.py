"""What a runtime must be able to do for a worker: load from bytes, describe, bind, run, abort."""

import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tidsram.protocol.tensors import ModelSpec

Array = NDArray[np.generic]
TEXT_MAX = 300  # of a runtime's own words in one of our sentences
# A binding is each engine's own affair: made by `bind`, understood by `run`, Any in between.


class RunAborted(Exception):
    """The run was ended by `abort`; the engine is ready for the next one."""


class RunFailed(Exception):
    """The model itself failed; the text is the runtime's."""


class Engine(Protocol):
    """One loaded model. One thread runs it; any thread may abort the run in progress."""

    spec: ModelSpec

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array | None]) -> Any:  # noqa: ANN401
        """Prepare a run that reads and writes the given memory, in the spec's order.

        Arrays alias shared memory: every `run` sees what is in it then. An output given as None
        (its size depends on the data) is allocated by the engine and returned by `run`.
        """

    def run(self, binding: Any, ticket: int) -> list[Array | None]:  # noqa: ANN401
        """Run once; return the outputs that `bind` left to the engine (None for the others).

        Raises RunAborted or RunFailed. `ticket` names this run for `abort`.
        """

    def abort(self, ticket: int) -> None:
        """End the run `ticket` at its next operator; no effect when another or none is running."""

    def warm_up(self, runs: int) -> list[int]:
        """Run on zeros; return each run's nanoseconds."""


def words_of(error: Exception, noise: Sequence[re.Pattern[str]]) -> str:
    """Return a runtime's words in one line, without what only its makers understand."""
    text = str(error)
    for part in noise:
        text = part.sub("", text)
    text = " ".join(text.split()).rstrip(". ")
    return text if len(text) <= TEXT_MAX else text[:TEXT_MAX] + "…"
