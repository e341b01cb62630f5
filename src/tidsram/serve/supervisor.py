"""The parent of a node's processes: starts, watches and restarts gate and workers.

It owns what must outlive any of them: listening sockets, pools of slots, the workers' job sockets
and the metrics. A new gate gets all of it, so workers stay warm; a new worker gets the decision's
pool, so the gate stays as it is. It is never on a request's way.
"""

import asyncio
import contextlib
import hashlib
import mmap
import os
import resource
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from tidsram import clock
from tidsram.errors import ModelRefused, NodeError
from tidsram.estate.load import read_model
from tidsram.estate.placement import lanes_of, warm_lanes
from tidsram.estate.types import Criticality, Estate, Hardware, Site, Variant
from tidsram.outcome import Reason
from tidsram.protocol.wire import plan_slots
from tidsram.serve import machine, usage
from tidsram.serve.admin import Administration, state_path
from tidsram.serve.change import Changes, Hands, fail
from tidsram.serve.children import Process, ending, pair, spawn, trusted, watch
from tidsram.serve.doors import listen_tcp, listen_unix
from tidsram.serve.grants import Grants
from tidsram.serve.messages import (
    Beat,
    Compared,
    Drain,
    Load,
    Loaded,
    Model,
    Open,
    Pool,
    Ready,
    Refused,
    Tables,
    Tally,
    Try,
    WorkerAside,
    WorkerLeft,
    WorkerLost,
    WorkerReady,
    WorkerSpared,
    receive,
    send,
)
from tidsram.serve.metrics import Metrics, metrics_bytes
from tidsram.serve.pools import Pooled, at_odds, is_unused, keep_as_loaded, misfit
from tidsram.serve.slots import count_taken
from tidsram.serve.spares import Spares
from tidsram.serve.versions import Store, Version, digest_of, model_memory
from tidsram.serve.watch import Watch, growth_limit
from tidsram.units import SECOND, show_size

LOAD_TIME_S = 120.0
BUSY_WINDOW_S = 0.25
LOOK_S = 1.0
RETIRE_S = 0.05
BEAT_S = 0.25
BEATS_MISSED = 4  # a gate that could have answered by then is replaced
BEATS_TO_START = 40
BUSY_PARTS = 4  # the last second
FIFO_BELOW = 0.8  # of the lane: beyond, the kernel's throttle would freeze it
ALL_FIFO = 2  # critical and standard; best-effort never is
DRAIN_SLACK_S = 1.0
RTTIME_US = 5_000_000  # at FIFO without ever blocking: the last guard against a spinning worker
STARVED_S = 0.01  # a runnable worker that gets less than half of this is kept from stopping

Say = Callable[[str], None]


def fifo_levels(busy: float, critical: float) -> int:
    """Return how many criticalities may be at SCHED_FIFO on a lane with these busy shares.

    All while the lane is not nearly full; critical alone while it does not fill it itself.
    """
    if busy < FIFO_BELOW:
        return ALL_FIFO
    return 1 if critical < FIFO_BELOW else 0


def _model_to_load(rung: int, variant: Variant) -> Model:
    """Return what a worker is told of a variant beside its bytes."""
    return Model(rung, variant.name, variant.engine, variant.precision, variant.threads)


