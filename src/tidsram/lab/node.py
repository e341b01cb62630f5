"""A node of the lab's own: `tidsram serve` as a child process that ends with its parent."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from tidsram import clock
from tidsram.client.connection import Connection, Mute, Unreachable
from tidsram.errors import NodeError, TidsramError
from tidsram.serve.machine import die_with_parent
from tidsram.units import MS, SECOND, show_ns

_START_NS: Final = 150 * SECOND  # beyond what the supervisor itself waits for a model
_STOP_S: Final = 10.0
_LOG_LINES: Final = 8
_BAD_INPUT: Final = 2  # `tidsram serve` ended because of what it was given
_REFUSAL: Final = "tidsram: "


class RefusedByNode(TidsramError):
    """The node does not serve what it was given; the sentence is its own."""

    code = "refused-by-node"


class Node:
    """A running node; leaving the context stops it, whatever happened."""

    def __init__(self, estate_file: Path, unix: Path) -> None:
        """Start a node for `estate_file`, which opens the socket `unix`."""
        self._log = estate_file.with_suffix(".log")
        self.url = f"unix:{unix}"
        self._started_ns = clock.now_ns()
        with self._log.open("wb") as log:
            # Killed without a chance to say goodbye, we still leave no node behind.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tidsram", "serve", "-f", str(estate_file)],
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

    def wait_until_ready(self) -> None:
        """Wait; RefusedByNode when it will not serve this, NodeError when nobody knows why not."""
        while (waited_ns := clock.now_ns() - self._started_ns) < _START_NS:
            if (status := self._process.poll()) is not None:
                raise self._ended(status)
            try:
                with Connection(self.url) as connection:
                    if connection.ready():
                        return
            except (Unreachable, Mute):
                pass  # it does not listen yet, or does no more
            clock.sleep_ns(10 * MS)
        raise NodeError(
            f"the node was not ready after {show_ns(waited_ns)}; it said: {self.last_words()}"
        )

    def last_words(self) -> str:
        """Return the end of what the node has said."""
        return "\n".join(self._said()[-_LOG_LINES:]) or "nothing"

    def _ended(self, status: int) -> TidsramError:
        refusals = [line for line in self._said() if line.startswith(_REFUSAL)]
        if status == _BAD_INPUT and refusals:
            return RefusedByNode(refusals[-1].removeprefix(_REFUSAL))
        return NodeError(f"the node ended before it was ready; it said: {self.last_words()}")

    def _said(self) -> list[str]:
        return self._log.read_text("utf-8", "replace").strip().splitlines()
