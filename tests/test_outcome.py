"""Outcomes: the one table has a row for every reason, and only sensible ones."""

from collections import Counter

from tidsram.outcome import TABLE, Outcome, Reason

# The status codes that gRPC defines, without UNKNOWN, which tells an asker nothing.
GRPC = {
    *("OK", "CANCELLED", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "UNAVAILABLE"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "INTERNAL"),
}


def test_every_reason_has_a_row():
    """A new reason without a row would reach an asker as a crash."""
    assert set(TABLE) == set(Reason)


def test_every_outcome_can_happen():
    """Each outcome is told by at least one reason; an answer by exactly one."""
    told = Counter(row.outcome for row in TABLE.values())

    assert set(told) == set(Outcome)
    assert told[Outcome.ANSWERED] == 1


def test_only_an_answer_looks_like_success():
    """Nothing late or refused may pose as valid: 2xx and OK are for answers alone."""
    for reason, row in TABLE.items():
        answered = row.outcome is Outcome.ANSWERED

        assert (200 <= row.http < 300) == answered, reason
        assert (row.grpc == "OK") == answered, reason
        assert row.grpc in GRPC, reason


def test_outcomes_have_their_statuses():
    """The contract's own numbers, outcome by outcome."""
    statuses = {outcome: set() for outcome in Outcome}
    for row in TABLE.values():
        statuses[row.outcome].add(row.http)

    assert statuses == {
        Outcome.ANSWERED: {200},
        Outcome.REJECTED: {400, 401, 403, 404, 413, 429, 503},
        Outcome.MISSED: {504},
        Outcome.FAILED: {500},
        Outcome.GONE: {499},
    }
