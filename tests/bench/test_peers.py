"""What holds for every peer: it answers rightly, sleeps when it should, and leaves nothing."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bench.models import make, session
from bench.peer_model import PeerModel

from bench import environments, overhead, peers

ANSWERING = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from bench.peer_model import PeerModel

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path.endswith("/bare"):
            answer = MODEL.answer_bare(body)
        else:
            answer = json.dumps(MODEL.answer(json.loads(body))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

MODEL = PeerModel(sys.argv[2])
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Small(peers.Peer):
    """A peer whose server is a child of what was started and does not end with it."""

    kind, package, version = "small", "small", "1"
    wires = ("binary", "json")

    def command(self):
        serve = [sys.executable, "-c", ANSWERING, str(self._port), str(self._models[0].path)]
        return ["sh", "-c", '"$@" & wait', "sh", *serve]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Make the small peer on `tiny` as if it had been installed."""
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path)
    (tmp_path / "small").mkdir()
    (tmp_path / "small/.done").write_text(f"small==1 {environments.RUNTIME}")
    return Small([make("tiny")])


def stopped(pids):
    """Whether all come to a stop; one that has a core just now takes the signal a little later."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        states = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
        if all(state[0] == "T" for state in states):
            return True
    return False


def test_a_peer_answers_awake_sleeps_whole_and_leaves_nothing(small):
    """Start parent and child, check both wires, put them to sleep, wake them, stop them."""
    with small:
        pids = peers.tree(small._process.pid)
        with small.awake():
            for wire in small.wires:
                small.check(small._models[0], wire)
        asleep = stopped(pids)
        with small.awake():
            small.check(small._models[0], "json")

    assert len(pids) == 2
    assert asleep
    assert not any(Path(f"/proc/{pid}/cwd").exists() for pid in pids)
    assert not small.folder.exists()


def test_a_wrong_answer_is_no_figure(small):
    """Compare the answer to `tiny`'s question with what another question would bring."""
    model = small._models[0]
    with small:
        other = make("tiny")
        other.question[:] = 0
        small.request = lambda _model, _wire: peers._bare_request(other)

        with pytest.raises(SystemExit, match="wrongly"):
            small.check(model, "binary")


@pytest.mark.parametrize("name", ["tiny", "mid"])
def test_both_wires_of_a_peer_give_what_the_session_gives(name):
    """Ask the model that runs inside the peers in JSON and in bare bytes."""
    model = make(name)
    expected = session(model.path).run(None, {model.input_name: model.question})[0]
    tensor = {"name": "x", "shape": model.question.shape, "data": model.question.ravel().tolist()}
    inside = PeerModel(str(model.path))

    (output,) = inside.answer({"inputs": [tensor]})["outputs"]
    bare = inside.answer_bare(model.question.tobytes())

    assert output["shape"] == list(expected.shape)
    assert np.allclose(output["data"], expected.ravel())
    assert np.allclose(np.frombuffer(bare, np.float32), expected.ravel())


def test_a_peer_that_cannot_be_installed_is_left_out(tmp_path, monkeypatch, capfd):
    """Ask for a package where no registry may be asked: said on stderr, no rows, no crash."""
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr(overhead, "PLACEMENTS", {"small": (Small, "0-1")})

    with overhead.ExitStack() as stack:
        targets = overhead._peer_targets([make("tiny")], {"small"}, 1, stack)

    assert targets == []
    assert "small cannot be installed here" in capfd.readouterr().err


def test_each_row_of_ours_is_divided_by_each_peer_with_the_same_wire():
    """Two peers, one without binary tensors: three ratios, none between peers or with the echo."""

    def row(server, wire, p50):
        each = {"block_p50_us": [p50, p50], "block_p99_us": [None, None]}
        return {"server": server, "model": "tiny", "wire": wire, **each}

    rows = [row("tidsram", wire, 100) for wire in ("binary", "json")]
    rows += [row("mosec", wire, 200) for wire in ("binary", "json")]
    rows += [row("mlserver", "json", 400), row("echo", "json", 50)]

    ratios = overhead._ratios(rows)

    found = {(ratio["peer"], ratio["wire"]): ratio["p50"]["median"] for ratio in ratios}
    assert found == {("mosec", "binary"): 0.5, ("mosec", "json"): 0.5, ("mlserver", "json"): 0.25}
    assert len(ratios) == 3
