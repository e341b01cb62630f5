"""What docs/benchmarks.md says of the lab: rungs, raw frames, its own time, and its claims."""

from collections.abc import Mapping
from typing import Any

from bench.report import table

Result = Mapping[str, Any]


def lab(result: Result) -> str:
    """Show what the lab made of the example models, and whether that is so when it is served."""
    options, made = result["options"], result["lab"]
    return "\n".join(
        [
            "## What the lab makes of a model",
            "",
            "Each rung of the example bundles beside the fused fp32 model at its own size: in one",
            f"process, one thread on one core, all forms in turn, {options['rounds']} rounds of",
            f"{options['runs']} runs on one frame; the median of each round, and the ratios within",
            "a round: median (lowest–highest). Accuracy and agreement with the original are those",
            "of the manifest.",
            "",
            table(
                ["bundle", "rung", "accuracy", "of the original's", "run, ms", "faster", "wanted"],
                [row for bundle in result["speed"] for row in _rungs(bundle)],
            ),
            "",
            f"Measured in the ladder's order: {_all(result['speed'], 'in_order')}.",
            "",
            "The same int8 weights asked with a raw frame, and with pictures made into tensors",
            "before and outputs read after by the Python client (pillow, numpy). One node, one",
            "lane, the Unix socket, an asker on the other core, both ways in turn;",
            f"{options['blocks']} times through the samples. The picture is decoded already. Times",
            "in ms, p50; *node* is from send to answer, with the *run* in it.",
            "",
            table(
                [
                    *("decision", "way", "prepare", "node", "run", "read", "whole", "whole p99"),
                    *("against the original", "against labels"),
                ],
                [row for decision in result["frames"] for row in _ways(decision)],
            ),
            "",
            table(
                ["decision", "whole time, raw ÷ separate", "accuracy, raw ÷ separate", "asked"],
                [_ratios(decision) for decision in result["frames"]],
            ),
            "",
            f"`tidsram lab` on {made['model']} ({made['bytes'] / 1e6:.0f} MB) took",
            f"{made['wall_s']:.0f} s for {made['forms']} forms; wanted: ≤ {made['wanted_s']} s.",
            "",
            f"The p99 that `tidsram profile` claims after {options['profile_runs']:,} runs, and",
            "how many runs of a node started later stayed within it, alone on the same lane. One",
            "in a hundred true claims is contradicted by chance, and a claim is itself a sample's.",
            "",
            table(
                ["bundle", "rung", "claimed p99, ms", "later runs within it", "at 99 %"],
                [_claim(claim) for claim in result["claims"]],
            ),
            "",
            f"Stolen time during the run: {result['shares']['steal']:.2%}.",
            _provenance(result),
        ]
    )


def _rungs(bundle: Result) -> list[list[str]]:
    head = [bundle["bundle"], "fp32", "–", "–", _ms(bundle["fp32_us"]), "1", "–"]
    return [head, *([bundle["bundle"], *_rung(row)] for row in bundle["rows"])]


def _rung(row: Result) -> list[str]:
    return [
        row["variant"],
        f"{row['accuracy']:.3f} ({row['metric']}, {row['against']})",
        f"{row['to_original']:.3f}",
        _ms(row["run_us"]),
        _spread(row["faster"]),
        "–" if row["wanted"] is None else f"≥ {row['wanted']:g}",
    ]


def _ways(decision: Result) -> list[list[str]]:
    parts = ("prepare", "node", "run", "read", "whole")
    return [
        [
            decision["decision"],
            row["way"],
            *(_ms(row[f"{part}_p50_us"]) for part in parts),
            _ms(row["whole_p99_us"]),
            f"{row['scores']['original']:.3f} ({row['metric']})",
            f"{row['scores']['labels']:.3f}" if "labels" in row["scores"] else "–",
        ]
        for row in decision["rows"]
    ]


def _ratios(decision: Result) -> list[str]:
    accuracy = [f"{share:.3f} ({name})" for name, share in decision["accuracy_ratio"].items()]
    return [
        decision["decision"],
        _spread(decision["whole_ratio"]),
        ", ".join(accuracy),
        str(decision["questions"]),
    ]


def _claim(claim: Result) -> list[str]:
    return [
        claim["bundle"],
        claim["variant"],
        _ms(claim["claimed_us"]),
        f"{claim['within']:,} of {claim['runs']:,}",
        claim["verdict"],
    ]


def _all(bundles: list[Result], key: str) -> str:
    no = [bundle["bundle"] for bundle in bundles if not bundle[key]]
    return f"not {', '.join(no)}" if no else ", ".join(bundle["bundle"] for bundle in bundles)


def _spread(spread: Result) -> str:
    return f"{spread['median']:.2f} ({spread['low']:.2f}–{spread['high']:.2f})"


def _ms(us: float | None) -> str:
    return "–" if us is None else f"{us / 1e3:.2f}"


def _provenance(result: Result) -> str:
    facts = ", ".join(
        fact if name == "cpu" else f"{name} {fact}" for name, fact in result["machine"].items()
    )
    busy = f"{result['others_busy']:.1%} busy before the run"
    return f"{result['date']}; {facts}; {busy}. Command: `{result['command']}`."
