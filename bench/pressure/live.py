"""The budget under pressure on real servers: two decisions of two criticalities on one core.

`python -m bench.pressure.live`. S is one run of `steady` through our node, saturated; loads are
multiples of 1/S. `tight` is critical with a budget of 5 S, `loose` standard with 30 S, and on our
node both have a second variant of half the rounds, that counts as right in 0.9 of the cases. Open
loop; times count from the intended instant at the asker. Everybody meets the same questions.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from msgspec.structs import replace

from bench.loadgen import Run, open_loop, show
from bench.machine import ASKER_CORE, facts, most_files, others_busy, settled
from bench.models import OUT, Model, make
from bench.ours import Ours
from bench.pressure.live_figures import Round, Row, beside, row
from bench.pressure.live_replies import ask
from bench.pressure.live_servers import LadderNode, Target, declaration
from bench.pressure.live_simulated import simulate, stretched
from bench.pressure.live_triton import (
    OWN_QUEUES,
    PAUSE_S,
    ask_one_queue,
    best_of_own_queues,
    one_queue,
    own_queues,
)
from bench.pressure.metrics import chosen
from bench.pressure.workloads import SERVICE_NS, Asked, Kind, draw
from bench.questions import check_answer, infer_request
from bench.triton import SERVER_VERSION
from tidsram.clock import today
from tidsram.estate.types import Criticality
from tidsram.units import SECOND, US

ARRIVALS = ("poisson", "gamma 4")
LOADS = {0.7: 0.5, 1.2: 0.5, 2.0: 0.25}  # and the critical kind's share of the work
ALONE = (1.2, 2.0)  # where critical is asked alone too
OURS, ALONE_TOO = "ours", "ours, critical alone"
POLICIES = {"ours": OURS, "edf": "EDF, admission", "fifo": "FIFO, timeout", "triton": "Triton"}
TRIAL_S, TRIAL_SEED = 3.0, 99
SATURATING, RUNS, BLOCKS, WARM_UP = 3, 300, 5, 100
DRIFT = 0.1  # of the machine between the first and the last cell


@dataclass(frozen=True)
class Lab:
    """What is the same for all cells."""

    ladder: Sequence[Model]
    service_ns: int
    rungs: Sequence[float]
    seconds: float
    repeats: int

    def questions(self, arrivals: str, load: float, seconds: float, seed: int) -> list[Asked]:
        """Draw the questions of one round."""
        work_s = load * seconds * SERVICE_NS / self.service_ns
        drawn = draw(kinds(LOADS[load]), arrivals, load, work_s, seed)
        return [stretched(a, self.service_ns, self.rungs) for a in drawn]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a line per cell and kind, and write bench/out/pressure_live.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.pressure.live", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="of each policy in each round")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of each cell")
    parser.add_argument("--policies", default=",".join(POLICIES), help="those to measure")
    parser.add_argument("--quick", action="store_true", help="one round of 3 seconds")
    options = parser.parse_args(arguments)
    chosen_policies = options.policies.split(",")
    if unknown := set(chosen_policies) - set(POLICIES):
        parser.error(f"no policy {', '.join(sorted(unknown))}: choose of {', '.join(POLICIES)}")
    seconds, repeats = (3.0, 1) if options.quick else (options.seconds, options.repeats)
    most_files()
    others = others_busy()
    ladder = [make("steady"), make("steady-half")]
    runs_ns = [_run_ns(model) for model in ladder]
    lab = Lab(ladder, runs_ns[0], (1.0, runs_ns[1] / runs_ns[0]), seconds, repeats)
    rows: list[Row] = []
    pairs: list[Row] = []
    settings = {"ours": "our node: tight critical with its arrivals declared, both variants"}
    with ExitStack() as stack:
        fixed = _fixed(lab, chosen_policies, stack, settings)
        for arrivals in ARRIVALS:
            for load in LOADS:
                rounds = _cell(lab, arrivals, load, fixed, ours="ours" in chosen_policies)
                about = {"arrivals": arrivals, "load": load, "critical_share": LOADS[load]}
                rows += [row({**about, "policy": p}, r) for p, r in rounds.items()]
                if ALONE_TOO in rounds:
                    pairs.append(beside(about, rounds[ALONE_TOO], rounds[OURS]))
    result: dict[str, Any] = {
        "command": " ".join(["python -m bench.pressure.live", *(arguments or sys.argv[1:])]),
        "date": today(),
        "machine": {**facts(), "triton": SERVER_VERSION},
        "others_busy": others,
        "run_us": [run_ns / US for run_ns in runs_ns],
        "run_us_afterwards": _run_ns(ladder[0]) / US,
        "seconds": seconds,
        "repeats": repeats,
        "settings": settings,
        "rows": rows,
        "beside": pairs,
    }
    drift = result["run_us_afterwards"] / result["run_us"][0]
    if abs(drift - 1) > DRIFT:
        print(f"a run takes {drift:.2f} of what it took at first: loads are off", file=sys.stderr)
    (OUT / "pressure_live.json").write_text(json.dumps(result, indent=1))
    _print(result)


def kinds(critical_share: float) -> list[Kind]:
    """Return the two kinds, on the grid's scale."""
    return [
        Kind("tight", Criticality.CRITICAL, 5 * SERVICE_NS, critical_share),
        Kind("loose", Criticality.STANDARD, 30 * SERVICE_NS, 1 - critical_share),
    ]


def _run_ns(model: Model) -> int:
    """Return the time that one run takes of a node with this model when it is saturated."""
    with Ours(model, budget="1s") as node:
        question = infer_request(model, binary=True)
        check_answer(node.address, model, question)
        _ask_in_turn(node.address, question, WARM_UP, 1)
        with settled(ASKER_CORE, punctual=True):
            blocks = [_ask_in_turn(node.address, question, RUNS, SATURATING) for _ in range(BLOCKS)]
    return int(SECOND / median(run.answers_per_second for run in blocks))


