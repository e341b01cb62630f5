"""Nothing leaves the machine, nothing is written outside the state directory.

The process under test lives in a network namespace whose only way out is a TUN device that these
tests hold: whatever it tries to send is recorded, answered where that lures out more, and dropped.
It idles for 90 s, because ONNX Runtime's telemetry has been seen to wait up to 75 s.
"""

import errno
import fcntl
import ipaddress
import os
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from tidsram.client.connection import Connection

IDLE_S = 90
MODEL = Path(__file__).parents[2] / "models" / "inspection" / "pcb_defect_fcn16_320_int8.onnx"

OPENVINO = f"""
import pathlib, signal
from tidsram.engine.openvino import load
load(pathlib.Path({str(MODEL)!r}).read_bytes(), "inspection", 1).warm_up(2)
print("warm", flush=True)
signal.pause()
"""
OPENVINO_UNSILENCED = "import openvino, signal; print('imported', flush=True); signal.pause()"
UNSILENCED = "import onnxruntime, signal; print('imported', flush=True); signal.pause()"
TALKER = """
import pathlib, os, signal, socket
for home in (os.environ["HOME"], os.environ["TMPDIR"], "/dev/shm", "/var/tmp"):
    pathlib.Path(home, "left-behind").write_text("x")
tcp = socket.socket()
tcp.settimeout(0.2)
try:
    tcp.connect((socket.gethostbyname("example.invalid"), 443))
except TimeoutError:
    pass
socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b"x", ("2001:db8::1", 4444))
group = socket.inet_aton("224.0.0.224") + socket.inet_aton("10.97.0.2")
member = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
print("said", flush=True)
signal.pause()
"""

# Linux's own: neighbour discovery and group reports of the interface itself.
IGNORED_ICMP6_TYPES = {133, 134, 135, 136, 143}
TUNSETIFF, TUN_WITHOUT_HEADER = 0x400454CA, 0x1001
PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 58: "icmp6"}
HOP_BY_HOP, UDP, DNS_PORT = 0, 17, 53
ANSWER = bytes([203, 0, 113, 7])  # an address for documentation: nobody's


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Recorder:
    """A network namespace of its own, and what its processes tried to send."""

    def __init__(self, name: str, tun: int) -> None:
        self.name, self.seen = name, set()
        self._tun, self._stop = tun, threading.Event()
        self._thread = threading.Thread(target=self._record)

    def __enter__(self) -> "Recorder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _record(self) -> None:
        while not self._stop.is_set():
            if select.select([self._tun], [], [], 0.1)[0]:
                self._take(os.read(self._tun, 65536))

    def _take(self, packet: bytes) -> None:
        if packet[0] >> 4 == 6:
            self._take_ipv6(packet)
            return
        protocol, body = packet[9], packet[(packet[0] & 15) * 4 :]
        self._note(protocol, packet[16:20], body)
        if protocol == UDP and struct.unpack_from("!H", body, 2)[0] == DNS_PORT:
            os.write(self._tun, dns_reply(packet, body))

    def _take_ipv6(self, packet: bytes) -> None:
        protocol, body = packet[6], packet[40:]
        if protocol == HOP_BY_HOP:
            protocol, body = body[0], body[(body[1] + 1) * 8 :]
        if PROTOCOLS.get(protocol) != "icmp6" or body[0] not in IGNORED_ICMP6_TYPES:
            self._note(protocol, packet[24:40], body)

    def _note(self, protocol: int, destination: bytes, body: bytes) -> None:
        words = [PROTOCOLS.get(protocol, str(protocol)), str(ipaddress.ip_address(destination))]
        if words[0] in ("tcp", "udp"):
            port = struct.unpack_from("!H", body, 2)[0]
            words.append(str(port))
            if port == DNS_PORT:
                words.append(dns_name(body[8:]))
        self.seen.add(" ".join(words))


def dns_name(query: bytes) -> str:
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += query[at] + 1
    return ".".join(labels)


