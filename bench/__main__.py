"""`python -m bench`: measure everything and renew docs/benchmarks.md.

`--quick` makes it a few minutes of smoke test; its figures are not for publishing.
"""

import argparse
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
    (["bench.node"], ["--starts", "3", "--idle-seconds", "5", "--faults", "2"]),
]


def main() -> None:
    """Run each measurement in a process of its own, so none inherits another's settings."""
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
