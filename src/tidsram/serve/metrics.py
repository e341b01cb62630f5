"""Counters and stage histograms in shared memory: they survive the gate that fills them.

One row of whole numbers per decision, then two busy counters per lane, then what the machine did to
the node. The gate adds to the first two, the supervisor to the last (and what a dead gate could not
add), `/metrics` renders.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from tidsram.estate.types import MAX_VARIANTS
from tidsram.outcome import TABLE, Reason
from tidsram.protocol.oip import STAGES
from tidsram.stats import BUCKETS, bucket, bucket_top_ns

REASONS = tuple(TABLE)
_REASON_AT = {reason: i for i, reason in enumerate(REASONS)}
SERIES = (*STAGES, "spent", "gap")
_ODD_AT = len(REASONS)
_KEPT_AT = _ODD_AT + 1  # runs that ended as promised, then those that ended later
_RUNG_AT = _KEPT_AT + 2
_SUM_AT = _RUNG_AT + MAX_VARIANTS
_HISTOGRAM_AT = _SUM_AT + len(SERIES)
_ROW = _HISTOGRAM_AT + len(SERIES) * BUCKETS

_FAULTS = tuple((process, kind) for process in ("gate", "worker") for kind in ("minor", "major"))
_MACHINE = 1 + len(_FAULTS)  # stolen time first

_GAP = len(SERIES) - 1

# Where /metrics cuts its histograms: 1-2-5 from 10 µs to 10 s; gaps are looked at more closely.
_Edges = list[tuple[str, int]]  # as shown, and how many buckets lie below
_TOPS_NS = [bucket_top_ns(index) for index in range(BUCKETS)]


def _edges(edges_ns: Sequence[int]) -> _Edges:
    return [(f"{edge_ns / 1e9:g}", bisect_right(_TOPS_NS, edge_ns)) for edge_ns in edges_ns]


_STAGE_EDGES = _edges([m * 10**e for e in range(4, 10) for m in (1, 2, 5)] + [10**10])
_GAP_EDGES = _edges([10_000 * i for i in range(1, 21)] + [500_000, 10**6, 10**7])


def metrics_bytes(decisions: int, lanes: int) -> int:
    """Return the size of the shared memory."""
    return 8 * (decisions * _ROW + 2 * lanes + _MACHINE)


class Metrics:
    """The shared numbers of all decisions, in the estate's order."""

    def __init__(self, memory: memoryview, decisions: Sequence[str], lanes: int) -> None:
        self._numbers = memory.cast("Q")
        self._row_of = {name: i * _ROW for i, name in enumerate(decisions)}
        self._busy_at = len(decisions) * _ROW
        self._machine_at = self._busy_at + 2 * lanes
        self._lanes = lanes

    def row(self, decision: str) -> "Row":
        """Return the decision's numbers."""
        at = self._row_of[decision]
        return Row(self._numbers[at : at + _ROW])

    def add_busy(self, lane: int, ns: int, *, critical: bool) -> None:
        """Count time that the lane's workers ran."""
        self._numbers[self._busy_at + lane] += ns
        if critical:
            self._numbers[self._busy_at + self._lanes + lane] += ns

    def busy_ns(self, lane: int) -> int:
        """Return the time that the lane's workers ran since the start."""
        return self._numbers[self._busy_at + lane]

    def critical_ns(self, lane: int) -> int:
        """Return the time of it that was critical workers'."""
        return self._numbers[self._busy_at + self._lanes + lane]

    def add_steal(self, ns: int) -> None:
        """Count time that the hypervisor gave others."""
        self._numbers[self._machine_at] += ns

    def count_faults(self, process: str, minor: int, major: int) -> None:
        """Count page faults of the gate or of a worker."""
        at = self._machine_at + 1 + _FAULTS.index((process, "minor"))
        self._numbers[at] += minor
        self._numbers[at + 1] += major

    def render(
        self,
        slots_taken: dict[str, int],
        variants: Mapping[str, Sequence[str]],
        service: Sequence["Service"],
    ) -> bytes:
        """Return everything in Prometheus' text format; `variants` are each decision's, by rung."""
        rows = [(name, self.row(name)) for name in self._row_of]
        lines = [
            "# HELP tidsram_requests_total Requests by decision, outcome and reason.",
            "# TYPE tidsram_requests_total counter",
        ]
        for name, row in rows:
            for reason in REASONS:
                labels = f'decision="{name}",outcome="{TABLE[reason].outcome}",reason="{reason}"'
                lines.append(f"tidsram_requests_total{{{labels}}} {row.count_of(reason)}")
        lines += [
            "# HELP tidsram_slots_taken Questions in flight, by decision.",
            "# TYPE tidsram_slots_taken gauge",
            *(f'tidsram_slots_taken{{decision="{n}"}} {taken}' for n, taken in slots_taken.items()),
            "# HELP tidsram_oddities_total Requests with a spent or captured time out of range.",
            "# TYPE tidsram_oddities_total counter",
            *(f'tidsram_oddities_total{{decision="{name}"}} {row.odd}' for name, row in rows),
            "# HELP tidsram_answers_total Answers by decision and the variant that gave them.",
            "# TYPE tidsram_answers_total counter",
            *(
                f'tidsram_answers_total{{decision="{name}",variant="{variant}"}} '
                f"{row.rung_count(rung)}"
                for name, row in rows
                for rung, variant in enumerate(variants[name])
            ),
            "# HELP tidsram_predictions_total Runs that ended by their predicted finish, or after.",
            "# TYPE tidsram_predictions_total counter",
            *(
                f'tidsram_predictions_total{{decision="{name}",kept="{kept}"}} {count}'
                for name, row in rows
                for kept, count in zip(("yes", "no"), row.promises, strict=True)
            ),
            "# HELP tidsram_service_upper_seconds What a run is expected to take at most.",
            "# TYPE tidsram_service_upper_seconds gauge",
            *(f"tidsram_service_upper_seconds{{{s.labels}}} {s.upper_s:.6f}" for s in service),
            "# HELP tidsram_service_steps_total Alarms: the service time has changed at once.",
            "# TYPE tidsram_service_steps_total counter",
            *(f"tidsram_service_steps_total{{{s.labels}}} {s.steps}" for s in service),
            "# HELP tidsram_stage_seconds Time of answered requests by stage; spent is the whole.",
            "# TYPE tidsram_stage_seconds histogram",
        ]
        for name, row in rows:
            for i, stage in enumerate(SERIES[:_GAP]):
                labels = f'decision="{name}",stage="{stage}"'
                lines += row.render(i, "tidsram_stage_seconds", labels, _STAGE_EDGES)
        lines += [
            "# HELP tidsram_run_gap_seconds From the end of a lane's run to a waiting job's start.",
            "# TYPE tidsram_run_gap_seconds histogram",
        ]
        for name, row in rows:
            labels = f'decision="{name}"'
            lines += row.render(_GAP, "tidsram_run_gap_seconds", labels, _GAP_EDGES)
        lines += [
            "# HELP tidsram_lane_busy_seconds_total Time a lane's workers ran.",
            "# TYPE tidsram_lane_busy_seconds_total counter",
            *(
                f'tidsram_lane_busy_seconds_total{{lane="{lane}"}} {self.busy_ns(lane) / 1e9:.6f}'
                for lane in range(self._lanes)
            ),
            "# HELP tidsram_steal_seconds_total Time of the node's cores that others were given.",
            "# TYPE tidsram_steal_seconds_total counter",
            f"tidsram_steal_seconds_total {self._numbers[self._machine_at] / 1e9:.6f}",
            "# HELP tidsram_page_faults_total Page faults while serving; major ones read a disk.",
            "# TYPE tidsram_page_faults_total counter",
            *(
                f'tidsram_page_faults_total{{process="{process}",kind="{kind}"}} '
                f"{self._numbers[at]}"
                for at, (process, kind) in enumerate(_FAULTS, self._machine_at + 1)
            ),
        ]
        return "\n".join(lines).encode() + b"\n"


