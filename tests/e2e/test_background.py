"""`tidsram background`: real commands, good and bad, on leftover time; nothing of them is left."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from nodes import MARKER, PATIENCE_S, Node, eventually, slow

ROOT = Path(__file__).parent.parent.parent
TIDSRAM = [sys.executable, "-m", "tidsram", "background"]
LEFTOVER_S = 120.0  # what runs on leftover time waits until a busy machine has some
NOWHERE = "unix:nowhere.sock"
WAITS = "import time\ntime.sleep(60)"

# Every bad command gives up by itself in the end, should nobody have stopped it.
BOMB = """
import os, time
end = time.monotonic() + 20
if os.fork():  # the command itself stays, so that it has not ended before it is looked at
    time.sleep(20)
    os._exit(0)
for _ in range(12):
    os.fork()
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
"""
SPINS = """
import pathlib, signal, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
pathlib.Path("ready").touch()
end = time.monotonic() + 60
while time.monotonic() < end:
    pass
"""
EATS = """
import time
kept = [bytearray(b"x") * 10_000_000 for _ in range(100)]
time.sleep(60)
"""
DAEMON = """
import os, pathlib, time
if os.fork():
    while not pathlib.Path("daemon").exists():
        time.sleep(0.01)
    time.sleep(0.2)
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
pathlib.Path("daemon").write_text(str(os.getpid()))
time.sleep(60)
"""
RUNS_AWAY = """
import os, time
end = time.monotonic() + 20
if os.fork():
    time.sleep(0.3)
    os._exit(0)
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
    os.setsid()
"""
IGNORES = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("ready").touch()
time.sleep(60)
"""
TIDIES_UP = """
import pathlib, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: sys.exit(40 + number))
pathlib.Path("ready").touch()
time.sleep(60)
"""
LEAVES_ITS_CLASS = """
import os, pathlib, time
pid = os.fork()
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
if not pid:
    os.setsid()
    pathlib.Path("ready").touch()
time.sleep(60)
"""
SHARES = """
import os, time
kept = bytearray(b"x") * 100_000_000
for _ in range(4):
    if not os.fork():
        time.sleep(1)
        os._exit(0)
for _ in range(4):
    os.wait()
"""


class Background:
    """One `tidsram background` with all that it started."""

    def __init__(self, folder, source, *options, node=NOWHERE, command=None):
        self.folder = folder
        self._marker = uuid.uuid4().hex
        self._out, self._told = folder / "stdout", folder / "stderr"
        command = command or [sys.executable, "-c", source]
        where = [] if node is None else ["--node", node]
        with self._out.open("wb") as out, self._told.open("wb") as told:
            self.process = subprocess.Popen(
                [*TIDSRAM, "--json", *where, *options, "--", *command],
                cwd=folder,
                env=dict(os.environ) | {MARKER: self._marker},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=told,
            )

    def pids(self):
        """Return all living processes: the front, the watch, the command's."""
        return set(Node._find(self._marker))

    def watch(self):
        """Return the watching process's id."""
        front = self.process.pid
        path = Path(f"/proc/{front}/task/{front}/children")
        return int(eventually(lambda: path.read_text().split(), "the watch")[0])

    def command(self):
        """Return the command's processes."""
        return self.pids() - {self.process.pid, self.watch()}

    def when_ready(self):
        """Wait for the command to say that it is ready."""
        eventually((self.folder / "ready").exists, "the command ready", LEFTOVER_S)
        return self

    def told(self):
        """Return what has been said on stderr."""
        return self._told.read_text()

    def tells(self, text):
        """Wait for a text on stderr."""
        eventually(lambda: text in self.told(), f"{text!r}\n{self.told()}")

    def end(self):
        """Wait for the end and return the exit status; nothing is left, nobody saw a traceback."""
        status = self.process.wait(LEFTOVER_S)
        eventually(lambda: not self.pids(), "all processes gone", 2.0)
        assert "Traceback" not in self.told(), self.told()
        return status

    def report(self):
        """Return the last line on stdout."""
        return json.loads(self._out.read_text().splitlines()[-1])


class Counters(ThreadingHTTPServer):
    """A tiny server that counts as a node does."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.missed = {"obstacle": 0, "photos": 0}
        self.looks = 0
        self.connections = 0
        self.url = f"http://127.0.0.1:{self.server_port}"

    def process_request(self, *args):
        """Count connections."""
        self.connections += 1
        super().process_request(*args)

    def text(self):
        """Return the metrics."""
        labels = 'outcome="missed",reason="deadline"'
        lines = (
            f'tidsram_requests_total{{decision="{name}",{labels}}} {many}\n'
            for name, many in self.missed.items()
        )
        return "".join(lines).encode()

    def is_watched(self):
        """Wait for looks that began after this call."""
        looks = self.looks + 2
        eventually(lambda: self.looks >= looks, "looked at")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.server.text()
        self.send_response(200 if self.path == "/metrics" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.server.looks += 1

    def log_message(self, *_):
        pass


@pytest.fixture
def background(tmp_path):
    """Start commands in the background; whatever happens, none survives the test."""
    started = []

    def start(source, *options, **more):
        started.append(Background(tmp_path, source, *options, **more))
        return started[-1]

    yield start
    for one in started:
        for pid in one.pids():
            os.kill(pid, signal.SIGKILL)
        one.process.wait(PATIENCE_S)


@pytest.fixture
def counters():
    """A server of counters in its own thread."""
    with Counters() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def stat(pid):
    """Return the fields of /proc/PID/stat from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def states(pids):
    """Return the states that these processes are in."""
    return {stat(pid)[0] for pid in pids}


