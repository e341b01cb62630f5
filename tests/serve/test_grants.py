"""What a node says at its start of the machine it has got."""

from tidsram.serve import usage
from tidsram.serve.grants import Grants
from tidsram.serve.usage import Stolen

ALL = {"privileged": True, "locked": True, "apart": True, "files": 20_000}


def told(monkeypatch, *, steal_ns: int = 0, scheduling: str = "auto", **changed) -> list[str]:
    monkeypatch.setattr(usage, "stolen", lambda _: {1: Stolen(steal_ns, 1000)})
    return Grants(scheduling=scheduling, cores=(10_000,), **(ALL | changed)).told()


def test_what_is_granted_is_one_line(monkeypatch):
    """Nothing is missing: nothing more is said."""
    granted = "locked memory, a core for the gate, 20000 open files"

    assert told(monkeypatch) == [f"granted: real-time class, {granted}"]
    assert told(monkeypatch, scheduling="nice") == [f"granted: nice values, {granted}"]


def test_each_missing_piece_is_named_with_its_cost(monkeypatch):
    """One line each, and it is no longer among what is granted."""
    for changed, part in (
        ({"privileged": False}, "CAP_SYS_NICE"),
        ({"locked": False}, "CAP_IPC_LOCK"),
        ({"apart": False}, "the gate shares one with them"),
        ({"files": 512}, "only 512 files"),
        ({"steal_ns": 20}, "2.0% of the cores' time was stolen"),
    ):
        first, *costs = told(monkeypatch, **changed)

        assert first.startswith("granted: ")
        assert len(costs) == 1
        assert part in costs[0]


def test_nothing_granted_is_all_cost(monkeypatch):
    """No empty list of grants is said."""
    lines = told(monkeypatch, privileged=False, locked=False, apart=False, files=10)

    assert len(lines) == 4
    assert not any("granted" in line for line in lines)
