"""Outcomes, their reasons, and the one table that maps them to each transport (DESIGN §4)."""

from enum import StrEnum

from msgspec import Struct


class Outcome(StrEnum):
    """What became of a request. Each has exactly one."""

    ANSWERED = "answered"
    REJECTED = "rejected"
    MISSED = "missed"
    FAILED = "failed"
    GONE = "gone"


class Reason(StrEnum):
    """Why; `NONE` only for an answer."""

    NONE = ""
    INVALID = "invalid"
    UNKNOWN_DECISION = "unknown-decision"
    TOO_LARGE = "too-large"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    QUOTA = "quota"
    INFEASIBLE = "infeasible"
    OVERLOAD = "overload"
    EVICTED = "evicted"
    STALE = "stale"
    STOPPED = "stopped"
    UNRECORDED = "unrecorded"
    DRAINING = "draining"
    NOT_READY = "not-ready"
    DEADLINE = "deadline"
    MODEL = "model"
    WORKER_LOST = "worker-lost"
    GATE_LOST = "gate-lost"
    ASKER_LEFT = "asker-left"


class Row(Struct, frozen=True):
    """How one reason is told: its outcome, HTTP status, gRPC status."""

    outcome: Outcome
    http: int
    grpc: str


# The asker of a `gone` request hears nothing: 499 is what logs and metrics show for it.
TABLE: dict[Reason, Row] = {
    Reason.NONE: Row(Outcome.ANSWERED, 200, "OK"),
    Reason.INVALID: Row(Outcome.REJECTED, 400, "INVALID_ARGUMENT"),
    Reason.UNKNOWN_DECISION: Row(Outcome.REJECTED, 404, "NOT_FOUND"),
    Reason.TOO_LARGE: Row(Outcome.REJECTED, 413, "RESOURCE_EXHAUSTED"),
    Reason.UNAUTHENTICATED: Row(Outcome.REJECTED, 401, "UNAUTHENTICATED"),
    Reason.FORBIDDEN: Row(Outcome.REJECTED, 403, "PERMISSION_DENIED"),
    Reason.QUOTA: Row(Outcome.REJECTED, 429, "RESOURCE_EXHAUSTED"),
    Reason.INFEASIBLE: Row(Outcome.REJECTED, 503, "UNAVAILABLE"),
    Reason.OVERLOAD: Row(Outcome.REJECTED, 503, "UNAVAILABLE"),
    Reason.EVICTED: Row(Outcome.REJECTED, 503, "UNAVAILABLE"),
    Reason.STALE: Row(Outcome.REJECTED, 503, "UNAVAILABLE"),
    Reason.STOPPED: Row(Outcome.REJECTED, 503, "UNAVAILABLE"),
    Reason.UNRECORDED: Row(Outcome.REJECTED, 503, "UNAVAILABLE"),
    Reason.DRAINING: Row(Outcome.REJECTED, 503, "UNAVAILABLE"),
    Reason.NOT_READY: Row(Outcome.REJECTED, 503, "UNAVAILABLE"),
    Reason.DEADLINE: Row(Outcome.MISSED, 504, "DEADLINE_EXCEEDED"),
    Reason.MODEL: Row(Outcome.FAILED, 500, "INTERNAL"),
    Reason.WORKER_LOST: Row(Outcome.FAILED, 500, "INTERNAL"),
    Reason.GATE_LOST: Row(Outcome.FAILED, 500, "INTERNAL"),
    Reason.ASKER_LEFT: Row(Outcome.GONE, 499, "CANCELLED"),
}
