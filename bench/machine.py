"""What the machine is and what it did meanwhile: facts, stolen time, the asker's own place."""

import gc
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Core 0 holds the asker, the operating system and the gate; core 1 is the lane.
ASKER_CORE = 0
LANE_CORE = 1
QUIET = 0.02  # busy share before a run, beyond which its tails are somebody else's


def facts() -> dict[str, str]:
    """Describe this machine and the software that a figure depends on."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    versions = {name: _version(name) for name in ("onnxruntime", "numpy", "tidsram")}
    return {
        "cpu": f"{cpu}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "python": platform.python_version(),
        **versions,
    }


@contextmanager
def settled(core: int, *, punctual: bool = False) -> Iterator[None]:
    """Hold this process on `core` with precise timers and no garbage collection meanwhile.

    A punctual asker goes before all normal work of its core: it stands for another machine, whose
    questions come when they come, and needs a few percent. Start servers outside: a child would
    inherit all this.
    """
    cores = os.sched_getaffinity(0)
    slack = Path("/proc/self/timerslack_ns")
    slack_ns = slack.read_text()
    os.sched_setaffinity(0, {core})
    slack.write_text("1")
    if punctual:
        _set_class(os.SCHED_FIFO, 1)
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        _set_class(os.SCHED_OTHER, 0)
        slack.write_text(slack_ns)
        os.sched_setaffinity(0, cores)


def _set_class(policy: int, priority: int) -> None:
    try:
        os.sched_setscheduler(0, policy, os.sched_param(priority))
    except PermissionError:
        print("without CAP_SYS_NICE the asker is late when its core is busy", file=sys.stderr)


class Watch:
    """The shares of stolen and busy machine time, and this process's CPU use, since it began."""

    def __init__(self) -> None:
        self._stat = _stat()
        self._cpu_s, self._wall_s = time.process_time(), time.monotonic()

    def shares(self) -> dict[str, float]:
        """Return shares since the start: of all cores, and of one core for the asker."""
        ticks = [after - before for before, after in zip(self._stat, _stat(), strict=True)]
        total = max(1, sum(ticks))
        wall_s = max(1e-9, time.monotonic() - self._wall_s)
        return {
            "steal": ticks[7] / total,
            "busy": 1 - (ticks[3] + ticks[4]) / total,
            "asker_cpu": (time.process_time() - self._cpu_s) / wall_s,
        }


def others_busy() -> float:
    """Return the busy share of the machine over two seconds in which we do nothing."""
    watch = Watch()
    time.sleep(2)
    busy = watch.shares()["busy"]
    if busy > QUIET:
        print(f"others keep this machine {busy:.0%} busy: expect poor tails", file=sys.stderr)
    return busy


def most_files() -> None:
    """Allow as many open sockets as the hard limit does."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _stat() -> list[int]:
    # user nice system idle iowait irq softirq steal; guest time is already within user.
    return [int(ticks) for ticks in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
