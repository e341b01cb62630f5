"""The supervisor sets a worker aside, and back: what the kernel says of a real process."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tidsram.estate.load import parse_estate
from tidsram.serve.messages import WorkerAside, send
from tidsram.serve.supervisor import Process, Supervisor

ESTATE = """
[estate]
name = "e"
[decision.gauge]
bundle = "gauge.onnx"
budget = "1 s"
"""


@pytest.fixture
def node():
    """A supervisor with one worker, which is any process that does nothing, and its gate's end."""
    estate = parse_estate(ESTATE, "e")
    supervisor = Supervisor(estate, estate.sites["local"], Path(), lambda _: None)
    worker = Process(estate.decisions["gauge"], 0)
    worker.popen, worker.ready = subprocess.Popen(["sleep", "60"]), True
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
    supervisor._set_fifo(0, False)
    assert os.sched_getscheduler(worker.pid) == os.SCHED_IDLE
    assert told(worker.pid, aside=False) == os.SCHED_OTHER
    supervisor._set_fifo(0, True)
    assert os.sched_getscheduler(worker.pid) == os.SCHED_FIFO