class Supervisor:
    """Starts a node and keeps it up until it is told to drain.

    `warm` are the lanes of each decision by a plan; without one the node sees to that itself.
    """

    def __init__(
        self,
        estate: Estate,
        site: Site,
        folder: Path,
        say: Say,
        warm: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        self._estate, self._site, self._folder, self._say = estate, site, folder, say
        self._cores = sorted(os.sched_getaffinity(0))
        self._lanes = lanes_of(estate, site.name, self._cores)
        taken = {core for lane in self._lanes for core in lane.cores}
        apart = tuple(core for core in self._cores if core not in taken)
        self._apart, self._housekeeping = bool(apart), apart or tuple(self._cores)
        hardware = estate.hardware.get(site.hardware, Hardware())
        self._scheduling, self._memory_bytes = hardware.scheduling, hardware.memory_bytes
        self._pools: dict[str, Pooled] = {}
        self._workers: list[Process] = []
        placed = warm or warm_lanes(estate.decisions.values(), len(self._lanes))
        for name, lanes in placed.items():
            self._workers += [Process(estate.decisions[name], lane) for lane in lanes]
        homes = {name: (estate.decisions[name], lanes[0]) for name, lanes in placed.items()}
        self._spares = Spares(homes, self._lanes)
        self._spares_told = False
        self._gate = Process(None, -1)
        self._epoch = 0
        self._listeners: list[socket.socket] = []
        self._endpoints: tuple[str, ...] = ()
        self._unix_path: Path | None = None
        self._metrics_fd = -1
        self._metrics: Metrics | None = None
        # By lane: how many criticalities, from the top, are at SCHED_FIFO.
        self._fifo = [0 if self._scheduling == "nice" else ALL_FIFO] * len(self._lanes)
        self._privileged = True
        self._busy: list[list[tuple[int, int]]] = [[] for _ in self._lanes]
        self._watch: Watch | None = None
        self._beats = self._unanswered = 0  # unanswered: for how many beats
        self._draining = False
        self._announced = False
        self._begun_ns = clock.now_ns()
        self._boot = f"{self._begun_ns & 0xFFFFFFFF:08x}"
        self._over: asyncio.Future[None] | None = None
        hands = Hands(
            self._pools,
            self._workers,
            self._spares,
            self._start_worker,
            self._put_on_lane,
            lambda message: self._to_gate(message, ()),
            self._free_bytes,
            say,
            self._boot,
        )
        store = Store(state_path(estate, site, folder, "deployed.json"))
        self._changes = Changes(hands, folder, store)
        admin_path = state_path(estate, site, folder, "admin.sock")
        self._admin = Administration(admin_path, self._changes.serve)

    async def run(self) -> None:
        """Run the node until SIGTERM or SIGINT has drained it. Raises TidsramError at the start."""
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        try:
            self._read_models()
            self._open_doors()
            self._make_metrics()
            for name in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(name, self._drain)
            for worker in self._workers:
                self._start_worker(worker)
            self._start_gate()
            loop.call_later(BUSY_WINDOW_S, self._watch_lanes)
            loop.call_later(LOOK_S, self._look)
            self._beat()
            await self._over
        finally:
            self._stop_all()

    # at the start ------------------------------------------------------------------------------

    def _read_models(self) -> None:
        for name, decision in self._estate.decisions.items():
            own = Version(decision, "", decision.bundle_sha256)
            self._pools[name] = Pooled(own)
            digests = [self._read_model(own, rung) for rung in range(len(decision.ladder))]
            own.sha256 = own.sha256 or digest_of(digests)
        self._changes.restore(self._pools.values())

    def _read_model(self, own: Version, rung: int) -> str:
        """Read one variant of what the estate declares; return its digest, "" without it."""
        variant = own.decision.ladder[rung]
        try:
            data = self._model_of(variant)
        except ModelRefused as refusal:
            if not own.model_fds and variant is own.decision.ladder[-1]:
                raise
            self._leave_out(own, variant.name, f"{refusal.problem}. {refusal.remedy}")
            return ""
        own.model_fds[rung] = model_memory(variant.name, data)
        return hashlib.sha256(data).hexdigest()

    def _model_of(self, variant: Variant) -> bytes:
        if not variant.model:
            problem = "it is declared for planning only"
            raise ModelRefused(variant.name, problem, 'Name its .onnx file with model = "…".')
        return read_model(self._folder / variant.model, variant.sha256)

    def _leave_out(self, version: Version, variant: str, why: str) -> None:
        """Go on without a variant, whichever worker could not load it."""
        if variant in version.left_out:
            return
        version.left_out.add(variant)
        name, ladder = version.decision.name, version.decision.ladder
        self._say(f"warning: {name} is served without its variant {variant}: {why}")
        for rung in [rung for rung in version.model_fds if ladder[rung].name == variant]:
            if len(version.model_fds) > 1:  # the last one is tried again by each worker
                os.close(version.model_fds.pop(rung))

    def _open_doors(self) -> None:
        if self._site.http:
            listener = listen_tcp(self._site.http)
            self._listeners.append(listener)
            host, port = listener.getsockname()[:2]
            self._endpoints += (f"http://{host}:{port}",)
            if not str(host).startswith("127.") and host != "::1":
                self._say(
                    f"warning: {host}:{port} is open to the network, without encryption and "
                    f"without asking who asks. Use 127.0.0.1 unless this network is yours alone."
                )
        path = Path(self._site.unix or Path(self._estate.state) / f"{self._site.name}.sock")
        at = self._folder / path
        self._listeners.append(listen_unix(at))
        self._unix_path = at  # ours from here on, to be taken away at the end
        self._endpoints += (f"unix:{at}",)

    def _make_metrics(self) -> None:
        size = metrics_bytes(len(self._estate.decisions), len(self._lanes))
        self._metrics_fd = machine.sealed_memory("tidsram-metrics", size)
        memory = memoryview(mmap.mmap(self._metrics_fd, size))
        self._metrics = Metrics(memory, list(self._estate.decisions), len(self._lanes))
        self._watch = Watch(self._metrics, self._cores)

    # workers -----------------------------------------------------------------------------------

    def _start_worker(self, worker: Process) -> None:
        if self._draining:
            return
        pooled = self._pools[worker.name]
        if worker.arrival is None:  # else a change has given it a version
            worker.version = pooled.version
        version = worker.version
        assert version is not None
        worker.decision = version.decision
        worker.control, theirs = pair()
        worker.jobs, jobs = pair()
        worker.tickets, tickets = pair()
        label = (worker.decision.name, "spare" if worker.spare else str(worker.lane))
        module = "tidsram.serve.shadow" if worker.shadow else "tidsram.serve.worker"
        worker.popen = spawn(module, theirs, *label)
        machine.give_up_early(worker.pid, machine.OOM_SPARE)
        if self._announced:
            self._put_to_load(worker)
        worker.ready_ns = 0
        worker.aside = False
        ladder, served = worker.decision.ladder, pooled.version.decision
        tables = Tables(served.question, served.answer, worker.decision.answer)
        load = Load(
            worker.decision.name,
            tuple(_model_to_load(rung, ladder[rung]) for rung in version.model_fds),
            len(ladder),
            worker.decision.shapes,
            self._lanes[worker.lane].cores,
            self._housekeeping,
            pooled.spec if version.inspected else None,
            at_leisure=self._announced,
            tables=tables if worker.shadow else None,
        )
        models = version.model_fds.values()
        with contextlib.suppress(OSError):  # one that ends at once is noticed, too
            send(worker.control, load, (jobs.fileno(), tickets.fileno(), *models))
        for end in (theirs, jobs, tickets):
            end.close()
        watch(worker, self._worker_says, self._worker_ended)
        asyncio.get_running_loop().call_later(LOAD_TIME_S, self._give_up, worker, worker.pid)

    def _put_to_load(self, worker: Process) -> None:
        """Load beside a running node: off the lanes' cores, or where there are no others, last."""
        nices = machine.RELOAD_NICE, machine.LEISURE_NICE, machine.LEFTOVER_NICE
        nice = nices[(not self._apart) + (worker.spare or worker.arrival is not None)]
        machine.put_to_load(worker.pid, self._housekeeping, nice)

    def _give_up(self, worker: Process, pid: int) -> None:
        """A model that is not warm by now will not be."""
        assert worker.decision is not None
        if not worker.ready and worker.popen is not None and worker.pid == pid:
            self._say(f"{worker.decision.name}: not warm after {LOAD_TIME_S:.0f} s; giving it up")
            worker.popen.kill()

    def _worker_says(self, worker: Process) -> None:
        assert worker.control is not None
        assert worker.decision is not None
        message, fds = receive(worker.control)
        if isinstance(message, Loaded):
            self._worker_loaded(worker, message, fds)
        elif isinstance(message, Ready):
            worker.tickets_thread = message.tickets_thread
            self._worker_ready(worker)
        elif isinstance(message, Refused):
            self._worker_refused(worker, message)
        elif isinstance(message, Compared):
            self._changes.compared(worker, message)
        else:
            asyncio.get_running_loop().remove_reader(worker.control.fileno())

    def _worker_refused(self, worker: Process, refused: Refused) -> None:
        """Nothing of its ladder can be served: at the start that ends the node."""
        assert worker.decision is not None
        name, ladder = worker.decision.name, worker.decision.ladder
        if worker.arrival is not None:
            fail(worker, f"its new worker refuses it: {refused.problem}. {refused.remedy}")
            return
        if self._announced:
            self._say(
                f"{name}: a new worker refuses its model: {refused.problem}. {refused.remedy}"
            )
            return
        for variant, why in refused.left_out:
            self._leave_out(self._pools[name].version, variant, why)
        problem = refused.problem
        if len(ladder) > 1:
            problem += f", and no other variant of decision {name!r} is left"
        path = str(self._folder / ladder[refused.rung].model)
        self._fail(ModelRefused(path, problem, refused.remedy))

    def _worker_loaded(self, worker: Process, loaded: Loaded, model_fds: list[int]) -> None:
        assert worker.decision is not None
        assert worker.control is not None
        measured_ns = loaded.warm_up_ns
        if worker.arrival is not None:
            # It was measured beside what is served: its quickest runs were disturbed least.
            measured_ns = tuple((min(runs_ns),) if runs_ns else () for runs_ns in measured_ns)
        worker.warm_up_ns = trusted(worker.warm_up_ns, measured_ns)
        pooled, version = self._pools[worker.decision.name], worker.version
        assert version is not None
        for variant, why in loaded.left_out:
            self._leave_out(version, variant, why)
        if not version.inspected:
            keep_as_loaded(version, loaded, model_fds)
        if pooled.message is None:
            layout = plan_slots(loaded.spec, loaded.output_seen)
            try:
                pooled.fd = machine.sealed_memory(
                    f"tidsram-{worker.decision.name}", layout.pool_bytes
                )
            except OSError as error:
                self._fail(
                    NodeError(
                        f"decision {worker.decision.name!r} needs {layout.pool_bytes} bytes of "
                        f"shared memory for its questions, and the machine has not got them "
                        f"({error.strerror}). Serve fewer decisions here, or add memory."
                    )
                )
                return
            pooled.spec = loaded.spec
            pooled.message = Pool(worker.decision.name, layout, loaded.spec)
            self._to_gate(pooled.message, (pooled.fd,))
        for model_fd in model_fds:
            os.close(model_fd)
        if worker.arrival is not None and (why := misfit(pooled, loaded)):
            fail(worker, why)
            return
        if loaded.spec != pooled.spec:
            self._at_odds(worker, at_odds(pooled))
            return
        with contextlib.suppress(OSError):  # one that has just ended is noticed elsewhere
            send(worker.control, pooled.message, (pooled.fd,))

    def _at_odds(self, worker: Process, error: NodeError) -> None:
        """At the start that ends the node; later, it costs the one that came last."""
        if not self._announced:
            self._fail(error)
            return
        assert worker.popen is not None
        self._say(str(error))
        worker.popen.kill()

    def _worker_ready(self, worker: Process) -> None:
        worker.ready, worker.ready_ns = True, clock.now_ns()
        if worker.arrival is not None:
            worker.arrival.set_result(None)
            return
        if worker.spare:
            self._keep_spares()
            return
        self._put_on_lane(worker)
        if not self._announced and all(w.ready for w in self._workers):
            self._announced = True
            self._announce()
            self._keep_spares()
            asyncio.get_running_loop().create_task(self._open_admin())

    def _put_on_lane(self, worker: Process) -> None:
        """Give a warm worker its lane's cores and its class, and tell the gate of it."""
        worker.ready_ns = clock.now_ns()
        worker.ready_bytes, worker.grown = usage.resident_bytes(worker.pid), False
        assert worker.decision is not None
        score = machine.OOM_SCORE[worker.decision.criticality]
        machine.give_up_early(worker.pid, machine.OOM_SPARE if worker.shadow else score)
        machine.bring_to_lane(worker.pid, self._lanes[worker.lane].cores, worker.tickets_thread)
        self._classify(worker)
        self._introduce(worker)

    def _introduce(self, worker: Process) -> None:
        """Tell the gate of a warm worker."""
        assert worker.decision is not None
        assert worker.jobs is not None
        assert worker.tickets is not None
        assert worker.version is not None
        ready = WorkerReady(
            worker.decision.name,
            worker.lane,
            worker.pid,
            worker.warm_up_ns,
            worker.version.sha256,
            tuple(variant.name for variant in worker.decision.ladder),
            trial=worker.trial,
            shadow=worker.shadow,
        )
        self._to_gate(ready, (worker.jobs.fileno(), worker.tickets.fileno()))

    def _worker_ended(self, worker: Process) -> None:
        assert worker.decision is not None
        code = worker.popen.wait() if worker.popen else 0
        pid, was_ready, worker.ready = worker.pid, worker.ready, False
        for end in (worker.control, worker.jobs, worker.tickets):
            if end is not None:
                end.close()
        if self._draining or (self._over is not None and self._over.done()):
            return
        name = worker.decision.name
        if self._changes.ended(worker, ending(code)):
            self._to_gate(WorkerLost(name, worker.lane, pid), ())
            return
        if worker.spare:
            self._say(f"{name}: its spare worker {pid} ended ({ending(code)})")
            self._spares.ended(clock.now_ns(), worker)
            return
        self._to_gate(WorkerLost(name, worker.lane, pid), ())
        if not was_ready and not self._announced:
            alone = " or ".join(f"`tidsram serve {v.model}`" for v in worker.decision.ladder)
            self._fail(
                NodeError(
                    f"decision {name!r}: its worker ended while loading ({ending(code)}). "
                    f"Try the model alone with {alone}."
                )
            )
            return
        wait_s = worker.next_wait_s()
        instead = "its spare takes over" if self._spares.fits(worker) else "starting another"
        self._say(f"{name}: worker {pid} on lane {worker.lane} ended ({ending(code)}); {instead}")
        if wait_s:
            asyncio.get_running_loop().call_later(wait_s, self._replace, worker)
        else:
            self._replace(worker)

    def _replace(self, worker: Process) -> None:
        """Put the decision's spare in the place of a worker that has ended, or start another."""
        if worker not in self._workers:  # a change has put another in its place meanwhile
            return
        spare = self._spares.take(worker)
        if spare is None:
            self._start_worker(worker)
            return
        spare.failures = worker.failures
        spare.warm_up_ns = trusted(worker.warm_up_ns, spare.warm_up_ns)
        self._workers[self._workers.index(worker)] = spare
        self._put_on_lane(spare)

    def _keep_spares(self) -> None:
        """Load the next spare when all workers are there; say once how that came out."""
        if self._draining or not self._announced or any(not w.ready for w in self._workers):
            return
        if self._changes.loading:  # one load at a time
            return
        sizes = {w.decision.name: usage.resident_bytes(w.pid) for w in self._workers if w.decision}
        spare = self._spares.next(clock.now_ns(), sizes, self._used_bytes(), self._free_bytes())
        if spare is not None:
            self._start_worker(spare)
        elif not self._spares_told and self._spares.settled:
            self._spares_told = True
            for line in self._spares.news():
                self._say(line)

    def _used_bytes(self) -> int:
        every = (*self._workers, *self._spares, *self._changes.processes)
        return sum(usage.resident_bytes(worker.pid) for worker in every if worker.popen is not None)

    def _free_bytes(self) -> int:
        """Return the memory that more workers may take."""
        if self._memory_bytes:
            return max(0, self._memory_bytes - self._used_bytes())
        return usage.available_bytes()

    @property
    def _on_lanes(self) -> list[Process]:
        return [*self._workers, *self._changes.trying]

    def _classify(self, worker: Process) -> None:
        assert worker.decision is not None
        fifo = worker.decision.criticality.rank < self._fifo[worker.lane]
        criticality = Criticality.BEST_EFFORT if worker.aside else worker.decision.criticality
        if not machine.set_class(worker.pid, criticality, fifo=fifo):
            self._privileged = False
        else:
            worker.weighed = machine.weigh_session(worker.pid, machine.NICE[criticality])
        if self._scheduling == "auto":  # a lane left at FIFO for so long has nobody watching it
            with contextlib.suppress(OSError):
                resource.prlimit(worker.pid, resource.RLIMIT_RTTIME, (RTTIME_US, RTTIME_US))

    # the gate ----------------------------------------------------------------------------------

    def _start_gate(self) -> None:
        if self._over is None or self._over.done():
            return
        gate = self._gate
        self._epoch += 1
        gate.control, theirs = pair()
        gate.popen = spawn("tidsram.serve.gate", theirs)
        theirs.close()
        os.sched_setaffinity(gate.pid, self._housekeeping)
        if not self._apart:  # then this process would not get to end a worker that spins
            machine.put_first(gate.pid)
            machine.put_first(os.getpid())
        gate.ready_ns, self._unanswered = clock.now_ns(), 0
        gate.weighed = False
        opened = Open(
            self._estate,
            self._site.name,
            self._boot,
            self._epoch,
            len(self._lanes),
            self._endpoints,
        )
        listening = tuple(listener.fileno() for listener in self._listeners)
        self._to_gate(opened, (self._metrics_fd, *listening))
        # Workers before slots: the gate must know all who may still write to a slot.
        for worker in self._on_lanes:
            if worker.ready:
                self._introduce(worker)
        for pooled in self._pools.values():
            if pooled.message is not None:
                self._to_gate(pooled.message, (pooled.fd,))
        self._changes.introduce_trials()
        watch(gate, self._gate_says, self._gate_ended)

    def _gate_says(self, gate: Process) -> None:
        assert gate.control is not None
        message, _ = receive(gate.control)
        if isinstance(message, WorkerLost):
            for worker in (*self._on_lanes, *self._changes.processes):
                if worker.popen is not None and worker.pid == message.pid:
                    self._end_stuck(worker)
        elif isinstance(message, WorkerAside):
            self._set_aside(message)
        elif isinstance(message, WorkerLeft):
            self._changes.left(message)
        elif isinstance(message, Tally):
            self._changes.tallied(message)
        elif isinstance(message, Beat):
            gate.ready, self._unanswered = True, 0
        elif message is None:
            asyncio.get_running_loop().remove_reader(gate.control.fileno())

    def _set_aside(self, asked: WorkerAside) -> None:
        """Let a worker run in leftover time only, if it can be brought back from there."""
        for worker in (*self._on_lanes, *self._changes.processes):
            if worker.ready and worker.pid == asked.pid and machine.may_hurry():
                worker.aside = asked.aside
                self._classify(worker)

    def _end_stuck(self, worker: Process) -> None:
        """End a worker that did not stop when told; the gate hears when it was only starved."""
        spared = WorkerSpared(worker.name, worker.lane, worker.pid)
        told = f"{worker.name}: worker {worker.pid} did not stop; killing it"
        self._kill_unless_starved(worker, told, lambda: self._to_gate(spared, ()))

    def _kill_unless_starved(
        self, child: Process, told: str, spared: Callable[[], None] | None = None
    ) -> None:
        """End a process that did not do what it should, if it had the core to do so.

        A worker that was set aside had its grace before: it is starved by design.
        """
        pid, before_ns = child.pid, machine.cpu_ns(child.pid)

        def decide() -> None:
            had_ns = machine.cpu_ns(pid) - before_ns
            if child.popen is None or child.pid != pid or child.popen.returncode is not None:
                return
            if runnable and had_ns < STARVED_S * SECOND / 2:
                if spared is not None:
                    spared()
                return
            self._say(told)
            child.popen.kill()

        runnable = machine.is_runnable(pid) and not child.aside
        if runnable:
            asyncio.get_running_loop().call_later(STARVED_S, decide)
        else:
            decide()

    def _beat(self) -> None:
        """Ask the gate for a sign of life; one that could give none for a second is replaced."""
        if self._draining:
            return
        asyncio.get_running_loop().call_later(BEAT_S, self._beat)
        gate = self._gate
        if self._unanswered >= (BEATS_MISSED if gate.ready else BEATS_TO_START):
            self._unanswered = 0
            self._kill_unless_starved(gate, "the gate gives no sign of life; killing it")
        if not self._unanswered:
            self._beats += 1
            self._to_gate(Beat(self._beats), ())
        self._unanswered += 1

    def _gate_ended(self, gate: Process) -> None:
        code = gate.popen.wait() if gate.popen else 0
        assert gate.control is not None
        gate.control.close()
        gate.ready = False
        if self._draining or (self._over is not None and self._over.done()):
            self._finish()
            return
        self._changes.gate_ended()
        lost = self._count_lost()
        self._say(
            f"the gate ended ({ending(code)}) with {lost} requests in flight (failed: gate-lost); "
            f"starting another, workers stay warm"
        )
        asyncio.get_running_loop().call_later(gate.next_wait_s(), self._start_gate)

    def _count_lost(self) -> int:
        """What a dead gate had in flight has failed, and is counted as such."""
        lost = 0
        assert self._metrics is not None
        for name, pooled in self._pools.items():
            if pooled.message is not None:
                taken = count_taken(pooled.fd, pooled.message.layout)
                self._metrics.row(name).count(Reason.GATE_LOST, taken)
                lost += taken
        return lost

    def _to_gate(
        self,
        message: Open | Pool | WorkerReady | WorkerLost | WorkerSpared | Try | Beat | Drain,
        fds: tuple[int, ...],
    ) -> None:
        # A gate that has just ended gets everything anew when it is started again.
        if self._gate.control is not None:
            with contextlib.suppress(OSError):
                send(self._gate.control, message, fds)

    # watching ----------------------------------------------------------------------------------

    def _watch_lanes(self) -> None:
        """Choose each lane's scheduling classes by how busy it was in the last second."""
        assert self._metrics is not None
        self._weigh_sessions()
        if self._scheduling == "auto":
            for lane, seen in enumerate(self._busy):
                seen.append((self._metrics.busy_ns(lane), self._metrics.critical_ns(lane)))
                if len(seen) > BUSY_PARTS:
                    before = seen.pop(0)
                    shares = [
                        (now_ns - then_ns) / (BUSY_WINDOW_S * BUSY_PARTS * SECOND)
                        for now_ns, then_ns in zip(seen[-1], before, strict=True)
                    ]
                    self._set_fifo(lane, fifo_levels(*shares))
        asyncio.get_running_loop().call_later(BUSY_WINDOW_S, self._watch_lanes)

    def _weigh_sessions(self) -> None:
        """Weigh what could not be weighed at once: the kernel takes ten changes a second."""
        if not self._gate.weighed and self._gate.ready:
            self._gate.weighed = machine.weigh_session(self._gate.pid, machine.GATE_NICE)
        for worker in self._on_lanes:
            if worker.ready and not worker.weighed:
                self._classify(worker)

    def _look(self) -> None:
        """Once a second, look after what changes slowly."""
        assert self._watch is not None
        ready = [worker for worker in self._on_lanes if worker.ready]
        serving = [worker for worker in ready if not worker.shadow]
        for line in self._watch.look(clock.now_ns(), self._gate, serving):
            self._say(line)
        for worker in ready:
            self._look_at_growth(worker)
        self._keep_spares()
        asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look_at_growth(self, worker: Process) -> None:
        """Replace a worker that leaks: between two questions, or at once if it goes on so."""
        size, limit = usage.resident_bytes(worker.pid), growth_limit(worker.ready_bytes)
        assert worker.popen is not None
        if size > limit and not worker.grown:
            worker.grown = True
            self._say(
                f"{worker.name}: worker {worker.pid} has grown from "
                f"{show_size(worker.ready_bytes)} to {show_size(size)}; replacing it"
            )
            self._retire(worker, worker.pid)
        if size > 2 * limit:
            worker.popen.kill()

    def _retire(self, worker: Process, pid: int) -> None:
        """End a worker when nobody waits for its decision and its spare has come."""
        if self._draining or not worker.ready or worker.pid != pid:
            return
        assert worker.popen is not None
        if is_unused(self._pools[worker.name]) and not self._spares.expects(worker.name):
            worker.popen.kill()
        else:
            asyncio.get_running_loop().call_later(RETIRE_S, self._retire, worker, pid)

    def _set_fifo(self, lane: int, fifo: int) -> None:
        if fifo == self._fifo[lane]:
            return
        self._fifo[lane] = fifo
        for worker in self._on_lanes:
            if worker.ready and worker.lane == lane:
                self._classify(worker)

    # the end -----------------------------------------------------------------------------------

    def _drain(self) -> None:
        if self._draining:
            self._finish()  # asked twice: leave now
            return
        self._draining = True
        self._say("draining: new questions are refused, promised ones are answered")
        self._to_gate(Drain(), ())
        longest_s = max(d.budget_ns for d in self._estate.decisions.values()) / SECOND
        asyncio.get_running_loop().call_later(longest_s + DRAIN_SLACK_S, self._finish)

    def _finish(self) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_exception(error)

    def _stop_all(self) -> None:
        self._admin.close()
        for child in (self._gate, *self._workers, *self._spares, *self._changes.processes):
            if child.popen is not None and child.popen.poll() is None:
                child.popen.kill()
                child.popen.wait()
        for listener in self._listeners:
            listener.close()
        if self._unix_path is not None:
            self._unix_path.unlink(missing_ok=True)

    async def _open_admin(self) -> None:
        try:
            await self._admin.open()
        except NodeError as error:
            self._say(str(error))

    def _announce(self) -> None:
        took_ms = (clock.now_ns() - self._begun_ns) // 1_000_000
        machine.pin(self._housekeeping)  # behind a lane's workers nobody would be replaced
        for endpoint in self._endpoints:
            self._say(f"listening on {endpoint}")
        lanes = ", ".join(
            f"lane {i}: cores {list(lane.cores)}" for i, lane in enumerate(self._lanes)
        )
        self._say(f"ready after {took_ms} ms; {lanes}; gate on cores {list(self._housekeeping)}")
        grants = Grants(
            scheduling=self._scheduling,
            privileged=self._privileged,
            locked=machine.lock_memory(),
            apart=self._apart,
            files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
            cores=tuple(self._cores),
        )
        for line in grants.told():
            self._say(line)


def run_node(
    estate: Estate,
    site: Site,
    folder: Path,
    say: Say,
    warm: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Serve until drained. Raises TidsramError with a sentence when the node cannot start."""
    asyncio.run(Supervisor(estate, site, folder, say, warm).run())
