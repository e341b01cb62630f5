"""The asker's floor: a server that answers every question at once with the same bytes."""

import socket
import sys
from collections.abc import Sequence

from bench.loadgen import receive_reply
from bench.machine import LANE_CORE
from bench.servers import Server

BODY = b'{"outputs":[]}'
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


class Echo(Server):
    """Every figure contains this much of the asker, the kernel and a Python server's minimum."""

    name = "echo"

    def __init__(self) -> None:
        super().__init__(cores=str(LANE_CORE))

    def command(self) -> Sequence[str]:
        """Return this module as a command."""
        return [sys.executable, "-m", "bench.echo", str(self._port)]


def serve(port: int) -> None:
    """Serve one connection after the other, for ever."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with sock:
                _serve_one(sock)


def _serve_one(sock: socket.socket) -> None:
    while True:
        try:
            receive_reply(sock)  # a request has the same frame
        except ConnectionError:
            return
        sock.sendall(REPLY)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
