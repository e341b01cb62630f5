"""Where a flow can be answered within its budget, and what each part of the budget goes to.

A budget falls into capture, access, link, gate, wait and run. All but the wait have their due at
the promised percentile; what they leave is the wait. Where they leave nothing, the place is
refused with the term that kills it. The percentiles share the permitted misses (union bound).
"""

from collections.abc import Sequence
from math import ceil

from msgspec import Struct
from msgspec.structs import replace

from tidsram import stats
from tidsram.errors import PlanError
from tidsram.estate.placement import allowed_at
from tidsram.estate.plan import Elsewhere
from tidsram.estate.types import Criticality, Decision, Delay, Estate, Hardware, Site, Variant
from tidsram.lab.facts import Measured
from tidsram.plan.demand import sources_of
from tidsram.plan.geography import CLOUDS, Cloud, Network, Path, cloud_rtt, observed
from tidsram.plan.problem import Case, Flow, Option, Refusal, Spread, Stage, Term
from tidsram.plan.spread import in_a_row, quantile_ns
from tidsram.plan.words import count
from tidsram.schedule.estimate import GUARD
from tidsram.units import SECOND, US, show_ns, show_size

Key = tuple[str, str, str]  # decision, variant, hardware

MOST_FLOWS = 2_000
RETURN_NS = 500 * US  # what a gate keeps for the way back
# Of the permitted misses, 1 − objective: what link, gate and run may each cause, and the wait.
TERM_SHARE, WAIT_SHARE = 0.2, 0.4

GATE_PRIOR = Spread(
    delay=Delay(p50_ns=200 * US, p99_9_ns=600 * US),
    basis="prior",
    source="tidsram's own overhead, docs/benchmarks.md",
)
ACCESS_PRIOR = Spread(
    delay=Delay(p50_ns=100 * US, p99_9_ns=500 * US),
    basis="prior",
    source="switched Ethernet",
)


def wait_epsilon(objective: float) -> float:
    """Return the share of requests that may wait longer than their wait class."""
    return WAIT_SHARE * (1 - objective)


def reaction_ns(decision: Decision) -> int:
    """Return the longest time from something happening to something moving.

    What happens just after a periodic sample is seen one period later; other arrivals are events
    that ask at once.
    """
    arrivals, period_ns = decision.arrivals, 0
    if arrivals is not None and arrivals.kind == "periodic":
        period_ns = round(SECOND / arrivals.rate)
    return period_ns + decision.budget_ns + decision.actuation_ns


def hardware_of(site: Site) -> tuple[str, ...]:
    """Return the hardware types that nodes of this site may have."""
    if site.max_nodes == 0:
        return ()
    return tuple(dict.fromkeys(name for name in (site.hardware, *site.offers) if name))


def pools(estate: Estate) -> list[tuple[str, str]]:
    """Return each site with each hardware type that it may have and that has lanes."""
    return [
        (site.name, name)
        for site in estate.sites.values()
        for name in hardware_of(site)
        if estate.hardware.get(name, Hardware()).lanes
    ]


def cases(estate: Estate) -> list[Case]:
    """Return the states of the estate that a plan must hold in: healthy, and each single loss.

    A kind of loss that no decision survives by its own declaration is left out.
    """
    kinds = {
        kind
        for decision in estate.decisions.values()
        if decision.criticality is not Criticality.BEST_EFFORT
        for kind in decision.survives
    }
    losses = [
        *(Case(kind="node", site=site, hardware=hardware) for site, hardware in pools(estate)),
        *(Case(kind="site", site=site) for site in estate.sites),  # without nodes it forwards yet
        *(Case(kind="link", link=(link.a, link.b)) for link in estate.links),
    ]
    return [Case(), *(case for case in losses if case.kind in kinds)]


def needs(decision: Decision, flow: Flow, case: Case) -> bool:
    """Tell whether the flow must be answered in `case`.

    Also when its own site is down: its askers are still there and go on asking over the links.
    """
    assert flow.decision == decision.name, "a flow goes with its own decision"
    if decision.criticality is Criticality.BEST_EFFORT:
        return False
    return case.kind == "healthy" or case.kind in decision.survives


