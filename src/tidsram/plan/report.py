"""A plan as one page for people who do not read JSON: `report.html`.

The page is self-contained: no script, no font, no picture from elsewhere; it prints as it stands.
It says nothing that is not in the plan and its estate; the same plan always gives the same page.
"""

from collections.abc import Iterable, Sequence
from math import floor, inf

import jinja2
from markupsafe import Markup
from msgspec import Struct

from tidsram.estate.plan import Place, Plan, PlannedFlow, PlannedTerm, Proof, QuarterPlan
from tidsram.estate.types import Criticality, Estate
from tidsram.lab import page
from tidsram.plan import figures
from tidsram.plan.figures import Column
from tidsram.plan.outlook import GROWS
from tidsram.plan.site_map import draw_map, nodes_by_site, ways
from tidsram.plan.words import budget_terms, count, show_cases, show_place, show_share, show_us
from tidsram.stats import Verdict
from tidsram.units import US, show_rate, show_size

_KEPT = "\u00a0"  # a space at which no line ends
_SHOWN_AT_ONCE = 12  # decisions; of more, only the tightest bars are unfolded on a screen
_MOVES_SHOWN = 6
_NAMED_AT_MOST = 6
_MOST_HEADROOM = GROWS[-1]  # more is not tried
_BASES = ("prior", "declared", "measured")  # weakest first
_BAD: Verdict = "contradicted"
_OPEN: Verdict = "not enough evidence"
_GOOD: Verdict = "met"
_VERDICTS = (_BAD, _OPEN, _GOOD)  # worst first


class _Headline(Struct, frozen=True, kw_only=True):
    """The answer in one line, how it was reached, and in which colour to say it."""

    words: str
    because: str
    kind: str


class _Bar(Struct, frozen=True, kw_only=True):
    """A budget's bar, for one flow or for parts of one that share it."""

    who: str
    where: str
    drawing: Markup
    terms: tuple[PlannedTerm, ...]
    over_us: int  # beyond the budget
    afterwards_us: int


class _Elsewhere(Struct, frozen=True, kw_only=True):
    """A place that was not chosen, why, and for whose questions."""

    where: str
    why: str
    sources: str


class _Told(Struct, frozen=True, kw_only=True):
    """A decision with all that the page says about it."""

    name: str
    first: PlannedFlow
    flows: tuple[PlannedFlow, ...]
    bars: tuple[_Bar, ...]
    reaction: str
    places: tuple[str, ...]
    elsewhere: tuple[_Elsewhere, ...]


class _Proven(Struct, frozen=True, kw_only=True):
    """A flow and the case in which it does worst."""

    flow: PlannedFlow
    worst: Proof | None
    cases: int
    verdict: str


class _Loss(Struct, frozen=True, kw_only=True):
    """One case: what moves where, what is not answered then, and whether promises hold."""

    name: str
    moves: tuple[str, ...]
    unanswered: tuple[str, ...]
    holds: str
    kind: str

    @property
    def matters(self) -> bool:
        """Tell whether anything is otherwise then than when all is well."""
        return bool(self.moves or self.unanswered or self.kind != "not simulated")


class _Cost(Struct, frozen=True, kw_only=True):
    """What one site costs a year."""

    site: str
    machines: str
    machines_cost: float
    site_cost: float


def write_report(plan: Plan, estate: Estate) -> str:
    """Return the page's HTML."""
    told = [_tell(flows, estate) for flows in _by_decision(plan.flows)]
    costs, losses = _costs(plan, estate), _losses(plan)
    itemised = sum(cost.machines_cost + cost.site_cost for cost in costs)
    return _template().render(
        plan=plan,
        estate=estate,
        headline=_headline(plan),
        nodes_by_site=nodes_by_site(plan),
        answered_at=_answered_at(plan),
        standing_by_at=_standing_by_at(plan),
        map=draw_map(plan, estate),
        ways=ways(plan),
        unlocated=[name for name, site in estate.sites.items() if site.location is None],
        patterns=figures.patterns(),
        stages=tuple(figures.SHADES),
        bases=_BASES,
        told=told,
        tightest=sorted(told, key=_tightness) if len(told) > _SHOWN_AT_ONCE else told,
        shown_at_once=_SHOWN_AT_ONCE,
        proven=[_prove(flow) for flow in plan.flows],
        charts=_charts(plan.quarters),
        quarters=_quarters(plan.quarters),
        losses=[loss for loss in losses if loss.matters],
        harmless=[loss.name for loss in losses if not loss.matters],
        moves_shown=_MOVES_SHOWN,
        most_headroom=_MOST_HEADROOM,
        costs=costs,
        unexplained=plan.yearly_cost - itemised,
        assumptions=sorted(plan.assumptions, key=lambda one: _BASES.index(one.basis)),
    )


