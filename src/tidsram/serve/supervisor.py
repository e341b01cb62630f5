"""The parent of a node's processes: starts, watches and restarts gate and workers.

It owns what must outlive any of them: listening sockets, pools of slots, the workers' job sockets
and the metrics. A new gate gets all of it, so workers stay warm; a new worker gets the decision's
pool, so the gate stays as it is. It is never on a request's way.
"""

import asyncio
import contextlib
import errno
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tidsram import clock
from tidsram.errors import ModelRefused, NodeError
from tidsram.estate.load import read_model
from tidsram.estate.placement import lanes_of, warm_lanes
from tidsram.estate.types import Criticality, Decision, Estate, Site
from tidsram.outcome import Reason
from tidsram.protocol.tensors import ModelSpec
from tidsram.protocol.wire import plan_slots
from tidsram.serve import machine
from tidsram.serve.messages import (
    Drain,
    Load,
    Loaded,
    Model,
    Open,
    Pool,
    Ready,
    Refused,
    WorkerAside,
    WorkerLost,
    WorkerReady,
    WorkerSpared,
    receive,
    send,
)
from tidsram.serve.metrics import Metrics, metrics_bytes
from tidsram.serve.slots import count_taken
from tidsram.units import SECOND

RESTART_S = (0.0, 0.1, 0.5, 2.0, 5.0)  # before the nth restart in a row that did not hold
HELD_NS = SECOND  # a process that served this long has held
LOAD_TIME_S = 120.0
BUSY_WINDOW_S = 0.25
BUSY_PARTS = 4  # the last second
FIFO_BELOW = 0.8  # of the lane: beyond, the kernel's throttle would freeze it
DRAIN_SLACK_S = 1.0
RTTIME_US = 5_000_000  # at FIFO without ever blocking: the last guard against a spinning worker
STARVED_S = 0.01  # a runnable worker that gets less than half of this is kept from stopping

Say = Callable[[str], None]


