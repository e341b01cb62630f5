"""A node of few words: a real socket on which every request gets the next scripted answer."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import IO

# Gets a request's head and body; returns what to send.
Script = Callable[[bytes, bytes], bytes]


class Last(bytes):
    """Sent, and then the node hangs up."""


class Trickle(bytes):
    """Sent byte by byte."""


class ScriptedNode:
    """Listens on a Unix socket; one thread for each connection."""

    def __init__(self, path: str, script: Script) -> None:
        self.url, self.connections, self._script = f"unix:{path}", 0, script
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Close every connection from this side."""
        while self._open:
            self._hang_up(self._open.pop())

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        file = connection.makefile("rb")
        try:
            while head := _head(file):
                fields = dict(line.split(b": ", 1) for line in head.splitlines()[1:])
                answer = self._script(head, file.read(int(fields.get(b"Content-Length", 0))))
                step = 1 if isinstance(answer, Trickle) else max(1, len(answer))
                for start in range(0, len(answer), step):
                    connection.sendall(answer[start : start + step])
                if isinstance(answer, Last):
                    break
        except (OSError, ValueError):
            pass  # the other side has hung up
        finally:
            file.close()
            self._hang_up(connection)

    @staticmethod
    def _hang_up(connection: socket.socket) -> None:
        # A reader in another thread keeps the file open: only a shutdown is seen at once.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def _head(file: IO[bytes]) -> bytes:
    """Read one request's head; empty when the other side has hung up."""
    lines = []
    while (line := file.readline()) not in (b"\r\n", b""):
        lines.append(line)
    return b"".join(lines)
