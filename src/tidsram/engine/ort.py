"""ONNX Runtime on the CPU: loads from bytes, runs in the caller's memory, sends nothing.

Nothing else may import `onnxruntime`: since 1.29 it sends telemetry unless told not to before its
import, and its Python wrapper has costly or talkative paths that this module keeps off.
"""

import os
import re
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from tidsram.engine.base import Array, RunAborted, RunFailed, words_of
from tidsram.engine.inspect import ELEMENT_OF, Shapes, fix_model
from tidsram.engine.memory import check_fits
from tidsram.engine.warm_up import warm_up
from tidsram.errors import ModelRefused
from tidsram.protocol.tensors import ModelSpec, TensorSpec

if TYPE_CHECKING:
    import onnxruntime

_SILENCE = "ORT_DISABLE_TELEMETRY"
_CPU = ["CPUExecutionProvider"]
_ERRORS_ONLY, _NOTHING = 3, 4  # levels of ONNX Runtime's log

_OLDER_FORMAT = (
    "Save it in an older format: m = onnx.load('model.onnx'); m.ir_version = 10; "
    "onnx.save(m, 'older.onnx')"
)
_OLDER_OPERATORS = (
    "Export it with older operators; in PyTorch: "
    "torch.onnx.export(model, example, 'model.onnx', opset_version=17)"
)
_ANY_FAULT = (
    "Find the fault: "
    "python -c \"import onnx; onnx.checker.check_model('model.onnx', full_check=True)\""
)
_OTHER_OPERATORS = "Export it with operators and types that the CPU provider has, best in float32"
_OTHER_SIZES = f"If its sizes were given, give those that it was made for. {_ANY_FAULT}"
# What ONNX Runtime says when it cannot load → what helps.
_LOAD_REMEDIES = (
    ("model IR version", _OLDER_FORMAT),
    ("released onnx opset", _OLDER_OPERATORS),
    ("NOT_IMPLEMENTED", _OTHER_OPERATORS),
    ("No Op registered", _OTHER_OPERATORS),
    ("not a registered", _OTHER_OPERATORS),
    ("ShapeInferenceError", _OTHER_SIZES),
)
_NOISE = (
    re.compile(r"/onnxruntime_src/\S+ [^()]*\((?:[^()]|\([^()]*\))*\)(?: const)? ?"),
    re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |Error in execution: |Name:'' "),
)


def runtime() -> ModuleType:
    """Import ONNX Runtime with its telemetry off and return it."""
    assert "onnxruntime" not in sys.modules or os.environ.get(_SILENCE) == "1", (
        "onnxruntime was imported before its telemetry was off; use tidsram.engine.ort.runtime()"
    )
    os.environ[_SILENCE] = "1"
    import onnxruntime

    module: ModuleType = onnxruntime
    return module


def load(data: bytes, model: str, threads: int, shapes: Shapes | None = None) -> "OrtEngine":
    """Inspect the model in `data` and load it, or raise ModelRefused."""
    fixed, spec = fix_model(data, model, shapes)
    return OrtEngine(fixed, model, threads, spec)


class Binding:
    """One run's memory: keeps the arrays alive that ONNX Runtime knows by address only."""

    def __init__(
        self,
        io: "onnxruntime.IOBinding",
        inputs: Sequence[Array],
        outputs: Sequence[Array | None],
    ) -> None:
        self.io, self.inputs, self.outputs = io, tuple(inputs), tuple(outputs)
        self.own = [i for i, output in enumerate(outputs) if output is None]
        self.proven = False  # has a run been seen to write where it should?


