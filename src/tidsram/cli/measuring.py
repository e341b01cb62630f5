"""What `profile` and `probe` tell alike: how far they are, and what the samples come to."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from msgspec import Struct
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tidsram.errors import EstateError
from tidsram.estate import values
from tidsram.estate.load import read_option
from tidsram.estate.values import nearest
from tidsram.lab.facts import CONDITIONS, Condition
from tidsram.stats import percentile
from tidsram.units import US, show_ns

_UPDATES = 50
_WIDTH = 200
_REMEMBERED_S = 3600.0  # of what was done so far: from that the time left is told
TOO_FEW = "– : too few samples to claim this percentile at 99 % confidence."


class Times(Struct, frozen=True):
    """What samples come to; null: too few to claim that percentile."""

    samples: int
    p50_us: int | None
    p99_us: int | None
    p99_9_us: int | None
    max_us: int


class Failure(Struct, frozen=True, kw_only=True):
    """What was not measured, and why."""

    what: str
    problem: str


def times(samples_ns: Sequence[int]) -> Times:
    """Sum the samples up."""
    ascending = sorted(samples_ns)
    p50, p99, p99_9 = (percentile(ascending, q) for q in (0.5, 0.99, 0.999))
    return Times(len(ascending), _us(p50), _us(p99), _us(p99_9), ascending[-1] // US)


def cells(summed: Times) -> list[str]:
    """Show p50, p99, p99.9 and the largest, as a table has them."""
    found = (summed.p50_us, summed.p99_us, summed.p99_9_us, summed.max_us)
    return ["–" if us is None else show_ns(us * US) for us in found]


def console() -> Console:
    """Return where results go; what a script reads is never cut to a terminal's width."""
    width = None if sys.stdout.isatty() else _WIDTH
    return Console(highlight=False, soft_wrap=True, width=width)


def table(*columns: str) -> Table:
    """Return an empty table: names to the left, numbers to the right."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(columns):
        made.add_column(name, justify="right" if number else "left", no_wrap=True)
    return made


def say(text: str) -> None:
    """Tell it beside the result, on stderr."""
    print(f"tidsram: {text}", file=sys.stderr, flush=True)


def words(option: str, text: str) -> tuple[str, ...]:
    """Read a list such as "test,temp"; nothing is an empty one."""
    found = tuple(word.strip() for word in text.split(",")) if text else ()
    if not all(found):
        raise EstateError(option, f'"{text}" is no list; write it like one,two')
    return found


def conditions(text: str) -> tuple[Condition, ...]:
    """Read who else is to be at work while something is measured."""
    found = words("--conditions", text)
    for word in found:
        if word not in CONDITIONS:
            near = nearest(word, CONDITIONS) or f"; known are {', '.join(CONDITIONS)}"
            raise EstateError("--conditions", f'"{word}" is no condition{near}')
    if not found:
        raise EstateError("--conditions", f"names none; known are {', '.join(CONDITIONS)}")
    return tuple(known for known in CONDITIONS if known in found)


def hardware(name: str) -> str:
    """Read what this machine is called in plans."""
    return read_option("--hardware", values.name, name)


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how far it is to `total`; nothing is drawn while a sample is being taken."""
    with _progress() as progress:
        if progress.disable:
            say(f"measuring {what}")
        task = progress.add_task(what, total=total)

        def tell(done: int) -> None:
            if done % max(1, total // _UPDATES) == 0:
                progress.update(task, completed=done, refresh=True)

        yield tell


@contextmanager
def steps(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Tell a sentence for each step, and on a terminal how far it is and the time left."""
    with _progress() as progress:
        task = progress.add_task(what, total=None)

        def tell(sentence: str, done: int, total: int) -> None:
            if progress.disable:
                say(sentence)
            else:
                progress.console.print(f"tidsram: {sentence}", markup=False, highlight=False)
                progress.update(task, completed=done, total=total, refresh=True)

        yield tell


def _progress() -> Progress:
    """Return a bar on stderr, where that is a terminal; it is redrawn when it is told to."""
    err = Console(stderr=True)
    return Progress(
        console=err,
        transient=True,
        auto_refresh=False,
        disable=not err.is_terminal,
        speed_estimate_period=_REMEMBERED_S,
    )


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Clean up when SIGTERM ends the command, too."""
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def _us(ns: int | None) -> int | None:
    return None if ns is None else ns // US
