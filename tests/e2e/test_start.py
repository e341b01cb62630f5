"""Starting: what cannot be served is refused with a sentence; what is missing is said and borne."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy_models
from nodes import PATIENCE_S, Node, eventually, get, slow, tiny, write_estate


def serve(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `tidsram serve` where it is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "tidsram", "serve", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def refusal(folder: Path, *arguments: str) -> str:
    """Return the one line that a refused start says."""
    defaults = {"--http": "127.0.0.1:0", "--unix": "node.sock", "--budget": "20ms"}
    if not arguments:
        del defaults["--budget"]  # it is in the estate
    missing = [o for item in defaults.items() if item[0] not in arguments for o in item]
    done = serve(folder, *arguments, *missing)

    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    line = done.stderr.strip()
    assert line.startswith("tidsram: ")
    return line


# Models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "there is no such file"),
        (b"", "is empty"),
        (b"not a model at all", "not an ONNX model"),
        (b"\x08\x09" + b"\xff" * 5000, "not an ONNX model"),
        (toy_models.tiny()[:-40], "onnx"),
        (b"PK\x03\x04 a zip archive", "zip archive"),
    ],
    ids=["missing", "empty", "words", "noise", "cut off", "zipped"],
)
def test_a_file_that_is_no_model_is_refused(tmp_path, content, part):
    """Exit 2, one sentence with the file's name and a remedy, nothing left behind."""
    if content is not None:
        (tmp_path / "m.onnx").write_bytes(content)

    line = refusal(tmp_path, "m.onnx")

    assert part in line
    assert "m.onnx" in line
    assert not (tmp_path / "node.sock").exists()


def test_a_missing_model_in_an_estate_is_named_with_its_decision(tmp_path, models):
    """The others are there: the sentence says which is not."""
    decisions = {name: {"bundle": f"{name}.onnx", "budget": "1 s"} for name in ("tiny", "gone")}
    write_estate(tmp_path, decisions, models)

    line = refusal(tmp_path)

    assert "gone" in line
    assert "gone.onnx" in line


def test_the_refusal_can_be_read_by_a_script(tmp_path):
    """--json puts an object on stdout."""
    done = serve(tmp_path, "m.onnx", "--budget", "20ms", "--json")

    assert done.returncode == 2
    assert done.stderr == ""
    assert '"code"' in done.stdout
    assert "m.onnx" in done.stdout


# Addresses -------------------------------------------------------------------------------------


def test_a_port_in_use_is_said_with_the_way_out(tmp_path, models):
    """Exit 2; the other program goes on."""
    (tmp_path / "tiny.onnx").write_bytes(models["tiny"])
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        line = refusal(tmp_path, "tiny.onnx", "--http", address)

    assert f"{address} is in use" in line
    assert "--http 127.0.0.1:PORT" in line


@pytest.mark.parametrize(
    "address", ["nonsense", "127.0.0.1", "127.0.0.1:99999", "8700", "203.0.113.1:8700"]
)
def test_an_address_that_cannot_be_is_refused(tmp_path, models, address):
    """Not an address, or not one of this machine's."""
    (tmp_path / "tiny.onnx").write_bytes(models["tiny"])

    assert address in refusal(tmp_path, "tiny.onnx", "--http", address)


def test_another_nodes_socket_is_left_to_it(node, tmp_path, models):
    """Two nodes on one path: the second is refused, and the first still answers there."""
    (tmp_path / "tiny.onnx").write_bytes(models["tiny"])

    line = refusal(tmp_path, "tiny.onnx", "--unix", node.unix)

    assert "another node listens on" in line
    assert node.unix in line
    assert node.ask(tiny()).status == 200


def test_a_file_in_the_sockets_place_is_not_touched(tmp_path, models):
    """Whatever it is, it is somebody's."""
    (tmp_path / "tiny.onnx").write_bytes(models["tiny"])
    (tmp_path / "precious").write_text("data")

    line = refusal(tmp_path, "tiny.onnx", "--unix", "precious")

    assert "precious" in line
    assert (tmp_path / "precious").read_text() == "data"


@pytest.mark.parametrize("path", ["d" * 120, "tiny.onnx/x.sock"])
def test_a_socket_path_that_cannot_be_is_refused(tmp_path, models, path):
    """Too long for the kernel, or under something that is no directory."""
    (tmp_path / "tiny.onnx").write_bytes(models["tiny"])

    assert "--unix PATH" in refusal(tmp_path, "tiny.onnx", "--unix", path)


