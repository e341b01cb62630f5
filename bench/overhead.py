"""What a question costs beside the model's own run: one asker, back to back, all servers in turn.

`python -m bench.overhead`. Blocks alternate so that what the machine does to one server it does to
all; ratios are taken within a block.
"""

import argparse
import json
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, TypeVar

import numpy as np

from bench.echo import Echo
from bench.environments import Unavailable
from bench.loadgen import back_to_back, connect, percentiles, show
from bench.machine import ASKER_CORE, LANE_CORE, Watch, facts, others_busy, settled
from bench.models import OUT, Model, make, session
from bench.ours import Ours
from bench.peers import PLACEMENTS
from bench.questions import check_answer, infer_request
from bench.triton import SERVER_VERSION, Triton
from tidsram.clock import today

WARM_UP = 300
TRITONS = ("triton", "triton-one-core")
PEERS = (*TRITONS, *PLACEMENTS)
SERVERS = ("echo", "tidsram", "triton", *dict.fromkeys(p.kind for p, _ in PLACEMENTS.values()))

Measure = Callable[[int], list[int]]
S = TypeVar("S")


@dataclass(frozen=True)
class Target:
    """One row of the table: a server (or none), a model, a way to write the tensors."""

    server: str
    model: str
    wire: str
    requests: int  # in all blocks
    measure: Measure

    @property
    def key(self) -> str:
        """Name the row."""
        return f"{self.server}/{self.model}/{self.wire}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a line per target and write bench/out/overhead.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000, help="per row, in all blocks")
    parser.add_argument("--peer-requests", type=int, default=5_000, help="the same, slower peers")
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--servers", default=",".join(SERVERS), help="those to start")
    options = parser.parse_args(arguments)
    models = [make("tiny"), make("mid")]
    others = others_busy()
    with ExitStack() as stack:
        servers = set(options.servers.split(","))
        targets = _targets(models, servers, options.requests, stack)
        targets += _peer_targets(models, servers, options.peer_requests, stack)
        watch = Watch()
        blocks = _run(targets, options.blocks)
        shares = watch.shares()
    rows = [_row(target, [block[target.key] for block in blocks]) for target in targets]
    result = {
        "command": " ".join(["python -m bench.overhead", *(arguments or sys.argv[1:])]),
        "date": today(),
        "machine": {**facts(), **_versions({target.server for target in targets})},
        "others_busy": others,
        "shares": shares,
        "requests": options.requests,
        "peer_requests": options.peer_requests,
        "blocks": options.blocks,
        "rows": rows,
        "ratios": _ratios(rows),
    }
    (OUT / "overhead.json").write_text(json.dumps(result, indent=1))
    _print(result)


def _targets(
    models: Sequence[Model], servers: set[str], requests: int, stack: ExitStack
) -> list[Target]:
    targets = [Target("in-process", m.name, "none", requests, _in_process(m)) for m in models]
    places: list[tuple[str, str, Sequence[Model]]] = []
    if "echo" in servers:
        places.append(("echo", stack.enter_context(Echo()).address, models))
    if "tidsram" in servers:
        for model in models:
            node = stack.enter_context(Ours(model, budget="1s"))
            places.append(("tidsram-unix", str(node.unix), [model]))
            places.append(("tidsram", node.address, [model]))
    if "triton" in servers:
        # Where waking another core is dear, Triton does best on the asker's own.
        for name, cores in zip(TRITONS, ("0-1", str(ASKER_CORE)), strict=True):
            if triton := _started(partial(Triton, models, cores=cores), stack):
                places.append((name, triton.address, models))
    for server, address, served in places:
        for model in served:
            for wire in ("binary", "json"):
                request = infer_request(model, binary=wire == "binary")
                if server != "echo":
                    check_answer(address, model, request)
                measure = _asks(partial(connect, address), request)
                targets.append(Target(server, model.name, wire, requests, measure))
    return targets


def _peer_targets(
    models: Sequence[Model], servers: set[str], requests: int, stack: ExitStack
) -> list[Target]:
    targets = []
    for name, (kind, cores) in PLACEMENTS.items():
        if kind.kind not in servers or not (peer := _started(partial(kind, models, cores), stack)):
            continue
        with peer.awake():
            for model in models:
                for wire in peer.wires:
                    peer.check(model, wire)
                    measure = _asks(peer.connect, peer.request(model, wire), peer.awake)
                    targets.append(Target(name, model.name, wire, requests, measure))
    return targets


def _started(make_server: Callable[[], AbstractContextManager[S]], stack: ExitStack) -> S | None:
    """Start a server until the stack unwinds; say so where it cannot be had."""
    try:
        return stack.enter_context(make_server())
    except Unavailable as why:
        print(why, file=sys.stderr)
        return None


def _versions(measured: set[str]) -> dict[str, str]:
    """Return the version of each peer that was measured."""
    versions = {"triton": SERVER_VERSION} if measured & set(TRITONS) else {}
    peers = [peer for name, (peer, _) in PLACEMENTS.items() if name in measured]
    return versions | {peer.kind: peer.version for peer in peers}


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


def _asks(
    connected: Callable[[], socket.socket],
    request: bytes,
    awake: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Measure:
    def measure(count: int) -> list[int]:
        with awake(), settled(ASKER_CORE), connected() as sock:
            return back_to_back(sock, request, count)

    return measure


def _run(targets: Sequence[Target], blocks: int) -> list[dict[str, list[int]]]:
    measured = []
    for block in range(blocks):
        turn = block % len(targets)
        order = [*targets[turn:], *targets[:turn]]
        measured.append({t.key: t.measure(WARM_UP + t.requests // blocks)[WARM_UP:] for t in order})
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
