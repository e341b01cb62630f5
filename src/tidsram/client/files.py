"""From files to a question: pictures as the estate declares, or tensors as they are.

.npy holds one input; .json one input as nested lists, or an object with a list for each input.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from tidsram.client import wire
from tidsram.client.question import tensors
from tidsram.client.wire import Array, Metadata
from tidsram.errors import QuestionError
from tidsram.estate.types import Question
from tidsram.protocol.tensors import TensorSpec

_LARGEST = 256 * 1024 * 1024  # bytes of one file
_TENSORS = (".npy", ".json")


class Prepared(msgspec.Struct, frozen=True):
    """A question ready to be sent, and the pictures it was made from."""

    inputs: dict[str, Array]
    images: tuple[Image.Image, ...] = ()


def prepare(files: Sequence[Path], metadata: Metadata, question: Question | None) -> Prepared:
    """Make the question in `files` into the inputs that the decision takes."""
    if not files:
        zeros = {spec.name: _zeros(spec) for spec in metadata.inputs}
        return Prepared(zeros)
    if all(file.suffix.lower() in _TENSORS for file in files):
        return Prepared(_from_tensors(files, metadata.inputs))
    if question is None:
        raise QuestionError(
            f"{metadata.name} has no question table in the estate that says how a picture becomes "
            f"its input; add [decision.{metadata.name}.question], or give .npy or .json"
        )
    images = tuple(_picture(file) for file in files)
    datatype = metadata.inputs[0].datatype if metadata.inputs else "FP32"
    made = tensors(question, images, datatype)
    inputs = dict(zip((spec.name for spec in metadata.inputs), made, strict=False))
    return Prepared(_fitted(inputs, metadata.inputs), images)


def _from_tensors(files: Sequence[Path], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    given: dict[str, object] = {}
    unnamed: list[object] = []
    for file in files:
        content = _npy(file) if file.suffix.lower() == ".npy" else _json(file)
        if isinstance(content, Mapping):
            given |= content
        else:
            unnamed.append(content)
    # What bears no name fills the inputs that got none, in the model's order.
    free = [spec.name for spec in specs if spec.name not in given]
    if len(unnamed) > len(free):
        raise QuestionError(f"too many inputs; the model takes {_described(specs)}")
    return _fitted(given | dict(zip(free, unnamed, strict=False)), specs)


def _fitted(given: Mapping[str, object], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Give every input its declared type and shape, or say what does not fit."""
    strange = [name for name in given if name not in {spec.name for spec in specs}]
    missing = [spec.name for spec in specs if spec.name not in given]
    if strange or missing:
        problem = f"there is no input {strange[0]!r}" if strange else f"{missing[0]!r} is missing"
        raise QuestionError(f"{problem}; the model takes {_described(specs)}")
    return {spec.name: _as_declared(given[spec.name], spec) for spec in specs}


def _as_declared(value: object, spec: TensorSpec) -> Array:
    try:
        array = np.asarray(value).astype(wire.dtype(spec), casting="same_kind", copy=False)
    except (TypeError, ValueError):
        array = _numbers(value, spec)
    if array.shape == spec.shape[1:] and spec.shape[0] == 1:
        array = array[np.newaxis]  # the batch of one that nobody writes
    if array.shape != spec.shape:
        raise QuestionError(
            f"the input {spec.name!r} came with shape {list(array.shape)}; "
            f"the model takes {list(spec.shape)}"
        )
    return array


def _numbers(value: object, spec: TensorSpec) -> Array:
    """Read whole numbers as fractions and back where nothing is lost."""
    try:
        array = np.asarray(value)
        converted = array.astype(wire.dtype(spec))
        if np.array_equal(converted.astype(np.float64), array.astype(np.float64)):
            return converted
    except (TypeError, ValueError):
        pass
    raise QuestionError(
        f"the input {spec.name!r} does not hold {spec.datatype} numbers of one shape; "
        f"the model takes {spec.datatype} {list(spec.shape)}"
    )


def _zeros(spec: TensorSpec) -> Array:
    return np.zeros([max(1, size) for size in spec.shape], wire.dtype(spec))


def _picture(file: Path) -> Image.Image:
    try:
        with Image.open(file) as image:
            image.load()
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(file, "a picture", error) from None
    return image


def _npy(file: Path) -> Array:
    try:
        array: Array = np.load(_small(file), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(file, "an array of numpy", error) from None
    return array


def _json(file: Path) -> object:
    try:
        content: object = json.loads(_small(file).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(file, "JSON", error) from None
    return content


def _small(file: Path) -> Path:
    if file.stat().st_size > _LARGEST:
        raise ValueError(f"larger than {_LARGEST // 1024**2} MiB")
    return file


def _unreadable(file: Path, kind: str, error: Exception) -> QuestionError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return QuestionError(
        f"{file} cannot be read as {kind} ({why}); give a picture, a .npy or a .json file"
    )


def _described(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in specs)
