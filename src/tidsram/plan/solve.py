"""Make a plan: search for each quarter, prove, and tell what it rests on and what would change it.

The present quarter is planned for its own cost; each later one keeps the machines of the one
before it and adds what it needs, no sooner than an order placed today could bring it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from tidsram.estate.plan import Plan, Purchase, QuarterPlan
from tidsram.estate.types import Estate
from tidsram.lab.facts import Measured
from tidsram.plan.account import planned_flows, planned_nodes
from tidsram.plan.assumptions import assumptions, measured_share
from tidsram.plan.demand import flows, order_by, quarter_of, quarters_until
from tidsram.plan.instance import Instance, make_instance
from tidsram.plan.judge import Provers
from tidsram.plan.latency import World, cases
from tidsram.plan.outlook import bought, headroom
from tidsram.plan.prove import Prover
from tidsram.plan.relief import problems, savings
from tidsram.plan.search import Found, Limits, search
from tidsram.units import SECOND

QUICK = 2_000  # requests of a first look
LONGEST = 20_000  # where fewer do not tell
LATER = Limits(rounds=16, tries=0)  # of a quarter to come


def make_plan(
    estate: Estate,
    measured: Measured,
    *,
    today: str,
    until: str | None = None,
    requests: int = 20_000,
    seed: int = 1,
    processes: int | None = None,
    solve_seconds: float = 20.0,
    estate_sha256: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Return where each decision is made from `today` until the quarter `until`, proved.

    Without `until` the plan goes to the last quarter that a decision's growth names. Raises
    PlanError where something that a plan needs is not declared or measured.
    """
    first = quarter_of(today)
    declared = (q for decision in estate.decisions.values() for q in decision.growth)
    quarters = quarters_until(first, until or max([first, *declared]))
    with (
        Prover(min(QUICK, requests), seed, processes, times=1.0) as quick,
        Prover(requests, seed + 1, processes, times=3.0) as healthy,
        Prover(requests, seed + 2, processes, times=1.5) as lost,
        Prover(max(requests, min(LONGEST, 5 * requests)), seed + 3, processes) as longest,
    ):
        provers = Provers(quick, healthy, lost, longest)
        planner = _Planner(estate, measured, today, provers, solve_seconds, say)
        return planner.plan(quarters, requests, estate_sha256)


class _Planner:
    def __init__(
        self,
        estate: Estate,
        measured: Measured,
        today: str,
        provers: Provers,
        seconds: float,
        say: Callable[[str], None],
    ) -> None:
        self._estate, self._measured, self._today = estate, measured, today
        self._provers, self._seconds, self._say = provers, seconds, say
        self._world = World(estate, measured)
        self._cases = cases(estate)

    def plan(self, quarters: Sequence[str], requests: int, sha256: str) -> Plan:
        now = self._quarter(quarters[0], Limits(seconds=self._seconds))
        outlook = list(self._outlook(quarters, now))
        return Plan(
            estate=self._estate.name,
            estate_sha256=sha256,
            made=self._today,
            quarter=quarters[0],
            currency=self._estate.currency,
            yearly_cost=now.solution.cost,
            cost_bound=now.solution.bound,
            solve_seconds=now.solve_ns / SECOND,
            verify_seconds=now.verify_ns / SECOND,
            rounds=now.rounds,
            verified=now.holds,
            requests=requests,
            measured_share=measured_share(
                choice.option.terms for choice in now.scenarios[0].choices if choice
            ),
            nodes=planned_nodes(now),
            flows=planned_flows(now, self._world),
            cases=tuple(case.name for case in self._cases),
            quarters=tuple(quarter for quarter, _ in outlook),
            purchases=tuple(purchase for _, bought in outlook for purchase in bought),
            savings=tuple(savings(now, self._estate, self._measured, quarters[0])),
            assumptions=tuple(assumptions(self._world)),
            problems=tuple(problems(now, self._world)),
        )

    def _quarter(self, quarter: str, limits: Limits) -> Found:
        """Search for a quarter; what an order would bring too late is not there."""
        asked = flows(self._estate, quarter)

        def make(parts: Mapping[str, int]) -> Instance:
            return make_instance(self._estate, self._world, self._cases, asked, parts)

        instance = make({})
        most = {
            pool: max(facts.standing, limits.least.get(pool, 0))
            for pool, facts in instance.pools.items()
            if order_by(quarter, facts.lead_weeks) < self._today and facts.lead_weeks
        }
        return search(make, self._provers, replace(limits, most=most), self._say)

    def _outlook(
        self, quarters: Sequence[str], now: Found
    ) -> Iterator[tuple[QuarterPlan, list[Purchase]]]:
        """Plan one quarter after the other; where nothing changes, the plan stays."""
        found, asked = now, flows(self._estate, quarters[0])
        had = {pool: facts.standing for pool, facts in now.instance.pools.items()}
        for quarter in quarters:
            before, asked = asked, flows(self._estate, quarter)
            # A quarter that came too soon for an order does not spoil the next.
            if asked != before or (quarter != quarters[0] and not found.holds):
                self._say(f"{quarter}:")
                least = dict(found.solution.nodes) if found.holds else {}
                limits = replace(LATER, seconds=self._seconds, least=least, room=found.room)
                found = self._quarter(quarter, limits)
            left, first = headroom(found, self._provers.quick)
            plan = QuarterPlan(
                quarter=quarter,
                demand=sum(flow.rate for flow in asked),
                nodes={" ".join(pool): count for pool, count in found.solution.nodes.items()},
                yearly_cost=found.solution.cost,
                headroom=left,
                breaks_first=first,
                verified=found.holds,
                problem=" ".join(problems(found, self._world)[:3]),
            )
            yield plan, bought(quarter, found, had, self._today)
            if found.holds:
                nodes = found.solution.nodes
                had = {pool: max(count, nodes.get(pool, 0)) for pool, count in had.items()}
