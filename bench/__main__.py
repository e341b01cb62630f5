"""`python -m bench`: measure everything and renew docs/benchmarks.md.

`--quick` makes it a few minutes of smoke test; its figures are not for publishing. The planner's
and the lab's are measured one by one as well: `python -m bench plan`, `plan-speed`,
`plan-exhaustive`, `plan-serve` and `lab`, each with options of its own; `python -m bench.report`
then renews the page.
"""

import argparse
import importlib
import subprocess
import sys

from bench import report

# Each measurement's arguments, and those that make it quick.
BENCHES = [
    (["bench.overhead"], ["--requests", "2500", "--blocks", "5", "--peer-requests", "500"]),
    (["bench.overload", "--model", "shufflenet"], ["--seconds", "3", "--repeats", "1"]),
    (["bench.overload", "--model", "steady"], ["--seconds", "3", "--repeats", "1"]),
    (["bench.overload_sim"], ["--seconds", "20"]),
    (["bench.pressure.grid"], ["--quick"]),
    (["bench.pressure.live"], ["--quick"]),
    (["bench.pressure.contention"], ["--quick"]),
    (["bench.pressure.faults"], ["--quick"]),
    (["bench.plan.score"], ["--estates", "1", "--requests", "2000", "--own-requests", "1000"]),
    (["bench.plan.speed"], ["--decisions", "20", "--requests", "300", "--solve-seconds", "5"]),
    (["bench.plan.exhaustive"], ["--estates", "2", "--requests", "1000"]),
    (["bench.plan.serve"], ["--runs", "1", "--seconds", "10", "--profile-runs", "200"]),
    (["bench.swaps"], ["--swaps", "2"]),
    (
        ["bench.lab"],
        [
            *("--rounds", "3", "--runs", "5", "--questions", "15", "--blocks", "2"),
            *("--lab-runs", "30", "--profile-runs", "500", "--later-runs", "200"),
        ],
    ),
    (["bench.node"], ["--starts", "3", "--idle-seconds", "5", "--faults", "2"]),
]

# Those that have a name of their own.
NAMED = {
    "lab": "bench.lab",
    "plan": "bench.plan.score",
    "plan-speed": "bench.plan.speed",
    "plan-exhaustive": "bench.plan.exhaustive",
    "plan-serve": "bench.plan.serve",
    "swaps": "bench.swaps",
}


def main() -> None:
    """Run the named measurement, or each in a process of its own: none inherits settings."""
    if len(sys.argv) > 1 and sys.argv[1] in NAMED:
        importlib.import_module(NAMED[sys.argv[1]]).main(sys.argv[2:])
    else:
        _all()


def _all() -> None:
    """Run every measurement, and renew the page unless it was quick."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    for bench, quicker in BENCHES:
        command = [sys.executable, "-m", *bench, *(quicker if quick else [])]
        if status := subprocess.run(command, check=False).returncode:
            raise SystemExit(status)
    if quick:
        print("quick: docs/benchmarks.md is left as it is", file=sys.stderr)
    else:
        report.main()


if __name__ == "__main__":
    main()
