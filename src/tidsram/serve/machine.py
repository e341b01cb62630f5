"""What a node asks of the operating system, and what it costs when the answer is no."""

import contextlib
import ctypes
import fcntl
import os
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Iterable

from tidsram.estate.types import Criticality

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = 0o4000
_TFD_CLOEXEC = 0o2000000
_TFD_TIMER_ABSTIME = 1
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_ITIMERSPEC = struct.Struct("=qqqq")

_CAP_IPC_LOCK = 1 << 14

FIFO_PRIORITY = {Criticality.CRITICAL: 20, Criticality.STANDARD: 10}
FIFO_GATE = 30  # only where it has no core of its own
NICE = {Criticality.CRITICAL: -20, Criticality.STANDARD: 0, Criticality.BEST_EFFORT: 19}
GATE_NICE = -20
LOADING_NICE = 10
WARM_UP_NICE = -20
RELOAD_NICE = 0  # a worker that is missed, on cores that no lane has
LEISURE_NICE = 10  # a spare there, or a worker that is missed on a lane's own core
OOM_SCORE = {Criticality.CRITICAL: 200, Criticality.STANDARD: 400, Criticality.BEST_EFFORT: 800}
OOM_SPARE = 900  # nobody waits for it; what runs in the background goes before (1000)
LEFTOVER_NICE = 19  # a spare on a lane's own core


def die_with_parent(control: socket.socket | None = None) -> None:
    """Ask the kernel to end this process when its parent ends, however that happens.

    A parent that holds the other end of `control` may have ended before the kernel was asked.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if control is not None:
        hung_up = select.poll()
        hung_up.register(control, 0)
        if hung_up.poll(0):
            sys.exit(1)


def pin(cores: Iterable[int]) -> None:
    """Keep the calling thread, and threads it makes later, on these cores."""
    os.sched_setaffinity(0, cores)


def be_nice(value: int) -> bool:
    """Set the nice value of this process; False where the privilege is missing.

    Its session goes before others too, but never after them: a start is not to wait for the rest
    of the machine.
    """
    if not _set_nice(value):
        return False
    weigh_session(os.getpid(), min(value, 0))
    return True


def may_hurry() -> bool:
    """Whether this process may lower its nice value; it is left as it was."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    return _set_nice(before - 1) and _set_nice(before)


def _set_nice(value: int) -> bool:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, value)
    except PermissionError:
        return False
    return True


def weigh_session(pid: int, value: int) -> bool:
    """Give a process's whole session a nice value; False: to be tried again in a tenth of a second.

    Where the kernel shares cores among sessions first (autogroup, on by default), nice values and
    SCHED_IDLE count within a session only: measured, an idle process got half a core. A session
    that others share is left alone.
    """
    try:
        own = os.getsid(pid) == pid
    except OSError:  # ended
        return True
    return not own or weigh_autogroup(pid, value)


def weigh_autogroup(pid: int, value: int) -> bool:
    """Give the session that the process is in a nice value, whoever else is in it; as above."""
    try:
        _write(f"/proc/{pid}/autogroup", str(value))
    except BlockingIOError:  # without CAP_SYS_ADMIN, one change at a time
        return False
    except OSError:  # ended, not allowed, or a kernel without such groups
        return True
    return True


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


def put_to_load(pid: int, cores: Iterable[int], nice: int) -> None:
    """Let a process that was just started load where and when it delays no decision."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(pid, cores)
    if may_hurry():  # else there is no way back
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, nice)
    weigh_session(pid, nice)


def bring_to_lane(pid: int, cores: Iterable[int], tickets_thread: int) -> None:
    """Give a lane's cores to all of a warm worker's threads but the one that takes tickets.

    A worker that is never told to stop has no such thread: 0.
    """
    with contextlib.suppress(OSError):  # it has just ended
        for thread in _threads(pid):
            if thread != tickets_thread:
                os.sched_setaffinity(thread, cores)
        if tickets_thread:
            os.setpriority(os.PRIO_PROCESS, tickets_thread, WARM_UP_NICE)


def give_up_early(pid: int, score: int) -> None:
    """Let the kernel kill this process before those with a lower score when memory runs out."""
    with contextlib.suppress(OSError):
        _write(f"/proc/{pid}/oom_score_adj", str(score))


def lock_memory() -> bool:
    """Keep this process's memory from being paged out; False where it is not allowed.

    Pages are locked as they are used: memory that is only reserved, as arenas and stacks are, costs
    nothing. Under a limit, what comes later is left out: it would be refused instead.
    """
    flags = _MCL_CURRENT | _MCL_ONFAULT | (_MCL_FUTURE if _may_lock_all() else 0)
    return bool(_libc.mlockall(flags) == 0)


def _may_lock_all() -> bool:
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        return True
    with open("/proc/self/status") as status:  # noqa: PTH123
        (effective,) = (line.split()[1] for line in status if line.startswith("CapEff:"))
    return bool(int(effective, 16) & _CAP_IPC_LOCK)


def open_many_files() -> int:
    """Raise this process's limit on open files as far as it may; return it."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def put_first(pid: int) -> bool:
    """Let a process go before the workers on a core they share; False where not allowed.

    What it starts does not inherit that.
    """
    try:
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(pid, policy, os.sched_param(FIFO_GATE))
    except PermissionError:
        return False
    return True


def _lane_threads(pid: int) -> list[int]:
    """Return the threads that have the main thread's cores: not the one that takes tickets."""
    cores = os.sched_getaffinity(pid)
    return [pid] + [t for t in _threads(pid) if t != pid and os.sched_getaffinity(t) == cores]


def _threads(pid: int) -> list[int]:
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208


def is_runnable(pid: int) -> bool:
    """Whether the main thread has or waits for a core or a page: not stopped, not asleep."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - one read, no path object
            return stat.read().rpartition(b")")[2].split()[0] in b"RD"
    except OSError:
        return False


def cpu_ns(pid: int) -> int:
    """Return the time that the process's main thread has had a core; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/schedstat", "rb") as stat:  # noqa: PTH123
            return int(stat.read().split()[0])
    except OSError:
        return 0


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:  # noqa: PTH123 - as above
        file.write(text)


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
