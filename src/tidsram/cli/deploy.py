"""`tidsram deploy`: serve a decision by another version, while the node runs."""

from pathlib import Path

import msgspec

from tidsram.cli.measuring import console, say, table
from tidsram.errors import NodeError
from tidsram.estate.load import load_estate
from tidsram.estate.placement import pick_site
from tidsram.estate.types import Estate, Site
from tidsram.serve.admin import (
    Comparison,
    Deploy,
    Done,
    Request,
    Serving,
    Side,
    Status,
    Trial,
    ask_node,
    state_path,
)
from tidsram.units import US, show_ns

_LOCAL = Estate(name="local", sites={"local": Site(name="local")})  # of `tidsram serve MODEL`


def run(
    *,
    bundle: Path | None,
    decision: str | None,
    canary: str | None,
    shadow: bool,
    after: int,
    agree: float,
    agree_share: float | None,
    status: bool,
    report: Path | None,
    file: Path,
    site: str | None,
    as_json: bool,
) -> int:
    """Change what is served, or say it; 0 when that is done."""
    asks = status or report is not None
    if asks == (bundle is not None):
        raise NodeError(
            "name the bundle to deploy, or ask with --status what is served, or with --report for "
            "what was compared"
        )
    request: Request = Status()
    if bundle is not None:
        if not bundle.exists():
            raise NodeError(f"there is no {bundle}; name a bundle's directory or an .onnx file")
        request = Deploy(
            path=str(bundle.resolve()),
            decision=decision or "",
            mode="shadow" if shadow else "now" if canary is None else "canary",
            percent=10 if canary is None else _percent(canary),
            after=after,
            agree=agree,
            agree_share=agree_share,
        )
    done = ask(request, file, site)
    if report is not None:
        _write(report, done.decisions)
    if as_json:
        print(msgspec.json.encode(done).decode())
    elif asks:
        _print(done.decisions)
    else:
        console().print(done.told)
    return 0


def ask(request: Request, file: Path, site: str | None) -> Done:
    """Ask the node of an estate's site; without an estate's file, the one of a model alone."""
    missing = file == Path("tidsram.toml") and not file.exists() and site is None
    estate = _LOCAL if missing else load_estate(file)
    path = state_path(estate, pick_site(estate, site), file.resolve().parent, "admin.sock")
    return ask_node(path, request, say)


def _percent(text: str) -> int:
    share = text.strip().removesuffix("%").strip()
    if not share.isascii() or not share.isdecimal() or not 1 <= int(share) <= 50:
        raise NodeError(f'--canary "{text}" is no share of the questions; write 1% to 50%')
    return int(share)


def _print(decisions: tuple[Serving, ...]) -> None:
    out = console()
    for one in decisions:
        lanes = ", ".join(map(str, one.lanes))
        where = one.path or "as the estate declares"
        out.print(f"{one.decision}: version {one.version[:12]}, {where}; lanes {lanes}")
        for before in reversed(one.before):
            out.print(f"  before: {before}", style="dim")
        if one.trial is not None:
            _print_trial(one.trial)
        if one.told:
            out.print(f"  last: {one.told}", style="dim")


def _print_trial(trial: Trial) -> None:
    out, version = console(), f"version {trial.version[:12]}, {trial.path}"
    if trial.mode == "shadow":
        out.print(f"  in the shadow: {version}, to be compared on {trial.after} questions")
    else:
        out.print(
            f"  on trial: {version}, with {trial.percent} % of the questions until it has had "
            f"{trial.after}"
        )
        shown = table("", "answered", "refused", "missed", "failed", "run p50", "run p99")
        for name, side in (("  served", trial.served), ("  on trial", trial.tried)):
            shown.add_row(name, *_cells(side))
        out.print(shown)
    if trial.comparison is not None:
        _print_comparison(trial.comparison)


def _print_comparison(comparison: Comparison) -> None:
    out = console()
    if not comparison.compared:
        out.print("  nothing has been compared yet")
        return
    out.print(
        f"  compared: {comparison.compared} answers; {comparison.agreed} agree by "
        f"{comparison.agree:g} or more, surely a share of {comparison.agreed_at_least:.3f}; mean "
        f"agreement {comparison.agreement:.3f}, surely {comparison.agreement_at_least:.3f}; "
        f"{comparison.failed} failed"
    )
    served, shadow = (
        " and ".join(f"p{q} {_time(us)}" for q, us in ((50, p50), (99, p99)))
        for p50, p99 in (
            (comparison.served_p50_us, comparison.served_p99_us),
            (comparison.shadow_p50_us, comparison.shadow_p99_us),
        )
    )
    out.print(f"  runs: {served} of what was answered; {shadow} in the shadow, on leftover time")
    for one in comparison.worst:
        problem = f": {one.problem}" if one.problem else ""
        out.print(f"  request {one.request}: agreement {one.agreement:.3f}{problem}", style="dim")


def _write(path: Path, decisions: tuple[Serving, ...]) -> None:
    """Write what was compared, of all decisions that have a version beside."""
    compared = [
        one for one in decisions if one.trial is not None and one.trial.comparison is not None
    ]
    if not compared:
        raise NodeError("nothing is being compared; begin with `tidsram deploy BUNDLE --shadow`")
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(compared)) + b"\n")
    except OSError as error:
        raise NodeError(f"cannot write {path} ({error.strerror}); name another file") from None


def _time(us: int | None) -> str:
    return "–" if us is None else show_ns(us * US)


def _cells(side: Side) -> list[str]:
    counts = (side.answered, side.refused, side.missed, side.failed)
    return [*map(str, counts), _time(side.p50_us), _time(side.p99_us)]