class _Try(Struct, frozen=True, kw_only=True):
    """One way to answer a flow, to be judged."""

    decision: Decision
    askers: int
    site: Site
    path: Path
    hardware: str
    variant: Variant

    @property
    def key(self) -> Key:
        """What a profile of it is a fact about."""
        return self.decision.name, self.variant.name, self.hardware

    @property
    def q(self) -> float:
        """The percentile, as a share, at which link, gate and run have their due."""
        return 1 - TERM_SHARE * (1 - self.decision.objective)

    def refuse(self, term: str, sentence: str, short_ns: int = 0) -> Refusal:
        """Return the refusal, named by site, hardware and variant."""
        return Refusal(
            site=self.site.name,
            hardware=self.hardware,
            variant=self.variant.name,
            term=term,
            short_ns=short_ns,
            sentence=sentence,
        )


class World:
    """The estate as a planner sees it: how long everything takes, and what that rests on."""

    def __init__(self, estate: Estate, measured: Measured) -> None:
        _check_size(estate)
        self.estate = estate
        self.network = Network(estate, measured)
        self.runs: dict[Key, Spread] = {}
        self.gates: dict[Key, Spread] = {}  # measured ones only
        self.memory_bytes: dict[Key, int] = {}
        self._dues: dict[tuple[str, ...], int] = {}
        self._ways: dict[tuple[Spread, int, tuple[str, ...]], Spread] = {}
        self._judged: dict[tuple[str, str, int, tuple[str, ...]], list[Option | Refusal]] = {}
        for decision in estate.decisions.values():
            for variant in decision.ladder:
                self._learn(decision, variant, measured)
        _check_lanes(estate)

    def options(self, flow: Flow, case: Case) -> tuple[list[Option], list[Refusal]]:
        """Return every way to answer the flow within its budget in `case`, and why not others."""
        decision = self.estate.decisions[flow.decision]
        self._check_known(decision)
        answers = [
            answer
            for site in self.estate.sites.values()
            for answer in self._at(site, decision, flow, case)
        ]
        options = [answer for answer in answers if isinstance(answer, Option)]
        return options, [answer for answer in answers if isinstance(answer, Refusal)]

    def clouds(self, flow: Flow) -> list[Elsewhere]:
        """Return for each public cloud region why the flow is not answered there."""
        return [
            Elsewhere(where=f"public cloud, {cloud.name}", why=self._not_there(flow, cloud))
            for cloud in CLOUDS
        ]

    def _learn(self, decision: Decision, variant: Variant, measured: Measured) -> None:
        """Take in how long the variant runs on each hardware: measured, else declared."""
        for hardware in self.estate.hardware:
            key = decision.name, variant.name, hardware
            profile = measured.profiles.get(key)
            self.memory_bytes[key] = profile.memory_bytes if profile else variant.memory_bytes
            if profile and profile.run_ns:
                told = f"measured {profile.date}"
                self.runs[key] = observed(profile.run_ns, f"{told}, {len(profile.run_ns):,} runs")
                if profile.gate_ns:
                    told += f", {len(profile.gate_ns):,} questions"
                    self.gates[key] = observed(profile.gate_ns, told)
            elif declared := variant.service.get(hardware):
                told = f"service.{hardware} in {_table(decision, variant)}"
                self.runs[key] = Spread(delay=declared, basis="declared", source=told)

    def _check_known(self, decision: Decision) -> None:
        """Refuse a decision that nothing is known of: it would look as if it fitted nowhere."""
        types = [name for site in self.estate.sites.values() for name in hardware_of(site)]
        names = [variant.name for variant in decision.ladder]
        known = any((decision.name, name, hw) in self.runs for name in names for hw in types)
        if not known and decision.criticality is not Criticality.BEST_EFFORT:
            problem = _unprofiled(decision, decision.ladder[0], types[0])
            raise PlanError(f"[decision.{decision.name}]", problem)

    def _at(
        self, site: Site, decision: Decision, flow: Flow, case: Case
    ) -> Sequence[Option | Refusal]:
        """Return what comes of answering the flow at one site: law first, then reach and light."""
        if law := allowed_at(self.estate, decision, site):
            beyond = decision.jurisdictions and site.jurisdiction not in decision.jurisdictions
            return [_closed(site, "jurisdiction" if beyond else "data", law)]
        if not site.max_nodes:
            return [_closed(site, "nodes", "it has no room for nodes: max_nodes = 0")]
        if not hardware_of(site):
            remedy = f'add hardware = "TYPE" to [site.{site.name}]'
            return [_closed(site, "lanes", f"it names no hardware; {remedy}")]
        path = self.network.path(flow.source, site.name, case)
        if path is None:
            down = case.kind == "site" and case.site == site.name
            why = "it is down" if down else f"no links lead there from {flow.source}"
            return [_closed(site, "path", why)]
        # The same path, the same answer: most cases leave most paths as they are.
        key = decision.name, flow.source, flow.askers, path.sites
        if key not in self._judged:
            self._judged[key] = self._try_all(site, decision, flow.askers, path)
        light_ns, budget_ns = path.rtt.floor_ns, decision.budget_ns
        if light_ns <= budget_ns:
            return self._judged[key]
        why = f"physics: light in fibre needs {show_ns(light_ns)} from {flow.source} and back, "
        why += f"the budget is {show_ns(budget_ns)}"
        # What would mend it is what all terms need, not light alone.
        shorts_ns = [one.short_ns for one in self._judged[key] if isinstance(one, Refusal)]
        short_ns = min(filter(None, shorts_ns), default=light_ns - budget_ns)
        return [_closed(site, "physics", why, short_ns)]

    def _try_all(
        self, site: Site, decision: Decision, askers: int, path: Path
    ) -> list[Option | Refusal]:
        return [
            self._judge(
                _Try(
                    decision=decision,
                    askers=askers,
                    site=site,
                    path=path,
                    hardware=hardware,
                    variant=variant,
                )
            )
            for hardware in hardware_of(site)
            for variant in decision.ladder
        ]

    def _judge(self, attempt: _Try) -> Option | Refusal:
        """Return an option if all is known of it and its time suffices."""
        decision, variant, name = attempt.decision, attempt.variant, attempt.hardware
        hardware = self.estate.hardware.get(name, Hardware())
        if (variant.accuracy or 0.0) < decision.accuracy_floor:
            why = f"{variant.name} is below the accuracy floor of {decision.accuracy_floor:g}"
            return attempt.refuse("accuracy", why)
        if not hardware.lanes:
            remedy = f"add lanes = [{{ cores = [1] }}] with its own cores to [hardware.{name}]"
            return attempt.refuse("lanes", f"{name} declares no lanes; {remedy}")
        if attempt.key not in self.runs:
            return attempt.refuse("profile", _unprofiled(decision, variant, name))
        if 0 < hardware.memory_bytes < self.memory_bytes[attempt.key]:
            worker, node = self.memory_bytes[attempt.key], hardware.memory_bytes
            why = f"a worker of {variant.name} takes {show_size(worker)}, a node of {name} has "
            return attempt.refuse("memory", f"{why}{show_size(node)}")
        return self._spend(attempt, len(hardware.lanes))

    def _spend(self, attempt: _Try, lanes: int) -> Option | Refusal:
        """Give each term its due; what is left is for waiting."""
        decision, key = attempt.decision, attempt.key
        gate, run = self.gates.get(key, GATE_PRIOR), self.runs[key]
        rtt, way = self._way(attempt)
        gate_term = _term("gate", self._due(gate, attempt.q, "gate", *key), gate, attempt.q)
        run_term = _term("run", self._due(run, attempt.q, "run", *key), run, attempt.q)
        fixed = [*way, gate_term, run_term]
        left_ns = decision.budget_ns - sum(term.ns for term in fixed)
        batch_ns = _batch_rounds(decision, attempt.askers, lanes) * run_term.ns
        guard_ns = _guard_ns(run_term.ns, gate_term.ns)
        short_ns = batch_ns + guard_ns - left_ns  # so much more budget, and it fits
        if left_ns < 0:
            return _over_budget(attempt, fixed, -left_ns, short_ns)
        if batch_ns > left_ns:
            why = (
                f"all {attempt.askers} askers ask at once: the last waits {show_ns(batch_ns)} for "
                f"the others on {count(lanes, 'lane')} of {attempt.hardware} "
                f"({attempt.variant.name}), and {show_ns(left_ns)} are left of a budget of "
                f"{show_ns(decision.budget_ns)}"
            )
            return attempt.refuse("batch", why, short_ns)
        if short_ns > 0:
            why = (
                f"{show_ns(left_ns - batch_ns)} are left of a budget of "
                f"{show_ns(decision.budget_ns)}, and admission keeps {show_ns(guard_ns)} back "
                f"for what its estimate of {attempt.variant.name} on {attempt.hardware} may be off"
            )
            return attempt.refuse("guard", why, short_ns)
        told = "what the budget leaves"
        told += f", {show_ns(batch_ns)} of it for those who ask at once" if batch_ns else ""
        wait_term = Term(stage="wait", ns=left_ns, basis=run.basis, source=told)
        return Option(
            site=attempt.site.name,
            hardware=attempt.hardware,
            variant=attempt.variant.name,
            accuracy=attempt.variant.accuracy or 0.0,
            wait_ns=left_ns - batch_ns - guard_ns,
            terms=(*way, gate_term, wait_term, run_term),
            path=attempt.path.sites,
            rtt=rtt,
            gate=gate,
            service=run,
            memory_bytes=self.memory_bytes[key],
        )

    def _way(self, attempt: _Try) -> tuple[Spread, list[Term]]:
        """Return the round trip between asker and site, and the terms up to the gate."""
        decision, path, q = attempt.decision, attempt.path, attempt.q
        capture = _capture(decision)
        near = access(decision)
        near_ns = self._due(near, q, "access", decision.name)
        if len(path.sites) == 1:
            return near, [capture, _term("access", near_ns, near, q)]
        rtt = self._round_trip(near, near_ns, path)
        # Two lognormals in a row are not quite one: neither view of the sum may be undercut.
        sum_ns = self._due(rtt, q, "way", decision.name, *path.sites)
        link_ns = self._due(path.rtt, q, "link", decision.name, *path.sites)
        link = _term("link", max(link_ns, sum_ns - near_ns), path.rtt, q)
        return rtt, [capture, _term("access", near_ns, near, q), link]

    def _round_trip(self, near: Spread, near_ns: int, path: Path) -> Spread:
        """Add the access to a path. Measured links keep their samples, each with a slow access."""
        key = near, near_ns, path.sites
        if key not in self._ways:
            rtt = in_a_row([near, path.rtt], path.rtt.source)
            samples_ns = tuple(ns + near_ns for ns in path.rtt.samples_ns)
            self._ways[key] = replace(rtt, samples_ns=samples_ns)
        return self._ways[key]

    def _due(self, spread: Spread, q: float, *name: str) -> int:
        """Return the spread's quantile, remembered by name: samples take long to sort."""
        if name not in self._dues:
            self._dues[name] = quantile_ns(spread, q)
        return self._dues[name]

    def _not_there(self, flow: Flow, cloud: Cloud) -> str:
        """Say what law has against a cloud, and always what the way there takes."""
        decision, source = self.estate.decisions[flow.decision], self.estate.sites[flow.source]
        law = self._law_there(decision, cloud)
        if source.location is None:
            way = f"the round trip is not known: [site.{source.name}] declares no location"
            return f"{law}; and {way}" if law else way
        trip = in_a_row([access(decision), cloud_rtt(cloud, source.location)], cloud.name).delay
        way = (
            f"the round trip is {show_ns(trip.p50_ns)} at p50, {show_ns(trip.p99_9_ns)} at p99.9 "
            f"of a budget of {show_ns(decision.budget_ns)}"
        )
        if law:
            return f"{law}; and {way}"
        fits = decision.capture_ns + trip.p99_9_ns < decision.budget_ns
        return f"{way}; it would fit, but not on machines you own" if fits else way

    def _law_there(self, decision: Decision, cloud: Cloud) -> str:
        """Return why law forbids a cloud; empty where it does not."""
        there = Site(name=cloud.name, jurisdiction=cloud.jurisdiction)
        law = allowed_at(self.estate, decision, there)
        data = self.estate.data.get(decision.data)
        for lawful in (decision.jurisdictions, data.jurisdictions if data else ()):
            if law and lawful and cloud.jurisdiction not in lawful:
                return f"its data may not leave {', '.join(lawful)}"
        return law or ""


