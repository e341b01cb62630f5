"""What a critical decision notices of other work on its machine and its lane.

`python -m bench.pressure.contention`. Beside background work that takes what is left of every
core; under each scheduling class, alone on a saturated lane and beside long runs; and while another
decision's worker is loaded again and again.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bench.loadgen import Ints, Run, open_loop, percentiles, periodic
from bench.machine import ASKER_CORE, facts, most_files, others_busy, settled
from bench.models import LAYERS, OUT, Model, make
from bench.pressure.nodes import (
    Declared,
    PressureNode,
    ask_punctually,
    by_status,
    spread,
    without_pause,
)
from tidsram.clock import today
from tidsram.units import MS

PERIOD_S = 0.007
BUSY = 0.95  # of the machine, for a comparison beside full background load
LONG_COPIES = 16  # of `steady`, one after the other: about 35 ms
SATURATED = 10_000  # questions, more than a lane answers until the asker gives up after 5 s
FROZEN_NS = 40 * MS
BESIDE_LONG_RATE, LOADING_RATE = 136, 227  # 30 % and 50 % of the lane
LOADED_EVERY_S = 1.2

# Two processes, a core's worth each.
FILL = """
import os
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy as np
if {processes} > 1:
    os.fork()
a = np.random.default_rng(0).standard_normal((512, 512), np.float32)
while True:
    a @ a
"""

Load = Callable[[], AbstractContextManager[None]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a line per figure, and write bench/out/pressure_contention.json."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.pressure.contention", description=__doc__
    )
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--requests", type=int, default=3000, help="in each block of a pair")
    parser.add_argument("--seconds", type=float, default=8, help="of each of the other runs")
    parser.add_argument("--quick", action="store_true", help="2 pairs of 500 requests, 3 seconds")
    options = parser.parse_args(arguments)
    if options.quick:
        options.pairs, options.requests, options.seconds = 2, 500, 3
    most_files()
    result: dict[str, Any] = {
        "command": " ".join(["python -m bench.pressure.contention", *(arguments or sys.argv[1:])]),
        "date": today(),
        "machine": facts(),
        "others_busy": others_busy(),
        "period_ms": PERIOD_S * 1e3,
        "background": _beside_background(options.pairs, options.requests),
        "scheduling": {
            mode: _scheduling(mode, options.seconds) for mode in ("fifo", "nice", "auto")
        },
        "loading": _beside_loading(options.seconds, 3),
    }
    (OUT / "pressure_contention.json").write_text(json.dumps(result, indent=1))
    for name in ("background", "scheduling", "loading"):
        print(name, json.dumps(result[name], indent=1))


# beside background work --------------------------------------------------------------------------


def _beside_background(pairs: int, requests: int) -> dict[str, Any]:
    """Ask the critical decision alone and beside each kind of load, in turn."""
    steady = make("steady")
    decisions = {
        "critical": Declared(steady, "20 ms", "critical", 0.999, rate=1 / PERIOD_S),
        "leftover": Declared(steady, "1 s", "best-effort"),
    }
    with PressureNode(decisions) as node:
        loads: dict[str, Load] = {
            "alone": nullcontext,
            "command": lambda: _background(node, "0-1"),
            "decision": lambda: _best_effort(node),
        }
        rng = np.random.default_rng(8)
        blocks: dict[str, list[Run]] = {name: [] for name in loads}
        _critical(node, 200, rng)
        for number in range(pairs):
            for name in rng.permutation(list(loads)).tolist():
                with loads[name]():
                    blocks[name].append(_critical(node, requests, rng))
                print(f"pair {number + 1}, {name}", file=sys.stderr)
    return {name: compare(runs, blocks["alone"]) for name, runs in blocks.items()}


def _critical(node: PressureNode, requests: int, rng: np.random.Generator) -> Run:
    offsets = periodic(1 / PERIOD_S, (requests + 0.5) * PERIOD_S, rng)
    return ask_punctually(node.address, node.question("critical"), offsets)


@contextmanager
def _background(node: PressureNode, cores: str) -> Iterator[None]:
    """Run `tidsram background` with a command that takes all it gets of these cores."""
    source = FILL.format(processes=2 if "-" in cores else 1)
    assert node.unix is not None
    command = [
        *(sys.executable, "-m", "tidsram", "background", "-f", str(node.estate)),
        *("--node", node.unix, "--cores", cores, "--memory", "2 GiB"),
        *("--", sys.executable, "-c", source),
    ]
    with (OUT / "background.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        time.sleep(1.5)  # until the command has begun its work
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _best_effort(node: PressureNode) -> Iterator[None]:
    """Keep the lane full with a best-effort decision, and the other core with a command."""
    with (
        without_pause(node.address, node.question("leftover")),
        _background(node, str(ASKER_CORE)),
    ):
        yield


def compare(runs: Sequence[Run], alone: Sequence[Run]) -> dict[str, Any]:
    """Say how much longer the answers of each run took than those of its pair.

    A single block is too small to claim a p99.9 from; the pooled one is not, and a quantile of a
    block is compared with nothing but the same of its pair.
    """
    ratios, added_us = [], []
    for run, other in zip(runs, alone, strict=True):
        beside_ns, alone_ns = (float(np.quantile(latency(r), 0.999)) for r in (run, other))
        ratios.append(beside_ns / alone_ns)
        added_us.append((beside_ns - alone_ns) / 1e3)
    return {
        "by_status": by_status(Run.pooled(runs)),
        **percentiles("latency", np.concatenate([latency(run) for run in runs])),
        "block_p99_9_us": spread([float(np.quantile(latency(r), 0.999)) / 1e3 for r in runs]),
        "ratio_p99_9": spread(ratios),
        "added_p99_9_us": spread(added_us),
        "busy": spread([run.shares["busy"] for run in runs]),
        "steal": max(run.shares["steal"] for run in runs),
    }


def latency(run: Run) -> Ints:
    """Return each request's time from its intended instant to its answer; none: to the end."""
    done = np.where(run.status == 200, run.done, run.done.max())
    return np.asarray(done - run.intended, np.int64)


