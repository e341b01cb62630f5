"""`profile` and `probe` on real nodes: what they find out, write down, and refuse."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import toy_models
from msgspec import structs
from nodes import MARKER, Node, eventually, write_estate

from tidsram.errors import EstateError
from tidsram.estate.types import Estate, Link, Site
from tidsram.lab.facts import read_measured, write_probe
from tidsram.lab.probe import NotReached, joined_to, probe
from tidsram.stats import percentile
from tidsram.units import MS

RUNS = 60
TINY = {"tiny": {"bundle": "tiny.onnx", "budget": "1 s"}}


def tidsram(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tidsram", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def zero_by_zero() -> bytes:
    """Return a model that loads and runs, and whose answer to zeros is no number."""
    x, y = (toy_models.value(name, toy_models.F32, [1, 4]) for name in "xy")
    return toy_models._file([toy_models.node("Div", ["x", "x"], ["y"])], [x], [y], {})


def only_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line on stderr; there is no traceback."""
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


# profile ---------------------------------------------------------------------------------------


def test_a_profile_is_measured_and_written(tmp_path):
    """All variants of all decisions, as JSON and as files that a plan reads."""
    models = {"tiny": toy_models.tiny(), "slow": toy_models.slow(250)}
    decisions = TINY | {"slow": {"bundle": "slow.onnx", "budget": "3 s"}}
    write_estate(tmp_path, decisions, models, "scheduling = 'nice'")

    done = tidsram(tmp_path, "profile", "--runs", str(RUNS), "--json")

    assert done.returncode == 0, done.stderr
    told = {one["decision"]: one for one in json.loads(done.stdout)["profiles"]}
    estate = Estate(name="test", measured=".tidsram/measured")
    measured = read_measured(estate, tmp_path)
    assert set(measured.profiles) == {("tiny", "tiny", "box"), ("slow", "slow", "box")}
    for (decision, _, _), profile in measured.profiles.items():
        assert len(profile.run_ns) == len(profile.gate_ns) == RUNS
        assert profile.model_sha256 == hashlib.sha256(models[decision]).hexdigest()
        assert profile.memory_bytes > 20 << 20
        assert "lane on core" in profile.machine
        assert told[decision]["run"]["p50_us"] == percentile(sorted(profile.run_ns), 0.5) // 1000
        assert told[decision]["run"]["p99_us"] is None  # 60 runs cannot carry it
    assert told["slow"]["run"]["p50_us"] > 10 * told["tiny"]["run"]["p50_us"]


def test_nothing_is_left_of_the_node(tmp_path):
    """Neither its directory nor a process, and the files written are named."""
    write_estate(tmp_path, TINY, {"tiny": toy_models.tiny()}, "")
    (tmp_path / "tidsram.toml").write_text(
        (tmp_path / "tidsram.toml").read_text() + '[site.s]\nhardware = "h.1"\n[hardware."h.1"]\n'
    )

    done = tidsram(tmp_path, "profile", "tiny", "--runs", "10")

    assert done.returncode == 0, done.stderr
    state = tmp_path / ".tidsram"
    assert str(state / "measured" / "profiles" / "tiny.tiny.h%2E1.json") in done.stdout
    assert [path.name for path in state.iterdir()] == ["measured"]


