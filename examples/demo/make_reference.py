"""Write down what the lab's models find in the demo's pictures.

    python examples/demo/make_reference.py

Writes obstacle/lab_boxes.json and tissue/lab_mask.png beside this file. The models, and how they
are asked, are those that the bundles are made from.
"""

import io
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
from PIL import Image

from tidsram.client.answer import Boxes, Mask, Reading, read
from tidsram.client.question import tensors
from tidsram.demo.material import CORE, Chips
from tidsram.estate.load import load_estate
from tidsram.estate.types import Decision

HERE = Path(__file__).parent
BUNDLES = HERE.parent / "bundles"


def ask(session: onnxruntime.InferenceSession, decision: Decision, image: Image.Image) -> Reading:
    """Run the model on one image and read its answer the way the demo does."""
    (tensor,) = tensors(decision.question, [image])
    names = [output.name for output in session.get_outputs()]
    outputs = dict(
        zip(names, session.run(None, {session.get_inputs()[0].name: tensor}), strict=True)
    )
    return read(decision.answer, outputs, image.size, decision.question.size)


def main() -> None:
    """Ask both lab models everything."""
    decisions = load_estate(BUNDLES / "tidsram.toml").decisions

    obstacle = decisions["obstacle"]
    session = onnxruntime.InferenceSession(BUNDLES / obstacle.ladder[0].model)
    found = {}
    for file in sorted((HERE / "obstacle" / "frames").glob("*.jpg")):
        reading = ask(session, obstacle, Image.open(io.BytesIO(file.read_bytes())))
        assert isinstance(reading, Boxes)
        found[file.stem] = [
            msgspec.structs.replace(
                box,
                x1=round(box.x1, 1),
                y1=round(box.y1, 1),
                x2=round(box.x2, 1),
                y2=round(box.y2, 1),
                score=round(box.score, 3),
            )
            for box in reading.boxes
        ]
    text = ",\n".join(
        f'"{stem}": {msgspec.json.encode(boxes).decode()}' for stem, boxes in found.items()
    )
    (HERE / "obstacle" / "lab_boxes.json").write_text("{\n" + text + "\n}\n")

    tissue = decisions["tissue"]
    session = onnxruntime.InferenceSession(BUNDLES / tissue.ladder[0].model)
    chips = Chips(HERE / "tissue")
    mask = np.zeros((chips.rows * CORE, chips.columns * CORE), np.bool_)
    for index in range(chips.count):
        reading = ask(session, tissue, chips.images(index)[0])
        assert isinstance(reading, Mask)
        left, top = chips.corner(index)
        mask[top : top + CORE, left : left + CORE] = reading.pixels
    Image.fromarray(mask).save(HERE / "tissue" / "lab_mask.png", optimize=True)


if __name__ == "__main__":
    main()
