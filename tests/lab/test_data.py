"""Samples and labels: the same files give the same samples, and whatever does not fit is named."""

import contextlib
import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tidsram.client.answer import Box, Boxes, Label, Tensors
from tidsram.estate.types import Answer, Question
from tidsram.lab import labels
from tidsram.lab.data import Data, Sample, evenly, prepared, read_data
from tidsram.lab.labels import DataError, parse_arrays, parse_boxes, parse_mask
from tidsram.protocol.tensors import TensorSpec

BOARDS = Path(__file__).parents[2] / "examples" / "demo" / "inspection"
DEFECTS = ("open", "short", "mouse bite", "spur", "spurious copper", "pin hole")
RGB = Question(kind="image", size=(4, 4), layout="nhwc")
PAIR = Question(kind="image", size=(4, 4), color="gray", layout="nhwc", images=2)
FRAME = TensorSpec("frame", "UINT8", (1, 4, 4, 3))
PIXELS = TensorSpec("x", "FP32", (1, 4, 4, 3))
CLASSES = Answer(kind="class", labels=("cat", "dog"))
THINGS = Answer(kind="boxes", decoder="rows", labels=DEFECTS)
MASKS = Answer(kind="mask")


def pictures(folder, *names, size=(8, 6)):
    for place, name in enumerate(names):
        Image.new("RGB", size, (place, 2 * place, 255)).save(folder / name)


def read(folder, question=RGB, answer=None, inputs=(PIXELS,), **options):
    return read_data(
        folder, question=question, answer=answer, inputs=inputs, **{"least": 1, **options}
    )


def npz(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return folder


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


# Which samples


@given(st.integers(1, 300), st.integers(1, 300))
def test_an_even_choice_keeps_order_and_spacing(count, wanted):
    """No gap is longer than another by more than one, and the ends get half of one."""
    chosen = evenly(range(count), wanted)

    gaps = [after - before for before, after in pairwise(chosen)]
    assert len(chosen) == min(count, wanted)
    assert all(gap >= 1 for gap in gaps)
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(st.integers(1, 60), st.integers(1, 60))
def test_what_calibrates_does_not_validate(count, calibrate):
    """Every sample is used, none twice, and at least half of them validate; one alone is both."""
    data = Data(samples=tuple(Sample(name=str(i), files=()) for i in range(count)), sha256="")

    calibration, validation = split = data.split(calibrate)

    assert split.disjoint == (count > 1)
    assert {*calibration, *validation} == set(data.samples)
    assert 1 <= len(calibration) <= calibrate
    assert 2 * len(validation) >= count


def test_samples_come_in_the_order_of_their_names(tmp_path):
    """Whatever order they were written in; files of other kinds are none."""
    pictures(tmp_path, "b.png", "a.JPG", "c.bmp")
    (tmp_path / "notes.md").write_text("no sample")
    (tmp_path / "more").mkdir()

    data = read(tmp_path)

    assert [(one.name, one.size) for one in data.samples] == [
        (name, (8, 6)) for name in ("a", "b", "c")
    ]


def test_the_digest_is_of_all_that_is_used(tmp_path):
    """The same bytes give the same digest; one pixel or one label more gives another."""
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "labels.csv").write_text("file,class\na.png,cat\n")
    plain = read(tmp_path).sha256
    labelled = read(tmp_path, answer=CLASSES, labels=tmp_path).sha256

    (tmp_path / "labels.csv").write_text("file,class\na.png,dog\n")
    relabelled = read(tmp_path, answer=CLASSES, labels=tmp_path).sha256
    pictures(tmp_path, "c.png", "b.png")
    repainted = read(tmp_path, most=2).sha256

    assert len({plain, labelled, relabelled, repainted}) == 4
    assert read(tmp_path, most=2).sha256 == repainted


def test_more_samples_than_wanted_are_thinned_out_evenly(tmp_path):
    """Not the first ones: a recording's start is not its middle."""
    pictures(tmp_path, *(f"{i:02}.png" for i in range(10)))

    assert [one.name for one in read(tmp_path, most=3).samples] == ["01", "05", "08"]


# Several pictures of one question


