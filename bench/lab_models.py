"""The example models of the lab's measurement: their data, their fp32 form, one rung alone."""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from msgspec.structs import replace

from tidsram.engine.base import Engine
from tidsram.engine.choose import load_engine
from tidsram.engine.inspect import fix_model
from tidsram.engine.memory import zeros
from tidsram.estate.bundle import VARIANTS, Manifest
from tidsram.estate.load import load_estate
from tidsram.estate.types import Decision
from tidsram.lab.bundle import write_bundle
from tidsram.lab.data import Data, read_data
from tidsram.lab.fuse import fuse
from tidsram.lab.optimise import optimised

ROOT = Path(__file__).parents[1]
MATERIAL = ROOT / "examples" / "bundles"
DEMO = ROOT / "examples" / "demo"
ESTATE = MATERIAL / "tidsram.toml"
NAMES = ("obstacle", "tissue", "inspection")


@dataclass(frozen=True)
class Loaded:
    """A form of a model, loaded as a worker does, on one thread."""

    engine: Engine

    def times_us(self, inputs: Mapping[str, Any], runs: int) -> list[float]:
        """Run it back to back on the same inputs."""
        spec, times = self.engine.spec, []
        bound = [zeros(output) if output.nbytes >= 0 else None for output in spec.outputs]
        binding = self.engine.bind([inputs[tensor.name] for tensor in spec.inputs], bound)
        for _ in range(runs):
            begun = time.perf_counter_ns()
            self.engine.run(binding, 0)
            times.append((time.perf_counter_ns() - begun) / 1e3)
        return times


def loaded(name: str, data: bytes, engine: str = "onnxruntime", precision: str = "") -> Loaded:
    """Load a model."""
    fixed, spec = fix_model(data, name)
    return Loaded(load_engine(engine, precision, fixed, name, 1, spec))


@cache
def declared(name: str) -> Decision:
    """Return the decision that the lab makes the bundle for."""
    return load_estate(ESTATE).decisions[name]


def source_of(name: str) -> Path:
    """Return the model that all forms are made from."""
    return (MATERIAL / declared(name).ladder[0].model).resolve()


def fused_fp32(name: str, manifest: Manifest, scratch: Path) -> Loaded:
    """Make the fp32 form at the model's own size; a ladder may have had no place for it."""
    question, decision = manifest.question, declared(name)
    assert question is not None, "the examples ask about pictures"
    made = fuse(
        source_of(name).read_bytes(), name, decision.question, decision.answer, question.size
    )
    return loaded(name, optimised(made.data, name, scratch))


def make_data(folder: Path) -> None:
    """Write the samples that are cut from larger pictures, as for the bundles."""
    script = MATERIAL / "make_data.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True)


def directory_of(name: str, made: Path) -> Path:
    """Return where the samples of a model lie; `made` is what `make_data` wrote to."""
    places = {"obstacle": DEMO / "obstacle" / "frames", "inspection": DEMO / "inspection"}
    return places.get(name, made / name)


def data_of(name: str, made: Path, most: int) -> Data:
    """Read the samples that a model's forms are made and judged with, `most` of them."""
    labelled = name == "inspection"
    decision, directory = declared(name), directory_of(name, made)
    _, spec = fix_model(source_of(name).read_bytes(), name)
    return read_data(
        directory,
        question=decision.question,
        answer=decision.answer,
        inputs=spec.inputs,
        labels=directory if labelled else None,
        pair=("test", "temp") if labelled else (),
        most=most,
    )


def alone(bundle: Path, manifest: Manifest, variant: str, place: Path) -> Path:
    """Write a bundle whose ladder is one variant of a larger one."""
    ladder = tuple(member for member in manifest.ladder if member.name == variant)
    content = (bundle / VARIANTS / f"{variant}.onnx").read_bytes()
    write_bundle(place, replace(manifest, ladder=ladder), {variant: content})
    return place


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the lowest and the highest."""
    return {"median": median(values), "low": min(values), "high": max(values)}
