"""The `tidsram` command: one module per verb, imported when its verb is called.

Exit statuses: 0 yes, 1 no, 2 bad input, 3 no verdict. A person's mistake is one sentence on stderr
(with --json an object on stdout), never a traceback.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tidsram import __version__
from tidsram.errors import EstateError, NodeError, TidsramError

app = typer.Typer(
    name="tidsram",
    help="Declare the latency budget of every decision; get answers inside it, or a no at once.",
    epilog="Every verb explains itself: tidsram VERB --help",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)

File = Annotated[
    Path, typer.Option("-f", "--file", metavar="FILE", help="The estate file.", show_default=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Budget = Annotated[
    str | None, typer.Option(metavar="TIME", help='Time for an answer, such as "20ms".')
]
ESTATE = Path("tidsram.toml")


def main() -> None:
    """Run the command line; the process's exit status is the answer in short."""
    try:
        app()
    except TidsramError as error:
        _explain(error)
        sys.exit(2)


@app.command("demo")
def _demo(
    seconds: Annotated[
        int, typer.Option(min=1, max=3600, help="How long the judged, quiet part runs.")
    ] = 20,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the node running at the end.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Watch three decisions keep their budgets here, and what happens when it is hard."""
    from tidsram.cli.demo import run

    raise typer.Exit(run(seconds=seconds, keep=keep, as_json=as_json))


@app.command("init")
def _init(file: File = ESTATE, as_json: Json = False) -> None:
    """Write an estate file to start from."""
    from tidsram.cli.init import run

    raise typer.Exit(run(file=file, as_json=as_json))


@app.command("check")
def _check(file: File = ESTATE, as_json: Json = False) -> None:
    """Validate an estate and explain what it promises."""
    from tidsram.cli.check import run

    raise typer.Exit(run(file=file, as_json=as_json))


@app.command("serve")
def _serve(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL.onnx]", help="Serve this model, without a file."),
    ] = None,
    budget: Budget = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=1,3,224,224", help="Fix an input's open shape; repeatable."),
    ] = None,
    file: File = ESTATE,
    site: Annotated[str | None, typer.Option(help="The site to be; needed if many.")] = None,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Serve what this plan gives the node.")
    ] = None,
    node: Annotated[
        int | None, typer.Option(min=1, help="Which of the plan's nodes at the site to be.")
    ] = None,
    http: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Listen here.")] = None,
    unix: Annotated[str | None, typer.Option(metavar="PATH", help="Listen on this socket.")] = None,
    as_json: Json = False,
) -> None:
    """Run a node: answers inside their budgets, or a no at once."""
    budget_ns, shapes, http = _budget(budget), _shapes(shape or []), _address(http)
    from tidsram.cli.serve import run

    status = run(
        model=model,
        budget_ns=budget_ns,
        shapes=shapes,
        file=file,
        site=site,
        plan=plan,
        node=node,
        http=http,
        unix=unix,
        as_json=as_json,
    )
    raise typer.Exit(status)


@app.command("plan")
def _plan(
    file: File = ESTATE,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the plan lies; else <state>/plans.")
    ] = None,
    growth: Annotated[
        str | None, typer.Option(metavar="2027-Q4", help="Plan until this quarter.")
    ] = None,
    explain: Annotated[
        str | None, typer.Option(metavar="DECISION", help="Why it is made where it is made.")
    ] = None,
    what_if: Annotated[
        str | None,
        typer.Option(metavar='"site.gavle down"', help="What a loss or more questions would do."),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="OLD.json", help="What has changed since that plan.")
    ] = None,
    requests: Annotated[
        int, typer.Option(min=100, max=10_000_000, help="To simulate for each flow and case.")
    ] = 20_000,
    seconds: Annotated[
        int, typer.Option(min=1, max=86_400, help="Solve for at most so long.")
    ] = 60,
    as_json: Json = False,
) -> None:
    """Place every decision, dimension the machines, and prove that every budget holds."""
    from tidsram.cli.plan import Effort, run

    status = run(
        file=file,
        out=out,
        effort=Effort(growth=growth, requests=requests, seconds=seconds),
        decision=explain,
        supposed=what_if,
        old=compare,
        as_json=as_json,
    )
    raise typer.Exit(status)


@app.command("ask")
def _ask(
    decision: Annotated[str, typer.Argument(help="The decision's name.")],
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="The question, raw.")
    ] = None,
    file: File = ESTATE,
    url: Annotated[str | None, typer.Option(help="A node's URL or Unix socket.")] = None,
    budget: Budget = None,
    as_json: Json = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the answer here.")] = None,
) -> None:
    """Ask one question from the terminal."""
    budget_ns = _budget(budget)
    from tidsram.cli.ask import run

    status = run(
        decision=decision,
        files=files or [],
        file=file,
        url=url,
        budget_ns=budget_ns,
        as_json=as_json,
        out=out,
    )
    raise typer.Exit(status)


@app.command("lab")
def _lab(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The model.")],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Pictures or arrays it is to be right about.")
    ],
    labels: Annotated[
        Path | None, typer.Option(metavar="PATH", help="What is right about them.")
    ] = None,
    budget: Budget = None,
    decision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose question and answer tables hold.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the bundle goes; else bundles/NAME.")
    ] = None,
    floor: Annotated[
        float | None, typer.Option(min=0, max=1, help="The accuracy a variant must have.")
    ] = None,
    sizes: Annotated[
        str | None, typer.Option(metavar="416,320,224", help="What the model is to see.")
    ] = None,
    frame: Annotated[
        str | None, typer.Option(metavar="768x576", help="A raw question; else the data's size.")
    ] = None,
    pair: Annotated[
        str, typer.Option(metavar="test,temp", help="Which pictures make one question, in order.")
    ] = "",
    threads: Annotated[str, typer.Option(metavar="1,2", help="Counts of threads to try.")] = "1",
    engines: Annotated[
        str, typer.Option(metavar="NAMES", help="onnxruntime, openvino, or both.")
    ] = "onnxruntime",
    samples: Annotated[
        int, typer.Option(min=8, max=5000, help="How many to validate with, at most.")
    ] = 100,
    runs: Annotated[
        int, typer.Option(min=20, max=100_000, help="How many runs time a variant.")
    ] = 500,
    conditions: Annotated[
        str, typer.Option(metavar="NAMES", help="alone, neighbour, background; time in each.")
    ] = "alone",
    hardware: Annotated[str, typer.Option(help="What this machine is called in plans.")] = "here",
    licence: Annotated[str, typer.Option(help="The model's; goes into the manifest.")] = "",
    provenance: Annotated[str, typer.Option(help="Where the model is from; likewise.")] = "",
    file: File = ESTATE,
    as_json: Json = False,
) -> None:
    """Make a bundle of a model: its fastest forms that are still right, proved and timed."""
    budget_ns = _budget(budget)
    from tidsram.cli import lab, measuring

    options = lab.Options(
        labels=labels,
        pair=measuring.words("--pair", pair),
        budget_ns=budget_ns,
        floor=floor,
        frame=lab.frame(frame),
        sizes=lab.sizes(sizes),
        threads=lab.threads(threads),
        engines=lab.engines(engines),
        conditions=measuring.conditions(conditions),
        samples=samples,
        runs=runs,
        hardware=measuring.hardware(hardware),
        licence=lab.said("--licence", licence),
        provenance=lab.said("--provenance", provenance),
    )
    by_itself = file == ESTATE and decision is None and not file.exists()
    status = lab.run(
        model=model,
        data=data,
        out=out,
        file=None if by_itself else file,
        decision=decision,
        options=options,
        as_json=as_json,
    )
    raise typer.Exit(status)


@app.command("profile")
def _profile(
    decisions: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DECISION|BUNDLE]...", help="Which; else the whole estate."),
    ] = None,
    hardware: Annotated[
        str | None, typer.Option(help="The type this machine is; else the first site's.")
    ] = None,
    runs: Annotated[
        int, typer.Option(min=10, max=100_000, help="How many runs of each variant.")
    ] = 2000,
    conditions: Annotated[
        str, typer.Option(metavar="NAMES", help="Of bundles: alone, neighbour, background.")
    ] = "alone,neighbour,background",
    file: File = ESTATE,
    as_json: Json = False,
) -> None:
    """Measure what models take on this machine: for plans, or a bundle's own profiles."""
    from tidsram.cli import measuring
    from tidsram.cli.profile import run

    status = run(
        named=decisions or [],
        hardware=hardware,
        runs=runs,
        conditions=measuring.conditions(conditions),
        file=file,
        as_json=as_json,
    )
    raise typer.Exit(status)


@app.command("probe")
def _probe(
    here: Annotated[
        str | None, typer.Option("--from", metavar="SITE", help="Where this machine stands.")
    ] = None,
    count: Annotated[
        int, typer.Option(min=10, max=100_000, help="How many round trips to each site.")
    ] = 300,
    file: File = ESTATE,
    as_json: Json = False,
) -> None:
    """Measure the round trips from here to other sites."""
    from tidsram.cli.probe import run

    raise typer.Exit(run(here=here, count=count, file=file, as_json=as_json))


@app.command("deploy")
def _deploy(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="[BUNDLE]", help="A bundle, or an .onnx file.")
    ] = None,
    decision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Its decision; needed if many.")
    ] = None,
    now: Annotated[
        bool, typer.Option("--now", help="For all questions, once it is warm; the default.")
    ] = False,
    canary: Annotated[
        str | None, typer.Option(metavar="10%", help="First on trial, for so many questions.")
    ] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="For none: only compared, on leftover time.")
    ] = False,
    after: Annotated[
        int,
        typer.Option(min=10, help="A trial takes over, a shadow ends, after so many questions."),
    ] = 1000,
    agree: Annotated[
        float, typer.Option(min=0.01, max=1, help="From what agreement on two answers agree.")
    ] = 0.5,
    agree_share: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=1, help="The share that must; the accuracy floor, if not given."
        ),
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Say what is served.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write what was compared.")
    ] = None,
    file: File = ESTATE,
    site: Annotated[str | None, typer.Option(help="The site whose node it is.")] = None,
    as_json: Json = False,
) -> None:
    """Serve a decision by another version, without missing a question."""
    if now + (canary is not None) + shadow > 1:
        raise NodeError("choose one of --now, --canary and --shadow")
    from tidsram.cli.deploy import run

    code = run(
        bundle=bundle,
        decision=decision,
        canary=canary,
        shadow=shadow,
        after=after,
        agree=agree,
        agree_share=agree_share,
        status=status,
        report=report,
        file=file,
        site=site,
        as_json=as_json,
    )
    raise typer.Exit(code)


