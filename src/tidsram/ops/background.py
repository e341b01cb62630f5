"""`tidsram background`: run a command on the time and memory that decisions leave over.

Two processes besides the command. The watch starts it, limits it, pauses it and ends what is left
of it. The front is what the user started: it hands signals on, and ends everything should the watch
be killed; should the front be killed, the watch does.
"""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from tidsram import clock
from tidsram.errors import TidsramError
from tidsram.ops import descendants, pressure
from tidsram.ops.descendants import Member
from tidsram.units import MS, SECOND, show_ns, show_size

_LOOK_NS: Final = 100 * MS
_GRACE_NS: Final = 5 * SECOND
_FRONT_LOST: Final = signal.SIGUSR1  # the kernel tells the watch so
_ENDED_BY_SIGNAL: Final = 128  # + its number, as shells have it

Say = Callable[[str], None]


class CommandError(TidsramError):
    """A command that cannot be run in the background."""

    code = "command"


class Job(Struct, frozen=True, kw_only=True):
    """What to run, and within what. No memory named: a quarter of what is available at start."""

    command: list[str]
    url: str  # of the node whose decisions come first
    spared: frozenset[str] = frozenset()  # decisions whose trouble pauses nothing
    memory_bytes: int | None = None
    processes: int = 64
    cores: tuple[int, ...] = ()  # none: wherever the kernel likes


class Report(Struct, frozen=True, kw_only=True):
    """How it went."""

    reason: str  # exited, signal, memory, processes, interrupted
    status: int
    seconds: float
    cpu_seconds: float
    pauses: int
    paused_seconds: float


def run_background(job: Job, say: Say, tell: Callable[[Report], None]) -> int:
    """Run the command to its end and return its exit status; `tell` is called before that."""
    if not descendants.can_be_known():
        raise CommandError(
            "this kernel does not list a process's children (CONFIG_PROC_CHILDREN), so nothing "
            "that a command starts could be limited here; run it on another machine"
        )
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever started us may have had it ignored
    told = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heard: set[int] = {number for number in told if signal.getsignal(number) is not signal.SIG_IGN}
    heard |= {signal.SIGCHLD, _FRONT_LOST}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, heard)
    descendants.adopt_orphans()
    sys.stdout.flush()
    front = os.getpid()
    watch = os.fork()
    if watch:
        return _front(watch, heard, say)
    os.setsid()  # what the terminal sends, the front hands on
    descendants.end_with(front, _FRONT_LOST)
    descendants.adopt_orphans()
    report = _Watch(job, heard, mask, say).run()
    tell(report)
    return report.status


def _front(watch: int, heard: set[int], say: Say) -> int:
    """Hand signals on to the watch and return its exit status."""
    while True:
        number = signal.sigwait(heard)
        if number != signal.SIGCHLD:
            os.kill(watch, number)
            continue
        ended, status = os.waitpid(watch, os.WNOHANG)
        if not ended:
            continue
        if os.WIFSIGNALED(status):
            descendants.end_all()
            say(f"the watching process was killed by {_name(os.WTERMSIG(status))}; all ended")
        return _shown(os.waitstatus_to_exitcode(status))


