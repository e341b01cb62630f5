"""What if something is lost, or asked more often: the question, and the answer from the plan.

One loss is what a plan is made for: the answer stands in it. More questions need a new plan.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from tidsram.errors import EstateError
from tidsram.estate.plan import Place, Plan, PlannedFlow
from tidsram.estate.types import Estate
from tidsram.estate.values import nearest
from tidsram.plan.explain import losses, proof_in
from tidsram.plan.problem import Case
from tidsram.plan.words import Section, count, show_flow, show_place, show_share, table

MOST_TIMES = 1000.0
_WHERE = "--what-if"
_VERDICTS = {True: "every budget holds", False: "a budget does not hold", None: "not proven"}
_FORMS = '"site.NAME down", "node.SITE down", "link.A.B down" or "decision.NAME rate 2"'


class Loss(Struct, frozen=True, kw_only=True):
    """Something that is down; a node's hardware may be left open."""

    kind: Literal["node", "site", "link"]
    site: str = ""
    hardware: str = ""
    link: tuple[str, str] | None = None


class More(Struct, frozen=True, kw_only=True):
    """A decision that is asked so many times as often as declared."""

    decision: str
    times: float


class Moved(Struct, frozen=True, kw_only=True):
    """A flow that is answered elsewhere in a case, or not at all."""

    decision: str
    source: str
    flow: str
    best_effort: bool
    before: str
    after: str  # empty: not answered
    share_at_least: float | None
    verdict: str


class Effect(Struct, frozen=True, kw_only=True):
    """What one case does to a plan's flows; `holds` is None where the plan cannot say."""

    case: str
    holds: bool | None
    stay: int
    moved: tuple[Moved, ...]
    strained: tuple[Moved, ...] = ()  # that stay, and were not shown to keep their promise then
    why: str = ""  # why the plan cannot say


def parse_changes(text: str, estate: Estate) -> tuple[Loss | More, ...]:
    """Read what is supposed, several changes with commas between them."""
    return tuple(_change(part.strip(), estate) for part in text.split(","))


def with_more(estate: Estate, changes: Sequence[Loss | More]) -> Estate:
    """Return the estate with the arrivals that are supposed."""
    decisions = dict(estate.decisions)
    for change in changes:
        if isinstance(change, More):
            decision = decisions[change.decision]
            if decision.arrivals is None:
                raise _wrong(f"decision {change.decision} does not say how often it is asked")
            faster = replace(decision.arrivals, rate=decision.arrivals.rate * change.times)
            decisions[change.decision] = replace(decision, arrivals=faster)
    return replace(estate, decisions=decisions)


def effects(plan: Plan, loss: Loss) -> list[Effect]:
    """Return what a loss does, by the plan: one effect, or one for each hardware it may be."""
    return [_effect(plan, case) for case in _cases(plan, loss)]


def told(effect: Effect) -> list[Section]:
    """Say an effect in words, the verdict first."""
    if effect.why:
        return [Section(f"{effect.case}: {effect.why}")]
    lost = [one for one in effect.moved if not one.after]
    moved = [one for one in effect.moved if one.after]
    promised = [one for one in lost if not one.best_effort]
    if promised:
        verdict = f"{count(len(promised), 'flow')} cannot be answered"
    else:
        verdict = _VERDICTS[effect.holds]
    strained = [(one.flow, f"{one.before}{_share(one)}") for one in effect.strained]
    rows = [(one.flow, f"{one.before} → {one.after}{_share(one)}") for one in moved]
    parts = [
        Section(f"{effect.case}: {verdict}; {count(effect.stay, 'flow')} stay where they are"),
        Section("Answered elsewhere", tuple(table(rows, indent="  "))),
        Section("Not answered", tuple(table([(o.flow, _left(o)) for o in lost], indent="  "))),
        Section("Stay, but are not shown to hold", tuple(table(strained, indent="  "))),
    ]
    return [parts[0], *(part for part in parts[1:] if part.lines)]


def _left(moved: Moved) -> str:
    return "best-effort: left out" if moved.best_effort else f"was at {moved.before}"


def _share(moved: Moved) -> str:
    if moved.share_at_least is None:
        return ", not simulated"
    return f", ≥ {show_share(moved.share_at_least)} in time ({moved.verdict})"


