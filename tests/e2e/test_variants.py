"""Variants on a whole node: the best one answers, a bad one leaves, NaN is no answer."""

import os
import signal
import subprocess
import sys

import pytest
import toy_models
from nodes import PATIENCE_S, Node, eventually, infer, tensor, tiny, write_estate

GARBAGE = b"not a model at all"
TINY = {"bundle": "tiny.onnx", "budget": "2 s"}


MODELS = {
    "exact": toy_models.marked(1),
    "quick": toy_models.marked(2),
    "wide": toy_models.marked(3, width=3),
    "broken": GARBAGE,
    "worse": GARBAGE,
    "root": toy_models.root(),
    "tiny": toy_models.tiny(),
}


def ladder(**accuracies: float) -> dict[str, object]:
    """Return a decision whose variants are some of the models."""
    variants = {
        name: {"model": f"{name}.onnx", "accuracy": accuracy}
        for name, accuracy in accuracies.items()
    }
    return {"budget": "2 s", "variants": variants}


def gauge(content: tuple[float, ...] = (1, 2, 3, 4), decision: str = "gauge") -> bytes:
    """Return a question for a decision on x [1, 4]."""
    return infer(decision, {"inputs": [tensor("x", content)]})


@pytest.fixture
def serve(tmp_path):
    """Return a function that starts a node with some decisions; it is stopped at the end."""
    started = []

    def start(**decisions: dict[str, object]) -> Node:
        write_estate(tmp_path, decisions, MODELS)
        (tmp_path / "gone.onnx").unlink(missing_ok=True)
        started.append(Node(tmp_path).wait_ready())
        return started[-1]

    yield start
    for node in started:
        assert node.stop() == 0


def warnings(node: Node) -> list[str]:
    """Return what the node says of variants that it is served without."""
    return [line for line in node.told().splitlines() if "without its variant" in line]


def test_the_most_accurate_variant_answers_and_is_named(serve):
    """Whatever the order of declaration."""
    node = serve(gauge=ladder(quick=0.8, exact=0.9))

    answer = node.ask(gauge())

    assert answer.output().tolist() == [[1, 1]]
    assert answer.json["parameters"]["variant"] == "exact"
    assert warnings(node) == []


@pytest.mark.parametrize(
    ("bad", "why", "remedy"),
    [
        ("wide", "its output is y FP32 [1, 3], and that of exact y FP32 [1, 2]", "of exact."),
        ("broken", "it is not an ONNX model", "copy or export it again."),
        ("gone", "there is no such file", "Put it there, or change its path."),
    ],
)
def test_a_variant_that_cannot_be_served_leaves_with_a_warning(serve, bad, why, remedy):
    """One line with what, why and what to do; the rest of the ladder answers."""
    node = serve(gauge=ladder(**{bad: 0.8, "exact": 0.9}))

    (warning,) = warnings(node)
    assert f"warning: gauge is served without its variant {bad}: {why}" in warning
    assert warning.endswith(remedy)
    assert node.ask(gauge()).json["parameters"]["variant"] == "exact"


@pytest.mark.parametrize("bad", ["broken", "gone"])
def test_without_the_most_accurate_variant_the_next_one_answers(serve, bad):
    """The answer says so."""
    node = serve(gauge=ladder(**{bad: 0.9, "quick": 0.8}))

    answer = node.ask(gauge())

    assert answer.output().tolist() == [[2, 2]]
    assert answer.json["parameters"]["variant"] == "quick"


def test_the_most_accurate_variant_that_loads_decides_the_form(serve):
    """The wide one is better: the other two do not fit it."""
    node = serve(gauge=ladder(broken=0.95, wide=0.9, exact=0.8, quick=0.7))

    assert node.ask(gauge()).output().tolist() == [[3, 3, 3]]
    assert [line.split("variant ")[1].split(":")[0] for line in warnings(node)] == [
        "broken",
        "exact",
        "quick",
    ]


def test_a_new_worker_loads_what_is_left_and_warns_no_more(serve):
    """Kill the worker: the next one has the same ladder, without the broken variant."""
    node = serve(gauge=ladder(broken=0.9, quick=0.8))
    (before, *_) = node.workers("gauge")

    os.kill(before, signal.SIGKILL)
    eventually(lambda: before not in node.workers("gauge") and node.workers("gauge"), "another")

    answer = eventually(
        lambda: (found := node.ask(gauge())).status == 200 and found, "an answer again"
    )
    assert answer.json["parameters"]["variant"] == "quick"
    assert len(warnings(node)) == 1


def test_no_variant_left_ends_the_start_with_a_sentence(tmp_path):
    """A warning for the first, the refusal for the last; nothing is left behind."""
    write_estate(tmp_path, {"gauge": ladder(broken=0.9, worse=0.8)}, MODELS)

    done = subprocess.run(
        [sys.executable, "-m", "tidsram", "serve", "--http", "127.0.0.1:0", "--unix", "node.sock"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert done.returncode == 2
    warning, refusal = done.stderr.splitlines()
    assert "warning: gauge is served without its variant broken: it is not an ONNX" in warning
    assert refusal.startswith("tidsram: model ")
    assert "worse.onnx: it is not an ONNX model" in refusal
    assert "no other variant of decision 'gauge' is left. " in refusal
    assert not (tmp_path / "node.sock").exists()


def test_nan_is_a_failed_model_and_harms_no_other_decision(serve):
    """The output is named; the same worker answers the next question, others never notice."""
    node = serve(root={"bundle": "root.onnx", "budget": "2 s"}, tiny=TINY)

    failed = node.ask(gauge((4, -1, 9, 16), "root"))

    assert (failed.status, failed.json["outcome"], failed.reason) == (500, "failed", "model")
    assert "output 'y' holds NaN" in failed.json["error"]
    assert node.ask(gauge((4, 1, 9, 16), "root")).output().tolist() == [[2, 1, 3, 4]]
    assert node.ask(tiny()).status == 200
    assert node.count("root", "model") == 1
    assert node.count("tiny", "model") == 0
