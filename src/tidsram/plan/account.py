"""What was found, told as a plan: places, budgets, proofs, and why not elsewhere."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from tidsram.estate.plan import (
    Elsewhere,
    Place,
    PlannedFlow,
    PlannedNode,
    PlannedTerm,
    Proof,
    WarmDecision,
)
from tidsram.plan.instance import Choice, Instance, Task
from tidsram.plan.latency import World, reaction_ns
from tidsram.plan.pack import Home, Scenario, fullness
from tidsram.plan.problem import Refusal, Term
from tidsram.plan.prove import proof
from tidsram.plan.search import Found
from tidsram.units import US, show_ns


def numbered(found: Found) -> dict[Home, Place]:
    """Return each node's place: nodes are counted from 1 at their site."""
    homes = [
        Home(pool, index)
        for pool, count in sorted(found.solution.nodes.items())
        for index in range(count)
    ]
    seen: dict[str, int] = defaultdict(int)
    places: dict[Home, Place] = {}
    for home in homes:
        seen[home.pool[0]] += 1
        places[home] = Place(site=home.pool[0], node=seen[home.pool[0]])
    return places


def planned_flows(found: Found, world: World) -> tuple[PlannedFlow, ...]:
    """Return every flow with its place, its budget and its proofs."""
    places = numbered(found)
    return tuple(
        _flow(found, world, places, number, task)
        for number, task in enumerate(found.instance.tasks)
    )


def planned_nodes(found: Found) -> tuple[PlannedNode, ...]:
    """Return every node with what it keeps warm."""
    places = numbered(found)
    return tuple(_node(found, places, home) for home in places)


def _flow(
    found: Found, world: World, places: Mapping[Home, Place], number: int, task: Task
) -> PlannedFlow:
    flow, decision = task.flow, task.decision
    healthy = found.scenarios[0]
    home, choice = healthy.homes[number], healthy.choices[number]
    return PlannedFlow(
        decision=flow.decision,
        source=flow.source,
        part=flow.part,
        parts=flow.parts,
        askers=flow.askers,
        rate=flow.rate,
        criticality=decision.criticality.value,
        budget_us=decision.budget_ns // US,
        objective=decision.objective,
        reaction_us=reaction_ns(decision) // US,
        place=places[home] if home is not None else None,
        variant=choice.option.variant if choice else "",
        accuracy=choice.option.accuracy if choice else 0.0,
        terms=_terms(choice.option.terms if choice else (), task),
        elsewhere=(*_elsewhere(task, choice), *world.clouds(flow)),
        backups=_backups(found, places, number),
        proofs=_proofs(found, number, task),
    )


def _terms(terms: Sequence[Term], task: Task) -> tuple[PlannedTerm, ...]:
    """Return a budget's parts in whole microseconds that still sum to it, then the actuation."""
    planned: list[PlannedTerm] = []
    spent_ns = 0
    for term in terms:
        before_us, spent_ns = spent_ns // US, spent_ns + term.ns
        us = spent_ns // US - before_us
        planned.append(PlannedTerm(stage=term.stage, us=us, basis=term.basis, source=term.source))
    if task.decision.actuation_ns and terms:
        us = task.decision.actuation_ns // US
        planned.append(PlannedTerm(stage="actuation", us=us, basis="declared", source="after it"))
    return tuple(planned)


def _elsewhere(task: Task, chosen: Choice | None) -> list[Elsewhere]:
    """Return for each site that does not answer the flow the nearest it comes to doing so."""
    here = chosen.option.site if chosen else ""
    refused: dict[str, Refusal] = {}
    for refusal in task.refusals:
        known = refused.get(refusal.site)
        if known is None or (known.short_ns, refusal.short_ns) > (refusal.short_ns, known.short_ns):
            refused[refusal.site] = refusal
    able: dict[str, Choice] = {}
    for choice in task.choices[0].values():
        known_choice = able.get(choice.option.site)
        if known_choice is None or choice.option.wait_ns > known_choice.option.wait_ns:
            able[choice.option.site] = choice
    told = [
        Elsewhere(
            where=site,
            why=f"would hold, with {show_ns(choice.option.wait_ns)} left to wait; "
            "another place is cheaper in all, or nearer",
        )
        for site, choice in able.items()
        if site != here
    ]
    told += [
        Elsewhere(where=site, why=refusal.sentence)
        for site, refusal in refused.items()
        if site != here and site not in able
    ]
    return told


