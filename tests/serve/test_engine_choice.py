"""A ladder whose variants name different engines, loaded in a process of its own as a worker's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

LADDER = """
import json, os, sys
import numpy as np
import toy_models
from tidsram.serve.ladder import Ladder
from tidsram.serve.messages import Load, Model

KEEP_OUT, CORES, START_ON, MODELS = json.loads(sys.argv[1])
if KEEP_OUT:
    sys.modules["openvino"] = None
os.sched_setaffinity(0, START_ON)
fds = []
for name, *_ in MODELS:
    fds.append(os.memfd_create(name))
    os.write(fds[-1], toy_models.tiny())
models = tuple(Model(rung, *told) for rung, told in enumerate(MODELS))
load = Load("gauge", models, len(models), {}, tuple(CORES), tuple(START_ON), None, True)
ladder = Ladder(load, fds)
answers = {}
for rung, engine in ladder.engines.items():
    inputs = [np.full(t.shape, 3, np.float32) for t in engine.spec.inputs]
    answers[rung] = [float(a.ravel()[0]) for a in engine.run(engine.bind(inputs, [None]), 1)]
print(json.dumps({
    "answers": answers,
    "left_out": dict(ladder.verdict.left_out),
    "engines": [type(engine).__name__ for engine in ladder.engines.values()],
    "imported": [name for name in ("onnxruntime", "openvino") if sys.modules.get(name)],
    "threads": [
        engine._compiled.get_property("INFERENCE_NUM_THREADS")
        for engine in ladder.engines.values() if hasattr(engine, "_compiled")
    ],
    "on": sorted(os.sched_getaffinity(0)),
}))
"""


def load_ladder(models, *, keep_out=False, cores=None, start_on=None):
    """Load variants, given as name, engine, precision, threads; return what became of them."""
    cores = cores or [min(os.sched_getaffinity(0))]
    told = json.dumps([keep_out, cores, start_on or cores, models])
    environment = os.environ | {"PYTHONPATH": str(TESTS / "e2e")}
    done = subprocess.run(
        [sys.executable, "-c", LADDER, told],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_variants_of_one_decision_may_run_on_different_engines():
    """Load the same model on both; each rung has the engine that it names and the same answer."""
    found = load_ladder([("first", "openvino", "f32", 1), ("second", "onnxruntime", "", 0)])

    assert found["engines"] == ["OpenVinoEngine", "OrtEngine"]
    assert found["left_out"] == {}
    assert found["answers"]["0"] == found["answers"]["1"]


def test_a_worker_imports_no_engine_that_its_ladder_does_not_name():
    """Load a ladder of each; the other runtime's import costs memory and time for nothing."""
    assert load_ladder([("only", "openvino", "", 0)])["imported"] == ["openvino"]
    assert load_ladder([("only", "onnxruntime", "", 0)])["imported"] == ["onnxruntime"]


def test_without_openvino_the_ladder_goes_on_with_the_other_variants():
    """Keep the package out: its variant is left out, with the line that installs it."""
    found = load_ladder(
        [("first", "openvino", "", 0), ("second", "onnxruntime", "", 0)], keep_out=True
    )

    assert list(found["answers"]) == ["1"]
    assert "pip install 'tidsram[openvino]'" in found["left_out"]["first"]


def test_openvino_takes_the_lanes_cores_wherever_it_loads():
    """Load on one core for a lane of two, as beside a running node; then be on that one again."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        pytest.skip("needs two cores")
    models = [("all", "openvino", "", 0), ("one", "openvino", "", 1), ("more", "openvino", "", 9)]

    found = load_ladder(models, cores=cores, start_on=cores[:1])

    assert found["threads"] == [2, 1, 2]
    assert found["on"] == cores[:1]
