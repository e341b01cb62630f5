"""What else happens in a simulated run: faults and departures, each at its instant."""

from msgspec import Struct


class Lost(Struct, frozen=True, kw_only=True):
    """A worker dies; `ready_ns` is when its replacement is warm, None for never."""

    at_ns: int
    decision: str
    lane: int = 0
    ready_ns: int | None = None


class Hung(Struct, frozen=True, kw_only=True):
    """The run that a worker then has never ends, and does not heed a stop."""

    at_ns: int
    decision: str
    lane: int = 0


class Slower(Struct, frozen=True, kw_only=True):
    """Runs begun from then on take `factor` times as long; 1 heals it."""

    at_ns: int
    decision: str
    factor: float


class Gone(Struct, frozen=True, kw_only=True):
    """The asker of the question with this number leaves; questions are numbered as they come."""

    at_ns: int
    number: int


class Drained(Struct, frozen=True, kw_only=True):
    """The node is told to take nothing more."""

    at_ns: int


class Restarted(Struct, frozen=True, kw_only=True):
    """A replaced worker is warm."""

    at_ns: int
    decision: str
    lane: int = 0


class Replaced(Struct, frozen=True, kw_only=True):
    """A worker of another version is warm: it takes over between two runs.

    `rungs` is what each of its variants takes, as `Node.rungs` says of the first version's.
    """

    at_ns: int
    decision: str
    lane: int = 0
    rungs: tuple[float, ...] = (1.0,)


Event = Lost | Hung | Slower | Gone | Drained | Restarted | Replaced
