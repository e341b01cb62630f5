"""Nanoseconds in code, "20 ms" at the edge. Raises ValueError only; `estate` says where."""

import math
import re

US = 1_000
MS = 1_000_000
SECOND = 1_000_000_000

# Both signs for micro are in use: U+00B5 on keyboards, U+03BC in Unicode's own normal form.
_TIME = {"ns": 1, "us": US, "µs": US, "μs": US, "ms": MS, "s": SECOND}
_TIME |= {"min": 60 * SECOND, "h": 3600 * SECOND}
_PER = {"s": 1.0, "min": 1 / 60, "h": 1 / 3600}
_DAYS = {"days": 1, "weeks": 7, "day": 1, "week": 7}
_SIZE = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
# At most 15 digits: no time or size of ours needs more, and a float holds them exactly.
_NUMBER_AND_UNIT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([A-Za-zµμ]+)")
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,15})?")


def parse_duration(text: str) -> int:
    """Return the nanoseconds in `text`, such as "20 ms" or "1.5s"; always at least one."""
    number, unit = _split(text, _TIME, 'a duration like "20 ms"')
    ns = round(number * _TIME[unit])
    if ns < 1:
        raise ValueError(f'"{text}" is no time at all; write a duration like "20 ms"')
    return ns


def parse_weeks(text: str) -> int:
    """Return the weeks in `text`, such as "12 weeks" or "10 days", rounded up."""
    number, unit = _split(text, _DAYS, 'a time like "12 weeks"')
    return math.ceil(number * _DAYS[unit] / 7)


def parse_rate(text: str) -> float:
    """Return the events per second in `text`, such as "10/s" or "6/min"; always above zero."""
    count, _, per = (part.strip() for part in text.partition("/"))
    rate = float(count) * _PER.get(per, 0.0) if _NUMBER.fullmatch(count) else 0.0
    if rate <= 0:
        raise ValueError(f'"{text}" is not a rate; write one like "10/s", "6/min" or "2/h"')
    return rate


def parse_size(text: str) -> int:
    """Return the bytes in `text`, such as "8 GiB"."""
    number, unit = _split(text, _SIZE, 'a size like "8 GiB"')
    return round(number * _SIZE[unit])


def show_ns(ns: int) -> str:
    """Show a time to three digits in the unit a person would choose: 1234567 -> "1.23 ms"."""
    size = abs(ns)
    for unit in ("s", "ms", "µs"):
        if size >= _TIME[unit] * 0.9995:
            value = ns / _TIME[unit]
            digits = max(0, 2 - int(math.log10(max(1.0, abs(value) * 1.0005))))
            shown = f"{value:.{digits}f}"
            return f"{shown.rstrip('0').rstrip('.') if '.' in shown else shown} {unit}"
    return f"{ns} ns"


def show_rate(rate: float) -> str:
    """Show events per second in the unit a person would choose: 0.1 -> "6/min"."""
    for unit in ("s", "min"):
        if rate >= _PER[unit]:
            return f"{rate / _PER[unit]:.7g}/{unit}"
    return f"{rate / _PER['h']:.7g}/h"


def show_size(size: int) -> str:
    """Show a size in bytes to three digits in binary units: 2097152 -> "2 MiB"."""
    for unit in ("GiB", "MiB", "KiB"):
        if size >= _SIZE[unit]:
            return f"{size / _SIZE[unit]:.3g} {unit}"
    return f"{size} B"


def _split(text: str, units: dict[str, int], example: str) -> tuple[float, str]:
    match = _NUMBER_AND_UNIT.fullmatch(text.strip())
    if match is None or match[2] not in units:
        known = ", ".join(unit for unit in units if unit.isascii())
        raise ValueError(f'"{text}" is not {example}; units are {known}')
    return float(match[1]), match[2]