def test_a_refused_model_is_the_nodes_own_sentence(tmp_path):
    """The others are measured all the same; the exit status is that of bad input."""
    models = {"tiny": toy_models.tiny(), "never": b"not a model at all"}
    decisions = {"never": {"bundle": "never.onnx", "budget": "1 s"}} | TINY
    write_estate(tmp_path, decisions, models, "lanes = [{ cores = [0] }]")

    done = tidsram(tmp_path, "profile", "--runs", "10", "--json")

    assert done.returncode == 2
    told = json.loads(done.stdout)
    assert [one["decision"] for one in told["profiles"]] == ["tiny"]
    (failed,) = told["failed"]
    assert failed["what"] == "never never"
    assert "not an ONNX model" in failed["problem"]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--hardware", "bx"], 'did you mean "box"'),
        (["tny"], 'did you mean "tiny"'),
        (["gone"], "there is no such file"),
        (["--runs", "1"], "greater than or equal to 10"),
    ],
    ids=["hardware", "decision", "model", "runs"],
)
def test_what_cannot_be_measured_is_refused(tmp_path, arguments, part):
    """Exit 2 and one sentence, before any node is started."""
    decisions = TINY | {"gone": {"bundle": "gone.onnx", "budget": "1 s"}}
    write_estate(tmp_path, decisions, {"tiny": toy_models.tiny()}, "scheduling = 'auto'")

    done = tidsram(tmp_path, "profile", *arguments)

    assert done.returncode == 2
    assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_fails_on_zeros_is_said_to(tmp_path):
    """It could not be found out (3), and the way out is named."""
    write_estate(
        tmp_path,
        {"failing": {"bundle": "failing.onnx", "budget": "1 s"}},
        {"failing": zero_by_zero()},
        "scheduling = 'auto'",
    )

    done = tidsram(tmp_path, "profile", "--runs", "10")

    assert done.returncode == 3
    assert "declare its times instead" in only_sentence(done)


def test_interrupted_it_takes_its_node_along(tmp_path):
    """SIGTERM in the middle: no process and no directory is left."""
    write_estate(tmp_path, TINY, {"tiny": toy_models.tiny()}, "scheduling = 'auto'")
    marker = f"{MARKER}-{os.getpid()}"
    running = subprocess.Popen(
        [sys.executable, "-m", "tidsram", "profile", "--runs", "100000"],
        cwd=tmp_path,
        env=dict(os.environ) | {MARKER: marker},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    state = tmp_path / ".tidsram"
    eventually(lambda: list(state.glob("lab-*/tidsram.log")), "a node")

    running.send_signal(signal.SIGTERM)

    assert running.wait(20) == 128 + signal.SIGTERM
    eventually(lambda: not list(Node._find(marker)), "all processes gone")
    assert not list(state.glob("lab-*"))


# probe -----------------------------------------------------------------------------------------


class Relay(threading.Thread):
    """A long way: hands on what one asker and a node say, each time after a delay."""

    def __init__(self, node: tuple[str, int], delay_s: float) -> None:
        super().__init__(daemon=True)
        self._node, self._delay_s = node, delay_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listener.getsockname())

    def __enter__(self) -> "Relay":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.join()

    def run(self) -> None:
        """Serve one asker after the other, who asks and waits for the answer."""
        with contextlib.suppress(OSError):
            while True:
                asker, _ = self._listener.accept()
                with asker, socket.create_connection(self._node) as node:
                    while question := asker.recv(4096):
                        time.sleep(self._delay_s)
                        node.sendall(question)
                        answer = node.recv(4096)
                        time.sleep(self._delay_s)
                        asker.sendall(answer)


@pytest.fixture(scope="module")
def two_nodes(start_for_module):
    """Two real nodes, as two sites would have."""
    return start_for_module("tiny"), start_for_module("tiny")


def estate(location: tuple[float, float] | None = None, **sites: str) -> Estate:
    """Return an estate whose site "here" is joined to these, each at an address."""
    others = {name: Site(name=name, http=http, location=location) for name, http in sites.items()}
    here = Site(name="here", http="", location=(60.67, 17.14))
    return Estate(
        name="n",
        measured="facts",
        sites={"here": here} | others,
        links=tuple(Link(a="here", b=name) for name in others),
    )


def address(node: Node) -> str:
    return "{}:{}".format(*node.tcp)


def test_a_probe_finds_the_way_and_no_more(two_nodes, tmp_path):
    """A way of 2 × 8 ms takes that and a little; without it there is only the little."""
    near, behind = two_nodes
    with Relay(behind.tcp, 0.008) as relay:
        world = estate(near=address(near), distant=relay.address)

        found = [probe(far, 40, lambda _: None) for far in joined_to(world, world.sites["here"])]

    for link in found:
        write_probe(tmp_path / "facts", link)
    links = read_measured(world, tmp_path).links
    near_p50, distant_p50 = (
        percentile(sorted(links[pair].rtt_ns), 0.5)
        for pair in (("here", "near"), ("distant", "here"))
    )
    assert len(links[("here", "near")].rtt_ns) == 40
    assert min(links[("distant", "here")].rtt_ns) >= 16 * MS
    assert 0 < near_p50 < 4 * MS
    assert distant_p50 < 22 * MS


