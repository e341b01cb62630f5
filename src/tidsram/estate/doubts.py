"""What an estate says that a person may not have meant: a unit that slipped, as ms for µs.

Nothing here refuses anything: each doubt is a question, to be read beside the rest.
"""

from collections.abc import Iterator

from tidsram.estate.types import Decision, Estate
from tidsram.units import SECOND, show_ns

SLIP = 1000  # from one unit to the next
FAR = SLIP // 2  # a budget of so many runs may well be a thousand times too large
LONG_RUN_NS = 10 * SECOND
LONG_WAY_NS = 1 * SECOND  # two hops by geostationary satellite take as much


def doubts(estate: Estate) -> tuple[str, ...]:
    """Return a question for each time that looks like another unit's."""
    return (
        *(doubt for decision in estate.decisions.values() for doubt in _of_decision(decision)),
        *(
            f"link {link.a}–{link.b}: {_ask('a round trip of', link.rtt.p50_ns)}"
            for link in estate.links
            if link.rtt and link.rtt.p50_ns > LONG_WAY_NS
        ),
    )


def _of_decision(decision: Decision) -> Iterator[str]:
    runs = [delay.p50_ns for variant in decision.ladder for delay in variant.service.values()]
    if runs and decision.budget_ns >= FAR * max(runs):
        model = f"for a model of {show_ns(max(runs))}"
        yield f"decision {decision.name}: {_ask('a budget of', decision.budget_ns, model)}"
    for variant in decision.ladder:
        for hardware, delay in variant.service.items():
            if delay.p50_ns > LONG_RUN_NS:
                run = f"for a run of {variant.name} on {hardware}"
                yield f"decision {decision.name}: {_ask('a p50 of', delay.p50_ns, run)}"


def _ask(what: str, ns: int, beside: str = "") -> str:
    said = f"{what} {show_ns(ns)} {beside}".rstrip()
    return f"{said}? Or is it {show_ns(ns // SLIP)}?"