def test_whatever_it_starts_stands_behind_all_else(background):
    """Processes that leave SCHED_IDLE are put back; so is a session's share of the cores."""
    one = background(LEAVES_ITS_CLASS).when_ready()

    pids = one.command()

    assert len(pids) == 2
    eventually(
        lambda: {os.sched_getscheduler(pid) for pid in pids} == {os.SCHED_IDLE}, "in SCHED_IDLE"
    )
    for pid in pids:
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
        assert "Max core file size        0  " in Path(f"/proc/{pid}/limits").read_text()
        group = Path(f"/proc/{pid}/autogroup")
        if group.exists():
            eventually(lambda group=group: group.read_text().endswith("nice 19\n"), "held back")
    if os.uname().machine == "x86_64":
        idle = 3
        assert {ctypes.CDLL(None).syscall(252, 1, pid) >> 13 for pid in pids} == {idle}
    one.process.terminate()
    assert one.end() == 128 + signal.SIGTERM


def test_the_exit_status_is_the_commands(background):
    """The report says how it went, in the last line on stdout, after the command's own."""
    source = "import sys\nprint('mine')\nsum(range(3_000_000))\nsys.exit(7)"
    one = background(source)

    assert one.end() == 7
    assert (one.folder / "stdout").read_text().startswith("mine\n")
    report = one.report()
    assert (report["reason"], report["status"], report["pauses"]) == ("exited", 7, 0)
    assert 0 < report["cpu_seconds"] <= 2 * report["seconds"]


def test_a_signals_death_is_shown_as_shells_show_it(background):
    """128 and the signal's number."""
    one = background("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")

    assert one.end() == 128 + signal.SIGSEGV
    assert one.report()["reason"] == "signal"


def test_one_that_forks_without_end(background):
    """Past the cap all are stopped, then killed, faster than they can fork."""
    one = background(BOMB, "--processes", "20")

    assert one.end() == 128 + signal.SIGKILL
    assert one.report()["reason"] == "processes"
    assert "more than 20 processes" in one.told()


def test_one_that_eats_memory(background):
    """Past the cap it is killed, and the sentence says what it had and what was allowed."""
    one = background(EATS, "--memory", "150 MiB")

    assert one.end() == 128 + signal.SIGKILL
    assert one.report()["reason"] == "memory"
    assert "150 MiB are allowed" in one.told()


def test_memory_shared_after_a_fork_counts_once(background):
    """Five processes that show 100 MB each, all of it the same, have 100 MB."""
    one = background(SHARES, "--memory", "300 MiB")

    assert one.end() == 0


def test_one_that_spins(background):
    """It runs until it is interrupted, as from a terminal."""
    one = background(SPINS).when_ready()

    one.process.send_signal(signal.SIGINT)

    assert one.end() == 128 + signal.SIGINT
    assert one.report()["reason"] == "interrupted"


def test_one_that_daemonises(background):
    """What forked twice into a session of its own is known, and goes when the command does."""
    one = background(DAEMON)

    assert one.end() == 0
    assert not Path(f"/proc/{(one.folder / 'daemon').read_text()}").exists()
    assert "of its processes that had not" in one.told()


def test_one_that_runs_away(background):
    """One that forks and exits all the time, each time in a session of its own, is caught."""
    one = background(RUNS_AWAY)

    assert one.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_may_tidy_up(background, number):
    """It gets the signal that we got, and its own exit status is the answer."""
    one = background(TIDIES_UP).when_ready()

    one.process.send_signal(number)

    assert one.end() == 40 + number
    assert one.report()["reason"] == "interrupted"


def test_one_that_ignores_sigterm(background):
    """It has five seconds; then it is killed."""
    one = background(IGNORES).when_ready()

    one.process.terminate()

    assert one.end() == 128 + signal.SIGKILL
    assert "did not end within 5 s" in one.told()
    assert one.report()["seconds"] >= 5


@pytest.mark.parametrize("victim", ["front", "watch"])
def test_killing_either_of_its_two_processes_leaves_nothing(background, victim):
    """Whichever is killed, the other one ends the command and a daemon of it."""
    one = background(DAEMON.replace("time.sleep(0.2)", "time.sleep(60)"))
    eventually((one.folder / "daemon").exists, "the daemon", LEFTOVER_S)

    os.kill(one.process.pid if victim == "front" else one.watch(), signal.SIGKILL)

    assert one.end() == (-signal.SIGKILL if victim == "front" else 128 + signal.SIGKILL)


