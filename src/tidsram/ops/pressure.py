"""Whether decisions are under pressure: what a node counts, and what memory the machine has left.

Reads only. Who is paused for it, `background` decides.
"""

import contextlib
import http.client
import re
import socket
import threading
from collections import Counter, deque
from pathlib import Path
from typing import Final, NoReturn

from tidsram import clock
from tidsram.client.address import parse_url
from tidsram.units import MS, SECOND, show_size

_LOOK_NS: Final = 100 * MS
_SEEK_NS: Final = SECOND
_TIMEOUT_S: Final = 1.0
_BODY_MAX: Final = 8 * 1024 * 1024
_QUIET_NS: Final = SECOND
_SCARCE: Final = 10  # memory is scarce when less than total ÷ this is available
_WORDS: Final = {
    "deadline": "missed",
    "overload": "rejected for overload",
    "evicted": "evicted",
    "worker-lost": "worker lost",
}
_REQUESTS: Final = re.compile(
    r'^tidsram_requests_total\{decision="([^"]*)",outcome="[^"]*",reason="([^"]*)"\} (\d+)',
    re.MULTILINE,
)

Counts = dict[tuple[str, str], int]  # (decision, reason) → requests since the node's start


class Brake:
    """Pause at once under pressure; go on after a second without."""

    def __init__(self) -> None:
        self.pauses = 0
        self.paused_ns = 0
        self.paused_at_ns: int | None = None
        self._pressed_ns = 0

    def press(self, now_ns: int) -> bool:
        """Take note of pressure; True when that begins a pause."""
        self._pressed_ns = now_ns
        if self.paused_at_ns is not None:
            return False
        self.paused_at_ns = now_ns
        self.pauses += 1
        return True

    def release(self, now_ns: int, *, at_once: bool = False) -> int:
        """Return how long the pause was, if it ends now; else 0."""
        if self.paused_at_ns is None:
            return 0
        if now_ns - self._pressed_ns < _QUIET_NS and not at_once:
            return 0
        lasted_ns = now_ns - self.paused_at_ns
        self.paused_ns += lasted_ns
        self.paused_at_ns = None
        return lasted_ns


class NodeWatch(threading.Thread):
    """Reads a node's counters ten times a second over one connection, in its own thread.

    Whatever listens there may be slow or odd: nobody waits for it. Decisions in `spared` may be in
    any trouble: best-effort ones.
    """

    def __init__(self, url: str, spared: frozenset[str]) -> None:
        super().__init__(daemon=True, name="node-watch")
        self._url, self._spared = url, spared
        self._connection = _connection(url)
        self._grown: deque[Counter[tuple[str, str]]] = deque(maxlen=100)
        self._news: deque[str] = deque(maxlen=100)

    def trouble(self) -> str:
        """Return in words what has grown since the last call; "" where nothing has."""
        grown: Counter[tuple[str, str]] = Counter()
        while self._grown:
            grown += self._grown.popleft()
        return ", ".join(f"{name} {_WORDS[why]} {many}" for (name, why), many in grown.items())

    def news(self) -> str:
        """Return whether the node is there, where that has changed since the last call; else ""."""
        return self._news.popleft() if self._news else ""

    def run(self) -> NoReturn:
        """Look for ever."""
        before: Counts | None = None
        told: bool | None = None
        while True:
            looked_ns = clock.now_ns()
            try:
                counts = self._read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                before, reachable, problem = None, False, str(error) or type(error).__name__
            else:
                if grown := growth(before or counts, counts, self._spared):
                    self._grown.append(grown)
                before, reachable, problem = counts, True, ""
            if reachable is not told:
                self._news.append(_reach(self._url, problem))
                told = reachable
            clock.sleep_until_ns(looked_ns + (_LOOK_NS if reachable else _SEEK_NS))

    def _read(self) -> Counts:
        self._connection.request("GET", "/metrics")
        with contextlib.closing(self._connection.getresponse()) as response:
            text = response.read(_BODY_MAX).decode("utf-8", "replace")
            if response.status != 200 or not (counts := read_counts(text)):
                raise http.client.HTTPException("what answers there is no node")
            if response.read(1):
                raise http.client.HTTPException("its metrics have no end")
        return counts


def read_counts(text: str) -> Counts:
    """Return the requests by decision and reason from Prometheus' text."""
    return {(name, why): int(many) for name, why, many in _REQUESTS.findall(text)}


def growth(before: Counts, now: Counts, spared: frozenset[str]) -> Counter[tuple[str, str]]:
    """Return by how much the troubles of decisions that count have grown."""
    # A counter that fell belongs to a node that began anew: there is nothing to compare it with.
    return Counter(
        {
            key: many - before[key]
            for key, many in now.items()
            if key[1] in _WORDS and key[0] not in spared and many > before.get(key, many)
        }
    )


def machine_memory() -> tuple[int, int]:
    """Return the machine's memory in bytes: all of it, and what is available without swapping."""
    text = Path("/proc/meminfo").read_text()
    total, available = (
        int(re.findall(rf"^{name}: +(\d+) kB$", text, re.MULTILINE)[0]) * 1024
        for name in ("MemTotal", "MemAvailable")
    )
    return total, available


def scarcity(total: int, available: int) -> str:
    """Return in words that memory is scarce; "" where it is not."""
    if available * _SCARCE >= total:
        return ""
    return f"{show_size(available)} of {show_size(total)} of memory available"


def _reach(url: str, problem: str) -> str:
    if not problem:
        return f"watching the node at {url}"
    return (
        f"no node to watch at {url} ({problem}); the command runs on idle priority only, "
        "and the node is looked for once a second"
    )


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._path)


def _connection(url: str) -> http.client.HTTPConnection:
    address = parse_url(url)
    if isinstance(address, str):
        return _UnixConnection(address, _TIMEOUT_S)
    return http.client.HTTPConnection(*address, timeout=_TIMEOUT_S)
