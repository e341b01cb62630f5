"""The int8 form: near the float model, the same every time, and refused where there is none."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_nets
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import image_net, padded_pool, picture

from tidsram.engine import ort
from tidsram.lab.quantise import CannotQuantise, int8, layers_of, quantises

MODELS = Path(__file__).parents[2] / "models"
SAMPLES = [{"x": picture(seed=seed)} for seed in range(4)]
# Ends with a layer, so that both of the net's convolutions may be quantised.
ENDS = [small_nets.pooled, padded_pool()]


def answer(data, image) -> np.ndarray:
    engine = ort.load(data, "net", 1)
    output = np.zeros(engine.spec.outputs[0].shape, np.float32)
    engine.run(engine.bind([image], [output]), 0)
    return output


def reason(data, scratch, samples=SAMPLES, **options) -> str:
    with pytest.raises(CannotQuantise) as refused:
        int8(data, "net.onnx", samples, scratch, **options)
    assert str(refused.value) == f"model net.onnx has no int8 form: {refused.value.reason}."
    return refused.value.reason


def already_quantised(data) -> bool:
    return quantises(node.op_type for node in onnx.ModelProto.FromString(data).graph.node)


def integer_layers(data) -> set[str]:
    """Return the layers whose weights are stored in 8 bits."""
    graph = onnx.ModelProto.FromString(data).graph
    stored = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    layers = [n for n in graph.node if n.op_type in ("Conv", "Gemm")]
    return {n.name for n in layers if n.input[1] in stored}


@given(st.sampled_from(ENDS), st.integers(4, 100))
@settings(max_examples=12, deadline=None)
def test_int8_answers_nearly_as_the_float_model(end, seed):
    """Calibrate on four pictures, ask about another, and compare with the answer's own spread."""
    data, image = image_net(end), picture(seed=seed)

    with tempfile.TemporaryDirectory() as scratch:
        quantised = int8(data, "net", SAMPLES, Path(scratch))

    expected, found = answer(data, image), answer(quantised, image)
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    assert already_quantised(quantised)
    assert not already_quantised(data)


def test_padding_with_minus_infinity_does_not_spoil_the_ranges(tmp_path):
    """Pad before the pool as exporters do; with the pad left, all that is real rounds to zero."""
    for filling in (-np.inf, float(np.finfo(np.float32).min)):
        quantised = int8(image_net(padded_pool(filling)), "net", SAMPLES, tmp_path)

        graph = onnx.ModelProto.FromString(quantised).graph
        assert not [n for n in graph.node if n.op_type == "Pad"]
        assert integer_layers(quantised) == {"first", "second"}


def test_padding_that_a_maximum_could_see_stays(tmp_path):
    """Pad with zeros: merged into the pool, negative neighbours would win."""
    data = image_net(padded_pool(0.0))

    quantised = int8(data, "net", SAMPLES, tmp_path)

    expected, found = answer(data, SAMPLES[0]["x"]), answer(quantised, SAMPLES[0]["x"])
    assert [n for n in onnx.ModelProto.FromString(quantised).graph.node if n.op_type == "Pad"]
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_the_last_layer_stays_in_float_and_so_does_what_is_excluded(tmp_path):
    """See which layers' weights are stored in 8 bits, with and without an exclusion."""
    data = image_net(padded_pool())

    assert integer_layers(int8(data, "net", SAMPLES, tmp_path)) == {"first", "second"}
    without_first = int8(data, "net", SAMPLES, tmp_path, exclude=layers_of(data)[:1])
    assert integer_layers(without_first) == {"second"}


def test_an_answer_beyond_all_samples_is_not_cut_off(tmp_path):
    """Calibrate on nearly black pictures, then ask about one that is brighter than its range."""
    data, dark = image_net(padded_pool()), [{"x": picture(seed=s) * 0.5} for s in range(4)]
    ordinary = max(float(answer(data, s["x"]).max()) for s in dark)

    bright = answer(int8(data, "net", dark, tmp_path), picture(seed=9))

    assert bright.max() > 1.2 * ordinary


