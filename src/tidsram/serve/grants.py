"""What the machine grants a node, and in words what each missing piece costs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from msgspec import Struct

from tidsram.serve import usage

_FEW_FILES: Final = 4096  # connections, and some
_STEAL_SEEN: Final = 0.001
_CPU: Final = Path("/sys/devices/system/cpu")

_NO_PRIVILEGE: Final = (
    "this user may not raise priorities (CAP_SYS_NICE): serving all the same, but a busy neighbour "
    "on the core can hold up a critical run by several milliseconds"
)
_NOT_LOCKED: Final = (
    "memory may not be locked (CAP_IPC_LOCK, or LimitMEMLOCK=infinity): when it gets short, a run "
    "can wait for the disk, tens of milliseconds each time"
)
_NO_CORE: Final = (
    "the lanes take every core, so the gate shares one with them, first in line: other programs of "
    "this machine may stand still while decisions run"
)


class Grants(Struct, frozen=True, kw_only=True):
    """What was asked for and given; `cores` are the node's."""

    scheduling: str
    privileged: bool  # to raise priorities
    locked: bool
    apart: bool  # has the gate a core that no lane has?
    files: int
    cores: tuple[int, ...]

    def told(self) -> list[str]:
        """Return one line on what is granted, and one for each missing piece and its cost."""
        pieces = (
            (self.scheduling_class, self.privileged, _NO_PRIVILEGE),
            ("locked memory", self.locked, _NOT_LOCKED),
            ("a core for the gate", self.apart, _NO_CORE),
            (f"{self.files} open files", self.files >= _FEW_FILES, _few_files(self.files)),
        )
        granted = ", ".join(name for name, given, _ in pieces if given)
        lines = [f"granted: {granted}"] if granted else []
        lines += [cost for _, given, cost in pieces if not given]
        return lines + _clocks(self.cores) + _steal(self.cores)

    @property
    def scheduling_class(self) -> str:
        """How the workers of a lane are kept apart."""
        return "nice values" if self.scheduling == "nice" else "real-time class"


def _few_files(files: int) -> str:
    return f"only {files} files may be open (ulimit -n): connections beyond that wait unanswered"


def _clocks(cores: Iterable[int]) -> list[str]:
    """Say when a frequency governor of these cores is known and not `performance`."""
    found = set()
    for core in cores:
        try:
            governor = _CPU / f"cpu{core}" / "cpufreq" / "scaling_governor"
            found.add(governor.read_text().strip())
        except OSError:
            continue
    if not found - {"performance"}:
        return []
    governors = ", ".join(sorted(found))
    return [
        f"the governor of the cores' clock is {governors}: the first run after a pause is slower"
    ]


def _steal(cores: Iterable[int]) -> list[str]:
    """Say when these cores' time was stolen since the machine started."""
    seen = usage.stolen(cores).values()
    total_ns = sum(core.total_ns for core in seen)
    share = sum(core.steal_ns for core in seen) / total_ns if total_ns else 0.0
    if share < _STEAL_SEEN:
        return []
    stolen = f"{share:.1%} of the cores' time was stolen since the machine started"
    return [f"{stolen}: other machines of its host had it, and runs are longer in bursts"]
