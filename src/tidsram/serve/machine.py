"""What a node asks of the operating system, and what it costs when the answer is no."""

import contextlib
import ctypes
import fcntl
import os
import signal
import struct
from collections.abc import Iterable

from tidsram.estate.types import Criticality

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = 0o4000
_TFD_CLOEXEC = 0o2000000
_TFD_TIMER_ABSTIME = 1
_ITIMERSPEC = struct.Struct("=qqqq")

FIFO_PRIORITY = {Criticality.CRITICAL: 20, Criticality.STANDARD: 10}
FIFO_GATE = 30  # only where it has no core of its own
NICE = {Criticality.CRITICAL: -20, Criticality.STANDARD: 0}
GATE_NICE = -20
LOADING_NICE = 10
WARM_UP_NICE = -20


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends, however that happens."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def pin(cores: Iterable[int]) -> None:
    """Keep the calling thread, and threads it makes later, on these cores."""
    os.sched_setaffinity(0, cores)


def be_nice(value: int) -> bool:
    """Set the nice value of this process; False where the privilege is missing."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, value)
    except PermissionError:
        return False
    return True


def may_hurry() -> bool:
    """Whether this process may lower its nice value; it is left as it was."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    return be_nice(before - 1) and be_nice(before)


def set_class(pid: int, criticality: Criticality, *, fifo: bool) -> bool:
    """Put a worker's threads that share the lane in its class; False where not allowed.

    SCHED_FIFO (critical above standard) or nice values; best-effort is SCHED_IDLE either way.
    """
    try:
        for thread in _lane_threads(pid):
            if criticality is Criticality.BEST_EFFORT:
                os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
            elif fifo:
                priority = os.sched_param(FIFO_PRIORITY[criticality])
                os.sched_setscheduler(thread, os.SCHED_FIFO, priority)
            else:
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
                os.setpriority(os.PRIO_PROCESS, thread, NICE[criticality])
    except PermissionError:
        return False
    except (ProcessLookupError, FileNotFoundError):
        return True  # it has just ended: its replacement will be put in its class
    return True


def put_first(pid: int) -> bool:
    """Let the gate go before the workers on a core they share; False where not allowed."""
    try:
        os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(FIFO_GATE))
    except PermissionError:
        return False
    return True


def _lane_threads(pid: int) -> list[int]:
    """Return the threads that have the main thread's cores: not the one that takes tickets."""
    cores = os.sched_getaffinity(pid)
    threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208
    return [pid] + [t for t in threads if t != pid and os.sched_getaffinity(t) == cores]


def is_runnable(pid: int) -> bool:
    """Whether the process's main thread has or waits for a core: not stopped, not asleep."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - one read, no path object
            return stat.read().rpartition(b")")[2].split()[0] == b"R"
    except OSError:
        return False


def cpu_ns(pid: int) -> int:
    """Return the time that the process's main thread has had a core; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/schedstat", "rb") as stat:  # noqa: PTH123
            return int(stat.read().split()[0])
    except OSError:
        return 0


class DeadlineTimer:
    """One timerfd for all deadlines: the loop's own timers are a millisecond coarse."""

    def __init__(self) -> None:
        flags = _TFD_NONBLOCK | _TFD_CLOEXEC
        self.fd = _libc.timerfd_create(_CLOCK_MONOTONIC, flags)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._buffer = ctypes.create_string_buffer(_ITIMERSPEC.size)
        self._armed_ns = 0

    def arm(self, instant_ns: int | None) -> None:
        """Make `fd` readable at the instant, unless it will be earlier anyway."""
        if instant_ns is None or 0 < self._armed_ns <= instant_ns:
            return
        self._armed_ns = instant_ns
        _ITIMERSPEC.pack_into(self._buffer, 0, 0, 0, *divmod(instant_ns, 1_000_000_000))
        _libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, self._buffer, None)

    def fired(self) -> None:
        """Take note that `fd` was readable."""
        self._armed_ns = 0
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 8)


def sealed_memory(name: str, size: int) -> int:
    """Make anonymous memory of a fixed size, allocated now; return its descriptor.

    Sealed against resizing, so no one who maps it can be killed by another's truncation; it has no
    name in any file system and goes with its last user. Raises OSError when memory is short.
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(fd, 0, size)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except OSError:
        os.close(fd)
        raise
    return fd
