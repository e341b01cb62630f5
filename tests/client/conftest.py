"""The scripted node as a fixture."""

from collections.abc import Callable, Iterator

import pytest
from scripted_node import Script, ScriptedNode


@pytest.fixture
def scripted(tmp_path) -> Iterator[Callable[[Script], ScriptedNode]]:
    """Start a scripted node; it is closed at the end of the test."""
    nodes: list[ScriptedNode] = []

    def start(script: Script) -> ScriptedNode:
        nodes.append(ScriptedNode(str(tmp_path / f"{len(nodes)}.sock"), script))
        return nodes[-1]

    yield start
    for node in nodes:
        node.close()
