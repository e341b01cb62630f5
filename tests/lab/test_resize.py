"""The same net for smaller images: equal to the net made for them, or refused with the reason."""

import math

import numpy as np
import onnx
import pytest
import small_nets
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import RESIZABLE, STRIDE, image_net, model_of, node, picture, value

from tidsram.engine import ort
from tidsram.engine.inspect import inspect_model
from tidsram.lab.resize import CannotResize, resized, sizes_for

SIDES = st.integers(4, 24).map(lambda half: half * 2 * STRIDE)


def answers(data, size) -> np.ndarray:
    engine = ort.load(data, "net", 1)
    output = np.zeros(engine.spec.outputs[0].shape, np.float32)
    engine.run(engine.bind([picture(size)], [output]), 0)
    return output


def reason(data, size=(32, 32)) -> str:
    with pytest.raises(CannotResize) as refused:
        resized(data, "net.onnx", size, "nchw")
    assert (refused.value.model, refused.value.size) == ("net.onnx", size)
    assert str(refused.value).startswith(f"model net.onnx cannot be made {size[0]} × {size[1]}: ")
    return refused.value.reason


@given(st.sampled_from(RESIZABLE), SIDES, SIDES)
@settings(max_examples=40, deadline=None)
def test_a_resized_net_is_the_net_made_for_that_size(end, old, new):
    """Make a square net at one size and resize it; make it at the other; ask both the same."""
    result = resized(image_net(end, (old, old)), "net", (new, new), "nchw")

    expected = answers(image_net(end, (new, new)), (new, new))
    assert np.array_equal(answers(result, (new, new)), expected)


@given(st.sampled_from(RESIZABLE), SIDES, SIDES, SIDES, SIDES)
@settings(max_examples=40, deadline=None)
def test_an_oblong_net_is_carried_over_right_or_not_at_all(end, width, height, wide, high):
    """Let width and height shrink and grow apart, so that one size may become two others."""
    try:
        result = resized(image_net(end, (width, height)), "net", (wide, high), "nchw")
    except CannotResize:
        return

    expected = answers(image_net(end, (wide, high)), (wide, high))
    assert np.array_equal(answers(result, (wide, high)), expected)


def test_a_square_that_becomes_oblong_is_refused_where_it_could_be_read_two_ways():
    """Write a square grid's sides into a constant, and ask for an oblong image."""
    data = image_net(small_nets.as_rows_and_back)

    assert "can be carried over in more than one way" in reason(data, (64, 32))


def test_channels_last_is_an_image_too():
    """Give the channels last, as Keras does, and see the grid shrink."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        node("Conv", ["t", "w"], ["y"], strides=[4, 4]),
    ]
    weights = [onnx.numpy_helper.from_array(small_nets.noise(2, 2, 4, 4), "w")]
    inputs = [value("x", small_nets.F32, [1, 64, 96, 2])]
    outputs = [value("y", small_nets.F32, [1, 2, 16, 24])]
    data = model_of(onnx.helper.make_graph(nodes, "g", inputs, outputs, weights))

    spec = inspect_model(resized(data, "net", (48, 32), "nhwc"), "net")

    assert spec.inputs[0].shape == (1, 32, 48, 2)
    assert spec.outputs[0].shape == (1, 2, 8, 12)


def test_its_own_size_gives_the_same_bytes_and_another_always_the_same():
    """Resize to the size it has, and twice to another."""
    data = image_net(small_nets.as_rows)

    assert resized(data, "net", (64, 64), "nchw") == data
    smaller = [resized(data, "net", (32, 32), "nchw") for _ in range(2)]
    assert smaller[0] == smaller[1] != data


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (small_nets.fully_connected, "its Gemm 'head' has weights for the 1536 places of the"),
        (small_nets.with_table, "its Add 'places' uses a table [1, 6, 16, 16] that has an entry"),
        (small_nets.cut, "its Slice 'rows' cuts places 0 to 5 out of 16"),
    ],
)
def test_what_is_made_for_one_size_is_refused_in_words(end, words):
    """Connect every place with every class, add a table of places, cut in the middle."""
    assert words in reason(image_net(end))


def test_a_size_that_tears_the_grid_is_refused():
    """Ask for halves of a grid of an odd height."""
    assert "a fraction of a place" in reason(image_net(small_nets.halved), (36, 36))


def test_a_constant_that_contradicts_its_net_is_refused():
    """Write a grid into a Reshape that holds fewer places than there are."""
    data = image_net(lambda height, width: small_nets.as_rows(height, width - 1))

    assert reason(data)


def test_a_model_without_an_image_is_refused_and_has_no_sizes():
    """Give a model of vectors."""
    data = model_of(
        onnx.helper.make_graph(
            [node("Relu", ["x"], ["y"])],
            "g",
            [value("x", small_nets.F32, [1, 8])],
            [value("y", small_nets.F32, [1, 8])],
        )
    )

    assert "may be an image" in reason(data)
    assert sizes_for(data, "nchw") == []


def test_a_net_whose_answers_stop_being_numbers_is_refused():
    """Divide by how many places there are beyond those of the smaller image."""
    nodes = [
        node("Shape", ["x"], ["shape"], start=2, end=3),
        node("Cast", ["shape"], ["height"], to=small_nets.F32),
        node("Sub", ["height", "small"], ["more"]),
        node("Div", ["x", "more"], ["y"]),
    ]
    weights = [onnx.numpy_helper.from_array(np.float32([32]), "small")]
    inputs = [value("x", small_nets.F32, [1, 3, 64, 64])]
    data = model_of(
        onnx.helper.make_graph(nodes, "g", inputs, [value("y", small_nets.F32, None)], weights)
    )

    assert reason(data) == "its answers are no longer finite numbers"


@given(st.sampled_from(RESIZABLE), SIDES, SIDES)
@settings(max_examples=25, deadline=None)
def test_the_sizes_to_try_fit_the_strides_and_shrink(end, width, height):
    """Ask for the sizes of nets of any size, and check them against the declared strides."""
    sizes = sizes_for(image_net(end, (width, height)), "nchw")

    assert sizes[0] == (width, height)
    assert all((width - w) % STRIDE == (height - h) % STRIDE == 0 for w, h in sizes)
    areas = [math.prod(size) for size in sizes]
    assert areas == sorted(areas, reverse=True)


def test_the_sizes_to_try_are_the_usual_three():
    """A net on 416 × 416 has well-known smaller ones."""
    sizes = sizes_for(image_net(small_nets.as_rows, (416, 416)), "nchw")

    assert sizes == [(416, 416), (320, 320), (224, 224)]
