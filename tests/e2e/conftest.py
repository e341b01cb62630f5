"""Nodes for tests. `node` serves all; who wants to break one starts its own with `start`."""

import pytest
import toy_models
from nodes import Node, Notice, write_estate

DECISIONS = {
    "tiny": {"bundle": "tiny.onnx", "budget": "2 s", "criticality": "critical"},
    "slow": {"bundle": "slow.onnx", "budget": "3 s", "safe_action": {"brake": True}},
    "prompt": {"bundle": "tiny.onnx", "budget": "250 ms"},
    "found": {"bundle": "found.onnx", "budget": "2 s"},
    "failing": {"bundle": "failing.onnx", "budget": "2 s"},
    "large": {"bundle": "large.onnx", "budget": "2 s"},
}


@pytest.fixture(scope="session")
def models():
    """The toy models, by the name of their decision."""
    return {
        "tiny": toy_models.tiny(),
        "slow": toy_models.slow(250),
        "found": toy_models.found(),
        "failing": toy_models.failing(),
        "large": toy_models.large_answer(4),
    }


@pytest.fixture(scope="session")
def shared(models, tmp_path_factory):
    """One node for all tests that leave a node as they found it."""
    folder = tmp_path_factory.mktemp("shared")
    write_estate(folder, DECISIONS, models)
    node = Node(folder).wait_ready()
    yield node
    assert node.stop() == 0


@pytest.fixture
def node(shared):
    """The shared node; the test must leave it ready, with the same processes and no slot taken."""
    before = shared.health()
    yield shared
    shared.hang_up()
    after = shared.health()
    assert after == before
    assert shared.slots_taken() == 0


@pytest.fixture
def notice():
    """How late an outcome may be seen, on this machine at this time."""
    with Notice() as noticing:
        yield noticing


@pytest.fixture
def start(models, tmp_path):
    """Start nodes of the test's own, with some of the decisions; they are stopped at the end."""
    yield from _starter(models, tmp_path)


@pytest.fixture(scope="module")
def start_for_module(models, tmp_path_factory):
    """Start nodes that the tests of one file share."""
    yield from _starter(models, tmp_path_factory.mktemp("module"))


def _starter(models, folder):
    started = []

    def start_node(*names, hardware="", arguments=(), **options):
        own = folder / f"node{len(started)}"
        write_estate(own, {name: DECISIONS[name] for name in names}, models, hardware)
        started.append(Node(own, arguments, **options))
        return started[-1].wait_ready()

    yield start_node
    for node in started:
        node.stop()
