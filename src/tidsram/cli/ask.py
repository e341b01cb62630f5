"""`tidsram ask`: one question from the terminal, its answer in words, and where its time went."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from tidsram.client.address import node_url
from tidsram.client.answer import Boxes, Label, Mask, Reading, Tensors
from tidsram.client.asking import Told, ask_once
from tidsram.client.connection import Mute
from tidsram.client.wire import Array
from tidsram.errors import QuestionError
from tidsram.estate.load import load_estate
from tidsram.outcome import Outcome, Reason
from tidsram.units import US, show_ns

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_VALUES_SHOWN = 8
_ADVICE = {
    Reason.INFEASIBLE: "Allow it more time with --budget, or use a faster model or machine.",
    Reason.OVERLOAD: "Ask again when less is going on, or allow it more time with --budget.",
    Reason.EVICTED: "Ask again: more urgent work went first.",
    Reason.STALE: "Nothing to do: a newer question of its stream took its place.",
    Reason.DRAINING: "The node is stopping; ask another, or ask again when it is back.",
    Reason.NOT_READY: "Ask again in a moment: its worker is still starting.",
    Reason.WORKER_LOST: "Ask again in a moment: the worker died and is being replaced.",
    Reason.GATE_LOST: "See whether the node still runs; its log says why not.",
    Reason.MODEL: "Try the file in the model's own runtime: the model itself failed on it.",
    Reason.DEADLINE: "Allow it more time with --budget, or look why this node is slow.",
}
# What is wrong with the question, rather than with the time.
_BAD_INPUT = (Reason.INVALID, Reason.UNKNOWN_DECISION, Reason.TOO_LARGE)


def run(
    *,
    decision: str,
    files: list[Path],
    file: Path,
    url: str | None,
    budget_ns: int | None,
    as_json: bool,
    out: Path | None,
) -> int:
    """Ask; 0 answered, 1 not answered, 2 not a question, 3 nobody could say."""
    # Without an estate file one can still ask a node that was started without one.
    missing = file == Path("tidsram.toml") and not file.exists()
    estate = None if missing else load_estate(file)
    _check_out(out, files)
    try:
        told = ask_once(
            decision,
            files,
            url=node_url(url, estate, file.resolve().parent),
            estate=estate,
            budget_ns=budget_ns,
        )
    except Mute as error:
        print(f"tidsram: {error}", file=sys.stderr)
        return 3
    if out is not None and told.reading is not None:
        _write(told.reading, told, out)
    if as_json:
        print(msgspec.json.encode(_as_json(told)).decode())
    else:
        _print(told, files, out)
    if told.reply.reason in _BAD_INPUT:
        return 2
    return 0 if told.reply.outcome is Outcome.ANSWERED else 1


def _print(told: Told, files: list[Path], out: Path | None) -> None:
    console = Console(highlight=False)
    if not files:
        console.print("No file was given, so every input is zeros.", style="dim")
    if told.reading is None:
        _print_refusal(console, told)
        return
    budget = f" of {show_ns(told.budget_ns)}" if told.budget_ns else ""
    late = ", too late" if told.late else ""
    console.print(f"{told.decision} answered in {show_ns(told.took_ns)}{budget}{late}.")
    _print_reading(console, told.reading)
    _print_stages(console, told)
    if out is not None:
        console.print(f"Written to {out}.")


def _print_refusal(console: Console, told: Told) -> None:
    reply = told.reply
    verb = {Outcome.REJECTED: "was refused", Outcome.MISSED: "missed its deadline"}
    what = verb.get(reply.outcome, "failed")
    reason = f" ({reply.reason})" if reply.reason else ""
    console.print(f"{told.decision} {what}{reason} after {show_ns(told.took_ns)}.", style="bold")
    if reply.text:
        console.print(f"{reply.text[:1].upper()}{reply.text[1:].rstrip('.')}.")
    if reply.safe_action is not None:
        console.print(f"Until then: {msgspec.json.encode(reply.safe_action).decode()}.")
    if reply.reason in _ADVICE:
        console.print(_ADVICE[reply.reason])


def _print_reading(console: Console, reading: Reading) -> None:
    if isinstance(reading, Boxes):
        counts = Counter(found.label for found in reading.boxes)
        words = ", ".join(f"{count} {label}" for label, count in counts.items())
        console.print(f"Found: {words or 'nothing'}.")
        table = _table("", "score", "x1", "y1", "x2", "y2")
        for found in reading.boxes:
            corners = (found.x1, found.y1, found.x2, found.y2)
            table.add_row(found.label, f"{found.score:.2f}", *(f"{edge:.0f}" for edge in corners))
        if reading.boxes:
            console.print()
            console.print(table)
    elif isinstance(reading, Mask):
        height, width = reading.pixels.shape
        console.print(f"{_percent(reading.share)} of {width} × {height} pixels are marked.")
    elif isinstance(reading, Label):
        console.print(f"{reading.label}, score {reading.score:.3f}.")
    else:
        _print_tensors(console, reading)


def _print_tensors(console: Console, reading: Tensors) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    for name in ("output", "type", "shape", "from … to", "values"):
        table.add_column(name)
    for name, array in reading.outputs.items():
        table.add_row(name, str(array.dtype), str(list(array.shape)), *_summary(array))
    console.print(table)


def _summary(array: Array) -> tuple[str, str]:
    if array.size == 0:
        return "", "empty"
    values = array.ravel()[:_VALUES_SHOWN]
    more = " …" if array.size > _VALUES_SHOWN else ""
    return f"{array.min():.4g} … {array.max():.4g}", " ".join(f"{v:.4g}" for v in values) + more


def _print_stages(console: Console, told: Told) -> None:
    """Show every stage, the asker's own around the node's; they sum to the whole."""
    whole_ns = told.budget_ns or told.took_ns
    table = _table("where the time went", "ms", "of the budget" if told.budget_ns else "share")
    for stage, ns in _stages_ns(told).items():
        table.add_row(stage, f"{ns / 1e6:.2f}", _percent(ns / whole_ns))
    whole = (f"{told.took_ns / 1e6:.2f}", _percent(told.took_ns / whole_ns))
    table.add_row("together", *whole, style="bold")
    console.print()
    console.print(table)
    console.print()
    parameters = told.reply.parameters
    facts = [
        f"variant {parameters.variant}" if parameters.variant else "",
        f"site {parameters.site}" if parameters.site else "",
        f"request {parameters.request}" if parameters.request else "",
    ]
    console.print(", ".join(filter(None, facts)), style="dim")


def _stages_ns(told: Told) -> dict[str, int]:
    node = {stage: us * US for stage, us in told.reply.parameters.stages_us.items()}
    way = {"way there and back": max(0, told.reply.took_ns - sum(node.values()))}
    return {"prepare": told.prepare_ns, **node, **way, "read": told.read_ns}


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table


def _as_json(told: Told) -> dict[str, Any]:
    reply, parameters = told.reply, told.reply.parameters
    return {
        "decision": told.decision,
        "url": told.url,
        "outcome": reply.outcome,
        "reason": reply.reason,
        "text": reply.text,
        "took_us": told.took_ns // US,
        "late": told.late,
        "budget_us": parameters.budget_us or (told.budget_ns // US if told.budget_ns else None),
        "spent_us": parameters.spent_us,
        "slack_us": parameters.slack_us,
        "stages_us": {stage: ns // US for stage, ns in _stages_ns(told).items()},
        "variant": parameters.variant,
        "site": parameters.site,
        "request": parameters.request,
        "predicted_finish_us": reply.predicted_finish_us,
        "earliest_feasible_us": reply.earliest_feasible_us,
        "safe_action": reply.safe_action,
        "answer": None if told.reading is None else _reading_as_json(told.reading),
    }


def _reading_as_json(reading: Reading) -> dict[str, Any]:
    if isinstance(reading, Boxes):
        return {"boxes": reading.boxes}
    if isinstance(reading, Label):
        return {"label": reading.label, "score": reading.score}
    if isinstance(reading, Mask):
        shape = list(reading.pixels.shape)
        return {"share": reading.share, "shape": shape, "inside": reading.inside}
    return {
        name: {"shape": list(array.shape), "data": array.ravel().tolist()}
        for name, array in reading.outputs.items()
    }


def _check_out(out: Path | None, files: list[Path]) -> None:
    """Refuse an --out that could not be written, before anything is asked."""
    if out is None:
        return
    if out.suffix.lower() in _PICTURES:
        if not files or any(file.suffix.lower() in (".npy", ".json") for file in files):
            raise QuestionError(f"--out {out}: there is no picture to draw on; use .npz or .json")
    elif out.suffix.lower() not in (".json", ".npz"):
        raise QuestionError(f"--out {out}: write .png or .jpg (drawn), .json, or .npz (tensors)")
    if not out.resolve().parent.is_dir():
        raise QuestionError(f"--out {out}: there is no directory {out.parent}; make it first")


def _write(reading: Reading, told: Told, out: Path) -> None:
    try:
        if out.suffix.lower() == ".json":
            out.write_bytes(msgspec.json.encode(_as_json(told)))
        elif out.suffix.lower() == ".npz":
            np.savez(out, **told.reply.outputs)  # type: ignore[arg-type]
        else:
            from tidsram.demo.pictures import draw

            draw(told.prepared.images[0], reading).save(out)
    except OSError as error:
        raise QuestionError(f"--out {out}: cannot be written ({error.strerror})") from None
