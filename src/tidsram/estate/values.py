"""Read one TOML value: each reader returns ours, or says what is wrong and what is allowed.

The text of a WrongValue starts with the value as TOML writes it, so that `key = text` is a
sentence. Nothing here knows a file or a table.
"""

import difflib
import json
import re
from collections.abc import Callable, Collection, Sequence, Set
from typing import Any, TypeVar

import msgspec

from tidsram import units
from tidsram.estate.types import Delay

VERSION = "0.1.0"  # the package's own; a test holds the two together
LATER = (
    f"is in tidsram's design, but version {VERSION} does not honour it yet; take it out "
    "(a promise that would not be kept is refused, never ignored)"
)
MAX_DURATION_NS = 3600 * units.SECOND
MAX_RATE = 1e6
MAX_NUMBER = 1e15
MAX_GROWTH = 1000.0
MAX_LEAD_WEEKS = 520
MAX_LISTED = 10_000
MAX_ACTION_BYTES = 4096  # a safe action rides on every rejection, which leaves within 1 ms
_SHOWN = 60
_NAMED = 64  # the longest name
_SHOWN_DEPTH = 3
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
_QUARTER = re.compile(r"(20[0-9]{2})-Q([1-4])")
_NEAR_QUARTER = re.compile(r"(20[0-9]{2})[ _/.-]*[A-Za-z]?([1-4])")
_DELAY = '{ p50 = "9 ms", p99_9 = "13 ms" }'

T = TypeVar("T")
Reader = Callable[[object], T]


class WrongValue(ValueError):
    """A value that is not allowed where it stands."""


def text(value: object) -> str:
    """Read a string that can be a path or a label: not empty, no control characters."""
    if not isinstance(value, str):
        raise WrongValue(f'{show(value)} is not a string; write it in quotes, "like this"')
    if not value.strip() or not value.isprintable():
        raise WrongValue(f"{show(value)} is empty or holds unprintable characters; write a text")
    return value