def _template() -> jinja2.Template:
    environment = page.environment()
    environment.filters |= {
        "time": lambda us: "–" if us is None else show_us(us),
        "rate": lambda rate: show_rate(float(f"{rate:.4g}")),
        "size": show_size,
        "money": lambda amount: f"{amount:,.0f}",
        "number": lambda number: f"{number:,}",
        "share": lambda share: _kept(show_share(share)),
        "percent": lambda share: f"{share * 100:.0f}{_KEPT}%",
        "whole": lambda share: f"{floor(share * 100 + 1e-9)}{_KEPT}%",  # claims no more than it is
        "place": _at,
        "counted": count,
        "few": _few,
        "times": _times,
        "meter": figures.meter,
    }
    environment.globals["swatch"] = figures.swatch
    return environment.get_template("plan/report.html.j2")


def _headline(plan: Plan) -> _Headline:
    failing = _unique(flow.decision for flow in plan.flows if _fails(flow))
    decisions = len(_unique(flow.decision for flow in plan.flows))
    if failing:
        keeps = "does not keep its budget" if len(failing) == 1 else "do not keep their budgets"
        words = f"{len(failing)} of {count(decisions, 'decision')} {keeps}: {_joined(failing)}."
        return _Headline(words=words, because=_simulated(plan), kind=_BAD)
    if plan.problems:
        return _Headline(words="The plan does not hold.", because=_simulated(plan), kind=_BAD)
    if plan.verified:
        return _Headline(words="Every budget holds.", because=_simulated(plan), kind=_GOOD)
    return _Headline(
        words="Every budget holds by calculation; it is not verified.",
        because=_simulated(plan),
        kind=_OPEN,
    )


def _simulated(plan: Plan) -> str:
    """Say on how much simulation the answer rests."""
    proofs = [proof for flow in plan.flows for proof in flow.proofs]
    if not proofs:
        return "Nothing has been simulated: the answer rests on calculation alone."
    fewest = min(proof.asked for proof in proofs)
    verdicts = [proof.verdict for proof in proofs]
    shares = [(verdicts.count(_GOOD), "met"), (verdicts.count(_BAD), "contradicted")]
    shares.append((verdicts.count(_OPEN), "left open for want of evidence"))
    found = [f"{many:,} {words}" for many, words in shares if many]
    return (
        f"Simulated with the scheduler that serves: at least {count(fewest, 'request')} for each "
        f"flow in {show_cases(plan)}. Of {count(len(proofs), 'promise')} tested at 99{_KEPT}% "
        f"confidence: {_joined(found)}."
    )


def _fails(flow: PlannedFlow) -> bool:
    if flow.place is None:
        return flow.criticality != Criticality.BEST_EFFORT
    return any(proof.verdict == _BAD for proof in flow.proofs)


def _by_decision(flows: Iterable[PlannedFlow]) -> list[tuple[PlannedFlow, ...]]:
    grouped: dict[str, list[PlannedFlow]] = {}
    for flow in flows:
        grouped.setdefault(flow.decision, []).append(flow)
    return [tuple(group) for group in grouped.values()]


def _tell(flows: tuple[PlannedFlow, ...], estate: Estate) -> _Told:
    first = flows[0]
    declared = estate.decisions.get(first.decision)
    actuation_us = declared.actuation_ns // US if declared else 0
    return _Told(
        name=first.decision,
        first=first,
        flows=flows,
        bars=_bars(flows, actuation_us),
        reaction=_reaction(flows, actuation_us),
        places=tuple(_unique(_at(flow.place) for flow in flows if flow.place)),
        elsewhere=_elsewhere(flows),
    )


def _bars(flows: Sequence[PlannedFlow], actuation_us: int) -> tuple[_Bar, ...]:
    """Draw a bar for each flow; parts that go the same way at the same pace share one."""
    alike: dict[tuple[object, ...], list[PlannedFlow]] = {}
    for flow in flows:
        alike.setdefault((flow.source, flow.place, flow.variant, flow.terms), []).append(flow)
    return tuple(_bar(group, actuation_us) for group in alike.values())


