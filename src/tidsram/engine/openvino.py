"""OpenVINO on the CPU: loads from bytes, runs in the caller's memory, sends nothing.

Nothing else may import `openvino`: it starts a process that reports each import to its makers
unless a package beside it is kept out, and computes in bfloat16 where the processor can unless told
not to. It is an extra: a node whose variants do not name it need not have it.
"""

import re
import sys
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tidsram.engine.base import Array, RunAborted, RunFailed, words_of
from tidsram.engine.inspect import Shapes, fix_model
from tidsram.engine.memory import check_fits
from tidsram.engine.warm_up import warm_up
from tidsram.errors import ModelRefused
from tidsram.protocol.tensors import ModelSpec, TensorSpec

if TYPE_CHECKING:
    import openvino as ov

_TELEMETRY = "openvino_telemetry"
_ONNX_RUNTIME_INSTEAD = 'Serve its variant on ONNX Runtime: `engine = "onnxruntime"`.'
_INSTALL = f"Install it: pip install 'tidsram[openvino]'. Or leave it: {_ONNX_RUNTIME_INSTEAD}"

# Datatype in the Open Inference Protocol → OpenVINO's name for it.
_TYPE_OF = {
    "BOOL": "boolean",
    "UINT8": "u8",
    "UINT16": "u16",
    "UINT32": "u32",
    "UINT64": "u64",
    "INT8": "i8",
    "INT16": "i16",
    "INT32": "i32",
    "INT64": "i64",
    "FP16": "f16",
    "FP32": "f32",
    "FP64": "f64",
}
_INT32 = np.iinfo(np.int32)
_NOISE = (
    re.compile(r"Exception from src/\S+:\d+:|Check '.*?' failed at src/\S+:\d+:|Caught exception:"),
    re.compile(r"FrontEnd API failed with \w+:|Model wasn't fully converted\.\s+Summary:\s+-- "),
    re.compile(r"To facilitate the conversion .*", re.DOTALL),
)


def openvino() -> ModuleType:
    """Import OpenVINO with its telemetry out of reach and return it."""
    assert sys.modules.get(_TELEMETRY) is None, (
        "openvino was imported with its telemetry; use tidsram.engine.openvino.openvino()"
    )
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment] # importing it raises ImportError
    import openvino

    module: ModuleType = openvino
    return module


def load(
    data: bytes, model: str, threads: int, shapes: Shapes | None = None, precision: str = ""
) -> "OpenVinoEngine":
    """Inspect the model in `data` and load it, or raise ModelRefused."""
    fixed, spec = fix_model(data, model, shapes)
    return OpenVinoEngine(fixed, model, threads, spec, precision)


class Binding(NamedTuple):
    """A request and the arrays that it knows by address only; `taken` are outputs to be copied."""

    request: "ov.InferRequest"
    inputs: tuple[Array, ...]
    outputs: tuple[Array | None, ...]
    taken: tuple[int, ...]


class OpenVinoEngine:
    """One model in OpenVINO; see `engine.base.Engine`.

    `data` and `spec` are `fix_model`'s. The precision is f32 unless it is "bf16". The engine's own
    spec has −1 where the file declares an output size that OpenVINO knows to be another.
    """

    def __init__(
        self, data: bytes, model: str, threads: int, spec: ModelSpec, precision: str = ""
    ) -> None:
        assert threads >= 1, "a lane has at least one core"
        try:
            self._ov = openvino()
        except ImportError as error:
            problem = f"it is to run on OpenVINO, which is not here ({error})"
            raise ModelRefused(model, problem, _INSTALL) from None
        self._compiled = _compiled(self._ov, data, model, threads, precision or "f32")
        self._input_ports = _input_ports(self._compiled, spec, model)
        self.spec = ModelSpec(spec.inputs, _believed(spec.outputs, self._compiled, model))
        self._wide = [i for i, t in enumerate(spec.inputs) if t.datatype in ("INT64", "UINT64")]
        self._in_place = [not port.partial_shape.is_dynamic for port in self._compiled.outputs]
        self._lock = threading.Lock()
        self._current: tuple[int, Binding] | None = None
        self._aborted = False

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array | None]) -> Binding:
        """Prepare runs on the given memory; refuse arrays that do not fit the spec."""
        request, taken = self._compiled.create_infer_request(), []
        for tensor, port, array in zip(self.spec.inputs, self._input_ports, inputs, strict=True):
            shared = self._shared(tensor, array)
            if port is not None:
                request.set_input_tensor(port, shared)
        for i, (tensor, output) in enumerate(zip(self.spec.outputs, outputs, strict=True)):
            shared = None if output is None else self._shared(tensor, output)
            if shared is not None and self._in_place[i]:
                request.set_output_tensor(i, shared)
            else:
                taken.append(i)
        return Binding(request, tuple(inputs), tuple(outputs), tuple(taken))

    def run(self, binding: Binding, ticket: int) -> list[Array | None]:
        """Run once in the bound memory; raise RunAborted or RunFailed when that is how it ends."""
        request = binding.request
        self._check_range(binding)
        try:
            # Only a run that was started in the background can be cancelled, and only from when it
            # was started: until then the lock keeps `abort` waiting.
            with self._lock:
                self._current, self._aborted = (ticket, binding), False
                request.start_async()
            request.wait()
        except Exception as error:  # noqa: BLE001 - the runtime's errors share no other base
            if self._aborted:
                raise RunAborted(f"run {ticket} was aborted") from None
            raise RunFailed(words_of(error, _NOISE)) from None
        finally:
            with self._lock:
                self._current = None
        return self._take(binding) if binding.taken else [None] * len(binding.outputs)

    def abort(self, ticket: int) -> None:
        """End the run `ticket` at its next operator, if it is the one in progress."""
        current = self._current
        if current is None or current[0] != ticket:
            return
        with self._lock:  # this run's end waits, so it is not the next one that is cancelled
            if self._current is current:
                self._aborted = True
                current[1].request.cancel()

    def warm_up(self, runs: int) -> list[int]:
        """Run on zeros; return each run's nanoseconds."""
        return warm_up(self, runs)

    def _shared(self, tensor: TensorSpec, array: Array) -> "ov.Tensor":
        """Return a tensor in the array's memory; OpenVINO would take any size, so check it here."""
        check_fits(tensor, array)
        element = getattr(self._ov.Type, _TYPE_OF[tensor.datatype])
        named = array.view(array.dtype.name)  # C's `long long` is not "int64" to OpenVINO
        return self._ov.Tensor(named, self._ov.Shape(array.shape), element)

    def _check_range(self, binding: Binding) -> None:
        """Raise RunFailed at a number of which OpenVINO would keep the lower 32 bits, unsaid."""
        for i in self._wide:
            array = binding.inputs[i]
            if array.size and not _INT32.min <= array.min() <= array.max() <= _INT32.max:
                name = self.spec.inputs[i].name
                raise RunFailed(f"input {name!r} has a number beyond 32 bits; OpenVINO has no more")

    def _take(self, binding: Binding) -> list[Array | None]:
        """Copy what OpenVINO wrote to memory of its own: to where it is bound, or out."""
        own: list[Array | None] = [None] * len(binding.outputs)
        for i in binding.taken:
            written, output = binding.request.get_output_tensor(i).data, binding.outputs[i]
            if output is None:
                own[i] = written.copy()
            elif written.shape == output.shape:
                np.copyto(output, written)
            else:
                name = self.spec.outputs[i].name
                raise RunFailed(
                    f"output {name!r} became {list(written.shape)}, and {list(output.shape)} "
                    "was kept for it"
                )
        return own