def dns_reply(packet: bytes, body: bytes) -> bytes:
    """Return the packet that answers every name with one address, so that a caller goes on."""
    query = body[8:]
    end = query.index(0, 12) + 5
    is_a = query[end - 4 : end - 2] == b"\0\1"
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\x04" + ANSWER if is_a else b""
    head = query[:2] + b"\x81\x80\0\1" + bytes([0, is_a]) + bytes(4)
    reply = head + query[12:end] + record
    source_port = struct.unpack_from("!H", body)[0]
    datagram = struct.pack("!HHHH", DNS_PORT, source_port, 8 + len(reply), 0) + reply
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 0, 0, 64, UDP, 0)
    header += packet[16:20] + packet[12:16]
    return header[:10] + checksum(header) + header[12:] + datagram


def checksum(header: bytes) -> bytes:
    total = sum(struct.unpack("!10H", header))
    total = (total >> 16) + (total & 0xFFFF)
    return struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)


@contextmanager
def recorder(kind: str) -> Iterator[Recorder]:
    """Make a namespace and take it down again; skip, and say why, where that is not possible."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and the `ip` command (iproute2) to make a network namespace")
    name, device, resolver = f"tidsram-{kind}-{os.getpid()}", f"{kind}{os.getpid()}", None
    with ExitStack() as stack:
        tun = open_tun(device)
        stack.callback(os.close, tun)
        try:
            ip("netns", "add", name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"needs network namespaces: {error.stderr.decode().strip()}")
        stack.callback(ip, "netns", "del", name)
        resolver = Path("/etc/netns") / name
        resolver.mkdir(parents=True)
        stack.callback(shutil.rmtree, resolver)
        (resolver / "resolv.conf").write_text("nameserver 10.97.0.53\n")
        ip("link", "set", device, "netns", name)
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "addr", "add", "10.97.0.2/24", "dev", device)
        ip("-n", name, "addr", "add", "fd97::2/64", "dev", device, "nodad")
        ip("-n", name, "link", "set", device, "up")
        ip("-n", name, "route", "add", "default", "via", "10.97.0.1")
        ip("-n", name, "route", "add", "default", "via", "fd97::1", "dev", device)
        yield stack.enter_context(Recorder(name, tun))


def open_tun(device: str) -> int:
    try:
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        pytest.skip(f"needs /dev/net/tun: {errno.errorcode[error.errno or 0]}")
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", device.encode(), TUN_WITHOUT_HEADER))
    return tun


class Watched:
    """A command at work in a recorder's namespace, with empty directories to be left empty."""

    def __init__(self, records: Recorder, command: Sequence[str], room: Path) -> None:
        self._records, self._room = records, room
        self.state = room / "state"
        for directory in ("home", "tmp", "state"):
            (room / directory).mkdir()
        # CI=true silences ONNX Runtime, and so does its own switch if the shell has it.
        kept = {"PATH", "LANG", "LD_LIBRARY_PATH", "VIRTUAL_ENV"}
        environment = {name: text for name, text in os.environ.items() if name in kept}
        environment |= {"HOME": str(room / "home"), "TMPDIR": str(room / "tmp")}
        # `ip netns exec` gives a mount namespace too: these two are this command's alone.
        private = 'mount -t tmpfs none /dev/shm && mount -t tmpfs none /var/tmp && exec "$@"'
        with (room / "said").open("wb") as said:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", records.name, "sh", "-c", private, "sh", *command],
                cwd=room / "state",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        self._started = time.monotonic()

    def wait_until_it_says(self, word: str) -> None:
        while word not in self.said and self.process.poll() is None:
            time.sleep(0.05)
        assert word in self.said

    def idle(self, seconds: float) -> None:
        """Wait until `seconds` after the start, or the command's early end."""
        left = self._started + seconds - time.monotonic()
        try:
            self.process.wait(max(0, left))
        except subprocess.TimeoutExpired:
            return
        raise AssertionError(f"it ended early: {self.said}")

    @property
    def said(self) -> str:
        return (self._room / "said").read_text()

    @property
    def sent(self) -> set[str]:
        return set(self._records.seen)

    @property
    def files(self) -> list[str]:
        """List what lies outside the state directory, as the command sees it."""
        root = Path(f"/proc/{self.process.pid}/root")
        places = (self._room / "home", self._room / "tmp", root / "dev/shm", root / "var/tmp")
        return [f"{p.name}/{f.relative_to(p)}" for p in places for f in p.rglob("*")]


