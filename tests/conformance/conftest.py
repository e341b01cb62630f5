"""One real node for clients that others have written."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "e2e"))

import toy_models
from nodes import Node, write_estate

DECISIONS = {
    "tiny": {"bundle": "tiny.onnx", "budget": "2 s", "objective": 0.99},
    "slow": {"bundle": "slow.onnx", "budget": "3 s"},
    "found": {"bundle": "found.onnx", "budget": "2 s"},
}


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """A node with models of one input and of two, and with an output that the data sizes."""
    folder = tmp_path_factory.mktemp("conformance")
    models = {
        "tiny": toy_models.tiny(),
        "slow": toy_models.slow(250),
        "found": toy_models.found(),
    }
    write_estate(folder, DECISIONS, models)
    node = Node(folder).wait_ready()
    yield node
    assert node.stop() == 0
