"""Write down what the lab's models find in the demo's pictures: the demo ships no large models.

    python examples/demo/make_reference.py nanodet_g_416_fp32.onnx cbc_wbc_unet_188_fp32.onnx

Writes obstacle/lab_boxes.json and tissue/lab_mask.png beside this file.
"""

import io
import sys
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
    decisions = load_estate(HERE / "tidsram.toml").decisions

    session = onnxruntime.InferenceSession(sys.argv[1])
    side = session.get_inputs()[0].shape[2]  # the lab's model looks closer than the served one
    question = msgspec.structs.replace(decisions["obstacle"].question, size=(side, side))
    obstacle = msgspec.structs.replace(decisions["obstacle"], question=question)
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

    session = onnxruntime.InferenceSession(sys.argv[2])
    chips = Chips(HERE / "tissue")
    mask = np.zeros((chips.rows * CORE, chips.columns * CORE), np.bool_)
    for index in range(chips.count):
        reading = ask(session, decisions["tissue"], chips.images(index)[0])
        assert isinstance(reading, Mask)
        left, top = chips.corner(index)
        mask[top : top + CORE, left : left + CORE] = reading.pixels
    Image.fromarray(mask).save(HERE / "tissue" / "lab_mask.png", optimize=True)


if __name__ == "__main__":
    main()
