"""The supervisor sets a worker aside, and back: what the kernel says of a real process."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tidsram.estate.load import parse_estate
from tidsram.serve.children import Process
from tidsram.serve.messages import WorkerAside, WorkerLost, send
from tidsram.serve.supervisor import ALL_FIFO, Supervisor

SPINNING = [sys.executable, "-c", "while True: pass"]
ESTATE = """
[estate]
name = "e"
[decision.gauge]
bundle = "gauge.onnx"
budget = "1 s"
"""


@pytest.fixture
def node():
    """A supervisor with one worker, which is any process that spins, and its gate's end."""
    estate = parse_estate(ESTATE, "e")
    supervisor = Supervisor(estate, estate.sites["local"], Path(), lambda _: None)
    worker = Process(estate.decisions["gauge"], 0)
    worker.popen, worker.ready = subprocess.Popen(SPINNING), True
    supervisor._workers.append(worker)
    gate = Process(None, -1)
    gate.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with gate.control, theirs:
        yield supervisor, worker, gate, theirs
    worker.popen.kill()
    worker.popen.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the privilege to raise priorities")
def test_a_worker_set_aside_runs_in_leftover_time_until_it_is_called_back(node):
    """A change of its lane's class meanwhile does not bring it back; another pid is nobody's."""
    supervisor, worker, gate, theirs = node
    supervisor._classify(worker)

    def told(pid: int, *, aside: bool) -> int:
        send(theirs, WorkerAside("gauge", 0, pid, aside))
        supervisor._gate_says(gate)
        return os.sched_getscheduler(worker.pid)

    assert told(worker.pid + 1, aside=True) == os.SCHED_FIFO
    assert told(worker.pid, aside=True) == os.SCHED_IDLE
    supervisor._set_fifo(0, 0)
    assert os.sched_getscheduler(worker.pid) == os.SCHED_IDLE
    assert told(worker.pid, aside=False) == os.SCHED_OTHER
    supervisor._set_fifo(0, ALL_FIFO)
    assert os.sched_getscheduler(worker.pid) == os.SCHED_FIFO


def test_a_worker_set_aside_is_killed_at_once(node):
    """It waits for the core by design: that is no reason to spare it once more."""
    supervisor, worker, gate, theirs = node
    worker.aside = True

    send(theirs, WorkerLost("gauge", 0, worker.pid, kill=True))
    supervisor._gate_says(gate)

    assert worker.popen.wait(5) == -signal.SIGKILL
