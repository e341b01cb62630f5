"""The parts of docs/benchmarks.md on lost processes and on other work beside critical decisions."""

from collections.abc import Mapping
from typing import Any

from bench.loadgen import show
from bench.pressure.contention import BUSY
from bench.pressure.faults import VICTIM
from bench.report import table

Result = Mapping[str, Any]


def pressure_faults(result: Result) -> str:
    """Show what became of everybody's requests while processes were lost."""
    return "\n".join(
        [
            "## Processes lost under load",
            "",
            "Two standard decisions and a critical one on one lane at 0.44 of its capacity, open",
            "loop. One of them loses its worker: killed (SIGKILL) at any moment, stopped (SIGSTOP)",
            "while it waits, or hung (SIGSTOP) right after it has begun a run. Instants are the",
            "asker's; deadlines count from the send. A status of 0 would be a request without",
            "outcome, and a second outcome of one request would leave another without.",
            "",
            *_workers(result["workers"]),
            "The other decisions meanwhile, beside a run without faults of the same length and",
            "instants. Contradicted: given both sums of requests not answered in time, so many of",
            "them during the faults are unlikelier than 1 % if nothing had changed.",
            "",
            *_others(result["workers"]),
            *_gate(result["gate"]),
            *_left_over(result["left_over"]),
            *_idle(result["idle"]),
            *_told(result),
            f"Stolen time during the run: {result['steal']:.2%}.",
            _provenance(result),
        ]
    )


def _workers(workers: Result) -> list[str]:
    head = ["worker", "answered again, ms", "never again", "asked", "outcomes by HTTP status"]
    head += ["counted by the node", "latest outcome after its deadline, ms", "late answers"]
    rows = []
    for kind, row in workers.items():
        victim = row[VICTIM]
        rows.append(
            [
                f"{kind}, {row['times']} times",
                _spread(row["answered_again_ms"], 0),
                str(row["never_answered_again"]),
                str(victim["asked"]),
                _counts(victim["by_status"]),
                str(sum(victim["recorded"].values())),
                f"{victim['latest_after_deadline_us'] / 1e3:.2f}",
                str(victim["late_answers"]),
            ]
        )
    return [table(head, rows), ""]


def _others(workers: Result) -> list[str]:
    head = ["worker", "decision", "in time", "without faults", "at 99 %", "outcomes"]
    head += ["p99, ms", "without faults"]
    rows = [
        [
            kind,
            name,
            f"{other['in_time']} of {other['asked']}",
            str(other["in_time_quiet"]),
            "contradicted" if other["contradicted"] else "not contradicted",
            _counts(other["by_status"]),
            _ms(other["meanwhile_latency_p99_us"]),
            _ms(other["quiet_latency_p99_us"]),
        ]
        for kind, row in workers.items()
        for name, other in row["others"].items()
    ]
    return [table(head, rows), ""]


def _gate(gate: Result) -> list[str]:
    rows = [
        [
            f"{kind}, {row['times']} times",
            _spread(row["answered_again_ms"], 0),
            str(row["never_answered_again"]),
            f"{row['workers_unchanged']} of {row['times']}",
        ]
        for kind, row in gate.items()
    ]
    head = ["gate", "answered again, ms", "not within 5 s", "workers those they were"]
    return [table(head, rows), ""]


def _left_over(left: Result) -> list[str]:
    rows = [
        [name.replace("_", " "), str(before), f"{left['growth'][name]:+d}"]
        for name, before in left["before"].items()
    ]
    return [
        f"What {left['requests']:,} requests and {left['kills']} kills of a worker left behind;",
        f"processes that outlived the node: {left['after_the_end']}.",
        "",
        table(["what the node holds", "before", "growth"], rows),
        "",
    ]


def _idle(idle: Result) -> list[str]:
    rows = [
        [name, *(show(idle[key][f"latency_{p}_us"]) for p in ("p50", "p99"))]
        for name, key in (("alone", "alone"), (f"beside {idle['connections']:,}", "beside"))
    ]
    rows.append(["ratio within a pair", _spread(idle["ratio_p50"]), _spread(idle["ratio_p99"])])
    return [
        f"One asker of `tiny` back to back, alone and beside {idle['connections']:,} silent",
        f"connections ({idle['still_open']:,} still open at the end); {idle['pairs']} pairs of",
        f"{idle['requests']:,} questions.",
        "",
        table(["asker", "p50, µs", "p99, µs"], rows),
        "",
    ]


