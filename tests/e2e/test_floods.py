"""The contract on a whole node: floods, crowds, budgets too short, memory that is not there."""

import threading
import time
from collections import Counter

import pytest
from nodes import Asking, Node, infer, slow, tensor, write_estate

FLOOD_RATE, FLOOD_S = 250, 2.0
CROWD, EACH = 250, 40  # connections, and questions on each without waiting for answers
CALM_US = 400_000
FLOOD = {
    "bundle": "slow.onnx",
    "budget": "2 s",
    "criticality": "critical",
    "arrivals": {"kind": "periodic", "rate": "10/s"},
}
CALM = {"bundle": "tiny.onnx", "budget": "250 ms"}


@pytest.fixture
def serve(models, tmp_path):
    """Return a function that starts a node with these decisions; it is stopped at the end."""
    started = []

    def start(**decisions: dict[str, object]) -> Node:
        write_estate(tmp_path, decisions, models)
        started.append(Node(tmp_path).wait_ready())
        return started[-1]

    yield start
    for node in started:
        assert node.stop() == 0


def calm(decision: str) -> bytes:
    """Return a question for a decision on the tiny model."""
    return infer(decision, {"inputs": [tensor("x", [1, 2, 3, 4])]})


def test_a_flood_beyond_its_declaration_counts_as_standard(serve):
    """Ten a second are declared, 250 come: neither critical nor standard neighbours notice."""
    node = serve(flood=FLOOD, tiny=CALM | {"criticality": "critical"}, standard=CALM)
    answered: list[int] = []

    def ask_standard() -> None:
        with node.connect() as connection:
            for _ in range(40):
                answered.append(connection.ask(calm("standard")).status)
                time.sleep(FLOOD_S / 40)

    asker = threading.Thread(target=ask_standard)
    with Asking(node, 250_000) as critical:
        asker.start()
        flood = [node.connect() for _ in range(100)]
        begun, sent, open_ = time.monotonic(), 0, Counter()
        while (now := time.monotonic()) < begun + FLOOD_S:
            connection = flood[sent % len(flood)]
            connection.send(slow(decision="flood"))
            open_[connection] += 1
            sent += 1
            time.sleep(max(0.0, begun + sent / FLOOD_RATE - now))
        asker.join()
        told = Counter(connection.read().status for connection in open_.elements())

    assert critical.statuses() == {200}
    assert answered.count(200) >= 39  # a worker's first runs are not known well
    assert told.total() == sent
    assert set(told) <= {200, 503}
    assert told[200] >= 10 * FLOOD_S


def test_ten_thousand_questions_at_once_cost_another_asker_nothing(node):
    """By TCP they come from one address, by the Unix socket from another asker."""
    asked = slow(budget_us=1_000_000)
    crowd = [node.connect(tcp=True) for _ in range(CROWD)]
    answers = []

    def few() -> None:
        with node.connect() as connection:
            for _ in range(20):
                answers.append(connection.ask(slow(budget_us=CALM_US)))
                time.sleep(0.05)

    asker = threading.Thread(target=few)
    asker.start()
    for connection in crowd:
        connection.send(asked * EACH)
    told = Counter(connection.read().status for connection in crowd for _ in range(EACH))
    asker.join()

    assert told.total() == CROWD * EACH
    assert set(told) <= {200, 503, 504}
    assert [answer.status for answer in answers] == [200] * 20


def test_a_budget_below_the_fastest_names_one_that_is_feasible(node):
    """The refusal says what could be promised; asked with that and a little more, it is."""
    node.ask(slow())
    refused = node.ask(slow(budget_us=1_000))
    earliest_us = refused.json["earliest_feasible_us"]

    assert (refused.status, refused.reason) == (503, "infeasible")
    assert earliest_us > 1_000
    assert node.ask(slow(budget_us=int(earliest_us * 1.5) + 5_000)).status == 200


def test_shared_memory_that_is_not_there_is_said_at_the_start(models, tmp_path):
    """Eight slots of an answer of 4 MB do not fit: a sentence, and nothing is left behind."""
    write_estate(tmp_path, {"large": {"bundle": "large.onnx", "budget": "1 s"}}, models)
    node = Node(tmp_path, before=["prlimit", f"--fsize={16 << 20}"])

    assert node.process.wait(30) == 2
    assert "bytes of shared memory for its questions" in node.told()
    assert "Serve fewer decisions here, or add memory." in node.told()
    node.check_nothing_left()
