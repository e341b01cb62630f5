"""The grid's part of docs/benchmarks.md: tables by load, by arrivals and by mechanism, one plot."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.pressure import grid
from bench.report import INK, OURS, PEER, save, table

PLOT = "pressure-grid"
FEW_LOADS = (0.5, 0.7, 0.9, 1.2, 1.6, 2.0)  # of those simulated; the plot has all
FIGURES = {
    "missed_of_admitted": "missed of admitted",
    "evicted_of_admitted": "evicted of admitted",
    "goodput": "in time of offered",
}
BESIDE = (grid.ORACLE, "Clockwork", "SlackFit", grid.OURS)
STYLES = {
    "FIFO": ":",
    "FIFO, timeout": "--",
    "FIFO, tuned timeout": "-.",
    "Clockwork": "-o",
    "EDF": ":s",
    "EDF, admission": "-s",
    "SlackFit": "-^",
}

Result = Mapping[str, Any]


def pressure_grid(result: Result) -> str:
    """Show every policy on the same questions, and what each mechanism of ours is good for."""
    _plot(result["cells"])
    return "\n".join(
        [
            "## Under pressure, simulated",
            "",
            f"One lane, runs of {result['service_us'] / 1e3} ms (cv {result['cv']:.0%}). Half of",
            "the work is critical with a budget of 5 runs, half standard with 30; each decision",
            "has a second variant that takes half the time and is right in 0.9 of the cases in",
            "which the first is. Load counts runs of the first. Ours is the scheduler that serves,",
            "in virtual time, with critical runs preempting standard ones; of the others' rules",
            "these are our own implementations on a lane without preemption: FIFO, with Triton's",
            "queue timeout (the budget, or tuned to leave room for a run), Clockwork's rule at",
            "batch 1, earliest deadline first, the same with a test at arrival, and SlackFit's",
            "ladder. The oracle knows what every run takes, gives critical questions the lane as",
            "if they were alone, and takes greedily who fits: a strong reference, not the optimum.",
            f"{_offered(result)} questions and more in each cell, the same for everyone.",
            "",
            *_by_load(result, "poisson"),
            *_by_load(result, "gamma 4"),
            *_wasted(result, "mixed", "the mixed questions"),
            *_wasted(result, "single", "one decision with one variant and a budget of 20 ms"),
            f"![critical in time and wasted time, by load](plots/{PLOT}.svg)",
            "",
            *_in_full(result, "poisson", 1.2),
            *_in_full(result, "poisson", 2.0),
            *_by_arrivals(result),
            *_single(result),
            *_beside(result),
            *_mechanisms(result),
            *_ablations(result),
            *_judging(result),
            _provenance(result),
        ]
    )


def _by_load(result: Result, arrivals: str) -> list[str]:
    cells = _chosen(result["cells"], "mixed", arrivals)
    return [
        f"Critical / standard questions answered in time ÷ offered, {_process(arrivals)}, by load:",
        "",
        table(["policy", *map(str, _loads(cells))], _rows(cells, _both)),
        "",
    ]


def _both(cell: Result) -> str:
    return " / ".join(f"{kind['goodput']:.3f}" for kind in cell["kinds"].values())


def _wasted(result: Result, workload: str, questions: str) -> list[str]:
    cells = _chosen(result["cells"], workload, "poisson")
    rows = _rows(cells, lambda cell: f"{cell['wasted']:.2%}")
    return [
        f"Time of the lane spent on answers that nobody could use, {questions}, Poisson, by load:",
        "",
        table(["policy", *map(str, _loads(cells))], rows),
        "",
    ]


def _in_full(result: Result, arrivals: str, load: float) -> list[str]:
    """Show all figures of the cells at one load."""
    rows = []
    for cell in _chosen(result["cells"], "mixed", arrivals):
        if cell["load"] == load:
            rows += [[cell["policy"], *_figures(name, k)] for name, k in cell["kinds"].items()]
    head = ["policy", "questions", "in time", "missed of admitted", "evicted of admitted"]
    head += ["late of answered", "notice p50 / p99, ms", "fewer than the oracle"]
    head += ["finished as promised", "longest run without", "accuracy"]
    return [
        f"{_process(arrivals).capitalize()}, load {load}. Notice is the time left when told that",
        "there will be no answer (99 % have the second; negative: told after the deadline).",
        "Fewer than the oracle: difference ÷ offered. A rule that predicts nothing promises the",
        "deadline. Longest run: questions in a row without an answer in time. Accuracy: of the",
        "answers in time, relative to the first variant's.",
        "",
        table(head, rows),
        "",
    ]


def _figures(name: str, kind: Result) -> list[str]:
    return [
        name,
        f"{kind['goodput']:.4f}",
        f"{kind['missed_of_admitted']:.4f}",
        f"{kind['evicted_of_admitted']:.4f}",
        f"{kind['late_of_answered']:.4f}",
        f"{_ms(kind['notice_p50_us'])} / {_ms(kind['notice_p99_us'])}",
        f"{kind['false_rejections']:+.4f}",
        _share(kind["finished_as_promised"]),
        str(kind["longest_without"]),
        _share(kind["accuracy"]),
    ]


def _by_arrivals(result: Result) -> list[str]:
    """Show critical / standard at load 1.2 for every kind of arrivals."""
    cells = [c for c in result["cells"] if c["workload"] == "mixed" and c["load"] == 1.2]
    arrivals = list(dict.fromkeys(cell["arrivals"] for cell in cells))
    return [
        "Critical / standard in time ÷ offered at load 1.2, by kind of arrivals (synchronised:",
        "four at once; gamma: by coefficient of variation; on-off: ten times the rate for 200 ms,",
        "then silence; step: 0.5, 2 and 0.5 of the load for a third of the time each):",
        "",
        table(["policy", *arrivals], _rows(cells, _both)),
        "",
    ]


def _single(result: Result) -> list[str]:
    lines = []
    for arrivals in grid.FEW_ARRIVALS:
        cells = _chosen(result["cells"], "single", arrivals)
        lines += [
            f"One decision, one variant, budget 20 ms, {_process(arrivals)}: in time ÷ limit, the",
            "share that fits into the time (a little more does, where long runs are refused):",
            "",
            table(
                ["policy", *map(str, _loads(cells))],
                _rows(cells, lambda cell: f"{cell['of_limit']:.4f}"),
            ),
            "",
        ]
    return lines


def _beside(result: Result) -> list[str]:
    rows = [
        [
            row["arrivals"],
            f"{row['load']}, of which critical {row['critical_load']}",
            row["policy"],
            f"{row['alone']:.4f}",
            f"{row['beside']:.4f}",
            f"{row['beside'] - row['alone']:+.4f}",
        ]
        for row in result["beside"]
        if row["policy"] in BESIDE
    ]
    return [
        "Critical questions alone, and the same ones beside standard questions:",
        "",
        table(["arrivals", "load", "policy", "alone", "beside", "difference"], rows),
        "",
    ]


def _mechanisms(result: Result) -> list[str]:
    rows = [
        [
            row["mechanism"],
            f"{FIGURES[row['figure']]}, `{row['watched']}`, load {row['load']}",
            *(
                f"{row[way]['kinds'][row['watched']][row['figure']]:.4f}"
                for way in ("with", "without")
            ),
        ]
        for row in result["stress"]
    ]
    return [
        "What each mechanism is for, on questions that need it (Poisson): `keeps` is a critical",
        "decision within its declared rate beside one at 4.3 × its own, `modest` asks a tenth of",
        "what one decision is asked, `healthy` has its lane and criticality with one that hangs.",
        "",
        table(["mechanism", "figure", "with it", "without"], rows),
        "",
    ]


def _ablations(result: Result) -> list[str]:
    rows = [
        [
            cell["without"] or "nothing",
            cell["arrivals"],
            *(f"{cell['kinds'][kind]['goodput']:.4f}" for kind in ("critical", "standard")),
            f"{cell['kinds']['standard']['missed_of_admitted']:.4f}",
            f"{cell['kinds']['standard']['evicted_of_admitted']:.4f}",
            f"{cell['wasted']:.2%}",
        ]
        for cell in result["ablations"]
        if cell["load"] == 1.2
    ]
    head = ["taken out", "arrivals", "critical in time", "standard in time"]
    head += ["standard missed of admitted", "standard evicted of admitted", "wasted"]
    return [
        "Ours on the mixed questions at load 1.2, with one mechanism taken out at a time:",
        "",
        table(head, rows),
        "",
    ]


def _judging(result: Result) -> list[str]:
    rows = [
        [
            row["waiting"],
            f"{row['count']}",
            f"{row['p50_us']:.1f}",
            f"{row['p99_us']:.1f}",
        ]
        for row in result["judging"]
    ]
    own = [c for c in result["cells"] if c["policy"] == grid.OURS]
    low, high = (end(c["cpu_us_per_request"] for c in own) for end in (min, max))
    return [
        "What it takes to judge an arriving question in this interpreter, by how many wait. All of",
        f"a question, its simulated node included, took {low:.0f} to {high:.0f} µs, cell by cell.",
        "",
        table(["waiting", "questions", "p50, µs", "p99, µs"], rows),
        "",
    ]


def _rows(cells: Iterable[Result], show: Callable[[Result], str]) -> list[list[str]]:
    """Return a row for each policy, of what `show` says of its cells in their order."""
    rows: dict[str, list[str]] = {}
    for cell in cells:
        if cell["load"] in FEW_LOADS:
            rows.setdefault(cell["policy"], []).append(show(cell))
    return [[name, *row] for name, row in rows.items()]


def _loads(cells: Iterable[Result]) -> list[float]:
    return [load for load in dict.fromkeys(c["load"] for c in cells) if load in FEW_LOADS]


def _chosen(cells: Iterable[Result], workload: str, arrivals: str) -> list[Result]:
    return [c for c in cells if (c["workload"], c["arrivals"]) == (workload, arrivals)]


def _process(arrivals: str) -> str:
    return {"poisson": "Poisson", "gamma 4": "gamma arrivals of cv 4"}[arrivals]


def _offered(result: Result) -> str:
    return f"{min(cell['offered'] for cell in result['cells']):,}"


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.3f}"


def _ms(us: float | None) -> str:
    return "–" if us is None else f"{us / 1e3:.1f}"


def _provenance(result: Result) -> str:
    facts = ", ".join(
        fact if name == "cpu" else f"{name} {fact}" for name, fact in result["machine"].items()
    )
    return (
        f"{result['date']}; {facts}; {result['cpu_s']:.0f} s of CPU time. "
        f"Command: `{result['command']}`."
    )


def _plot(cells: Sequence[Result]) -> None:
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, arrivals in ((left, "poisson"), (middle, "gamma 4")):
        _lines(axes, _chosen(cells, "mixed", arrivals), lambda c: c["kinds"]["critical"]["goodput"])
        axes.set_title(f"critical in time ÷ offered, {arrivals}", fontsize="small")
    _lines(right, _chosen(cells, "single", "poisson"), lambda c: c["wasted"])
    right.set_title("lane time wasted, one decision, poisson", fontsize="small")
    figure.legend(
        *left.get_legend_handles_labels(), frameon=False, ncols=5, loc="outside lower center"
    )
    save(figure, PLOT)


def _lines(axes: Axes, cells: Sequence[Result], value: Callable[[Result], float]) -> None:
    for policy in dict.fromkeys(cell["policy"] for cell in cells):
        own = [cell for cell in cells if cell["policy"] == policy]
        color = {grid.OURS: OURS, grid.ORACLE: INK}.get(policy, PEER)
        style = STYLES.get(policy, "--" if policy == grid.ORACLE else "-")
        width = 2.5 if policy == grid.OURS else 1.2
        loads, values = [c["load"] for c in own], [value(c) for c in own]
        axes.plot(loads, values, style, color=color, linewidth=width, markersize=4, label=policy)
    axes.set_ylim(-0.02, 1.05)
    axes.set_xlabel("load")
    axes.spines[["top", "right"]].set_visible(False)