def test_a_pairs_order_is_told(tmp_path):
    """The board, then its template, as the option says."""
    pictures(tmp_path, "x_1_temp.png", "x_1_test.png", "y_temp.png", "y_test.png")

    data = read(tmp_path, PAIR, pair=("test", "temp"))

    assert [(one.name, [file.name for file in one.files]) for one in data.samples] == [
        ("x_1", ["x_1_test.png", "x_1_temp.png"]),
        ("y", ["y_test.png", "y_temp.png"]),
    ]


def test_a_pairs_order_is_not_guessed(tmp_path):
    """Words have no order, numbers do."""
    pictures(tmp_path, "x_temp.png", "x_test.png")
    with pytest.raises(DataError, match="which comes first; say it with --pair temp,test"):
        read(tmp_path, PAIR)

    numbered = tmp_path / "numbered"
    numbered.mkdir()
    pictures(numbered, "x_10.png", "x_9.png")

    assert [file.name for file in read(numbered, PAIR).samples[0].files] == ["x_9.png", "x_10.png"]


@pytest.mark.parametrize(
    ("names", "pair", "says"),
    [
        (["x_test.png"], ("test", "temp"), "holds x_test.png where .* x_test and x_temp"),
        (["x_test.png", "x_temp.png", "x_old.png"], ("test", "temp"), "where there should be"),
        (["x_test.png", "x_temp.png"], ("test",), "is 2 pictures, --pair names 1: test"),
        (["x_test.png", "x_test.jpg"], ("test", "temp"), "would be one picture"),
    ],
)
def test_an_incomplete_pair_is_refused(tmp_path, names, pair, says):
    """A question with the wrong picture would be answered, and wrongly."""
    pictures(tmp_path, *names)

    with pytest.raises(DataError, match=says):
        read(tmp_path, PAIR, pair=pair)


# What cannot be used


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (lambda d: None, {}, "holds no samples; put files there that end in .jpg"),
        (lambda d: d.rmdir(), {}, "cannot be read .*name a directory"),
        (lambda d: pictures(d, "a.png"), {"least": 2}, "1 of the 2 samples"),
        (lambda d: pictures(d, "a.png", "a.jpg"), {}, "a.jpg and a.png would be one sample"),
        (lambda d: pictures(d, "a.png"), {"question": None}, r"add the decision's \[question\]"),
        (lambda d: pictures(d, "a.png"), {"pair": ("b",)}, "leave out --pair"),
        (lambda d: (d / "a.png").write_bytes(b"no"), {}, "a.png: cannot be read as a picture"),
        (lambda d: np.save(d / "a.npy", np.ones((1, 4, 3))), {}, r"'x' is float64 \[1, 4, 3\]"),
        (lambda d: np.savez(d / "a.npz", y=np.ones(3)), {}, "holds 'y'; the model takes 'x'"),
        (lambda d: (d / "a.npz").write_bytes(b"PK\3\4"), {}, "cannot be read as arrays"),
        (lambda d: npz(d, x=np.array(["cat"])), {}, "something else than plain numbers"),
    ],
)
def test_data_that_cannot_be_used_is_refused_by_name(tmp_path, make, options, says):
    """The sentence names the file or the directory, and what to change."""
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder)

    with pytest.raises(DataError, match=says):
        read(folder, **options)


def test_pictures_and_arrays_are_not_mixed(tmp_path):
    """One directory is one kind of question."""
    pictures(tmp_path, "a.png")
    np.save(tmp_path / "b.npy", np.ones((4, 4, 3), np.float32))

    with pytest.raises(DataError, match="holds pictures and arrays"):
        read(tmp_path)


def test_a_truncated_picture_is_named(tmp_path):
    """Its head is whole; it would fail in the middle of the work."""
    rng = np.random.default_rng(0)
    (tmp_path / "a.png").write_bytes(png(rng.integers(0, 255, (64, 64, 3), np.uint8))[:500])

    with pytest.raises(DataError, match=r"a\.png: cannot be read as a picture"):
        read(tmp_path)


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    """A small file can unpack to gigabytes; here the limit is small instead."""
    pictures(tmp_path, "a.png", size=(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9999)

    with pytest.raises(DataError, match=r"a\.png: cannot be read as a picture"):
        read(tmp_path)


# From a sample to a model's inputs


def test_a_picture_becomes_the_raw_frame_or_the_models_input(tmp_path):
    """Of one sample the fused model gets bytes, the original what its tables say."""
    Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / "a.png")
    scaled = Question(kind="image", size=(4, 4), color="bgr", std=(10.0,), layout="nchw")
    (sample,) = read(tmp_path).samples

    frame = prepared(sample, [FRAME], RGB).inputs["frame"]
    pixels = prepared(sample, [TensorSpec("x", "FP32", (1, 3, 4, 4))], scaled).inputs["x"]

    assert frame.dtype == np.uint8
    assert frame[0, 0, 0].tolist() == [10, 20, 30]
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([3, 2, 1])


