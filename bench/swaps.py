"""What a change of version costs: swaps and rollbacks under load, beside as much time without.

`python -m bench swaps`. One decision is asked open loop for 70 % of its lane, a critical one beside
it a hundred times a second. Again and again the first is deployed in another version, and
rolled back; each time is followed by a stretch as long in which nothing is changed. Both versions
are the same net, so that whatever differs between the two kinds of stretches is the change's doing.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.loadgen import Ints, Run, open_loop, periodic, poisson
from bench.machine import ASKER_CORE, facts, most_files, others_busy, settled
from bench.models import OUT, Model, make, session
from bench.node import Node
from bench.questions import infer_request
from tidsram.clock import now_ns, today
from tidsram.serve.admin import Deploy, Request, Rollback, ask_node
from tidsram.stats import lower_bound, upper_bound
from tidsram.units import MS, SECOND

SHARE = 0.7  # of the lane
BUDGETS = {"changed": 100 * MS, "critical": 20 * MS}
CRITICAL_RATE = 100
SETTLED_S = 1.0

Span = tuple[int, int]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write bench/out/swaps.json."""
    parser = argparse.ArgumentParser(prog="python -m bench swaps", description=__doc__)
    parser.add_argument("--swaps", type=int, default=50, help="and as many rollbacks")
    parser.add_argument("--stretch", type=float, default=4.0, help="seconds, at least")
    options = parser.parse_args(arguments)
    most_files()
    steady, tiny = make("steady"), make("tiny")
    other = _same_net_again(steady)
    run_s = _run_s(steady)
    seconds = 4.8 * options.swaps * options.stretch + 10
    rng = np.random.default_rng(5)
    loads = {
        "changed": (steady, poisson(SHARE / run_s, seconds, rng)),
        "critical": (tiny, periodic(CRITICAL_RATE, seconds, rng)),
    }
    with (
        Node({"changed": (steady, "100 ms"), "critical": (tiny, "20 ms")}) as node,
        ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool,
    ):
        asked = {
            name: pool.submit(_ask, node.address, model, name, offsets)
            for name, (model, offsets) in loads.items()
        }
        time.sleep(SETTLED_S)
        spans, took_ms = _change(other, options.swaps, options.stretch)
        runs = {name: run.result() for name, run in asked.items()}
    result = {
        "command": " ".join(["python -m bench swaps", *(arguments or sys.argv[2:])]),
        "date": today(),
        "machine": facts(),
        "others_busy": others_busy(),
        "swaps": options.swaps,
        "rollbacks": options.swaps,
        "run_ms": run_s * 1e3,
        "change_ms": {"median": median(took_ms), "max": max(took_ms)},
        "decisions": {name: _judge(run, spans, BUDGETS[name]) for name, run in runs.items()},
    }
    (OUT / "swaps.json").write_text(json.dumps(result, indent=1))
    print(json.dumps({key: result[key] for key in ("change_ms", "decisions")}, indent=1))


def _same_net_again(model: Model) -> Path:
    """Write the model under another digest."""
    import onnx

    found = onnx.load(model.path)
    found.doc_string = "another version"
    path = model.path.with_name(f"{model.name}-again.onnx")
    onnx.save(found, path)
    return path


def _run_s(model: Model) -> float:
    """Return what one run takes when nothing else runs."""
    opened, times_ns = session(model.path), []
    for _ in range(30):
        begun_ns = now_ns()
        opened.run(None, {model.input_name: model.question})
        times_ns.append(now_ns() - begun_ns)
    return median(times_ns) / SECOND


def _ask(address: str, model: Model, name: str, offsets: Ints) -> Run:
    request = infer_request(model, binary=True)
    request = request.replace(f"/models/{model.name}/".encode(), f"/models/{name}/".encode(), 1)
    with settled(ASKER_CORE, punctual=True):
        return open_loop(address, request, offsets)


def _change(
    bundle: Path, swaps: int, stretch_s: float
) -> tuple[dict[str, list[Span]], list[float]]:
    """Swap and roll back in turn; return when was changed and when not, and how long each took."""
    socket = OUT / "state" / "local.admin.sock"
    deploy = Deploy(path=str(bundle), decision="changed")
    requests: list[Request] = [deploy, Rollback(decision="changed")] * swaps
    spans: dict[str, list[Span]] = {"changed": [], "quiet": []}
    took_ms = []
    for number, request in enumerate(requests, 1):
        begun_ns = now_ns()
        ask_node(socket, request, lambda _: None)
        took_ms.append((now_ns() - begun_ns) / 1e6)
        time.sleep(max(0.5, stretch_s - took_ms[-1] / 1e3))
        ended_ns = now_ns()
        spans["changed"].append((begun_ns, ended_ns))
        time.sleep((ended_ns - begun_ns) / SECOND)
        spans["quiet"].append((ended_ns, now_ns()))
        print(f"{number} of {len(requests)}: {took_ms[-1]:.0f} ms", file=sys.stderr)
    return spans, took_ms


def _judge(run: Run, spans: dict[str, list[Span]], budget_ns: int) -> dict[str, Any]:
    """Count what became of the questions that were meant for either kind of stretch."""
    counted = {kind: _count(run, which, budget_ns) for kind, which in spans.items()}
    (k1, n1), (k0, n0) = ((counted[kind]["broken"], counted[kind]["asked"]) for kind in spans)
    extra_at_most = upper_bound(k1, n1) - lower_bound(k0, n0)
    shown = lower_bound(k1, n1) > upper_bound(k0, n0)
    return {
        **counted,
        "extra_share": k1 / n1 - k0 / n0,
        "extra_share_at_most": extra_at_most,
        "verdict": "extra misses" if shown else "no extra misses shown, at 99 %",
    }


def _count(run: Run, spans: Sequence[Span], budget_ns: int) -> dict[str, int]:
    within = np.zeros(len(run.intended), bool)
    for begun_ns, ended_ns in spans:
        within |= (run.intended >= begun_ns) & (run.intended < ended_ns)
    status, latency_ns = run.status[within], (run.done - run.intended)[within]
    late = (status == 200) & (latency_ns > budget_ns)
    refused = status == 503
    failed = ~np.isin(status, (200, 503, 504))
    missed = status == 504
    return {
        "asked": int(within.sum()),
        "missed": int(missed.sum()),
        "failed": int(failed.sum()),
        "late": int(late.sum()),
        "broken": int((missed | failed | late).sum()),
        "refused": int(refused.sum()),
    }


if __name__ == "__main__":
    main()
