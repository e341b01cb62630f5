"""One quarter's problem in numbers: flows, pools of like nodes, and what each option would take.

A pool is the nodes of one hardware type at one site. Options are kept case by case, but a case
shares its dictionary with the healthy state wherever nothing is lost to the flow.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from math import inf, log
from statistics import median

from msgspec import Struct
from msgspec.structs import replace

from tidsram.estate.types import Criticality, Decision, Estate
from tidsram.plan.capacity import bandwidth, busy, run_times_s, tail_rate
from tidsram.plan.latency import World, needs, wait_epsilon
from tidsram.plan.problem import Case, Flow, Option, Refusal

Pool = tuple[str, str]  # site, hardware
Key = tuple[str, str, str]  # site, hardware, variant

LEVELS = len(Criticality)
MOST_PARTS = 64
NEAR = 6  # sites that a flow is considered at; farther ones hardly ever pay, and cost much time
FULL = 0.7  # of a node: what a part of a flow that needs several nodes may take


class Choice(Struct, frozen=True, kw_only=True, eq=False):
    """An option and what it takes of a node.

    `levels[r]` is what the flow counts as for those of criticality rank r: nothing for those that
    preempt it, its own bandwidth for its equals, a milder one for those below.
    """

    option: Option
    levels: tuple[float, ...]
    busy: float
    rank: int
    eta: float  # the tail rate its wait asks for, in 1/s
    seen: Callable[[float], float]  # its bandwidth at another tail rate

    @property
    def own(self) -> float:
        """Its bandwidth among its equals."""
        return max(self.levels)

    @property
    def pool(self) -> Pool:
        """Where it is."""
        return self.option.site, self.option.hardware

    @property
    def key(self) -> Key:
        """Tell it from the flow's other options."""
        return self.option.site, self.option.hardware, self.option.variant


Choices = dict[Key, Choice]


def strain(choices: Sequence[Choice]) -> float:
    """Return how full a node of these is to the one of them that has it worst; 1 is full.

    Each sees what preempts it at its own tail rate; its equals with looser waits, which come after
    it in the queue, at theirs.
    """
    return max((_strain_on(choice, choices) for choice in choices), default=0.0)


def _strain_on(one: Choice, choices: Iterable[Choice]) -> float:
    return sum(
        other.seen(one.eta if other.rank < one.rank else min(one.eta, other.eta))
        for other in choices
        if other.rank <= one.rank
    )


class PoolFacts(Struct, frozen=True):
    """What nodes of a pool are, and how many there may be."""

    lanes: int
    memory_bytes: int  # 0: not declared, so not counted
    yearly_cost: float
    standing: int  # today
    most: int
    lead_weeks: int


class Task(Struct, frozen=True):
    """A flow with its choices in every case, by the case's index."""

    flow: Flow
    decision: Decision
    choices: tuple[Choices, ...]
    must: tuple[bool, ...]
    refusals: tuple[Refusal, ...]  # when all is well

    def touched(self, case: int) -> bool:
        """Tell whether the case takes an option away or changes one."""
        return self.choices[case] is not self.choices[0]


class Instance(Struct, frozen=True):
    """All that the optimiser needs to know of one quarter."""

    cases: tuple[Case, ...]  # the healthy one first
    pools: dict[Pool, PoolFacts]
    site_cost: dict[str, float]
    site_most: dict[str, int]
    tasks: tuple[Task, ...]


def make_instance(
    estate: Estate,
    world: World,
    cases: Sequence[Case],
    flows: Iterable[Flow],
    parts: Mapping[str, int] | None = None,
) -> Instance:
    """Return the problem of serving `flows` in all `cases`.

    `parts` says into how many parts a flow is divided at least, by its name.
    """
    sizer = _Sizer(estate, world, list(flows))
    least = parts or {}
    tasks = [
        task for flow in sizer.flows for task in sizer.tasks(flow, cases, least.get(flow.key, 1))
    ]
    return Instance(
        cases=tuple(cases),
        pools=_pools(estate),
        site_cost={name: site.yearly_cost for name, site in estate.sites.items()},
        site_most={name: site.max_nodes for name, site in estate.sites.items()},
        tasks=tuple(tasks),
    )


def _pools(estate: Estate) -> dict[Pool, PoolFacts]:
    pools: dict[Pool, PoolFacts] = {}
    for site in estate.sites.values():
        for name in dict.fromkeys((site.hardware, *site.offers)):
            hardware = estate.hardware.get(name)
            if hardware is None or not hardware.lanes:
                continue
            pools[site.name, name] = PoolFacts(
                lanes=len(hardware.lanes),
                memory_bytes=hardware.memory_bytes,
                yearly_cost=hardware.yearly_cost,
                standing=site.nodes if name == site.hardware else 0,
                most=site.max_nodes,
                lead_weeks=hardware.lead_weeks,
            )
    return pools


