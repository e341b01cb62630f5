"""What people say is right: a label for each sample, in the form of the answer it is held against.

boxes   NAME.txt    a line for each thing: x1 y1 x2 y2 class, in pixels of the picture; the class
                    by its name or its number in the answer's labels, counted from 1
masks   NAME.png    of the picture's size; every pixel that is not 0 belongs
class   labels.csv  file,class with the class by name or by the model's own index, counted from 0
tensor  labels.csv  file and as many columns of numbers as the model gives; or NAME.npz
"""

import csv
import hashlib
import io
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tidsram.client.answer import Box, Boxes, Label, Mask, Reading, Tensors
from tidsram.errors import TidsramError
from tidsram.estate.types import Answer
from tidsram.estate.values import nearest

if TYPE_CHECKING:
    from PIL import Image

MAX_BYTES: Final = 256 * 1024**2  # of one file; an array archive's also when unpacked
_LABELS: Final = "labels.csv"

Size = tuple[int, int]
Parse = Callable[[bytes, str, Answer, Size | None], Reading]


class DataError(TidsramError):
    """Samples or labels that cannot be used; the sentence says which, and what to change."""

    code = "data"

    def __init__(self, where: Path | str, problem: str) -> None:
        self.where, self.problem = str(where), problem
        super().__init__(f"{where}: {problem}")


class Labels(Struct, frozen=True, kw_only=True):
    """Labels by the name of their sample; `digests` are those of the files they came from."""

    of: dict[str, Reading]
    digests: tuple[str, ...]


def read_labels(place: Path, answer: Answer, sizes: Mapping[str, Size | None]) -> Labels:
    """Read the labels of the samples in `sizes`: the pictures' (width, height), None for arrays.

    There is at least one. A sample may have none; a label of no sample is not read.
    """
    table = place / _LABELS if place.is_dir() else place
    if answer.kind == "class" or (answer.kind == "tensor" and table.is_file()):
        return _from_table(table, answer, sizes)
    ending, parse = _FILES[answer.kind]
    files = {name: place / f"{name}{ending}" for name in sizes}
    files = {name: file for name, file in files.items() if file.is_file()}
    if not files:
        example = next(iter(sizes))
        raise DataError(place, f"holds no label of any sample; there is no {example}{ending}")
    contents = {name: content(file) for name, file in files.items()}
    return Labels(
        of={
            name: parse(contents[name], str(file), answer, sizes[name])
            for name, file in files.items()
        },
        digests=tuple(digest(one) for one in contents.values()),
    )


def content(file: Path) -> bytes:
    """Return a file's bytes, or raise DataError; never more than MAX_BYTES."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error}); let this user read it"
        raise DataError(file, problem) from None
    if len(data) > MAX_BYTES:
        raise DataError(file, f"is larger than {MAX_BYTES // 1024**2} MiB; give a smaller one")
    return data


def digest(data: bytes) -> str:
    """Return what bytes are known by."""
    return hashlib.sha256(data).hexdigest()


def parse_boxes(data: bytes, where: str, answer: Answer, size: Size | None) -> Boxes:
    """Read the boxes of one picture; an empty file says that there is nothing in it."""
    lines = enumerate(_text(data, where).splitlines(), 1)
    return Boxes(
        tuple(
            _box(line, f"{where}:{number}", answer, size) for number, line in lines if line.strip()
        )
    )


def _box(line: str, where: str, answer: Answer, size: Size | None) -> Box:
    words = line.replace(",", " ").split(maxsplit=4)
    try:
        x1, y1, x2, y2 = (float(word) for word in words[:4])
        kind = words[4].strip()
    except (ValueError, IndexError):
        x1 = y1 = x2 = y2 = nan
    if not all(map(isfinite, (x1, y1, x2, y2))):
        raise DataError(where, f"{line[:80]!r} is no box; write x1 y1 x2 y2 class")
    if x2 - x1 < 1 or y2 - y1 < 1:
        raise DataError(
            where,
            f"the box {line[:80]!r} is smaller than a pixel; write x1 y1 x2 y2 in pixels of the "
            f"picture, the upper left corner first",
        )
    if size is not None and (x1 >= size[0] or y1 >= size[1] or x2 <= 0 or y2 <= 0):
        raise DataError(
            where,
            f"the box {line[:80]!r} lies outside its picture, which is {size[0]} × {size[1]} "
            f"pixels; write x1 y1 x2 y2 in pixels of the picture",
        )
    return Box(x1, y1, x2, y2, _class(kind, where, answer, first=1), 1.0)


def parse_mask(data: bytes, where: str, _answer: Answer, size: Size | None) -> Mask:
    """Read which pixels of one picture belong."""
    with open_picture(io.BytesIO(data), where) as image:
        if image.size != size:  # and is never unpacked
            own = f"{image.width} × {image.height}"
            of = f"its picture {size[0]} × {size[1]}" if size else "its sample is no picture"
            raise DataError(
                where, f"the mask is {own} pixels, {of}; give one of its picture's size"
            )
        unpack(image, where)
        pixels = np.asarray(image) != 0
        if image.mode.endswith("A"):  # how opaque a pixel is does not mark it
            pixels = pixels[:, :, :-1]
    marked = pixels.any(axis=2) if pixels.ndim == 3 else pixels
    return Mask(marked, (0.0, 0.0, float(size[0]), float(size[1])))


def open_picture(file: Path | io.BytesIO, where: str) -> "Image.Image":
    """Open a picture without unpacking it, or raise DataError; none that would fill the memory."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(file)
        except Exception as error:  # noqa: BLE001 - what its readers raise shares no other base
            raise _no_picture(where, error) from None