class Pooled:
    """A decision's models, and what is known once its first worker has loaded them."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        self.model_fds: dict[int, int] = {}  # by rung, of the variants that are still served
        self.left_out: set[str] = set()
        self.message: Pool | None = None
        self.fd = -1
        self.spec: ModelSpec | None = None


class Process:
    """One child with the sockets to it, and how often it had to be started."""

    def __init__(self, decision: Decision | None, lane: int) -> None:
        self.decision, self.lane = decision, lane
        self.popen: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None
        self.jobs: socket.socket | None = None  # the gate's ends, kept for the next gate
        self.tickets: socket.socket | None = None
        self.warm_up_ns: tuple[tuple[int, ...], ...] = ()
        self.ready = False
        self.aside = False  # in leftover time only, until the gate says otherwise
        self.ready_ns = 0  # since when; 0 before
        self.failures = 0

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self.popen is not None
        return self.popen.pid


class Supervisor:
    """Starts a node and keeps it up until it is told to drain."""

    def __init__(self, estate: Estate, site: Site, folder: Path, say: Say) -> None:
        self._estate, self._site, self._folder, self._say = estate, site, folder, say
        self._cores = sorted(os.sched_getaffinity(0))
        self._lanes = lanes_of(estate, site.name, self._cores)
        taken = {core for lane in self._lanes for core in lane.cores}
        self._housekeeping = tuple(c for c in self._cores if c not in taken) or tuple(self._cores)
        hardware = estate.hardware.get(site.hardware)
        self._scheduling = hardware.scheduling if hardware else "auto"
        self._pools: dict[str, Pooled] = {}
        self._workers: list[Process] = []
        self._gate = Process(None, -1)
        self._epoch = 0
        self._listeners: list[socket.socket] = []
        self._endpoints: tuple[str, ...] = ()
        self._unix_path: Path | None = None
        self._metrics_fd = -1
        self._metrics: Metrics | None = None
        self._fifo: list[bool] = [self._scheduling != "nice"] * len(self._lanes)
        self._granted = True
        self._busy: list[list[int]] = [[] for _ in self._lanes]
        self._draining = False
        self._announced = False
        self._begun_ns = clock.now_ns()
        self._over: asyncio.Future[None] | None = None

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
            self._start_workers()
            self._start_gate()
            loop.call_later(BUSY_WINDOW_S, self._watch_lanes)
            await self._over
        finally:
            self._stop_all()

    # at the start ------------------------------------------------------------------------------

    def _read_models(self) -> None:
        for name, decision in self._estate.decisions.items():
            pooled = self._pools[name] = Pooled(decision)
            for rung in range(len(decision.ladder)):
                self._read_model(pooled, rung)

    def _read_model(self, pooled: Pooled, rung: int) -> None:
        variant = pooled.decision.ladder[rung]
        try:
            data = read_model(self._folder / variant.model)
        except ModelRefused as refusal:
            if not pooled.model_fds and variant is pooled.decision.ladder[-1]:
                raise
            self._leave_out(pooled, variant.name, f"{refusal.problem}. {refusal.remedy}")
        else:
            pooled.model_fds[rung] = _model_memory(variant.name, data)

    def _leave_out(self, pooled: Pooled, variant: str, why: str) -> None:
        """Go on without a variant, whichever worker could not load it."""
        if variant in pooled.left_out:
            return
        pooled.left_out.add(variant)
        name, ladder = pooled.decision.name, pooled.decision.ladder
        self._say(f"warning: {name} is served without its variant {variant}: {why}")
        for rung in [rung for rung in pooled.model_fds if ladder[rung].name == variant]:
            if len(pooled.model_fds) > 1:  # the last one is tried again by each worker
                os.close(pooled.model_fds.pop(rung))

    def _open_doors(self) -> None:
        if self._site.http:
            listener = _listen_tcp(self._site.http)
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
        self._listeners.append(_listen_unix(at))
        self._unix_path = at  # ours from here on, to be taken away at the end
        self._endpoints += (f"unix:{at}",)

    def _make_metrics(self) -> None:
        size = metrics_bytes(len(self._estate.decisions), len(self._lanes))
        self._metrics_fd = machine.sealed_memory("tidsram-metrics", size)
        memory = memoryview(mmap.mmap(self._metrics_fd, size))
        self._metrics = Metrics(memory, list(self._estate.decisions), len(self._lanes))

    def _start_workers(self) -> None:
        placed = warm_lanes(self._estate.decisions.values(), len(self._lanes))
        for name, lanes in placed.items():
            for lane in lanes:
                worker = Process(self._estate.decisions[name], lane)
                self._workers.append(worker)
                self._start_worker(worker)

    # workers -----------------------------------------------------------------------------------

    def _start_worker(self, worker: Process) -> None:
        if self._draining:
            return
        assert worker.decision is not None
        pooled = self._pools[worker.decision.name]
        worker.control, theirs = _pair()
        worker.jobs, jobs = _pair()
        worker.tickets, tickets = _pair()
        label = (worker.decision.name, str(worker.lane))
        worker.popen = _spawn("tidsram.serve.worker", theirs, *label)
        worker.ready_ns = 0
        worker.aside = False
        ladder = worker.decision.ladder
        load = Load(
            worker.decision.name,
            tuple(Model(rung, ladder[rung].name) for rung in pooled.model_fds),
            len(ladder),
            worker.decision.shapes,
            self._lanes[worker.lane].cores,
            self._housekeeping,
            pooled.spec,
        )
        models = pooled.model_fds.values()
        send(worker.control, load, (jobs.fileno(), tickets.fileno(), *models))
        for end in (theirs, jobs, tickets):
            end.close()
        self._watch(worker, self._worker_says, self._worker_ended)
        asyncio.get_running_loop().call_later(LOAD_TIME_S, self._give_up, worker, worker.pid)

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
            self._worker_ready(worker)
        elif isinstance(message, Refused):
            self._worker_refused(worker, message)
        else:
            asyncio.get_running_loop().remove_reader(worker.control.fileno())

    def _worker_refused(self, worker: Process, refused: Refused) -> None:
        """Nothing of its ladder can be served: at the start that ends the node."""
        assert worker.decision is not None
        name, ladder = worker.decision.name, worker.decision.ladder
        if self._announced:
            self._say(
                f"{name}: a new worker refuses its model: {refused.problem}. {refused.remedy}"
            )
            return
        for variant, why in refused.left_out:
            self._leave_out(self._pools[name], variant, why)
        problem = refused.problem
        if len(ladder) > 1:
            problem += f", and no other variant of decision {name!r} is left"
        path = str(self._folder / ladder[refused.rung].model)
        self._fail(ModelRefused(path, problem, refused.remedy))

    def _worker_loaded(self, worker: Process, loaded: Loaded, model_fds: list[int]) -> None:
        assert worker.decision is not None
        assert worker.control is not None
        worker.warm_up_ns = loaded.warm_up_ns
        pooled = self._pools[worker.decision.name]
        for variant, why in loaded.left_out:
            self._leave_out(pooled, variant, why)
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
            _keep_as_loaded(pooled, loaded, model_fds)
            pooled.message = Pool(worker.decision.name, layout, loaded.spec)
            self._to_gate(pooled.message, (pooled.fd,))
        for model_fd in model_fds:
            os.close(model_fd)
        if loaded.spec != pooled.spec:
            self._fail(_at_odds(pooled))
            return
        send(worker.control, pooled.message, (pooled.fd,))

    def _worker_ready(self, worker: Process) -> None:
        worker.ready, worker.ready_ns = True, clock.now_ns()
        self._classify(worker)
        self._introduce(worker)
        if not self._announced and all(w.ready for w in self._workers):
            self._announced = True
            self._announce()

    def _introduce(self, worker: Process) -> None:
        """Tell the gate of a warm worker."""
        assert worker.decision is not None
        assert worker.jobs is not None
        assert worker.tickets is not None
        ready = WorkerReady(worker.decision.name, worker.lane, worker.pid, worker.warm_up_ns)
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
        self._to_gate(WorkerLost(worker.decision.name, worker.lane, pid), ())
        name = worker.decision.name
        if not was_ready and not self._announced:
            alone = " or ".join(f"`tidsram serve {v.model}`" for v in worker.decision.ladder)
            self._fail(
                NodeError(
                    f"decision {name!r}: its worker ended while loading ({_why(code)}). "
                    f"Try the model alone with {alone}."
                )
            )
            return
        wait_s = self._next_wait(worker)
        self._say(
            f"{name}: worker {pid} on lane {worker.lane} ended ({_why(code)}); starting another"
        )
        asyncio.get_running_loop().call_later(wait_s, self._start_worker, worker)

    def _classify(self, worker: Process) -> None:
        assert worker.decision is not None
        fifo = self._fifo[worker.lane]
        criticality = Criticality.BEST_EFFORT if worker.aside else worker.decision.criticality
        granted = machine.set_class(worker.pid, criticality, fifo=fifo)
        if self._scheduling == "auto":  # a lane left at FIFO for so long has nobody watching it
            with contextlib.suppress(OSError):
                resource.prlimit(worker.pid, resource.RLIMIT_RTTIME, (RTTIME_US, RTTIME_US))
        if not granted and self._granted:
            self._granted = False
            self._say(
                "this user may not raise priorities (CAP_SYS_NICE): serving all the same, but a "
                "busy neighbour on the core can hold up a critical run by several milliseconds"
            )

    # the gate ----------------------------------------------------------------------------------

    def _start_gate(self) -> None:
        if self._over is None or self._over.done():
            return
        gate = self._gate
        self._epoch += 1
        gate.control, theirs = _pair()
        gate.popen = _spawn("tidsram.serve.gate", theirs)
        theirs.close()
        os.sched_setaffinity(gate.pid, self._housekeeping)
        if any(core in lane.cores for lane in self._lanes for core in self._housekeeping):
            machine.put_first(gate.pid)
        gate.ready_ns = clock.now_ns()
        opened = Open(
            self._estate,
            self._site.name,
            f"{self._begun_ns & 0xFFFFFFFF:08x}",
            self._epoch,
            len(self._lanes),
            self._endpoints,
        )
        listening = tuple(listener.fileno() for listener in self._listeners)
        self._to_gate(opened, (self._metrics_fd, *listening))
        # Workers before slots: the gate must know all who may still write to a slot.
        for worker in self._workers:
            if worker.ready:
                self._introduce(worker)
        for pooled in self._pools.values():
            if pooled.message is not None:
                self._to_gate(pooled.message, (pooled.fd,))
        self._watch(gate, self._gate_says, self._gate_ended)

    def _gate_says(self, gate: Process) -> None:
        assert gate.control is not None
        message, _ = receive(gate.control)
        if isinstance(message, WorkerLost):
            for worker in self._workers:
                if worker.popen is not None and worker.pid == message.pid:
                    self._kill_unless_starved(worker, message)
        elif isinstance(message, WorkerAside):
            self._set_aside(message)
        elif message is None:
            asyncio.get_running_loop().remove_reader(gate.control.fileno())

    def _set_aside(self, asked: WorkerAside) -> None:
        """Let a worker run in leftover time only, if it can be brought back from there."""
        for worker in self._workers:
            if worker.ready and worker.pid == asked.pid and machine.may_hurry():
                worker.aside = asked.aside
                self._classify(worker)

    def _kill_unless_starved(self, worker: Process, asked: WorkerLost) -> None:
        """End a worker that did not stop when told, if it had the core to do so."""
        pid, before_ns = worker.pid, machine.cpu_ns(worker.pid)

        def decide() -> None:
            had_ns = machine.cpu_ns(pid) - before_ns
            if worker.popen is None or worker.pid != pid:
                return
            if runnable and had_ns < STARVED_S * SECOND / 2:
                self._to_gate(WorkerSpared(asked.decision, asked.lane, pid), ())
                return
            self._say(f"{asked.decision}: worker {pid} did not stop; killing it")
            worker.popen.kill()

        runnable = machine.is_runnable(pid)
        if runnable:
            asyncio.get_running_loop().call_later(STARVED_S, decide)
        else:
            decide()

    def _gate_ended(self, gate: Process) -> None:
        code = gate.popen.wait() if gate.popen else 0
        assert gate.control is not None
        gate.control.close()
        if self._draining or (self._over is not None and self._over.done()):
            self._finish()
            return
        lost = self._count_lost()
        self._say(
            f"the gate ended ({_why(code)}) with {lost} requests in flight (failed: gate-lost); "
            f"starting another, workers stay warm"
        )
        asyncio.get_running_loop().call_later(self._next_wait(gate), self._start_gate)

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
        message: Open | Pool | WorkerReady | WorkerLost | WorkerSpared | Drain,
        fds: tuple[int, ...],
    ) -> None:
        # A gate that has just ended gets everything anew when it is started again.
        if self._gate.control is not None:
            with contextlib.suppress(OSError):
                send(self._gate.control, message, fds)

    # watching ----------------------------------------------------------------------------------

    def _watch(
        self,
        child: Process,
        says: Callable[[Process], None],
        ended: Callable[[Process], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        assert child.control is not None
        child.control.setblocking(False)
        control = child.control
        loop.add_reader(control.fileno(), says, child)
        pidfd = os.pidfd_open(child.pid)

        def end() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            loop.remove_reader(control.fileno())
            ended(child)

        loop.add_reader(pidfd, end)

    def _watch_lanes(self) -> None:
        """Choose each lane's scheduling class by how busy it was in the last second."""
        assert self._metrics is not None
        if self._scheduling == "auto":
            for lane, seen in enumerate(self._busy):
                seen.append(self._metrics.busy_ns(lane))
                window_ns = BUSY_WINDOW_S * (len(seen) - 1) * SECOND
                if len(seen) > BUSY_PARTS:
                    share = (seen[-1] - seen.pop(0)) / window_ns
                    self._set_fifo(lane, share < FIFO_BELOW)
        asyncio.get_running_loop().call_later(BUSY_WINDOW_S, self._watch_lanes)

    def _set_fifo(self, lane: int, fifo: bool) -> None:
        if fifo == self._fifo[lane]:
            return
        self._fifo[lane] = fifo
        for worker in self._workers:
            if worker.ready and worker.lane == lane:
                self._classify(worker)

    @staticmethod
    def _next_wait(child: Process) -> float:
        held = child.ready_ns and clock.now_ns() - child.ready_ns > HELD_NS
        child.failures = 0 if held else min(child.failures + 1, len(RESTART_S) - 1)
        return RESTART_S[max(0, child.failures - 1)]

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
        for child in (self._gate, *self._workers):
            if child.popen is not None and child.popen.poll() is None:
                child.popen.kill()
                child.popen.wait()
        for listener in self._listeners:
            listener.close()
        if self._unix_path is not None:
            self._unix_path.unlink(missing_ok=True)

    def _announce(self) -> None:
        took_ms = (clock.now_ns() - self._begun_ns) // 1_000_000
        for endpoint in self._endpoints:
            self._say(f"listening on {endpoint}")
        lanes = ", ".join(
            f"lane {i}: cores {list(lane.cores)}" for i, lane in enumerate(self._lanes)
        )
        self._say(f"ready after {took_ms} ms; {lanes}; gate on cores {list(self._housekeeping)}")
        if any(set(lane.cores) & set(self._housekeeping) for lane in self._lanes):
            self._say(
                "the lanes take every core, so the gate shares one with them, first in line: "
                "other programs of this machine may stand still while decisions run"
            )