def test_a_layer_that_sees_no_finite_number_stays_in_float(tmp_path):
    """Let one sample make the second layer's tensors infinite."""
    samples = [{"x": np.full((1, 3, 64, 64), 3e38, np.float32)}]

    assert "no layer" in reason(image_net(padded_pool()), tmp_path, samples)


_DIGESTS = """
import hashlib, json, sys, tempfile
from pathlib import Path
import small_nets
from tidsram.lab.optimise import optimised
from tidsram.lab.quantise import int8
from tidsram.lab.resize import resized
data = small_nets.image_net(small_nets.padded_pool())
samples = [{"x": small_nets.picture(seed=seed)} for seed in range(4)]
with tempfile.TemporaryDirectory() as scratch:
    forms = [
        optimised(data, "net", Path(scratch)),
        int8(data, "net", samples, Path(scratch)),
        resized(data, "net", (32, 32), "nchw"),
    ]
print(json.dumps([hashlib.sha256(form).hexdigest() for form in forms]))
"""


def test_every_form_has_the_same_bytes_in_any_process():
    """Make all forms in two processes whose hashes of text, and so whose sets, are ordered apart.

    No date, path or random name may be in them either, and nothing is said on the way.
    """
    found = []
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)}
        run = subprocess.run(
            [sys.executable, "-c", _DIGESTS], env=env, capture_output=True, text=True, check=True
        )
        assert run.stderr == ""
        found.append(json.loads(run.stdout))

    assert found[0] == found[1]
    assert len(set(found[0])) == len(found[0])


def test_nothing_is_left_behind_or_written_elsewhere(tmp_path, monkeypatch):
    """Take the usual place for temporary files away, and look at what the making leaves."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.chdir(tmp_path)

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
        int8(image_net(small_nets.pooled), "net", SAMPLES, scratch)

    assert list(tmp_path.rglob("*")) == [scratch]


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([], "there is no sample to measure its ranges on"),
        ([{"y": picture()}], "its input 'x' is float32 [1, 3, 64, 64], and a sample has none"),
        ([{"x": picture((32, 32))}], "and a sample has float32 [1, 3, 32, 32]"),
        ([{"x": picture().astype(np.float64)}], "and a sample has float64 [1, 3, 64, 64]"),
    ],
)
def test_samples_that_do_not_fit_are_refused(samples, words, tmp_path):
    """Give none, one for another input, one of another size and one of another type."""
    assert words in reason(image_net(small_nets.pooled), tmp_path, samples)


def test_a_model_without_an_int8_form_is_refused(tmp_path):
    """Give a quantised model, an old one, one without layers to spare, and a wrong exclusion."""
    real = (MODELS / "inspection" / "pcb_defect_fcn16_320_int8.onnx").read_bytes()
    body = onnx.helper.make_graph(
        [small_nets.node("Relu", ["x"], ["y"])],
        "g",
        [small_nets.value("x", small_nets.F32, [1, 4])],
        [small_nets.value("y", small_nets.F32, [1, 4])],
    )
    net = image_net(small_nets.pooled)

    assert already_quantised(real)
    assert "quantised already" in reason(real, tmp_path)
    assert "opset 12" in reason(image_net(small_nets.pooled, opset=12), tmp_path)
    assert "no layer" in reason(
        small_nets.model_of(body), tmp_path, [{"x": np.ones((1, 4), np.float32)}]
    )
    assert "no node 'third'" in reason(net, tmp_path, exclude=["third"])


def test_the_same_samples_in_another_order_give_the_same_bytes(tmp_path):
    """Ranges are extremes, which no order changes."""
    data = image_net(small_nets.pooled)

    forms = [int8(data, "net", samples, tmp_path) for samples in (SAMPLES, SAMPLES[::-1])]

    assert len({hashlib.sha256(form).hexdigest() for form in forms}) == 1
