"""The sockets a node listens on, opened by the supervisor so that they outlive every gate."""

import errno
import socket
from pathlib import Path

from tidsram.errors import NodeError


def listen_tcp(address: str) -> socket.socket:
    """Listen on HOST:PORT; raise NodeError with what to do where that cannot be."""
    host, _, port = address.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), int(port)))
        listener.listen(4096)
    except (OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise NodeError(
                f"{address} is in use by another program. "
                f"Stop that, or serve elsewhere with --http 127.0.0.1:PORT."
            ) from None
        raise NodeError(
            f"cannot listen on http = {address!r} ({error}). Write it as HOST:PORT."
        ) from None
    return listener


def listen_unix(path: Path) -> socket.socket:
    """Listen on a Unix socket of this user's; a path left behind is taken over."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_socket():
            if _answers(path):
                raise NodeError(
                    f"another node listens on {str(path)!r}. Stop it, or give this one another "
                    f"`state` directory or --unix PATH."
                )
            path.unlink()
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(4096)
    except OSError as error:
        raise NodeError(
            f"cannot listen on the Unix socket {str(path)!r} ({error}). "
            f"Choose a short path (at most 107 bytes) in a directory you may write to: --unix PATH."
        ) from None
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
