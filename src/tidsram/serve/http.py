"""HTTP/1.1 heads and answers. Parsing is httptools'; one head is parsed once and then recognised.

Between questions of one kind a client repeats its head byte for byte, so a connection keeps the
last one with what it means.
"""

from typing import Any

import httptools
from msgspec import Struct

from tidsram.outcome import TABLE, Reason
from tidsram.protocol.oip import RequestError, encode_error

HEAD_LIMIT = 16384


class Head(Struct, frozen=True):
    """What a request's head says. `json_bytes` is −1 where the whole body is JSON."""

    method: str
    path: str
    content_bytes: int
    json_bytes: int
    keep_alive: bool
    expect_continue: bool

    @property
    def header_bytes(self) -> int:
        """Bytes of JSON before the tensors: all of the body where the head names none."""
        return self.content_bytes if self.json_bytes < 0 else self.json_bytes


class _Collector:
    """httptools' callbacks for one head."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False
        self.method = b""
        self.keep_alive = False
        self.parser: Any = None

    def on_url(self, url: bytes) -> None:
        """Take a piece of the URL."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Take the blank line."""
        self.complete = True
        self.method = self.parser.get_method()
        # Asked later, the parser has forgotten it where no body follows.
        self.keep_alive = self.parser.should_keep_alive()


def parse_head(data: bytes) -> Head:
    """Parse a whole head, blank line included. Raises RequestError with the asker's sentence."""
    collector = _Collector()
    collector.parser = httptools.HttpRequestParser(collector)
    try:
        collector.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        raise _bad("this server does not change protocols; leave Upgrade out") from None
    except httptools.HttpParserError as error:
        raise _bad(f"this is not HTTP/1.1: {error}") from None
    finally:
        collector.parser = None  # each knows the other, and the gate collects no garbage at work
    if not collector.complete:
        raise _bad("this is not HTTP/1.1: the head does not end")
    return _read(collector)


def _read(collector: _Collector) -> Head:
    headers: dict[bytes, bytes] = {}
    for name, value in collector.headers:
        if name in _ONCE and name in headers:
            raise _bad(f"header {name.decode('latin1')!r} is given twice; give it once")
        headers[name] = value
    if b"transfer-encoding" in headers:
        raise _bad("send Content-Length: a chunked body has no length to plan for")
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise _bad("send the body uncompressed: Content-Encoding is not read")
    content_bytes = _count(headers, b"content-length", 0)
    json_bytes = _count(headers, b"inference-header-content-length", -1)
    if json_bytes > content_bytes:
        raise _bad(
            f"Inference-Header-Content-Length is {json_bytes}, but the body has {content_bytes} "
            f"bytes; it counts the JSON before the tensors"
        )
    return Head(
        method=collector.method.decode(),
        path=_path(collector.url),
        content_bytes=content_bytes,
        json_bytes=json_bytes,
        keep_alive=collector.keep_alive,
        expect_continue=headers.get(b"expect", b"").lower() == b"100-continue",
    )


def _path(url: bytes) -> str:
    if not url.startswith(b"/"):  # a whole URL, as is sent to proxies
        try:
            url = httptools.parse_url(url).path or b"/"
        except httptools.HttpParserInvalidURLError:
            raise _bad("the request names no path; begin it with /") from None
    return url.split(b"?", 1)[0].decode("latin1")


_ONCE = frozenset({b"content-length", b"inference-header-content-length", b"host"})


def _count(headers: dict[bytes, bytes], name: bytes, default: int) -> int:
    value = headers.get(name)
    if value is None:
        return default
    if not value.isdigit() or len(value) > 15:
        shown = value[:40].decode("latin1")
        raise _bad(f"header {name.decode()} is {shown!r}: give a whole number of bytes")
    return int(value)


def _bad(sentence: str) -> RequestError:
    return RequestError(Reason.INVALID, sentence)


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS = {
    200: b"200 OK",
    400: b"400 Bad Request",
    401: b"401 Unauthorized",
    403: b"403 Forbidden",
    404: b"404 Not Found",
    405: b"405 Method Not Allowed",
    413: b"413 Content Too Large",
    429: b"429 Too Many Requests",
    431: b"431 Request Header Fields Too Large",
    500: b"500 Internal Server Error",
    503: b"503 Service Unavailable",
    504: b"504 Gateway Timeout",
}


def answer_head(json: bytes, tensors: list[memoryview], *, keep_alive: bool) -> bytes:
    """Return the head of a served answer: JSON alone, or JSON with raw tensors behind it."""
    close = b"" if keep_alive else b"Connection: close\r\n"
    if not tensors:
        return (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n"
            % (close, len(json))
        )
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n%b"
        b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n"
        % (close, len(json), len(json) + sum(map(len, tensors)))
    )


def page(status: int, body: bytes, *, keep_alive: bool, kind: bytes = b"application/json") -> bytes:
    """Frame any other answer."""
    return page_head(status, body, keep_alive=keep_alive, kind=kind) + body


def page_head(status: int, body: bytes, *, keep_alive: bool, kind: bytes) -> bytes:
    """Return the head of an answer: all of it, where the asker's method was HEAD."""
    close = b"" if keep_alive else b"Connection: close\r\n"
    return b"HTTP/1.1 %b\r\nContent-Type: %b\r\n%bContent-Length: %d\r\n\r\n" % (
        _STATUS[status],
        kind,
        close,
        len(body),
    )


def refusal(
    reason: Reason, sentence: str, facts: dict[str, Any], *, keep_alive: bool, status: int = 0
) -> bytes:
    """Frame the answer to a request that is not served."""
    body = encode_error(reason, sentence, facts)
    return page(status or TABLE[reason].http, body, keep_alive=keep_alive)