@app.command("rollback")
def _rollback(
    decision: Annotated[str, typer.Argument(help="The decision's name.")],
    file: File = ESTATE,
    site: Annotated[str | None, typer.Option(help="The site whose node it is.")] = None,
    as_json: Json = False,
) -> None:
    """Serve a decision by the version before, or end a trial."""
    from tidsram.cli.rollback import run

    raise typer.Exit(run(decision=decision, file=file, site=site, as_json=as_json))


@app.command("background", context_settings={"allow_interspersed_args": False})
def _background(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- CMD ...", help="What to run.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Its memory; a quarter of what is free.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="How many it may be at once.")] = 64,
    cores: Annotated[
        str | None, typer.Option(metavar="1,4-7", help="Keep it on these cores.")
    ] = None,
    file: File = ESTATE,
    site: Annotated[str | None, typer.Option(help="The site whose node goes first.")] = None,
    node: Annotated[str | None, typer.Option(help="That node's URL or Unix socket.")] = None,
    as_json: Json = False,
) -> None:
    """Run a command on the time that decisions leave over."""
    memory_bytes = _memory(memory)
    from tidsram.cli.background import run

    status = run(
        command=command or [],
        file=file,
        site=site,
        node=node,
        memory_bytes=memory_bytes,
        processes=processes,
        cores=cores,
        as_json=as_json,
    )
    raise typer.Exit(status)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"tidsram {__version__}")
        raise typer.Exit(0)


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def _explain(error: TidsramError) -> None:
    if "--json" in sys.argv:
        print(json.dumps({"error": str(error), "code": error.code}, ensure_ascii=False))
    else:
        print(f"tidsram: {error}", file=sys.stderr)


def _budget(text: str | None) -> int | None:
    from tidsram.estate import load, values

    return None if text is None else load.read_option("--budget", values.duration, text)


def _memory(text: str | None) -> int | None:
    from tidsram.estate import load, values

    return None if text is None else load.read_option("--memory", values.memory, text)


def _address(text: str | None) -> str | None:
    from tidsram.estate import load, values

    return None if text is None else load.read_option("--http", values.address, text)


def _shapes(options: list[str]) -> dict[str, tuple[int, ...]]:
    from tidsram.estate import load, values

    written: dict[str, object] = {}
    for option in options:
        name, _, sizes = option.rpartition("=")
        dimensions = sizes.split(",")
        if not name or not all(size.strip().isdecimal() for size in dimensions):
            raise EstateError("--shape", f'"{option}" is not a shape; write NAME=1,3,224,224')
        written[name] = [int(size) for size in dimensions]
    return load.read_option("--shape", values.shapes, written)