# What a machine may lack -----------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up a privilege")
def test_without_the_privilege_to_raise_priorities_it_serves_and_says_so(start):
    """No nice −20 and no SCHED_FIFO: it starts anyway and says what that costs."""
    without = ("setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice")
    node = start("tiny", "slow", before=without)

    assert node.ask(tiny()).status == 200
    assert node.ask(slow()).status == 200
    said = [line for line in node.told().splitlines() if "CAP_SYS_NICE" in line]
    assert len(said) == 1
    assert "serving all the same" in said[0]
    assert "milliseconds" in said[0]
    for pid in (node.health()["gate"], *node.workers("slow")):
        assert os.getpriority(os.PRIO_PROCESS, pid) >= 0
        assert os.sched_getscheduler(pid) == os.SCHED_OTHER


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the privilege to raise priorities")
def test_with_the_privilege_the_kernel_is_told_who_goes_first(start):
    """Gate before critical before standard, as the kernel sees it."""
    node = start("tiny", "slow")
    (critical,), (standard,) = node.workers("tiny"), node.workers("slow")

    assert os.getpriority(os.PRIO_PROCESS, node.health()["gate"]) == -20
    assert os.sched_getscheduler(critical) == os.sched_getscheduler(standard) == os.SCHED_FIFO
    first, second = os.sched_getparam(critical), os.sched_getparam(standard)
    assert first.sched_priority > second.sched_priority > 0
    assert "CAP_SYS_NICE" not in node.told()


def test_on_one_core_gate_and_lane_share_it(start, notice):
    """One core: everything is answered, and a deadline is told while a run has the core."""
    core = min(os.sched_getaffinity(0))
    node = start("tiny", "slow", before=("taskset", "--cpu-list", str(core)))

    for pid in (node.health()["gate"], *node.workers("tiny"), *node.workers("slow")):
        assert os.sched_getaffinity(pid) == {core}
    with node.connect() as connection:
        assert connection.ask(tiny()).status == 200
        assert connection.ask(slow()).status == 200
        begun = time.monotonic()
        missed = connection.ask(slow(50_000, budget_us=800_000))

    assert (missed.status, missed.reason) == (504, "deadline")
    assert 0.8 <= missed.at - begun < 0.8 + notice.limit_s
    assert f"lane 0: cores [{core}]; gate on cores [{core}]" in node.told()


def test_few_descriptors_are_a_limit_and_no_crash(start):
    """When none are left for more connections, those that are open go on, and room comes back."""
    node = start("tiny", before=("prlimit", "--nofile=100"))
    with node.connect() as old:
        assert old.ask(tiny()).status == 200
        crowd = [node.connect() for _ in range(150)]
        time.sleep(0.3)
        assert old.ask(tiny()).status == 200
        for connection in crowd:
            connection.socket.close()
        eventually(lambda: node.ask(tiny()).status == 200, "room again")


# The first seconds -----------------------------------------------------------------------------


def test_asked_too_early_it_says_not_ready(tmp_path, models):
    """The gate is there before the workers are: 503 and where to look, then 200."""
    write_estate(tmp_path, {"slow": {"bundle": "slow.onnx", "budget": "3 s"}}, models)
    node = Node(tmp_path)
    try:
        health = eventually(lambda: node.ask(get("/v2/health/ready")), "gate")
        assert health.status in (200, 503)
        early = node.ask(slow())
        if early.status != 200:
            assert (early.status, early.reason) == (503, "not-ready")
        node.wait_ready()
        assert node.ask(slow()).status == 200
    finally:
        node.stop()


@pytest.mark.parametrize("after_s", [0.05, 0.3, 0.6])
def test_a_start_can_be_called_off(tmp_path, models, after_s):
    """SIGTERM at any moment before it is ready: nothing is left, and no traceback."""
    write_estate(tmp_path, {"slow": {"bundle": "slow.onnx", "budget": "3 s"}}, models)
    node = Node(tmp_path)
    time.sleep(after_s)
    node.process.send_signal(signal.SIGTERM)

    assert node.process.wait(PATIENCE_S) in (0, -signal.SIGTERM)
    node.check_nothing_left()


def test_a_single_model_is_served_without_a_file(tmp_path, models):
    """The quick start: one decision, named after the file."""
    (tmp_path / "tiny.onnx").write_bytes(models["tiny"])
    node = Node(tmp_path, ["tiny.onnx", "--budget", "20ms"]).wait_ready()
    try:
        answer = node.ask(tiny(), tcp=True)

        assert answer.json["parameters"]["budget_us"] == 20_000
        assert answer.output().tolist() == [[8, 1]]
        written = [path.name for path in tmp_path.iterdir() if "stderr" not in path.name]
        assert sorted(written) == [".tidsram", "node.sock", "tiny.onnx"]
        assert [path.name for path in (tmp_path / ".tidsram").iterdir()] == ["local.admin.sock"]
    finally:
        assert node.stop() == 0