def name(value: object) -> str:
    """Read a name: 1 to 64 letters, digits, "_", "." and "-", the first a letter or digit."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        near = valid_name(text(value))
        raise WrongValue(
            f'{show(value)} is not a name: use at most 64 letters, digits, "_", "." and "-", '
            "beginning with a letter or digit" + (f'; did you mean "{near}"?' if near else "")
        )
    return value


def duration(value: object) -> int:
    """Read a duration such as "100 ms", at most an hour, as nanoseconds."""
    if bare := _bare_number(value):
        raise WrongValue(f'{show(value)} has no unit; did you mean "{bare} ms"?')
    written = _plain_text(value, 'a duration; write one like "100 ms"')
    ns = units.parse_duration(written)
    if ns > MAX_DURATION_NS:
        raise WrongValue(f'{show(value)} is more than an hour; allowed is at most "1 h"')
    return ns


def delay(value: object) -> Delay:
    """Read a distribution of times by two quantiles: { p50 = "9 ms", p99_9 = "13 ms" }."""
    times = table_of(choice("p50", "p99_9"), duration, _DELAY)(value)
    if len(times) < 2:
        raise WrongValue(f"{show(value)} lacks one of its two quantiles; write one like {_DELAY}")
    if times["p99_9"] < times["p50"]:
        raise WrongValue(
            f"{show(value)} has its p99_9 below its p50; 999 of 1000 take at most the one, half "
            "of all at most the other"
        )
    return Delay(p50_ns=times["p50"], p99_9_ns=times["p99_9"])


def weeks(value: object) -> int:
    """Read a lead time such as "12 weeks" or "10 days", rounded up to weeks."""
    if bare := _bare_number(value):
        raise WrongValue(f'{show(value)} has no unit; did you mean "{bare} weeks"?')
    found = units.parse_weeks(_plain_text(value, 'a lead time; write one like "12 weeks"'))
    if found > MAX_LEAD_WEEKS:
        raise WrongValue(f'{show(value)} is more than ten years; at most "{MAX_LEAD_WEEKS} weeks"')
    return found


def quarter(value: object) -> str:
    """Read a quarter such as "2027-Q1"."""
    written = text(value)
    if not _QUARTER.fullmatch(written):
        near = _NEAR_QUARTER.fullmatch(written)
        advice = f'; did you mean "{near[1]}-Q{near[2]}"?' if near else ""
        raise WrongValue(f'{show(value)} is not a quarter such as "2027-Q1"{advice}')
    return written


def rate(value: object) -> float:
    """Read a rate such as "10/s", at most a million a second, as events per second."""
    if bare := _bare_number(value):
        raise WrongValue(f'{show(value)} has no unit; did you mean "{bare}/s"?')
    written = _plain_text(value, 'a rate; write one like "10/s"')
    per_second = units.parse_rate(written)
    if per_second > MAX_RATE:
        raise WrongValue(f'{show(value)} is more than any node answers; at most "1000000/s"')
    return per_second


def memory(value: object) -> int:
    """Read an amount of memory such as "8 GiB", as bytes; never none at all."""
    if bare := _bare_number(value):
        raise WrongValue(f'{show(value)} has no unit; did you mean "{bare} GiB"?')
    written = _plain_text(value, 'a size; write one like "8 GiB"')
    size_bytes = units.parse_size(written)
    if size_bytes < 1:
        raise WrongValue(f'{show(value)} is no memory at all; write a size like "8 GiB"')
    return size_bytes


def number(value: object) -> float:
    """Read a finite number."""
    if isinstance(value, str):
        raise WrongValue(f"{show(value)} is a string; write the number without quotes")
    # Written so that NaN fails it, and an integer too large for a float does not raise.
    if type(value) not in (int, float) or not -MAX_NUMBER <= value <= MAX_NUMBER:  # type: ignore[operator]
        raise WrongValue(f"{show(value)} is not a finite number")
    return float(value)  # type: ignore[arg-type]


def share(value: object) -> float:
    """Read a share between 0 and 1, both excluded."""
    found = number(value)
    if not 0 < found < 1:
        near = f"; did you mean {found / 100:.6g}?" if 1 < found < 100 else ""
        raise WrongValue(f"{show(value)} is not a share above 0 and below 1, such as 0.99{near}")
    return found


def score(value: object) -> float:
    """Read a score from 0 to 1."""
    found = number(value)
    if not 0 <= found <= 1:
        raise WrongValue(f"{show(value)} is not a score from 0 to 1")
    return found


def divisor(value: object) -> float:
    """Read a number above zero."""
    found = number(value)
    if found <= 0:
        raise WrongValue(f"{show(value)} is not above zero")
    return found


def cost(value: object) -> float:
    """Read a cost: zero or more."""
    found = number(value)
    if found < 0:
        raise WrongValue(f"{show(value)} is below zero; a cost is zero or more")
    return found


def growth(value: object) -> float:
    """Read how many times today's questions come: above zero, at most a thousand."""
    found = number(value)
    if not 0 < found <= MAX_GROWTH:
        raise WrongValue(
            f"{show(value)} is not a factor above 0 and at most {MAX_GROWTH:.0f}; 1.5 is half as "
            "much again as today"
        )
    return found


def flag(value: object) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise WrongValue(f"{show(value)} is neither true nor false")
    return value


def location(value: object) -> tuple[float, float]:
    """Read a latitude and a longitude in degrees."""
    found = list_of(number, most=_SHOWN)(value)
    if len(found) != 2:
        raise WrongValue(f"{show(value)} is not a latitude and a longitude, as [60.67, 17.14]")
    latitude, longitude = found
    if abs(latitude) > 90 or abs(longitude) > 180:
        swapped = abs(latitude) <= 180 and abs(longitude) <= 90
        raise WrongValue(
            f"{show(value)} is nowhere: latitude comes first, from -90 to 90, then longitude, from "
            "-180 to 180" + (f"; did you mean {show([longitude, latitude])}?" if swapped else "")
        )
    return latitude, longitude


