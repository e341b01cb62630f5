"""Versions are changed while a node serves: no question is lost, and a bad one changes nothing."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import toy_models
from gauges import (
    GAUGE,
    QUESTION,
    Asking,
    answer,
    command_of,
    deploy,
    roll_back,
    starter,
    status,
    verb,
)
from nodes import PATIENCE_S, Connection, eventually, infer, tensor


def sour():
    """Return a model on x [1, 4] that works on zeros and gives NaN for what is below zero."""
    nodes = [
        toy_models.node("Sqrt", ["x"], ["roots"]),
        toy_models.node("MatMul", ["roots", "ones"], ["y"]),
    ]
    x = toy_models.value("x", toy_models.F32, [1, 4])
    y = toy_models.value("y", toy_models.F32, [1, 2])
    return toy_models._file(nodes, [x], [y], {"ones": np.ones((4, 2), np.float32)})


MODELS = {
    "first": toy_models.marked(1),
    "second": toy_models.marked(2),
    "third": toy_models.marked(3),
    "wide": toy_models.marked(4, width=3),
    "never": toy_models.never(),
    "sour": sour(),
    "garbage": b"not a model at all",
}
STRAY = b'{"type":"Deploy","path":"second.onnx","mode":"canary","percent":0}\n'


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a node on the same estate again and again."""
    yield from starter(tmp_path, MODELS)


def test_a_deployed_version_takes_over_and_no_question_is_lost(start):
    """Every question asked meanwhile has an answer: first the old one's, then the new one's."""
    node = start()
    before = node.workers("gauge")
    with Asking(node) as asking:
        told = deploy(node)
        came = len(asking.answers)
        eventually(lambda: len(asking.answers) > came + 10, "answers after the change")

    assert "gauge is served by version " in told
    assert set(asking.values) == {1, 2}
    assert asking.values == sorted(asking.values)
    assert node.workers("gauge") != before
    assert node.count("gauge", "worker-lost") == 0
    assert node.metric("tidsram_answers_total", decision="gauge", variant="second") > 10
    assert node.metric("tidsram_answers_total", decision="gauge", variant="first") == 0


def test_rollback_goes_back_without_a_disk_and_further_with_one(start):
    """The last version comes from memory; the file may be gone meanwhile."""
    node = start()
    deploy(node)
    deploy(node, "third.onnx")
    (node.folder / "second.onnx").unlink()

    roll_back(node)
    assert answer(node) == 2
    roll_back(node)
    assert answer(node) == 1

    assert "no version before it is known" in roll_back(node, wrong=True)
    assert answer(node) == 1


def test_a_dead_worker_is_replaced_by_one_of_the_deployed_version(start):
    """The spare is of that version, and so is what comes after it."""
    node = start()
    deploy(node)
    for _ in range(2):
        (pid, *_) = node.workers("gauge")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: pid not in node.workers("gauge") and node.is_ready(), "another")
        assert answer(node) == 2


def test_a_new_gate_serves_the_deployed_version_and_can_go_back(start):
    """The supervisor knows what is served."""
    node = start()
    deploy(node)
    gate = node.health()["gate"]

    os.kill(gate, signal.SIGKILL)
    eventually(lambda: node.health()["gate"] != gate and node.is_ready(), "another gate")

    assert answer(node) == 2
    assert node.ask(QUESTION).json["parameters"]["variant"] == "second"
    roll_back(node)
    assert answer(node) == 1


def test_a_node_that_starts_again_serves_what_was_deployed(start):
    """And can still go back from there."""
    first = start()
    deploy(first)
    assert first.stop() == 0

    node = start()

    assert answer(node) == 2
    assert "second.onnx), as deployed" in node.told()
    roll_back(node)
    assert answer(node) == 1


def test_a_deployed_file_that_has_changed_is_not_served(start):
    """The estate's own version is, with a sentence."""
    first = start()
    deploy(first)
    assert first.stop() == 0
    models = dict(MODELS)
    try:
        MODELS["second"] = models["third"]
        node = start()
    finally:
        MODELS["second"] = models["second"]

    assert answer(node) == 1
    assert "served by the estate's own version, not by the one that was deployed" in node.told()


def test_a_changed_estate_goes_before_what_was_deployed(start):
    """Who changes the estate means it."""
    first = start()
    deploy(first)
    assert first.stop() == 0

    node = start(gauge=GAUGE | {"bundle": "third.onnx"})

    assert answer(node) == 3
    assert "the estate's own version has changed since" in node.told()


@pytest.mark.parametrize("content", [b"{", b"\xff\x00", b'{"decisions": {"gauge": 1}}'])
def test_a_damaged_memory_is_told_and_ignored(start, tmp_path, content):
    """Whatever it holds, the node starts."""
    (tmp_path / ".tidsram").mkdir()
    (tmp_path / ".tidsram" / "local.deployed.json").write_bytes(content)

    node = start()

    assert answer(node) == 1
    assert "local.deployed.json cannot be read (it is damaged)" in node.told()


