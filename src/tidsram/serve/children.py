"""A node's processes as their parent sees them: how they are started, watched and started again."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

from tidsram import clock
from tidsram.estate.types import Decision
from tidsram.serve.versions import Version
from tidsram.units import SECOND

RESTART_S = (0.0, 0.1, 0.5, 2.0, 5.0)  # before the nth restart in a row that did not hold
HELD_NS = SECOND  # a process that served this long has held


class Process:
    """One child with the sockets to it, and how often it had to be started."""

    def __init__(
        self, decision: Decision | None, lane: int, *, spare: bool = False, shadow: bool = False
    ) -> None:
        self.decision, self.lane, self.spare, self.shadow = decision, lane, spare, shadow
        self.version: Version | None = None  # that it was started with
        self.arrival: asyncio.Future[None] | None = None  # of one that a change waits for
        self.trial = False  # serves its version beside the one that counts
        self.popen: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None
        self.jobs: socket.socket | None = None  # the gate's ends, kept for the next gate
        self.tickets: socket.socket | None = None
        self.warm_up_ns: tuple[tuple[int, ...], ...] = ()
        self.tickets_thread = 0  # not one of the lane's
        self.ready = False
        self.aside = False  # in leftover time only, until the gate says otherwise
        self.weighed = True  # False: its session's weight could not be set yet
        self.ready_ns = 0  # since when; 0 before
        self.ready_bytes = 0  # its memory then
        self.grown = False  # far beyond that: it is being replaced
        self.failures = 0

    @property
    def name(self) -> str:
        """The name of the worker's decision."""
        assert self.decision is not None, "the gate serves all"
        return self.decision.name

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self.popen is not None
        return self.popen.pid

    def next_wait_s(self) -> float:
        """Count a failure, unless it had held; return how long to wait before the next start."""
        held = self.ready_ns and clock.now_ns() - self.ready_ns > HELD_NS
        self.failures = 0 if held else min(self.failures + 1, len(RESTART_S) - 1)
        return RESTART_S[max(0, self.failures - 1)]


def pair() -> tuple[socket.socket, socket.socket]:
    """Make two ends that carry whole messages."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def spawn(module: str, control: socket.socket, *label: str) -> subprocess.Popen[bytes]:
    """Start a process of the node with one end of a control socket."""
    environment = os.environ | {
        "ORT_DISABLE_TELEMETRY": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", module, str(control.fileno()), *label]
    return subprocess.Popen(
        command,
        pass_fds=(control.fileno(),),
        stdin=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,  # a terminal's Ctrl-C is the supervisor's to handle
    )


def ending(code: int) -> str:
    """Say how a process ended."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit status {code}"


def watch(
    child: Process, says: Callable[[Process], None], ended: Callable[[Process], None]
) -> None:
    """Call `says` when the child has sent something, and `ended` once when it has ended."""
    loop = asyncio.get_running_loop()
    assert child.control is not None
    child.control.setblocking(False)
    control = child.control
    loop.add_reader(control.fileno(), says, child)
    pidfd = os.pidfd_open(child.pid)

    def end() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        loop.remove_reader(control.fileno())
        ended(child)

    loop.add_reader(pidfd, end)


def trusted(
    known_ns: tuple[tuple[int, ...], ...], measured_ns: tuple[tuple[int, ...], ...]
) -> tuple[tuple[int, ...], ...]:
    """Keep, of what still loads, the warm-up figures measured before others had to be served."""
    if not known_ns:
        return measured_ns
    return tuple(
        known or measured if measured else ()
        for known, measured in zip(known_ns, measured_ns, strict=True)
    )
