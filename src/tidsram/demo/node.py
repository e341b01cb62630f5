"""The demo's node: `tidsram serve` as a process of its own, on a Unix socket."""

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

from tidsram import clock
from tidsram.client.connection import Connection, Unreachable
from tidsram.errors import NodeError
from tidsram.serve.machine import die_with_parent
from tidsram.units import MS, SECOND, show_ns

_START_NS = 60 * SECOND
_STOP_S = 10.0
_LOG_LINES = 8


class Node:
    """A running node; leaving the context stops it, whatever happened."""

    def __init__(self, estate_file: Path, directory: Path) -> None:
        """Start a node for `estate_file`; its socket and its log go to `directory`."""
        self._log = directory / "node.log"
        self.url = f"unix:{directory / 'node.sock'}"
        command = [sys.executable, "-m", "tidsram", "serve", "-f", str(estate_file)]
        command += ["--unix", str(directory / "node.sock"), "--http", "127.0.0.1:0"]
        self._started_ns = clock.now_ns()
        with self._log.open("wb") as log:
            # Killed without a chance to say goodbye, we still leave no node behind.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - no other threads yet
            )

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait_until_ready(self) -> int:
        """Return how many nanoseconds the node took to be ready."""
        while (waited_ns := clock.now_ns() - self._started_ns) < _START_NS:
            if self._process.poll() is not None:
                raise NodeError(
                    f"the node ended before it was ready; it said: {self._last_words()}"
                )
            try:
                with Connection(self.url) as connection:
                    if connection.ready():
                        return clock.now_ns() - self._started_ns
            except Unreachable:
                pass  # it does not listen yet
            clock.sleep_ns(10 * MS)
        raise NodeError(
            f"the node was not ready after {show_ns(waited_ns)}; it said: {self._last_words()}"
        )

    def wait(self) -> None:
        """Wait until somebody ends the node, or interrupts us."""
        with contextlib.suppress(KeyboardInterrupt):  # which is what we wait for
            self._process.wait()

    def workers(self, decision: str) -> list[int]:
        """Return the process ids of a decision's workers that are ready."""
        with Connection(self.url) as connection:
            told = connection.health()["decisions"][decision]
        return [worker["pid"] for worker in told["workers"]] if told["ready"] else []

    def wait_for_worker(self, decision: str, patience_ns: int, gone: int = 0) -> int | None:
        """Return when the decision is ready, without the worker `gone`; None: not in time."""
        until_ns = clock.now_ns() + patience_ns
        while clock.now_ns() < until_ns:
            if (workers := self.workers(decision)) and gone not in workers:
                return clock.now_ns()
            clock.sleep_ns(2 * MS)
        return None

    def _last_words(self) -> str:
        lines = self._log.read_text("utf-8", "replace").strip().splitlines()
        return "\n".join(lines[-_LOG_LINES:]) or "nothing"
