"""A version in the shadow is compared on what is answered, and costs nobody anything.

The version that answers gives y = 1 for every question; those in the shadow give something else.
"""

import contextlib
import json
import os
import signal

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
from nodes import eventually, infer, slow, tensor

AGAIN_S = 2.0  # a question that was not compared by then will not be
BELOW = infer("gauge", {"inputs": [tensor("x", (-1, -2, -3, -4))]})


def only_above():
    """Return a model on x [1, 4] whose y [1, 2] is 1 where x is above zero, and NaN below."""
    nodes = [
        toy_models.node("Sqrt", ["x"], ["roots"]),
        toy_models.node("MatMul", ["roots", "nothing"], ["zero"]),
        toy_models.node("Add", ["zero", "one"], ["y"]),
    ]
    x = toy_models.value("x", toy_models.F32, [1, 4])
    y = toy_models.value("y", toy_models.F32, [1, 2])
    weights = {"nothing": np.zeros((4, 2), np.float32), "one": np.ones((1, 2), np.float32)}
    return toy_models._file(nodes, [x], [y], weights)


MODELS = {
    "first": toy_models.marked(1),
    "alike": toy_models.marked(0.75),
    "other": toy_models.marked(0.25),
    "above": only_above(),
    "slow": toy_models.slow(250),
}


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a node on the same estate again and again."""
    yield from starter(tmp_path, MODELS)


def compared(node):
    """Return what came of comparing until now."""
    return status(node).trial.comparison


def compare(node, question=QUESTION):
    """Ask, again if need be, until one more question is compared; return the names of all asked."""
    before, names = compared(node).compared, []

    def one_more():
        return compared(node).compared > before

    while not names or not one_more():
        names.append(node.ask(question).json["parameters"]["request"])
        with contextlib.suppress(AssertionError):
            eventually(one_more, "compared", AGAIN_S)
    return names


def shadows(node):
    """Return the workers in the shadow."""
    found = []
    for pid in node.pids():
        with contextlib.suppress(OSError):
            if "tidsram.serve.shadow" in command_of(pid):
                found.append(pid)
    return found


def test_a_version_that_agrees_is_told_to(start):
    """Answers stay the old one's; when all is compared, its worker goes and the result stays."""
    node = start()
    told = deploy(node, "alike.onnx", mode="shadow", after=20)
    with Asking(node) as asking:
        eventually(lambda: compared(node).compared == 20, "compared")
        eventually(lambda: not shadows(node), "its worker is gone")

    assert "runs in the shadow" in told
    assert set(asking.values) == {1}
    found = compared(node)
    assert (found.agreed, found.failed) == (20, 0)
    assert found.agreement == pytest.approx(0.75)
    assert 0.75 < found.agreed_at_least < 0.8  # 20 of 20
    assert found.agreement_at_least < 0.5
    assert found.served_p50_us is not None
    assert found.shadow_p50_us is not None
    assert "was compared on 20 questions, and agreed on 20" in status(node).told
    eventually(lambda: node.slots_taken() == 0, "all slots free")


def test_a_version_that_differs_is_reported_with_the_questions(start):
    """Three alike, two that it fails on: by count, by the requests' names, and in a file."""
    node = start()
    deploy(node, "above.onnx", mode="shadow")
    for _ in range(3):
        compare(node)
    below = {name for _ in range(2) for name in compare(node, BELOW)}

    verb(node, "deploy", "--report", "differences.json")

    (gauge,) = json.loads((node.folder / "differences.json").read_text())
    found = gauge["trial"]["comparison"]
    assert (found["compared"], found["agreed"], found["failed"]) == (5, 3, 2)
    assert found["agreement"] == pytest.approx(0.6)
    assert {one["request"] for one in found["worst"]} <= below
    assert [one["problem"] for one in found["worst"]] == ["output 'y' holds NaN"] * 2
    assert "compared: 5 answers; 3 agree" in " ".join(verb(node, "deploy", "--status").split())


def test_nothing_is_compared_while_the_lane_is_busy(start):
    """What is answered beside another decision's long run is left alone; later it is not."""
    cores = sorted(os.sched_getaffinity(0))
    lane = f"lanes = [{{ cores = [{cores[-1]}] }}]"
    critical = GAUGE | {"criticality": "critical"}
    node = start(lane, gauge=critical, slow={"bundle": "slow.onnx", "budget": "10 s"})
    deploy(node, "other.onnx", mode="shadow", decision="gauge")
    with node.connect() as connection:
        connection.send(slow(20_000))
        eventually(lambda: node.metric("tidsram_slots_taken", decision="slow"), "running")
        beside = {node.ask(QUESTION).json["parameters"]["request"]}
        lent = node.metric("tidsram_slots_taken", decision="gauge")
        beside |= {node.ask(QUESTION).json["parameters"]["request"] for _ in range(10)}
        still_running = node.metric("tidsram_slots_taken", decision="slow") == 1
        assert connection.read().status == 200
    later = compare(node)

    assert still_running
    assert lent == 0
    worst = {one.request for one in compared(node).worst}
    assert worst <= {*later}
    assert not worst & beside


