"""Where the live comparison asks, and our node in it: kinds of questions that share one lane."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.machine import LANE_CORE
from bench.models import OUT, Model
from bench.node import Node
from bench.pressure.workloads import ACCURACY, Kind
from bench.questions import infer_request
from tidsram.units import US

PROCESSES = {"poisson": 'kind = "poisson"', "gamma 4": 'kind = "gamma", cv = 4'}


@dataclass(frozen=True)
class Target:
    """Where to ask, and what for each kind of questions; `variants` only where answers name one."""

    address: str
    questions: Mapping[str, bytes]
    variants: Sequence[str] = ()


class LadderNode(Node):
    """A node on one lane; each kind is a decision that has all models of the ladder.

    `declared` holds the arrivals of those kinds that declare any, as an estate writes them.
    """

    def __init__(
        self,
        name: str,
        kinds: Sequence[Kind],
        ladder: Sequence[Model],
        declared: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__({})
        self.name = f"tidsram-{name}"
        self._kinds, self._ladder, self._declared = kinds, ladder, declared or {}
        self._state = OUT / f"state-{self._port}"
        tables = [
            f'[estate]\nname = "bench"\nstate = "{self._state}"',
            '[site.here]\nhardware = "box"',
            f"[hardware.box]\nlanes = [{{ cores = [{LANE_CORE}] }}]",
            *map(self._table, kinds),
        ]
        self._estate.write_text("\n\n".join(tables) + "\n")

    def clean_up(self) -> None:
        """Remove the estate that was written, and its state."""
        super().clean_up()
        shutil.rmtree(self._state, ignore_errors=True)

    def target(self) -> Target:
        """Return how to ask it; the budgets are those of the estate."""
        best = self._ladder[0]
        names = [kind.decision for kind in self._kinds]
        questions = {name: infer_request(replace(best, name=name), binary=True) for name in names}
        return Target(self.address, questions, [model.name for model in self._ladder])

    def _table(self, kind: Kind) -> str:
        lines = [
            f"[decision.{kind.decision}]",
            f'budget = "{kind.budget_ns // US} us"',
            f'criticality = "{kind.criticality}"',
        ]
        if kind.decision in self._declared:
            lines.append(f"arrivals = {{ {self._declared[kind.decision]} }}")
        for model, accuracy in zip(self._ladder, ACCURACY, strict=False):
            lines += [
                f"[decision.{kind.decision}.variants.{model.name}]",
                f'model = "{model.path}"',
                f"accuracy = {accuracy}",
            ]
        return "\n".join(lines)


def declaration(arrivals: str, rate: float) -> str:
    """Return the process of these arrivals as an estate declares it."""
    return f'{PROCESSES[arrivals]}, rate = "{rate:.3f}/s"'
