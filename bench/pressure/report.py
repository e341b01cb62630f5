"""What docs/benchmarks.md says of the budget under pressure: the grid with its plot, and live."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.pressure import grid, live
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
            _provenance(result, f"{result['cpu_s']:.0f} s of CPU time"),
        ]
    )


def pressure_live(result: Result) -> str:
    """Show the same pressure on real servers, and how far the simulation agrees."""
    full_us, half_us = result["run_us"]
    return "\n".join(
        [
            "## Under pressure, live",
            "",
            f"Two decisions on one core. S is one saturated run through our node, {full_us:.0f} µs",
            f"(afterwards {result['run_us_afterwards']:.0f}); load counts runs of S. `tight` is",
            "critical with a budget of 5 S, `loose` standard with 30 S; half of the work is",
            "`tight`'s, at load 2.0 a quarter. On our node both have a second variant",
            f"({half_us:.0f} µs, 0.9 right) and `tight` declares its arrivals. Open loop,",
            "from the intended instant at the asker; in each round everybody meets the same",
            f"questions, {result['seconds']:g} s of them, {result['repeats']} rounds in changing",
            "order: median (lowest–highest).",
            "",
            *(f"- {live.POLICIES[name]}: {words}." for name, words in result["settings"].items()),
            "",
            "Triton cannot preempt a run, and two instances share the core by time slices. FIFO",
            "and Triton are one server in two settings. Triton admits everybody; what its queue",
            "timeout refuses counts as evicted before the deadline and as missed after it, and",
            "whatever it runs it answers, so late of answered is the part of its runs wasted.",
            "Refused: from the intended instant to a refusal at arrival.",
            "",
            *_live_cells(result["rows"]),
            *_agreement(result["rows"]),
            *_live_beside(result["beside"]),
            f"Stolen time, at most in a cell: {_most(result, 'steal'):.2%}; the asker's own",
            f"lateness p99, at most: {_most(result, 'own_lateness_p99_us'):.0f} µs.",
            _provenance(result, f"{result['others_busy']:.1%} busy before the run"),
        ]
    )


def _live_cells(rows: Iterable[Result]) -> list[str]:
    lines = [
        [
            row["arrivals"],
            f"{row['load']}",
            row["policy"],
            name,
            _spread(kind["goodput"]),
            *(_middle(kind[f"{figure}_of_admitted"]) for figure in ("missed", "evicted")),
            _middle(kind["late_of_answered"]),
            " / ".join(_middle_ms(kind[f"notice_{p}_us"]) for p in ("p50", "p99")),
            " / ".join(_ms(kind[f"refused_after_{p}_us"]) for p in ("p50", "p99")),
            _middle(kind["longest_without"], 0),
            _middle(kind["accuracy"], 3),
        ]
        for row in rows
        for name, kind in row["kinds"].items()
    ]
    head = ["arrivals", "load", "policy", "questions", "in time", "missed of admitted"]
    head += ["evicted of admitted", "late of answered", "notice p50 / p99, ms"]
    head += ["refused p50 / p99, ms", "longest run without", "accuracy"]
    return [table(head, lines), ""]


def _agreement(rows: Iterable[Result]) -> list[str]:
    lines = [
        [
            row["arrivals"],
            f"{row['load']}",
            name,
            _spread(kind["goodput"]),
            _spread(row["simulated"][name]["goodput"]),
            _spread(row["live_minus_simulated"][name], "+"),
        ]
        for row in rows
        if "simulated" in row
        for name, kind in row["kinds"].items()
    ]
    return [
        "How far simulation and live agree, ours: the simulation plays the same instants, with run",
        "times drawn from those measured in the round. In time ÷ offered:",
        "",
        table(["arrivals", "load", "questions", "live", "simulated", "live − simulated"], lines),
        "",
    ]


def _live_beside(pairs: Iterable[Result]) -> list[str]:
    lines = [
        [
            pair["arrivals"],
            f"{pair['load']}, of which critical {pair['load'] * pair['critical_share']:g}",
            *(_spread(pair[key]) for key in ("alone", "beside")),
            _spread(pair["difference"], "+"),
        ]
        for pair in pairs
    ]
    return [
        "Critical questions alone on our node, and the same ones beside standard questions:",
        "",
        table(["arrivals", "load", "alone", "beside", "difference"], lines),
        "",
    ]


def _spread(spread: Result, sign: str = "") -> str:
    middle, low, high = (f"{spread[key]:{sign}.3f}" for key in ("median", "low", "high"))
    return f"{middle} ({low}–{high})"


def _middle(spread: Result | None, digits: int = 4) -> str:
    return "–" if spread is None else f"{spread['median']:.{digits}f}"


def _middle_ms(spread: Result | None) -> str:
    return _ms(None if spread is None else spread["median"])


def _most(result: Result, figure: str) -> float:
    return max(row[figure] or 0 for row in result["rows"])


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


def _provenance(result: Result, besides: str) -> str:
    facts = ", ".join(
        fact if name == "cpu" else f"{name} {fact}" for name, fact in result["machine"].items()
    )
    return f"{result['date']}; {facts}; {besides}. Command: `{result['command']}`."


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
