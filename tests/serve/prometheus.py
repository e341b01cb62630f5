"""A strict reader of Prometheus' text format: what it takes, every scraper takes."""

import re

_NAME = r"[a-z][a-z0-9_]*"
_COMMENT = re.compile(rf"# (HELP|TYPE) ({_NAME}) (\S.*)")
_SAMPLE = re.compile(rf'({_NAME})(?:\{{((?:{_NAME}="[^"\\\n]*",?)+)\}})? ([0-9.e+-]+|\+Inf)')
_LABEL = re.compile(rf'({_NAME})="([^"]*)"')
_PARTS = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}

Labels = tuple[tuple[str, str], ...]


def read(text: bytes) -> dict[str, dict[Labels, float]]:
    """Return the samples by name and labels; AssertionError where the format is not kept."""
    assert text.endswith(b"\n")
    samples: dict[str, dict[Labels, float]] = {}
    kinds: dict[str, str] = {}
    helped: set[str] = set()
    family = ""
    for line in text.decode("ascii").splitlines():
        if line.startswith("#"):
            match = _COMMENT.fullmatch(line)
            assert match, line
            said, family, rest = match.groups()
            if said == "HELP":
                assert family not in helped, f"{family} is explained twice"
                helped.add(family)
            else:
                assert family in helped, f"{family} has no HELP"
                assert family not in kinds, f"{family} has two types"
                kinds[family] = rest
            continue
        match = _SAMPLE.fullmatch(line)
        assert match, line
        name, labels, value = match.groups()
        ends = _PARTS[kinds[family]]
        # A counter's family is named with its _total; the others' samples extend the name.
        stem = family.removesuffix("_total") if kinds[family] == "counter" else family
        assert name in {stem + end for end in ends}, f"{name} stands under {family}"
        key = tuple(_LABEL.findall(labels or ""))
        assert key not in samples.setdefault(name, {}), line
        samples[name][key] = float(value)
    for family, kind in kinds.items():
        if kind == "histogram":
            _check_histogram(family, samples)
    return samples


def _check_histogram(family: str, samples: dict[str, dict[Labels, float]]) -> None:
    series: dict[Labels, list[tuple[float, float]]] = {}
    for labels, count in samples[f"{family}_bucket"].items():
        assert labels[-1][0] == "le"
        series.setdefault(labels[:-1], []).append((float(labels[-1][1]), count))
    for labels, buckets in series.items():
        edges, counts = zip(*buckets, strict=True)
        assert list(edges) == sorted(set(edges)), f"{family}{labels}: edges do not ascend"
        assert list(counts) == sorted(counts), f"{family}{labels} is not cumulative"
        assert buckets[-1][0] == float("inf")
        assert buckets[-1][1] == samples[f"{family}_count"][labels]
        assert labels in samples[f"{family}_sum"]