def test_arrays_are_given_as_they_are(tmp_path):
    """By name, without the batch of one, in any float that loses nothing but digits."""
    array = np.arange(48, dtype=np.float64).reshape(4, 4, 3)
    np.savez(tmp_path / "a.npz", x=array)
    np.save(tmp_path / "b.npy", array[np.newaxis].astype(np.float32))

    for sample in read(tmp_path, None).samples:
        inputs = prepared(sample, [PIXELS], None).inputs

        assert sample.size is None
        assert inputs["x"].dtype == np.float32
        assert (inputs["x"][0] == array).all()


# Labels


def test_the_boards_that_come_with_the_project_are_read():
    """194 defects on 30 boards, of six kinds, on pictures of 640 × 640."""
    question = Question(kind="image", color="gray", images=2)

    data = read(BOARDS, question, THINGS, labels=BOARDS, pair=("test", "temp"))

    boxes = [box for sample in data.samples for box in sample.label.boxes]
    assert (len(data.samples), len(boxes)) == (30, 194)
    assert {box.label for box in boxes} == set(DEFECTS)
    assert data.samples[2].label.boxes[0] == Box(215, 48, 253, 78, "open", 1.0)


def test_a_box_names_its_class_by_name_or_number():
    """Numbers count from 1; commas are spaces; an empty file is a picture with nothing in it."""
    read_ = parse_boxes(b"1 2 30 40 2\n\n5,6,7.5,8,mouse bite\n", "x.txt", THINGS, (64, 64))

    assert read_ == Boxes(
        (Box(1, 2, 30, 40, "short", 1.0), Box(5, 6, 7.5, 8, "mouse bite", 1.0)),
    )
    assert parse_boxes(b"", "x.txt", THINGS, (64, 64)) == Boxes(())


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("1 2 30 40", "x.txt:2: '1 2 30 40' is no box"),
        ("1 2 nan 40 1", "is no box"),
        ("a b c d 1", "is no box"),
        ("0.1 0.2 0.3 0.4 1", "in pixels of the picture"),
        ("30 2 1 40 1", "the upper left corner first"),
        ("70 2 90 40 1", "outside its picture, which is 64 × 64"),
        ("1 2 30 40 0", "no class '0'; write a class's name or a number from 1 to 6"),
        ("1 2 30 40 7", "no class '7'"),
        ("1 2 30 40 mouse bit", 'did you mean "mouse bite"'),
    ],
)
def test_a_box_that_cannot_be_meant_is_refused_by_its_line(line, says):
    """Each would be scored, and every variant found wrong."""
    with pytest.raises(DataError, match=says):
        parse_boxes(f"1 2 30 40 1\n{line}\n".encode(), "x.txt", THINGS, (64, 64))


@pytest.mark.parametrize(
    "pixels",
    [
        np.eye(4, dtype=np.uint8),
        np.eye(4, dtype=np.uint8) * 255,
        np.eye(4, dtype=np.bool_),
        np.dstack([np.eye(4), np.zeros((4, 4)), np.zeros((4, 4))]).astype(np.uint8),
        np.dstack([np.eye(4)] * 3 + [np.full((4, 4), 255)]).astype(np.uint8),
        np.eye(4).astype(np.uint16),
    ],
    ids=["ones", "white", "bits", "red", "opaque", "16 bit"],
)
def test_every_pixel_that_is_not_0_belongs_to_the_mask(pixels):
    """However the picture stores it."""
    mask = parse_mask(png(pixels), "x.png", MASKS, (4, 4))

    assert (mask.pixels == np.eye(4, dtype=np.bool_)).all()
    assert mask.inside == (0, 0, 4, 4)


