"""Another version of a decision, while the decision is served: at once, on trial, and back.

New workers load and warm beside the old ones. When all are warm, the version is written down; from
then on it is the one that counts, also for a gate or a worker that is started anew. Lane by lane
the gate gives the new worker what comes, and tells when the old one has ended its last run.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from msgspec.structs import asdict, replace

from tidsram.errors import NodeError, TidsramError
from tidsram.estate.values import nearest
from tidsram.serve import admin, usage
from tidsram.serve.admin import Deploy, Done, Rollback, Serving, Side, Tell
from tidsram.serve.children import Process
from tidsram.serve.comparison import Comparison
from tidsram.serve.judge import drift_of, fault_of
from tidsram.serve.messages import Compared, Counts, Tally, Try, WorkerLeft
from tidsram.serve.pools import Pooled
from tidsram.serve.spares import Spares
from tidsram.serve.versions import (
    REMEMBERED,
    Choice,
    Remembered,
    Store,
    Version,
    check_same,
    read_models,
    read_version,
)
from tidsram.units import show_size

LEAVE_S: Final = 10.0  # beyond a decision's budget: then an old worker is ended, whatever it runs


class Hands(NamedTuple):
    """What a change needs of the supervisor; the collections are its own."""

    pools: dict[str, Pooled]
    workers: list[Process]
    spares: Spares
    start: Callable[[Process], None]
    put_on_lane: Callable[[Process], None]
    to_gate: Callable[[Try], None]
    free_bytes: Callable[[], int]
    say: Callable[[str], None]
    boot: str


class Trial:
    """A version that answers a share of the questions, beside the one that counts, or none.

    Its workers in the shadow run what the other has answered, and compare.
    """

    def __init__(
        self, version: Version, asked: Deploy, workers: Sequence[Process], boot: str
    ) -> None:
        self.version, self.asked = version, asked
        self.workers = [worker for worker in workers if not worker.shadow]
        self.shadows = [worker for worker in workers if worker.shadow]
        self.comparison = Comparison(boot, asked.agree)
        self._before = Counts(), Counts()  # by gates that have ended
        self.served, self.tried = Counts(), Counts()

    def count(self, tally: Tally) -> None:
        """Take in how the trial stands by the present gate."""
        self.served = _sum(self._before[0], tally.served)
        self.tried = _sum(self._before[1], tally.tried)

    def gate_ended(self) -> None:
        """Go on from here with the next gate's numbers."""
        self._before = self.served, self.tried