@pytest.mark.parametrize(
    ("bundle", "why"),
    [
        ("wide.onnx", "its output is y FP32 [1, 3], and that of what is served y FP32 [1, 2]"),
        ("never.onnx", "it fails on zeros"),
        ("garbage.onnx", "it is not an ONNX model"),
        ("gone.onnx", "there is no such file"),
        (".", "no such file, so this is no finished bundle"),
    ],
)
def test_a_version_that_cannot_be_served_changes_nothing(start, bundle, why):
    """One sentence; the old version goes on, by the same workers."""
    node = start()
    before = node.workers("gauge")

    assert why in deploy(node, bundle, wrong=True)

    assert node.workers("gauge") == before
    assert answer(node) == 1
    assert status(node).path == ""


def write_bundle(folder, **numbers):
    """Write a bundle with a variant for each number, the most accurate first."""
    (folder / "variants").mkdir(parents=True)
    ladder = []
    for place, (name, number) in enumerate(numbers.items()):
        content = toy_models.marked(number)
        (folder / "variants" / f"{name}.onnx").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        accuracy = 0.9 - place / 10
        ladder.append({"name": name, "sha256": digest, "bytes": len(content), "accuracy": accuracy})
    manifest = {
        "format": 1,
        "name": "gauge",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2]}],
        "ladder": ladder,
        "source": {"file": "gauge.onnx", "sha256": "0" * 64},
        "data_sha256": "0" * 64,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_bundle_with_a_longer_ladder_takes_over_by_its_digest(start):
    """Its best variant answers; its manifest's digest is the version."""
    node = start()
    write_bundle(node.folder / "bundle", exact=5, quick=6)
    manifest = (node.folder / "bundle" / "manifest.json").read_bytes()

    deploy(node, "bundle")

    assert answer(node) == 5
    assert node.ask(QUESTION).json["parameters"]["variant"] == "exact"
    assert status(node).version == hashlib.sha256(manifest).hexdigest()
    roll_back(node)
    assert answer(node) == 1


def test_a_bundle_with_one_changed_byte_changes_nothing(start):
    """The file is not the one that was validated."""
    node = start()
    write_bundle(node.folder / "bundle", exact=5, quick=6)
    model = node.folder / "bundle" / "variants" / "quick.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"!")

    assert "it is not the file that was validated" in deploy(node, "bundle", wrong=True)

    assert answer(node) == 1