def _effect(plan: Plan, case: Case) -> Effect:
    if case.name not in plan.cases:
        why = "the plan promises nothing for it, as no decision declares that it survives this"
        return Effect(case=case.name, holds=None, stay=0, moved=(), why=why)
    moved = [
        _moved(flow, case.name, after[case.name])
        for flow in plan.flows
        if case.name in (after := losses(plan, flow))
    ]
    strained = [
        _moved(flow, case.name, flow.place)
        for flow in plan.flows
        if case.name not in losses(plan, flow)
        and (proof := proof_in(flow, case.name))
        and proof.verdict != "met"
    ]
    return Effect(
        case=case.name,
        holds=_holds(plan, case.name, moved),
        stay=sum(flow.place is not None for flow in plan.flows) - len(moved),
        moved=tuple(moved),
        strained=tuple(strained),
    )


def _holds(plan: Plan, case: str, moved: Sequence[Moved]) -> bool | None:
    """Say whether every budget is kept in a case, if the plan knows."""
    verdicts = [proof.verdict for flow in plan.flows if (proof := proof_in(flow, case))]
    lost = any(not one.after and not one.best_effort for one in moved)
    if lost or "contradicted" in verdicts:
        return False
    simulated = all(one.verdict for one in moved if one.after) if moved else plan.verified
    return True if simulated and all(verdict == "met" for verdict in verdicts) else None


def _moved(flow: PlannedFlow, case: str, after: Place | None) -> Moved:
    proof = proof_in(flow, case) if after else None
    return Moved(
        decision=flow.decision,
        source=flow.source,
        flow=show_flow(flow),
        best_effort=flow.criticality == "best-effort",
        before=show_place(flow.place),
        after=show_place(after) if after else "",
        share_at_least=proof.share_at_least if proof else None,
        verdict=proof.verdict if proof else "",
    )


def _cases(plan: Plan, loss: Loss) -> list[Case]:
    if loss.kind == "link":
        assert loss.link is not None
        ways = [Case(kind="link", link=way) for way in (loss.link, loss.link[::-1])]
        return [next((way for way in ways if way.name in plan.cases), ways[0])]
    if loss.kind == "site":
        return [Case(kind="site", site=loss.site)]
    here = sorted({node.hardware for node in plan.nodes if node.site == loss.site})
    wanted = [kind for kind in here if loss.hardware in ("", kind)]
    if not wanted:
        there = f"; there is {', '.join(here)}" if here else ""
        raise _wrong(f"the plan has no {loss.hardware or 'node'} at {loss.site}{there}")
    return [Case(kind="node", site=loss.site, hardware=kind) for kind in wanted]


# Reading the question -------------------------------------------------------------------------


def _change(text: str, estate: Estate) -> Loss | More:
    subject, _, predicate = text.partition(" ")
    kind, _, rest = subject.partition(".")
    words = predicate.split()
    if kind == "decision" and rest and len(words) == 2 and words[0] == "rate":
        return More(decision=_known("decision", rest, estate.decisions), times=_times(words[1]))
    if kind in ("site", "node", "link") and rest and words == ["down"]:
        if kind == "site":
            return Loss(kind="site", site=_known("site", rest, estate.sites))
        return _node(rest, estate) if kind == "node" else _link(rest, estate)
    raise _wrong(f'"{text[:60]}" is nothing that can be supposed; write {_FORMS}')


def _node(name: str, estate: Estate) -> Loss:
    if name in estate.sites:
        return Loss(kind="node", site=name)
    for site, hardware in _splits(name):
        if site in estate.sites and hardware in estate.hardware:
            return Loss(kind="node", site=site, hardware=hardware)
    return Loss(kind="node", site=_known("site", name, estate.sites))


def _link(name: str, estate: Estate) -> Loss:
    pairs = [(link.a, link.b) for link in estate.links]
    for ends in _splits(name):
        if ends in pairs or ends[::-1] in pairs:
            return Loss(kind="link", link=ends)
    known = [f"{a}.{b}" for one in pairs for a, b in (one, one[::-1])]
    names = ", ".join(f"{a}.{b}" for a, b in pairs) or "none"
    raise _wrong(f'there is no link "{name}"{nearest(name, known) or f"; there are {names}"}')


def _splits(name: str) -> list[tuple[str, str]]:
    """Return all ways to read two names, which may hold dots, out of one."""
    parts = name.split(".")
    return [(".".join(parts[:at]), ".".join(parts[at:])) for at in range(1, len(parts))]


def _known(what: str, name: str, declared: Mapping[str, object]) -> str:
    if name not in declared:
        near = nearest(name, list(declared)) or f"; there are {', '.join(declared)}"
        raise _wrong(f'the estate declares no {what} "{name}"{near}')
    return name


def _times(text: str) -> float:
    try:
        times = float(text)
    except ValueError:
        times = 0.0
    if not 0 < times <= MOST_TIMES:
        raise _wrong(f'"{text}" is not how many times as often; write a number such as 2 or 0.5')
    return times


def _wrong(problem: str) -> EstateError:
    return EstateError(_WHERE, problem)