def test_a_worker_in_the_shadow_that_hangs_gives_its_slot_back(start):
    """Stopped, it has copied nothing: the slot is taken back, and that question never compared."""
    node = start()
    deploy(node, "other.onnx", mode="shadow")
    compare(node)
    (pid,) = shadows(node)
    os.kill(pid, signal.SIGSTOP)
    came = compared(node).compared
    stopped = node.ask(QUESTION).json["parameters"]["request"]
    eventually(lambda: node.slots_taken() == 0, "its slot is free", 2.0)

    assert {answer(node) for _ in range(20)} == {1}
    assert node.slots_taken() == 0
    assert compared(node).compared == came
    os.kill(pid, signal.SIGCONT)
    compare(node)
    assert stopped not in {one.request for one in compared(node).worst}


def test_a_worker_in_the_shadow_that_dies_costs_no_answer(start):
    """It is said; what was compared stays, and the version may still take over."""
    node = start()
    deploy(node, "other.onnx", mode="shadow")
    compare(node)
    (pid,) = shadows(node)
    with Asking(node) as asking:
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: "in the shadow of lane 0 ended (SIGKILL)" in node.told(), "told")
        came = len(asking.answers)
        eventually(lambda: len(asking.answers) > came + 10, "answers")

    assert set(asking.values) == {1}
    assert compared(node).compared >= 1
    assert node.slots_taken() == 0
    deploy(node, "other.onnx")
    assert answer(node) == 0.25


def test_a_shadow_goes_on_as_a_canary_and_then_for_all(start):
    """Each step from what is in memory already: the file may be gone."""
    node = start()
    deploy(node, "other.onnx", mode="shadow")
    assert "on trial" in deploy(node, "alike.onnx", wrong=True)
    assert "on trial" in deploy(node, "other.onnx", mode="shadow", wrong=True)
    other = node.folder / "other.onnx"
    other.unlink()

    deploy(node, "other.onnx", mode="canary", percent=50)
    assert {answer(node) for _ in range(4)} == {1, 0.25}
    assert not shadows(node)
    deploy(node, "other.onnx")
    eventually(lambda: answer(node) == 0.25, "it has taken over")
    roll_back(node)
    assert answer(node) == 1


def test_a_shadow_ends_by_rollback_and_outlives_its_gate(start):
    """The new gate lends to the same worker; nothing that was answered counts as lost."""
    node = start()
    deploy(node, "other.onnx", mode="shadow")
    compare(node)
    before, gate = shadows(node), node.health()["gate"]

    os.kill(gate, signal.SIGKILL)
    eventually(lambda: node.health()["gate"] != gate and node.is_ready(), "another gate")
    compare(node)

    assert shadows(node) == before
    assert node.count("gauge", "gate-lost") == 0
    roll_back(node)
    assert status(node).trial is None
    eventually(lambda: not shadows(node), "its worker is gone")
    assert "nothing is being compared" in verb(node, "deploy", "--report", "x.json", wrong=True)


VARIANTS = {"only": {"model": "first.onnx", "accuracy": 0.95}}
FLOORED = {"variants": VARIANTS, "accuracy_floor": 0.9, "budget": "2 s"}


@pytest.mark.parametrize(("gauge", "options"), [(FLOORED, {}), (GAUGE, {"agree_share": 0.9})])
def test_a_canary_whose_answers_are_others_is_taken_back(start, gauge, options):
    """It fails nothing and misses nothing, but fewer of its answers agree than must."""
    node = start(gauge=gauge)
    deploy(node, "other.onnx", mode="canary", after=100_000, **options)
    with Asking(node) as asking:
        eventually(lambda: "was taken back" in node.told(), "rollback")
        came = len(asking.answers)
        eventually(lambda: len(asking.answers) > came + 10, "answers")

    assert "agree with those that were given, which contradicts the share 0.9" in node.told()
    assert asking.values[-5:] == [1] * 5
    assert set(asking.values) <= {1, 0.25}
    assert status(node).trial is None
    eventually(lambda: not shadows(node), "its worker is gone")


def test_a_canary_whose_answers_agree_takes_over(start):
    """Compared all along, by a threshold that it keeps."""
    node = start()
    deploy(node, "alike.onnx", mode="canary", agree=0.7, agree_share=0.9, percent=50, after=50)
    with Asking(node):
        eventually(lambda: "gauge is served by version" in node.told(), "promotion")
    eventually(lambda: answer(node) == 0.75, "by all")
    assert "compared answers agreed" in node.told()
    eventually(lambda: not shadows(node), "its worker is gone")