class Service(NamedTuple):
    """What the gate's scheduler knows of one variant's time on one lane."""

    labels: str
    upper_s: float
    steps: int


class Row:
    """One decision's numbers."""

    __slots__ = ("_numbers",)

    def __init__(self, numbers: memoryview) -> None:
        self._numbers = numbers

    def count(self, reason: Reason, by: int = 1) -> None:
        """Count requests that ended for this reason."""
        self._numbers[_REASON_AT[reason]] += by

    def count_of(self, reason: Reason) -> int:
        """Return how many requests ended for this reason."""
        return self._numbers[_REASON_AT[reason]]

    @property
    def odd(self) -> int:
        """How many requests had a time clamped."""
        return self._numbers[_ODD_AT]

    def count_odd(self) -> None:
        """Count a request that had a time clamped."""
        self._numbers[_ODD_AT] += 1

    def count_promise(self, *, kept: bool) -> None:
        """Count a run that ended by the finish predicted at its admission, or after it."""
        self._numbers[_KEPT_AT if kept else _KEPT_AT + 1] += 1

    @property
    def promises(self) -> tuple[int, int]:
        """How many runs ended as predicted, and how many later."""
        return self._numbers[_KEPT_AT], self._numbers[_KEPT_AT + 1]

    def count_rung(self, rung: int) -> None:
        """Count an answer of the ladder's variant number `rung`."""
        self._numbers[_RUNG_AT + rung] += 1

    def forget_rungs(self) -> None:
        """Count from nothing: the ladder's variants are others now."""
        for rung in range(MAX_VARIANTS):
            self._numbers[_RUNG_AT + rung] = 0

    def rung_count(self, rung: int) -> int:
        """Return how many answers the variant gave."""
        return self._numbers[_RUNG_AT + rung]

    def observe(self, times_ns: Sequence[int]) -> None:
        """Add an answered request's times, in the order of SERIES but for the gap."""
        numbers = self._numbers
        at = _HISTOGRAM_AT
        for i, ns in enumerate(times_ns, _SUM_AT):
            numbers[i] += ns
            numbers[at + bucket(ns)] += 1
            at += BUCKETS

    def observe_gap(self, ns: int) -> None:
        """Add the time between the end of the lane's last run and a waiting job's start."""
        self._numbers[_SUM_AT + _GAP] += ns
        self._numbers[_HISTOGRAM_AT + _GAP * BUCKETS + bucket(ns)] += 1

    def histogram(self, series: int) -> list[int]:
        """Return the bucket counts of one of SERIES."""
        at = _HISTOGRAM_AT + series * BUCKETS
        return self._numbers[at : at + BUCKETS].tolist()

    def render(self, series: int, metric: str, labels: str, edges: _Edges) -> list[str]:
        """Return one series' histogram as lines of Prometheus' text format."""
        seen = [0, *accumulate(self.histogram(series))]
        total = seen[-1]
        lines = [
            f'{metric}_bucket{{{labels},le="{shown}"}} {seen[place]}' for shown, place in edges
        ]
        lines.append(f'{metric}_bucket{{{labels},le="+Inf"}} {total}')
        seconds = self._numbers[_SUM_AT + series] / 1e9
        lines.append(f"{metric}_sum{{{labels}}} {seconds:.9f}")
        lines.append(f"{metric}_count{{{labels}}} {total}")
        return lines
