"""The peer's side: a Ray Serve deployment of one replica for each model.

Arguments: the port, then name=path of each model.
"""

import fcntl
import os
import signal
import socket
import struct
import sys

import ray  # type: ignore[import-not-found]
from ray import serve
from starlette.requests import Request  # type: ignore[import-not-found]
from starlette.responses import JSONResponse, Response  # type: ignore[import-not-found]

from bench.peer_model import PeerModel

SET_FLAGS, UP = 0x8914, 0x1  # SIOCSIFFLAGS, IFF_UP


class Answer:
    """What Ray Serve calls."""

    def __init__(self, path: str) -> None:
        self._model = PeerModel(path)

    async def __call__(self, request: Request) -> Response:
        """Run one request by itself."""
        if request.url.path.endswith("/bare"):
            return Response(self._model.answer_bare(await request.body()))
        return JSONResponse(self._model.answer(await request.json()))


def _raise_loopback() -> None:
    """Bring up `lo`, which a new network namespace has but leaves down."""
    with socket.socket() as sock:
        fcntl.ioctl(sock, SET_FLAGS, struct.pack("16sH14x", b"lo", UP))


def main(port: str, *models: str) -> None:
    """Serve until killed; whoever started this ends the processes that Ray starts."""
    _raise_loopback()
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 << 20,
        _temp_dir=os.environ["TMPDIR"],
    )
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's own handler waits for too much
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(port)},
        logging_config={"enable_access_log": False},
    )
    deployment = serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0})(Answer)
    for name, path in (model.split("=", 1) for model in models):
        serve.run(deployment.bind(path), name=name, route_prefix=f"/v2/models/{name}")
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
