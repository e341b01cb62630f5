"""The whole demo, once: find its files, start the node and the askers, tell, draw, write down."""

import os
import platform
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from rich.console import Console

from tidsram.demo import report, results
from tidsram.demo.askers import Askers
from tidsram.demo.material import Material, load_material
from tidsram.demo.node import Node
from tidsram.demo.story import Story, Tale, off_the_lanes
from tidsram.demo.telling import Telling
from tidsram.errors import QuestionError
from tidsram.estate.load import load_estate
from tidsram.estate.placement import lanes_of, show_cores
from tidsram.estate.types import Estate

_SITE = "here"


def play(
    *, seconds: int, keep: bool, out: Path, console: Console, progress_console: Console
) -> results.Results:
    """Play the demo; leave its pictures and its page in `out`; `keep` leaves the node to you."""
    _make(out)
    estate_file = find_estate()
    estate = load_estate(estate_file)
    materials = {
        name: load_material(decision, estate_file.parent)
        for name, decision in estate.decisions.items()
    }
    telling = Telling(console, progress_console, estate.decisions)
    machine = describe_machine(estate)
    telling.start(machine, estate_file, seconds)
    # Ended from outside, we must still stop the node.
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="tidsram-demo-") as directory,
            Node(estate_file, Path(directory)) as node,
        ):
            tale = _tell(estate, estate_file, materials, node, telling, seconds)
            files = report.leave(tale, estate, materials, machine, out)
            telling.end(tale.results, out, files)
            if keep:
                telling.keep(node.url)
                node.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    return tale.results


def _tell(
    estate: Estate,
    estate_file: Path,
    materials: Mapping[str, Material],
    node: Node,
    telling: Telling,
    seconds: int,
) -> Tale:
    ready_ns = node.wait_until_ready()
    telling.ready(ready_ns)
    with (
        off_the_lanes(estate, _SITE),
        Askers(node.url, estate_file, estate.decisions) as askers,
    ):
        askers.wait_until_here()
        story = Story(estate=estate, materials=materials, node=node, askers=askers, telling=telling)
        return story.tell(ready_ns, seconds)


def _make(out: Path) -> None:
    """Make the directory for what the demo leaves, before anything has been worked for."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QuestionError(
            f"the demo cannot write to {out.absolute()} ({error.strerror}); run it where it may"
        ) from None


def find_estate() -> Path:
    """Return the demo's estate file: of the clone we run from, or of the current directory."""
    clone = Path(__file__).resolve().parents[3]
    for root in (Path.cwd(), clone):
        file = root / "examples" / "demo" / "tidsram.toml"
        if file.is_file():
            return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    raise QuestionError(
        "the demo's models and pictures are not here (no examples/demo/tidsram.toml); "
        "clone the project and run `make demo` in it"
    )


def describe_machine(estate: Estate) -> str:
    """Say what the demo runs on, in one line."""
    cores = sorted(os.sched_getaffinity(0))
    lanes = "; ".join(show_cores(lane.cores) for lane in lanes_of(estate, _SITE, cores))
    return (
        f"{_processor()}, {show_cores(cores)} given to us, lanes on {lanes}, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def _leave(signum: int, _: FrameType | None) -> None:
    sys.exit(128 + signum)
