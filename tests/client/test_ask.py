"""`tidsram ask` as a person meets it, against a scripted node."""

import json

import numpy as np
import pytest
from PIL import Image
from scripted_node import Last

from tidsram.cli.ask import run
from tidsram.client.connection import Unreachable
from tidsram.errors import EstateError, QuestionError
from tidsram.outcome import TABLE, Reason
from tidsram.protocol.oip import encode_error, model_metadata
from tidsram.protocol.tensors import ModelSpec, TensorSpec
from tidsram.units import MS

ESTATE = """
[estate]
name = "e"
[decision.class]
bundle = "m.onnx"
budget = "500 ms"
[decision.class.question]
kind = "image"
color = "gray"
[decision.class.answer]
kind = "class"
labels = ["cat", "dog"]
"""
SPEC = ModelSpec((TensorSpec("p", "FP32", (1, 1, 1, 2)),), (TensorSpec("y", "FP32", (1, 2)),))


def http(status, body, json_size=None):
    size = b"Inference-Header-Content-Length: %d\r\n" % json_size if json_size else b""
    return b"HTTP/1.1 %d X\r\n%bContent-Length: %d\r\n\r\n%b" % (status, size, len(body), body)


def node(refuse=None, facts=None):
    """Return the script of a node that serves "class" and finds a dog, or refuses."""

    def script(head, body):
        if b"/v2/models/class/infer " in head:
            if refuse is not None:
                return http(TABLE[refuse].http, encode_error(refuse, "it said why", facts or {}))
            told = (
                b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"parameters":'
                b'{"binary_data_size":8}}],"parameters":{"variant":"int8","site":"here",'
                b'"budget_us":500000,"spent_us":900,"slack_us":499100,'
                b'"stages_us":{"run":7},"request":"b-1"}}'
            )
            return http(200, told + np.array([0.2, 0.8], np.float32).tobytes(), len(told))
        if b"/v2/models/class " in head:
            return http(200, model_metadata("class", SPEC))
        if b"/v2/health/ready " in head:
            return http(200, b'{"ready":true,"decisions":{"class":{}}}')
        return http(404, encode_error(Reason.UNKNOWN_DECISION, "no such", {}))

    return script


@pytest.fixture
def ask(tmp_path):
    """Ask about a picture; any argument of the verb may be given."""
    (tmp_path / "tidsram.toml").write_text(ESTATE)
    Image.new("L", (2, 1)).save(tmp_path / "a.png")

    def ask(url, decision="class", files=None, file=None, budget_ns=None, as_json=False, out=None):
        return run(
            decision=decision,
            files=[tmp_path / "a.png"] if files is None else files,
            file=file or tmp_path / "tidsram.toml",
            url=url,
            budget_ns=budget_ns,
            as_json=as_json,
            out=out,
        )

    return ask


def test_an_answer_is_a_sentence_and_every_stage_of_its_time(ask, scripted, capsys):
    """Ask for a class and read the terminal."""
    status = ask(scripted(node()).url)

    told = capsys.readouterr().out
    assert status == 0
    assert "class answered in " in told
    assert "dog, score 0.800." in told
    stages = [line.split()[0] for line in told.splitlines() if line.endswith("%")]
    assert stages == ["prepare", "run", "way", "read", "together"]


def test_json_is_all_there_is_on_stdout(ask, scripted, capsys):
    """Ask for JSON and parse all of it."""
    status = ask(scripted(node()).url, as_json=True)

    told = json.loads(capsys.readouterr().out)
    assert status == 0
    assert told["answer"] == {"label": "dog", "score": pytest.approx(0.8)}
    assert (told["outcome"], told["budget_us"], told["variant"]) == ("answered", 500_000, "int8")
    assert sum(told["stages_us"].values()) == pytest.approx(told["took_us"], abs=10)


@pytest.mark.parametrize(
    ("reason", "status", "sentence"),
    [
        (Reason.INFEASIBLE, 1, "Allow it more time with --budget"),
        (Reason.STALE, 1, "a newer question"),
        (Reason.DEADLINE, 1, "missed its deadline"),
        (Reason.WORKER_LOST, 1, "is being replaced"),
        (Reason.INVALID, 2, "was refused (invalid)"),
        (Reason.TOO_LARGE, 2, "was refused (too-large)"),
    ],
)
def test_a_no_says_why_and_what_to_do(ask, scripted, capsys, reason, status, sentence):
    """Refuse for one reason after the other."""
    facts = {"safe_action": {"brake": True}}

    assert ask(scripted(node(reason, facts)).url) == status

    told = capsys.readouterr().out
    assert "It said why." in told
    assert sentence in told
    assert 'Until then: {"brake":true}.' in told


def test_an_unknown_decision_is_answered_with_the_nearest(ask, scripted):
    """Misspell the decision's name."""
    with pytest.raises(QuestionError, match='serves no decision "clas"; did you mean "class"'):
        ask(scripted(node()).url, decision="clas")


def test_nobody_listening_is_a_sentence(ask, tmp_path):
    """Ask where nothing is."""
    with pytest.raises(Unreachable, match="nothing answers at"):
        ask(f"unix:{tmp_path / 'nobody'}")


def test_a_listener_that_is_no_node_is_no_verdict(ask, scripted, capsys):
    """Ask something that hangs up at once: nobody could say, so the status is 3."""
    assert ask(scripted(lambda *_: Last(b"")).url) == 3

    assert "does not answer as a node does" in capsys.readouterr().err


def test_a_budget_of_ones_own_reaches_the_node(ask, scripted):
    """Ask with a tighter budget than declared."""
    seen = []

    def script(head, body):
        seen.append(body)
        return node()(head, body)

    ask(scripted(script).url, budget_ns=20 * MS)

    assert b'"budget_us":20000' in seen[-1]


def test_an_estate_that_is_named_must_exist(ask, tmp_path):
    """Name a file that is not there."""
    with pytest.raises(EstateError, match="no such file"):
        ask("unix:/x", file=tmp_path / "other.toml")


def test_without_an_estate_tensors_can_be_asked(ask, scripted, capsys, tmp_path, monkeypatch):
    """Ask as after `tidsram serve my.onnx`: no estate here, the answer as tensors."""
    from pathlib import Path

    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    status = ask(scripted(node()).url, files=[], file=Path("tidsram.toml"))

    told = capsys.readouterr().out
    assert status == 0
    assert "every input is zeros" in told
    assert "0.2 0.8" in told


def test_the_answer_can_be_written_drawn_as_json_or_as_tensors(ask, scripted, tmp_path):
    """Write each kind and read it back."""
    url = scripted(node()).url

    for name in ("o.png", "o.json", "o.npz"):
        assert ask(url, out=tmp_path / name) == 0

    with Image.open(tmp_path / "o.png") as drawn:
        assert drawn.width == 2
    assert json.loads((tmp_path / "o.json").read_text())["answer"]["label"] == "dog"
    with np.load(tmp_path / "o.npz") as tensors:
        assert tensors["y"].ravel() == pytest.approx([0.2, 0.8])


@pytest.mark.parametrize(
    ("out", "files", "sentence"),
    [
        ("o.pdf", None, "write .png or .jpg"),
        ("o.png", [], "no picture to draw on"),
        ("missing/o.json", None, "there is no directory"),
    ],
)
def test_an_out_that_cannot_be_is_refused_before_asking(
    ask, scripted, tmp_path, out, files, sentence
):
    """Name impossible outputs; the node must not be asked."""
    silent = scripted(node())

    with pytest.raises(QuestionError, match=sentence):
        ask(silent.url, out=tmp_path / out, files=files)

    assert silent.connections == 0
