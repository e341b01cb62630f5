"""Servers under measurement as context managers: start, wait until ready, stop, leave nothing."""

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from bench.models import OUT

READY_WITHIN_S = 60


class Server:
    """A child process that answers HTTP on `address`; its output goes to bench/out/NAME.log."""

    name = "server"
    unix: str | None = None
    folder: Path | None = None  # to run in; what a server writes there is thrown away

    def __init__(self, cores: str = "0-1") -> None:
        self._port = free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._cores = cores

    def command(self) -> Sequence[str]:
        """Return the command line; subclasses say which."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Return what the process needs beyond our own environment."""
        return {}

    def clean_up(self) -> None:
        """Remove what a stopped server leaves behind."""

    def __enter__(self) -> Self:
        OUT.mkdir(exist_ok=True)
        signal.signal(signal.SIGTERM, _leave)  # so that a measurement stopped half way cleans up
        self._log = OUT / f"{self.name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["taskset", "-c", self._cores, *self.command()],
                env={**os.environ, "ORT_DISABLE_TELEMETRY": "1", **self.environment()},
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.clean_up()

    def _wait_ready(self) -> None:
        until = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < until and self._process.poll() is None:
            if self._is_ready():
                return
            time.sleep(0.1)
        tail = self._log.read_text(errors="replace")[-2000:]
        raise SystemExit(f"{self.name} did not become ready; the end of its log:\n{tail}")

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=2)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(143)


def free_port() -> int:
    """Return a TCP port that nothing listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def remove_all(folder: Path, pattern: str) -> None:
    """Remove the files in `folder` that match."""
    for path in folder.glob(pattern):
        path.unlink(missing_ok=True)