class Changes:
    """The versions of a node's decisions: one change of each at a time."""

    def __init__(self, hands: Hands, folder: Path, store: Store) -> None:
        self._hands, self._folder, self._store = hands, folder, store
        self._choices: dict[str, Choice] = {}
        self._changing: set[str] = set()
        self._trials: dict[str, Trial] = {}
        self._coming: set[Process] = set()
        self._leaving: dict[Process, asyncio.Future[None]] = {}
        self._told: dict[str, str] = {}

    # What the supervisor asks and tells ----------------------------------------------------------

    @property
    def trying(self) -> list[Process]:
        """The workers on lanes beside those that count."""
        trials = self._trials.values()
        return [worker for trial in trials for worker in (*trial.workers, *trial.shadows)]

    @property
    def processes(self) -> Iterable[Process]:
        """All that are not the supervisor's own."""
        return (*self.trying, *self._coming, *self._leaving)

    @property
    def loading(self) -> bool:
        """Whether new workers are being loaded."""
        return bool(self._coming)

    def restore(self, pools: Iterable[Pooled]) -> None:
        """Serve again what was deployed before the node was started, where it is still that."""
        deployed, complaint = self._store.read()
        if complaint:
            self._hands.say(complaint)
        for pooled in pools:
            name = pooled.own.decision.name
            choice = deployed.decisions.get(name)
            if choice is None:
                continue
            if choice.instead_of != pooled.own.sha256:
                self._hands.say(
                    f"{name}: the estate's own version has changed since {choice.version.path} was "
                    f"deployed, so it is served by the estate's"
                )
                continue
            try:
                path, sha256 = choice.version.path, choice.version.sha256
                pooled.version = self._read(pooled, path, sha256)
            except TidsramError as error:
                self._hands.say(
                    f"warning: {name} is served by the estate's own version, not by the one that "
                    f"was deployed: {error}"
                )
                continue
            pooled.before = [self._remember(pooled, known) for known in choice.before]
            pooled.own.forget_models()
            self._choices[name] = choice
            self._hands.say(f"{name} is served by {pooled.version}, as deployed")

    def introduce_trials(self) -> None:
        """Tell a new gate of the trials, after their workers."""
        for name, trial in self._trials.items():
            if trial.asked.mode == "canary":
                self._hands.to_gate(Try(name, trial.asked.percent))

    def gate_ended(self) -> None:
        """What was to end its last run has nobody to run for; the counts go on."""
        for worker in self._leaving:
            _kill(worker)
        for trial in self._trials.values():
            trial.gate_ended()

    def left(self, message: WorkerLeft) -> None:
        """The gate has let a worker go."""
        for worker in self._leaving:
            if worker.pid == message.pid:
                _kill(worker)

    def ended(self, worker: Process, how: str) -> bool:
        """A process has ended; whether it was one of a change, and so nothing to start again."""
        gone = self._leaving.pop(worker, None)
        if gone is not None:
            gone.set_result(None)
            return True
        if worker in self._coming:
            fail(worker, f"its new worker ended ({how})")
            return True
        for name, trial in self._trials.items():
            if worker in trial.workers:
                trial.workers.remove(worker)
                self._end_trial(name, f"its worker on lane {worker.lane} ended ({how})")
                return True
            if worker in trial.shadows:
                trial.shadows.remove(worker)
                lane = worker.lane
                self._tell(
                    name,
                    f"{name}: the worker of {trial.version} in the shadow of lane {lane} ended "
                    f"({how}); what is answered there is compared no more",
                )
                return True
        return False

    def compared(self, worker: Process, message: Compared) -> None:
        """Take in how an answer of a version in the shadow agrees with the one that was given."""
        for name, trial in self._trials.items():
            if worker in trial.shadows:
                agrees = trial.comparison.take(message)
                if trial.asked.mode == "canary":
                    if not agrees and name not in self._changing:
                        self._judge_drift(name, trial)
                elif trial.comparison.compared >= trial.asked.after:
                    self._rest(name, trial)
                return

    def tallied(self, tally: Tally) -> None:
        """Judge a trial by what has come of it until now."""
        trial = self._trials.get(tally.decision)
        if trial is None or tally.decision in self._changing:
            return
        trial.count(tally)
        objective = trial.version.decision.objective
        if fault := fault_of(trial.served, trial.tried, objective):
            self._end_trial(tally.decision, fault)
        elif trial.tried.asked >= trial.asked.after:
            try:
                self._promote(tally.decision)
            except NodeError as error:
                self._end_trial(tally.decision, str(error))

    # What is asked over the administration socket ------------------------------------------------

    async def serve(self, request: admin.Request, tell: Tell) -> Done:
        """Carry out one request. Raises TidsramError, and nothing has changed then."""
        if isinstance(request, Deploy):
            return await self._deploy(request, tell)
        if isinstance(request, Rollback):
            return await self._roll_back(request, tell)
        return Done(decisions=tuple(map(self._serving, self._hands.pools)))

    async def _deploy(self, asked: Deploy, tell: Tell) -> Done:
        name = self._find(asked.decision, Path(asked.path).stem)
        pooled = self._hands.pools[name]
        trial = self._trials.get(name)
        if trial is not None and not _goes_on(trial, asked):
            raise NodeError(
                f"{name} has {trial.version} on trial. Take it back with `tidsram rollback "
                f"{name}`, or let it take over with `tidsram deploy {trial.version.path}`."
            )
        if trial is not None and trial.asked.mode == "canary":
            self._promote(name)
            return Done(told=self._told[name])
        with self._changes_of(name):
            version = self._out_of_shadow(name)
            if version is None:
                version = await asyncio.to_thread(self._read, pooled, asked.path)
            if version.sha256 == pooled.version.sha256:
                version.forget_models()
                return Done(told=f"{name} is served by {pooled.version} already")
            try:
                workers = await self._bring(name, version, tell, asked)
            except BaseException:
                version.forget_models()
                raise
            if asked.mode == "now":
                before = [*pooled.before, pooled.version]
                await self._take_over(pooled, version, before, workers, tell)
            else:
                self._begin_trial(name, Trial(version, asked, workers, self._hands.boot))
        return Done(told=self._told[name])

    async def _roll_back(self, asked: Rollback, tell: Tell) -> Done:
        name = self._find(asked.decision, "")
        pooled = self._hands.pools[name]
        if name in self._trials:
            self._end_trial(name, "it was asked to be taken back")
            return Done(told=self._told[name])
        with self._changes_of(name):
            if not pooled.before:
                raise NodeError(
                    f"{name} is served by {pooled.version}, and no version before it is known. "
                    f"Deploy the one you want."
                )
            *before, version = pooled.before
            if not version.model_fds:
                again = await asyncio.to_thread(self._read, pooled, version.path, version.sha256)
                version = pooled.before[-1] = again
            workers = await self._bring(name, version, tell)
            await self._take_over(pooled, version, before, workers, tell)
        return Done(told=self._told[name])

    def _find(self, decision: str, stem: str) -> str:
        """Return the decision that is meant."""
        known = list(self._hands.pools)
        if decision and decision not in known:
            near = nearest(decision, known) or f"; decisions here: {', '.join(known)}"
            raise NodeError(f'this node serves no decision "{decision}"{near}')
        if decision or len(known) == 1:
            return decision or known[0]
        if stem in known:
            return stem
        raise NodeError(f"say which decision it is for, with --decision: {', '.join(known)}")

    # Coming --------------------------------------------------------------------------------------

    async def _bring(
        self, name: str, version: Version, tell: Tell, asked: Deploy | None = None
    ) -> list[Process]:
        """Load and warm workers of the version for each of the decision's lanes, one by one.

        One that serves, one in the shadow, or both, by what is asked.
        """
        if leaving := [gone for worker, gone in self._leaving.items() if worker.name == name]:
            await asyncio.wait(leaving)  # of a change before
        serving = [worker for worker in self._hands.workers if worker.name == name]
        kinds = [False] if asked is None else _kinds(asked, version)
        needed = len(kinds) * sum(usage.resident_bytes(worker.pid) for worker in serving)
        free = self._hands.free_bytes()
        if free < needed:
            raise NodeError(
                f"{name} has no room for a second version: its workers need {show_size(needed)}, "
                f"and {show_size(free)} are free"
            )
        workers = [
            Process(version.decision, worker.lane, shadow=shadow)
            for shadow in kinds
            for worker in serving
        ]
        try:
            for worker in workers:
                tell(f"{name}: loading {version} beside the worker on lane {worker.lane}")
                worker.version = version
                worker.arrival = asyncio.get_running_loop().create_future()
                self._coming.add(worker)
                self._hands.start(worker)
                await worker.arrival
            for worker in workers:
                _check_ready(worker)  # while others loaded, the first may have ended
        except BaseException as error:
            for worker in self._coming.intersection(workers):
                self._dismiss(worker)
            if isinstance(error, NodeError):
                raise NodeError(f"{name} stays with {self._now(name)}: {error}") from None
            raise
        self._coming.difference_update(workers)
        return workers

    async def _take_over(
        self,
        pooled: Pooled,
        version: Version,
        before: list[Version],
        workers: Sequence[Process],
        tell: Tell,
    ) -> None:
        """Let warm workers of a version take the places of those that serve."""
        old = pooled.version
        try:
            self._settle(pooled, version, before)
        except NodeError:
            for worker in workers:
                self._dismiss(worker)
            if version not in pooled.before:
                version.forget_models()
            raise
        tell(f"{pooled.own.decision.name}: handing over from {old}")
        replaced = [self._put_in_place(worker) for worker in workers]
        for worker in workers:
            self._hands.put_on_lane(worker)
        await asyncio.wait([self._leave(worker) for worker in replaced])

    def _settle(self, pooled: Pooled, version: Version, before: list[Version]) -> None:
        """Make a version the one that counts, and write it down first."""
        name, old = pooled.own.decision.name, pooled.version
        kept = before[-REMEMBERED:]
        choices = dict(self._choices)
        choices.pop(name, None)
        if version.path or kept:
            choices[name] = Choice(
                version=_written(version),
                instead_of=pooled.own.sha256,
                before=tuple(map(_written, kept)),
            )
        self._store.write(choices)
        self._choices = choices
        pooled.version, pooled.before = version, kept
        for known in {old, *before}.difference(kept[-1:]):  # the last comes back without a disk
            known.forget_models()
        spare = self._hands.spares.renew(version.decision)
        if spare is not None:
            self._dismiss(spare)
        self._tell(name, f"{name} is served by {version} now; before, by {old}")

    def _put_in_place(self, worker: Process) -> Process:
        """Count with a new worker from now on; return the one whose place it takes."""
        workers = self._hands.workers
        place = next(
            i for i, w in enumerate(workers) if (w.name, w.lane) == (worker.name, worker.lane)
        )
        old, workers[place] = workers[place], worker
        worker.arrival, worker.trial = None, False
        return old

    # Leaving -------------------------------------------------------------------------------------

    def _leave(self, worker: Process) -> asyncio.Future[None]:
        """Expect the gate to let a worker go, in the end however long it takes."""
        loop = asyncio.get_running_loop()
        gone = loop.create_future()
        if worker.popen is None or worker.popen.returncode is not None:
            gone.set_result(None)
            return gone
        self._leaving[worker] = gone
        assert worker.decision is not None, "only workers leave"
        budget_s = worker.decision.budget_ns / 1e9
        loop.call_later(budget_s + LEAVE_S, self._end_at_last, worker)
        return gone

    def _end_at_last(self, worker: Process) -> None:
        if worker in self._leaving:
            _kill(worker)

    def _dismiss(self, worker: Process) -> None:
        """End a worker that runs nothing."""
        self._coming.discard(worker)
        if worker.popen is not None and worker.popen.returncode is None:
            self._leaving[worker] = asyncio.get_running_loop().create_future()
            _kill(worker)

    # Trials --------------------------------------------------------------------------------------

    def _begin_trial(self, name: str, trial: Trial) -> None:
        self._trials[name] = trial
        for worker in trial.workers:
            worker.arrival, worker.trial = None, True
            self._hands.put_on_lane(worker)
        for worker in trial.shadows:
            worker.arrival, worker.aside = None, True  # leftover time, for as long as it lives
            self._hands.put_on_lane(worker)
        if trial.asked.mode == "shadow":
            self._tell(
                name,
                f"{name}: {trial.version} runs in the shadow, on leftover time, and is compared on "
                f"{trial.asked.after} questions that {self._now(name)} answers",
            )
            return
        self._hands.to_gate(Try(name, trial.asked.percent))
        self._tell(
            name,
            f"{name}: {trial.version} answers {trial.asked.percent} % of the questions on trial; "
            f"it takes over after {trial.asked.after} of them, unless something speaks against it",
        )

    def _judge_drift(self, name: str, trial: Trial) -> None:
        comparison, share = trial.comparison, _share_to_keep(trial.asked, trial.version)
        if drift := drift_of(comparison.agreed, comparison.compared, share):
            self._end_trial(name, drift)

    def _rest(self, name: str, trial: Trial) -> None:
        """All that was asked for is compared: the result stays, the workers go."""
        self._dismiss_shadows(trial)
        comparison = trial.comparison
        self._tell(
            name,
            f"{name}: {trial.version} was compared on {comparison.compared} questions, and agreed "
            f"on {comparison.agreed}; `tidsram deploy --status` says more",
        )

    def _dismiss_shadows(self, trial: Trial) -> None:
        while trial.shadows:
            self._dismiss(trial.shadows.pop())

    def _out_of_shadow(self, name: str) -> Version | None:
        """End a trial in the shadow and return its version, which is to answer; None without."""
        trial = self._trials.pop(name, None)
        if trial is None:
            return None
        self._dismiss_shadows(trial)
        return trial.version

    def _end_trial(self, name: str, why: str) -> None:
        """Take a version back: what it runs ends there, what waits goes to the others."""
        trial = self._trials.pop(name)
        self._dismiss_shadows(trial)
        self._hands.to_gate(Try(name, 0))
        for worker in trial.workers:
            self._leave(worker)
        trial.version.forget_models()
        self._tell(name, f"{name}: {trial.version} was taken back: {why}; {self._now(name)} stays")

    def _promote(self, name: str) -> None:
        """Let the version on trial take over."""
        trial, pooled = self._trials[name], self._hands.pools[name]
        self._settle(pooled, trial.version, [*pooled.before, pooled.version])
        del self._trials[name]
        if _compares(trial):
            agreed, compared = trial.comparison.agreed, trial.comparison.compared
            self._hands.say(f"{name}: on trial, {agreed} of {compared} compared answers agreed")
        self._dismiss_shadows(trial)
        for worker in trial.workers:
            self._leave(self._put_in_place(worker))
        self._hands.to_gate(Try(name, 0, promote=True))

    # Small things --------------------------------------------------------------------------------

    @contextmanager
    def _changes_of(self, name: str) -> Iterator[None]:
        """Let one change of a decision go on at a time."""
        if name in self._changing:
            raise NodeError(f"{name} is being changed already; wait until that is done")
        self._changing.add(name)
        try:
            yield
        finally:
            self._changing.discard(name)

    def _now(self, name: str) -> Version:
        return self._hands.pools[name].version

    def _tell(self, name: str, told: str) -> None:
        self._told[name] = told
        self._hands.say(told)

    def _read(self, pooled: Pooled, path: str, sha256: str = "") -> Version:
        """Read a version whole; "" is what the estate declares."""
        if path:
            return read_version(self._folder, pooled.own.decision, path, sha256)
        version = Version(pooled.own.decision, "", pooled.own.decision.bundle_sha256)
        read_models(version, self._folder)
        check_same(version, sha256)
        return version

    def _remember(self, pooled: Pooled, known: Remembered) -> Version:
        return Version(pooled.own.decision, known.path, known.sha256)

    def _serving(self, name: str) -> Serving:
        pooled, trial = self._hands.pools[name], self._trials.get(name)
        shown = None
        if trial is not None:
            shown = admin.Trial(
                mode=trial.asked.mode,
                path=trial.version.path,
                version=trial.version.sha256,
                percent=trial.asked.percent,
                after=trial.asked.after,
                served=_side(trial.served),
                tried=_side(trial.tried),
                comparison=trial.comparison.told if _compares(trial) else None,
            )
        return Serving(
            decision=name,
            version=pooled.version.sha256,
            path=pooled.version.path,
            lanes=tuple(sorted(w.lane for w in self._hands.workers if w.name == name)),
            before=tuple(str(version) for version in pooled.before),
            trial=shown,
            told=self._told.get(name, ""),
        )


