"""What a node's processes use: read from the kernel, counted, and said when it costs runs."""

import mmap
import os
import subprocess
import sys

import pytest
from nodes import eventually
from prometheus import read

from tidsram.estate.types import Decision, Variant
from tidsram.serve import usage
from tidsram.serve.children import Process
from tidsram.serve.metrics import Metrics, metrics_bytes
from tidsram.serve.usage import Faults, Stolen
from tidsram.serve.watch import STEAL_LOOKS, Watch, growth_limit
from tidsram.units import SECOND

MIB = 1 << 20
GROWING = "import sys; sys.stdin.read(1); held = bytearray(b'x') * (300 << 20); sys.stdin.read(1)"
GAUGE = Decision(name="gauge", ladder=(Variant(name="only", model="gauge.onnx"),), budget_ns=SECOND)


@pytest.fixture
def metrics():
    return Metrics(memoryview(bytearray(metrics_bytes(1, 1))), ["gauge"], 1)


@pytest.fixture
def kernel(monkeypatch):
    """Say what the kernel counts; it cannot be made to steal time."""
    told = {"stolen": {0: Stolen(0, 0)}, "faults": {}}
    monkeypatch.setattr(usage, "stolen", lambda _: dict(told["stolen"]))
    monkeypatch.setattr(usage, "faults", lambda pid: told["faults"].get(pid, Faults(0, 0)))
    return told


def child(pid: int, decision: Decision | None = None) -> Process:
    """Return a child that has this id and is ready."""
    process = Process(decision, 0)
    process.popen = subprocess.CompletedProcess([], 0)
    process.popen.pid, process.ready = pid, True
    return process


def samples(metrics: Metrics) -> dict:
    return read(metrics.render({"gauge": 0}, {"gauge": ["only"]}, ()))


def test_the_kernels_count_of_stolen_time_is_read_by_core():
    """The eighth number of a core's line; what guests had is part of user time already."""
    stat = (
        "cpu  1 1 1 1 1 1 1 1 1 1\n"
        "cpu0 10 20 30 40 50 60 70 80 5 5\n"
        "cpu12 1 2 3 4 5 6 7 8 0 0\n"
        "intr 1\n"
    )
    tick_ns = SECOND // os.sysconf("SC_CLK_TCK")

    found = usage.parse_stolen(stat, (0, 1, 12))

    assert found == {0: Stolen(80 * tick_ns, 360 * tick_ns), 12: Stolen(8 * tick_ns, 36 * tick_ns)}


def test_a_real_process_is_seen_to_grow():
    """A child that takes 300 MiB has them, and is beyond what it may."""
    grower = subprocess.Popen([sys.executable, "-c", GROWING], stdin=subprocess.PIPE)
    try:
        before = eventually(lambda: usage.resident_bytes(grower.pid), "started")
        grower.stdin.write(b"x")
        grower.stdin.flush()
        eventually(lambda: usage.resident_bytes(grower.pid) > before + 290 * MIB, "grown")

        assert usage.resident_bytes(grower.pid) > growth_limit(before)
    finally:
        grower.kill()
        grower.communicate()
    assert usage.resident_bytes(grower.pid) == 0


def test_a_worker_may_grow_by_a_quarter_gibibyte_or_its_own_size():
    """Small ones by the former, large ones by the latter."""
    assert growth_limit(100 * MIB) == 356 * MIB
    assert growth_limit(1000 * MIB) == 2000 * MIB


def test_the_faults_of_a_real_process_are_counted():
    """Each page that is touched for the first time is one."""
    before = usage.faults(os.getpid())
    with mmap.mmap(-1, 4 * MIB) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for at in range(0, len(memory), mmap.PAGESIZE):
            memory[at] = 1

    assert usage.faults(os.getpid()).minor - before.minor >= 4 * MIB // mmap.PAGESIZE


def test_faults_count_from_when_a_process_serves(metrics, kernel):
    """What loading took is not counted; a worker that replaces another starts anew."""
    watch, gate, worker = Watch(metrics, (0,)), child(1), child(2, GAUGE)
    kernel["faults"] = {1: Faults(500, 5), 2: Faults(9000, 90)}
    assert watch.look(0, gate, [worker]) == []
    kernel["faults"] = {1: Faults(501, 5), 2: Faults(9010, 90), 3: Faults(7000, 7)}
    assert watch.look(SECOND, gate, [worker, child(3, GAUGE)]) == []

    counted = samples(metrics)["tidsram_page_faults_total"]

    assert counted == {
        (("process", "gate"), ("kind", "minor")): 1,
        (("process", "gate"), ("kind", "major")): 0,
        (("process", "worker"), ("kind", "minor")): 10,
        (("process", "worker"), ("kind", "major")): 0,
    }


def test_a_worker_that_reads_memory_back_is_said_once_a_minute(metrics, kernel):
    """The line names the worker; the count goes on."""
    watch, gate, worker = Watch(metrics, (0,)), child(1), child(2, GAUGE)
    said = []
    for second in range(62):
        kernel["faults"] = {2: Faults(0, 3 * second)}
        said += watch.look(second * SECOND, gate, [worker])

    assert len(said) == 2
    assert "gauge: worker 2 had to read memory back from a disk 3 times" in said[0]
    key = (("process", "worker"), ("kind", "major"))
    assert samples(metrics)["tidsram_page_faults_total"][key] == 183


@pytest.mark.parametrize(("share", "lines"), [(0.009, 0), (0.02, 1)])
def test_stolen_time_is_counted_and_said_above_one_percent(metrics, kernel, share, lines):
    """Of any one core, over ten seconds; no later than the eleventh look, not before."""
    watch, gate = Watch(metrics, (0, 1)), child(1)
    said = []
    for second in range(STEAL_LOOKS + 5):
        total = second * SECOND
        kernel["stolen"] = {0: Stolen(0, total), 1: Stolen(int(share * total), total)}
        said.append(len(watch.look(total, gate, [])))

    assert sum(said) == lines
    assert sum(said[:STEAL_LOOKS]) == 0
    stolen = samples(metrics)["tidsram_steal_seconds_total"][()]
    assert stolen == pytest.approx(share * (STEAL_LOOKS + 4))
