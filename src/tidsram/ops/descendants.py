"""All processes that descend from this one: who they are, what they use, and signals to them.

This process must be their subreaper (`adopt_orphans`) and start them in a session of their own.
Then a descendant whose parent ends becomes a child of this process, so that none is left exactly
when this process has no child; and whatever is in a descendant's process group descends from here.
"""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tidsram import clock
from tidsram.serve import machine
from tidsram.units import MS, SECOND

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}  # the C library has no name for it
_IOPRIO_WHO_PROCESS: Final = 1
_IOPRIO_IDLE: Final = 3 << 13
LEAST: Final = 19  # nice: SCHED_IDLE gives way within its own session only
_PAGE: Final = resource.getpagesize()
_PATIENCE_NS: Final = 10 * SECOND  # what is killed still needs a little processor time to end

_libc = ctypes.CDLL(None, use_errno=True)


class Member(NamedTuple):
    """A living descendant."""

    pid: int
    group: int
    session: int
    threads: list[int]


def can_be_known() -> bool:
    """Whether this kernel lists a process's children."""
    return Path(f"/proc/self/task/{os.getpid()}/children").exists()


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with(parent: int, number: signal.Signals) -> None:
    """Ask the kernel for a signal when `parent` ends; take it now if that has happened."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def run_on_leftovers(cores: Iterable[int]) -> None:
    """Put this process, and all it will start, behind everything else on the machine."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    machine.weigh_autogroup(os.getpid(), LEAST)
    if call := _IOPRIO_SET.get(os.uname().machine):
        _libc.syscall(call, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Path("/proc/self/oom_score_adj").write_text("1000")
    if cores:
        os.sched_setaffinity(0, cores)


def living() -> list[Member]:
    """Return every descendant that has not ended."""
    found: list[Member] = []
    unseen = list(_children(os.getpid(), _threads(os.getpid())))
    while unseen:
        pid = unseen.pop()
        threads = _threads(pid)
        unseen += _children(pid, threads)
        with contextlib.suppress(OSError):
            fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
            # The first thread may have ended before the others: the process lives on.
            if fields[0] not in b"ZX" or len(threads) > 1:
                found.append(Member(pid, int(fields[2]), int(fields[3]), threads))
    return found


def put_back(members: Iterable[Member], sessions: set[int]) -> None:
    """Return to SCHED_IDLE what left it, and hold back the `sessions` that are new."""
    for member in members:
        for thread in member.threads:
            with contextlib.suppress(OSError):
                if os.sched_getscheduler(thread) != os.SCHED_IDLE:
                    os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
        if member.session not in sessions and machine.weigh_autogroup(member.pid, LEAST):
            sessions.add(member.session)


def memory_bytes(members: Iterable[Member], enough: int) -> int:
    """Return the memory they use; above `enough`, with shared pages counted once."""
    resident = {member.pid: _resident_bytes(member) for member in members}
    whole = sum(resident.values())
    # Reading the shares walks page tables: only when the cheap upper bound is not good enough.
    if whole <= enough:
        return whole
    return sum(_share_bytes(pid, size) for pid, size in resident.items())


def send(members: Iterable[Member], number: int) -> None:
    """Send a signal to them, a group at a time: no member can fork its way out of that."""
    for group in {member.group for member in members}:
        if group > 1:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)


def stop(stopped: set[int]) -> None:
    """Stop all that run, until no new one appears; `stopped` holds those that were told."""
    give_up_ns = clock.now_ns() + SECOND
    while clock.now_ns() < give_up_ns:
        new = [member for member in living() if member.pid not in stopped]
        if not new:
            return
        send(new, signal.SIGSTOP)
        stopped |= {member.pid for member in new}


def end_all(first: subprocess.Popen[bytes] | None = None) -> bool:
    """Kill until no descendant is left; False when some cannot be killed or do not end."""
    stop(set())
    by_group: dict[int, Member] = {}
    give_up_ns = clock.now_ns() + _PATIENCE_NS
    while reap(first):
        if clock.now_ns() > give_up_ns:
            return False
        # Groups seen once are told again: one whose members only ever fork and exit is hit so.
        by_group |= {member.group: member for member in living()}
        send(by_group.values(), signal.SIGKILL)
        clock.sleep_ns(MS)
    return True


def reap(first: subprocess.Popen[bytes] | None) -> bool:
    """Collect the children that have ended; False when there is no child any more."""
    try:
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if first is not None and ended.si_pid == first.pid:
                first.wait()
            else:
                os.waitpid(ended.si_pid, 0)
    except ChildProcessError:
        return False
    return True


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208
    except OSError:
        return []


def _children(pid: int, threads: Iterable[int]) -> Iterator[int]:
    for thread in threads:
        with contextlib.suppress(OSError):
            yield from map(int, _read(f"/proc/{pid}/task/{thread}/children").split())


def _resident_bytes(member: Member) -> int:
    try:
        # Of the last thread: a first thread that has ended shows no memory.
        path = f"/proc/{member.pid}/task/{member.threads[-1]}/statm"
        return int(_read(path).split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _share_bytes(pid: int, resident: int) -> int:
    try:
        for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resident


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - many a second, no path object
        return file.read()
