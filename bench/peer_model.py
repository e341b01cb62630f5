"""A model inside a peer: our session behind Open Inference Protocol JSON, or bare tensors.

Runs in the peers' own environments, which have no tidsram.
"""

from pathlib import Path
from typing import Any

import numpy as np

from bench.models import session


class PeerModel:
    """One of the two-layer models: a row "x" of 32-bit floats in, a row "y" out."""

    def __init__(self, path: str) -> None:
        self._session = session(Path(path))

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Answer what a request's JSON says."""
        (tensor,) = question["inputs"]
        row = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        (answer,) = self._session.run(None, {tensor["name"]: row})
        output = {"name": "y", "shape": list(answer.shape), "datatype": "FP32"}
        return {"outputs": [{**output, "data": answer.ravel().tolist()}]}

    def answer_bare(self, body: bytes) -> bytes:
        """Answer a body that is nothing but the tensor's bytes in the same way."""
        row = np.frombuffer(body, np.float32).reshape(1, -1)
        (answer,) = self._session.run(None, {"x": row})
        return answer.tobytes()
