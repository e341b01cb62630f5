"""Tables and plots from bench/out/*.json into docs/benchmarks.md, between their markers."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from bench.loadgen import show
from bench.models import OUT

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "benchmarks.md"
PLOTS = DOCS / "plots"
START = """# Benchmarks

Measured by `python -m bench` on the machine named below each table; repeat them on yours. A dash
stands where the sample was too small to claim that percentile with 99 % confidence.
"""
BODY = {
    "shufflenet": "A question brings 600 KB, which the gate and the asker move on one core.",
    "steady": "A question brings 1 KB: the scheduling by itself.",
}
INK, OURS, PEER = "#222222", "#0b6e4f", "#9a9a9a"

Result = Mapping[str, Any]


def main() -> None:
    """Write a section and a plot for every result that exists."""
    # Their tables are made by this module.
    from bench.lab_report import lab
    from bench.plan.report import plan_exhaustive, plan_score, plan_serve, plan_speed
    from bench.pressure.report import pressure_grid, pressure_live
    from bench.pressure.report_faults import pressure_contention, pressure_faults

    PLOTS.mkdir(parents=True, exist_ok=True)
    sections: dict[str, Callable[[Result], str]] = {
        "overhead": overhead,
        "overload-shufflenet": overload,
        "overload-steady": overload,
        "overload_sim": overload_sim,
        "pressure_grid": pressure_grid,
        "pressure_live": pressure_live,
        "pressure_contention": pressure_contention,
        "pressure_faults": pressure_faults,
        "plan_score": plan_score,
        "plan_speed": plan_speed,
        "plan_exhaustive": plan_exhaustive,
        "plan_serve": plan_serve,
        "lab": lab,
        "swaps": swaps,
        "node": node,
    }
    for name, section in sections.items():
        path = OUT / f"{name}.json"
        if path.exists():
            put(name, section(json.loads(path.read_text())))


def put(name: str, section: str) -> None:
    """Replace the text between `<!-- name -->` and `<!-- /name -->`; add both if missing."""
    page = PAGE.read_text() if PAGE.exists() else START
    block = f"<!-- {name} -->\n{section}\n<!-- /{name} -->"
    pattern = re.compile(rf"<!-- {name} -->.*<!-- /{name} -->", re.DOTALL)
    found = pattern.search(page)
    page = page.replace(found[0], block) if found else f"{page}\n{block}\n"
    PAGE.write_text(page)


def swaps(result: Result) -> str:
    """Show what changing a decision's version costs those who ask meanwhile."""
    kinds = (("changed", "while versions change"), ("quiet", "without"))
    counted = ("asked", "missed", "failed", "late", "refused")
    rows = [
        [decision, words, *(f"{told[kind][what]:,}" for what in counted)]
        for decision, told in result["decisions"].items()
        for kind, words in kinds
    ]
    most = {name: told["extra_share_at_most"] for name, told in result["decisions"].items()}
    return "\n".join(
        [
            "## Changing the version of a decision under load",
            "",
            f"{result['swaps']} swaps and {result['rollbacks']} rollbacks in turn, between them as",
            "long stretches without; open loop, the decision that is changed at about 70 % of its",
            "lane, a critical one beside it.",
            "",
            table(["decision", "when", *counted], rows),
            "",
            "Extra misses, failures and late answers are at most, at 99 %: "
            + ", ".join(f"{name} {share:.4%}" for name, share in most.items())
            + f". A change took {result['change_ms']['median']:.0f} ms (median), at most "
            f"{result['change_ms']['max']:.0f} ms. Refusals are told at once.",
            "",
            _provenance(result),
        ]
    )


def overhead(result: Result) -> str:
    """Show what each server adds, and ours divided by the peer's."""
    rows = [
        [row["server"], row["model"], row["wire"], *_three(row, "latency")]
        for row in sorted(result["rows"], key=lambda row: str(row["model"]), reverse=True)
    ]
    ratios = [
        [f"{r['server']} ÷ {r['peer']}", r["model"], r["wire"], _ratio(r, "p50"), _ratio(r, "p99")]
        for r in result["ratios"]
        if r["server"] == "tidsram" or r["peer"].startswith("triton")
    ]
    _plot_overhead(result["rows"])
    return "\n".join(
        [
            "## What a question costs",
            "",
            "One asker on a keep-alive connection, each question after the last answer, latency",
            f"at the asker in µs. {result['requests']:,} questions per row in {result['blocks']}",
            "alternating blocks. `in-process` is `session.run` without any server; `echo` is the",
            "asker's own floor: a server that reads the question and sends fixed bytes back.",
            "Triton runs the same ONNX Runtime session in its python backend, free on both cores",
            "and, as `triton-one-core`, beside the asker, where it need not wake another core.",
            f"MLServer, mosec, LitServe and Ray Serve run it too; {result['peer_requests']:,}",
            "questions per row. `binary` is the protocol's raw tensors, for mosec and Ray the bare",
            "bytes of the tensor; MLServer and LitServe take JSON only. MLServer runs without",
            "parallel workers, access log, metrics and compression; mosec with one worker per row,",
            "also beside the asker; LitServe with its ZeroMQ queue; Ray Serve behind HAProxy,",
            "optimised for throughput, alone in a network of its own. These four are stopped while",
            "others are measured.",
            "",
            table(["server", "model", "tensors", "p50", "p99", "p99.9"], rows),
            "",
            "Ratios within a block: median (lowest–highest).",
            "",
            table(["ratio", "model", "tensors", "p50", "p99"], ratios),
            "",
            "![p50 to p99 of each server](plots/overhead.svg)",
            "",
            f"Stolen time during the run: {result['shares']['steal']:.2%}.",
            _provenance(result),
        ]
    )


