"""What the kernel makes of our wishes, seen on real processes that share one core."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nodes import eventually

from tidsram.estate.types import Criticality
from tidsram.serve import machine

SPIN = "while True: pass"
CORE = max(os.sched_getaffinity(0))


@pytest.fixture
def spin():
    """Start processes that spin on one core, each in a session of its own, as workers are."""
    started = []

    def start_spinning(criticality: Criticality) -> int:
        # It never runs elsewhere: the kernel would weigh it less for what it did there.
        command = ["taskset", "--cpu-list", str(CORE), sys.executable, "-c", SPIN]
        process = subprocess.Popen(command, start_new_session=True)
        started.append(process)
        eventually(lambda: machine.cpu_ns(process.pid) > 100_000_000, "spinning")
        assert machine.set_class(process.pid, criticality, fifo=False)
        assert machine.weigh_session(process.pid, machine.NICE[criticality])
        return process.pid

    yield start_spinning
    for process in started:
        process.kill()
        process.wait()


def share(of: int, beside: int) -> float:
    """Return the part that a process gets of what two get together, over enough of their time."""
    before = machine.cpu_ns(of), machine.cpu_ns(beside)
    while True:
        time.sleep(0.05)
        got, other = machine.cpu_ns(of) - before[0], machine.cpu_ns(beside) - before[1]
        if got + other > 500_000_000:
            return got / (got + other)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the privilege to raise priorities")
def test_best_effort_gets_what_standard_leaves(spin):
    """Both spin in sessions of their own: the kernel must not share the core among sessions."""
    idle, standard = spin(Criticality.BEST_EFFORT), spin(Criticality.STANDARD)

    assert share(idle, standard) < 0.1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the privilege to raise priorities")
def test_critical_gets_the_core_before_standard(spin):
    """Nice −20 beside 0 is 98 % of the core, across sessions too."""
    critical, standard = spin(Criticality.CRITICAL), spin(Criticality.STANDARD)

    assert share(critical, standard) > 0.9


def test_a_session_that_others_share_is_left_alone():
    """A child in this test's own session: a node must not slow the shell it was started from."""
    child = subprocess.Popen(["sleep", "60"])
    group = Path(f"/proc/{child.pid}/autogroup")
    try:
        before = group.read_text() if group.exists() else ""

        assert machine.weigh_session(child.pid, 5)

        assert (group.read_text() if group.exists() else "") == before
    finally:
        child.kill()
        child.wait()


THREADS = """
import threading, sys
gate = threading.Event()
threads = [threading.Thread(target=gate.wait) for _ in range(3)]
for thread in threads:
    thread.start()
print(*(thread.native_id for thread in threads), flush=True)
sys.stdin.read()
gate.set()
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_loaded_worker_is_brought_to_its_lane_with_all_threads_but_one():
    """Those of the runtime run on the lane's cores, the one that takes tickets stays off them."""
    own, lane = min(os.sched_getaffinity(0)), CORE
    command = [sys.executable, "-c", THREADS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        machine.put_to_load(worker.pid, {own}, machine.LEISURE_NICE)
        first, tickets, last = map(int, worker.stdout.readline().split())

        machine.bring_to_lane(worker.pid, {lane}, tickets)

        cores = [os.sched_getaffinity(t) for t in (worker.pid, first, last, tickets)]
        assert cores == [{lane}, {lane}, {lane}, {own}]
        assert (
            machine.set_class(worker.pid, Criticality.STANDARD, fifo=False) is machine.may_hurry()
        )


def test_memory_is_locked_as_it_is_used():
    """Reserved memory costs nothing: a child that locks its memory does not grow by a gibibyte."""
    look = (
        "import mmap; from tidsram.serve.machine import lock_memory; from tidsram.serve.usage "
        "import resident_bytes as size; import os; held = lock_memory(); "
        "reserved = mmap.mmap(-1, 1 << 30); print(held, size(os.getpid()))"
    )

    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)

    held, size = done.stdout.split()
    assert held in ("True", "False")
    assert int(size) < 200 << 20


def test_as_many_files_as_allowed_may_be_open():
    """The soft limit is for programs that use select; a node does not."""
    look = "from tidsram.serve.machine import open_many_files; print(open_many_files())"
    command = ["prlimit", "--nofile=256:512", sys.executable, "-c", look]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout == "512\n"


def test_a_process_whose_parent_has_gone_does_not_begin():
    """The parent ended before the kernel could be asked to tell: its socket says so."""
    look = (
        "import socket, sys; from tidsram.serve.machine import die_with_parent; "
        "die_with_parent(socket.socket(fileno=int(sys.argv[1]))); print('began')"
    )
    for gone in (False, True):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.send(b"orders that were given before")
        if gone:
            ours.close()
        number = theirs.fileno()
        command = [sys.executable, "-c", look, str(number)]
        done = subprocess.run(command, pass_fds=(number,), capture_output=True, check=False)
        ours.close()
        theirs.close()

        assert (done.stdout, done.returncode) == ((b"", 1) if gone else (b"began\n", 0))
