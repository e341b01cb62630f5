"""`tidsram init`: write a commented estate to start from."""

import json
from pathlib import Path

from tidsram.errors import EstateError

STARTER = """\
# An estate: the decisions you need answers from, and the time each answer may take.
# `tidsram check` explains this file, `tidsram serve` runs it.

[estate]
name = "my-estate"
state = ".tidsram"              # everything that tidsram writes goes here

[site.local]
http = "127.0.0.1:8700"         # Open Inference Protocol; a Unix socket is opened in `state` too
# hardware = "edge"             # its lanes are declared at the end of this file

# A decision is a kind of question. Its name is the model name that askers use.
[decision.my]
bundle = "models/my.onnx"       # the model, relative to this file
budget = "100 ms"               # from the moment the question arose to the answer in hand
objective = 0.99                # the share that must be answered within the budget
criticality = "standard"        # or critical, best-effort: who goes first when time is short
arrivals = { kind = "periodic", rate = "10/s" } # or poisson, or gamma with its cv; what the
                                # promise is made for; burst = 5 says how many may come at once
queue = "edf"                   # or newest: of each stream only the newest waiting question counts
# safe_action = { brake = true }            # what the asker does when no answer comes in time
# shapes = { images = [1, 3, 320, 320] }    # where the model leaves an input's size open

# In place of bundle, several variants of one model. The most accurate that fits the time answers,
# and none below the floor.
#   accuracy_floor = 0.75
#   [decision.my.variants.fp32]
#   model = "models/my-fp32.onnx"
#   accuracy = 0.90             # the share that it gets right, by your own measure
#   [decision.my.variants.int8]
#   model = "models/my-int8.onnx"
#   accuracy = 0.88

# How raw files become the model's input and its output an answer, on the asker's side.
# [decision.my.question]
# kind = "image"
# size = [320, 320]             # width, height
# color = "rgb"                 # or bgr, gray
# mean = [123.675, 116.28, 103.53]          # (pixel − mean) ÷ std
# std = [58.395, 57.12, 57.375]
# layout = "nchw"               # or nhwc
#
# [decision.my.answer]
# kind = "class"                # or boxes (with a decoder), mask, tensor
# labels = ["no", "yes"]

# Without a hardware type, a node has one lane for each core but the first.
# [hardware.edge]
# lanes = [{ cores = [1] }]     # each lane runs one inference at a time on cores of its own
# scheduling = "auto"           # or fifo, nice
# memory = "8 GiB"              # how much of the machine's memory a node may take; else all of it
"""


def run(*, file: Path, as_json: bool) -> int:
    """Write the starter estate to `file`, which must not exist."""
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(STARTER)
    except FileExistsError:
        problem = "is there already and is never overwritten; name another file with -f"
        raise EstateError(str(file), problem) from None
    except OSError as error:
        raise EstateError(str(file), f"cannot be written: {error.strerror or error}") from None
    if as_json:
        print(json.dumps({"file": str(file)}, ensure_ascii=False))
    else:
        print(f"Wrote {file}. Put your model where bundle says, then run `tidsram check`.")
    return 0