def _ask_in_turn(address: str, question: bytes, count: int, connections: int) -> Run:
    return open_loop(address, question, np.zeros(count, np.int64), most_connections=connections)


def _fixed(
    lab: Lab, policies: Sequence[str], stack: ExitStack, settings: dict[str, str]
) -> dict[str, Target]:
    """Start the servers that stay as they are from cell to cell, warm."""
    best = lab.ladder[0]
    trial = lab.questions("poisson", 1.2, TRIAL_S, TRIAL_SEED)
    both = [a.kind for a in trial]
    found: dict[str, Target] = {}
    if "edf" in policies:
        equals = [replace(kind, criticality=Criticality.STANDARD) for kind in both]
        node = stack.enter_context(LadderNode("edf", equals, [best]))
        found["edf"] = _warm(node.target())
        settings["edf"] = "our node: both standard, one variant, no arrivals declared"
    if "fifo" in policies:
        address = stack.enter_context(one_queue(best, both)).address
        found["fifo"] = _warm(ask_one_queue(address, best, both))
        settings["fifo"] = "Triton: one model, one queue for both, timeouts = budgets"
    if "triton" in policies:
        address = stack.enter_context(own_queues(best, both)).address

        def score(target: Target) -> float:
            outcome = ask(_warm(target), trial).outcome
            return sum(chosen(outcome, k).in_time / chosen(outcome, k).offered for k in range(2))

        target, words = best_of_own_queues(address, best, trial, lab.service_ns, score)
        found["triton"] = target
        settings["triton"] = f"{OWN_QUEUES}; timeouts are the budgets less {words}"
    return found


def _cell(
    lab: Lab, arrivals: str, load: float, fixed: Mapping[str, Target], *, ours: bool
) -> dict[str, list[Round]]:
    """Ask everybody the same, round by round; in each round in another order."""
    ways = {POLICIES[name]: target for name, target in fixed.items()}
    rng = np.random.default_rng([int(load * 100), ARRIVALS.index(arrivals)])
    with ExitStack() as stack:
        if ours:
            both = [a.kind for a in lab.questions(arrivals, load, lab.seconds, 0)]
            rate = LOADS[load] * load * SECOND / lab.service_ns
            declared = {both[0].decision: declaration(arrivals, rate)}
            node = stack.enter_context(LadderNode("ours", both, lab.ladder, declared))
            ways[OURS] = _warm(node.target())
            if load in ALONE:
                ways[ALONE_TOO] = ways[OURS]
        rounds: dict[str, list[Round]] = {way: [] for way in ways}
        for seed in range(lab.repeats):
            asked = lab.questions(arrivals, load, lab.seconds, seed)
            for way in rng.permutation(list(ways)).tolist():
                time.sleep(PAUSE_S)  # queues are empty and token buckets full again
                its = asked[:1] if way == ALONE_TOO else asked
                heard = ask(ways[way], its)
                simulated = simulate(its, arrivals, heard, rng) if way == OURS else None
                rounds[way].append(Round(its, heard, simulated))
                print(f"{arrivals}, {load}, round {seed + 1}: {way}", file=sys.stderr)
    return rounds


def _warm(target: Target) -> Target:
    """Ask each question one after the other, until models and estimates are warm."""
    for question in target.questions.values():
        _ask_in_turn(target.address, question, WARM_UP, 1)
    return target


def _print(result: Mapping[str, Any]) -> None:
    runs = ", ".join(f"{us:.0f}" for us in result["run_us"])
    print(f"a run of each variant: {runs} µs; afterwards {result['run_us_afterwards']:.0f} µs")
    for name, words in result["settings"].items():
        print(f"{POLICIES[name]}: {words}")
    for line in map(_line, result["rows"]):
        print("\n".join(line))
    for pair in result["beside"]:
        alone, together, less = (_shown(pair[key]) for key in ("alone", "beside", "difference"))
        where = f"{pair['arrivals']}, load {pair['load']}"
        print(f"{where}: critical alone {alone}, beside {together}, difference {less}")


def _line(told: Row) -> Iterator[str]:
    late = show(told["own_lateness_p99_us"])
    yield (
        f"{told['arrivals']}, load {told['load']}, {told['policy']}: {told['offered']} asked, "
        f"{told['failed']} failed, own lateness p99 {late} µs, steal {told['steal']:.4f}"
    )
    for name, kind in told["kinds"].items():
        line = f"    {name}: in time {_shown(kind['goodput'])}"
        if "simulated" in told:
            line += f" (simulated {_shown(told['simulated'][name]['goodput'])})"
        for figure in ("missed_of_admitted", "evicted_of_admitted", "late_of_answered", "accuracy"):
            line += f", {figure.partition('_')[0]} {_shown(kind[figure])}"
        line += f", {kind['reasons']}"
        notice = " / ".join(_shown(kind[f"notice_{p}_us"], 1e3) for p in ("p50", "p99"))
        refused = " / ".join(show(kind[f"refused_after_{p}_us"]) for p in ("p50", "p99"))
        yield f"{line}, notice {notice} ms, refused after {refused} µs"


def _shown(spread: Mapping[str, float] | None, per: float = 1) -> str:
    if spread is None:
        return "–"
    middle, low, high = (spread[key] / per for key in ("median", "low", "high"))
    return f"{middle:.4f} ({low:.4f}–{high:.4f})" if per == 1 else f"{middle:.1f}"


if __name__ == "__main__":
    main()