@pytest.fixture(scope="session")
def watched(tmp_path_factory) -> Iterator[dict[str, Watched]]:
    """Start all commands at once, so that the long ones idle beside other tests."""
    python = [sys.executable, "-c"]
    commands = {
        "ours": [sys.executable, "-m", "tidsram", "serve", str(MODEL), "--budget", "1s"],
        "bare": [*python, UNSILENCED],
        "vino": [*python, OPENVINO],
        "open": [*python, OPENVINO_UNSILENCED],
        "talk": [*python, TALKER],
    }
    with ExitStack() as stack:
        started = {}
        for kind, command in commands.items():
            records = stack.enter_context(recorder(kind))
            started[kind] = Watched(records, command, tmp_path_factory.mktemp(kind))
            stack.callback(started[kind].process.wait)
            stack.callback(started[kind].process.kill)
        yield started


def test_the_recorder_sees_names_connections_datagrams_and_groups(watched):
    """Resolve, connect, send by IPv6 and join a multicast group in its namespace."""
    talker = watched["talk"]

    talker.wait_until_it_says("said")
    time.sleep(0.5)  # the group's report follows its join

    assert talker.sent >= {
        "udp 10.97.0.53 53 example.invalid",
        "tcp 203.0.113.7 443",
        "udp 2001:db8::1 4444",
    }
    assert any(packet.startswith("igmp") for packet in talker.sent)


def test_the_watch_sees_files_in_every_place(watched):
    """Leave a file in the home, the temporary directories and shared memory."""
    talker = watched["talk"]

    talker.wait_until_it_says("said")

    places = ("home", "tmp", "shm", "tmp")
    assert sorted(talker.files) == sorted(f"{place}/left-behind" for place in places)


def test_a_node_sends_nothing_and_writes_nothing(watched):
    """Serve a real model, answer, idle through the time in which telemetry would have been sent."""
    ours = watched["ours"]
    ours.wait_until_it_says("ready after")
    with Connection(f"unix:{ours.state / '.tidsram' / 'local.sock'}") as node:
        question = np.zeros((1, 320, 320, 2), np.float32)
        (name,) = (tensor.name for tensor in node.metadata(MODEL.stem).inputs)
        reply = node.ask(MODEL.stem, {name: question})
    assert reply.outcome == "answered"

    ours.idle(IDLE_S)

    assert ours.sent == set()
    assert ours.files == []


def test_the_idle_time_is_long_enough_to_catch_telemetry(watched):
    """Import the runtime without our care: within the same time it must have been caught."""
    bare = watched["bare"]
    bare.wait_until_it_says("imported")

    bare.idle(IDLE_S)

    if not bare.sent and not bare.files:
        pytest.skip("this build of ONNX Runtime has no telemetry, so there is none to catch")
    assert any(packet.startswith("udp 10.97.0.53 53 ") for packet in bare.sent)
    assert any(packet.startswith("tcp ") for packet in bare.sent)


def test_openvino_sends_nothing_and_writes_nothing(watched):
    """Load and run a real model on it, and idle as long as the node does."""
    vino = watched["vino"]
    vino.wait_until_it_says("warm")

    vino.idle(IDLE_S)

    assert vino.sent == set()
    assert vino.files == []


def test_openvino_left_to_itself_is_caught(watched):
    """Import it without our care: what it then sends or writes must have been seen."""
    bare = watched["open"]
    bare.wait_until_it_says("imported")

    bare.idle(IDLE_S)

    assert bare.files != []
    assert any(packet.startswith("udp 10.97.0.53 53 ") for packet in bare.sent)