def _bar(flows: Sequence[PlannedFlow], actuation_us: int) -> _Bar:
    flow = flows[0]
    terms = budget_terms(flow)
    return _Bar(
        who=_source(flow) if len(flows) == 1 else f"{flow.source}, {len(flows)} parts",
        where=_answered(flow),
        drawing=figures.budget_bar(terms, flow.budget_us),
        terms=terms,
        over_us=max(0, sum(term.us for term in terms) - flow.budget_us),
        afterwards_us=actuation_us,
    )


def _answered(flow: PlannedFlow) -> str:
    if flow.place is not None:
        return f"answered at {_at(flow.place)}, {flow.variant}"
    if flow.criticality == Criticality.BEST_EFFORT:
        return "left out: best-effort, answered only where time is left over"
    return "no place keeps this budget"


def _reaction(flows: Sequence[PlannedFlow], actuation_us: int) -> str:
    """Say the worst time from something happening to something being done about it."""
    worst = max(flows, key=lambda flow: flow.reaction_us)
    period_us = worst.reaction_us - worst.budget_us - actuation_us
    parts = [f"{show_us(period_us)} until the next sample"] if period_us > 0 else []
    parts.append(f"the budget of {show_us(worst.budget_us)}")
    if actuation_us:
        parts.append(f"{show_us(actuation_us)} of actuation")
    return f"Worst reaction {show_us(worst.reaction_us)}: {' + '.join(parts)}."


def _elsewhere(flows: Sequence[PlannedFlow]) -> tuple[_Elsewhere, ...]:
    """Say each place and reason once, and from where questions are if it is not for all."""
    sources: dict[tuple[str, str], list[str]] = {}
    for flow in flows:
        for one in flow.elsewhere:
            sources.setdefault((one.where, one.why), []).append(flow.source)
    everywhere = set(_unique(flow.source for flow in flows))
    return tuple(
        _Elsewhere(
            where=where,
            why=why,
            sources="all" if set(named) == everywhere else _joined(_unique(named)),
        )
        for (where, why), named in sources.items()
    )


def _tightness(told: _Told) -> float:
    """Order decisions by the smallest share of a budget that is left to wait; none comes first."""
    return min(_wait_share(flow) for flow in told.flows)


def _wait_share(flow: PlannedFlow) -> float:
    if not flow.terms:
        return inf if flow.criticality == Criticality.BEST_EFFORT else -inf
    return sum(term.us for term in flow.terms if term.stage == "wait") / max(1, flow.budget_us)


def _prove(flow: PlannedFlow) -> _Proven:
    if flow.place is None:
        shed = flow.criticality == Criticality.BEST_EFFORT
        verdict = "left out" if shed else "no place"
    else:
        verdict = "not simulated"
    worst = min(flow.proofs, key=_worst_first, default=None)
    return _Proven(
        flow=flow,
        worst=worst,
        cases=len(flow.proofs),
        verdict=worst.verdict if worst else verdict,
    )


def _worst_first(proof: Proof) -> tuple[int, float]:
    return _VERDICTS.index(proof.verdict), proof.share_at_least


def _losses(plan: Plan) -> list[_Loss]:
    moved = [case for flow in plan.flows for case in flow.backups]
    return [_loss(case, plan) for case in _unique([*plan.cases, *moved]) if case != "healthy"]


def _loss(case: str, plan: Plan) -> _Loss:
    touched = [flow for flow in plan.flows if case in flow.backups]
    verdicts = [p.verdict for flow in plan.flows for p in flow.proofs if p.case == case]
    kind = min(verdicts, key=_VERDICTS.index, default="not simulated")
    of = len(verdicts)
    return _Loss(
        name=case,
        moves=tuple(_move(flow, flow.backups[case]) for flow in touched if flow.backups[case]),
        unanswered=tuple(
            f"{flow.decision} from {_source(flow)}, {flow.criticality}"
            for flow in touched
            if flow.backups[case] is None
        ),
        holds=f"{verdicts.count(_GOOD)} of {of} met" if of else kind,
        kind=kind,
    )


def _move(flow: PlannedFlow, to: Place | None) -> str:
    return f"{flow.decision} from {_source(flow)}: {_at(flow.place)} → {_at(to)}"


