"""Which engine runs a variant. An engine that no variant names is never imported."""

from tidsram.engine.base import Engine
from tidsram.engine.openvino import OpenVinoEngine
from tidsram.engine.ort import OrtEngine
from tidsram.errors import ModelRefused
from tidsram.protocol.tensors import ModelSpec


def load_engine(
    engine: str, precision: str, data: bytes, model: str, threads: int, spec: ModelSpec
) -> Engine:
    """Load a variant on the engine it names, or raise ModelRefused. The rest is `fix_model`'s."""
    if engine == "openvino":
        return OpenVinoEngine(data, model, threads, spec, precision)
    if precision not in ("", "f32"):
        raise ModelRefused(
            model,
            f"ONNX Runtime computes in the model's own types and knows no precision {precision!r}",
            'Leave `precision` out, or name an engine that has it: `engine = "openvino"`.',
        )
    return OrtEngine(data, model, threads, spec)
