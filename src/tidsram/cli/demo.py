"""`tidsram demo`: the example decisions on this machine, with their story."""

import sys
from pathlib import Path

import msgspec
from rich.console import Console

from tidsram.demo.play import play
from tidsram.errors import NodeError

OUT = Path("demo-out")


def run(*, seconds: int, keep: bool, as_json: bool) -> int:
    """Play the demo; 0 unless an objective is contradicted outside the acts, 3: no verdict."""
    # With --json standard output is for a script; the story still goes where a person may look.
    console, progress = Console(stderr=as_json), Console(stderr=True)
    try:
        told = play(seconds=seconds, keep=keep, out=OUT, console=console, progress_console=progress)
    except NodeError as error:
        print(f"tidsram: {error}", file=sys.stderr)
        return 3  # without a node that answers there is no verdict
    if as_json:
        print(msgspec.json.encode(told).decode())
    return 0 if told.ok else 1
