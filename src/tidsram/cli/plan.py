"""`tidsram plan`: where each decision is made, on what, and whether every budget holds."""

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from rich.console import Console
from rich.text import Text

from tidsram import clock
from tidsram.errors import EstateError
from tidsram.estate.doubts import doubts
from tidsram.estate.load import estate_sha256, load_estate, load_plan
from tidsram.estate.plan import Plan, PlannedFlow, Saving
from tidsram.estate.types import Estate
from tidsram.lab.facts import Measured, read_measured
from tidsram.plan import compare, whatif
from tidsram.plan.demand import quarter_of, quarters_until
from tidsram.plan.explain import Standing, explain, standing, summary, unknown
from tidsram.plan.words import Section, sentences

SEED = 1  # the same estate, the same plan
_STATUS: dict[Standing, int] = {"holds": 0, "does not hold": 1, "is not proven": 3}
_BEYOND = (
    "A plan promises to survive one loss at a time; for these together it promises nothing. "
    "One by one:"
)
_STYLE = {None: "bold", 0: "bold green", 1: "bold red", 3: "bold yellow"}


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """How hard to plan, and how far ahead."""

    growth: str | None  # the last quarter; None: as far as the estate declares
    requests: int
    seconds: int


class _Made(msgspec.Struct):
    standing: Standing
    plan_file: str
    report_file: str
    plan: Plan


class _Explained(msgspec.Struct):
    standing: Standing
    decision: str
    flows: list[PlannedFlow]
    savings: list[Saving]


def run(
    *,
    file: Path,
    out: Path | None,
    effort: Effort,
    decision: str | None,
    supposed: str | None,
    old: Path | None,
    as_json: bool,
) -> int:
    """Plan, or ask a plan; 0 when every budget holds, 1 when not, 3 when nobody can say."""
    if sum(asked is not None for asked in (decision, supposed, old)) > 1:
        raise EstateError("--explain, --what-if, --compare", "ask one thing at a time")
    work = _Work(file, out, effort)
    if decision is not None:
        return _explain(work, decision, as_json=as_json)
    if supposed is not None:
        return _suppose(work, supposed, as_json=as_json)
    if old is not None:
        return _compare(work, old, as_json=as_json)
    plan = work.make()
    growing = effort.growth is not None
    status = _STATUS[standing(plan, growing=growing)]
    if as_json:
        found = standing(plan, growing=growing)
        _print_json(_Made(found, str(work.plan_file), str(work.report_file), plan))
    else:
        _print(summary(plan, growing=growing), status)
        print(f"\nWritten to {work.plan_file} and {work.report_file}.")
    return status


def _explain(work: "_Work", decision: str, *, as_json: bool) -> int:
    if decision not in work.estate.decisions:
        raise unknown(decision, work.estate.decisions)
    plan = work.existing_or_new()
    parts = explain(plan, work.estate, decision)
    if as_json:
        flows = [flow for flow in plan.flows if flow.decision == decision]
        savings = [saving for saving in plan.savings if saving.decision == decision]
        _print_json(_Explained(standing(plan), decision, flows, savings))
    else:
        _print(parts)
    return 0


def _compare(work: "_Work", old: Path, *, as_json: bool) -> int:
    before = load_plan(old)
    if before.estate != work.estate.name:
        raise EstateError(
            str(old),
            f"is a plan of estate {before.estate}, and {work.file} declares {work.estate.name}; "
            "name an older plan of the same estate",
        )
    found = compare.compare(before, work.existing_or_new())
    if as_json:
        _print_json(found)
    else:
        _print(compare.told(found))
    return 0


def _suppose(work: "_Work", text: str, *, as_json: bool) -> int:
    changes = whatif.parse_changes(text, work.estate)
    losses = [change for change in changes if isinstance(change, whatif.Loss)]
    if len(losses) < len(changes):
        if losses:
            raise EstateError("--what-if", "suppose losses or more questions, not both at once")
        return _suppose_more(work, changes, text, as_json=as_json)
    plan = work.existing_or_new()
    effects = [effect for loss in losses for effect in whatif.effects(plan, loss)]
    beyond = len(losses) > 1
    status = 3 if beyond else _status_of(effects)
    if as_json:
        _print_json({"beyond_the_plan": beyond, "effects": effects})
        return status
    if beyond:
        _print([Section(_BEYOND)], status)
    for effect in effects:
        if beyond or effect is not effects[0]:
            print()
        _print(whatif.told(effect), _status_of([effect]))
    return status


