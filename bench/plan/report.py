"""What docs/benchmarks.md says of planning: the score, the speed, the optimum, and serving."""

from collections.abc import Mapping
from typing import Any

from bench.report import table

Result = Mapping[str, Any]


def plan_score(result: Result) -> str:
    """Show what each planner's plan costs on each estate, and whether it holds."""
    planners = [row["planner"] for row in result["estates"][0]["rows"]]
    heads = ["estate", "decisions", "sites", *planners, "ours ÷ cheapest that holds"]
    rows = [
        [
            estate["name"],
            str(estate["decisions"]),
            str(estate["sites"]),
            *(_cost(row) for row in estate["rows"]),
            "–" if estate["ratio"] is None else f"{estate['ratio']:.3f}",
        ]
        for estate in result["estates"]
    ]
    return "\n".join(
        [
            "## What a plan costs, and whether it holds",
            "",
            f"{len(result['estates'])} generated Swedish estates: obstacle detection, inspection,",
            "tissue analysis and voices, with budgets of 20 to 400 ms, law and data classes; nodes",
            "of two lanes (2,400 a year) or four (4,200), 600 for an open site. Every planner has",
            "the same options and the same losses to survive: each single node, and each site and",
            "link where a decision is to survive it. Cost a year and number of nodes; ✗: a promise",
            "is contradicted at 99 % in an independent simulation of",
            f"{result['requests']:,} requests of each flow, healthy and in the three losses that",
            "leave the highest load on some node, or it is not answered, or the law is broken.",
            "",
            table(heads, rows),
            "",
            "- *mean utilisation*: no node busier than 80 % on average; *tuned*: the cheapest of",
            "  plans for 20 to 80 % that the simulation confirms.",
            "- *greedy by simulation* (InferLine's idea): from too much, the step that saves most",
            f"  while the simulation confirms it; at most {result['greedy_seconds']:g} s for one.",
            "- *nearest site*: where it is asked; a node more wherever a promise breaks.",
            "- *all in one region*: published round trips, machines at our price, the law set",
            "  aside while planning and counted afterwards; the region itself is never lost.",
            "- A plan that this rules out, or that is dearer than ours, is judged with a fifth of",
            "  the requests.",
            "",
            "They search with the scheduler's own simulation, as ours does, with",
            f"{result['search_requests']:,} requests of each flow; ours proves with",
            f"{result['own_requests']:,}. How far the worst flow's share lies from its objective,",
            "in points, healthy and in the worst loss; flows not answered, or against the law:",
            "",
            table(["estate", *planners], [_margins(estate) for estate in result["estates"]]),
            "",
            "Seconds to find the plan:",
            "",
            table(["estate", *planners], [_seconds(estate) for estate in result["estates"]]),
            "",
            f"{result['seconds'] / 60:.0f} minutes in all. {_where(result)}",
        ]
    )


def plan_speed(result: Result) -> str:
    """Show solving and verifying apart, with the certified bound."""
    rows = [
        [
            f"{row['decisions']:,} × {row['sites']} × {row['variants']} × {row['cases']}",
            str(row["flows"]),
            f"{row['nodes']} ({row['cost']:,.0f})",
            f"{row['bound']:,.0f}",
            f"{row['gap']:.1%}, {(row['cost'] - row['bound']) / row['machine']:.1f} machines",
            str(row["rounds"]),
            f"{row['solve_s']:.1f}",
            f"{row['verify_s']:.0f}",
            "yes" if row["verified"] else "no",
        ]
        for row in result["rows"]
    ]
    heads = ["decisions × sites × variants × cases", "flows", "nodes (cost)", "bound", "gap"]
    heads += ["rounds", "solve, s", "verify, s", "verified"]
    return "\n".join(
        [
            "## How long planning takes",
            "",
            "A generated estate of Sweden. Solving is all rounds of the optimiser; verifying is",
            f"the simulation, {result['requests']:,} requests of each flow in each case. Bound: no",
            "plan within the same cuts costs less.",
            "",
            table(heads, rows),
            "",
            _where(result),
        ]
    )


def plan_exhaustive(result: Result) -> str:
    """Show our nodes beside the fewest there are."""
    rows = [
        [
            row["estate"],
            str(row["flows"]),
            str(row["sites"]),
            str(row["optimum"]),
            str(row["ours"]),
            "–" if row["ratio"] is None else f"{row['ratio']:.2f}",
            f"{row['searched_s']:.0f}",
        ]
        for row in result["rows"]
    ]
    heads = ["estate", "flows", "sites", "fewest nodes", "ours", "ratio", "all tried in, s"]
    return "\n".join(
        [
            "## How near to the fewest nodes",
            "",
            "Tiny estates with one hardware type, on which every number of nodes and every placing",
            "is tried and simulated, healthy and in each loss.",
            f"{result['requests']:,} requests of each flow.",
            "",
            table(heads, rows),
            "",
            _where(result),
        ]
    )


def plan_serve(result: Result) -> str:
    """Show what was promised beside what was measured."""
    rows = []
    for name, told in result["decisions"].items():
        planned = result["planned"][name]
        rows.append(
            [
                name,
                f"{told['budget_us'] / 1e3:.0f} ms",
                f"{told['objective']:g}",
                f"{planned['in_time'] / planned['asked']:.4f}",
                f"{told['in_time'] / told['asked']:.4f} (≥ {told['at_least']:.4f})",
                f"{told['asked']:,}",
                f"{told['contradicted']} of {len(result['runs'])}",
                told["verdict"],
            ]
        )
    heads = ["decision", "budget", "objective", "planned", "measured", "asked"]
    heads += ["runs that contradict it", "all runs"]
    return "\n".join(
        [
            "## What was planned, served",
            "",
            "Two example models, profiled, planned and served on this machine by the plan's own",
            f"file; the lane is {result['busy']:.0%} busy. Open loop as declared,",
            f"{len(result['runs'])} runs of {result['seconds']:g} s, from the intended instant at",
            "the asker, who shares the machine.",
            "",
            table(heads, rows),
            "",
            _where(result),
        ]
    )


def _cost(row: Result) -> str:
    if not row["nodes"]:
        return "no plan"
    return f"{'' if row['verifies'] else '✗ '}{row['cost']:,.0f} ({row['nodes']})"


def _margins(estate: Result) -> list[str]:
    return [estate["name"], *(_margin(row) for row in estate["rows"])]


def _margin(row: Result) -> str:
    told = []
    if row["scenarios"]:
        healthy, *losses = (scenario["worst_margin"] for scenario in row["scenarios"])
        told.append(f"{100 * healthy:+.2f} / {100 * min(losses, default=healthy):+.2f}")
    told += [f"{len(row['unserved'])} not answered"] if row["unserved"] else []
    told += [f"{row['unlawful']} against the law"] if row["unlawful"] else []
    return ", ".join(told) or "–"


def _seconds(estate: Result) -> list[str]:
    return [estate["name"], *(f"{row['search_s']:.1f}" for row in estate["rows"])]


def _where(result: Result) -> str:
    machine = ", ".join(
        fact if name == "cpu" else f"{name} {fact}" for name, fact in result["machine"].items()
    )
    return f"{result['date']}; {machine}. Command: `{result['command']}`."
