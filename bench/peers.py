"""The other servers that install from a package registry: MLServer, mosec, LitServe, Ray Serve.

Each serves both models, one question at a time, with what its documentation recommends for
latency. It sleeps (SIGSTOP) while others are measured: an idle Ray keeps a core busy enough to
spoil everybody's tails.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Self

import numpy as np

from bench.environments import RUNTIME, Unavailable, install
from bench.loadgen import connect, receive_reply
from bench.machine import ASKER_CORE
from bench.models import Model, session
from bench.questions import infer_request
from bench.servers import Server, free_port

ROOT = Path(__file__).parent.parent
CLONE_NEWNET = 0x40000000
END_WITHIN_S = 5
SETTLES_WITHIN_S = 5  # Ray's proxy loads anew after the last model and drops connections


class Peer(Server):
    """A server in an environment and a folder of its own."""

    kind: str
    package: str
    version: str
    beside: tuple[str, ...] = ()  # further packages that make it faster
    wires: tuple[str, ...] = ("json",)

    def __init__(self, models: Sequence[Model], cores: str = "0-1") -> None:
        super().__init__(cores)
        wanted = [f"{self.package}=={self.version}", *self.beside, RUNTIME]
        self._programs = install(self.kind, *wanted) / "bin"
        self.name = f"{self.kind}-{cores}"
        self._models = models

    def command(self) -> Sequence[str]:
        """Return the peer's module as a command, with the port and the models."""
        models = [f"{model.name}={model.path}" for model in self._models]
        return [
            *(str(self._programs / "python"), "-m", f"bench.{self.kind}_model"),
            *(str(self._port), *models),
        ]

    def environment(self) -> Mapping[str, str]:
        """Return where our modules are, and the peer's folder for all that it writes."""
        return {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.folder)}

    def prepare(self) -> None:
        """Write into the folder what the server reads at its start."""

    def clean_up(self) -> None:
        """Remove the folder."""
        shutil.rmtree(str(self.folder), ignore_errors=True)

    def connect(self) -> socket.socket:
        """Open a connection to it."""
        return connect(self.address)

    def request(self, model: Model, wire: str) -> bytes:
        """Build the whole HTTP request for `model`'s question in one of its wires."""
        if wire == "json":
            return infer_request(model, binary=False)
        return _bare_request(model)

    def check(self, model: Model, wire: str) -> None:
        """Ask once and compare with `session.run`: a fast wrong answer is no figure."""
        expected = session(model.path).run(None, {model.input_name: model.question})[0].ravel()
        reply = self._ask(model, wire)
        if reply[9:12] != b"200":
            raise SystemExit(f"{self.name} refused a question: {reply[:500]!r}")
        body = reply.partition(b"\r\n\r\n")[2]
        if wire == "json":
            answer = np.array(json.loads(body)["outputs"][0]["data"], np.float32).ravel()
        else:
            answer = np.frombuffer(body, np.float32)
        if answer.shape != expected.shape or not np.allclose(answer, expected, 1e-4, 1e-6):
            raise SystemExit(f"{self.name} answers {model.name} wrongly: {answer[:4]}")

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Wake all its processes, and put them to sleep afterwards."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def __enter__(self) -> Self:
        # Not in bench/out: Unix sockets lie in it, whose paths must be short.
        self.folder = Path(mkdtemp(prefix="bench-"))
        self.prepare()
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._signal(signal.SIGCONT)
        handles = []
        for pid in tree(self._process.pid)[1:]:
            with suppress(ProcessLookupError):
                handles.append(os.pidfd_open(pid))
        super().__exit__(kind, error, trace)
        for handle in handles:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], END_WITHIN_S)
            os.close(handle)
        self.clean_up()  # once more: they wrote until now

    def _signal(self, number: signal.Signals) -> None:
        for pid in tree(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _is_ready(self) -> bool:
        try:
            return all(self._ask(model, "json")[9:12] == b"200" for model in self._models)
        except OSError:
            return False

    def _ask(self, model: Model, wire: str) -> bytes:
        with self.connect() as sock:
            sock.settimeout(5)
            sock.sendall(self.request(model, wire))
            return receive_reply(sock)


class MLServer(Peer):
    """In one process (no parallel workers), without access log, metrics and compression."""

    kind, package, version = "mlserver", "mlserver", "1.7.1"
    beside = ("httptools==0.9.0",)  # its HTTP server takes the faster parser where there is one

    def command(self) -> Sequence[str]:
        """Return its own command on the folder."""
        return [str(self._programs / "mlserver"), "start", str(self.folder)]

    def prepare(self) -> None:
        """Write the settings of the server and of each model."""
        assert self.folder is not None, "prepare() before there is a folder"
        settings = {
            "host": "127.0.0.1",
            "http_port": self._port,
            "grpc_port": free_port(),
            "metrics_endpoint": None,
            "parallel_workers": 0,
            "debug": False,
            "gzip_enabled": False,
        }
        (self.folder / "settings.json").write_text(json.dumps(settings))
        for model in self._models:
            described = {
                "name": model.name,
                "implementation": "bench.mlserver_model.Model",
                "parameters": {"uri": str(model.path)},
            }
            (self.folder / model.name).mkdir()
            (self.folder / model.name / "model-settings.json").write_text(json.dumps(described))


class Mosec(Peer):
    """One worker per model and wire, no batching; JSON as it comes, or bare tensors."""

    kind, package, version = "mosec", "mosec", "0.9.8"
    wires = ("binary", "json")

    def environment(self) -> Mapping[str, str]:
        """Return its settings, which it takes from here."""
        mine = {"MOSEC_ADDRESS": "127.0.0.1", "MOSEC_LOG_LEVEL": "warning"}
        return {**super().environment(), "MOSEC_PORT": str(self._port), **mine}


class LitServe(Peer):
    """One HTTP process, a worker per model, and the ZeroMQ queue meant for many requests."""

    kind, package, version = "litserve", "litserve", "0.2.19"


class Ray(Peer):
    """Ray Serve with one replica per model behind HAProxy: many times faster than its default.

    Ray listens on every interface whatever it is told, so it gets a network namespace of its own
    with nothing but loopback; the asker's sockets are opened in there.
    """

    kind, package, version = "ray", "ray[serve]", "2.60.0"
    wires = ("binary", "json")

    def __init__(self, models: Sequence[Model], cores: str = "0-1") -> None:
        if subprocess.run(["unshare", "--net", "true"], check=False).returncode:
            raise Unavailable(
                "ray listens on every interface and may not have a network of its own here: "
                "run this as root to measure it; left out"
            )
        super().__init__(models, cores)

    def command(self) -> Sequence[str]:
        """Return its module as a command in a network namespace of its own."""
        return ["unshare", "--net", *super().command()]

    def environment(self) -> Mapping[str, str]:
        """Return the switches of its guide to high throughput; no usage reports, no niceness."""
        return {
            **super().environment(),
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
        }

    def _wait_ready(self) -> None:
        super()._wait_ready()
        time.sleep(SETTLES_WITHIN_S)

    def connect(self) -> socket.socket:
        """Open a connection to it from within its network."""
        # A namespace belongs to a thread; a socket stays in the one where it was made.
        with ThreadPoolExecutor(1) as inside:
            return inside.submit(self._connect_inside).result()

    def _connect_inside(self) -> socket.socket:
        space = os.open(f"/proc/{self._process.pid}/ns/net", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(space, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "cannot enter the peer's network")
        finally:
            os.close(space)
        return connect(self.address)


# The rows: which server, on which cores. mosec also beside the asker, as Triton.
PLACEMENTS: Mapping[str, tuple[type[Peer], str]] = {
    "mlserver": (MLServer, "0-1"),
    "mosec": (Mosec, "0-1"),
    "mosec-one-core": (Mosec, str(ASKER_CORE)),
    "litserve": (LitServe, "0-1"),
    "ray": (Ray, "0-1"),
}


def tree(pid: int) -> list[int]:
    """Return a process and all that descend from it, parents first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for known in found:
        found += children.get(known, [])
    return found


def _bare_request(model: Model) -> bytes:
    body = model.question.tobytes()
    headers = [
        f"POST /v2/models/{model.name}/bare HTTP/1.1",
        "Host: bench",
        "Content-Type: application/octet-stream",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join(headers).encode() + b"\r\n\r\n" + body