def access(decision: Decision) -> Spread:
    """Return the round trip between an asker and its own site."""
    if decision.access is None:
        return ACCESS_PRIOR
    told = f"access in [decision.{decision.name}]"
    return Spread(delay=decision.access, basis="declared", source=told)


def _guard_ns(run_ns: int, gate_ns: int) -> int:
    """Return what the scheduler keeps back: it promises nothing that only just fits."""
    return round((GUARD - 1) * run_ns) + max(0, RETURN_NS - gate_ns)


def _capture(decision: Decision) -> Term:
    if not decision.capture_ns:
        told = "not declared: asked as soon as the question arises"
        return Term(stage="capture", ns=0, basis="prior", source=told)
    told = f"capture in [decision.{decision.name}]"
    return Term(stage="capture", ns=decision.capture_ns, basis="declared", source=told)


def _check_lanes(estate: Estate) -> None:
    if not any(site.max_nodes for site in estate.sites.values()):
        raise PlanError(
            f"estate {estate.name}",
            "no site has room for a node; raise max_nodes of a [site.NAME] where one may stand",
        )
    if not pools(estate):
        raise PlanError(
            f"estate {estate.name}",
            "no site has hardware with lanes to plan on; add lanes = [{ cores = [1] }] with its "
            'own cores to a [hardware.TYPE], and hardware = "TYPE" to a [site.NAME]',
        )


