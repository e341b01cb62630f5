"""Where a node is: from what a person or an estate says to something one can connect to."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from tidsram.errors import QuestionError
from tidsram.estate.types import Estate

DEFAULT_URL = "http://127.0.0.1:8700"


def parse_url(url: str) -> tuple[str, int] | str:
    """Return host and port of "http://host:port", or the path of "unix:/path"."""
    if url.startswith("unix:") and len(url) > len("unix:"):
        return url.removeprefix("unix:")
    try:
        split = urlsplit(url)
        if split.scheme == "http" and split.hostname:
            return split.hostname, split.port or 80
    except ValueError:  # a port that is no number
        pass
    raise QuestionError(f"{url!r} is no address of a node; write http://host:port or unix:/path")


def node_url(
    given: str | None,
    estate: Estate | None,
    folder: Path,
    is_socket: Callable[[Path], bool] = Path.is_socket,
) -> str:
    """Return the URL of the node to ask: the given one, else a site's of the estate in `folder`."""
    if given is not None:
        # A plain path is a Unix socket's; anything with a scheme is checked when it is used.
        return given if ":" in given else f"unix:{given}"
    sites = list(estate.sites.values()) if estate else []
    sockets = [folder / site.unix for site in sites if site.unix]
    opened = [f"unix:{path}" for path in sockets if is_socket(path)]
    # A site that takes any port can be found by its socket only.
    ports = [f"http://{site.http}" for site in sites if site.http and not site.http.endswith(":0")]
    closed = [f"unix:{path}" for path in sockets]
    return next(iter(opened + ports + closed), DEFAULT_URL)
