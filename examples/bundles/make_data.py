"""Write the samples that two of the example bundles are made with.

Chips of a blood smear, and frames of speech with the state that the detector had reached.
"""

import sys
import wave
from pathlib import Path

import numpy as np

from tidsram.demo.material import Chips
from tidsram.engine.inspect import fix_model
from tidsram.engine.ort import OrtEngine
from tidsram.protocol.tensors import ModelSpec

HERE = Path(__file__).parent
DEMO = HERE.parent / "demo"
VOICE = HERE.parents[1] / "models/voice/silero_vad_openvino_16k.onnx"
FRAME, CONTEXT = 512, 64  # samples at 16 kHz: 32 ms, after 4 ms of the frame before
EVERY = 14  # frames: enough of one minute


def main(out: Path) -> None:
    """Write <out>/tissue/*.png and <out>/voice/*.npz."""
    chips = Chips(DEMO / "tissue")
    (out / "tissue").mkdir(parents=True, exist_ok=True)
    for index in range(chips.count):
        (chip,) = chips.images(index)
        chip.save(out / "tissue" / f"{index:02}.png")
    (out / "voice").mkdir(exist_ok=True)
    for number, (heard, state) in enumerate(_frames()):
        if number % EVERY == 0:
            np.savez(out / "voice" / f"{number:04}.npz", input=heard, state=state)


def _frames() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return every frame of the recording with the state before it."""
    with wave.open(str(HERE / "speech_16k.wav")) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), np.int16) / np.float32(32768)
    data, spec = fix_model(VOICE.read_bytes(), "voice")
    engine = OrtEngine(data, "voice", 1, ModelSpec(spec.inputs, spec.outputs))
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros(CONTEXT, np.float32)
    frames = []
    for begin in range(0, len(sound) - FRAME + 1, FRAME):
        heard = np.concatenate([context, sound[begin : begin + FRAME]])[None]
        frames.append((heard, state))
        speech, after = np.empty((1, 1), np.float32), np.empty((2, 1, 128), np.float32)
        engine.run(engine.bind([heard, state], [speech, after]), 0)
        state, context = after, heard[0, -CONTEXT:]
    return frames


if __name__ == "__main__":
    main(Path(sys.argv[1]))
