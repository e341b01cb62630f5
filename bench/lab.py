"""What the lab makes of the example models, beside what was asked of it.

`python -m bench lab`, after `make bundles`. Four things: how fast the rungs are beside fp32; a raw
frame beside separate processing (`bench.lab_frames`); how long `tidsram lab` takes; and whether
later runs of a node bear out the percentile that a profile claims.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.lab_frames import raw_and_separate
from bench.lab_models import (
    ESTATE,
    NAMES,
    Loaded,
    alone,
    data_of,
    directory_of,
    fused_fp32,
    loaded,
    make_data,
    source_of,
    spread,
)
from bench.machine import ASKER_CORE, LANE_CORE, Watch, facts, others_busy, settled
from bench.models import OUT
from bench.servers import Server
from tidsram.client.connection import Connection
from tidsram.client.files import prepare
from tidsram.clock import today
from tidsram.estate.bundle import ladder_of
from tidsram.estate.load import read_manifest
from tidsram.lab.data import evenly, prepared
from tidsram.lab.profile import lane_of
from tidsram.outcome import Outcome
from tidsram.stats import verdict

ROOT = Path(__file__).parents[1]
BUNDLES = ROOT / "bundles"
FOLDER = OUT / "lab"
DATA = FOLDER / "data"
RESULT = OUT / "lab.json"

FASTER = {  # than fp32 at the model's own size, at least so many times
    ("obstacle", "int8-416"): 2.0,
    ("obstacle", "int8-320"): 3.5,
    ("obstacle", "int8-224"): 7.0,
    ("tissue", "int8-188"): 2.0,
}
WALL_S = 300  # for `tidsram lab` on the 15 MB detector
WARM_UP_S = 1.0  # as long as a profile's worker
CLAIM = 0.99  # the percentile that later runs are held against


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write bench/out/lab.json."""
    parser = argparse.ArgumentParser(prog="python -m bench lab", description=__doc__)
    parser.add_argument("--bundles", type=Path, default=BUNDLES, help="where they lie")
    parser.add_argument("--rounds", type=int, default=20, help="of all forms of a model in turn")
    parser.add_argument("--runs", type=int, default=20, help="of a form in each round")
    parser.add_argument("--questions", type=int, default=100, help="different ones of a decision")
    parser.add_argument("--blocks", type=int, default=5, help="times that they are all asked")
    parser.add_argument("--lab-runs", type=int, default=500, help="that time a variant in the lab")
    parser.add_argument("--profile-runs", type=int, default=5000)
    parser.add_argument("--later-runs", type=int, default=1000)
    options = parser.parse_args(arguments)
    missing = [name for name in NAMES if not (options.bundles / name / "manifest.json").is_file()]
    if missing:
        raise SystemExit(f"{options.bundles} holds no {missing[0]}: run `make bundles` first")
    FOLDER.mkdir(parents=True, exist_ok=True)
    make_data(DATA)
    busy, watch = others_busy(), Watch()
    result: dict[str, Any] = {
        "command": " ".join(
            ["python -m bench lab", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "date": today(),
        "machine": facts(),
        "others_busy": busy,
        "options": {key: value for key, value in vars(options).items() if key != "bundles"},
    }
    with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
        result["speed"] = [_speed(options, name, Path(scratch)) for name in NAMES]
        result["frames"] = [
            raw_and_separate(name, DATA, Path(scratch), options.questions, options.blocks)
            for name in NAMES
        ]
        result["lab"] = _wall(options.lab_runs, Path(scratch))
        result["claims"] = [
            claim for name in NAMES for claim in _claims(options, name, Path(scratch))
        ]
    result["shares"] = watch.shares()
    RESULT.write_text(json.dumps(result, indent=1))


# The rungs, beside fp32


def _speed(options: argparse.Namespace, name: str, scratch: Path) -> dict[str, Any]:
    """Run all forms of one model in turn, in this process, on one core."""
    bundle = options.bundles / name
    manifest = read_manifest(bundle)
    forms = {"fp32": fused_fp32(name, manifest, scratch)}
    for variant in ladder_of(manifest, str(bundle)):
        forms[variant.name] = loaded(
            variant.name, Path(variant.model).read_bytes(), variant.engine, variant.precision
        )
    (sample,) = evenly(data_of(name, DATA, most=100).samples, 1)
    inputs = prepared(sample, forms["fp32"].engine.spec.inputs, manifest.question).inputs
    with settled(LANE_CORE):
        rounds = [_round(forms, inputs, options.runs) for _ in range(options.rounds + 1)][1:]
    rows: list[dict[str, Any]] = []
    for member in manifest.ladder:
        ratio = spread([one["fp32"] / one[member.name] for one in rounds])
        to_original = next(s.value for s in member.scores if s.against == "original")
        wanted = FASTER.get((name, member.name))
        rows.append(
            {
                "variant": member.name,
                "accuracy": member.accuracy,
                "metric": member.scores[0].metric,
                "against": member.scores[0].against,
                "to_original": to_original,
                "run_us": median(one[member.name] for one in rounds),
                "faster": ratio,
                "wanted": wanted,
            }
        )
        print(f"{name} {member.name}: {ratio['median']:.2f} × fp32", file=sys.stderr, flush=True)
    times = [row["run_us"] for row in rows]
    return {
        "bundle": name,
        "fp32_us": median(one["fp32"] for one in rounds),
        "rows": rows,
        "in_order": times == sorted(set(times), reverse=True),
    }


def _round(forms: Mapping[str, Loaded], inputs: Mapping[str, Any], runs: int) -> dict[str, float]:
    """Return the median time of each form in µs."""
    return {name: median(form.times_us(inputs, runs)) for name, form in forms.items()}


# The lab itself


def _wall(runs: int, scratch: Path) -> dict[str, Any]:
    """Time `tidsram lab` on the largest of the models, as it is without further options."""
    source = source_of("obstacle")
    begun = time.monotonic()
    _tidsram(
        *("lab", str(source), "--data", str(directory_of("obstacle", DATA))),
        *("-f", str(ESTATE), "--decision", "obstacle", "--runs", str(runs)),
        *("--out", str(scratch / "made")),
    )
    wall_s = time.monotonic() - begun
    print(f"tidsram lab: {wall_s:.0f} s", file=sys.stderr, flush=True)
    made = read_manifest(scratch / "made")
    return {
        "model": source.name,
        "bytes": source.stat().st_size,
        "wall_s": wall_s,
        "wanted_s": WALL_S,
        "forms": len(made.ladder) + len(made.left_out),
    }


# What a profile claims, and later runs


class OneRung(Server):
    """A node with one variant of a bundle on one lane, in the conditions of a profile."""

    name = "tidsram-lab"

    def __init__(self, bundle: Path, folder: Path) -> None:
        super().__init__()
        self.unix = str(folder / "node.sock")
        self._estate = folder / "tidsram.toml"
        lane = lane_of(1, sorted(os.sched_getaffinity(0)))
        self._estate.write_text(
            f'[estate]\nname = "bench"\nstate = "{folder}"\n'
            '[site.here]\nhardware = "box"\n'
            f"[hardware.box]\nlanes = [{{ cores = {list(lane.cores)} }}]\n"
            'memory = "1 B"\n'  # no spare worker, as while a profile is taken
            f'[decision.asked]\nbundle = "{bundle}"\nbudget = "10 s"\ncriticality = "critical"\n'
        )

    def command(self) -> Sequence[str]:
        """Return the command that serves the estate."""
        return [
            *(sys.executable, "-m", "tidsram", "serve", "-f", str(self._estate)),
            *("--http", self.address, "--unix", str(self.unix)),
        ]


def _claims(options: argparse.Namespace, name: str, scratch: Path) -> list[dict[str, Any]]:
    """Profile each rung of a bundle, then serve it again and count the runs beyond the claim."""
    bundle = options.bundles / name
    manifest, rows = read_manifest(bundle), []
    for member in manifest.ladder:
        folder = scratch / f"{name}-{member.name}"
        folder.mkdir()
        one = alone(bundle, manifest, member.name, folder / "bundle")
        told = json.loads(
            _tidsram(
                *("profile", str(one), "--runs", str(options.profile_runs), "--json"),
                *("--conditions", "alone"),
            )
        )
        claimed_us = told["profiles"][0]["run"]["p99_us"]
        if claimed_us is None:
            raise SystemExit(f"{options.profile_runs} runs carry no p99: take 459 or more")
        rows.append(_later(name, member.name, one, folder, claimed_us, options.later_runs))
    return rows


def _later(
    name: str, variant: str, bundle: Path, folder: Path, claimed_us: int, runs: int
) -> dict[str, Any]:
    with OneRung(bundle, folder) as node, settled(ASKER_CORE):
        times_us = _ask_zeros(str(node.unix), f"{name} {variant}", runs)
    within = sum(us <= claimed_us for us in times_us)
    judged = verdict(within, runs, CLAIM)
    print(f"{name} {variant}: {within}/{runs} within {claimed_us} µs, {judged}", file=sys.stderr)
    return {
        "bundle": name,
        "variant": variant,
        "claimed_us": claimed_us,
        "runs": runs,
        "within": within,
        "later_p50_us": median(times_us),
        "verdict": judged,
    }


def _ask_zeros(unix: str, what: str, runs: int) -> list[int]:
    """Ask zeros back to back, as a profile does, and return what the runs took in µs."""
    with Connection(f"unix:{unix}") as connection:
        metadata = connection.metadata("asked")
        assert metadata is not None, "the node serves what it was started for"
        inputs = prepare((), metadata, None).inputs
        until = time.monotonic() + WARM_UP_S
        times_us: list[int] = []
        while len(times_us) < runs:
            reply = connection.ask("asked", inputs)
            if reply.outcome is not Outcome.ANSWERED:
                raise SystemExit(f"{what} gave no answer: {reply.text}")
            if time.monotonic() > until:
                times_us.append(reply.parameters.stages_us["run"])
    return times_us


def _tidsram(*arguments: str) -> str:
    """Run one verb as a user does and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tidsram", *arguments],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode > 1:  # 1: it came to a no, such as that no variant keeps the budget
        raise SystemExit(f"tidsram {arguments[0]} ended with status {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
