"""Which forms make the ladder: the frontier, short enough, inside the budget."""

from hypothesis import given
from hypothesis import strategies as st

from tidsram.estate.types import MAX_VARIANTS
from tidsram.lab.ladder import choose
from tidsram.lab.validate import Timed
from tidsram.units import MS

FORMS = st.lists(st.tuples(st.integers(0, 100), st.integers(1, 500)), min_size=1, max_size=60).map(
    lambda pairs: [
        Timed(name=f"v{i}", accuracy=accuracy / 100, time_ns=time * MS // 10)
        for i, (accuracy, time) in enumerate(pairs)
    ]
)


@given(FORMS, st.none() | st.integers(1, 60 * MS))
def test_every_form_stays_or_is_left_out_once(timed, budget_ns):
    """The ladder is short enough, falls in accuracy and time, and no reason names a time."""
    slow_ns = {one.name: one.time_ns for one in timed}
    by_name = {one.name: one for one in timed}

    ladder = choose(timed, slow_ns, budget_ns)

    names = [*ladder.names, *(left.name for left in ladder.left_out)]
    assert sorted(names) == sorted(by_name)
    assert 1 <= len(ladder.names) <= MAX_VARIANTS
    rungs = [by_name[name] for name in ladder.names]
    assert rungs == sorted(rungs, key=lambda one: (-one.accuracy, -one.time_ns))
    within = [one for one in rungs if budget_ns is None or one.time_ns <= budget_ns]
    assert within == (rungs if ladder.fits else [])


def test_what_is_over_the_budget_is_left_out_unless_all_is():
    """By what a slow run takes, not by a usual one."""
    timed = [
        Timed(name="fp32", accuracy=0.9, time_ns=9 * MS),
        Timed(name="int8", accuracy=0.8, time_ns=4 * MS),
    ]
    slow_ns = {"fp32": 21 * MS, "int8": 5 * MS}

    some, none = (choose(timed, slow_ns, budget_ns) for budget_ns in (20 * MS, MS))

    assert (some.names, some.fits) == (("int8",), True)
    assert [left.why for left in some.left_out] == ["takes longer than the budget of 20 ms"]
    assert (none.names, none.fits) == (("fp32", "int8"), False)