def test_a_mask_of_another_size_is_refused(tmp_path):
    """It could lie anywhere."""
    with pytest.raises(DataError, match="the mask is 4 × 4 pixels, its picture 8 × 6"):
        parse_mask(png(np.eye(4, dtype=np.uint8)), "x.png", MASKS, (8, 6))


def test_classes_are_named_or_counted_from_0(tmp_path):
    """As the model itself counts them; a sample without a row has no label."""
    pictures(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "labels.csv").write_text("file,class\nc.png,0\nb,dog\nelse.png,cat\n")

    data = read(tmp_path, answer=CLASSES, labels=tmp_path / "labels.csv")

    assert [sample.label for sample in data.samples] == [None, Label("dog", 1), Label("cat", 1)]


def test_numbers_are_a_row_or_the_outputs_by_name(tmp_path):
    """A table for a few, an archive for many."""
    pictures(tmp_path, "a.png")
    (tmp_path / "labels.csv").write_text("file,x,y\na,1.5,-2\n")
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz" / "a.npz", y=np.ones(2))

    (row,) = read(tmp_path, labels=tmp_path).samples
    (named,) = read(tmp_path, labels=tmp_path / "npz").samples

    assert isinstance(row.label, Tensors)
    assert [array.tolist() for array in row.label.outputs.values()] == [[1.5, -2]]
    assert list(named.label.outputs) == ["y"]


@pytest.mark.parametrize(
    ("answer", "text", "says"),
    [
        (CLASSES, "a.png,cat\n", "labels.csv:1: has no head"),
        (CLASSES, "file,class\na,cat\na.png,dog\n", "labels.csv:3: labels a.png a second time"),
        (CLASSES, "file,class\na,cta\n", 'labels.csv:2: .*did you mean "cat"'),
        (CLASSES, "file,class\na,2\n", "a number from 0 to 1"),
        (CLASSES, "file,class\na\n", "labels.csv:2: has 1 columns where the head has 2"),
        (CLASSES, "file,class\nb,cat\n", "labels none of the samples; there is no row for a"),
        (CLASSES, 'file,class\na,"cat\n', "is no row of a table"),
        (CLASSES, "file,class\na,\udcff\n", "no text in UTF-8"),
        (None, "file,value\na,much\n", "'much' are no numbers"),
        (None, "file,value\na,inf\n", "'inf' are no numbers"),
        (THINGS, "", "holds no label of any sample; there is no a.txt"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_by_their_line(tmp_path, answer, text, says):
    """A label that is passed over would move every score."""
    pictures(tmp_path, "a.png")
    (tmp_path / "labels.csv").write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(DataError, match=says):
        read(tmp_path, answer=answer, labels=tmp_path)


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    """Zeros pack well; here the limit is small instead."""
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((4, 4, 3)))
    monkeypatch.setattr(labels, "MAX_BYTES", 400)

    with pytest.raises(DataError, match=r"a\.npz: cannot be read .*it unpacks to more than"):
        read(tmp_path)


@pytest.mark.parametrize("arrays", [{}, {"y": np.array([1, np.nan])}], ids=["none", "NaN"])
def test_numbers_that_are_none_label_nothing(tmp_path, arrays):
    """Beside NaN every answer would be wrong."""
    (tmp_path / "labels").mkdir()
    pictures(tmp_path, "a.png")

    with pytest.raises(DataError, match="holds no numbers or NaN"):
        read(tmp_path, labels=npz(tmp_path / "labels", **arrays))


NPZ = io.BytesIO()
np.savez(NPZ, x=np.ones((2, 2)))
WHOLE = {
    parse_boxes: b"1 2 30 40 2\n5 6 7 8 mouse bite\n",
    parse_mask: png(np.eye(4, dtype=np.uint8)),
    parse_arrays: NPZ.getvalue(),
}


@given(st.sampled_from(list(WHOLE)), st.data())
def test_no_bytes_break_a_parser(parse, data):
    """Overwrite, cut and extend: what comes is a label or a DataError."""
    whole = WHOLE[parse]
    at = data.draw(st.integers(0, len(whole)))
    spoilt = (
        whole[:at] + data.draw(st.binary(max_size=8)) + whole[at + data.draw(st.integers(0, 9)) :]
    )

    with contextlib.suppress(DataError):
        if parse is parse_arrays:
            parse(spoilt, "x")
        else:
            parse(spoilt, "x", THINGS, (4, 4))