def _compiled(
    ov: ModuleType, data: bytes, model: str, threads: int, precision: str
) -> "ov.CompiledModel":
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # else it quantises some products unasked
        # The worker's threads are put on the lane's cores; two pinnings would work against each
        # other. A lane names its cores, so all of them count, whether they share a core's units.
        "ENABLE_CPU_PINNING": False,
        "ENABLE_HYPER_THREADING": True,
    }
    try:
        core = ov.Core()
        compiled = core.compile_model(core.read_model(data), "CPU", options)
    except Exception as error:  # noqa: BLE001 - the runtime's errors share no other base
        problem = f"OpenVINO {_version(ov)} cannot load it ({words_of(error, _NOISE)})"
        raise ModelRefused(model, problem, _ONNX_RUNTIME_INSTEAD) from None
    if compiled.get_property("INFERENCE_PRECISION_HINT") != getattr(ov.Type, precision):
        problem = f"OpenVINO {_version(ov)} does not compute in {precision} on this processor"
        raise ModelRefused(model, problem, 'Serve its variant in f32: `precision = "f32"`.')
    return compiled


def _version(ov: ModuleType) -> str:
    version: str = ov.__version__
    return version.split("-")[0]


def _input_ports(compiled: "ov.CompiledModel", spec: ModelSpec, model: str) -> list[int | None]:
    """Return each input's place in OpenVINO; None for one that has no part in the answer."""
    places = {name: place for place, port in enumerate(compiled.inputs) for name in port.names}
    ports = [places.get(tensor.name) for tensor in spec.inputs]
    kept = [(t, p) for t, p in zip(spec.inputs, ports, strict=True) if p is not None]
    if sorted(place for _, place in kept) != list(range(len(compiled.inputs))):
        raise _changed(model, "inputs", [port.any_name for port in compiled.inputs])
    for tensor, place in kept:
        port = compiled.inputs[place]
        if _shape(port) != tensor.shape or _type(port) != _TYPE_OF[tensor.datatype]:
            raise _changed(model, f"input {tensor.name!r}", f"{_type(port)} {port.partial_shape}")
    return ports


def _believed(
    outputs: Sequence[TensorSpec], compiled: "ov.CompiledModel", model: str
) -> tuple[TensorSpec, ...]:
    """Return the outputs with the sizes that OpenVINO has found, or else the declared ones."""
    if len(outputs) != len(compiled.outputs):
        raise _changed(model, "outputs", [port.any_name for port in compiled.outputs])
    believed = []
    for tensor, port in zip(outputs, compiled.outputs, strict=True):
        if tensor.name not in port.names or _type(port) != _TYPE_OF[tensor.datatype]:
            raise _changed(model, f"output {tensor.name!r}", f"{port.any_name} {_type(port)}")
        shape = _merged(tensor.shape, _shape(port))
        believed.append(TensorSpec(tensor.name, tensor.datatype, shape))
    return tuple(believed)


def _merged(declared: tuple[int, ...], found: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return for each axis the size that is known; −1 where the two contradict each other."""
    if found is None:
        return declared
    if len(declared) != len(found):
        return found
    return tuple(
        f if d < 0 else d if f in (-1, d) else -1 for d, f in zip(declared, found, strict=True)
    )


def _shape(port: "ov.ConstOutput") -> tuple[int, ...] | None:
    """Return the sizes that OpenVINO has found, −1 where it found none; None without a rank."""
    if port.partial_shape.rank.is_dynamic:
        return None
    return tuple(-1 if dim.is_dynamic else dim.get_length() for dim in port.partial_shape)


def _type(port: "ov.ConstOutput") -> str:
    name: str = port.element_type.get_type_name()
    return name


def _changed(model: str, what: str, found: object) -> ModelRefused:
    problem = f"OpenVINO changes its {what} ({found})"
    return ModelRefused(model, problem, _ONNX_RUNTIME_INSTEAD)
