"""The samples that a model's variants are calibrated and validated with, read from a directory.

Pictures, or arrays of numpy with the names of the model's inputs. The order is that of their
names; the same files always give the same samples. Pictures stay on disk until they are asked for.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from tidsram.client.answer import Reading
from tidsram.client.files import Prepared, prepare
from tidsram.client.wire import Array, Metadata
from tidsram.engine.memory import dtype_of
from tidsram.errors import QuestionError
from tidsram.estate.types import Answer, Question
from tidsram.lab.labels import (
    DataError,
    content,
    digest,
    open_picture,
    parse_arrays,
    read_labels,
    unpack,
)
from tidsram.protocol.tensors import TensorSpec

MIN_SAMPLES: Final = 8  # fewer say nothing about a model
MAX_SAMPLES: Final = 10_000
_MAX_FILES: Final = 1_000_000
_PICTURES: Final = (*(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),)
_ARRAYS: Final = (".npz", ".npy")
_PLAIN: Final = Answer(kind="tensor")

_Item = TypeVar("_Item")


class Sample(Struct, frozen=True, kw_only=True):
    """One question of the data: its files, and what is right, where somebody said so.

    `size` is that of its pictures (width, height), None where it is arrays.
    """

    name: str
    files: tuple[Path, ...]
    size: tuple[int, int] | None = None
    label: Reading | None = None


class Split(NamedTuple):
    """What variants are calibrated with, and what they are validated with."""

    calibration: tuple[Sample, ...]
    validation: tuple[Sample, ...]

    @property
    def disjoint(self) -> bool:
        """Whether no sample is in both; of one sample alone nothing else is possible."""
        return not {one.name for one in self.calibration} & {one.name for one in self.validation}


class Data(Struct, frozen=True, kw_only=True):
    """All samples in the order of their names; `sha256` is of all files used, labels included."""

    samples: tuple[Sample, ...]
    sha256: str

    def split(self, calibrate: int) -> Split:
        """Take `calibrate` samples for calibration, evenly spaced, but not more than half."""
        assert calibrate >= 1, "int8 is calibrated with something"
        count = max(1, min(calibrate, len(self.samples) // 2))
        calibration = evenly(self.samples, count)
        taken = {sample.name for sample in calibration}
        rest = tuple(sample for sample in self.samples if sample.name not in taken)
        return Split(calibration, rest or calibration)


def read_data(
    directory: Path,
    *,
    question: Question | None,
    answer: Answer | None,
    inputs: Sequence[TensorSpec],
    labels: Path | None = None,
    pair: Sequence[str] = (),
    least: int = MIN_SAMPLES,
    most: int = MAX_SAMPLES,
) -> Data:
    """Read the samples in `directory` for a model with `inputs`, or raise DataError.

    Where there are more than `most`, evenly spaced ones are taken. Several pictures of one
    question are NAME_test.png and NAME_temp.png; `pair` says in which order: ("test", "temp").
    """
    assert 1 <= least <= most <= MAX_SAMPLES, "a count that can be kept"
    found = _sample_files(directory, question, pair)
    if len(found) < least:
        problem = f"holds {len(found)} of the {least} samples that are needed; better are 100"
        raise DataError(directory, problem)
    samples = [_sample(name, found[name], inputs) for name in evenly(sorted(found), most)]
    lines = [f"sample {digest(content(file))}\n" for one in samples for file in one.files]
    if labels is not None:
        sizes = {sample.name: sample.size for sample in samples}
        read = read_labels(labels, answer or _PLAIN, sizes)
        samples = [replace(sample, label=read.of.get(sample.name)) for sample in samples]
        lines += [f"label {one}\n" for one in read.digests]
    sha256 = hashlib.sha256("".join(lines).encode()).hexdigest()
    return Data(samples=tuple(samples), sha256=sha256)


def prepared(sample: Sample, inputs: Sequence[TensorSpec], question: Question | None) -> Prepared:
    """Make a sample into a model's inputs, just as an asker would, or raise DataError.

    With a fused model's inputs and question this gives the raw frame.
    """
    if sample.size is None:
        return Prepared(_arrays(sample.files[0], inputs))
    metadata = Metadata(name=sample.name, inputs=tuple(inputs), outputs=())
    try:
        return prepare(sample.files, metadata, question)
    except QuestionError as error:
        raise DataError(sample.files[0], str(error)) from None


def evenly(items: Sequence[_Item], count: int) -> tuple[_Item, ...]:
    """Return `count` of the items in their order, evenly spaced; all where there are no more."""
    count = min(count, len(items))
    return tuple(items[(2 * place + 1) * len(items) // (2 * count)] for place in range(count))


# From files to samples


def _sample_files(
    directory: Path, question: Question | None, pair: Sequence[str]
) -> dict[str, tuple[Path, ...]]:
    files = _listed(directory)
    pictures = [file for file in files if file.suffix.lower() in _PICTURES]
    arrays = [file for file in files if file.suffix.lower() in _ARRAYS]
    if pictures and arrays:
        raise DataError(
            directory,
            f"holds pictures and arrays ({pictures[0].name}, {arrays[0].name}); give one kind only",
        )
    if not pictures and not arrays:
        endings = ", ".join((*_PICTURES, *_ARRAYS))
        raise DataError(directory, f"holds no samples; put files there that end in {endings}")
    if pictures and question is None:
        raise DataError(
            directory,
            "holds pictures, and nothing says how one becomes the model's input; "
            "add the decision's [question] table, or give arrays (.npz)",
        )
    if pictures and question is not None and question.images > 1:
        return _grouped(directory, pictures, question.images, pair)
    if pair:
        raise DataError(directory, "holds one file for each question; leave out --pair")
    return _single(directory, pictures or arrays)


def _listed(directory: Path) -> list[Path]:
    try:
        files = sorted(file for file in directory.iterdir() if file.is_file())
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error}); name a directory with samples"
        raise DataError(directory, problem) from None
    if len(files) > _MAX_FILES:
        raise DataError(directory, f"holds more than {_MAX_FILES} files; give fewer")
    return files


def _single(directory: Path, files: Sequence[Path]) -> dict[str, tuple[Path, ...]]:
    found: dict[str, tuple[Path, ...]] = {}
    for file in files:
        if file.stem in found:
            both = f"{found[file.stem][0].name} and {file.name}"
            raise DataError(directory, f"{both} would be one sample; rename one or take it out")
        found[file.stem] = (file,)
    return found


def _grouped(
    directory: Path, pictures: Sequence[Path], images: int, pair: Sequence[str]
) -> dict[str, tuple[Path, ...]]:
    """Put the pictures of one question together, in the order that the model wants them."""
    groups: dict[str, dict[str, Path]] = {}
    for file in pictures:
        name, _, role = file.stem.rpartition("_")
        if role in groups.setdefault(name, {}):
            both = f"{groups[name][role].name} and {file.name}"
            raise DataError(directory, f"{both} would be one picture; rename one or take it out")
        groups[name][role] = file
    roles = sorted({role for group in groups.values() for role in group})
    order = tuple(pair) or _counted(directory, roles, images)
    if len(order) != images or len(set(order)) != images:
        raise DataError(
            directory,
            f"a question of this decision is {images} pictures, --pair names {len(order)}: "
            f"{','.join(order)}; name each once",
        )
    for name, group in groups.items():
        if set(group) != set(order):
            here = ", ".join(file.name for file in group.values())
            wanted = " and ".join(f"{name or 'NAME'}_{role}" for role in order)
            raise DataError(directory, f"holds {here} where there should be {wanted}")
    return {name: tuple(group[role] for role in order) for name, group in groups.items()}


def _counted(directory: Path, roles: Sequence[str], images: int) -> tuple[str, ...]:
    """Return the order that numbers tell; words tell none."""
    if len(roles) == images and all(role.isascii() and role.isdigit() for role in roles):
        return tuple(sorted(roles, key=int))
    raise DataError(
        directory,
        f"a question of this decision is {images} pictures, here NAME_{', NAME_'.join(roles[:4])}, "
        f"and nothing says which comes first; say it with --pair {','.join(roles[:images])}, or in "
        f"another order",
    )


def _sample(name: str, files: tuple[Path, ...], inputs: Sequence[TensorSpec]) -> Sample:
    """Look into every file once: what cannot be used is told before anything is made of it."""
    if files[0].suffix.lower() in _ARRAYS:
        _arrays(files[0], inputs)
        return Sample(name=name, files=files)
    sizes = [_size(file) for file in files]
    return Sample(name=name, files=files, size=sizes[0])


def _size(file: Path) -> tuple[int, int]:
    """Return a picture's width and height, once it is known to be whole."""
    with open_picture(file, str(file)) as picture:
        unpack(picture, str(file))
        return picture.size


# Arrays


def _arrays(file: Path, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    given = parse_arrays(content(file), str(file))
    if set(given) == {""} and len(inputs) == 1:
        given = {inputs[0].name: given[""]}
    names = {spec.name for spec in inputs}
    if set(given) != names:
        raise DataError(
            file,
            f"holds {_quoted(given)}; the model takes {_quoted(names)}: give an .npz with these",
        )
    return {spec.name: _as_input(given[spec.name], spec, file) for spec in inputs}


def _as_input(array: Array, spec: TensorSpec, file: Path) -> Array:
    dtype = dtype_of(spec)
    if array.shape == spec.shape[1:] and spec.shape[0] == 1:
        array = array[np.newaxis]  # the batch of one that nobody writes
    if array.shape != spec.shape or not np.can_cast(array.dtype, dtype, "same_kind"):
        raise DataError(
            file,
            f"{spec.name!r} is {array.dtype} {list(array.shape)}; "
            f"the model takes {dtype} {list(spec.shape)}",
        )
    return np.ascontiguousarray(array, dtype)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"{name!r}" if name else "one array" for name in sorted(names)) or "nothing"
