"""A node that serves a gauge, and what its versions are changed with."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from nodes import PATIENCE_S, Node, eventually, infer, tensor, write_estate

from tidsram.errors import NodeError
from tidsram.serve.admin import Deploy, Rollback, Status, ask_node

GAUGE = {"bundle": "first.onnx", "budget": "2 s"}
QUESTION = infer("gauge", {"inputs": [tensor("x", (1, 2, 3, 4))]})


class Asking(threading.Thread):
    """Someone who asks all the time, one question after the other."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.node, self.answers, self._over = node, [], threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self.join()

    def run(self):
        with self.node.connect() as connection:
            while not self._over.is_set():
                self.answers.append(connection.ask(QUESTION))

    @property
    def values(self):
        """What was answered: which version's number, or the reason of another outcome."""
        return [
            answer.output().tolist()[0][0] if answer.status == 200 else answer.reason
            for answer in self.answers
        ]


def starter(folder, models):
    """Yield a function that starts a node on the same estate again and again."""
    started = []

    def start_node(hardware="", **decisions):
        write_estate(folder, decisions or {"gauge": GAUGE}, models, hardware)
        started.append(Node(folder).wait_ready())
        eventually(lambda: list(folder.glob(".tidsram/*.admin.sock")), "administration")
        return started[-1]

    yield start_node
    for node in started:
        if node.process.poll() is None:
            assert node.stop() == 0


def ask(node, request, *, wrong=False):
    """Ask the node as the command line does; return the result, or with `wrong` the refusal."""
    left = node.folder / ".tidsram" / "local.admin.sock"  # of a node that is gone
    path = next(node.folder.glob(".tidsram/*.admin.sock"), left)
    if not wrong:
        return ask_node(path, request, lambda _: None)
    with pytest.raises(NodeError) as refused:
        ask_node(path, request, lambda _: None)
    return str(refused.value)


def deploy(node, bundle="second.onnx", *, wrong=False, **options):
    """Deploy a version of the gauge."""
    request = Deploy(path=str(node.folder / bundle), **options)
    done = ask(node, request, wrong=wrong)
    return done if wrong else done.told


def roll_back(node, *, wrong=False):
    """Go back by one version."""
    return ask(node, Rollback(decision="gauge"), wrong=wrong)


def verb(node, *arguments, wrong=False):
    """Run a verb of the command line beside the node; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "tidsram", *arguments],
        cwd=node.folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == (2 if wrong else 0), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if wrong else done.stdout


def answer(node):
    """Ask once; return which version answers."""
    return node.ask(QUESTION).output().tolist()[0][0]


def status(node):
    """Return how the gauge is served."""
    decisions = ask(node, Status()).decisions
    (gauge,) = [one for one in decisions if one.decision == "gauge"]
    return gauge


def command_of(pid):
    """Return a process's command line, in words."""
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
