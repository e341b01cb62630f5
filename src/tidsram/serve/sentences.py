"""What the gate tells an asker whose request is not answered: what happened and what to do."""

from typing import Any

from tidsram.outcome import Reason
from tidsram.protocol.wire import JSON_LIMIT
from tidsram.units import US, show_ns

SHUTTING_DOWN = "this node is shutting down; ask another"

EVICTED = {
    Reason.EVICTED: "earlier work took too long or more urgent work came: it cannot be in time now",
    Reason.STALE: "a newer question of the same stream has replaced it",
    Reason.WORKER_LOST: "the worker that had it is gone; another is being started, ask again",
}


def refusal(reason: Reason, name: str, budget_us: int, facts: dict[str, Any]) -> str:
    """Say why an arriving request is refused, and with which budget it would not be."""
    if reason is Reason.NOT_READY:
        return not_ready(name)
    if reason is Reason.DRAINING:
        return SHUTTING_DOWN
    finish = show_ns(facts["predicted_finish_us"] * US)
    budget = show_ns(budget_us * US)
    earliest = show_ns(facts["earliest_feasible_us"] * US)
    if reason is Reason.INFEASIBLE:
        return (
            f"the budget of {budget} is too short for {name} even alone (predicted {finish}); "
            f"a budget of {earliest} could be promised now"
        )
    return (
        f"the answer of {name} would come after {finish}, past its budget of {budget} or at the "
        f"cost of another's; a budget of {earliest} could be promised now"
    )


def not_ready(name: str) -> str:
    """Say that a decision has no warm worker."""
    return f"{name} has no warm worker free; ask again when /v2/models/{name}/ready says so"


def no_slot(name: str, slots: int, free: int) -> str:
    """Say that a question finds no memory to be kept in."""
    if not free:
        return f"all {slots} slots of {name} are taken; ask later"
    return f"you hold so many of the {slots} slots of {name} that the rest is kept for others"


def too_many_connections(mine: int, left: int) -> str:
    """Say that a connection cannot be taken."""
    if left <= 0:
        return "the node has all the connections that it can take; ask later"
    return f"you have {mine} connections to this node, and the rest is kept for others"


def json_too_large(size: int) -> str:
    """Say that so much JSON would hold up everyone."""
    return (
        f"the request has {size} bytes of JSON, more than the {JSON_LIMIT} that are read here; "
        f"send tensors as binary data (Inference-Header-Content-Length)"
    )