def unpack(picture: "Image.Image", where: str) -> None:
    """Read a picture's pixels, or raise DataError."""
    try:
        picture.load()
    except Exception as error:  # noqa: BLE001 - as above
        raise _no_picture(where, error) from None


def _no_picture(where: str, error: Exception) -> DataError:
    known = type(error).__name__ != "UnidentifiedImageError"
    why = (getattr(error, "strerror", None) or error) if known else "its form is not known"
    return DataError(where, f"cannot be read as a picture ({why}); replace it or take it out")


def parse_tensors(data: bytes, where: str, _answer: Answer, _size: Size | None) -> Tensors:
    """Read the outputs wanted of one sample."""
    outputs = parse_arrays(data, where)
    if not outputs or not all(np.isfinite(array).all() for array in outputs.values()):
        raise DataError(where, "holds no numbers or NaN; give every output that is wanted")
    return Tensors(outputs)


def parse_arrays(data: bytes, where: str) -> dict[str, NDArray[np.generic]]:
    """Read an .npz by the names in it, or the one array of an .npy under the name ""."""
    try:
        arrays = _unpacked(data)
    except Exception as error:  # noqa: BLE001 - what numpy and zip raise shares no other base
        raise DataError(where, f"cannot be read as arrays of numpy ({error})") from None
    if not all(array.dtype.kind in "biuf" for array in arrays.values()):
        raise DataError(where, "holds something else than plain numbers; give arrays of numbers")
    return arrays


def _unpacked(data: bytes) -> dict[str, NDArray[np.generic]]:
    if not data.startswith(b"PK"):
        return {"": np.load(io.BytesIO(data), allow_pickle=False)}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
            raise ValueError(f"it unpacks to more than {MAX_BYTES // 1024**2} MiB")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)


_FILES: Final[Mapping[str, tuple[str, Parse]]] = {
    "boxes": (".txt", parse_boxes),
    "mask": (".png", parse_mask),
    "tensor": (".npz", parse_tensors),
}


def _from_table(table: Path, answer: Answer, sizes: Mapping[str, Size | None]) -> Labels:
    data = content(table)
    labels: dict[str, Reading] = {}
    for where, row in _rows(data, table):
        name = _sample_of(row[0].strip(), sizes)
        if name is None:
            continue
        if name in labels:
            raise DataError(where, f"labels {row[0]} a second time; keep one of the two")
        labels[name] = _from_row(row[1:], where, answer)
    if not labels:
        example = next(iter(sizes))
        raise DataError(table, f"labels none of the samples; there is no row for {example}")
    return Labels(of=labels, digests=(digest(data),))


def _rows(data: bytes, table: Path) -> list[tuple[str, list[str]]]:
    """Return the rows below the head, each with its place."""
    reader = csv.reader(io.StringIO(_text(data, str(table))), strict=True)
    try:
        head = next(reader, [])
        rows = [(f"{table}:{reader.line_num}", row) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"{table}:{reader.line_num}", f"is no row of a table ({error})") from None
    if not head or head[0].strip().lower() != "file" or len(head) < 2:
        raise DataError(f"{table}:1", 'has no head; the first line is "file,class" or "file,value"')
    for where, row in rows:
        if len(row) != len(head):
            raise DataError(where, f"has {len(row)} columns where the head has {len(head)}")
    return rows


def _from_row(cells: Sequence[str], where: str, answer: Answer) -> Reading:
    if answer.kind == "class":
        return Label(_class(cells[0].strip(), where, answer, first=0), 1.0)
    try:
        values = np.array([float(cell) for cell in cells])
    except ValueError:
        values = np.array([np.nan])
    if not np.isfinite(values).all():
        raise DataError(where, f"{', '.join(cells)[:80]!r} are no numbers")
    return Tensors({_LABELS: values})


def _sample_of(file: str, sizes: Mapping[str, Size | None]) -> str | None:
    """Return the sample that a table's row is about, named with its ending or without."""
    return next((name for name in (file, Path(file).stem) if name in sizes), None)


def _class(word: str, where: str, answer: Answer, first: int) -> str:
    """Return the class as readings name it."""
    labels = answer.labels
    if word in labels:
        return word
    index = int(word) - first if re.fullmatch("[0-9]{1,6}", word) else -1
    if index >= 0 and not labels:
        return f"class {index}"
    if 0 <= index < len(labels):
        return labels[index]
    allowed = f"a number from {first} to {len(labels) - 1 + first}" if labels else "a number"
    remedy = nearest(word, labels) or f"; write a class's name or {allowed}"
    raise DataError(where, f"there is no class {word[:40]!r}{remedy}")


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(where, "is no text in UTF-8; save it as that") from None
