"""What a question costs beside the model's own run: one asker, back to back, all servers in turn.

`python -m bench.overhead`. Blocks alternate so that what the machine does to one server it does to
all; ratios are taken within a block.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from bench.echo import Echo
from bench.loadgen import back_to_back, connect, percentiles, show
from bench.machine import ASKER_CORE, LANE_CORE, Watch, facts, others_busy, settled
from bench.models import OUT, Model, make, session
from bench.ours import Ours
from bench.questions import check_answer, infer_request
from bench.triton import SERVER_VERSION, Triton
from tidsram.clock import today

WARM_UP = 300
PEERS = ("triton", "triton-one-core")

Measure = Callable[[int], list[int]]


@dataclass(frozen=True)
class Target:
    """One row of the table: a server (or none), a model, a way to write the tensors."""

    server: str
    model: str
    wire: str
    measure: Measure

    @property
    def key(self) -> str:
        """Name the row."""
        return f"{self.server}/{self.model}/{self.wire}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a line per target and write bench/out/overhead.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000, help="per server, in all blocks")
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--servers", default="echo,tidsram,triton", help="those to start")
    options = parser.parse_args(arguments)
    models = [make("tiny"), make("mid")]
    others = others_busy()
    with ExitStack() as stack:
        targets = _targets(models, set(options.servers.split(",")), stack)
        watch = Watch()
        blocks = _run(targets, options.blocks, options.requests // options.blocks)
        shares = watch.shares()
    rows = [_row(target, [block[target.key] for block in blocks]) for target in targets]
    result = {
        "command": " ".join(["python -m bench.overhead", *(arguments or sys.argv[1:])]),
        "date": today(),
        "machine": {**facts(), "triton": SERVER_VERSION},
        "others_busy": others,
        "shares": shares,
        "requests": options.requests,
        "blocks": options.blocks,
        "rows": rows,
        "ratios": _ratios(rows),
    }
    (OUT / "overhead.json").write_text(json.dumps(result, indent=1))
    _print(result)


def _targets(models: Sequence[Model], servers: set[str], stack: ExitStack) -> list[Target]:
    targets = [Target("in-process", m.name, "none", _in_process(m)) for m in models]
    places: list[tuple[str, str, Sequence[Model]]] = []
    if "echo" in servers:
        places.append(("echo", stack.enter_context(Echo()).address, models))
    if "tidsram" in servers:
        for model in models:
            node = stack.enter_context(Ours(model, budget="1s"))
            places.append(("tidsram-unix", str(node.unix), [model]))
            places.append(("tidsram", node.address, [model]))
    if "triton" in servers:
        both = stack.enter_context(Triton(models))
        # Where waking another core is dear, Triton does best on the asker's own.
        one = stack.enter_context(Triton(models, cores=str(ASKER_CORE)))
        places += [(PEERS[0], both.address, models), (PEERS[1], one.address, models)]
    for server, address, served in places:
        for model in served:
            for wire in ("binary", "json") if model.name == "tiny" else ("binary",):
                request = infer_request(model, binary=wire == "binary")
                if server != "echo":
                    check_answer(address, model, request)
                targets.append(Target(server, model.name, wire, _asks(address, request)))
    return targets


def _in_process(model: Model) -> Measure:
    run, feed = session(model.path).run, {model.input_name: model.question}
    now = time.monotonic_ns

    def measure(count: int) -> list[int]:
        latencies = [0] * count
        with settled(LANE_CORE):
            for index in range(count):
                start = now()
                run(None, feed)
                latencies[index] = now() - start
        return latencies

    return measure


def _asks(address: str, request: bytes) -> Measure:
    def measure(count: int) -> list[int]:
        with settled(ASKER_CORE), connect(address) as sock:
            return back_to_back(sock, request, count)

    return measure


def _run(targets: Sequence[Target], blocks: int, count: int) -> list[dict[str, list[int]]]:
    measured = []
    for block in range(blocks):
        turn = block % len(targets)
        order = [*targets[turn:], *targets[:turn]]
        measured.append({t.key: t.measure(WARM_UP + count)[WARM_UP:] for t in order})
        print(f"block {block + 1} of {blocks} done", file=sys.stderr)
    return measured


def _row(target: Target, blocks: Sequence[Sequence[int]]) -> dict[str, Any]:
    pooled = np.concatenate([np.array(block, np.int64) for block in blocks])
    each = [percentiles("block", np.array(block, np.int64)) for block in blocks]
    return {
        "server": target.server,
        "model": target.model,
        "wire": target.wire,
        **percentiles("latency", pooled),
        "block_p50_us": [block["block_p50_us"] for block in each],
        "block_p99_us": [block["block_p99_us"] for block in each],
    }


def _ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Divide ours by each placement of the peer, block by block."""
    by_key = {(row["server"], row["model"], row["wire"]): row for row in rows}
    found = []
    for row in rows:
        for peer in PEERS:
            other = by_key.get((peer, row["model"], row["wire"]))
            if other is None or not row["server"].startswith("tidsram"):
                continue
            ratio = {key: row[key] for key in ("server", "model", "wire")} | {"peer": peer}
            for name in ("p50", "p99"):
                ours, theirs = row[f"block_{name}_us"], other[f"block_{name}_us"]
                each = [a / b for a, b in zip(ours, theirs, strict=True) if a and b]
                if each:
                    ratio[name] = {"median": median(each), "low": min(each), "high": max(each)}
            found.append(ratio)
    return found


def _print(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        figures = (row[f"latency_{p}_us"] for p in ("p50", "p99", "p99_9"))
        shown = " / ".join(map(show, figures))
        print(f"{row['server']:16} {row['model']:5} {row['wire']:7} {shown} µs")
    for ratio in result["ratios"]:
        for name in ("p50", "p99"):
            if name in ratio:
                r = ratio[name]
                span = f"{r['median']:.2f} ({r['low']:.2f}-{r['high']:.2f})"
                print(f"{ratio['server']} ÷ {ratio['peer']} {ratio['model']} {name}: {span}")
    print({key: round(share, 4) for key, share in result["shares"].items()})


if __name__ == "__main__":
    main()
