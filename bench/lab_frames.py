"""A raw frame beside separate processing: the same int8 weights, asked in both ways.

Raw: the frame as it is goes to a node, and the finished rows come back. Separate: the asker's side
(pillow and numpy, `tidsram.client`) makes the model's input before and reads its outputs after. One
node has both on one lane; an asker on the other core asks one question both ways, in turn. The
picture is decoded already: that is the same for both.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from bench.lab_models import data_of, declared, source_of, spread
from bench.loadgen import percentiles
from bench.machine import ASKER_CORE, LANE_CORE, settled
from bench.servers import Server
from tidsram.client.answer import Reading, read
from tidsram.client.connection import Connection
from tidsram.client.question import tensors
from tidsram.engine.choose import load_engine
from tidsram.engine.inspect import fix_model
from tidsram.estate.types import Answer, Question
from tidsram.lab.data import Sample, evenly, prepared
from tidsram.lab.fuse import fuse
from tidsram.lab.make import CALIBRATE
from tidsram.lab.optimise import optimised
from tidsram.lab.quantise import int8
from tidsram.lab.validate import Candidate, Reference, consult, weigh
from tidsram.outcome import Outcome
from tidsram.protocol.tensors import TensorSpec
from tidsram.units import US

WARM_UP = 5  # questions each way
PARTS = ("whole", "prepare", "node", "run", "read")  # node: from send to answer in hand, run in it


@dataclass(frozen=True)
class Way:
    """One way to ask: a model file, and the tables by which its asker prepares and reads."""

    name: str
    model: Path
    question: Question
    answer: Answer

    @cached_property
    def input(self) -> TensorSpec:
        """What the model takes."""
        return fix_model(self.model.read_bytes(), self.name)[1].inputs[0]


class BothWays(Server):
    """A node with both on one lane."""

    name = "tidsram-frames"

    def __init__(self, ways: Sequence[Way], folder: Path) -> None:
        super().__init__()
        self.unix = str(folder / "node.sock")
        self._estate = folder / "tidsram.toml"
        tables = [
            f'[estate]\nname = "bench"\nstate = "{folder}"',
            f'[site.here]\nhardware = "box"\n[hardware.box]\nlanes = [{{ cores = [{LANE_CORE}] }}]',
        ]
        tables += [
            f'[decision.{way.name}]\nbundle = "{way.model}"\nbudget = "10 s"\n' for way in ways
        ]
        self._estate.write_text("\n".join(tables))

    def command(self) -> Sequence[str]:
        """Return the command that serves the estate."""
        return [
            *(sys.executable, "-m", "tidsram", "serve", "-f", str(self._estate)),
            *("--http", self.address, "--unix", str(self.unix)),
        ]


def raw_and_separate(
    name: str, data: Path, scratch: Path, questions: int, blocks: int
) -> dict[str, Any]:
    """Ask `questions` different questions both ways, `blocks` times, and score both."""
    folder = scratch / f"{name}-frames"
    folder.mkdir()
    samples, reference, ways = _prepare(name, data, folder, questions)
    images = [_images(sample) for sample in samples]
    with BothWays(ways, folder) as node, ExitStack() as stack:
        connection = stack.enter_context(Connection(f"unix:{node.unix}"))
        stack.enter_context(settled(ASKER_CORE))
        for way in ways:
            for _ in range(WARM_UP):
                _ask(connection, way, images[0])
        told = [_block(connection, ways, images) for _ in range(blocks)]
    rows = [_row(way.name, reference, [block[way.name] for block in told]) for way in ways]
    raw, separate = rows
    result: dict[str, Any] = {
        "decision": name,
        "questions": len(samples),
        "rows": rows,
        "whole_ratio": spread([_median(b, "raw") / _median(b, "separate") for b in told]),
        "accuracy_ratio": {
            against: raw["scores"][against] / value for against, value in separate["scores"].items()
        },
    }
    print(
        f"{name}: raw frame {result['whole_ratio']['median']:.3f} × the whole time of separate "
        f"processing, accuracy {result['accuracy_ratio']}",
        file=sys.stderr,
        flush=True,
    )
    return result


def _prepare(
    name: str, data: Path, folder: Path, questions: int
) -> tuple[tuple[Sample, ...], Reference, list[Way]]:
    """Make the int8 form, alone and fused, and ask the original about the samples."""
    decision = declared(name)
    question, answer = decision.question, decision.answer
    assert question is not None, "the examples declare how they are asked"
    assert answer is not None, "and how they are answered"
    source = source_of(name).read_bytes()
    fixed, spec = fix_model(source, name)
    split = data_of(name, data, most=questions + CALIBRATE).split(CALIBRATE)
    calibration = (prepared(s, spec.inputs, question).inputs for s in split.calibration)
    inner = int8(source, name, calibration, folder)
    samples = evenly(split.validation, questions)
    made = fuse(inner, name, question, answer, samples[0].size)
    assert made.question is not None, "the question's table was fused"
    assert made.answer is not None, "and the answer's"
    files = {"raw": optimised(made.data, name, folder), "separate": optimised(inner, name, folder)}
    for way, content in files.items():
        (folder / f"{way}.onnx").write_bytes(content)
    original = Candidate(
        name=name,
        load=lambda: load_engine("onnxruntime", "", fixed, name, 1, spec),
        question=question,
        answer=answer,
    )
    ways = [
        Way("raw", folder / "raw.onnx", made.question, made.answer),
        Way("separate", folder / "separate.onnx", question, answer),
    ]
    return samples, consult(original, samples), ways


def _images(sample: Sample) -> list[Image.Image]:
    images: list[Image.Image] = [Image.open(file) for file in sample.files]
    for image in images:
        image.load()
    return images


Told = tuple[dict[str, int], Reading]
Block = Mapping[str, list[Told]]  # by way


def _block(
    connection: Connection, ways: Sequence[Way], images: Sequence[list[Image.Image]]
) -> Block:
    told: dict[str, list[Told]] = {way.name: [] for way in ways}
    for number, pictures in enumerate(images):
        for way in ways if number % 2 else ways[::-1]:
            told[way.name].append(_ask(connection, way, pictures))
    return told


def _ask(connection: Connection, way: Way, images: Sequence[Image.Image]) -> Told:
    """Ask one question; return the parts of its time in ns, and its answer."""
    begun = time.perf_counter_ns()
    (made,) = tensors(way.question, images, way.input.datatype)
    prepared_at = time.perf_counter_ns()
    reply = connection.ask(way.name, {way.input.name: made})
    replied_at = time.perf_counter_ns()
    if reply.outcome is not Outcome.ANSWERED:
        raise SystemExit(f"{way.name} gave no answer: {reply.text}")
    question = way.question
    reading = read(way.answer, reply.outputs, images[0].size, question.size, question.fit)
    ended = time.perf_counter_ns()
    parts = {
        "whole": ended - begun,
        "prepare": prepared_at - begun,
        "node": replied_at - prepared_at,
        "run": reply.parameters.stages_us["run"] * US,
        "read": ended - replied_at,
    }
    return parts, reading


def _median(block: Block, way: str) -> float:
    return median(parts["whole"] for parts, _ in block[way])


def _row(name: str, reference: Reference, blocks: Sequence[Sequence[Told]]) -> dict[str, Any]:
    judged = weigh(reference, name, [reading for _, reading in blocks[0]], floor=0.0)
    parts = [told for block in blocks for told, _ in block]
    return {
        "way": name,
        "scores": {score.against: score.value for score in judged.scores},
        "metric": judged.scores[0].metric,
        **{
            key: us
            for part in PARTS
            for key, us in percentiles(part, np.array([told[part] for told in parts])).items()
        },
    }