def variation(value: object) -> float:
    """Read a coefficient of variation: from 0.01, all but regular, to 100."""
    found = number(value)
    if not 0.01 <= found <= 100:
        raise WrongValue(f"{show(value)} is not a coefficient of variation from 0.01 to 100")
    return found


def address(value: object) -> str:
    """Read host:port for listening; empty: not opened."""
    if value == "":
        return ""
    written = text(value)
    host, _, port = written.rpartition(":")
    if not re.fullmatch(r"[^\s/]+", host) or not re.fullmatch(r"[0-9]{1,5}", port):
        raise WrongValue(f'{show(value)} is not host:port; write one like "127.0.0.1:8700"')
    if int(port) > 65535:
        raise WrongValue(f"{show(value)} names port {port}; the highest is 65535")
    return written


def action(value: object) -> dict[str, Any]:
    """Read a safe action: a table that JSON can carry, at most 4 KiB of it."""
    if not isinstance(value, dict):
        raise WrongValue(f"{show(value)} is not a table; write one like {{ brake = true }}")
    if not _is_json(value, depth=8):
        raise WrongValue(f"{show(value)} holds a date, a non-finite number or deep nesting")
    size = len(msgspec.json.encode(value))
    if size > MAX_ACTION_BYTES:
        raise WrongValue(f"{show(value)} takes {size} bytes; at most {MAX_ACTION_BYTES} as JSON")
    return value


