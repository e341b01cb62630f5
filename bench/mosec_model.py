"""The peer's side: a mosec worker for each model and each way to write its tensors.

Arguments: the port, then name=path of each model. mosec reads its settings, the port among them,
from the environment.
"""

import os
import sys
from typing import Any

from mosec import Server, Worker  # type: ignore[import-not-found]

from bench.peer_model import PeerModel


class Json(Worker):  # type: ignore[misc]
    """Take and give mosec's default JSON."""

    def __init__(self) -> None:
        super().__init__()
        self._model = PeerModel(os.environ["MODEL"])

    def forward(self, data: dict[str, Any]) -> dict[str, Any]:
        """Run one request by itself."""
        return self._model.answer(data)


class Bare(Worker):  # type: ignore[misc]
    """Take and give bytes, as mosec's documentation shows for other formats than JSON."""

    req_mime_type = resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        self._model = PeerModel(os.environ["MODEL"])

    def deserialize(self, data: bytes) -> bytes:
        """Leave the body as it is."""
        return data

    def forward(self, data: bytes) -> bytes:
        """Run one request by itself."""
        return self._model.answer_bare(data)

    def serialize(self, data: bytes) -> bytes:
        """Leave the body as it is."""
        return data


if __name__ == "__main__":
    models = [argument.split("=", 1) for argument in sys.argv[2:]]
    sys.argv = sys.argv[:1]  # mosec parses the rest as its own
    server = Server()
    for name, path in models:
        for worker, end in ((Json, "infer"), (Bare, "bare")):
            route = f"/v2/models/{name}/{end}"
            server.append_worker(worker, env=[{"MODEL": path}], route=route)
    server.run()