# scheduling classes ------------------------------------------------------------------------------


def _scheduling(mode: str, seconds: float) -> dict[str, Any]:
    """Saturate the lane with a critical decision; then ask it beside long standard runs."""
    decisions = {
        "critical": Declared(make("steady"), "2 s", "critical", rate=1000),
        "long": Declared(long_model(), "10 s"),
    }
    with PressureNode(decisions, mode) as node:
        question = node.question("critical")
        offsets = periodic(BESIDE_LONG_RATE, seconds, np.random.default_rng(9))
        ask_punctually(node.address, question, offsets[:200])
        with settled(ASKER_CORE, punctual=True):
            zeros = np.zeros(SATURATED, np.int64)
            saturated = open_loop(node.address, question, zeros, most_connections=2)
        time.sleep(2)  # the lane has been quiet for longer than `auto` looks back
        with without_pause(node.address, node.question("long")):
            time.sleep(2)
            beside = ask_punctually(node.address, question, offsets)
    print(f"scheduling {mode}", file=sys.stderr)
    return {"saturated": _closed(saturated), "beside_long": _told([beside])}


def _closed(run: Run) -> dict[str, Any]:
    """Describe a closed loop, which ended with its time and not with its last question."""
    answered = run.status == 200
    took_ns = (run.done - run.sent)[answered]
    return {
        "answers": int(answered.sum()),
        "frozen": int((took_ns > FROZEN_NS).sum()),
        "steal": run.shares["steal"],
        **percentiles("latency", took_ns),
    }


def _told(runs: Sequence[Run]) -> dict[str, Any]:
    pooled = Run.pooled(runs)
    return {
        "by_status": by_status(pooled),
        "busy": pooled.shares["busy"],
        "steal": max(run.shares["steal"] for run in runs),
        **percentiles("latency", np.concatenate([latency(run) for run in runs])),
    }


def long_model() -> Model:
    """Return `steady` several times in a row, as one model."""
    steady = make("steady")
    model = onnx.load(str(steady.path))
    add, *layers, mean = model.graph.node
    last, copies = f"h{LAYERS}", []
    for copy in range(1, LONG_COPIES):
        names = {name: f"{name}_{copy}" for node in layers for name in node.output} | {"h0": last}
        for node in layers:
            copies.append(onnx.NodeProto())
            copies[-1].CopyFrom(node)
            copies[-1].input[:] = [names.get(name, name) for name in node.input]
            copies[-1].output[:] = [names[name] for name in node.output]
        last = copies[-1].output[0]
    mean.input[0] = last
    nodes = list(chain([add], layers, copies, [mean]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path = Path(OUT / "long.onnx")
    onnx.save(model, str(path))
    return Model("long", path, "x", "y", steady.output_shape, steady.question)


# beside loading ----------------------------------------------------------------------------------


def _beside_loading(seconds: float, pairs: int) -> dict[str, Any]:
    """Ask at half of the lane, with and without a worker of another decision being loaded."""
    decisions = {
        "critical": Declared(make("steady"), "20 ms", "critical", rate=LOADING_RATE),
        "loaded": Declared(make("shufflenet"), "1 s"),
    }
    rng = np.random.default_rng(10)
    blocks: dict[str, list[Run]] = {"calm": [], "loading": []}
    with PressureNode(decisions) as node:
        question = node.question("critical")
        ask_punctually(node.address, question, periodic(LOADING_RATE, 1, rng))
        for _ in range(pairs):
            for name in rng.permutation(list(blocks)).tolist():
                offsets = periodic(LOADING_RATE, seconds, rng)
                with _loading(node) if name == "loading" else nullcontext():
                    blocks[name].append(ask_punctually(node.address, question, offsets))
                time.sleep(1.5)
        lost = node.log.count("loaded: worker")
    return {"loads": lost, **{name: _told(runs) for name, runs in blocks.items()}}


@contextmanager
def _loading(node: PressureNode) -> Iterator[None]:
    """Have the other decision's worker killed at a steady pace, so that one is loaded anew."""
    process = get_context("fork").Process(target=_load_again, args=(node,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _load_again(node: PressureNode) -> None:
    lost: list[int] = []
    while True:
        lost.append(node.wait_worker("loaded", besides=lost))
        os.kill(lost[-1], signal.SIGKILL)
        time.sleep(LOADED_EVERY_S)


if __name__ == "__main__":
    main()
