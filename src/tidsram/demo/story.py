"""The demo's story: a quiet time that is judged, then three acts that are told.

Drives the node and its askers and hands back what happened; `telling` says it in the terminal,
`pictures` and `report` show it.
"""

import os
import random
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from tidsram import clock
from tidsram.demo import results
from tidsram.demo.askers import Asked, Askers, Course
from tidsram.demo.material import Material
from tidsram.demo.node import Node
from tidsram.demo.telling import Telling
from tidsram.errors import NodeError
from tidsram.estate.placement import lanes_of
from tidsram.estate.types import Estate
from tidsram.outcome import Outcome
from tidsram.units import MS, SECOND, US

PLACES: Final = {"here": 0, "Frankfurt": 22 * MS, "Dublin": 41 * MS, "Virginia": 111 * MS}
FRAMES: Final = "obstacle"  # whose questions set the pace of what is told
VICTIM: Final = "tissue"  # asked in bursts, and whose worker is killed

_LEAD_NS: Final = 200 * MS  # for courses to reach their askers
_REHEARSALS: Final = 20
_ROUNDS: Final = 10
_ACT_NS: Final = 2 * SECOND
_BEFORE_NS: Final = SECOND // 2  # what is as usual before and after a disturbance
_BURST: Final = 2.0  # × capacity
_BURST_MAX_PER_S: Final = 600.0  # what one asker's process can ask without being late itself
_AT_ONCE: Final = 6  # questions asked together, so that some are in flight at the kill
_KILL_AFTER_NS: Final = 12 * MS
_ONE_BY_ONE_NS: Final = 50 * MS
_BACK_NS: Final = 20 * SECOND
_ROOM_NS: Final = 1 * MS  # kept of the budget for reading an answer, at least
_SEED: Final = 20261124