def _pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _spawn(module: str, control: socket.socket, *label: str) -> subprocess.Popen[bytes]:
    """Start a process of the node with one end of a control socket."""
    environment = os.environ | {
        "ORT_DISABLE_TELEMETRY": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", module, str(control.fileno()), *label]
    return subprocess.Popen(
        command,
        pass_fds=(control.fileno(),),
        stdin=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,  # a terminal's Ctrl-C is the supervisor's to handle
    )


def _model_memory(name: str, data: bytes) -> int:
    """Put the model's bytes into memory that each of its workers reads."""
    fd = os.memfd_create(f"tidsram-model-{name}", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as out:
        out.write(data)
    return fd


def _keep_as_loaded(pooled: Pooled, loaded: Loaded, model_fds: list[int]) -> None:
    """Keep the models as they were loaded, so that later workers need not inspect them."""
    rungs = [rung for rung, warm_up_ns in enumerate(loaded.warm_up_ns) if warm_up_ns]
    for rung, model_fd in zip(rungs, model_fds, strict=True):
        if rung in pooled.model_fds:
            os.dup2(model_fd, pooled.model_fds[rung], inheritable=False)


def _at_odds(pooled: Pooled) -> NodeError:
    return NodeError(
        f"decision {pooled.decision.name!r}: its workers do not agree on the model's inputs and "
        f"outputs, as a variant left the ladder of one of them only. Start the node again, or take "
        f"out the variant that is named above."
    )


def _listen_tcp(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), int(port)))
        listener.listen(4096)
    except (OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise NodeError(
                f"{address} is in use by another program. "
                f"Stop that, or serve elsewhere with --http 127.0.0.1:PORT."
            ) from None
        raise NodeError(
            f"cannot listen on http = {address!r} ({error}). Write it as HOST:PORT."
        ) from None
    return listener


def _listen_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_socket():
            if _answers(path):
                raise NodeError(
                    f"another node listens on {str(path)!r}. Stop it, or give this one another "
                    f"`state` directory or --unix PATH."
                )
            path.unlink()
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(4096)
    except OSError as error:
        raise NodeError(
            f"cannot listen on the Unix socket {str(path)!r} ({error}). "
            f"Choose a short path (at most 107 bytes) in a directory you may write to: --unix PATH."
        ) from None
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _why(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit status {code}"


def run_node(estate: Estate, site: Site, folder: Path, say: Say) -> None:
    """Serve until drained. Raises TidsramError with a sentence when the node cannot start."""
    asyncio.run(Supervisor(estate, site, folder, say).run())