def _goes_on(trial: Trial, asked: Deploy) -> bool:
    """Whether what is asked for is the next step of a trial: shadow, canary, now."""
    further = asked.mode == "now" or (asked.mode, trial.asked.mode) == ("canary", "shadow")
    return further and asked.path == trial.version.path


def _share_to_keep(asked: Deploy, version: Version) -> float:
    """Return the share of answers that must agree with those that were given; 0 for none."""
    return version.decision.accuracy_floor if asked.agree_share is None else asked.agree_share


def _kinds(asked: Deploy, version: Version) -> list[bool]:
    """Return which workers a lane gets: one that serves (False), one in the shadow (True)."""
    if asked.mode == "canary":
        return [False, True] if _share_to_keep(asked, version) else [False]
    return [asked.mode == "shadow"]


def _compares(trial: Trial) -> bool:
    return any(_kinds(trial.asked, trial.version))


def fail(worker: Process, why: str) -> None:
    """Tell the change that waits for a new worker that it does not come."""
    if worker.arrival is not None and not worker.arrival.done():
        worker.arrival.set_exception(NodeError(why))


def _check_ready(worker: Process) -> None:
    if not worker.ready:
        raise NodeError("a new worker ended before it could take over")


def _kill(worker: Process) -> None:
    if worker.popen is not None and worker.popen.returncode is None:
        worker.popen.kill()


def _written(version: Version) -> Remembered:
    return Remembered(path=version.path, sha256=version.sha256)


def _sum(before: Counts, now: Counts) -> Counts:
    return replace(
        now,
        answered=before.answered + now.answered,
        refused=before.refused + now.refused,
        missed=before.missed + now.missed,
        failed=before.failed + now.failed,
    )


def _side(counts: Counts) -> Side:
    known = asdict(counts)
    return Side(**known | {key: known[key] or None for key in ("p50_us", "p99_us")})
