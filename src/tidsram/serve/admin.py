"""A node's administration socket: one request in, progress and the result back, a JSON line each.

It is the supervisor's, so it outlives every gate. Who may use it: the node's own user, and root.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from tidsram.errors import NodeError, TidsramError
from tidsram.estate.types import Estate, Site

MAX_LINE: Final = 1 << 20
_PEER: Final = struct.Struct("3i")  # SO_PEERCRED: process, user, group

Mode = Literal["now", "canary", "shadow"]
Share = Annotated[float, Meta(gt=0, le=1)]


class Deploy(Struct, frozen=True, kw_only=True, tag=True):
    """Serve a decision by the version that lies at `path`; "": the only decision, or its name's.

    A canary gets `percent` of the questions, and takes over after `after` of them. In the shadow it
    gets none, and is compared on `after` that were answered. Two answers agree from `agree` on; a
    canary is taken back when fewer agree than the share `agree_share`, by default the decision's
    accuracy floor.
    """

    path: str
    decision: str = ""
    mode: Mode = "now"
    percent: Annotated[int, Meta(ge=1, le=50)] = 10
    after: Annotated[int, Meta(ge=1)] = 1000
    agree: Share = 0.5
    agree_share: Share | None = None


class Rollback(Struct, frozen=True, kw_only=True, tag=True):
    """Serve a decision by the version before; with a trial under way, end that."""

    decision: str


class Status(Struct, frozen=True, kw_only=True, tag=True):
    """Say what is served."""


Request = Deploy | Rollback | Status


class Side(Struct, frozen=True, kw_only=True):
    """What became of one version's questions since a trial began."""

    answered: int
    refused: int
    missed: int
    failed: int
    p50_us: int | None
    p99_us: int | None


class Difference(Struct, frozen=True, kw_only=True):
    """How far two answers to one question were apart; with a `problem` there was only one."""

    request: str
    agreement: float
    problem: str = ""


class Comparison(Struct, frozen=True, kw_only=True):
    """How a version's answers agree with those that were given, compared on leftover time.

    Two agree when their agreement is at least `agree`. The bounds hold at 99 %.
    """

    agree: float
    compared: int
    agreed: int
    failed: int
    agreed_at_least: float | None
    agreement: float | None
    agreement_at_least: float | None
    served_p50_us: int | None
    served_p99_us: int | None
    shadow_p50_us: int | None
    shadow_p99_us: int | None
    worst: tuple[Difference, ...]


class Trial(Struct, frozen=True, kw_only=True):
    """A version that is tried beside the one that is served.

    In the shadow it answers nobody, so that nothing is counted for either side.
    """

    mode: Mode
    path: str
    version: str
    percent: int
    after: int
    served: Side
    tried: Side
    comparison: Comparison | None = None


class Serving(Struct, frozen=True, kw_only=True):
    """How one decision is served: by which version, in which place, and what was before.

    `told` is what became of the last change.
    """

    decision: str
    version: str
    path: str
    lanes: tuple[int, ...]
    before: tuple[str, ...] = ()
    trial: Trial | None = None
    told: str = ""


class Told(Struct, frozen=True, kw_only=True, tag=True):
    """How far it is."""

    told: str


class Done(Struct, frozen=True, kw_only=True, tag=True):
    """The result."""

    told: str = ""
    decisions: tuple[Serving, ...] = ()


class Refused(Struct, frozen=True, kw_only=True, tag=True):
    """Nothing was changed, and why."""

    error: str
    code: str


Reply = Told | Done | Refused
Tell = Callable[[str], None]
Serve = Callable[[Request, Tell], Awaitable[Done]]


def state_path(estate: Estate, site: Site, folder: Path, name: str) -> Path:
    """Return where a site's file of this name lies in the estate's state directory."""
    return folder / estate.state / f"{site.name}.{name}"


class Administration:
    """The socket of one node. `serve` is what carries a request out."""

    def __init__(self, path: Path, serve: Serve) -> None:
        self._path, self._serve = path, serve
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen. Raises NodeError where that cannot be: then nothing can be changed here."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with _short(self._path) as short:
                taken = self._path.is_socket() and _answers(short)
                if not taken:
                    self._path.unlink(missing_ok=True)
                    _bind_private(listener, short)
        except OSError as error:
            listener.close()
            raise NodeError(
                f"cannot listen on {self._path} ({error.strerror}), so this node cannot be changed "
                f"while it runs"
            ) from None
        if taken:
            listener.close()
            raise NodeError(
                f"another node of this site has {self._path}: only that one can be changed while "
                f"it runs"
            )
        serve = self._connected
        self._server = await asyncio.start_unix_server(serve, sock=listener, limit=MAX_LINE)

    def close(self) -> None:
        """Listen no longer."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def tell(reply: Reply) -> None:
            if not writer.is_closing():
                writer.write(msgspec.json.encode(reply) + b"\n")

        try:
            tell(await self._reply(writer, await reader.readline(), tell))
            await writer.drain()
        except (OSError, ValueError):  # it left, or its line never ended
            pass
        finally:
            writer.close()

    async def _reply(
        self, writer: asyncio.StreamWriter, line: bytes, tell: Callable[[Reply], None]
    ) -> Reply:
        peer = writer.get_extra_info("socket")
        user = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[1]
        if user not in (0, os.getuid()):
            sentence = f"user {user} may not change this node; its own user and root may"
            return Refused(error=sentence, code=NodeError.code)
        try:
            request: Request = msgspec.json.decode(line, type=Request)
        except (msgspec.MsgspecError, RecursionError) as error:
            return Refused(error=f"this is no request ({error})", code=NodeError.code)
        try:
            return await self._serve(request, lambda told: tell(Told(told=told)))
        except TidsramError as error:
            return Refused(error=str(error), code=error.code)


def ask_node(path: Path, request: Request, tell: Tell) -> Done:
    """Ask the node with this administration socket; NodeError with its sentence when it refuses."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as node:
        try:
            with _short(path) as short:
                node.connect(short)
        except OSError:
            raise NodeError(
                f"no node answers at {path}. Start it with `tidsram serve`, or name its estate "
                f"with -f FILE and its site with --site."
            ) from None
        try:
            node.sendall(msgspec.json.encode(request) + b"\n")
            with node.makefile("rb") as lines:
                for line in lines:
                    reply: Reply = msgspec.json.decode(line, type=Reply)
                    if isinstance(reply, Done):
                        return reply
                    if isinstance(reply, Refused):
                        raise NodeError(reply.error)
                    tell(reply.told)
        except OSError:
            pass
    raise NodeError(
        "the node ended before it was done. Started again, it serves one of the two versions; "
        "`tidsram deploy --status` says which."
    )


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Name a socket in few bytes: the kernel takes 107, and a state directory may lie deep."""
    at = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{at}/{path.name}"
    finally:
        os.close(at)


def _bind_private(listener: socket.socket, name: str) -> None:
    """Bind a socket that no other user can ever connect to."""
    before = os.umask(0o177)
    try:
        listener.bind(name)
    finally:
        os.umask(before)


def _answers(name: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(name) == 0
