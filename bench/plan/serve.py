"""Plan, then serve, on this machine: measured shares beside what the plan promised.

`python -m bench plan-serve`. Two of the example models are profiled here, planned for one node with
one lane, and served by that plan; then they are asked as declared, open loop, again and again. The
lane is busy for at most 0.4 of the time. No run may contradict an objective at 99 %.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from bench.loadgen import Ints, open_loop, periodic, poisson
from bench.machine import ASKER_CORE, LANE_CORE, facts, others_busy, settled
from bench.models import OUT, Model
from bench.questions import infer_request
from bench.servers import Server
from tidsram.client.connection import Connection
from tidsram.clock import today
from tidsram.estate.load import load_estate, load_plan
from tidsram.estate.plan import Plan
from tidsram.estate.types import Decision
from tidsram.stats import lower_bound, verdict

MODELS = Path(__file__).parents[2] / "models"
MOST_BUSY = 0.4  # of the lane
RUNS, SECONDS = 10, 60.0
FOLDER = OUT / "plan_serve"
RESULT = OUT / "plan_serve.json"

ESTATE = f"""[estate]
name = "bench"

[site.here]
hardware = "box"
jurisdiction = "SE"
max_nodes = 1

[hardware.box]
lanes = [{{ cores = [{LANE_CORE}] }}]
yearly_cost = 1000

[decision.obstacle]
bundle = "{MODELS}/obstacle/nanodet_g_320_int8.onnx"
budget = "50 ms"
objective = 0.99
criticality = "critical"
arrivals = {{ kind = "periodic", rate = "20/s" }}
sources = {{ here = 1 }}
survives = []

