"""Models with their processing built in answer as they do with it beside them."""

from pathlib import Path

import numpy as np
import pytest

from tidsram.client.answer import read
from tidsram.client.question import tensors
from tidsram.demo.material import load_material
from tidsram.engine import ort
from tidsram.estate.load import load_estate
from tidsram.lab.fuse import fuse

EXAMPLES = Path(__file__).parents[2] / "examples"
DEMO, BUNDLES = EXAMPLES / "demo", EXAMPLES / "bundles"
DECISIONS = load_estate(BUNDLES / "tidsram.toml").decisions


class Pair:
    """One decision asked both ways: pillow, model, numpy; and frame in, answer out."""

    def __init__(self, name):
        decision = DECISIONS[name]
        self.question, self.answer = decision.question, decision.answer
        self.material = load_material(decision, DEMO)
        self.frame = self.material.image_size
        model = (BUNDLES / decision.ladder[0].model).read_bytes()
        self.fused = fuse(model, name, self.question, self.answer, self.frame)
        self._separate = ort.load(model, name, 1)
        self._engine = ort.load(self.fused.data, name, 1)

    def apart(self, images):
        (tensor,) = tensors(self.question, images)
        outputs = run(self._separate, tensor)
        return read(self.answer, outputs, self.frame, self.question.size)

    def together(self, images):
        (frame,) = tensors(self.fused.question, images, "UINT8")
        return read(self.fused.answer, run(self._engine, frame), self.frame)


def run(engine, tensor):
    inputs = [np.ascontiguousarray(tensor)]
    outputs = [np.zeros(t.shape, np.uint8 if t.datatype == "UINT8" else np.float32)
               for t in engine.spec.outputs]  # fmt: skip
    engine.run(engine.bind(inputs, outputs), 1)
    return {
        tensor.name: output for tensor, output in zip(engine.spec.outputs, outputs, strict=True)
    }


def overlap(a, b):
    width = min(a.x2, b.x2) - max(a.x1, b.x1)
    height = min(a.y2, b.y2) - max(a.y1, b.y1)
    common = max(width, 0) * max(height, 0)
    areas = (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1)
    return common / (areas - common)


def agreement(pairs):
    """F1 of the boxes found both ways: one label, intersection over union at least 0.5."""
    same = total = 0
    for one, other in pairs:
        free = list(other.boxes)
        for box in one.boxes:
            match = next((b for b in free if b.label == box.label and overlap(b, box) >= 0.5), None)
            if match is not None:
                free.remove(match)
                same += 1
        total += len(one.boxes) + len(other.boxes)
    return 2 * same / total


def test_obstacles_are_the_same_boxes():
    """Ask about every twelfth frame both ways."""
    pair = Pair("obstacle")
    questions = [pair.material.images(index) for index in range(0, pair.material.count, 12)]

    found = agreement([(pair.apart(images), pair.together(images)) for images in questions])

    assert pair.fused.answer.decoder == "rows"
    assert found >= 0.95


def test_tissue_is_the_same_mask():
    """Ask about every chip both ways: most show no white cell."""
    pair = Pair("tissue")
    both = either = 0
    for index in range(pair.material.count):
        images = pair.material.images(index)
        apart, together = pair.apart(images), pair.together(images)
        assert apart.inside == together.inside
        both += np.count_nonzero(apart.pixels & together.pixels)
        either += np.count_nonzero(apart.pixels | together.pixels)

    assert both / either >= 0.98


def test_defects_are_found_as_well_as_before():
    """Score both ways against the labels, and against each other, on half of the boards."""
    pair = Pair("inspection")
    indices = range(0, pair.material.count, 2)
    questions = {index: pair.material.images(index) for index in indices}

    apart = {index: pair.apart(images) for index, images in questions.items()}
    together = {index: pair.together(images) for index, images in questions.items()}

    assert agreement([(apart[index], together[index]) for index in indices]) >= 0.95
    before = pair.material.score(list(apart.items())).measures
    after = pair.material.score(list(together.items())).measures
    for measure, value in before.items():
        assert after[measure] == pytest.approx(value, abs=0.03)


def test_a_fused_model_is_asked_with_the_frame_as_it_is():
    """What is left for the asker's side is the frame's size: no float, no colour, no decoding."""
    pair = Pair("inspection")

    (tensor,) = ort.load(pair.fused.data, "inspection", 1).spec.inputs

    assert (tensor.name, tensor.datatype, tensor.shape) == ("frame", "UINT8", (1, 640, 640, 2))
    question = pair.fused.question
    assert (question.size, question.color, question.images) == ((640, 640), "gray", 2)
    assert (question.mean, question.std, question.layout) == ((0.0,), (1.0,), "nhwc")