def _status_of(effects: Iterable[whatif.Effect]) -> int:
    holds = [effect.holds for effect in effects]
    return 1 if False in holds else 3 if None in holds else 0


def _suppose_more(
    work: "_Work", changes: Sequence[whatif.Loss | whatif.More], text: str, *, as_json: bool
) -> int:
    """Plan anew for other arrivals, and say what that changes; nothing is written."""
    before = work.existing_or_new()
    after = work.solve(whatif.with_more(work.estate, changes), f"{work.sha256} with {text}")
    found, status = compare.compare(before, after), _STATUS[standing(after)]
    if as_json:
        _print_json(found)
        return status
    problems = (line for problem in after.problems for line in sentences(problem, "  "))
    verdict = Section(f"{text}: {after.estate} {standing(after)}", tuple(problems))
    _print([verdict, *compare.told(found)], status)
    return status


class _Work:
    """An estate with its facts, and where its plan lies."""

    def __init__(self, file: Path, out: Path | None, effort: Effort) -> None:
        self.file, self.effort = file, effort
        self.estate, self.sha256 = load_estate(file), estate_sha256(file)
        self.today = clock.today()[:10]
        if effort.growth is not None:
            quarters_until(quarter_of(self.today), effort.growth)
        folder = file.resolve().parent
        directory = out if out is not None else folder / self.estate.state / "plans"
        self.plan_file, self.report_file = directory / "plan.json", directory / "report.html"
        self._measured_at = folder / self.estate.measured
        self._measured: Measured = read_measured(self.estate, folder)
        for doubt in (*doubts(self.estate), *self._measured.stale):
            _say(doubt)

    def existing_or_new(self) -> Plan:
        """Return the plan that is there if it is still of this estate and its facts."""
        if not self.plan_file.exists():
            _say(f"there is no {self.plan_file} yet; planning")
            return self.make()
        plan = load_plan(self.plan_file)
        if why := self._outdated(plan):
            _say(f"{self.plan_file} of {plan.made} {why}; planning anew")
            return self.make()
        _say(f"by {self.plan_file} of {plan.made}")
        return plan

    def make(self) -> Plan:
        """Plan, and write plan and report down."""
        from tidsram.plan.report import write_report

        self._prepare()
        plan = self.solve(self.estate, self.sha256)
        _write(self.report_file, write_report(plan, self.estate).encode())
        _write(self.plan_file, msgspec.json.format(msgspec.json.encode(plan)))
        return plan

    def solve(self, estate: Estate, sha256: str) -> Plan:
        """Plan for an estate, with the facts of this one."""
        from tidsram.plan.solve import make_plan

        return make_plan(
            estate,
            self._measured,
            today=self.today,
            until=self.effort.growth,
            requests=self.effort.requests,
            seed=SEED,
            processes=len(os.sched_getaffinity(0)),
            solve_seconds=self.effort.seconds,
            estate_sha256=sha256,
            say=_say,
        )

    def _outdated(self, plan: Plan) -> str:
        if plan.estate_sha256 != self.sha256:
            return "is of the estate as it was then"
        growth = self.effort.growth
        if growth is not None and growth not in [quarter.quarter for quarter in plan.quarters]:
            return f"does not reach {growth}"
        facts = self._measured_at.rglob("*.json") if self.estate.measured else ()
        planned_at = self.plan_file.stat().st_mtime_ns
        if any(fact.stat().st_mtime_ns > planned_at for fact in facts):
            return "is older than what has been measured"
        return ""

    def _prepare(self) -> None:
        """See that there will be a place for the plan, before anything has been worked for."""
        try:
            self.plan_file.parent.mkdir(parents=True, exist_ok=True)
            probe = _beside(self.plan_file)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise _unwritable(self.plan_file, error) from None


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a node may be reading it."""
    beside = _beside(path)
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise _unwritable(path, error) from None


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _unwritable(path: Path, error: OSError) -> EstateError:
    return EstateError(
        str(path), f"cannot be written ({error.strerror or error}); name another place with --out"
    )


def _print(parts: Sequence[Section], status: int | None = None) -> None:
    """Print sections; the first headline in the colour of a verdict, where there is one."""
    console = Console(highlight=False, soft_wrap=True)
    for number, part in enumerate(parts):
        if number:
            console.print()
        for line in sentences(part.title) if part.title else ():
            console.print(Text(line, style="bold" if number else _STYLE[status]))
        for line in part.lines:
            console.print(Text(line))


def _print_json(content: object) -> None:
    print(msgspec.json.encode(content).decode())


def _say(line: str) -> None:
    print(f"tidsram: {line}", file=sys.stderr, flush=True)