def whole(low: int, high: int) -> Reader[int]:
    """Return a reader of whole numbers from `low` to `high`."""

    def read(value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            raise WrongValue(f"{show(value)} is not a whole number from {low} to {high}")
        return value

    return read


def list_of(read_item: Reader[T], *, most: int, least: int = 1) -> Reader[tuple[T, ...]]:
    """Return a reader of lists with `least` to `most` items."""

    def read(value: object) -> tuple[T, ...]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise WrongValue(f"{show(value)} is not a list of {least} to {most} items")
        try:
            return tuple(read_item(item) for item in value)
        except ValueError as error:
            raise WrongValue(f"{show(value)} holds a wrong item: {error}") from None

    return read


def set_of(read_item: Reader[T], *, most: int, least: int = 1) -> Reader[tuple[T, ...]]:
    """Return a reader of lists in which no word comes twice."""
    listed = list_of(read_item, most=most, least=least)

    def read(value: object) -> tuple[T, ...]:
        seen: set[T] = set()
        for word in (found := listed(value)):
            if word in seen:
                raise WrongValue(f"{show(value)} names {show(word)} twice; name it once")
            seen.add(word)
        return found

    return read


def table_of(read_key: Reader[str], read_value: Reader[T], example: str) -> Reader[dict[str, T]]:
    """Return a reader of tables whose keys are data, written like `example`."""

    def read(value: object) -> dict[str, T]:
        if not isinstance(value, dict):
            raise WrongValue(f"{show(value)} is not a table; write one like {example}")
        found: dict[str, T] = {}
        for key, inner in value.items():
            try:
                read_key(key)
            except ValueError as error:
                raise WrongValue(f"{show(value)} has a wrong key: {error}") from None
            try:
                found[key] = read_value(inner)
            except ValueError as error:
                raise WrongValue(f"{show(value)} is wrong at {show_key(key)}: {error}") from None
        return found

    return read


def declared(group: str, known: Collection[str]) -> Reader[str]:
    """Return a reader of names that the file declares as [group.NAME]."""

    def read(value: object) -> str:
        found = name(value)
        if found not in known:
            near = nearest(found, list(known)) or f"; add [{group}.{found}], or take it out"
            raise WrongValue(f"{show(value)} is not declared in this file{near}")
        return found

    return read


def jurisdictions(present: Set[str]) -> Reader[tuple[str, ...]]:
    """Return a reader of jurisdictions; a site must be in one of them, of those `present`."""
    listed = set_of(name, most=64)

    def read(value: object) -> tuple[str, ...]:
        found = listed(value)
        if present.isdisjoint(found):
            known = sorted(present - {""})
            advice = nearest(found[0], known) or f"; sites are in {', '.join(known[:8])}"
            if not known:
                advice = f'; no site names its own, add a line such as jurisdiction = "{found[0]}"'
            raise WrongValue(f"{show(value)} leaves no site of this file{advice}")
        return found

    return read


def size(value: object) -> tuple[int, int]:
    """Read the width and height of an image."""
    found = list_of(whole(1, 16384), most=16)(value)
    if len(found) != 2:
        raise WrongValue(f"{show(value)} is not a width and a height, such as [320, 320]")
    return found[0], found[1]


def shapes(value: object) -> dict[str, tuple[int, ...]]:
    """Read the fixed shapes of a model's inputs, by the input's name."""
    dimensions = list_of(whole(1, 2**31 - 1), most=16)
    return table_of(text, dimensions, "{ input = [1, 3, 8, 8] }")(value)


def choice(*allowed: str, later: Sequence[str] = ()) -> Reader[Any]:
    """Return a reader of one of some words; `types` says which they are."""

    def read(value: object) -> str:
        if isinstance(value, str) and value in later:
            raise WrongValue(f"{show(value)} {LATER}")
        if not isinstance(value, str) or value not in allowed:
            words = ", ".join(f'"{word}"' for word in allowed)
            near = nearest(value, allowed) if isinstance(value, str) and len(allowed) > 1 else ""
            raise WrongValue(f"{show(value)} is not allowed here; allowed is {words}{near}")
        return value

    return read


def nearest(word: str, known: Sequence[str]) -> str:
    """Return `; did you mean "…"?` for the nearest known spelling; empty when none is near."""
    lowered = {spelling.lower(): spelling for spelling in known}
    close = difflib.get_close_matches(word[:_SHOWN].lower(), lowered, n=1)
    return f'; did you mean "{lowered[close[0]]}"?' if close else ""


def valid_name(written: str) -> str:
    """Return the nearest name usable in a URL path and as a metric label; empty when none is."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", written).strip("_.-")[:64]


def show(value: object) -> str:
    """Show a value as TOML writes it, cut where it is long or deep."""
    shown = _toml(value, _SHOWN_DEPTH)
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 1]}…"


def show_key(key: str) -> str:
    """Show a key as TOML writes it: in quotes where it needs them, cut where it is no name."""
    return key if len(key) <= _NAMED and _BARE_KEY.fullmatch(key) else show(key)


def _toml(value: object, depth: int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=not value.isprintable())
    if isinstance(value, int):
        return str(value) if value.bit_length() < 256 else hex(value)
    if not isinstance(value, (list, dict)):
        return str(value)
    if depth == 0:
        return "…"
    if isinstance(value, list):
        return f"[{', '.join(_toml(item, depth - 1) for item in value[:_SHOWN])}]"
    pairs = [f"{show_key(key)} = {_toml(value[key], depth - 1)}" for key in list(value)[:_SHOWN]]
    return f"{{ {', '.join(pairs)} }}"


def _plain_text(value: object, wanted: str) -> str:
    """Return a string that `units` can quote in its complaint: short and printable."""
    if not isinstance(value, str) or len(value) > _SHOWN or not value.isprintable():
        raise WrongValue(f"{show(value)} is not {wanted}")
    return value


def _bare_number(value: object) -> str:
    """Return what a person wrote for a number without its unit; empty for anything else."""
    written = value.strip() if isinstance(value, str) else show(value)
    return written if _NUMBER.fullmatch(written) else ""


def _is_json(value: object, depth: int) -> bool:
    if isinstance(value, dict):
        return depth > 0 and all(_is_json(inner, depth - 1) for inner in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_is_json(inner, depth - 1) for inner in value)
    if isinstance(value, (int, float)):
        return -MAX_NUMBER <= value <= MAX_NUMBER
    return isinstance(value, str)