class _Sizer:
    """Finds each flow's options and what they take."""

    def __init__(self, estate: Estate, world: World, flows: list[Flow]) -> None:
        self._estate, self._world, self.flows = estate, world, flows
        self._healthy = {flow.key: world.options(flow, Case()) for flow in flows}
        self._near = {flow.whole: _nearest(self._healthy[flow.key][0]) for flow in flows}
        self._mild = self._mild_rates()

    def tasks(self, flow: Flow, cases: Sequence[Case], parts: int) -> list[Task]:
        """Return the flow as tasks: several where one node could not take it."""
        options, refusals = self._healthy[flow.key]
        whole = self._choices(flow, options)
        least = min((choice.own for choice in whole.values()), default=0.0)
        if least > 1:
            parts = max(parts, min(MOST_PARTS, int(least / FULL) + 1))
        return [self._task(part, options, refusals, cases) for part in _split(flow, parts)]

    def _task(
        self,
        flow: Flow,
        options: Sequence[Option],
        refusals: Sequence[Refusal],
        cases: Sequence[Case],
    ) -> Task:
        decision = self._estate.decisions[flow.decision]
        healthy = self._choices(flow, options)
        return Task(
            flow=flow,
            decision=decision,
            choices=tuple(self._in_case(flow, healthy, case) for case in cases),
            must=tuple(needs(decision, flow, case) for case in cases),
            refusals=tuple(refusals),
        )

    def _in_case(self, flow: Flow, healthy: Choices, case: Case) -> Choices:
        """Return what is left of the choices; the healthy dictionary itself where all is."""
        if case.kind == "healthy":
            return healthy
        if case.kind == "node":
            hit = any(c.pool == (case.site, case.hardware) for c in healthy.values())
            return dict(healthy) if hit else healthy
        if not any(_passes(choice.option, case) for choice in healthy.values()):
            return healthy
        return self._choices(flow, self._world.options(flow, case)[0])

    def _choices(self, flow: Flow, options: Iterable[Option]) -> Choices:
        near = self._near[flow.whole]
        choices = [self._choice(flow, option) for option in options if option.site in near]
        # What fills more nodes than it has parts at most fits nowhere, and spoils the numbers.
        return {c.key: c for c in choices if c.own <= MOST_PARTS}

    def _choice(self, flow: Flow, option: Option) -> Choice:
        decision = self._estate.decisions[flow.decision]
        assert decision.arrivals is not None, "a flow has arrivals"
        lanes = len(self._estate.hardware[option.hardware].lanes)
        run_s = run_times_s(option.service, lanes)
        epsilon = wait_epsilon(decision.objective)
        arrivals, eta = decision.arrivals, tail_rate(option.wait_ns, epsilon)

        @cache
        def seen(rate: float) -> float:
            return bandwidth(arrivals, flow, run_s, rate, log(1 / epsilon) / rate)

        rank = decision.criticality.rank
        # Those below wait longer: what preempts them counts at their tail rate, not its own.
        levels = [seen(min(eta, self._mild[below])) for below in range(rank + 1, LEVELS)]
        return Choice(
            option=option,
            levels=(*[0.0] * rank, seen(eta), *levels),
            busy=busy(flow, run_s),
            rank=rank,
            eta=eta,
            seen=seen,
        )

    def _mild_rates(self) -> list[float]:
        """Return for each criticality rank the usual tail rate of its options."""
        found: list[list[float]] = [[] for _ in range(LEVELS)]
        for flow in self.flows:
            decision = self._estate.decisions[flow.decision]
            epsilon = wait_epsilon(decision.objective)
            found[decision.criticality.rank] += [
                tail_rate(option.wait_ns, epsilon) for option in self._healthy[flow.key][0]
            ]
        return [median(rates) if rates else inf for rates in found]


def _nearest(options: Iterable[Option]) -> set[str]:
    """Return the sites that a flow is considered at: the nearest of those that could answer it."""
    far = {option.site: option.rtt.delay.p50_ns for option in options}
    return set(sorted(far, key=lambda site: (far[site], site))[:NEAR])


def _passes(option: Option, case: Case) -> bool:
    """Tell whether what is lost carries or answers this option's questions."""
    if case.link is None:
        return case.site == option.site or case.site in option.path[1:]
    hops = zip(option.path, option.path[1:], strict=False)
    return any({a, b} == set(case.link) for a, b in hops)


def _split(flow: Flow, parts: int) -> list[Flow]:
    """Return the flow in equal parts; whole askers where there are enough of them."""
    if parts == 1:
        return [flow]
    if flow.askers >= parts:
        each = [flow.askers // parts + (part < flow.askers % parts) for part in range(parts)]
    else:
        each = [1] * parts
    whole = sum(each)
    return [
        replace(flow, part=part, parts=parts, askers=askers, rate=flow.rate * askers / whole)
        for part, askers in enumerate(each)
    ]
