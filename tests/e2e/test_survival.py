"""Faults under load: a broken model costs its own decision, and that only for a moment.

Each test runs a node with two decisions. The other one is asked all along, and must not notice.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
import toy_models
from nodes import Asking, Node, eventually, infer, resident_bytes, tensor, tiny, write_estate

QUICK_US = 500_000  # what the other decision's askers want, all through a fault
STUBBORN = 3_500  # seconds in one operator
HUNGRY = 100_000_000  # numbers: 400 MB
DECISIONS = {
    "tiny": {"bundle": "tiny.onnx", "budget": "2 s", "criticality": "critical"},
    "broken": {"bundle": "broken.onnx", "budget": "1 s"},
}


@pytest.fixture
def start(tmp_path):
    """Start a node with the tiny model and one that is broken in some way."""
    started = []

    def start_node(broken, hardware="", budget="1 s"):
        models = {"tiny": toy_models.tiny(), "broken": broken}
        decisions = DECISIONS | {"broken": DECISIONS["broken"] | {"budget": budget}}
        write_estate(tmp_path, decisions, models, hardware)
        started.append(Node(tmp_path))
        return started[-1].wait_ready().wait_calm()

    yield start_node
    for node in started:
        node.stop()


def broken(name, number, **parameters):
    """Return a question for the broken model, whose second input has this name."""
    inputs = [tensor("x", [1, 2, 3, 4]), tensor(name, [number], "INT64")]
    return infer("broken", {"inputs": inputs, "parameters": parameters})


def spares(node):
    """Return the process ids of the workers that stand by, by decision."""
    found = {}
    serving = {pid for name in DECISIONS for pid in node.workers(name)}  # once a spare, maybe
    for pid in node.pids() - serving:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"spare" in words:
                found[words[-3].decode()] = pid
    return found


def test_the_kernel_knows_who_goes_first_when_memory_runs_out(start):
    """Spares, then workers by criticality, the gate last; what serves is never paged out."""
    node = start(toy_models.failing())
    (critical,), (standard,) = node.workers("tiny"), node.workers("broken")
    gate = node.health()["gate"]

    scores = [
        int(Path(f"/proc/{pid}/oom_score_adj").read_text())
        for pid in (spares(node)["tiny"], standard, critical, gate)
    ]

    assert scores == sorted(set(scores), reverse=True)
    locked = ["VmLck:\t       0 kB" not in status(pid) for pid in (gate, critical, standard)]
    assert set(locked) == {"locked memory" in node.told()}


def status(pid):
    """Return what the kernel tells of a process."""
    return Path(f"/proc/{pid}/status").read_text()


def test_a_lost_workers_place_is_taken_by_its_spare(start):
    """The process that stood by answers the next questions, and another comes to stand by."""
    node = start(toy_models.failing())
    before, (pid,) = spares(node), node.workers("broken")
    assert set(before) == {"tiny", "broken"}
    with Asking(node, QUICK_US) as other:
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: node.workers("broken") == [before["broken"]], "its spare", 2.0)
        answer = node.ask(broken("place", 2))
        eventually(lambda: spares(node).get("broken") not in (None, before["broken"]), "another")

    assert answer.output().tolist() == [[3]]
    assert other.statuses() == {200}
    assert spares(node)["tiny"] == before["tiny"]
    assert f"broken: worker {pid} on lane 0 ended (SIGKILL); its spare takes over" in node.told()


def test_a_spare_that_is_lost_costs_nothing_and_comes_again(start):
    """Nobody waits for it."""
    node = start(toy_models.failing())
    workers, before = node.workers("broken"), spares(node)["broken"]

    os.kill(before, signal.SIGKILL)
    eventually(lambda: spares(node).get("broken") not in (None, before), "another")

    assert node.is_ready()
    assert node.workers("broken") == workers
    assert f"broken: its spare worker {before} ended (SIGKILL)" in node.told()


def test_without_memory_for_spares_it_says_so_and_restarts_workers(start):
    """The node is told to make do with less than it uses."""
    node = start(toy_models.failing(), 'memory = "1 MiB"')
    (pid,) = node.workers("broken")
    assert spares(node) == {}
    with Asking(node, QUICK_US) as other:
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: node.workers("broken") not in ([], [pid]), "another")
        answer = node.ask(broken("place", 0))

    assert answer.status == 200
    assert other.statuses() == {200}
    assert "no spare worker for broken, as 0 B of " in node.told()
    assert "(SIGKILL); starting another" in node.told()


def test_a_run_that_does_not_end_is_missed_killed_and_replaced(start):
    """It hears no abort: its asker is told in time, and the decision answers again."""
    node = start(toy_models.stubborn())
    (pid,) = node.workers("broken")
    with Asking(node, QUICK_US) as other:
        begun = time.monotonic()
        told = node.ask(broken("side", STUBBORN, budget_us=400_000))
        eventually(lambda: node.workers("broken") not in ([], [pid]), "replaced", 3.0)
        again = eventually(lambda: node.ask(broken("side", 1)).status == 200, "answers again", 3.0)

    assert told.status in (503, 504)
    assert told.reason in ("deadline", "evicted")
    assert told.at - begun < 1.0
    assert again
    assert other.statuses() == {200}
    assert node.slots_taken() == 0
    assert f"broken: worker {pid} did not stop; killing it" in node.told()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_crashes_in_a_row_under_load_cost_their_own_requests_only(start, number):
    """Five times: what ran is `worker-lost`, what is asked afterwards is answered."""
    node = start(toy_models.slow(250), budget="10 s")
    with Asking(node, QUICK_US) as other, node.connect() as connection:
        for _ in range(5):
            (pid,) = eventually(lambda: node.workers("broken"), "a worker")
            connection.send(broken("rounds", 40_000))
            # Its own slot: the other's asker has one all along.
            taken = {"name": "tidsram_slots_taken", "decision": "broken"}
            eventually(lambda taken=taken: node.metric(**taken) == 1, "running")
            os.kill(pid, number)
            told = connection.read()
            assert (told.status, told.reason) == (500, "worker-lost")
            eventually(lambda lost=pid: node.workers("broken") not in ([], [lost]), "replaced")
            eventually(node.is_ready, "ready again")
            assert connection.ask(broken("rounds", 0)).status == 200

    assert other.statuses() == {200}
    assert node.count("broken", "worker-lost") == 5
    assert node.slots_taken() == 0


def test_an_idle_worker_that_hangs_is_found_before_it_is_needed(start):
    """Nobody asks: its sign of life is missing all the same."""
    node = start(toy_models.failing())
    (pid,) = node.workers("broken")
    with Asking(node, QUICK_US) as other:
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: node.workers("broken") not in ([], [pid]), "replaced", 5.0)

    assert node.ask(broken("place", 1)).status == 200
    assert other.statuses() == {200}


def test_a_gate_that_hangs_is_replaced_and_workers_stay_warm(start):
    """Stopped, it looks alive to the kernel: the supervisor misses its sign of life."""
    node = start(toy_models.failing())
    before = node.health()

    os.kill(before["gate"], signal.SIGSTOP)
    stopped = time.monotonic()
    answer = node.ask(tiny())

    assert answer.status in (200, 503)
    assert answer.at - stopped < 5.0  # about 1.5 s on a quiet machine
    eventually(node.is_ready, "ready again")
    assert node.ask(broken("place", 1)).status == 200
    after = node.health()
    assert after["gate"] != before["gate"]
    assert after["decisions"] == before["decisions"]
    assert "the gate gives no sign of life; killing it" in node.told()


def test_a_worker_that_grows_is_replaced_between_two_questions(start):
    """No question is lost to that, neither its own nor another's."""
    node = start(toy_models.hungry(), budget="20 s")
    (pid,) = node.workers("broken")
    size = resident_bytes(pid)
    with Asking(node, QUICK_US) as other:
        assert node.ask(broken("count", HUNGRY)).status == 200
        assert resident_bytes(pid) > size + (300 << 20)
        eventually(lambda: node.workers("broken") not in ([], [pid]), "replaced", 5.0)
        (new,) = node.workers("broken")
        assert node.ask(broken("count", 1)).status == 200

    assert resident_bytes(new) < size + (100 << 20)
    assert other.statuses() == {200}
    assert node.count("broken", "worker-lost") == 0
    assert f"broken: worker {pid} has grown from " in node.told()