def test_every_lane_of_a_decision_changes(start):
    """Now, back, and after a trial: on both lanes, while somebody asks."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two cores")
    node = start(f"lanes = [{{ cores = [{cores[0]}] }}, {{ cores = [{cores[1]}] }}]")
    before = node.workers("gauge")
    with Asking(node) as asking, Asking(node) as other:
        deploy(node)
        now = node.workers("gauge")
        roll_back(node)
        deploy(node, "third.onnx", mode="canary", percent=50, after=10)
        eventually(lambda: answer(node) == 3, "the trial")
        eventually(lambda: status(node).trial is None, "promoted")
        eventually(lambda: {answer(node) for _ in range(8)} == {3}, "by all")

    assert len(before) == len(now) == len(node.workers("gauge")) == 2
    assert not {*before} & {*now}
    assert status(node).lanes == (0, 1)
    assert set(asking.values) | set(other.values) == {1, 2, 3}


def test_what_is_served_already_is_not_deployed_again(start):
    """The digest says so, whatever the file is called."""
    node = start()
    before = node.workers("gauge")
    (node.folder / "copy.onnx").write_bytes(MODELS["first"])

    assert "already" in deploy(node, "copy.onnx")
    assert node.workers("gauge") == before


def test_another_decision_is_named_or_asked_for(start):
    """With two decisions it must be said which; a misspelt one is told from one that is not."""
    other = {"bundle": "third.onnx", "budget": "2 s"}
    node = start(gauge=GAUGE, valve=other)

    assert "say which decision" in deploy(node, "second.onnx", wrong=True)
    assert '"gauge"' in deploy(node, decision="guage", wrong=True)
    deploy(node, decision="gauge")
    assert answer(node) == 2


def test_the_command_line_deploys_tells_and_rolls_back(start):
    """Progress and mistakes on stderr, the result on stdout, as a sentence or as JSON."""
    node = start()

    assert "served by version" in verb(node, "deploy", "second.onnx")
    assert "before: version" in verb(node, "deploy", "--status")
    told = json.loads(verb(node, "rollback", "gauge", "--json"))
    assert "served by version" in told["told"]
    assert "is no share of the questions" in verb(
        node, "deploy", "second.onnx", "--canary", "x", wrong=True
    )
    assert "there is no gone.onnx" in verb(node, "deploy", "gone.onnx", wrong=True)


def test_without_a_node_it_is_said_that_there_is_none(start):
    """And what to do, whether its socket was taken away or left behind."""
    node = start()
    assert node.stop() == 0

    assert "no node answers at " in deploy(node, "second.onnx", wrong=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(node.folder / ".tidsram" / "local.admin.sock"))
    assert "no node answers at " in roll_back(node, wrong=True)


def test_a_node_killed_while_it_changes_serves_one_of_the_two_whole(start):
    """Whenever it comes, here while the new worker loads or takes over."""
    for wait_s in (0.05, 0.4, 0.8):
        node = start()
        was = answer(node)
        deploying = subprocess.Popen(
            [sys.executable, "-m", "tidsram", "deploy", "second.onnx"],
            cwd=node.folder,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        time.sleep(wait_s)
        node.process.kill()
        node.process.wait()
        deploying.wait(PATIENCE_S)
        eventually(lambda node=node: not node.pids(), "all gone")
        (node.folder / "node.sock").unlink(missing_ok=True)

        again = start()
        assert answer(again) in (was, 2)
        assert again.stop() == 0


def test_a_canary_answers_its_share_and_takes_over(start):
    """Every tenth question; after twenty of them it answers all."""
    node = start()
    told = deploy(node, mode="canary", percent=10, after=20)
    assert "answers 10 % of the questions on trial" in told
    with Asking(node) as asking:
        eventually(lambda: "gauge is served by version" in node.told(), "promotion")
        came = len(asking.answers)
        eventually(lambda: len(asking.answers) > came + 10, "answers by all")

    values = asking.values
    assert set(values) == {1, 2}
    first = values.index(2)
    assert values[first : first + 20] == [2, *[1] * 9] * 2
    assert values[-5:] == [2] * 5
    assert status(node).trial is None
    roll_back(node)
    assert answer(node) == 1


def test_a_canary_whose_worker_dies_is_taken_back(start):
    """The reason is said; nothing of it is left, and another may be tried."""
    node = start()
    deploy(node, mode="canary")
    before = node.workers("gauge")
    pid = on_trial(node)

    with Asking(node) as asking:
        eventually(lambda: 2 in asking.values, "an answer of it")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: "was taken back" in node.told(), "rollback")
        came = len(asking.answers)
        eventually(lambda: len(asking.answers) > came + 10, "answers")

    assert set(asking.values) <= {1, 2, "worker-lost"}
    assert asking.values.count("worker-lost") <= 1
    assert asking.values[-5:] == [1] * 5
    assert "its worker on lane 0 ended (SIGKILL)" in status(node).told
    assert node.workers("gauge") == before


def test_a_canary_ends_by_hand(start):
    """By rollback it is taken back, by deploy it takes over; another one has to wait."""
    node = start()
    deploy(node, mode="canary")

    assert "has version" in deploy(node, "third.onnx", wrong=True)
    roll_back(node)
    assert status(node).trial is None
    deploy(node, "third.onnx", mode="canary", percent=50)
    deploy(node, "third.onnx")

    assert eventually(lambda: answer(node) == 3, "it has taken over")


def test_a_canary_that_fails_is_taken_back(start):
    """Every question below zero fails with it, and none with the version that is served."""
    node = start()
    below = infer("gauge", {"inputs": [tensor("x", (-1, 2, 3, 4))]})
    deploy(node, "sour.onnx", mode="canary", percent=50)

    statuses = []

    def taken_back():
        statuses.append(node.ask(below).status)
        return "was taken back" in node.told()

    eventually(taken_back, "rollback")

    assert set(statuses) == {200, 500}
    assert "missed or failed, which contradicts the objective 0.99" in status(node).told
    assert {node.ask(below).status for _ in range(10)} == {200}


def test_a_trial_outlives_its_gate(start):
    """The new gate asks the same workers, and what was counted goes on."""
    node = start()
    deploy(node, mode="canary", percent=50, after=40)
    gate = node.health()["gate"]
    for _ in range(20):
        node.ask(QUESTION)
    eventually(lambda: status(node).trial.tried.answered == 10, "counted")

    os.kill(gate, signal.SIGKILL)
    eventually(lambda: node.health()["gate"] != gate and node.is_ready(), "another gate")
    eventually(lambda: {answer(node), answer(node)} == {1, 2}, "both answer")

    assert status(node).trial.tried.answered >= 10
    with Asking(node):
        eventually(lambda: "gauge is served by version" in node.told(), "promotion")


def test_only_the_nodes_own_user_may_connect(start):
    """The socket is nobody else's."""
    node = start()
    mode = (node.folder / ".tidsram" / "local.admin.sock").stat().st_mode

    assert mode & 0o777 == 0o600


@pytest.mark.parametrize("line", [b"{}\n", b"not json\n", b'{"type": "Reboot"}\n', b"\n", STRAY])
def test_nonsense_on_the_administration_socket_is_refused_in_words(start, line):
    """And the node goes on."""
    node = start()
    with Connection(str(node.folder / ".tidsram" / "local.admin.sock")) as connection:
        told = connection.send(line).socket.makefile("rb").readline()

    assert json.loads(told)["type"] == "Refused"
    assert answer(node) == 1


def on_trial(node):
    """Return the worker that is the newest of the gauge's; its spare was there before."""
    workers = [pid for pid in node.pids() if "tidsram.serve.worker" in command_of(pid)]
    return max(pid for pid in workers if "spare" not in command_of(pid))