class OrtEngine:
    """One model in ONNX Runtime; see `engine.base.Engine`.

    `data` and `spec` are `fix_model`'s. The engine's own spec has −1 where the file declares an
    output size that ONNX Runtime does not believe.
    """

    def __init__(self, data: bytes, model: str, threads: int, spec: ModelSpec) -> None:
        assert threads >= 1, "a lane has at least one core"
        self._runtime = runtime()
        self._session = _session(self._runtime, data, model, threads)
        self._current: tuple[int, onnxruntime.RunOptions] | None = None
        self.spec = ModelSpec(spec.inputs, _believed(spec.outputs, self._session))

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array | None]) -> Binding:
        """Prepare runs on the given memory; refuse arrays that do not fit the spec."""
        io = self._session.io_binding()
        for tensor, array in zip(self.spec.inputs, inputs, strict=True):
            io.bind_input(*_place(tensor, array))
        for tensor, output in zip(self.spec.outputs, outputs, strict=True):
            if output is None:
                io.bind_output(tensor.name)
            else:
                io.bind_output(*_place(tensor, output))
        return Binding(io, inputs, outputs)

    def run(self, binding: Binding, ticket: int) -> list[Array | None]:
        """Run once in the bound memory; raise RunAborted or RunFailed when that is how it ends."""
        options = self._options()
        self._current = (ticket, options)
        try:
            self._session.run_with_iobinding(binding.io, options)
        except Exception as error:  # noqa: BLE001 - the runtime's errors share no other base
            if options.terminate:
                raise RunAborted(f"run {ticket} was aborted") from None
            raise RunFailed(words_of(error, _NOISE)) from None
        if not binding.proven:
            _prove(binding, self.spec.outputs)
        return self._own_outputs(binding) if binding.own else [None] * len(binding.outputs)

    def abort(self, ticket: int) -> None:
        """End the run `ticket` at its next operator, if it is the one in progress."""
        # No lock: each run has options of its own, so a late abort hits a run that has ended.
        current = self._current
        if current is not None and current[0] == ticket:
            current[1].terminate = True

    def warm_up(self, runs: int) -> list[int]:
        """Run on zeros; return each run's nanoseconds."""
        return warm_up(self, runs)

    def _own_outputs(self, binding: Binding) -> list[Array | None]:
        """Take the outputs that ONNX Runtime allocated, and let it allocate new ones next time."""
        values = binding.io.get_outputs()
        taken: list[Array | None] = [None] * len(values)
        for i in binding.own:
            taken[i] = values[i].numpy()
            binding.io.bind_output(self.spec.outputs[i].name)
        return taken

    def _options(self) -> "onnxruntime.RunOptions":
        options = self._runtime.RunOptions()
        options.log_severity_level = _NOTHING  # a failed run is told by its exception, once
        # Says "no GPU graph capture"; unsaid, the wrapper finds out by an exception worth 30 µs.
        options.add_run_config_entry("gpu_graph_id", "-1")
        return options


def _session(
    ort: ModuleType, data: bytes, model: str, threads: int
) -> "onnxruntime.InferenceSession":
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = True
    options.log_severity_level = _ERRORS_ONLY
    # A spinning thread would burn the lane's cores between runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(
            data,
            options,
            providers=_CPU,
            enable_fallback=0,  # the fallback prints, and tries the same provider again
            read_config_from_model=0,  # a model does not choose its threads
        )
    except Exception as error:  # noqa: BLE001 - the runtime's errors share no other base
        text = words_of(error, _NOISE)
        remedy = next((r for part, r in _LOAD_REMEDIES if part in str(error)), _ANY_FAULT)
        problem = f"ONNX Runtime {ort.__version__} cannot load it ({text})"
        raise ModelRefused(model, problem, f"{remedy}.") from None
    session._model_bytes = None  # noqa: SLF001 - else the file stays in memory beside the model
    return session


def _believed(
    outputs: Sequence[TensorSpec], session: "onnxruntime.InferenceSession"
) -> tuple[TensorSpec, ...]:
    """Return the outputs with the sizes that ONNX Runtime has found; −1 where it found none."""
    believed = []
    for tensor, found in zip(outputs, session.get_outputs(), strict=True):
        shape = tuple(d if isinstance(d, int) and d > 0 else -1 for d in found.shape)
        believed.append(TensorSpec(tensor.name, tensor.datatype, shape))
    return tuple(believed)


def _place(tensor: TensorSpec, array: Array) -> tuple[str, str, int, int, tuple[int, ...], int]:
    """Return where an array lies; ONNX Runtime takes the address on trust, so check it here."""
    check_fits(tensor, array)
    element = ELEMENT_OF[tensor.datatype]
    return tensor.name, "cpu", 0, element, array.shape, array.ctypes.data


def _prove(binding: Binding, outputs: Sequence[TensorSpec]) -> None:
    """Check once that the bound outputs were written in place, or raise RunFailed."""
    for tensor, output, value in zip(
        outputs, binding.outputs, binding.io.get_outputs(), strict=True
    ):
        if output is not None and value.data_ptr() != output.ctypes.data:
            raise RunFailed(f"output {tensor.name!r} was not written where it was bound")
    binding.proven = True
