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
INK, OURS, PEER = "#222222", "#0b6e4f", "#9a9a9a"

Result = Mapping[str, Any]


def main() -> None:
    """Write a section and a plot for every result that exists."""
    PLOTS.mkdir(parents=True, exist_ok=True)
    sections: dict[str, Callable[[Result], str]] = {"overhead": overhead, "overload": overload}
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


def overhead(result: Result) -> str:
    """Show what each server adds, and ours divided by the peer's."""
    rows = [
        [row["server"], row["model"], row["wire"], *_three(row, "latency")]
        for row in sorted(result["rows"], key=lambda row: str(row["model"]), reverse=True)
    ]
    ratios = [
        [f"{r['server']} ÷ {r['peer']}", r["model"], r["wire"], _ratio(r, "p50"), _ratio(r, "p99")]
        for r in result["ratios"]
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
            "",
            _table(["server", "model", "tensors", "p50", "p99", "p99.9"], rows),
            "",
            "Ratios within a block: median (lowest–highest).",
            "",
            _table(["ratio", "model", "tensors", "p50", "p99"], ratios),
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
    _plot_overload(result["rows"])
    return "\n".join(
        [
            "## More asked than one lane can do",
            "",
            f"`{result['model']}`, budget {result['budget_us'] / 1e3:.0f} ms, Poisson arrivals",
            "that do not wait for answers, latency from the intended instant; asker and server",
            f"share the machine. {result['repeats']} repeats of {result['seconds']:.0f} s per",
            "cell, the same instants for every server. Goodput is answers in time ÷ offered; the",
            "limit is capacity ÷ offered (at most 1), with the capacity that the same server",
            "showed in a saturated closed loop just before. Triton has a queue timeout, the best",
            "of those tried, or a plain queue; its queue policy is known to stall in the server",
            "that can be had from PyPI (triton-inference-server/server #8870 and #6796).",
            "",
            _table(["capacity of", "answers per second"], capacities),
            "",
            _table([*head, "stolen"], rows),
            "",
            "![goodput over offered load](plots/overload.svg)",
            "",
            _provenance(result),
        ]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
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


def _save(figure: Figure, name: str) -> None:
    # Text stays text: a small file, readable and searchable.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench"}):
        figure.savefig(PLOTS / f"{name}.svg", metadata={"Date": None})


def _color(server: str) -> str:
    return OURS if server.startswith("tidsram") else PEER


def _plot_overhead(rows: Sequence[Result]) -> None:
    rows = [row for row in rows if row["latency_p99_us"] and row["wire"] != "json"]
    rows = sorted(rows, key=lambda row: (row["model"], -row["latency_p50_us"]))
    figure = _figure(6.4, 0.3 * len(rows) + 0.9)
    axes = figure.axes[0]
    for place, row in enumerate(rows):
        low, high = row["latency_p50_us"], row["latency_p99_us"]
        axes.plot([low, high], [place, place], color=_color(row["server"]), linewidth=4)
        axes.plot(low, place, "o", color=INK)
    axes.set_yticks(range(len(rows)), [f"{row['model']}, {row['server']}" for row in rows])
    axes.set_xlim(left=0)
    axes.set_xlabel("µs at the asker: p50 (dot) to p99")
    _save(figure, "overhead")


def _plot_overload(rows: Sequence[Result]) -> None:
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
    _save(figure, "overload")


if __name__ == "__main__":
    main()
