"""A real node for tests: `tidsram serve` as a child process, and a client that may misbehave."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PATIENCE_S = 20.0  # for what should take a second, on a machine that does other things too
MARKER = "TIDSRAM_TEST_NODE"


def eventually(true: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Wait until `true()` is, and return it."""
    give_up = time.monotonic() + patience_s
    while time.monotonic() < give_up:
        with contextlib.suppress(OSError):
            if found := true():
                return found
        time.sleep(0.01)
    raise AssertionError(f"{what}: not within {patience_s} s")


class Answer(NamedTuple):
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes
    at: float  # when its last byte was here

    @property
    def json(self) -> dict[str, Any]:
        """The JSON part of the body."""
        return json.loads(
            self.body[: int(self.headers.get("inference-header-content-length", len(self.body)))]
        )

    @property
    def reason(self) -> str:
        """Why it is no answer to the question."""
        return self.json["reason"]

    def output(self, name: str = "y") -> np.ndarray:
        """Return an output that came as JSON numbers."""
        (found,) = [o for o in self.json["outputs"] if o["name"] == name]
        return np.array(found["data"]).reshape(found["shape"])


class Connection:
    """One connection that sends any bytes at any pace."""

    def __init__(self, address: str | tuple[str, int], timeout_s: float = PATIENCE_S) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(timeout_s)
        self._received = b""
        try:
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> "Connection":
        """Send all of it."""
        self.socket.sendall(data)
        return self

    def read(self) -> Answer:
        """Read one whole answer; ConnectionError when the node hangs up before its end."""
        while b"\r\n\r\n" not in self._received:
            self._more()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin1").split("\r\n")
        status = int(first.split()[1])
        headers = {name.lower(): rest for name, _, rest in (line.partition(": ") for line in lines)}
        if status == 100:
            return Answer(status, headers, b"", time.monotonic())
        size = int(headers["content-length"])
        while len(self._received) < size:
            self._more()
        body, self._received = self._received[:size], self._received[size:]
        return Answer(status, headers, body, time.monotonic())

    def ask(self, data: bytes) -> Answer:
        """Send and read."""
        return self.send(data).read()

    def is_closed(self) -> bool:
        """Wait for the node to hang up; False when it sends more instead."""
        try:
            return not self._received and not self.socket.recv(1)
        except ConnectionError:
            return True

    def read_nothing_for(self, seconds: float) -> bool:
        """Whether the node sends nothing more, nor hangs up."""
        return not select.select([self.socket], [], [], seconds)[0]

    def _more(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the node hung up")
        self._received += data


def head(decision: str, headers: Mapping[str, object]) -> bytes:
    """Return a question's head with exactly these headers."""
    lines = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
    return f"POST /v2/models/{decision}/infer HTTP/1.1\r\n{lines}\r\n".encode()


def get(path: str) -> bytes:
    """Return a GET request's bytes."""
    return f"GET {path} HTTP/1.1\r\nHost: node\r\n\r\n".encode()


def infer(decision: str, body: object, headers: Mapping[str, object] | None = None) -> bytes:
    """Return a question's bytes; a body that is not bytes becomes JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"Host": "node", "Content-Length": len(data)} | dict(headers or {})
    return head(decision, lines) + data


def tensor(name: str, content: Sequence[Any], datatype: str = "FP32") -> dict[str, Any]:
    """Return an input as JSON numbers, in a batch of one when its name is x."""
    shape = [1, len(content)] if name == "x" else [len(content)]
    return {"name": name, "shape": shape, "datatype": datatype, "data": list(content)}


def tiny(content: Sequence[float] = (1, -2, 3, 4), **parameters: object) -> bytes:
    """Return a question for the tiny model."""
    return infer("tiny", {"inputs": [tensor("x", content)], "parameters": parameters})


def slow(rounds: int = 0, decision: str = "slow", **parameters: object) -> bytes:
    """Return a question for the slow model, of so many rounds more than it always makes."""
    inputs = [tensor("x", [1, 2, 3, 4]), tensor("rounds", [rounds], "INT64")]
    return infer(decision, {"inputs": inputs, "parameters": parameters})


class Asking(threading.Thread):
    """Someone else, who asks the tiny model all the time and wants an answer within a budget."""

    def __init__(self, node: "Node", budget_us: int) -> None:
        super().__init__(daemon=True)
        self.answers: list[Answer] = []
        self._node, self._question = node, tiny(budget_us=budget_us)
        self._over = threading.Event()

    def __enter__(self) -> "Asking":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        """Ask a hundred times a second."""
        with self._node.connect() as connection:
            while not self._over.wait(0.01):
                self.answers.append(connection.ask(self._question))

    def statuses(self) -> set[int]:
        """Return the kinds of answers so far; there is at least one."""
        return {answer.status for answer in self.answers}


class Notice(threading.Thread):
    """How late an outcome may be seen at the asker: 50 ms, and what the machine held the asker up.

    A thread that wants to wake every 5 ms finds out: it is held up by other programs as the asker
    itself is, while the node's processes go before them.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self._worst_s = 0.0

    def __enter__(self) -> "Notice":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        """Wake up again and again."""
        then = time.monotonic()
        while not self._over.wait(0.005):
            now = time.monotonic()
            self._worst_s, then = max(self._worst_s, now - then - 0.005), now

    @property
    def limit_s(self) -> float:
        """The limit, by what was seen until now."""
        return 0.05 + self._worst_s


class Node:
    """One `tidsram serve` on free ports, with everything it started."""

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str] = (),
        *,
        before: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.unix = str(folder / "node.sock")
        self._marker = uuid.uuid4().hex
        self._told = folder / f"stderr-{self._marker[:8]}"
        self.tcp: tuple[str, int] = ("", 0)
        self._connections: list[Connection] = []
        command = [*before, sys.executable, "-m", "tidsram", "serve", *arguments]
        with self._told.open("wb") as told:
            self.process = subprocess.Popen(
                [*command, "--http", "127.0.0.1:0", "--unix", self.unix],
                cwd=folder,
                env=dict(os.environ) | dict(environment or {}) | {MARKER: self._marker},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=told,
            )

    def wait_ready(self) -> "Node":
        """Wait until every decision is ready."""
        eventually(self.is_ready, f"ready\n{self.told()}")
        (http,) = [e for e in self.health()["endpoints"] if e.startswith("http")]
        host, _, port = http.removeprefix("http://").rpartition(":")
        self.tcp = (host, int(port))
        return self

    def wait_calm(self) -> "Node":
        """Wait until nothing is loaded any more: each decision has its spare or cannot."""
        eventually(lambda: "spare worker" in self.told(), "spares")
        return self

    def is_ready(self) -> bool:
        """Whether /v2/health/ready says so. AssertionError when the node is not there any more."""
        assert self.process.poll() is None, self.told()
        return self.ask(get("/v2/health/ready")).status == 200

    def connect(self, *, tcp: bool = False) -> Connection:
        """Open a connection; it is closed at the end of the test at the latest."""
        self._connections.append(Connection(self.tcp if tcp else self.unix))
        return self._connections[-1]

    def hang_up(self) -> None:
        """Close all connections."""
        while self._connections:
            self._connections.pop().socket.close()

    def ask(self, data: bytes, *, tcp: bool = False) -> Answer:
        """Ask on a connection of its own."""
        with Connection(self.tcp if tcp else self.unix) as connection:
            return connection.ask(data)

    def health(self) -> dict[str, Any]:
        """Return what /v2/health/ready tells."""
        return self.ask(get("/v2/health/ready")).json

    def workers(self, decision: str) -> list[int]:
        """Return the process ids of a decision's workers."""
        return [worker["pid"] for worker in self.health()["decisions"][decision]["workers"]]

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        total = 0.0
        for line in self.ask(get("/metrics")).body.decode().splitlines():
            found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if found and found[1] == name:
                has = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
                if has | labels == has:
                    total += float(found[3])
        return total

    def count(self, decision: str, reason: str) -> int:
        """Return how many requests of a decision ended for a reason."""
        return int(self.metric("tidsram_requests_total", decision=decision, reason=reason))

    def slots_taken(self) -> int:
        """Return how many slots are in use, over all decisions."""
        return int(self.metric("tidsram_slots_taken"))

    def told(self) -> str:
        """Return what the node has written to stderr."""
        return self._told.read_text()

    def pids(self) -> set[int]:
        """Return every process that this node has started and that still lives."""
        return set(self._find(self._marker))

    def _refuses(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(self.tcp) != 0

    @staticmethod
    def _find(marker: str) -> Iterator[int]:
        wanted = f"{MARKER}={marker}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if wanted in (entry / "environ").read_bytes().split(b"\0"):
                        yield int(entry.name)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the node, see that nothing is left of it and return its exit status."""
        self.hang_up()
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(PATIENCE_S)
        self.check_nothing_left()
        return status

    def check_nothing_left(self) -> None:
        """No process, no socket, no shared memory, and never a traceback."""
        eventually(lambda: not self.pids(), "all processes gone", 2.0)
        assert not Path(self.unix).exists()
        if self.tcp[1]:
            # A process that is ending loses its environment, by which we find it, before its
            # sockets: the door may be open a few milliseconds longer.
            eventually(self._refuses, "its port closed", 2.0)
        assert not [
            name
            for name in (path.name for path in Path("/dev/shm").iterdir())
            if "tidsram" in name.lower() and "bench" not in name
        ]
        assert "Traceback" not in self.told(), self.told()
        assert "Error" not in self.told(), self.told()


def write_estate(
    folder: Path,
    decisions: Mapping[str, Mapping[str, object]],
    models: Mapping[str, bytes],
    hardware: str = "",
) -> None:
    """Write models and a tidsram.toml that serves them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in models.items():
        (folder / f"{name}.onnx").write_bytes(content)
    lines = ['[estate]\nname = "test"']
    if hardware:
        lines.append(f'[site.here]\nhardware = "box"\n[hardware.box]\n{hardware}')
    for name, keys in decisions.items():
        lines.append(f"[decision.{name}]")
        lines += [f"{key} = {_toml(content)}" for key, content in keys.items()]
    (folder / "tidsram.toml").write_text("\n".join(lines) + "\n")


def _toml(content: object) -> str:
    if isinstance(content, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in content.items()) + " }"
    return json.dumps(content)


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident_bytes(pid: int) -> int:
    """Return how much memory a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