class Tale(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that happened, question by question, and what it comes to."""

    ready_ns: int
    room_ns: dict[str, int]
    quiet: list[Asked]
    burst: list[Asked]
    burst_ns: tuple[int, int]  # from, to
    killed: list[Asked]
    killed_ns: int
    back_ns: int | None
    cloud: dict[str, list[Asked]]
    results: results.Results


class Story:
    """One telling: the node runs, the askers are here, and each part adds to what is known."""

    def __init__(
        self,
        *,
        estate: Estate,
        materials: Mapping[str, Material],
        node: Node,
        askers: Askers,
        telling: Telling,
    ) -> None:
        self._decisions, self._materials = estate.decisions, materials
        self._node, self._askers, self._telling = node, askers, telling
        self._dice = random.Random(_SEED)  # noqa: S311 - the same story every time
        self._room_ns = dict.fromkeys(self._decisions, _ROOM_NS)
        self._run_ns = dict.fromkeys(self._decisions, MS)

    def tell(self, ready_ns: int, seconds: int) -> Tale:
        """Play everything."""
        self.rehearse()
        quiet, tallies = self.quiet_time(seconds * SECOND)
        act_ns = min(_ACT_NS, seconds * SECOND)
        burst, burst_ns, burst_told = self.act_burst(act_ns)
        killed, killed_ns, back_ns, killed_told = self.act_kill(act_ns)
        cloud, cloud_told = self.act_cloud(act_ns)
        ok = all(tally.verdict != "contradicted" for tally in tallies.values())
        return Tale(
            ready_ns=ready_ns,
            room_ns=self._room_ns,
            quiet=quiet,
            burst=burst,
            burst_ns=burst_ns,
            killed=killed,
            killed_ns=killed_ns,
            back_ns=back_ns,
            cloud=cloud,
            results=results.Results(
                decisions=tallies, acts=results.Acts(burst_told, killed_told, cloud_told), ok=ok
            ),
        )

    def rehearse(self) -> None:
        """Ask everything a few times, one at a time; learn what a run and a reading take."""
        waiting = list(self._decisions)
        asked: list[Asked] = []
        for _ in range(_ROUNDS):
            asked = self._askers.run(self._rehearsal(waiting))
            waiting = [name for name in waiting if not self._learn(name, asked)]
            if not waiting:
                return
            # A node whose start was disturbed expects the worst until it has seen better.
        told = next((one.text for one in asked if one.text), "without saying why")
        raise NodeError(f"the node does not answer {waiting[0]!r} in {_ROUNDS} rehearsals: {told}")

    def _rehearsal(self, names: Sequence[str]) -> list[Course]:
        start_ns, step_ns = clock.now_ns() + _LEAD_NS, 60 * MS
        return [
            Course(
                decision=name,
                arises_ns=[start_ns + place * 20 * MS + i * step_ns for i in range(_REHEARSALS)],
            )
            for place, name in enumerate(names)
        ]

    def _learn(self, name: str, asked: Sequence[Asked]) -> bool:
        """Take from a rehearsal what a decision's run and reading take; False: too few answers."""
        own = [one for one in asked if one.decision == name]
        answered = [one for one in own if one.outcome is Outcome.ANSWERED]
        if len(answered) < _REHEARSALS // 2:
            return False
        # Twice the slowest reading seen: what the asker itself needs after the answer came.
        slowest_ns = max(one.done_ns - one.replied_ns for one in answered)
        self._room_ns[name] = max(_ROOM_NS, 2 * slowest_ns)
        runs_us = sorted(one.stages_us.get("run", 0) for one in answered)
        self._run_ns[name] = max(1, runs_us[len(runs_us) // 2] * US)
        return True

    def quiet_time(self, length_ns: int) -> tuple[list[Asked], dict[str, results.Tally]]:
        """Ask as the estate declares; judge every decision's objective."""
        start_ns = clock.now_ns() + _LEAD_NS
        courses = [
            self._course(name, self._as_declared(name, start_ns, length_ns))
            for name in self._decisions
        ]
        with self._telling.progress(sum(len(course.arises_ns) for course in courses)) as step:
            asked = self._askers.run(courses, step)
        tallies = {}
        for name, decision in self._decisions.items():
            own = [one for one in asked if one.decision == name]
            read = [(one.index, reading) for one in own if (reading := results.reading(one))]
            tallies[name] = results.tally(decision, own, self._materials[name].score(read))
        self._telling.quiet_time(asked, tallies, self._room_ns)
        return asked, tallies

    def act_burst(self, length_ns: int) -> tuple[list[Asked], tuple[int, int], results.Burst]:
        """Act 1: ask one decision twice as often as its lanes can answer."""
        lanes = max(1, len(self._node.workers(VICTIM)))
        capacity = lanes * SECOND / self._run_ns[VICTIM]
        offered = min(_BURST * capacity, _BURST_MAX_PER_S)
        start_ns = clock.now_ns() + _LEAD_NS
        from_ns, to_ns = start_ns + _BEFORE_NS, start_ns + _BEFORE_NS + length_ns
        courses = self._others(start_ns, length_ns + 2 * _BEFORE_NS)
        courses.append(self._course(VICTIM, _evenly(from_ns, to_ns, round(SECOND / offered))))
        self._telling.act_burst(VICTIM, FRAMES, capacity, offered, length_ns)
        asked = self._askers.run(courses, self._telling.frames(courses, FRAMES, VICTIM))
        told = results.burst(
            self._decisions[VICTIM],
            [one for one in asked if one.decision == VICTIM],
            capacity_per_s=capacity,
            offered_per_s=offered,
            others=self._shares_of_others(asked),
        )
        self._telling.burst(told)
        return asked, (from_ns, to_ns), told

    def act_kill(self, length_ns: int) -> tuple[list[Asked], int, int | None, results.Kill]:
        """Act 2: kill a worker while it has questions in flight."""
        # After a burst a worker may just be being replaced; one that is ready can be killed.
        if self._node.wait_for_worker(VICTIM, _BACK_NS) is None:
            raise NodeError(f"the node has no ready worker of {VICTIM!r}, so none can be killed")
        pid = self._node.workers(VICTIM)[0]
        start_ns = clock.now_ns() + _LEAD_NS
        together_ns = start_ns + _BEFORE_NS
        arises = _evenly(start_ns, start_ns + _BEFORE_NS + length_ns, _ONE_BY_ONE_NS)
        arises += [together_ns + i * MS // 2 for i in range(_AT_ONCE)]
        courses = self._others(start_ns, _BEFORE_NS + length_ns)
        courses.append(self._course(VICTIM, sorted(arises)))
        self._telling.act_kill(VICTIM, FRAMES, pid, _AT_ONCE)
        killing = _Killing(self._node, VICTIM, pid, together_ns + _KILL_AFTER_NS, self._telling)
        asked = self._askers.run(courses, self._telling.frames(courses, FRAMES, VICTIM))
        killed_ns, back_ns = killing.join()
        told = results.kill(
            self._decisions[VICTIM],
            [one for one in asked if one.decision == VICTIM],
            pid=pid,
            killed_ns=killed_ns,
            back_ns=back_ns,
            others=self._shares_of_others(asked),
        )
        self._telling.killed(told)
        return asked, killed_ns, back_ns, told

    def act_cloud(self, length_ns: int) -> tuple[dict[str, list[Asked]], results.Cloud]:
        """Act 3: ask the same questions from here and with a cloud's round trip added."""
        self._telling.act_cloud(FRAMES)
        by_place = {}
        for place, round_trip_ns in PLACES.items():
            start_ns = clock.now_ns() + _LEAD_NS
            courses = [
                msgspec.structs.replace(
                    self._course(name, self._as_declared(name, start_ns, length_ns)),
                    round_trip_ns=round_trip_ns,
                )
                for name in self._decisions
            ]
            budget_ns = self._decisions[FRAMES].budget_ns
            tell = self._telling.place(place, round_trip_ns, FRAMES, budget_ns)
            by_place[place] = self._askers.run(courses, tell)
        told = results.cloud(self._decisions, PLACES, by_place)
        self._telling.cloud(told)
        return by_place, told

    def _as_declared(self, name: str, start_ns: int, length_ns: int) -> list[int]:
        arrivals = self._decisions[name].arrivals
        assert arrivals is not None, "the demo's estate declares its arrivals"
        gap_ns = round(SECOND / arrivals.rate)
        if arrivals.kind == "periodic":
            return _evenly(start_ns + self._dice.randrange(gap_ns), start_ns + length_ns, gap_ns)
        instants, at_ns = [], start_ns
        while (at_ns := at_ns + round(self._dice.expovariate(1) * gap_ns)) < start_ns + length_ns:
            instants.append(at_ns)
        return instants

    def _course(self, name: str, arises_ns: list[int]) -> Course:
        newest = self._decisions[name].queue == "newest"
        return Course(
            decision=name,
            arises_ns=arises_ns,
            stream="demo" if newest else "",
            reserve_ns=self._room_ns[name],
        )

    def _others(self, start_ns: int, length_ns: int) -> list[Course]:
        return [
            self._course(name, self._as_declared(name, start_ns, length_ns))
            for name in self._decisions
            if name != VICTIM
        ]

    def _shares_of_others(self, asked: Sequence[Asked]) -> dict[str, results.Share]:
        return results.shares(self._decisions, (one for one in asked if one.decision != VICTIM))


class _Killing:
    """Kills a worker at its instant, beside the telling, and waits until it is replaced."""

    def __init__(self, node: Node, decision: str, pid: int, at_ns: int, telling: Telling) -> None:
        self._node, self._decision, self._pid, self._at_ns = node, decision, pid, at_ns
        self._telling = telling
        self._killed_ns = 0
        self._back_ns: int | None = None
        self._thread = threading.Thread(target=self._kill, daemon=True)
        self._thread.start()

    def join(self) -> tuple[int, int | None]:
        """Return when it was killed and when the decision was ready again."""
        self._thread.join()
        return self._killed_ns, self._back_ns

    def _kill(self) -> None:
        clock.sleep_until_ns(self._at_ns)
        os.kill(self._pid, signal.SIGKILL)
        self._killed_ns = clock.now_ns()
        self._telling.kill(self._decision, self._pid)
        self._back_ns = self._node.wait_for_worker(self._decision, _BACK_NS, gone=self._pid)
        if self._back_ns is not None:
            self._telling.back(self._decision, self._back_ns - self._killed_ns)


@contextmanager
def off_the_lanes(estate: Estate, site: str) -> Iterator[None]:
    """Keep this process and those it starts off the lanes' cores, as an asker should be."""
    cores = os.sched_getaffinity(0)
    lanes = {core for lane in lanes_of(estate, site, sorted(cores)) for core in lane.cores}
    os.sched_setaffinity(0, cores - lanes or cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _evenly(from_ns: int, to_ns: int, gap_ns: int) -> list[int]:
    return list(range(from_ns, to_ns, gap_ns))