def _costs(plan: Plan, estate: Estate) -> list[_Cost]:
    machines: dict[str, dict[str, int]] = {}
    for node in plan.nodes:
        counts = machines.setdefault(node.site, {})
        counts[node.hardware] = counts.get(node.hardware, 0) + 1
    return [
        _Cost(
            site=site,
            machines=", ".join(f"{count} × {hardware}" for hardware, count in counts.items()),
            machines_cost=sum(
                count * estate.hardware[hardware].yearly_cost
                for hardware, count in counts.items()
                if hardware in estate.hardware
            ),
            site_cost=estate.sites[site].yearly_cost if site in estate.sites else 0.0,
        )
        for site, counts in machines.items()
    ]


def _charts(quarters: Sequence[QuarterPlan]) -> list[tuple[str, Markup]]:
    """Draw the quarters side by side: machines, cost, and how much more they could take."""
    if not quarters:
        return []
    nodes = [(float(total := sum(one.nodes.values())), str(total)) for one in quarters]
    costs = [(one.yearly_cost, _short(one.yearly_cost)) for one in quarters]
    rooms = [(min(one.headroom, _MOST_HEADROOM), _times(one.headroom)) for one in quarters]
    return [
        ("Nodes", figures.columns("Nodes", _columns(quarters, nodes))),
        ("Yearly cost", figures.columns("Yearly cost", _columns(quarters, costs))),
        ("Headroom", figures.columns("Headroom", _columns(quarters, rooms), line=1.0)),
    ]


def _columns(quarters: Sequence[QuarterPlan], shown: Sequence[tuple[float, str]]) -> list[Column]:
    """Return a column for each quarter; a year stands once, under its first quarter."""
    columns, last_year = [], ""
    for quarter, (value, words) in zip(quarters, shown, strict=True):
        year, _, label = quarter.quarter.partition("-")
        columns.append(
            Column(
                value=value,
                words=words,
                label=label,
                below="" if year == last_year else year,
                alert=bool(quarter.problem),
                doubtful=not quarter.verified,
            )
        )
        last_year = year
    return columns


def _quarters(quarters: Sequence[QuarterPlan]) -> list[tuple[QuarterPlan, str]]:
    """Say each quarter's nodes: all of the first, then what is added or given up."""
    said: list[tuple[QuarterPlan, str]] = []
    before: dict[str, int] = {}
    for one in quarters:
        changes = [
            f"{'+' if said and change > 0 else ''}{change} × {where}"
            for where in _unique([*before, *one.nodes])
            if (change := one.nodes.get(where, 0) - before.get(where, 0))
        ]
        said.append((one, ", ".join(changes) or ("as before" if said else "none")))
        before = one.nodes
    return said


def _answered_at(plan: Plan) -> dict[str, list[str]]:
    """Return which decisions are answered at each site."""
    at: dict[str, list[str]] = {}
    for flow in plan.flows:
        if flow.place is not None:
            at.setdefault(flow.place.site, []).append(flow.decision)
    return {site: _unique(names) for site, names in at.items()}


def _standing_by_at(plan: Plan) -> dict[str, list[str]]:
    """Return which decisions each site would answer if something were lost."""
    at: dict[str, list[str]] = {}
    for node in plan.nodes:
        warm = [one.decision for one in node.warm if one.role == "stands by"]
        at.setdefault(node.site, []).extend(warm)
    return {site: _unique(names) for site, names in at.items()}


def _source(flow: PlannedFlow) -> str:
    part = f", part {flow.part + 1} of {flow.parts}" if flow.parts > 1 else ""
    return f"{flow.source}{part}"


def _at(place: Place | None) -> str:
    return _kept(show_place(place))


def _kept(words: str) -> str:
    """Keep words on one line."""
    return words.replace(" ", _KEPT)


def _few(names: Sequence[str], noun: str) -> str:
    """Name a few; count more."""
    return count(len(names), noun) if len(names) > _NAMED_AT_MOST else ", ".join(names) or "–"


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _short(amount: float) -> str:
    """Show money so that it fits over a column."""
    for unit, name in ((1e9, "bn"), (1e6, "M"), (1e3, "k")):
        if abs(amount) >= unit:
            return f"{amount / unit:.3g}{_KEPT}{name}"
    return f"{amount:.0f}"


def _times(headroom: float) -> str:
    return f"{headroom:.2f}×" if headroom < _MOST_HEADROOM else f"≥ {_MOST_HEADROOM:.0f}×"
