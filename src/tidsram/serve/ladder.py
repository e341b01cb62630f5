"""A decision's ladder as its worker loads it: what cannot be served leaves it, the rest stays.

All models are inspected before any is loaded, each in a child of its own, so that no model's bytes
are parsed in a process that serves. All rungs share the slots, so they have the same inputs and
outputs: those of the most accurate variant that loads.
"""

import mmap
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from tidsram import clock
from tidsram.engine.base import Array, Engine, RunFailed
from tidsram.engine.choose import load_engine
from tidsram.engine.inspect import fix_model
from tidsram.engine.memory import zeros
from tidsram.errors import ModelRefused
from tidsram.protocol.tensors import ModelSpec, difference
from tidsram.serve import machine
from tidsram.serve.messages import Load, Loaded, Model, Refused

WARM_UP_RUNS = 10
WARM_UP_NS = 500_000_000
_CRASHED = ("its inspection crashed", "Export the model anew.")


class Rung(NamedTuple):
    """One variant, loaded and warm. `model_fd` holds its model as it was loaded."""

    engine: Engine
    model_fd: int
    output_seen: tuple[int, ...]
    warm_up_ns: tuple[int, ...]


class Ladder:
    """Load and warm up what can be served of one decision; `verdict` says what became of it."""

    def __init__(self, load: Load, model_fds: Sequence[int]) -> None:
        self._load = load
        self._spec, self._top = load.spec, load.models[0].name
        self._refused: list[tuple[Model, ModelRefused]] = []
        self.rungs: dict[int, Rung] = {}
        self._hurry = machine.may_hurry() and not load.at_leisure
        # Loading takes no time from other loads, warming up is measured undisturbed.
        self._be_nice(machine.LOADING_NICE)
        inspected = list(self._inspect(model_fds))
        for model, model_fd, spec in inspected:
            self._add(model, model_fd, spec)

    @property
    def engines(self) -> dict[int, Engine]:
        """The engines by rung."""
        return {rung: loaded.engine for rung, loaded in self.rungs.items()}

    @property
    def model_fds(self) -> tuple[int, ...]:
        """The models that stayed, in the order of their rungs."""
        return tuple(loaded.model_fd for loaded in self.rungs.values())

    @property
    def verdict(self) -> Loaded | Refused:
        """What the supervisor is told."""
        left_out = tuple((model.name, _sentence(error)) for model, error in self._refused)
        if not self.rungs:
            model, error = self._refused[-1]
            return Refused(model.rung, error.problem, error.remedy, left_out[:-1])
        assert self._spec is not None
        seen = zip(*(loaded.output_seen for loaded in self.rungs.values()), strict=True)
        warm_up_ns = [
            self.rungs[rung].warm_up_ns if rung in self.rungs else ()
            for rung in range(self._load.rungs)
        ]
        return Loaded(self._spec, tuple(map(max, seen)), tuple(warm_up_ns), left_out)

    def _inspect(self, model_fds: Sequence[int]) -> Iterator[tuple[Model, int, ModelSpec]]:
        """Yield what may be loaded, with what it declares; a restart knows that already."""
        for model, model_fd in zip(self._load.models, model_fds, strict=True):
            if self._load.spec is not None:
                yield model, model_fd, self._load.spec
                continue
            try:
                fixed_fd, spec = _inspect_apart(_read(model_fd), model.name, self._load.shapes)
                yield model, fixed_fd, spec
            except ModelRefused as refusal:
                self._refused.append((model, refusal))
            finally:
                os.close(model_fd)

    def _add(self, model: Model, model_fd: int, spec: ModelSpec) -> None:
        try:
            self._be_nice(machine.LOADING_NICE)
            engine = self._load_engine(model, _read(model_fd), spec)
            if self._spec is not None:
                check_alike(model.name, engine.spec, self._top, self._spec)
            self._be_nice(machine.WARM_UP_NICE)
            self.rungs[model.rung] = Rung(engine, model_fd, *_warm_up(engine))
        except ModelRefused as refusal:
            self._leave(model, model_fd, refusal)
        except RunFailed as failure:
            problem = f"it fails on zeros ({failure})"
            self._leave(model, model_fd, ModelRefused(model.name, problem, "Check it in the lab."))
        else:
            if len(self.rungs) == 1:
                self._spec, self._top = engine.spec, model.name

    def _load_engine(self, model: Model, data: bytes, spec: ModelSpec) -> Engine:
        cores = self._load.cores
        threads = min(model.threads or len(cores), len(cores))
        before = os.sched_getaffinity(0)
        if model.engine == "openvino":  # what it sees now is where it keeps its threads later
            machine.pin(cores)
        try:
            return load_engine(model.engine, model.precision, data, model.name, threads, spec)
        finally:
            machine.pin(before)

    def _leave(self, model: Model, model_fd: int, refusal: ModelRefused) -> None:
        os.close(model_fd)
        self._refused.append((model, refusal))

    def _be_nice(self, value: int) -> None:
        if self._hurry:
            machine.be_nice(value)