def overload(result: Result) -> str:
    """Show what stays in time as the load passes what one lane can do."""
    rows = [
        [
            f"{row['load']:.2f} × ({row['offered_per_s']:.0f}/s)",
            row["server"],
            f"{row['goodput']['median']:.3f}",
            _spread(row["of_limit"], 3),
            f"{row['missed']} of {row['answered'] + row['missed']}",
            f"{row['late']} of {row['answered']}",
            str(row["failed"]),
            f"{_ms(row['notice_p50_us'])} / {_ms(row['notice_p99_us'])}",
            _ms(row["own_lateness_p99_us"]),
            f"{row['steal']:.2%}",
        ]
        for row in result["rows"]
    ]
    head = ["offered", "server", "goodput", "of the limit", "missed of admitted"]
    head += ["late of answered", "failed", "rejection notice p50 / p99, ms", "asker late p99, ms"]
    capacities = [[name, _spread(c, 0)] for name, c in result["capacities"].items()]
    _plot_overload(result["rows"], result["model"])
    return "\n".join(
        [
            f"## More asked than one lane can do: `{result['model']}`",
            "",
            f"{BODY[result['model']]} Budget {result['budget_us'] / 1e3:.0f} ms, Poisson arrivals",
            "that do not wait for answers, latency from the intended instant; asker and server",
            f"share the machine. {result['repeats']} repeats of {result['seconds']:.0f} s per",
            "cell, the same instants for every server. Goodput is answers in time ÷ offered; the",
            "limit is capacity ÷ offered (at most 1), with the capacity that the same server",
            "showed in a saturated closed loop just before. Triton has a queue timeout, the best",
            "of those tried, or a plain queue. Its queue policy was seen to stall with requests",
            "waiting, as triton-inference-server/server #8870 and #6796 describe.",
            "",
            table(["capacity of", "answers per second"], capacities),
            "",
            table([*head, "stolen"], rows),
            "",
            f"![goodput over offered load](plots/overload-{result['model']}.svg)",
            "",
            _provenance(result),
        ]
    )


def overload_sim(result: Result) -> str:
    """Show the same in virtual time, where only the scheduling differs."""
    beside = list(result["rows"][0]["beside"])
    rows = [
        [
            f"{row['load']:.2f}",
            f"{row['of_limit']:.4f}",
            f"{row['missed_of_admitted']:.4f}",
            f"{row['wasted']:.2%}",
            f"{row['false_rejections']:.2%}",
            *(f"{row['beside'][name]['of_limit']:.3f}" for name in beside),
            f"{row['requests_per_second'] / 1e3:.0f} k",
        ]
        for row in result["rows"]
    ]
    head = ["load", "ours", "missed of admitted", "wasted", "false rejections", *beside, "speed"]
    return "\n".join(
        [
            "## The same, simulated",
            "",
            f"The scheduler that serves, in virtual time: Poisson, {result['service_us'] / 1e3} ms",
            f"runs (cv {result['cv']:.0%}), budget {result['budget_us'] / 1e3:.0f} ms of which",
            "0.5 ms is kept for the way back. Columns of policies are goodput ÷ limit. False",
            "rejections: what one answers who knows every service time, less ours, ÷ offered.",
            "Wasted: CPU time on answers nobody could use. A refused asker of ours has",
            "its whole budget left; with a queue timeout it has at most what the timeout leaves.",
            "Speed is simulated requests per second.",
            "",
            table(head, rows),
            "",
            f"{result['date']}, {result['seconds']} s simulated per load.",
            f"Command: `{result['command']}`.",
        ]
    )


