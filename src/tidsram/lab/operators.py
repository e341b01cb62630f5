"""Find a model's longest operator: a run can be stopped between operators, never within one."""

import errno
import json
import os
from pathlib import Path

import numpy as np

from tidsram.engine.inspect import Shapes, fix_model
from tidsram.engine.memory import dtype_of
from tidsram.engine.ort import runtime
from tidsram.units import US

RUNS = 20


def longest_operator(
    data: bytes, name: str, threads: int, scratch: Path, shapes: Shapes | None = None
) -> tuple[str, int]:
    """Return the operator with the longest median of RUNS runs on zeros, and its ns.

    ONNX Runtime counts for itself and writes what it counted to a file in `scratch`.
    """
    fixed, spec = fix_model(data, name, shapes)
    ort = runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.enable_profiling = True
    options.profile_file_prefix = str(scratch / "operators")
    options.log_severity_level = 3
    session = ort.InferenceSession(fixed, options, providers=["CPUExecutionProvider"])
    zeros = {tensor.name: np.zeros(tensor.shape, dtype_of(tensor)) for tensor in spec.inputs}
    session.run(None, zeros)
    for _ in range(RUNS):
        session.run(None, zeros)
    file = Path(session.end_profiling())
    try:
        return _longest(json.loads(file.read_bytes()))
    except ValueError:
        # ONNX Runtime does not say when it could write no more than the beginning.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
    finally:
        file.unlink(missing_ok=True)


def _longest(events: list[dict[str, object]]) -> tuple[str, int]:
    """Return the operator with the largest median of its runs: one of them may meet a hiccup."""
    by_operator: dict[str, list[int]] = {}
    for event in events:
        told = str(event.get("name", ""))
        if event.get("cat") == "Node" and told.endswith("_kernel_time"):
            took = event["dur"]
            assert isinstance(took, int), "ONNX Runtime writes whole microseconds"
            by_operator.setdefault(told.removesuffix("_kernel_time"), []).append(took)
    if not by_operator:
        return "", 0
    medians = {name: sorted(took)[len(took) // 2] for name, took in by_operator.items()}
    longest = max(medians, key=lambda name: medians[name])
    return longest, medians[longest] * US