def _backups(found: Found, places: Mapping[Home, Place], number: int) -> dict[str, Place | None]:
    """Return where the flow is answered in each case that moves it."""
    healthy = found.scenarios[0].homes[number]
    moved: dict[str, Place | None] = {}
    for scenario in found.scenarios[1:]:
        home = scenario.homes[number]
        # Of the nodes that a case may take, its own; unless it has to make room for others'.
        known = moved.get(scenario.case.name)
        if home != healthy and (known is None or scenario.lost == healthy):
            moved[scenario.case.name] = places[home] if home is not None else None
    return moved


def _proofs(found: Found, number: int, task: Task) -> tuple[Proof, ...]:
    """Return the flow's proof when all is well, and the worst of each case that touches it."""
    worst: dict[str, Proof] = {}
    before = found.scenarios[0].homes[number]
    healthy = found.tallies[0].get(before) if before is not None else None
    for scenario, tallies in zip(found.scenarios, found.tallies, strict=False):
        home, case = scenario.homes[number], found.instance.cases.index(scenario.case)
        if home is None or home not in tallies or not (task.must[case] or case == 0):
            continue
        if case == 0 or tallies[home] is not healthy:
            name = scenario.case.name
            one = proof(name, tallies[home][task.flow.key], task.decision.objective)
            if name not in worst or one.share_at_least < worst[name].share_at_least:
                worst[name] = one
    return tuple(worst.values())


def _node(found: Found, places: Mapping[Home, Place], home: Home) -> PlannedNode:
    instance = found.instance
    facts = instance.pools[home.pool]
    held = _held(instance, found.scenarios[0], home)
    asked = _asked_of(found, home)
    memory_bytes = sum(
        max(choice.option.memory_bytes for choice in choices) for choices in asked.values()
    )
    return PlannedNode(
        site=home.pool[0],
        node=places[home].node,
        hardware=home.pool[1],
        load=round(max(fullness(choice for _, choice in held)) / found.room[home.pool], 4),
        busy=round(sum(choice.busy for _, choice in held), 4),
        memory_bytes=memory_bytes * facts.lanes,
        warm=_warm(found, places, home, asked),
    )


def _held(instance: Instance, scenario: Scenario, home: Home) -> list[tuple[Task, Choice]]:
    return [
        (task, choice)
        for task, where, choice in zip(
            instance.tasks, scenario.homes, scenario.choices, strict=True
        )
        if where == home and choice is not None
    ]


def _asked_of(found: Found, home: Home) -> dict[str, list[Choice]]:
    """Return by decision all that any scenario asks of a node."""
    asked: dict[str, list[Choice]] = defaultdict(list)
    for scenario in found.scenarios:
        for task, choice in _held(found.instance, scenario, home):
            asked[task.flow.decision].append(choice)
    return asked


def _warm(
    found: Found,
    places: Mapping[Home, Place],
    home: Home,
    asked: Mapping[str, Sequence[Choice]],
) -> tuple[WarmDecision, ...]:
    healthy: dict[str, list[Task]] = defaultdict(list)
    for task, _ in _held(found.instance, found.scenarios[0], home):
        healthy[task.flow.decision].append(task)
    return tuple(
        WarmDecision(
            decision=name,
            variant=choices[0].option.variant,
            role="serves" if name in healthy else "stands by",
            lanes=tuple(range(found.instance.pools[home.pool].lanes)),
            wait_us=min(choice.option.wait_ns for choice in choices) // US,
            rate=sum(task.flow.rate for task in healthy[name]),
            neighbours=_neighbours(found, places, home, name),
        )
        for name, choices in sorted(asked.items())
    )


def _neighbours(
    found: Found, places: Mapping[Home, Place], home: Home, decision: str
) -> tuple[Place, ...]:
    """Return where the decision's questions go when this node, or its site, is lost."""
    mine = [
        number
        for number, (task, where) in enumerate(
            zip(found.instance.tasks, found.scenarios[0].homes, strict=True)
        )
        if where == home and task.flow.decision == decision
    ]
    then = [
        scenario.homes[number]
        for scenario in found.scenarios[1:]
        if scenario.lost == home or _is_down(scenario, home)
        for number in mine
    ]
    once = dict.fromkeys(then)
    return tuple(places[other] for other in once if other is not None and other != home)


def _is_down(scenario: Scenario, home: Home) -> bool:
    return scenario.case.kind == "site" and scenario.case.site == home.pool[0]
