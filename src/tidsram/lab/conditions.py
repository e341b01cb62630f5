"""Say under which conditions something was measured: a time means little without them."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tidsram.estate.placement import show_cores
from tidsram.estate.types import Lane
from tidsram.serve import usage

_STEAL_SAID: Final = 0.005
# Of the processor's features those that decide how a network is computed.
_FEATURES: Final = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)
_PACKAGES: Final = ("tidsram", "onnxruntime", "openvino", "numpy")
_GOVERNOR: Final = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def conditions(cores: Sequence[int], lane: Lane, stolen: float) -> str:
    """Say on what was measured; `stolen` is the share of the lane's time that others had."""
    words = [
        processor(),
        f"{len(cores)} core{'s' if len(cores) > 1 else ''}",
        f"{platform.system()} {platform.release()}",
        f"lane on {show_cores(lane.cores)}",
    ]
    if stolen > _STEAL_SAID:
        words.append(f"{stolen:.1%} of the lane's time stolen by other machines of its host")
    return ", ".join(words)


def circumstances(lane: Lane, stolen: float) -> dict[str, str]:
    """Return the same in full, by name, as a bundle's profile keeps it."""
    return {
        "processor": processor(),
        "features": " ".join(_features()) or "none known",
        "cores": str(os.cpu_count()),
        "lane": show_cores(lane.cores),
        "kernel": f"{platform.system()} {platform.release()}",
        "governor": _governor(),
        "steal": f"{stolen:.2%} of the lane's time",
        **versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of what computes, where it is installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Name this machine's processor as the kernel does; its architecture where it does not."""
    return _cpuinfo("model name") or platform.machine()


def stolen_share(before: dict[int, usage.Stolen], after: dict[int, usage.Stolen]) -> float:
    """Return which share of some cores' time the hypervisor gave to others meanwhile."""
    steal_ns = sum(max(0, after[core].steal_ns - before[core].steal_ns) for core in before)
    total_ns = sum(after[core].total_ns - before[core].total_ns for core in before)
    return steal_ns / total_ns if total_ns > 0 else 0.0


def _features() -> list[str]:
    have = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return [feature for feature in _FEATURES if feature in have]


def _cpuinfo(field: str) -> str:
    """Return a field of the first processor; empty where the kernel does not tell it."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    except OSError:
        pass
    return ""


def _governor() -> str:
    try:
        return _GOVERNOR.read_text("utf-8").strip()
    except OSError:
        return "not told by this machine"