class _Watch:
    """The command's life, from start to nothing left."""

    def __init__(self, job: Job, heard: set[int], mask: set[int], say: Say) -> None:
        self._job, self._heard, self._say = job, heard, say
        self._memory_bytes = job.memory_bytes or pressure.machine_memory()[1] // 4
        self._brake = pressure.Brake()
        self._node = pressure.NodeWatch(job.url, job.spared)
        self._stopped: set[int] = set()
        self._sessions: set[int] = set()
        self._reason = ""
        self._kill_at_ns: int | None = None
        self._started_ns = clock.now_ns()
        self._command = _start(job, mask)
        self._node.start()

    def run(self) -> Report:
        """Watch the command until it and all it has started have ended."""
        look_ns = clock.now_ns()
        try:
            while self._command.returncode is None:
                self._wait(look_ns)
                descendants.reap(self._command)
                if clock.now_ns() >= look_ns and self._command.returncode is None:
                    self._look()
                    look_ns = clock.now_ns() + _LOOK_NS
        finally:
            self._end_the_rest()
        return self._report()

    def _wait(self, until_ns: int) -> None:
        """Sleep until there is something to do, and do what a signal asks for."""
        patience_s = max(0, until_ns - clock.now_ns()) / 1e9
        came = signal.sigtimedwait(self._heard, patience_s)
        if came is None or came.si_signo == signal.SIGCHLD:
            return
        self._reason = self._reason or "interrupted"
        if came.si_signo == _FRONT_LOST:
            self._end()
            return
        if self._kill_at_ns is None:
            self._kill_at_ns = clock.now_ns() + _GRACE_NS
        # To its group, as a terminal does; and it has to run in order to end.
        self._go_on("the command was told to end", at_once=True)
        descendants.send(self._own_group(), came.si_signo)

    def _look(self) -> None:
        members = descendants.living()
        if len(members) > self._job.processes:
            self._exceeded("processes", f"more than {self._job.processes} processes at once")
            return
        used = descendants.memory_bytes(members, self._memory_bytes)
        if used > self._memory_bytes:
            cap = show_size(self._memory_bytes)
            self._exceeded("memory", f"{show_size(used)} of memory, and {cap} are allowed")
            return
        descendants.put_back(members, self._sessions)
        if self._kill_at_ns is None:
            self._pause_or_go_on()
        elif clock.now_ns() >= self._kill_at_ns:
            self._say(f"the command did not end within {show_ns(_GRACE_NS)}; killed")
            self._end()

    def _pause_or_go_on(self) -> None:
        if news := self._node.news():
            self._say(news)
        trouble = self._node.trouble() or pressure.scarcity(*pressure.machine_memory())
        if trouble and self._brake.press(clock.now_ns()):
            self._say(f"paused: {trouble}")
        if not trouble:
            self._go_on("")
        if self._brake.paused_at_ns is not None:
            descendants.stop(self._stopped)

    def _go_on(self, why: str, *, at_once: bool = False) -> None:
        lasted_ns = self._brake.release(clock.now_ns(), at_once=at_once)
        if lasted_ns:
            descendants.send(descendants.living(), signal.SIGCONT)
            self._stopped.clear()
            self._say(f"resumed after {show_ns(lasted_ns)}" + (f": {why}" if why else ""))

    def _exceeded(self, reason: str, what: str) -> None:
        self._reason = reason
        self._end()
        self._say(f"killed the command and all it had started: it had {what}; see --{reason}")

    def _end(self) -> None:
        if not descendants.end_all(self._command):
            self._say(
                "some of its processes were killed but have not ended: they wait in the kernel, "
                "or belong to another user; see `ps`"
            )
        if self._command.returncode is None:  # it will not run again
            self._command.returncode = -signal.SIGKILL

    def _end_the_rest(self) -> None:
        left = len(descendants.living())
        self._end()
        if left:
            self._say(f"the command has ended; killed {left} of its processes that had not")

    def _own_group(self) -> list[Member]:
        return [member for member in descendants.living() if member.group == self._command.pid]

    def _report(self) -> Report:
        now_ns = clock.now_ns()
        self._brake.release(now_ns, at_once=True)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        code = self._command.returncode
        return Report(
            reason=self._reason or ("exited" if code >= 0 else "signal"),
            status=_shown(code),
            seconds=round((now_ns - self._started_ns) / 1e9, 3),
            cpu_seconds=round(used.ru_utime + used.ru_stime, 3),
            pauses=self._brake.pauses,
            paused_seconds=round(self._brake.paused_ns / 1e9, 3),
        )


def _start(job: Job, mask: set[int]) -> subprocess.Popen[bytes]:
    """Start the command, with all that the kernel hands down to what it will start itself."""
    watch = os.getpid()

    def prepare() -> None:
        descendants.end_with(watch, signal.SIGKILL)
        descendants.run_on_leftovers(job.cores)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    name = job.command[0]
    try:
        # Safe here: this process has no other thread yet.
        return subprocess.Popen(job.command, start_new_session=True, preexec_fn=prepare)  # noqa: PLW1509
    except FileNotFoundError:
        problem = "there is no such command; name one that is on PATH, or give its path"
    except PermissionError:
        problem = "it may not be executed; see its mode and its file system's"
    except OSError as error:
        problem = f"it cannot be executed ({error.strerror}); a script needs a first line like #!"
    except subprocess.SubprocessError:
        problem = "this machine does not allow it to be put on idle priority; see `chrt -i 0`"
    raise CommandError(f"{name!r}: {problem}") from None


def _shown(code: int) -> int:
    return code if code >= 0 else _ENDED_BY_SIGNAL - code


def _name(number: int) -> str:
    return signal.Signals(number).name
