"""What processes and the machine use, as the kernel counts it: memory, page faults, stolen time.

Reads only. A process that has ended has used nothing.
"""

import os
import re
import resource
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from tidsram.units import SECOND

_PAGE: Final = resource.getpagesize()
_TICK_NS: Final = SECOND // os.sysconf("SC_CLK_TCK")
_AVAILABLE: Final = re.compile(r"^MemAvailable: +(\d+) kB$", re.MULTILINE)
_STEAL: Final = 7  # the place in a line of /proc/stat, after user, nice, system, idle, …


class Faults(NamedTuple):
    """Page faults: minor ones found the page in memory, major ones waited for a disk."""

    minor: int
    major: int


class Stolen(NamedTuple):
    """What the hypervisor gave others of one core's time, and the core's time in all."""

    steal_ns: int
    total_ns: int


def resident_bytes(pid: int) -> int:
    """Return the memory a process has, shared pages included."""
    try:
        return int(_read(f"/proc/{pid}/statm").split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def available_bytes() -> int:
    """Return what can still be had of the machine's memory, and of the control group's."""
    (available,) = _AVAILABLE.findall(_read("/proc/meminfo"))
    return min([int(available) * 1024, *_left_in_groups()])


def _left_in_groups() -> Iterable[int]:
    """Yield what is left below each limit that a control group above this process has."""
    try:
        path = _read("/proc/self/cgroup").rpartition("0::/")[2].strip()
    except OSError:
        return
    root = Path("/sys/fs/cgroup")
    group = root / path
    while group.is_relative_to(root):
        try:
            limit = (group / "memory.max").read_text().strip()
            used = (group / "memory.current").read_text()
            if limit != "max":
                yield int(limit) - int(used)
        except OSError:
            pass
        group = group.parent


def faults(pid: int) -> Faults:
    """Return a process's page faults since it was started."""
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return Faults(int(fields[7]), int(fields[9]))
    except (OSError, IndexError):
        return Faults(0, 0)


def stolen(cores: Iterable[int]) -> dict[int, Stolen]:
    """Return the time stolen from each core since the machine was started."""
    return parse_stolen(_read("/proc/stat"), cores)


def parse_stolen(stat: str, cores: Iterable[int]) -> dict[int, Stolen]:
    """Read what `stolen` returns from the text of /proc/stat."""
    found = {}
    lines = {line.split()[0]: line.split()[1:] for line in stat.splitlines() if line}
    for core in cores:
        ticks = [int(field) for field in lines.get(f"cpu{core}", ())[: _STEAL + 1]]
        if len(ticks) > _STEAL:
            found[core] = Stolen(ticks[_STEAL] * _TICK_NS, sum(ticks) * _TICK_NS)
    return found


def _read(path: str) -> str:
    with open(path) as file:  # noqa: PTH123 - each second, no path object
        return file.read()