def test_what_light_cannot_do_is_refused(two_nodes):
    """The node on this machine is not the one in Luleå, 590 km away."""
    world = estate((65.58, 22.15), lulea=address(two_nodes[0]))
    (far,) = joined_to(world, world.sites["here"])

    with pytest.raises(EstateError, match=r"light in fibre needs 5\.89 ms"):
        probe(far, 10, lambda _: None)


@pytest.mark.parametrize("http", ["", "127.0.0.1:0", "127.0.0.1:1", "no-such-host.invalid:80"])
def test_a_site_that_does_not_answer_is_named(http):
    """With what to do about it."""
    world = estate(lulea=http)
    (far,) = joined_to(world, world.sites["here"])

    with pytest.raises(NotReached, match=r"site lulea: .*(start one there|give it a fixed one)"):
        probe(far, 10, lambda _: None)


def test_the_own_node_is_not_another_sites(two_nodes):
    """As where neither site declares its address, and both have the default."""
    own = address(two_nodes[0])
    world = estate(lulea=own)
    here = structs.replace(world.sites["here"], http=own.replace("127.0.0.1", "0.0.0.0"))
    (far,) = joined_to(world, here)

    with pytest.raises(EstateError, match="is where here's own node listens"):
        probe(far, 10, lambda _: None)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + b"x" * 8000,
        b"x" * 100_000,
    ],
    ids=["nothing", "ssh", "no such page", "too long", "no end"],
)
def test_what_is_no_node_is_not_measured(said):
    """Whatever else listens at that address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        asker, _ = listener.accept()
        with asker, contextlib.suppress(OSError):
            asker.recv(4096)
            asker.sendall(said)
            asker.shutdown(socket.SHUT_WR)
            asker.recv(4096)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    world = estate(lulea="{}:{}".format(*listener.getsockname()))
    (far,) = joined_to(world, world.sites["here"])

    with pytest.raises(NotReached, match="site lulea"):
        probe(far, 10, lambda _: None)

    thread.join(5)
    listener.close()


LINKED = """[estate]
name = "n"
[decision.my]
bundle = "my.onnx"
budget = "1 s"
[site.gavle]
location = [60.67, 17.14]
[site.near]
http = "{near}"
location = [60.67, 17.14]
[site.gone]
http = "127.0.0.1:1"
[link.gavle.near]
[link.gone.gavle]
rtt = {{ p50 = "9 ms", p99_9 = "13 ms" }}
"""


def test_the_command_probes_every_link(two_nodes, tmp_path):
    """1: some were measured. They are written, and those that were not are named."""
    (tmp_path / "tidsram.toml").write_text(LINKED.format(near=address(two_nodes[0])))

    done = tidsram(tmp_path, "probe", "--from", "gavle", "--count", "20", "--json")

    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    (link,) = told["links"]
    assert (link["a"], link["b"], link["floor_us"]) == ("gavle", "near", 0)
    assert link["rtt"]["p50_us"] > 0
    assert link["rtt"]["p99_9_us"] is None
    assert [failed["what"] for failed in told["failed"]] == ["gone"]
    assert "site gone: no node answers at 127.0.0.1:1" in only_sentence(done)
    assert Path(link["file"]).name == "gavle--near.json"


def test_when_nothing_answers_there_is_no_verdict(tmp_path):
    """3, and each site is named."""
    (tmp_path / "tidsram.toml").write_text(LINKED.format(near="127.0.0.1:1"))

    done = tidsram(tmp_path, "probe", "--from", "gavle")

    assert done.returncode == 3
    assert done.stdout == ""
    assert "site near" in done.stderr
    assert "site gone" in done.stderr
