"""The words of planning: what is asked where, what may answer it, and what can break."""

from typing import Literal

from msgspec import Struct

from tidsram.estate.types import Decision, Delay

Basis = Literal["measured", "declared", "prior"]
Stage = Literal["capture", "access", "link", "gate", "wait", "run", "actuation"]
CaseKind = Literal["healthy", "node", "site", "link"]


class Spread(Struct, frozen=True, kw_only=True):
    """A time as a distribution, and what it rests on.

    Measured samples are kept in order. Without them it is `floor_ns` plus a lognormal time through
    the two quantiles of `delay`.
    """

    delay: Delay
    basis: Basis
    source: str  # for a reader: "measured 2026-11-24, 2,000 runs", "fibre prior, 343 km"
    floor_ns: int = 0
    samples_ns: tuple[int, ...] = ()


class Term(Struct, frozen=True, kw_only=True):
    """One part of a budget: what it takes at the promised percentile.

    "access" and "link" are round trips, there and back.
    """

    stage: Stage
    ns: int
    basis: Basis
    source: str


class Flow(Struct, frozen=True, kw_only=True):
    """The questions of one decision that arise at one site; a large flow comes in several parts."""

    decision: str
    source: str
    askers: int
    rate: float  # questions per second of this part, in the quarter that is planned
    part: int = 0
    parts: int = 1

    @property
    def key(self) -> str:
        """Name it: obstacle@gavle, or obstacle@gavle/2 for the second of several parts."""
        return self.whole + (f"/{self.part + 1}" if self.parts > 1 else "")

    @property
    def whole(self) -> str:
        """Name the flow that it is a part of."""
        return f"{self.decision}@{self.source}"


class Case(Struct, frozen=True, kw_only=True):
    """One state of the estate: all well, or one thing lost."""

    kind: CaseKind = "healthy"
    site: str = ""  # that is down, or that has lost a node
    hardware: str = ""  # of the lost node
    link: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        """Say it in words."""
        if self.link:
            return f"link {self.link[0]}–{self.link[1]} cut"
        if self.kind == "node":
            return f"a node lost at {self.site} ({self.hardware})"
        return f"{self.site} down" if self.kind == "site" else "healthy"


class Option(Struct, frozen=True, kw_only=True):
    """One way to answer a flow within its budget, in one case.

    `wait_ns` is what the budget leaves for waiting once all other terms have had their due.
    """

    site: str
    hardware: str
    variant: str
    accuracy: float
    wait_ns: int
    terms: tuple[Term, ...]  # in the order of Stage, wait included; without actuation, the budget
    path: tuple[str, ...]  # the sites a question passes, its source first
    rtt: Spread  # access and path together
    gate: Spread
    service: Spread
    memory_bytes: int  # of one worker


class Refusal(Struct, frozen=True, kw_only=True):
    """Why a flow cannot be answered somewhere: the term that kills it, and what would mend it."""

    site: str
    hardware: str
    variant: str
    term: str  # jurisdiction, data, accuracy, path, physics, link, run, lanes, memory, profile
    short_ns: int  # the budget is too short by so much; 0 where it is no matter of time
    sentence: str


class Served(Struct, frozen=True, kw_only=True):
    """A flow on a node, by one of its options."""

    decision: Decision
    flow: Flow
    option: Option


class NodeLoad(Struct, frozen=True, kw_only=True):
    """What one node serves in one case."""

    lanes: int
    served: tuple[Served, ...]


class Tally(Struct, frozen=True, kw_only=True):
    """What a simulated flow came to, from its asker's side."""

    asked: int
    in_time: int
    p50_ns: int | None  # response times; None while there are too few
    p99_ns: int | None
    p99_9_ns: int | None