def node(result: Result) -> str:
    """Show what a node costs beside its answers, and what losing a worker costs."""
    start, idle, faults = result["start"], result["idle"], result["faults"]
    memory = ", ".join(f"{name} {mb:.0f}" for name, mb in idle["memory_mb"].items())
    rows = [
        ["`tidsram serve` to ready, s", _spread_of(start["ready_s"], 2)],
        ["… of which the model alone, s", f"{start['load_alone_s']:.2f}"],
        ["`tidsram --help`, s", _spread_of(start["help_s"], 3)],
        ["memory of each process (proportional), MB", memory],
        ["idle: share of one core, all processes", f"{idle['core_share']:.2%}"],
    ]
    for way, gap in result["gap"].items():
        told = f"≤ {gap['p50_us_at_most']:.0f} / ≤ {gap['p99_us_at_most']:.0f}"
        rows.append([f"gap between runs, {way}, p50 / p99, µs", f"{told} ({gap['runs']} runs)"])
    losses = [_loss(kind, fault) for kind, fault in faults.items()]
    head = ["worker", "ready again, ms", "asked", "outcomes by HTTP status"]
    head += ["latest outcome after its deadline, ms", "other decision in time, quiet", "meanwhile"]
    return "\n".join(
        [
            "## A node by itself, and without a worker",
            "",
            table(["what", "median (lowest–highest)"], rows),
            "",
            "Workers lost under load: 120 questions a second to a decision whose worker is killed",
            "(SIGKILL) or hung (SIGSTOP), 100 a second to another on the same lane. Outcomes count",
            "from the intended instant at the asker; 0 would be a request without an outcome.",
            "",
            table(head, losses),
            "",
            _provenance(result),
        ]
    )


def _loss(kind: str, fault: Result) -> list[str]:
    victim = fault["victim"]
    quiet, meanwhile = fault["other_in_time"]["quiet"], fault["other_in_time"]["meanwhile"]
    return [
        f"{kind}, {fault['times']} times",
        _spread_of(fault["ready_again_ms"], 0),
        str(victim["asked"]),
        ", ".join(f"{count} × {status}" for status, count in victim["by_status"].items()),
        f"{victim['latest_outcome_after_deadline_ms']:.2f}",
        f"{quiet['in_time']:.4f}",
        f"{meanwhile['in_time']:.4f} (≥ {meanwhile['at_least']:.4f} at 99 %)",
    ]


def _spread_of(spread: Result, digits: int) -> str:
    return f"{spread['median']:.{digits}f} ({spread['min']:.{digits}f}–{spread['max']:.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _three(row: Result, name: str) -> list[str]:
    return [show(row[f"{name}_{p}_us"]) for p in ("p50", "p99", "p99_9")]


def _ratio(row: Result, name: str) -> str:
    return _spread(row[name], 2) if name in row else "–"


def _spread(spread: Result, digits: int) -> str:
    low, high = (show(spread[end], digits) for end in ("low", "high"))
    return f"{show(spread['median'], digits)} ({low}–{high})"


def _ms(us: float | None) -> str:
    return show(None if us is None else us / 1e3, 1)


def _provenance(result: Result) -> str:
    facts = ", ".join(
        fact if name == "cpu" else f"{name} {fact}" for name, fact in result["machine"].items()
    )
    busy = f"{result['others_busy']:.1%} busy before the run"
    return f"{result['date']}; {facts}; {busy}. Command: `{result['command']}`."


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.subplots().spines[["top", "right"]].set_visible(False)
    return figure


def save(figure: Figure, name: str) -> None:
    """Write the plot beside the page."""
    # Text stays text: a small file, readable and searchable.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench"}):
        figure.savefig(PLOTS / f"{name}.svg", metadata={"Date": None})


def _color(server: str) -> str:
    return OURS if server.startswith("tidsram") else PEER


def _plot_overhead(rows: Sequence[Result]) -> None:
    binary = {row["server"] for row in rows if row["wire"] != "json"}
    rows = [row for row in rows if row["latency_p99_us"]]
    rows = [row for row in rows if row["wire"] != "json" or row["server"] not in binary]
    rows = sorted(rows, key=lambda row: (row["model"], -row["latency_p50_us"]))
    figure = _figure(6.4, 0.3 * len(rows) + 0.9)
    axes = figure.axes[0]
    for place, row in enumerate(rows):
        low, high = row["latency_p50_us"], row["latency_p99_us"]
        axes.plot([low, high], [place, place], color=_color(row["server"]), linewidth=4)
        axes.plot(low, place, "o", color=INK)
    names = [
        f"{row['model']}, {row['server']}{' (json)' if row['wire'] == 'json' else ''}"
        for row in rows
    ]
    axes.set_yticks(range(len(rows)), names)
    axes.set_xscale("log")
    axes.set_xlabel("µs at the asker, logarithmic: p50 (dot) to p99")
    save(figure, "overhead")


def _plot_overload(rows: Sequence[Result], model: str) -> None:
    figure = _figure(6.4, 3.4)
    axes = figure.axes[0]
    loads = sorted({row["load"] for row in rows})
    limit = [min(1.0, 1 / load) for load in loads]
    axes.plot(loads, limit, "--", color=INK, label="limit: capacity ÷ offered")
    for server in dict.fromkeys(row["server"] for row in rows):
        shares = [row["goodput"]["median"] for row in rows if row["server"] == server]
        style = ":s" if "plain" in server else "-o"
        axes.plot(loads, shares, style, color=_color(server), label=server)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("offered ÷ capacity of the lane")
    axes.set_ylabel("answered in time ÷ offered")
    axes.legend(frameon=False)
    save(figure, f"overload-{model}")


if __name__ == "__main__":
    main()
