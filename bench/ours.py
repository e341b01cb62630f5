"""Our own node under measurement: `tidsram serve MODEL.onnx`, as a user starts it."""

import sys
from collections.abc import Sequence

from bench.models import OUT, Model
from bench.servers import Server


class Ours(Server):
    """One node with one decision; it places its gate and its lane itself."""

    folder = OUT

    def __init__(self, model: Model, *, budget: str = "20ms") -> None:
        super().__init__()
        self.name = f"tidsram-{model.name}"
        self.unix = str(OUT / f"{model.name}-{self._port}.sock")
        self._model, self._budget = model, budget

    def command(self) -> Sequence[str]:
        """Return the quick start's command, with both listeners."""
        return [
            *(sys.executable, "-m", "tidsram", "serve", str(self._model.path)),
            *("--budget", self._budget, "--http", self.address, "--unix", str(self.unix)),
        ]