def _told(result: Result) -> list[str]:
    """Show how soon an asker hears that there will be no answer."""
    missed, notice = result["missed"], result["notice"]
    rows = [["missed: from the deadline, runs held up", *_three(missed, "after_deadline")]]
    rows += [
        [f"missed: from the deadline, worker {kind}", *_three(row["missed"], "after_deadline")]
        for kind, row in result["workers"].items()
        if kind != "killed"
    ]
    overloaded = f"refused: from the send, load {notice['load']:.1f}"
    rows.append(["refused: from the send, nothing else asked", *_three(notice["at_leisure"])])
    rows.append([overloaded, *_three(notice["overloaded"])])
    return [
        "When the asker hears that there will be no answer. Those who were admitted and evicted",
        "later are among the refused.",
        "",
        table(["what", "p50, µs", "p99, µs", "latest, µs"], rows),
        "",
    ]


def _three(row: Result, name: str = "notice") -> list[str]:
    return [show(row[f"{name}_{p}_us"]) for p in ("p50", "p99", "max")]


def pressure_contention(result: Result) -> str:
    """Show what a critical decision notices of other work."""
    return "\n".join(
        [
            "## Critical beside other work",
            "",
            f"`steady` as a critical decision, a question every {result['period_ms']:.0f} ms;",
            "alone, beside `tidsram background` with matrix products on both cores, and beside a",
            "best-effort decision asked without pause, with such a command on the gate's core.",
            "A question that was not answered counts as one answered at the end of its block.",
            f"Blocks in turn; the machine must be {BUSY:.0%} busy. Ratio and added: p99.9 of a",
            "block beside that of the block alone of its pair, median (lowest–highest).",
            "",
            *_background(result["background"]),
            "The same decision under each scheduling class: asked back to back for 5 s, so that",
            "it has the lane to itself and fills it; and at 30 % of the lane beside a standard",
            "decision of 35 ms runs that is asked without pause.",
            "",
            *_scheduling(result["scheduling"]),
            "At half of the lane, while another decision's worker is killed and loaded anew:",
            "",
            *_loading(result["loading"]),
            _provenance(result),
        ]
    )


def _background(background: Result) -> list[str]:
    head = ["beside", "p50, µs", "p99, µs", "p99.9, µs", "ratio p99.9", "added p99.9, µs"]
    head += ["machine busy", "outcomes", "stolen"]
    names = {"alone": "nothing", "command": "a command", "decision": "a best-effort decision"}
    rows = [
        [
            names[key],
            *(show(row[f"latency_{p}_us"]) for p in ("p50", "p99", "p99_9")),
            _spread(row["ratio_p99_9"]),
            _spread(row["added_p99_9_us"], 0),
            _spread(row["busy"]),
            _counts(row["by_status"]),
            f"{row['steal']:.2%}",
        ]
        for key, row in background.items()
    ]
    return [table(head, rows), ""]


def _scheduling(scheduling: Result) -> list[str]:
    head = ["scheduling", "saturated: p99, µs", "worst, µs", "frozen for 40 ms"]
    head += ["beside long runs: p50, µs", "p99, µs", "worst, µs"]
    rows = [
        [
            mode,
            *(show(row["saturated"][f"latency_{p}_us"]) for p in ("p99", "max")),
            f"{row['saturated']['frozen']} of {row['saturated']['answers']}",
            *(show(row["beside_long"][f"latency_{p}_us"]) for p in ("p50", "p99", "max")),
        ]
        for mode, row in scheduling.items()
    ]
    return [table(head, rows), ""]


def _loading(loading: Result) -> list[str]:
    rows = [
        [
            name,
            *(show(loading[key][f"latency_{p}_us"]) for p in ("p50", "p99", "p99_9", "max")),
            _counts(loading[key]["by_status"]),
        ]
        for name, key in (("nothing", "calm"), (f"{loading['loads']} loads", "loading"))
    ]
    head = ["beside", "p50, µs", "p99, µs", "p99.9, µs", "worst, µs", "outcomes"]
    return [table(head, rows), ""]


def _spread(spread: Result | None, digits: int = 2) -> str:
    if spread is None:
        return "–"
    low, high = (f"{spread[end]:.{digits}f}" for end in ("low", "high"))
    return f"{spread['median']:.{digits}f} ({low}–{high})"


def _counts(counts: Result) -> str:
    return ", ".join(f"{count} × {status}" for status, count in counts.items())


def _ms(us: float | None) -> str:
    return show(None if us is None else us / 1e3, 2)


def _provenance(result: Result) -> str:
    facts = ", ".join(
        fact if name == "cpu" else f"{name} {fact}" for name, fact in result["machine"].items()
    )
    busy = f"{result['others_busy']:.1%} busy before the run"
    return f"{result['date']}; {facts}; {busy}. Command: `{result['command']}`."
