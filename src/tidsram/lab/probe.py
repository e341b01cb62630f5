"""Measure the round trips from this machine to the nodes of other sites, over one open connection.

What is asked is the smallest page there is. A round trip that light could not make is no
measurement but a mistake in the estate, and is refused.
"""

import re
import socket
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from tidsram import clock
from tidsram.errors import EstateError, TidsramError
from tidsram.estate.distance import floor_ns
from tidsram.estate.placement import pick_site
from tidsram.estate.types import Estate, Site
from tidsram.estate.values import show_key
from tidsram.lab.facts import LinkProbe
from tidsram.units import MS, show_ns

_SPACING_NS: Final = 10 * MS
_DROPPED: Final = 5  # the first ones open the way: address resolution, caches, routes
_PATIENCE_S: Final = 5.0
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
_ANSWER_MAX: Final = 4096
_ANSWER: Final = re.compile(
    rb"HTTP/1\.1 200 .*?\r\ncontent-length: *(\d{1,4})\r\n(?:.*?\r\n)?\r\n",
    re.DOTALL | re.IGNORECASE,
)

Tell = Callable[[int], None]


class NotReached(TidsramError):
    """A site's node did not answer, or not as a node does; the sentence says what to do."""

    code = "not-reached"


class Far(Struct, frozen=True, kw_only=True):
    """A site to be probed; `floor_ns` is what light needs, where both places are known."""

    here: Site
    there: Site
    floor_ns: int | None


def pick_here(estate: Estate, name: str | None) -> Site:
    """Return the site at which this machine stands; without a name the only one there is."""
    if name is None and len(estate.sites) > 1:
        raise EstateError(
            f"estate {estate.name}",
            f"declares {len(estate.sites)} sites; say at which of them this machine stands with "
            f"--from: {', '.join(estate.sites)}",
        )
    return pick_site(estate, name)


def joined_to(estate: Estate, here: Site) -> list[Far]:
    """Return the sites that a link joins to `here`; there is at least one."""
    ends = [{link.a, link.b} for link in estate.links]
    others = [name for name in estate.sites if {here.name, name} in ends and name != here.name]
    if not others:
        raise EstateError(
            f"[site.{show_key(here.name)}]",
            f"is joined to no other site; add [link.{show_key(here.name)}.OTHER] for each that is",
        )
    return [
        Far(here=here, there=there, floor_ns=light_ns(here, there))
        for there in (estate.sites[name] for name in others)
    ]


def light_ns(a: Site, b: Site) -> int | None:
    """Return the round trip that fibre along the great circle would take; None: place unknown."""
    return floor_ns(a.location, b.location) if a.location and b.location else None


def probe(far: Far, count: int, tell: Tell) -> LinkProbe:
    """Measure `count` round trips to a site; `tell` hears how many there are so far.

    Raises NotReached where nobody answers, and EstateError where it cannot have been that site.
    """
    address = _address(far)
    try:
        rtt_ns = _round_trips(address, count, tell)
    except (OSError, UnicodeError) as error:  # a name that no host can have is a UnicodeError
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise NotReached(
            f"site {far.there.name}: no node answers at {far.there.http} ({why}); start one there "
            f"with `tidsram serve --site {far.there.name}`, open its port to this machine, or "
            f"correct its http"
        ) from None
    _check_light(far, min(rtt_ns))
    a, b = sorted((far.here.name, far.there.name))
    return LinkProbe(a=a, b=b, date=clock.today()[:10], rtt_ns=tuple(rtt_ns))


def _address(far: Far) -> tuple[str, int]:
    site = far.there
    host, _, port = site.http.rpartition(":")
    if not host or port == "0":
        raise NotReached(
            f"site {site.name}: it has no address to ask at; give it a fixed one, such as "
            f'http = "10.0.0.7:8700"'
        )
    here, _, own_port = far.here.http.rpartition(":")
    # The default is such an address; other ports of this machine may be tunnels.
    if port == own_port and host in (here, *_LOOPBACK):
        raise EstateError(
            f"[site.{show_key(site.name)}]",
            f"http = {site.http} is where {far.here.name}'s own node listens; write the address "
            f"at which {site.name}'s is reached from there",
        )
    return host.strip("[]"), int(port)


def _check_light(far: Far, least_ns: int) -> None:
    if far.floor_ns is None or least_ns >= far.floor_ns:
        return
    raise EstateError(
        f"[site.{show_key(far.there.name)}]",
        f"http = {far.there.http} answered after {show_ns(least_ns)}, but from {far.here.name} "
        f"light in fibre needs {show_ns(far.floor_ns)} there and back; correct that address, "
        f"the location of one of the two sites, or --from",
    )


# The wire


def _round_trips(address: tuple[str, int], count: int, tell: Tell) -> list[int]:
    question = f"GET /v2/health/live HTTP/1.1\r\nHost: {address[0]}\r\n\r\n".encode("latin-1")
    with socket.create_connection(address, _PATIENCE_S) as connected:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(_DROPPED):
            _round_trip(connected, question)
        rtt_ns = []
        for done in range(1, count + 1):
            clock.sleep_ns(_SPACING_NS)
            rtt_ns.append(_round_trip(connected, question))
            tell(done)
    return rtt_ns


def _round_trip(connected: socket.socket, question: bytes) -> int:
    """Ask once. The time ends with the answer's first bytes; then the rest of it is read."""
    asked_ns = clock.now_ns()
    connected.sendall(question)
    answer = _receive(connected)
    took_ns = clock.now_ns() - asked_ns
    while not (whole := _ANSWER.match(answer)) or len(answer) < whole.end() + int(whole[1]):
        if len(answer) > _ANSWER_MAX:
            raise ConnectionAbortedError("what it says is not what a node says")
        answer += _receive(connected)
    return took_ns


def _receive(connected: socket.socket) -> bytes:
    received = connected.recv(_ANSWER_MAX)
    if not received:
        raise ConnectionResetError("it hung up")
    return received
