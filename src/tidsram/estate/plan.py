"""A plan as it is written and read: `plan.json`. Pure values; `plan` makes them, nodes load them.

Times are microseconds, costs a year's in the estate's currency, dates and quarters text.
"""

from typing import Literal

import msgspec
from msgspec import Struct

from tidsram.errors import EstateError

PLAN_VERSION = 1


class PlannedTerm(Struct, frozen=True, kw_only=True):
    """One part of a budget, at the promised percentile."""

    stage: str
    us: int
    basis: Literal["measured", "declared", "prior"]
    source: str


class Place(Struct, frozen=True, kw_only=True):
    """A node of the plan: `node` counts from 1 at its site."""

    site: str
    node: int


class WarmDecision(Struct, frozen=True, kw_only=True):
    """A decision that a node keeps warm: because it answers it, or because it stands by for it."""

    decision: str
    variant: str
    role: Literal["serves", "stands by"]
    lanes: tuple[int, ...]
    wait_us: int  # its wait class on this node
    rate: float  # questions per second when all is well
    neighbours: tuple[Place, ...]  # where its questions go when this node is lost


class PlannedNode(Struct, frozen=True, kw_only=True):
    """One machine: what it is and what it keeps warm."""

    site: str
    node: int
    hardware: str
    load: float  # share of what its lanes can do within the promises, when all is well
    busy: float  # share of time in which its lanes run, when all is well
    memory_bytes: int
    warm: tuple[WarmDecision, ...]


class Elsewhere(Struct, frozen=True, kw_only=True):
    """A place where a flow is not answered, and why."""

    where: str
    why: str


class Proof(Struct, frozen=True, kw_only=True):
    """A flow's promise against the simulation of one case."""

    case: str
    asked: int
    in_time: int
    share_at_least: float  # exact binomial bound, 99 %
    verdict: Literal["met", "contradicted", "not enough evidence"]
    p50_us: int | None
    p99_us: int | None
    p99_9_us: int | None


class PlannedFlow(Struct, frozen=True, kw_only=True):
    """One decision's questions from one site: where they are answered, and on what that rests."""

    decision: str
    source: str
    part: int
    parts: int
    askers: int
    rate: float
    criticality: str
    budget_us: int
    objective: float
    reaction_us: int  # worst: one sampling period, the budget and the actuation
    place: Place | None  # None: shed, best-effort only
    variant: str
    accuracy: float
    terms: tuple[PlannedTerm, ...]
    elsewhere: tuple[Elsewhere, ...]
    backups: dict[str, Place | None]  # case in words → where then, where it differs
    proofs: tuple[Proof, ...]


class Purchase(Struct, frozen=True, kw_only=True):
    """Machines to be had by a quarter, beyond those that stand today."""

    quarter: str
    site: str
    hardware: str
    nodes: int
    order_by: str


class QuarterPlan(Struct, frozen=True, kw_only=True):
    """One quarter: what it takes and what is left."""

    quarter: str
    demand: float  # questions per second in all
    nodes: dict[str, int]  # "site hardware" → count
    yearly_cost: float
    headroom: float  # how many times its questions the quarter's machines could take
    breaks_first: str  # what gives way at that point, in words
    verified: bool
    problem: str  # why the quarter cannot be served; empty when it can


class Saving(Struct, frozen=True, kw_only=True):
    """What a relaxation of one promise would be worth, or what would make it possible."""

    decision: str
    change: str  # "budget from 20 ms to 25 ms"
    saves_nodes: int
    saves_cost: float
    sentence: str


class Assumption(Struct, frozen=True, kw_only=True):
    """Something the plan takes as given."""

    what: str
    value: str
    basis: Literal["measured", "declared", "prior"]
    source: str


class Plan(Struct, frozen=True, kw_only=True):
    """Where each decision is made, on what, and what that promise rests on."""

    version: int = PLAN_VERSION
    estate: str
    estate_sha256: str
    made: str  # date
    quarter: str
    currency: str
    yearly_cost: float
    cost_bound: float  # no plan within the same cuts costs less
    solve_seconds: float
    verify_seconds: float
    rounds: int  # how often it was solved until the simulation agreed
    verified: bool
    requests: int  # simulated for each flow and case
    measured_share: float  # of the budgets' milliseconds, how much rests on measurement
    nodes: tuple[PlannedNode, ...]
    flows: tuple[PlannedFlow, ...]
    cases: tuple[str, ...]
    quarters: tuple[QuarterPlan, ...]
    purchases: tuple[Purchase, ...]
    savings: tuple[Saving, ...]
    assumptions: tuple[Assumption, ...]
    problems: tuple[str, ...]  # why it does not hold, one sentence each; empty when it does


class _Head(Struct, frozen=True):
    """What every version's plan begins with."""

    version: int
    estate: str


def parse_plan(content: bytes, where: str) -> Plan:
    """Return the plan that a plan.json holds; `where` names it in complaints."""
    try:
        head = msgspec.json.decode(content, type=_Head)
        if head.version != PLAN_VERSION:
            raise EstateError(
                where,
                f"is a plan of version {head.version}, and this tidsram reads {PLAN_VERSION}; "
                "make it anew with `tidsram plan`, or use the tidsram that wrote it",
            )
        return msgspec.json.decode(content, type=Plan)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EstateError(where, f"is not a plan ({error}); make one with `tidsram plan`") from None
