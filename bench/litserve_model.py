"""The peer's side: a LitServe API for each model.

Arguments: the port, then name=path of each model.
"""

import sys
from typing import Any

import litserve  # type: ignore[import-not-found]

from bench.peer_model import PeerModel


class Api(litserve.LitAPI):  # type: ignore[misc]
    """What LitServe calls in the worker process of one model."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(api_path=f"/v2/models/{name}/infer")
        self._path = path

    def setup(self, _device: str) -> None:
        """Open the session."""
        self._model = PeerModel(self._path)

    def predict(self, x: dict[str, Any]) -> dict[str, Any]:
        """Run one request by itself."""
        return self._model.answer(x)


if __name__ == "__main__":
    apis = [Api(*argument.split("=", 1)) for argument in sys.argv[2:]]
    server = litserve.LitServer(apis, accelerator="cpu", fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
    )
