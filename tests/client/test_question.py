"""Pictures into tensors, against the plain formula."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tidsram.client.question import placed, tensors
from tidsram.errors import QuestionError
from tidsram.estate.types import Question

MEAN, STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)


def picture(width=6, height=4, mode="RGB"):
    channels = len(mode.replace("L", "x"))
    values = np.arange(width * height * channels, dtype=np.uint8) * 3
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Image.fromarray(values.reshape(shape))


def test_a_channel_is_normalised_by_its_own_mean_and_std_in_the_models_order():
    """Compare with (x − mean) / std on the reversed channels."""
    image = picture()

    (made,) = tensors(Question(kind="image", color="bgr", mean=MEAN, std=STD), [image])

    bgr = np.asarray(image)[:, :, ::-1].astype(np.float64)
    expected = ((bgr - MEAN) / STD).transpose(2, 0, 1)[None]
    assert made.dtype == np.float32
    assert made.shape == (1, 3, 4, 6)
    assert np.allclose(made, expected, atol=1e-5)


def test_nhwc_is_the_same_numbers_in_another_place():
    """Make both layouts of one picture."""
    image = picture()

    (first,) = tensors(Question(kind="image", mean=MEAN, std=STD), [image])
    (last,) = tensors(Question(kind="image", mean=MEAN, std=STD, layout="nhwc"), [image])

    assert np.array_equal(first[0].transpose(1, 2, 0), last[0])


def test_two_gray_pictures_become_two_channels_in_their_order():
    """Give a dark and a light picture, then the other way round."""
    dark, light = Image.new("L", (4, 4), 10), Image.new("RGB", (4, 4), (200, 200, 200))
    question = Question(kind="image", color="gray", layout="nhwc", images=2)

    (made,) = tensors(question, [dark, light])
    (swapped,) = tensors(question, [light, dark])

    assert made.shape == (1, 4, 4, 2)
    assert made[0, 0, 0].tolist() == [10, 200]
    assert swapped[0, 0, 0].tolist() == [200, 10]


def test_numbers_for_each_channel_hold_for_every_picture():
    """Stack two colour pictures with a mean for each of three channels."""
    image = picture()

    (made,) = tensors(Question(kind="image", mean=MEAN, images=2), [image, image])

    assert made.shape == (1, 6, 4, 6)
    assert np.array_equal(made[0, :3], made[0, 3:])


def test_size_is_width_then_height():
    """Ask for a wide input."""
    (made,) = tensors(Question(kind="image", size=(8, 2)), [picture()])

    assert made.shape == (1, 3, 2, 8)


def test_resizing_keeps_an_even_surface_even():
    """A bilinear resize invents no brightness."""
    (made,) = tensors(Question(kind="image", size=(5, 5)), [Image.new("RGB", (64, 48), (7, 8, 9))])

    assert [made[0, c].min() for c in range(3)] == [7, 8, 9]
    assert [made[0, c].max() for c in range(3)] == [7, 8, 9]


def test_a_transparent_or_palette_picture_is_a_picture_too():
    """Ask with the modes that files come in."""
    for mode in ("RGBA", "P", "LA", "1", "CMYK"):
        (made,) = tensors(Question(kind="image"), [Image.new(mode, (3, 3))])
        assert made.shape == (1, 3, 3, 3)


@pytest.mark.parametrize(("given", "expected"), [(1, "takes 2 images, 1 came"), (3, "3 came")])
def test_the_number_of_pictures_must_be_the_questions(given, expected):
    """Give too few and too many."""
    question = Question(kind="image", color="gray", images=2)

    with pytest.raises(QuestionError, match=expected):
        tensors(question, [picture()] * given)


def test_pictures_of_one_question_have_one_size():
    """Give two sizes to a question that does not resize."""
    question = Question(kind="image", color="gray", images=2)

    with pytest.raises(QuestionError, match="differ in size"):
        tensors(question, [picture(6, 4), picture(4, 6)])


def test_a_letterboxed_picture_keeps_its_shape_and_lies_in_the_middle_on_grey():
    """A picture twice as wide as high, for a square input."""
    question = Question(kind="image", size=(8, 8), fit="letterbox")

    (made,) = tensors(question, [Image.new("RGB", (32, 16), (200, 200, 200))])

    assert made.shape == (1, 3, 8, 8)
    assert made[0, 0, :, 0].tolist() == [114, 114, 200, 200, 200, 200, 114, 114]
    assert np.array_equal(made[0, 0], made[0, 2])


def test_grey_is_normalised_like_every_pixel():
    """The ground is part of the picture that the model sees."""
    question = Question(kind="image", size=(4, 4), fit="letterbox", mean=(114,), std=(2,))

    (made,) = tensors(question, [Image.new("L", (4, 2), 214)])

    assert made[0, 0, :, 0].tolist() == [0, 50, 50, 0]


@given(*[st.tuples(st.integers(1, 700), st.integers(1, 700))] * 2)
def test_a_letterboxed_picture_fills_one_side_and_leaves_the_frame_nowhere(size, image_size):
    """Whatever the two sizes; it is as long as it was wide, to the pixel."""
    (width, height), (left, top) = placed(size, image_size, "letterbox")

    assert width == size[0] or height == size[1]
    assert 0 <= left <= size[0] - width - left <= left + 1
    assert 0 <= top <= size[1] - height - top <= top + 1
    scale = min(size[0] / image_size[0], size[1] / image_size[1])
    assert abs(width - max(1, image_size[0] * scale)) <= 0.5
    assert abs(height - max(1, image_size[1] * scale)) <= 0.5


def test_the_raw_frame_is_the_picture_itself():
    """A fused model takes bytes: no number is touched, nothing is made into floats."""
    image = picture()

    (made,) = tensors(Question(kind="image", layout="nhwc"), [image], "UINT8")

    assert made.dtype == np.uint8
    assert np.array_equal(made[0], np.asarray(image))


@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("images", [1, 2])
def test_raw_frames_are_the_same_numbers_as_floats(color, layout, images):
    """In every order, and stacked along the channels."""
    question = Question(kind="image", color=color, layout=layout, images=images)
    pictures = [picture(), Image.new("RGB", (6, 4), (9, 8, 7))][:images]

    (raw,) = tensors(question, pictures, "UINT8")
    (floats,) = tensors(question, pictures)

    assert raw.dtype == np.uint8
    assert raw.flags.c_contiguous
    assert np.array_equal(raw, floats)


def test_bytes_that_are_to_be_normalised_are_no_raw_frame():
    """A question that declares a mean gets numbers for it, and `ask` says whether they fit."""
    (made,) = tensors(Question(kind="image", mean=(1,)), [picture()], "UINT8")

    assert made.dtype == np.float32