def _check_size(estate: Estate) -> None:
    """Refuse what would keep a planner busy for hours without a word."""
    flows = sum(len(sources_of(estate, decision)) for decision in estate.decisions.values())
    if flows > MOST_FLOWS:
        raise PlanError(
            f"estate {estate.name}",
            f"has {flows:,} flows (decisions × sites that ask them), and a plan is for "
            f"{MOST_FLOWS:,} at most; divide it into estates that share no machines",
        )


def _batch_rounds(decision: Decision, askers: int, lanes: int) -> int:
    """Return how many runs the last of those who ask at once waits for."""
    together = decision.arrivals is not None and decision.arrivals.synchronised
    return ceil(askers / lanes) - 1 if together else 0


def _term(stage: Stage, ns: int, spread: Spread, q: float) -> Term:
    too_few = spread.samples_ns and not stats.claimable(len(spread.samples_ns), q)
    told = f", too few to prove {_percentile(q)}" if too_few else ""
    return Term(stage=stage, ns=ns, basis=spread.basis, source=f"{spread.source}{told}")


def _over_budget(attempt: _Try, fixed: Sequence[Term], over_ns: int, short_ns: int) -> Refusal:
    largest = max(fixed, key=lambda term: term.ns)
    by_size = sorted((term for term in fixed if term.ns), key=lambda term: -term.ns)
    parts = ", ".join(f"{term.stage} {show_ns(term.ns)}" for term in by_size)
    budget_ns = attempt.decision.budget_ns
    why = (
        f"{parts} come to {show_ns(budget_ns + over_ns)} at {_percentile(attempt.q)}, "
        f"{show_ns(over_ns)} beyond the budget of {show_ns(budget_ns)} "
        f"({attempt.variant.name} on {attempt.hardware})"
    )
    return attempt.refuse(largest.stage, why, short_ns)


def _closed(site: Site, term: str, why: str, short_ns: int = 0) -> Refusal:
    """Refuse the whole site, whatever stands there."""
    return Refusal(
        site=site.name, hardware="", variant="", term=term, short_ns=short_ns, sentence=why
    )


def _unprofiled(decision: Decision, variant: Variant, hardware: str) -> str:
    return (
        f"nothing says how long {variant.name} runs on {hardware}; run `tidsram profile "
        f"{decision.name} --hardware {hardware}` there, or declare service.{hardware} = "
        f'{{ p50 = "18 ms", p99_9 = "21 ms" }} with its own times in {_table(decision, variant)}'
    )


def _percentile(q: float) -> str:
    return f"p{round(100 * q, 6):.8g}"


def _table(decision: Decision, variant: Variant) -> str:
    return f"[decision.{decision.name}.variants.{variant.name}]"