[decision.inspection]
bundle = "{MODELS}/inspection/pcb_defect_fcn16_320_int8.onnx"
budget = "80 ms"
objective = 0.99
arrivals = {{ kind = "poisson", rate = "36/s" }}
sources = {{ here = 1 }}
survives = []
"""


class PlannedNode(Server):
    """The plan's only node."""

    name = "tidsram-planned"

    def __init__(self, estate: Path, plan: Path) -> None:
        super().__init__()
        self.unix = str(FOLDER / "node.sock")
        self._estate, self._plan = estate, plan

    def command(self) -> Sequence[str]:
        """Return the command that a user gives."""
        return [
            *(sys.executable, "-m", "tidsram", "serve", "-f", str(self._estate)),
            *("--plan", str(self._plan), "--site", "here", "--node", "1"),
            *("--http", self.address, "--unix", str(self.unix)),
        ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Profile, plan, serve, ask, print, and write bench/out/plan_serve.json."""
    parser = argparse.ArgumentParser(prog="python -m bench plan-serve", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each run")
    parser.add_argument("--profile-runs", type=int, default=2_000)
    parser.add_argument("--requests", type=int, default=20_000, help="simulated by the plan")
    options = parser.parse_args(arguments)
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / "tidsram.toml"
    file.write_text(ESTATE)
    busy = others_busy()
    _tidsram("profile", "-f", str(file), "--runs", str(options.profile_runs))
    plan_file = FOLDER / "plan.json"
    _tidsram(*("plan", "-f", str(file), "--out", str(FOLDER), "--requests", str(options.requests)))
    plan = load_plan(plan_file)
    if plan.nodes[0].busy > MOST_BUSY:
        raise SystemExit(f"the lane would be {plan.nodes[0].busy:.0%} busy: take lower rates")
    decisions = load_estate(file).decisions
    with PlannedNode(file, plan_file) as node:
        runs = [_run(node, decisions, number, options.seconds) for number in range(options.runs)]
    result = {
        "command": " ".join(
            ["python -m bench plan-serve", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "date": today(),
        "machine": facts(),
        "others_busy": busy,
        "seconds": options.seconds,
        "busy": plan.nodes[0].busy,
        "verified": plan.verified,
        "planned": _planned(plan),
        "decisions": {name: _pooled(name, decisions[name], runs) for name in decisions},
        "runs": runs,
    }
    RESULT.write_text(json.dumps(result, indent=1))
    print(json.dumps(result["decisions"], indent=1))


def _tidsram(*arguments: str) -> None:
    """Run one verb as a user does; its words are its own."""
    done = subprocess.run([sys.executable, "-m", "tidsram", *arguments], check=False)
    if done.returncode:
        raise SystemExit(f"tidsram {arguments[0]} ended with status {done.returncode}")


def _run(
    node: PlannedNode, decisions: dict[str, Decision], number: int, seconds: float
) -> dict[str, Any]:
    """Ask both decisions at once, each by an asker of its own."""
    assert node.unix is not None, "a node of ours listens there"
    jobs = []
    with ProcessPoolExecutor(len(decisions), mp_context=get_context("fork")) as pool:
        for place, (name, decision) in enumerate(decisions.items()):
            offsets = _offsets(decision, seconds, [number, place])
            request = _question(node.unix, name)
            ask = partial(_ask, node.unix, request, offsets, decision.budget_ns)
            jobs.append((name, decision, pool.submit(ask)))
        told = {name: _judged(decision, job.result()) for name, decision, job in jobs}
    line = ", ".join(f"{n} {t['in_time']}/{t['asked']} {t['verdict']}" for n, t in told.items())
    print(f"run {number + 1}: {line}", file=sys.stderr, flush=True)
    return told


def _ask(unix: str, request: bytes, offsets: Ints, budget_ns: int) -> dict[str, Any]:
    time.sleep(0.2)  # until the other asker is there
    with settled(ASKER_CORE, punctual=True):
        return open_loop(unix, request, offsets).report(budget_ns)


def _offsets(decision: Decision, seconds: float, seed: list[int]) -> Ints:
    assert decision.arrivals is not None, "the estate declares them"
    rng, rate = np.random.default_rng(seed), decision.arrivals.rate
    return (periodic if decision.arrivals.kind == "periodic" else poisson)(rate, seconds, rng)


def _question(unix: str, name: str) -> bytes:
    """Return a question of noise in the shape that the node asks for."""
    with Connection(f"unix:{unix}") as connection:
        told = connection.metadata(name)
    assert told is not None, "the node serves what the plan says"
    (given,) = told.inputs
    pixels = np.random.default_rng(1).random(given.shape).astype(np.float32)
    model = Model(name, Path(name), given.name, told.outputs[0].name, (), pixels)
    return infer_request(model, binary=True)


def _judged(decision: Decision, told: dict[str, Any]) -> dict[str, Any]:
    kept = {key: told[key] for key in ("answered", "rejected", "missed", "failed", "late")}
    kept |= {key: value for key, value in told.items() if key.startswith(("latency", "own"))}
    return {
        "asked": told["offered"],
        "in_time": told["in_time"],
        "verdict": verdict(told["in_time"], told["offered"], decision.objective),
        **kept,
    }


def _pooled(name: str, decision: Decision, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    asked = sum(run[name]["asked"] for run in runs)
    in_time = sum(run[name]["in_time"] for run in runs)
    return {
        "objective": decision.objective,
        "budget_us": decision.budget_ns // 1000,
        "asked": asked,
        "in_time": in_time,
        "at_least": lower_bound(in_time, asked),
        "contradicted": sum(run[name]["verdict"] == "contradicted" for run in runs),
        "verdict": verdict(in_time, asked, decision.objective),
    }


def _planned(plan: Plan) -> dict[str, Any]:
    """Return what the plan's own simulation promised, by decision."""
    return {
        flow.decision: {
            "asked": proof.asked,
            "in_time": proof.in_time,
            "p50_us": proof.p50_us,
            "p99_us": proof.p99_us,
        }
        for flow in plan.flows
        for proof in flow.proofs
        if proof.case == "healthy"
    }


if __name__ == "__main__":
    main()