def _sentence(error: ModelRefused) -> str:
    return f"{error.problem}. {error.remedy}"


def check_alike(name: str, spec: ModelSpec, top_name: str, top: ModelSpec) -> None:
    """Raise ModelRefused unless a variant has the inputs and outputs of the one that decides."""
    if found := difference(spec, top, top_name):
        raise ModelRefused(
            name,
            f"{found}; the variants of a decision answer the same question in the same form",
            f"Export it with the inputs and outputs of {top_name}.",
        )


def _read(fd: int) -> bytes:
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as data:
        return data[:]


def _inspect_apart(
    data: bytes, model: str, shapes: dict[str, tuple[int, ...]]
) -> tuple[int, ModelSpec]:
    """Inspect the model in a child of its own: its parser is large and its input untrusted.

    Return memory with the model as this worker, and those after it, will load it.
    """
    fixed_fd = os.memfd_create("tidsram-model", os.MFD_CLOEXEC)
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        _inspect_as_child(data, model, shapes, fixed_fd, write_fd)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as result:
        told = result.read()
    os.waitpid(child, 0)
    refused, value = msgspec.msgpack.decode(told) if told else (True, _CRASHED)
    if refused:
        os.close(fixed_fd)
        raise ModelRefused(model, *value)
    return fixed_fd, msgspec.convert(value, ModelSpec)


def _inspect_as_child(
    data: bytes, model: str, shapes: dict[str, tuple[int, ...]], fixed_fd: int, write_fd: int
) -> None:
    verdict: ModelSpec | tuple[str, str]
    try:
        fixed, verdict = fix_model(data, model, shapes)
        with os.fdopen(fixed_fd, "wb") as out:
            out.write(fixed)
    except ModelRefused as refusal:
        verdict = refusal.problem, refusal.remedy
    with os.fdopen(write_fd, "wb") as out:
        out.write(msgspec.msgpack.encode((isinstance(verdict, tuple), verdict)))
    os._exit(0)


def _warm_up(engine: Engine) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Run on zeros until the times settle; return the bytes of each output and the times."""
    spec = engine.spec
    inputs = [zeros(tensor) for tensor in spec.inputs]
    nothing: list[Array | None] = [None] * len(spec.outputs)
    outputs = engine.run(engine.bind(inputs, nothing), 0)
    seen = tuple(0 if array is None else array.nbytes for array in outputs)
    engine.warm_up(2)
    warm_up_ns: list[int] = []
    begun_ns = clock.now_ns()
    while len(warm_up_ns) < WARM_UP_RUNS:
        warm_up_ns += engine.warm_up(1)
        if len(warm_up_ns) >= 3 and clock.now_ns() - begun_ns > WARM_UP_NS:
            break
    return seen, tuple(warm_up_ns)
