"""Everything a node answers that is not a question: metadata, health, metrics."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tidsram import __version__
from tidsram.outcome import Reason
from tidsram.protocol import oip
from tidsram.schedule.scheduler import Scheduler
from tidsram.serve.http import Head
from tidsram.serve.metrics import Metrics, Service
from tidsram.serve.sentences import not_ready
from tidsram.units import SECOND

if TYPE_CHECKING:
    from tidsram.serve.gate import Served

JSON = b"application/json"
Page = tuple[int, bytes, bytes]  # status, body, content type


class Pages:
    """Reads what the gate knows; changes nothing."""

    def __init__(
        self,
        served: "Mapping[str, Served]",
        scheduler: Scheduler,
        metrics: Metrics,
        endpoints: tuple[str, ...],
    ) -> None:
        self._served, self._scheduler = served, scheduler
        self._metrics, self._endpoints = metrics, endpoints
        self.draining = False

    def page(self, head: Head) -> Page:
        """Return the page that the head asks for."""
        if head.method == "POST":
            known = self._model_page(head.path)[0] != 404
            return (405 if known else 404), self._unknown(head.path), JSON
        if head.method not in ("GET", "HEAD"):
            told = oip.encode_error(Reason.INVALID, f"{head.method} is not served here; GET is", {})
            return 405, told, JSON
        if head.path == "/metrics":
            return 200, self._render(), b"text/plain; version=0.0.4"
        if head.path in ("/v2", "/v2/"):
            return 200, oip.server_metadata(__version__), JSON
        if head.path == "/v2/health/live":
            return 200, b'{"live":true}', JSON
        if head.path == "/v2/health/ready":
            return self._health()
        return self._model_page(head.path)

    def _render(self) -> bytes:
        variants = {name: served.variants for name, served in self._served.items()}
        service = [
            Service(
                f'decision="{name}",lane="{lane}",variant="{variants[name][rung]}"',
                estimate.upper_ns / SECOND,
                estimate.steps,
            )
            for (name, lane, rung), estimate in self._scheduler.estimates.items()
            if rung < len(variants.get(name, ()))  # not of a trial, nor of a version that goes
        ]
        return self._metrics.render(self._taken(), variants, service)

    def _taken(self) -> dict[str, int]:
        return {
            name: served.slots.taken if served.slots is not None else 0
            for name, served in self._served.items()
        }

    def _health(self) -> Page:
        states = {}
        for name, served in self._served.items():
            workers = [{"lane": link.lane, "pid": link.pid} for link in served.links.values()]
            states[name] = {"ready": self._scheduler.is_ready(name), "workers": workers}
        ready = not self.draining and all(state["ready"] for state in states.values())
        told = {
            "live": True,
            "ready": ready,
            "draining": self.draining,
            "gate": os.getpid(),
            "endpoints": self._endpoints,
            "decisions": states,
        }
        return (200 if ready else 503), oip.encode(told), JSON

    def _model_page(self, path: str) -> Page:
        for page in ("", "config", "ready"):
            served = self._served.get(model_of(path, page))
            if served is None:
                continue
            ready = self._scheduler.is_ready(served.name)
            if page == "ready":
                told = oip.encode({"name": served.name, "ready": ready})
                return (200 if ready else 503), told, JSON
            if served.spec is None:
                return 503, oip.encode_error(Reason.NOT_READY, not_ready(served.name), {}), JSON
            encode = oip.model_config if page == "config" else oip.model_metadata
            return 200, encode(served.name, served.spec), JSON
        return 404, self._unknown(path), JSON

    def _unknown(self, path: str) -> bytes:
        known = ", ".join(self._served)
        sentence = f"nothing is served at {path[:200]!r} this way; decisions here: {known}"
        return oip.encode_error(Reason.UNKNOWN_DECISION, sentence, {})


def model_of(path: str, page: str) -> str:
    """Return the model that `/v2/models/M[/versions/1][/page]` names, else ""."""
    prefix, suffix = "/v2/models/", f"/{page}" if page else ""
    if not path.startswith(prefix) or not path.endswith(suffix):
        return ""
    middle = path[len(prefix) : len(path) - len(suffix)]
    return middle.removesuffix("/versions/" + oip.VERSION)