def test_nobody_has_to_read_what_it_says(tmp_path):
    """With stderr closed at the other end, the command still runs to its own end."""
    reading, writing = os.pipe()
    os.close(reading)

    done = subprocess.run(
        [*TIDSRAM, "--node", NOWHERE, "--", sys.executable, "-c", DAEMON],
        cwd=tmp_path,
        stderr=writing,
        timeout=LEFTOVER_S,
        check=False,
    )

    os.close(writing)
    assert done.returncode == 0
    assert not Path(f"/proc/{(tmp_path / 'daemon').read_text()}").exists()


def test_it_stays_on_its_cores(background):
    """--cores is handed down like everything else."""
    core = min(os.sched_getaffinity(0))
    one = background(TIDIES_UP, "--cores", str(core)).when_ready()

    assert {tuple(os.sched_getaffinity(pid)) for pid in one.command()} == {(core,)}
    one.process.terminate()
    one.end()


def test_it_pauses_while_decisions_are_missed_and_goes_on_after(background, counters):
    """Growth pauses everything it started; a second of quiet resumes it. One connection is kept."""
    one = background(LEAVES_ITS_CLASS, node=counters.url).when_ready()
    pids = one.command()
    counters.is_watched()

    counters.missed["obstacle"] += 2

    one.tells("paused: obstacle missed 2\n")
    eventually(lambda: states(pids) == {"T"}, "all stopped", LEFTOVER_S)
    one.tells("resumed after ")
    eventually(lambda: "T" not in states(pids), "all going on")
    assert counters.connections == 1
    one.process.terminate()
    one.end()
    report = one.report()
    assert report["pauses"] == 1
    assert report["paused_seconds"] >= 1


def test_a_paused_command_can_tidy_up(background, counters):
    """Told to end while it is stopped, it goes on in order to."""
    one = background(TIDIES_UP, node=counters.url).when_ready()
    counters.is_watched()
    counters.missed["obstacle"] += 1
    one.tells("paused: obstacle missed 1\n")

    one.process.terminate()

    assert one.end() == 40 + signal.SIGTERM


def test_best_effort_decisions_pause_nothing(background, counters, tmp_path):
    """The estate says where the node is and whose trouble counts."""
    decision = 'bundle = "m.onnx"\nbudget = "1 s"\n'
    (tmp_path / "tidsram.toml").write_text(
        f'[estate]\nname = "here"\n[site.s]\nhttp = "{counters.url.removeprefix("http://")}"\n'
        f'[decision.obstacle]\n{decision}[decision.photos]\n{decision}criticality = "best-effort"\n'
    )
    one = background(TIDIES_UP, "--site", "s", node=None).when_ready()
    counters.is_watched()

    counters.missed["photos"] += 5
    counters.is_watched()
    counters.missed["obstacle"] += 1

    one.tells("paused: obstacle missed 1\n")
    assert "photos" not in one.told()
    one.process.terminate()
    one.end()


def test_without_a_node_it_says_so_once_and_keeps_looking(background, tmp_path, start):
    """A node that starts later is found; a worker that it loses pauses the command."""
    where = tmp_path / "node0" / "node.sock"
    one = background(TIDIES_UP, node=str(where)).when_ready()
    one.tells("no node to watch at unix:")

    node = start("slow")

    assert str(where) == node.unix
    one.tells("watching the node at unix:")
    (worker,) = node.workers("slow")
    with node.connect() as connection:
        connection.send(slow(100_000))
        eventually(node.slots_taken, "the question is in flight")
        os.kill(worker, signal.SIGKILL)
        assert connection.read().reason == "worker-lost"
    one.tells("paused: slow worker lost 1\n")
    assert one.told().count("no node to watch") == 1
    one.process.terminate()
    one.end()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "say what to run"),
        (["--", "no-such-command"], "there is no such command"),
        (["--", "/"], "may not be executed"),
        (["--memory", "3 apples", "--", "true"], '--memory: "3 apples" is not a size'),
        (["--cores", "0-", "--", "true"], "names no cores"),
        (["--cores", "x", "--", "true"], "names no cores"),
        (["--cores", "9999", "--", "true"], "not within what this machine gives us"),
        (["--node", "ftp://x", "--", "true"], "no address of a node"),
        (["-f", "missing.toml", "--", "true"], "missing.toml"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, arguments, says):
    """Exit status 2, and never a traceback."""
    done = subprocess.run(
        [*TIDSRAM, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_training_example_runs(background):
    """The scikit-learn job learns something in a second of leftover time."""
    script = str(ROOT / "examples" / "background" / "train.py")
    one = background("", command=[sys.executable, script, "--seconds", "1"])

    assert one.end() == 0
    assert "of the test images right" in (one.folder / "stdout").read_text()
